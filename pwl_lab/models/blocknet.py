"""`BlockNet`: every network of the study is a stem, `n` blocks and a head, and returns the state after each block."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from inspect import get_annotations
from typing import Any, Literal, Self, TypeVar

import torch
from jaxtyping import Bool, Float, Num
from torch import Tensor, nn

from pwl_lab.support.config import Frozen
from pwl_lab.support.errors import invalid
from pwl_lab.support.own_code import located
from pwl_lab.support.rows import Parts, cut, evaluating
from pwl_lab.support.seeding import initialisation


class BlockNet(nn.Module):
    """A stem, a sequence of blocks and a head; *hidden state* `i` is the output of block `i` (counted from 1).

    A hidden state has its channels (units) in dimension 1, followed by any positions: (batch, units) for an MLP,
    (batch, channels, height, width) for a convolutional network, (batch, width, tokens) for a transformer.
    """

    stem: nn.Module
    blocks: nn.ModuleList
    head: nn.Module

    def __init__(
        self,
        stem: nn.Module,
        blocks: Sequence[nn.Module],
        head: nn.Module,
        n_tokens: int | None = None,
        pads: bool = False,
    ) -> None:
        """Create a network from its parts.

        Arguments:

        - `stem`: maps the inputs to the input of the first block.
        - `blocks`: each maps one hidden state to the next; at least one, else InvalidValueError.
        - `head`: maps the last hidden state to logits.
        - `n_tokens`: the inputs are token ids (int64) below this; None: they are numbers, of the parameters' type.
        - `pads`: strings may be padded. Then a padded position is the zero vector in every hidden state, and any other
          is not: the stem writes zeros there, each block keeps them and lets no other position see them.
        """
        super().__init__()
        if not blocks:
            raise invalid("blocks", 0, "at least 1 block")
        self.stem, self.blocks, self.head = stem, nn.ModuleList(blocks), head
        self.n_tokens, self.pads = n_tokens, pads

    @classmethod
    def of(
        cls,
        module: nn.Module,
        input_shape: Sequence[int],
        *,
        stem: Parts,
        blocks: Sequence[Parts],
        head: Parts,
        channels: Literal["first", "last"] = "first",
        n_tokens: int | None = None,
    ) -> Self:
        """A network of the parts of `module`, whose forward must run them one after the other.

        A part is the path of a submodule, such as `layer1` or `encoder.layer.0`, or a layer or function that stands for
        what the forward does between submodules, such as `nn.Flatten()`. Stem, head and each block may also be lists.

        Arguments:
        - `module`: any module; its code stays as it is, and the network consists of its submodules.
        - `input_shape`: the shape of one sample, for a comparison with the module's own outputs.
        - `stem`, `blocks`, `head`: the parts, with an entry of `blocks` for each block.
        - `channels`: which dimension of the states between blocks holds the channels: `first`, as in (batch, channels,
          height, width), or `last`, as in (batch, tokens, width).
        - `n_tokens`: see `__init__`.

        Raises UnknownNameError for a wrong path, and InvalidValueError, which says what was found, if the parts in a row
        do not compute what the module does.
        """
        first, *others, last = cut(module, input_shape, stem, blocks, head, channels, n_tokens)
        return cls(first, others, last, n_tokens)

    @property
    def n_blocks(self) -> int:
        """The number of blocks between stem and head."""
        return len(self.blocks)

    def forward(self, inputs: Num[Tensor, "batch *shape"]) -> Float[Tensor, "batch *tokens classes"]:
        """Logits."""
        state = self.stem(inputs)
        for block in self.blocks:
            state = block(state)  # batch, channels, *positions
        logits: Tensor = self.head(state)  # batch, classes
        return logits

    def hidden_states(
        self, inputs: Num[Tensor, "batch *shape"]
    ) -> tuple[list[Float[Tensor, "batch channels *positions"]], Float[Tensor, "batch *tokens classes"]]:
        """The state after each block, first to last, and the logits, all from one forward pass."""
        states, state = [], self.stem(inputs)
        for block in self.blocks:
            state = block(state)
            states.append(state)
        return states, self.head(state)

    def state_shapes(self, input_shape: Sequence[int]) -> list[tuple[int, ...]]:
        """The shape of each hidden state without the batch, for inputs of `input_shape` (found by a forward pass)."""
        example = next(self.parameters())
        dtype = example.dtype if self.n_tokens is None else torch.int64
        # In eval mode batch norms accept a batch of one and do not update their statistics.
        with torch.no_grad(), evaluating(self):
            states, _ = self.hidden_states(torch.zeros(1, *input_shape, dtype=dtype, device=example.device))
        return [tuple(state.shape[1:]) for state in states]


def real_tokens(state: Float[Tensor, "*batch channels tokens"]) -> Bool[Tensor, "*batch tokens"]:
    """Which positions in a hidden state of a network that `pads` hold a token."""
    return state.any(dim=-2)


FAMILIES: dict[str, type["ModelConfig"]] = {}  # every configuration class with a family of its own


class ModelConfig(Frozen, ABC):
    """Everything that determines an architecture; `build` creates the network.

    A subclass with its own `family` (`family: Literal["mine"] = "mine"`) is registered under that name in `FAMILIES`,
    where it is looked up when a bundle is opened. Raises InvalidValueError if another class has taken the name.
    """

    family: str

    @classmethod
    def __pydantic_init_subclass__(cls, **_: Any) -> None:
        """Register the class. One of the same name is replaced: a notebook cell that defines it can be rerun."""
        family = cls.model_fields["family"].default if "family" in get_annotations(cls) else None
        if not isinstance(family, str):
            return  # a base class of several families, or a variant of one
        name, other = (f"{one.__module__}.{one.__qualname__}" for one in (cls, FAMILIES.get(family, cls)))
        if name != other:
            raise invalid(f"family of {located(cls)}", family, f"a name that is not taken by {other}")
        FAMILIES[family] = cls

    @property
    @abstractmethod
    def n_blocks(self) -> int:
        """The number of blocks in the network."""

    @abstractmethod
    def make(self) -> BlockNet:
        """Create a network with weights from torch's current random state; use `build` for seeded weights."""


def build(config: ModelConfig, seed: int, device: str = "cpu", stream: str = "init") -> BlockNet:
    """Create the network of `config` with initial weights from a named random stream.

    Arguments:

    - `config`: the architecture.
    - `seed`: the seed of the stream.
    - `device`: where the network is moved once it is created.
    - `stream`: use `student` for students; with `init`, the teacher's, a student would start as a slice of its teacher.
    """
    with initialisation(seed, stream):
        return config.make().to(device)


Net = TypeVar("Net", bound=nn.Module)


def channels_last(net: Net) -> Net:
    """The same network with its convolutions in channels-last memory format.

    On a CPU these convolutions take about two thirds of the time; the values are the same.
    """
    return net.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]  # not in torch's stubs


def unit_bytes(net: BlockNet) -> list[int]:
    """The bytes of each swap: the blocks, with the stem added to the first one and the head to the last."""
    sizes = [parameter_bytes(block) for block in net.blocks]
    sizes[0] += parameter_bytes(net.stem)
    sizes[-1] += parameter_bytes(net.head)
    return sizes


def without_weights(net: nn.Module) -> bool:
    """Whether a network has shapes but no numbers, because its parameters are on PyTorch's device `meta`."""
    return any(weights.is_meta for weights in net.parameters())


def parameter_bytes(module: nn.Module) -> int:
    """The bytes of all parameters and buffers, which is what has to be loaded."""
    return sum(tensor.numel() * tensor.element_size() for tensor in module.state_dict().values())
