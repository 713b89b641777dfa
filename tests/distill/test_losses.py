"""Every loss against a slow reference in float64, written with loops from its formula."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from toys import MLP_STUDENT, MLP_TEACHER, VGG_STUDENT, VGG_TEACHER, changed, norms, snapshot, used

from pwl_lab.distill.losses import cross_entropy_to, soft_loss, teacher_probabilities
from pwl_lab.models import build
from pwl_lab.support.errors import InvalidValueError
from pwl_lab.support.seeding import generator
from pwl_lab.swap.masks import all_masks, random_masks
from pwl_lab.swap.pair_training import (
    PairLearner,
    PairLossConfig,
    cross_loss,
    feature_distance,
    make_boundaries,
    recon_loss,
    sync_loss,
)
from pwl_lab.swap.swapnet import SwapNet
from pwl_lab.tasks.base import Batch

PAIRS = {"mlp": (MLP_TEACHER, MLP_STUDENT, (6,)), "vgg": (VGG_TEACHER, VGG_STUDENT, (1, 9, 7))}


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def softmax(row):
    top = max(row)
    powers = [math.exp(value - top) for value in row]
    return [power / sum(powers) for power in powers]


def slow_divergence(student, teacher, temperature):
    total = 0.0
    for ours, theirs in zip(student.tolist(), teacher.tolist(), strict=True):
        q = softmax([value / temperature for value in ours])
        p = softmax([value / temperature for value in theirs])
        total += sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    return temperature**2 * total / len(student)


def slow_distance(ours, target):
    ours, target = ours.detach().numpy(), target.detach().numpy()
    squares = np.mean([(ours[index] - target[index]) ** 2 for index in np.ndindex(ours.shape)])
    cosines = []
    for a, b in zip(ours, target, strict=True):
        dot = sum(a[index] * b[index] for index in np.ndindex(a.shape))
        cosines.append(dot / math.sqrt((a**2).sum() * (b**2).sum()))
    return squares + 1 - sum(cosines) / len(cosines)


def slow_conversion(converter, state):
    """The same matrix at every position, one output channel at a time."""
    weight, bias = converter.map.weight.detach().numpy(), converter.map.bias.detach().numpy()
    state = state.detach().numpy()
    out = np.zeros((state.shape[0], len(weight), *state.shape[2:]))
    for channel, row in enumerate(weight.reshape(len(weight), -1)):
        for source, factor in enumerate(row):
            out[:, channel] += factor * state[:, source]
        out[:, channel] += bias[channel]
    return torch.from_numpy(out)


@pytest.fixture(params=PAIRS)
def pair(request):
    """A pair in float64 with its inputs and, as in a training step, the states of teacher and student."""
    teacher, student, shape = PAIRS[request.param]
    net = SwapNet(used(build(teacher, 1)), used(build(student, 2), seed=5), shape).double().train()
    inputs = randn(4, *shape)
    teacher_states, teacher_logits = net.teacher.hidden_states(inputs)
    student_states, _ = net.student.hidden_states(inputs)
    return net, inputs, teacher_states, student_states, teacher_logits


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0, 7.0])
def test_soft_loss(temperature):
    ours, theirs = 3 * randn(5, 4), 3 * randn(5, 4, seed=1)
    loss = soft_loss(ours, theirs, temperature).item()
    assert loss == pytest.approx(slow_divergence(ours, theirs, temperature), rel=1e-10)
    assert loss > 0
    assert soft_loss(ours, ours, temperature).item() == pytest.approx(0, abs=1e-12)


def test_soft_loss_keeps_the_size_of_the_gradient_at_high_temperature():
    norms_of = []
    for temperature in (50.0, 100.0):
        ours = randn(8, 3).requires_grad_()
        soft_loss(ours, randn(8, 3, seed=1), temperature).backward()
        norms_of.append(ours.grad.norm().item())
    assert norms_of[0] == pytest.approx(norms_of[1], rel=0.02)


@pytest.mark.parametrize("temperature", [0.0, -1.0])
def test_soft_loss_refuses_a_temperature_that_is_not_above_0(temperature):
    with pytest.raises(InvalidValueError, match=rf"temperature = {temperature}.*above 0"):
        soft_loss(randn(2, 2), randn(2, 2), temperature)


@pytest.mark.parametrize("temperature", [0.3, 1.0, 4.0])
def test_teacher_probabilities(temperature):
    logits = randn(2, 5, 3)
    found = teacher_probabilities(logits, temperature)
    for index in np.ndindex(2, 5):
        expected = softmax([value / temperature for value in logits[index].tolist()])
        assert found[index].tolist() == pytest.approx(expected, rel=1e-12)


def test_teacher_at_temperature_0_gives_its_decision():
    logits = torch.tensor([[0.1, 0.3, 0.2], [5.0, -1.0, 4.9]])
    assert teacher_probabilities(logits, 0).tolist() == [[0, 1, 0], [1, 0, 0]]
    torch.testing.assert_close(teacher_probabilities(logits, 0), teacher_probabilities(logits, 5e-3))
    with pytest.raises(InvalidValueError, match=r"temperature = -0.1"):
        teacher_probabilities(logits, -0.1)


def test_cross_entropy_to_averages_over_the_batch_and_keeps_the_members_apart():
    logits, target = randn(3, 5, 4), randn(3, 5, 4, seed=1).softmax(dim=-1)
    found = cross_entropy_to(logits, target)
    assert found.shape == (3,)
    for member in range(3):
        slow = 0.0
        for row, wanted in zip(logits[member].tolist(), target[member].tolist(), strict=True):
            slow -= sum(p * math.log(q) for p, q in zip(wanted, softmax(row), strict=True)) / 5
        assert found[member].item() == pytest.approx(slow, rel=1e-12)


def test_cross_entropy_to_one_target_for_all_members():
    logits, target = randn(3, 5, 4), randn(5, 4, seed=1).softmax(dim=-1)
    torch.testing.assert_close(cross_entropy_to(logits, target), cross_entropy_to(logits, target.expand(3, 5, 4)))


@pytest.mark.parametrize("shape", [(4, 3), (4, 3, 5), (4, 3, 2, 5)])
def test_feature_distance(shape):
    ours, target = randn(*shape), randn(*shape, seed=1)
    assert feature_distance(ours, target).item() == pytest.approx(slow_distance(ours, target), rel=1e-10)
    assert feature_distance(ours, ours).item() == pytest.approx(0, abs=1e-12)
    assert feature_distance(ours, 3 * ours).item() == pytest.approx((4 * ours.square()).mean().item(), rel=1e-10)
    assert feature_distance(ours, -ours).item() == pytest.approx((4 * ours.square()).mean().item() + 2, rel=1e-10)


@pytest.mark.parametrize("learning", [(True, True), (True, False), (False, True)])
@pytest.mark.parametrize("shape", [(4, 3), (4, 3, 2, 5)])
def test_gradient_of_feature_distance(shape, learning):
    features = [randn(*shape, seed=seed).requires_grad_(learns) for seed, learns in enumerate(learning)]
    assert torch.autograd.gradcheck(feature_distance, features)


def test_feature_distance_to_features_of_zero():
    ours, nothing = randn(4, 3).requires_grad_(), torch.zeros(4, 3, dtype=torch.double, requires_grad=True)
    found = feature_distance(ours, nothing)
    assert found.item() == pytest.approx(ours.square().mean().item() + 1)
    found.backward()
    torch.testing.assert_close(ours.grad, ours.detach() / 6)
    assert nothing.grad.isfinite().all()


def test_sync_loss(pair):
    net, _, teacher_states, student_states, _ = pair
    slow = 0.0
    for index in range(net.n_blocks - 1):
        teacher, student = teacher_states[index], student_states[index]
        slow += slow_distance(slow_conversion(net.converters.encoders[index], teacher), student)
        slow += slow_distance(slow_conversion(net.converters.decoders[index], student), teacher)
    boundaries = make_boundaries(net.converters, teacher_states, student_states)
    assert sync_loss(boundaries).item() == pytest.approx(slow / (net.n_blocks - 1), rel=1e-9)


def test_recon_loss(pair):
    net, _, teacher_states, student_states, _ = pair
    slow = 0.0
    for index in range(net.n_blocks - 1):
        encoder, decoder = net.converters.encoders[index], net.converters.decoders[index]
        teacher, student = teacher_states[index], student_states[index]
        slow += slow_distance(slow_conversion(decoder, slow_conversion(encoder, teacher)), teacher)
        slow += slow_distance(slow_conversion(encoder, slow_conversion(decoder, student)), student)
    boundaries = make_boundaries(net.converters, teacher_states, student_states)
    assert recon_loss(net.converters, boundaries).item() == pytest.approx(slow / (net.n_blocks - 1), rel=1e-9)


@pytest.mark.parametrize("mask", [mask for mask in all_masks(3) if len(set(mask)) == 2])
def test_cross_loss_is_the_mixed_network_with_norms_as_at_test_time(pair, mask):
    net, inputs, teacher_states, student_states, teacher_logits = pair
    boundaries = make_boundaries(net.converters, teacher_states, student_states)
    found = cross_loss(net, boundaries, [mask], teacher_logits, 2.0)
    for norm in norms(net.student):
        norm.eval()
    if mask[0] == "T":  # nothing of the train-mode pass is in it: the network as it predicts
        logits = net(inputs, mask)
    else:  # the leading student blocks are those of the train-mode pass
        done = mask.index("T")
        state = student_states[done - 1]
        for block in range(done, 3):
            if mask[block - 1] != mask[block]:
                to = net.converters.encoders if mask[block] == "S" else net.converters.decoders
                state = to[block - 1](state)
            state = (net.teacher if mask[block] == "T" else net.student).blocks[block](state)
        logits = (net.teacher if mask[-1] == "T" else net.student).head(state)
    assert found.item() == pytest.approx(slow_divergence(logits, teacher_logits, 2.0), rel=1e-9)


def test_cross_loss_moves_no_statistics_and_puts_the_norms_back(pair):
    net, _, *states, teacher_logits = pair
    before, modes = snapshot(net), [module.training for module in net.modules()]
    for mask in ("TSS", "SST", "STS"):
        boundaries = make_boundaries(net.converters, *states)
        cross_loss(net, boundaries, [mask], teacher_logits, 2.0).backward(retain_graph=True)
        assert [module.training for module in net.modules()] == modes
    assert changed(before, snapshot(net)) == set()


def learner_and_batch(losses=None, kind="vgg"):
    teacher, student, shape = PAIRS[kind]
    net = SwapNet(used(build(teacher, 1)), build(student, 2), shape)
    batch = Batch(torch.randn(8, *shape), torch.randint(0, teacher.n_classes, (8,)))
    return PairLearner(net, losses or PairLossConfig(), batch, seed=3, steps=100), batch


@pytest.mark.parametrize("kind", PAIRS)
def test_gradients_reach_student_and_converters_and_never_the_teacher(kind):
    learner, batch = learner_and_batch(PairLossConfig(cross_passes=4), kind)
    learner.losses(batch, 0)["total"].backward()
    for part in (learner.net.student, learner.net.converters):
        for name, parameter in part.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.abs().sum() > 0, name
    assert all(parameter.grad is None for parameter in learner.net.teacher.parameters())
    assert not any(parameter.requires_grad for parameter in learner.net.teacher.parameters())


def test_cross_gradients_pass_through_the_frozen_teacher(pair):
    net, _, teacher_states, student_states, teacher_logits = pair
    boundaries = make_boundaries(net.converters, [s.detach() for s in teacher_states], student_states)
    cross_loss(net, boundaries, ["STT"], teacher_logits, 2.0).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.student.blocks[0].parameters())
    assert net.converters.decoders[0].map.weight.grad.abs().sum() > 0
    assert net.student.blocks[1][0].weight.grad is None
    assert all(parameter.grad is None for parameter in net.teacher.parameters())


def test_total_is_the_weighted_sum_of_the_named_terms():
    weights = {"alpha": 0.3, "sync": 0.7, "recon": 1.9, "cross": 2.3}
    learner, batch = learner_and_batch(PairLossConfig(temperature=3.0, cross_passes=2, **weights))
    terms = learner.losses(batch, 0)
    assert set(terms) == {"hard", "soft", "sync", "recon", "cross", "total"}
    share = {"hard": 0.3, "soft": 0.7, "sync": 0.7, "recon": 1.9, "cross": 2.3}
    assert terms["total"].item() == pytest.approx(sum(f * terms[name].item() for name, f in share.items()), rel=1e-5)


def test_named_terms_are_the_losses_of_this_batch():
    learner, batch = learner_and_batch(PairLossConfig(temperature=3.0))
    net, terms = learner.net, learner.losses(batch, 0)
    states, logits = net.student.hidden_states(batch.inputs)
    targets, theirs = net.teacher.hidden_states(batch.inputs)
    assert terms["hard"].item() == pytest.approx(nn.functional.cross_entropy(logits, batch.labels).item(), rel=1e-5)
    assert terms["soft"].item() == pytest.approx(slow_divergence(logits, theirs, 3.0), rel=1e-4, abs=1e-6)
    boundaries = make_boundaries(net.converters, targets, states)
    assert terms["sync"].item() == pytest.approx(sync_loss(boundaries).item(), rel=1e-5)
    assert terms["recon"].item() == pytest.approx(recon_loss(net.converters, boundaries).item(), rel=1e-5)


@pytest.mark.parametrize("distribution", ["prefix", "alternating", "mixture", "all"])
def test_cross_term_is_the_mean_over_the_masks_of_its_stream(distribution):
    learner, batch = learner_and_batch(
        PairLossConfig(temperature=3.0, cross_passes=3, cross_groups=1, masks=distribution), kind="mlp"
    )
    net, masks = learner.net, random_masks(3, distribution, generator(3, "masks"))
    theirs = net.teacher(batch.inputs)
    for step in range(3):
        crosses = [slow_divergence(net(batch.inputs, next(masks)), theirs, 3.0) for _ in range(3)]
        assert learner.losses(batch, step)["cross"].item() == pytest.approx(np.mean(crosses), rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("left_out", ["sync", "recon", "cross"])
def test_a_term_of_weight_0_is_left_out(left_out):
    learner, batch = learner_and_batch(PairLossConfig(**{left_out: 0.0}))
    terms = learner.losses(batch, 0)
    assert left_out not in terms
    assert {"hard", "soft"} < set(terms)


@pytest.mark.parametrize(
    ("field", "value"), [("alpha", 1.1), ("temperature", 0.0), ("sync", -1.0), ("cross_passes", 0), ("masks", "some")]
)
def test_bad_loss_weights_are_refused(field, value):
    with pytest.raises(ValueError, match=field):
        PairLossConfig(**{field: value})
