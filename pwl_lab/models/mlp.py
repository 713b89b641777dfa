"""The multi-layer perceptron of the sparse-parity experiments: `depth` ReLU layers, two logits."""

from itertools import pairwise
from typing import Literal

from pydantic import Field
from torch import nn

from pwl_lab.models.blocknet import BlockNet, ModelConfig
from pwl_lab.tasks.base import Task


class MLPConfig(ModelConfig):
    """Fully connected: each hidden layer is one block; the paper's two-layer network has one block."""

    family: Literal["mlp"] = "mlp"
    n_inputs: int = Field(ge=1, description="input features")
    widths: tuple[int, ...] = Field(min_length=1, description="units of each hidden layer")
    n_classes: int = Field(2, ge=2, description="logits")

    @property
    def n_blocks(self) -> int:
        """One per hidden layer."""
        return len(self.widths)

    def make(self) -> BlockNet:
        """Linear and ReLU per block; the hidden state is what the ReLU gives out."""
        widths = (self.n_inputs, *self.widths)
        blocks = [nn.Sequential(nn.Linear(a, b), nn.ReLU()) for a, b in pairwise(widths)]
        return BlockNet(nn.Flatten(), blocks, nn.Linear(widths[-1], self.n_classes))


def mlp(task: Task, width: int, depth: int = 1) -> MLPConfig:
    """An MLP for `task` with `depth` hidden layers of `width` units."""
    n_inputs = 1
    for size in task.input_shape:
        n_inputs *= size
    return MLPConfig(n_inputs=n_inputs, widths=(width,) * depth, n_classes=task.n_classes)
