"""Swap masks: the named ones, what is refused, and the distributions of the cross loss."""

import inspect
from collections import Counter
from itertools import islice, pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pwl_lab.support.errors import InvalidValueError
from pwl_lab.swap.masks import all_masks, check_mask, prefix_mask, random_masks, suffix_mask

sizes = st.integers(1, 10)
distributions = ["prefix", "alternating", "mixture", "all"]


def draw(n, n_blocks, distribution, seed=0):
    return list(islice(random_masks(n_blocks, distribution, torch.Generator().manual_seed(seed)), n))


def switches(mask):
    return sum(a != b for a, b in pairwise(mask))


@given(n_blocks=sizes, data=st.data())
def test_prefix_and_suffix_load_from_their_end(n_blocks, data):
    loaded = data.draw(st.integers(0, n_blocks))
    prefix, suffix = prefix_mask(loaded, n_blocks), suffix_mask(loaded, n_blocks)
    for index in range(n_blocks):
        assert prefix[index] == ("T" if index < loaded else "S")
        assert suffix[index] == ("T" if index >= n_blocks - loaded else "S")
    assert check_mask(prefix, n_blocks) == prefix
    assert len(suffix) == n_blocks


@given(n_blocks=sizes, excess=st.integers(1, 5))
def test_more_teacher_blocks_than_blocks_are_refused(n_blocks, excess):
    for mask in (prefix_mask, suffix_mask):
        with pytest.raises(InvalidValueError, match=rf"teacher_blocks = {n_blocks + excess}.*from 0 to {n_blocks}"):
            mask(n_blocks + excess, n_blocks)
        with pytest.raises(InvalidValueError, match="teacher_blocks = -"):
            mask(-excess, n_blocks)


@given(n_blocks=sizes)
def test_all_masks_are_all_words_once(n_blocks):
    masks = all_masks(n_blocks)
    assert len(masks) == len(set(masks)) == 2**n_blocks
    assert masks[0] == "S" * n_blocks
    assert masks[-1] == "T" * n_blocks
    assert all(check_mask(mask, n_blocks) == mask for mask in masks)


@given(n_blocks=sizes, mask=st.text("STst x", max_size=12))
def test_check_mask_takes_exactly_the_words_of_its_length(n_blocks, mask):
    if len(mask) == n_blocks and mask == "".join(letter for letter in mask if letter in "ST"):
        assert check_mask(mask, n_blocks) == mask
    else:
        with pytest.raises(InvalidValueError, match=rf"{n_blocks} letters, S \(student\) or T \(teacher\)"):
            check_mask(mask, n_blocks)


@pytest.mark.parametrize("mask", [None, 3, ["T", "S"], b"TS"])
def test_check_mask_refuses_what_is_no_word(mask):
    with pytest.raises(InvalidValueError, match="mask = "):
        inspect.unwrap(check_mask)(mask, 2)  # as outside tests, without type checks


@pytest.mark.parametrize("distribution", distributions)
@given(n_blocks=st.integers(2, 7), seed=st.integers(0, 2**31))
def test_drawn_masks_are_mixed_and_follow_the_seed(distribution, n_blocks, seed):
    masks = draw(20, n_blocks, distribution, seed)
    for mask in masks:
        assert check_mask(mask, n_blocks)
        assert set(mask) == {"S", "T"}
    assert masks == draw(20, n_blocks, distribution, seed)


@given(n_blocks=st.integers(2, 7), seed=st.integers(0, 2**31))
def test_prefix_draws_only_prefixes(n_blocks, seed):
    assert set(draw(20, n_blocks, "prefix", seed)) <= {prefix_mask(k, n_blocks) for k in range(1, n_blocks)}


@pytest.mark.parametrize("distribution", distributions)
def test_masks_of_many_blocks_are_drawn_without_writing_all_of_them_down(distribution):
    assert {len(mask) for mask in draw(20, 60, distribution)} == {60}


def test_alternating_takes_a_prefix_and_any_mixed_mask_in_turn():
    masks = draw(400, 4, "alternating", seed=3)
    assert set(masks[::2]) == {"TSSS", "TTSS", "TTTS"}
    assert set(masks[1::2]) == set(all_masks(4)[1:-1])


def expected_shares(n_blocks, distribution):
    """The probability of each mask, written down from the definition."""
    mixed = [mask for mask in all_masks(n_blocks) if len(set(mask)) == 2]
    if distribution == "prefix":
        mixed = [mask for mask in mixed if "ST" not in mask]
    shares = {mask: 1 / len(mixed) for mask in mixed}
    if distribution == "alternating":
        prefixes = [mask for mask in mixed if "ST" not in mask]
        shares = {mask: share / 2 + (mask in prefixes) / (2 * len(prefixes)) for mask, share in shares.items()}
    if distribution == "mixture":
        one_switch = [mask for mask in mixed if switches(mask) == 1]
        shares = {mask: share / 2 + (mask in one_switch) / (2 * len(one_switch)) for mask, share in shares.items()}
    return shares


@pytest.mark.parametrize("distribution", distributions)
@pytest.mark.parametrize("n_blocks", [2, 3, 4])
def test_masks_come_as_often_as_they_should(distribution, n_blocks):
    draws, shares = 6000, expected_shares(n_blocks, distribution)
    counts = Counter(draw(draws, n_blocks, distribution, seed=1))
    assert set(counts) == set(shares)
    assert sum(shares.values()) == pytest.approx(1)
    chi_square = sum((counts[mask] - draws * share) ** 2 / (draws * share) for mask, share in shares.items())
    freedom = len(shares) - 1
    assert chi_square < freedom + 5 * (2 * freedom) ** 0.5 + 5


def test_half_of_the_mixture_has_one_switch_plus_its_share_of_the_rest():
    masks = draw(6000, 4, "mixture", seed=2)
    share = sum(switches(mask) == 1 for mask in masks) / 6000
    assert share == pytest.approx(0.5 + 0.5 * 6 / 14, abs=5 * 0.0058)


@pytest.mark.parametrize("distribution", distributions)
def test_one_block_cannot_be_mixed(distribution):
    with pytest.raises(InvalidValueError, match=r"n_blocks = 1.*at least 2"):
        next(random_masks(1, distribution, torch.Generator()))


weights = st.dictionaries(st.sampled_from(all_masks(4)[1:-1]), st.floats(0.1, 10), min_size=1, max_size=5)


@given(weights=weights)
def test_weighted_masks_come_as_often_as_their_weights_say(weights):
    draws = 600
    counts = Counter(draw(draws, 4, weights))
    assert set(counts) <= set(weights)
    for mask, weight in weights.items():
        share = weight / sum(weights.values())
        assert abs(counts[mask] - draws * share) <= 5 * (draws * share * (1 - share)) ** 0.5 + 1e-9, mask


@given(weights=weights, seed=st.integers(0, 2**31))
def test_weighted_masks_follow_the_seed_and_not_the_order_they_are_written_in(weights, seed):
    masks = draw(20, 4, weights, seed)
    # the store's keys do not go by the order either: one key, one result
    assert masks == draw(20, 4, dict(reversed(weights.items())), seed)
    assert masks == draw(20, 4, weights, seed)


def test_a_single_weighted_mask_is_the_only_one():
    assert set(draw(50, 4, {"TSSS": 0.001})) == {"TSSS"}


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ({"TSS": 1.0}, "mask = 'TSS'.*4 letters"),
        ({"TSSS": 1.0, "TSSSS": 1.0}, "mask = 'TSSSS'.*4 letters"),
        ({"TXSS": 1.0}, "mask = 'TXSS'.*4 letters"),
        ({"SSSS": 1.0}, "masks = 'SSSS'.*mixed masks only"),
        ({"TSSS": 1.0, "TTTT": 1.0}, "masks = 'TTTT'.*mixed masks only"),
        ({}, "masks = {}.*at least one mixed mask"),
    ],
)
def test_weights_of_masks_that_mix_nothing_or_do_not_fit_are_refused_before_the_first_draw(weights, words):
    with pytest.raises(InvalidValueError, match=words):
        random_masks(4, weights, torch.Generator())
