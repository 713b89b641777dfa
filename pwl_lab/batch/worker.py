"""What a Dask worker does: run one point, and stop it when nobody waits for it any more.

This module is imported by workers on any machine, so it brings no more than the runner itself.
"""

import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from distributed import Worker, WorkerPlugin, get_worker
from filelock import FileLock, Timeout

from pwl_lab import __version__, parallel
from pwl_lab.batch.gridplan import source_hash
from pwl_lab.batch.kernel import Runs
from pwl_lab.batch.notebooks import run_notebook
from pwl_lab.batch.points import finished, log_event
from pwl_lab.batch.schema import read_notebook
from pwl_lab.batch.status import RunError, RunStatus, read_status, versions, write_status
from pwl_lab.errors import PwlLabError
from pwl_lab.provenance import commit

CANCELLED = "Cancelled"  # nobody waits for the point any more: its batch was ended, or has died
PATIENCE_S = 60  # a point's last run, on a worker that was given up, may still be ending


class PointError(PwlLabError):
    """A point could not be run by this worker."""


@dataclass(frozen=True)
class Task:
    """One point as a worker needs it. `place` and `notebook` are paths that every worker sees."""

    batch: str
    hash: str
    notebook: str
    source: str
    place: str
    preset: str | None
    params: dict[str, Any]
    timeout: int | None
    version: str = __version__
    environment: Mapping[str, str] = field(default_factory=dict)
    force: bool = False

    @property
    def key(self) -> str:
        """The task's name on the scheduler; one batch never takes another's for its own."""
        return f"point-{self.batch}-{self.hash}"


_running: dict[str, Runs] = {}  # by the task's key
_stopped: set[str] = set()  # batches
_guard = threading.Lock()


class StopUnwanted(WorkerPlugin):
    """Stop a point's kernel when the scheduler takes the task back: a thread cannot be, and would run to its end.

    That happens when a batch is killed outright: its connection to the scheduler breaks, and its tasks are released.
    """

    name = "pwl-lab"

    def __init__(self, terminal: bool = False) -> None:
        """`terminal`: the worker shares it with the batch, so a Ctrl-C reaches both and is the batch's to handle."""
        self.terminal = terminal

    def setup(self, worker: Worker) -> None:
        """Let a signal of the terminal pass."""
        if self.terminal and threading.current_thread() is threading.main_thread():
            for name in ("SIGINT", "SIGHUP"):
                if hasattr(signal, name):
                    signal.signal(getattr(signal, name), signal.SIG_IGN)

    def teardown(self, worker: Worker) -> None:
        """The worker closes, perhaps because its scheduler is gone: nothing that it runs is wanted any more."""
        for runs in tuple(_running.values()):
            runs.stop(CANCELLED)

    def transition(self, key: str, start: str, finish: str, **_: Any) -> None:
        """A task changes its state; one that ends in any other way is never released while it executes."""
        if start == "executing" and finish == "released" and (runs := _running.get(key)):
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


def run_point(task: Task) -> RunStatus | None:
    """Run one point and return how it ended; None where its batch was stopped before it could begin.

    One that an earlier attempt has finished is left as it is. Raises PointError where this worker is not fit for it,
    OSError where its files cannot be written.
    """
    place = Path(task.place)
    place.mkdir(parents=True, exist_ok=True)
    with _listed(task) as runs:
        if runs.stopped_by:
            return None
        try:
            with FileLock(place / ".lock", timeout=PATIENCE_S):
                if not task.force and (status := finished(place)):
                    return status
                return _run(task, place, runs)
        except Timeout:
            raise PointError("another process still works on this point; run the batch again") from None


def _run(task: Task, place: Path, runs: Runs) -> RunStatus:
    """Run the notebook, with an event before and after."""
    if task.version != __version__:
        raise PointError(f"this worker has pwl_lab {__version__}, the batch was planned with {task.version}")
    if source_hash(read_notebook(Path(task.notebook))) != task.source:
        raise PointError(f"{Path(task.notebook).name} is not what it was when the batch was planned; run it again")
    worker = get_worker()
    log_event(place, "begun", batch=task.batch, worker=str(worker.name), address=worker.address)
    status = run_notebook(
        task.notebook,
        place,
        task.preset,
        task.params,
        task.timeout,
        environment=_environment(task, worker.name),
        runs=runs,
    )
    log_event(place, "ended", batch=task.batch, status=status.status, seconds=status.seconds)
    return status


@contextmanager
def _listed(task: Task) -> Iterator[Runs]:
    """Inside, the point is among those that can be stopped."""
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


def _environment(task: Task, worker: Any) -> dict[str, str]:
    """What the kernel's environment gets: threads, and the GPU that is this worker's where the batch hands them out."""
    own = dict(task.environment)
    gpus = own.pop("GPUS", None)
    if gpus:
        each, index = int(gpus), int(worker)
        own["CUDA_VISIBLE_DEVICES"] = ",".join(str(index * each + offset) for offset in range(each))
    return own


def threads_each(workers: int) -> int:
    """How many threads a kernel gets where `workers` of them share this machine's cores."""
    return max(1, parallel.n_cores() // workers)


def note_failure(task: Task, name: str, message: str) -> RunStatus:
    """Leave the status of a point that no worker could bring to an end; what a worker wrote itself is kept.

    Where it cannot be written (a full disk), it is only returned: the point is not done, and its reason is still said.
    """
    place = Path(task.place)
    before = read_status(place)
    if before and before.status in ("failed", "timeout", "killed") and before.error and before.error.name == name:
        return before
    status = RunStatus(
        status="killed" if name == "KilledWorker" else "failed",
        notebook=Path(task.notebook).name,
        preset=task.preset,
        error=RunError(name=name, message=message),
        started=before.started if before else datetime.now(UTC).isoformat(timespec="seconds"),
        cells=before.cells if before else 0,
        versions=versions(),
        commit=commit(),
    )
    with suppress(OSError):
        place.mkdir(parents=True, exist_ok=True)
        write_status(place, status)
        log_event(place, "ended", batch=task.batch, status=status.status, error=name)
    return status
