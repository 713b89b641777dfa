"""What a model says while it loads, and how long it takes, as the tables of notebook 06 have it."""

import pandas as pd
import pytest
import torch

from pwl_lab.benchmarks.meanwhile import answers_by_mask, latency_groups, latency_table
from pwl_lab.loading.model import Prediction


def test_each_mask_has_the_first_of_its_answers():
    answers = [
        Prediction(torch.tensor([logits]), mask)
        for mask, logits in (("SS", [0.0, 2.0]), ("SS", [3.0, 0.0]), ("TT", [1.0, 0.0]))
    ]
    table = answers_by_mask(answers, ["coat", "bag"], ["SS", "TS", "TT"])
    assert table["says"].tolist()[::2] == ["bag", "coat"]
    assert table["predictions"].tolist() == [2, 0, 1]
    assert table.loc["SS", "confidence"] == pytest.approx(torch.tensor([0.0, 2.0]).softmax(0)[1].item())
    assert table.loc["TS", ["says", "confidence"]].isna().all(), "it was gone before it could answer"


def test_what_follows_a_swap_is_told_from_the_beginning_of_a_load():
    rows = [("loading", mask, ms) for mask, ms in (("SS", 1.0), ("SS", 2.0), ("TS", 7.0), ("TT", 9.0), ("TT", 1.0))]
    waits = pd.DataFrame([*rows, ("loading", "SS", 3.0), ("idle", "SS", 0.5)], columns=["state", "mask", "ms"])
    groups = latency_groups(waits, "SS")
    assert {name: mine["ms"].tolist() for name, mine in groups.items()} == {
        "idle": [0.5],
        "loading": [1.0, 2.0, 7.0, 9.0, 1.0, 3.0],
        "first after a swap": [7.0, 9.0],
    }
    table = latency_table(groups)
    assert table.columns.tolist() == ["count", "p50, ms", "p99, ms", "longest, ms"]
    assert table.loc["first after a swap", ["count", "p50, ms", "longest, ms"]].tolist() == [2, 8.0, 9.0]
