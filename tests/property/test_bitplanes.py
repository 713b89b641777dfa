"""Bit planes: error against the open interval, exact packing and counting, and what is refused."""

import struct

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load, save
from toys import RESNET_TEACHER, VIT_TEACHER, used

from pwl_lab.benchmarks.bitplanes import BitPlanes, decode, encode, from_bytes
from pwl_lab.models import build
from pwl_lab.support.errors import InvalidValueError

FLOATS = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32, "float64": torch.float64}


@st.composite
def all_widths(draw):
    """Widths of planes that sum to 16."""
    cuts = sorted(draw(st.sets(st.integers(1, 15), max_size=9)))
    return tuple(b - a for a, b in zip([0, *cuts], [*cuts, 16], strict=True))


@st.composite
def tensors(draw):
    shape = draw(st.lists(st.integers(0, 5), max_size=3))
    random = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    scale, shift = draw(st.sampled_from([0.0, 1e-40, 1e-3, 1.0, 500.0])), draw(st.sampled_from([0.0, -3.0, 40.0]))
    values = scale * torch.randn(shape, generator=random, dtype=torch.float64) + shift
    return values.to(FLOATS[draw(st.sampled_from(sorted(FLOATS)))])


states = st.dictionaries(st.text("ab.wW", min_size=1, max_size=6), tensors(), max_size=4)


def half_interval(tensor, bits):
    """Half of what `bits` bits leave open, plus the rounding of the tensor's type."""
    values = tensor.double()
    rounding = 2 * torch.finfo(tensor.dtype).eps * float(values.abs().max()) + torch.finfo(tensor.dtype).tiny * 1e-3
    return float(values.max() - values.min()) / 2 ** (bits + 1) + rounding


def arrived(planes, stages):
    """The first stages as a receiver reads them."""
    return from_bytes([planes.to_bytes(stage) for stage in range(1, stages + 1)])


@given(state=states, widths=all_widths())
def test_every_value_is_within_half_of_what_is_still_open(state, widths):
    planes = encode(state, widths)
    for stage in range(1, len(widths) + 1):
        back = decode(planes, stage)
        for name, tensor in state.items():
            if tensor.numel():
                error = float((back[name].double() - tensor.double()).abs().max())
                assert error <= half_interval(tensor, sum(widths[:stage])), (name, stage)


@given(state=states, widths=all_widths(), data=st.data())
def test_names_order_shapes_and_types_come_back_and_bytes_decode_to_the_same(state, widths, data):
    planes = encode(state, widths)
    stages = data.draw(st.integers(1, len(widths)))
    here, there = decode(planes, stages), decode(arrived(planes, stages), stages)
    assert list(here) == list(there) == list(state)
    for name, tensor in state.items():
        for back in (here[name], there[name]):
            assert (back.shape, back.dtype) == (tensor.shape, tensor.dtype)
        assert torch.equal(here[name], there[name])


@given(numbers=st.lists(st.integers(0, 2**16 - 1), max_size=40), widths=all_widths())
def test_planes_are_the_bits_of_the_bins_without_a_gap(numbers, widths):
    # With 0 and 65536 as its ends, the bins of a tensor are one wide and whole numbers are their own bins.
    state = {"w": torch.tensor([0, 2**16, *numbers], dtype=torch.float64)}
    planes = encode(state, widths)
    words, start = [f"{number:016b}" for number in [0, 2**16 - 1, *numbers]], 0
    for width, plane in zip(widths, planes.planes, strict=True):
        bits = "".join(word[start : start + width] for word in words)
        assert len(plane) == -(-width * len(words) // 8)
        assert "".join(f"{byte:08b}" for byte in plane.tolist()).rstrip("0") == bits.rstrip("0")
        start += width
    assert decode(planes, len(widths))["w"][2:].tolist() == [number + 0.5 for number in numbers]


@given(state=states, widths=all_widths())
def test_what_is_stored_is_what_is_sent(tmp_path_factory, state, widths):
    planes = encode(state, widths)
    files = [path.read_bytes() for path in planes.save(tmp_path_factory.mktemp("stages"))]
    back = from_bytes(files)
    for number, (width, file) in enumerate(zip(widths, files, strict=True), start=1):
        assert file == planes.to_bytes(number) == back.to_bytes(number)
        assert load(file)["plane"].numel() == -(-width * sum(t.numel() for t in state.values()) // 8)


def test_the_worst_error_halves_with_every_bit():
    tensor = torch.randn(300, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    planes = encode({"w": tensor}, (1,) * 16)
    worst = [float((decode(planes, stage)["w"] - tensor).abs().max()) for stage in range(1, 17)]
    # The least and the largest value lie at the ends of their intervals, so they are off by the whole half.
    span = float(tensor.max() - tensor.min())
    assert worst == pytest.approx([span / 2 ** (stage + 1) for stage in range(1, 17)], rel=1e-9)


def test_by_hand():
    planes = encode({"w": torch.tensor([0.0, 1.0, 2.0, 3.9, 4.0])}, (2, 14))
    assert planes.planes[0].tolist() == [0b00011011, 0b11000000]
    assert decode(planes, 1)["w"].tolist() == [0.5, 1.5, 2.5, 3.5, 3.5]
    assert decode(planes, 2)["w"].tolist() == pytest.approx([0, 1, 2, 3.9, 4], abs=4 / 2**17 + 1e-6)


@pytest.mark.parametrize("kind", FLOATS.values(), ids=FLOATS)
def test_constant_tensors_and_scalars_are_exact_and_empty_ones_stay_empty(kind):
    state = {"one": torch.tensor(-1.7, dtype=kind), "same": torch.full((3, 2), 0.3, dtype=kind)}
    state |= {"none": torch.empty(0, 4, dtype=kind), "zero": torch.zeros(5, dtype=kind)}
    with np.errstate(all="raise"):  # no 0 / 0 on the way
        planes = encode(state)
    for stage in (1, 8):
        back = decode(planes, stage)
        assert all(torch.equal(back[name], tensor) and back[name].dtype == kind for name, tensor in state.items())
    assert decode(encode({}), 8) == {}


def test_what_is_no_float_is_whole_from_the_first_stage_on():
    state = {
        "n": torch.tensor(2**40 + 1),
        "mask": torch.tensor([True, False]),
        "w": torch.randn(3),
        "z": torch.ones(2) * 1j,
    }
    back = decode(arrived(encode(state), 1), 1)
    assert list(back) == list(state)
    assert all(torch.equal(back[name], state[name]) for name in ("n", "mask", "z"))


@pytest.mark.parametrize("config", [RESNET_TEACHER, VIT_TEACHER], ids=["resnet", "vit"])
def test_a_network_runs_after_each_stage_and_comes_close_in_the_end(config):
    net, images = used(build(config, 0)).eval(), torch.randn(4, 1, 7, 7, generator=torch.Generator().manual_seed(1))
    planes, other = encode(net.state_dict()), build(config, 1).eval()
    wanted, apart = net(images), []
    for stage in range(1, 9):
        other.load_state_dict(decode(planes, stage))
        apart.append(float((other(images) - wanted).detach().abs().max()))
    assert apart[-1] < 1e-3 * float(wanted.detach().abs().max()) < apart[0]


def test_the_state_that_was_encoded_is_neither_changed_nor_shared():
    state = {"w": torch.randn(4, 3).t(), "n": torch.tensor([1, 2])}
    kept = {name: tensor.clone() for name, tensor in state.items()}
    planes = encode(state)
    back = decode(planes, 8)
    assert torch.allclose(back["w"], kept["w"], atol=1e-3)  # a transposed tensor too
    state["n"].zero_()
    back["n"].zero_()
    assert torch.equal(decode(planes, 8)["n"], kept["n"])
    assert torch.equal(state["w"], kept["w"])


def test_bytes_repeat():
    state = used(build(RESNET_TEACHER, 0)).state_dict()
    assert [encode(state).to_bytes(k) for k in range(1, 9)] == [encode(state).to_bytes(k) for k in range(1, 9)]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("kind", FLOATS.values(), ids=FLOATS)
def test_values_that_are_not_finite_are_refused_by_name(bad, kind):
    with pytest.raises(InvalidValueError, match=r"blocks\.0\.weight = '2 values.*NaN or infinite.*finite values only"):
        encode({"fine": torch.ones(2), "blocks.0.weight": torch.tensor([1.0, bad, bad], dtype=kind)})


def test_a_range_beyond_float64_is_refused_and_the_widest_below_it_is_not():
    with pytest.raises(InvalidValueError, match=r"w = \(-1.7e\+308, 1.7e\+308\).*range"):
        encode({"w": torch.tensor([-1.7e308, 1.7e308], dtype=torch.float64)})
    wide = torch.tensor([-3.4e38, 0, 3.4e38])
    assert torch.allclose(decode(encode({"w": wide}), 8)["w"], wide, atol=6.8e38 / 2**16)


@pytest.mark.parametrize("widths", [(), (8,), (8, 9), (0, 16), (-2, 18), (True, 15)])
def test_widths_that_are_no_cut_of_16_bits_are_refused(widths):
    with pytest.raises(InvalidValueError, match=r"widths = .*sum is 16"):
        encode({"w": torch.ones(2)}, widths)


@pytest.mark.parametrize("stages", [0, -1, 9, True])
def test_before_the_first_stage_and_after_the_last_there_is_nothing(stages):
    planes = encode({"w": torch.randn(3)})
    for ask in (decode, BitPlanes.to_bytes):
        with pytest.raises(InvalidValueError, match=r"stages = .*from 1 to 8"):
            ask(planes, stages)


def test_stages_that_have_not_arrived_are_refused():
    planes = arrived(encode({"w": torch.randn(3)}), 2)
    assert len(planes.planes) == 2
    with pytest.raises(InvalidValueError, match=r"stages = 3.*from 1 to 2"):
        decode(planes, 3)
    with pytest.raises(InvalidValueError, match="at least the first stage"):
        from_bytes([])


def stages_of(seed=0):
    net = used(build(RESNET_TEACHER, seed), seed)
    planes = encode(net.state_dict())
    return [planes.to_bytes(stage) for stage in range(1, 9)]


@given(data=st.data())
def test_a_cut_or_a_changed_byte_of_the_plane_is_named(data):
    parts = stages_of()
    which = data.draw(st.sampled_from([0, 3]))
    cut = data.draw(st.integers(0, len(parts[which]) - 1))
    plane = load(parts[which])["plane"].numpy().tobytes()
    place = parts[which].index(plane) + data.draw(st.integers(0, len(plane) - 1))
    changed = parts[which][:place] + bytes([parts[which][place] ^ 4]) + parts[which][place + 1 :]
    for damaged in (parts[which][:cut], changed):
        with pytest.raises(InvalidValueError, match=f"stage {which + 1}'"):
            from_bytes([*parts[:which], damaged, *parts[which + 1 :]])


@given(data=st.data())
def test_whatever_happens_to_a_byte_of_the_first_stage_no_wrong_network_comes_out(data):
    parts = stages_of()
    flipped = bytearray(parts[0])
    flipped[data.draw(st.integers(0, len(flipped) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    wanted = decode(from_bytes(parts[:1]), 1)
    try:
        back = decode(from_bytes([bytes(flipped)]), 1)
    except InvalidValueError:
        return
    # Nothing but padding was hit.
    assert list(back) == list(wanted)
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in back.items())


def test_stages_of_another_network_out_of_order_or_too_many_are_refused():
    ours, theirs = stages_of(0), stages_of(1)
    for parts, number in ((ours[:3] + theirs[3:], 4), ([ours[0], ours[2], ours[1]], 2), (ours[:1] + ours[:-1], 2)):
        with pytest.raises(
            InvalidValueError, match=rf"stage {number}'.*from another network, out of order, or damaged"
        ):
            from_bytes(parts)
    with pytest.raises(InvalidValueError, match=r"stages = 9.*at most 8"):
        from_bytes([*ours, ours[0]])
    with pytest.raises(InvalidValueError, match=r"stage 1'.*not a first stage"):
        from_bytes(ours[1:])


@pytest.mark.parametrize(
    "foreign",
    [b"", b"not safetensors", struct.pack("<Q", 2**60) + b"{}", save({"w": torch.ones(3)}), save({})],
    ids=["empty", "text", "huge header", "other tensors", "none"],
)
def test_what_is_no_stage_is_refused(foreign):
    with pytest.raises(InvalidValueError, match="stage 1'"):
        from_bytes([foreign])
    with pytest.raises(InvalidValueError, match="stage 2'"):
        from_bytes([stages_of()[0], foreign])


def test_a_header_of_another_format_is_refused():
    from pwl_lab.benchmarks import bitplanes

    first = load(stages_of()[0])
    text = bytes(first["header"].tolist()).replace(b'"format":1', b'"format":2')
    first["header"] = torch.from_numpy(np.frombuffer(text, np.uint8).copy())
    rest = {name: tensor for name, tensor in first.items() if name not in ("plane", "check")}
    first["check"] = torch.tensor(list(bitplanes._digest(rest).encode()), dtype=torch.uint8)
    with pytest.raises(InvalidValueError, match="its format is 2, not 1"):
        from_bytes([save(first)])
