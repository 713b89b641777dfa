"""Projections of a teacher's hidden state (`pwl_lab.distill.targets.project`) for all students in one matrix product."""

from jaxtyping import Float
from torch import Tensor

from pwl_lab.fast import is_plain


def laid_out_by_unit(matrices: Float[Tensor, "members m r"]) -> Float[Tensor, "members m r"]:
    """The same matrices with the rows of one teacher unit contiguous in memory, so that `project` copies nothing.

    Inside `plain()` they are not changed.
    """
    return matrices if is_plain() else matrices.transpose(0, 1).contiguous().transpose(0, 1)


def project(
    state: Float[Tensor, "batch m *positions"], matrices: Float[Tensor, "members m r"]
) -> Float[Tensor, "members batch r *positions"]:
    """As the plain twin."""
    members, m, r = matrices.shape
    side_by_side = matrices.transpose(0, 1).reshape(m, members * r)
    product = state.movedim(1, -1) @ side_by_side  # (batch, *positions, members * r)
    return product.reshape(*product.shape[:-1], members, r).movedim((-2, -1), (0, 2))
