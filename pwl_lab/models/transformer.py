"""The small pre-norm transformer of the parity experiments: one token per bit, learned positions, two logits.

The sizes follow arXiv 2503.17494, section on transformers (2 layers; teacher and student differ in attention heads).
The scale of the positions, the read-out and the width of the MLP are our choice.
"""

from typing import Literal, Self

import torch
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor, nn

from pwl_lab.models.blocknet import BlockNet, ModelConfig
from pwl_lab.tasks.base import Task


class TransformerConfig(ModelConfig):
    """Each layer (attention, then an MLP) is one block; a hidden state is (batch, width, tokens)."""

    family: Literal["transformer"] = "transformer"
    n_tokens: int = Field(ge=1, description="input signs, one token each")
    width: int = Field(ge=1, description="channels of the residual stream; a multiple of `heads`")
    heads: int = Field(ge=1, description="attention heads per layer")
    layers: int = Field(2, ge=1, description="blocks")
    mlp_ratio: float = Field(4.0, gt=0.0, description="hidden units of a layer's MLP as a multiple of `width`")
    position_scale: float = Field(1.0, ge=0.0, description="initial standard deviation of tokens and positions")
    readout: Literal["mean", "class"] = Field("mean", description="the mean over tokens, or a separate class token")
    n_classes: int = Field(2, ge=2, description="logits")

    @model_validator(mode="after")
    def _heads_divide_width(self) -> Self:
        if self.width % self.heads:
            raise ValueError(
                f"width = {self.width} is not a multiple of heads = {self.heads}: every head gets an equal part"
            )
        return self

    @property
    def n_blocks(self) -> int:
        """One per layer."""
        return self.layers

    def make(self) -> BlockNet:
        """Blocks end before the final norm, which belongs to the head."""
        hidden = max(1, round(self.mlp_ratio * self.width))
        blocks = [TransformerLayer(self.width, self.heads, hidden) for _ in range(self.layers)]
        stem = SignTokens(self.n_tokens, self.width, self.position_scale, self.readout == "class")
        return BlockNet(stem, blocks, ReadOut(self.width, self.n_classes, self.readout))


class SignTokens(nn.Module):
    """Signs to tokens: `x_i * e + p_i`, one learned direction `e` for all bits and a learned position `p_i` for each.

    This is equivalent to embedding two symbols: their mean is part of the position, half of their difference is `e`.
    With positions of scale 0.02, as in language models, parity is hardly learned at these sizes: attention must be
    able to tell the bits apart from the first step.
    """

    def __init__(self, n_tokens: int, width: int, scale: float, class_token: bool) -> None:
        """A class token, if there is one, comes first: a position without a sign."""
        super().__init__()
        self.class_token = class_token
        self.sign = nn.Parameter(torch.randn(width) * scale)
        self.positions = nn.Parameter(torch.randn(n_tokens + class_token, width) * scale)

    def forward(self, inputs: Float[Tensor, "batch bits"]) -> Float[Tensor, "batch width tokens"]:
        """The first hidden state, with the tokens after the channels."""
        if self.class_token:
            inputs = nn.functional.pad(inputs, (1, 0))
        tokens = inputs.unsqueeze(-1) * self.sign + self.positions  # batch, tokens, width
        return tokens.transpose(1, 2)  # batch, width, tokens


AttentionBias = Float[Tensor, "batch heads tokens tokens"]


class TransformerLayer(nn.Module):
    """One block: `h + attention(norm(h))`, then `h + mlp(norm(h))` (pre-norm)."""

    def __init__(self, width: int, heads: int, hidden: int, fused: bool = False) -> None:
        """`hidden` is the number of units in the MLP; `fused` attention is faster but cannot be stacked (vmap)."""
        super().__init__()
        self.heads, self.fused = heads, fused
        self.attention_norm, self.mlp_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.queries_keys_values, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))

    def forward(
        self, state: Float[Tensor, "batch width tokens"], bias: AttentionBias | None = None
    ) -> Float[Tensor, "batch width tokens"]:
        """Attention mixes tokens, the MLP mixes channels. Channels are last in memory: the transposes copy nothing."""
        tokens = state.transpose(1, 2)  # batch, tokens, width
        tokens = tokens + self.attention(self.attention_norm(tokens), bias)
        mixed: Tensor = tokens + self.mlp(self.mlp_norm(tokens))
        return mixed.transpose(1, 2)  # batch, width, tokens

    def attention(
        self, tokens: Float[Tensor, "batch tokens width"], bias: AttentionBias | None = None
    ) -> Float[Tensor, "batch tokens width"]:
        """Every token attends to every other; `bias` is added to the scores, and a very low one hides a token."""
        parts = self.queries_keys_values(tokens).unflatten(-1, (3, self.heads, -1))  # batch, tokens, 3, heads, size
        queries, keys, values = parts.permute(2, 0, 3, 1, 4)  # each: batch, heads, tokens, size
        if self.fused:
            mixed = nn.functional.scaled_dot_product_attention(queries, keys, values, bias)
        else:
            keys, scale = keys.transpose(-2, -1), queries.shape[-1] ** 0.5
            # Strings have more scores than queries: there it is faster to divide the queries.
            scores = queries @ keys / scale if bias is None else queries / scale @ keys + bias
            mixed = scores.softmax(dim=-1) @ values  # batch, heads, tokens, size
        out: Tensor = self.out(mixed.transpose(1, 2).flatten(2))  # batch, tokens, width
        return out


class ReadOut(nn.Module):
    """The final norm, one vector for all tokens (or each one's own), and the logits."""

    def __init__(self, width: int, n_classes: int, readout: Literal["mean", "class", "each"]) -> None:
        """`class` reads the first token, `mean` averages all of them, `each` gives logits for every token."""
        super().__init__()
        self.readout = readout
        self.norm, self.logits = nn.LayerNorm(width), nn.Linear(width, n_classes)

    def forward(self, state: Float[Tensor, "batch width tokens"]) -> Float[Tensor, "batch *tokens classes"]:
        """Logits."""
        tokens = self.norm(state.transpose(1, 2))  # batch, tokens, width
        if self.readout == "each":
            each: Tensor = self.logits(tokens)  # batch, tokens, classes
            return each
        read = tokens[:, 0] if self.readout == "class" else tokens.mean(dim=1)  # batch, width
        logits: Tensor = self.logits(read)  # batch, classes
        return logits


def transformer(task: Task, width: int, heads: int, layers: int = 2, mlp_ratio: float = 4.0) -> TransformerConfig:
    """A transformer for the signs of `task`, one token per input. For other options use `TransformerConfig` itself.

    Arguments:

    - `task`: gives the number of signs and classes.
    - `width`: channels of a token; a multiple of `heads`.
    - `heads`: attention heads of each layer.
    - `layers`: transformer layers, each of which is one block.
    - `mlp_ratio`: hidden units of a layer's MLP as a multiple of `width`.
    """
    return TransformerConfig(
        n_tokens=task.input_shape[0],
        width=width,
        heads=heads,
        layers=layers,
        mlp_ratio=mlp_ratio,
        n_classes=task.n_classes,
    )
