"""A folded network has the values of the network; a norm whose scale is negative behind a pooling stays what it is."""

import pytest
import torch
from torch import nn
from toys import (
    MLP_TEACHER,
    RESNET_STUDENT,
    RESNET_TEACHER,
    VGG_TEACHER,
    VIT_TEACHER,
    changed,
    norms,
    snapshot,
    used,
)

from pwl_lab.fast.folding import folded
from pwl_lab.models import build
from pwl_lab.swap.swapnet import SwapNet

NETWORKS = {
    "vgg": (VGG_TEACHER, (1, 9, 7)),
    "resnet": (RESNET_TEACHER, (1, 9, 7)),
    "vit": (VIT_TEACHER, (1, 7, 7)),
    "mlp": (MLP_TEACHER, (6,)),
}


def network(kind, negative):
    """In double precision, with norms as if trained; every second scale turned around where `negative`."""
    net = used(build(NETWORKS[kind][0], 1)).double().eval()
    with torch.no_grad():
        for norm in norms(net):
            norm.weight[::2] *= -1 if negative else 1
    return net, torch.randn(5, *NETWORKS[kind][1], dtype=torch.double)


@pytest.mark.parametrize("negative", [False, True])
@pytest.mark.parametrize("kind", NETWORKS)
def test_values_and_gradients_of_the_input_are_those_of_the_network(kind, negative):
    net, inputs = network(kind, negative)
    found = []
    for one in (net, folded(net)):
        seen = inputs.clone().requires_grad_()
        states, logits = one.hidden_states(seen)
        sum((state.square().sum() for state in states), logits.square().sum()).backward()
        found.append([*states, logits, seen.grad])
    for expected, ours in zip(*found, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    ("kind", "negative", "left"), [("vgg", False, 0), ("vgg", True, 3), ("resnet", True, 0), ("vit", True, 0)]
)
def test_norms_that_are_left(kind, negative, left):
    net, _ = network(kind, negative)
    assert len(norms(folded(net))) == left < len(norms(net))


def test_one_negative_scale_behind_a_pooling_keeps_that_norm_alone():
    net, inputs = network("vgg", False)
    with torch.no_grad():
        net.blocks[1][-2].weight[3] = -0.4
    copy = folded(net)
    assert len(norms(copy)) == 1
    torch.testing.assert_close(copy(inputs), net(inputs), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("kind", NETWORKS)
def test_the_network_itself_is_left_alone(kind):
    net, _ = network(kind, False)
    net.train()
    before = snapshot(net)
    copy = folded(net)
    assert changed(before, snapshot(net)) == set()
    assert all(module.training for module in net.modules())
    assert not any(module.training for module in copy.modules())
    assert not any(parameter.requires_grad for parameter in copy.parameters())
    assert not {p.data_ptr() for p in copy.parameters()} & {p.data_ptr() for p in net.parameters()}


def test_folded_convolutions_keep_their_memory_layout():
    for config in (VGG_TEACHER, RESNET_TEACHER):
        for module in folded(used(build(config, 1))).modules():
            if isinstance(module, nn.Conv2d):
                assert module.weight.is_contiguous(memory_format=torch.channels_last)


def test_a_norm_before_its_convolution_or_far_behind_one_stays():
    net = build(VGG_TEACHER, 1)
    net.blocks[0] = nn.Sequential(nn.BatchNorm2d(1), nn.Conv2d(1, 4, 3), nn.ReLU(), nn.BatchNorm2d(4), nn.MaxPool2d(2))
    net.blocks[1] = nn.Sequential(
        nn.Conv2d(4, 6, 1), nn.MaxPool2d(2), nn.MaxPool2d(2), nn.BatchNorm2d(6), nn.Conv2d(6, 6, 1)
    )
    net.blocks[2] = nn.Sequential(nn.Conv2d(6, 7, 1), nn.MaxPool2d(1))
    used(net).eval()
    copy, inputs = folded(net), torch.randn(2, 1, 12, 12)
    assert len(norms(copy)) == 3
    torch.testing.assert_close(copy(inputs), net(inputs))


def test_a_net_on_its_folded_teacher_shares_the_rest_and_leaves_the_net_as_it_was():
    net = SwapNet(used(build(RESNET_TEACHER, 1)), build(RESNET_STUDENT, 2), (1, 9, 7)).train()
    teacher, inputs = net.teacher, torch.randn(4, 1, 9, 7)
    other = net.with_teacher(folded(net.teacher))
    assert net.teacher is teacher is not other.teacher
    assert other.student is net.student
    assert other.converters is net.converters
    assert not norms(other.teacher)
    net.eval()
    for mask in ("TTT", "STS", "TST", "SST"):
        torch.testing.assert_close(other(inputs, mask), net(inputs, mask), rtol=1e-4, atol=1e-5)
    assert torch.equal(net(inputs, "TTT"), teacher(inputs))
