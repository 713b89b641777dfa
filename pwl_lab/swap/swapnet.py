"""`SwapNet`: teacher, student and converters as one network that runs under any swap mask (arXiv 2509.22319).

The stem goes with block 1's owner, the head with block n's. Per boundary between blocks there is
one `encoder` (teacher channels -> student channels) and one `decoder` (student -> teacher); they act on channels alone, the
same linear map at every position, and are applied only where the owner changes. With the mask all `T` the network *is* the
teacher and with all `S` the student, bit for bit.
"""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal, Self

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pwl_lab.fast import mixing, sped_up_by
from pwl_lab.models.blocknet import BlockNet, evaluating
from pwl_lab.support.errors import invalid
from pwl_lab.swap.masks import check_mask


class ChannelMap(nn.Module):
    """One learned linear map over dimension 1 of (batch, channels, *positions), the same at every position."""

    def __init__(self, in_channels: int, out_channels: int, position_dims: int) -> None:
        """`position_dims` is how many dimensions follow the channels: 0 for units, 1 for tokens, 2 for images."""
        super().__init__()
        if position_dims not in (0, 1, 2):
            raise invalid("position_dims", position_dims, "0, 1 or 2 dimensions behind the channels")
        layer = nn.Conv2d(in_channels, out_channels, 1) if position_dims == 2 else nn.Linear(in_channels, out_channels)
        self.map = layer

    def forward(self, state: Float[Tensor, "batch c_in *positions"]) -> Float[Tensor, "batch c_out *positions"]:
        """The converted state."""
        if isinstance(self.map, nn.Conv2d):
            converted: Tensor = self.map(state)
            return converted
        # Tokens lie channels last in memory: a linear layer copies nothing, a Conv1d would.
        converted = self.map(state.movedim(1, -1))  # (batch, *positions, c_out)
        return converted.movedim(-1, 1)


class Converters(nn.Module):
    """Encoder and decoder for each of the `n-1` boundaries between blocks; boundary `i` lies behind block `i` (from 1)."""

    def __init__(
        self,
        teacher_shapes: Sequence[tuple[int, ...]],
        student_shapes: Sequence[tuple[int, ...]],
        placement: Literal["always", "if_different"] = "always",
    ) -> None:
        """Raises InvalidValueError where block counts or positions differ, see `check_shapes`.

        Arguments:
        - `teacher_shapes`, `student_shapes`: of the hidden states without the batch, one per block
          (`BlockNet.state_shapes`).
        - `placement`: `if_different` puts the identity where the channels agree.
        """
        super().__init__()
        check_shapes(teacher_shapes, student_shapes)
        self.placement = placement
        pairs = list(zip(teacher_shapes, student_shapes, strict=True))[:-1]
        self.encoders = nn.ModuleList(_channel_map(t, s, placement) for t, s in pairs)
        self.decoders = nn.ModuleList(_channel_map(s, t, placement) for t, s in pairs)

    def encode(
        self, state: Float[Tensor, "batch c_t *positions"], boundary: int
    ) -> Float[Tensor, "batch c_s *positions"]:
        """A teacher's hidden state as the student's next block expects it."""
        encoded: Tensor = self.encoders[boundary - 1](state)
        return encoded

    def decode(
        self, state: Float[Tensor, "batch c_s *positions"], boundary: int
    ) -> Float[Tensor, "batch c_t *positions"]:
        """A student's hidden state as the teacher's next block expects it."""
        decoded: Tensor = self.decoders[boundary - 1](state)
        return decoded


def check_shapes(teacher_shapes: Sequence[tuple[int, ...]], student_shapes: Sequence[tuple[int, ...]]) -> None:
    """Raise InvalidValueError unless the two networks can be joined at every boundary.

    A converter changes channels; it cannot mend another number of blocks or positions (resolution, tokens).
    """
    if len(teacher_shapes) != len(student_shapes):
        raise invalid(
            "student blocks", len(student_shapes), f"as many as the teacher has: {len(teacher_shapes)} (one swap each)"
        )
    for boundary, (t, s) in enumerate(zip(teacher_shapes, student_shapes, strict=True), start=1):
        if t[1:] != s[1:] and boundary < len(teacher_shapes):
            raise invalid(
                f"student state behind block {boundary}",
                s,
                f"the teacher's positions {t[1:]} (channels may differ, resolution and tokens may not)",
            )


def _channel_map(before: tuple[int, ...], after: tuple[int, ...], placement: str) -> nn.Module:
    """The converter between states of these shapes: the identity where none is wanted."""
    if placement == "if_different" and before[0] == after[0]:
        return nn.Identity()
    return ChannelMap(before[0], after[0], position_dims=len(before) - 1)


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
        placement: Literal["always", "if_different"] = "always",
    ) -> None:
        """Raises InvalidValueError where the two networks cannot be joined (block counts, resolutions).

        Arguments:
        - `teacher`: frozen from here on.
        - `student`: as many blocks as the teacher, of the same resolutions.
        - `input_shape`: of one sample.
        - `placement`: converters at every boundary, or only where the channels differ.
        """
        super().__init__()
        converters = Converters(teacher.state_shapes(input_shape), student.state_shapes(input_shape), placement)
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
        state: Tensor = owner.blocks[0](owner.stem(inputs))
        return state

    def advance(self, state: State, boundary: int, before: str, after: str) -> NextState:
        """From the hidden state of block `boundary` (owned by `before`) through the next block (owned by `after`)."""
        state = self.convert(state, boundary, before, after)  # (batch, channels of `after`, *positions)
        advanced: Tensor = self.owner(after).blocks[boundary](state)
        return advanced

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
        logits: Tensor = self.owner(mask[-1]).head(state)
        return logits

    def with_teacher(self, teacher: BlockNet) -> Self:
        """This net with another teacher; student and converters are the same objects."""
        other = copy.copy(self)
        other._modules = self._modules.copy()
        other.teacher = teacher
        return other

    def student_norms(self, training: bool) -> list[nn.Module]:
        """Put the student's batch norms into training or eval mode; the ones that this changed."""
        kind = nn.modules.batchnorm._BatchNorm
        changed: list[nn.Module] = [m for m in self.student.modules() if isinstance(m, kind) and m.training != training]
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
    """Logits of every mask, [batch, classes] each, in eval mode. Raises InvalidValueError for a word that is no mask.

    Arguments:
    - `net`: the pair; its mode is put back afterwards.
    - `inputs`: of the task.
    - `masks`: in the order of the result.
    """
    for mask in masks:
        check_mask(mask, net.n_blocks)
    with evaluating(net):
        return run_masks(net, inputs, masks)


@sped_up_by(mixing.run_masks)
def run_masks(net: SwapNet, inputs: Float[Tensor, "batch *shape"], masks: Sequence[str]) -> dict[str, Tensor]:
    """Logits of every mask, one after the other."""
    return {mask: net(inputs, mask) for mask in masks}
