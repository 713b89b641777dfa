"""Figures of sample complexity: samples over sizes, widths and correlations, and the two-phase scheme of the proofs."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, NullLocator

from pwl_lab.plots import style
from pwl_lab.plots.style import CURRICULUM, NOTE, SPARE, Figure
from pwl_lab.study.complexity import two_phase_means
from pwl_lab.study.exponents import CostFit, Exponents, or_never
from pwl_lab.study.intervals import Interval, in_words

EXPECTED = -2  # the exponent of rho (`scripts/teacher_tables.py`)
APART = 1.03  # the factor between the points of two curricula at one size, on a logarithmic axis


@style.context()
def scaling_curves(
    points: pd.DataFrame,
    panels: str = "k",
    size: str = "n",
    fits: Exponents | None = None,
    theory: Mapping[object, Mapping[str, float]] | None = None,
    own: pd.DataFrame | None = None,
    size_label: str = "bits n",
    threshold: float = 0.99,
) -> Figure:
    """Samples to the threshold against a size, both axes logarithmic: a point per draw, a line through the medians.

    A point is hollow where the threshold was not reached within the budget; where half are, the line has a gap.

    Arguments:
    - `points`: a tidy table of curriculum, seed, samples, reached, and the columns `panels` and `size`.
    - `panels`: one panel for each value of this column.
    - `size`: the column for the x axis, labelled `size_label`.
    - `fits`: the exponents for the legend; panels are then values of k.
    - `theory`: for each panel and curriculum, the exponent of a dotted guide line through its first median.
    - `own`: points of this run, drawn larger with a black edge.
    - `threshold`: the accuracy that the samples lead to, for the label.
    """
    values = sorted(points[panels].unique())
    figure, row = style.row_of_axes(9 if len(values) < 3 else 11, 4.6, max(len(values), 1), sharey=True)
    for axes, value in zip(row, values, strict=False):
        part = points[points[panels] == value]
        _lines(axes, part, size, {} if fits is None else {name: fits.of(value, name) for name in fits.slopes[value]})
        measured = set(part["curriculum"])
        for name, exponent in ((name, one) for name, one in (theory or {}).get(value, {}).items() if name in measured):
            _guide(axes, part[part["curriculum"] == name], size, exponent)
        if own is not None:
            _own(axes, own[own[panels] == value], size)
        axes.set(xscale="log", yscale="log", xlabel=size_label, title=_of_panel(part, panels))
        sizes = sorted(part[size].unique())
        axes.xaxis.set_major_locator(FixedLocator(sizes))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xticks(sizes, [f"{one:g}" for one in sizes])
        style.log_ticks(axes.yaxis, "{x:,.0f}", (1,))
        axes.legend(loc="upper left", fontsize=NOTE)
    if len(points):
        row[0].set_ylim(0.7 * points["samples"].min(), 25 * points["samples"].max())  # room for the legend
    row[0].set(ylabel=f"samples to {threshold:.0%}")
    return figure


def _of_panel(part: pd.DataFrame, panels: str) -> str:
    """The title of a panel: its own value, after the task's size where that is the same for all of its points."""
    fixed = [name for name in ("k", "n") if name != panels and name in part and part[name].nunique() == 1]
    return ", ".join(f"{name} = {part[name].iloc[0]:g}" for name in (*fixed, panels))


def _lines(axes: Axes, part: pd.DataFrame, size: str, fits: Mapping[str, Interval]) -> None:
    """Points and medians of each curriculum; the points a little to one side, so that none hides another's."""
    looks = style.looks(list(dict.fromkeys(part["curriculum"])))
    for i, (name, (colour, dashes, marker)) in enumerate(looks.items()):
        mine = part[part["curriculum"] == name]
        aside = mine[size] * APART ** (i - (len(looks) - 1) / 2)
        style.seed_points(axes, aside, mine["samples"], colour, marker, 26, mine["reached"].tolist())
        label = name.replace("_", "-")
        if name in fits:
            label += f": {in_words(fits[name])}"
        medians = mine.assign(samples=or_never(mine)).groupby(size)["samples"].median()
        axes.plot(medians.replace(np.inf, np.nan), color=colour, ls=dashes, lw=2, label=label)


def _guide(axes: Axes, mine: pd.DataFrame, size: str, exponent: float) -> None:
    """A dotted line with the theory's exponent through a curriculum's first median."""
    medians = mine.groupby(size)["samples"].median()
    sizes, name = medians.index.to_numpy(float), mine["curriculum"].iloc[0]
    line = medians.iloc[0] * (sizes / sizes[0]) ** exponent
    label = f"theory, {name.replace('_', '-')}: {exponent:g}"
    axes.plot(sizes, line, color=CURRICULUM[name][0], lw=1.2, ls=(0, (1, 2)), label=label, zorder=1)


def _own(axes: Axes, part: pd.DataFrame, size: str) -> None:
    """The points of this run, over all others."""
    for number, (name, mine) in enumerate(part.groupby("curriculum", sort=False)):
        colour, _, marker = CURRICULUM[str(name)]
        label = "trained in this run" if number == 0 else None
        axes.scatter(mine[size], mine["samples"], marker=marker, s=46, zorder=4, edgecolors="black", linewidths=1.1,
                     facecolors=[colour if done else "none" for done in mine["reached"]], label=label)  # fmt: skip


@style.context()
def two_phase_curves(table: pd.DataFrame) -> Figure:
    """The two-phase scheme: test accuracy, and the ratio of weights on and off the support, against the step's samples.

    A point per seed, a line through the means, and bars for their 95% intervals; dotted, the ratio that theory expects of
    labels.

    Arguments:
    - `table`: tidy, as from `complexity.two_phase_table`.
    """
    targets = {
        "labels": ("step from labels", CURRICULUM["scratch"]),
        "hidden": ("step from the projected hidden layer", CURRICULUM["extracted"]),
    }
    means = two_phase_means(table)
    figure, (left, right) = style.row_of_axes(9, 3.8, 2)
    for axes, column, mean in ((left, "accuracy", "accuracy"), (right, "support ratio", "ratio")):
        for target, (words, (colour, dashes, marker)) in targets.items():
            mine, middle = table[table["target"] == target], means.loc[target]
            style.seed_points(axes, mine["samples"], mine[column], colour, marker, 25)
            ends = style.bar_lengths(middle[mean], middle[f"{mean} low"], middle[f"{mean} high"])
            axes.errorbar(middle.index, middle[mean], ends, color=colour, ls=dashes, lw=2, capsize=4, label=words)
        axes.set(xscale="log", xlabel="samples for the one large step")
    style.chance_line(left, 0.5)
    style.accuracy_axis(left, "test accuracy")
    left.set_ylim(None, 1.02)
    expected = means.loc["labels", "expected ratio"]
    right.plot(expected, color="black", lw=1, label="theory: step from labels")
    figure.legend(*right.get_legend_handles_labels(), loc="outside upper center", ncols=3)
    style.level_line(right, 1, "no\npreference", "#666666", (0, (1, 2)))
    right.set(ylabel="weight on / off the support", ylim=(0, None))
    return figure


@style.context()
def cost_curve(costs: pd.DataFrame, fit: CostFit) -> Figure:
    """Samples that extraction needs against rho, both axes logarithmic: a point per teacher, a look and a line per n.

    Arguments:
    - `costs`: one row per teacher, as shipped; those that no student learned from are not drawn.
    - `fit`: of `rho` and `n`: one exponent of rho for all n, the slope of the solid lines.
    """
    figure, (axes,) = style.row_of_axes(8, 4.6)
    shown = costs[np.isfinite(costs["samples"])]
    slope = fit.coefficients["rho"][1]
    for (n, mine), (colour, _, marker) in zip(shown.groupby("n"), SPARE, strict=False):
        axes.scatter(mine["rho"], mine["samples"], color=colour, marker=marker, s=42, alpha=0.8, linewidths=0,
                     label=f"n = {n:g}")  # fmt: skip
        ends = np.array([mine["rho"].min(), mine["rho"].max()])
        axes.plot(ends, np.exp(fit.intercept) * ends**slope * n ** fit.coefficients["n"][1], color=colour, lw=2)
    axes.plot([], [], color="#444444", lw=2, label=f"fit: exponent {in_words(fit.coefficients['rho'])}")
    ends, centre = np.array([shown["rho"].min(), shown["rho"].max()]), np.exp(np.log(shown[["rho", "samples"]]).mean())
    line = centre["samples"] * (ends / centre["rho"]) ** EXPECTED
    axes.plot(ends, line, color="#444444", ls=(0, (1, 2)), label=f"expected: {EXPECTED:g}")
    axes.set(xscale="log", yscale="log", ylabel="samples to 99%")
    axes.set_xlabel(r"$\rho$: correlation of the projected targets with bits of the support")
    style.log_ticks(axes.xaxis, "{x:g}", (1, 1.2, 1.5, 2, 2.25, 2.5, 2.75, 3, 3.25, 3.5, 4, 5, 7))
    style.log_ticks(axes.yaxis, "{x:,.0f}", (1, 1.5, 2, 3, 5, 7))
    figure.legend(loc="outside upper center", ncols=3, fontsize=NOTE)
    return figure
