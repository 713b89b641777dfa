"""ResNet and ViT against their formulas written out, their stems, and the sizes that are known from elsewhere."""

from copy import deepcopy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F
from toys import norms, snapshot, used

from pwl_lab.models import ResNetConfig, VGGConfig, ViTConfig, build
from pwl_lab.models.convnets import BasicBlock
from pwl_lab.models.transformer import TransformerLayer
from pwl_lab.models.vit import Positions


def parameters_on_paper(config):
    """How many parameters the network has; nothing of it is computed, and no weight is stored."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in config.make().parameters())


def normalised(state, norm, training):
    """Batch norm from its formula."""
    if training:
        mean, var = state.mean(dim=(0, 2, 3)), state.var(dim=(0, 2, 3), unbiased=False)
    else:
        mean, var = norm["running_mean"], norm["running_var"]
    mean, var, weight, bias = (part.reshape(-1, 1, 1) for part in (mean, var, norm["weight"], norm["bias"]))
    return (state - mean) / (var + 1e-5).sqrt() * weight + bias


def basic_block_by_hand(block, state, stride, training):
    tensors = snapshot(block)

    def part(name):
        return {key.removeprefix(f"{name}."): value for key, value in tensors.items() if key.startswith(f"{name}.")}

    change = F.conv2d(state, tensors["conv1.weight"], stride=stride, padding=1)
    change = normalised(change, part("norm1"), training).clamp_min(0)
    change = normalised(F.conv2d(change, tensors["conv2.weight"], padding=1), part("norm2"), training)
    if "shortcut.0.weight" in tensors:  # a 1x1 convolution: every stride-th pixel, the same matrix for each
        pixels = state[:, :, ::stride, ::stride]
        state = torch.einsum("oi,bihw->bohw", tensors["shortcut.0.weight"][:, :, 0, 0], pixels)
        state = normalised(state, part("shortcut.1"), training)
    return (change + state).clamp_min(0)


@pytest.mark.parametrize(
    ("sizes", "bent"), [((4, 4, 1), False), ((4, 6, 1), True), ((4, 4, 2), True), ((3, 5, 2), True)]
)
@pytest.mark.parametrize("training", [True, False])
def test_a_basic_block_is_its_formula(sizes, bent, training):
    torch.manual_seed(0)
    block, state = used(BasicBlock(*sizes)).double().train(training), torch.randn(3, sizes[0], 7, 5).double()
    given_state = state.clone()
    expected = basic_block_by_hand(block, state, sizes[2], training)
    torch.testing.assert_close(block(state), expected)
    assert torch.equal(state, given_state)
    assert (len(norms(block)) == 3) == bent, "a shortcut of its own only where the shape changes"


def resnet_parameters(config):
    """Convolutions without bias, two numbers a channel in every norm, an output layer with bias."""
    first, total = config.channels[0], 0
    widths = (first, *config.channels)
    for index, depth in enumerate(config.depths):
        for position in range(depth):
            source, target = (widths[index] if position == 0 else widths[index + 1]), widths[index + 1]
            total += 9 * source * target + 9 * target * target + 4 * target
            if position == 0 and (index > 0 or source != target):
                total += source * target + 2 * target
    return 9 * config.in_channels * first + 2 * first + total + (widths[-1] + 1) * config.n_classes


def few_channels(channels):
    """A small network of each family for two classes of images with one channel."""
    shared = {"in_channels": 1, "n_classes": 3}
    widths = (channels, channels + 1)
    return [
        ResNetConfig(**shared, channels=widths, depths=(1, 1)),
        VGGConfig(**shared, channels=widths, convolutions=(1, 1)),
        ViTConfig(**shared, image_size=8, patch=2, width=2 * channels, heads=2, layers=(1, 1)),
    ]


@pytest.mark.parametrize("channels", [3, 4, 7, 8, 12])
@pytest.mark.parametrize("family", [0, 1, 2])
def test_gradients_of_a_network_with_few_channels_are_those_of_double_precision(family, channels):
    net = build(few_channels(channels)[family], 0).train()
    # A strided 1x1 convolution may write where it must not (see BasicBlock): then nothing is run at all.
    pointwise = [one for one in net.modules() if isinstance(one, nn.Conv2d) and one.kernel_size == (1, 1)]
    assert all(one.stride == (1, 1) for one in pointwise)
    generator = torch.Generator().manual_seed(1)
    images, labels = torch.randn(32, 1, 8, 8, generator=generator), torch.arange(32) % 3

    def gradients(net, images):
        F.cross_entropy(net(images), labels).backward()
        return torch.cat([one.grad.double().flatten() for one in net.parameters()])

    exact = gradients(deepcopy(net).double(), images.double())
    torch.testing.assert_close(gradients(net, images), exact, rtol=1e-3, atol=1e-5)


def test_the_sources_residual_network():
    config = ResNetConfig(in_channels=3, channels=(32, 64, 128, 256), depths=(3, 4, 6, 3), n_classes=10)
    assert parameters_on_paper(config) == resnet_parameters(config)
    assert build(config, 0).state_shapes((3, 32, 32)) == [(32, 32, 32), (64, 16, 16), (128, 8, 8), (256, 4, 4)]


def test_a_residual_network_of_34_layers_has_the_known_number_of_parameters():
    config = ResNetConfig(in_channels=3, channels=(64, 128, 256, 512), depths=(3, 4, 6, 3), n_classes=1000)
    stem_of_7x7, stem_of_3x3 = 49 * 3 * 64, 9 * 3 * 64  # the stem is what differs
    assert parameters_on_paper(config) == 21_797_672 - stem_of_7x7 + stem_of_3x3


@given(
    blocks=st.lists(st.tuples(st.integers(1, 6), st.integers(1, 3)), min_size=1, max_size=4),
    in_channels=st.integers(1, 3),
    stride=st.integers(1, 4),
)
@settings(max_examples=20)
def test_any_residual_network_has_its_channels_and_halves_the_resolution(blocks, in_channels, stride):
    channels, depths = zip(*blocks, strict=True)
    config = ResNetConfig(in_channels=in_channels, channels=channels, depths=depths, stem_stride=stride)
    assert parameters_on_paper(config) == resnet_parameters(config)
    side, expected = -(-13 // stride), []
    for index, width in enumerate(channels):
        side = -(-side // 2) if index else side
        expected.append((width, side, side))
    assert build(config, 0).state_shapes((in_channels, 13, 13)) == expected


@pytest.mark.parametrize("heads", [1, 2, 4])
def test_fused_attention_is_the_plain_one(heads):
    torch.manual_seed(0)
    plain, fused = (TransformerLayer(8, heads, 12, fused=fused).double() for fused in (False, True))
    fused.load_state_dict(plain.state_dict())
    states = [torch.randn(3, 8, 5).double().requires_grad_() for _ in range(2)]
    states[1].data.copy_(states[0].data)
    outputs = [layer(state) for layer, state in zip((plain, fused), states, strict=True)]
    torch.testing.assert_close(*outputs)
    for output in outputs:
        output.square().sum().backward()
    torch.testing.assert_close(states[0].grad, states[1].grad)
    for a, b in zip(plain.parameters(), fused.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)


def test_a_vision_transformer_uses_fused_attention():
    net = build(ViTConfig(width=4, heads=2, layers=(1, 2)), 0)
    assert [layer.fused for block in net.blocks for layer in block] == [True, True, True]


def test_positions_are_added_token_by_token():
    positions, state = Positions(6, 4), torch.randn(2, 4, 2, 3)
    tokens = positions(state)
    assert tokens.shape == (2, 4, 6)
    for row in range(2):
        for column in range(3):
            token = 3 * row + column
            expected = state[:, :, row, column] + positions.positions[:, token]
            assert torch.equal(tokens[:, :, token], expected)
    assert positions.positions.std().item() == pytest.approx(0.02, rel=0.5)


def test_positions_learn():
    net = build(ViTConfig(image_size=8, width=4, heads=2, layers=(1, 1)), 0)
    net(torch.randn(2, 1, 8, 8)).square().sum().backward()
    assert (net.stem[1].positions.grad.abs().sum(dim=0) > 0).all()


def test_a_stem_of_patches_reads_each_patch_alone():
    net = build(ViTConfig(in_channels=2, image_size=6, patch=3, stem="patches", width=4, heads=2, layers=(1,)), 0)
    images, (projection, positions) = torch.randn(2, 2, 6, 6), net.stem
    tokens = net.stem(images)
    for token, (row, column) in enumerate([(0, 0), (0, 3), (3, 0), (3, 3)]):
        patch = images[:, :, row : row + 3, column : column + 3].flatten(1)
        expected = patch @ projection.weight.flatten(1).t() + projection.bias + positions.positions[:, token]
        torch.testing.assert_close(tokens[:, :, token], expected)


@pytest.mark.parametrize(("patch", "width", "channels"), [(2, 6, [8]), (4, 32, [16, 32]), (8, 64, [16, 32, 64])])
def test_a_stem_of_convolutions_halves_until_a_patch_is_a_token(patch, width, channels):
    net = build(ViTConfig(image_size=16, patch=patch, width=width, heads=2, layers=(1,)), 0)
    convolutions = [module for module in net.stem.modules() if isinstance(module, torch.nn.Conv2d)]
    assert [c.out_channels for c in convolutions] == [*channels, width]
    assert [c.stride[0] for c in convolutions] == [*[2] * len(channels), 1]
    assert [c.in_channels for c in convolutions] == [1, *channels]
    assert net.stem(torch.randn(2, 1, 16, 16)).shape == (2, width, (16 // patch) ** 2)


def vit_parameters(config):
    """Patches, positions, layers of two norms, attention and an MLP, and the read-out; all with bias."""
    width, hidden = config.width, round(config.mlp_ratio * config.width)
    stem = (config.in_channels * config.patch**2 + 1) * width + (config.image_size // config.patch) ** 2 * width
    attention = 4 * (width + 1) * width
    layer = 4 * width + attention + (width + 1) * hidden + (hidden + 1) * width
    return stem + sum(config.layers) * layer + 2 * width + (width + 1) * config.n_classes


TINY = ViTConfig(
    in_channels=3,
    image_size=224,
    patch=16,
    stem="patches",
    width=192,
    heads=3,
    layers=(2,) * 6,
    mlp_ratio=4.0,
    n_classes=1000,
)


def test_the_sources_vision_transformer():
    class_token_and_its_position = 2 * 192  # the one of arXiv 2012.12877 has them, and 5,717,416 parameters
    assert parameters_on_paper(TINY) == vit_parameters(TINY) == 5_717_416 - class_token_and_its_position
    with torch.device("meta"):
        assert TINY.make().state_shapes((3, 224, 224)) == [(192, 196)] * 6


@given(
    heads=st.integers(1, 4),
    size=st.integers(1, 3),
    layers=st.lists(st.integers(1, 2), min_size=1, max_size=3),
    patch=st.integers(2, 5),
    rows=st.integers(1, 3),
)
@settings(max_examples=20)
def test_any_vision_transformer_keeps_its_tokens(heads, size, layers, patch, rows):
    image = max(4, rows * patch) if rows > 1 else patch * -(-4 // patch)
    sizes = {"image_size": image, "width": heads * size, "heads": heads, "layers": tuple(layers)}
    config = ViTConfig(patch=patch, stem="patches", **sizes)
    assert parameters_on_paper(config) == vit_parameters(config)
    state = (heads * size, (image // patch) ** 2)
    assert build(config, 0).state_shapes((1, image, image)) == [state] * len(layers)


def test_heads_mix_tokens_without_changing_the_number_of_parameters():
    counts = {parameters_on_paper(TINY.model_copy(update={"heads": heads})) for heads in (1, 3, 6)}
    assert len(counts) == 1


def test_states_of_a_residual_network_are_never_below_0():
    net = used(build(ResNetConfig(channels=(3, 4, 5), depths=(2, 1, 2)), 0))
    states, _ = net.hidden_states(torch.randn(4, 1, 9, 9))
    assert all((state >= 0).all() for state in states)
