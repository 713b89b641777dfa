"""When to try again after a fault: one policy, one loop, and one table of the errors that another try would meet again.

Everything that reads from another machine uses it: a bundle's index and its shards, and a batch whose location is a
storage.
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

# What another try would find again. Any other error may be a matter of the moment: storages raise errors of their own
# kinds, and a try too many costs a little time where one too few costs the file. A wrong certificate is a ValueError.
PERMANENT = (
    FileNotFoundError,
    PermissionError,
    IsADirectoryError,
    NotADirectoryError,
    ValueError,
    NotImplementedError,
    ImportError,
)
GARBLED = (JSONDecodeError, UnicodeError)  # wrong values, too, but of what came from the other side
PASSING_STATUS = {408, 425, 429}  # of HTTP: timeout, too early, too many requests; and everything from 500 on
# Storages raise these with a path alone, and the reason is in the name of the class.
REASONS = {
    FileNotFoundError: errno.ENOENT,
    PermissionError: errno.EACCES,
    IsADirectoryError: errno.EISDIR,
    NotADirectoryError: errno.ENOTDIR,
}


class DamagedError(PwlLabError):
    """What came is not what was promised: it is asked for again, from its beginning."""

    transient = True


class Retry(Frozen):
    """How often something is tried, and how long to wait in between.

    Arguments:
    - `tries`: the most tries in a row that bring no new byte, and the most that begin anew; a try that brings new bytes
      starts the count again.
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
    """Whether another try would meet the same error. Errors of our own say so themselves (`transient`)."""
    if isinstance(error, PwlLabError):
        return not getattr(error, "transient", False)
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, PERMANENT) and not isinstance(cause, GARBLED):
            return True
        cause = cause.__cause__  # clients wrap what happened into errors of their own
    return False


def permanent_status(status: int) -> bool:
    """Whether another try would meet the same HTTP status, which is no success."""
    return status < 500 and status not in PASSING_STATUS


def reason(error: BaseException) -> str:
    """Why something failed, for the end of a message: the system's words, or the error's kind and text."""
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
    """Call `attempt` until it returns, in as many tries as `retry` allows; then raise its last error.

    A permanent error is raised at once where nothing has come yet. In the middle it is not believed (what is asked for
    may just be replaced by another version), and what is damaged is not kept: both begin anew, which is counted apart.

    Arguments:
    - `attempt`: what to do; it goes on from what has come.
    - `retry`: how often, and after which waits.
    - `pause`: waits for a number of seconds.
    - `position`: how many bytes have come.
    - `restart`: forgets what has come.
    - `report`: gets each error that is followed by another try.
    """
    failures = restarts = 0
    while True:
        before = position()
        try:
            return attempt()
        except Exception as error:  # noqa: BLE001 - raised below, unless another try may go better
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
