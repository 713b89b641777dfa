"""`SwapNet`: teacher, student and converters as one network that runs under any swap mask (arXiv 2509.22319).

The stem belongs to the owner of block 1, the head to the owner of block n. At each boundary between blocks there is an
`encoder` (teacher channels -> student channels) and a `decoder` (student -> teacher). They act only on channels, with
the same linear map at every position, and are applied only where the owner changes. With the mask all `T` the network
*is* the teacher, and with all `S` the student, bit for bit.
"""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal, Self

import torch
from jaxtyping import Float, Num
from torch import Tensor, nn

from pwl_lab.fast import mixing, sped_up_by
from pwl_lab.models.blocknet import BlockNet, real_tokens
from pwl_lab.support.errors import invalid
from pwl_lab.support.rows import evaluating
from pwl_lab.swap.masks import check_mask


class ChannelMap(nn.Module):
    """One learned linear map over dimension 1 of (batch, channels, *positions), the same at every position."""

    def __init__(self, in_channels: int, out_channels: int, position_dims: int, pads: bool = False) -> None:
        """`position_dims` is the number of dimensions after the channels: 0 for units, 1 for tokens, 2 for images.

        With `pads`, a position that is the zero vector stays the zero vector (see `BlockNet`).
        """
        super().__init__()
        self.pads = pads
        if position_dims not in (0, 1, 2):
            raise invalid("position_dims", position_dims, "0, 1 or 2 dimensions after the channels")
        layer = nn.Conv2d(in_channels, out_channels, 1) if position_dims == 2 else nn.Linear(in_channels, out_channels)
        self.map = layer

    def forward(self, state: Float[Tensor, "batch c_in *positions"]) -> Float[Tensor, "batch c_out *positions"]:
        """The converted state."""
        if isinstance(self.map, nn.Conv2d):
            converted: Tensor = self.map(state)
            return converted
        # Tokens are stored channels last: a linear layer copies nothing, a Conv1d would.
        converted = self.map(state.movedim(1, -1)).movedim(-1, 1)  # (batch, c_out, *positions)
        return converted * real_tokens(state).unsqueeze(1) if self.pads else converted


class Converters(nn.Module):
    """An encoder and a decoder for each of the `n-1` boundaries; boundary `i` follows block `i` (from 1)."""

    def __init__(
        self,
        teacher_shapes: Sequence[tuple[int, ...]],
        student_shapes: Sequence[tuple[int, ...]],
        placement: Literal["always", "if_different"] = "always",
        pads: bool = False,
    ) -> None:
        """Raises InvalidValueError if block counts or positions differ (see `check_shapes`).

        Arguments:
        - `teacher_shapes`, `student_shapes`: the shapes of the hidden states without the batch, one per block
          (`BlockNet.state_shapes`).
        - `placement`: with `if_different`, the converter is the identity where the channels agree.
        - `pads`: whether the networks keep padded positions at zero (`BlockNet.pads`), and so the converters must.
        """
        super().__init__()
        check_shapes(teacher_shapes, student_shapes)
        self.placement = placement
        pairs = list(zip(teacher_shapes, student_shapes, strict=True))[:-1]
        self.encoders = nn.ModuleList(_channel_map(t, s, placement, pads) for t, s in pairs)
        self.decoders = nn.ModuleList(_channel_map(s, t, placement, pads) for t, s in pairs)

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

    A converter changes channels; it cannot change the number of blocks or the positions (resolution, tokens).
    """
    if len(teacher_shapes) != len(student_shapes):
        raise invalid(
            "student blocks", len(student_shapes), f"as many as the teacher has: {len(teacher_shapes)} (one swap each)"
        )
    for boundary, (t, s) in enumerate(zip(teacher_shapes, student_shapes, strict=True), start=1):
        if t[1:] != s[1:] and boundary < len(teacher_shapes):
            raise invalid(
                f"student state after block {boundary}",
                s,
                f"the teacher's positions {t[1:]} (channels may differ; resolution and tokens may not)",
            )


def _channel_map(before: tuple[int, ...], after: tuple[int, ...], placement: str, pads: bool) -> nn.Module:
    """The converter between states of these shapes; the identity if none is needed."""
    if placement == "if_different" and before[0] == after[0]:
        return nn.Identity()
    return ChannelMap(before[0], after[0], position_dims=len(before) - 1, pads=pads)


# A block may change channels and positions, so its input and its output have separate names.
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
        """Raises InvalidValueError if the two networks cannot be joined (block counts, resolutions, padding).

        Arguments:
        - `teacher`: frozen from here on.
        - `student`: has as many blocks as the teacher, with the same resolutions.
        - `input_shape`: the shape of one sample.
        - `placement`: whether there are converters at every boundary, or only where the channels differ.
        """
        super().__init__()
        if teacher.pads != student.pads:
            what = "a network that treats padding as the teacher does (`BlockNet.pads`); those of `BlockNet.of` do not hide it"
            raise invalid("student", f"a network with pads = {student.pads}", what)
        shapes = teacher.state_shapes(input_shape), student.state_shapes(input_shape)
        converters = Converters(*shapes, placement, pads=teacher.pads)
        self.teacher, self.student, self.converters = teacher, student, converters
        self.teacher.requires_grad_(False)
        self.train(self.training)

    @property
    def n_blocks(self) -> int:
        """The number of blocks that can be swapped."""
        return self.teacher.n_blocks

    @property
    def n_tokens(self) -> int | None:
        """What the networks take: token ids below this, or numbers (None)."""
        return self.teacher.n_tokens

    def train(self, mode: bool = True) -> Self:
        """Set the mode of student and converters; the teacher stays in eval mode, so that its buffers never change."""
        super().train(mode)
        self.teacher.eval()
        return self

    def owner(self, letter: str) -> BlockNet:
        """The network that a mask letter stands for."""
        return self.teacher if letter == "T" else self.student

    def enter(self, inputs: Num[Tensor, "batch *shape"], letter: str) -> State:
        """Stem and first block of the network that `letter` stands for."""
        owner = self.owner(letter)
        state: Tensor = owner.blocks[0](owner.stem(inputs))
        return state

    def advance(self, state: State, boundary: int, before: str, after: str) -> NextState:
        """Run the next block (owned by `after`) on the hidden state of block `boundary` (owned by `before`)."""
        state = self.convert(state, boundary, before, after)  # (batch, channels of `after`, *positions)
        advanced: Tensor = self.owner(after).blocks[boundary](state)
        return advanced

    def convert(self, state: State, boundary: int, before: str, after: str) -> NextState:
        """Convert the hidden state of block `boundary` (owned by `before`) for the next block (owned by `after`)."""
        if before == after:
            return state
        return (self.converters.encode if before == "T" else self.converters.decode)(state, boundary)

    def forward(self, inputs: Num[Tensor, "batch *shape"], mask: str) -> Float[Tensor, "batch *tokens classes"]:
        """The logits of the network that `mask` describes."""
        check_mask(mask, self.n_blocks)
        return self.run_from(self.enter(inputs, mask[0]), 1, mask)

    def run_from(self, state: State, done: int, mask: str) -> Float[Tensor, "batch *tokens classes"]:
        """Continue from the hidden state of block `done` (counted from 1, of its owner in `mask`) to the logits."""
        for boundary in range(done, self.n_blocks):
            state = self.advance(state, boundary, mask[boundary - 1], mask[boundary])
        logits: Tensor = self.owner(mask[-1]).head(state)
        return logits

    def with_teacher(self, teacher: BlockNet) -> Self:
        """This network with another teacher; student and converters are the same objects."""
        other = copy.copy(self)
        other._modules = self._modules.copy()
        other.teacher = teacher
        return other

    def student_norms(self, training: bool) -> list[nn.Module]:
        """Put the student's batch norms into training or eval mode; return those that changed."""
        kind = nn.modules.batchnorm._BatchNorm
        changed: list[nn.Module] = [m for m in self.student.modules() if isinstance(m, kind) and m.training != training]
        for norm in changed:
            norm.train(training)
        return changed

    @contextmanager
    def student_on_running_statistics(self) -> Iterator[None]:
        """A context in which the student's batch norms use their running statistics and do not update them.

        A batch norm that sees the student's own features in one pass and converted teacher features in the next would
        average both into one set of running statistics that fits neither. Mixed passes therefore run in this context.
        """
        changed = self.student_norms(training=False)
        try:
            yield
        finally:
            for norm in changed:
                norm.train()

    @contextmanager
    def student_left_alone(self) -> Iterator[None]:
        """A context in which new computations send no gradient to the student's weights; earlier ones still do."""
        learning = [parameter for parameter in self.student.parameters() if parameter.requires_grad]
        self.student.requires_grad_(False)
        try:
            yield
        finally:
            for parameter in learning:
                parameter.requires_grad_(True)


@torch.no_grad()
def mask_logits(net: SwapNet, inputs: Num[Tensor, "batch *shape"], masks: Sequence[str]) -> dict[str, Tensor]:
    """The logits of every mask, [batch, classes] each, in eval mode. Raises InvalidValueError for an invalid mask.

    Arguments:
    - `net`: the pair; it returns to its previous mode afterwards.
    - `inputs`: inputs of the task.
    - `masks`: the masks, in the order of the result.
    """
    for mask in masks:
        check_mask(mask, net.n_blocks)
    with evaluating(net):
        return run_masks(net, inputs, masks)


@sped_up_by(mixing.run_masks)
def run_masks(net: SwapNet, inputs: Num[Tensor, "batch *shape"], masks: Sequence[str]) -> dict[str, Tensor]:
    """The logits of every mask, computed one after the other."""
    return {mask: net(inputs, mask) for mask in masks}
