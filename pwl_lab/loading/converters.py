"""Feature converters: what stands between a student's block and a teacher's.

Source: arXiv 2509.22319. Per boundary one `encoder` (teacher channels -> student channels) and one `decoder` (student
-> teacher). They act on channels alone: the same linear map at every position.
"""

from collections.abc import Sequence
from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn

from pwl_lab.errors import invalid


class ChannelMap(nn.Module):
    """One learned linear map over dimension 1 of (batch, channels, *positions), the same at every position."""

    def __init__(self, in_channels: int, out_channels: int, positions: int) -> None:
        """`positions` is how many dimensions follow the channels: 0 for units, 1 for tokens, 2 for images."""
        super().__init__()
        if positions not in (0, 1, 2):
            raise invalid("positions", positions, "0, 1 or 2 dimensions behind the channels")
        self.map = nn.Conv2d(in_channels, out_channels, 1) if positions == 2 else nn.Linear(in_channels, out_channels)

    def forward(self, state: Float[Tensor, "batch c_in *positions"]) -> Float[Tensor, "batch c_out *positions"]:
        """The converted state."""
        if isinstance(self.map, nn.Conv2d):
            return self.map(state)
        # The channels of tokens lie last in memory: a linear layer copies nothing, where a Conv1d would, both ways.
        return self.map(state.movedim(1, -1)).movedim(-1, 1)


class Converters(nn.Module):
    """Encoder and decoder for each of the `n-1` boundaries between blocks; boundary `i` lies behind block `i` (from 1)."""

    def __init__(
        self,
        teacher_shapes: Sequence[tuple[int, ...]],
        student_shapes: Sequence[tuple[int, ...]],
        where: Literal["always", "if_different"] = "always",
    ) -> None:
        """Shapes of the hidden states without the batch, one per block (`BlockNet.state_shapes`).

        `where="if_different"` puts the identity where the channels agree. Raises InvalidValueError when the block
        counts differ, or the positions (resolution, tokens) at a boundary: a converter cannot mend those.
        """
        super().__init__()
        check_shapes(teacher_shapes, student_shapes)
        self.where = where
        pairs = list(zip(teacher_shapes, student_shapes, strict=True))[:-1]
        self.encoders = nn.ModuleList(_channel_map(t, s, where) for t, s in pairs)
        self.decoders = nn.ModuleList(_channel_map(s, t, where) for t, s in pairs)

    def encode(
        self, state: Float[Tensor, "batch c_t *positions"], boundary: int
    ) -> Float[Tensor, "batch c_s *positions"]:
        """A teacher's hidden state as the student's next block expects it."""
        return self.encoders[boundary - 1](state)

    def decode(
        self, state: Float[Tensor, "batch c_s *positions"], boundary: int
    ) -> Float[Tensor, "batch c_t *positions"]:
        """A student's hidden state as the teacher's next block expects it."""
        return self.decoders[boundary - 1](state)


def check_shapes(teacher_shapes: Sequence[tuple[int, ...]], student_shapes: Sequence[tuple[int, ...]]) -> None:
    """Raise InvalidValueError unless the two networks can be joined at every boundary."""
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


def _channel_map(source: tuple[int, ...], target: tuple[int, ...], where: str) -> nn.Module:
    """The converter between two states, or nothing where none is wanted."""
    if where == "if_different" and source[0] == target[0]:
        return nn.Identity()
    return ChannelMap(source[0], target[0], positions=len(source) - 1)
