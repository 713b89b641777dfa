"""The transformer of the language experiments: logits for every token, bidirectional or causal.

It has the pre-norm layers of the parity transformer, with two kinds of position: a learned vector for each place in the
string, added by the stem, and a learned bias for each distance between two tokens, added to the attention scores. On
the grammars of this study either alone learns less.
"""

from typing import Literal, Self

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from pwl_lab.fast.stacked import RUN_BY
from pwl_lab.fast.stacked_layers import run_layer
from pwl_lab.models.blocknet import BlockNet, ModelConfig, real_tokens
from pwl_lab.models.transformer import AttentionBias, ReadOut, TransformerLayer
from pwl_lab.support.errors import invalid
from pwl_lab.tasks.base import Task

HIDES = -1e9  # added to a score; finite, so that a string of padding alone does not become NaN
# The scores of a layer are heads x tokens^2 for each string: 32 heads and 367 tokens make 17 MB. A layer for longer strings
# than LONG computes at most MOST_SCORES at once, and again in the backward pass instead of keeping them. At 128 tokens, nine
# stacked students of 8 heads would keep 20 GB of a batch of 512.
LONG = 100
MOST_SCORES = 2**26


class LanguageTransformerConfig(ModelConfig):
    """Each layer is one block; a hidden state is (batch, width, tokens) and zero where the string is padded."""

    family: Literal["language"] = "language"
    length: int = Field(ge=1, description="tokens of the longest string")
    n_tokens: int = Field(ge=2, description="different tokens; the last one is the padding at the end of a string")
    n_classes: int = Field(ge=2, description="symbols that can be predicted: logits for each token")
    width: int = Field(ge=1, description="channels of the residual stream; a multiple of `heads`")
    heads: int = Field(ge=1, description="attention heads per layer")
    layers: int = Field(4, ge=1, description="blocks")
    mlp_ratio: float = Field(4.0, gt=0.0, description="hidden units of a layer's MLP as a multiple of `width`")
    causal: bool = Field(False, description="a token sees only itself and those before it, to predict the next one")
    scale: float = Field(0.5, ge=0.0, description="initial standard deviation of tokens and positions")

    @model_validator(mode="after")
    def _heads_divide_width(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"width = {self.width} is not a multiple of heads = {self.heads}")
        return self

    @property
    def n_blocks(self) -> int:
        """One per layer."""
        return self.layers

    def make(self) -> BlockNet:
        """Blocks end before the final norm, which belongs to the head."""
        hidden = max(1, round(self.mlp_ratio * self.width))
        stem = Tokens(self.length, self.n_tokens, self.width, self.scale)
        blocks = [LanguageLayer(self.width, self.heads, hidden, self.length, self.causal) for _ in range(self.layers)]
        head = ReadOut(self.width, self.n_classes, "each")
        return BlockNet(stem, blocks, head, n_tokens=self.n_tokens, pads=True)


class Tokens(nn.Module):
    """A learned vector for each token plus one for each position; zeros for padding, which is the last token."""

    def __init__(self, length: int, n_tokens: int, width: int, scale: float) -> None:
        """Strings may be shorter than `length`."""
        super().__init__()
        self.symbols = nn.Parameter(torch.randn(n_tokens, width) * scale)
        self.positions = nn.Parameter(torch.randn(length, width) * scale)

    def forward(self, inputs: Int[Tensor, "batch tokens"]) -> Float[Tensor, "batch width tokens"]:
        """The first hidden state."""
        real = inputs != len(self.symbols) - 1
        tokens = nn.functional.embedding(inputs, self.symbols) + self.positions[: inputs.shape[1]]
        return (tokens * real.unsqueeze(-1)).transpose(1, 2)  # batch, width, tokens


class LanguageLayer(TransformerLayer):
    """A transformer layer that knows how far two tokens are apart, and sees no padding and, if causal, no later token."""

    def __init__(self, width: int, heads: int, hidden: int, length: int, causal: bool) -> None:
        """The bias of every distance starts at 0."""
        super().__init__(width, heads, hidden)
        self.causal, self.in_parts = causal, length > LONG
        self.distances = nn.Parameter(torch.zeros(heads, 2 * length - 1))

    def forward(
        self, state: Float[Tensor, "batch width tokens"], bias: AttentionBias | None = None
    ) -> Float[Tensor, "batch width tokens"]:
        """The layer's output, with zeros at padded positions."""
        batch, _, tokens = state.shape
        most = max(1, MOST_SCORES // (self.heads * tokens**2))
        if not self.in_parts or batch <= most:
            return self._of_part(state, bias)
        biases = [None] * batch if bias is None else torch.split(bias.expand(batch, -1, -1, -1), most)
        parts = zip(torch.split(state, most), biases, strict=False)
        done = [checkpoint(self._of_part, *part, use_reentrant=False).transpose(1, 2) for part in parts]
        return torch.cat(done).transpose(1, 2)  # channels stay last in memory

    def _of_part(
        self, state: Float[Tensor, "batch width tokens"], bias: AttentionBias | None
    ) -> Float[Tensor, "batch width tokens"]:
        """The output for some of the strings."""
        real = real_tokens(state)
        here = self.bias(real) if bias is None else self.bias(real) + bias
        return super().forward(state, here) * real.unsqueeze(1)

    def bias(self, real: Bool[Tensor, "batch tokens"]) -> AttentionBias:
        """What is added to the score of each query (third dimension) for each key (last)."""
        tokens, most = real.shape[1], self.distances.shape[1]
        spare = (most + 1) // 2 - tokens
        near = self.distances[:, spare : most - spare]  # heads, distances from 1 - tokens to tokens - 1
        by_pair = near.unfold(1, tokens, 1).flip(1)  # heads, queries, keys
        return by_pair + self.hidden(real)  # a sum: in the backward pass it costs nothing

    def hidden(self, real: Bool[Tensor, "batch tokens"]) -> Float[Tensor, "batch 1 _ tokens"]:
        """What is added to the scores of keys that a query must not see, `HIDES`; 0 for the others."""
        hidden, tokens = ~real[:, None, None, :], real.shape[1]  # batch, 1, 1, keys
        if self.causal:
            hidden = hidden | torch.ones(tokens, tokens, dtype=torch.bool, device=real.device).triu(1)
        return hidden * HIDES


RUN_BY[LanguageLayer] = run_layer  # for stacked students


def language_transformer(
    task: Task, width: int, heads: int, layers: int = 4, mlp_ratio: float = 4.0
) -> LanguageTransformerConfig:
    """A transformer for the strings of `task`; causal if the task is to predict the next token.

    Arguments:

    - `task`: gives the length of the strings, the tokens, the symbols, and its `objective` (`masked` or `next`).
    - `width`: channels of a token; a multiple of `heads`.
    - `heads`: attention heads of each layer.
    - `layers`: transformer layers, each of which is one block.
    - `mlp_ratio`: hidden units of a layer's MLP as a multiple of `width`.

    Raises InvalidValueError for a task without tokens.
    """
    objective = getattr(task, "objective", None)
    if task.n_tokens is None or objective not in ("masked", "next"):
        raise invalid("task", task.name, "a task with tokens, and with an objective, `masked` or `next`")
    return LanguageTransformerConfig(
        length=task.input_shape[0],
        n_tokens=task.n_tokens,
        n_classes=task.n_classes,
        width=width,
        heads=heads,
        layers=layers,
        mlp_ratio=mlp_ratio,
        causal=objective == "next",
    )
