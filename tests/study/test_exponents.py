"""Exponents over sizes, with draws as the unit of resampling, and what they are drawn from."""

import numpy as np
import pandas as pd
import pytest

from pwl_lab import plots
from pwl_lab.study import exponents
from pwl_lab.support.errors import InvalidValueError

SPREAD = (0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.3)


def students(k, curriculum, power, never=(), spread=SPREAD):
    """Draws that need n^power samples, times a factor; at the sizes `never` most run out of budget."""
    return pd.DataFrame([
        {"k": k, "n": n, "curriculum": curriculum, "seed": seed, "samples": n**power * factor,
         "reached": n not in never or seed == 0}
        for n in (8, 16, 32)
        for seed, factor in enumerate(spread)
    ])  # fmt: skip


def test_an_exponent_and_a_difference_have_intervals():
    points = pd.concat([students(3, "one_shot", 3.0), students(3, "extracted", 1.0), students(4, "extracted", 1.0)])
    fits = exponents.exponents(points)
    low, middle, high = fits.of(3, "one_shot")
    assert middle == pytest.approx(3.0)
    assert 2.7 < low < 3.0 < high < 3.3
    # the same draws in both curricula: what they have in common cancels
    assert fits.difference((3, "one_shot"), (3, "extracted")) == pytest.approx((2.0, 2.0, 2.0))
    low, middle, high = fits.difference((4, "extracted"), (3, "extracted"))
    assert low < 0 < high, "other sizes are resampled apart"
    assert middle == pytest.approx(0.0)
    assert fits.table().loc["one_shot", 3].startswith("3.00 (")


def test_sizes_where_half_never_got_there_are_left_out():
    """A slow student that arrives and one that never does are the same to a median; a fast loss is not a fast arrival."""
    points = students(3, "one_shot", 2.0, never=(32,))
    points.loc[~points["reached"], "samples"] = 1.0  # diverged at once
    fits = exponents.exponents(points)
    assert fits.left_out == ((3, 32, "one_shot"),)
    assert fits.of(3, "one_shot")[1] == pytest.approx(2.0)
    one_lost = students(3, "one_shot", 2.0)
    one_lost.loc[(one_lost["n"] == 32) & (one_lost["seed"] == 6), ["samples", "reached"]] = [1.0, False]
    assert exponents.exponents(one_lost).of(3, "one_shot")[1] == pytest.approx(2.0)
    with pytest.raises(InvalidValueError, match="at least 2 sizes, to fit a slope"):
        exponents.exponents(students(3, "one_shot", 2.0, never=(16, 32)))


def test_a_ratio_is_that_of_medians_over_shared_draws():
    points = pd.concat(
        [students(3, "one_shot", 1.0), students(3, "extracted", 1.0).assign(samples=lambda t: t["samples"] / 4)]
    )
    size = points[points["n"] == 16]
    assert exponents.ratio_to(size) == pytest.approx((4.0, 4.0, 4.0))
    lost = size.assign(reached=(size["curriculum"] == "extracted") | (size["seed"] < 2))
    assert exponents.ratio_to(lost)[1] == np.inf
    table = exponents.medians_table(points)
    assert table.loc[(3, 16), "one_shot / extracted"] == "4.0 (4.0 to 4.0)"
    assert exponents.medians_table(points[points["curriculum"] == "extracted"])["one_shot / extracted"].eq("").all()


def test_the_figure_moves_points_apart_and_marks_those_of_this_run():
    points = pd.concat([students(3, "one_shot", 2.0), students(3, "extracted", 1.0)])
    fits = exponents.exponents(points)
    axes = plots.scaling_curves(points, fits=fits, theory={3: {"one_shot": 2}}, own=points.head(3)).axes[0]
    left, right, own = (dots.get_offsets() for dots in axes.collections)
    assert (left[:, 0] < right[:, 0]).all()
    assert (abs(left[:, 0] / points["n"].to_numpy()[:21] - 1) < 0.02).all()
    assert own[:, 0].tolist() == points["n"].head(3).tolist(), "those of this run lie at their size"
    words = [text.get_text() for text in axes.get_legend().get_texts()]
    assert "theory, one-shot: 2" in words
    assert "trained in this run" in words


def test_the_shipped_students_are_whole():
    """Sixteen draws of every size and curriculum; tuned on others; the best setting is the least median of its grid."""
    points, grid, best = exponents.sizes(), exponents.shipped("complexity_tuning"), exponents.shipped("complexity_best")
    assert set(points["seed"]) == set(range(16))
    assert (points.groupby(["k", "n", "curriculum"]).size() == 16).all()
    keys = ["curriculum", "k", "n"]
    least = grid.groupby(keys)["samples"].min()
    chosen = best.set_index(keys)["samples"]
    assert np.allclose(chosen, least[chosen.index], rtol=1e-3)  # the grid's medians are rounded to four digits
    assert set(best["k"]) == {2, 3, 4}
