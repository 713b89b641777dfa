"""Networks built from their description in a bundle's index: of any registered family, and without initial weights.

The weights are read from files afterwards; initial values take no memory and no time.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Annotated, Any

import torch
from pydantic import BeforeValidator, SerializeAsAny, ValidationError
from pydantic_core import PydanticCustomError
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from pwl_lab.models.blocknet import FAMILIES, BlockNet, ModelConfig
from pwl_lab.support.errors import InvalidValueError, invalid, shown
from pwl_lab.support.own_code import is_own, located, raised_at

MOST_TENSORS = 10_000  # of a network built from a description in a file
UNKNOWN_FAMILY = "unknown_family"  # what pydantic calls the error


def _by_family(value: Any) -> Any:
    """The configuration that a mapping describes, of the class with its family; pydantic handles anything else."""
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


def modules_of(configs: Sequence[ModelConfig]) -> dict[str, str]:
    """The modules, by family, that define families of the reader's own; without those of a notebook or a script."""
    own = [type(config) for config in configs if is_own(type(config))]
    return {cls.model_fields["family"].default: cls.__module__ for cls in own if not cls.__module__.startswith("__")}


def import_families(modules: Mapping[str, str]) -> None:
    """Import the modules of families that are not registered. Raises InvalidValueError if one does not register its family."""
    for family, module in modules.items():
        if family in FAMILIES:
            continue
        if not re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)*", module):
            raise invalid("module", module, "the name of a module, as in `import name`")
        try:
            import_module(module)
        except Exception as error:  # a module of the reader's own may raise anything
            at = raised_at(error)
            raise InvalidValueError(
                f"module {module}, which defines family {family}, cannot be imported: {error}" + f" ({at})" * bool(at)
            ) from error
        if family not in FAMILIES:
            raise InvalidValueError(f"module {module} no longer defines family {family}")


# A configuration of any family: one of ours, or the reader's own.
AnyModel = Annotated[SerializeAsAny[ModelConfig], BeforeValidator(_by_family)]


class _Weightless(TorchFunctionMode):
    """A context that creates tensors on the meta device, draws no random numbers, and limits the tensors' number."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self._made, self._most = 0, most

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Intercepts every call of torch in this thread, except calls within torch functions."""
        kwargs = kwargs or {}
        if function in _FILLING:
            return args[0] if args else kwargs["tensor"]  # the functions of `nn.init` pass it on
        if function is Tensor.mul and isinstance(args[1], float):  # the scale of random numbers, see `build_empty`
            return args[0]
        if function in _MAKING:
            self._made += 1
            if self._made > self._most:
                raise invalid("network", f"more than {self._most:,} tensors", f"at most {self._most:,}")
            kwargs = {**kwargs, "device": "meta"}
        return (torch.empty if function is torch.randn else function)(*args, **kwargs)


_INIT = ("uniform", "normal", "trunc_normal", "constant", "ones", "zeros", "eye", "orthogonal")
_SCALED = ("kaiming_uniform", "kaiming_normal", "xavier_uniform", "xavier_normal")
_FILLING = {Tensor.uniform_, Tensor.normal_, *(getattr(nn.init, f"{name}_") for name in (*_INIT, *_SCALED))}
_MAKING = {torch.empty, torch.zeros, torch.ones, torch.full, torch.arange, torch.rand, torch.randn, torch.tensor}


@contextmanager
def weightless(most: int = MOST_TENSORS) -> Iterator[None]:
    """A context that builds modules without memory for their weights; `load_state_dict(..., assign=True)` adds them.

    Raises InvalidValueError for more than `most` tensors. `MOST_TENSORS` is far more than any useful network has, and a
    configuration from elsewhere may ask for any number of layers.
    """
    with _Weightless(most):
        yield


def build_empty(config: ModelConfig, most: int = MOST_TENSORS) -> BlockNet:
    """The network of `config` without weights; `load_state_dict(..., assign=True)` adds them.

    Its tensors are on torch's meta device: they have shapes but no memory, and no initial values are drawn, which would
    take longer than reading trained ones. (The first arithmetic on that device loads torch's compiler, which takes
    seconds, while a first prediction takes a tenth of one. The only such operation in our networks scales random
    numbers, and is skipped with them.) Raises InvalidValueError for a network of more than `most` tensors.
    """
    with weightless(most):
        return config.make()


def check_registered(config: ModelConfig) -> None:
    """Raise InvalidValueError unless the class of `config` is the one registered for its family."""
    if FAMILIES.get(config.family) is not type(config):
        own = 'a class with its own family, as in `family: Literal["mine"] = "mine"`'
        raise invalid("model", config, f"{own}, by which the reader of a bundle finds it; see {located(type(config))}")


def check_fillable(config: ModelConfig) -> None:
    """Raise InvalidValueError for a network that its `state_dict` does not describe completely."""
    try:
        net = build_empty(config)
    except Exception as error:  # a network of the reader's own may raise anything without memory
        at = raised_at(error)
        why = f"{error}; raised in {at}" if at else str(error)
        what = f"a network that can be built without memory for its weights ({why}); see {located(type(config).make)}"
        raise invalid("model", config, what) from error
    kept = net.state_dict()
    for path, module in net.named_modules():
        for name, value in {**vars(module), **dict(module.named_buffers(recurse=False))}.items():
            whole_name = f"{path}.{name}".removeprefix(".")
            if isinstance(value, Tensor) and whole_name not in kept:
                there = f"all its tensors in its state_dict; make {whole_name} a parameter or a persistent buffer"
                raise invalid(
                    "model", config, f"{there}; see {located(type(module) if is_own(type(module)) else type(config))}"
                )
