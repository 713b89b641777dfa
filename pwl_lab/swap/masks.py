"""Swap masks: strings of `S` (student) and `T` (teacher), one letter per block, such as `TTSS`."""

from collections.abc import Iterator, Mapping
from itertools import count, product

import torch

from pwl_lab.support.config import MOST_BLOCKS, MaskDistribution
from pwl_lab.support.errors import invalid


def check_mask(mask: str, n_blocks: int) -> str:
    """Return the mask, or raise InvalidValueError for a wrong length or letter."""
    if not isinstance(mask, str) or len(mask) != n_blocks or set(mask) - {"S", "T"}:
        raise invalid("mask", mask, f"{n_blocks} letters, S (student) or T (teacher), one per block")
    return mask


def prefix_mask(teacher_blocks: int, n_blocks: int) -> str:
    """The mask whose first `teacher_blocks` blocks are the teacher's: prefix loading after that many steps."""
    if not 0 <= teacher_blocks <= n_blocks:
        raise invalid("teacher_blocks", teacher_blocks, f"from 0 to {n_blocks}, the number of blocks")
    return "T" * teacher_blocks + "S" * (n_blocks - teacher_blocks)


def suffix_mask(teacher_blocks: int, n_blocks: int) -> str:
    """The mask whose last `teacher_blocks` blocks are the teacher's: suffix loading after that many steps."""
    return prefix_mask(teacher_blocks, n_blocks)[::-1]


def number_mask(number: int, n_blocks: int) -> str:
    """The mask at this index (from 0) among all masks in alphabetical order: the number in binary, with T for 1."""
    return f"{number:0{n_blocks}b}".translate({ord("0"): "S", ord("1"): "T"})


def all_masks(n_blocks: int) -> list[str]:
    """All 2^n masks in alphabetical order, from all-student to all-teacher."""
    return ["".join(letters) for letters in product("ST", repeat=n_blocks)]


def check_whole_cube(n_blocks: int) -> int:
    """Return the number of blocks, or raise InvalidValueError if it is too large to run every mask."""
    if n_blocks > MOST_BLOCKS:
        raise invalid(
            "n_blocks", n_blocks, f"at most {MOST_BLOCKS}: every mask is evaluated, and there are 2^n of them"
        )
    return n_blocks


def random_masks(n_blocks: int, distribution: MaskDistribution, random: torch.Generator) -> Iterator[str]:
    """An endless stream of masks for the cross loss; never all-student or all-teacher (those mix nothing).

    `prefix`: a prefix mask, the number of teacher blocks uniform. `alternating`: a prefix and any mixed mask in turn.
    `mixture` (arXiv 2509.22319): half of the time one switch point (a teacher prefix or suffix), otherwise any
    mixed mask. `all`: every mixed mask equally often. Or a weight for each possible mask: `{"TSSS": 2, "TTSS": 1}`.
    Raises InvalidValueError for a mask that has the wrong length, or mixes nothing.
    """
    if n_blocks < 2:
        raise invalid("n_blocks", n_blocks, "at least 2: with one block there is no mixed network")
    if isinstance(distribution, str):
        return _draw_masks(n_blocks, distribution, random)
    for mask in distribution:
        if len(set(check_mask(mask, n_blocks))) == 1:
            raise invalid("masks", mask, "mixed masks only: with one owner there is nothing to mix")
    if not distribution:
        raise invalid("masks", distribution, "a weight for at least one mixed mask")
    return _draw_weighted(distribution, random)


def _draw_weighted(weights: Mapping[str, float], random: torch.Generator) -> Iterator[str]:
    """Draw masks in proportion to their weights; the order in which the weights are given does not matter."""
    masks = sorted(weights)
    shares = torch.tensor([weights[mask] for mask in masks], dtype=torch.double)
    while True:
        yield masks[int(torch.multinomial(shares, 1, generator=random))]


def _draw_masks(n_blocks: int, distribution: str, random: torch.Generator) -> Iterator[str]:
    """The generator behind `random_masks`, which checks its arguments at the call."""
    n_mixed = 2**n_blocks - 2  # not listed: with 24 blocks they would take gigabytes
    one_switch = [side(k, n_blocks) for k in range(1, n_blocks) for side in (prefix_mask, suffix_mask)]
    prefixes = [prefix_mask(k, n_blocks) for k in range(1, n_blocks)]
    for turn in count():
        pool = prefixes if distribution == "prefix" or (distribution == "alternating" and turn % 2 == 0) else None
        if distribution == "mixture" and torch.rand((), generator=random) < 0.5:
            pool = one_switch
        number = int(torch.randint(n_mixed if pool is None else len(pool), (), generator=random))
        yield number_mask(number + 1, n_blocks) if pool is None else pool[number]
