"""Run the points of a batch on Dask: on this machine, or wherever a scheduler says.

Without a scheduler's address a cluster of N processes is started here, on loopback alone, and ended with the batch. With
one, the same tasks go there; its workers need the same pwl_lab, and must see the notebook and the batch's folder under
the same paths. A worker that dies loses the point that it ran: the scheduler gives it to another, a few times. Threads
in a worker, rather than a process for each point, since a point's kernel is a process already.
"""

import logging
import os
import queue
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import dask
from distributed import Client, Future, LocalCluster

from pwl_lab import parallel
from pwl_lab.batch.gridplan import BatchPlan, Point
from pwl_lab.batch.kernel import Runs, stop_on_signal
from pwl_lab.batch.points import log_event, point_folder
from pwl_lab.batch.status import RunStatus
from pwl_lab.batch.worker import StopUnwanted, Task, note_failure, run_point, still_running, stop_batch, threads_each
from pwl_lab.errors import InvalidValueError, invalid

CONNECT_S = 20
STOP_S = 20  # the points that were stopped still write how far they got
REPORT_S = 0.5
LOOK_EVERY_S = 0.2
# Dask's own: a worker that dies is replaced, and its point tried again so often before the point is called its murderer.
ALLOWED_FAILURES = 3

OnEnd = Callable[[Point, RunStatus], None]


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
    folder: Path,
    workers: int | None = None,
    scheduler: str | None = None,
    force: bool = False,
    on_end: OnEnd | None = None,
) -> Outcome:
    """Run `points` of `plan` into `folder`; the caller holds its lock.

    `workers` processes here (one a core unless given), or those of the `scheduler` (`tcp://HOST:PORT`). A signal stops
    what runs and begins no more. Raises InvalidValueError for a scheduler that does not answer, or resources that this
    machine does not have.
    """
    runs, batch = Runs(), uuid.uuid4().hex[:12]
    with stop_on_signal(runs), _client(plan, workers, scheduler) as (client, environment):
        client.register_plugin(StopUnwanted(terminal=scheduler is None))
        run = _BatchRun(client, batch, folder, runs, on_end)
        try:
            log_event(folder, "batch begun", batch=batch, points=len(points), scheduler=client.scheduler.address)
            run.submit([(point, _task(plan, point, folder, batch, environment, force)) for point in points], plan)
            run.follow()
        except OSError as error:  # a full disk, a folder that is gone, a scheduler that is
            run.outcome.stopped_by = f"{type(error).__name__}: {error}"
        finally:
            run.stop(runs.stopped_by or run.outcome.stopped_by or "the batch ended early")
        with suppress(OSError):
            facts = {"points": len(run.outcome.ended), "stopped_by": run.outcome.stopped_by}
            log_event(folder, "batch ended", batch=batch, **facts)
    return run.outcome


@dataclass
class _BatchRun:
    """One batch on one client."""

    client: Client
    batch: str
    folder: Path
    runs: Runs
    on_end: OnEnd | None
    outcome: Outcome = field(default_factory=Outcome)
    waiting: dict[str, tuple[Point, Task, Future]] = field(default_factory=dict)
    done: "queue.SimpleQueue[Future]" = field(default_factory=queue.SimpleQueue)

    def submit(self, tasks: Sequence[tuple[Point, Task]], plan: BatchPlan) -> None:
        """Hand all points to the scheduler, in the order of the grid."""
        for priority, (point, task) in enumerate(tasks):
            if self.runs.stopped_by:
                return
            future = self.client.submit(
                run_point,
                task,
                key=task.key,
                pure=False,
                resources=plan.resources or None,
                priority=-priority,
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
            self.outcome.stopped_by = self.outcome.stopped_by or "the scheduler is gone"
            return
        error = future.exception() if future.status == "error" else None
        status = future.result() if error is None else self._failed(task, error)
        if status is not None:
            self.outcome.ended[point.hash] = status
            log_event(self.folder, "point ended", batch=self.batch, hash=point.hash, status=status.status)
            if self.on_end:
                self.on_end(point, status)

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


def _task(plan: BatchPlan, point: Point, folder: Path, batch: str, environment: Mapping[str, str], force: bool) -> Task:
    """A point as a worker takes it."""
    return Task(
        batch=batch,
        hash=point.hash,
        notebook=str(plan.notebook),
        source=plan.source,
        place=str(point_folder(folder.absolute(), point.hash)),
        preset=plan.preset,
        params=point.params,
        timeout=plan.timeout,
        environment=environment,
        force=force,
    )


@contextmanager
def _client(plan: BatchPlan, workers: int | None, scheduler: str | None) -> Iterator[tuple[Client, Mapping[str, str]]]:
    """A client of the cluster, and what the kernels' environment gets there."""
    for name in ("distributed", "distributed.client"):  # the two whose levels Dask sets; the points tell what matters
        logging.getLogger(name).setLevel(logging.CRITICAL)
    if scheduler is not None:
        try:
            client = Client(scheduler, timeout=CONNECT_S, set_as_default=False)
        except (OSError, TimeoutError, ValueError) as error:
            raise invalid("scheduler", scheduler, f"an address that answers, as tcp://HOST:PORT ({error})") from None
        with client:
            yield client, {}
        return
    number, environment = _local(plan, workers)
    settings = {"distributed.scheduler.allowed-failures": ALLOWED_FAILURES, "distributed.admin.tick.limit": "1h"}
    with (
        dask.config.set(settings),
        tempfile.TemporaryDirectory(prefix="pwl-dask-", ignore_cleanup_errors=True) as scratch,
        LocalCluster(
            n_workers=number,
            threads_per_worker=1,
            processes=True,
            host="127.0.0.1",
            dashboard_address=None,
            memory_limit=0,  # the kernels take the memory, and Dask does not see them
            resources=plan.resources or None,
            local_directory=scratch,
            silence_logs=logging.CRITICAL,
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield client, environment


def _local(plan: BatchPlan, workers: int | None) -> tuple[int, dict[str, str]]:
    """How many processes to start here, and how they share the cores and GPUs.

    A resource other than GPU is one that this machine has enough of: each process is said to have what a point asks.
    """
    number = parallel.n_cores() if workers is None else workers
    gpus = plan.resources.get("GPU")
    if gpus is not None:
        import torch

        found = torch.cuda.device_count()
        if gpus != int(gpus) or gpus > found:
            raise InvalidValueError(f"resources.GPU = {gpus:g} is not allowed here: this machine has {found}")
        number = min(number if workers else found, int(found // gpus))
    threads = str(threads_each(number))
    environment = {name: os.environ.get(name, threads) for name in ("OMP_NUM_THREADS", parallel.WORKERS)}
    return number, environment | ({"GPUS": str(int(gpus))} if gpus else {})
