"""The points of a batch: one folder each, what is done and what is to do.

    OUT/batch.json             the points of the last command, in the order of the grid
    OUT/events.jsonl           what the batches at this location did, one JSON object a line
    OUT/points/HASH/           what `pwl-lab run` leaves, and this point's own events.jsonl

A point's folder is named by what it computes, so nothing but its `status.json` says whether it is done: the same
command again takes up where any end left off.
"""

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from pwl_lab.runner.location import EVENTS, POINTS, Location, LocationError
from pwl_lab.runner.parameters import parse_parameters
from pwl_lab.runner.run_folder import (
    LASTING,
    METRICS,
    NOTEBOOK,
    PARAMS,
    STATUS,
    RunError,
    RunStatus,
    parse_json,
    parse_status,
)
from pwl_lab.support.errors import invalid, unknown
from pwl_lab.support.files import ABSENT, json_text, sha256

BATCH = "batch.json"
SHOWN = 4
BAD = ("failed", "timeout", "killed")  # how a run can end badly
# Only small files are also compared by checksum: reading megabytes for thousands of points is too slow.
SUMMED = (PARAMS, METRICS)
SMALL = 1_000_000  # bytes
NEEDED = (NOTEBOOK, PARAMS)  # the files of a finished point besides its status; and METRICS, if its run left them

Values = dict[str, Any]


def words(values: Mapping[str, Any]) -> str:
    """Values as a reader says them: `n_bits=50 seed=0`; a value as JSON without blanks, a text without its quotes."""
    said = {
        name: value if isinstance(value, str) else json.dumps(value, separators=(",", ":"), default=str)
        for name, value in values.items()
    }
    return " ".join(f"{name}={value}" for name, value in said.items()) or "(the defaults)"


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
    notebook_hash: str  # of its cells
    preset: str | None
    timeout: int | None
    resources: dict[str, float]
    points: tuple[Point, ...]


@dataclass(frozen=True)
class PointResult:
    """What there is of one point: its status, where it can be read; whether its files are whole, and any are there.

    `unknown` is the reason where that cannot be known.
    """

    status: RunStatus | None = None
    whole: bool = False
    there: bool = False
    unknown: LocationError | None = None

    @property
    def done(self) -> RunStatus | None:
        """The status of a point that is done, None for any other: without one, with a damaged one, or with files missing."""
        return self.status if self.status and self.status.status == "ok" and self.whole else None


@dataclass(frozen=True)
class PointState:
    """Where one point stands: `status` is that of its run, `waiting` where there is none, `cut off` where it was lost.

    `damaged`: its files are not what its run left; `unknown`: they cannot be read, and `error` says why. `progress` is the
    last line that a running notebook said.
    """

    hash: str
    values: Values
    status: str
    seconds: float = 0.0
    cell: int | None = None
    error: RunError | None = None
    progress: str = ""

    @property
    def words(self) -> str:
        """The point as a reader says it."""
        return words(self.values)

    def as_json(self) -> dict[str, Any]:
        """The state as plain values, the traceback left out: it stands in the point's own `status.json`."""
        error = self.error and {"name": self.error.name, "message": self.error.message}
        return asdict(self) | {"error": error}

    @classmethod
    def of(cls, name: str, values: Values, result: PointResult, at_work: bool, progress: str) -> Self:
        """The state of a point with this result, whose batch is `at_work` or not."""
        status = result.status
        if result.unknown:
            error = RunError(name=type(result.unknown).__name__, message=str(result.unknown))
            return cls(name, values, "unknown", error=error)
        if status is None or (status.status == "ok" and not result.done):
            return cls(name, values, "damaged" if result.there else "waiting")
        if status.status == "running":
            return cls(name, values, "running" if at_work else "cut off", progress=progress)
        return cls(name, values, status.status, status.seconds, status.cell, status.error)


def read_results(location: Location, hashes: Sequence[str]) -> dict[str, PointResult]:
    """What there is of these points: one listing, and one reading of all their statuses.

    Where that fails although the location can be read, each point is looked at alone, and those that cannot be are
    unknown. Raises LocationError where the location as a whole cannot be read, or the only point.
    """
    try:
        return _read_results(location, hashes)
    except LocationError:
        if len(hashes) == 1:
            raise
        location.read([BATCH])
    found: dict[str, PointResult] = {}
    for name in hashes:
        try:
            found |= _read_results(location, [name])
        except LocationError as error:
            found[name] = PointResult(there=True, unknown=error)
    return found


def _read_results(location: Location, hashes: Sequence[str]) -> dict[str, PointResult]:
    """Like `read_results`, but fails as a whole if any part fails."""
    heads = {name: f"{POINTS}/{name}/" for name in hashes}
    sizes = location.sizes(f"{POINTS}/{hashes[0]}" if len(hashes) == 1 else POINTS)
    texts = location.read([head + STATUS for head in heads.values() if head + STATUS in sizes])
    found: dict[str, PointResult] = {}
    sums: dict[str, tuple[str, str]] = {}  # for each file its point, and what it should be
    for name, head in heads.items():
        status = parse_status(texts.get(head + STATUS, b""))
        lengths = {file: sizes[head + file] for file in LASTING if head + file in sizes}
        found[name] = PointResult(status, not _wrong(status, lengths), head + STATUS in sizes)
        if done := found[name].done:
            small = [file for file in SUMMED if file in done.files and lengths.get(file, SMALL) < SMALL]
            sums |= {head + file: (name, done.files[file].sha256) for file in small}
    for path, content in read_each(location, list(sums)).items():
        name, expected = sums[path]
        if content is not None and sha256(content) != expected:
            found[name] = replace(found[name], whole=False)
    return found


def read_each(location: Location, names: Sequence[str]) -> dict[str, bytes | None]:
    """As `Location.read`, but where one of these files cannot be read only that is missing: it is None.

    Raises LocationError where the location as a whole cannot be read.
    """
    try:
        return dict(location.read(names))
    except LocationError:
        location.read([BATCH])
    found: dict[str, bytes | None] = {}
    for name in names:
        try:
            found |= location.read([name])
        except LocationError:
            found[name] = None
    return found


def read_finished(folder: Path) -> RunStatus | None:
    """The status of a point that is done in this folder, None for any other. Raises OSError where that cannot be known."""
    try:
        status = parse_status((folder / STATUS).read_bytes())
    except ABSENT:
        return None
    lengths = {name: (folder / name).stat().st_size for name in LASTING if (folder / name).is_file()}
    told = status.files if status else {}
    same = all(told[name].is_at(folder / name) for name in lengths if name in told)
    return PointResult(status, not _wrong(status, lengths) and same).done


def _wrong(status: RunStatus | None, found: Mapping[str, int]) -> set[str]:
    """Which files of a point with this status are missing or have another length than its run left."""
    needed = {*NEEDED, METRICS} if status and status.metrics else {*NEEDED}
    told = status.files if status else {}
    return needed - set(found) | {name for name, length in found.items() if name in told and told[name].bytes != length}


def select_todo(
    plan: BatchPlan,
    results: Mapping[str, PointResult],
    only: Sequence[str] = (),
    retry_failed: bool = False,
    force: bool = False,
) -> list[Point]:
    """The points that a batch has to run, going by the `results` so far: those that are not done.

    `retry_failed`: of those only the ones that ran and ended badly; `force`: done ones, too; `only`: see `select`.
    """
    chosen = select(plan.points, only)
    if force:
        return chosen
    if retry_failed:
        return [point for point in chosen if (status := results[point.hash].status) and status.status in BAD]
    return [point for point in chosen if not results[point.hash].done]


def select(points: Sequence[Point], only: Sequence[str]) -> list[Point]:
    """The points that `only` names: by the first digits of their hash, or by NAME=VALUE.

    Several values of one name are alternatives, different names must all fit. Raises UnknownNameError for a name that is
    no axis, InvalidValueError where no point is met.
    """
    digits = [part for part in only if "=" not in part]
    wanted: dict[str, list[Any]] = {}
    for part in only:
        if "=" in part:
            for name, value in parse_parameters([part]).items():
                wanted.setdefault(name, []).append(value)
    axes = {name for point in points for name in point.values}
    for name in wanted:
        if name not in axes:
            raise unknown("axis", name, axes)
    for part in digits:
        if not re.fullmatch(r"[0-9a-f]+", part) or not any(point.hash.startswith(part) for point in points):
            raise invalid("--only", part, "the first digits of a point's hash, or NAME=VALUE of an axis")
    found = [
        point
        for point in points
        if (not digits or point.hash.startswith(tuple(digits)))
        and all(name in point.values and point.values[name] in values for name, values in wanted.items())
    ]
    if only and not found:
        raise invalid("--only", " ".join(only), "no point of the grid matches")
    return found


def check_own(location: Location) -> None:
    """Refuse a location where a batch would replace, or lie among, what none of ours left.

    Raises InvalidValueError for that, LocationError where it cannot be known.
    """
    text = location.read([BATCH]).get(BATCH)
    if text is not None:
        try:
            parse_json(text)["points"]
        except (ValueError, KeyError, TypeError):
            allowed = f"a location used only by this batch: the {BATCH} there is not a list of points"
            raise invalid("out", str(location), allowed) from None
        return
    others = sorted(name for name in location.beside() if not name.startswith(".") and name not in (EVENTS, POINTS))
    if others:
        few = ", ".join(others[:SHOWN]) + (f" and {len(others) - SHOWN} more" if len(others) > SHOWN else "")
        raise invalid("out", str(location), f"a folder that is new, empty, or an earlier batch's; this one holds {few}")


def write_batch(location: Location, plan: BatchPlan) -> None:
    """Leave the list of points, which `pwl-lab status` and the report go by."""
    listed = [{"hash": point.hash, "values": point.values, "params": point.params} for point in plan.points]
    location.write(BATCH, json_text({"notebook": plan.notebook.name, "preset": plan.preset, "points": listed}))


def log_event(folder: Path, event: str, **facts: Any) -> None:
    """Append one event with the time (UTC) to the folder's `events.jsonl`: one write, so lines do not mix."""
    line = json.dumps({"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "event": event} | facts)
    handle = os.open(folder / EVENTS, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        os.write(handle, f"{line}\n".encode())
    finally:
        os.close(handle)
