"""Figures of sample complexity: steps against a size on two logarithmic axes, with slopes."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from pwl_lab.plots.style import looks, row_of_axes, style


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
        figure, row = row_of_axes(4.8 * len(values) + 0.6, 4.2, len(values), sharey=True)
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
            axes.legend(loc="upper left", fontsize=9)
        row[0].set(ylabel="optimiser steps to the threshold")
    return figure


def _lines(axes: Axes, part: pd.DataFrame, size: str, fits: Mapping[str, Sequence[float]]) -> None:
    """Points and medians of each curriculum."""
    names = list(dict.fromkeys(part["curriculum"]))
    for name, (colour, dashes, marker) in looks(names).items():
        mine = part[part["curriculum"] == name]
        fills = [colour if reached else "none" for reached in mine["reached"]]
        axes.scatter(mine[size], mine["steps"], s=22, marker=marker, facecolors=fills, edgecolors=colour, alpha=0.7)
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
