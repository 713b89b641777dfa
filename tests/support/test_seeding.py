"""Named random streams."""

import hashlib
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from pwl_lab.support import seeding
from pwl_lab.support.errors import InvalidValueError


def test_stream_seeds_are_what_they_always_were():
    # results in stores depend on it
    for name, seed in (("init", 0), ("data", 12345)):
        digest = hashlib.sha256(f"{name}:{seed}".encode()).hexdigest()
        assert seeding.stream_seed(seed, name) == int(digest[:16], 16) // 2


def test_streams_and_seeds_are_all_different():
    found = {seeding.stream_seed(seed, name) for seed, name in product(range(200), seeding.STREAMS)}
    assert len(found) == 200 * len(seeding.STREAMS)
    assert all(0 <= value < 2**63 for value in found)


def test_unknown_stream_is_refused_naming_the_known_ones():
    with pytest.raises(ValueError, match="'weights' is not allowed: one of support, init, student, converters, data"):
        seeding.generator(0, "weights")


@pytest.mark.parametrize("role", ["", "Pair", "pair:1", "block 2 ", "block two", "2", None, 3])
def test_a_role_of_another_form_is_refused(role):
    with pytest.raises(InvalidValueError, match=r"role = .* is not allowed: a lower-case word"):
        seeding.generator(0, "data", role)


@pytest.mark.parametrize("seed", [1.0, True, "1", None, np.float64(1)])
def test_a_seed_that_is_no_whole_number_is_refused(seed):
    with pytest.raises(InvalidValueError, match=r"seed = .* is not allowed: a whole number"):
        seeding.generator(seed, "data")
    with pytest.raises(InvalidValueError), seeding.initialisation(seed):
        pass


def test_a_seed_of_numpys_is_the_same_seed():
    assert seeding.stream_seed(np.int64(7), "data") == seeding.stream_seed(7, "data")


DRAWER = st.tuples(
    st.integers(), st.sampled_from(seeding.STREAMS), st.from_regex(seeding.ROLE, fullmatch=True) | st.just("teacher")
)


@given(DRAWER, DRAWER)
def test_no_two_drawers_share_a_stream(one, other):
    assert (seeding.stream_seed(*one) == seeding.stream_seed(*other)) == (one == other)


def test_generators_start_the_stream_afresh():
    first, again = seeding.generator(3, "masks"), seeding.generator(3, "masks")
    assert torch.equal(torch.rand(9, generator=first), torch.rand(9, generator=again))
    assert not torch.equal(torch.rand(9, generator=first), torch.rand(9, generator=seeding.generator(3, "order")))
    one, other = seeding.numpy_generator(3, "masks"), seeding.numpy_generator(3, "masks")
    assert np.array_equal(one.random(9), other.random(9))


def test_one_stream_does_not_move_another():
    undisturbed = torch.rand(4, generator=seeding.generator(0, "data"))
    data, init = seeding.generator(0, "data"), seeding.generator(0, "init")
    drawn = []
    for _ in range(4):
        torch.rand(100, generator=init)
        drawn.append(torch.rand((), generator=data))
    assert torch.equal(undisturbed, torch.stack(drawn))


def weights(seed):
    with seeding.initialisation(seed):
        return nn.Linear(5, 4).weight.detach()


def test_same_seed_same_weights_whatever_was_drawn_before():
    first = weights(0)
    torch.rand(17)
    assert torch.equal(first, weights(0))
    assert not torch.equal(first, weights(1))


def test_initialisation_leaves_torchs_global_state_alone():
    torch.manual_seed(99)
    before = torch.get_rng_state()
    weights(0)
    assert torch.equal(before, torch.get_rng_state())
    with pytest.raises(RuntimeError), seeding.initialisation(0):
        nn.Linear(2, 2)(torch.zeros(3))  # draws its weights, then fails
    assert torch.equal(before, torch.get_rng_state())


def test_initialisation_leaves_the_generators_of_gpus_alone(monkeypatch):
    seeded = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded.append)
    weights(0)
    assert seeded == []
