"""Pairs trained side by side: each is the same as alone, bit for bit, and is kept on its own."""

import pandas as pd
import pytest
import torch
from toys import MLP_STUDENT, MLP_TEACHER, VGG_STUDENT, VGG_TEACHER, ToyImages, changed

from pwl_lab.distill.curriculum import extracted, one_shot
from pwl_lab.study import verbs
from pwl_lab.study.verbs import train_or_load, train_pair, train_pairs
from pwl_lab.swap.pair_training import PairLossConfig
from pwl_lab.tasks.parity import SparseParity
from pwl_lab.training import TrainPlan

PARITY = SparseParity(n_bits=6, k_sparse=2, eval_samples=60)
FAMILIES = {"mlp": (MLP_TEACHER, MLP_STUDENT, PARITY), "vgg": (VGG_TEACHER, VGG_STUDENT, ToyImages())}
PLAN = TrainPlan(steps=12, batch_size=8, eval_every=5, lr=0.1, momentum=0.9, weight_decay=1e-3, clip_norm=0.5)
ARMS = [
    (PairLossConfig(), None),
    (PairLossConfig(masks="alternating", sync=0.25), None),
    (PairLossConfig(student_joins_at=0.5), extracted(steps=2)),
    (PairLossConfig(student_joins_at=1.0), one_shot()),
    (PairLossConfig(recon=0.0), extracted(steps=2)),
]


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
