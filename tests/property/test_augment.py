"""Augmentation changes images as it says and nothing else; a balanced order is one."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pwl_lab.support.errors import InvalidValueError
from pwl_lab.tasks.augment import Augmentation, random_crop, random_flip, random_rotation
from pwl_lab.tasks.datasets import balanced_order

sides = st.integers(4, 12)
seeds = st.integers(0, 2**31 - 1)
few = settings(max_examples=25, deadline=None)


def generator(seed):
    return torch.Generator().manual_seed(seed)


def images(n, channels, height, width):
    return torch.arange(n * channels * height * width, dtype=torch.float32).view(n, channels, height, width)


@few
@given(
    n=st.integers(1, 6), channels=st.integers(1, 3), height=sides, width=sides, padding=st.integers(0, 3), seed=seeds
)
def test_every_crop_is_a_window_of_the_reflected_image(n, channels, height, width, padding, seed):
    before = images(n, channels, height, width)
    after = random_crop(before, padding, generator(seed))
    assert after.shape == before.shape
    for one, crop in zip(before.numpy(), after.numpy(), strict=True):
        wide = np.pad(one, ((0, 0), (padding, padding), (padding, padding)), mode="reflect")
        windows = np.lib.stride_tricks.sliding_window_view(wide, (height, width), axis=(1, 2))
        assert any(np.array_equal(windows[:, y, x], crop) for y, x in np.ndindex(windows.shape[1:3]))


@few
@given(n=st.integers(1, 8), height=sides, width=sides, seed=seeds)
def test_every_flip_is_the_image_or_its_mirror(n, height, width, seed):
    before = images(n, 2, height, width)
    after = random_flip(before, generator(seed))
    for one, flipped in zip(before, after, strict=True):
        assert torch.equal(flipped, one) or torch.equal(flipped, one.flip(-1))


def test_shifts_and_mirrors_come_equally_often():
    before = images(1, 1, 5, 5).expand(4_000, 1, 5, 5)
    centres = random_crop(before, 1, generator(0))[:, 0, 2, 2]  # tells which of the 9 windows it is
    counts = torch.unique(centres, return_counts=True)[1]
    assert len(counts) == 9
    assert (counts - 4_000 / 9).abs().max() < 100
    mirrored = (random_flip(before, generator(0)) != before).flatten(1).any(dim=1)
    assert mirrored.float().mean().item() == pytest.approx(0.5, abs=0.05)


@few
@given(degrees=st.floats(0, 180), height=sides, width=sides, seed=seeds)
def test_a_turn_keeps_a_uniform_image_and_the_range(degrees, height, width, seed):
    uniform = torch.full((3, 1, height, width), 0.7)
    torch.testing.assert_close(random_rotation(uniform, degrees, generator(seed)), uniform)
    noise = torch.rand(3, 1, height, width, generator=generator(seed))
    turned = random_rotation(noise, degrees, generator(seed))
    assert turned.min() >= noise.min() - 1e-5
    assert turned.max() <= noise.max() + 1e-5


def test_a_turn_is_a_turn(monkeypatch):
    before = images(1, 1, 6, 6)
    torch.testing.assert_close(random_rotation(before, 0.0, generator(0)), before, atol=1e-3, rtol=0)
    monkeypatch.setattr(torch, "rand", lambda n, generator: torch.ones(n))  # the largest angle
    turned = random_rotation(before, 90.0, generator(0))
    quarter_turns = [torch.rot90(before, k, (2, 3)) for k in (1, -1)]
    assert any(torch.allclose(turned, quarter, atol=1e-3) for quarter in quarter_turns)
    long = torch.zeros(1, 1, 5, 9)
    long[0, 0, 2, 3:6] = 1  # a bar across the centre of an oblong image keeps its length when it is turned upright
    torch.testing.assert_close(random_rotation(long, 90.0, generator(0))[0, 0, 1:4, 4], torch.ones(3))


@few
@given(padding=st.integers(0, 3), flip=st.booleans(), degrees=st.sampled_from([0.0, 15.0]), seed=seeds)
def test_the_whole_follows_its_seed_and_leaves_its_input_alone(padding, flip, degrees, seed):
    augmentation = Augmentation(crop_padding=padding, flip=flip, rotation_degrees=degrees)
    before = images(5, 1, 8, 8)
    first, again = (augmentation.apply(before, generator(seed)) for _ in range(2))
    assert torch.equal(first, again)
    assert first.shape == before.shape
    assert torch.equal(before, images(5, 1, 8, 8))


@few
@given(n=st.integers(1, 4), side=st.integers(5, 12), seed=seeds)
def test_the_planes_of_a_coloured_image_move_together(n, side, seed):
    grey = torch.rand(n, 1, side, side, generator=generator(seed))
    coloured = torch.cat([grey, 1 - grey, 3 * grey], dim=1)
    augmentation = Augmentation.of_the_paper()
    red, green, blue = augmentation.apply(coloured, generator(seed)).unbind(dim=1)
    torch.testing.assert_close(green, 1 - red)
    torch.testing.assert_close(blue, 3 * red)
    torch.testing.assert_close(red, augmentation.apply(grey, generator(seed))[:, 0])  # and as a grey one would


def test_the_sources_shift_mirror_and_turn():
    assert Augmentation.of_the_paper().model_dump() == {"crop_padding": 4, "flip": True, "rotation_degrees": 15.0}
    before = images(1, 3, 32, 32).expand(64, 3, 32, 32)
    stream = generator(0)
    by_hand = random_rotation(random_flip(random_crop(before, 4, stream), stream), 15.0, stream)
    after = Augmentation.of_the_paper().apply(before, generator(0))
    assert torch.equal(after, by_hand)
    assert len({image.numpy().tobytes() for image in after}) == 64


def test_none_changes_and_draws_nothing():
    stream = generator(0)
    before = images(2, 1, 8, 8)
    assert torch.equal(Augmentation.none().apply(before, stream), before)
    assert torch.equal(stream.get_state(), generator(0).get_state())


@pytest.mark.parametrize("bad", [{"crop_padding": -1}, {"crop_padding": 17}, {"rotation_degrees": 181}, {"flop": True}])
def test_bad_settings_are_refused(bad):
    with pytest.raises(InvalidValueError, match=next(iter(bad))):
        Augmentation(**bad)


def test_padding_must_leave_something_to_reflect():
    with pytest.raises(InvalidValueError, match="crop_padding = 8 is not allowed: from 0 to 7 for images of 8x8"):
        random_crop(images(1, 1, 8, 8), 8, generator(0))


@few
@given(labels=st.lists(st.integers(0, 4), min_size=1, max_size=60), seed=seeds)
def test_every_prefix_of_a_balanced_order_is_balanced(labels, seed):
    array = np.array(labels, dtype=np.uint8)
    order = balanced_order(array, seed)
    assert sorted(order.tolist()) == list(range(len(array)))
    totals = np.bincount(array, minlength=5)
    for n in range(1, len(array) + 1):
        counts = np.bincount(array[order[:n]], minlength=5)
        unfinished = counts[counts < totals]  # classes that could still have given one
        assert unfinished.size == 0 or counts.max() - unfinished.min() <= 1
