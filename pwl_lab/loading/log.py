"""What a loader says of itself: events in order, and the state of every shard. Safe to write and read from any thread."""

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from pwl_lab.loading.bundle import Shard


@dataclass(frozen=True)
class Event:
    """Something that happened while loading, `seconds` after `open` was called.

    Kinds: `boot` (predictions are possible), `fetched`, `swap`, `held` (arrived, but kept out of the mask), `retry`,
    `damaged`, `failed`, `cache`, `callback`, `done`, `closed`. `mask` and `bytes_arrived` are as they were afterwards.
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
        mark = "failed: "
        return {name: state.removeprefix(mark) for name, state in self.blocks.items() if state.startswith(mark)}


class LoadingLog:
    """Keeps events and states; whoever waits for something is woken by every change."""

    def __init__(self, shards: Sequence[Shard], mask: str, clock: Callable[[], float]) -> None:
        """`shards`: all that shall come; `mask`: who predicts first; `clock`: seconds since the start."""
        self.clock, self.total = clock, sum(shard.bytes for shard in shards)
        self.mask, self.arrived, self.finished = mask, 0, False
        self._states = {shard.name: "waiting" for shard in shards}
        self._events: list[Event] = []
        self._held: dict[str, int] = {}
        self._peak = 0
        self._changed = threading.Condition(threading.RLock())

    def record(self, kind: str, shard: Shard | None = None, message: str = "", state: str | None = None) -> Event:
        """Something happened; `state` is what it makes of the shard."""
        with self._changed:
            name = shard.name if shard is not None else ""
            if state is not None:
                self._states[name] = state
            event = Event(self.clock(), kind, name, self.mask, self.arrived, message)
            self._events.append(event)
            self._changed.notify_all()
        return event

    def arrive(self, shard: Shard) -> None:
        """All bytes of a shard are here, and are the right ones."""
        with self._changed:
            self.arrived += shard.bytes
            self.record("fetched", shard, state="arrived")

    def hold(self, sizes: Mapping[str, int]) -> None:
        """So many bytes of memory are held for each of these now."""
        with self._changed:
            self._held |= sizes
            self._peak = max(self._peak, sum(self._held.values()))

    def swap(self, mask: str, shard: Shard, states: Mapping[str, str]) -> Event:
        """The network that predicts is another one; `states` is what that makes of the shards."""
        with self._changed:
            self.mask = mask
            self._states |= states
            return self.record("swap", shard)

    def finish(self, kind: str) -> None:
        """Nothing more will arrive."""
        with self._changed:
            if not self.finished:
                self.finished = True
                self.record(kind)

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
