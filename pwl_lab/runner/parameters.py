"""A notebook's parameters, with type, range and default, and the values that a run resolves them to."""

import json
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, FiniteFloat, Strict, StrictBool, StrictInt, ValidationError

from pwl_lab.study.settings import SETTINGS
from pwl_lab.support import paths
from pwl_lab.support.config import Settings, describe, read_preset
from pwl_lab.support.errors import InvalidValueError, invalid, shown, unknown
from pwl_lab.support.parameters_cell import NOT_LITERAL, check_literal, values_in
from pwl_lab.support.yaml12 import read_yaml

SERIES = re.compile(r"\d\d[a-z]?_.*\.ipynb")  # 04b is an appendix of 04
DEEPEST = 100  # how deep lists and mappings may be nested
TOO_DEEP = f"its lists and mappings are nested more than {DEEPEST} deep, which no notebook needs"
NO_NOTEBOOK = "this file is not a Jupyter notebook"


# What papermill, nbclient and this package read of a notebook; nbformat's schema does not cover papermill's metadata or ours.
class _Ours(BaseModel):
    settings: str | None = None
    metrics: StrictBool | None = None
    timed: StrictBool | None = None
    processor_minutes: Annotated[FiniteFloat, Strict()] | None = None
    result: str | None = None
    thumbnail: str | None = None


class _Metadata(BaseModel):
    pwl_lab: _Ours = _Ours()
    kernelspec: dict[str, Any] = {}
    language_info: dict[str, Any] = {}
    papermill: dict[str, Any] = {}
    jupytext: dict[str, Any] = {}


class _CellMetadata(BaseModel):
    tags: list[str] = []
    papermill: dict[str, Any] = {}
    execution: dict[str, Any] = {}


class _Cell(BaseModel):
    cell_type: Literal["code", "markdown", "raw"]
    source: Any
    metadata: _CellMetadata
    outputs: list[dict[str, Any]] = []
    attachments: dict[str, dict[str, Any]] = {}
    id: str = ""


class _Notebook(BaseModel):
    nbformat: Any
    nbformat_minor: StrictInt = 0
    metadata: _Metadata = _Metadata()
    cells: list[_Cell]


ALLOWED = {  # by the type of pydantic's error
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "list_type": "a list",
    "string_type": "a text",
    "bool_type": "true or false",
    "int_type": "a whole number",
}


@dataclass(frozen=True)
class ResolvedParameters:
    """What a run will use: `given` by the caller, `inject`ed into the notebook, and everything `resolved`."""

    preset: str | None
    given: dict[str, Any] = field(default_factory=dict)
    inject: dict[str, Any] = field(default_factory=dict)
    resolved: dict[str, Any] = field(default_factory=dict)


def series() -> list[Path]:
    """The notebooks of the series, in order."""
    return sorted(path for path in paths.notebooks().glob("*.ipynb") if SERIES.fullmatch(path.name))


def resolve_notebook(name: str | Path) -> Path:
    """The notebook that `name` means: a file, a name among the project's notebooks, or how only one begins.

    A number is that of a notebook (`4` and `04` are `04_...`), with a letter that of an appendix (`4b` is `04b_...`).

    Raises UnknownNameError naming the nearest one, InvalidValueError when several begin like this, and MissingDataError
    where there is neither such a file nor a checkout.
    """
    folder = paths.notebooks()
    for file in (Path(name), Path(f"{name}.ipynb"), folder / str(name), folder / f"{name}.ipynb"):
        with suppress(OSError, ValueError):  # too long for a file name, or with a character that no file name can have
            if file.is_file():
                return file.resolve()
    known = {path.stem: path for path in sorted(folder.glob("*.ipynb"))}
    number = re.fullmatch(r"(\d{1,2})([a-z]?)", str(name))
    begins = f"{int(number[1]):02}{number[2]}_" if number else str(name)
    found = [stem for stem in known if stem.startswith(begins)] if begins else []
    if len(found) > 1:
        raise invalid("notebook", str(name), f"several notebooks begin like this: {', '.join(found)}")
    if not found and not paths.is_checkout():
        raise paths.needs_checkout(f"there is no notebook {shown(str(name))} here. Those of the series need")
    if not found:
        raise unknown("notebook", str(name), known)
    return known[found[0]].resolve()


def read_notebook(path: Path) -> dict[str, Any]:
    """The notebook in this file, each cell's source as one text. Raises InvalidValueError when the file holds none."""
    try:
        text = path.read_text(encoding="utf-8")
        if text.startswith("\ufeff"):  # nbformat cannot read it either
            raise invalid("notebook", str(path), "it begins with a byte-order mark; save it as UTF-8 without one")
        nb: dict[str, Any] = json.loads(text)
        if _depth(nb) > DEEPEST:
            raise RecursionError
        _check_shape(nb, path)
        for cell in nb["cells"]:
            cell["source"] = cell["source"] if isinstance(cell["source"], str) else "".join(cell["source"])
    except RecursionError:
        raise invalid("notebook", str(path), TOO_DEEP) from None
    except (OSError, ValueError, TypeError) as error:
        if isinstance(error, InvalidValueError):
            raise
        raise invalid("notebook", str(path), NO_NOTEBOOK) from None
    return {"metadata": {}} | nb


def _depth(value: Any) -> int:
    """How deep lists and mappings are nested."""
    if not isinstance(value, dict | list):
        return 0
    return 1 + max(map(_depth, value.values() if isinstance(value, dict) else value), default=0)


def _check_shape(nb: Any, path: Path) -> None:
    """Raise InvalidValueError, naming the part, if this is not a notebook or violates Jupyter's format."""
    if isinstance(nb, dict) and nb.get("nbformat", 4) != 4:
        raise invalid("notebook", str(path), f"format {nb['nbformat']}, expected 4; open and save it in Jupyter")
    try:
        _Notebook.model_validate(nb)
    except ValidationError as error:
        wrong = error.errors(include_url=False)[0]
        names = [part for part in wrong["loc"] if isinstance(part, str)]
        if wrong["type"] == "missing" or names in ([], ["cells"]):
            raise invalid("notebook", str(path), NO_NOTEBOOK) from None
        part = f"cell {wrong['loc'][1]}, {'.'.join(names[1:])}" if names[0] == "cells" else ".".join(names)
        allowed = ALLOWED.get(wrong["type"], wrong["msg"].removeprefix("Input should be "))
        raise invalid(f"{path.name}: {part}", wrong["input"], allowed) from None


def settings_of(nb: Mapping[str, Any]) -> type[Settings] | None:
    """The settings class that the notebook's metadata names, None where it names none (a user's own notebook)."""
    section = nb["metadata"].get("pwl_lab", {}).get("settings")
    if section is None:
        return None
    if section not in SETTINGS:
        raise unknown("settings section", section, SETTINGS)
    return SETTINGS[section]


def parameter_defaults(nb: Mapping[str, Any]) -> dict[str, Any]:
    """Name and default of every parameter in the cell tagged `parameters`; NOT_LITERAL for an expression."""
    cell = _parameters_cell(nb)
    if cell is None:
        return {}
    return dict(_defaults_in(cell["source"]))


@lru_cache(maxsize=8)
def _defaults_in(source: str) -> dict[str, Any]:
    """The defaults in the source of a parameters cell; cached, since a grid asks once per point."""
    try:
        return values_in(source)
    except SyntaxError as error:
        raise InvalidValueError(f"the parameters cell is not plain Python (line {error.lineno}): {error.msg}") from None


def parse_parameters(pairs: Iterable[str]) -> dict[str, Any]:
    """`["seeds=[0,1]", "device=cpu"]` as names and values, each value read as YAML. Raises InvalidValueError."""
    values: dict[str, Any] = {}
    for pair in pairs:
        name, sign, text = pair.partition("=")
        name = name.strip()
        if not sign or not name.isidentifier():
            raise invalid("-p", pair, "a name and a value, such as n_bits=30")
        if name in values:
            raise invalid("-p", pair, f"{name} is given twice")
        try:
            values[name] = read_yaml(text)
        except InvalidValueError as error:
            raise invalid(name, text, str(error)) from None
    return values


def check_value(nb: Mapping[str, Any], name: str, value: Any) -> None:
    """Check one parameter alone: that the notebook has it, its type and range, not how it fits the others.

    Raises UnknownNameError and InvalidValueError.
    """
    settings, defaults = settings_of(nb), parameter_defaults(nb)
    if name == "preset":
        _check_preset_taken(nb, value)
    if name not in defaults:
        raise unknown("parameter", name, defaults)
    if settings is None or name not in settings.model_fields:
        _fitting(name, value, defaults[name])
    elif name == "preset":
        read_preset(value)
    elif value is not None:  # None means: as in the preset
        settings.checked({name: value})


def resolve_parameters(nb: Mapping[str, Any], preset: str | None, params: Mapping[str, Any]) -> ResolvedParameters:
    """Check `preset` and `params` against the notebook; what is refused is named, nothing is started.

    Only what is given is injected (and the preset, and `interactive` off unless asked for): the parameters cell keeps
    None for "as the preset says". Raises UnknownNameError and InvalidValueError.
    """
    given = dict(params)
    _check_preset_taken(nb, preset)
    if preset is not None and given.setdefault("preset", preset) != preset:
        raise invalid("preset", given["preset"], f"--preset already says {preset!r}")
    settings, defaults = settings_of(nb), parameter_defaults(nb)
    for name in given:
        if name not in defaults:
            raise unknown("parameter", name, defaults)
    quiet = {"interactive": False} if defaults.get("interactive", NOT_LITERAL) in (True, False, None) else {}
    fields = settings.model_fields if settings else {}
    free = {name: _fitting(name, value, defaults[name]) for name, value in given.items() if name not in fields}
    literals = {name: value for name, value in defaults.items() if value is not NOT_LITERAL}
    if settings is None:
        given = free
        return ResolvedParameters(given.get("preset"), given, quiet | given, literals | quiet | given)
    check_literal(defaults | quiet | given)
    asked = (given.get("preset"), literals.get("preset"), settings.model_fields["preset"].default)
    chosen = next(name for name in asked if name is not None)
    over = {name: value for name, value in (literals | quiet | given).items() if name in fields and name != "preset"}
    resolved = literals | settings.load(chosen, **over).model_dump(mode="json") | free
    given = {name: resolved[name] for name in given}
    sent = {name: resolved[name] for name in {"preset": chosen, **quiet, **given} if name in defaults}
    return ResolvedParameters(chosen, given, sent, resolved)


def _check_preset_taken(nb: Mapping[str, Any], preset: str | None) -> None:
    """Raise InvalidValueError if a preset is given to a notebook without that parameter."""
    if preset is not None and "preset" not in parameter_defaults(nb):
        raise invalid("preset", preset, "this notebook takes no preset, because it has no parameter of that name")


def describe_parameters(nb: Mapping[str, Any], preset: str | None = None) -> list[dict[str, Any]]:
    """One row per parameter of the notebook: name, type, default, range, description."""
    settings = settings_of(nb)
    _check_preset_taken(nb, preset)
    if settings is not None:
        chosen = parameter_defaults(nb).get("preset") or "lesson" if preset is None else preset
        return describe(settings, chosen)
    comments = _comments(nb)
    return [
        {
            "name": name,
            "type": "any" if value is None or value is NOT_LITERAL else type(value).__name__,
            "default": str(value) if value is NOT_LITERAL else value,
            "range": "",
            "description": comments.get(name, ""),
        }
        for name, value in parameter_defaults(nb).items()
    ]


def heading_of(nb: Mapping[str, Any]) -> str | None:
    """The first heading of the first markdown cell, as plain text: without the signs of formulas, emphasis and code."""
    for cell in nb["cells"]:
        if cell["cell_type"] == "markdown":
            found = re.search(r"^#{1,6}\s+(.+?)\s*#*$", cell["source"], re.MULTILINE)
            return plain_heading(found.group(1)) if found else None
    return None


def plain_heading(text: str) -> str:
    """A heading without the signs of formulas, emphasis and code."""
    return re.sub(r"[$*`]", "", text)


def _parameters_cell(nb: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The first cell tagged `parameters`, the one that papermill takes."""
    return next((cell for cell in nb["cells"] if "parameters" in cell["metadata"].get("tags", [])), None)


def _comments(nb: Mapping[str, Any]) -> dict[str, str]:
    """The comment after each parameter, as its description."""
    cell = _parameters_cell(nb)
    lines = cell["source"].splitlines() if cell is not None else []
    found = (re.match(r"(\w+)\s*(?::[^=]+)?=.*?\s#\s*(.+)$", line) for line in lines)
    return {match.group(1): match.group(2) for match in found if match}


def _fitting(name: str, value: Any, default: Any) -> Any:
    """`value` as the type of `default`, or an InvalidValueError; a default of None or an expression allows anything."""
    if default is None or default is NOT_LITERAL:
        return value
    wanted = type(default)
    if wanted is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if wanted is tuple and isinstance(value, list):
        return value
    if type(value) is not wanted:
        hint = f"; for text, write '{name}=\"{value}\"'" if wanted is str else ""
        raise invalid(name, value, f"the default {default!r} is of type {wanted.__name__}{hint}")
    return value
