"""Networks as others write them, which know nothing of this project: a ResNet and a transformer over patches."""

from typing import Literal

import torch
from torch import nn
from torch.nn import functional as F

from pwl_lab.models import BlockNet, ModelConfig


class Basic(nn.Module):
    """Two convolutions and a shortcut, as in torchvision."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(after)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None
        if stride != 1 or before != after:
            self.downsample = nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))

    def forward(self, x):
        out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        return self.relu(out + (x if self.downsample is None else self.downsample(x)))


class ResNet(nn.Module):
    """Written as torchvision's: the forward flattens by a function, and initial weights come from `nn.init`."""

    def __init__(self, channels: int, width: int, depths: tuple[int, ...], n_classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        before = width
        for number, depth in enumerate(depths, start=1):
            after = width << (number - 1)
            layers = [
                Basic(before if first == 0 else after, after, 1 + (first == 0 < number - 1)) for first in range(depth)
            ]
            self.add_module(f"layer{number}", nn.Sequential(*layers))
            before = after
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(before, n_classes)
        self.spare = nn.Linear(n_classes, n_classes)  # not used by the forward
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, nn.BatchNorm2d):
                nn.init.constant_(module.weight, 1)
                nn.init.constant_(module.bias, 0)

    def forward(self, x):
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.fc(torch.flatten(self.avgpool(x), 1))


class ResNetParts(ModelConfig):
    """The ResNet above by its layers."""

    family: Literal["parts of a resnet"] = "parts of a resnet"
    channels: int = 1
    width: int = 4
    depths: tuple[int, ...] = (1, 1, 1)
    n_classes: int = 3
    size: int = 8

    @property
    def n_blocks(self) -> int:
        return 3

    def make(self) -> BlockNet:
        return BlockNet.of(
            ResNet(self.channels, self.width, self.depths, self.n_classes),
            (self.channels, self.size, self.size),
            stem=["conv1", "bn1", "relu", "maxpool"],
            blocks=["layer1", "layer2", "layer3"],
            head=["avgpool", nn.Flatten(), "fc"],
        )


class Patches(nn.Module):
    """A vision transformer with its tokens in rows: (batch, tokens, width). Positions begin at zero."""

    def __init__(self, width: int, depth: int, n_classes: int, tokens: int = 16) -> None:
        super().__init__()
        self.embed = nn.Conv2d(1, width, 2, 2)
        self.positions = nn.Parameter(torch.zeros(tokens, width))
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(width, 2, 2 * width, dropout=0.1, batch_first=True, norm_first=True)
            for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width)
        self.out = nn.Linear(width, n_classes)

    def forward(self, x):
        x = self.embed(x).flatten(2).transpose(1, 2)
        x = x + self.positions
        for layer in self.layers:
            x = layer(x)
        return F.relu(self.out(self.norm(x).mean(dim=1)))


class Positions(nn.Module):
    """What `Patches` does between its stem and its first layer; it holds the same parameter."""

    def __init__(self, positions: nn.Parameter) -> None:
        super().__init__()
        self.positions = positions

    def forward(self, x):
        return x + self.positions
