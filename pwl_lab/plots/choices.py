"""Figures of choices compared: what each variant of a curriculum costs."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pwl_lab import analysis
from pwl_lab.plots.style import CURRICULUM, row_of_axes, style


def choices_chart(history: pd.DataFrame, curriculum_of: Mapping[str, str], budget: int, threshold: float) -> Figure:
    """Steps to the threshold per variant: a point per seed, a bar at the median; hollow at the budget: not reached.

    Curricula in `history` are called `choice: variant`; `curriculum_of[choice]` says in whose colour a choice is drawn.
    """
    steps = analysis.steps_to_threshold(history, threshold)
    with style():
        figure, (axes,) = row_of_axes(9, 0.29 * len(steps) + 0.25 * len(curriculum_of) + 1)
        labels: dict[float, str] = {}
        row = 0.0
        for choice, curriculum in curriculum_of.items():
            mine = {name: values for name, values in steps.items() if name.startswith(f"{choice}: ")}
            axes.annotate(choice, (0, row), xycoords=("axes fraction", "data"), xytext=(-8, 0), ha="right", va="center",
                          textcoords="offset points", weight="bold", fontsize=10)  # fmt: skip
            for name, values in mine.items():
                row += 1
                labels[row] = name.removeprefix(f"{choice}: ")
                _row(axes, row, values, CURRICULUM[curriculum], budget)
            row += 1.4
        axes.set_yticks(list(labels), list(labels.values()))
        axes.axvline(budget, color="#444444", lw=0.8, ls="--")
        axes.annotate("budget", (budget, 1), xycoords=("data", "axes fraction"), xytext=(0, 3), ha="center",
                      textcoords="offset points", fontsize=9)  # fmt: skip
        axes.set(xlabel=f"optimiser steps to {threshold:.0%}", xlim=(0, None), ylim=(row - 0.6, -0.8))
        axes.xaxis.set_major_formatter("{x:,.0f}")
    return figure


def _row(axes: Axes, row: float, values: list[int | None], look: tuple[str, str, str], budget: int) -> None:
    """One variant's points and the bar at their median."""
    colour, _, marker = look
    there = [budget if value is None else value for value in values]
    heights = row + np.linspace(-0.22, 0.22, len(there))
    fills = ["none" if value is None else colour for value in values]
    axes.scatter(there, heights, marker=marker, s=26, facecolors=fills, edgecolors=colour, linewidths=1.2, zorder=3)
    median = analysis.median_steps(values, budget)
    axes.plot([median, median], [row - 0.38, row + 0.38], color=colour, lw=2.5)
