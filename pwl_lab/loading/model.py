"""`ProgressiveModel`: predicts as soon as the student is loaded, and becomes the teacher while it keeps predicting.

It uses two threads. One fetches and verifies shards, a bounded number ahead; the other turns them into modules and
swaps them in. Predictions come from a `Running` network that never changes: a swap replaces it as a whole by one
assignment. So every prediction is computed by exactly one mask, in whichever thread, and never waits for a swap.
"""

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pwl_lab.loading.bundle import BOOT, BundleIndex, Networks, Shard
from pwl_lab.loading.log import Event, LoadingLog, Status
from pwl_lab.loading.sources import Closing, bounded, open_source
from pwl_lab.loading.throttle import Throttle
from pwl_lab.loading.transfer import CHOOSES, Feed, Lost, Received, Transfer, fetch_boot, fetch_index, schedule
from pwl_lab.loading.units import Parts, Workshop, assemble, tensor_bytes
from pwl_lab.support import config
from pwl_lab.support.errors import PwlLabError, invalid
from pwl_lab.support.retries import Retry
from pwl_lab.support.timing import phase
from pwl_lab.swap.masks import check_mask
from pwl_lab.swap.orders import best_mask
from pwl_lab.tasks.base import check_images, check_inputs
from pwl_lab.tasks.images import standardise

LONGEST_CLOSE_S = 5.0  # to wait for a thread; it is a daemon and ends with the process at the latest


class LoadingError(PwlLabError):
    """A mask that `wait` was waiting for cannot be reached."""


@dataclass(frozen=True)
class Prediction:
    """Logits, and the mask of the network that computed all of them."""

    logits: Float[Tensor, "batch *tokens classes"]
    mask: str

    @property
    def classes(self) -> Int[Tensor, "batch *tokens"]:
        """The most likely class of each sample, or of each of its tokens."""
        return self.logits.argmax(dim=-1)

    @property
    def confidence(self) -> Float[Tensor, "batch *tokens"]:
        """The probability of the most likely class."""
        return self.logits.softmax(dim=-1).amax(dim=-1)


class ProgressiveModel(Closing):
    """A pair from a bundle that predicts while it loads; created by `open`. All methods are thread-safe."""

    def __init__(
        self,
        index: BundleIndex,
        boot: Received,
        transfer: Transfer,
        feed: Feed,
        log: LoadingLog,
        device: str,
        keep_student: bool,
        networks: Networks,
    ) -> None:
        """For `open`, which provides all arguments."""
        self.index, self.device = index, device
        self._transfer, self._feed, self._log, self._keep_student = transfer, feed, log, keep_student
        self._workshop = Workshop(index, device, networks)
        self._student = self._workshop.student(boot.shard, boot.content)
        self._boot = boot.shard
        self._teacher: dict[int, Parts] = {}
        self._arrived: dict[int, Shard] = {}  # the shard that each teacher block came from
        self._missed: set[int] = set()  # blocks with a shard that did not arrive
        self._order = list(dict.fromkeys(shard.block for shard in feed.plan))
        self._running = assemble(log.mask, self._student, self._teacher)
        self._callbacks: list[Callable[[Event], None]] = []
        self._installer = threading.Thread(target=self._install_all, name="pwl-install", daemon=True)

    @classmethod
    def open(
        cls,
        address: str | Path,
        order: str | Sequence[int] = "prefix",
        *,
        device: config.Device = "auto",
        throttle: Throttle | None = None,
        cache: Path | None = None,
        int8_first: bool = False,
        read_ahead: int = 1,
        keep_student: bool = False,
        retry: Retry | None = None,
        timeout: float | None = None,
        imports: bool = False,
    ) -> Self:
        """Load the model at `address`; returns as soon as the student is loaded.

        Arguments:
        - `address`: a folder, http(s)://, or any address that fsspec knows.
        - `order`: of the teacher blocks: `prefix`, `suffix`, `contiguous`, `2-1-3`, block numbers, or `best`, the order
          with the largest area under the curve of accuracy against seconds, computed from the bundle's own table and
          the speed at which the boot set arrived.
        - `device`: where the networks run.
        - `throttle`: limits the speed of the source, as a slow link would.
        - `cache`: a folder that keeps downloads.
        - `int8_first`: load the student and every teacher block as int8, then the teacher blocks as float32.
        - `read_ahead`: how many shards may wait to be swapped in.
        - `keep_student`: keep the student's blocks in memory. Otherwise they are released once no failure can make them
          necessary: with the last teacher block, or at the end.
        - `retry`: how often to retry after a fault, and how long to wait before it.
        - `timeout`: the most seconds to wait for index and boot set; None for no limit.
        - `imports`: import the modules that the bundle names for families that are not known here. They must be installed
          or lie beside the program; set it only for bundles that you trust, since importing a module runs its code.

        If a shard is lost, the most accurate mask of the blocks that have arrived runs (`best_mask`), judged by the
        bundle's validation accuracies. Errors in a teacher block, or in its description in the index, show when its
        turn comes: that block is then lost.

        Raises BundleError if index or boot set cannot be loaded, MissingDataError if there is no such folder,
        TimeoutError after `timeout`, UnknownNameError for an unknown scheme or order, and InvalidValueError for other
        bad arguments.
        """
        begun, timeout = time.perf_counter(), bounded(timeout)
        where, retry = config.device(device), retry or Retry()
        if read_ahead < 1:
            raise invalid("read_ahead", read_ahead, "a whole number from 1")
        with ExitStack() as undo:
            source = undo.enter_context(open_source(address, throttle))
            with source.until(timeout):
                index = fetch_index(source, retry, imports)
                first = index.shard(BOOT, 8 if int8_first else 32)
                first_mask = ("s" if int8_first else "S") * index.n_blocks
                shards = [first, *schedule(index, "prefix", None, int8_first)]
                log = LoadingLog(shards, first_mask, lambda: time.perf_counter() - begun)
                transfer = Transfer(source, retry, threading.Event(), log.record, log.clock, cache and Path(cache))
                networks = Networks(index, source.address)
                networks.check(first)  # teacher blocks are checked later, once the boot set is loaded
                boot = fetch_boot(transfer, first)
            feed = Feed(transfer, schedule(index, order, boot.link, int8_first), log, read_ahead, networks)
            undo.callback(feed.close)
            model = cls(index, boot, transfer, feed, log, where, keep_student, networks)
            model._begin(boot)
            undo.pop_all()
        return model

    def _begin(self, boot: Received) -> None:
        """Record that the student is loaded, and start to load the rest."""
        self._log.arrive(boot.shard)
        self._record_memory()
        self._log.record("boot", boot.shard, state="loaded")
        self._feed.start(boot)
        self._installer.start()

    def predict(self, inputs: Tensor) -> Prediction:
        """Predict with the current network; a swap in the meantime does not affect the result.

        Arguments:
        - `inputs`: finite float32 samples of shape [batch, *shape], as `prepare` returns them, or strings of token ids.

        Raises InvalidValueError for any other inputs.
        """
        check_inputs(inputs, self.index.inputs.shape, n_tokens=self.index.inputs.n_tokens)
        running = self._running
        with torch.inference_mode():
            return Prediction(running(inputs.to(self.device)), running.mask)

    def prepare(self, images: Tensor) -> Float[Tensor, "batch *shape"]:
        """Normalise images as in training.

        Arguments:
        - `images`: uint8, of shape [batch, *shape].

        Raises InvalidValueError for another type or shape (hence the loose annotation), and if the model takes tokens.
        """
        inputs = self.index.inputs
        if inputs.n_tokens is not None:
            raise invalid(
                "images", list(images.shape), "none: this model takes token ids, which `predict` takes as they are"
            )
        check_images(images, inputs.shape)
        return standardise(images, inputs.mean, inputs.std) if inputs.mean else images.float()

    @property
    def mask(self) -> str:
        """The mask that predicts now; a lower-case letter is an int8 block."""
        return self._running.mask

    @property
    def events(self) -> list[Event]:
        """All events so far, in order."""
        return self._log.events

    def status(self) -> Status:
        """The progress: mask, state of every shard (with the reason if it failed), bytes, seconds, memory."""
        return self._log.status()

    def on_swap(self, callback: Callable[[Event], None]) -> None:
        """Call `callback` with the event after each swap, in the swapping thread; its exceptions go to `events`."""
        self._callbacks.append(callback)

    def wait(self, mask: str | None = None, timeout: float | None = None) -> Status:
        """Wait until a mask has been reached, and return the status.

        Arguments:
        - `mask`: wait until its teacher blocks have arrived as float32; None waits for the end of loading.
        - `timeout`: the longest wait in seconds; None for no limit.

        Raises TimeoutError after `timeout` seconds, LoadingError if `mask` can no longer be reached (always in a
        callback of `on_swap`, which holds up the next block), and InvalidValueError for a bad `mask` or `timeout`.
        """
        timeout = bounded(timeout)
        wanted = "S" * self.index.n_blocks if mask is None else check_mask(mask, self.index.n_blocks)

        def there() -> bool:
            pairs = zip(wanted, self._log.mask, strict=True)
            return mask is not None and all(want == "S" or have == "T" for want, have in pairs)

        if threading.current_thread() is self._installer and not (there() or self._log.finished):
            raise LoadingError("no block can arrive while a callback of `on_swap` waits for it: wait in another thread")
        with phase("loading"):
            in_time = self._log.wait_for(lambda: there() or self._log.finished, timeout)
        if not in_time:
            raise TimeoutError(f"{mask or 'the end of loading'} was not reached within {timeout} s: {self.mask} so far")
        status = self.status()
        if mask is not None and not there():
            why = [f"{name}: {reason}" for name, reason in status.failed.items()]
            why += ["the model was closed"] if self._log.closed else []
            raise LoadingError(f"{mask} will not be reached: loading ended at {status.mask} ({'; '.join(why)})")
        return status

    def close(self) -> None:
        """Stop loading; the model keeps predicting with its current mask."""
        self._feed.close()
        self._feed.join(LONGEST_CLOSE_S)
        if self._installer.is_alive() and self._installer is not threading.current_thread():  # a callback may close
            self._installer.join(LONGEST_CLOSE_S)
        self._feed.forget()
        self._log.finish("closed")

    def _install_all(self) -> None:
        """The thread that installs arriving shards, until there are no more."""
        try:
            for item in self._feed:
                if isinstance(item, Lost):
                    self._lose(item.shard, item.error)
                else:
                    self._install(item)
                del item  # its bytes now belong to the weights only, or to nothing
            self._drop_student()
            self._record_memory()
        except BaseException as error:  # noqa: BLE001 - waiting threads must learn of it, whatever it is
            self._feed.close()  # nothing takes further shards
            self._log.finish("broken", f"{type(error).__name__}: {error}")
        finally:
            self._log.finish("closed" if self._transfer.stop.is_set() else "done")

    def _lose(self, shard: Shard, error: BaseException) -> None:
        """Record that a shard will not arrive; without it another mask may be the best one."""
        self._missed.add(shard.block)
        self._log.fail(shard, f"{type(error).__name__}: {error}")
        self._run_best(shard)

    def _install(self, received: Received) -> None:
        """Turn a shard into modules and use them for predictions, unless that lowers the accuracy."""
        shard = received.shard
        try:
            unit = self._workshop.unit(shard, received.content)
        except BaseException as error:  # noqa: BLE001 - most likely no memory is left; the other blocks still load
            self._lose(shard, error)
            return
        self._teacher[shard.block], self._arrived[shard.block] = unit, shard
        self._record_memory(received)
        if not self._run_best(shard):
            self._log.keep_out(shard, self._states(self.mask))

    def _run_best(self, shard: Shard) -> bool:
        """Run the best mask now that `shard` has arrived or is lost; return whether the mask changed."""
        mask = self._best_mask()
        if mask == self.mask:
            return False
        self._running = assemble(mask, self._student, self._teacher)
        if len(self._arrived) == self.index.n_blocks:
            self._drop_student()  # no block can be lost any more
        self._record_memory()
        self._tell(self._log.swap(mask, shard, self._states(mask)))
        return True

    def _best_mask(self) -> str:
        """The best mask of the blocks that have arrived; a lower-case letter for an int8 block."""
        accuracies = self.index.accuracies.get(CHOOSES, {})
        plain = best_mask(self._order, self._arrived.keys(), self._missed, accuracies)
        shards = [self._arrived[n] if letter == "T" else self._boot for n, letter in enumerate(plain, start=1)]
        return "".join(letter.lower() if s.bits == 8 else letter for letter, s in zip(plain, shards, strict=True))

    def _drop_student(self) -> None:
        """Release the student's blocks that do not run, once the mask is final."""
        if not self._keep_student:
            self._student = {n: parts for n, parts in self._student.items() if self.mask[n - 1] in "Ss"}

    def _states(self, mask: str) -> dict[str, str]:
        """The states of the shards that have arrived, now that `mask` runs."""
        states = {s.name: "held" if mask[n - 1] in "Ss" else "loaded" for n, s in self._arrived.items()}
        whole = [block for block, shard in self._arrived.items() if shard.bits == 32]
        replaced = [shard.name for shard in self._feed.plan if shard.bits == 8 and shard.block in whole]
        return states | dict.fromkeys(replaced, "replaced")

    def _record_memory(self, received: Received | None = None) -> None:
        """Record how much memory the weights take: those that predict now, and those of `received`.

        The bytes of `received` count separately unless the weights are views of them (not so for int8, or on a GPU).
        """
        units = [*self._student.values(), *self._teacher.values()]
        buffers = tensor_bytes([*self._running.parts, *(module for unit in units for module in unit.values())])
        held = {"weights": sum(buffers.values())}
        if received is None:
            self._log.hold(held)
            return
        name, storage = received.shard.name, received.content.untyped_storage()
        self._log.hold(held | {name: 0 if storage.data_ptr() in buffers else storage.nbytes()})
        self._log.hold({name: 0})

    def _tell(self, event: Event) -> None:
        """Call the callbacks registered with `on_swap`."""
        for callback in list(self._callbacks):
            try:
                callback(event)
            except BaseException as error:  # noqa: BLE001 - a callback must not stop the loading
                self._log.record("callback", None, f"{type(error).__name__}: {error}")
