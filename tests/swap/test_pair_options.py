"""Options of PWL training: masks per group of a batch, converters only where needed, when PWL joins the student."""

import copy
from itertools import islice

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from toys import (
    PAIRS,
    VGG_STUDENT,
    VGG_TEACHER,
    changed,
    snapshot,
    used,
)

from pwl_lab.distill.losses import soft_loss
from pwl_lab.distill.targets import Activations
from pwl_lab.models import VGGConfig, build
from pwl_lab.support.seeding import generator, initialisation
from pwl_lab.swap.masks import random_masks
from pwl_lab.swap.pair_training import HardAndSoft, PairLearner, PairLossConfig, Pass
from pwl_lab.swap.swapnet import SwapNet
from pwl_lab.tasks.base import Batch
from pwl_lab.training import TrainPlan, train

kinds = pytest.mark.parametrize("kind", PAIRS)


def learner_for(kind, batch_size=8, steps=10, objective=None, **losses):
    """A learner and a batch for it."""
    teacher, student, shape = PAIRS[kind]
    random = torch.Generator().manual_seed(0)
    inputs = torch.randn(batch_size, *shape, generator=random)
    batch = Batch(inputs, torch.randint(teacher.n_classes, (batch_size,), generator=random))
    with initialisation(0, "converters"):
        net = SwapNet(used(build(teacher, 1)), build(student, 2, stream="student"), shape)
    return PairLearner(net, PairLossConfig(**losses), batch, 3, steps, objective), batch


def look(net, batch, teacher=None):
    """What a training step sees, from a copy of the net: statistics of batch norms move. `teacher` may stand in for its."""
    net = copy.deepcopy(net).train()
    with torch.no_grad():
        theirs = Activations(*(teacher or net.teacher).hidden_states(batch.inputs))
    return net, Pass(batch, theirs, Activations(*net.student.hidden_states(batch.inputs)))


def cross_by_hand(net, mask, teacher_states, student_states, teacher_logits, temperature):
    """The mixed network of one mask, block by block from where its owner changes first."""
    done = len(mask) - len(mask.lstrip(mask[0]))
    state = (teacher_states if mask[0] == "T" else student_states)[done - 1]
    with net.student_on_running_statistics():
        return soft_loss(net.run_from(state, done, mask), teacher_logits, temperature)


def crosses_by_hand(learner, net, seen, groups, passes):
    """The cross loss of each group with the next mask, one after the other."""
    masks, size = random_masks(3, learner.config.masks, generator(3, "masks")), -(-len(seen.batch.inputs) // groups)
    return [
        cross_by_hand(
            net,
            next(masks),
            [state[start : start + size] for state in seen.teacher.states],
            [state[start : start + size] for state in seen.student.states],
            seen.teacher.logits[start : start + size],
            learner.config.temperature,
        )
        for _ in range(passes)
        for start in range(0, len(seen.batch.inputs), size)
    ]


@kinds
def test_one_group_is_one_mask_for_the_whole_batch(kind):
    learner, batch = learner_for(kind, cross_groups=1, cross_passes=3, masks="alternating")
    net, seen = look(learner.net, batch)
    masks = random_masks(3, "alternating", generator(3, "masks"))
    whole = [
        cross_by_hand(net, next(masks), seen.teacher.states, seen.student.states, seen.teacher.logits, 2.0)
        for _ in range(3)
    ]
    torch.testing.assert_close(learner.losses(batch, 0)["cross"], torch.stack(whole).mean())


@kinds
@pytest.mark.parametrize("groups", [2, 3, 8, 64])
def test_every_group_has_the_next_mask(kind, groups):
    learner, batch = learner_for(kind, batch_size=8, cross_groups=groups, cross_passes=2, masks="all")
    parts = crosses_by_hand(learner, *look(learner.net, batch), groups, passes=2)
    torch.testing.assert_close(learner.losses(batch, 0)["cross"], torch.stack(parts).mean())
    assert len(parts) == 2 * min(groups, 8)


@given(batch_size=st.integers(2, 9), groups=st.integers(1, 12), passes=st.integers(1, 3))
@settings(max_examples=20)
def test_any_number_of_groups_and_passes(batch_size, groups, passes):
    learner, batch = learner_for("mlp", batch_size, cross_groups=groups, cross_passes=passes, masks="alternating")
    parts = crosses_by_hand(learner, *look(learner.net, batch), groups, passes)
    torch.testing.assert_close(learner.losses(batch, 0)["cross"], torch.stack(parts).mean())
    drawn = list(islice(random_masks(3, "alternating", generator(3, "masks")), len(parts) + 1))
    assert next(learner.masks) == drawn[-1]


def test_a_group_of_the_whole_batch_size_is_the_mean_over_samples():
    learner, batch = learner_for("mlp", batch_size=6, cross_groups=64, cross_passes=1, masks={"TST": 1.0})
    one_mask, _ = learner_for("mlp", batch_size=6, cross_groups=1, cross_passes=1, masks={"TST": 1.0})
    torch.testing.assert_close(learner.losses(batch, 0)["cross"], one_mask.losses(batch, 0)["cross"])


def gradients(module):
    return {name: None if p.grad is None else p.grad.clone() for name, p in module.named_parameters()}


def received(module):
    """The names of the parameters that were sent a gradient, even one of zero."""
    return {name for name, gradient in gradients(module).items() if gradient is not None}


@kinds
@pytest.mark.parametrize("term", ["sync", "recon", "cross"])
def test_before_pwl_joins_its_terms_reach_the_converters_alone(kind, term):
    for step, joined in ((0, False), (4, False), (5, True), (9, True)):
        learner, batch = learner_for(kind, steps=10, student_joins_at=0.5, cross_passes=4)
        learner.losses(batch, step)[term].backward()
        assert bool(received(learner.net.student)) == joined, step
        assert received(learner.net.converters), step
        assert not received(learner.net.teacher)


@kinds
def test_the_converters_learn_the_same_whether_pwl_has_joined_or_not(kind):
    found = []
    for share in (0.0, 1.0):
        learner, batch = learner_for(kind, student_joins_at=share)
        terms = learner.losses(batch, 0)
        terms["total"].backward()
        found.append((terms, gradients(learner.net.converters)))
    (early, ours), (late, theirs) = found
    assert {name: value.item() for name, value in early.items()} == {n: value.item() for n, value in late.items()}
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name])


@kinds
@pytest.mark.parametrize("step", [0, 9])
def test_a_student_that_pwl_never_joins_learns_its_own_objective_to_the_bit(kind, step):
    objective = HardAndSoft(alpha=0.3, temperature=3.0)
    learner, batch = learner_for(kind, student_joins_at=1.0, objective=objective, freeze_norm_at=1.0)
    alone, seen = look(learner.net, batch, learner.passes.teacher)
    objective(seen, step)[1].backward()
    learner.losses(batch, step)["total"].backward()
    ours, expected = gradients(learner.net.student), gradients(alone.student)
    assert all(torch.equal(ours[name], expected[name]) for name in expected)
    joined, _ = learner_for(kind, student_joins_at=0.0, objective=objective)
    joined.losses(batch, step)["total"].backward()
    assert any(not torch.allclose(gradients(joined.net.student)[name], expected[name]) for name in expected)


def test_before_pwl_joins_the_converters_take_no_part_in_the_clipping_of_the_student():
    plan = TrainPlan(steps=6, batch_size=8, lr=0.5, clip_norm=0.01)
    students = {}
    for share in (0.0, 1.0):
        for sync in (1.0, 50.0):
            learner, batch = learner_for("mlp", student_joins_at=share, sync=sync)
            train(learner, iter([batch] * 6), plan, "pair")
            students[share, sync] = snapshot(learner.net.student)
    assert changed(students[1.0, 1.0], students[1.0, 50.0]) == set()
    assert changed(students[0.0, 1.0], students[0.0, 50.0])


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_clipping_bounds_the_gradient_of_the_whole_or_of_each_part(share):
    learner, batch = learner_for("mlp", student_joins_at=share, sync=50.0)
    optimiser = torch.optim.SGD(learner.parameter_groups(0.1))
    learner.losses(batch, 0)["total"].backward()
    learner.clip_gradients(0.01, optimiser)
    parts = [
        torch.cat([parameter.grad.flatten() for parameter in part.parameters()]).norm()
        for part in (learner.net.student, learner.net.converters)
    ]
    lengths = [torch.stack(parts).norm()] if share == 0 else parts
    assert [length.item() for length in lengths] == pytest.approx([0.01] * len(lengths), rel=1e-3)


def quiet(seen, step):
    """Logits as small as possible, the more so the later."""
    loss = seen.student.logits.square().mean() * step
    return {"own": loss}, loss


def test_an_objective_of_its_own_stands_in_for_hard_and_soft():
    learner, batch = learner_for("vgg", objective=quiet)
    terms = learner.losses(batch, 2)
    assert set(terms) == {"own", "sync", "recon", "cross", "total"}
    torch.testing.assert_close(terms["own"], 2 * look(learner.net, batch)[1].student.logits.square().mean())
    weighted = terms["own"] + terms["sync"] + terms["recon"] + 2 * terms["cross"]
    torch.testing.assert_close(terms["total"], weighted)


def requiring(module):
    return {name for name, parameter in module.named_parameters() if parameter.requires_grad}


def test_a_student_left_alone_learns_again_afterwards_and_what_was_frozen_stays_frozen():
    net = SwapNet(build(VGG_TEACHER, 1), build(VGG_STUDENT, 2), (1, 7, 7))
    net.student.blocks[1].requires_grad_(False)
    before = requiring(net)
    assert any(name.startswith("student.") for name in before)
    with net.student_left_alone():
        assert not requiring(net.student)
        assert {f"converters.{name}" for name in requiring(net.converters)} == requiring(net)
    assert requiring(net) == before
    with pytest.raises(RuntimeError, match="stop"), net.student_left_alone():
        raise RuntimeError("stop")
    assert requiring(net) == before


def test_what_was_computed_before_the_student_was_left_alone_still_reaches_it():
    net = SwapNet(build(VGG_TEACHER, 1), build(VGG_STUDENT, 2), (1, 7, 7)).train()
    inputs = torch.randn(4, 1, 7, 7)
    logits = net.student(inputs)
    with net.student_left_alone():
        assert not net.student(inputs).requires_grad
    logits.sum().backward()
    assert received(net.student)


SAME_CHANNELS = VGGConfig(channels=(4, 6, 5), convolutions=(1, 1, 1), n_classes=3)
ONE_DIFFERENT = VGGConfig(channels=(4, 5, 5), convolutions=(1, 1, 1), n_classes=3)


@pytest.mark.parametrize(
    ("student", "kinds_of_converters"), [(SAME_CHANNELS, ["Identity"] * 2), (ONE_DIFFERENT, ["Identity", "ChannelMap"])]
)
@pytest.mark.parametrize("optimiser", ["sgd", "adam"])
@pytest.mark.parametrize("share", [0.0, 0.5])
def test_a_pair_with_converters_only_where_channels_differ_is_trained(student, kinds_of_converters, optimiser, share):
    net = SwapNet(used(build(VGG_TEACHER, 1)), build(student, 2), (1, 7, 7), "if_different")
    for side in (net.converters.encoders, net.converters.decoders):
        assert [type(converter).__name__ for converter in side] == kinds_of_converters
    batch = Batch(torch.randn(8, 1, 7, 7), torch.randint(3, (8,)))
    learner = PairLearner(net, PairLossConfig(converters="if_different", student_joins_at=share), batch, 0, 4)
    before = snapshot(net)
    plan = TrainPlan(steps=4, batch_size=8, optimiser=optimiser, lr=0.05, clip_norm=2.0)
    history = train(learner, iter([batch] * 4), plan, "pair")
    assert history["loss_total"].dropna().map(torch.tensor).map(torch.isfinite).all()
    moved = changed(before, snapshot(net))
    learned = {name for name, _ in net.named_parameters() if not name.startswith("teacher.")}
    assert learned <= moved
    assert not any(name.startswith("teacher.") for name in moved)


def test_an_identity_hands_the_state_on_as_it_is():
    net = SwapNet(used(build(VGG_TEACHER, 1)), used(build(SAME_CHANNELS, 2)), (1, 7, 7), "if_different").eval()
    inputs = torch.randn(3, 1, 7, 7)
    expected = nn.Sequential(*net.teacher.blocks[:1], *net.student.blocks[1:2], *net.teacher.blocks[2:])(inputs)
    assert torch.equal(net(inputs, "TST"), net.teacher.head(expected))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("cross_groups", 0),
        ("cross_groups", 65),
        ("student_joins_at", 1.1),
        ("student_joins_at", -0.1),
        ("converters", "never"),
        ("masks", {"TSS": 0.0}),
    ],
)
def test_options_out_of_range_are_refused(field, value):
    with pytest.raises(ValueError, match=field):
        PairLossConfig(**{field: value})
