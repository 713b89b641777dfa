"""Figures of choices compared: what each variant of a curriculum costs."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from pwl_lab import analysis
from pwl_lab.plots.style import CURRICULUM, NOTE, Figure, row_of_axes, seed_points, style


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
                          textcoords="offset points", weight="bold", fontsize=NOTE)  # fmt: skip
            for name, values in mine.items():
                row += 1
                labels[row] = name.removeprefix(f"{choice}: ")
                _row(axes, row, values, CURRICULUM[curriculum], budget)
            row += 1.4
        axes.set_yticks(list(labels), list(labels.values()))
        axes.axvline(budget, color="#444444", lw=0.8, ls="--")
        axes.annotate("budget", (budget, 1), xycoords=("data", "axes fraction"), xytext=(0, 3), ha="center",
                      textcoords="offset points", fontsize=NOTE)  # fmt: skip
        axes.set(xlabel=f"optimiser steps to {threshold:.0%}", xlim=(0, None), ylim=(row - 0.6, -0.8))
        axes.xaxis.set_major_formatter("{x:,.0f}")
    return figure


def _row(axes: Axes, row: float, values: list[int | None], look: tuple[str, str, str], budget: int) -> None:
    """One variant's points and the bar at their median."""
    colour, _, marker = look
    there = [budget if value is None else value for value in values]
    heights = row + np.linspace(-0.22, 0.22, len(there))
    seed_points(axes, there, heights, colour, marker, 48, [value is not None for value in values])
    median = analysis.median_steps(values, budget)
    axes.plot([median, median], [row - 0.38, row + 0.38], color=colour, lw=2.5, zorder=1.5)


MEASURES = {"student": "student alone", "prefix_mean": "prefix order,\nmean on the way", "worst": "worst of all masks"}


def ablation_chart(table: pd.DataFrame) -> Figure:
    """What each change of PWL training does, against the default on the same seed: a point per seed, a bar at the mean.

    `table` has one row per group, variant and seed (`scripts/pair_ablation.py`); a group of its own reference (`equal
    channels`) is compared with its first variant.
    """
    keys = [key for key, _ in table.groupby(["group", "variant"], sort=False) if key[0] != "default"]
    rows = [key for key in keys if key != _own_reference(table)]
    with style():
        figure, panels = row_of_axes(9, 0.3 * len(rows) + 1.4, len(MEASURES), sharey=True)
        for axes, (measure, title) in zip(panels, MEASURES.items(), strict=True):
            axes.axvline(0, color="#444444", lw=1)
            for row, key in enumerate(rows):
                values = _against_default(table, *key)[measure] * 100
                axes.scatter(values, [row] * len(values), s=22, color="#56B4E9", edgecolors="#0072B2", zorder=3)
                axes.plot([values.mean()] * 2, [row - 0.32, row + 0.32], color="#0072B2", lw=2.5)
            axes.set_title(title, fontsize=NOTE)
            axes.set_xlabel("points of accuracy")
        names = [f"{group}: {variant}" for group, variant in rows]
        panels[0].set_yticks(range(len(rows)), names)
        panels[0].set_ylim(len(rows) - 0.5, -0.5)
    return figure


def _against_default(table: pd.DataFrame, group: str, variant: str) -> pd.DataFrame:
    """The measures of a variant minus those of its reference, seed by seed."""
    chosen = table.set_index(["group", "variant", "seed"])[list(MEASURES)].sort_index()  # or pandas warns
    own = _own_reference(table)
    against = own if own is not None and group == own[0] else ("default", "default")
    return chosen.loc[(group, variant)] - chosen.loc[against]


def _own_reference(table: pd.DataFrame) -> tuple[str, str] | None:
    """The variant that the others of `equal channels` are compared with: they have another student than the default."""
    mine = table.loc[table["group"] == "equal channels", "variant"]
    return ("equal channels", mine.iloc[0]) if len(mine) else None
