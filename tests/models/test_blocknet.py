"""BlockNet and its families: states, shapes, configurations, seeded weights."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from toys import MLP_STUDENT, ToyImages, changed, norms, snapshot, used

from pwl_lab.models import BlockNet, MLPConfig, ResNetConfig, VGGConfig, ViTConfig, build, mlp, resnet, vgg, vit
from pwl_lab.models.blocknet import parameter_bytes
from pwl_lab.support.errors import InvalidValueError
from pwl_lab.tasks.parity import SparseParity

VGG = VGGConfig(channels=(3, 4), convolutions=(1, 2), n_classes=5)
RESNET = ResNetConfig(in_channels=2, channels=(3, 4, 4), depths=(1, 2, 1), stem_stride=2, n_classes=5)
VIT = ViTConfig(image_size=9, width=6, heads=3, layers=(1, 2), n_classes=5)
PATCHES = ViTConfig(image_size=9, patch=3, stem="patches", width=6, heads=2, layers=(2, 1), n_classes=5)
CASES = [
    (MLP_STUDENT, (6,)),
    (MLPConfig(n_inputs=12, widths=(5,)), (3, 4)),
    (VGG, (1, 9, 7)),
    (RESNET, (2, 9, 7)),
    (VIT, (1, 9, 9)),
    (PATCHES, (1, 9, 9)),
]
names = ["mlp", "flattened", "vgg", "resnet", "vit", "vit of patches"]


@pytest.mark.parametrize(("config", "shape"), CASES, ids=names)
@pytest.mark.parametrize("training", [True, False])
def test_hidden_states_agree_with_forward_and_with_running_the_blocks(config, shape, training):
    net, inputs = used(build(config, 0)).train(training), torch.randn(4, *shape)
    states, logits = net.hidden_states(inputs)
    assert torch.equal(logits, net(inputs))
    assert len(states) == net.n_blocks == config.n_blocks
    assert logits.shape == (4, config.n_classes)
    for done in range(1, net.n_blocks + 1):
        state = net.stem(inputs)
        for block in list(net.blocks)[:done]:
            state = block(state)
        assert torch.equal(states[done - 1], state)
    assert torch.equal(net.head(states[-1]), logits)


@pytest.mark.parametrize(("config", "shape"), CASES, ids=names)
def test_handing_out_states_does_not_let_later_blocks_overwrite_them(config, shape):
    net, inputs = used(build(config, 0)).eval(), torch.randn(2, *shape)
    given = inputs.clone()
    states, _ = net.hidden_states(inputs)
    first = net.blocks[0](net.stem(inputs))
    assert torch.equal(states[0], first)
    kept = first.clone()
    for block in list(net.blocks)[1:]:
        block(first)
        assert torch.equal(first, kept)
        first = block(first)
        kept = first.clone()
    assert torch.equal(inputs, given)


@pytest.mark.parametrize(("config", "shape"), CASES, ids=names)
def test_state_shapes_are_those_of_the_states(config, shape):
    net = build(config, 0)
    states, _ = net.hidden_states(torch.randn(3, *shape))
    assert net.state_shapes(shape) == [tuple(state.shape[1:]) for state in states]


def test_odd_sizes_are_rounded_up():
    net = build(VGGConfig(channels=(2, 3, 4, 5), convolutions=(1, 1, 1, 1)), 0)
    assert net.state_shapes((1, 28, 28)) == [(2, 14, 14), (3, 7, 7), (4, 4, 4), (5, 2, 2)]
    assert net.state_shapes((1, 5, 1)) == [(2, 3, 1), (3, 2, 1), (4, 1, 1), (5, 1, 1)]


def test_odd_sizes_are_rounded_up_by_residual_networks_and_stems_of_convolutions():
    config = ResNetConfig(channels=(2, 3, 4, 5), depths=(1, 2, 1, 1))
    assert build(config, 0).state_shapes((1, 5, 7)) == [(2, 5, 7), (3, 3, 4), (4, 2, 2), (5, 1, 1)]
    strided = build(config.model_copy(update={"stem_stride": 2}), 0)
    assert strided.state_shapes((1, 5, 7)) == [(2, 3, 4), (3, 2, 2), (4, 1, 1), (5, 1, 1)]
    for size, patch, side in ((28, 8, 4), (9, 4, 3), (17, 2, 9), (5, 8, 1)):
        tokens = ViTConfig(image_size=size, patch=patch, width=4, heads=2, layers=(1, 1))
        assert build(tokens, 0).state_shapes((1, size, size)) == [(4, side * side)] * 2


@pytest.mark.parametrize(("config", "shape"), CASES, ids=names)
@pytest.mark.parametrize("training", [True, False])
def test_state_shapes_leaves_mode_and_statistics_alone(training, config, shape):
    net = used(build(config, 0)).train(training)
    before = snapshot(net)
    net.state_shapes(shape)
    assert changed(before, snapshot(net)) == set()
    assert {module.training for module in net.modules()} == {training}


def test_state_shapes_leaves_the_mode_of_each_module_alone():
    net = build(VGG, 0).train()
    norms(net)[0].eval()  # as when a pair's norms are frozen
    before = [module.training for module in net.modules()]
    net.state_shapes((1, 9, 9))
    assert [module.training for module in net.modules()] == before


def test_state_shapes_puts_the_mode_back_when_the_inputs_do_not_fit():
    net = build(VGG, 0).train()
    with pytest.raises(RuntimeError):
        net.state_shapes((2, 9, 9))
    assert net.training


@given(
    widths=st.lists(st.integers(1, 9), min_size=1, max_size=4),
    n_inputs=st.integers(1, 9),
    n_classes=st.integers(2, 5),
)
@settings(max_examples=30)
def test_any_mlp_has_a_block_per_width(widths, n_inputs, n_classes):
    config = MLPConfig(n_inputs=n_inputs, widths=tuple(widths), n_classes=n_classes)
    assert build(config, 0).state_shapes((n_inputs,)) == [(width,) for width in widths]
    sizes = [n_inputs, *widths, n_classes]
    assert parameter_bytes(build(config, 0)) == 4 * sum((a + 1) * b for a, b in pairwise(sizes))


def test_mlp_block_is_linear_and_relu():
    net, inputs = build(MLPConfig(n_inputs=3, widths=(4,)), 0), torch.randn(6, 3)
    (state,), logits = net.hidden_states(inputs)
    linear = net.blocks[0][0]
    expected = (inputs @ linear.weight.T + linear.bias).clamp_min(0)
    torch.testing.assert_close(state, expected)
    torch.testing.assert_close(logits, expected @ net.head.weight.T + net.head.bias)


@pytest.mark.parametrize("config", [config for config, _ in CASES], ids=names)
def test_build_gives_the_same_weights_for_the_same_seed(config):
    first, second, other = (snapshot(build(config, seed)) for seed in (4, 4, 5))
    assert changed(first, second) == set()
    learned = {name for name, tensor in first.items() if tensor.is_floating_point() and tensor.std() > 0}
    assert changed(first, other) >= {name for name in learned if "running" not in name}


def test_bytes_count_parameters_and_buffers():
    net = build(VGG, 0)
    counted = sum(4 * tensor.numel() for tensor in net.parameters()) + sum(8 * n.num_features + 8 for n in norms(net))
    assert parameter_bytes(net) == counted


def test_configurations_for_a_task():
    assert mlp(SparseParity(n_bits=7, k_sparse=2), width=5, depth=2) == MLPConfig(n_inputs=7, widths=(5, 5))
    assert mlp(ToyImages(size=4), width=5) == MLPConfig(n_inputs=16, widths=(5,), n_classes=3)
    assert vgg(ToyImages(), [3, 4], [1, 2]) == VGGConfig(channels=(3, 4), convolutions=(1, 2), n_classes=3)
    assert resnet(ToyImages(), [3, 4], [1, 2], 2) == ResNetConfig(
        channels=(3, 4), depths=(1, 2), stem_stride=2, n_classes=3
    )
    assert vit(ToyImages(size=6), 8, 2, [1, 2], patch=3, stem="patches") == ViTConfig(
        image_size=6, patch=3, stem="patches", width=8, heads=2, layers=(1, 2), n_classes=3
    )


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: VGGConfig(channels=(4, 4), convolutions=(1,)), "channels has 2 blocks, convolutions has 1"),
        (lambda: VGGConfig(channels=(), convolutions=()), "channels"),
        (lambda: VGGConfig(channels=(4,), convolutions=(1,), n_classes=1), "n_classes"),
        (lambda: VGGConfig(channels=(4,), convolutions=(1,), in_channels=0), "in_channels"),
        (lambda: VGGConfig(channels=(4,), convolutions=(1,), width=3), "width"),
        (lambda: MLPConfig(n_inputs=3, widths=()), "widths"),
        (lambda: MLPConfig(n_inputs=0, widths=(3,)), "n_inputs"),
        (lambda: MLPConfig(n_inputs=3, widths=(3,), family="vgg"), "family"),
        (lambda: VGGConfig(channels=(0,), convolutions=(1,)), "channels"),
        (lambda: VGGConfig(channels=(4,), convolutions=(0,)), "convolutions"),
        (lambda: MLPConfig(n_inputs=3, widths=(4, 0)), "widths"),
        (lambda: ResNetConfig(channels=(4, 4), depths=(1,)), "channels has 2 blocks, depths has 1"),
        (lambda: ResNetConfig(channels=(), depths=()), "channels"),
        (lambda: ResNetConfig(channels=(4,), depths=(0,)), "depths"),
        (lambda: ResNetConfig(channels=(4,), depths=(1,), stem_stride=0), "stem_stride"),
        (lambda: ViTConfig(width=8, heads=3, layers=(1,)), "width = 8 is not a multiple of heads = 3"),
        (lambda: ViTConfig(width=8, heads=2, layers=()), "layers"),
        (lambda: ViTConfig(width=8, heads=2, layers=(1, 0)), "layers"),
        (lambda: ViTConfig(width=8, heads=2, layers=(1,), patch=6), "patch = 6 is not a power of 2"),
        (
            lambda: ViTConfig(width=8, heads=2, layers=(1,), patch=5, stem="patches"),
            "image_size = 28 is not a multiple of patch = 5",
        ),
        (lambda: ViTConfig(width=8, heads=2, layers=(1,), stem="pixels"), "stem"),
    ],
)
def test_impossible_configurations_are_refused(make, field):
    with pytest.raises(InvalidValueError, match=field):
        make()


def test_configurations_are_immutable():
    with pytest.raises(InvalidValueError, match="frozen"):
        VGG.channels = (1,)


def test_a_network_needs_a_block():
    with pytest.raises(InvalidValueError, match="at least 1 block"):
        BlockNet(nn.Identity(), [], nn.Identity())
