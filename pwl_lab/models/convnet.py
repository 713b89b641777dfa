"""What the convolutional families share: channels per block, a second number per block, and the head."""

from typing import ClassVar, Self

from pydantic import Field, PositiveInt, model_validator
from torch import nn

from pwl_lab.models.blocknet import ModelConfig


class ConvNetConfig(ModelConfig):
    """Image channels, channels of each block, classes; a family adds its own number per block, named by `per_block`."""

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
                "give one number per block in both"
            )
        return self

    @property
    def n_blocks(self) -> int:
        """One per entry of `channels`."""
        return len(self.channels)

    def head(self) -> nn.Sequential:
        """The mean over positions, then the output layer."""
        return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(self.channels[-1], self.n_classes))
