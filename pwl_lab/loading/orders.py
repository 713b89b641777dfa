"""Loading orders: which teacher block arrives when, as block numbers from 1 or as the masks on the way.

The best one is found by exact search: what an order can still gain from a mask on depends on that mask alone, not on
how it came about.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

from pwl_lab.errors import invalid, unknown
from pwl_lab.loading.masks import all_masks, contiguous_mask, prefix_mask, suffix_mask

TIE = 1e-12  # areas are shares in [0, 1]; closer than this they differ by rounding alone
NAMED = {"prefix": prefix_mask, "suffix": suffix_mask, "contiguous": contiguous_mask}


def loading_orders(n_blocks: int) -> dict[str, list[str]]:
    """The masks that each named loading order goes through, k = 0..n.

    Of two blocks contiguous is suffix, of one all are the same.
    """
    return {order: [mask_of(k, n_blocks) for k in range(n_blocks + 1)] for order, mask_of in NAMED.items()}


def loaded(mask: str, block: int) -> str:
    """The mask once `block` (from 1) has arrived as well."""
    return mask[: block - 1] + "T" + mask[block:]


def arrivals(order: Sequence[str]) -> list[int]:
    """Which block arrives at each step of a loading order, counted from 1: [2, 1] for SS, ST, TT.

    Raises InvalidValueError unless the order goes from all-student to all-teacher, one block at a time.
    """
    allowed = "masks from all-student to all-teacher, one block more at each step"
    if not order or set(order[0]) - {"S"} or set(order[-1]) - {"T"} or len(order) != len(order[0]) + 1:
        raise invalid("order", list(order), allowed)
    blocks = []
    for before, after in pairwise(order):
        new = [place for place, letters in enumerate(zip(before, after, strict=False), 1) if letters == ("S", "T")]
        if len(new) != 1 or after != loaded(before, new[0]):
            raise invalid("order", list(order), allowed)
        blocks += new
    return blocks


def masks_on_the_way(blocks: Sequence[int]) -> list[str]:
    """The masks, k = 0..n, of the order in which these blocks arrive: the inverse of `arrivals`.

    Raises InvalidValueError unless each block from 1 to n is named once.
    """
    if sorted(blocks) != list(range(1, len(blocks) + 1)):
        raise invalid("order", list(blocks), "every block once, counted from 1")
    masks = ["S" * len(blocks)]
    for block in blocks:
        masks.append(loaded(masks[-1], block))
    return masks


def arrivals_of(order: str | Sequence[int], n_blocks: int) -> list[int]:
    """The blocks of an order given by name (`prefix`, `suffix`, `contiguous`), as `2-1-3` or as block numbers.

    Raises UnknownNameError for another name and InvalidValueError for numbers that do not fit.
    """
    if isinstance(order, str):
        if order in NAMED:
            return arrivals(loading_orders(n_blocks)[order])
        if not order.replace("-", "").isdigit():
            raise unknown("order", order, [*NAMED, "best"])
        order = [int(block) for block in order.split("-") if block]
    if sorted(order) != list(range(1, n_blocks + 1)):
        raise invalid("order", list(order), f"each of the blocks 1 to {n_blocks} once")
    return list(order)


def search_order(accuracy: Mapping[str, float], cost: Sequence[float], pick: Callable[..., float] = max) -> list[str]:
    """The masks, k = 0..n, of the order that `pick` (max or min) prefers by area: exact over all n! orders.

    `accuracy` holds every mask, `cost` what each block takes to arrive (bytes, or seconds). While a block is on its way
    the mask before it predicts: the area is the sum over steps of accuracy(mask before) * cost(block) / total cost.
    Dynamic programming over the 2^n masks, n * 2^(n-1) steps; of orders whose areas agree to rounding the one with the
    earlier block first is taken.
    Raises InvalidValueError for a mask that is missing, and for costs that are no costs.
    """
    n_blocks = len(cost)
    missing = [mask for mask in all_masks(n_blocks) if mask not in accuracy]
    if missing:
        raise invalid("accuracy", f"without {missing[0]}", f"each of the {2**n_blocks} masks of {n_blocks} blocks")
    if min(cost) < 0 or sum(cost) <= 0:
        raise invalid("cost", list(cost), "numbers from 0, not all of them 0")
    total = sum(cost)

    def ways(mask: str) -> dict[str, float]:
        """Every mask with one block more, and the area from `mask` on if it comes next."""
        after = [(block, loaded(mask, block)) for block in range(1, n_blocks + 1) if mask[block - 1] == "S"]
        return {longer: accuracy[mask] * cost[block - 1] / total + ahead[longer] for block, longer in after}

    ahead = {"T" * n_blocks: 0.0}
    for mask in reversed(all_masks(n_blocks)[:-1]):  # a mask stands before all that have blocks more
        ahead[mask] = pick(ways(mask).values())
    order = ["S" * n_blocks]
    while order[-1] != "T" * n_blocks:
        mask = order[-1]
        order.append(next(longer for longer, area in ways(mask).items() if abs(area - ahead[mask]) <= TIE))
    return order


def best_reachable(mask: str, arrived: Sequence[int], accuracy: Mapping[str, float]) -> str:
    """The most accurate mask that can be had from `mask` with some of the `arrived` blocks (from 1) more.

    For when a block is missing for good and the order asked for cannot be kept: a mask nobody chose may be worse than
    the one there is. Of equally good ones that with more teacher blocks; `mask` itself where accuracies are not known.
    """
    best = mask
    for chosen in range(1, 2 ** len(arrived)):
        other = mask
        for place, block in enumerate(arrived):
            other = loaded(other, block) if chosen >> place & 1 else other
        if (accuracy.get(other, -1.0), other.count("T")) > (accuracy.get(best, 0.0), best.count("T")):
            best = other
    return best
