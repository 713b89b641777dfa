"""Residual networks of basic blocks: two 3x3 convolutions with batch norm beside a shortcut.

Source of the block layout: arXiv 2509.22319, section on models (basic blocks of arXiv 1512.03385); sizes for 28x28
images are ours.
"""

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from pwl_lab.models.blocknet import BlockNet
from pwl_lab.models.convnet import ConvNetConfig
from pwl_lab.tasks.base import Task


class ResNetConfig(ConvNetConfig):
    """Channels and number of basic blocks (`depths`) of each block of the study.

    The stem is one convolution with the channels of the first block; every block but the first halves the resolution.
    """

    per_block: ClassVar[str] = "depths"
    family: Literal["resnet"] = "resnet"
    depths: tuple[PositiveInt, ...] = Field(min_length=1, description="basic blocks (two convolutions) in each block")
    stem_stride: int = Field(1, ge=1, le=4, description="2 halves the resolution before the first block")

    def make(self) -> BlockNet:
        """Stem (convolution, norm, ReLU), rows of basic blocks, head (mean over positions, output layer)."""
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
        head = self.head()
        # As for the VGG: channels-last convolutions are quicker on a CPU and give the same values.
        return BlockNet(stem, blocks, head).to(memory_format=torch.channels_last)


class BasicBlock(nn.Module):
    """`relu(norm(conv(relu(norm(conv(x))))) + shortcut(x))`; the shortcut is a 1x1 convolution where the shape changes."""

    conv_norm_pairs: ClassVar = (("conv1", "norm1"), ("conv2", "norm2"))

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        """`stride` 2 halves the resolution (rounding up)."""
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.norm1, self.norm2 = nn.BatchNorm2d(out_channels), nn.BatchNorm2d(out_channels)
        self.shortcut = nn.Sequential()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False), nn.BatchNorm2d(out_channels)
            )

    def forward(self, state: Float[Tensor, "batch c_in h_in w_in"]) -> Float[Tensor, "batch c_out h_out w_out"]:
        """The state after one basic block."""
        change = torch.relu_(self.norm1(self.conv1(state)))
        return torch.relu_(self.norm2(self.conv2(change)) + self.shortcut(state))


def resnet(task: Task, channels: Sequence[int], depths: Sequence[int], stem_stride: int = 1) -> ResNetConfig:
    """A ResNet for the images of `task`."""
    return ResNetConfig(
        in_channels=task.input_shape[0],
        channels=tuple(channels),
        depths=tuple(depths),
        stem_stride=stem_stride,
        n_classes=task.n_classes,
    )
