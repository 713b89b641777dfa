"""What all figures share: ticks in percent, levels with a name, words that keep apart, a point for each seed."""

from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.text import Text

from pwl_lab.plots import style
from pwl_lab.plots.style import Percent, chance_line, labels_above, seed_points, spread_out


@pytest.mark.parametrize(
    ("ticks", "words"),
    [
        ([0.5, 0.6, 1.0], ["50%", "60%", "100%"]),
        ([0.885, 0.89, 0.895], ["88.5%", "89.0%", "89.5%"]),
        ([0.0025, 0.005], ["0.25%", "0.50%"]),
    ],
)
def test_percentages_have_as_many_decimals_as_their_ticks_need(ticks, words):
    assert Percent().format_ticks(ticks) == words


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12).map(sorted))
def test_words_are_spread_out_within_the_axes_and_stay_in_order(places):
    apart = 1 / len(places) / 1.2
    found = spread_out(places, apart)
    assert np.all(np.diff(found) >= apart - 1e-9)
    assert found[0] >= -1e-9
    assert found[-1] <= 1 + 1e-9


def test_words_with_room_stay_where_they_are():
    assert spread_out([0.1, 0.5, 0.9], 0.2) == pytest.approx([0.1, 0.5, 0.9])
    assert spread_out([0.5, 0.5], 0.2) == pytest.approx([0.4, 0.6])


def test_words_above_the_axes_do_not_touch_though_their_points_do():
    figure = Figure(figsize=(9, 4), layout="constrained")
    axes = figure.subplots()
    axes.set(xlim=(0, 1), ylim=(0, 1))
    labels_above(axes, ["SSSS", "TSSS", "TTSS", "TTTT"], [0.01, 0.011, 0.012, 0.5], [0.3] * 4)
    figure.draw_without_rendering()
    boxes = [Text.get_window_extent(text) for text in axes.texts]  # without the lines down to the points
    assert all(left.x1 < right.x0 for left, right in pairwise(boxes))


def test_a_level_is_named_beside_the_axes_and_only_where_asked():
    figure = Figure()
    left, right = figure.subplots(1, 2)
    chance_line(left, 0.5, named=False)
    chance_line(right, 0.5)
    assert [text.get_text() for text in (*left.texts, *right.texts) if text.get_text()] == ["guessing"]
    assert right.texts[0].xy == (1, 0.5)
    assert list(left.get_lines()[0].get_ydata()) == [0.5, 0.5]


def test_a_seed_that_did_not_get_there_is_hollow():
    axes = Figure().subplots()
    seed_points(axes, [1, 2], [0, 0], "#0072B2", "o", 40, [True, False])
    (points,) = axes.collections
    assert points.get_facecolor()[:, 3].tolist() == [1, 0]
    assert [tuple(edge) for edge in points.get_edgecolor()] == [to_rgba("white"), to_rgba("#0072B2")]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6), st.integers(2, 7))
def test_bars_never_have_a_negative_length_and_equal_values_can_be_drawn(values, seeds):
    groups = pd.DataFrame({"key": list(range(len(values))) * seeds, "value": values * seeds}).groupby("key")["value"]
    lengths = style.bar_lengths(groups.mean(), groups.min(), groups.max())
    assert (lengths >= 0).all()
    assert lengths == pytest.approx(0.0, abs=1e-15)


def test_a_mean_that_is_rounded_beyond_its_values_has_a_bar_of_no_length():
    below, above = style.bar_lengths([0.3], [0.30000000000000004], [0.30000000000000004])
    assert below.tolist() == [0.0]
    assert above.tolist() == pytest.approx([0.0])
