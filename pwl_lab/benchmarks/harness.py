"""Measurements: time to the first prediction, accuracy against seconds, reading rates, and how loading slows predictions.

A process that has loaded before has a warm allocator and has chosen its kernels; a new one has not. Each load gets a
process that has only imported what it needs, and files that are in or out of the operating system's cache as requested.
"""

import ctypes
import math
import mmap
import os
import statistics
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeVar

import cloudpickle
import pandas as pd
import torch
from torch import Tensor

from pwl_lab.benchmarks.baselines import HAS_STREAMER, Files, moments, read_plainly, read_verified
from pwl_lab.loading.model import ProgressiveModel
from pwl_lab.loading.throttle import MEGABYTE, Throttle
from pwl_lab.support.processes import (
    CaseFailedError,
    WorkerLostError,
    how_it_ended,
    n_cores,
    one_thread,
    pack,
    run_packed,
    without_main,
    worker_context,
)
from pwl_lab.support.progress import Progress
from pwl_lab.support.timing import phase

Load = TypeVar("Load")
Found = TypeVar("Found")

PRELOADED = [__name__]  # imported once with its dependencies; every fresh process is a fork of that one
LOADS_A_CORE = 4  # over a slow link, at once
APART_S = 0.4  # between the starts of two of them: longer than what one computes for its first prediction
LINGER = Throttle(latency_s=0.2)  # enough time to close a model between two swaps


def in_fresh_process(work: Callable[..., Any], longest_s: float = 1800.0, **case: Any) -> Any:
    """Call `work(**case)`, a module-level function, in a fresh process with one torch thread; its result or its exception.

    Raises WorkerLostError where the process ended without an answer, or had none after `longest_s` seconds.
    """
    context: Any = worker_context(PRELOADED)
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(sender, pack(work, case)), daemon=True)
    with without_main():
        process.start()
    sender.close()
    try:
        if not receiver.poll(longest_s):
            process.kill()
            raise WorkerLostError(f"the process that ran {work.__name__} did not answer within {longest_s:g} s")
        well, value = receiver.recv()
    except EOFError as error:
        process.join()
        raise WorkerLostError(f"{work.__name__}: {how_it_ended(process.exitcode)}") from error
    finally:
        process.join()
        receiver.close()
    if not well:
        value.raise_here()
    return cloudpickle.loads(value)


def _answer(sender: Connection, packed: bytes) -> None:
    """In the fresh process: run the packed work on one torch thread and send back whether it succeeded, and its result."""
    with one_thread():
        try:
            answer = run_packed(packed)
        except CaseFailedError as failed:
            sender.send((False, failed))
            return
    sender.send((True, answer))


def warm_up(files: Iterable[Path]) -> None:
    """Read the files, so that the operating system caches them."""
    buffer = bytearray(1 << 20)
    for path in files:
        with Path(path).open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass


def cool_down(files: Iterable[Path]) -> bool:
    """Drop the files from the operating system's cache; whether that worked (not every system and disk supports it)."""
    files = [Path(path) for path in files]
    if sys.platform == "win32" or sys.platform == "darwin":
        return False
    for path in files:
        with path.open("rb") as file:
            os.fsync(file.fileno())  # data that has not been written to disk cannot be dropped
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return all(cached_share(path) < 0.01 for path in files if path.stat().st_size)


def cached_share(path: Path) -> float:
    """The share of a file's pages that are in memory, in [0, 1]; 1 if the system does not say."""
    size = path.stat().st_size
    pages = -(-size // mmap.PAGESIZE)
    if sys.platform == "win32" or not size:
        return 1.0
    tell = getattr(ctypes.CDLL(None), "mincore", None)
    if tell is None:
        return 1.0
    # ctypes can take the address only of a writable mapping; it is private, and nothing is written.
    with path.open("rb") as file, mmap.mmap(file.fileno(), size, flags=mmap.MAP_PRIVATE, prot=3) as mapped:
        address = ctypes.addressof(anchor := ctypes.c_char.from_buffer(mapped))
        there = (ctypes.c_ubyte * pages)()
        failed = tell(ctypes.c_void_p(address), ctypes.c_size_t(size), there)
        del anchor  # otherwise the mapping could not be closed
    return 1.0 if failed else sum(byte & 1 for byte in there) / pages


FIRST_BASELINES = ("progressive", "student_only", "teacher_safetensors", "teacher_torch_load")
DISK_BASELINES = ("teacher_streamer",) if HAS_STREAMER else ()  # these read the files themselves
ANYTIME_BASELINES = (
    "progressive",
    "progressive_8bit_first",
    "student_only",
    "teacher_safetensors",
    "teacher_8bit",
    "bit_planes",
)


def states_of(files: Files, speeds: Iterable[float], longest_s: float) -> list[str]:
    """The states to measure a pair in: `cold`, `warm`, and those speeds at which the teacher comes in time.

    Arguments:
    - `files`: the pair.
    - `speeds`: of links, in MB/s.
    - `longest_s`: how many seconds the teacher's file may take over a link; a slower one is left out.
    """
    size = files.teacher_bytes() / MEGABYTE
    return ["cold", "warm", *(f"{speed:g} MB/s" for speed in speeds if size / speed <= longest_s)]


@phase("loading")
def first_predictions(
    files: Mapping[str, Files],
    states: Mapping[str, Sequence[str]],
    repeats: int,
    baselines: Sequence[str] = FIRST_BASELINES + DISK_BASELINES,
) -> pd.DataFrame:
    """One row per size, state, baseline and repeat: when the first prediction was there, and when the whole teacher's.

    Arguments:
    - `files`: the pair of each size.
    - `states`: for each size `cold`, `warm` and speeds such as `25 MB/s`.
    - `repeats`: how often cold and warm loads are measured, one at a time. Over a slow link, where a progressive load
      mostly waits, they are measured once, several at a time.
    - `baselines`: which of them; those that read files themselves are left out over a slow link.

    Columns: size, state, way (the baseline), repeat, first_prediction_s and teacher_s (NaN: never), both since the start
    of a fresh process that has imported all it needs. Where files cannot be put out of the operating system's cache,
    `cold` has no rows.
    """
    cases = [
        _Case(size, state, baseline, repeat)
        for size, names in states.items()
        for state in names
        for repeat in range(1 if _is_slow(state) else repeats)
        for baseline in baselines
        if not (_is_slow(state) and baseline in DISK_BASELINES)
    ]
    slow = [case for case in cases if _is_slow(case.state)]

    def measured(case: _Case) -> dict[str, object]:
        return vars(case) | _first_prediction(files[case.size], case.state, case.way)

    rows = []
    with Progress("first predictions", len(cases), "load") as bar:
        for case in cases:
            if not _is_slow(case.state):
                rows.append(measured(case))
                bar.advance()
        warm_up(path for size in {case.size for case in slow} for path in files[size].all())
        rows += _several(
            measured, slow, bar, lambda case: files[case.size].teacher_bytes() / MEGABYTE / _speed(case.state)
        )
    return pd.DataFrame(rows).dropna(subset="first_prediction_s").reset_index(drop=True)


def _several(
    measure: Callable[[Load], Found],
    cases: Sequence[Load],
    bar: Progress,
    wait_s: Callable[[Load], float] = lambda _: 0.0,
) -> list[Found]:
    """What `measure` returns of each load over a link, several at once, for they mostly wait; the longest first.

    They start one after the other, because what a load computes for its first prediction needs a core.
    """
    turn = threading.Lock()

    def in_turn(case: Load) -> Found:
        with turn:
            time.sleep(APART_S)
        return measure(case)

    with ThreadPoolExecutor(LOADS_A_CORE * n_cores()) as pool:
        order = sorted(range(len(cases)), key=lambda index: -wait_s(cases[index]))
        begun = {index: pool.submit(in_turn, cases[index]) for index in order}
        try:
            for done in as_completed(begun.values()):
                done.result()
                bar.advance()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)  # those that have not begun
            raise
    return [begun[index].result() for index in range(len(cases))]


@dataclass(frozen=True)
class _Case:
    """One measurement of a first prediction; the fields are columns of the table."""

    size: str
    state: str
    way: str  # the baseline; the name that the column has in `metrics.json`
    repeat: int


def _is_slow(state: str) -> bool:
    """Whether this state is a slow link."""
    return state.endswith("MB/s")


def _speed(link: str) -> float:
    """The MB/s of the state that is a slow link."""
    return float(link.split()[0])


def _first_prediction(files: Files, state: str, baseline: str) -> dict[str, float]:
    """One measurement; NaN if the state is not available here."""
    throttle = Throttle(_speed(state)) if _is_slow(state) else None
    if state == "cold" and not cool_down(files.all()):
        return {"first_prediction_s": math.nan, "teacher_s": math.nan}
    if state == "warm":
        warm_up(files.all())
    found = in_fresh_process(moments, baseline=baseline, files=files, throttle=throttle)
    whole = [moment.seconds for moment in found if moment.network == "T" * files.index.n_blocks]
    return {"first_prediction_s": found[0].seconds, "teacher_s": whole[0] if whole else math.nan}


@phase("loading")
def timelines(files: Files, throttle: Throttle, accuracies: Mapping[int, Mapping[str, float]]) -> pd.DataFrame:
    """When each network begins to answer, and how accurately: one row per seed, baseline and network.

    One pair is loaded for all seeds, once for each: those of one architecture have as many bytes, and what these bytes are
    makes no difference to the time they take.

    Each load has a fresh process, and several are measured at once.

    Arguments:
    - `files`: of a pair, with all that `ANYTIME_BASELINES` read.
    - `throttle`: the link that each of them loads over.
    - `accuracies`: of each seed's networks, by the names of `accuracy.anytime_networks`.

    Columns: seed, way (the baseline), seconds, network, bytes (as in `baselines.Moment`) and accuracy in [0, 1].
    """
    cases = [(seed, baseline) for seed in accuracies for baseline in ANYTIME_BASELINES]
    warm_up(files.all())

    def measured(case: tuple[int, str]) -> list[dict[str, object]]:
        seed, baseline = case
        found = in_fresh_process(moments, baseline=baseline, files=files, throttle=throttle)
        known = accuracies[seed]
        return [{"seed": seed, "way": baseline, **vars(one), "accuracy": known[one.network]} for one in found]

    with Progress("timelines", len(cases), "load") as bar:
        found = _several(measured, cases, bar)
    return pd.DataFrame(row for rows in found for row in rows)


@phase("loading")
def reading_rates(files: Files, rounds: int = 5) -> dict[str, float]:
    """MB/s from a warm cache: `plain` (one `read` per file, all of them kept) and `verified` (as the loader reads them).

    Medians over rounds in which the two take turns, each in a fresh process: memory that a process has used before is
    quicker to fill, and a load is the first of its process.
    """
    found: dict[str, list[float]] = {"plain": [], "verified": []}
    warm_up(files.all())
    for _ in range(rounds):
        for name, read in (("plain", read_plainly), ("verified", read_verified)):
            found[name].append(in_fresh_process(read, folder=files.bundle) / MEGABYTE)
    return {name: statistics.median(rates) for name, rates in found.items()}


@phase("loading")
def latencies(folder: Path, throttle: Throttle, loads: int) -> pd.DataFrame:
    """Milliseconds of single predictions while blocks arrive and, exactly as many of each mask, while nothing does.

    Arguments:
    - `folder`: the bundle.
    - `throttle`: the link that its blocks come over.
    - `loads`: how often it is loaded.

    Columns: state (`loading`, `idle`), mask, ms.
    """
    busy = [row for _ in range(loads) for row in _while_loading(folder, throttle)]
    counts = Counter(mask for mask, _ in busy)
    idle = [row for mask, count in counts.items() for row in _while_idle(folder, mask, count)]
    rows = [("loading", *row) for row in busy] + [("idle", *row) for row in idle]
    return pd.DataFrame(rows, columns=["state", "mask", "ms"])


def _while_loading(folder: Path, throttle: Throttle) -> list[tuple[str, float]]:
    """One load, with one prediction after another."""
    rows: list[tuple[str, float]] = []
    with ProgressiveModel.open(folder, throttle=throttle, device="cpu") as model:
        sample = torch.zeros(1, *model.index.inputs.shape)
        _timed(model, sample, 20)  # the first predictions choose kernels
        while not model.status().finished:
            rows += _timed(model, sample, 1)
    return rows


def _while_idle(folder: Path, mask: str, times: int) -> list[tuple[str, float]]:
    """Predictions of one mask by a model that was closed when it reached the mask, so that nothing else is running."""
    with ProgressiveModel.open(folder, throttle=LINGER, device="cpu") as model:
        model.on_swap(lambda event: model.close() if event.mask == mask else None)
        if model.mask == mask:
            model.close()
        model.wait()
        sample = torch.zeros(1, *model.index.inputs.shape)
        _timed(model, sample, 20)
        return _timed(model, sample, times)


def _timed(model: ProgressiveModel, sample: Tensor, times: int) -> list[tuple[str, float]]:
    """This many predictions: mask and milliseconds of each."""
    rows = []
    for _ in range(times):
        begun = time.perf_counter()
        mask = model.predict(sample).mask
        rows.append((mask, 1000 * (time.perf_counter() - begun)))
    return rows


@dataclass
class Hammered:
    """The outcome of many concurrent predictions: how many by each mask, how many wrong, and which errors occurred."""

    by_mask: Counter[str] = field(default_factory=Counter)
    wrong: int = 0
    failed: list[str] = field(default_factory=list)
    finished: bool = False

    @property
    def predictions(self) -> int:
        """How many were made."""
        return sum(self.by_mask.values())


@phase("loading")
def hammer(
    folder: Path,
    throttle: Throttle,
    inputs: Tensor,
    expected: Mapping[str, Tensor],
    predictions: int,
    n_threads: int = 4,
) -> Hammered:
    """Predict from many threads while all blocks arrive, and check each answer against its mask's logits, to the last bit.

    Arguments:
    - `folder`: the bundle.
    - `throttle`: the link that its blocks come over.
    - `inputs`: samples of one batch each, of shape [n, 1, *shape].
    - `expected`: mask -> their logits, of shape [n, 1, classes].
    - `predictions`: how many there are at least.
    - `n_threads`: how many threads ask.
    """
    found, lock = Hammered(), threading.Lock()
    with ProgressiveModel.open(folder, throttle=throttle, device="cpu") as model:

        def more() -> bool:
            with lock:
                return found.predictions < predictions or not model.status().finished

        def ask() -> None:
            number = 0
            while more():
                number = (number + 1) % len(inputs)
                try:
                    prediction = model.predict(inputs[number])
                    right = torch.equal(prediction.logits, expected[prediction.mask][number])
                except Exception as error:  # noqa: BLE001 - whatever it is, it is counted
                    with lock:
                        found.failed.append(f"{type(error).__name__}: {error}")
                    return
                with lock:
                    found.by_mask[prediction.mask] += 1
                    found.wrong += not right

        threads = [threading.Thread(target=ask) for _ in range(n_threads)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        found.finished = model.mask == "T" * model.index.n_blocks
    return found
