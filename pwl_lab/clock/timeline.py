"""Accuracy against seconds: what a load would bring when, and the area under it as one number."""

from collections.abc import Sequence

import pandas as pd

from pwl_lab.loading.bundle import BOOT, BundleIndex
from pwl_lab.loading.schedule import schedule, seconds_for
from pwl_lab.loading.throttle import Throttle


def anytime_area(points: pd.DataFrame, horizon_s: float) -> float:
    """The mean accuracy over the first `horizon_s` seconds: 0 before the first prediction, then that of who predicts.

    `points` has seconds and accuracy of one load, in any order; it counts as a staircase.
    """
    steps = points.sort_values("seconds", kind="stable")  # of two at once the later row predicts from then on
    begins = steps["seconds"].clip(upper=horizon_s).tolist()
    ends = [*begins[1:], horizon_s]
    held = zip(begins, ends, steps["accuracy"], strict=True)
    return sum((end - begin) * accuracy for begin, end, accuracy in held) / horizon_s


def planned_timeline(
    index: BundleIndex, order: str | Sequence[int], link: Throttle, split: str = "test", first_at_8_bits: bool = False
) -> pd.DataFrame:
    """When each mask would run on this link, by the bundle's bytes alone: seconds, network, bytes, accuracy on `split`.

    Reading, checking and swapping are left out; a block at 8 bits counts as accurate as the whole one.
    """
    boot, mask = index.shard(BOOT, 8 if first_at_8_bits else 32), ("s" if first_at_8_bits else "S") * index.n_blocks
    seconds, size = link.latency_s + seconds_for(boot.bytes, link), boot.bytes  # the index comes first, and is small
    rows = [(seconds, mask, size)]
    for shard in schedule(index, order, link, first_at_8_bits):
        seconds, size = seconds + seconds_for(shard.bytes, link), size + shard.bytes
        letter = "t" if shard.bits == 8 else "T"
        mask = mask[: shard.block - 1] + letter + mask[shard.block :]
        rows.append((seconds, mask, size))
    table = pd.DataFrame(rows, columns=["seconds", "network", "bytes"])
    return table.assign(accuracy=table["network"].str.upper().map(index.accuracies.get(split, {})))
