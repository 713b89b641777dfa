"""A batch from grid to points that are done, and how it stands: what `pwl-lab batch` and `pwl-lab status` do."""

import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from pwl_lab.runner.gridplan import BatchPlan, Point, plan_grid, seconds_per_point
from pwl_lab.runner.holding import alone_in, holder
from pwl_lab.runner.location import POINTS, Place, PlaceError, place_at
from pwl_lab.runner.points import Found, PointState, check_own, look, read_states, to_do, write_batch
from pwl_lab.runner.status import STATUS, RunStatus
from pwl_lab.support import paths, processes
from pwl_lab.support.errors import InvalidValueError, PwlLabError, invalid
from pwl_lab.support.progress import Progress

if TYPE_CHECKING:
    from pwl_lab.runner.dask import Outcome


MOST_LINES = 60
DASK = ".dask"
ENDED_BADLY = ("failed", "timeout")  # by itself, not because it was stopped


@dataclass(frozen=True)
class Prepared:
    """A batch before it runs: its plan, what there is already, and the points that are to do."""

    plan: BatchPlan
    place: Place
    found: dict[str, Found]
    todo: list[Point]
    others: int = 0  # finished points at the place that the plan does not know

    def lines(self, workers: int | None) -> list[str]:
        """What would be run, and an estimate of the minutes that `workers` need (None: not known how many)."""
        points = [f"{point.hash[:8]}  {point.words}" for point in self.todo]
        return [*_cut(points), self.headline(workers)]

    def headline(self, workers: int | None) -> str:
        """How many points there are, how many are to do, and about how long that takes."""
        words = f"{len(self.plan.points):,} points of {self.plan.notebook.stem}, {len(self.todo):,} to do"
        found = seconds_per_point(self.plan, [each.status for each in self.found.values() if each.status])
        if not self.todo:
            return words
        if self.others:
            are = (
                "1 finished point here belongs" if self.others == 1 else f"{self.others:,} finished points here belong"
            )
            words += f" ({are} to another notebook, parameters or version)"
        if found is None:
            return f"{words}; no earlier run says how long they take"
        seconds, source = found
        waves = -(-len(self.todo) // (workers or 1))
        where = f"on {workers} worker{'s' if workers != 1 else ''}" if workers else "on one worker"
        return f"{words}; about {waves * seconds / 60:.1f} min {where} ({seconds:.0f} s a point, {source})"


def prepare(
    grid: Path, out: Path | str, only: Sequence[str] = (), retry_failed: bool = False, force: bool = False
) -> Prepared:
    """Check everything and see what is to do; nothing is written.

    Raises InvalidValueError as `plan_grid`, `place_at` and `select` do, and for `force` together with `retry_failed`;
    PlaceError where `out` cannot be read.
    """
    if force and retry_failed:
        raise InvalidValueError(
            "--force and --retry-failed are not allowed together: one redoes all, one what ended badly"
        )
    plan, place = plan_grid(grid), place_at(out)
    check_own(place)
    found = look(place, [point.hash for point in plan.points])
    todo = to_do(plan, found, only, retry_failed, force)
    return Prepared(plan, place, found, todo, _others(place, plan) if todo else 0)


def check_workers(workers: int | None, scheduler: str | None) -> None:
    """Check who is to run a batch; nothing is written and nobody is asked.

    Raises InvalidValueError for a number of workers below 1, or together with a scheduler, and for a scheduler's address
    that is none.
    """
    if workers is not None and (workers < 1 or scheduler is not None):
        given = scheduler is not None
        what = "none where a scheduler is given: its workers are its own" if given else "a whole number from 1"
        raise invalid("workers", workers, what)
    if scheduler is not None:
        _import_dask()
        from pwl_lab.runner.clusters import checked

        checked(scheduler)


def run_batch(
    prepared: Prepared,
    workers: int | None = None,
    scheduler: str | None = None,
    force: bool = False,
    on_end: Callable[[Point, RunStatus, int], None] | None = None,
    on_line: Callable[[str], None] | None = None,
) -> "Outcome | None":
    """Run what is to do, alone at the place; None where nothing is.

    Raises InvalidValueError as `run_points` does, PlaceError where nothing can be written.
    """
    check_workers(workers, scheduler)
    with alone_in(prepared.place):
        _sweep(prepared.place)
        write_batch(prepared.place, prepared.plan)
        if not prepared.todo:
            return None
        _import_dask()
        from pwl_lab.runner.dask import run_points

        return run_points(prepared.plan, prepared.todo, prepared.place, workers, scheduler, force, on_end, on_line)


def _import_dask() -> None:
    """Import Dask, which reads its configuration then. Raises InvalidValueError where it does not start with that."""
    try:
        import distributed  # noqa: F401
    except ImportError:
        raise
    except Exception as error:  # noqa: BLE001 - what a wrong value makes of it depends on which it is
        why = " ".join(f"{type(error).__name__}: {error}".split())
        raise InvalidValueError(
            f"Dask does not start with its configuration on this machine; check its files and the DASK_... variables ({why})"
        ) from None


def _sweep(place: Place) -> None:
    """Remove the files that Dask left for a batch which was killed: no other is at work here, whoever holds the place."""
    scratch = place.work / DASK
    shutil.rmtree(scratch / "dask-scratch-space", ignore_errors=True)
    with suppress(OSError):  # not there, or it holds something else, which is not ours
        scratch.rmdir()


def summary(states: Sequence[PointState]) -> str:
    """How many points there are of each status: `21 of 24 ok, 1 failed, 2 waiting`."""
    counts = Counter(state.status for state in states)
    good = counts.pop("ok", 0)
    return ", ".join([f"{good:,} of {len(states):,} ok", *(f"{n:,} {status}" for status, n in sorted(counts.items()))])


def how_it_stands(out: Path | str) -> str:
    """The `summary` of a batch that was just at work, or why there is none."""
    try:
        return summary(read_states(out))
    except PlaceError as error:
        return str(error)


def status_lines(out: Place | Path | str) -> list[str]:
    """How a batch stands: a line for each point (only those that are not ok where there are many), then the summary."""
    states = read_states(out)
    shown = states if len(states) <= MOST_LINES else [state for state in states if state.status != "ok"]
    lines = [_line(state) for state in sorted(shown, key=lambda state: state.status == "waiting")]
    return [*_cut(lines), summary(states)]


class Reporter:
    """Says a line for each point that ends: how many have, how it did, and how long the others may take."""

    def __init__(self, total: int, say: Callable[[str], None]) -> None:
        """`total` points are to do; `say` takes each line."""
        self.total, self.done, self.seconds, self.say = total, 0, 0.0, say

    def __call__(self, point: Point, status: RunStatus, at_once: int) -> None:
        """A point has ended, while so many run at once: each of the others is taken to need as long as those that ended."""
        self.done += 1
        self.seconds += status.seconds
        left = self.seconds / self.done * (self.total - self.done) / at_once / 60
        more = f", about {left:.1f} min more" if left else ""
        error = f": {status.error.name}: {status.error.message}".splitlines()[0] if status.error else ""
        head = f"[{self.done}/{self.total}] {status.status} {point.hash[:8]} {point.words}"
        self.say(f"{head} ({status.seconds:.0f} s{more}){error}")


def _others(place: Place, plan: BatchPlan) -> int:
    """How many points at the place are done that this plan does not have: of a notebook that was edited since, say."""
    with suppress(PlaceError):  # what cannot be read is not counted: this is only said, and nothing hangs on it
        there = {parts[1] for name in place.names(POINTS) if len(parts := name.split("/")) == 3 and parts[2] == STATUS}
        there -= {point.hash for point in plan.points}
        return sum(found.done is not None for found in look(place, sorted(there)).values()) if there else 0
    return 0


def _line(state: PointState) -> str:
    """One point on one line."""
    facts = [f"{state.hash[:8]}  {state.status:<8}", f"{state.seconds:5.0f} s" if state.seconds else "       "]
    facts.append(state.words)
    if state.error:
        place = "" if state.cell is None else f"cell {state.cell}: "
        message = state.error.message.strip().partition("\n")[0]
        facts.append(f"{place}{state.error.name}: {message}"[:200])
    elif state.progress:
        facts.append(state.progress)
    return "  ".join(facts)


def _cut(lines: list[str]) -> list[str]:
    """The first of these lines, and how many more there are."""
    if len(lines) <= MOST_LINES:
        return lines
    return [*lines[:MOST_LINES], f"... and {len(lines) - MOST_LINES:,} more"]


def looks(out: Path | str, watch: bool) -> Iterator[list[str]]:
    """The lines of `status_lines`: once, or again and again while a batch is at work there.

    Raises as `read_states` does.
    """
    place = place_at(out)
    if watch:
        place.remember()
    yield status_lines(place)
    with suppress(KeyboardInterrupt):
        while watch and holder(place):
            time.sleep(place.look_s)
            yield status_lines(place)


def example_batch() -> Path:
    """The folder of the example batch (`presets/grids/example.yaml`), run now as far as it has not been.

    A point that has failed is not tried again: one of them always does. Raises PwlLabError where the batch was stopped.
    """
    folder = paths.example_batch()
    prepared = prepare(paths.grids() / "example.yaml", folder)
    ended = {name for name, found in prepared.found.items() if found.status and found.status.status in ENDED_BADLY}
    prepared = replace(prepared, todo=[point for point in prepared.todo if point.hash not in ended])
    with Progress("example batch", len(prepared.todo), "point") as bar:
        outcome = run_batch(
            prepared,
            workers=min(processes.n_workers(), processes.n_cores()),
            on_end=lambda point, status, at_once: bar.advance(1, seconds=status.seconds),
        )
    if outcome and outcome.stopped_by:
        raise PwlLabError(
            f"the example batch was stopped ({outcome.stopped_by}); run the cell again: it goes on from there"
        )
    return folder
