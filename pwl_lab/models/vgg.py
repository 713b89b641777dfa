"""VGG-style networks: per block a row of 3x3 convolutions (batch norm, ReLU), then 2x2 pooling.

Source of the block layout: arXiv 2509.22319, section on models; sizes for 28x28 images are ours.
"""

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from pydantic import Field, PositiveInt
from torch import nn

from pwl_lab.models.blocknet import BlockNet
from pwl_lab.models.convnet import ConvNetConfig
from pwl_lab.tasks.base import Task


class VGGConfig(ConvNetConfig):
    """Channels and number of convolutions of each block; every block halves the resolution (rounding up)."""

    per_block: ClassVar[str] = "convolutions"
    family: Literal["vgg"] = "vgg"
    convolutions: tuple[PositiveInt, ...] = Field(min_length=1, description="3x3 convolutions in each block")

    def make(self) -> BlockNet:
        """The stem only passes the image on: the first block's convolutions read it."""
        widths = (self.in_channels, *self.channels)
        blocks = [_block(a, b, depth) for a, b, depth in zip(widths[:-1], widths[1:], self.convolutions, strict=True)]
        head = self.head()
        # Channels-last convolutions take about two thirds of the time on a CPU; the values are the same.
        return BlockNet(nn.Identity(), blocks, head).to(memory_format=torch.channels_last)


def _block(in_channels: int, out_channels: int, convolutions: int) -> nn.Sequential:
    """`convolutions` times (3x3 convolution, batch norm, ReLU) with one 2x2 max pooling; odd sizes are rounded up.

    The pooling stands right behind the last convolution: before the norm and the ReLU rather than after them it leaves
    them a quarter of the work, and (while the norm's scale is positive) picks the same pixels.
    """
    layers: list[nn.Module] = []
    for index in range(convolutions):
        source = in_channels if index == 0 else out_channels
        layers.append(nn.Conv2d(source, out_channels, kernel_size=3, padding=1, bias=False))
        if index == convolutions - 1:
            layers.append(nn.MaxPool2d(2, ceil_mode=True))
        layers += [nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


def vgg(task: Task, channels: Sequence[int], convolutions: Sequence[int]) -> VGGConfig:
    """A VGG for the images of `task`."""
    return VGGConfig(
        in_channels=task.input_shape[0],
        channels=tuple(channels),
        convolutions=tuple(convolutions),
        n_classes=task.n_classes,
    )
