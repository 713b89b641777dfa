"""Tables of the predictions that a model makes while it loads: what they say, and how long each of them takes."""

from collections.abc import Mapping, Sequence

import pandas as pd

from pwl_lab.loading.model import Prediction


def answers_by_mask(answers: Sequence[Prediction], class_names: Sequence[str], masks: Sequence[str]) -> pd.DataFrame:
    """One row per mask: what its first prediction `says`, with which `confidence`, and how many `predictions` it made.

    Arguments:
    - `answers`: predictions about the same single image, in the order in which they were made.
    - `class_names`: of the task.
    - `masks`: the rows; one that made no prediction has no answer.
    """
    rows = [(answer.mask, class_names[int(answer.classes[0])], float(answer.confidence[0])) for answer in answers]
    by_mask = pd.DataFrame(rows, columns=["mask", "says", "confidence"]).groupby("mask")
    table = by_mask.agg("first").assign(predictions=by_mask.size()).reindex(list(masks))
    return table.fillna({"predictions": 0}).astype({"predictions": int})


def latency_groups(waits: pd.DataFrame, student: str) -> dict[str, pd.DataFrame]:
    """The rows of predictions made while nothing was loaded (`idle`), of all others (`loading`), and of those after a swap.

    Arguments:
    - `waits`: as from `harness.latencies`.
    - `student`: the mask with which each load begins: no swap comes before it.
    """
    loading = waits[waits["state"] == "loading"]
    first = (loading["mask"] != loading["mask"].shift()) & (loading["mask"] != student)
    return {"idle": waits[waits["state"] == "idle"], "loading": loading, "first after a swap": loading[first]}


def latency_table(groups: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """A row for each group of predictions: how many, and their median, 99th percentile and longest in milliseconds."""
    found = {name: rows["ms"].describe(percentiles=[0.5, 0.99]) for name, rows in groups.items()}
    table = pd.DataFrame(found).T[["count", "50%", "99%", "max"]]
    return table.rename(columns={"50%": "p50, ms", "99%": "p99, ms", "max": "longest, ms"})
