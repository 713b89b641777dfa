"""Pairs trained side by side: each is the same as alone, bit for bit, and is kept on its own."""

import pandas as pd
import pytest
import torch
from toys import MLP_STUDENT, MLP_TEACHER, VGG_STUDENT, VGG_TEACHER, DropoutConfig, ToyImages, changed

from pwl_lab.distill.curriculum import extracted, one_shot
from pwl_lab.study import verbs
from pwl_lab.study.verbs import train_or_load, train_pair, train_pairs
from pwl_lab.support.errors import DivergedError
from pwl_lab.swap.pair_training import PairLossConfig
from pwl_lab.tasks.parity import SparseParity
from pwl_lab.training import TrainPlan

PARITY = SparseParity(n_bits=6, k_sparse=2, eval_samples=60)
FAMILIES = {
    "mlp": (MLP_TEACHER, MLP_STUDENT, PARITY),
    "vgg": (VGG_TEACHER, VGG_STUDENT, ToyImages()),
    "dropout": (DropoutConfig(width=9), DropoutConfig(width=5), PARITY),
}
PLAN = TrainPlan(steps=12, batch_size=8, eval_every=5, lr=0.1, momentum=0.9, weight_decay=1e-3, clip_norm=0.5)
ARMS = [
    (PairLossConfig(), None),
    (PairLossConfig(masks="alternating", sync=0.25), None),
    (PairLossConfig(student_joins_at=0.5), extracted(steps=2)),
    (PairLossConfig(student_joins_at=1.0), one_shot()),
    (PairLossConfig(recon=0.0), extracted(steps=2)),
]
NOT_FINITE = PairLossConfig(temperature=1e-44)  # logits divided by this are infinite


@pytest.fixture(params=FAMILIES)
def family(request, store_folder):
    """Teacher, student and task of a family."""
    teacher, student, task = FAMILIES[request.param]
    return train_or_load(teacher, task, TrainPlan(steps=4, batch_size=8), device="cpu"), student, task


@pytest.fixture
def trained(monkeypatch):
    """How many pairs were trained together, each time."""
    real, counts = verbs.train_pairs_together, []

    def watched(pairs, *others):
        counts.append(len(pairs))
        torch.rand(len(counts))  # whatever else draws from torch's global generator changes nothing
        return real(pairs, *others)

    monkeypatch.setattr(verbs, "train_pairs_together", watched)
    return counts


def assert_same(one, other):
    assert one.fingerprint == other.fingerprint
    assert changed(one.net.state_dict(), other.net.state_dict()) == set()
    for name in ("history", "masks", "classes"):
        pd.testing.assert_frame_equal(getattr(one, name), getattr(other, name), check_exact=True)
    assert torch.equal(one.right, other.right)


def test_pairs_side_by_side_are_those_of_each_alone(family, trained, tmp_path, monkeypatch):
    together = train_pairs(*family, PLAN, ARMS, 3, "cpu")
    assert trained == [len(ARMS)]
    monkeypatch.setenv("PWL_LAB_STORE", str(tmp_path / "other"))
    alone = [train_pair(*family, PLAN, losses, 3, "cpu", curriculum) for losses, curriculum in ARMS]
    assert trained == [len(ARMS)] + [1] * len(ARMS)
    for one, other in zip(together, alone, strict=True):
        assert_same(one, other)
    assert len({one.history["loss_total"].iloc[-1] for one in together}) == len(ARMS)


def test_only_what_is_missing_is_trained_and_in_the_order_asked_for(family, trained):
    first = train_pair(*family, PLAN, ARMS[1][0], 3, "cpu")
    found = train_pairs(*family, PLAN, ARMS[2:0:-1], 3, "cpu")
    assert trained == [1, 1]
    assert_same(found[1], first)
    assert_same(found[0], train_pair(*family, PLAN, ARMS[2][0], 3, "cpu", ARMS[2][1]))
    assert trained == [1, 1]


def test_pairs_that_may_stop_early_are_trained_one_after_the_other(family, trained):
    train_pairs(*family, PLAN.model_copy(update={"stop_at": 0.9}), ARMS[:2], 3, "cpu")
    assert trained == [1, 1]


@pytest.mark.parametrize("bad", [0, 2])
def test_one_that_diverges_costs_none_of_the_others(family, trained, tmp_path, monkeypatch, bad):
    arms = [*ARMS[:2], ARMS[2]]
    arms[bad] = (NOT_FINITE, ARMS[bad][1])
    for calls in ([3], [3, 1]):  # the second time only the one that diverged is missing
        with pytest.raises(DivergedError, match=r"is not finite by step \d+.*lr.*clip_norm"):
            train_pairs(*family, PLAN, arms, 3, "cpu")
        assert trained == calls
    good = [arm for arm in arms if arm is not arms[bad]]
    together = train_pairs(*family, PLAN, good, 3, "cpu")
    assert trained == [3, 1]
    monkeypatch.setenv("PWL_LAB_STORE", str(tmp_path / "other"))
    for found, (losses, curriculum) in zip(together, good, strict=True):
        alone = train_pair(*family, PLAN, losses, 3, "cpu", curriculum)
        assert_same(found, alone)


def test_the_one_that_diverges_is_named(family):
    arms = [ARMS[0], (NOT_FINITE, None)]
    with pytest.raises(DivergedError, match=r"pair, arms\[1\]: total is not finite by step 1\."):
        train_pairs(*family, PLAN, arms, 3, "cpu")


def test_all_that_diverge_end_the_training(family):
    arms = [(NOT_FINITE.model_copy(update={"sync": 1.0 + number}), None) for number in range(2)]
    with pytest.raises(DivergedError, match=r"arms\[0\]"):
        train_pairs(*family, PLAN, arms, 3, "cpu")
