"""`BlockNet`: every network of the study is a stem, `n` blocks and a head, and hands out the state after each block."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from inspect import get_annotations
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pwl_lab.support.config import Frozen
from pwl_lab.support.errors import invalid
from pwl_lab.support.seeding import initialisation


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Inside, `module` is in eval mode; afterwards each of its parts is in the mode that it was in."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training


class BlockNet(nn.Module):
    """A stem, a row of blocks and a head; the *hidden state* `i` is what block `i` (counted from 1) gives out.

    A hidden state has its channels (units) in dimension 1 and any further positions behind: (batch, units) for an MLP,
    (batch, channels, height, width) for a convolutional network.
    """

    stem: nn.Module
    blocks: nn.ModuleList
    head: nn.Module

    def __init__(self, stem: nn.Module, blocks: Sequence[nn.Module], head: nn.Module) -> None:
        """Put a network together.

        Arguments:

        - `stem`: from inputs to what the first block takes.
        - `blocks`: each from one hidden state to the next; at least one, else InvalidValueError.
        - `head`: from the last hidden state to logits.
        """
        super().__init__()
        if not blocks:
            raise invalid("blocks", 0, "at least 1 block")
        self.stem, self.blocks, self.head = stem, nn.ModuleList(blocks), head

    @property
    def n_blocks(self) -> int:
        """How many blocks stand between stem and head."""
        return len(self.blocks)

    def forward(self, inputs: Float[Tensor, "batch *shape"]) -> Float[Tensor, "batch classes"]:
        """Logits."""
        state = self.stem(inputs)
        for block in self.blocks:
            state = block(state)  # batch, channels, *positions
        logits: Tensor = self.head(state)  # batch, classes
        return logits

    def hidden_states(
        self, inputs: Float[Tensor, "batch *shape"]
    ) -> tuple[list[Float[Tensor, "batch channels *positions"]], Float[Tensor, "batch classes"]]:
        """The state after each block, first to last, and the logits: one pass for all of them."""
        states, state = [], self.stem(inputs)
        for block in self.blocks:
            state = block(state)
            states.append(state)
        return states, self.head(state)

    def state_shapes(self, input_shape: Sequence[int]) -> list[tuple[int, ...]]:
        """The shape of each hidden state without the batch, for inputs of `input_shape` (found by one dry pass)."""
        example = next(self.parameters())
        # In eval mode batch norms take a batch of one and keep their statistics.
        with torch.no_grad(), evaluating(self):
            states, _ = self.hidden_states(torch.zeros(1, *input_shape, dtype=example.dtype, device=example.device))
        return [tuple(state.shape[1:]) for state in states]


FAMILIES: dict[str, type["ModelConfig"]] = {}  # every class of a configuration with a family of its own


class ModelConfig(Frozen, ABC):
    """All that determines an architecture; `build` makes the network.

    A class with a `family` of its own (`family: Literal["mine"] = "mine"`) is registered by it in `FAMILIES`, where
    it is found when a bundle is opened. Raises InvalidValueError where another class has the family.
    """

    family: str

    @classmethod
    def __pydantic_init_subclass__(cls, **_: Any) -> None:
        """Register the class. One of the same name replaces it: a notebook's cell that defines it may run again."""
        family = cls.model_fields["family"].default if "family" in get_annotations(cls) else None
        if not isinstance(family, str):
            return  # what several families have in common, or a variant of one
        name, other = (f"{one.__module__}.{one.__qualname__}" for one in (cls, FAMILIES.get(family, cls)))
        if name != other:
            raise invalid(f"family of {name}", family, f"a name that {other} does not have")
        FAMILIES[family] = cls

    @property
    @abstractmethod
    def n_blocks(self) -> int:
        """How many blocks the network has."""

    @abstractmethod
    def make(self) -> BlockNet:
        """A network with weights from torch's current random state; use `build` for a seeded one."""


def build(config: ModelConfig, seed: int, device: str = "cpu", stream: str = "init") -> BlockNet:
    """The network of `config` with initial weights from a named random stream.

    Arguments:

    - `config`: the architecture.
    - `seed`: of the stream.
    - `device`: where the network goes once it is made.
    - `stream`: students take `student`; from `init`, the teacher's, a student would begin as a slice of its teacher.
    """
    with initialisation(seed, stream):
        return config.make().to(device)


Net = TypeVar("Net", bound=nn.Module)


def channels_last(net: Net) -> Net:
    """The same network with the channels of its convolutions last in memory.

    On a CPU such convolutions take about two thirds of the time; the values are the same.
    """
    return net.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]  # not in torch's stubs


def unit_bytes(net: BlockNet) -> list[int]:
    """Bytes that each swap brings: the blocks, the stem with the first one and the head with the last."""
    sizes = [parameter_bytes(block) for block in net.blocks]
    sizes[0] += parameter_bytes(net.stem)
    sizes[-1] += parameter_bytes(net.head)
    return sizes


def parameter_bytes(module: nn.Module) -> int:
    """Bytes of all parameters and buffers: what has to be loaded."""
    return sum(tensor.numel() * tensor.element_size() for tensor in module.state_dict().values())
