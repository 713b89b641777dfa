"""The points of a batch: one folder each, what is done and what is to do.

    OUT/batch.json             the points of the last command, in the order of the grid
    OUT/events.jsonl           what the batches on this place did, one JSON object a line
    OUT/points/HASH/           what `pwl-lab run` leaves, and this point's own events.jsonl

A point's folder is named by what it computes, so nothing but its `status.json` says whether it is done: the same
command again takes up where any end left off. A second batch on the same place is refused, since two that share the
points would each report half of them; whoever wants more workers starts one batch with more.
"""

import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pwl_lab.runner.grid import words
from pwl_lab.runner.gridplan import BatchPlan, Point
from pwl_lab.runner.holding import holder
from pwl_lab.runner.location import ABSENT, EVENTS, POINTS, Place, PlaceError, place_at
from pwl_lab.runner.parameters import parse_parameters
from pwl_lab.runner.status import (
    LASTING,
    METRICS,
    NOTEBOOK,
    PARAMS,
    PROGRESS,
    STATUS,
    RunError,
    RunStatus,
    parse_json,
    parse_status,
)
from pwl_lab.support.errors import invalid, unknown
from pwl_lab.support.files import json_text

BATCH = "batch.json"
SHOWN = 4
SUMMED = (PARAMS, METRICS)  # what is compared by its checksum, too, up to this length
SMALL = 1_000_000
NEEDED = (NOTEBOOK, PARAMS)  # what a point that is done has, beside its status; and METRICS, if its run left them


@dataclass(frozen=True)
class PointState:
    """Where one point stands: `status` is that of its run, `waiting` where there is none, `cut off` where it was lost.

    `damaged`: its files are not what its run left; `unknown`: they cannot be read, and `error` says why. `progress` is the
    last line that a running notebook said.
    """

    hash: str
    values: dict[str, Any]
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


@dataclass(frozen=True)
class Found:
    """What there is of one point: its status, where it can be read; whether its files are whole, and any are there.

    `unknown` is the reason where that cannot be known.
    """

    status: RunStatus | None = None
    whole: bool = False
    there: bool = False
    unknown: PlaceError | None = None

    @property
    def done(self) -> RunStatus | None:
        """The status of a point that is done, None for any other: without one, with a damaged one, or with files missing."""
        return self.status if self.status and self.status.status == "ok" and self.whole else None


def point_folder(folder: Path, name: str) -> Path:
    """Where the point with this hash goes."""
    return folder / POINTS / name


def finished(place: Path) -> RunStatus | None:
    """The status of a point that is done in this folder, None for any other. Raises OSError where that cannot be known."""
    try:
        status = parse_status((place / STATUS).read_bytes())
    except ABSENT:
        return None
    there = {name: (place / name).stat().st_size for name in LASTING if (place / name).is_file()}
    told = status.files if status else {}
    same = all(told[name].is_at(place / name) for name in there if name in told)
    return Found(status, not _wrong(status, there) and same).done


def look(place: Place, hashes: Sequence[str]) -> dict[str, Found]:
    """What there is of these points: one listing, and one reading of all their statuses.

    Where that fails although the place can be read, each point is looked at alone, and those that cannot be are unknown.
    Raises PlaceError where the place as a whole cannot be read, or the only point.
    """
    try:
        return _look(place, hashes)
    except PlaceError:
        if len(hashes) == 1:
            raise
        place.read([BATCH])
    found = {}
    for name in hashes:
        try:
            found |= _look(place, [name])
        except PlaceError as error:
            found[name] = Found(there=True, unknown=error)
    return found


def _look(place: Place, hashes: Sequence[str]) -> dict[str, Found]:
    """`look`, which fails as a whole where any of it does."""
    one = f"/{hashes[0]}" if len(hashes) == 1 else ""
    sizes = place.sizes(f"{POINTS}{one}")
    heads = {name: f"{POINTS}/{name}" for name in hashes}
    texts = place.read([f"{head}/{STATUS}" for head in heads.values() if f"{head}/{STATUS}" in sizes])
    statuses = {name: parse_status(texts.get(f"{head}/{STATUS}", b"")) for name, head in heads.items()}
    own = {
        name: {file: sizes[f"{head}/{file}"] for file in LASTING if f"{head}/{file}" in sizes}
        for name, head in heads.items()
    }
    wrong = {name: _wrong(status, own[name]) for name, status in statuses.items()}
    sums = {  # the others have megabytes, and of thousands of points that is too much to read
        f"{heads[name]}/{file}": (name, status.files[file].sha256)
        for name, status in statuses.items()
        if status and status.status == "ok" and not wrong[name]
        for file in SUMMED
        if file in status.files and own[name].get(file, SMALL) < SMALL
    }
    for path, content in read_each(place, list(sums)).items():
        name, expected = sums[path]
        if content is not None and hashlib.sha256(content).hexdigest() != expected:
            wrong[name] = {path}
    return {
        name: Found(status, not wrong[name], f"{heads[name]}/{STATUS}" in sizes) for name, status in statuses.items()
    }


def read_each(place: Place, names: Sequence[str]) -> dict[str, bytes | None]:
    """As `Place.read`, but where one of these files cannot be read only that is missing: it is None.

    Raises PlaceError where the place as a whole cannot be read.
    """
    try:
        return dict(place.read(names))
    except PlaceError:
        place.read([BATCH])
    found: dict[str, bytes | None] = {}
    for name in names:
        try:
            found |= place.read([name])
        except PlaceError:
            found[name] = None
    return found


def _wrong(status: RunStatus | None, found: Mapping[str, int]) -> set[str]:
    """Which files of a point with this status are not there as its run left them, by the lengths of those that are."""
    needed = {*NEEDED, METRICS} if status and status.metrics else {*NEEDED}
    told = status.files if status else {}
    return needed - set(found) | {name for name, length in found.items() if name in told and told[name].bytes != length}


def to_do(
    plan: BatchPlan,
    found: Mapping[str, Found],
    only: Sequence[str] = (),
    retry_failed: bool = False,
    force: bool = False,
) -> list[Point]:
    """The points that a batch has to run, after what was `found` of them: those that are not done.

    `retry_failed`: of those only the ones that ran and ended badly; `force`: done ones, too; `only`: see `select`.
    """
    chosen = select(plan.points, only)
    if force:
        return chosen
    if retry_failed:
        bad = ("failed", "timeout", "killed")
        return [point for point in chosen if (status := found[point.hash].status) and status.status in bad]
    return [point for point in chosen if not found[point.hash].done]


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
        raise invalid("--only", " ".join(only), "no point of the grid is meant")
    return found


def check_own(place: Place) -> None:
    """Raise InvalidValueError where a batch at `place` would replace, or lie among, what none of ours left; PlaceError."""
    text = place.read([BATCH]).get(BATCH)
    if text is not None:
        try:
            parse_json(text)["points"]
        except (ValueError, KeyError, TypeError):
            raise invalid("out", str(place), f"a place of the batch's own: the {BATCH} there is none's list") from None
        return
    others = sorted(name for name in place.beside() if not name.startswith(".") and name not in (EVENTS, POINTS))
    if others:
        few = ", ".join(others[:SHOWN]) + (f" and {len(others) - SHOWN} more" if len(others) > SHOWN else "")
        raise invalid("out", str(place), f"a folder that is new, empty, or an earlier batch's; this one holds {few}")


def write_batch(place: Place, plan: BatchPlan) -> None:
    """Leave the list of points, which `pwl-lab status` and the report go by."""
    listed = [{"hash": point.hash, "values": point.values, "params": point.params} for point in plan.points]
    place.write(BATCH, json_text({"notebook": plan.notebook.name, "preset": plan.preset, "points": listed}))


def read_states(out: Place | Path | str) -> list[PointState]:
    """Where every point of the last command stands.

    Raises InvalidValueError where no batch is there, PlaceError where that cannot be known.
    """
    place = place_at(out)
    try:
        listed = parse_json(place.read([BATCH])[BATCH])["points"]
        points = {str(entry["hash"]): dict(entry["values"]) for entry in listed}
    except (ValueError, KeyError, TypeError):
        raise invalid("folder", str(place), f"no batch is there: {BATCH} cannot be read") from None
    at_work = holder(place) is not None
    found = look(place, list(points))
    running = [name for name, each in found.items() if each.status and each.status.status == "running"]
    lines = read_each(place, [f"{POINTS}/{name}/{PROGRESS}" for name in running])
    said = {
        name.split("/")[1]: (text.decode(errors="replace").splitlines() or [""])[-1]
        for name, text in lines.items()
        if text is not None
    }
    return [_state(name, values, found[name], at_work, said.get(name, "")) for name, values in points.items()]


def _state(name: str, values: dict[str, Any], found: Found, at_work: bool, progress: str) -> PointState:
    """Where one point stands."""
    status = found.status
    if found.unknown:
        return PointState(name, values, "unknown", error=RunError(name="PlaceError", message=str(found.unknown)))
    if status is None or (status.status == "ok" and not found.done):
        return PointState(name, values, "damaged" if found.there else "waiting")
    if status.status == "running":
        return PointState(name, values, "running" if at_work else "cut off", progress=progress)
    return PointState(name, values, status.status, status.seconds, status.cell, status.error)


def log_event(place: Path, event: str, **facts: Any) -> None:
    """Append one event with the time (UTC) to the folder's `events.jsonl`: one write, so lines do not mix."""
    line = json.dumps({"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "event": event} | facts)
    handle = os.open(place / EVENTS, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        os.write(handle, f"{line}\n".encode())
    finally:
        os.close(handle)


def read_events(place: Path) -> list[dict[str, Any]]:
    """The events of a folder; a line that was cut off is left out."""
    found = []
    if (place / EVENTS).is_file():
        for line in (place / EVENTS).read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                found.append(parse_json(line))
            except ValueError:
                continue
    return found
