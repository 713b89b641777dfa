"""Shards on their way: one thread fetches them in order, a bounded number ahead of whoever uses them."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from queue import Empty, Full, Queue

from pwl_lab.loading.bundle import Networks, Shard
from pwl_lab.loading.log import LoadingLog
from pwl_lab.loading.transfer import ClosedError, Received, Transfer

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
