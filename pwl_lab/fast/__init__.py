"""Code that exists only for speed. Each part has a plain twin, written as in the papers, and a test that both agree.

The plain twins are in the folders that a learner reads (`distill/`, `swap/`, `models/`). A plain function names its
fast twin with `sped_up_by`; where there is no function to name (layers, memory layouts, a cohort), `is_plain` decides.
Inside `plain()` everything runs on the plain twins.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from typing import ParamSpec, TypeVar

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

_plain = ContextVar("plain", default=False)


def is_plain() -> bool:
    """Whether this is called inside `plain()`."""
    return _plain.get()


@contextmanager
def plain() -> Iterator[None]:
    """A context in which the plain twins run instead of the fast ones: slower, and equal up to rounding.

    A network, a cohort or a learner keeps the twins it was created with: create it inside as well.
    """
    before = _plain.set(True)
    try:
        yield
    finally:
        _plain.reset(before)


def sped_up_by(fast: Callable[..., Result]) -> Callable[[Callable[Arguments, Result]], Callable[Arguments, Result]]:
    """Decorate a plain definition: `fast` is called instead, except inside `plain()`."""

    def decorate(definition: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
        @wraps(definition)
        def either(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
            return (definition if is_plain() else fast)(*args, **kwargs)

        return either

    return decorate
