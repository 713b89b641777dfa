"""What arrives when: the shards of a bundle in the order of their coming, and how long each takes on a link."""

from collections.abc import Sequence

from pwl_lab.loading.bundle import BundleIndex, Shard
from pwl_lab.loading.throttle import Throttle
from pwl_lab.support.errors import invalid
from pwl_lab.swap.orders import arrivals, arrivals_of, first_missing, search_order

CHOOSES = "validation"  # the split whose recorded accuracies decide; the test split only reports


def seconds_for(size: int, link: Throttle) -> float:
    """How long a file of so many bytes takes on `link`."""
    return link.latency_s + size / link.bytes_per_s


def schedule(
    index: BundleIndex, order: str | Sequence[int], link: Throttle | None = None, int8_first: bool = False
) -> list[Shard]:
    """The shards of all teacher blocks in the order of their coming; with `int8_first` each comes twice.

    `order` is a name, `2-1-3`, block numbers, or `best`: the one with the largest area under accuracy against seconds
    on `link`, by the bundle's validation accuracies (exact, see `search_order`). Raises UnknownNameError or
    InvalidValueError for an order that is none, and where the bundle lacks what is asked for.
    """
    precisions = (8, 32) if int8_first else (32,)
    blocks = _best_blocks(index, link, precisions[0]) if order == "best" else arrivals_of(order, index.n_blocks)
    return [index.shard(block, bits) for bits in precisions for block in blocks]


def _best_blocks(index: BundleIndex, link: Throttle | None, bits: int) -> list[int]:
    """The order that is best on this link; by bytes alone where there is none."""
    accuracies = index.accuracies.get(CHOOSES, {})
    if len(accuracies) != 2**index.n_blocks or first_missing(accuracies, index.n_blocks):
        raise invalid("order", "best", "another order: the bundle has no validation accuracy for every mask")
    link = link or Throttle(1.0)
    cost = [seconds_for(index.shard(block, bits).bytes, link) for block in range(1, index.n_blocks + 1)]
    return arrivals(search_order(accuracies, cost))
