"""The layers of a language transformer (`pwl_lab.models.language.LanguageLayer`) for all stacked students at once.

Run through `vmap`, a norm, a linear layer and the masked scores become many small operations, each of which reads and
writes the whole state. Here the gain and shift of a norm are part of the weights that follow it, biases are added by
the products, scores are masked in place, and padding is found once for all students.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

Weights = Mapping[str, Float[Tensor, "members *_"]]
Tokens = Float[Tensor, "members rows _"]  # a row is one token of one string


@runtime_checkable
class LanguageLayer(Protocol):
    """The part of `pwl_lab.models.language.LanguageLayer` used here; that module is above this one."""

    heads: int
    if TYPE_CHECKING:  # at run time, Python from 3.12 on does not look where a module keeps its submodules
        attention_norm: nn.LayerNorm
        mlp_norm: nn.LayerNorm

    def hidden(self, real: Bool[Tensor, "batch tokens"]) -> Float[Tensor, "batch 1 _ tokens"]:
        """What is added to the scores of keys that a query must not see; 0 for the others."""
        ...


def run_layer(
    layer: LanguageLayer, weights: Weights, state: Float[Tensor, "members batch width tokens"]
) -> Float[Tensor, "members batch width tokens"]:
    """The layer's output for each member, with zeros at padded positions.

    Arguments:
    - `layer`: gives the sizes, and says which keys are hidden.
    - `weights`: stacked, named as in the layer.
    - `state`: padded at the same positions for all members, whose strings are the same.
    """
    members, batch, width, length = state.shape
    # A member that diverged may have NaN where the others have zeros.
    real = state.any(dim=2).all(dim=0)  # batch, tokens
    tokens = state.transpose(2, 3).reshape(members, batch * length, width)
    normed = F.layer_norm(tokens, (width,), eps=layer.attention_norm.eps)
    mixed = _attention(layer, weights, normed, real)
    tokens = tokens + _product(weights, "out", mixed)
    normed = F.layer_norm(tokens, (width,), eps=layer.mlp_norm.eps)
    tokens = tokens + _product(weights, "mlp.2", F.gelu(_product(weights, "mlp.0", normed, "mlp_norm")))
    tokens = tokens * real.to(tokens.dtype).reshape(1, -1, 1)
    return tokens.view(members, batch, length, width).transpose(2, 3)


def _attention(layer: LanguageLayer, weights: Weights, normed: Tokens, real: Bool[Tensor, "batch tokens"]) -> Tokens:
    """What each token reads from the others."""
    parts = _product(weights, "queries_keys_values", normed, "attention_norm")
    parts = parts.view(len(parts), *real.shape, 3, layer.heads, -1)  # members, batch, tokens, 3, heads, size
    queries, keys, values = parts.permute(3, 0, 1, 4, 2, 5)  # each: members, batch, heads, tokens, size
    scores = queries / queries.shape[-1] ** 0.5 @ keys.transpose(-2, -1)
    scores += _by_distance(weights["distances"], real.shape[1]).unsqueeze(1)
    scores += layer.hidden(real)
    read: Tensor = scores.softmax(dim=-1) @ values  # members, batch, heads, tokens, size
    return read.transpose(2, 3).reshape(normed.shape)


def _by_distance(
    distances: Float[Tensor, "members heads all_distances"], length: int
) -> Float[Tensor, "members heads queries keys"]:
    """The bias of each pair of tokens in strings of this length."""
    spare = (distances.shape[-1] + 1) // 2 - length
    near = distances[..., spare : distances.shape[-1] - spare]  # distances from 1 - length to length - 1
    return near.unfold(2, length, 1).flip(2)


def _product(weights: Weights, name: str, state: Tokens, norm: str | None = None) -> Tokens:
    """A linear layer; with `norm`, the gain and shift of that norm come before it."""
    matrix, bias = weights[f"{name}.weight"], weights[f"{name}.bias"]  # members, out, units; members, out
    if norm is not None:
        bias = bias + (matrix @ weights[f"{norm}.bias"].unsqueeze(2)).squeeze(2)
        matrix = matrix * weights[f"{norm}.weight"].unsqueeze(1)
    return torch.baddbmm(bias.unsqueeze(1), state, matrix.transpose(1, 2))
