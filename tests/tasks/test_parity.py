"""SparseParity: the label, the support, the streams, and what is refused."""

import inspect
from itertools import islice

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pwl_lab.support.errors import InvalidValueError
from pwl_lab.tasks.base import Task
from pwl_lab.tasks.checks import check_support
from pwl_lab.tasks.parity import SparseParity

seeds = st.integers(0, 2**31 - 1)


@st.composite
def bits_and_support(draw):
    n_bits = draw(st.integers(1, 24))
    return n_bits, tuple(draw(st.permutations(range(n_bits)))[: draw(st.integers(1, n_bits))])


def take(task, n, seed=0, batch_size=16):
    return list(islice(task.batches(seed, batch_size), n))


def rows(batch):
    return {tuple(row) for row in batch.inputs.int().tolist()}


def plain_label(row, support):
    """Count the minus signs: the product is +1 where their number is even."""
    minus = sum(1 for bit in support if row[bit] == -1.0)
    return 1 if minus % 2 == 0 else 0


def test_it_is_a_task():
    task = SparseParity(n_bits=7, k_sparse=2)
    assert isinstance(task, Task)
    assert (task.input_shape, task.n_classes) == ((7,), 2)


@given(n_bits=st.integers(1, 40), data=st.data(), seed=seeds)
def test_drawn_support_is_that_many_distinct_bits_in_order(n_bits, data, seed):
    k_sparse = data.draw(st.integers(1, n_bits))
    support = SparseParity(n_bits=n_bits, k_sparse=k_sparse, seed=seed).support
    assert len(set(support)) == k_sparse
    assert list(support) == sorted(support)
    assert set(support) <= set(range(n_bits))


def test_support_is_drawn_evenly_and_without_replacement():
    supports = [SparseParity(n_bits=12, k_sparse=6, seed=seed).support for seed in range(600)]
    assert {len(set(support)) for support in supports} == {6}
    counts = torch.bincount(torch.tensor(supports).flatten(), minlength=12)
    assert counts.sum() == 3600
    assert (counts - 300).abs().max() < 5 * 12.3  # 600 draws with probability one half: deviation 12.3


@given(chosen=bits_and_support(), seed=seeds)
@settings(max_examples=60)
def test_label_is_the_product_over_any_given_support(chosen, seed):
    n_bits, support = chosen
    task = SparseParity(n_bits=n_bits, support=support, seed=seed)
    assert task.k_sparse == len(support)
    (batch,) = take(task, 1, seed)
    assert set(batch.inputs.unique().tolist()) <= {-1.0, 1.0}
    assert batch.labels.tolist() == [plain_label(row, support) for row in batch.inputs.tolist()]


def test_flipping_a_bit_flips_the_label_only_inside_the_support():
    task = SparseParity(n_bits=8, support=(1, 4, 6))
    batch = task.split("test")
    for bit in range(8):
        flipped = batch.inputs.clone()
        flipped[:, bit] *= -1
        expected = 1 - batch.labels if bit in (1, 4, 6) else batch.labels
        assert torch.equal(task.labels(flipped), expected)


def test_signs_and_labels_are_balanced_and_independent():
    batch = SparseParity(n_bits=10, k_sparse=3, eval_samples=20_000).split("validation")
    covariance = batch.inputs.T @ batch.inputs / 20_000 - torch.eye(10)
    assert batch.inputs.mean(dim=0).abs().max() < 5 / 20_000**0.5
    assert covariance.abs().max() < 5 / 20_000**0.5
    assert abs(batch.labels.double().mean() - 0.5) < 5 * 0.5 / 20_000**0.5


def test_same_seed_gives_the_same_batches_and_another_seed_others():
    task = SparseParity(n_bits=20, k_sparse=3)
    once, again, other = take(task, 3, seed=5), take(task, 3, seed=5), take(task, 3, seed=6)
    for a, b, c in zip(once, again, other, strict=True):
        assert torch.equal(a.inputs, b.inputs)
        assert torch.equal(a.labels, b.labels)
        assert not torch.equal(a.inputs, c.inputs)
    assert not torch.equal(once[0].inputs, once[1].inputs)


def test_training_stream_is_not_moved_by_evaluation_or_by_torchs_global_state():
    task = SparseParity(n_bits=20, k_sparse=3)
    undisturbed = take(task, 3)
    stream, disturbed = task.batches(0, 16), []
    for _ in range(3):
        task.split("validation")
        torch.rand(5)
        disturbed.append(next(stream))
    assert all(torch.equal(a.inputs, b.inputs) for a, b in zip(undisturbed, disturbed, strict=True))


def test_global_state_is_left_alone():
    before = torch.get_rng_state()
    task = SparseParity(n_bits=20, k_sparse=3)
    take(task, 2)
    task.split("test")
    assert torch.equal(before, torch.get_rng_state())


def test_inputs_do_not_depend_on_the_support():
    one, other = SparseParity(n_bits=20, support=(1, 2)), SparseParity(n_bits=20, support=(7, 8, 9))
    assert torch.equal(take(one, 1)[0].inputs, take(other, 1)[0].inputs)


def test_evaluation_sets_are_fixed_and_share_no_sample():
    splits = {}
    for seed in range(4):
        task = SparseParity(n_bits=50, k_sparse=4, seed=seed, eval_samples=500)
        for name in ("validation", "test"):
            batch = task.split(name)
            assert len(batch) == 500
            assert torch.equal(batch.inputs, SparseParity(50, 4, seed, eval_samples=500).split(name).inputs)
            splits[seed, name] = rows(batch)
        splits[seed, "train"] = set().union(*(rows(batch) for batch in take(task, 20, seed)))
    assert sum(len(part) for part in splits.values()) == len(set().union(*splits.values()))


def test_fingerprint_says_what_determines_the_samples():
    task = SparseParity(n_bits=9, k_sparse=2, seed=1)
    assert task.fingerprint() == SparseParity(n_bits=9, support=task.support[::-1], seed=1).fingerprint()
    others = [
        SparseParity(n_bits=10, support=task.support, seed=1),
        SparseParity(n_bits=9, support=task.support, seed=2),
        SparseParity(n_bits=9, support=(task.support[0], (task.support[1] + 1) % 9), seed=1),
        SparseParity(n_bits=9, support=task.support, seed=1, eval_samples=7),
    ]
    assert all(other.fingerprint() != task.fingerprint() for other in others)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"n_bits": 5, "support": (0, 5)}, ["support = (0, 5)", "0 to 4", "outside: [5]"]),
        ({"n_bits": 5, "support": (-1, 2)}, ["support = (-1, 2)", "0 to 4", "outside: [-1]"]),
        ({"n_bits": 5, "support": (2, 3, 2)}, ["support = (2, 3, 2)", "distinct"]),
        ({"n_bits": 5, "support": (2, 3), "k_sparse": 3}, ["support = (2, 3)", "k_sparse = 3"]),
        ({"n_bits": 5, "support": ()}, ["k_sparse = 0", "from 1 to n_bits = 5"]),
        ({"n_bits": 5, "k_sparse": 6}, ["k_sparse = 6", "from 1 to n_bits = 5"]),
        ({"n_bits": 5, "k_sparse": 0}, ["k_sparse = 0", "from 1 to n_bits = 5"]),
        ({"n_bits": 3}, ["k_sparse = 4", "n_bits = 3"]),
        ({"n_bits": 0}, ["n_bits = 0", "at least 1"]),
        ({"n_bits": 5, "k_sparse": 1, "eval_samples": 0}, ["eval_samples = 0", "at least 1"]),
    ],
)
def test_bad_values_are_refused_with_field_value_and_range(arguments, words):
    with pytest.raises(InvalidValueError) as refusal:
        SparseParity(**arguments)
    for word in words:
        assert word in str(refusal.value)


def test_bits_that_are_not_whole_numbers_are_refused():
    # cut off to whole numbers, these two would be the same bit twice; unwrap: as outside tests, without type checks
    with pytest.raises(InvalidValueError, match="support = "):
        inspect.unwrap(check_support)((1.0, 1.5), 5, 2)


def test_unknown_split_is_refused_naming_the_known_ones():
    with pytest.raises(InvalidValueError, match=r"split = 'train'.*validation, test"):
        SparseParity(n_bits=5, k_sparse=1).split("train")


def test_bad_batch_size_is_refused_at_the_call():
    with pytest.raises(InvalidValueError, match=r"batch_size = 0.*at least 1"):
        SparseParity(n_bits=5, k_sparse=1).batches(0, 0)
