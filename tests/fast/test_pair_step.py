"""A whole step of PWL training, with all that it shares and folds, against the same step written plainly."""

import copy
from collections import Counter
from contextlib import nullcontext

import pytest
import torch
from script_modules import load_script
from toys import (
    OBLONG_PAIRS as PAIRS,
)
from toys import (
    changed,
    norms,
    snapshot,
    used,
)

from pwl_lab.distill.losses import soft_loss
from pwl_lab.fast import plain
from pwl_lab.models import build
from pwl_lab.support.seeding import generator
from pwl_lab.swap.masks import all_masks, random_masks
from pwl_lab.swap.pair_training import PairLearner, PairLossConfig, feature_distance, make_boundaries, mixed_logits
from pwl_lab.swap.swapnet import SwapNet
from pwl_lab.tasks.base import Batch

MASKS = [mask for mask in all_masks(3) if len(set(mask)) == 2]


plain_pair = load_script("plain_pair")


@pytest.fixture(params=PAIRS)
def net_and_batch(request):
    """In double precision, with norms that look trained, some of their scales negative."""
    teacher, student, shape = PAIRS[request.param]
    net = SwapNet(used(build(teacher, 1)), used(build(student, 2), seed=5), shape).double()
    with torch.no_grad():
        for norm in norms(net):
            norm.weight[1::3] *= -1
    random = torch.Generator().manual_seed(0)
    inputs = torch.randn(8, *shape, generator=random, dtype=torch.double)
    return net, Batch(inputs, torch.randint(teacher.n_classes, (8,), generator=random))


def gradients(net):
    return {name: parameter.grad for name, parameter in net.named_parameters() if parameter.grad is not None}


def assert_same(ours, theirs):
    """The same gradients to rounding, and of the same parameters."""
    assert ours.keys() == theirs.keys()
    for name in theirs:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-7, atol=1e-10, msg=lambda m, n=name: f"{n}: {m}")


def old_cross(net, states, target, mask):
    """One mask, its leading blocks of one owner taken from the pure pass, the others one by one."""
    done = len(mask) - len(mask.lstrip(mask[0]))
    with net.student_on_running_statistics():
        return soft_loss(net.run_from(states[mask[0]][done - 1], done, mask), target, 2.0)


@pytest.mark.parametrize("masks", ["all", "prefix", "mixture", "alternating"])
def test_terms_and_gradients_with_frozen_norms_are_those_of_the_plain_step(net_and_batch, masks):
    net, batch = net_and_batch
    reference, before = copy.deepcopy(net).train(), snapshot(net)
    reference.student_norms(training=False)
    config = PairLossConfig(masks=masks, cross_passes=3, freeze_norm_at=0.0, sync=1.7, recon=0.6)
    found = PairLearner(net, config, batch, 3, 10).losses(batch, 0)
    drawn = random_masks(3, masks, generator(3, "masks"))
    expected = plain_pair.plain_losses(reference, config, batch, drawn)
    assert found.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-8, atol=1e-10)
    found["total"].backward()
    expected["total"].backward()
    assert_same(gradients(net), gradients(reference))
    assert not any(name.startswith("teacher.") for name in gradients(net))
    assert changed(before, snapshot(net)) == set()


def test_the_two_distances_of_the_reference_are_the_same():
    ours, target = (torch.randn(4, 3, 5, 2, dtype=torch.double) for _ in range(2))
    torch.testing.assert_close(plain_pair.distance(ours, target), plain_pair.quick_distance(ours, target))


def test_the_step_as_published_is_the_plain_one(net_and_batch):
    net, batch = net_and_batch
    config = PairLossConfig(masks="mixture", cross_passes=1, cross_groups=1)
    published, reference = plain_pair.as_published(net).train(), copy.deepcopy(net).train()
    found, expected = (
        plain_pair.plain_losses(one, config, batch, random_masks(3, "mixture", generator(3, "masks")))
        for one in (published, reference)
    )
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-8, atol=1e-10)
    found["total"].backward()
    expected["total"].backward()
    assert_same(gradients(published), gradients(reference))
    tokens = isinstance(net.converters.encoders[0].map, torch.nn.Linear)
    assert isinstance(published.converters.encoders[0], plain_pair.PermutingMap) == tokens
    assert all(weight.is_contiguous() for weight in published.parameters() if weight.dim() == 4)


@pytest.mark.parametrize("groups", [1, 3, 4])
def test_gradients_of_cross_on_batch_statistics_are_those_of_one_mask_after_the_other(net_and_batch, groups):
    net, batch = net_and_batch
    reference = copy.deepcopy(net).train()
    config = PairLossConfig(cross_passes=3, cross_groups=groups)
    PairLearner(net, config, batch, 3, 10).losses(batch, 0)["cross"].backward()
    with torch.no_grad():
        teacher, target = reference.teacher.hidden_states(batch.inputs)
    student, _ = reference.student.hidden_states(batch.inputs)
    drawn, size = random_masks(3, "all", generator(3, "masks")), -(-8 // groups)
    parts = [
        old_cross(
            reference,
            {"T": [state[rows] for state in teacher], "S": [state[rows] for state in student]},
            target[rows],
            next(drawn),
        )
        for _ in range(3)
        for rows in (slice(start, start + size) for start in range(0, 8, size))
    ]
    torch.stack(parts).mean().backward()
    assert_same(gradients(net), gradients(reference))


def mixed(net, batch, wanted, groups):
    """Logits of mixed passes in eval mode."""
    net.eval()
    states = [owner.hidden_states(batch.inputs)[0] for owner in (net.teacher, net.student)]
    return mixed_logits(net, make_boundaries(net.converters, *states), wanted, groups)


def test_every_group_gets_the_logits_of_its_masks_in_the_order_asked_for(net_and_batch):
    net, batch = net_and_batch
    wanted = [(index % 3, mask) for index, mask in enumerate([*MASKS, *reversed(MASKS), "STT"])]
    parts = batch.inputs.chunk(3)
    for (group, mask), logits in zip(wanted, mixed(net, batch, wanted, 3), strict=True):
        torch.testing.assert_close(logits, net(parts[group], mask), rtol=1e-8, atol=1e-10)


def test_a_block_is_run_once_for_all_groups_and_on_no_sample_twice(net_and_batch):
    net, batch = net_and_batch
    rows = Counter()
    for letter, owner in (("T", net.teacher), ("S", net.student)):
        for number, block in enumerate(owner.blocks, start=1):
            block.register_forward_hook(
                lambda _, inputs, __, key=(letter, number): rows.update([(*key, len(inputs[0]))])
            )
    net.eval()
    states = [owner.hidden_states(batch.inputs)[0] for owner in (net.teacher, net.student)]
    rows.clear()
    wanted = [(0, "TST"), (1, "TSS"), (0, "TSS"), (1, "TSS"), (0, "SST"), (1, "STT")]
    mixed_logits(net, make_boundaries(net.converters, *states), wanted, 2)
    # Behind block 1, TS for both halves and ST for one. Behind block 2, TST, SST and STT; TSS twice for one half is once.
    assert rows == {("S", 2, 8): 1, ("T", 2, 4): 1, ("T", 3, 12): 1, ("S", 3, 8): 1}


@pytest.mark.parametrize("written", [nullcontext, plain], ids=["fast", "plain"])
def test_a_share_that_stays_a_tensor_gives_the_same_bits(written):
    values = []
    for share in (torch.tensor(0.8125) / 3, float(torch.tensor(0.8125) / 3)):
        ours, target = (
            torch.randn(6, 3, 5, generator=torch.Generator().manual_seed(n)).requires_grad_() for n in (1, 2)
        )
        with written():
            found = feature_distance(ours, target, share)
        found.backward()
        values.append((found, ours.grad, target.grad))
    for one, other in zip(*values, strict=True):
        assert one.dtype == other.dtype == torch.float32
        assert torch.equal(one, other)


@pytest.mark.parametrize("apart", [1.0, 0.1, 0.02])
def test_the_distance_of_coarse_features_is_exact(apart):
    """Under autocast features have eight bits, and `aa - 2 ab + bb` of two that are nearly equal would be noise."""
    random = torch.Generator().manual_seed(0)
    target = torch.randn(16, 8, 5, 5, generator=random)
    ours = target + apart * torch.randn(16, 8, 5, 5, generator=random)
    coarse = [one.bfloat16().requires_grad_() for one in (ours, target)]
    fine = [one.detach().double().requires_grad_() for one in coarse]
    with torch.autocast("cpu", torch.bfloat16):
        found = feature_distance(*coarse)
    with plain():
        expected = feature_distance(*fine)
    torch.testing.assert_close(found.double(), expected, rtol=1e-3, atol=0)
    for one, other in zip(torch.autograd.grad(found, coarse), torch.autograd.grad(expected, fine), strict=True):
        assert (one - other).norm() < 0.01 * other.norm()


@pytest.mark.parametrize("kind", PAIRS)
def test_under_autocast_networks_are_coarse_and_losses_are_not(kind):
    teacher, student, shape = PAIRS[kind]
    net = SwapNet(used(build(teacher, 1)), used(build(student, 2), seed=5), shape)
    random = torch.Generator().manual_seed(0)
    batch = Batch(torch.randn(64, *shape, generator=random), torch.randint(teacher.n_classes, (64,), generator=random))
    products, found = set(), {}

    def note(module, _, output):
        if isinstance(module, torch.nn.Linear | torch.nn.Conv2d):
            products.add(output.dtype)

    for name, setting in (("fine", nullcontext()), ("coarse", torch.autocast("cpu", torch.bfloat16))):
        learner = PairLearner(copy.deepcopy(net), PairLossConfig(), batch, 3, 10)
        with torch.nn.modules.module.register_module_forward_hook(note), setting:
            found[name] = learner.losses(batch, 0)
    assert products == {torch.float32, torch.bfloat16}
    for term, value in found["fine"].items():
        assert found["coarse"][term].dtype == torch.float32, term
        assert found["coarse"][term].item() == pytest.approx(value.item(), rel=0.05), term
