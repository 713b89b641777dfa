"""Arms of shipped comparisons: those of notebook 05 on images and on parity, and the kinds of students of 04."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from pwl_lab.plots import style
from pwl_lab.plots.style import CURRICULUM, NOTE, Look
from pwl_lab.study.arms import ARM_MEASURES, MARGIN, PARITY_WORDS, STUDENT_MEASURES, parity_steps

ARM: dict[str, Look] = {
    "none": CURRICULUM["none"],
    "early": CURRICULUM["extracted"],
    "auxiliary": ("#88CCEE", "--", "v"),
    "checkpoint": CURRICULUM["progressive"],
    "one-shot": CURRICULUM["one_shot"],
}
APART = 0.22  # between the arms of one row


@style.context()
def arms_chart(intervals: pd.DataFrame) -> Figure:
    """Each arm minus `none`, in points: a panel per measure, a row per family and budget, a bar per arm.

    The grey band is the margin within which a difference does not matter.

    Arguments:
    - `intervals`: as from `arms.shipped_arms("intervals")`.
    """
    rows = list(intervals.groupby(["family", "budget"]).groups)
    rows.sort(key=lambda row: (row[0] != "vgg", row[1]))
    figure, panels = style.row_of_axes(9, 0.6 * len(rows) + 1.7, len(ARM_MEASURES), sharey=True)
    for axes, (measure, title) in zip(panels, ARM_MEASURES.items(), strict=True):
        axes.axvspan(-MARGIN, MARGIN, color="#DDDDDD", zorder=0)
        axes.axvline(0, color="#444444", lw=1)
        for i, arm in enumerate(("early", "auxiliary", "checkpoint")):
            mine = intervals[(intervals["measure"] == measure) & (intervals["arm"] == arm)]
            mine = mine.set_index(["family", "budget"])
            there = [row for row in rows if row in mine.index]
            colour, _, marker = ARM[arm]
            middle = mine.loc[there, "mean"]
            ends = style.bar_lengths(middle, mine.loc[there, "low"], mine.loc[there, "high"])
            heights = [rows.index(row) + APART * (i - 1) for row in there]
            axes.errorbar(middle, heights, xerr=ends, color=colour, marker=marker, ls="", capsize=3, label=arm)
        axes.set_title(title, fontsize=NOTE)
        axes.set_xlabel("points against none")
    style.named_rows(panels[0], [f"{family}, {budget:,} steps" for family, budget in rows])
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
    return figure


@style.context()
def parity_arms(parity: pd.DataFrame) -> Figure:
    """The steps to 99% on parity, of the student and of all masks: a point per seed, a bar at the median.

    A hollow point never got there.

    Arguments:
    - `parity`: as from `arms.shipped_arms("parity")`.
    """
    figure, panels = style.row_of_axes(9, 2.9, len(PARITY_WORDS), sharey=True, sharex=True)
    for axes, (column, title) in zip(panels, PARITY_WORDS.items(), strict=True):
        steps = parity_steps(parity, column)
        names = [name for name in ARM if name in steps]
        for row, name in enumerate(names):
            arrived = parity.loc[(parity["kind"] == "plateau") & (parity["arm"] == name), column].notna().tolist()
            style.seed_row(axes, row, steps[name].tolist(), steps[name].median(), ARM[name], arrived, apart=0.2)
        axes.set_title(f"{title} at 99%", fontsize=NOTE)
        axes.set_xlabel("optimiser steps")
        axes.set_xlim(0, None)
    style.named_rows(panels[0], names)
    return figure


@style.context()
def student_kinds(intervals: pd.DataFrame, base: str) -> Figure:
    """Each kind of student minus the kind `base`, in points: a panel per family, a row per measure, a bar per kind.

    The rows are the masks of prefix order before the last, then the means over masks.

    Arguments:
    - `intervals`: as from `store.shipped("student_axis_intervals")`.
    - `base`: the kind that the others are compared with.
    """
    compared = intervals[intervals["against"] == base]
    rows = {"SSSS": "student alone", "TSSS": "TSSS", "TTSS": "TTSS", "TTTS": "TTTS"} | STUDENT_MEASURES
    families = compared.groupby("family", sort=False)
    figure, panels = style.row_of_axes(9, 4.2, len(families), sharey=True)
    for axes, (family, mine) in zip(panels, families, strict=True):
        axes.axvline(0, color="#444444", lw=1)
        for i, (kind, one) in enumerate(mine.groupby("arm", sort=False)):
            colour, _, marker = style.SPARE[i]
            found = one.set_index("measure").loc[list(rows)]
            ends = style.bar_lengths(found["mean"], found["low"], found["high"])
            heights = np.arange(len(rows)) + APART * (i - 1)
            axes.errorbar(found["mean"], heights, xerr=ends, color=colour, marker=marker, ls="", capsize=3, label=kind)
        axes.set_title(family, fontsize=NOTE)
        axes.set_xlabel(f"points against {base}")
    style.named_rows(panels[0], list(rows.values()))
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
    return figure
