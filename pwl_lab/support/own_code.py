"""The reader's own code: which it is, where it stands, and digests of it for the store's keys.

Code is the reader's own if it belongs neither to this package nor to Python or an installed package: the classes and
functions of a notebook, a script, or a module beside it. What is digested is the compiled code, because that is what
runs: a file may have been edited after it was imported. Comments, blank lines and docstrings do not count; another minor
version of Python compiles to other code, and so makes everything again.
"""

import ast
import dis
import enum
import functools
import inspect
import itertools
import linecache
import os
import re
import site
import sys
import sysconfig
import traceback
import types
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib.machinery import PathFinder
from importlib.util import find_spec, resolve_name
from pathlib import Path, PurePath
from typing import Any

from pwl_lab.support.errors import InvalidValueError, PwlLabError
from pwl_lab.support.files import sha256

_OURS = __name__.partition(".")[0]
_MAIN = {"__main__", "__mp_main__"}  # the latter is what a worker process calls its parent's script
_PLAIN = (int, float, complex, str, bytes, bool, type(None), type(...), PurePath)
_BY_REPR = {  # not worth an import of torch; the last two say that there is no default, or one that a function makes
    ("torch", "dtype"),
    ("torch", "device"),
    ("logging", "Logger"),
    ("pydantic_core._pydantic_core", "PydanticUndefinedType"),
    ("dataclasses", "_HAS_DEFAULT_FACTORY_CLASS"),
}
_OF_PYDANTIC = ("model_config", "model_fields", "model_computed_fields")  # attributes that it gives to its models
_ANNOTATIONS = ("__annotate__", "__annotate_func__")  # functions in Python 3.14; annotations do not count in any
_INSTALLERS = {"site-packages", "dist-packages"}  # also of an environment that another one borrows packages from
_CELL = "ipykernel"  # in the name of what stands for the file of a notebook's cell
_MOST_FOLLOWED = 1_000  # entries of a collection: longer ones are data


@functools.cache
def _installed() -> tuple[str, ...]:
    """The folders of Python itself and of installed packages."""
    found = [sysconfig.get_paths()[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    found += [*site.getsitepackages(), site.getusersitepackages()]
    return tuple({f"{Path(folder).resolve()}{os.sep}" for folder in found})


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
    path = Path(file).resolve()
    return not str(path).startswith(_installed()) and not _INSTALLERS & set(path.parts)


def located(thing: object) -> str:
    """The name of a class or function, with file and line if it is the reader's own: `Rings (mine.py, line 7)`.

    Of an instance, those of its class. Where no file is known, the module is named.
    """
    thing = inspect.unwrap(getattr(thing, "__func__", thing))  # type: ignore[arg-type]  # anything may be asked about
    name = str(getattr(thing, "__qualname__", type(thing).__qualname__)).rpartition("<locals>.")[2]
    if not is_own(thing):
        return name
    file, line = _place(thing if isinstance(thing, types.FunctionType | type) else type(thing))
    return f"{name} ({_named(file)}, line {line})" if line else f"{name} (defined in {thing.__module__})"


def _place(thing: types.FunctionType | type) -> tuple[str, int]:
    """The file and the line of a class or function of the reader's own; no line if that cannot be found out."""
    if isinstance(thing, types.FunctionType):
        return thing.__code__.co_filename, thing.__code__.co_firstlineno
    with suppress(OSError, TypeError):
        return inspect.getsourcefile(thing) or "", inspect.getsourcelines(thing)[1]
    # A class of a notebook: no file is known, but the cells that were run are, the last one at the end.
    wanted = re.compile(rf"\s*class {thing.__name__}\b")
    for file in reversed([one for one in linecache.cache if _CELL in one]):
        for line, text in enumerate(linecache.getlines(file), start=1):
            if wanted.match(text):
                return file, line
    # A class that another process sent. Functions that `dataclass` generates have no file.
    codes = [inspect.unwrap(one).__code__ for one in _functions(thing) if is_own(one)]
    written = [one for one in codes if not one.co_filename.startswith("<string>")]
    first = min(written, key=lambda one: one.co_firstlineno, default=None)
    return (first.co_filename, first.co_firstlineno) if first else ("", 0)


def _named(file: str) -> str:
    """A file for a message; the names of those that stand for the cells of a notebook say nothing."""
    return "notebook cell" if _CELL in file else Path(file).name


def raised_at(error: BaseException) -> str:
    """Where the reader's own code raised an error: `mine.py, line 12`; empty if it was not theirs."""
    ours = f"{Path(__file__).resolve().parents[1]}{os.sep}"
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        theirs = not frame.filename.startswith("<frozen ") and _not_installed(frame.filename)
        if theirs and not str(Path(frame.filename).resolve()).startswith(ours):
            return f"{_named(frame.filename)}, line {frame.lineno}"
    return ""


@contextmanager
def naming(thing: object) -> Iterator[None]:
    """Inside, an error that the reader's own code raises becomes an InvalidValueError that names `thing`, file and line.

    Errors of this package, and those that no code of theirs raised, stay as they are.
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
    if isinstance(thing, types.MethodType):
        return [thing.__func__, thing.__self__]
    if isinstance(thing, staticmethod | classmethod):
        return [thing.__func__]
    if isinstance(thing, property):
        return [one for one in (thing.fget, thing.fset, thing.fdel) if one is not None]
    if isinstance(thing, functools.partial | functools.partialmethod):
        return [thing.func, thing.args, thing.keywords]
    if isinstance(thing, functools.cached_property):
        return [thing.func]
    if isinstance(thing, functools.singledispatchmethod):
        return [thing.dispatcher]
    if isinstance(thing, functools._lru_cache_wrapper):
        return [thing.__wrapped__]
    if isinstance(thing, types.FunctionType) and hasattr(thing, "__wrapped__") and not is_own(thing):
        return [thing.__wrapped__, *_used_by_wrapper(thing), *_implementations(thing)]
    return [thing]


def _used_by_wrapper(thing: types.FunctionType) -> Iterator[object]:
    """What a wrapper refers to besides the function that it wraps; of a bound method, the class."""
    for cell in thing.__closure__ or ():
        with suppress(ValueError):  # it is empty
            if (value := cell.cell_contents) is not thing.__wrapped__:  # type: ignore[attr-defined]  # `functools.wraps`
                yield type(value.__self__) if isinstance(value, types.MethodType) else value


def _implementations(thing: types.FunctionType) -> Iterator[object]:
    """The types and functions among which a function of `functools.singledispatch` chooses."""
    registry = getattr(thing, "registry", None)
    if hasattr(thing, "dispatch") and isinstance(registry, Mapping):
        yield from itertools.chain.from_iterable(registry.items())


def code_of(*things: object) -> dict[str, str]:
    """A digest by name for each of the reader's own classes and functions that `things` consist of; {} if there is none.

    That includes the classes that a class derives from, and whatever their functions refer to: other functions and
    classes, constants, defaults, closures. The file of a module that a function imports when it runs counts as a whole.
    For an instance its class counts, and its attributes as far as they are code: its data are not looked at. Warns about
    what a function refers to and cannot be inspected.

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
        made_by = [type(cls)] if is_own(type(cls)) else []
        parts: list[Any] = [[self._value(base, name) for base in (*cls.__bases__, *made_by)]]
        parts += [[field, self._value(value, name)] for field, value in sorted(_defaults(cls).items())]
        skipped = _OF_PYDANTIC if "__pydantic_fields__" in vars(cls) else ()
        for attribute, value in sorted(vars(cls).items()):
            inside = [] if attribute in _ANNOTATIONS else _inside(value)
            if any(isinstance(one, types.FunctionType) for one in inside) or isinstance(value, type):
                parts.append([attribute, type(value).__qualname__, [self._value(one, name) for one in inside]])
            elif attribute in skipped or attribute.startswith(("__", "_abc_")):
                continue
            elif not inspect.isdatadescriptor(value) or is_own(type(value)):
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
        parts += [[module, module] for module in sorted(_read_by(code, "IMPORT_NAME"))]
        for module in sorted(_imported_by(code, function.__globals__.get("__package__"))):
            self._module(module)
        return parts

    def _module(self, name: str) -> None:
        """Digest the file of a module of the reader's own that is imported when a function runs, and what it imports."""
        if f"{name} (file)" in self.digests or (file := _file_of(name)) is None:
            return
        with suppress(SyntaxError):  # whoever imports it will be told
            tree = _without_docstrings(ast.parse(file.read_bytes()))
            self.digests[f"{name} (file)"] = _hash(ast.dump(tree))
            package = name if file.stem == "__init__" else name.rpartition(".")[0]
            for module in sorted(_imported_by(compile(tree, name, "exec"), package)):
                self._module(module)

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


def _defaults(cls: type) -> dict[str, list[Any]]:
    """The defaults of the fields that a pydantic model defines: they are not attributes of the class."""
    found = {}
    for kind in ("__pydantic_fields__", "__private_attributes__"):
        inherited = getattr(cls.__base__, kind, {})
        for name, one in (vars(cls).get(kind) or {}).items():
            default, other = (
                [getattr(of, part, None) for part in ("default", "default_factory")]
                for of in (one, inherited.get(name))
            )
            if name not in inherited or any(mine is not theirs for mine, theirs in zip(default, other, strict=True)):
                found[name] = default
    return found


def _imported_by(code: types.CodeType, package: str | None) -> set[str]:
    """The modules that compiled code may import, in the function and those inside it: of `a.b`, `a` as well."""
    read = [one for one in dis.get_instructions(code) if one.opname != "EXTENDED_ARG"]
    found = set[str]()
    for number, one in enumerate(read):
        if one.opname == "IMPORT_NAME":
            level, names = (before.argval for before in read[number - 2 : number])
            with suppress(ImportError):  # relative, outside of a package
                base = resolve_name("." * level + one.argval, package)
                found.update(itertools.accumulate(base.split("."), "{}.{}".format))
                found.update(f"{base}.{name}" for name in names or ())
    return found.union(*(_imported_by(one, package) for one in code.co_consts if isinstance(one, types.CodeType)))


def _file_of(name: str) -> Path | None:
    """The source file of a module of the reader's own, found without an import; None for any other."""
    first, *rest = name.split(".")
    # KeyError: a package without __init__.py, inside one that was never imported.
    with suppress(ImportError, ValueError, AttributeError, KeyError):
        spec = find_spec(first) if first != _OURS else None
        for part in itertools.accumulate(rest, "{}.{}".format, initial=first):
            if part != first and spec is not None:
                spec = PathFinder.find_spec(part, spec.submodule_search_locations or [])
            if spec is None or (spec.origin and not _not_installed(spec.origin)):
                return None
        return Path(spec.origin) if spec and spec.origin and spec.origin.endswith(".py") else None
    return None


def _without_docstrings(tree: ast.Module) -> ast.Module:
    """The same code without the texts that only describe it."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:] or [ast.fix_missing_locations(ast.Pass(lineno=1, col_offset=0))]
    return tree


def _hash(parts: Any) -> str:
    return sha256(repr(parts), 16)
