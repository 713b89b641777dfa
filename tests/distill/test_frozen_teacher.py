"""The teacher of a pair never changes; the student's batch norms move exactly when they should."""

import copy

import pytest
import torch
from toys import (
    MLP_STUDENT,
    MLP_TEACHER,
    RESNET_STUDENT,
    RESNET_TEACHER,
    VGG_STUDENT,
    VGG_TEACHER,
    VIT_STUDENT,
    VIT_TEACHER,
    ToyImages,
    changed,
    norms,
    snapshot,
    used,
)

from pwl_lab.models import build
from pwl_lab.swap.evaluation import score_masks
from pwl_lab.swap.pair_training import PairLearner, PairLossConfig
from pwl_lab.swap.swapnet import SwapNet
from pwl_lab.tasks.parity import SparseParity
from pwl_lab.training import TrainPlan, train

CASES = {
    "vgg": (VGG_TEACHER, VGG_STUDENT, ToyImages()),
    "resnet": (RESNET_TEACHER, RESNET_STUDENT, ToyImages()),
    "vit": (VIT_TEACHER, VIT_STUDENT, ToyImages()),
    "mlp": (MLP_TEACHER, MLP_STUDENT, SparseParity(n_bits=6, k_sparse=2, eval_samples=60)),
}


def learner_for(kind, steps=8, **losses):
    teacher, student, task = CASES[kind]
    net = SwapNet(used(build(teacher, 1)), build(student, 2), task.input_shape)
    return PairLearner(net, PairLossConfig(**losses), task.split("validation"), seed=0, steps=steps), task


def trained(kind, optimiser="sgd", **losses):
    """A learner after several steps, evaluations between them, and what its net was before."""
    learner, task = learner_for(kind, **losses)
    before = snapshot(learner.net)
    plan = TrainPlan(steps=8, batch_size=8, eval_every=3, optimiser=optimiser, lr=0.05, weight_decay=0.01)
    train(learner, task.batches(0, 8), plan, "pair")
    return learner.net, before


@pytest.mark.parametrize("optimiser", ["sgd", "adam"])
@pytest.mark.parametrize("kind", CASES)
def test_training_changes_student_and_converters_and_no_bit_of_the_teacher(kind, optimiser):
    net, before = trained(kind, optimiser)
    moved = changed(before, snapshot(net))
    assert not {name for name in moved if name.startswith("teacher.")}
    learned = {name for name, _ in net.named_parameters() if not name.startswith("teacher.")}
    assert learned <= moved
    assert all(parameter.grad is None for parameter in net.teacher.parameters())


@pytest.mark.parametrize("kind", CASES)
def test_after_training_no_teacher_block_is_the_student_and_all_of_them_the_teacher_of_before(kind):
    learner, task = learner_for(kind, student_joins_at=0.5)
    inputs = task.split("test").inputs
    teacher, student = learner.net.teacher(inputs), learner.net.student.eval()(inputs)
    train(learner, task.batches(0, 8), TrainPlan(steps=8, batch_size=8, lr=0.05), "pair")
    net = learner.net.eval()
    assert torch.equal(net(inputs, "TTT"), teacher)
    assert torch.equal(net(inputs, "SSS"), net.student(inputs))
    assert not torch.allclose(net(inputs, "SSS"), student)


def test_teacher_stays_in_eval_mode_whatever_the_whole_is_put_into():
    learner, _ = learner_for("vgg")
    for mode in (True, False, True):
        learner.net.train(mode)
        assert not any(module.training for module in learner.net.teacher.modules())
        assert {module.training for module in learner.net.student.modules()} == {mode}
        assert {module.training for module in learner.net.converters.modules()} == {mode}


def test_a_teacher_given_in_train_mode_is_frozen_at_once():
    teacher = build(VGG_TEACHER, 1).train()
    net = SwapNet(teacher, build(VGG_STUDENT, 2), (1, 7, 7))
    assert not any(module.training for module in teacher.modules())
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    assert all(parameter.requires_grad for parameter in net.student.parameters())


def test_train_mode_passes_through_every_mask_leave_the_teachers_statistics_alone():
    learner, task = learner_for("vgg")
    before = snapshot(learner.net.teacher)
    learner.net.train()
    for mask in ("TTT", "TST", "SST"):
        learner.net(next(task.batches(0, 8)).inputs, mask)
    assert changed(before, snapshot(learner.net.teacher)) == set()


def statistics(net):
    return [
        (norm.running_mean.clone(), norm.running_var.clone(), int(norm.num_batches_tracked))
        for norm in norms(net.student)
    ]


def same(first, second):
    return all(
        torch.equal(a[0], b[0]) and torch.equal(a[1], b[1]) and a[2] == b[2] for a, b in zip(first, second, strict=True)
    )


def test_students_statistics_move_in_the_pure_pass_only():
    learner, task = learner_for("vgg", cross_passes=5)
    batch = next(task.batches(0, 8))
    alone = copy.deepcopy(learner.net)  # the pure pass and nothing else
    alone.train().student(batch.inputs)
    before = statistics(learner.net)
    learner.losses(batch, 0)["total"].backward()
    assert not any(torch.equal(a[0], b[0]) for a, b in zip(before, statistics(learner.net), strict=True))
    assert same(statistics(learner.net), statistics(alone))
    assert all(norm.training for norm in norms(learner.net.student))


def test_after_freeze_norm_at_the_statistics_stay_and_the_weights_go_on():
    learner, task = learner_for("vgg", steps=10, freeze_norm_at=0.4)
    batches, optimiser = task.batches(0, 8), torch.optim.SGD(learner.net.student.parameters(), lr=0.05)
    for step in range(8):
        before, weights = statistics(learner.net), snapshot(learner.net.student.head)
        optimiser.zero_grad()
        learner.losses(next(batches), step)["total"].backward()
        optimiser.step()
        assert same(before, statistics(learner.net)) == (step >= 4), step
        assert changed(weights, snapshot(learner.net.student.head)), step
        learner.evaluate(step)


def test_freeze_norm_at_1_never_freezes_and_at_0_always():
    for share, frozen in ((1.0, False), (0.0, True)):
        learner, task = learner_for("vgg", steps=3, freeze_norm_at=share)
        for step, batch in zip(range(3), task.batches(0, 8), strict=False):
            before = statistics(learner.net)
            learner.losses(batch, step)
            assert same(before, statistics(learner.net)) == frozen


def test_learning_rates_of_student_and_converters():
    learner, _ = learner_for("vgg", converter_lr=0.25)
    groups = learner.parameter_groups(0.2)
    assert [group["lr"] for group in groups] == [0.2, 0.05]
    held = [{id(parameter) for parameter in group["params"]} for group in groups]
    assert held[0] == {id(parameter) for parameter in learner.net.student.parameters()}
    assert held[1] == {id(parameter) for parameter in learner.net.converters.parameters()}


def test_history_has_the_students_accuracy_on_validation():
    learner, _ = learner_for("vgg")
    (row,) = learner.evaluate(0)
    alone = score_masks(learner.net, learner.validation, ["SSS"]).accuracies()
    assert row == {"accuracy": alone["SSS"]}
