"""One thread for each training, and independent trainings in parallel processes.

Networks as small as these gain little from a second thread (two threads give a small VGG 1.3 times the images per
second, and an MLP fewer samples than one thread), while two processes with one thread each are twice as fast. Also,
results computed on one thread do not depend on the number of cores.

torch is imported where it is used, because a batch asks this module for the number of cores without needing torch.
"""

import multiprocessing
import os
import signal
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import forkserver, resource_tracker, spawn
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from typing import Any, NoReturn

import cloudpickle

from pwl_lab.support import environment, progress
from pwl_lab.support.errors import PwlLabError, invalid
from pwl_lab.support.timing import phase

Case = Mapping[str, Any]
WORKERS = environment.WORKERS.name
LONGEST_END_S = 10.0  # to wait for workers that were told to end
LONGEST_STOP_S = 60.0  # to wait for trainings that end because the time is up
LONGEST_SOCKET_FOLDER = 70  # a unix socket's path may have about 100 bytes; multiprocessing's names need 32


class WorkerLostError(PwlLabError):
    """A worker process ended without an answer."""


class InWorkerError(PwlLabError):
    """The traceback of an exception in a worker process, as text."""


class CaseFailedError(Exception):
    """A pickled exception of a case, sent from a worker: not every exception can be sent directly."""

    def raise_here(self) -> NoReturn:
        """Raise the original exception; its cause is the traceback in the worker."""
        packed, text = self.args
        raise cloudpickle.loads(packed) from InWorkerError(text)


@contextmanager
def one_thread() -> Iterator[None]:
    """A context in which torch computes on one thread."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def n_cores() -> int:
    """The number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def n_workers() -> int:
    """How many trainings run in parallel: `PWL_LAB_WORKERS`, or one more than the cores that this process may use.

    With one more, neither of two cores is idle while the last of three cases runs.
    """
    return environment.WORKERS.get() or (n_cores() + 1 if n_cores() > 1 else 1)


def side_by_side(work: Callable[..., Any], cases: Sequence[Case], description: str, device: str = "cpu") -> list[Any]:
    """Call `work(**case)` for each case in worker processes; return the results in the order of the cases.

    With one worker, one case, or a GPU (which one training uses alone), the cases run one by one in this process.

    Arguments:
    - `work`: a function, which may be defined in a notebook or a script; a script needs no main guard.
    - `cases`: the keyword arguments of each call.
    - `description`: the name of the work in the progress bar.
    - `device`: where the cases compute, as returned by `config.device`.

    Raises the exception of the first case that fails, after stopping the others; WorkerLostError if a worker was
    killed; InvalidValueError for a case that cannot be sent to another process.
    """
    workers = min(n_workers(), len(cases)) if device == "cpu" else 1
    if workers <= 1:
        return [work(**case) for case in cases]
    packed = [pack(work, case) for case in cases]
    # Functions of a notebook or a script are sent (see `pack`); most of them train something.
    context = worker_context({getattr(work, "__module__", "__main__"), "torch"} - {"__main__"})
    reports = context.SimpleQueue()
    # The workers watch one end of a pipe: they end when this process closes the other one, or ends in any way.
    watched, held = context.Pipe(duplex=False)
    pool = ProcessPoolExecutor(workers, context, _begin, (watched, reports, environment.settled()))
    processes: Mapping[int, BaseProcess] = {}
    try:
        with without_main():
            futures = [pool.submit(run_packed, case) for case in packed]
        processes = pool._processes  # not public, but in every Python from 3.9 on; a test would notice
        with phase("training"):
            _follow(futures, reports, description)
        pool.shutdown()
        return [cloudpickle.loads(future.result()) for future in futures]
    except CaseFailedError as failed:
        if environment.seconds_left() <= 0:
            wait(futures, timeout=LONGEST_STOP_S)  # the others stop by themselves, each after its own checkpoint
        failed.raise_here()
    except BrokenProcessPool as error:
        raise WorkerLostError(
            f"{description}: {_why_lost(pool, processes)}. Finished work is kept in the store. "
            f"{WORKERS}=1 runs everything in one process, with less memory."
        ) from error
    finally:
        held.close()
        pool.shutdown(wait=False, cancel_futures=True)
        watched.close()


def pack(work: Callable[..., Any], case: Case) -> bytes:
    """Pickle `work` and its arguments for another process; definitions in a notebook or a script are sent as code.

    Raises InvalidValueError for values that cannot be sent, such as a lock.
    """
    try:
        packed: bytes = cloudpickle.dumps((work, dict(case)))
    except Exception as error:
        name = getattr(work, "__name__", repr(work))
        raise invalid(f"case of {name}", dict(case), f"values that can be sent to another process ({error})") from error
    return packed


def run_packed(packed: bytes) -> bytes:
    """Run what `pack` returned and pickle the result. Any failure is raised as CaseFailedError."""
    try:
        work, case = cloudpickle.loads(packed)
        result: bytes = cloudpickle.dumps(work(**case))
    except Exception as error:  # noqa: BLE001 - raised again where it was asked for
        raise CaseFailedError(_packed_error(error), traceback.format_exc()) from None
    return result


def _packed_error(error: Exception) -> bytes:
    """A pickled exception, or one with its text if it cannot be unpickled."""
    try:
        packed: bytes = cloudpickle.dumps(error)
        cloudpickle.loads(packed)  # some can be pickled but not unpickled
    except Exception:  # noqa: BLE001 - whatever it is, the text says it
        packed = cloudpickle.dumps(PwlLabError(f"{type(error).__name__}: {error}"))
    return packed


@contextmanager
def without_main() -> Iterator[None]:
    """A context in which processes started by this thread do not run the reader's script again.

    Python runs it so that they find its definitions. But a script without a main guard would then start processes from
    its processes, and a script from standard input is not found. It is not needed here (see `pack`).
    """
    real, mine = spawn.get_preparation_data, threading.get_ident()

    def prepared(name: str) -> dict[str, Any]:
        ours = threading.get_ident() == mine
        return {key: value for key, value in real(name).items() if not (ours and key.startswith("init_main"))}

    with _PREPARING:
        spawn.get_preparation_data = prepared
        try:
            yield
        finally:
            spawn.get_preparation_data = real


_PREPARING = threading.Lock()


def _why_lost(pool: ProcessPoolExecutor, processes: Mapping[int, BaseProcess]) -> str:
    """What ended the lost worker; the pool itself ends the others (SIGTERM)."""
    ending = threading.Thread(target=pool.shutdown, daemon=True)  # it alone may ask for exit codes while it waits
    ending.start()
    ending.join(LONGEST_END_S)
    codes = sorted({process.exitcode for process in processes.values()} - {None, 0}, key=lambda code: code == -15)
    return how_it_ended(codes[0] if codes else None)


def how_it_ended(code: int | None) -> str:
    """Why a process with this exit code (`Process.exitcode`; None: unknown) returned nothing, in words."""
    if code is not None and code < 0:
        name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
        hint = ", which the system sends when memory runs out" if name == "SIGKILL" else ""
        return f"a worker process was ended by {name}{hint}"
    ended = "" if code is None else f" (exit code {code})"
    return f"a worker process ended without an answer{ended}; see what it wrote to standard error"


def _follow(futures: Sequence[Future[bytes]], reports: Any, description: str) -> None:
    """Show one bar for all workers until every future is done; raises what a case raised.

    The total number of steps is an estimate that grows as trainings begin.
    """
    begun: list[int] = []
    with progress.Progress(description, 0) as bar:
        waiting = set(futures)
        while waiting:
            done, waiting = wait(waiting, timeout=0.2, return_when=FIRST_EXCEPTION)
            while not reports.empty():
                report = reports.get()
                if "said" in report:
                    bar.say(report["said"])
                elif "total" in report:
                    begun.append(report["total"])
                    bar.extend(sum(begun) + round(sum(begun) / len(begun)) * max(0, len(futures) - len(begun)))
                else:
                    bar.advance(report["steps"], **report["values"])
                    if "rows" in report:
                        bar.evaluated(report["rows"], report["run"])
            for future in done:
                future.result()


def worker_context(preload: Iterable[str]) -> BaseContext:
    """The multiprocessing context: workers are forked from a process that has only imported the modules `preload`.

    A fork of this process would copy torch's threads in the middle of their work, and a new Python for each worker
    takes four seconds to import everything again.
    """
    too_long = len(os.fsencode(tempfile.gettempdir())) > LONGEST_SOCKET_FOLDER
    if too_long or "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(sorted(preload))
    return context


def end_helpers() -> None:
    """Stop and reap multiprocessing's own helper processes, which otherwise live as long as this process.

    A kernel that is told to end first tells its children and waits for them, but the resource tracker ignores that and
    waits for the kernel.
    """
    helpers: tuple[Any, ...] = (forkserver._forkserver, resource_tracker._resource_tracker)
    for helper in helpers:
        helper._stop()  # not public, but in every Python from 3.9 on; a test would notice


def _begin(watched: Any, reports: Any, environment: Mapping[str, str]) -> None:
    """Set up a worker: its parent's environment, one thread, progress to the parent, and an end when the parent ends."""
    import torch

    os.environ.clear()  # a forked worker has the environment of the time when the first worker was started
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles interrupts
    torch.set_num_threads(1)
    progress.report_to(reports.put)
    threading.Thread(target=_end_with_parent, args=(watched,), daemon=True).start()


def _end_with_parent(watched: Any) -> None:
    """Wait until the parent closes its end of the pipe, then leave at once."""
    watched.poll(None)
    os._exit(1)
