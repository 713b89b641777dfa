"""What a Dask worker does: run one point, and stop it when nobody waits for it any more.

This module is imported by workers on any machine, so it brings no more than the runner itself.
"""

import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

from dask.typing import Key
from distributed import Status as WorkerStatus
from distributed import Worker, WorkerPlugin, get_worker
from filelock import FileLock, Timeout

from pwl_lab import __version__
from pwl_lab.runner.execute import run_notebook
from pwl_lab.runner.grid import hash_here, notebook_hash
from pwl_lab.runner.kernel import Runs
from pwl_lab.runner.location import POINTS, Location, location_at
from pwl_lab.runner.machine import GPUS
from pwl_lab.runner.parameters import read_notebook
from pwl_lab.runner.points import BAD, BatchPlan, Point, log_event, read_finished, read_results
from pwl_lab.runner.run_folder import STATUS, RunError, RunStatus, clear, keep_changed_notebook, versions
from pwl_lab.support.environment import seconds_left
from pwl_lab.support.errors import PwlLabError
from pwl_lab.support.files import json_text
from pwl_lab.support.paths import commit

CANCELLED = "Cancelled"  # nobody is waiting for the point any more: its batch has ended or died
OF_THE_TERMINAL = [getattr(signal, name) for name in ("SIGINT", "SIGHUP") if hasattr(signal, name)]
LOCK = ".lock"  # in a point's folder: only one process at a time works on it
PATIENCE_S = 60  # the point's previous run, on a worker that was given up, may still be shutting down


class PointError(PwlLabError):
    """A point could not be run by this worker."""


@dataclass(frozen=True)
class PointTask:
    """One point as a worker needs it: of which batch it is, and what was planned.

    `plan` comes without its points; its notebook is a path that every worker sees, and so is `out`, or an address.
    """

    batch: str
    plan: BatchPlan
    point: Point
    out: str
    environment: Mapping[str, str] = field(default_factory=dict)
    force: bool = False
    version: str = __version__
    submission: int = 1  # the scheduler may forget a withdrawn task much later

    @property
    def hash(self) -> str:
        """The point's hash, which is its name, too."""
        return self.point.hash

    @property
    def key(self) -> str:
        """The task's name on the scheduler; one batch never takes another's for its own."""
        return f"point-{self.batch}-{self.hash}-{self.submission}"

    @property
    def folder(self) -> str:
        """The name of the point's folder at the batch's location."""
        return f"{POINTS}/{self.hash}"

    def status(self, status: Literal["running", "failed", "killed"], error: RunError | None = None) -> RunStatus:
        """The status of a point whose notebook does not run, or not yet."""
        return RunStatus(
            status=status,
            notebook=self.plan.notebook.name,
            preset=self.plan.preset,
            error=error,
            started=datetime.now(UTC).isoformat(timespec="seconds"),
            cells=0,
            versions=versions(),
            commit=commit(),
        )

    def write_status(self, location: Location, status: RunStatus) -> None:
        """Write this status into the point's folder at the batch's location."""
        location.write(f"{self.folder}/{STATUS}", json_text(status.model_dump(mode="json")))


_running: dict[str, Runs] = {}  # by the task's key
_stopped: set[str] = set()  # batches
_guard = threading.Lock()


class StopUnwanted(WorkerPlugin):
    """Stop a point's kernel when the scheduler takes the task back: a thread cannot be, and would run to its end.

    That happens when a batch is killed outright: its connection to the scheduler breaks, and its tasks are released.
    """

    name = "pwl-lab"

    def __init__(self, terminal: bool = False) -> None:
        """`terminal`: the worker shares a terminal with the batch, so a Ctrl-C reaches both, and the batch handles it."""
        self.terminal = terminal

    def setup(self, worker: Worker) -> None:
        """Ignore the terminal's signals, then unblock them: kernels would inherit the block."""
        if self.terminal and threading.current_thread() is threading.main_thread():
            for number in OF_THE_TERMINAL:
                signal.signal(number, signal.SIG_IGN)
            if sys.platform != "win32":
                signal.pthread_sigmask(signal.SIG_UNBLOCK, OF_THE_TERMINAL)

    def teardown(self, worker: Worker) -> None:
        """The worker closes, perhaps because its scheduler is gone: nothing that it runs is wanted any more.

        Dask also calls this when the next batch registers its own; then the worker goes on with what it runs.
        """
        if worker.status not in (WorkerStatus.closing, WorkerStatus.closed, WorkerStatus.failed):
            return
        for runs in tuple(_running.values()):
            runs.stop(CANCELLED)

    def transition(self, key: Key, start: str, finish: str, **_: Any) -> None:
        """A task changes its state; one that ends in any other way is never released while it executes."""
        if start == "executing" and finish == "released" and (runs := _running.get(str(key))):
            runs.stop(CANCELLED)


def stop_batch(batch: str, reason: str) -> None:
    """Kill the kernels of a batch's points on this worker, and begin none that are still to come."""
    with _guard:
        _stopped.add(batch)
        found = [runs for key, runs in _running.items() if key.startswith(f"point-{batch}-")]
    for runs in found:
        runs.stop(reason)


def still_running(batch: str) -> int:
    """How many of a batch's points this worker has not finished yet."""
    return sum(key.startswith(f"point-{batch}-") for key in tuple(_running))


def run_point(task: PointTask) -> RunStatus | None:
    """Run one point and return how it ended; None where its batch was stopped, or the time is up, before it could begin.

    One that an earlier attempt has finished is left as it is; where only the copy of it to its location failed, that is
    done again. Raises PointError where this worker is not fit for it, OSError where its files cannot be written.
    """
    location = location_at(task.out)
    folder = location.point(task.hash)
    folder.mkdir(parents=True, exist_ok=True)
    with _listed(task) as runs:
        if runs.stopped_by or seconds_left() <= 0:
            return None
        try:
            with FileLock(folder / LOCK, timeout=PATIENCE_S):
                if not task.force and (status := read_results(location, [task.hash])[task.hash].done):
                    return status
                status = None if task.force else read_finished(folder)
                status = status or _run(task, location, runs)
                if (
                    runs.stopped_by != CANCELLED
                ):  # otherwise another worker may be running it, whose files should be kept
                    location.send(task.hash)
                return status
        except Timeout:
            raise PointError("another process is still working on this point; run the batch again") from None


def _run(task: PointTask, location: Location, runs: Runs) -> RunStatus:
    """Run the notebook, with an event before and one after."""
    _check_same(task)
    worker, plan, folder = get_worker(), task.plan, location.point(task.hash)
    log_event(folder, "begun", batch=task.batch, worker=str(worker.name), address=worker.address)
    keep_changed_notebook(folder)
    clear(folder)  # a point's folder belongs to the batch, even if its files were damaged
    location.send_events(task.folder)
    task.write_status(location, task.status("running"))  # files of an earlier run no longer belong to the point
    status = run_notebook(
        plan.notebook,
        folder,
        plan.preset,
        task.point.params,
        plan.timeout,
        environment=_environment(task, worker.name),
        runs=runs,
    )
    with suppress(OSError):  # the disk became full only now: the point ended as its status says
        log_event(folder, "ended", batch=task.batch, status=status.status, seconds=status.seconds)
    return status


def _check_same(task: PointTask) -> None:
    """Raise PointError if this worker would compute something other than what the point's hash stands for.

    The kernel reads the notebook, the preset's file and the data's checksums only when it runs, perhaps on another machine
    or hours later.
    """
    if task.version != __version__:
        raise PointError(f"this worker has pwl_lab {__version__}, the batch was planned with {task.version}")
    plan = task.plan
    if notebook_hash(read_notebook(plan.notebook)) != plan.notebook_hash:
        raise PointError(f"{plan.notebook.name} has changed since the batch was planned; run the batch again")
    if hash_here(plan.notebook, plan.preset, task.point.params) != task.hash:
        what = f"the preset {plan.preset}, or the recorded dataset," if plan.preset else "a preset, or a dataset,"
        raise PointError(f"{what} has changed here since the batch was planned; run the batch again")


@contextmanager
def _listed(task: PointTask) -> Iterator[Runs]:
    """A context in which the point is among those that can be stopped."""
    runs = Runs()
    with _guard:
        _running[task.key] = runs
        if task.batch in _stopped:
            runs.stop(CANCELLED)
    try:
        yield runs
    finally:
        with _guard:
            if _running.get(task.key) is runs:
                del _running[task.key]


def _environment(task: PointTask, worker: Any) -> dict[str, str]:
    """Additions to the kernel's environment: threads, and this worker's GPU if the batch assigns them."""
    own = dict(task.environment)
    gpus = own.pop(GPUS, None)
    if gpus:
        own["CUDA_VISIBLE_DEVICES"] = gpus.split(";")[int(worker)]
    return own


def note_failure(task: PointTask, name: str, message: str) -> RunStatus:
    """Leave the status of a point that no worker could bring to an end; what a worker wrote itself is kept.

    A point that is done stays so; with `force` the failure is returned all the same, since what was asked for did not
    happen. Where the status cannot be written (a full disk), or another process still works on the point,
    it is only returned: the point is not done, and its reason is still said.
    """
    status = task.status("killed" if name == "KilledWorker" else "failed", RunError(name=name, message=message))
    location = location_at(
        task.out, patient=False
    )  # this location may be the one that is unavailable, and other points have ended meanwhile
    folder = location.point(task.hash)
    with suppress(OSError, Timeout):
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / LOCK, timeout=0):
            found = read_results(location, [task.hash])[task.hash]
            if found.done:
                return status if task.force else found.done
            before = found.status
            if before and before.status in BAD and before.error and before.error.name == name:
                return before
            task.write_status(location, status)
            log_event(folder, "ended", batch=task.batch, status=status.status, error=name)
            location.send_events(task.folder)
    return status
