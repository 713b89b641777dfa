"""From a grid file to the points of a batch: one notebook, and the parameter values to run it with.

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
`parameters`. Every value is checked against the notebook, and every error is said at once, before anything starts.
"""

import itertools
import json
import math
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError

from pwl_lab import __version__
from pwl_lab.runner.parameters import (
    check_value,
    parameter_defaults,
    read_notebook,
    resolve_notebook,
    resolve_parameters,
)
from pwl_lab.runner.points import BatchPlan, Point, Values, words
from pwl_lab.runner.run_folder import RunStatus, read_status
from pwl_lab.support import paths
from pwl_lab.support.config import Frozen, content_hash
from pwl_lab.support.errors import InvalidValueError, PwlLabError, invalid, shown, unknown
from pwl_lab.support.yaml12 import read_yaml

MOST_POINTS = 100_000
MOST_FAULTS = 50  # how many of them an error message lists
HASH_DIGITS = 20  # 80 bits: among a hundred thousand points, two share a hash by chance once in 10^14 batches

Key = tuple[str, str]  # a parameter and its value, in a form that can be in a set


class AxisGroup(Frozen):
    """One entry of `axes`: exactly one of the three is given."""

    product: dict[str, list[Any]] | None = None
    zip: dict[str, list[Any]] | None = None
    points: list[Values] | None = None

    @property
    def kind(self) -> str:
        """Which of the three it is (the first, where more are given: `faults` says so)."""
        return next((name for name in AxisGroup.model_fields if getattr(self, name) is not None), "product")

    @property
    def names(self) -> set[str]:
        """The parameters that this group sets."""
        given = getattr(self, self.kind) or {}
        return {name for point in given for name in point} if isinstance(given, list) else set(given)

    def faults(self) -> list[str]:
        """What is wrong with the group's form."""
        given = [name for name in AxisGroup.model_fields if getattr(self, name) is not None]
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
            listed = ", ".join(f"{name} has {length}" for name, length in lengths.items())
            found.append(f"zip: lists of equal length expected, but {listed}")
        return found

    def factors(self) -> list[list[Values]]:
        """Lists of rows, each row to be combined with those of the other lists: one list for each axis of a product."""
        if self.product is not None:
            return [[{name: value} for value in each] for name, each in self.product.items()]
        if self.zip is not None:
            return [[dict(zip(self.zip, row, strict=True)) for row in zip(*self.zip.values(), strict=True)]]
        return [self.points or []]

    def entries(self) -> Iterator[tuple[str, str, Any]]:
        """Every value, with where it stands in the group and its parameter."""
        values = getattr(self, self.kind) or {}
        if isinstance(values, list):
            for index, point in enumerate(values):
                yield from ((f"points[{index}]", name, value) for name, value in point.items())
        else:
            for name, each in values.items():
                yield from ((f"{self.kind}.{name}[{index}]", name, value) for index, value in enumerate(each))


class Grid(Frozen):
    """A grid file's content; its form is checked here, its values against the notebook by `plan_grid`."""

    notebook: str | int
    preset: str | None = None
    parameters: Values = Field(default_factory=dict)
    axes: list[AxisGroup] = Field(default_factory=list)
    exclude: list[Values] = Field(default_factory=list)
    seeds: list[int] = Field(default_factory=list)
    resources: dict[str, Annotated[float, Field(gt=0, allow_inf_nan=False)]] = Field(default_factory=dict)
    timeout: int | None = Field(None, ge=1)

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
        return math.prod(len(rows) for group in self.axes for rows in group.factors()) * max(1, len(self.seeds))

    @property
    def can_expand(self) -> bool:
        """Whether the points can be listed: each group of axes has rows, and they are not too many."""
        return not any(group.faults() for group in self.axes) and self.count() <= MOST_POINTS

    def faults(self) -> list[str]:
        """What is wrong with the grid's form: groups, too many points, names that are set twice, excludes, seeds."""
        found = [f"axes[{index}]: {fault}" for index, group in enumerate(self.axes) for fault in group.faults()]
        if not found and self.count() > MOST_POINTS:
            found.append(f"{self.count():,} points are more than the {MOST_POINTS:,} that one batch may have")
        owners = [("preset", {"preset"} if self.preset is not None else set()), ("parameters", set(self.parameters))]
        owners += [(f"axes[{index}]", group.names) for index, group in enumerate(self.axes)]
        owners += [("seeds", {"seed", "seeds"} if self.seeds else set())]
        for (one, names), (other, more) in itertools.combinations(owners, 2):
            found += [f"{name} is set both in {one} and in {other}" for name in sorted(names & more)]
        for index, values in enumerate(self.exclude):
            found += [] if values else [f"exclude[{index}] is empty: it would leave no point"]
            for name in set(values) - self.axis_names - {"seed"}:
                found.append(f"exclude[{index}]: {unknown('axis', name, self.axis_names | {'seed'})}")
        if len(set(self.seeds)) != len(self.seeds):
            found.append(str(invalid("seeds", self.seeds, "each seed once")))
        return found

    def entries(self) -> Iterator[tuple[str, str, Any]]:
        """Every value but the seeds, with where it stands in the file and its parameter."""
        if self.preset is not None:
            yield "preset", "preset", self.preset
        yield from (("parameters", name, value) for name, value in self.parameters.items())
        for index, group in enumerate(self.axes):
            yield from ((f"axes[{index}].{where}", name, value) for where, name, value in group.entries())

    def expand(self) -> tuple[list[Values], list[str]]:
        """The values of every point (a seed under the name `seed`), and the excludes that match no point.

        The points come in the order of the file; the last axis runs fastest.
        """
        factors = [rows for group in self.axes for rows in group.factors()]
        factors.append([{"seed": seed} for seed in self.seeds] or [{}])
        unused = dict(enumerate(self.exclude))
        points = []
        for rows in itertools.product(*factors):
            values = {name: value for row in rows for name, value in row.items()}
            hits = [index for index, excluded in enumerate(self.exclude) if _has(values, excluded)]
            if not hits:
                points.append(values)
            for index in hits:
                unused.pop(index, None)
        known = self.axis_names | {"seed"}
        unused = {index: excluded for index, excluded in unused.items() if set(excluded) <= known}
        return points, [f"exclude[{index}] ({words(excluded)}) meets no point" for index, excluded in unused.items()]


def _has(values: Values, wanted: Values) -> bool:
    """Whether `values` contains everything in `wanted`."""
    return all(name in values and values[name] == value for name, value in wanted.items())


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
    faults: list[str] = []
    try:
        grid = Grid.model_validate(raw, strict=True)
    except ValidationError as error:
        problems = error.errors(include_url=False)
        faults = [_explain(problem) for problem in problems]
        dropped = {problem["loc"][0] for problem in problems}
        dropped |= {"exclude"} if "axes" in dropped else set()  # it refers to axes that are not known at this point
        rest = {name: part for name, part in raw.items() if name not in dropped}
        if "notebook" not in rest:
            return None, faults
        grid = Grid.model_validate(rest, strict=True)
    return grid, list(dict.fromkeys(faults + grid.faults()))


def _explain(problem: Mapping[str, Any]) -> str:
    """One line about one invalid part of the file."""
    where = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in problem["loc"]).lstrip(".")
    if problem["type"] == "extra_forbidden":
        known = Grid.model_fields if len(problem["loc"]) == 1 else AxisGroup.model_fields
        head = "" if len(problem["loc"]) == 1 else f"{where.rpartition('.')[0]}: "
        return head + str(unknown("key", problem["loc"][-1], known))
    if problem["type"] == "missing":
        return f"{where} is missing"
    where = where.removesuffix(".int").removesuffix(".str")  # the alternatives of `notebook`
    return f"{where} = {shown(problem['input'])} is not allowed: {problem['msg'][0].lower()}{problem['msg'][1:]}"


def _refusal(path: Path, faults: Sequence[str]) -> InvalidValueError:
    """One error that lists all of them."""
    lines = [f"  - {fault}" for fault in faults[:MOST_FAULTS]]
    more = [f"  and {len(faults) - MOST_FAULTS:,} more"] if len(faults) > MOST_FAULTS else []
    head = f"{path}: {len(faults):,} error{'s' if len(faults) > 1 else ''}; nothing was started"
    return InvalidValueError("\n".join([head, *lines, *more]))


def plan_grid(path: Path) -> BatchPlan:
    """The points of a grid file. Nothing is started or written.

    Every value is checked once by itself, then every point as a whole. Raises InvalidValueError that lists all that is
    wrong with the grid's form, values and points.
    """
    grid, faults = read_grid(path)
    if grid is None:
        raise _refusal(path, faults)
    try:
        notebook = resolve_notebook(grid.notebook_name)
        nb = read_notebook(notebook)
        known = parameter_defaults(nb)
    except PwlLabError as error:
        raise _refusal(path, [*faults, str(error)]) from None
    wrong = _wrong_values(grid, nb)
    faults += dict.fromkeys(wrong.values())
    if seedless := bool(grid.seeds and not _seed(0, known)):
        faults.append("seeds: the notebook has no parameter seeds or seed that they could be given to")
    if seedless or not grid.can_expand:
        raise _refusal(path, faults)
    points, more = _points(grid, nb, wrong)
    faults += more
    if not points and not faults:
        faults.append("every point is excluded")
    if faults:
        raise _refusal(path, faults)
    return BatchPlan(notebook, notebook_hash(nb), grid.preset, grid.timeout, grid.resources, tuple(points))


def _wrong_values(grid: Grid, nb: Mapping[str, Any]) -> dict[Key, str]:
    """Each value that is invalid by itself, and why."""
    known, seen, wrong = parameter_defaults(nb), set[Key](), dict[Key, str]()
    seeds = (("seeds", name, value) for seed in grid.seeds for name, value in _seed(seed, known).items())
    for where, name, value in itertools.chain(grid.entries(), seeds):
        key = _key(name, value)
        if key in seen:
            continue
        seen.add(key)
        if name not in known:
            wrong[key] = f"{where.partition('[')[0]}: {unknown('parameter', name, known)}"
            continue
        try:
            check_value(nb, name, value)
        except PwlLabError as error:
            wrong[key] = f"{where}: {error}"
    return wrong


def _points(grid: Grid, nb: Mapping[str, Any], wrong: Mapping[Key, str]) -> tuple[list[Point], list[str]]:
    """Every valid point, and what is wrong with the others and with the excludes.

    A value that is `wrong` by itself is not reported again for each point.
    """
    expanded, faults = grid.expand()
    known, cells = parameter_defaults(nb), notebook_hash(nb)
    preset = {} if grid.preset is None else {"preset": grid.preset}
    unfit: dict[str, list[Values]] = {}
    points: dict[str, Point] = {}
    twice = []
    for values in expanded:
        params = grid.parameters | {name: value for name, value in values.items() if name != "seed" or not grid.seeds}
        params |= _seed(values["seed"], known) if grid.seeds else {}
        if wrong and any(_key(name, value) in wrong for name, value in (preset | params).items()):
            continue
        try:
            point = Point(_hash(cells, resolve_parameters(nb, grid.preset, params).resolved), values, params)
        except InvalidValueError as error:
            unfit.setdefault(str(error), []).append(values)
            continue
        if point.hash in points:
            twice.append(f"({point.words}) is the same run as ({points[point.hash].words})")
        points.setdefault(point.hash, point)
    for reason, those in unfit.items():
        more = f" and {len(those) - 1:,} more" if len(those) > 1 else ""
        faults.append(f"point ({words(those[0])}){more}: {reason}")
    return list(points.values()), faults + twice


def _seed(seed: int, known: Mapping[str, Any]) -> Values:
    """The parameter that gives a point its one seed; none where the notebook has no such parameter."""
    return {"seeds": [seed]} if "seeds" in known else {"seed": seed} if "seed" in known else {}


def _key(name: str, value: Any) -> Key:
    """The parameter and its value, in which true differs from 1."""
    return name, json.dumps(value, sort_keys=True)


def notebook_hash(nb: Mapping[str, Any]) -> str:
    """The hash of a notebook's cells: kind, source and tags; outputs and metadata of an editor do not count."""
    return content_hash([[cell["cell_type"], cell["source"], cell["metadata"].get("tags", [])] for cell in nb["cells"]])


def hash_here(notebook: Path, preset: str | None, params: Mapping[str, Any]) -> str:
    """The hash of one point as this machine would run it: with the cells, presets and data that it has now.

    Raises UnknownNameError and InvalidValueError as `resolve_parameters` does.
    """
    nb = read_notebook(notebook)
    return _hash(notebook_hash(nb), resolve_parameters(nb, preset, params).resolved)


def _hash(cells: str, resolved: Values) -> str:
    """The hash of a point: of the notebook's cells, all parameters, the package's version and the data's checksums."""
    parts = {"notebook": cells, "parameters": resolved, "version": __version__, "data": _data(resolved.get("dataset"))}
    return content_hash(parts)[:HASH_DIGITS]


def _data(name: Any) -> Any:
    """The recorded checksums of a dataset, which are checked at every read; None if there are none."""
    if name is None:
        return None
    from pwl_lab.tasks.datasets import DATASETS  # it imports numpy, which a grid over parities does not need

    return [[file.name, file.sha256] for file in DATASETS[name].files.members] if name in DATASETS else None


def seconds_per_point(plan: BatchPlan, earlier: Iterable[RunStatus]) -> tuple[float, str] | None:
    """How long a point may take: the median over `earlier` points that went well, else the last run of the series.

    With where the number is from; None where there was neither.
    """
    found = [status.seconds for status in earlier if status.status == "ok"]
    if found:
        return statistics.median(found), f"the median of {len(found)} earlier points"
    status = read_status(paths.runs() / (plan.preset or "lesson") / plan.notebook.stem)
    if status and status.status == "ok" and Path(status.notebook).name == plan.notebook.name:
        return status.seconds, f"the last run of the series at preset {status.preset}"
    return None
