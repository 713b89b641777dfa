"""Typed settings, the presets that fill them, and hashes of configurations.

A notebook's settings are one pydantic class (`settings.py`). Its values come from the class (defaults), the preset file
(`presets/NAME.yaml`, one section per notebook) and the notebook's own parameters; later ones take precedence.
Everything is checked here, before a kernel starts and again in the notebook's first cell. An error names the field,
the value, what is allowed and the nearest known name.
"""

import hashlib
import json
from collections.abc import Mapping
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    ValidationError,
    model_validator,
)

from pwl_lab.support import environment, paths
from pwl_lab.support.errors import InvalidValueError, MissingDataError, UnknownNameError, invalid, shown, unknown
from pwl_lab.support.own_code import is_own, located
from pwl_lab.support.parameters_cell import values_that_ran
from pwl_lab.support.yaml12 import read_yaml

Device = Literal["auto", "cpu", "cuda"]
Family = Literal["vgg", "resnet", "vit"]
OtherSeeds = Annotated[
    Literal["shipped", "trained"],
    Field(
        description="of all seeds but the first, use the results that ship with the project (shipped) or train them (trained)"
    ),
]
Products = Literal["float32", "bfloat16"]
MaskDistribution = (
    Literal["prefix", "alternating", "mixture", "all"] | dict[str, Annotated[float, Field(gt=0.0, allow_inf_nan=False)]]
)
EACH_SEED_ONCE = "each seed only once: a repeated run would make the spread look smaller than it is"
MOST_BLOCKS = 10  # of a pair of which all masks are evaluated: 1,024 masks
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Steps = Annotated[int, Field(ge=1, le=50_000_000)]
LearningRate = Annotated[float, Field(gt=0.0, le=10.0)]
Epochs = Annotated[int, Field(ge=1, le=1_000)]


def _distinct(seeds: tuple[int, ...]) -> tuple[int, ...]:
    if len(set(seeds)) != len(seeds):
        raise ValueError(EACH_SEED_ONCE)
    return seeds


Seeds = Annotated[
    tuple[Annotated[int, Field(ge=0, le=2**31 - 1)], ...],
    Field(min_length=1, max_length=1024),
    AfterValidator(_distinct),
]


def _each_once(values: tuple[Any, ...]) -> tuple[Any, ...]:
    if len(set(values)) != len(values):
        raise ValueError("each of them once: the same measured twice would be taken for two")
    return values


EachOnce = AfterValidator(_each_once)


class Frozen(BaseModel):
    """An immutable configuration without unknown fields, with a hash of its content (`content_hash`)."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    if not TYPE_CHECKING:  # so that editors show the fields

        def __init__(self, /, **values: Any) -> None:
            """Raises UnknownNameError for an unknown field, InvalidValueError for a value that is not allowed."""
            try:
                super().__init__(**values)
            except ValidationError as error:
                raise _refusal(type(self), error, f"parameter of {type(self).__name__}:") from None

        __init__.__pydantic_base_init__ = True  # pydantic itself validates nested configurations

        def __new__(cls, *_: Any, **__: Any) -> Self:
            """Raises InvalidValueError for a class that does not define what its base class asks for."""
            if missing := sorted(getattr(cls, "__abstractmethods__", ())):
                raise InvalidValueError(f"{located(cls)} must define {', '.join(missing)}")
            return super().__new__(cls)

    @model_validator(mode="wrap")
    @classmethod
    def _keep_kinds(cls, values: Any, build: ModelWrapValidatorHandler[Self]) -> Self:
        """Refuse values that pydantic would convert to another type, such as `true` to 1 and "16" to 16."""
        built = build(values)
        for name, value in values.items() if isinstance(values, Mapping) else ():
            if not _same_kind(value, getattr(built, name)):
                raise invalid(name, value, allowed(cls, name))
        return built

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """A copy with these values changed; unlike pydantic's, it is validated."""
        return type(self)(**(dict(self) | dict(update))) if update else super().model_copy(deep=deep)

    def __setattr__(self, name: str, value: Any) -> None:
        """Raises InvalidValueError: a configuration is immutable."""
        if not name.startswith("_"):
            raise invalid(name, value, f"a {type(self).__name__} is frozen; use .model_copy(update={{{name!r}: ...}})")
        super().__setattr__(name, value)


def content_hash(value: Any) -> str:
    """The SHA-256, in hex, of a JSON-like value; the order of its keys does not matter."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=_plain)
    return hashlib.sha256(text.encode()).hexdigest()


def _plain(value: Any) -> Any:
    """Replace configurations inside a hashed value by their fields."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    raise TypeError(f"{type(value).__name__} cannot be part of a configuration hash")


class Settings(Frozen):
    """The settings that every notebook has; each notebook has its own subclass."""

    section: ClassVar[str]
    # A field whose value determines further sizes: a preset has them in the section `SECTION.VALUE`.
    split_by: ClassVar[str | None] = None
    preset: str = Field(
        "lesson", description="which size: smoke tests that it runs, lesson shows the effect, paper is full size"
    )
    seeds: Seeds = Field((0,), description="one run per seed; every figure shows their spread")
    device: Device = Field("auto", description="where to compute; auto uses CUDA if available")
    interactive: bool = Field(True, description="live widgets, or the same controls as plain HTML")

    @classmethod
    def load(cls, preset: str, **overrides: Any) -> Self:
        """The preset's section for this notebook, with `overrides` in place of its values.

        Arguments:
        - `preset`: `smoke`, `lesson`, `paper`, or another file of `presets/`.
        - `overrides`: values that replace the preset's, by field; None keeps the preset's.

        Raises UnknownNameError for an unknown preset or field, InvalidValueError for a value outside its range.
        """
        given = {name: value for name, value in overrides.items() if value is not None}
        for name in overrides:
            if name not in cls.model_fields:
                raise unknown("parameter", name, cls.model_fields)
        settings = cls.checked(cls._of_preset(preset, given) | given | {"preset": preset})
        settings.check_together()
        return settings

    @classmethod
    def _of_preset(cls, preset: str, given: Mapping[str, Any]) -> dict[str, Any]:
        """The preset's values for this notebook, given the overrides."""
        content = read_preset(preset)
        values = content.get(cls.section, {})
        if cls.split_by is None:
            return values
        chosen = given.get(cls.split_by, values.get(cls.split_by, cls.model_fields[cls.split_by].default))
        return values | content.get(f"{cls.section}.{chosen}", {})

    @classmethod
    def sections(cls) -> list[str]:
        """The sections that a preset may have for this notebook."""
        choices = get_args(cls.model_fields[cls.split_by].annotation) if cls.split_by else ()
        return [cls.section, *(f"{cls.section}.{choice}" for choice in choices)]

    def check_together(self) -> None:
        """Raise InvalidValueError if values that are valid alone do not fit together."""

    @classmethod
    def from_notebook(cls, names: Mapping[str, Any]) -> Self:
        """The settings in a notebook's parameters cell: `from_notebook(globals())`.

        They are read from the source of the parameters cells that have run, which IPython keeps in `In`. So it does not
        matter if the notebook reuses the same names, and a misspelt name is an error. Without a history (a script,
        Voila), the variables themselves are used. A parameter of None takes the preset's value.

        Arguments:
        - `names`: the notebook's `globals()`.

        Raises as `load` does, and InvalidValueError if no parameters cell has run.
        """
        cells = names.get("In", ())
        if any(cells):
            given = values_that_ran(cells, Settings.model_fields)
        else:
            given = {name: names[name] for name in cls.model_fields if name in names}
        preset = given.pop("preset", None)
        return cls.load(cls.model_fields["preset"].default if preset is None else preset, **given)

    @property
    def stock(self) -> bool:
        """Whether these are the unchanged sizes of a preset large enough for the notebook's claims (not smoke)."""
        chosen = {"device", "interactive", "other_seeds", self.split_by}
        free = {name: getattr(self, name) for name in type(self).model_fields if name in chosen}
        same = type(self).load(self.preset, **free) == self
        return same and self.preset != "smoke"

    @property
    def shipped_seeds(self) -> tuple[int, ...]:
        """The seeds of which results are taken that ship with the project, where there are any: never the first."""
        return self.seeds[1:] if getattr(self, "other_seeds", "trained") == "shipped" else ()

    def banner(self) -> str:
        """One line for the top of a notebook: the sizes, and whether the text applies to them."""
        seeds = f"{len(self.seeds)} seed{'s' if len(self.seeds) > 1 else ''}, computing on {device(self.device)}"
        if self.stock:
            return f"preset {self.preset}: {seeds}"
        if self.preset == "smoke":
            return f"preset smoke: {seeds}. Tiny sizes, to test the code: the numbers mean nothing. Read at lesson."
        return f"preset {self.preset} with your own values: {seeds}. The text describes the preset's own sizes."

    @classmethod
    def checked(cls, values: Mapping[str, Any]) -> Self:
        """These values as settings. Raises InvalidValueError with a line for each invalid value."""
        try:
            return cls.model_validate(dict(values))
        except ValidationError as error:
            raise _refusal(cls, error, "parameter") from None


def read_preset(name: str) -> dict[str, dict[str, Any]]:
    """The preset `name` as section -> field -> value. Raises UnknownNameError, which suggests the nearest name."""
    known = {path.stem: path for path in paths.presets().glob("*.yaml")}
    if not isinstance(name, str) or name not in known:
        raise unknown("preset", name, known)
    return _parsed(name, known[name].read_text(encoding="utf-8"))


@lru_cache(maxsize=8)
def _parsed(name: str, text: str) -> dict[str, dict[str, Any]]:
    """The validated content of a preset file, cached: a grid asks for the same one at each point."""
    try:
        content: dict[str, dict[str, Any]] = read_yaml(text) or {}
    except InvalidValueError as error:
        raise InvalidValueError(f"preset {name}: {error}") from None
    if not isinstance(content, dict) or not all(isinstance(part, dict) for part in content.values()):
        raise MissingDataError(f"preset {name}: expected one mapping of values per notebook section")
    known = [section for cls in _concrete(Settings) for section in cls.sections()]
    for section in content:
        if section not in known:
            raise unknown(f"section in preset {name}:", section, known)
    return content


@cache  # creating it takes ten times as long as checking a value
def _schema(cls: type[BaseModel]) -> dict[str, dict[str, Any]]:
    """The JSON schema of each field."""
    fields: dict[str, dict[str, Any]] = cls.model_json_schema()["properties"]
    return fields


def _concrete(cls: type[Settings]) -> list[type[Settings]]:
    """The subclasses that belong to a notebook."""
    below = [found for child in cls.__subclasses__() for found in _concrete(child)]
    return [cls, *below] if "section" in vars(cls) else below


def describe(cls: type[Settings], preset: str) -> list[dict[str, Any]]:
    """One row per parameter: name, type, default in this preset, allowed range, description."""
    current = cls.load(preset).model_dump()
    return [
        {
            "name": name,
            "type": _type_name(_schema(cls)[name]),
            "default": current[name],
            "range": allowed(cls, name),
            "description": field.description or "",
        }
        for name, field in cls.model_fields.items()
    ]


def allowed(cls: type[BaseModel], name: str) -> str:
    """The allowed values of the field `name`, in words."""
    part = _schema(cls).get(name, {})
    if name == "preset":
        return "one of " + ", ".join(sorted(path.stem for path in paths.presets().glob("*.yaml")))
    return f"{_type_name(part)}{_range_words(part)}"


def _same_kind(given: Any, taken: Any) -> bool:
    """Whether booleans stayed booleans and strings stayed strings, also inside lists and mappings."""
    if isinstance(given, list | tuple) and isinstance(taken, list | tuple):
        return all(map(_same_kind, given, taken))
    if isinstance(given, Mapping) and isinstance(taken, Mapping):
        return all(_same_kind(value, taken[name]) for name, value in given.items())
    return all(isinstance(given, kind) == isinstance(taken, kind) for kind in (bool, str))


def _variants(part: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The alternatives of a JSON-schema type (an optional field has two)."""
    return part.get("anyOf") or part.get("oneOf") or [part]


def _type_name(part: Mapping[str, Any]) -> str:
    """The type of a field, in words."""
    words = {
        "integer": "whole number",
        "number": "number",
        "string": "text",
        "boolean": "true or false",
        "null": "none",
        "object": "mapping of masks to weights",
    }
    names = []
    for variant in _variants(part):
        if "$ref" in variant:
            names.append(variant["$ref"].rpartition("/")[2])
        elif "enum" in variant or "const" in variant:
            names.append("one of " + ", ".join(map(str, variant.get("enum", [variant.get("const")]))))
        elif variant.get("type") == "array":
            names.append(f"list of {_type_name(variant['items'])}s")
        else:
            names.append(words.get(variant.get("type", ""), variant.get("type", "value")))
    return " or ".join(names)


def _range_words(part: Mapping[str, Any]) -> str:
    """The bounds of a field in words, with a leading space; empty if it has none."""
    for variant in _variants(part):
        if variant.get("type") == "array":
            length = f", at least {variant['minItems']} of them" if "minItems" in variant else ""
            return _range_words(variant["items"]) + length
        low, high = (variant.get(f"{end}imum", variant.get(f"exclusive{end.title()}imum")) for end in ("min", "max"))
        if low is not None or high is not None:
            below = "below " if "exclusiveMaximum" in variant else ""
            words = [] if low is None else [f"{'above' if 'exclusiveMinimum' in variant else 'from'} {low}"]
            return " " + " ".join(words if high is None else [*words, f"to {below}{high}"])
    return ""


def _refusal(cls: type[BaseModel], error: ValidationError, kind: str) -> InvalidValueError:
    """A pydantic error as one of ours; messages call each field of `cls` a `kind`."""
    problems = error.errors(include_url=False)
    misspelt = [str(each["loc"][0]) for each in problems if each["type"] == "extra_forbidden" and len(each["loc"]) == 1]
    lines = [str(unknown(kind, name, cls.model_fields)) for name in misspelt]
    # a missing field may be a misspelt one
    skipped = {"extra_forbidden", "missing"} if misspelt else set()
    lines += [_explain(cls, each) for each in problems if len(each["loc"]) > 1 or each["type"] not in skipped]
    whose = f"{located(cls)}: " if is_own(cls) else ""
    return (UnknownNameError if misspelt else InvalidValueError)(whose + "; ".join(dict.fromkeys(lines)))


def _explain(cls: type[BaseModel], problem: Mapping[str, Any]) -> str:
    """One line for one invalid value."""
    field = str(problem["loc"][0]) if problem["loc"] else ""
    own = problem["type"] == "value_error"  # one of our own checks, with its own message
    reason = str(problem["ctx"]["error"]) if own else problem["msg"]
    if field not in cls.model_fields:
        return reason
    if problem["type"] == "extra_forbidden":
        return f"{field}: unknown name {problem['loc'][-1]!r}"
    if problem["type"] == "missing":
        return f"{field} is missing: {allowed(cls, field)}"
    item = f"{field}[{problem['loc'][1]}]" if len(problem["loc"]) > 1 and isinstance(problem["loc"][1], int) else field
    return f"{item} = {shown(problem['input'])} is not allowed: " + (
        reason if own else f"{allowed(cls, field)} ({reason})"
    )


def device(choice: str = "auto") -> str:
    """The name of torch's device, `cpu` or `cuda`.

    Arguments:
    - `choice`: `auto` is CUDA if available, unless `PWL_LAB_DEVICE` says otherwise.

    Raises InvalidValueError for an unknown device, and for `cuda` if torch sees none.
    """
    import torch

    choice = environment.DEVICE.get() or "auto" if choice == "auto" else choice
    if choice not in get_args(Device):
        raise invalid("device", choice, ", ".join(get_args(Device)))
    if choice == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if choice.startswith("cuda") and not torch.cuda.is_available():
        raise InvalidValueError("device = 'cuda' is not allowed: torch sees no CUDA device; use cpu or auto")
    return choice
