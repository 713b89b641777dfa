"""The feature distance of arXiv 2509.22319 (`pwl_lab.swap.pair_training.feature_distance`) with its own backward pass.

Pair training computes twelve of these in every step, on features too large for a processor's cache, so the cost is
memory traffic. Three inner products per sample give the value, and the gradient is a linear combination of the two
features with coefficients per sample. Autograd would access memory twice as often.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable


def feature_distance(
    ours: Float[Tensor, "batch channels *positions"],
    target: Float[Tensor, "batch channels *positions"],
    share: float | Tensor = 1.0,
) -> Float[Tensor, ""]:
    """As the plain twin. It has no second derivative."""
    # Channels last: for the memory layout of our convolutional networks this flattening copies nothing.
    a, b = (state.movedim(1, -1).reshape(len(state), -1) for state in (ours, target))  # (batch, size)
    with torch.autocast(a.device.type, enabled=False):  # eight bits are too few for `aa - 2 ab + bb`
        a, b = (one.to(torch.promote_types(one.dtype, torch.float32)) for one in (a, b))
        distance: Tensor = _Distance.apply(a, b, share)  # type: ignore[no-untyped-call]  # torch leaves `apply` untyped
    return distance


class _Distance(torch.autograd.Function):
    """`|a - b|^2 / n + 1 - ab / (|a| |b|)` for a sample's features a and b of size n, averaged over samples.

    The size is multiplied by `share`.
    """

    @staticmethod
    def forward(
        ctx: Any, a: Float[Tensor, "batch size"], b: Float[Tensor, "batch size"], share: float | Tensor
    ) -> Float[Tensor, ""]:
        """`|a - b|^2` is `aa - 2 ab + bb`."""
        length_a, length_b = (torch.linalg.vector_norm(one, dim=1) for one in (a, b))  # (batch)
        product, lengths = torch.linalg.vecdot(a, b), (length_a * length_b).clamp_min(1e-6)
        cosine = product / lengths
        ctx.save_for_backward(a, b, length_a, length_b, lengths, cosine)
        # A tensor stays one, or a GPU would have to wait for its value; in the precision that a float has.
        ctx.size = (share.double() if isinstance(share, Tensor) else share) * a.shape[1]
        squares = length_a.square() - 2 * product + length_b.square()
        distance: Tensor = (squares / ctx.size + 1 - cosine).mean()
        return distance

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Float[Tensor, ""]) -> tuple[Tensor | None, Tensor | None, None]:
        """For a: `2 (a - b) / n - b / (|a| |b|) + cosine * a / |a|^2`; likewise for b. Each only if it is needed."""
        a, b, length_a, length_b, lengths, cosine = ctx.saved_tensors
        gradient, part = gradient / len(a), 2 / ctx.size
        of_other = (gradient * (-part - 1 / lengths)).unsqueeze(1)  # (batch, 1)
        found: list[Tensor | None] = []
        for needed, one, length, other in zip(
            ctx.needs_input_grad[:2], (a, b), (length_a, length_b), (b, a), strict=True
        ):
            of_itself = (gradient * (part + cosine / length.square().clamp_min(1e-12))).unsqueeze(1)
            found.append((one * of_itself).addcmul_(other, of_other) if needed else None)
        return found[0], found[1], None
