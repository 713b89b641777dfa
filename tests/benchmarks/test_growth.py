"""What `scripts/growth.py` makes of costs: exponents, rows and the figure."""

import sys

import pandas as pd
import pytest

from pwl_lab.study.store import shipped
from pwl_lab.support import paths

sys.path.append(str(paths.root() / "scripts"))
import growth


def test_exponents_are_those_of_power_laws():
    costs = [("cohort", "square", size, 3.0 * size**2) for size in (1, 4, 16)]
    costs += [("cohort", "bends", size, max(8.0, size)) for size in (1, 8, 64)]
    found = growth.summary(pd.DataFrame(costs, columns=["panel", "series", "size", "cost"])).set_index("series")
    assert found.loc["square", ["exponent", "at the end"]].tolist() == pytest.approx([2, 2])
    assert found.loc["bends", ["exponent", "at the end"]].tolist() == pytest.approx([0.5, 1])
    assert found.loc["bends", ["from", "to", "cost from", "cost to"]].tolist() == [1, 64, 8, 64]


def test_the_figure_shows_every_shipped_series_with_its_exponents():
    table = shipped("growth")
    shown = growth.figure(table)
    assert set(table["panel"]) == set(growth.PANELS)
    for axes, (panel, mine) in zip(shown.axes, table.groupby("panel", sort=False), strict=True):
        words = [text.get_text() for text in axes.get_legend().get_texts()]
        assert axes.get_title(loc="left") == growth.PANELS[panel].title
        for name, part in mine.groupby("series", sort=False):
            costs = part.set_index("size")["cost"]
            assert f"{name}: {growth.exponent(costs.iloc[-2:]):.2f} ({growth.exponent(costs):.2f})" in words
