"""When to retry after a fault: one policy, one loop, and one table of permanent errors.

All reading from other machines uses it: a bundle's index and shards, and a batch whose location is a storage.
"""

import errno
import os
from collections.abc import Callable
from json import JSONDecodeError
from typing import TypeVar

from pydantic import Field

from pwl_lab.support.config import Frozen
from pwl_lab.support.errors import PwlLabError

Result = TypeVar("Result")

# Errors that another try would meet again. Any other error may be temporary: storages raise errors of their own kinds,
# and one try too many costs a little time, while one too few costs the file. A wrong certificate is a ValueError.
PERMANENT = (
    FileNotFoundError,
    PermissionError,
    IsADirectoryError,
    NotADirectoryError,
    ValueError,
    NotImplementedError,
    ImportError,
)
GARBLED = (JSONDecodeError, UnicodeError)  # also ValueErrors, but about the data received
PASSING_STATUS = {408, 425, 429}  # temporary HTTP errors: timeout, too early, too many requests; also all from 500 on
# Storages raise these with only a path; the reason is in the class name.
REASONS = {
    FileNotFoundError: errno.ENOENT,
    PermissionError: errno.EACCES,
    IsADirectoryError: errno.EISDIR,
    NotADirectoryError: errno.ENOTDIR,
}


class DamagedError(PwlLabError):
    """The received data is damaged: it is requested again from the beginning."""

    transient = True


class Retry(Frozen):
    """How often to try, and how long to wait in between.

    Arguments:
    - `tries`: the most tries in a row without a new byte, and the most that start over; a try that brings new bytes
      resets the count.
    - `first_wait_s`: the seconds before the second try; doubled for each further one.
    - `longest_wait_s`: the seconds at which doubling ends.
    """

    tries: int = Field(5, ge=1, le=1000)
    first_wait_s: float = Field(0.2, ge=0.0, le=60.0)
    longest_wait_s: float = Field(5.0, ge=0.0, le=600.0)

    def wait_s(self, failures: int) -> float:
        """Seconds to wait after this number of failures in a row."""
        return min(self.longest_wait_s, self.first_wait_s * 2.0 ** min(failures - 1, 30))


def permanent(error: BaseException) -> bool:
    """Whether another try would meet the same error. Our own errors say so themselves (`transient`)."""
    if isinstance(error, PwlLabError):
        return not getattr(error, "transient", False)
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, PERMANENT) and not isinstance(cause, GARBLED):
            return True
        cause = cause.__cause__  # clients wrap the original error in their own
    return False


def permanent_status(status: int) -> bool:
    """Whether another try would get the same (unsuccessful) HTTP status."""
    return status < 500 and status not in PASSING_STATUS


def reason(error: BaseException) -> str:
    """Why something failed, for the end of a message: the system's message, or the error's class and text."""
    if isinstance(error, PwlLabError):
        return str(error)
    text = str(error)
    if isinstance(error, OSError):
        code = next((code for kind, code in REASONS.items() if isinstance(error, kind)), None)
        words = error.strerror or (os.strerror(code) if code is not None else None)
        if words is not None:
            return words if error.strerror or not text else f"{words} ({text})"
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def patiently(
    attempt: Callable[[], Result],
    retry: Retry,
    pause: Callable[[float], object],
    *,
    position: Callable[[], int] = lambda: 0,
    restart: Callable[[], None] = lambda: None,
    report: Callable[[Exception], object] = lambda _: None,
) -> Result:
    """Call `attempt` until it succeeds, at most as often as `retry` allows; then raise its last error.

    A permanent error is raised at once if no byte has arrived yet. Later it may be due to a file that is just being
    replaced. In that case, and for damaged data, the transfer starts over, which is counted separately.

    Arguments:
    - `attempt`: the call; it continues after the bytes that have arrived.
    - `retry`: how often to try, and how long to wait.
    - `pause`: waits for a number of seconds.
    - `position`: returns how many bytes have arrived.
    - `restart`: discards the bytes that have arrived.
    - `report`: is called with each error that is followed by another try.
    """
    failures = restarts = 0
    while True:
        before = position()
        try:
            return attempt()
        except Exception as error:  # noqa: BLE001 - raised below, unless another try may succeed
            fault = error
        if isinstance(fault, DamagedError) or (permanent(fault) and position() > 0):
            restarts += 1
            restart()
        elif permanent(fault):
            raise fault
        else:
            failures = 1 if position() > before else failures + 1
        if max(failures, restarts) >= retry.tries:
            raise fault
        report(fault)
        pause(retry.wait_s(max(failures, restarts)))
