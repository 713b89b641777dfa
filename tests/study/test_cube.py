"""The exact search over the mask cube, against every permutation; budgets against every mask."""

import math
from itertools import pairwise, permutations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pwl_lab.study import tables as analysis
from pwl_lab.study import tables as cube
from pwl_lab.support.errors import InvalidValueError
from pwl_lab.swap.masks import all_masks
from pwl_lab.swap.orders import loading_orders


def table_of(values, sizes, seeds=1):
    """A mask table of one or several seeds from accuracies in a row, the same split twice."""
    masks = all_masks(len(sizes))
    tables = []
    for seed, row in enumerate(np.reshape(values, (seeds, len(masks)))):
        accuracies = dict(zip(masks, row.tolist(), strict=True))
        tables.append(analysis.mask_table({"validation": accuracies, "test": accuracies}, sizes, seed))
    return pd.concat(tables, ignore_index=True)


@st.composite
def cubes(draw, largest=5):
    """What `table_of` makes a cube of up to `largest` blocks and two seeds from; coarse values, so that ties are common."""
    n_blocks, seeds = draw(st.integers(1, largest)), draw(st.integers(1, 2))
    value = st.integers(0, 8).map(lambda n: n / 8) | st.floats(0, 1, allow_subnormal=False)
    count = seeds * 2**n_blocks
    values = draw(st.lists(value, min_size=count, max_size=count))
    sizes = draw(st.lists(st.integers(1, 9), min_size=n_blocks, max_size=n_blocks))
    return values, sizes, seeds


def every_order(n_blocks):
    """All n! orders as masks, those with earlier blocks first."""
    for blocks in permutations(range(n_blocks)):
        yield ["".join("T" if b in blocks[:k] else "S" for b in range(n_blocks)) for k in range(n_blocks + 1)]


def area_by_hand(table, order):
    """Mean over seeds of the sum, written out."""
    total = 0.0
    for _, one in table.groupby("seed"):
        rows = one.set_index("mask")
        for before, after in pairwise(order):
            arriving = rows.loc[after, "teacher_bytes"] - rows.loc[before, "teacher_bytes"]
            total += rows.loc[before, "validation"] * arriving / rows["teacher_bytes"].max()
    return total / table["seed"].nunique()


@given(drawn=cubes())
@settings(max_examples=40)
def test_the_search_finds_what_trying_all_orders_finds(drawn):
    table = table_of(*drawn)
    areas = {tuple(order): area_by_hand(table, order) for order in every_order(cube.check_cube(table))}
    largest = max(areas.values())
    # The first of those that agree to rounding: permutations come with the earlier blocks first.
    expected = next(order for order, area in areas.items() if abs(area - largest) < 1e-11)
    assert tuple(cube.best_order(table)) == expected


@given(drawn=cubes(largest=4))
def test_areas_are_the_sums_written_out(drawn):
    table = table_of(*drawn)
    for order in (cube.best_order(table), loading_orders(cube.check_cube(table))["suffix"]):
        found = cube.order_area(table, order, "validation")
        assert list(found) == sorted(table["seed"].unique())
        assert np.mean(list(found.values())) == pytest.approx(area_by_hand(table, order))
        assert all(0 <= area <= 1 + 1e-12 for area in found.values())


def test_a_small_area_by_hand():
    table = table_of([0.5, 0.9, 0.6, 1.0], [1, 3])
    assert cube.order_area(table, ["SS", "TS", "TT"]) == {0: pytest.approx((0.5 * 1 + 0.6 * 3) / 4)}
    assert cube.order_area(table, ["SS", "ST", "TT"]) == {0: pytest.approx((0.5 * 3 + 0.9 * 1) / 4)}
    assert cube.best_order(table) == ["SS", "ST", "TT"]
    curves = analysis.order_curves(table, loading_orders(2))
    areas = cube.order_areas(curves).set_index("order")["area"]
    assert areas.to_dict() == pytest.approx({"prefix": 2.3 / 4, "suffix": 2.4 / 4, "contiguous": 2.4 / 4})


def test_the_final_accuracy_does_not_enter():
    low, high = (table_of([0.5, 0.9, 0.6, last], [1, 3]) for last in (0.0, 1.0))
    assert cube.order_area(low, ["SS", "ST", "TT"]) == cube.order_area(high, ["SS", "ST", "TT"])


def test_it_is_chosen_on_validation_and_on_the_mean_over_seeds():
    table = table_of([0.5, 0.9, 0.6, 1.0], [1, 1]).assign(validation=[0.5, 0.1, 0.6, 1.0])
    assert cube.best_order(table) == ["SS", "TS", "TT"]
    assert cube.best_order(table, "test") == ["SS", "ST", "TT"]
    two = table_of([0.5, 0.9, 0.6, 1.0, 0.5, 0.1, 0.6, 1.0], [1, 1], seeds=2)
    assert cube.best_order(two) == ["SS", "TS", "TT"]


def test_where_all_orders_are_equal_the_earlier_block_comes_first():
    thirds = table_of(np.full(32, 1 / 3), [3, 1, 7, 2, 5])
    assert cube.best_order(thirds) == loading_orders(5)["prefix"]


def test_twelve_blocks_are_searched_too():
    random = np.random.default_rng(0)
    table = table_of(random.random(2**12), random.integers(1, 99, 12).tolist())
    best = cube.best_order(table)
    assert sorted(cube.arrivals(best)) == list(range(1, 13))
    prefix = loading_orders(12)["prefix"]
    areas = [cube.order_area(table, order, "validation")[0] for order in (prefix, best)]
    assert areas[0] < areas[1]


@given(blocks=st.integers(1, 7).flatmap(lambda n: st.permutations(range(1, n + 1))))
def test_an_orders_name_lists_the_blocks_as_they_arrive(blocks):
    n = len(blocks)
    order = ["".join("T" if b in blocks[:k] else "S" for b in range(1, n + 1)) for k in range(n + 1)]
    assert cube.arrivals(order) == list(blocks)
    assert cube.order_name(order) == "-".join(map(str, blocks))


@pytest.mark.parametrize(
    "order",
    [
        [],
        ["SS", "TT"],
        ["SS", "TS"],
        ["TS", "TT"],
        ["SS", "TS", "ST", "TT"],
        ["SSS", "TSS", "STT", "TTT"],
        ["SS", "S", "TT"],
    ],
)
def test_what_is_no_order_is_refused(order):
    with pytest.raises(InvalidValueError, match="from all-student to all-teacher"):
        cube.order_name(order)


@pytest.mark.parametrize("search", [cube.best_order, cube.best_under_budget, cube.check_cube])
def test_an_incomplete_cube_is_refused(search):
    whole = table_of(np.arange(16) / 16, [1, 2, 3], seeds=2)
    with pytest.raises(InvalidValueError, match=r"masks of seed 1 = '7 rows, without STS'.*each of the 8 masks"):
        search(whole.drop(index=8 + 2))
    with pytest.raises(InvalidValueError, match=r"masks of seed 0 = '9 rows' is not allowed"):
        search(pd.concat([whole, whole.iloc[:1]]))
    with pytest.raises(InvalidValueError, match="an empty table"):
        search(whole.iloc[:0])
    with pytest.raises(InvalidValueError, match="different between seeds"):
        search(whole.assign(teacher_bytes=whole["teacher_bytes"] * (1 + whole["seed"])))


@given(drawn=cubes())
def test_the_best_mask_under_any_budget_is_the_best_of_those_that_fit(drawn):
    table = table_of(*drawn)
    found = cube.best_under_budget(table)
    means = table.groupby("mask")[["teacher_bytes", "validation"]].mean()
    assert found["teacher_bytes"].iloc[0] == 0
    for budget in range(int(means["teacher_bytes"].max()) + 1):
        answer = found[found["teacher_bytes"] <= budget].iloc[-1]
        fits = means[means["teacher_bytes"] <= budget]
        assert answer["validation"] == pytest.approx(fits["validation"].max(), abs=1e-11)
        assert means.loc[answer["mask"], "teacher_bytes"] == answer["teacher_bytes"]
    assert found["teacher_bytes"].is_monotonic_increasing
    assert found["validation"].is_monotonic_increasing


def test_a_budget_is_chosen_on_validation_and_reported_on_test():
    table = table_of([0.5, 0.9, 0.6, 0.8], [1, 3]).assign(test=[0.4, 0.3, 0.2, 0.1])
    other = table.assign(seed=1, test=[0.6, 0.5, 0.4, 0.3])
    found = cube.best_under_budget(pd.concat([table, other]))
    assert found["mask"].tolist() == ["SS", "TS", "ST"]  # the whole teacher is worse than ST
    assert found["teacher_bytes"].tolist() == [0, 1, 3]
    assert found["validation"].tolist() == pytest.approx([0.5, 0.6, 0.9])
    assert found["test"].tolist() == pytest.approx([0.5, 0.3, 0.4])
    assert found["test_lowest"].tolist() == pytest.approx([0.4, 0.2, 0.3])
    assert found["test_highest"].tolist() == pytest.approx([0.6, 0.4, 0.5])
    assert cube.best_under_budget(pd.concat([table, other]), "test")["mask"].tolist() == ["SS"]
    assert math.isclose(found["test"].iloc[-1], 0.4)
