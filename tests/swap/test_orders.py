"""Loading orders as blocks and as masks, and the exact search over them."""

from itertools import permutations, product
from operator import le

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pwl_lab.support.errors import InvalidValueError, UnknownNameError
from pwl_lab.swap import orders


def area(accuracy, cost, blocks):
    masks = orders.masks_on_the_way(blocks)
    return sum(accuracy[mask] * cost[block - 1] for mask, block in zip(masks, blocks, strict=False)) / sum(cost)


@given(st.data(), st.integers(1, 4))
def test_the_search_finds_the_largest_and_the_smallest_area_of_all_orders(data, n_blocks):
    share, size = st.floats(0, 1, allow_nan=False), st.floats(0.01, 100, allow_nan=False)
    accuracy = {"".join(letters): data.draw(share) for letters in product("ST", repeat=n_blocks)}
    cost = [data.draw(size) for _ in range(n_blocks)]
    areas = [area(accuracy, cost, blocks) for blocks in permutations(range(1, n_blocks + 1))]
    for pick in (max, min):
        found = orders.arrivals(orders.search_order(accuracy, cost, pick))
        assert area(accuracy, cost, found) == pytest.approx(pick(areas))


def test_a_block_that_costs_nothing_comes_as_soon_as_it_helps():
    accuracy = {"SS": 0.5, "TS": 0.5, "ST": 0.9, "TT": 1.0}
    assert orders.search_order(accuracy, [1.0, 0.0]) == ["SS", "ST", "TT"]


@given(st.permutations(range(1, 6)))
def test_blocks_and_masks_say_the_same(blocks):
    assert orders.arrivals(orders.masks_on_the_way(blocks)) == blocks


@pytest.mark.parametrize(
    ("order", "blocks"),
    [
        ("prefix", [1, 2, 3]),
        ("suffix", [3, 2, 1]),
        ("contiguous", [2, 3, 1]),
        ("2-1-3", [2, 1, 3]),
        ((3, 1, 2), [3, 1, 2]),
    ],
)
def test_an_order_is_named_or_spelt_out(order, blocks):
    assert orders.arrivals_of(order, 3) == blocks


@pytest.mark.parametrize("order", ["1-2", "1-2-2", "0-1-2", [1, 2, 4], [], "-"])
def test_an_order_that_leaves_a_block_out_is_refused(order):
    with pytest.raises(InvalidValueError, match=r"each of the blocks 1 to 3 exactly once|unknown order"):
        orders.arrivals_of(order, 3)


def test_an_unknown_name_is_met_with_the_nearest_one():
    with pytest.raises(UnknownNameError, match="prefix"):
        orders.arrivals_of("prefx", 3)


@pytest.mark.parametrize(
    ("accuracy", "cost"),
    [({"S": 0.5}, [1.0]), ({"S": 0.5, "T": 0.6}, [0.0]), ({"S": 0.5, "T": 0.6}, [-1.0])],
)
def test_a_search_without_a_mask_or_with_senseless_costs_is_refused(accuracy, cost):
    with pytest.raises(InvalidValueError):
        orders.search_order(accuracy, cost)


# ---- the mask to run after a loss


def worth(mask, order, table):
    """How good a mask is for the brute force: its accuracy; the blocks it has; the blocks that come first."""
    way = orders.masks_on_the_way(order)
    known = [table[step] for step in way[: way.index(mask) + 1] if step in table] if mask in way else []
    value = table.get(mask, known[-1] if known else -1.0)
    return value, mask.count("T"), [mask[block - 1] == "T" for block in order]


@settings(max_examples=400)
@given(st.data(), st.integers(1, 5))
def test_after_a_loss_no_mask_of_what_arrived_is_better_than_the_one_that_runs(data, n_blocks):
    """Every subset of what arrived is tried; where there was no loss all that has arrived runs, whatever is recorded."""
    blocks = range(1, n_blocks + 1)
    order = data.draw(st.permutations(blocks))
    arrived, missed = (data.draw(st.sets(st.sampled_from(blocks))) for _ in range(2))
    every = ["".join(letters) for letters in product("ST", repeat=n_blocks)]
    grades = st.integers(0, 6).map(lambda grade: grade / 6)
    table = data.draw(st.dictionaries(st.sampled_from(every), grades))
    found = orders.best_mask(order, arrived, missed, table)
    whole = "".join("T" if block in arrived else "S" for block in blocks)
    if missed <= arrived:
        assert found == whole
        return
    start = next(length for length in range(n_blocks + 1) if length == n_blocks or order[length] not in arrived)
    fallback = orders.masks_on_the_way(order)[start]
    possible = [mask for mask in every if mask in {*table, fallback} and all(map(le, mask, whole))]
    assert found == max(possible, key=lambda mask: worth(mask, order, table))


def test_with_many_blocks_nothing_counts_all_their_masks():
    """Of 64 blocks there are more masks than anything could count: each of these would never end, or fill the memory."""
    blocks = list(range(1, 65))
    table = {"T" * length + "S" * (64 - length): length / 64 for length in range(63)}
    assert orders.best_mask(blocks, set(blocks) - {9}, {9}, {}) == "T" * 8 + "S" * 56
    assert orders.best_mask(blocks, set(blocks) - {9}, {9}, table) == "T" * 8 + "S" * 56
    with pytest.raises(InvalidValueError, match=r"each of the 2\^64 masks of 64 blocks"):
        orders.search_order(table, [1.0] * 64)
    assert orders.first_missing(table, 64) == "S" * 63 + "T"
