"""Vision transformers whose layers are grouped into blocks; the state between two blocks is a sequence of tokens.

The block layout is that of arXiv 2509.22319, section on models. A ViT learns poorly from ten thousand images; what
makes it a good teacher here is a stem of 3x3 convolutions in place of one patch projection ("Early Convolutions Help
Transformers See Better", arXiv 2106.14881): it builds in the locality that would take far more images to learn.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal, Self

import torch
from jaxtyping import Float
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor, nn

from pwl_lab.models.blocknet import BlockNet, ModelConfig, channels_last
from pwl_lab.models.transformer import ReadOut, TransformerLayer
from pwl_lab.tasks.base import Task


class ViTConfig(ModelConfig):
    """Each block has one or more pre-norm layers; a hidden state is (batch, width, tokens). The head holds the norm."""

    family: Literal["vit"] = "vit"
    in_channels: int = Field(1, ge=1, description="image channels")
    image_size: int = Field(28, ge=4, description="side of the square images, in pixels")
    patch: int = Field(4, ge=2, description="side of the square that becomes one token, in pixels")
    stem: Literal["convolutions", "patches"] = Field(
        "convolutions", description="3x3 convolutions of stride 2 (`patch` is a power of 2), or one patch projection"
    )
    width: int = Field(64, ge=1, description="channels per token; a multiple of `heads`")
    heads: int = Field(4, ge=1, description="attention heads per layer")
    layers: tuple[PositiveInt, ...] = Field(min_length=1, description="transformer layers in each block")
    mlp_ratio: float = Field(2.0, gt=0.0, description="hidden units of a layer's MLP as a multiple of `width`")
    n_classes: int = Field(10, ge=2, description="logits")

    @model_validator(mode="after")
    def _sizes_fit(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"width = {self.width} is not a multiple of heads = {self.heads}")
        if self.stem == "patches" and self.image_size % self.patch:
            raise ValueError(f"image_size = {self.image_size} is not a multiple of patch = {self.patch}")
        if self.stem == "convolutions" and self.patch & (self.patch - 1):
            raise ValueError(f"patch = {self.patch} is not a power of 2, which a stem of stride-2 convolutions needs")
        return self

    @property
    def n_blocks(self) -> int:
        """One per entry of `layers`."""
        return len(self.layers)

    def make(self) -> BlockNet:
        """Stem (tokens with positions), blocks of layers, head (final norm, mean over tokens, output layer)."""
        hidden = max(1, round(self.mlp_ratio * self.width))
        blocks = [
            nn.Sequential(*(TransformerLayer(self.width, self.heads, hidden, fused=True) for _ in range(depth)))
            for depth in self.layers
        ]
        tokens = (-(-self.image_size // self.patch)) ** 2  # convolutions round odd sizes up
        stem = nn.Sequential(self._pixels_to_tokens(), Positions(tokens, self.width))
        return BlockNet(stem, blocks, ReadOut(self.width, self.n_classes, "mean"))

    def _pixels_to_tokens(self) -> nn.Module:
        """The layers from an image to (batch, width, rows, columns)."""
        if self.stem == "patches":
            return nn.Conv2d(self.in_channels, self.width, self.patch, stride=self.patch)
        halvings = self.patch.bit_length() - 1
        widths = [self.in_channels, *(max(8, self.width >> (halvings - i)) for i in range(1, halvings + 1))]
        layers: list[nn.Module] = []
        for a, b in pairwise(widths):
            convolution = nn.Conv2d(a, b, 3, stride=2, padding=1, bias=False)
            layers += [convolution, nn.BatchNorm2d(b), nn.ReLU(inplace=True)]
        layers.append(nn.Conv2d(widths[-1], self.width, 1))
        return channels_last(nn.Sequential(*layers))


class Positions(nn.Module):
    """Flatten rows and columns to a sequence of tokens and add a learned position to each."""

    def __init__(self, tokens: int, width: int) -> None:
        """Positions start small (0.02, as usual): the stem's features already tell the tokens apart."""
        super().__init__()
        self.positions = nn.Parameter(torch.randn(width, tokens) * 0.02)

    def forward(self, state: Float[Tensor, "batch width rows columns"]) -> Float[Tensor, "batch width tokens"]:
        """The first hidden state, with channels last in memory."""
        tokens = state.flatten(2).transpose(1, 2) + self.positions.t()  # batch, tokens, width
        return tokens.contiguous().transpose(1, 2)  # batch, width, tokens


def vit(
    task: Task,
    width: int,
    heads: int,
    layers: Sequence[int],
    mlp_ratio: float = 2.0,
    patch: int = 4,
    stem: Literal["convolutions", "patches"] = "convolutions",
) -> ViTConfig:
    """A ViT for the square images of `task`.

    Arguments:

    - `task`: gives the channels and the side of an image, and the number of classes.
    - `width`: channels of a token; a multiple of `heads`.
    - `heads`: attention heads of each layer.
    - `layers`: transformer layers in each block.
    - `mlp_ratio`: hidden units of a layer's MLP as a multiple of `width`.
    - `patch`: side of the square that becomes one token, in pixels.
    - `stem`: whether the tokens come from convolutions or from one projection of each patch.
    """
    return ViTConfig(
        in_channels=task.input_shape[0],
        image_size=task.input_shape[-1],
        patch=patch,
        stem=stem,
        width=width,
        heads=heads,
        layers=tuple(layers),
        mlp_ratio=mlp_ratio,
        n_classes=task.n_classes,
    )
