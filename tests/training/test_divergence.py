"""A student that diverges is named, marked and left out; the others go on as if it had never been there."""

import json
import math

import pandas as pd
import pytest
import torch
from toys import MLP_STUDENT, MLP_TEACHER, PARITY, PLAN, as_trained, assert_close, distil_cohort

from pwl_lab import plots
from pwl_lab.distill.curriculum import from_labels, one_shot
from pwl_lab.models import build
from pwl_lab.study import tables
from pwl_lab.study.results import DistillationRuns
from pwl_lab.study.verbs import distill
from pwl_lab.support.errors import InvalidValueError

CURRICULA = {"scratch": from_labels(), "one_shot": one_shot()}


@pytest.fixture
def teacher():
    return as_trained(MLP_TEACHER)


@pytest.fixture
def bad_seeds():
    """Whose students begin with a weight that overflows in their first step."""
    return {1}


@pytest.fixture
def one_bad_start(monkeypatch, bad_seeds):
    """The student of seed 1 begins with a weight that overflows in its first step."""

    def spoiled(config, seed, device="cpu", **keys):
        net = build(config, seed, device, **keys)
        if seed in bad_seeds:
            with torch.no_grad():
                net.head.weight.fill_(float("inf"))
        return net

    monkeypatch.setattr("pwl_lab.distill.students.build", spoiled)


def test_a_diverging_student_neither_stops_nor_moves_the_others(teacher, one_bad_start):
    with pytest.warns(UserWarning, match=r"(scratch|one_shot), seed 1: diverged by step 6 .*lr") as warned:
        together = distil_cohort(teacher, MLP_STUDENT, PARITY, CURRICULA, (0, 1, 2), PLAN)
    assert {str(one.message).partition(",")[0] for one in warned} == set(CURRICULA)
    alone = distil_cohort(teacher, MLP_STUDENT, PARITY, CURRICULA, (0, 2), PLAN)
    assert set(together.weights) == set(alone.weights)
    for who in alone.weights:
        assert_close(together.weights[who], alone.weights[who])
    rows = together.history.query("seed != 1").reset_index(drop=True)
    assert rows["accuracy"].tolist() == alone.history["accuracy"].tolist()
    lost = together.history.query("seed == 1")
    assert lost["step"].max() == 6
    assert lost.query("step == 6")["accuracy"].isna().all()
    losses = together.history.filter(like="loss_").iloc[6:]
    assert losses.map(math.isfinite).all().all(), "no mean over students has it in"


def test_all_of_them_may_diverge(teacher, bad_seeds, one_bad_start):
    bad_seeds.add(0)
    with pytest.warns(UserWarning, match="diverged"):
        result = distil_cohort(teacher, MLP_STUDENT, PARITY, CURRICULA, (0, 1), PLAN)
    assert result.weights == {}
    assert tables.diverged(result.history) == {"scratch": [0, 1], "one_shot": [0, 1]}


HISTORY = pd.DataFrame(
    [
        {"curriculum": "one_shot", "seed": seed, "step": step, "accuracy": math.nan if seed and step == 20 else 0.99}
        for seed in (0, 1)
        for step in (10, 20)
    ]
)


def test_tables_say_diverged_and_never_a_number():
    assert tables.diverged(HISTORY) == {"one_shot": [1]}
    assert tables.steps_to_threshold(HISTORY, 0.9) == {"one_shot": [10, None]}
    assert tables.final_accuracy(HISTORY) == {"one_shot": [0.99, None]}
    row = tables.threshold_table(HISTORY, 0.9, 20, 8).loc["one_shot"]
    assert row["reached"] == "1 of 2, 1 diverged"
    assert row["final accuracy"] == "99.0%"
    held = tables.hold_last_accuracy(HISTORY)
    assert held.query("seed == 1 and step == 20")["accuracy"].isna().all()
    json.dumps(tables.final_accuracy(HISTORY), allow_nan=False)


def test_figures_and_students_say_so_too():
    runs = DistillationRuns(MLP_STUDENT, PLAN, HISTORY, pd.DataFrame({"curriculum": ["one_shot"], "start": [0]}), {})
    curves, steps = plots.learning_curves(runs), plots.steps_to_threshold(runs)
    assert "one-shot (1 diverged)" in [text.get_text() for text in curves.legends[0].get_texts()]
    assert "diverged" in steps.axes[0].get_yticklabels()[0].get_text()
    with pytest.raises(InvalidValueError, match="did not diverge"):
        runs.student("one_shot", 1)


def test_it_stays_so_in_the_store(teacher, one_bad_start, store_folder):
    with pytest.warns(UserWarning, match="diverged"):
        first = distill(teacher, MLP_STUDENT, PARITY, CURRICULA, (0, 1), PLAN)
    again = distill(teacher, MLP_STUDENT, PARITY, CURRICULA, (0, 1), PLAN)
    assert tables.diverged(again.history) == tables.diverged(first.history) == {"scratch": [1], "one_shot": [1]}
    assert set(again.weights) == {("scratch", 0), ("one_shot", 0)}
