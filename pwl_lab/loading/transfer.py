"""Getting shards: all bytes of each, verified, through faults that pass, in order and a bounded number ahead.

What a fault leaves behind is kept: the next try asks for the bytes from there on. A shard whose checksum is wrong is asked
for again from its beginning, and never handed on.
"""

import hashlib
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, Full, Queue
from threading import Event

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from pwl_lab.loading.bundle import BundleIndex, Networks, NewerFormatError, Shard, parse_index
from pwl_lab.loading.log import LoadingLog
from pwl_lab.loading.sources import INDEX, MOST_INDEX_BYTES, BundleError, FolderSource, Source, SourceError
from pwl_lab.loading.throttle import MEGABYTE, Throttle
from pwl_lab.support.errors import MissingDataError, PwlLabError
from pwl_lab.support.files import is_file, readable, sweep, write_bytes
from pwl_lab.support.retries import DamagedError, Retry, patiently, reason

BESIDE = 2 << 20  # from so many bytes on, a second thread computes the checksum while more bytes come in
AHEAD = 4  # so many pieces may wait for it: the two threads need not keep step
Report = Callable[[str, Shard, str], None]  # kind of event, shard, message


class DamagedShardError(DamagedError):
    """A shard's bytes are not those that its index promises."""


class DamagedIndexError(DamagedError, BundleError):
    """An index cannot be read, or does not hold together: it has no checksum, so this may have happened on the way."""


class ClosedError(PwlLabError):
    """The loader was closed while it was at work."""


@dataclass(frozen=True)
class Received:
    """A verified shard and how it came."""

    shard: Shard
    content: UInt8[Tensor, " bytes"]
    latency_s: float  # until the first byte
    seconds: float  # until the last one
    cached: bool = False

    @property
    def link(self) -> Throttle | None:
        """The link that it came over, as measured; None for a copy that was kept."""
        flowing = self.seconds - self.latency_s
        if self.cached or flowing <= 0:
            return None
        return Throttle(self.shard.bytes / flowing / MEGABYTE, self.latency_s)


class _Arriving:
    """The bytes of one shard as they come in, with the checksum of those that are there."""

    def __init__(self, shard: Shard) -> None:
        self.shard, self.content = shard, torch.empty(shard.bytes, dtype=torch.uint8)
        self.first_at: float | None = None
        # A long shard's checksum is computed while its next bytes are read: each of the two alone is as fast as a disk.
        self._beside = ThreadPoolExecutor(1, "pwl-checksum") if shard.bytes >= BESIDE else None
        self._pending: deque[Future[None]] = deque()
        self.restart()

    def restart(self) -> None:
        """Forget what has come."""
        self._settle()
        self.place, self._digest = 0, hashlib.sha256()

    def add(self, chunk: bytes | memoryview, now: float) -> None:
        """The next bytes. Raises DamagedShardError for more than there should be."""
        self.first_at = now if self.first_at is None else self.first_at
        if self.place + len(chunk) > self.shard.bytes:
            raise DamagedShardError(f"{self.shard.file} is longer than the {self.shard.bytes:,} bytes recorded")
        part = self.content.numpy()[self.place : self.place + len(chunk)]
        part[:] = np.frombuffer(chunk, dtype=np.uint8)
        self.place += len(chunk)
        if self._beside is None:
            self._digest.update(part)
        else:
            self._settle(AHEAD)
            self._pending.append(self._beside.submit(self._digest.update, part))

    def finish(self) -> None:
        """Raises SourceError where bytes are missing and DamagedShardError where they are not the recorded ones."""
        if self.place < self.shard.bytes:
            text = f"{self.shard.file} ended after {self.place:,} of {self.shard.bytes:,} bytes"
            raise SourceError(text, transient=True)
        self._settle()
        if self._digest.hexdigest() != self.shard.sha256:
            raise DamagedShardError(f"{self.shard.file} does not have the recorded checksum")

    def close(self) -> None:
        """End the second thread."""
        if self._beside is not None:
            self._beside.shutdown(wait=True)

    def _settle(self, left: int = 0) -> None:
        """Wait until the second thread has no more than `left` pieces before it."""
        while len(self._pending) > left:
            self._pending.popleft().result()


@dataclass
class Transfer:
    """Fetches shards from a source, through a cache folder where there is one."""

    source: Source
    retry: Retry
    stop: Event
    report: Report
    clock: Callable[[], float]
    cache: Path | None = None

    def fetch(self, shard: Shard) -> Received:
        """The shard, verified. Raises SourceError, DamagedShardError or ClosedError once the tries are used up."""
        begun = self.clock()
        arriving = _Arriving(shard)
        try:
            cached = self._from_cache(arriving)
            if not cached:
                self._from_source(arriving)
            first = begun if arriving.first_at is None else arriving.first_at
            return Received(shard, arriving.content, first - begun, self.clock() - begun, cached)
        finally:
            arriving.close()

    def _from_source(self, arriving: _Arriving) -> None:
        """All bytes of the shard, in as many tries as are allowed."""

        def report(fault: Exception) -> None:
            if self.stop.is_set():
                raise ClosedError("closed while loading") from fault
            kind = "damaged" if isinstance(fault, DamagedError) else "retry"
            self.report(kind, arriving.shard, reason(fault))

        try:
            patiently(
                lambda: self._receive(arriving, self.source, arriving.shard.file),
                self.retry,
                self.source.pause,
                position=lambda: arriving.place,
                restart=arriving.restart,
                report=report,
            )
        except PwlLabError as error:
            if self.stop.is_set():  # the source was closed, whatever that looked like
                raise ClosedError("closed while loading") from error
            raise

    def _receive(self, arriving: _Arriving, source: Source, name: str) -> None:
        """What is still missing of a shard. Raises as `Source.chunks` and `_Arriving.finish` do, and ClosedError."""
        missing = arriving.place < arriving.shard.bytes
        for chunk in source.chunks(name, arriving.place) if missing else ():
            if self.stop.is_set():
                raise ClosedError("closed while loading")
            arriving.add(chunk, self.clock())
        arriving.finish()

    def _from_cache(self, arriving: _Arriving) -> bool:
        """Whether an earlier run kept the shard whole; what was kept is left as it is, whatever it is."""
        path = self._kept(arriving.shard)
        if path is None:
            return False
        try:
            if not is_file(path):
                return False
            self._receive(arriving, FolderSource(path.parent), path.name)
            return True
        except (SourceError, DamagedShardError, MissingDataError, OSError) as error:
            why = "is damaged" if isinstance(error, DamagedShardError) else f"cannot be read ({error})"
            self.report("cache", arriving.shard, f"the kept copy {path.name} {why}; fetched anew")
        arriving.restart()
        return False

    def keep(self, received: Received) -> None:
        """Keep a shard in the cache folder, whole or not at all, in place of a damaged copy.

        A full disk is reported and does no harm. A copy that may not be read is not replaced: it may be whole, and another
        user's.
        """
        path = self._kept(received.shard)
        if path is None or received.cached:
            return
        try:
            sweep(path.parent)
            if is_file(path):
                with readable(path), path.open("rb"):
                    pass
            write_bytes(path, received.content.numpy().data)
        except OSError as error:
            self.report("cache", received.shard, f"not kept: {error.strerror or error}")

    def _kept(self, shard: Shard) -> Path | None:
        """Where the cache has it: under its checksum, so that bundles share what is the same in them."""
        return None if self.cache is None else Path(self.cache) / f"{shard.sha256}.safetensors"


def fetch_index(source: Source, retry: Retry) -> BundleIndex:
    """The index, through faults that pass; as `parse_index` takes it. Raises BundleError."""

    def attempt() -> BundleIndex:
        text = source.read(INDEX, MOST_INDEX_BYTES)
        try:
            return parse_index(text, source.address)
        except NewerFormatError:
            raise
        except BundleError as error:
            raise DamagedIndexError(str(error)) from error

    try:
        return patiently(attempt, retry, source.pause)
    except (DamagedIndexError, NewerFormatError):
        raise
    except Exception as error:
        raise BundleError(f"{source.address}: {INDEX} cannot be read: {reason(error)}") from error


def fetch_boot(transfer: Transfer, shard: Shard) -> Received:
    """The boot set. Raises BundleError, whatever went wrong."""
    try:
        return transfer.fetch(shard)
    except Exception as error:
        raise BundleError(f"{transfer.source.address}: the boot set cannot be loaded: {reason(error)}") from error


CHECK_S = 0.1  # how often a thread that waits for the other looks whether all was closed


@dataclass(frozen=True)
class Lost:
    """A shard that will not come."""

    shard: Shard
    error: BaseException


class Feed:
    """Iterate over it to get every shard of `plan`, `Received` or `Lost`, in order; it ends early once closed.

    What the thread behind it dies of is raised to whoever iterates.
    """

    def __init__(
        self, transfer: Transfer, plan: Sequence[Shard], log: LoadingLog, read_ahead: int, networks: Networks
    ) -> None:
        """At most `read_ahead` shards wait to be taken, beside the one that is being fetched.

        A shard that is too short for its part of `networks` is not fetched.
        """
        self._transfer, self.plan, self._log, self._networks = transfer, plan, log, networks
        self._waiting: Queue[Received | Lost | None] = Queue(maxsize=read_ahead)
        self._thread: threading.Thread | None = None
        self._boot: Received | None = None
        self._died_of: BaseException | None = None

    def start(self, boot: Received) -> None:
        """Begin to fetch what comes after `boot`."""
        self._boot = boot
        self._thread = threading.Thread(target=self._fetch_all, name="pwl-fetch", daemon=True)
        self._thread.start()

    def join(self, timeout: float) -> None:
        """Wait for the thread to end."""
        if self._thread is not None:
            self._thread.join(timeout)

    def forget(self) -> None:
        """Let go of what has come and nobody will take any more; once all is closed."""
        with suppress(Empty):
            while True:
                self._waiting.get_nowait()
        self._log.hold({shard.name: 0 for shard in self.plan})

    def __iter__(self) -> Iterator[Received | Lost]:
        """What has come, waiting for it."""
        while not self._transfer.stop.is_set():
            try:
                item = self._waiting.get(timeout=CHECK_S)
            except Empty:
                continue
            if item is None:
                if self._died_of is not None:
                    raise self._died_of
                return
            yield item
            del item  # its bytes are not held any longer than whoever took it needs them

    def _fetch_all(self) -> None:
        """The thread."""
        try:
            if self._boot is not None:
                self._transfer.keep(self._boot)
                self._boot = None  # its bytes can go once the student's last block has
            for shard in self.plan:
                self._log.hold({shard.name: shard.bytes})
                item = self._fetch(shard)
                if not self._hand_over(item):
                    return
                if isinstance(item, Received):
                    self._transfer.keep(item)
                del item
        except ClosedError:
            return
        except BaseException as error:  # noqa: BLE001 - raised again in the thread that waits for shards
            self._died_of = error
        finally:
            self._hand_over(None)

    def _fetch(self, shard: Shard) -> Received | Lost:
        """One shard, or why there is none."""
        try:
            self._networks.check(shard)
            received = self._transfer.fetch(shard)
        except ClosedError:
            raise
        except BaseException as error:  # noqa: BLE001 - whatever it is, the shard is named and the others still come
            return Lost(shard, error)
        self._log.arrive(shard)
        return received

    def _hand_over(self, item: Received | Lost | None) -> bool:
        """Put something into the queue once there is room; False where all was closed first."""
        while not self._transfer.stop.is_set():
            try:
                self._waiting.put(item, timeout=CHECK_S)
                return True
            except Full:
                continue
        return False
