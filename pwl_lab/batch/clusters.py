"""The Dask clusters that a batch can run on: one that is started here for it, or one that is there already."""

import logging
import shutil
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from multiprocessing import resource_tracker
from pathlib import Path
from typing import TypeVar

import dask
from distributed import Client, LocalCluster

from pwl_lab.batch.gridplan import BatchPlan
from pwl_lab.batch.kernel import Runs
from pwl_lab.batch.machine import share_out
from pwl_lab.batch.worker import OF_THE_TERMINAL
from pwl_lab.errors import PwlLabError, invalid

Result = TypeVar("Result")

CONNECT_S = 20
ANSWER_S = 20
# Dask's own: a worker that dies is replaced, and its point tried again so often before the point is called its murderer.
ALLOWED_FAILURES = 3


class StoppedError(PwlLabError):
    """A signal came before the cluster was there."""


@contextmanager
def cluster_at(scheduler: str) -> Iterator[tuple[Client, Mapping[str, str]]]:
    """A client of a cluster that is there, whose workers have their own environment."""
    _quieten()
    try:
        client = Client(scheduler, timeout=CONNECT_S, set_as_default=False)
    except (OSError, TimeoutError, ValueError) as error:
        raise invalid("scheduler", scheduler, f"an address that answers, as tcp://HOST:PORT ({error})") from None
    with client:
        yield client, {}


@contextmanager
def own_cluster(
    plan: BatchPlan, points: int, scratch: Path, workers: int | None, runs: Runs
) -> Iterator[tuple[Client, Mapping[str, str]]]:
    """A client of processes that are started here, and what the environment of their kernels gets.

    Dask's own files go to `scratch`, where the next batch removes what one that was killed left. Raises StoppedError where
    a signal stops the `runs` before all are there, InvalidValueError as `share_out` does.
    """
    _quieten()
    number, environment = share_out(plan, points, workers)
    shutil.rmtree(scratch, ignore_errors=True)
    settings = {"distributed.scheduler.allowed-failures": ALLOWED_FAILURES, "distributed.admin.tick.limit": "1h"}
    try:
        with (
            dask.config.set(settings),
            _local_cluster(number, plan.resources, scratch, runs) as cluster,
            Client(cluster, set_as_default=False) as client,
        ):
            yield client, environment
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _local_cluster(number: int, resources: Mapping[str, float], scratch: Path, runs: Runs) -> LocalCluster:
    """Processes of one thread each on loopback.

    They are started by a thread that takes no signals of the terminal, and neither do they, then: a Ctrl-C while they
    still import would end each of them with a traceback. `StopUnwanted` takes that back when it can ignore them.
    """

    def start() -> LocalCluster:
        if hasattr(signal, "pthread_sigmask"):
            signal.pthread_sigmask(signal.SIG_BLOCK, OF_THE_TERMINAL)
        return LocalCluster(
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
    try:
        return in_time(start, None)
    except RuntimeError:  # a worker was ended before it was there
        if runs.stopped_by is None:
            raise
        raise StoppedError(runs.stopped_by) from None


def nobody_fits(client: Client, resources: Mapping[str, float]) -> str | None:
    """Why no point can begin: no worker has these resources; None where one has. Raises OSError and TimeoutError."""
    workers = in_time(lambda: client.scheduler_info(n_workers=-1)["workers"], ANSWER_S).values()
    if any(all(worker["resources"].get(name, 0) >= need for name, need in resources.items()) for worker in workers):
        return None
    if not workers:
        return "no worker is there; waiting"
    words = " ".join(f"{name}={need:g}" for name, need in resources.items())
    return f"no worker with {words} is there ({len(workers)} without); waiting"


def in_time(call: Callable[[], Result], seconds: float | None) -> Result:
    """What `call`, in a thread of its own, gives or raises; TimeoutError after so long, None for no limit.

    Dask itself waits for ever for a node that is frozen.
    """
    answer: Future[Result] = Future()

    def ask() -> None:
        try:
            answer.set_result(call())
        except Exception as error:  # noqa: BLE001 - handed on to the one who waits
            answer.set_exception(error)

    threading.Thread(target=ask, daemon=True).start()
    return answer.result(seconds)


def _quieten() -> None:
    """Dask says nothing: the points tell what matters. These are the two whose levels it sets."""
    for name in ("distributed", "distributed.client"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
