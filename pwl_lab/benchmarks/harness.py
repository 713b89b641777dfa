"""Time to the first prediction of every way to load, at every size and speed, each measured in a fresh process.

A process that has loaded before has its allocator warm and its kernels chosen; one that begins has not. Each measurement
gets a process that has imported what it needs and done nothing yet, and files that are in or out of the operating
system's cache as asked.
"""

import ctypes
import math
import mmap
import multiprocessing
import os
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import cloudpickle
import pandas as pd
import torch

from pwl_lab.benchmarks.accuracy import network_accuracies
from pwl_lab.benchmarks.baselines import Files, SafetensorsStreamer, moments, read_plainly, read_verified
from pwl_lab.loading.throttle import MEGABYTE, Throttle
from pwl_lab.support.processes import (
    CaseFailedError,
    WorkerLostError,
    how_it_ended,
    one_thread,
    pack,
    run_packed,
    without_main,
)
from pwl_lab.support.progress import Progress
from pwl_lab.tasks.base import Batch

PRELOADED = [
    "pwl_lab.benchmarks.baselines",
    "pwl_lab.benchmarks.latency",
]  # imported once; every fresh process is a copy of that one


def in_fresh_process(work: Callable[..., Any], longest_s: float = 1800.0, **case: Any) -> Any:
    """`work(**case)`, a module's function, in a process of its own with one torch thread; its result or its exception.

    Raises WorkerLostError where the process ended without an answer, or had none after `longest_s` seconds.
    """
    methods = multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
    if context.get_start_method() == "forkserver":
        context.set_forkserver_preload(PRELOADED)
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(sender, pack(work, case)), daemon=True)
    with without_main():
        process.start()
    sender.close()
    try:
        if not receiver.poll(longest_s):
            process.kill()
            raise WorkerLostError(f"the process that ran {work.__name__} had no answer after {longest_s:g} s")
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
    """The fresh process."""
    with one_thread():
        try:
            answer = (True, run_packed(packed))
        except CaseFailedError as failed:
            answer = (False, failed)
    sender.send(answer)


def warm_up(files: Iterable[Path]) -> None:
    """Read the files, so that they are in the operating system's cache."""
    buffer = torch.empty(1 << 20, dtype=torch.uint8).numpy()
    for path in files:
        with Path(path).open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass


def cool_down(files: Iterable[Path]) -> bool:
    """Take the files out of the operating system's cache; whether they are out (not every system and disk does it)."""
    files = [Path(path) for path in files]
    if not hasattr(os, "posix_fadvise"):
        return False
    for path in files:
        with path.open("rb") as file:
            os.fsync(file.fileno())  # what was not written yet cannot be dropped
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return all(cached_share(path) < 0.01 for path in files if path.stat().st_size)


def cached_share(path: Path) -> float:
    """The share of a file's pages that are in memory, in [0, 1]; 1 where the system does not tell."""
    size = path.stat().st_size
    pages = -(-size // mmap.PAGESIZE)
    tell = getattr(ctypes.CDLL(None), "mincore", None)
    if tell is None or not size:
        return 1.0
    # A private mapping that may be written to has an address that ctypes can take; nothing is written.
    with path.open("rb") as file, mmap.mmap(file.fileno(), size, flags=mmap.MAP_PRIVATE, prot=3) as mapped:
        address = ctypes.addressof(anchor := ctypes.c_char.from_buffer(mapped))
        there = (ctypes.c_ubyte * pages)()
        failed = tell(ctypes.c_void_p(address), ctypes.c_size_t(size), there)
        del anchor  # else the mapping could not be closed
    return 1.0 if failed else sum(byte & 1 for byte in there) / pages


FIRST_WAYS = ("progressive", "student_only", "teacher_safetensors", "teacher_torch_load")
DISK_WAYS = ("teacher_streamer",) if SafetensorsStreamer is not None else ()  # these read files themselves
ANYTIME_WAYS = (
    "progressive",
    "progressive_8bit_first",
    "student_only",
    "teacher_safetensors",
    "teacher_8bit",
    "bit_planes",
)


def state_name(megabytes_per_s: float) -> str:
    """What a link is called in tables."""
    return f"{megabytes_per_s:g} MB/s"


def states_of(files: Files, speeds: Iterable[float], longest_s: float) -> list[str]:
    """Cold, warm, and those speeds (MB/s) at which the teacher comes within `longest_s` seconds."""
    size = files.teacher_bytes() / MEGABYTE
    return ["cold", "warm", *(state_name(speed) for speed in speeds if size / speed <= longest_s)]


def first_predictions(files: Mapping[str, Files], states: Mapping[str, Sequence[str]], repeats: int) -> pd.DataFrame:
    """One row per size, state, way and repeat: `first_prediction_s`, and `teacher_s` (whole teacher answering; NaN: never).

    `states[size]` names `cold`, `warm` and speeds such as `25 MB/s`. Each row is a fresh process that has imported all
    it needs; the clock starts there. Cold and warm are measured one at a time, `repeats` times; slow links, where a
    process mostly waits, once, and as many at a time as there are cores. Where files cannot be put out of the operating
    system's cache, `cold` has no rows.
    """
    cases = [
        {"size": size, "state": state, "way": way, "repeat": repeat}
        for size, names in states.items()
        for state in names
        for repeat in range(1 if state.endswith("MB/s") else repeats)
        for way in FIRST_WAYS + (() if state.endswith("MB/s") else DISK_WAYS)
    ]
    slow = [case for case in cases if case["state"].endswith("MB/s")]
    rows: list[dict[str, object]] = []
    with Progress("first predictions", len(cases), "load") as bar, ThreadPoolExecutor(os.cpu_count()) as pool:

        def measured(case: dict[str, object]) -> dict[str, object]:
            return case | _first_prediction(files[case["size"]], case["state"], case["way"])

        for case in cases:
            if case not in slow:
                rows.append(measured(case))
                bar.advance()
        warm_up(path for size in {case["size"] for case in slow} for path in files[size].all())
        for row in pool.map(measured, slow):
            rows.append(row)
            bar.advance()
    return pd.DataFrame(rows).dropna(subset="first_prediction_s").reset_index(drop=True)


def _first_prediction(files: Files, state: str, way: str) -> dict[str, float]:
    """One measurement; NaN where the state cannot be had."""
    throttle = Throttle(float(state.split()[0])) if state.endswith("MB/s") else None
    if state == "cold" and not cool_down(files.all()):
        return {"first_prediction_s": math.nan, "teacher_s": math.nan}
    if state == "warm":
        warm_up(files.all())
    found = in_fresh_process(moments, way=way, files=files, throttle=throttle)
    whole = [moment.seconds for moment in found if moment.network == "T" * files.index.n_blocks]
    return {"first_prediction_s": found[0].seconds, "teacher_s": whole[0] if whole else math.nan}


def timelines(files: Files, throttle: Throttle, data: Batch, ways: Sequence[str] = ANYTIME_WAYS) -> pd.DataFrame:
    """One row per way and network on the way: `seconds` since the start, `network`, `bytes` (see `ways.Moment`), `accuracy`.

    Each way in a fresh process, over the same link; `accuracy` is that of the network on `data`.
    """
    rows = []
    warm_up(files.all())
    with Progress("timelines", len(ways), "way") as bar:
        for way in ways:
            found = in_fresh_process(moments, way=way, files=files, throttle=throttle)
            rows += [{"way": way, **vars(moment)} for moment in found]
            bar.advance()
    table = pd.DataFrame(rows)
    accuracies = network_accuracies(files, table["network"].unique(), data)
    return table.assign(accuracy=table["network"].map(accuracies))


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
