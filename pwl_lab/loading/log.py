"""The log of a load: events in order, and the state of every shard. Any thread may read and write it."""

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from pwl_lab.loading.bundle import Shard

FAILED = "failed: "  # the prefix of the state of a shard that will not arrive; it is final


@dataclass(frozen=True)
class Event:
    """An event during loading, `seconds` after `open` was called.

    Kinds: `boot` (predictions are possible), `fetched`, `swap`, `held` (arrived, but kept out of the mask), `retry`,
    `damaged`, `failed`, `cache`, `callback`, and at the end `done`, `closed` or `broken` (an error in the loader).
    `mask` and `bytes_arrived` are the values after the event.
    """

    seconds: float
    kind: str
    shard: str
    mask: str
    bytes_arrived: int
    message: str = ""


@dataclass(frozen=True)
class Status:
    """The progress of loading."""

    mask: str
    blocks: dict[str, str]  # shard -> waiting, arrived, loaded, held, replaced or failed: why
    bytes_arrived: int
    bytes_total: int
    seconds: float
    finished: bool  # nothing more will arrive
    memory_bytes: int  # of all weights in memory now, including those being loaded
    peak_memory_bytes: int

    @property
    def failed(self) -> dict[str, str]:
        """Shard -> why it could not be loaded."""
        return {name: state.removeprefix(FAILED) for name, state in self.blocks.items() if state.startswith(FAILED)}


class LoadingLog:
    """Keeps events and states. Every change wakes the threads that wait in `wait_for`."""

    def __init__(self, shards: Sequence[Shard], mask: str, clock: Callable[[], float]) -> None:
        """Start a log.

        Arguments:
        - `shards`: all shards that are expected.
        - `mask`: the mask that predicts first.
        - `clock`: returns the seconds since the start.
        """
        self.clock, self.total = clock, sum(shard.bytes for shard in shards)
        self.mask, self.arrived, self.finished, self.closed = mask, 0, False, False
        self._states = {shard.name: "waiting" for shard in shards}
        self._events: list[Event] = []
        self._held: dict[str, int] = {}
        self._peak = 0
        self._changed = threading.Condition(threading.RLock())

    def record(self, kind: str, shard: Shard | None = None, message: str = "", state: str | None = None) -> Event:
        """Add an event; `state` is the shard's new state, if it changes."""
        with self._changed:
            name = shard.name if shard is not None else ""
            if state is not None:
                self._become({name: state})
            event = Event(self.clock(), kind, name, self.mask, self.arrived, message)
            self._events.append(event)
            self._changed.notify_all()
        return event

    def fail(self, shard: Shard, why: str) -> None:
        """Record that a shard will not arrive or cannot be used."""
        with self._changed:
            self._held[shard.name] = 0
            self.record("failed", shard, why, state=FAILED + why)

    def arrive(self, shard: Shard) -> None:
        """Record that a shard has arrived completely and passed its check."""
        with self._changed:
            self.arrived += shard.bytes
            self.record("fetched", shard, state="arrived")

    def hold(self, sizes: Mapping[str, int]) -> None:
        """Record how many bytes of memory each of these takes now."""
        with self._changed:
            self._held |= sizes
            self._peak = max(self._peak, sum(self._held.values()))

    def swap(self, mask: str, shard: Shard, states: Mapping[str, str]) -> Event:
        """Record a swap to `mask`, and the new state of each shard in `states`."""
        with self._changed:
            self.mask = mask
            self._become(states)
            return self.record("swap", shard)

    def keep_out(self, shard: Shard, states: Mapping[str, str]) -> None:
        """Record that a shard has arrived but is not used; `states` as for `swap`."""
        with self._changed:
            self._become(states)
            self.record("held", shard, "the mask would be less accurate with it")

    def _become(self, states: Mapping[str, str]) -> None:
        """Set the states of shards; a failed shard stays failed, whatever replaces it."""
        self._states |= {name: state for name, state in states.items() if not self._states[name].startswith(FAILED)}

    def finish(self, kind: str, why: str = "") -> None:
        """Record the end of loading. With `why`, an error, all shards that have not arrived are marked as failed."""
        with self._changed:
            if self.finished:
                return
            if why:
                pending = [name for name, state in self._states.items() if state in ("waiting", "arrived")]
                self._become(dict.fromkeys(pending, FAILED + why))
            self.finished, self.closed = True, kind == "closed"
            self.record(kind, message=why)

    def wait_for(self, holds: Callable[[], bool], timeout: float | None) -> bool:
        """Wait until `holds()` is true; return whether it is."""
        with self._changed:
            return self._changed.wait_for(holds, timeout)

    @property
    def events(self) -> list[Event]:
        """All events so far."""
        with self._changed:
            return list(self._events)

    def status(self) -> Status:
        """A consistent snapshot of the progress."""
        with self._changed:
            return Status(
                mask=self.mask,
                blocks=dict(self._states),
                bytes_arrived=self.arrived,
                bytes_total=self.total,
                seconds=self.clock(),
                finished=self.finished,
                memory_bytes=sum(self._held.values()),
                peak_memory_bytes=self._peak,
            )
