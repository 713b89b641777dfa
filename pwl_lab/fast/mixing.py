"""Mixed passes in training: many swap masks at once, each for its own group of samples.

Groups that go through the same owner's block go through it as one batch, and what two masks have in common for the same
samples is computed once. Source of the mixed pass: arXiv 2509.22319; running many of them together is ours.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor


@runtime_checkable
class Conversions(Protocol):
    """What is asked of `pwl_lab.swap.swapnet.Converters`, which stands above this module."""

    def encode(self, state: Tensor, boundary: int) -> Tensor:
        """A teacher's hidden state as the student's next block expects it."""
        ...

    def decode(self, state: Tensor, boundary: int) -> Tensor:
        """A student's hidden state as the teacher's next block expects it."""
        ...


@runtime_checkable
class Mixable(Protocol):
    """What is asked of `pwl_lab.swap.swapnet.SwapNet`, which stands above this module."""

    def owner(self, letter: str) -> Any:
        """The network (`blocks`, `head`) that a mask letter stands for."""
        ...

    def convert(self, state: Tensor, boundary: int, before: str, after: str) -> Tensor:
        """The hidden state of block `boundary` as the owner of the next block expects it."""
        ...


# A group of samples, by its number, and the letters of its mask up to some block.
Node = tuple[int, str]


@dataclass(frozen=True)
class Boundary:
    """The states of both networks behind one block (counted from 1), and what the converters there make of them."""

    number: int
    teacher: Float[Tensor, "batch c_t *positions"]
    student: Float[Tensor, "batch c_s *positions"]
    encoded: Float[Tensor, "batch c_s *positions"]
    decoded: Float[Tensor, "batch c_t *positions"]


def boundaries(
    converters: Conversions, teacher_states: Sequence[Tensor], student_states: Sequence[Tensor]
) -> list[Boundary]:
    """Every boundary between two blocks, first to last. All terms of PWL need these conversions: they are made once."""
    pairs = list(zip(teacher_states, student_states, strict=True))[:-1]
    return [
        Boundary(number, teacher, student, converters.encode(teacher, number), converters.decode(student, number))
        for number, (teacher, student) in enumerate(pairs, start=1)
    ]


def mixed_logits(net: Mixable, between: Sequence[Boundary], wanted: Sequence[Node], groups: int) -> list[Tensor]:
    """Logits of each wanted (group, mask) for the samples of that group; the batch is cut into `groups` parts.

    Each mask has both letters. Its leading blocks of one owner are not computed again: it goes on from the converted
    state that they gave out (`between`). No sample sees another, so going through a block together changes nothing.
    """
    states: dict[Node, Tensor] = {}
    for boundary in between:
        begun = dict.fromkeys((group, mask[: boundary.number + 1]) for group, mask in wanted)
        inputs = _inputs(net, boundary, [node for node in begun if _mixed(node)], states, groups)
        states = {}
        for letter in "ST":
            states |= _together(net.owner(letter).blocks[boundary.number], _ending_with(letter, inputs))
    logits: dict[Node, Tensor] = {}
    for letter in "ST":
        logits |= _together(net.owner(letter).head, _ending_with(letter, states))
    return [logits[node] for node in wanted]


def _inputs(
    net: Mixable, boundary: Boundary, nodes: Sequence[Node], states: dict[Node, Tensor], groups: int
) -> dict[Node, Tensor]:
    """What the block behind `boundary` is given at each node; `states` holds what the mixed nodes before gave out."""
    sizes = [len(part) for part in boundary.encoded.chunk(groups)]
    first = {"S": _split(boundary.encoded, sizes), "T": _split(boundary.decoded, sizes)}
    inputs = {(group, mask): states.get((group, mask[:-1]), first[mask[-1]][group]) for group, mask in nodes}
    for change in ("ST", "TS"):
        convert = partial(net.convert, boundary=boundary.number, before=change[0], after=change[1])
        changing = {node: state for node, state in _ending_with(change, inputs).items() if _mixed(_before(node))}
        inputs |= _together(convert, changing)
    return inputs


def _together(function: Callable[[Tensor], Tensor], inputs: dict[Node, Tensor]) -> dict[Node, Tensor]:
    """`function` of each, computed as one batch."""
    if not inputs:
        return {}
    outputs = function(_join(list(inputs.values())))
    return dict(zip(inputs, _split(outputs, [len(state) for state in inputs.values()]), strict=True))


# Channels lie last in memory, and have to go on doing so, forwards and backwards: `cat` alone would lay out tokens anew.


def _join(states: list[Tensor]) -> Tensor:
    """Several batches as one."""
    return torch.cat([state.movedim(1, -1) for state in states]).movedim(-1, 1)


def _split(state: Tensor, sizes: list[int]) -> list[Tensor]:
    """One batch as several."""
    return [part.movedim(-1, 1) for part in state.movedim(1, -1).split(sizes)]


def _ending_with(letters: str, states: dict[Node, Tensor]) -> dict[Node, Tensor]:
    """Those whose last blocks have these owners."""
    return {node: state for node, state in states.items() if node[1].endswith(letters)}


def _mixed(node: Node) -> bool:
    """Whether both networks have computed something of it."""
    return len(set(node[1])) == 2


def _before(node: Node) -> Node:
    """The same samples one block earlier."""
    return node[0], node[1][:-1]
