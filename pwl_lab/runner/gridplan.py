"""From a grid file to the points of a batch: every value checked against the notebook, every error at once."""

import json
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pwl_lab import __version__
from pwl_lab.runner.grid import Grid, Values, read_grid, refusal, words
from pwl_lab.runner.parameters import check_value, make_plan, parameter_defaults, read_notebook, resolve_notebook
from pwl_lab.runner.status import RunStatus, read_status
from pwl_lab.support import paths
from pwl_lab.support.config import content_hash
from pwl_lab.support.errors import InvalidValueError, PwlLabError, unknown

HASH_DIGITS = 20  # 80 bits: a hundred thousand points meet by chance once in 10^14 batches

Bad = set[tuple[str, str]]


@dataclass(frozen=True)
class Point:
    """One run: its `values` on the axes (a seed under `seed`), all `params` it is given, and the hash that names it."""

    hash: str
    values: Values
    params: Values

    @property
    def words(self) -> str:
        """The point as a reader says it."""
        return words(self.values)


@dataclass(frozen=True)
class BatchPlan:
    """A grid that was found good: its points, in the order of the file, and what they have in common."""

    notebook: Path
    source: str  # hash of the notebook's cells
    preset: str | None
    timeout: int | None
    resources: dict[str, float]
    points: tuple[Point, ...]


def plan_grid(path: Path) -> BatchPlan:
    """The points of a grid file. Nothing is started or written.

    Every value is checked once by itself, then every point as a whole. Raises InvalidValueError that lists all that is
    wrong with the grid's form, values and points.
    """
    grid, faults = read_grid(path)
    if grid is None:
        raise refusal(path, faults)
    try:
        notebook = resolve_notebook(grid.notebook_name)
        nb = read_notebook(notebook)
        parameter_defaults(nb)
    except PwlLabError as error:
        raise refusal(path, [*faults, str(error)]) from None
    bad: Bad = set()
    faults += _value_faults(grid, nb, bad)
    if not grid.can_expand:
        raise refusal(path, faults)
    points, more = _points(grid, nb, bad)
    faults += more
    if not points and not faults:
        faults.append("every point is excluded")
    if faults:
        raise refusal(path, faults)
    return BatchPlan(notebook, source_hash(nb), grid.preset, grid.timeout, grid.resources, tuple(points))


def source_hash(nb: Mapping[str, Any]) -> str:
    """The hash of a notebook's cells: kind, source and tags; outputs and metadata of an editor do not count."""
    return content_hash([[cell["cell_type"], cell["source"], cell["metadata"].get("tags", [])] for cell in nb["cells"]])


def hash_here(notebook: Path, preset: str | None, params: Mapping[str, Any]) -> str:
    """The hash of one point as this machine would run it: with the cells, presets and data that it has now.

    Raises UnknownNameError and InvalidValueError as `make_plan` does.
    """
    nb = read_notebook(notebook)
    return _hash(source_hash(nb), make_plan(nb, preset, params).resolved)


def seconds_per_point(plan: BatchPlan, earlier: Iterable[RunStatus]) -> tuple[float, str] | None:
    """How long a point may take: the median over `earlier` points that went well, else the last run of the series.

    With where the number is from; None where there was neither.
    """
    found = [status.seconds for status in earlier if status.status == "ok"]
    if found:
        return statistics.median(found), f"the median of {len(found)} earlier points"
    status = read_status(paths.runs() / (plan.preset or "lesson") / plan.notebook.stem)
    if _is_run_of(status, plan):
        return status.seconds, f"the last run of the series at preset {status.preset}"
    return None


def _is_run_of(status: RunStatus | None, plan: BatchPlan) -> bool:
    """Whether this is a good run of the plan's notebook at its preset."""
    return bool(status and status.status == "ok" and Path(status.notebook).name == plan.notebook.name)


def _entries(grid: Grid) -> Iterator[tuple[str, str, Any]]:
    """Every value that the grid gives: where, for which parameter, what."""
    if grid.preset is not None:
        yield "preset", "preset", grid.preset
    yield from (("parameters", name, value) for name, value in grid.parameters.items())
    for index, group in enumerate(grid.axes):
        yield from ((f"axes[{index}].{place}", name, value) for place, name, value in group.entries())


def _value_faults(grid: Grid, nb: Mapping[str, Any], bad: Bad) -> list[str]:
    """What is wrong with single values; `bad` gets them, so that no point is blamed for them again."""
    faults: dict[str, None] = {}
    seen: Bad = set()
    known = parameter_defaults(nb)
    for place, name, value in _entries(grid):
        key = (name, _key(value))
        if key in seen:
            continue
        seen.add(key)
        if name not in known:
            bad.add(key)
            faults.setdefault(f"{place.partition('[')[0]}: {unknown('parameter', name, known)}")
            continue
        try:
            json.dumps(value)
            check_value(nb, name, value)
        except TypeError:
            bad.add(key)
            faults[f"{place}: {name} = {value} is not allowed: numbers, texts, true or false, lists and mappings"] = (
                None
            )
        except PwlLabError as error:
            bad.add(key)
            faults[f"{place}: {error}"] = None
    return [*faults, *_seed_faults(grid, nb, bad)]


def _seed_faults(grid: Grid, nb: Mapping[str, Any], bad: Bad) -> list[str]:
    """What is wrong with the seeds; `bad` gets them."""
    faults = {}
    for seed in grid.seeds:
        given = _seed(seed, parameter_defaults(nb))
        fault = None if given else "the notebook has no parameter seeds or seed that they could be given to"
        try:
            for name, value in given.items():
                check_value(nb, name, value)
        except PwlLabError as error:
            fault = str(error)
        if fault:
            bad.add(("seed", _key(seed)))
            faults[f"seeds: {fault}"] = None
    return list(faults)


def _points(grid: Grid, nb: Mapping[str, Any], bad: Bad) -> tuple[list[Point], list[str]]:
    """Every point that is good as a whole, and what is wrong with the others and with the excludes."""
    expanded, faults = grid.expand()
    known = parameter_defaults(nb)
    together: dict[str, list[Values]] = {}
    points: dict[str, Point] = {}
    twice: list[str] = []
    common_bad = any((name, _key(value)) in bad for name, value in _common(grid).items())
    source = source_hash(nb)
    for values in [] if common_bad else expanded:
        if any((name, _key(value)) in bad for name, value in values.items()):
            continue
        params = grid.parameters | {name: value for name, value in values.items() if name != "seed" or not grid.seeds}
        params |= _seed(values["seed"], known) if grid.seeds else {}
        try:
            resolved = make_plan(nb, grid.preset, params).resolved
        except InvalidValueError as error:
            together.setdefault(str(error), []).append(values)
            continue
        point = Point(_hash(source, resolved), values, params)
        if point.hash in points:
            twice.append(f"({point.words}) is the same run as ({points[point.hash].words})")
        points.setdefault(point.hash, point)
    faults += [_words_of(error, where) for error, where in together.items()] + twice
    return list(points.values()), faults


def _common(grid: Grid) -> Values:
    """What is the same at every point."""
    return grid.parameters | ({} if grid.preset is None else {"preset": grid.preset})


def _seed(seed: int, known: Mapping[str, Any]) -> Values:
    """The parameter that gives a point its one seed."""
    return {"seeds": [seed]} if "seeds" in known else {"seed": seed} if "seed" in known else {}


def _hash(source: str, resolved: Values) -> str:
    """The name of a point: the notebook's cells, all parameters, the package's version and the data's checksums."""
    parts = {"notebook": source, "parameters": resolved, "version": __version__, "data": _data(resolved.get("dataset"))}
    return content_hash(parts)[:HASH_DIGITS]


def _data(name: Any) -> Any:
    """The recorded checksums of a data set, which every read compares with; None where there is none to name."""
    if name is None:
        return None
    from pwl_lab.tasks.datasets import DATASETS  # imports torch, which a grid over parities does without

    return [[file.name, file.sha256] for file in DATASETS[name].source.files] if name in DATASETS else None


def _words_of(error: str, where: Sequence[Values]) -> str:
    """One line for points whose values do not fit each other."""
    return f"point ({words(where[0])}){f' and {len(where) - 1:,} more' if len(where) > 1 else ''}: {error}"


def _key(value: Any) -> str:
    """A value as something that can be in a set, true apart from 1."""
    return json.dumps(value, sort_keys=True, default=repr)
