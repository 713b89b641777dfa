"""The grid file: one notebook, and which values of its parameters to run it with.

    notebook: 02
    preset: lesson
    parameters: {teacher_width: 512}          # the same at every point
    axes:                                     # the groups are combined, each row of one with each of the others
      - product: {n_bits: [30, 50], k_sparse: [3, 4]}         # every combination
      - zip: {stage_steps: [300, 600], student_width: [32, 64]}   # side by side
      - points: [{saturation: 1}, {saturation: 2, student_lr: 0.1}]   # as they stand
    exclude: [{n_bits: 50, k_sparse: 4}]      # points that have all of these values
    seeds: [0, 1, 2]                          # each seed is a point of its own
    resources: {GPU: 1}                       # what one point needs of a Dask worker
    timeout: 600                              # seconds that one cell may run

A seed is a point of its own, so that seeds run at the same time and a stopped batch loses one of them at most; the
spread over seeds is the reader's (or the report's) to draw. Who wants all seeds in one run puts them under
`parameters`.
"""

import itertools
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from pwl_lab.support.config import Frozen
from pwl_lab.support.errors import InvalidValueError, invalid, shown, unknown
from pwl_lab.support.yaml12 import read_yaml

MOST_POINTS = 100_000
Values = dict[str, Any]


class AxisGroup(Frozen):
    """One entry of `axes`: exactly one of the three is given."""

    product: dict[str, list[Any]] | None = None
    zip: dict[str, list[Any]] | None = None
    points: list[Values] | None = None

    @property
    def kind(self) -> str:
        """Which of the three it is (the first, where more are given: `faults` says so)."""
        return next((name for name in ("product", "zip", "points") if getattr(self, name) is not None), "product")

    @property
    def names(self) -> set[str]:
        """The parameters that this group sets."""
        given = getattr(self, self.kind) or {}
        return {name for point in given for name in point} if isinstance(given, list) else set(given)

    def faults(self) -> list[str]:
        """What is wrong with the group's form."""
        given = [name for name in ("product", "zip", "points") if getattr(self, name) is not None]
        if len(given) != 1:
            return [f"expected exactly one of product, zip and points, found {', '.join(given) or 'none'}"]
        values = getattr(self, self.kind)
        if not values:
            return [f"{self.kind} is empty"]
        if self.kind == "points":
            return [f"points[{index}] is empty" for index, point in enumerate(values) if not point]
        found = [f"{self.kind}.{name} is empty" for name, each in values.items() if not each]
        lengths = {name: len(each) for name, each in values.items()}
        if self.kind == "zip" and len(set(lengths.values())) > 1:
            words = ", ".join(f"{name} has {length}" for name, length in lengths.items())
            found.append(f"zip: lists of one length expected, but {words}")
        return found

    def __len__(self) -> int:
        """How many rows there are."""
        values = getattr(self, self.kind)
        if self.kind == "product":
            return math.prod(len(each) for each in values.values())
        return len(values) if self.kind == "points" else len(next(iter(values.values())))

    def rows(self) -> list[Values]:
        """Every row of values, in the order of the file; the last axis of a product runs fastest."""
        if self.kind == "points":
            return list(self.points or ())
        values = getattr(self, self.kind)
        combine = itertools.product if self.kind == "product" else zip
        return [dict(zip(values, row, strict=True)) for row in combine(*values.values())]

    def entries(self) -> Iterator[tuple[str, str, Any]]:
        """Every value with its place in the group and its name."""
        values = getattr(self, self.kind) or {}
        if isinstance(values, list):
            for index, point in enumerate(values):
                yield from ((f"points[{index}]", name, value) for name, value in point.items())
        else:
            for name, each in values.items():
                yield from ((f"{self.kind}.{name}[{index}]", name, value) for index, value in enumerate(each))


class Grid(Frozen):
    """A grid file's content; its form is checked here, its values against the notebook by `gridplan.plan_grid`."""

    notebook: str | int
    preset: str | None = None
    parameters: Values = Field(default_factory=dict)
    axes: list[AxisGroup] = Field(default_factory=list)
    exclude: list[Values] = Field(default_factory=list)
    seeds: list[int] = Field(default_factory=list)
    resources: dict[str, float] = Field(default_factory=dict)
    timeout: int | None = None

    @property
    def notebook_name(self) -> str:
        """What the file calls the notebook; YAML reads a bare 02 as the number 2."""
        return f"{self.notebook:02d}" if isinstance(self.notebook, int) else self.notebook

    @property
    def axis_names(self) -> set[str]:
        """The parameters that differ between points, without the seeds."""
        return {name for group in self.axes for name in group.names}

    def count(self) -> int:
        """How many points there are before any is excluded."""
        return math.prod(len(group) for group in self.axes) * max(1, len(self.seeds))

    @property
    def well_formed(self) -> bool:
        """Whether each group of axes is something that has rows."""
        return not any(group.faults() for group in self.axes)

    @property
    def can_expand(self) -> bool:
        """Whether the points can be listed: they are well formed, and not too many."""
        return self.well_formed and self.count() <= MOST_POINTS

    def faults(self) -> list[str]:
        """What is wrong with the grid's form: groups, names that are set twice, excludes, numbers out of range."""
        found = [f"axes[{index}]: {fault}" for index, group in enumerate(self.axes) for fault in group.faults()]
        owners = [("preset", {"preset"} if self.preset is not None else set()), ("parameters", set(self.parameters))]
        owners += [(f"axes[{index}]", group.names) for index, group in enumerate(self.axes)]
        owners += [("seeds", {"seed", "seeds"} if self.seeds else set())]
        for (place, names), (other, more) in itertools.combinations(owners, 2):
            found += [f"{name} is set both in {place} and in {other}" for name in sorted(names & more)]
        for index, values in enumerate(self.exclude):
            found += [] if values else [f"exclude[{index}] is empty: it would leave no point"]
            for name in set(values) - self.axis_names - {"seed"}:
                found.append(f"exclude[{index}]: {unknown('axis', name, self.axis_names | {'seed'})}")
        if len(set(self.seeds)) != len(self.seeds):
            found.append(str(invalid("seeds", self.seeds, "each seed once")))
        if self.timeout is not None and self.timeout < 1:
            found.append(str(invalid("timeout", self.timeout, "a whole number of seconds from 1")))
        found += [
            str(invalid(f"resources.{name}", amount, "a number above 0"))
            for name, amount in self.resources.items()
            if not 0 < amount < math.inf
        ]
        if self.well_formed and self.count() > MOST_POINTS:
            found.append(f"{self.count():,} points are more than the {MOST_POINTS:,} that one batch may have")
        return found

    def expand(self) -> tuple[list[Values], list[str]]:
        """The values of every point (a seed under the name `seed`), and the excludes that met no point."""
        groups = [group.rows() for group in self.axes]
        groups.append([{"seed": seed} for seed in self.seeds] or [{}])
        met = [False] * len(self.exclude)
        points = []
        for rows in itertools.product(*groups):
            values = {name: value for row in rows for name, value in row.items()}
            hits = [_has(values, excluded) for excluded in self.exclude]
            met = [before or hit for before, hit in zip(met, hits, strict=True)]
            if not any(hits):
                points.append(values)
        known = self.axis_names | {"seed"}
        return points, [
            f"exclude[{index}] ({words(excluded)}) meets no point"
            for index, (excluded, hit) in enumerate(zip(self.exclude, met, strict=True))
            if not hit and set(excluded) <= known
        ]


def read_grid(path: Path) -> tuple[Grid | None, list[str]]:
    """The grid in this file, and what is wrong with its form; None where too much is wrong to go on.

    A part that is refused is left out, so that the rest can be checked, too. Raises InvalidValueError for a file that
    cannot be read or holds no mapping.
    """
    try:
        raw = read_yaml(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, InvalidValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else " ".join(str(error).split())
        raise invalid("grid", str(path), f"a YAML file that can be read ({reason})") from None
    if not isinstance(raw, dict) or not all(isinstance(name, str) for name in raw):
        raise invalid("grid", str(path), f"a YAML file with a mapping of {', '.join(Grid.model_fields)}")
    try:
        grid = Grid.model_validate(raw, strict=True)
    except ValidationError as error:
        problems = error.errors(include_url=False)
        faults = [_explain(problem) for problem in problems]
        dropped = {problem["loc"][0] for problem in problems}
        dropped |= {"exclude"} if "axes" in dropped else set()  # it speaks of axes that are not known now
        rest = {name: part for name, part in raw.items() if name not in dropped}
        if "notebook" not in rest:
            return None, faults
        grid = Grid.model_validate(rest, strict=True)
        return grid, list(dict.fromkeys(faults + grid.faults()))
    return grid, grid.faults()


def refusal(path: Path, faults: list[str], most: int = 50) -> InvalidValueError:
    """One error that lists all of them (the first `most`)."""
    lines = [f"  - {fault}" for fault in faults[:most]]
    more = [f"  and {len(faults) - most:,} more"] if len(faults) > most else []
    head = f"{path}: {len(faults):,} thing{'s are' if len(faults) > 1 else ' is'} wrong; nothing was started"
    return InvalidValueError("\n".join([head, *lines, *more]))


def words(values: Mapping[str, Any]) -> str:
    """Values as a reader says them: `n_bits=50 seed=0`."""
    return " ".join(f"{name}={_short(value)}" for name, value in values.items()) or "(the defaults)"


def _short(value: Any) -> str:
    """A value as JSON without blanks, a plain text without its quotes."""
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"), default=str)


def _has(values: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Whether `values` has all that is `wanted`."""
    return all(name in values and values[name] == value for name, value in wanted.items())


def _explain(problem: Mapping[str, Any]) -> str:
    """One line for one part of the file that is refused."""
    place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in problem["loc"]).lstrip(".")
    if problem["type"] == "extra_forbidden":
        known = Grid.model_fields if len(problem["loc"]) == 1 else AxisGroup.model_fields
        head = "" if len(problem["loc"]) == 1 else f"{place.rpartition('.')[0]}: "
        return head + str(unknown("key", problem["loc"][-1], known))
    if problem["type"] == "missing":
        return f"{place} is missing"
    place = place.removesuffix(".int").removesuffix(".str")  # the alternatives of `notebook`
    return f"{place} = {shown(problem['input'])} is not allowed: {problem['msg'][0].lower()}{problem['msg'][1:]}"
