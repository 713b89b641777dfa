"""Types and shapes in signatures, checked at every call while tests run: beartype in the place of jaxtyping's own wrapper.

jaxtyping's wrapper binds the arguments of each call by `inspect`, and has them checked twice. It does so for functions without
any shape as well, which are nine of ten calls, and took a third of the time of tests that train. What is checked is the same:
each argument and each result against its annotation, one size for each name of an axis within a call.
"""

import dataclasses
import functools
import inspect
import threading
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from types import CellType, FunctionType
from typing import Any, ForwardRef, Literal, Self, get_args, get_origin

import jaxtyping
import numpy as np
import torch
from beartype import BeartypeConf, beartype

# A whole number is a float, as for every type checker. TypeError is what jaxtyping raises.
_beartype = beartype(conf=BeartypeConf(is_pep484_tower=True, violation_type=TypeError))
_by_jaxtyping = jaxtyping.jaxtyped
_scope = jaxtyping.jaxtyped("context")  # names of axes have sizes of their own in it; entered anew by each call
PLAIN = (torch.Tensor, torch.nn.Parameter, np.ndarray)
_inner: dict[tuple[Any, ...], FunctionType] = {}


def install(modules: Sequence[str]) -> AbstractContextManager[None]:
    """Check what these modules define, if they are imported from now on (as a context: within it)."""
    jaxtyping.jaxtyped = _checked  # this name is what the hook writes over every function and class
    return jaxtyping.install_import_hook(modules, "shapecheck.check")


def check(thing: Any) -> Any:
    """Beartype, but for methods that give out `typing.Self`, which it knows only in a class decorated as a whole."""
    return thing if Self in getattr(thing, "__annotations__", {}).values() else _beartype(thing)


def _checked(thing: Any = None, **options: Any) -> Any:
    """Stands for `jaxtyping.jaxtyped`."""
    if thing is None:
        return functools.partial(_checked, **options)
    if inspect.isclass(thing):
        if dataclasses.is_dataclass(thing) and "__init__" in vars(thing):
            thing.__init__ = _checked(thing.__init__, **options)
        return thing
    parts = list(_parts(list(getattr(thing, "__annotations__", {}).values())))
    by_name = any(isinstance(part, str | ForwardRef) for part in parts)
    if not inspect.isfunction(thing) or by_name or inspect.isgeneratorfunction(thing):
        return _by_jaxtyping(thing, **options)  # which also knows names that are not there yet
    checked = _inner_check(thing) if "<locals>" in thing.__qualname__ else check(thing)
    shaped = any(inspect.isclass(part) and issubclass(part, jaxtyping.AbstractArray) for part in parts)
    return _in_a_scope(checked, thing, parts) if shaped else checked


def _parts(hint: Any) -> Iterator[Any]:
    """An annotation and all that it is put together from."""
    yield hint
    for part in hint if isinstance(hint, list) else () if get_origin(hint) is Literal else get_args(hint):
        yield from _parts(part)


def _in_a_scope(checked: Callable[..., Any], thing: FunctionType, parts: list[Any]) -> Callable[..., Any]:
    """Check what differs from all that was checked before: types, dtypes and shapes are all that annotations speak of."""
    by_value = any(get_origin(part) is Literal for part in parts)
    fine: dict[Hashable, set[Hashable]] = {}  # by what the arguments are: what the results were
    given = threading.local()  # loaders call from several threads
    only_check = functools.cache(lambda: _beartype(_signature_alone(thing, given)))  # seldom needed, and dear to make

    @functools.wraps(checked)
    def call(*args: Any, **kwargs: Any) -> Any:
        key = _described((args, tuple(kwargs.items())), by_value)
        if key is None or key not in fine or torch.compiler.is_compiling():
            with _scope:
                result = checked(*args, **kwargs)
            if key is not None and (made := _described(result, by_value)) is not None:
                fine[key] = {made}
            return result
        result = thing(*args, **kwargs)
        made = _described(result, by_value)
        if made is None or made not in fine[key]:
            given.result = result
            with _scope:
                only_check()(*args, **kwargs)
            fine[key].add(made)
        return result

    return call


def _described(thing: Any, by_value: bool) -> Hashable:
    """All that a check of it may depend on, or None if that is not known: of a tensor, its type, dtype and shape."""
    kind = type(thing)
    if kind in PLAIN:
        return kind, thing.dtype, thing.shape
    if kind is tuple or kind is list or hasattr(kind, "_fields"):
        parts = [_described(part, by_value) for part in thing]
        return None if None in parts else (kind, *parts)
    if isinstance(thing, type):
        return thing
    if kind in (str, int, bool) and by_value:
        return kind, thing
    return None if isinstance(thing, Iterable | torch.Tensor) and not isinstance(thing, str | torch.nn.Module) else kind


def _signature_alone(thing: FunctionType, given: threading.local) -> FunctionType:
    """A function with the same parameters and annotations that gives out the result that is `given`."""
    signature = inspect.signature(thing)
    plain = [
        one.replace(annotation=one.empty, default=one.empty if one.default is one.empty else None)
        for one in signature.parameters.values()
    ]
    names = {"_given": given}
    exec(f"def alone{inspect.Signature(plain)}: return _given.result", names)
    alone: Any = names["alone"]
    alone.__annotations__, alone.__module__ = thing.__annotations__, thing.__module__
    alone.__name__, alone.__qualname__ = thing.__name__, thing.__qualname__
    return alone


def _inner_check(thing: FunctionType) -> Any:
    """As `check`, for a function that each call of another defines anew: its checks are compiled once."""
    key = (thing.__code__, *thing.__annotations__.items())
    if not all(isinstance(hint, Hashable) for _, hint in key[1:]):
        return check(thing)
    if key not in _inner:
        cells = tuple(CellType() for _ in thing.__code__.co_freevars)  # empty, so that nothing is kept alive
        hollow = FunctionType(thing.__code__, thing.__globals__, thing.__name__, thing.__defaults__, cells)
        hollow.__kwdefaults__, hollow.__annotations__ = thing.__kwdefaults__, thing.__annotations__
        _inner[key] = check(hollow)
    made = _inner[key]
    hollow = getattr(made, "__wrapped__", made)
    if made is hollow:  # there is nothing to check
        return thing
    own = FunctionType(made.__code__, made.__globals__, thing.__name__, made.__defaults__)
    own.__kwdefaults__ = {name: thing if value is hollow else value for name, value in made.__kwdefaults__.items()}
    return functools.update_wrapper(own, thing)
