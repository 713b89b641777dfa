"""Wait for Dask, but not for ever: it does, for a node that is frozen."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

from pwl_lab.batch.kernel import Runs
from pwl_lab.errors import PwlLabError

Result = TypeVar("Result")

LOOK_EVERY_S = 0.2


class StoppedError(PwlLabError):
    """A signal came while something was waited for."""


def in_time(call: Callable[[], Result], seconds: float, runs: Runs | None = None, patience: float = 0) -> Result:
    """What `call`, in a thread of its own, gives or raises; TimeoutError after so many seconds.

    Where the `runs` are stopped meanwhile it is waited for no more than `patience` seconds longer, then StoppedError is
    raised. The thread goes on all the same: nothing can end it.
    """
    answer: Future[Result] = Future()

    def ask() -> None:
        try:
            answer.set_result(call())
        except BaseException as error:  # noqa: BLE001 - handed on to the one who waits
            answer.set_exception(error)

    threading.Thread(target=ask, daemon=True).start()
    end, stopped = time.monotonic() + seconds, None
    while True:
        try:
            return answer.result(max(0.0, min(LOOK_EVERY_S, end - time.monotonic())))
        except TimeoutError:
            if answer.done():  # its own
                return answer.result()
        if runs and runs.stopped_by and stopped is None:
            stopped = runs.stopped_by
            end = min(end, time.monotonic() + patience)
        if time.monotonic() >= end:
            raise StoppedError(stopped) if stopped else TimeoutError(f"no answer in {seconds:.0f} s")
