"""One thread for each training, and independent trainings side by side in processes.

Networks as small as these gain little from a second thread (two give a small VGG 1.3 times the images per second, an
MLP fewer samples than one), while two processes of one thread each give twice as much. And what is computed on one
thread does not depend on how many cores a machine has.

torch is imported where it is used: a batch asks this module for the number of cores before anything needs torch.
"""

import multiprocessing
import os
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.context import BaseContext
from typing import Any

from pwl_lab import environment, progress
from pwl_lab.errors import PwlLabError

Case = Mapping[str, Any]
WORKERS = environment.WORKERS.name
LONGEST_SOCKET_FOLDER = 70  # a unix socket's path may have about 100 bytes, multiprocessing's own names need 32


class WorkerLostError(PwlLabError):
    """A worker process ended without an answer."""


@contextmanager
def one_thread() -> Iterator[None]:
    """Inside, torch computes on one thread; afterwards on as many as before."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def n_cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def n_workers() -> int:
    """How many trainings run side by side: `PWL_LAB_WORKERS`, or one more than the cores that this process may use.

    One more, so that with three cases on two cores neither core is idle while the last case runs.
    """
    return environment.WORKERS.get() or (n_cores() + 1 if n_cores() > 1 else 1)


def side_by_side(work: Callable[..., Any], cases: Sequence[Case], description: str) -> list[Any]:
    """`work(**case)` for each case, in so many worker processes; the results in the order of the cases.

    `work` is a function of a module, its arguments and results can be pickled. An exception in one case stops the
    others and is raised here; so does an interrupt. Raises WorkerLostError when a worker was killed. With one worker,
    or one case, everything runs in this process.
    """
    workers = min(n_workers(), len(cases))
    if workers <= 1:
        return [work(**case) for case in cases]
    context = _context(work)
    reports = context.SimpleQueue()
    # The workers watch one end: they end when this process closes the other, or ends itself, however that happens.
    watched, held = context.Pipe(duplex=False)
    pool = ProcessPoolExecutor(workers, context, _begin, (watched, reports, environment.settled()))
    try:
        futures = [pool.submit(work, **case) for case in cases]
        _follow(futures, reports, description)
        pool.shutdown()
        return [future.result() for future in futures]
    except BrokenProcessPool as error:
        raise WorkerLostError(
            f"{description}: a worker process was killed, perhaps for want of memory. What the workers had finished is "
            "kept in the store; run again with fewer side by side (PWL_LAB_WORKERS=1)."
        ) from error
    finally:
        held.close()
        pool.shutdown(wait=False, cancel_futures=True)
        watched.close()


def _follow(futures: Sequence[Future], reports: Any, description: str) -> None:
    """Show one bar for all workers until every future is done; raises what a case raised.

    How many steps there will be is an estimate that grows as trainings begin.
    """
    begun: list[int] = []
    with progress.Progress(description, 0) as bar:
        waiting = set(futures)
        while waiting:
            done, waiting = wait(waiting, timeout=0.2, return_when=FIRST_EXCEPTION)
            while not reports.empty():
                report = reports.get()
                if "total" in report:
                    begun.append(report["total"])
                    bar.extend(sum(begun) + round(sum(begun) / len(begun)) * max(0, len(futures) - len(begun)))
                else:
                    bar.advance(report["steps"], report["values"])
            for future in done:
                future.result()


def _context(work: Callable[..., Any]) -> BaseContext:
    """How workers are made: forked from a process that has imported what `work` needs, and done nothing else.

    A fork of this process would copy torch's threads half-way through their work, and a new Python for each worker takes
    four seconds to import everything again.
    """
    too_long = len(os.fsencode(tempfile.gettempdir())) > LONGEST_SOCKET_FOLDER
    if too_long or "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([work.__module__, "torch._dynamo"])  # the latter is what an optimiser imports first
    return context


def end_helpers() -> None:
    """End and reap multiprocessing's own helpers, which otherwise live as long as this process.

    A kernel that is told to end first tells its children, and waits for them; the resource tracker ignores that and
    waits for the kernel.
    """
    for helper in (forkserver._forkserver, resource_tracker._resource_tracker):
        helper._stop()  # not public, but in every Python from 3.9 on; a test would notice


def _begin(watched: Connection, reports: Any, environment: Mapping[str, str]) -> None:
    """Set up a worker: its parent's environment, one thread, progress to the parent, and an end when the parent ends."""
    import torch

    os.environ.clear()  # a forked worker has that of the time when the first worker was made
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupt is the parent's to handle
    torch.set_num_threads(1)
    progress.report_to(reports.put)
    threading.Thread(target=_end_with_parent, args=(watched,), daemon=True).start()


def _end_with_parent(watched: Connection) -> None:
    """Wait until the parent closes its end of the pipe, then leave at once."""
    watched.poll(None)
    os._exit(1)
