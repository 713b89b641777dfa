"""Mixed passes in training (`pwl_lab.swap.pair_training.mixed_logits`): many swap masks at once, each for its own samples.

Groups that need the same owner's block run through it as one batch, and what two masks have in common for the same
samples is computed once. The mixed pass is that of arXiv 2509.22319; running many of them together is our addition. At
test time (`pwl_lab.swap.swapnet.run_masks`) all masks see all samples, and share what they have in common.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor


@runtime_checkable
class Boundary(Protocol):
    """The part of `pwl_lab.swap.pair_training.Boundary` used here; that module is above this one."""

    @property
    def number(self) -> int:
        """The block before it, from 1."""
        ...

    @property
    def encoded(self) -> Tensor:
        """The teacher's state as the student's next block expects it."""
        ...

    @property
    def decoded(self) -> Tensor:
        """The student's state as the teacher's next block expects it."""
        ...


@runtime_checkable
class Mixable(Protocol):
    """The part of `pwl_lab.swap.swapnet.SwapNet` used here; that module is above this one."""

    @property
    def n_blocks(self) -> int:
        """The number of blocks that can be swapped."""
        ...

    def enter(self, inputs: Tensor, letter: str) -> Tensor:
        """Stem and first block of the network that a mask letter stands for."""
        ...

    def advance(self, state: Tensor, boundary: int, before: str, after: str) -> Tensor:
        """Run the next block on the hidden state of block `boundary`."""
        ...

    def owner(self, letter: str) -> Any:
        """The network (`blocks`, `head`) that a mask letter stands for."""
        ...

    def convert(self, state: Tensor, boundary: int, before: str, after: str) -> Tensor:
        """Convert the hidden state of block `boundary` for the owner of the next block."""
        ...


# A group of samples, by number, and the letters of its mask up to some block.
Node = tuple[int, str]


def mixed_logits(net: Mixable, boundaries: Sequence[Boundary], wanted: Sequence[Node], groups: int) -> list[Tensor]:
    """As the plain twin. Samples do not interact, so running through a block together changes nothing.

    The leading blocks of one owner are not computed again: a mask continues from the converted state in `boundaries`.
    """
    states: dict[Node, Tensor] = {}
    for boundary in boundaries:
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
    """The inputs of the block after `boundary`, per node; `states` holds the outputs of the mixed nodes before it."""
    sizes = [len(part) for part in boundary.encoded.chunk(groups)]
    first = {"S": _split(boundary.encoded, sizes), "T": _split(boundary.decoded, sizes)}
    inputs = {(group, mask): states.get((group, mask[:-1]), first[mask[-1]][group]) for group, mask in nodes}
    for change in ("ST", "TS"):
        convert = partial(net.convert, boundary=boundary.number, before=change[0], after=change[1])
        changing = {node: state for node, state in _ending_with(change, inputs).items() if _mixed(_before(node))}
        inputs |= _together(convert, changing)
    return inputs


def _together(function: Callable[[Tensor], Tensor], inputs: dict[Node, Tensor]) -> dict[Node, Tensor]:
    """Apply `function` to all inputs as one batch."""
    if not inputs:
        return {}
    outputs = function(_join(list(inputs.values())))
    return dict(zip(inputs, _split(outputs, [len(state) for state in inputs.values()]), strict=True))


# Channels are last in memory and must stay so, forward and backward: `cat` alone would change the layout of tokens.


def _join(states: list[Tensor]) -> Tensor:
    """Several batches as one."""
    return torch.cat([state.movedim(1, -1) for state in states]).movedim(-1, 1)


def _split(state: Tensor, sizes: list[int]) -> list[Tensor]:
    """One batch as several."""
    return [part.movedim(-1, 1) for part in torch.split(state.movedim(1, -1), sizes)]


def _ending_with(letters: str, states: dict[Node, Tensor]) -> dict[Node, Tensor]:
    """The nodes whose last blocks have these owners."""
    return {node: state for node, state in states.items() if node[1].endswith(letters)}


def _mixed(node: Node) -> bool:
    """Whether both networks own part of it."""
    return len(set(node[1])) == 2


def _before(node: Node) -> Node:
    """The same samples one block earlier."""
    return node[0], node[1][:-1]


def run_masks(net: Mixable, inputs: Tensor, masks: Sequence[str]) -> dict[str, Tensor]:
    """As the plain twin. Masks with a common prefix share its computation, by walking down a tree."""
    found: dict[str, Tensor] = {}

    def walk(state: Tensor, prefix: str) -> None:
        """Extend `prefix`, whose hidden state is `state`, by each next block that some mask needs."""
        if len(prefix) == net.n_blocks:
            found[prefix] = net.owner(prefix[-1]).head(state)
            return
        for letter in "ST":
            if any(mask.startswith(prefix + letter) for mask in masks):
                walk(net.advance(state, len(prefix), prefix[-1], letter), prefix + letter)

    for letter in sorted({mask[0] for mask in masks}):
        walk(net.enter(inputs, letter), letter)
    return {mask: found[mask] for mask in masks}
