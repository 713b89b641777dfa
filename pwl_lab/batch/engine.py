"""Run the points of a batch on Dask: on this machine, or wherever a scheduler says.

Without a scheduler's address a cluster of N processes is started here, on loopback alone, and ended with the batch. With
one, the same tasks go there; its workers need the same pwl_lab, and must see the notebook, and the batch's folder unless
it lies at an address, under the same paths. A worker that dies loses the point that it ran: the scheduler gives it to
another, a few times. Threads in a worker, rather than a process for each point, since a point's kernel is a process
already.
"""

import queue
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from distributed import Client, Future

from pwl_lab.batch.clusters import ALLOWED_FAILURES, StoppedError, cluster_at, in_time, nobody_fits, own_cluster
from pwl_lab.batch.gridplan import BatchPlan, Point
from pwl_lab.batch.kernel import Runs, stop_on_signal
from pwl_lab.batch.places import Place
from pwl_lab.batch.points import log_event
from pwl_lab.batch.status import RunStatus
from pwl_lab.batch.worker import (
    CANCELLED,
    StopUnwanted,
    Task,
    note_failure,
    run_point,
    still_running,
    stop_batch,
)

QUIET_S = 60  # nothing has ended for so long: perhaps nothing can begin
STOP_S = 20  # the points that were stopped still write how far they got
REPORT_S = 0.5
LOOK_EVERY_S = 0.2
SUBMISSIONS = 4  # of a point whose workers were closed in good order, or whose answer was lost

OnEnd = Callable[[Point, RunStatus, int], None]  # the last: how many points run at once


@dataclass
class Outcome:
    """How a batch ended: the status of each point that ended, by its hash, and what stopped it, if anything did."""

    ended: dict[str, RunStatus] = field(default_factory=dict)
    stopped_by: str | None = None

    def all_well(self, points: Sequence[Point]) -> bool:
        """Whether each of these points ended, and well."""
        return all(point.hash in self.ended and self.ended[point.hash].status == "ok" for point in points)


def run_points(
    plan: BatchPlan,
    points: Sequence[Point],
    place: Place,
    workers: int | None = None,
    scheduler: str | None = None,
    force: bool = False,
    on_end: OnEnd | None = None,
    on_line: Callable[[str], None] | None = None,
) -> Outcome:
    """Run `points` of `plan` into `place`; the caller holds its lock.

    `workers` processes here (`default_workers` unless given, and no more than there are points), or those of the
    `scheduler` (`tcp://HOST:PORT`). `on_line` gets what there is to say while nothing ends. A signal stops what runs and
    begins no more. Raises InvalidValueError for a scheduler that does not answer, or resources that this machine does not
    have.
    """
    runs = Runs()
    here = (plan, len(points), place.work / ".dask", workers, runs)
    try:
        with stop_on_signal(runs), cluster_at(scheduler) if scheduler else own_cluster(*here) as (client, environment):
            run = _BatchRun(client, uuid.uuid4().hex[:12], place.work, plan.resources, runs, on_end, on_line)
            tasks = [(point, _task(plan, point, place, run.batch, environment, force)) for point in points]
            run.run(tasks, StopUnwanted(terminal=scheduler is None))
            return run.outcome
    except StoppedError as error:
        return Outcome(stopped_by=str(error))


@dataclass
class _BatchRun:
    """One batch on one client."""

    client: Client
    batch: str
    folder: Path
    resources: Mapping[str, float]
    runs: Runs
    on_end: OnEnd | None = None
    on_line: Callable[[str], None] | None = None
    outcome: Outcome = field(default_factory=Outcome)
    waiting: dict[str, tuple[Point, Task, Future]] = field(default_factory=dict)
    done: "queue.SimpleQueue[Future]" = field(default_factory=queue.SimpleQueue)
    looked: float = field(default_factory=time.monotonic)  # when a point ended, or the workers were looked at
    said: str | None = None

    def run(self, tasks: Sequence[tuple[Point, Task]], plugin: StopUnwanted) -> None:
        """Run all points; `outcome` then says how they ended, and what stopped them."""
        try:
            self.client.register_plugin(plugin)
            scheduler = self.client.scheduler.address
            log_event(self.folder, "batch begun", batch=self.batch, points=len(tasks), scheduler=scheduler)
            self.submit(tasks)
            self.follow()
        except OSError as error:  # a full disk, a folder that is gone, a scheduler that is
            self.outcome.stopped_by = self.runs.stopped_by or f"{type(error).__name__}: {error}"
        finally:
            self.stop(self.runs.stopped_by or self.outcome.stopped_by or "the batch ended early")
        with suppress(OSError):
            facts = {"points": len(self.outcome.ended), "stopped_by": self.outcome.stopped_by}
            log_event(self.folder, "batch ended", batch=self.batch, **facts)

    def submit(self, tasks: Sequence[tuple[Point, Task]]) -> None:
        """Hand all points to the scheduler, in the order of the grid."""
        for priority, (point, task) in enumerate(tasks):
            if self.runs.stopped_by:
                return
            self._submit(point, task, -priority)

    def _submit(self, point: Point, task: Task, priority: int) -> None:
        """Hand one point to the scheduler."""
        future = self.client.submit(
            run_point, task, key=task.key, pure=False, resources=self.resources or None, priority=priority
        )
        self.waiting[task.key] = (point, task, future)
        future.add_done_callback(self.done.put)

    def follow(self) -> None:
        """Take in the points as they end, until all have or a signal comes."""
        while self.waiting and not self.runs.stopped_by:
            with suppress(queue.Empty):
                self._take(self.done.get(timeout=LOOK_EVERY_S))
                self.looked = time.monotonic()
            if time.monotonic() > self.looked + QUIET_S:
                self._say_who_is_missing()
        self.outcome.stopped_by = self.outcome.stopped_by or self.runs.stopped_by

    def _say_who_is_missing(self) -> None:
        """Say it once where no worker can take what waits: Dask itself waits for one, and says nothing."""
        with suppress(OSError, TimeoutError):  # a scheduler that is just going
            said, self.said = self.said, nobody_fits(self.client, self.resources)
            if self.said and self.said != said and self.client.status == "running":
                log_event(self.folder, "no worker", batch=self.batch, why=self.said)
                if self.on_line:
                    self.on_line(self.said)
        self.looked = time.monotonic()

    def _take(self, future: Future) -> None:
        """Note how one point ended."""
        if future.key not in self.waiting:
            return
        point, task, _ = self.waiting.pop(future.key)
        if future.status in ("cancelled", "lost"):
            if self.client.status != "running":
                self.outcome.stopped_by = self.outcome.stopped_by or "the scheduler is gone"
                return
            status = None
            if not self._again(point, task) and not self._stopped():
                status = note_failure(task, CANCELLED, f"the scheduler took it back {SUBMISSIONS} times")
        else:
            error = future.exception() if future.status == "error" else None
            status = future.result() if error is None else self._failed(task, error)
            if status and status.error and status.error.name == CANCELLED and self._again(point, task):
                return
        if status is not None:
            self.outcome.ended[point.hash] = status
            facts = {"error": f"{status.error.name}: {status.error.message}"} if status.error else {}
            log_event(self.folder, "point ended", batch=self.batch, hash=point.hash, status=status.status, **facts)
            if self.on_end:
                self.on_end(point, status, self._at_once())

    def _again(self, point: Point, task: Task) -> bool:
        """Hand a point to the scheduler once more whose worker was closed; False where it has been often enough."""
        if self._stopped() or task.submission == SUBMISSIONS:
            return False
        log_event(self.folder, "point handed out again", batch=self.batch, hash=point.hash)
        self._submit(point, replace(task, submission=task.submission + 1), 0)
        return True

    def _stopped(self) -> bool:
        """Whether no more is to be begun."""
        return bool(self.runs.stopped_by or self.outcome.stopped_by)

    def _at_once(self) -> int:
        """How many points run at once: a worker each, and no more than there are."""
        with suppress(OSError, TimeoutError):  # a scheduler that is just going
            return max(1, min(len(self.client.nthreads()), len(self.waiting)))
        return 1

    def _failed(self, task: Task, error: BaseException) -> RunStatus:
        """The status of a point that its worker did not bring to an end."""
        name = type(error).__name__
        text = str(error)
        if name == "KilledWorker":
            died = getattr(error, "allowed_failures", ALLOWED_FAILURES) + 1
            text = f"{died} workers died while they ran this point, perhaps because memory ran out"
        return note_failure(task, name, text)

    def stop(self, reason: str) -> None:
        """End what is still running, and wait until it has written how far it got."""
        if not self.waiting or self.client.status != "running":
            return
        self.outcome.stopped_by = self.outcome.stopped_by or reason
        with suppress(OSError, TimeoutError):  # a scheduler that is gone has nothing to stop; a frozen node is silent
            self._stop_on_workers(reason)
        end = time.monotonic() + STOP_S
        with suppress(OSError, queue.Empty):  # what they have just reported is still on its way
            while time.monotonic() < end:
                self._take(self.done.get(timeout=REPORT_S))
        with suppress(OSError):
            self.client.cancel([future for _, _, future in self.waiting.values()], force=True)

    def _stop_on_workers(self, reason: str) -> None:
        """Kill what runs, wait until none of it is left. Raises TimeoutError where that takes longer than STOP_S."""
        end = time.monotonic() + STOP_S
        self._on_workers(end, stop_batch, reason)
        while any(self._on_workers(end, still_running).values()):
            time.sleep(LOOK_EVERY_S)

    def _on_workers(self, end: float, function: Callable, *words: str) -> Mapping[str, Any]:
        """What each worker answers to this about the batch. Raises TimeoutError where one has not until `end`."""
        run = partial(self.client.run, function, self.batch, *words, on_error="ignore")
        return in_time(run, max(0.0, end - time.monotonic()))


def _task(plan: BatchPlan, point: Point, place: Place, batch: str, environment: Mapping[str, str], force: bool) -> Task:
    """A point as a worker takes it."""
    return Task(
        batch=batch,
        hash=point.hash,
        notebook=str(plan.notebook),
        source=plan.source,
        out=place.address,
        preset=plan.preset,
        params=point.params,
        timeout=plan.timeout,
        environment=environment,
        force=force,
    )
