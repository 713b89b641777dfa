"""What a loader reports: events in order, and the state of every shard. Any thread may write and read."""

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from pwl_lab.loading.bundle import Shard

FAILED = "failed: "  # how the state of a shard begins that will not come; it is final


@dataclass(frozen=True)
class Event:
    """Something that happened while loading, `seconds` after `open` was called.

    Kinds: `boot` (predictions are possible), `fetched`, `swap`, `held` (arrived, but kept out of the mask), `retry`,
    `damaged`, `failed`, `cache`, `callback`, and at the end `done`, `closed` or `broken` (a fault in the loader itself).
    `mask` and `bytes_arrived` are as they were afterwards.
    """

    seconds: float
    kind: str
    shard: str
    mask: str
    bytes_arrived: int
    message: str = ""


@dataclass(frozen=True)
class Status:
    """How far loading is."""

    mask: str
    blocks: dict[str, str]  # shard -> waiting, arrived, loaded, held, replaced or failed: why
    bytes_arrived: int
    bytes_total: int
    seconds: float
    finished: bool  # nothing more will arrive
    memory_bytes: int  # of all weights held now, those on their way included
    peak_memory_bytes: int

    @property
    def failed(self) -> dict[str, str]:
        """Shard -> why it could not be loaded."""
        return {name: state.removeprefix(FAILED) for name, state in self.blocks.items() if state.startswith(FAILED)}


class LoadingLog:
    """Keeps events and states. Every change wakes whoever waits for something."""

    def __init__(self, shards: Sequence[Shard], mask: str, clock: Callable[[], float]) -> None:
        """Begin a log.

        Arguments:
        - `shards`: all that shall come.
        - `mask`: which network predicts first.
        - `clock`: tells the seconds since the start.
        """
        self.clock, self.total = clock, sum(shard.bytes for shard in shards)
        self.mask, self.arrived, self.finished, self.closed = mask, 0, False, False
        self._states = {shard.name: "waiting" for shard in shards}
        self._events: list[Event] = []
        self._held: dict[str, int] = {}
        self._peak = 0
        self._changed = threading.Condition(threading.RLock())

    def record(self, kind: str, shard: Shard | None = None, message: str = "", state: str | None = None) -> Event:
        """Add an event; `state` is the shard's new state, if it has one."""
        with self._changed:
            name = shard.name if shard is not None else ""
            if state is not None:
                self._become({name: state})
            event = Event(self.clock(), kind, name, self.mask, self.arrived, message)
            self._events.append(event)
            self._changed.notify_all()
        return event

    def fail(self, shard: Shard, why: str) -> None:
        """Record that a shard will not come, or cannot be used."""
        with self._changed:
            self._held[shard.name] = 0
            self.record("failed", shard, why, state=FAILED + why)

    def arrive(self, shard: Shard) -> None:
        """Record that all bytes of a shard have come and are the right ones."""
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
        """Record that a shard has arrived and is not used; `states` as for `swap`."""
        with self._changed:
            self._become(states)
            self.record("held", shard, "the mask would be less accurate with it")

    def _become(self, states: Mapping[str, str]) -> None:
        """Set the states of shards; one that has failed stays failed, whatever comes in its place."""
        self._states |= {name: state for name, state in states.items() if not self._states[name].startswith(FAILED)}

    def finish(self, kind: str, why: str = "") -> None:
        """Record the end of loading; with `why`, a fault, every shard that is not in yet has failed."""
        with self._changed:
            if self.finished:
                return
            if why:
                pending = [name for name, state in self._states.items() if state in ("waiting", "arrived")]
                self._become(dict.fromkeys(pending, FAILED + why))
            self.finished, self.closed = True, kind == "closed"
            self.record(kind, message=why)

    def wait_for(self, holds: Callable[[], bool], timeout: float | None) -> bool:
        """Wait until `holds()`; whether it does."""
        with self._changed:
            return self._changed.wait_for(holds, timeout)

    @property
    def events(self) -> list[Event]:
        """All that has happened so far."""
        with self._changed:
            return list(self._events)

    def status(self) -> Status:
        """How things stand, all of one moment."""
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
