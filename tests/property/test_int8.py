"""Eight bits: the error of each channel, what stays as it is, names, files, and what is refused."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load, save
from toys import RESNET_TEACHER, VIT_TEACHER, changed, snapshot, used

from pwl_lab.loading.tensors import dequantise, quantise
from pwl_lab.models import build
from pwl_lab.support.errors import InvalidValueError

FLOATS = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32, "float64": torch.float64}


def normal(*shape, seed=0, kind=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(kind)


@given(
    shape=st.lists(st.integers(1, 6), min_size=2, max_size=4),
    magnitude=st.sampled_from([1e-45, 3e-43, 1e-30, 1.0, 1e30]),
    kind=st.sampled_from([torch.float32, torch.float64]),
    seed=st.integers(0, 999),
)
def test_every_channel_is_within_half_of_its_scale(shape, magnitude, kind, seed):
    weight = magnitude * normal(*shape, seed=seed, kind=torch.float64).to(kind)
    weight = weight * torch.logspace(0, 3, shape[0], dtype=kind).reshape(-1, *[1] * (len(shape) - 1))
    stored = quantise({"w": weight})
    scales = next(tensor for name, tensor in stored.items() if "scale" in name).double()
    apart = (dequantise(stored)["w"].double() - weight.double()).abs().flatten(1).amax(dim=1)
    assert bool((apart <= scales / 2 * (1 + 1e-6)).all())
    largest = weight.double().abs().flatten(1).amax(dim=1)
    assert bool((scales <= largest / 127 * (1 + 1e-6) + 1.5e-45).all())  # no wider than it takes, up to float32


def test_by_hand():
    weight = torch.tensor([[127.0, -1.4, 0.6], [0, 0, 0], [-0.254, 0.0011, 0.002]])
    stored = quantise({"conv.weight": weight})
    assert list(stored) == ["conv.weight::int8", "conv.weight::scale:float32"]
    assert stored["conv.weight::int8"].tolist() == [[127, -1, 1], [0, 0, 0], [-127, 1, 1]]
    assert stored["conv.weight::scale:float32"].tolist() == pytest.approx([1, 0, 0.002])
    assert dequantise(stored)["conv.weight"][1].tolist() == [0, 0, 0]


@pytest.mark.parametrize("kind", FLOATS.values(), ids=FLOATS)
def test_types_shapes_names_and_order_come_back(kind):
    state = {"b": normal(4, 3, 2, kind=kind), "a": normal(4, kind=kind), "n": torch.tensor(3)}
    state |= {"none": torch.empty(0, 3, dtype=kind), "flat": torch.empty(3, 0, dtype=kind), "one": normal(kind=kind)}
    back = dequantise(quantise(state))
    assert list(back) == list(state)
    assert all((back[name].dtype, back[name].shape) == (t.dtype, t.shape) for name, t in state.items())
    assert all(torch.equal(back[name], tensor) for name, tensor in state.items() if name != "b")
    assert (back["b"] - state["b"]).abs().max() <= state["b"].abs().max() * (0.5 / 127 + torch.finfo(kind).eps)


@pytest.mark.parametrize("config", [RESNET_TEACHER, VIT_TEACHER], ids=["resnet", "vit"])
def test_a_network_and_each_of_its_blocks_through_a_file(config):
    net = used(build(config, 0)).eval()
    before = snapshot(net)
    for part in (net, *net.blocks):
        stored = quantise(part.state_dict())
        other = dequantise(load(save(stored)))  # a file has an order of its own
        assert other.keys() == part.state_dict().keys()
        part.load_state_dict(other)
        assert quantise(part.state_dict()).keys() == stored.keys()
    small = {name for name, tensor in before.items() if tensor.ndim < 2 or not tensor.is_floating_point()}
    assert not changed(before, snapshot(net)) & small
    assert changed(before, snapshot(net))


def test_quantising_twice_changes_nothing_more():
    once = dequantise(quantise({"w": normal(8, 20)}))
    assert torch.allclose(dequantise(quantise(once))["w"], once["w"], rtol=1e-6, atol=0)


def test_weights_take_a_fourth_of_the_bytes():
    state = {"w": normal(64, 256)}
    stored = quantise(state)
    assert len(save(stored)) == pytest.approx(len(save(state)) / 4, rel=0.05)


def test_transposed_and_shared_tensors_are_stored_and_not_touched():
    weight = normal(5, 4)
    state = {"w": weight.t(), "again": weight.t(), "b": weight[0], "same": weight[0]}
    stored = quantise(state)
    back = dequantise(load(save(stored)))
    assert all(torch.allclose(back[name], state[name], atol=0.02) for name in state)
    stored["b"].zero_()
    back["same"].zero_()
    assert torch.equal(weight, normal(5, 4))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("shape", [(2, 2), (4,)])
def test_values_that_are_not_finite_are_refused_by_name(bad, shape):
    with pytest.raises(InvalidValueError, match=r"blocks\.1\.w = 'NaN or infinite values'.*finite values only"):
        quantise({"blocks.1.w": torch.full(shape, bad)})


def test_magnitudes_beyond_float32_are_refused():
    with pytest.raises(InvalidValueError, match=r"w = 1e\+300.*float32"):
        quantise({"w": torch.full((2, 2), 1e300, dtype=torch.float64)})


def test_names_that_could_be_mistaken_are_refused():
    with pytest.raises(InvalidValueError, match=r"name = 'w::int8'.*without '::'"):
        quantise({"w::int8": torch.ones(2, 2)})


INT8, SCALE = torch.ones(2, 3, dtype=torch.int8), torch.ones(2)


@pytest.mark.parametrize(
    ("stored", "words"),
    [
        ({"w::int8": INT8}, "together with its scales"),
        ({"w::scale:float32": SCALE}, r"only together with 'w::int8'"),
        ({"w::int8": INT8, "w::scale:float32": torch.ones(3)}, "one scale per row"),
        ({"w::int8": SCALE, "w::scale:float32": SCALE}, "int8 values of two dimensions"),
        ({"w::int8": INT8, "w::scale:float31": SCALE}, "ends with a floating-point type"),
        ({"w::int8": INT8, "w::scale:int8": SCALE}, "ends with a floating-point type"),
        ({"w::int4": INT8}, "a name from `quantise`"),
    ],
)
def test_foreign_tensors_are_refused(stored, words):
    with pytest.raises(InvalidValueError, match=words):
        dequantise(stored)
