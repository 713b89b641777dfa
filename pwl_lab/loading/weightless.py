"""Networks made from what the index of a bundle says of them: of any registered family, and without weights of their own.

Weights come from files afterwards; no memory and no time goes into initial values.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated, Any

import torch
from pydantic import BeforeValidator, SerializeAsAny, ValidationError
from pydantic_core import PydanticCustomError
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from pwl_lab.models.blocknet import FAMILIES, BlockNet, ModelConfig
from pwl_lab.support.errors import invalid, shown

MOST_TENSORS = 10_000  # of a network that is built after somebody else's description
UNKNOWN_FAMILY = "unknown_family"  # what pydantic calls the error


def _by_family(value: Any) -> Any:
    """The configuration that a mapping describes, of whichever class has its family; anything else is left to pydantic."""
    if not isinstance(value, Mapping):
        return value
    family = value.get("family")
    if not isinstance(family, str) or family not in FAMILIES:
        known = ", ".join(sorted(FAMILIES))
        raise PydanticCustomError(
            UNKNOWN_FAMILY,
            "unknown family {family} (known: {known}); import the module that defines it first",
            {"family": shown(family), "known": known},
        )
    try:
        return FAMILIES[family].model_validate(value)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        where = ".".join(map(str, problem["loc"])) or "as a whole"
        raise ValueError(f"{where}: {problem['msg'].removeprefix('Value error, ')}") from error


# A configuration of any family: of one of ours, or of the reader's own.
AnyModel = Annotated[SerializeAsAny[ModelConfig], BeforeValidator(_by_family)]


class _Weightless(TorchFunctionMode):
    """Inside, tensors are made on the meta device and never filled with random numbers, and their number is limited."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self._made, self._most = 0, most

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
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


def check_registered(config: ModelConfig) -> None:
    """Raise InvalidValueError unless `config.family` stands for the very class of `config`."""
    if FAMILIES.get(config.family) is not type(config):
        own = 'a class with a family of its own, as in `family: Literal["mine"] = "mine"`'
        raise invalid("model", config, f"{own}, by which the reader of a bundle finds it")


def check_fillable(config: ModelConfig) -> None:
    """Raise InvalidValueError for a network that is not complete once its `state_dict` has been read from a file."""
    try:
        net = build_empty(config)
    except Exception as error:  # whatever a network of the reader's own does without memory for its tensors
        raise invalid(
            "model", config, f"a network that can be made without memory for its weights ({error})"
        ) from error
    kept = net.state_dict()
    for path, module in net.named_modules():
        for name, value in {**vars(module), **dict(module.named_buffers(recurse=False))}.items():
            whole_name = f"{path}.{name}".removeprefix(".")
            if isinstance(value, Tensor) and whole_name not in kept:
                there = f"all its tensors in its state_dict; make {whole_name} a parameter or a persistent buffer"
                raise invalid("model", config, there)
