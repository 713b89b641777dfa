"""`BlockNet`: every network of the study is a stem, `n` blocks and a head, and hands out the state after each block."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from inspect import get_annotations
from typing import Annotated, Any

import torch
from jaxtyping import Float
from pydantic import BeforeValidator, SerializeAsAny, ValidationError
from torch import Tensor, nn

from pwl_lab.support.config import Frozen
from pwl_lab.support.errors import invalid, shown
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
    """`stem`, `blocks[0..n-1]`, `head`; the *hidden state* `i` is what block `i` (counted from 1) gives out.

    A hidden state has its channels (units) in dimension 1 and any further positions behind: (batch, units) for an MLP,
    (batch, channels, height, width) for a convolutional network.
    """

    def __init__(self, stem: nn.Module, blocks: Sequence[nn.Module], head: nn.Module) -> None:
        """Raises InvalidValueError where there is no block."""
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
            state = block(state)
        return self.head(state)

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


_FAMILIES: dict[str, type["ModelConfig"]] = {}


class ModelConfig(Frozen, ABC):
    """All that determines an architecture; `build` makes the network.

    A class with a `family` of its own (`family: Literal["mine"] = "mine"`) is registered by it, so that a bundle can name
    the family and whoever opens it finds the class. Raises InvalidValueError where another class has the family.
    """

    family: str

    @classmethod
    def __pydantic_init_subclass__(cls, **_: Any) -> None:
        """Register the class. One of the same name replaces it: a notebook's cell that defines it may run again."""
        if "family" not in get_annotations(cls):
            return
        name, family = f"{cls.__module__}.{cls.__qualname__}", cls.model_fields["family"].default
        other = _FAMILIES.get(family, cls)
        if f"{other.__module__}.{other.__qualname__}" != name:
            raise invalid(
                f"family of {name}", family, f"a name that {other.__module__}.{other.__qualname__} does not have"
            )
        _FAMILIES[family] = cls

    @property
    @abstractmethod
    def n_blocks(self) -> int:
        """How many blocks the network has."""

    @abstractmethod
    def make(self) -> BlockNet:
        """A network with weights from torch's current random state; use `build` for a seeded one."""


def check_registered(config: ModelConfig) -> None:
    """Raise InvalidValueError unless `config.family` stands for the very class of `config`."""
    if _FAMILIES.get(config.family) is not type(config):
        own = 'a class with a family of its own, as in `family: Literal["mine"] = "mine"`'
        raise invalid("model", config, f"{own}, by which the reader of a bundle finds it")


def _by_family(value: Any) -> Any:
    """The configuration that a mapping describes, of whichever class has its family; anything else is left to pydantic."""
    if not isinstance(value, Mapping):
        return value
    family = value.get("family")
    if not isinstance(family, str) or family not in _FAMILIES:
        raise ValueError(
            f"unknown family {shown(family)} (known: {', '.join(sorted(_FAMILIES))}); "
            "import the module that defines it first"
        )
    try:
        return _FAMILIES[family].model_validate(value)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        where = ".".join(map(str, problem["loc"])) or "as a whole"
        raise ValueError(f"{where}: {problem['msg'].removeprefix('Value error, ')}") from error


# A configuration of any family: of one of ours, or of the reader's own.
AnyModel = Annotated[SerializeAsAny[ModelConfig], BeforeValidator(_by_family)]


def build(config: ModelConfig, seed: int, device: str = "cpu", stream: str = "init") -> BlockNet:
    """The network of `config` with initial weights from `stream` of `seed`.

    Students take the stream `student`: from the teacher's own, a student would begin as a slice of its teacher.
    """
    with initialisation(seed, stream):
        return config.make().to(device)


def unit_bytes(net: BlockNet) -> list[int]:
    """Bytes that each swap brings: the blocks, the stem with the first one and the head with the last."""
    sizes = [parameter_bytes(block) for block in net.blocks]
    sizes[0] += parameter_bytes(net.stem)
    sizes[-1] += parameter_bytes(net.head)
    return sizes


def parameter_bytes(module: nn.Module) -> int:
    """Bytes of all parameters and buffers: what has to be loaded."""
    return sum(tensor.numel() * tensor.element_size() for tensor in module.state_dict().values())
