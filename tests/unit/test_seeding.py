"""Named random streams."""

import hashlib
from itertools import product

import numpy as np
import pytest
import torch
from torch import nn

from pwl_lab import seeding


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
    with pytest.raises(
        ValueError, match="unknown random stream 'weights'; known: support, init, student, converters, data"
    ):
        seeding.generator(0, "weights")


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
