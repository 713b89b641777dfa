"""Sweeps over sparse parity: teachers, students and the choice of settings."""

import pandas as pd
import pytest
import torch
from script_modules import load_script

from pwl_lab.fast.two_layer import joined
from pwl_lab.study.parity_sweep import (
    EVENLY,
    Draws,
    Setting,
    TeacherPlan,
    every,
    growing,
    train_students,
    train_teachers,
)

PLAN = TeacherPlan(width=64, budget=800, checkpoints=(0.7,), eval_every=5)


@pytest.fixture(scope="module")
def teachers():
    """Two draws of two sizes."""
    return train_teachers(Draws.of([(8, 2), (10, 3)], (0, 1)), PLAN, even=True)


def test_draws_differ_in_everything():
    """Two sizes with the same seed share neither the support's stream nor initial weights."""
    draws = Draws.of([(8, 2), (8, 3)], (0, 1))
    assert [(row["n"], row["k"], row["seed"]) for row in draws.rows] == [(8, 2, 0), (8, 2, 1), (8, 3, 0), (8, 3, 1)]
    assert draws.tasks.support.sum(dim=1).tolist() == [2, 2, 3, 3]
    for name in ("init", "student", "projection"):
        assert len({stream.initial_seed() for stream in draws.streams(name)}) == 4
    names = ("init", "student", "projection")
    assert len({stream.initial_seed() for name in names for stream in draws.streams(name)}) == 12


def test_teachers_learn_and_their_checkpoints_are_on_the_way(teachers):
    """The final ones are right, the checkpoints have reached their accuracy and no more than the final ones."""
    assert not teachers.missing
    final = teachers.nets.accuracy(*teachers.draws.test)
    early = teachers.checkpoints[0.7].accuracy(*teachers.draws.test)
    assert (final >= 0.98).all()
    assert ((early >= 0.7) & (early <= final + 0.02)).all()
    assert (teachers.steps >= PLAN.saturation * teachers.reached).all()
    evenly = teachers.even.accuracy(*teachers.draws.test)
    assert evenly.shape[1] == EVENLY - 1
    slow = teachers.reached >= EVENLY * PLAN.eval_every  # the others were done at their first evaluations
    assert slow.any()
    assert (evenly[slow, 0] < evenly[slow, -1]).all()
    assert (evenly[slow] < 1).all()  # all of them from before the first 100%


def test_a_teacher_that_does_not_learn_is_named():
    """With too few steps no draw is left, and all are named."""
    with_one = train_teachers(Draws.of([(8, 2), (30, 5)], (0,)), TeacherPlan(width=64, budget=600, checkpoints=()))
    assert with_one.missing == ({"n": 30, "k": 5, "seed": 0},)
    assert [row["n"] for row in with_one.draws.rows] == [8]


@pytest.mark.parametrize("curriculum", ["labels", "one_shot", "progressive", "even", "extracted"])
def test_students_of_every_curriculum(teachers, curriculum):
    """One row per draw and setting; a learning rate of nearly 0 never arrives and counts with the budget."""
    shown = joined([teachers.even if curriculum == "even" else teachers.checkpoints[0.7], teachers.nets])
    settings = [[Setting(0.3, 0.9, 20), Setting(1e-9, 0.0, 20)]]
    table = train_students(teachers.draws, shown, curriculum, settings, 32, 16, 1_200, growing())
    assert len(table) == 2 * len(teachers.draws.rows)
    fast, slow = table[table["lr"] == 0.3], table[table["lr"] == 1e-9]
    assert fast["reached"].mean() >= 0.75
    assert not slow["reached"].any()
    assert (slow["steps"] == 1_200).all()
    assert (table["samples"] == 16 * table["steps"]).all()
    if curriculum not in ("labels", "one_shot"):
        assert (table.loc[table["reached"], "steps"] > 20).all()


def test_extraction_of_an_untrained_teacher_does_not_help(teachers):
    """A projection of random features holds no hint at the support: more samples than from a trained teacher."""
    from pwl_lab.fast.two_layer import Nets

    draws = teachers.draws
    untrained = Nets.draw(draws.tasks, 1, PLAN.width, draws.streams("student"))
    shown = Nets(untrained.weight, untrained.bias, teachers.nets.out * 0, teachers.nets.shift * 0)
    settings = [[Setting(0.3, 0.0, 100)]]
    blind = train_students(draws, shown, "extracted", settings, 32, 16, 400, every(20))
    seeing = train_students(draws, teachers.nets, "extracted", settings, 32, 16, 400, every(20))
    assert seeing["reached"].sum() > blind["reached"].sum()


def test_the_best_setting_counts_those_that_never_arrive():
    """The median decides, with infinity for students out of budget; a best value at an end of the grid is marked."""
    base = {"k": 2, "n": 8, "curriculum": "extracted", "momentum": 0.0, "hidden_weight": 5.0}
    rows = [
        base | {"lr": lr, "stage_steps": steps, "samples": samples, "reached": reached}
        for lr, steps, samples, reached in [
            *((0.1, 50, s, True) for s in (300, 310, 320)),
            *((0.2, 50, s, r) for s, r in ((100, True), (900, False), (900, False))),
            *((0.4, 50, s, True) for s in (500, 510, 520)),
            *((0.2, 100, s, True) for s in (200, 210, 900)),
        ]
    ]
    best_settings = load_script("complexity_tables").best_settings
    best = best_settings(pd.DataFrame(rows)).iloc[0]
    assert (best["lr"], best["stage_steps"], best["samples"]) == (0.2, 100, 210)
    assert best["edge"] == "stage_steps"
    nobody = pd.DataFrame(rows).assign(reached=False)
    assert best_settings(nobody)["samples"].iloc[0] == float("inf")


def test_evaluations_are_closer_than_the_steps_they_measure():
    """`growing` evaluates often at first and then at a constant ratio."""
    step, steps, ahead = 0, [], growing(1.05, 4)
    while step < 5_000:
        step = ahead(step)
        steps.append(step)
    ratios = torch.tensor(steps[40:]) / torch.tensor(steps[39:-1])
    assert steps[:3] == [4, 8, 12]
    assert (ratios <= 1.06).all()
