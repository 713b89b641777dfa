"""`SwapNet`: teacher, student and converters as one network that runs under any swap mask.

Source: arXiv 2509.22319. The stem goes with block 1's owner, the head with block n's; a converter is applied only where
the owner changes. With the mask all `T` the network *is* the teacher and with all `S` the student, bit for bit.
"""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal, Self

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pwl_lab.loading.converters import Converters
from pwl_lab.loading.masks import check_mask
from pwl_lab.models.blocknet import BlockNet, evaluating
from pwl_lab.models.folding import folded

# A block may change channels and positions: what goes in and what comes out are named apart.
State = Float[Tensor, "batch channels *positions"]
NextState = Float[Tensor, "batch next_channels *next_positions"]


class SwapNet(nn.Module):
    """Runs any mask of `teacher` (frozen, always in eval mode) and `student`."""

    def __init__(
        self,
        teacher: BlockNet,
        student: BlockNet,
        input_shape: Sequence[int],
        where: Literal["always", "if_different"] = "always",
    ) -> None:
        """Raises InvalidValueError when the two networks cannot be joined (block counts, resolutions)."""
        super().__init__()
        converters = Converters(teacher.state_shapes(input_shape), student.state_shapes(input_shape), where)
        self.teacher, self.student, self.converters = teacher, student, converters
        self.teacher.requires_grad_(False)
        self.train(self.training)

    @property
    def n_blocks(self) -> int:
        """How many blocks can be swapped."""
        return self.teacher.n_blocks

    def train(self, mode: bool = True) -> Self:
        """Student and converters follow `mode`; the teacher stays in eval mode, so that none of its buffers ever changes."""
        super().train(mode)
        self.teacher.eval()
        return self

    def owner(self, letter: str) -> BlockNet:
        """The network a mask letter stands for."""
        return self.teacher if letter == "T" else self.student

    def enter(self, inputs: Float[Tensor, "batch *shape"], letter: str) -> State:
        """Stem and first block of the network that `letter` stands for."""
        owner = self.owner(letter)
        return owner.blocks[0](owner.stem(inputs))

    def advance(self, state: State, boundary: int, before: str, after: str) -> NextState:
        """From the hidden state of block `boundary` (owned by `before`) through the next block (owned by `after`)."""
        return self.owner(after).blocks[boundary](self.convert(state, boundary, before, after))

    def convert(self, state: State, boundary: int, before: str, after: str) -> NextState:
        """The hidden state of block `boundary` (owned by `before`) as the next block (owned by `after`) expects it."""
        if before == after:
            return state
        return (self.converters.encode if before == "T" else self.converters.decode)(state, boundary)

    def forward(self, inputs: Float[Tensor, "batch *shape"], mask: str) -> Float[Tensor, "batch classes"]:
        """Logits of the network that `mask` describes."""
        check_mask(mask, self.n_blocks)
        return self.run_from(self.enter(inputs, mask[0]), 1, mask)

    def run_from(self, state: State, done: int, mask: str) -> Float[Tensor, "batch classes"]:
        """Go on from the hidden state of block `done` (of its owner in `mask`, counted from 1) to the logits."""
        for boundary in range(done, self.n_blocks):
            state = self.advance(state, boundary, mask[boundary - 1], mask[boundary])
        return self.owner(mask[-1]).head(state)

    def on_folded_teacher(self) -> Self:
        """This net with a folded copy of the teacher; student and converters are the same objects.

        For training passes: less work, the same values up to rounding. What the net predicts it predicts with the teacher.
        """
        other = copy.copy(self)
        other._modules = self._modules.copy()
        other.teacher = folded(self.teacher)
        return other

    def student_norms(self, training: bool) -> list[nn.Module]:
        """Put the student's batch norms into training or eval mode; the ones that this changed."""
        kind = nn.modules.batchnorm._BatchNorm
        changed = [m for m in self.student.modules() if isinstance(m, kind) and m.training != training]
        for norm in changed:
            norm.train(training)
        return changed

    @contextmanager
    def student_on_running_statistics(self) -> Iterator[None]:
        """Inside, the student's batch norms use their running statistics, as at test time, and leave them alone.

        A batch norm that sees its own student's features in one pass and converted teacher features in the next keeps
        one set of running statistics for both, and fits neither: mixed passes therefore run like this.
        """
        changed = self.student_norms(training=False)
        try:
            yield
        finally:
            for norm in changed:
                norm.train()

    @contextmanager
    def student_left_alone(self) -> Iterator[None]:
        """Inside, what is computed sends no gradient to the student's weights; what was computed before still does."""
        learning = [parameter for parameter in self.student.parameters() if parameter.requires_grad]
        self.student.requires_grad_(False)
        try:
            yield
        finally:
            for parameter in learning:
                parameter.requires_grad_(True)


@torch.no_grad()
def mask_logits(net: SwapNet, inputs: Float[Tensor, "batch *shape"], masks: Sequence[str]) -> dict[str, Tensor]:
    """Logits of every mask in eval mode. Masks with a common beginning share its computation (a walk down a tree)."""
    found: dict[str, Tensor] = {}

    def walk(state: Tensor, prefix: str) -> None:
        """Extend `prefix`, whose hidden state is `state`, by one block in each way that some wanted mask needs."""
        if len(prefix) == net.n_blocks:
            found[prefix] = net.owner(prefix[-1]).head(state)
            return
        for letter in "ST":
            if any(mask.startswith(prefix + letter) for mask in masks):
                walk(net.advance(state, len(prefix), prefix[-1], letter), prefix + letter)

    with evaluating(net):
        for letter in sorted({check_mask(mask, net.n_blocks)[0] for mask in masks}):
            walk(net.enter(inputs, letter), letter)
    return {mask: found[mask] for mask in masks}
