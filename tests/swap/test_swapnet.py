"""SwapNet: the pure masks are the two networks, every other mask is its blocks and converters one by one."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from toys import (
    EVERY_PAIR as PAIRS,
)
from toys import (
    VGG_STUDENT,
    VGG_TEACHER,
    ToyImages,
    as_trained,
    changed,
    norms,
    samples_for,
    snapshot,
    used,
)

from pwl_lab.models import MLPConfig, VGGConfig, build
from pwl_lab.study.verbs import train_pair
from pwl_lab.support.errors import InvalidValueError
from pwl_lab.swap.evaluation import mask_probabilities, score_masks
from pwl_lab.swap.masks import all_masks
from pwl_lab.swap.swapnet import ChannelMap, Converters, SwapNet, check_shapes, mask_logits
from pwl_lab.tasks.base import Batch
from pwl_lab.tasks.parity import SparseParity
from pwl_lab.training import TrainPlan


@pytest.fixture(params=PAIRS)
def net_and_inputs(request):
    teacher, student, shape = PAIRS[request.param]
    net = SwapNet(used(build(teacher, 1)), used(build(student, 2), seed=5), shape).eval()
    return net, samples_for(teacher, 5, shape)


def by_hand(net, inputs, mask):
    """Every block in turn; a converter only where the owner changes."""
    owners = [net.teacher if letter == "T" else net.student for letter in mask]
    state = owners[0].stem(inputs)
    for index, owner in enumerate(owners):
        if index > 0 and mask[index - 1] == "T" and mask[index] == "S":
            state = net.converters.encoders[index - 1](state)
        if index > 0 and mask[index - 1] == "S" and mask[index] == "T":
            state = net.converters.decoders[index - 1](state)
        state = owner.blocks[index](state)
    return owners[-1].head(state)


def test_pure_masks_are_teacher_and_student_bit_for_bit(net_and_inputs):
    net, inputs = net_and_inputs
    assert torch.equal(net(inputs, "TTT"), net.teacher(inputs))
    assert torch.equal(net(inputs, "SSS"), net.student(inputs))
    assert not torch.allclose(net.teacher(inputs), net.student(inputs))


def test_pure_masks_do_not_need_the_converters(net_and_inputs):
    net, inputs = net_and_inputs
    for parameter in net.converters.parameters():
        nn.init.constant_(parameter, float("nan"))
    for mask in all_masks(3):
        assert net(inputs, mask).isfinite().all() == (len(set(mask)) == 1), mask


@pytest.mark.parametrize("mask", all_masks(3))
def test_any_mask_is_its_blocks_one_by_one(net_and_inputs, mask):
    net, inputs = net_and_inputs
    assert torch.equal(net(inputs, mask), by_hand(net, inputs, mask))


def test_all_masks_are_different_networks(net_and_inputs):
    net, inputs = net_and_inputs
    logits = [net(inputs, mask) for mask in all_masks(3)]
    assert all(not torch.allclose(a, b) for i, a in enumerate(logits) for b in logits[:i])


@given(chosen=st.lists(st.sampled_from(all_masks(4)), min_size=1, max_size=16))
@settings(max_examples=25)
def test_mask_logits_gives_what_forward_gives_for_any_masks(chosen):
    config = MLPConfig(n_inputs=3, widths=(4, 5, 6, 5))
    net = SwapNet(build(config, 0), build(config, 1), (3,)).eval()
    inputs = torch.randn(4, 3)
    found = mask_logits(net, inputs, chosen)
    assert list(found) == list(dict.fromkeys(chosen))
    assert all(torch.equal(found[mask], net(inputs, mask)) for mask in chosen)


def test_mask_logits_gives_what_forward_gives_for_all_masks_and_leaves_the_net_alone(net_and_inputs):
    net, inputs = net_and_inputs
    expected = {mask: net(inputs, mask) for mask in all_masks(3)}
    net.train()
    if norms(net.student):
        norms(net.student)[0].eval()  # as when a pair's norms are frozen
    before, modes = snapshot(net), [module.training for module in net.modules()]
    found = mask_logits(net, inputs, all_masks(3))
    assert all(torch.equal(found[mask], expected[mask]) for mask in all_masks(3))
    assert changed(before, snapshot(net)) == set()
    assert [module.training for module in net.modules()] == modes


def test_mask_logits_computes_a_common_beginning_once(net_and_inputs):
    net, inputs = net_and_inputs
    calls = []
    for owner in (net.teacher, net.student):
        for block in owner.blocks:
            block.register_forward_hook(lambda *_: calls.append(1))
    mask_logits(net, inputs, all_masks(3))
    assert len(calls) == 2 + 4 + 8


def test_mask_accuracies_and_predictions_go_by_the_logits(net_and_inputs):
    net, inputs = net_and_inputs
    data = Batch(inputs, net(inputs, "TST").argmax(dim=-1))
    table = score_masks(net, data, chunk=2).accuracies()
    assert list(table) == all_masks(3)
    assert table["TST"] == 1.0
    for mask, value in table.items():
        assert value == (net(inputs, mask).argmax(dim=-1) == data.labels).double().mean().item()
    confidence, predicted = mask_probabilities(net, inputs, ["SSS", "TST"]).max(dim=-1)
    assert torch.equal(predicted[1], data.labels)
    torch.testing.assert_close(confidence[0], net.student(inputs).softmax(dim=-1).max(dim=-1).values)


@pytest.mark.parametrize("mask", ["TT", "TTSS", "TtS", "T S", ""])
def test_bad_masks_are_refused(net_and_inputs, mask):
    net, inputs = net_and_inputs
    with pytest.raises(InvalidValueError, match="3 letters"):
        net(inputs, mask)
    with pytest.raises(InvalidValueError, match="3 letters"):
        mask_logits(net, inputs, ["TTT", mask])


UNEQUAL_BLOCKS = VGGConfig(channels=(3, 2), convolutions=(1, 1), n_classes=3)


def test_unequal_block_counts_are_refused_naming_both():
    teacher = build(VGG_TEACHER, 0)
    with pytest.raises(InvalidValueError, match=r"student blocks = 2 is not allowed: as many as the teacher has: 3"):
        SwapNet(teacher, build(UNEQUAL_BLOCKS, 0), (1, 9, 9))


def test_a_resolution_mismatch_is_refused_naming_block_and_shapes():
    with pytest.raises(InvalidValueError, match=r"state after block 2 = \(5, 4, 4\).*positions \(3, 3\)"):
        check_shapes([(4, 8, 8), (5, 3, 3), (6, 1, 1)], [(2, 8, 8), (5, 4, 4), (6, 1, 1)])
    with pytest.raises(InvalidValueError, match=r"state after block 1 = \(4, 8\).*positions \(8, 8\)"):
        check_shapes([(4, 8, 8), (4,)], [(4, 8), (4,)])


def test_behind_the_last_block_nothing_has_to_fit():
    check_shapes([(4, 8, 8), (6, 1, 1)], [(2, 8, 8), (5, 2, 2)])


class PooledDifferently(VGGConfig):
    """The same blocks, but the second does not halve the resolution."""

    def make(self):
        net = super().make()
        (pool,) = [name for name, module in net.blocks[1].named_children() if isinstance(module, nn.MaxPool2d)]
        setattr(net.blocks[1], pool, nn.Identity())
        return net


POOLED_DIFFERENTLY = PooledDifferently(**VGG_STUDENT.model_dump())


def test_swapnet_refuses_a_resolution_mismatch():
    with pytest.raises(InvalidValueError, match=r"after block 2 = \(5, 5, 5\).*positions \(3, 3\)"):
        SwapNet(build(VGG_TEACHER, 0), build(POOLED_DIFFERENTLY, 0), (1, 9, 9))


ONE_BLOCK = VGGConfig(channels=(3,), convolutions=(1,), n_classes=3)


@pytest.mark.parametrize(
    ("teacher", "student", "words"),
    [
        (VGG_TEACHER, UNEQUAL_BLOCKS, r"student blocks = 2.*the teacher has: 3"),
        (VGG_TEACHER, POOLED_DIFFERENTLY, r"after block 2.*positions \(2, 2\)"),
        (ONE_BLOCK, ONE_BLOCK, r"blocks? = 1.*at least 2"),
    ],
    ids=["blocks", "resolution", "one block"],
)
def test_train_pair_refuses_what_cannot_be_joined_before_training(store_folder, monkeypatch, teacher, student, words):
    def never(*_, **__):
        pytest.fail("training began")

    monkeypatch.setattr("pwl_lab.study.verbs.train_pairs_together", never)
    with pytest.raises(InvalidValueError, match=words):
        train_pair(as_trained(teacher), student, ToyImages(), TrainPlan(steps=1, batch_size=4), device="cpu")
    assert not list(store_folder.glob("pair/*"))


@pytest.mark.parametrize(("positions", "kind"), [((), nn.Linear), ((5,), nn.Linear), ((5, 2), nn.Conv2d)])
def test_converters_map_channels_alone(positions, kind):
    converters = Converters([(4, *positions), (6, *positions)], [(3, *positions), (2, *positions)])
    assert isinstance(converters.encoders[0].map, kind)
    assert len(converters.encoders) == len(converters.decoders) == 1
    state = torch.randn(7, 4, *positions)
    converted = converters.encode(state, 1)
    assert converted.shape == (7, 3, *positions)
    assert converters.decode(converted, 1).shape == state.shape
    weight, bias = converters.encoders[0].map.weight.reshape(3, 4), converters.encoders[0].map.bias
    expected = torch.einsum("oc,bc...->bo...", weight, state) + bias.reshape(1, 3, *(1,) * len(positions))
    torch.testing.assert_close(converted, expected)


def test_more_than_two_positions_are_refused():
    with pytest.raises(InvalidValueError, match=r"position_dims = 3.*0, 1 or 2"):
        ChannelMap(2, 3, position_dims=3)


def test_identity_only_where_asked_for_and_channels_agree():
    teacher, student = [(4, 8, 8), (6, 4, 4), (9, 2, 2)], [(4, 8, 8), (5, 4, 4), (9, 2, 2)]
    where = Converters(teacher, student, placement="if_different")
    assert [type(m) for m in where.encoders] == [type(m) for m in where.decoders] == [nn.Identity, ChannelMap]
    state = torch.randn(2, 4, 8, 8)
    assert where.encode(state, 1) is state
    assert {type(m) for m in Converters(teacher, student).encoders} == {ChannelMap}


def test_boundaries_count_from_1():
    converters = Converters([(4,), (5,), (6,)], [(2,), (3,), (4,)])
    assert converters.encode(torch.randn(1, 4), 1).shape == (1, 2)
    assert converters.encode(torch.randn(1, 5), 2).shape == (1, 3)
    assert converters.decode(torch.randn(1, 3), 2).shape == (1, 5)


def test_class_accuracies_are_those_of_each_mask_on_each_class(net_and_inputs):
    net, inputs = net_and_inputs
    labels = torch.tensor([0, 1, 0, 1, 0])  # no sample of the VGG's third class
    labels = labels if inputs.is_floating_point() else labels[:, None].repeat(1, 9)  # one for each token
    data = Batch(inputs, labels)
    scores = score_masks(net, data, chunk=2)
    table = scores.class_accuracies()
    assert list(table) == list(scores.accuracies()) == all_masks(3)
    for mask, values in table.items():
        right = net(inputs, mask).argmax(dim=-1) == labels
        assert values[:2] == pytest.approx([right[labels == c].double().mean().item() for c in (0, 1)])
        assert all(value != value for value in values[2:])
        assert scores.accuracies()[mask] == right.double().mean().item()
    assert score_masks(net, data, ["TST"]).class_accuracies()["TST"][:2] == table["TST"][:2]


def test_scores_take_one_pass(net_and_inputs):
    net, inputs = net_and_inputs
    calls = []
    net.teacher.head.register_forward_hook(lambda *_: calls.append(1))
    score_masks(net, Batch(inputs, net(inputs, "SSS").argmax(dim=-1)))
    assert len(calls) == 4  # the masks that end with the teacher's block


def test_a_cube_too_large_to_run_is_refused(store_folder, monkeypatch):
    config = MLPConfig(n_inputs=2, widths=(3,) * 11)
    net = SwapNet(build(config, 0), build(config, 1), (2,))
    data = Batch(torch.zeros(1, 2), torch.zeros(1, dtype=torch.long))
    with pytest.raises(InvalidValueError, match=r"n_blocks = 11.*at most 10.*2\^n"):
        score_masks(net, data)
    assert list(score_masks(net, data, ["S" * 11]).masks) == ["S" * 11]
    monkeypatch.setattr("pwl_lab.study.verbs.train_pairs_together", lambda *_, **__: pytest.fail("training began"))
    task = SparseParity(n_bits=2, k_sparse=1)
    with pytest.raises(InvalidValueError, match=r"n_blocks = 11.*at most 10"):
        train_pair(as_trained(config), config, task, TrainPlan(steps=1, batch_size=4), device="cpu")
