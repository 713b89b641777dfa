"""Figures of sample complexity: steps against a size on two logarithmic axes, with slopes."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, NullFormatter, NullLocator

from pwl_lab.plots.style import (
    CURRICULUM,
    NOTE,
    Figure,
    Percent,
    chance_line,
    level_line,
    looks,
    row_of_axes,
    seed_points,
    style,
)


def scaling_curves(
    points: pd.DataFrame,
    panels: str = "k",
    size: str = "n",
    slopes: Mapping[object, Mapping[str, Sequence[float]]] | None = None,
    theory: Mapping[object, float] | None = None,
    size_label: str = "bits n",
) -> Figure:
    """Steps to the threshold against a size, one panel per value of `panels`, both axes logarithmic.

    `points` is tidy: `size`, `panels`, curriculum, seed, steps, reached. A point per seed (hollow: not reached within
    the budget), a line through the medians; `slopes[panel][curriculum]` stand in the legend, `theory[panel]` is the slope
    of a grey guide line.
    """
    values = sorted(points[panels].unique())
    with style():
        figure, row = row_of_axes(9, 4.4, len(values), sharey=True)
        for axes, value in zip(row, values, strict=True):
            part = points[points[panels] == value]
            fits = (slopes or {}).get(value, {})
            _lines(axes, part, size, fits)
            if theory and value in theory:
                _guide(axes, part, size, theory[value])
            axes.set(xscale="log", yscale="log", xlabel=size_label, title=f"{panels} = {value}")
            sizes = sorted(part[size].unique())
            axes.xaxis.set_major_locator(FixedLocator(sizes))
            axes.xaxis.set_minor_locator(NullLocator())
            axes.set_xticks(sizes, [f"{one:g}" for one in sizes])
            axes.yaxis.set_major_formatter("{x:,.0f}")
            axes.yaxis.set_minor_formatter(NullFormatter())
            axes.legend(loc="upper left", fontsize=NOTE)
        low, high = points["steps"].min(), points["steps"].max()
        row[0].set_ylim(0.8 * low, 4 * high)  # room for the legend
        row[0].set(ylabel="optimiser steps to the threshold")
    return figure


def _lines(axes: Axes, part: pd.DataFrame, size: str, fits: Mapping[str, Sequence[float]]) -> None:
    """Points and medians of each curriculum."""
    names = list(dict.fromkeys(part["curriculum"]))
    for name, (colour, dashes, marker) in looks(names).items():
        mine = part[part["curriculum"] == name]
        seed_points(axes, mine[size], mine["steps"], colour, marker, 40, mine["reached"].tolist())
        label = name.replace("_", "-")
        if name in fits:
            low, middle, high = fits[name]
            label += f": slope {middle:.1f} ({low:.1f} to {high:.1f})"
        axes.plot(mine.groupby(size)["steps"].median(), color=colour, ls=dashes, lw=2, label=label)


def _guide(axes: Axes, part: pd.DataFrame, size: str, slope: float) -> None:
    """A line of the theory's slope through the first median of the slowest curriculum."""
    medians = part.groupby(["curriculum", size])["steps"].median().groupby(level=0)
    slowest = max((curve for _, curve in medians), key=lambda curve: curve.iloc[-1]).droplevel(0)
    sizes = np.array(sorted(slowest.index), dtype=float)
    line = slowest.iloc[0] * (sizes / sizes[0]) ** slope
    axes.plot(
        sizes, line, color="#999999", lw=1.2, ls=(0, (1, 2)), label=f"theory, one-shot: slope {slope:g}", zorder=1
    )


def two_phase_curves(table: pd.DataFrame) -> Figure:
    """The two-phase scheme: test accuracy, and weights on the support over weights off it, against the step's samples.

    `table` is tidy: target (labels or hidden), samples, seed, accuracy, support ratio.
    """
    looks_of = {"labels": CURRICULUM["one_shot"], "hidden": CURRICULUM["extracted"]}
    words = {"labels": "step from labels", "hidden": "step from the projected hidden layer"}
    with style():
        figure, row = row_of_axes(9, 3.8, 2)
        for axes, column in zip(row, ("accuracy", "support ratio"), strict=True):
            for target, (colour, dashes, marker) in looks_of.items():
                mine = table[table["target"] == target]
                seed_points(axes, mine["samples"], mine[column], colour, marker, 40)
                axes.plot(mine.groupby("samples")[column].median(), color=colour, ls=dashes, lw=2, label=words[target])
            samples = sorted(table["samples"].unique())
            axes.set(xscale="log", xlabel="samples of the one large step")
            axes.xaxis.set_minor_locator(NullLocator())
            axes.set_xticks(samples, [f"{amount:,}" for amount in samples])
        chance_line(row[0], 0.5)
        row[0].yaxis.set_major_formatter(Percent())
        row[0].set(ylabel="test accuracy", ylim=(None, 1.02))
        figure.legend(*row[0].get_legend_handles_labels(), loc="outside upper center", ncols=2)
        level_line(row[1], 1, "no\npreference", "#666666", (0, (1, 2)))
        row[1].set(ylabel="weight on the support / off it", ylim=(0, None))
    return figure
