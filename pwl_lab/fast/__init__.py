"""What exists for speed alone. Each part has a plain twin, written as the papers say it, and a test that both agree.

A plain twin stands where it is read (`distill/`, `swap/`, `models/`). A plain function names its fast one by `sped_up_by`;
where there is none to name (layers, memory layouts, a cohort) `is_plain` decides. Inside `plain()` everything runs on the
plain twins.
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
    """Whether this runs inside `plain()`."""
    return _plain.get()


@contextmanager
def plain() -> Iterator[None]:
    """Inside, the plain twins run in place of the fast ones: slower, and the same up to rounding.

    A network, a cohort or a learner keeps what it was made with: make it inside, too.
    """
    before = _plain.set(True)
    try:
        yield
    finally:
        _plain.reset(before)


def sped_up_by(fast: Callable[..., Result]) -> Callable[[Callable[Arguments, Result]], Callable[Arguments, Result]]:
    """Decorate a plain definition: `fast` is called in its place, except inside `plain()`."""

    def decorate(definition: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
        @wraps(definition)
        def either(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
            return (definition if is_plain() else fast)(*args, **kwargs)

        return either

    return decorate
