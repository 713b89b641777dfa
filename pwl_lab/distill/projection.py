"""Random projections of a teacher's hidden state: the regression targets of the extracted curriculum.

Source: arXiv 2503.17494: for a hidden layer of `m` units and a student's of `r`, a fixed Gaussian `P` (m x r, scaled
1/sqrt(m)) gives the target `P^T h(x)`. Centring, scaling and orthogonal columns are ours: the source leaves them open.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from pwl_lab.errors import invalid
from pwl_lab.seeding import generator


def random_projection(
    teacher_width: int, student_width: int, seed: int, block: int = 1, orthogonal: bool = False
) -> Float[Tensor, "m r"]:
    """A Gaussian matrix with entries of variance 1/m, from the stream `projection` of `seed`, the role is its block.

    `orthogonal` makes its columns orthonormal, which takes `r <= m`: InvalidValueError otherwise.
    """
    if min(teacher_width, student_width, block) < 1:
        raise invalid("width", (teacher_width, student_width, block), "at least 1 unit on both sides, blocks from 1")
    if orthogonal and student_width > teacher_width:
        raise invalid(
            "width of the projection",
            student_width,
            f"at most {teacher_width}, the teacher's units in block {block}, when orthogonal; "
            "narrow it (width), take a wider teacher, or orthogonal=False",
        )
    random = generator(seed, "projection", f"block {block}")
    matrix = torch.randn(teacher_width, student_width, generator=random) / teacher_width**0.5
    return torch.linalg.qr(matrix).Q if orthogonal else matrix


@dataclass(frozen=True)
class Projection:
    """Fixed projections for several students at once: `target = (P^T h - mean) * factor`, per student."""

    matrices: Float[Tensor, "members m r"]
    means: Float[Tensor, "members r"]
    factors: Float[Tensor, " members"]

    @classmethod
    def fit(
        cls,
        matrices: Float[Tensor, "members m r"],
        states: Float[Tensor, "batch m *positions"],
        centre: bool = True,
        scale: bool = True,
    ) -> "Projection":
        """Centre each unit and scale all units together to standard deviation 1, as measured on `states`.

        One factor for all units keeps how much each of them says; a factor per unit would blow up the silent ones.
        """
        raw = _project(states, _side_by_side(matrices), len(matrices)).transpose(1, 2).flatten(2)
        means = raw.mean(dim=2) if centre else torch.zeros_like(raw[:, :, 0])  # raw: members, r, batch * positions
        spread = (raw - means.unsqueeze(2)).square().mean(dim=(1, 2)).sqrt()
        factors = 1 / spread.clamp_min(1e-8) if scale else torch.ones_like(spread)
        return cls(matrices, means, factors)

    def __getitem__(self, members: Tensor | list[int]) -> "Projection":
        """The projections of some of the students."""
        return Projection(self.matrices[members], self.means[members], self.factors[members])

    def __call__(self, state: Float[Tensor, "batch m *positions"]) -> Float[Tensor, "members batch r *positions"]:
        """Each student's target for the teacher's hidden state."""
        positions = (1,) * (state.dim() - 2)
        offsets = (self.means * self.factors.unsqueeze(1)).reshape(len(self.means), 1, -1, *positions)
        return _project(state, self._scaled, len(self.means)) - offsets

    @cached_property
    def _scaled(self) -> Float[Tensor, "m columns"]:
        """All matrices side by side, each times its factor: the form in which they are used at every step."""
        return _side_by_side(self.matrices * self.factors.reshape(-1, 1, 1))


def _side_by_side(matrices: Float[Tensor, "members m r"]) -> Float[Tensor, "m columns"]:
    """One matrix for one product."""
    members, m, r = matrices.shape
    return matrices.permute(1, 0, 2).reshape(m, members * r)


def _project(
    state: Float[Tensor, "batch m *positions"], flat: Float[Tensor, "m columns"], members: int
) -> Float[Tensor, "members batch r *positions"]:
    """`P^T h` at every position, for all students in one matrix product."""
    product = state.movedim(1, -1) @ flat  # batch, *positions, members * r
    return product.unflatten(-1, (members, -1)).movedim((-2, -1), (0, 2))
