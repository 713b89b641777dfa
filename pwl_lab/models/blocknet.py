"""`BlockNet`: every network of the study is a stem, `n` blocks and a head, and hands out the state after each block."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from pwl_lab.support.config import Frozen
from pwl_lab.support.errors import invalid
from pwl_lab.support.seeding import initialisation

MOST_TENSORS = 10_000  # of a network that is built after somebody else's description


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


class ModelConfig(Frozen, ABC):
    """All that determines an architecture; `build` makes the network."""

    family: str

    @property
    @abstractmethod
    def n_blocks(self) -> int:
        """How many blocks the network has."""

    @abstractmethod
    def make(self) -> BlockNet:
        """A network with weights from torch's current random state; use `build` for a seeded one."""


def build(config: ModelConfig, seed: int, device: str = "cpu", stream: str = "init") -> BlockNet:
    """The network of `config` with initial weights from `stream` of `seed`.

    Students take the stream `student`: from the teacher's own, a student would begin as a slice of its teacher.
    """
    with initialisation(seed, stream):
        return config.make().to(device)


class _Weightless(TorchFunctionMode):
    """Inside, tensors are made on the meta device and never filled with random numbers, and there may be only so many."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self._made, self._most = 0, most

    def __torch_function__(self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        """Every call of torch comes by here, in this thread alone; what a function calls within itself does not."""
        kwargs = kwargs or {}
        if function in _FILLING:
            return args[0] if args else kwargs["tensor"]  # as those of `nn.init` hand it on
        if function is Tensor.mul and isinstance(args[1], float):  # the scale of random numbers, see `build_empty`
            return args[0]
        if function in _MAKING:
            self._made += 1
            if self._made > self._most:
                raise invalid("network", f"more than {self._most:,} tensors", f"at most {self._most:,}")
            kwargs = {**kwargs, "device": "meta"}
        return (torch.empty if function is torch.randn else function)(*args, **kwargs)


_INIT = (nn.init.uniform_, nn.init.normal_, nn.init.kaiming_uniform_, nn.init.kaiming_normal_)
_FILLING = {Tensor.uniform_, Tensor.normal_, *_INIT}
_MAKING = {torch.empty, torch.zeros, torch.ones, torch.full, torch.arange, torch.rand, torch.randn, torch.tensor}


@contextmanager
def weightless(most: int = MOST_TENSORS) -> Iterator[None]:
    """Inside, modules are made without memory for their weights, which `load_state_dict(..., assign=True)` brings.

    Raises InvalidValueError at the tensor that is one too many: `MOST_TENSORS` is far above any network of use, and a
    configuration that someone else wrote may ask for any number of layers.
    """
    with _Weightless(most):
        yield


def build_empty(config: ModelConfig, most: int = MOST_TENSORS) -> BlockNet:
    """The network of `config` for weights that come from elsewhere, by `load_state_dict(..., assign=True)`.

    Its own are on torch's meta device: they have shapes and no memory, however large they are, and drawing initial
    values would take longer than reading trained ones. (Arithmetic on that device loads torch's compiler at the first
    use: seconds, where a first prediction takes a tenth of one. The only one in our networks scales random numbers,
    and is left out with them.) Raises InvalidValueError for a network of more than `most` tensors.
    """
    with weightless(most):
        return config.make()


def unit_bytes(net: BlockNet) -> list[int]:
    """Bytes that each swap brings: the blocks, the stem with the first one and the head with the last."""
    sizes = [parameter_bytes(block) for block in net.blocks]
    sizes[0] += parameter_bytes(net.stem)
    sizes[-1] += parameter_bytes(net.head)
    return sizes


def parameter_bytes(module: nn.Module) -> int:
    """Bytes of all parameters and buffers: what has to be loaded."""
    return sum(tensor.numel() * tensor.element_size() for tensor in module.state_dict().values())
