"""A slow link, imitated: how long to wait so that bytes come no faster than a bandwidth allows, after a latency.

The arithmetic is `Link.delay`. It knows no clock and does not sleep: whoever moves the bytes does that, a source in its
thread or the server in its event loop. It counts from when the link will be free, not from one piece to the next, so
the next waits make up for one that took a little too long.
"""

import math
import threading
from dataclasses import dataclass

from pwl_lab.support.errors import invalid

MEGABYTE = 10**6  # as bandwidths are stated, not 2**20
# A receiver that was busy elsewhere finds this much of the link's time waiting in its buffers; lateness beyond it is lost.
SLACK_S = 0.05
PIECE_S = 0.02  # of the link's time: bytes are handed on in pieces about this long
MIN_PIECE_BYTES = 1024


@dataclass(frozen=True)
class Throttle:
    """What a link allows.

    Arguments:
    - `megabytes_per_s`: the bandwidth, in units of 10^6 bytes a second; None for no limit.
    - `latency_s`: the wait before the first byte of each file, in seconds.

    Raises InvalidValueError unless the bandwidth is a finite number above 0 and the latency one from 0 on.
    """

    megabytes_per_s: float | None = None
    latency_s: float = 0.0

    def __post_init__(self) -> None:
        """Check the values."""
        if self.megabytes_per_s is not None and not 0 < self.megabytes_per_s < math.inf:
            raise invalid("megabytes_per_s", self.megabytes_per_s, "a number above 0, or None for no limit")
        if not 0 <= self.latency_s < math.inf:
            raise invalid("latency_s", self.latency_s, "a number of seconds from 0 on")

    @property
    def bytes_per_s(self) -> float:
        """The bandwidth in bytes a second, infinite where there is no limit."""
        return math.inf if self.megabytes_per_s is None else self.megabytes_per_s * MEGABYTE

    def seconds_for(self, n_bytes: int) -> float:
        """How many seconds a file of `n_bytes` bytes takes, its latency included."""
        return self.latency_s + n_bytes / self.bytes_per_s

    def __str__(self) -> str:
        """In words, for messages."""
        rate = "no limit" if self.megabytes_per_s is None else f"{self.megabytes_per_s:g} MB/s"
        return rate if self.latency_s == 0 else f"{rate}, {self.latency_s * 1000:g} ms latency"


class Link:
    """The bandwidth of one throttle, shared by all transfers that go through this object, from any thread.

    Times are seconds of any one clock that never goes back. A transfer waits `throttle.latency_s`, calls `begin` and then, for
    each piece of at most `piece_bytes`, waits `delay` seconds before it hands the piece on. So `n` bytes, in however many
    transfers, are all there `n / bytes_per_s` seconds after the first one began, and no earlier.
    """

    def __init__(self, throttle: Throttle) -> None:
        """A link on which nothing is under way."""
        self.throttle = throttle
        rate = throttle.bytes_per_s
        self.piece_bytes: int | None = None if math.isinf(rate) else max(MIN_PIECE_BYTES, int(rate * PIECE_S))
        self._free_at = -math.inf
        self._lock = threading.Lock()

    def begin(self, now: float) -> None:
        """A transfer begins: time that the link stood idle until now cannot be used any more."""
        with self._lock:
            self._free_at = max(self._free_at, now)

    def delay(self, n_bytes: int, now: float) -> float:
        """Seconds from `now` until `n_bytes` more have come through, behind all that were asked for before."""
        with self._lock:
            self._free_at = max(self._free_at, now - SLACK_S) + n_bytes / self.throttle.bytes_per_s
            return max(0.0, self._free_at - now)
