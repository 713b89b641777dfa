"""A simulated slow link: how long to wait so that bytes arrive no faster than a bandwidth allows, after a latency.

The arithmetic is in `Link.delay`. It has no clock and does not sleep; its caller does, a source in its thread or the
server in its event loop. Delays count from when the link will be free, not from one piece to the next, so later waits
make up for one that took a little too long.
"""

import math
import threading
from dataclasses import dataclass

from pwl_lab.support.errors import invalid

MEGABYTE = 10**6  # as bandwidths are stated, not 2**20
# A receiver that was busy finds at most this much of the link's time waiting in its buffers; any further delay is lost.
SLACK_S = 0.05
PIECE_S = 0.02  # of the link's time: bytes are passed on in pieces of about this length
MIN_PIECE_BYTES = 1024


@dataclass(frozen=True)
class Throttle:
    """The limits of a link.

    Arguments:
    - `megabytes_per_s`: the bandwidth, in units of 10^6 bytes a second; None for no limit.
    - `latency_s`: the wait before the first byte of each file, in seconds.

    Raises InvalidValueError unless the bandwidth is a finite number above 0 and the latency a finite number from 0.
    """

    megabytes_per_s: float | None = None
    latency_s: float = 0.0

    def __post_init__(self) -> None:
        """Validate the values."""
        if self.megabytes_per_s is not None and not 0 < self.megabytes_per_s < math.inf:
            raise invalid("megabytes_per_s", self.megabytes_per_s, "a number above 0, or None for no limit")
        if not 0 <= self.latency_s < math.inf:
            raise invalid("latency_s", self.latency_s, "a number of seconds from 0 on")

    @property
    def bytes_per_s(self) -> float:
        """The bandwidth in bytes per second; infinite if there is no limit."""
        return math.inf if self.megabytes_per_s is None else self.megabytes_per_s * MEGABYTE

    def seconds_for(self, n_bytes: int) -> float:
        """How many seconds a file of `n_bytes` bytes takes, including the latency."""
        return self.latency_s + n_bytes / self.bytes_per_s

    def __str__(self) -> str:
        """A description for messages."""
        rate = "no limit" if self.megabytes_per_s is None else f"{self.megabytes_per_s:g} MB/s"
        return rate if self.latency_s == 0 else f"{rate}, {self.latency_s * 1000:g} ms latency"


class Link:
    """The bandwidth of one throttle, shared by all transfers that use this object, from any thread.

    Times are seconds of any monotonic clock. A transfer waits `throttle.latency_s`, calls `begin` and then, for each
    piece of at most `piece_bytes`, waits `delay` seconds before it passes the piece on. So `n` bytes, in any number of
    transfers, have all arrived `n / bytes_per_s` seconds after the first one began, and no earlier.
    """

    def __init__(self, throttle: Throttle) -> None:
        """An idle link."""
        self.throttle = throttle
        rate = throttle.bytes_per_s
        self.piece_bytes: int | None = None if math.isinf(rate) else max(MIN_PIECE_BYTES, int(rate * PIECE_S))
        self._free_at = -math.inf
        self._lock = threading.Lock()

    def begin(self, now: float) -> None:
        """Start a transfer: time during which the link was idle cannot be used any more."""
        with self._lock:
            self._free_at = max(self._free_at, now)

    def delay(self, n_bytes: int, now: float) -> float:
        """Seconds from `now` until `n_bytes` more have arrived, after all bytes requested before."""
        with self._lock:
            self._free_at = max(self._free_at, now - SLACK_S) + n_bytes / self.throttle.bytes_per_s
            return max(0.0, self._free_at - now)
