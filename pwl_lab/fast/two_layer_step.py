"""A step of SGD on labels for a network with one hidden layer and two logits, without autograd.

The plain twin is `pwl_lab.training.Learner.step`. What is saved: cross-entropy of two logits depends only on their
difference, so the output layer is a vector; a layer's bias is a column of its weights; and the arrays of the hidden
layer's size are written in place, as rarely as possible. Where the processor multiplies in bfloat16, the two large
products are in that type: backwards zeros and ones times the weighted inputs, whose rows are then multiplied by the output
weights. Else that product itself adds to the momentum.
"""

from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn


def multiplies_in_bfloat16(device: torch.device) -> bool:
    """Whether products in bfloat16 are faster there: on a GPU that has them, or a processor with instructions for them.

    Elsewhere products in bfloat16 give the same values, but are slower by orders of magnitude.
    """
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported())


class _Arrays(NamedTuple):
    """What a step on a batch of one size writes into; memory that is asked for in each step would have to be mapped anew.

    All but the last are in the type of the products.
    """

    inputs: Float[Tensor, "batch n_and_one"]  # the last column is 1
    weight: Float[Tensor, "units n_and_one"]  # the parameters themselves, if they are of this type
    hidden: Float[Tensor, "units batch"]
    active: Float[Tensor, "units batch"]  # 1 where a unit is active, else 0
    product: Float[Tensor, "units n_and_one"]
    gradient: Float[Tensor, "units n_and_one"]  # the product, in the type of the parameters


class TwoLayerStep:
    """Takes optimiser steps on a network's own parameters and on its optimiser's own momentum.

    Both can be read and kept at any time, and a schedule may change the learning rate.
    """

    def __init__(
        self, hidden: nn.Linear, head: nn.Linear, optimiser: torch.optim.SGD, products: torch.dtype | None = None
    ) -> None:
        """Take over the parameters, and the momentum that the optimiser has.

        Arguments:
        - `hidden`, `head`: the layers before and after the ReLU; `head` has two outputs.
        - `optimiser`: SGD on these four parameters.
        - `products`: the type of the large products; by default bfloat16 where that is faster, else the parameters'.
        """
        own = hidden.weight.dtype
        self.products = products or (torch.bfloat16 if multiplies_in_bfloat16(hidden.weight.device) else own)
        self.group = optimiser.param_groups[0]
        self.first, self.of_first = _joined(hidden, optimiser)  # (units, n + 1), bias last
        self.last, self.of_last = _joined(head, optimiser)  # (2, units + 1), bias last
        self.sides = self.last.new_tensor([[-1.0], [1.0]])  # of the two logits
        self.of_difference = torch.zeros_like(self.last[:1])  # (1, units + 1)
        self.arrays: _Arrays | None = None
        optimiser.step()  # there are no gradients, so that nothing changes; but a schedule expects it before its own

    def _arrays_for(self, samples: int) -> _Arrays:
        """The arrays for a batch of this size."""
        if self.arrays is None or len(self.arrays.inputs) != samples:
            units, n = self.first.shape
            inputs = self.first.new_ones(samples, n, dtype=self.products)
            hidden, product = inputs.new_empty(units, samples), inputs.new_empty(units, n)
            same = self.products == self.first.dtype
            weight, gradient = (
                (self.first, product) if same else (torch.empty_like(product), torch.empty_like(self.first))
            )
            self.arrays = _Arrays(inputs, weight, hidden, torch.empty_like(hidden), product, gradient)
        return self.arrays

    @torch.no_grad()
    def __call__(self, inputs: Float[Tensor, "batch n"], labels: Int[Tensor, " batch"]) -> Float[Tensor, ""]:
        """Take a step on this batch; the mean cross-entropy before it."""
        x, weight, hidden, active, product, gradient = self._arrays_for(len(inputs))
        x[:, :-1] = inputs
        torch.mm(weight.copy_(self.first), x.t(), out=hidden)
        # A negative bfloat16 is a negative integer, and integers are compared several times as fast.
        (hidden.view(torch.int16) if self.products == torch.bfloat16 else hidden).clamp_min_(0)
        difference = self.last[1:] - self.last[:1]  # (1, units + 1): of the logits
        out = difference[:, :-1]
        margins = (out.to(self.products) @ hidden).squeeze(0).to(self.last.dtype).add_(difference[0, -1])  # (batch,)
        wanted = labels.to(margins.dtype)
        of_margins = margins.sigmoid().sub_(wanted).div_(len(inputs))
        small = of_margins.to(self.products)
        torch.gt(hidden, 0, out=active)
        self.of_difference[0, :-1] = torch.mv(hidden, small)
        self.of_difference[0, -1] = of_margins.sum()
        x_small = x * small.unsqueeze(1)
        if gradient is product:
            self._move(self.first, self.of_first, active.mul_(out.t()), x_small)
        else:
            gradient.copy_(torch.mm(active, x_small, out=product))
            self._move(self.first, self.of_first, gradient, out.t(), by_row=True)
        self._move(self.last, self.of_last, self.sides, self.of_difference)
        return nn.functional.binary_cross_entropy_with_logits(margins, wanted)

    def _move(self, values: Tensor, momentum: Tensor, left: Tensor, right: Tensor, by_row: bool = False) -> None:
        """A step of `torch.optim.SGD` on `values`, whose gradient is `left @ right`, or `left * right` if `by_row`."""
        lr, beta, decay = self.group["lr"], self.group["momentum"], self.group["weight_decay"]
        penalty = values * decay if decay else None
        if self.group["nesterov"]:  # it moves by gradient + beta * new, and the gradient is new - beta * old
            values.add_(momentum, alpha=lr * beta)
        if by_row:
            momentum.mul_(beta).addcmul_(left, right)
        else:
            momentum.addmm_(left, right, beta=beta)
        if penalty is not None:
            momentum.add_(penalty)
        values.sub_(momentum, alpha=lr * (1 + beta) if self.group["nesterov"] else lr)


def _joined(layer: nn.Linear, optimiser: torch.optim.SGD) -> tuple[Tensor, Tensor]:
    """The layer's weights and bias as one array, and their momentum; the parameters become views of the former.

    The arrays are (outputs, inputs + 1). If the optimiser has momentum, its buffers become views of the latter, with the
    values that they have.
    """
    values = torch.cat([layer.weight.detach(), layer.bias.detach().unsqueeze(1)], dim=1)
    momentum = torch.zeros_like(values)
    (weight, bias), (of_weight, of_bias) = ((array[:, :-1], array[:, -1]) for array in (values, momentum))
    layer.weight.data, layer.bias.data = weight, bias
    for parameter, mine in ((layer.weight, of_weight), (layer.bias, of_bias)):
        state: dict[str, Any] = optimiser.state[parameter]
        if state.get("momentum_buffer") is not None:
            mine.copy_(state["momentum_buffer"])
        if optimiser.param_groups[0]["momentum"]:
            state["momentum_buffer"] = mine
    return values, momentum


def two_layers(net: Any) -> tuple[nn.Linear, nn.Linear] | None:
    """The two linear layers of a network (with `stem`, `blocks` and `head`) that can be trained so; None for any other."""
    parts = [module for part in (net.stem, net.blocks, net.head) for module in part.modules()]
    match [module for module in parts if not [*module.children()]]:
        case [
            nn.Flatten(),
            nn.Linear(bias=Tensor()) as hidden,
            nn.ReLU(),
            nn.Linear(bias=Tensor(), out_features=2) as head,
        ]:
            return hidden, head
    return None
