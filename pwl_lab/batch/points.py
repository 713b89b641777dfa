"""A batch's folder: one folder a point, what is done and what is to do, and one batch at a time.

    DIR/batch.json             the points of the last command, in the order of the grid
    DIR/events.jsonl           what the batches on this folder did, one JSON object a line
    DIR/points/HASH/           what `pwl-lab run` leaves, and this point's own events.jsonl

A point's folder is named by what it computes, so nothing but its `status.json` says whether it is done: the same
command again takes up where any end left off. A second batch on the same folder is refused, since two that share the
points would each report half of them; whoever wants more workers starts one batch with more.
"""

import json
import os
import platform
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
from filelock import FileLock, Timeout

from pwl_lab.batch.grid import words
from pwl_lab.batch.gridplan import BatchPlan, Point
from pwl_lab.batch.schema import parse_parameters
from pwl_lab.batch.status import NOTEBOOK, PARAMS, PROGRESS, RunError, RunStatus, read_status
from pwl_lab.errors import InvalidValueError, invalid, unknown
from pwl_lab.files import write_json

BATCH, EVENTS, POINTS = "batch.json", "events.jsonl", "points"
_LOCK, _HOLDER = ".lock", ".holder.json"


@dataclass(frozen=True)
class PointState:
    """Where one point stands: `status` is that of its run, `waiting` where there is none, `cut off` where it was lost.

    `progress` is the last line that a running notebook said.
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


def point_folder(folder: Path, name: str) -> Path:
    """Where the point with this hash goes."""
    return folder / POINTS / name


def finished(place: Path) -> RunStatus | None:
    """The status of a point that is done, None for any other: without one, with a damaged one, or with files missing."""
    status = read_status(place)
    whole = status and status.status == "ok" and (place / NOTEBOOK).is_file() and (place / PARAMS).is_file()
    return status if whole else None


def to_do(
    plan: BatchPlan, folder: Path, only: Sequence[str] = (), retry_failed: bool = False, force: bool = False
) -> list[Point]:
    """The points that a batch has to run: those that are not done.

    `retry_failed`: of those only the ones that ran and ended badly; `force`: done ones, too; `only`: see `select`.
    """
    chosen = select(plan.points, only)
    if force:
        return chosen
    if retry_failed:
        ended = {point.hash: read_status(point_folder(folder, point.hash)) for point in chosen}
        return [point for point in chosen if (s := ended[point.hash]) and s.status in ("failed", "timeout", "killed")]
    return [point for point in chosen if not finished(point_folder(folder, point.hash))]


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


def write_batch(folder: Path, plan: BatchPlan) -> None:
    """Leave the list of points, which `pwl-lab status` and the report go by."""
    write_json(
        folder / BATCH,
        {
            "notebook": plan.notebook.name,
            "preset": plan.preset,
            "points": [{"hash": point.hash, "values": point.values, "params": point.params} for point in plan.points],
        },
    )


def read_states(folder: Path) -> list[PointState]:
    """Where every point of the last command stands. Raises InvalidValueError where `folder` holds no batch."""
    try:
        listed = json.loads((folder / BATCH).read_text(encoding="utf-8"))["points"]
        points = [(str(entry["hash"]), dict(entry["values"])) for entry in listed]
    except (OSError, ValueError, KeyError, TypeError):
        raise invalid("folder", str(folder), f"no batch is there: {BATCH} cannot be read") from None
    running = holder(folder) is not None
    return [_state(point_folder(folder, name), name, values, running) for name, values in points]


def _state(place: Path, name: str, values: dict[str, Any], at_work: bool) -> PointState:
    """Where one point stands."""
    status = read_status(place)
    if status is None or (status.status == "ok" and not finished(place)):
        damaged = (place / "status.json").exists()
        return PointState(name, values, "damaged" if damaged else "waiting")
    if status.status == "running":
        return PointState(name, values, "running" if at_work else "cut off", progress=_last_line(place / PROGRESS))
    return PointState(name, values, status.status, status.seconds, status.cell, status.error)


def _last_line(path: Path) -> str:
    """The last line of a small file, empty where there is none."""
    try:
        return (path.read_text(encoding="utf-8", errors="replace").splitlines() or [""])[-1]
    except OSError:
        return ""


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
                found.append(json.loads(line))
            except ValueError:
                continue
    return found


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Inside, no other batch works on `folder`. Raises InvalidValueError, naming the one that does.

    The lock is the operating system's, so it goes with the process that holds it, however that ends.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / _LOCK, timeout=0)
        lock.acquire()
    except Timeout:
        other = _holder_facts(folder)
        who = f" (process {other['pid']} on {other['host']}, since {other['since']})" if other else ""
        raise InvalidValueError(
            f"another batch{who} is at work on {folder}; wait for it or stop it, the same command then goes on"
        ) from None
    except OSError as error:
        raise invalid("out", str(folder), f"a folder that can be made and written to ({error.strerror})") from None
    try:
        me = psutil.Process()
        facts = {"pid": me.pid, "host": platform.node(), "born": me.create_time()}
        write_json(folder / _HOLDER, facts | {"since": datetime.now(UTC).isoformat(timespec="seconds")})
        yield
    finally:
        (folder / _HOLDER).unlink(missing_ok=True)
        lock.release()


def holder(folder: Path) -> Mapping[str, Any] | None:
    """The batch that is at work on `folder`; one on another machine is taken at its word."""
    facts = _holder_facts(folder)
    if facts and facts["host"] == platform.node():
        try:
            return facts if psutil.Process(facts["pid"]).create_time() == facts["born"] else None
        except psutil.NoSuchProcess:
            return None
    return facts


def _holder_facts(folder: Path) -> Mapping[str, Any] | None:
    """What the batch that holds the lock wrote of itself."""
    try:
        facts = json.loads((folder / _HOLDER).read_text(encoding="utf-8"))
        return facts if {"pid", "host", "born", "since"} <= set(facts) else None
    except (OSError, ValueError, TypeError):
        return None
