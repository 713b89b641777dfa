"""The convolutional families: VGG-style networks and ResNets.

VGG: each block is several 3x3 convolutions (batch norm, ReLU), then 2x2 pooling. ResNet: basic blocks with a shortcut.
The block layouts are those of arXiv 2509.22319, section on models; sizes for 28x28 images are ours.
"""

from collections.abc import Sequence
from typing import ClassVar, Literal, Self

import torch
from jaxtyping import Float
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor, nn

from pwl_lab.models.blocknet import BlockNet, ModelConfig, channels_last
from pwl_lab.tasks.base import Task


class ConvNetConfig(ModelConfig):
    """Image channels, channels of each block, classes; a family adds one number per block, the field `per_block`."""

    per_block: ClassVar[str]
    in_channels: int = Field(1, ge=1, description="image channels")
    channels: tuple[PositiveInt, ...] = Field(min_length=1, description="channels of each block")
    n_classes: int = Field(10, ge=2, description="logits")

    @model_validator(mode="after")
    def _same_length(self) -> Self:
        others = len(getattr(self, self.per_block))
        if len(self.channels) != others:
            raise ValueError(
                f"channels has {len(self.channels)} blocks, {self.per_block} has {others}: "
                "give one number per block in each"
            )
        return self

    @property
    def n_blocks(self) -> int:
        """One per entry of `channels`."""
        return len(self.channels)

    def head(self) -> nn.Sequential:
        """Global average pooling, then the output layer."""
        return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(self.channels[-1], self.n_classes))


class VGGConfig(ConvNetConfig):
    """The channels and the number of convolutions of each block; every block halves the resolution (rounding up)."""

    per_block: ClassVar[str] = "convolutions"
    family: Literal["vgg"] = "vgg"
    convolutions: tuple[PositiveInt, ...] = Field(min_length=1, description="3x3 convolutions in each block")

    def make(self) -> BlockNet:
        """The stem is the identity: the first block's convolutions read the image."""
        widths = (self.in_channels, *self.channels)
        blocks = [_block(a, b, depth) for a, b, depth in zip(widths[:-1], widths[1:], self.convolutions, strict=True)]
        return channels_last(BlockNet(nn.Identity(), blocks, self.head()))


def _block(in_channels: int, out_channels: int, convolutions: int) -> nn.Sequential:
    """`convolutions` times (3x3 convolution, batch norm, ReLU) with one 2x2 max pooling; odd sizes are rounded up.

    The pooling follows the last convolution directly. Before the norm and the ReLU rather than after them, it leaves
    them a quarter of the work and (as long as the norm's scale is positive) selects the same pixels.
    """
    layers: list[nn.Module] = []
    for index in range(convolutions):
        channels = in_channels if index == 0 else out_channels
        layers.append(nn.Conv2d(channels, out_channels, kernel_size=3, padding=1, bias=False))
        if index == convolutions - 1:
            layers.append(nn.MaxPool2d(2, ceil_mode=True))
        layers += [nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


def vgg(task: Task, channels: Sequence[int], convolutions: Sequence[int]) -> VGGConfig:
    """A VGG for the images of `task`.

    Arguments:

    - `task`: gives the channels of an image and the number of classes.
    - `channels`: of each block; every block halves the resolution.
    - `convolutions`: 3x3 convolutions in each block.
    """
    return VGGConfig(
        in_channels=task.input_shape[0],
        channels=tuple(channels),
        convolutions=tuple(convolutions),
        n_classes=task.n_classes,
    )


class ResNetConfig(ConvNetConfig):
    """The channels and the number of basic blocks (`depths`) of each block in the sense of `BlockNet`.

    The stem is one convolution with the channels of the first block; every block but the first halves the resolution.
    """

    per_block: ClassVar[str] = "depths"
    family: Literal["resnet"] = "resnet"
    depths: tuple[PositiveInt, ...] = Field(min_length=1, description="basic blocks (two convolutions) in each block")
    stem_stride: int = Field(1, ge=1, le=4, description="2 halves the resolution before the first block")

    def make(self) -> BlockNet:
        """Stem (convolution, norm, ReLU), groups of basic blocks, head (average pooling, output layer)."""
        first = self.channels[0]
        stem = nn.Sequential(
            nn.Conv2d(self.in_channels, first, 3, stride=self.stem_stride, padding=1, bias=False),
            nn.BatchNorm2d(first),
            nn.ReLU(inplace=True),
        )
        widths, blocks = (first, *self.channels), []
        for index, depth in enumerate(self.depths):
            first_of_block = BasicBlock(widths[index], widths[index + 1], stride=2 if index else 1)
            others = (BasicBlock(widths[index + 1], widths[index + 1], stride=1) for _ in range(depth - 1))
            blocks.append(nn.Sequential(first_of_block, *others))
        return channels_last(BlockNet(stem, blocks, self.head()))


class BasicBlock(nn.Module):
    """`relu(norm(conv(relu(norm(conv(x))))) + shortcut(x))`; the shortcut is a 1x1 convolution where the shape changes."""

    conv_norm_pairs: ClassVar = (("conv1", "norm1"), ("conv2", "norm2"))  # for speed: `pwl_lab.fast.folding` reads it

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        """A `stride` of 2 halves the resolution (rounding up)."""
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.norm1, self.norm2 = nn.BatchNorm2d(out_channels), nn.BatchNorm2d(out_channels)
        self.stride = stride
        self.shortcut = nn.Sequential()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, bias=False), nn.BatchNorm2d(out_channels)
            )

    def forward(self, state: Float[Tensor, "batch c_in h_in w_in"]) -> Float[Tensor, "batch c_out h_out w_out"]:
        """The state after one basic block."""
        change = torch.relu_(self.norm1(self.conv1(state)))  # batch, c_out, h_out, w_out
        # Not a stride of the 1x1 convolution: with few channels, oneDNN's gradient of it writes past its workspace on
        # processors without AVX-512 (uxlfoundation/oneDNN, issue 6035). Gradients are wrong then, or the process dies.
        kept = state[:, :, :: self.stride, :: self.stride]  # batch, c_in, h_out, w_out
        return torch.relu_(self.norm2(self.conv2(change)) + self.shortcut(kept))


def resnet(task: Task, channels: Sequence[int], depths: Sequence[int], stem_stride: int = 1) -> ResNetConfig:
    """A ResNet for the images of `task`.

    Arguments:

    - `task`: gives the channels of an image and the number of classes.
    - `channels`: of each block; every block but the first halves the resolution.
    - `depths`: basic blocks (two convolutions) in each block.
    - `stem_stride`: 2 halves the resolution before the first block.
    """
    return ResNetConfig(
        in_channels=task.input_shape[0],
        channels=tuple(channels),
        depths=tuple(depths),
        stem_stride=stem_stride,
        n_classes=task.n_classes,
    )
