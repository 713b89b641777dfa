"""Fetching shards: completely and verified, with retries after temporary faults, in order, a bounded number ahead.

Bytes that arrived before a fault are kept: the next try requests the rest. A shard with a wrong checksum is fetched
again from its beginning, and never passed on.
"""

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Event, Semaphore, Thread

import torch
from jaxtyping import UInt8
from torch import Tensor

from pwl_lab.loading.bundle import BundleIndex, Networks, Shard, UnsupportedIndexError, parse_index
from pwl_lab.loading.log import LoadingLog
from pwl_lab.loading.sources import INDEX, MOST_INDEX_BYTES, BundleError, FolderSource, Source, SourceError
from pwl_lab.loading.throttle import MEGABYTE, Throttle
from pwl_lab.support.errors import MissingDataError, PwlLabError, invalid
from pwl_lab.support.files import is_file, readable, sweep, write_bytes
from pwl_lab.support.retries import DamagedError, Retry, patiently, reason
from pwl_lab.swap.orders import arrivals, arrivals_of, first_missing, search_order

CHOOSES = "validation"  # the split whose recorded accuracies decide; the test split is only for reporting
BESIDE = 2 << 20  # from this many bytes on, a second thread computes the checksum while more bytes arrive
AHEAD = 4  # pieces that the checksum may lag behind: they should still be in the processor's cache
Report = Callable[[str, Shard, str], object]  # kind of event, shard, message


class DamagedShardError(DamagedError):
    """A shard's bytes do not match its index."""


class DamagedIndexError(DamagedError, BundleError):
    """An index cannot be read or is inconsistent. It has no checksum, so this may have happened in transfer."""


class ClosedError(PwlLabError):
    """The loader was closed while it was working."""


@dataclass(frozen=True)
class Received:
    """A verified shard and how it arrived."""

    shard: Shard
    content: UInt8[Tensor, " bytes"]
    latency_s: float  # until the first byte
    seconds: float  # until the last one
    cached: bool = False

    @property
    def link(self) -> Throttle | None:
        """The link that it arrived over, as measured; None for a cached copy."""
        flowing = self.seconds - self.latency_s
        if self.cached or flowing <= 0:
            return None
        return Throttle(self.shard.bytes / flowing / MEGABYTE, self.latency_s)


class _Beside:
    """A thread that computes one checksum, of pieces in the order in which they are given."""

    def __init__(self) -> None:
        self._pieces: SimpleQueue[tuple[hashlib._Hash, memoryview] | None] = SimpleQueue()
        self._done: SimpleQueue[BaseException | None] = SimpleQueue()  # one for each piece
        self._behind = 0
        self._thread = Thread(target=self._work, name="pwl-checksum", daemon=True)
        self._thread.start()

    def update(self, digest: "hashlib._Hash", piece: memoryview) -> None:
        """Add a piece to the digest, later; waits while too many are pending."""
        self._pieces.put((digest, piece))
        self._behind += 1
        self.wait(AHEAD)

    def wait(self, most: int = 0) -> None:
        """Wait until at most so many pieces are pending. Raises what the thread raised."""
        while self._behind > most:
            self._behind -= 1
            if (error := self._done.get()) is not None:
                raise error

    def close(self) -> None:
        """End the thread, once it has done what it was given."""
        self._pieces.put(None)
        self._thread.join()

    def _work(self) -> None:
        while (item := self._pieces.get()) is not None:
            digest, piece = item
            try:
                digest.update(piece)  # without the GIL
            except BaseException as error:  # noqa: BLE001 - raised again in the thread that waits
                self._done.put(error)
            else:
                self._done.put(None)
            del item, digest, piece  # do not keep the memory while waiting


class _Arriving:
    """The bytes of one shard as they arrive, with the checksum of those received so far."""

    def __init__(self, shard: Shard, clock: Callable[[], float]) -> None:
        self.shard, self.content, self._clock = shard, torch.empty(shard.bytes, dtype=torch.uint8), clock
        self._bytes = self.content.numpy().data
        # A long shard's checksum is computed while its next bytes are read: each of the two takes as long as a disk.
        self._beside = _Beside() if shard.bytes >= BESIDE else None
        self.restart()

    def restart(self) -> None:
        """Discard all bytes."""
        self.offset, self._digest = 0, hashlib.sha256()
        self.begin()

    def begin(self) -> None:
        """A try begins. If it is one for all bytes, so does the time that they take."""
        if self.offset == 0:
            self._begun, self._first_at = self._clock(), math.nan

    @property
    def missing(self) -> memoryview:
        """The memory for the bytes that have not arrived."""
        return self._bytes[self.offset :]

    def add(self, more: int) -> None:
        """Record that `more` bytes have arrived in `missing`. Raises DamagedShardError if there are too many."""
        self._first_at = self._clock() if self.offset == 0 else self._first_at
        if self.offset + more > self.shard.bytes:
            raise DamagedShardError(f"{self.shard.file} is longer than the {self.shard.bytes:,} bytes recorded")
        part = self._bytes[self.offset : self.offset + more]
        self.offset += more
        if self._beside is None:
            self._digest.update(part)
        else:
            self._beside.update(self._digest, part)

    def finish(self) -> None:
        """Raises SourceError if bytes are missing and DamagedShardError if they are not the recorded ones."""
        if self.offset < self.shard.bytes:
            why = f"ended after {self.offset:,} of {self.shard.bytes:,} bytes"
            raise SourceError(why, transient=True, where=self.shard.file)
        if self._beside is not None:
            self._beside.wait()
        if self._digest.hexdigest() != self.shard.sha256:
            raise DamagedShardError(f"{self.shard.file} does not have the recorded checksum")

    def received(self, cached: bool) -> "Received":
        """The whole shard; the times are those since the last try that began with its first byte."""
        first = self._begun if math.isnan(self._first_at) else self._first_at
        return Received(self.shard, self.content, first - self._begun, self._clock() - self._begun, cached)

    def close(self) -> None:
        """Stop the second thread."""
        if self._beside is not None:
            self._beside.close()


@dataclass
class Transfer:
    """Fetches shards from a source, through a cache folder if there is one."""

    source: Source
    retry: Retry
    stop: Event  # set once all is closed
    report: Report
    clock: Callable[[], float]
    cache: Path | None = None

    def close(self) -> None:
        """Abort transfers in progress with a ClosedError. May be called again."""
        self.stop.set()
        self.source.close()

    def fetch(self, shard: Shard) -> Received:
        """The shard, verified. Raises SourceError, DamagedShardError or ClosedError once the tries are used up."""
        arriving = _Arriving(shard, self.clock)
        try:
            cached = self._from_cache(arriving)
            if not cached:
                self._from_source(arriving)
            return arriving.received(cached)
        finally:
            arriving.close()

    def _from_source(self, arriving: _Arriving) -> None:
        """Fetch all bytes of the shard, in as many tries as are allowed."""

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
                position=lambda: arriving.offset,
                restart=arriving.restart,
                report=report,
            )
        except PwlLabError as error:
            if self.stop.is_set():  # the error comes from closing the source
                raise ClosedError("closed while loading") from error
            raise

    def _receive(self, arriving: _Arriving, source: Source, name: str) -> None:
        """Read the missing bytes of a shard. Raises as `Source.fill` and `_Arriving.finish` do, and ClosedError."""
        arriving.begin()
        for more in source.fill(name, arriving.offset, arriving.missing) if arriving.missing else ():
            if self.stop.is_set():
                raise ClosedError("closed while loading")
            arriving.add(more)
        arriving.finish()

    def _from_cache(self, arriving: _Arriving) -> bool:
        """Read the shard from the cache; return whether it was complete. The cached file is not changed."""
        path = self._kept(arriving.shard)
        if path is None:
            return False
        try:
            if not is_file(path):
                return False
            self._receive(arriving, FolderSource(path.parent), path.name)
            return True
        except (SourceError, DamagedShardError, MissingDataError, OSError) as error:
            found = error.why if isinstance(error, SourceError) else reason(error.__cause__ or error)
            why = "is damaged" if isinstance(error, DamagedShardError) else f"cannot be read ({found})"
            self.report("cache", arriving.shard, f"the cached copy {path.name} {why}; fetched again")
        arriving.restart()
        return False

    def keep(self, received: Received) -> None:
        """Store a shard in the cache folder, completely or not at all, replacing a damaged copy.

        A full disk is reported and does no harm. An unreadable copy is not replaced: it may be intact, and belong to
        another user.
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
            self.report("cache", received.shard, f"not cached: {error.strerror or error}")

    def _kept(self, shard: Shard) -> Path | None:
        """Its path in the cache, named by its checksum, so that bundles share equal shards."""
        return None if self.cache is None else Path(self.cache) / f"{shard.sha256}.safetensors"


def fetch_index(source: Source, retry: Retry, imports: bool = False) -> BundleIndex:
    """The index (see `parse_index`), with retries after temporary faults. Raises BundleError."""

    def attempt() -> BundleIndex:
        text = source.read(INDEX, MOST_INDEX_BYTES)
        try:
            return parse_index(text, source.address, imports)
        except UnsupportedIndexError:
            raise
        except BundleError as error:
            raise DamagedIndexError(str(error)) from error

    try:
        return patiently(attempt, retry, source.pause)
    except BundleError:
        raise  # it names the bundle already
    except Exception as error:
        raise BundleError(f"{source.address}: {INDEX} cannot be read: {reason(error)}") from error


def fetch_boot(transfer: Transfer, shard: Shard) -> Received:
    """The boot set. Any failure is raised as BundleError."""
    try:
        return transfer.fetch(shard)
    except Exception as error:
        why = f"{shard.file}: {error.why}" if isinstance(error, SourceError) else reason(error)
        raise BundleError(f"{transfer.source.address}: the boot set cannot be loaded: {why}") from error


def schedule(
    index: BundleIndex, order: str | Sequence[int], link: Throttle | None = None, int8_first: bool = False
) -> list[Shard]:
    """The shards of all teacher blocks in loading order.

    Arguments:
    - `index`: of the bundle.
    - `order`: a name, `2-1-3`, block numbers, or `best`: the order with the largest area under the curve of accuracy
      against seconds, by the bundle's validation accuracies (exact, see `search_order`).
    - `link`: the link for which `best` is computed; without one only bytes count.
    - `int8_first`: every block is loaded as int8 first, then every block as float32.

    Raises UnknownNameError or InvalidValueError for an invalid order, and if the bundle lacks what it needs.
    """
    precisions = (8, 32) if int8_first else (32,)
    blocks = _best_blocks(index, link, precisions[0]) if order == "best" else arrivals_of(order, index.n_blocks)
    return [index.shard(block, bits) for bits in precisions for block in blocks]


def _best_blocks(index: BundleIndex, link: Throttle | None, bits: int) -> list[int]:
    """The best order for this link, or by bytes if there is none."""
    accuracies = index.accuracies.get(CHOOSES, {})
    if len(accuracies) != 2**index.n_blocks or first_missing(accuracies, index.n_blocks):
        raise invalid("order", "best", "another order: the bundle has no validation accuracy for every mask")
    link = link or Throttle(1.0)
    cost = [link.seconds_for(index.shard(block, bits).bytes) for block in range(1, index.n_blocks + 1)]
    return arrivals(search_order(accuracies, cost))


@dataclass(frozen=True)
class Lost:
    """A shard that will not arrive."""

    shard: Shard
    error: BaseException


class Feed:
    """An iterator over the shards of `plan` in order, each `Received` or `Lost`. It ends early if it is closed.

    If its thread fails with an error, the iteration raises that error.
    """

    def __init__(
        self, transfer: Transfer, plan: Sequence[Shard], log: LoadingLog, read_ahead: int, networks: Networks
    ) -> None:
        """At most `read_ahead` shards wait to be taken, in addition to the one that is being fetched.

        A shard that is too short for its weights (see `Networks.check`) is not fetched.
        """
        self._transfer, self.plan, self._log, self._networks = transfer, plan, log, networks
        self._ready: SimpleQueue[Received | Lost | None] = SimpleQueue()  # None: the end
        self._room = Semaphore(read_ahead + 1)
        self._thread = Thread(target=self._fetch_all, name="pwl-fetch", daemon=True)
        self._boot: Received | None = None
        self._died_of: BaseException | None = None

    def start(self, boot: Received) -> None:
        """Start to fetch the shards after `boot`."""
        self._boot = boot
        self._thread.start()

    def close(self) -> None:
        """Stop the transfer, and wake threads that wait for a shard or for room for one. May be called again."""
        self._transfer.close()
        self._room.release()
        self._ready.put(None)

    def join(self, timeout: float) -> None:
        """Wait for the thread to end."""
        self._thread.join(timeout)

    def forget(self) -> None:
        """Drop the shards that nobody will take; called once everything is closed."""
        with suppress(Empty):
            while True:
                self._ready.get_nowait()
        self._log.hold({shard.name: 0 for shard in self.plan})

    def __iter__(self) -> Iterator[Received | Lost]:
        """Yield each shard, received or lost, waiting for the next one."""
        closed = self._transfer.stop.is_set
        while (item := self._ready.get()) is not None and not closed():
            self._room.release()
            yield item
            del item  # do not keep its bytes longer than the consumer needs them
        if self._died_of is not None and not closed():
            raise self._died_of

    def _fetch_all(self) -> None:
        """Fetch one shard after the other, in a separate thread, while there is room for them."""
        try:
            if self._boot is not None:
                self._transfer.keep(self._boot)
                self._boot = None  # its bytes can be freed together with the student's last block
            for shard in self.plan:
                self._room.acquire()
                if self._transfer.stop.is_set():
                    return
                self._log.hold({shard.name: shard.bytes})
                item = self._fetch(shard)
                self._ready.put(item)
                if isinstance(item, Received):
                    self._transfer.keep(item)
                del item
        except ClosedError:
            return
        except BaseException as error:  # noqa: BLE001 - raised again in the thread that waits for shards
            self._died_of = error
        finally:
            self._ready.put(None)

    def _fetch(self, shard: Shard) -> Received | Lost:
        """Fetch one shard; it is received or lost. Raises only ClosedError."""
        try:
            self._networks.check(shard)
            received = self._transfer.fetch(shard)
        except ClosedError:
            raise
        except BaseException as error:  # noqa: BLE001 - whatever it is, the shard is named and the others still load
            return Lost(shard, error)
        self._log.arrive(shard)
        return received
