"""Arms of shipped comparisons: those of notebook 05 on images and on parity, and the kinds of students of 04b."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from pwl_lab.plots import style
from pwl_lab.plots.style import CURRICULUM, LOSS, NOTE, Look
from pwl_lab.study.arms import ARM_MEASURES, ARM_WORDS, MARGIN, PARITY_WORDS, STUDENT_MEASURES, parity_steps
from pwl_lab.study.exponents import Exponents, or_never

ARM: dict[str, Look] = {
    "none": CURRICULUM["none"],
    "early": CURRICULUM["extracted"],
    "auxiliary": ("#88CCEE", "--", "v"),
    "checkpoint": CURRICULUM["progressive"],
    "final": ("#8C510A", (0, (4, 2)), "^"),  # the control of `checkpoint`, by its marker
    "one-shot": CURRICULUM["one_shot"],
}
APART = 0.2  # between the arms of one row
POWER: dict[str, Look] = {  # a control is paler than what it controls
    "one_shot": CURRICULUM["one_shot"],
    "recon": LOSS["recon"],
    "cross": LOSS["cross"],
    "cross_untrained": ("#D08FB8", ":", "v"),
    "sync": LOSS["sync"],
    "sync_untrained": ("#8CCB95", ":", "^"),
    "extracted": CURRICULUM["extracted"],
}


@style.context()
def arms_chart(intervals: pd.DataFrame) -> Figure:
    """Each arm minus plain PWL, in points: a panel per measure, a row per family, budget and run, a bar per arm.

    The grey band is the margin within which a difference does not matter.

    Arguments:
    - `intervals`: as from `arms.shipped_arms("intervals")`.
    """
    intervals = intervals[intervals["against"] == "none"]
    names = [arm for arm in ARM if arm in set(intervals["arm"])]
    rows = list(intervals.groupby(["family", "budget", "run"]).groups)
    rows.sort(key=lambda row: (row[0] != "vgg", *row[1:]))
    figure, panels = style.row_of_axes(9, 0.75 * len(rows) + 1.7, len(ARM_MEASURES), sharey=True)
    for axes, (measure, title) in zip(panels, ARM_MEASURES.items(), strict=True):
        axes.axvspan(-MARGIN, MARGIN, color="#DDDDDD", zorder=0)
        axes.axvline(0, color="#444444", lw=1)
        for i, arm in enumerate(names):
            mine = intervals[(intervals["measure"] == measure) & (intervals["arm"] == arm)]
            mine = mine.set_index(["family", "budget", "run"])
            there = [row for row in rows if row in mine.index]
            colour, _, marker = ARM[arm]
            middle = mine.loc[there, "mean"]
            ends = style.bar_lengths(middle, mine.loc[there, "low"], mine.loc[there, "high"])
            heights = [rows.index(row) + APART * (i - (len(names) - 1) / 2) for row in there]
            axes.errorbar(
                middle, heights, xerr=ends, color=colour, marker=marker, ls="", capsize=3, label=ARM_WORDS[arm]
            )
        axes.set_title(title, fontsize=NOTE)
        axes.set_xlabel("points against plain PWL")
    style.named_rows(panels[0], [f"{family}, {budget:,} steps,\nrun {run}" for family, budget, run in rows])
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=len(names))
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
    style.named_rows(panels[0], [ARM_WORDS.get(name, name) for name in names])
    return figure


@style.context()
def arm_powers(points: pd.DataFrame, fits: Exponents) -> Figure:
    """Samples to 99% against n: a point per draw, lines through the medians; beside it the exponents with intervals.

    A point is hollow where the student never got there, an arm without an exponent hardly learned. Both axes on the left
    are logarithmic.

    Arguments:
    - `points`: as from `store.shipped("parity_pairs")`.
    - `fits`: as from `arms.arm_exponents`.
    """
    figure, (left, right) = style.row_of_axes(9.5, 4.2, 2, width_ratios=(1.5, 1))
    keys = {arm: (k, arm) for k, arm in fits.slopes}
    names = [name for name in POWER if name in set(points["curriculum"])]
    for row, name in enumerate(names):
        colour, dashes, marker = POWER[name]
        mine = points[points["curriculum"] == name]
        aside = mine["n"] * 1.015 ** (row - (len(names) - 1) / 2)
        style.seed_points(left, aside, mine["samples"], colour, marker, 14, mine["reached"].tolist())
        medians = mine.assign(samples=or_never(mine)).groupby("n")["samples"].median()
        left.plot(medians.replace(float("inf"), float("nan")), color=colour, ls=dashes, lw=2)
        if name not in keys:
            right.text(0.05, row, "hardly learned", color=colour, va="center", fontsize=NOTE)
            continue
        low, middle, high = fits.of(*keys[name])
        ends = style.bar_lengths([middle], [low], [high])
        right.errorbar(middle, row, xerr=ends, color=colour, marker=marker, capsize=3)
    sizes = sorted(points["n"].unique())
    left.set(xscale="log", yscale="log", xlabel="bits n", ylabel="samples to 99%")
    left.set_xticks(sizes, [str(size) for size in sizes])
    left.set_xticks([], minor=True)
    style.log_ticks(left.yaxis, "{x:,.0f}")
    style.named_rows(right, [ARM_WORDS.get(name, name) for name in names])
    right.set(xlabel="exponent of n", xlim=(min(0.0, right.get_xlim()[0]), None))
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
