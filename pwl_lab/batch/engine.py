"""Run the points of a batch on Dask: on this machine, or wherever a scheduler says.

Without a scheduler's address a cluster of N processes is started here, on loopback alone, and ended with the batch. With
one, the same tasks go there; its workers need the same pwl_lab, and must see the notebook, and the batch's folder unless
it lies at an address, under the same paths. A worker that dies loses the point that it ran: the scheduler gives it to
another, a few times. Threads in a worker, rather than a process for each point, since a point's kernel is a process
already.
"""

import logging
import os
import queue
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import dask
from distributed import Client, Future, LocalCluster

from pwl_lab import parallel
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
    threads_each,
)
from pwl_lab.errors import InvalidValueError, invalid

CONNECT_S = 20
STOP_S = 20  # the points that were stopped still write how far they got
REPORT_S = 0.5
LOOK_EVERY_S = 0.2
# Dask's own: a worker that dies is replaced, and its point tried again so often before the point is called its murderer.
ALLOWED_FAILURES = 3
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
) -> Outcome:
    """Run `points` of `plan` into `place`; the caller holds its lock.

    `workers` processes here (one a core unless given, and no more than there are points), or those of the `scheduler`
    (`tcp://HOST:PORT`). A signal stops what runs and begins no more. Raises InvalidValueError for a scheduler that does
    not answer, or resources that this machine does not have.
    """
    runs, batch = Runs(), uuid.uuid4().hex[:12]
    share = (plan, len(points), place.work / ".dask", workers)
    with stop_on_signal(runs), _cluster(scheduler) if scheduler else _own_cluster(*share) as (client, environment):
        client.register_plugin(StopUnwanted(terminal=scheduler is None))
        run = _BatchRun(client, batch, place.work, plan.resources, runs, on_end)
        try:
            log_event(place.work, "batch begun", batch=batch, points=len(points), scheduler=client.scheduler.address)
            run.submit([(point, _task(plan, point, place, batch, environment, force)) for point in points])
            run.follow()
        except OSError as error:  # a full disk, a folder that is gone, a scheduler that is
            run.outcome.stopped_by = f"{type(error).__name__}: {error}"
        finally:
            run.stop(runs.stopped_by or run.outcome.stopped_by or "the batch ended early")
        with suppress(OSError):
            facts = {"points": len(run.outcome.ended), "stopped_by": run.outcome.stopped_by}
            log_event(place.work, "batch ended", batch=batch, **facts)
    return run.outcome


@dataclass
class _BatchRun:
    """One batch on one client."""

    client: Client
    batch: str
    folder: Path
    resources: Mapping[str, float]
    runs: Runs
    on_end: OnEnd | None
    outcome: Outcome = field(default_factory=Outcome)
    waiting: dict[str, tuple[Point, Task, Future]] = field(default_factory=dict)
    done: "queue.SimpleQueue[Future]" = field(default_factory=queue.SimpleQueue)

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
        self.outcome.stopped_by = self.outcome.stopped_by or self.runs.stopped_by

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
        with suppress(OSError, TimeoutError):  # a scheduler that is gone has nothing to stop
            self.client.run(stop_batch, self.batch, reason, on_error="ignore")
            end = time.monotonic() + STOP_S
            while any(self.client.run(still_running, self.batch, on_error="ignore").values()):
                if time.monotonic() > end:
                    break
                time.sleep(LOOK_EVERY_S)
            with suppress(queue.Empty):  # what they have just reported is still on its way
                while time.monotonic() < end:
                    self._take(self.done.get(timeout=REPORT_S))
            self.client.cancel([future for _, _, future in self.waiting.values()], force=True)


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


@contextmanager
def _cluster(scheduler: str) -> Iterator[tuple[Client, Mapping[str, str]]]:
    """A client of a cluster that is there, whose workers have their own environment."""
    _quieten()
    try:
        client = Client(scheduler, timeout=CONNECT_S, set_as_default=False)
    except (OSError, TimeoutError, ValueError) as error:
        raise invalid("scheduler", scheduler, f"an address that answers, as tcp://HOST:PORT ({error})") from None
    with client:
        yield client, {}


@contextmanager
def _own_cluster(
    plan: BatchPlan, points: int, scratch: Path, workers: int | None
) -> Iterator[tuple[Client, Mapping[str, str]]]:
    """A client of processes that are started here, and what the environment of their kernels gets.

    Dask's own files go to `scratch`, where the next batch removes what one that was killed left.
    """
    _quieten()
    number, environment = _local(plan, points, workers)
    shutil.rmtree(scratch, ignore_errors=True)
    settings = {"distributed.scheduler.allowed-failures": ALLOWED_FAILURES, "distributed.admin.tick.limit": "1h"}
    try:
        with (
            dask.config.set(settings),
            LocalCluster(
                n_workers=number,
                threads_per_worker=1,
                processes=True,
                host="127.0.0.1",
                dashboard_address=None,
                scheduler_kwargs={"dashboard_address": "127.0.0.1:0"},  # else it asks for one port, and warns
                memory_limit=0,  # the kernels take the memory, and Dask does not see them
                resources=plan.resources or None,
                local_directory=str(scratch),
                silence_logs=logging.CRITICAL,
            ) as cluster,
            Client(cluster, set_as_default=False) as client,
        ):
            yield client, environment
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _quieten() -> None:
    """Dask says nothing: the points tell what matters. These are the two whose levels it sets."""
    for name in ("distributed", "distributed.client"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


def _local(plan: BatchPlan, points: int, workers: int | None) -> tuple[int, dict[str, str]]:
    """How many processes to start here for so many points, and how they share the cores and GPUs.

    A resource other than GPU is one that this machine has enough of: each process is said to have what a point asks.
    """
    number = min(points, parallel.n_cores() if workers is None else workers)
    gpus = plan.resources.get("GPU")
    if gpus is not None:
        import torch

        found = torch.cuda.device_count()
        if gpus != int(gpus) or gpus > found:
            raise InvalidValueError(f"resources.GPU = {gpus:g} is not allowed here: this machine has {found}")
        number = min(points, workers or found, int(found // gpus))
    threads = str(threads_each(number))
    environment = {name: os.environ.get(name, threads) for name in ("OMP_NUM_THREADS", parallel.WORKERS)}
    return number, environment | ({"GPUS": str(int(gpus))} if gpus else {})
