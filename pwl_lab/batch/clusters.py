"""The Dask clusters that a batch can run on: one that is started here for it, or one that is there already."""

import logging
import multiprocessing
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from copy import deepcopy
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any, TypeVar

import dask
from distributed import Client, LocalCluster

from pwl_lab.batch.gridplan import BatchPlan
from pwl_lab.batch.kernel import Runs
from pwl_lab.batch.machine import share_out
from pwl_lab.batch.reaching import CONNECT_S, connect
from pwl_lab.batch.waiting import StoppedError, in_time
from pwl_lab.batch.worker import OF_THE_TERMINAL
from pwl_lab.errors import PwlLabError

Closed = TypeVar("Closed", Client, LocalCluster)

START_S = 300  # many processes import Dask at once, perhaps beside other work
CLOSE_S = 15
SILENT_S = 15  # a worker speaks every half second, in a cluster of a thousand every five
ANSWER_S = 20
# Dask's own: a worker that dies is replaced, and its point tried again so often before the point is called its murderer.
ALLOWED_FAILURES = 3


class OwnCluster(LocalCluster):
    """One that Dask does not close once more when the process ends: what is left then did not answer, and is killed."""

    shutdown_on_close = property(lambda self: False, lambda self, value: None)


@contextmanager
def cluster_at(scheduler: str, runs: Runs) -> Iterator[tuple[Client, Mapping[str, str]]]:
    """A client of a cluster that is there, whose workers have their own environment. Raises as `connect` does."""
    _quieten()
    with _closing(connect(scheduler, runs)) as client:
        yield client, {}


@contextmanager
def own_cluster(
    plan: BatchPlan, points: int, scratch: Path, workers: int | None, runs: Runs
) -> Iterator[tuple[Client, Mapping[str, str]]]:
    """A client of processes that are started here, and what the environment of their kernels gets.

    Dask's own files go to `scratch`, where the next batch removes what one that was killed left. Raises StoppedError where
    a signal stops the `runs` before all are there, InvalidValueError as `share_out` does, and PwlLabError where they do not
    start.
    """
    _quieten()
    number, environment = share_out(plan, points, workers)
    shutil.rmtree(scratch, ignore_errors=True)
    try:
        with (
            _configured(),
            _closing(_local_cluster(number, plan.resources, scratch, runs)) as cluster,
            _closing(_started(lambda: Client(cluster, timeout=CONNECT_S, set_as_default=False), runs)) as client,
        ):
            yield client, environment
    finally:
        _end_workers()
        shutil.rmtree(scratch, ignore_errors=True)


@contextmanager
def _configured() -> Iterator[None]:
    """Inside, Dask is configured as it comes, and as a batch needs it.

    What a person has set for clusters (encryption, time limits, plugins) is none of the business of processes that live as
    long as a batch; some of it would keep them from starting.
    """
    before = deepcopy(dask.config.config)
    dask.config.refresh(paths=[], env={})
    try:
        with dask.config.set(
            {"distributed.scheduler.allowed-failures": ALLOWED_FAILURES, "distributed.admin.tick.limit": "1h"}
        ):
            yield
    finally:
        dask.config.config.clear()
        dask.config.config.update(before)


@contextmanager
def _closing(made: Closed) -> Iterator[Closed]:
    """Inside, what was made; afterwards it is closed, as far as that can be done in time."""
    try:
        yield made
    finally:
        with suppress(OSError, TimeoutError):  # whoever does not answer is not there to be told
            in_time(made.close, CLOSE_S)


def _end_workers() -> None:
    """Kill what is left of the processes that were started here: one that is frozen does not end when it is asked to."""
    left = [process for process in multiprocessing.active_children() if process.name.startswith("Dask Worker")]
    for process in left:
        process.kill()
    for process in left:
        process.join(CLOSE_S)


def _local_cluster(number: int, resources: Mapping[str, float], scratch: Path, runs: Runs) -> LocalCluster:
    """Processes of one thread each on loopback.

    They are started by a thread that takes no signals of the terminal, and neither do they, then: a Ctrl-C while they
    still import would end each of them with a traceback. `StopUnwanted` takes that back when it can ignore them.
    """

    def start() -> LocalCluster:
        if hasattr(signal, "pthread_sigmask"):
            signal.pthread_sigmask(signal.SIG_BLOCK, OF_THE_TERMINAL)
        return OwnCluster(
            n_workers=number,
            threads_per_worker=1,
            processes=True,
            host="127.0.0.1",
            dashboard_address=None,
            scheduler_kwargs={"dashboard_address": "127.0.0.1:0"},  # else it asks for one port, and warns
            memory_limit=0,  # the kernels take the memory, and Dask does not see them
            resources=dict(resources) or None,
            local_directory=str(scratch),
            silence_logs=logging.CRITICAL,
        )

    resource_tracker.ensure_running()  # else the first process starts it, and that lets SIGINT through again
    return _started(start, runs)


def _started(start: Callable[[], Closed], runs: Runs) -> Closed:
    """What `start` makes. Raises StoppedError where a signal comes first, PwlLabError where it does not come about."""
    try:
        return in_time(start, START_S, runs, patience=ANSWER_S)
    except StoppedError:
        raise
    except Exception as error:  # noqa: BLE001 - a worker that was ended before it was there, a full disk, no more processes
        if runs.stopped_by:
            raise StoppedError(runs.stopped_by) from None
        why = f"{type(error).__name__}: {error}".partition("\n")[0]
        raise PwlLabError(f"the batch's workers did not start on this machine ({why}); no point was run") from None


class Workers:
    """The workers of a cluster, and which of them are silent.

    A worker says every few seconds that it is there, and the scheduler notes when. Whether that moves is looked at by this
    machine's clock alone: the scheduler's may show another time.
    """

    def __init__(self, client: Client) -> None:
        """Nobody has been looked at."""
        self.client = client
        self.heard: dict[str, tuple[float, float]] = {}  # what the scheduler noted last, and when we saw it first

    def look(self) -> dict[str, dict[str, Any]]:
        """All workers by their addresses. Raises OSError and TimeoutError where the scheduler does not answer."""
        found = in_time(lambda: self.client.scheduler_info(n_workers=-1)["workers"], ANSWER_S)
        now, before = time.monotonic(), self.heard
        self.heard = {
            name: before[name]
            if name in before and before[name][0] == facts["last_seen"]
            else (facts["last_seen"], now)
            for name, facts in found.items()
        }
        return found

    def heard_of(self, seconds: float) -> tuple[list[str], list[str]]:
        """Those that the scheduler has heard of in the last `seconds` by its own clock, and the others. Raises as `look`."""
        found = self.look()
        now = in_time(lambda: self.client.run_on_scheduler(lambda: time.time()), ANSWER_S)
        heard = [name for name, facts in found.items() if now - facts["last_seen"] <= seconds]
        return heard, [name for name in found if name not in heard]

    def silent(self, seconds: float = SILENT_S) -> list[str]:
        """Those that have not been heard of for so long, as of the last look."""
        now = time.monotonic()
        return [name for name, (_, seen) in self.heard.items() if now - seen > seconds]


def nobody_fits(workers: Mapping[str, Mapping[str, Any]], resources: Mapping[str, float]) -> str | None:
    """Why no point can begin: none of these workers has the resources; None where one has."""
    if any(fits(worker, resources) for worker in workers.values()):
        return None
    if not workers:
        return "no worker is there; waiting"
    words = " ".join(f"{name}={need:g}" for name, need in resources.items())
    return f"no worker with {words} is there ({len(workers)} without); waiting"


def fits(worker: Mapping[str, Any], resources: Mapping[str, float]) -> bool:
    """Whether a worker has these resources."""
    return all(worker["resources"].get(name, 0) >= need for name, need in resources.items())


def _quieten() -> None:
    """Dask says nothing: the points tell what matters. These are the two whose levels it sets."""
    for name in ("distributed", "distributed.client"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
