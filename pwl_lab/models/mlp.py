"""The multi-layer perceptron of the sparse-parity experiments: `depth` ReLU layers, two logits."""

from itertools import pairwise
from math import prod
from typing import Literal

from pydantic import Field, PositiveInt
from torch import nn

from pwl_lab.fast.linear import speed_up
from pwl_lab.models.blocknet import BlockNet, ModelConfig
from pwl_lab.tasks.base import Task


class MLPConfig(ModelConfig):
    """Fully connected: each hidden layer is one block; the paper's two-layer network has one block."""

    family: Literal["mlp"] = "mlp"
    n_inputs: int = Field(ge=1, description="input features")
    widths: tuple[PositiveInt, ...] = Field(min_length=1, description="units of each hidden layer")
    n_classes: int = Field(2, ge=2, description="logits")
    blocks_end: Literal["relu", "linear"] = Field(
        "relu", description="where a block ends: its hidden state is the output of the ReLU, or its input"
    )

    @property
    def n_blocks(self) -> int:
        """One per hidden layer."""
        return len(self.widths)

    def make(self) -> BlockNet:
        """A linear layer and a ReLU per layer; both ways to cut them into blocks have the same initial weights."""
        widths = (self.n_inputs, *self.widths)
        layers = [nn.Linear(a, b) for a, b in pairwise(widths)]
        head = nn.Linear(widths[-1], self.n_classes)
        if self.blocks_end == "relu":
            net = BlockNet(nn.Flatten(), [nn.Sequential(layer, nn.ReLU(inplace=True)) for layer in layers], head)
        else:
            first, *others = layers
            blocks = [nn.Sequential(first), *(nn.Sequential(nn.ReLU(), layer) for layer in others)]
            net = BlockNet(nn.Flatten(), blocks, nn.Sequential(nn.ReLU(), head))
        speed_up(net.blocks, net.head)  # for speed alone
        return net


def mlp(task: Task, width: int, depth: int = 1, blocks_end: Literal["relu", "linear"] = "relu") -> MLPConfig:
    """An MLP for `task`.

    Arguments:

    - `task`: gives the number of inputs and classes.
    - `width`: units of each hidden layer.
    - `depth`: hidden layers, each of which is one block.
    - `blocks_end`: whether a hidden state is the output of the ReLU (`relu`) or its input (`linear`).
    """
    return MLPConfig(
        n_inputs=prod(task.input_shape), widths=(width,) * depth, n_classes=task.n_classes, blocks_end=blocks_end
    )
