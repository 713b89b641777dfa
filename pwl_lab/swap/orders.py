"""Loading orders: the order in which teacher blocks arrive, as block numbers from 1 or as the masks on the way.

The best order is found by exact search: what an order can still gain from a given mask depends only on that mask, not
on how it was reached.
"""

import math
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import pairwise, takewhile

from pwl_lab.support.errors import invalid, unknown
from pwl_lab.swap.masks import all_masks, number_mask

TIE = 1e-12  # areas lie in [0, 1]; closer than this they differ only by rounding


def named_orders(n_blocks: int) -> dict[str, list[int]]:
    """The blocks of each named order, in order of arrival.

    `contiguous` (arXiv 2509.22319): the second block loads first, then the third and so on; the first arrives last.
    With two blocks, contiguous equals suffix; with one block, all orders are equal.
    """
    blocks = list(range(1, n_blocks + 1))
    return {"prefix": blocks, "suffix": blocks[::-1], "contiguous": blocks[1:] + blocks[:1]}


def loading_orders(n_blocks: int) -> dict[str, list[str]]:
    """The masks that each named order passes through, k = 0..n."""
    return {name: masks_on_the_way(blocks) for name, blocks in named_orders(n_blocks).items()}


def arrivals(order: Sequence[str]) -> list[int]:
    """The block that arrives at each step of a loading order, counted from 1: [2, 1] for SS, ST, TT.

    Raises InvalidValueError unless the order leads from all-student to all-teacher, one block at a time.
    """
    blocks = [
        block
        for masks in pairwise(order)
        for block, letters in enumerate(zip(*masks, strict=False), start=1)
        if letters == ("S", "T")
    ]
    if sorted(blocks) != list(range(1, len(order))) or masks_on_the_way(blocks) != list(order):
        raise invalid("order", list(order), "masks from all-student to all-teacher, with one more block at each step")
    return blocks


def masks_on_the_way(blocks: Sequence[int]) -> list[str]:
    """The masks, k = 0..n, of the order in which these blocks arrive: the inverse of `arrivals`.

    Raises InvalidValueError unless each block from 1 to n is named once.
    """
    if sorted(blocks) != list(range(1, len(blocks) + 1)):
        raise invalid("order", list(blocks), "every block once, counted from 1")
    return [_mask_of(blocks[:arrived], len(blocks)) for arrived in range(len(blocks) + 1)]


def arrivals_of(order: str | Sequence[int], n_blocks: int) -> list[int]:
    """The blocks of an order given by name (`prefix`, `suffix`, `contiguous`), as `2-1-3`, or as block numbers.

    Raises UnknownNameError for any other name and InvalidValueError unless each block is named once.
    """
    if isinstance(order, str):
        named = named_orders(n_blocks)
        if order in named:
            return named[order]
        if not order.replace("-", "").isdigit():
            raise unknown("order", order, [*named, "best"])
        order = [int(block) for block in order.split("-") if block]
    if sorted(order) != list(range(1, n_blocks + 1)):
        raise invalid("order", list(order), f"each of the blocks 1 to {n_blocks} exactly once")
    return list(order)


def search_order(accuracy: Mapping[str, float], cost: Sequence[float], pick: Callable[..., float] = max) -> list[str]:
    """The masks, k = 0..n, of the order that `pick` (max or min) prefers by area: exact over all n! orders.

    While a block is loading, the mask before it predicts, so the area is the sum over steps of
    accuracy(mask before) * cost(block) / total cost. Dynamic programming over the 2^n masks takes n * 2^(n-1) steps (an
    index holds the masks of at most 19 blocks, which take a few seconds). If areas agree up to rounding, the order that
    loads the earlier block first wins. Raises InvalidValueError for a missing mask, and for costs that are negative or
    all 0.

    Arguments:
    - `accuracy`: the accuracy of every mask.
    - `cost`: the cost of loading each block, in bytes or seconds.
    - `pick`: `max` for the best order, `min` for the worst.
    """
    n_blocks = len(cost)
    if missing := first_missing(accuracy, n_blocks):
        raise invalid("accuracy", f"without {missing}", f"each of the 2^{n_blocks} masks of {n_blocks} blocks")
    if min(cost) < 0 or sum(cost) <= 0:
        raise invalid("cost", list(cost), "numbers from 0, at least one above 0")
    total = sum(cost)
    masks = all_masks(n_blocks)  # a mask's index in this list is the mask read in binary, T for 1
    steps = [(1 << n_blocks - block, cost[block - 1]) for block in range(1, n_blocks + 1)]

    def continuations(number: int) -> list[tuple[float, int]]:
        """The area from this mask on, for each possible next mask."""
        here = accuracy[masks[number]]
        return [(here * each / total + ahead[number | bit], number | bit) for bit, each in steps if not number & bit]

    ahead = [0.0] * len(masks)
    for number in reversed(range(len(masks) - 1)):  # a mask comes before all masks that contain its blocks
        ahead[number] = pick(area for area, _ in continuations(number))
    order = [0]
    while order[-1] != len(masks) - 1:
        order.append(next(longer for area, longer in continuations(order[-1]) if abs(area - ahead[order[-1]]) <= TIE))
    return [masks[number] for number in order]


def first_missing(accuracy: Mapping[str, float], n_blocks: int) -> str | None:
    """The first mask of `n_blocks` blocks that is not in the table; the time is linear in the table's length."""
    letters = (number_mask(number, n_blocks) for number in range(min(2**n_blocks, len(accuracy) + 1)))
    return next((mask for mask in letters if mask not in accuracy), None)


def best_mask(
    order: Sequence[int], arrived: Collection[int], missed: Collection[int], accuracy: Mapping[str, float]
) -> str:
    """The mask to run while teacher blocks arrive.

    If no block is missed, or each missed block has another copy (int8 or float32) that arrived, run all arrived blocks.
    Otherwise run the most accurate mask in `accuracy` that uses only arrived blocks; break ties by more teacher blocks,
    then by loading order. The longest arrived prefix of `order` is always a candidate; if its accuracy is unknown, use
    that of the longest known shorter prefix. The time is linear in the length of `accuracy`, not in 2^n.

    Arguments:
    - `order`: every block, from 1, in the order in which they are loaded.
    - `arrived`: the blocks that can run.
    - `missed`: the blocks of which a copy is permanently unavailable.
    - `accuracy`: the known accuracies of masks; some may be missing.
    """
    n_blocks, there = len(order), set(arrived)
    if set(missed) <= there:
        return _mask_of(there, n_blocks)
    start = list(takewhile(there.__contains__, order))
    passed = [_mask_of(start[:length], n_blocks) for length in range(len(start) + 1)]
    known = [accuracy[mask] for mask in passed if mask in accuracy]
    possible = re.compile("".join("[ST]" if block in there else "S" for block in range(1, n_blocks + 1))).fullmatch
    candidates = {mask: accuracy[mask] for mask in accuracy if possible(mask)}
    candidates.setdefault(passed[-1], known[-1] if known else -math.inf)
    best = max(candidates.values())
    equal = [mask for mask, value in candidates.items() if value == best]
    return min(equal, key=lambda mask: (-mask.count("T"), [mask[block - 1] == "S" for block in order]))


def _mask_of(blocks: Collection[int], n_blocks: int) -> str:
    """The mask with these teacher blocks (from 1)."""
    return "".join("T" if block in blocks else "S" for block in range(1, n_blocks + 1))
