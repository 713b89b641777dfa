"""Tables against what is written down by hand."""

import pandas as pd
import pytest

from pwl_lab.study import tables as analysis
from pwl_lab.support.errors import InvalidValueError
from pwl_lab.swap.masks import prefix_mask
from pwl_lab.swap.orders import loading_orders


def history(*rows):
    return pd.DataFrame(rows, columns=["curriculum", "seed", "step", "accuracy"])


RUNS = history(
    ("slow", 3, 0, 0.5),
    ("slow", 1, 0, 0.4),
    ("fast", 1, 0, 0.5),
    ("fast", 3, 0, 0.6),
    ("slow", 3, 10, 0.7),
    ("slow", 1, 10, 0.99),
    ("fast", 1, 10, 1.0),
    ("fast", 3, 10, 0.8),
    ("slow", 3, 20, 0.95),
    ("slow", 1, 20, 0.6),
    ("fast", 3, 20, 0.99),
)


def test_steps_to_threshold_is_the_first_step_per_seed_and_none_where_there_is_none():
    assert analysis.steps_to_threshold(RUNS, 0.99) == {"slow": [None, 10], "fast": [10, 20]}
    assert analysis.steps_to_threshold(RUNS, 0.9) == {"slow": [20, 10], "fast": [10, 20]}
    assert analysis.steps_to_threshold(RUNS, 0.45) == {"slow": [0, 10], "fast": [0, 0]}
    assert analysis.steps_by_seed(RUNS, 0.99) == {"slow": {3: None, 1: 10}, "fast": {1: 10, 3: 20}}
    assert list(analysis.steps_to_threshold(RUNS, 0.99)) == ["slow", "fast"]  # in order of appearance


def test_final_accuracy_is_the_last_in_time_not_in_the_table():
    backwards = RUNS.sort_values("step", ascending=False, kind="stable")
    found = analysis.final_accuracy(backwards)
    assert found == {"slow": [0.95, 0.6], "fast": [0.99, 1.0]}  # the seeds in order of appearance


def test_a_student_that_diverged_has_no_final_accuracy():
    gone = history(("c", 0, 0, 0.5), ("c", 0, 10, 0.9), ("c", 0, 20, float("nan")), ("c", 1, 0, 0.5), ("c", 1, 20, 0.7))
    assert analysis.final_accuracy(gone) == {"c": [None, 0.7]}


def test_held_goes_on_at_the_last_accuracy_of_a_retired_student():
    table = analysis.hold_last_accuracy(RUNS)
    assert len(table) == 4 * 3
    found = table.set_index(["curriculum", "seed", "step"])["accuracy"]
    assert found["fast", 1, 20] == 1.0
    assert found["fast", 1, 10] == 1.0
    for row in RUNS.itertuples():
        assert found[row.curriculum, row.seed, row.step] == row.accuracy


def test_medians_count_who_never_got_there_at_the_budget():
    assert analysis.median_steps([10, None, 30], 100) == 30
    assert analysis.median_steps([10, None, None], 100) == 100
    assert analysis.median_steps([10, 20], 100) == 15
    assert analysis.median_steps([None], 100) == 100


def threshold_row(*steps, budget=1000):
    rows = []
    for seed, step in enumerate(steps):
        rows += [("c", seed, 0, 0.5)] + ([("c", seed, step, 1.0)] if step is not None else [])
        rows += [("c", seed, budget, 0.5)] if step is None else []
    return analysis.threshold_table(history(*rows), 0.99, budget, 128).loc["c"]


def test_threshold_table():
    row = threshold_row(100, 300, 1200, budget=2000)
    assert row.to_dict() == {
        "reached": "3 of 3",
        "median steps": "300",
        "fewest": "100",
        "most": "1,200",
        "median samples": "38,400",
        "final accuracy": "100.0%",
    }
    row = threshold_row(100, 300, None)
    assert row["reached"] == "2 of 3"
    assert (row["median steps"], row["most"]) == ("300", "> 1,000")
    assert row["final accuracy"] == "83.3%"
    row = threshold_row(None, None, 100)
    assert (row["median steps"], row["fewest"]) == ("> 1,000", "100")
    row = threshold_row(None, None)
    assert (row["reached"], row["median steps"], row["fewest"]) == ("0 of 2", "> 1,000", "–")


def test_reaching_it_with_the_last_step_is_reaching_it():
    assert threshold_row(1000, 1000, budget=1000)["median steps"] == "1,000"


def test_a_median_between_a_seed_that_got_there_and_one_that_did_not_is_a_lower_bound():
    assert threshold_row(100, None)["median steps"] == "> 550"
    assert threshold_row(100, 200, None, None)["median steps"] == "> 600"


@pytest.mark.parametrize("steps", [(None, None), (100, None)])
def test_the_samples_of_such_a_median_are_a_lower_bound_too(steps):
    assert threshold_row(*steps)["median samples"].startswith("> ")


ACCURACIES = {
    "test": {"SS": 0.6, "ST": 0.5, "TS": 0.7, "TT": 0.9},
    "validation": {"SS": 0.61, "ST": 0.51, "TS": 0.71, "TT": 0.91},
}


def test_mask_table():
    table = analysis.mask_table(ACCURACIES, [10, 300], seed=4).set_index("mask")
    assert table["teacher_blocks"].to_dict() == {"SS": 0, "ST": 1, "TS": 1, "TT": 2}
    assert table["teacher_bytes"].to_dict() == {"SS": 0, "ST": 300, "TS": 10, "TT": 310}
    assert table["validation"].to_dict() == ACCURACIES["validation"]
    assert set(table["seed"]) == {4}


def test_mask_table_refuses_bytes_for_another_number_of_blocks():
    with pytest.raises(ValueError, match="zip"):
        analysis.mask_table(ACCURACIES, [10, 300, 5], seed=0)


def test_class_table():
    table = analysis.class_table({"SS": [0.5, float("nan")], "TT": [1.0, 0.25]}, seed=4)
    assert list(table) == ["mask", "seed", "class", "test"]
    assert table["mask"].tolist() == ["SS", "SS", "TT", "TT"]
    assert table["class"].tolist() == [0, 1, 0, 1]
    assert table["test"].dropna().tolist() == [0.5, 1.0, 0.25]
    assert set(table["seed"]) == {4}


class Pair:
    def __init__(self, seed, shift):
        tables = {name: {mask: value + shift for mask, value in t.items()} for name, t in ACCURACIES.items()}
        self.masks = analysis.mask_table(tables, [10, 300], seed)


def test_order_curves():
    masks = analysis.stacked_masks([Pair(1, 0.0), Pair(0, 0.05)])
    assert len(masks) == 8
    curves = analysis.order_curves(masks, loading_orders(2))
    assert len(curves) == 3 * 2 * 3
    rows = curves.query("order == 'suffix' and seed == 1")
    assert rows["mask"].tolist() == ["SS", "ST", "TT"]
    assert rows["teacher_blocks"].tolist() == [0, 1, 2]
    assert rows["teacher_bytes"].tolist() == [0, 300, 310]
    assert rows["accuracy"].tolist() == [0.6, 0.5, 0.9]
    validation = analysis.order_curves(masks, {"own": ["SS", "TS"]}, split="validation")
    assert validation["order"].unique().tolist() == ["own"]
    assert validation.query("seed == 1")["accuracy"].tolist() == [0.61, 0.71]
    assert analysis.mean_curve(curves, "prefix") == pytest.approx([0.625, 0.725, 0.925])


def test_loading_orders():
    orders = loading_orders(3)
    assert orders == {
        "prefix": ["SSS", "TSS", "TTS", "TTT"],
        "suffix": ["SSS", "SST", "STT", "TTT"],
        "contiguous": ["SSS", "STS", "STT", "TTT"],
    }
    assert loading_orders(4)["contiguous"] == ["SSSS", "STSS", "STTS", "STTT", "TTTT"]
    assert loading_orders(2)["contiguous"] == ["SS", "ST", "TT"]
    assert set(map(tuple, loading_orders(1).values())) == {("S", "T")}
    with pytest.raises(InvalidValueError):
        prefix_mask(3, 2)


def test_check_claims():
    claims = {"faster": True, "never falls": False}
    table = analysis.check_claims(claims, enforce=False)
    assert table["holds here"].to_dict() == {"faster": "yes", "never falls": "no, at this size"}
    with pytest.raises(AssertionError, match="never falls"):
        analysis.check_claims(claims, enforce=True)
    assert analysis.check_claims({"faster": True}, enforce=True)["holds here"].tolist() == ["yes"]


@pytest.mark.parametrize("enforce", [True, False])
def test_a_claim_about_seconds_never_stops_a_run(enforce):
    table = analysis.check_claims({"right": True}, enforce, timed={"sooner": False, "in time": True})
    assert table["holds here"].str.startswith("yes").to_dict() == {"right": True, "sooner": False, "in time": True}
    with pytest.raises(AssertionError, match="wrong"):
        analysis.check_claims({"wrong": False}, enforce=True, timed={"sooner": True})


def test_the_student_answers_without_converters_and_the_whole_costs_more_than_the_teacher():
    tables = [
        analysis.mask_table({"test": {"SS": 0.5 + s, "TS": 0.6 + s, "ST": 0.4, "TT": 0.7 + s}}, (10, 30), seed)
        for seed, s in enumerate((0.0, 0.2))
    ]
    curves = analysis.order_curves(pd.concat(tables), loading_orders(2))
    table = analysis.arrival_table(
        curves, "prefix", student_bytes=8, block_bytes=(12, 30)
    )  # 2 of converters with the first
    assert table.index.tolist() == ["SS", "TS", "TT"]
    assert table["bytes"].tolist() == [8, 20, 50]
    assert table["share"].tolist() == [0.2, 0.5, 1.25]
    assert table["accuracy"].tolist() == pytest.approx([0.6, 0.7, 0.8])
