"""For tests that start processes: wait for something, and ask whether a process still runs."""

import time
from collections.abc import Callable

import psutil


def until(condition: Callable[[], bool], seconds: float = 10) -> None:
    """Wait for `condition`, fail after `seconds`."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "still not so"
        time.sleep(0.05)


def alive(number: int) -> bool:
    """Whether this process still runs (one that nobody has reaped yet does not)."""
    try:
        return psutil.Process(number).status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
    except psutil.NoSuchProcess:
        return False
