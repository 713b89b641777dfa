"""Batched products for stacked networks of plain layers, such as MLPs: what `vmap` does in general, with less ado.

Where all members see the same inputs, their first layers are one matrix product; any further one is a batched product.
"""

from collections.abc import Iterator, Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pwl_lab.fast.linear import FewOutputs

LINEAR = (nn.Linear, FewOutputs)
PLAIN = (*LINEAR, nn.ReLU, nn.GELU)


def is_plain(part: nn.Module) -> bool:
    """Whether `run_plain` knows every layer of it, one with weights among them."""
    kinds = [type(layer) for _, layer in _layers(part, "")]
    return any(kind in LINEAR for kind in kinds) and all(kind in PLAIN for kind in kinds)


def run_plain(
    part: nn.Module, name: str, tensors: Mapping[str, Tensor], state: Float[Tensor, "*common batch units"]
) -> Float[Tensor, "members batch out"]:
    """The layers of `part`, called `name` in the network, with stacked weights `tensors`.

    A state without members is common to all of them.
    """
    for path, layer in _layers(part, name):
        if isinstance(layer, nn.Linear):
            state = _linear(state, tensors[f"{path}.weight"], tensors.get(f"{path}.bias"))
        else:
            state = layer(state)
    return state


def _layers(part: nn.Module, name: str) -> Iterator[tuple[str, nn.Module]]:
    """The layers in the order in which they are applied, with their full names."""
    if not isinstance(part, nn.Sequential):
        yield name, part
        return
    for key, layer in part.named_children():
        yield from _layers(layer, f"{name}.{key}")


def _linear(
    state: Float[Tensor, "*common batch units"], weight: Float[Tensor, "members out units"], bias: Tensor | None
) -> Float[Tensor, "members batch out"]:
    """One product for all members where they share the state, else one batched product."""
    members, out, _ = weight.shape
    if state.dim() == 3:
        product = torch.bmm(state, weight.transpose(1, 2))
        return product if bias is None else product + bias.unsqueeze(1)
    flat = nn.functional.linear(state, weight.flatten(0, 1), None if bias is None else bias.flatten())
    return flat.unflatten(1, (members, out)).transpose(0, 1)
