"""The checker behind jaxtyping's import hook: beartype, but for methods that give out `typing.Self`.

The hook decorates functions one by one, and beartype knows `Self` only in a class that it decorates as a whole.
"""

from typing import Any, Self

from beartype import BeartypeConf, beartype

_beartype = beartype(conf=BeartypeConf(is_pep484_tower=True))  # a whole number is a float, as for every type checker


def check(thing: Any) -> Any:
    if Self in getattr(thing, "__annotations__", {}).values():
        return thing
    return _beartype(thing)
