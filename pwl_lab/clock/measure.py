"""Time to the first prediction of every way to load, at every size and speed, as one table."""

import math
import os
import statistics
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import pandas as pd

from pwl_lab.clock.accuracy import network_accuracies
from pwl_lab.clock.files import Files
from pwl_lab.clock.fresh import cool_down, in_fresh_process, warm_up
from pwl_lab.clock.ways import SafetensorsStreamer, moments, read_plainly, read_verified
from pwl_lab.loading.throttle import MEGABYTE, Throttle
from pwl_lab.progress import Progress
from pwl_lab.tasks.base import Batch

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
