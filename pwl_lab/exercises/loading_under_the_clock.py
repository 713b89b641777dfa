"""Checks of the exercises to notebook 06: the anytime area, a planned timeline, and when the best order changes."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd

from pwl_lab.benchmarks import accuracy as timeline
from pwl_lab.exercises.checking import attempt, same_numbers
from pwl_lab.loading.throttle import Throttle


def anytime_area(answer: Callable[[Sequence[float], Sequence[float], float], float]) -> str:
    """`answer(seconds, accuracy, horizon)`: the mean accuracy over the first `horizon` seconds, as a staircase."""
    hint = "each accuracy holds from its second to the next one, the last to the horizon; before the first it is 0"
    seconds, accuracy = [1.0, 3.0, 4.5, 8.0], [0.80, 0.84, 0.90, 0.95]
    for horizon in (10.0, 6.0):
        right = timeline.anytime_area(pd.DataFrame({"seconds": seconds, "accuracy": accuracy}), horizon)
        begins = np.minimum(seconds, horizon)
        widths = np.diff([*begins, horizon])  # how long each accuracy holds
        held = widths @ accuracy
        slanted = widths @ (np.add(accuracy, [*accuracy[1:], accuracy[-1]]) / 2)
        mistakes = {
            "the time before the first answer is left out: it counts as accuracy 0": held / (horizon - begins[0]),
            "before the first answer nobody predicts: that time counts as 0": (held + begins[0] * accuracy[0])
            / horizon,
            "straight lines between the points: accuracy is a staircase, a block helps only once it is there": (
                slanted / horizon
            ),
            "the last stretch, up to the horizon, is missing": (held - widths[-1] * accuracy[-1]) / horizon,
            "a step shows the accuracy that comes next: it holds from its own second on": (
                np.array([begins[0], *widths[:-1]]) @ accuracy / horizon
            ),
            "this is the area in seconds: divide by the horizon": held,
            "this is the mean over the points: weigh each with the time it holds": np.mean(accuracy),
            "what comes after the horizon does not count": np.diff([*seconds, horizon]) @ accuracy / horizon,
        }
        found = attempt(answer, seconds, accuracy, horizon, hint=hint, on=f"four points, horizon {horizon:g} s")
        same_numbers(f"anytime_area up to {horizon:g} s", found, right, hint, mistakes)
    return "Right: an early answer and a good final accuracy both count, weighted by how long they last."


def arrival_seconds(answer: Callable[[int, Mapping[int, int], Sequence[int], float, float], Sequence[float]]) -> str:
    """`answer(boot_bytes, block_bytes, order, megabytes_per_s, latency_s)`: when the student and then each block is there."""
    hint = (
        "one latency for the index, then for each file in turn (the boot set first) a latency and bytes / (rate * 10^6)"
    )
    boot, blocks, order, rate = 400_000, {1: 100_000, 2: 900_000, 3: 2_500_000}, (2, 1, 3), 2.0
    sizes = np.array([boot, *(blocks[block] for block in order)])
    bare = np.cumsum(sizes) / (rate * 1e6)  # without any latency
    for latency in (0.0, 0.25):
        link = Throttle(rate, latency)
        waits = [link.seconds_for(size) for size in sizes.tolist()]
        right = latency + np.cumsum(waits)
        mistakes = {
            "the index comes first, and waits for the link's latency too": right - latency,
            "the latency is missing": bare,
            "every file waits for the latency anew, not only the first one": bare + latency,
            "every file waits for the latency anew, not only the index and the first one": bare + 2 * latency,
            "these are the blocks in the order of their numbers, not in the given order": (
                latency + np.cumsum([link.seconds_for(size) for size in (boot, *blocks.values())])
            ),
            "a megabyte is 10^6 bytes here, not 2^20": latency + np.cumsum(latency + sizes / (rate * 2**20)),
            "this is how long each file takes: add up, one comes after the other": waits,
            "the student is missing: its bytes come first, and at its arrival the first answer": right[1:],
        }
        on = f"order {order}, {rate:g} MB/s, latency {latency:g} s"
        found = attempt(answer, boot, blocks, order, rate, latency, hint=hint, on=on)
        same_numbers(f"arrival_seconds at latency {latency:g} s", found, right, hint, mistakes)
    return "Right: these are the seconds that planned_timeline computes."


def tie_latency(answer: Callable[[Mapping[str, float], Sequence[int], float], float]) -> str:
    """`answer(accuracy, sizes, megabytes_per_s)`: the latency at which both orders of two blocks have the same area."""
    hint = (
        "with c_i = latency + bytes_i / rate: block 1 first has accuracy[SS] c_1 + accuracy[TS] c_2, block 2 first "
        "accuracy[SS] c_2 + accuracy[ST] c_1; set them equal and solve for the latency"
    )
    for accuracy, sizes, rate in (
        ({"SS": 0.80, "TS": 0.82, "ST": 0.86, "TT": 0.90}, (200_000, 1_400_000), 2.0),
        ({"SS": 0.70, "TS": 0.78, "ST": 0.73, "TT": 0.81}, (3_000_000, 600_000), 1.0),
    ):
        times = [size / (rate * 1e6) for size in sizes]
        right = _tie(accuracy["TS"] - accuracy["SS"], accuracy["ST"] - accuracy["SS"], times)
        late = _tie(accuracy["TS"] - accuracy["TT"], accuracy["ST"] - accuracy["TT"], times[::-1])
        mistakes = {
            "latency is a time, never negative: look at the signs": -right,
            "TS has block 1, ST has block 2: they are swapped": _tie(
                accuracy["ST"] - accuracy["SS"], accuracy["TS"] - accuracy["SS"], times
            ),
            "while a block is on its way the mask before it predicts, not the mask with it": late,
            "these are plain accuracies: a block's gain is its accuracy minus that of SS": _tie(
                accuracy["TS"], accuracy["ST"], times
            ),
            "these are bytes: divide them by the bytes that the link brings in a second": right * rate * 1e6,
            "a megabyte is 10^6 bytes here, not 2^20": right * 1e6 / 2**20,
        }
        on = f"accuracies {accuracy}, sizes {sizes}, {rate:g} MB/s"
        found = attempt(answer, accuracy, sizes, rate, hint=hint, on=on)
        same_numbers("tie_latency", found, right, hint, mistakes, tolerance=1e-3)
    return "Right: the block that gains more per second comes first. A long latency per file takes small blocks' lead away."


def _tie(gain_1: float, gain_2: float, times: Sequence[float]) -> float:
    """Where gain_1 / (latency + time_1) = gain_2 / (latency + time_2)."""
    return (gain_1 * times[1] - gain_2 * times[0]) / (gain_2 - gain_1)
