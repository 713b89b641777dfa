"""Loading orders as blocks and as masks, and the exact search over them."""

from itertools import permutations, product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pwl_lab.errors import InvalidValueError, UnknownNameError
from pwl_lab.loading import orders


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
    with pytest.raises(InvalidValueError, match=r"each of the blocks 1 to 3 once|unknown order"):
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
