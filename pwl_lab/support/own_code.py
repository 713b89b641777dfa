"""The reader's own code: which it is, where it stands, and digests of it for the store's keys.

Code is the reader's own if it belongs neither to this package nor to Python or an installed package: the classes and
functions of a notebook, a script, or a module beside it. What is digested is the compiled code, because that is what
runs: a file may have been edited after it was imported. Comments, blank lines and docstrings do not count; another minor
version of Python compiles to other code, and so makes everything again.
"""

import dis
import enum
import functools
import inspect
import os
import site
import sys
import sysconfig
import traceback
import types
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path, PurePath
from typing import Any

from pwl_lab.support.errors import InvalidValueError, PwlLabError
from pwl_lab.support.files import sha256

_OURS = __name__.partition(".")[0]
_MAIN = {"__main__", "__mp_main__"}  # the latter is what a worker process calls its parent's script
_PLAIN = (int, float, complex, str, bytes, bool, type(None), type(...), PurePath)
_BY_REPR = {("torch", "dtype"), ("torch", "device"), ("logging", "Logger")}  # not worth an import of torch
_ANNOTATIONS = ("__annotate__", "__annotate_func__")  # functions in Python 3.14; annotations do not count in any
_MOST_FOLLOWED = 1_000  # entries of a collection: longer ones are data


@functools.cache
def _installed() -> tuple[str, ...]:
    """The folders of Python itself and of installed packages."""
    found = [sysconfig.get_paths()[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    found += [*site.getsitepackages(), site.getusersitepackages()]
    return tuple({f"{Path(folder).resolve()}/" for folder in found})


def is_own(thing: object) -> bool:
    """Whether a class, a function or a module is the reader's own."""
    name = thing.__name__ if isinstance(thing, types.ModuleType) else getattr(thing, "__module__", None)
    if isinstance(thing, types.FunctionType):
        name = thing.__globals__.get("__name__")  # `functools.wraps` changes `__module__`
    if not isinstance(name, str) or name.partition(".")[0] == _OURS:
        return False
    module = sys.modules.get(name)
    file = getattr(module, "__file__", None)
    if name in _MAIN or (module is None and isinstance(thing, types.FunctionType | type)):
        return True  # also what was sent to another process by value
    return isinstance(file, str) and _not_installed(file)


@functools.cache
def _not_installed(file: str) -> bool:
    return not str(Path(file).resolve()).startswith(_installed())


def located(thing: object) -> str:
    """The name of a class or function, with file and line if it is the reader's own: `Rings (mine.py, line 7)`."""
    thing = inspect.unwrap(getattr(thing, "__func__", thing))  # type: ignore[arg-type]  # anything may be asked about
    name = str(getattr(thing, "__qualname__", type(thing).__qualname__)).rpartition("<locals>.")[2]
    if not is_own(thing):
        return name
    file, line = getattr(sys.modules.get(thing.__module__), "__file__", None) or "", 0
    for code in sorted((one.__code__ for one in _functions(thing)), key=lambda one: -one.co_firstlineno):
        file, line = code.co_filename, code.co_firstlineno
    if isinstance(thing, type):
        with suppress(OSError, TypeError):  # a class of a notebook, before Python 3.13
            line = inspect.getsourcelines(thing)[1]
    shown = "notebook cell" if "ipykernel" in file else Path(file).name
    return f"{name} ({shown}, line {line})"


def raised_at(error: BaseException) -> str:
    """Where the reader's own code raised an error: `mine.py, line 12`; empty if it was not his."""
    ours = f"{Path(__file__).resolve().parents[1]}{os.sep}"
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if _not_installed(frame.filename) and not str(Path(frame.filename).resolve()).startswith((ours, "<")):
            return f"{Path(frame.filename).name}, line {frame.lineno}"
    return ""


@contextmanager
def naming(thing: object) -> Iterator[None]:
    """Inside, an error that the reader's own code raises becomes an InvalidValueError that names `thing`, file and line.

    Errors of this package, and those that no code of his raised, stay as they are.
    """
    try:
        yield
    except PwlLabError:
        raise
    except Exception as error:
        if not (at := raised_at(error)):
            raise
        raise InvalidValueError(f"{located(thing)} raised {type(error).__name__}: {error} ({at})") from error


def _functions(thing: object) -> Iterator[types.FunctionType]:
    """The functions of a class that are defined in it, or the function itself."""
    for one in vars(thing).values() if isinstance(thing, type) else [thing]:
        for inner in _inside(one):
            if isinstance(inner, types.FunctionType):
                yield inner


def _inside(thing: object) -> list[object]:
    """What a descriptor or a wrapper calls; anything else is itself."""
    if isinstance(thing, staticmethod | classmethod | types.MethodType):
        return [thing.__func__]
    if isinstance(thing, property):
        return [one for one in (thing.fget, thing.fset, thing.fdel) if one is not None]
    if isinstance(thing, functools.partial | functools.partialmethod):
        return [thing.func, thing.args, thing.keywords]
    if isinstance(thing, functools.cached_property):
        return [thing.func]
    if isinstance(thing, functools._lru_cache_wrapper):
        return [thing.__wrapped__]
    if isinstance(thing, types.FunctionType) and hasattr(thing, "__wrapped__") and not is_own(thing):
        return [thing.__wrapped__, *_used_by_wrapper(thing)]  # by a decorator of an installed package
    return [thing]


def _used_by_wrapper(thing: types.FunctionType) -> Iterator[object]:
    """What a wrapper refers to besides the function that it wraps; of a bound method, the class."""
    for cell in thing.__closure__ or ():
        with suppress(ValueError):  # it is empty
            if (value := cell.cell_contents) is not thing.__wrapped__:  # type: ignore[attr-defined]  # `functools.wraps`
                yield type(value.__self__) if isinstance(value, types.MethodType) else value


def code_of(*things: object) -> dict[str, str]:
    """A digest by name for each of the reader's own classes and functions that `things` consist of; {} if there is none.

    That includes the classes that a class derives from, and whatever their functions refer to: other functions and
    classes, constants, defaults, closures, modules that they import. For an instance its class counts, and its attributes
    as far as they are code: its data are not looked at. Warns about what a function refers to and cannot be inspected.

    Arguments:
    - `things`: instances, classes or functions.
    """
    survey = _Survey()
    for thing in things:
        survey.follow(thing)
    if survey.unseen:
        what = "; ".join(f"{name}, used by {user}" for name, user in sorted(survey.unseen.items()))
        warnings.warn(
            f"the store cannot see whether this changes: {what}. If it does, remove what was made with it", stacklevel=3
        )
    return dict(sorted(survey.digests.items()))


@dataclass
class _Survey:
    """What was found on the way from some objects to all code that they use."""

    digests: dict[str, str] = field(default_factory=dict)
    unseen: dict[str, str] = field(default_factory=dict)  # what cannot be inspected, and who refers to it
    _names: dict[int, str] = field(default_factory=dict)  # of the things visited, by id
    _kept: list[object] = field(default_factory=list)  # or an id could be used twice

    def follow(self, thing: object) -> None:
        """Visit the code that an instance, a class or a function consists of; data are ignored."""
        if id(thing) in self._names:
            return
        if isinstance(thing, types.FunctionType | type) and is_own(thing):
            self._name(thing)
            return
        for inner in _inside(thing):
            if inner is not thing:
                self.follow(inner)
        kind = type(thing)
        if isinstance(thing, list | tuple | set | frozenset | Mapping):
            if len(thing) > _MOST_FOLLOWED:
                return
            for one in thing.values() if isinstance(thing, Mapping) else thing:
                self.follow(one)
        elif is_own(kind) or kind.__module__.partition(".")[0] == _OURS:
            self._remember(thing, kind.__qualname__)
            self.follow(kind)
            for _, one in sorted(getattr(thing, "__dict__", {}).items()):
                self.follow(one)

    def _remember(self, thing: object, name: str) -> None:
        self._names[id(thing)] = name
        self._kept.append(thing)

    def _name(self, thing: Any) -> str:
        """The name of a class or function of the reader's own, which is digested when it is first named."""
        if id(thing) in self._names:
            return self._names[id(thing)]
        module = thing.__globals__["__name__"] if isinstance(thing, types.FunctionType) else thing.__module__
        module = "__main__" if module in _MAIN else module
        name = f"{module}.{thing.__qualname__}"
        taken = sum(other == name or other.startswith(f"{name} #") for other in self._names.values())
        self._remember(thing, name := f"{name} #{taken + 1}" if taken else name)
        parts = self._of_class(thing, name) if isinstance(thing, type) else self._of_function(thing, name)
        self.digests[name] = _hash(parts)
        return name

    def _of_class(self, cls: type, name: str) -> list[Any]:
        """The bases and the attributes of a class."""
        parts: list[Any] = [[self._value(base, name) for base in cls.__bases__]]
        for attribute, value in sorted(vars(cls).items()):
            inside = [] if attribute in _ANNOTATIONS else _inside(value)
            if any(isinstance(one, types.FunctionType) for one in inside) or isinstance(value, type):
                parts.append([attribute, type(value).__qualname__, [self._value(one, name) for one in inside]])
            elif not attribute.startswith(("__", "_abc_", "model_")) and not inspect.isdatadescriptor(value):
                parts.append([attribute, self._value(value, f"{name}.{attribute}")])
        return parts

    def _of_function(self, function: types.FunctionType, name: str) -> list[Any]:
        """The compiled code of a function and everything that it refers to."""
        code = function.__code__
        parts: list[Any] = [_of_code(code, function.__doc__)]
        parts.append([self._value(value, name) for value in function.__defaults__ or ()])
        parts.append({key: self._value(value, name) for key, value in sorted((function.__kwdefaults__ or {}).items())})
        for variable, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
            with suppress(ValueError):  # it is empty
                parts.append([variable, self._value(cell.cell_contents, name)])
        for variable in sorted(_read_by(code, "LOAD_GLOBAL", "LOAD_NAME")):
            if variable in function.__globals__:
                value = function.__globals__[variable]
                parts.append([variable, self._global(value, code, name)])
        for module in sorted(_read_by(code, "IMPORT_NAME")):
            parts.append([module, _of_module(module)])
        return parts

    def _global(self, value: object, code: types.CodeType, user: str) -> Any:
        """What a global name stands for; of a module of the reader's own, what `code` may read from it."""
        if not isinstance(value, types.ModuleType):
            return self._value(value, user)
        if not is_own(value):
            return value.__name__
        read = sorted(_read_by(code, "LOAD_ATTR", "LOAD_METHOD") & vars(value).keys())
        return [[name, self._global(vars(value)[name], code, user)] for name in read]

    def _value(self, value: Any, user: str) -> Any:
        """A value that `user` refers to, in a form that can be hashed."""
        kind = type(value)
        if isinstance(value, enum.Enum) or (kind.__module__, kind.__name__) in _BY_REPR or kind.__module__ == "typing":
            return [kind.__qualname__, str(value)]
        if isinstance(value, _PLAIN):
            return [kind.__name__, repr(value)]
        if isinstance(value, Mapping):
            return [kind.__name__, [[self._value(one, user) for one in pair] for pair in value.items()]]
        if isinstance(value, set | frozenset):
            return [kind.__name__, sorted((self._value(one, user) for one in value), key=repr)]
        if isinstance(value, list | tuple):
            return [kind.__name__, [self._value(one, user) for one in value]]
        if isinstance(value, type | types.FunctionType) and is_own(value):
            return self._name(value)
        if (inside := _inside(value)) != [value]:
            return [self._value(one, user) for one in inside]
        if isinstance(getattr(value, "__name__", None), str) and callable(value):  # of an installed package
            return f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', value.__name__)}"
        if id(value) in self._names:
            return self._names[id(value)]
        self._remember(value, kind.__qualname__)
        if (is_own(kind) or kind.__module__.partition(".")[0] == _OURS) and hasattr(value, "__dict__"):
            return [
                self._value(kind, user),
                [[key, self._value(one, user)] for key, one in sorted(vars(value).items())],
            ]
        self.unseen[f"a {kind.__qualname__}"] = user
        return kind.__qualname__


def _read_by(code: types.CodeType, *instructions: str) -> set[str]:
    """The names that some instructions read, in a function and those defined inside it."""
    found = {one.argval for one in dis.get_instructions(code) if one.opname in instructions}
    return found.union(*(_read_by(one, *instructions) for one in code.co_consts if isinstance(one, types.CodeType)))


def _of_code(code: types.CodeType, doc: str | None = None) -> list[Any]:
    """A function's compiled code without its docstring and line numbers."""
    if sys.version_info >= (3, 14):  # a docstring moves all constants, so they go by value
        read = [
            [one.opname, _constant(one.argval) if one.opcode in dis.hasconst else one.arg]
            for one in dis.get_instructions(code)
        ]
        return [read, code.co_exceptiontable.hex(), code.co_flags & ~inspect.CO_HAS_DOCSTRING, _names(code)]
    constants = [None if doc is not None and one == doc else one for one in code.co_consts[:1]]
    values = [_constant(one) for one in [*constants, *code.co_consts[1:]]]
    return [code.co_code.hex(), code.co_exceptiontable.hex(), code.co_flags, _names(code), values]


def _names(code: types.CodeType) -> list[tuple[str, ...]]:
    """The names that compiled code refers to by number, and those of its arguments."""
    arguments = code.co_argcount + code.co_kwonlyargcount
    return [code.co_names, code.co_varnames[:arguments], code.co_freevars]


def _constant(value: object) -> Any:
    """A constant of compiled code: in a set's own order it would differ between processes."""
    if isinstance(value, types.CodeType):
        return _of_code(value)
    if isinstance(value, frozenset):
        return ["frozenset", sorted(map(repr, value))]
    return [type(value).__name__, repr(value)]


def _of_module(name: str) -> Any:
    """The compiled file of a module of the reader's own that a function imports; the name of any other."""
    with suppress(ImportError, ValueError, AttributeError, SyntaxError):
        spec = find_spec(name)
        if spec is not None and spec.origin and name.partition(".")[0] != _OURS:
            file = Path(spec.origin)
            if file.suffix == ".py" and _not_installed(spec.origin):
                return _of_code(compile(file.read_bytes(), name, "exec"))
    return name


def _hash(parts: Any) -> str:
    return sha256(repr(parts), 16)
