"""A batch: prepared from its grid, run by one process at a time; its status can be read by anyone at any time."""

import platform
import shutil
import time
import uuid
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
from filelock import FileLock, Timeout
from pydantic import AwareDatetime, BaseModel

from pwl_lab.runner.grid import plan_grid, seconds_per_point
from pwl_lab.runner.location import POINTS, Location, LocationError, location_at
from pwl_lab.runner.points import (
    BATCH,
    BatchPlan,
    Point,
    PointResult,
    PointState,
    check_own,
    read_each,
    read_results,
    select_todo,
    write_batch,
)
from pwl_lab.runner.run_folder import PROGRESS, STATUS, RunStatus, parse_json
from pwl_lab.support import paths, processes
from pwl_lab.support.errors import InvalidValueError, PwlLabError, invalid
from pwl_lab.support.files import json_text
from pwl_lab.support.progress import Progress
from pwl_lab.support.waiting import ticking

if TYPE_CHECKING:
    from pwl_lab.runner.dask import BatchOutcome

MOST_LINES = 60
ENDED_BADLY = ("failed", "timeout")  # on its own, not because it was stopped
LOCK, HOLDER = ".lock", ".holder.json"
STALE_S = 120.0
CLOCK_S = 5.0  # a process's start time is computed from the clock, which may be corrected in the meantime
LONG_AGO = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True)
class PreparedBatch:
    """A batch before it runs: its plan, the existing results, and the points to run."""

    plan: BatchPlan
    location: Location
    results: dict[str, PointResult]
    todo: list[Point]
    others: int = 0  # finished points at the location that the plan does not know

    def lines(self, workers: int | None) -> list[str]:
        """What would be run, and an estimate of the minutes that `workers` need (None: unknown number)."""
        points = [f"{point.hash[:8]}  {point.words}" for point in self.todo]
        return [*_cut(points), self.headline(workers)]

    def headline(self, workers: int | None) -> str:
        """How many points there are, how many have to run, and about how long that takes."""
        text = f"{len(self.plan.points):,} points of {self.plan.notebook.stem}, {len(self.todo):,} to do"
        if not self.todo:
            return text
        if self.others:
            belong = "point here belongs" if self.others == 1 else "points here belong"
            text += f" ({self.others:,} finished {belong} to another notebook, parameters or version)"
        found = seconds_per_point(self.plan, [each.status for each in self.results.values() if each.status])
        if found is None:
            return f"{text}; no time estimate, because there is no earlier run"
        seconds, source = found
        waves = -(-len(self.todo) // (workers or 1))
        where = f"on {workers} worker{'s' if workers != 1 else ''}" if workers else "on one worker"
        return f"{text}; about {waves * seconds / 60:.1f} min {where} ({seconds:.0f} s per point, {source})"


def prepare(
    grid: Path, out: Path | str, only: Sequence[str] = (), retry_failed: bool = False, force: bool = False
) -> PreparedBatch:
    """Check everything and determine what has to run; nothing is written.

    Arguments:
    - `grid`: the grid file.
    - `out`: the batch's folder or address.
    - `only`: which points, each by the first digits of its hash or by `NAME=VALUE` of an axis; all if empty.
    - `retry_failed`: only what ran and ended badly.
    - `force`: run also what is done already.

    Raises InvalidValueError for a grid, a location or a selection that is refused, and for `force` together with
    `retry_failed`; LocationError where `out` cannot be read.
    """
    if force and retry_failed:
        raise InvalidValueError(
            "--force and --retry-failed are not allowed together: one runs all points, one only those that failed"
        )
    plan, location = plan_grid(grid), location_at(out)
    check_own(location)
    results = read_results(location, [point.hash for point in plan.points])
    todo = select_todo(plan, results, only, retry_failed, force)
    return PreparedBatch(plan, location, results, todo, _count_others(location, plan) if todo else 0)


def _count_others(location: Location, plan: BatchPlan) -> int:
    """How many finished points there are that this plan does not have, for example because the notebook was edited."""
    with suppress(LocationError):  # what cannot be read is not counted: the number is only shown, nothing depends on it
        names = [name.split("/") for name in location.names(POINTS)]
        there = {parts[1] for parts in names if len(parts) == 3 and parts[2] == STATUS}
        there -= {point.hash for point in plan.points}
        if there:
            return sum(result.done is not None for result in read_results(location, sorted(there)).values())
    return 0


def check_workers(workers: int | None, scheduler: str | None) -> None:
    """Check the workers or the scheduler of a batch; nothing is written or contacted.

    Raises InvalidValueError for a number of workers below 1, or together with a scheduler, and for what cannot be a
    scheduler's address.
    """
    if workers is not None and scheduler is not None:
        raise invalid("workers", workers, "none with a scheduler, which has its own workers")
    if workers is not None and workers < 1:
        raise invalid("workers", workers, "a whole number from 1")
    if scheduler is not None:
        _import_dask()
        from pwl_lab.runner.clusters import parse_scheduler

        parse_scheduler(scheduler)


def run_batch(
    prepared: PreparedBatch,
    workers: int | None = None,
    scheduler: str | None = None,
    force: bool = False,
    on_end: Callable[[Point, RunStatus, int], None] | None = None,
    on_line: Callable[[str], None] | None = None,
) -> "BatchOutcome | None":
    """Run the points that have to run, with exclusive use of the location. Returns None if there was nothing to do.

    Arguments:
    - `prepared`: the batch, as `prepare` gives it.
    - `workers`: how many processes to start on this machine; `machine.default_workers` unless given.
    - `scheduler`: the address of a Dask scheduler instead, as `tcp://HOST:PORT`.
    - `force`: run also what is done already.
    - `on_end`: called with each point that ends, its status, and how many points run at once.
    - `on_line`: called with what there is to say while nothing ends.

    Raises InvalidValueError as `check_workers` and `dask.run_points` do, LocationError where nothing can be written.
    """
    check_workers(workers, scheduler)
    location = prepared.location
    with alone_at(location):
        _sweep(location)
        write_batch(location, prepared.plan)
        if not prepared.todo:
            return None
        _import_dask()
        from pwl_lab.runner.dask import run_points

        return run_points(prepared.plan, prepared.todo, location, workers, scheduler, force, on_end, on_line)


def _import_dask() -> None:
    """Import Dask, which reads its configuration then. Raises InvalidValueError where it does not start with that."""
    try:
        import distributed  # noqa: F401
    except ImportError:
        raise
    except Exception as error:  # noqa: BLE001 - what a wrong value makes of it depends on which it is
        why = " ".join(f"{type(error).__name__}: {error}".split())
        raise InvalidValueError(
            f"Dask does not start with its configuration on this machine: check its files, DASK_... variables ({why})"
        ) from None


def _sweep(location: Location) -> None:
    """Remove the files that Dask left behind for a batch that was killed; no other batch is running here."""
    shutil.rmtree(location.scratch / "dask-scratch-space", ignore_errors=True)
    with suppress(OSError):  # it does not exist, or contains something else, which is not ours
        location.scratch.rmdir()


class Reporter:
    """Reports a line for each point that ends: how many have ended, its status, and the estimated remaining time."""

    def __init__(self, total: int, say: Callable[[str], None]) -> None:
        """`total` points are to do; `say` takes each line."""
        self.total, self.done, self.seconds, self.say = total, 0, 0.0, say

    def __call__(self, point: Point, status: RunStatus, at_once: int) -> None:
        """Report a point that ended while `at_once` were running; the rest are expected to take as long as those before."""
        self.done += 1
        self.seconds += status.seconds
        left = self.seconds / self.done * (self.total - self.done) / at_once / 60
        more = f", about {left:.1f} min left" if left else ""
        error = f": {status.error.name}: {status.error.message}".splitlines()[0] if status.error else ""
        head = f"[{self.done}/{self.total}] {status.status} {point.hash[:8]} {point.words}"
        self.say(f"{head} ({status.seconds:.0f} s{more}){error}")


class Holder(BaseModel):
    """The content of `.holder.json`: which batch is running."""

    pid: int
    host: str
    born: float  # when its process started
    since: str
    id: str
    beat: AwareDatetime = LONG_AGO  # when it last renewed this note

    def __str__(self) -> str:
        """A description for messages."""
        return f"another batch (process {self.pid} on {self.host}, since {self.since})"

    @property
    def alive(self) -> bool:
        """Whether the batch is still running: by its process on this machine, otherwise by its last beat."""
        if self.host == platform.node():
            with suppress(psutil.AccessDenied):
                try:
                    process = psutil.Process(self.pid)
                    if process.status() == psutil.STATUS_ZOMBIE:
                        return False
                    if abs(process.create_time() - self.born) < CLOCK_S:
                        return True
                except psutil.NoSuchProcess:
                    return False
        # It is on another machine, or a process with that number started at another time, or the clock was set since then.
        return abs((datetime.now(UTC) - self.beat).total_seconds()) < STALE_S

    def write(self, location: Location, claim: bool = False) -> bool:
        """Leave it at the location, as of now; with `claim` only if none is there. Returns whether it was written."""
        text = json_text(self.model_copy(update={"beat": datetime.now(UTC)}).model_dump(mode="json"))
        if claim:
            return location.claim(HOLDER, text)
        location.write(HOLDER, text)
        return True


def find_holder(out: Location | Path | str) -> Holder | None:
    """The batch running there; None if there is none, or only the note of one that died. Raises LocationError."""
    found = _read_holder(location_at(out))
    return found if found and found.alive else None


def _read_holder(location: Location) -> Holder | None:
    """Read the note of the batch that holds the location; None if it is missing or unreadable."""
    try:
        return Holder.model_validate_json(location.read([HOLDER])[HOLDER])
    except (KeyError, ValueError):
        return None


@contextmanager
def alone_at(out: Location | Path | str) -> Iterator[None]:
    """A context in which no other batch runs there. Raises InvalidValueError, naming the one that does, and LocationError.

    Two batches that share the points would each report only half of them; for more workers, start one batch with more. On
    this machine a lock of the operating system keeps the second batch out; it ends with the process that holds it, in
    whatever way. A storage has no such lock, and other machines do not see the process: for them there is the file
    `.holder.json`. Its batch renews it every few seconds; if it has not been renewed for two minutes, the batch has died.
    In a storage it is only written if it does not exist yet, atomically where the storage supports that.
    """
    location = location_at(out)
    try:
        location.work.mkdir(parents=True, exist_ok=True)
        lock = FileLock(location.work / LOCK, timeout=0)
        lock.acquire()
    except Timeout:
        other = None
        with suppress(LocationError):  # it is running, even if its note cannot be read
            other = _read_holder(location)
        raise _refusal(location, other) from None
    except OSError as error:
        allowed = f"a folder that can be created and written to ({error.strerror})"
        raise invalid("out", str(location.work), allowed) from None
    try:
        me, now = psutil.Process(), datetime.now(UTC).isoformat(timespec="seconds")
        mine = Holder(pid=me.pid, host=platform.node(), born=me.create_time(), since=now, id=uuid.uuid4().hex)
        if not mine.write(location, claim=True):
            other = find_holder(location)
            if other and other.id != mine.id:  # this batch's own note: only the answer to the first attempt was lost
                raise _refusal(location, other)
            mine.write(location)
        with _beating(location, mine):
            yield
    finally:
        lock.release()


@contextmanager
def _beating(location: Location, mine: Holder) -> Iterator[None]:
    """A context that keeps the batch's note fresh, unless another batch has replaced it, and removes it at the end.

    If two batches are let in after all (a clock is minutes off, a machine was suspended), no point is harmed: some run
    twice, under the same hash. So a batch that finds itself replaced says so and continues: if it stopped, its points would
    be recorded as killed, perhaps over good results of the other batch.
    """
    said = False

    def beat() -> None:
        nonlocal said
        with suppress(OSError):  # a location that is unavailable for a while
            other = _read_holder(location) or mine
            if other.id == mine.id:
                mine.write(location)
            elif not said:
                said = True
                warnings.warn(
                    f"{other} has started on {location}, perhaps because this one was silent for minutes; nothing is "
                    "lost, but some points are run twice: stop one of the two",
                    RuntimeWarning,
                    stacklevel=1,
                )
            location.send_events()

    try:
        with ticking(beat, location.beat_s):
            yield
    finally:
        with suppress(OSError):
            location.send_events()
            if (_read_holder(location) or mine).id == mine.id:
                location.remove(HOLDER)


def _refusal(location: Location, other: Holder | None) -> InvalidValueError:
    """The error for a location where another batch is running."""
    who = other or "another batch"
    return InvalidValueError(f"{who} is running on {location}; wait for it or stop it, then run the same command again")


def read_states(out: Location | Path | str) -> list[PointState]:
    """The state of every point of the last command, in the order of the grid; `out` is the batch's folder or address.

    Raises InvalidValueError if there is no batch, LocationError if that cannot be determined.
    """
    location = location_at(out)
    try:
        listed = parse_json(location.read([BATCH])[BATCH])["points"]
        points = {str(entry["hash"]): dict(entry["values"]) for entry in listed}
    except (ValueError, KeyError, TypeError):
        allowed = f"the folder or address of a batch; there is no batch here ({BATCH} is missing or cannot be read)"
        raise invalid("folder", str(location), allowed) from None
    at_work = find_holder(location) is not None
    results = read_results(location, list(points))
    running = [name for name, each in results.items() if each.status and each.status.status == "running"]
    texts = read_each(location, [f"{POINTS}/{name}/{PROGRESS}" for name in running])
    said = {name.split("/")[1]: (text or b"").decode(errors="replace").splitlines() for name, text in texts.items()}
    return [
        PointState.of(name, values, results[name], at_work, (said.get(name) or [""])[-1])
        for name, values in points.items()
    ]


def summarize(states: Sequence[PointState]) -> str:
    """How many points there are of each status: `21 of 24 ok, 1 failed, 2 waiting`."""
    counts = Counter(state.status for state in states)
    good = counts.pop("ok", 0)
    return ", ".join([f"{good:,} of {len(states):,} ok", *(f"{n:,} {status}" for status, n in sorted(counts.items()))])


def describe_batch(out: Path | str) -> str:
    """The summary of a batch that was just running, or the reason why there is none."""
    try:
        return summarize(read_states(out))
    except LocationError as error:
        return str(error)


def status_lines(out: Location | Path | str) -> list[str]:
    """The status of a batch: a line for each point (if there are many, only those that are not ok), then the summary."""
    states = read_states(out)
    shown = states if len(states) <= MOST_LINES else [state for state in states if state.status != "ok"]
    lines = [_line(state) for state in sorted(shown, key=lambda state: state.status == "waiting")]
    return [*_cut(lines), summarize(states)]


def watch_batch(out: Path | str, watch: bool) -> Iterator[list[str]]:
    """The lines of `status_lines`: once, or with `watch` again and again while a batch is at work there.

    Raises as `read_states` does.
    """
    location = location_at(out)
    if watch:
        location.remember()
    yield status_lines(location)
    with suppress(KeyboardInterrupt):
        while watch and find_holder(location):
            time.sleep(location.look_s)
            yield status_lines(location)


def _line(state: PointState) -> str:
    """One point on one line."""
    facts = [f"{state.hash[:8]}  {state.status:<8}", f"{state.seconds:5.0f} s" if state.seconds else "       "]
    facts.append(state.words)
    if state.error:
        cell = "" if state.cell is None else f"cell {state.cell}: "
        message = state.error.message.strip().partition("\n")[0]
        facts.append(f"{cell}{state.error.name}: {message}"[:200])
    elif state.progress:
        facts.append(state.progress)
    return "  ".join(facts)


def _cut(lines: list[str]) -> list[str]:
    """The first of these lines, and how many more there are."""
    if len(lines) <= MOST_LINES:
        return lines
    return [*lines[:MOST_LINES], f"... and {len(lines) - MOST_LINES:,} more"]


def example_batch() -> Path:
    """The folder of the example batch (`presets/grids/example.yaml`), run now as far as it has not been.

    A point that has failed is not tried again: one of them always does. Raises PwlLabError where the batch was stopped.
    """
    folder = paths.example_batch()
    prepared = prepare(paths.grids() / "example.yaml", folder)
    ended = {name for name, found in prepared.results.items() if found.status and found.status.status in ENDED_BADLY}
    prepared = replace(prepared, todo=[point for point in prepared.todo if point.hash not in ended])
    with Progress("example batch", len(prepared.todo), "point") as bar:
        outcome = run_batch(
            prepared,
            workers=min(processes.n_workers(), processes.n_cores()),
            on_end=lambda point, status, at_once: bar.advance(1, seconds=status.seconds),
        )
    if outcome and outcome.stopped_by:
        raise PwlLabError(f"the example batch was stopped ({outcome.stopped_by}); run the cell again to resume it")
    return folder
