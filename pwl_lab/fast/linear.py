"""Linear layers for wide, shallow networks: the same map as `nn.Linear`, for shapes where torch's backward is slow.

On a CPU a two-layer network with thousands of hidden units spends its time in three operations: the product with the
first layer's weights, its transpose, and the gradient of the hidden state. The first two are faster with weights laid
out by input; the last has an inner dimension of two, for which a matrix product is inefficient.
"""

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pwl_lab.fast import is_plain

MOST_OUTPUTS = 4  # of a layer that is turned into `FewOutputs`


def laid_out_by_input(layer: nn.Linear) -> nn.Linear:
    """The same layer with the weights of one *input* contiguous in memory; their shape stays (out, in).

    The gradient takes the layout of the weights, so that backward computes `inputs^T @ gradient` with long rows of
    units: about a third less time at (50, 4096), batch 128. Inside `plain()` the layer is not changed.
    """
    if is_plain():
        return layer
    layer.weight.data = layer.weight.data.t().contiguous().t()
    return layer


class FewOutputs(nn.Linear):
    """`nn.Linear` for a few outputs: the gradient of its input is summed output by output.

    It works wherever `nn.Linear` does, except in forward-mode differentiation. Under autocast and inside `plain()` it
    behaves exactly like `nn.Linear`.
    """

    def forward(self, inputs: Float[Tensor, "*batch units"]) -> Float[Tensor, "*batch outputs"]:
        """`inputs @ weight^T + bias`."""
        # Autocast would pass tensors of two types to backward. It does not know the device `meta`.
        if is_plain() or inputs.is_meta or torch.is_autocast_enabled(inputs.device.type):
            return super().forward(inputs)
        outputs: Tensor = _FewOutputs.apply(inputs, self.weight, self.bias)  # type: ignore[no-untyped-call]  # torch's own
        return outputs


class _FewOutputs(torch.autograd.Function):
    """The usual forward; a backward without a matrix product for the input's gradient."""

    generate_vmap_rule = True

    @staticmethod
    def forward(inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """As `torch.nn.functional.linear`."""
        return nn.functional.linear(inputs, weight, bias)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor | None], output: Tensor) -> None:
        """Save what backward needs."""
        ctx.save_for_backward(*inputs[:2])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Gradients of inputs, weight and bias, each only if it is needed."""
        inputs, weight = ctx.saved_tensors
        of_inputs = of_weight = of_bias = None
        rows = math.prod(inputs.shape[:-1])  # `reshape(-1, n)` is ambiguous for an empty batch
        gradient = gradient.reshape(rows, len(weight))
        if ctx.needs_input_grad[0]:
            of_inputs = gradient[:, :1] * weight[0]
            for output in range(1, len(weight)):
                of_inputs = of_inputs.addcmul_(gradient[:, output : output + 1], weight[output])
            of_inputs = of_inputs.reshape(inputs.shape)
        if ctx.needs_input_grad[1]:
            of_weight = gradient.t() @ inputs.reshape(rows, weight.shape[1])
        if ctx.needs_input_grad[2]:
            of_bias = gradient.sum(dim=0)
        return of_inputs, of_weight, of_bias


def speed_up(blocks: nn.Module, head: nn.Module) -> None:
    """Lay out the linear layers of `blocks` by input, and turn a head with few outputs into `FewOutputs`.

    Weights and results do not change.
    """
    for layer in blocks.modules():
        if isinstance(layer, nn.Linear):
            laid_out_by_input(layer)
    for layer in head.modules():
        if isinstance(layer, nn.Linear) and layer.out_features <= MOST_OUTPUTS:
            layer.__class__ = FewOutputs  # the same parameters under the same names; only forward and backward differ
