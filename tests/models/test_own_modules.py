"""`BlockNet.of`: networks that know nothing of this project, by the paths of their parts."""

import copy
from typing import Literal

import pytest
import torch
from bundles import expected
from opened_elsewhere import answers_elsewhere
from own_networks import Patches, Positions, ResNet, ResNetParts
from torch import nn
from toys import ToyImages, ToyStrings

from pwl_lab.distill.curriculum import extracted, one_shot
from pwl_lab.models import BlockNet, ModelConfig, build, language_transformer
from pwl_lab.models import resnet as resnet_of_ours
from pwl_lab.study.verbs import distill, train_or_load, train_pair
from pwl_lab.support.errors import InvalidValueError, UnknownNameError
from pwl_lab.support.rows import cut
from pwl_lab.swap.masks import all_masks
from pwl_lab.swap.swapnet import SwapNet
from pwl_lab.training import TrainPlan

LAYERS = {
    "stem": ["conv1", "bn1", "relu", "maxpool"],
    "blocks": ["layer1", "layer2", "layer3"],
    "head": ["avgpool", nn.Flatten(), "fc"],
}


def resnet(**changes) -> BlockNet:
    return BlockNet.of(ResNet(1, 4, (1, 2, 1), 3), (1, 8, 8), **LAYERS | changes)


def patches(net: Patches | None = None, **changes) -> BlockNet:
    net = net or Patches(8, 2, 3)
    parts = {
        "stem": ["embed", lambda state: state.flatten(2).transpose(1, 2), Positions(net.positions)],
        "blocks": ["layers.0", "layers.1"],
        "head": ["norm", lambda state: state.mean(dim=1), "out", nn.ReLU()],
        "channels": "last",
    }
    return BlockNet.of(net, (1, 8, 8), **parts | changes)


@pytest.mark.parametrize("training", [True, False])
def test_a_row_of_parts_computes_what_its_module_does(training):
    module = ResNet(1, 4, (1, 2, 1), 3).train(training)
    before = copy.deepcopy(module)
    net = BlockNet.of(module, (1, 8, 8), **LAYERS)
    assert all(one.training == training for one in module.modules())
    assert all(torch.equal(tensor, before.state_dict()[name]) for name, tensor in module.state_dict().items())
    inputs = torch.randn(5, 1, 8, 8)
    assert torch.equal(net(inputs), before(inputs))
    assert net.state_shapes((1, 8, 8)) == [(4, 4, 4), (8, 2, 2), (16, 1, 1)]
    del module.spare
    assert {id(parameter) for parameter in net.parameters()} == {id(parameter) for parameter in module.parameters()}


def test_tokens_in_rows_are_turned_for_the_states_alone():
    module = Patches(8, 2, 3).eval()
    net = patches(module).eval()
    inputs = torch.randn(5, 1, 8, 8)
    torch.testing.assert_close(net(inputs), module(inputs))
    states, _ = net.hidden_states(inputs)
    assert [tuple(state.shape) for state in states] == [(5, 8, 16)] * 2
    tokens = module.embed(inputs).flatten(2).transpose(1, 2) + module.positions
    torch.testing.assert_close(states[0].transpose(1, 2), module.layers[0](tokens))
    assert {id(parameter) for parameter in net.parameters()} == {id(parameter) for parameter in module.parameters()}


def test_a_block_may_have_several_parts_and_stem_or_head_none():
    assert resnet(blocks=[["layer1", "layer2"], "layer3"]).state_shapes((1, 8, 8)) == [(8, 2, 2), (16, 1, 1)]
    ends = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 5))
    net = BlockNet.of(ends, (3,), stem=[], blocks=["0", "1"], head=[])
    assert net.state_shapes((3,)) == [(4,), (5,)]


class Several(nn.Module):
    """A layer that returns a tuple, in a network that returns a mapping."""

    def __init__(self) -> None:
        super().__init__()
        self.map = nn.Linear(4, 4)

    def forward(self, state):
        return self.map(state), None


class Mapping(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.out = nn.Linear(6, 4), Several(), nn.Linear(4, 2)

    def forward(self, x):
        hidden = self.second(self.first(x))[0]
        return {"hidden": hidden, "logits": self.out(hidden)}


def test_of_several_outputs_the_state_and_the_logits_are_taken():
    module = Mapping()
    net = BlockNet.of(module, (6,), stem="first", blocks=["second"], head="out")
    inputs = torch.randn(3, 6)
    assert torch.equal(net(inputs), module(inputs)["logits"])


FOUND = "which calls conv1, bn1, relu, maxpool, layer1, layer2, layer3, avgpool, fc: "
WRONG = {
    "a gap": ({"head": ["avgpool", "fc"]}, r"between avgpool, which returns \[4, 16, 1, 1\], and fc.*as nn.Flatten"),
    "left out": ({"stem": "conv1"}, "bn1, relu, maxpool are not among the parts"),
    "left out at the end": ({"head": ["avgpool", nn.Flatten()]}, "fc is not among the parts"),
    "another order": ({"blocks": ["layer1", "layer3", "layer2"]}, "the order is another one"),
    "not called": ({"head": ["avgpool", nn.Flatten(), "fc", "spare"]}, "it does not run spare"),
    "one step too many": ({"head": ["avgpool", nn.Flatten(), nn.Tanh(), "fc"]}, "between avgpool, .* and fc"),
    "a step at the end": ({"head": ["avgpool", nn.Flatten(), "fc", nn.Tanh()]}, "after fc it does something else"),
    "a step that does not fit": ({"head": ["avgpool", nn.Flatten(), "fc", nn.Conv2d(3, 3, 1)]}, r"be computed \("),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_not_a_row_is_refused_with_what_was_found(case):
    changes, words = WRONG[case]
    with pytest.raises(
        InvalidValueError, match=rf"parts = \['.*ResNet \(own_networks\.py, line \d+\) does.*{FOUND}.*{words}"
    ):
        resnet(**changes)


def test_a_block_left_out_of_a_layer_is_named():
    with pytest.raises(
        InvalidValueError, match=r"conv1, bn1, relu, maxpool, layer1\.0, layer2\.0.*: layer2\.0 is not among"
    ):
        resnet(blocks=["layer1.0", "layer2.1", "layer3"])


def test_a_wrong_path_is_named_with_those_that_are_there():
    with pytest.raises(
        UnknownNameError, match=r"unknown part of ResNet.*'layer4'. Did you mean 'layer3'\? Known: avgpool, bn1"
    ):
        resnet(blocks=["layer1", "layer2", "layer4"])
    with pytest.raises(UnknownNameError, match=r"'layer2\.2'.*Known: layer2\.0, layer2\.1"):
        resnet(blocks=["layer1", "layer2.2", "layer3"])


NO_ROW = {
    "each submodule once": {"stem": ["conv1", "conv1"]},
    "a list with an entry for each block": {"blocks": "layer1"},
    "blocks = .* a list with an entry": {"blocks": []},
    "a layer or a function": {"head": ["fc", 3]},
    "first or last": {"channels": "middle"},
    r"a shape that ResNet \(.* accepts": {"input_shape": (8, 8)},
}


@pytest.mark.parametrize("words", NO_ROW)
def test_arguments_that_describe_no_row_are_refused(words):
    with pytest.raises(InvalidValueError, match=words):
        cut(ResNet(1, 4, (1, 1, 1), 3), **{"input_shape": (1, 8, 8)} | LAYERS | NO_ROW[words])


def test_differences_that_initial_weights_hide_are_found():
    net = Patches(8, 2, 3)  # its positions begin as zeros
    with pytest.raises(InvalidValueError, match=r"between embed, which returns .* and layers\.0"):
        patches(net, stem=["embed", lambda state: state.flatten(2).transpose(1, 2)], blocks=["layers.0", "layers.1"])


class InTrainingOnly(nn.Module):
    """Does something between its parts in training alone, and a skip around a part."""

    def __init__(self, skips: bool) -> None:
        super().__init__()
        self.one, self.two, self.skips = nn.Linear(4, 4), nn.Linear(4, 4), skips

    def forward(self, x):
        state = self.one(x)
        if self.skips:
            return self.two(state) + x
        return self.two(nn.functional.dropout(state, 0.5, self.training))


def test_dropout_between_parts_and_a_skip_around_them_are_found():
    for skips, words in {False: "between one, which returns", True: "after two it does something else"}.items():
        with pytest.raises(InvalidValueError, match=words):
            BlockNet.of(InTrainingOnly(skips), (4,), stem="one", blocks=["two"], head=[])


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.act, self.two = nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4)
        self.register_buffer("scale", torch.full((4,), 0.5), persistent=False)

    def forward(self, x):
        return self.two(self.act(self.one(self.act(x))))


def test_a_layer_that_runs_twice_is_named():
    with pytest.raises(InvalidValueError, match="act runs more than once"):
        BlockNet.of(Twice(), (4,), stem="one", blocks=["act"], head="two")


class Shifted(nn.Module):
    """Has a buffer that its `state_dict` leaves out, and one that is not set."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(4, 4), nn.ModuleList([nn.BatchNorm1d(4)])
        self.one.register_buffer("unset", None, persistent=False)
        self.two[0].register_buffer("shift", torch.rand(4), persistent=False)
        self.two[0].register_forward_hook(lambda module, _, output: output + module.shift)

    def forward(self, x):
        return self.two[0](self.one(x))


def test_buffers_that_a_module_leaves_out_are_stored_and_the_module_is_as_before():
    module, other = Shifted().eval(), Shifted().eval()
    pretrained = copy.deepcopy(module.state_dict())
    nets = [BlockNet.of(one, (4,), stem=[], blocks=["one", "two.0"], head=[]) for one in (module, other)]
    assert nets[0].state_dict().keys() - {"blocks.1.two_0.shift"} == {
        f"blocks.{name.replace('one', '0.one').replace('two.0', '1.two_0')}" for name in pretrained
    }
    inputs = torch.randn(3, 4)
    for assign in (False, True):
        nets[1].load_state_dict(nets[0].state_dict(), assign=assign)
        assert torch.equal(nets[1](inputs), module(inputs))
    assert module.state_dict().keys() == pretrained.keys()
    module.load_state_dict(pretrained)
    short = {name: tensor for name, tensor in nets[0].state_dict().items() if not name.endswith("shift")}
    with pytest.raises(RuntimeError, match=r'Missing key\(s\) in state_dict: "blocks\.1\.two_0\.shift"'):
        nets[1].load_state_dict(short)
    for wrong in (torch.rand(3), torch.rand(1)):
        with pytest.raises(RuntimeError, match=r"size mismatch for blocks\.1\.two_0\.shift: \[\d\], not \[4\]"):
            nets[1].load_state_dict(short | {"blocks.1.two_0.shift": wrong})


TASK, PLAN = ToyImages(size=8), TrainPlan(steps=12, batch_size=8, eval_every=6, lr=0.05)


@pytest.mark.usefixtures("store_folder")
def test_it_is_trained_distilled_paired_and_opened_elsewhere_like_ours(tmp_path):
    teacher = train_or_load(ResNetParts(width=6, depths=(2, 1, 1)), TASK, PLAN, device="cpu")
    curricula = {"soft": one_shot(), "extracted": extracted(steps=3)}
    runs = distill(teacher, ResNetParts(), TASK, curricula, [0, 1], PLAN, device="cpu")
    assert set(runs.weights) == {(name, seed) for name in curricula for seed in (0, 1)}
    pair = train_pair(teacher, ResNetParts(), TASK, PLAN, device="cpu", to_export=True)
    assert set(pair.masks["mask"]) == set(all_masks(3))
    found = train_pair(teacher, ResNetParts(), TASK, PLAN, device="cpu")
    for name, tensor in found.net.state_dict().items():
        assert torch.equal(tensor, pair.net.state_dict()[name])
    assert found.export(tmp_path / "bundle").modules == {"parts of a resnet": "own_networks"}
    inputs = TASK.split("test").inputs
    answers, wanted = answers_elsewhere(tmp_path / "bundle", inputs), expected(pair.net, inputs)
    for mask, logits in (wanted | {"predicted": wanted["TTT"]}).items():
        assert torch.equal(answers[mask], logits), mask


@pytest.mark.usefixtures("store_folder")
def test_its_student_may_be_one_of_ours_at_the_same_positions():
    teacher = train_or_load(ResNetParts(width=6), TASK, PLAN, device="cpu")
    student = resnet_of_ours(TASK, channels=(3, 4, 5), depths=(1, 1, 1), stem_stride=2)
    pair = train_pair(teacher, student, TASK, PLAN, device="cpu", to_export=True)
    positions = [[shape[1:] for shape in net.state_shapes((1, 8, 8))] for net in (pair.net.teacher, pair.net.student)]
    assert positions == [[(4, 4), (2, 2), (1, 1)]] * 2
    assert set(pair.masks["mask"]) == set(all_masks(3))


@pytest.mark.parametrize("parts_teach", [True, False])
def test_a_network_that_attends_to_padding_is_no_partner_of_one_that_hides_it(parts_teach):
    module = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 4), nn.Linear(4, 3))
    parts = BlockNet.of(module, (9,), stem="0", blocks=["1"], head="2", channels="last", n_tokens=5)
    ours = build(language_transformer(ToyStrings(), width=4, heads=1, layers=1), 0)
    words = rf"student = 'a network with pads = {parts_teach}' is not allowed: .*`BlockNet\.of` do not hide it"
    with pytest.raises(InvalidValueError, match=words):
        SwapNet(*((parts, ours) if parts_teach else (ours, parts)), (9,))


class PatchesConfig(ModelConfig):
    """`Patches` by its layers, with dropout and positions."""

    family: Literal["patches"] = "patches"
    width: int

    @property
    def n_blocks(self) -> int:
        return 2

    def make(self) -> BlockNet:
        return patches(Patches(self.width, 2, 3))


@pytest.mark.usefixtures("store_folder")
def test_layers_with_dropout_are_distilled_and_paired_too():
    teacher = train_or_load(PatchesConfig(width=8), TASK, PLAN, device="cpu")
    runs = distill(teacher, PatchesConfig(width=4), TASK, {"extracted": extracted(steps=3)}, [0, 1], PLAN, device="cpu")
    assert len(runs.weights) == 2
    pair = train_pair(teacher, PatchesConfig(width=4), TASK, PLAN, device="cpu", to_export=True)
    assert set(pair.masks["mask"]) == set(all_masks(2))


def test_initial_weights_come_from_the_seed_as_the_modules_own():
    torch.manual_seed(5)
    alone = build(ResNetParts(), 3)
    again = build(ResNetParts(), 3)
    assert all(torch.equal(a, b) for a, b in zip(alone.parameters(), again.parameters(), strict=True))
