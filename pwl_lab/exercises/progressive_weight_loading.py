"""Checks of the exercises to notebook 04: which converters a mask needs, the sync loss, and the best loading order."""

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise, permutations

import torch
from jaxtyping import Float
from torch import Tensor

from pwl_lab.exercises.checking import attempt, same_numbers, same_values
from pwl_lab.support.seeding import generator
from pwl_lab.swap.masks import all_masks
from pwl_lab.swap.orders import arrivals, masks_on_the_way, search_order
from pwl_lab.swap.pair_training import feature_distance

CUBES = ((3, 116), (4, 9))  # blocks, and a seed at which each usual mistake leads to an order of its own


def converters(answer: Callable[[str], Sequence[str]]) -> str:
    """`answer(mask)`: the converters that the mask needs, from first to last, such as ["encoder 1", "decoder 3"]."""
    hint = "look at each boundary: no converter where the owner stays; T then S needs an encoder, S then T a decoder"
    for mask in ("TSST", "TTTT", "STSTTS", "SSTT"):
        ends = list(enumerate(pairwise(mask), start=1))
        names = {("T", "S"): "encoder", ("S", "T"): "decoder"}
        needed = [(names[owners], boundary) for boundary, owners in ends if owners in names]
        right = [f"{name} {boundary}" for name, boundary in needed]
        other = {"encoder": "decoder", "decoder": "encoder"}
        mistakes = {
            "encoder and decoder are swapped: an encoder turns a teacher's state into a student's": [
                f"{other[name]} {boundary}" for name, boundary in needed
            ],
            "boundaries are counted from 1: boundary 1 comes after block 1": [f"{name} {i - 1}" for name, i in needed],
            "this numbers a converter by the next block: boundary i lies between block i and block i + 1": [
                f"{name} {boundary + 1}" for name, boundary in needed
            ],
            "a converter is needed only where the owner changes": [
                f"{'encoder' if owners[0] == 'T' else 'decoder'} {boundary}" for boundary, owners in ends
            ],
            "the numbers of the boundaries are missing": [name for name, _ in needed],
            "the last converter is missing": right[:-1] if right else ["none"],
            "an encoder at every boundary: where the owner stays there is none, and S then T needs a decoder": [
                f"encoder {boundary}" for boundary, _ in ends
            ],
            "this is a set: give a list, from first to last": set(right),
        }
        found = attempt(answer, mask, hint=hint, on=f"mask {mask}")
        same_values(f"converters({mask!r})", found, right, hint, mistakes)
    return "Right: all T needs no converter and nothing of the student, so it is the teacher, bit for bit."


def sync(answer: Callable[..., Float[Tensor, ""]]) -> str:
    """`answer(teacher_states, student_states, encode, decode)`: the synchronisation loss of notebook 04."""
    hint = (
        "at each boundary (not after the last block): distance(encode(teacher, i), student) + distance(decode(student, "
        "i), teacher), a distance being the mean squared error plus 1 - cosine of the flattened states; then the mean"
    )
    random = generator(0, "data")
    teacher = [torch.randn(6, 4, 3, generator=random) + 1 for _ in range(3)]
    student = [torch.randn(6, 2, 3, generator=random) for _ in range(3)]
    down, up = torch.randn(2, 4, 2, generator=random) / 2, torch.randn(2, 2, 4, generator=random)

    def encode(state: Tensor, boundary: int) -> Tensor:
        """Teacher channels to student channels."""
        return torch.einsum("bct,cd->bdt", state, down[_index(boundary)])

    def decode(state: Tensor, boundary: int) -> Tensor:
        """Student channels to teacher channels."""
        return torch.einsum("bct,cd->bdt", state, up[_index(boundary)])

    def total(distance: Callable[[Tensor, Tensor], Tensor], weights: tuple[int, int] = (1, 1)) -> Tensor:
        """The loss with another distance, or with one of its two directions alone."""
        ends = [(i, teacher[i - 1], student[i - 1]) for i in (1, 2)]
        terms = [weights[0] * distance(encode(t, i), s) + weights[1] * distance(decode(s, i), t) for i, t, s in ends]
        return torch.stack(terms).mean()

    right = total(feature_distance)
    found = attempt(answer, teacher, student, encode, decode, hint=hint, on="states of three blocks, two boundaries")
    same_numbers("sync", found, right, hint, _wrong_sync(total), tolerance=1e-3)
    return "Right, and the same as pwl_lab.swap.pair_training.sync_loss."


def _index(boundary: int) -> int:
    """The index of a boundary's converters. Raises ValueError for one that three blocks do not have."""
    if boundary not in (1, 2):
        raise ValueError(f"there is no boundary {boundary}: between three blocks lie the boundaries 1 and 2")
    return int(boundary) - 1


def _wrong_sync(total: Callable[..., Tensor]) -> dict[str, Tensor]:
    """What the usual mistakes give."""
    mse = torch.nn.functional.mse_loss

    def cosine(a: Tensor, b: Tensor) -> Tensor:
        """The cosine of each sample's two flattened states, averaged over the batch."""
        return torch.cosine_similarity(a.flatten(1), b.flatten(1), dim=1).mean()

    distances = {
        "the cosine is missing: distance = mean squared error + 1 - cosine": mse,
        "the mean squared error is missing: distance = mean squared error + 1 - cosine": lambda a, b: 1 - cosine(a, b),
        "the cosine has the wrong sign: alike states should be near, so 1 - cosine": (
            lambda a, b: mse(a, b) + 1 + cosine(a, b)
        ),
        "the 1 of 1 - cosine is missing: equal states would be at distance -1": lambda a, b: mse(a, b) - cosine(a, b),
        "a cosine at every position: flatten each sample's state first": (
            lambda a, b: mse(a, b) + 1 - torch.cosine_similarity(a, b, dim=1).mean()
        ),
        "the squared errors are added up: take their mean over all numbers of a state": (
            lambda a, b: (a - b).square().flatten(1).sum(dim=1).mean() + 1 - cosine(a, b)
        ),
    }
    return {
        "this is the sum over the boundaries, not the mean": 2 * total(feature_distance),
        "only the encoders: the decoded student's state against the teacher's is missing": total(
            feature_distance, (1, 0)
        ),
        "only the decoders: the encoded teacher's state against the student's is missing": total(
            feature_distance, (0, 1)
        ),
        **{wrong: total(distance) for wrong, distance in distances.items()},
    }


def best_order(answer: Callable[[Mapping[str, float], Sequence[float]], Sequence[int]]) -> str:
    """`answer(accuracy, sizes)`: the blocks (from 1) in the order of the largest area, by trying all of them."""
    hint = (
        "for each of itertools.permutations(range(1, n + 1)): while a block arrives (its bytes long) the mask before "
        "it predicts; add up accuracy times bytes and keep the order with the most"
    )
    for n, seed in CUBES:
        accuracy, sizes = _cube(n, seed)
        right = arrivals(search_order(accuracy, sizes))
        mistakes = {wrong: order for wrong, order in _wrong_orders(accuracy, sizes).items() if order != right}
        mistakes["blocks are counted from 1"] = [block - 1 for block in right]
        found = attempt(answer, accuracy, sizes, hint=hint, on=f"{2**n} masks and {n} sizes")
        same_values("best_order", found, right, hint, mistakes)
    return "Right. The package finds it by dynamic programming, which looks at 2^n masks instead of n! orders."


def _cube(n_blocks: int, seed: int) -> tuple[dict[str, float], list[int]]:
    """Made-up accuracies and sizes for which the usual mistakes lead to other orders."""
    random = generator(seed, "masks")
    accuracy = {mask: round(0.8 + 0.15 * float(torch.rand((), generator=random)), 3) for mask in all_masks(n_blocks)}
    return accuracy, torch.randint(1, 30, (n_blocks,), generator=random).tolist()


def _wrong_orders(accuracy: Mapping[str, float], sizes: Sequence[float]) -> dict[str, list[int]]:
    """The orders that the usual mistakes lead to."""
    n = len(sizes)

    def area(order: Sequence[int], weights: Sequence[float], later: int = 0) -> float:
        """Accuracy times weight; `later` counts the mask after the block's arrival instead of the one before."""
        masks = masks_on_the_way(order)
        return sum(accuracy[masks[k + later]] * weights[block - 1] for k, block in enumerate(order))

    orders = [list(order) for order in permutations(range(1, n + 1))]
    greedy = ["S" * n]
    while "S" in greedy[-1]:
        longer = [greedy[-1][:i] + "T" + greedy[-1][i + 1 :] for i in range(n) if greedy[-1][i] == "S"]
        greedy.append(max(longer, key=accuracy.__getitem__))
    return {
        "this is the order with the smallest area": min(orders, key=lambda order: area(order, sizes)),
        "a block predicts only once it is there: while it arrives, the mask before it does": max(
            orders, key=lambda order: area(order, sizes, later=1)
        ),
        "every step counts the same here: weigh it with the bytes of the block that arrives": max(
            orders, key=lambda order: area(order, [1] * n)
        ),
        "this takes the best next mask at each step (greedy): compare whole orders": arrivals(greedy),
    }
