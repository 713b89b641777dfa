"""Figures of the shipped tables of sweeps over sparse parity: tuned curricula, degrees that stand out, few bits."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.lines import Line2D

from pwl_lab.plots import style
from pwl_lab.plots.style import BASELINE, CURRICULUM, NOTE, OFF_SUPPORT, OWNER, Figure, Look
from pwl_lab.study.exponents import or_never
from pwl_lab.study.parity_results import CURRICULA, MEASURES

Spots: TypeAlias = "pd.Series[Any] | pd.Index[Any]"  # the coordinates of points
PALE = 0.35  # how opaque the setting is that was the same for all curricula
SHIFT = 0.19  # how far the two settings' rows are apart


@style.context()
def tuned_curricula(parts: Mapping[str, pd.DataFrame], teachers: pd.DataFrame | None = None) -> Figure:
    """Samples to 99% per task and curriculum, for two settings: a point per draw, a bar at the median.

    Draws that did not arrive are hollow, at the right edge.

    Arguments:
    - `parts`: the name and the samples (`parity_results.samples_by_draw`) of the common setting, and of the tuned ones.
    - `teachers`: their samples to 100% from labels (n, k, reached), for a line at the median.
    """
    first = next(iter(parts.values()))
    tasks = list(dict.fromkeys((n, k) for k, n, _ in first.index))
    names = [name for name in CURRICULA if any(name in samples for samples in parts.values())]
    figure, panels = style.row_of_axes(9, 0.62 * len(names) + 1.6, len(tasks), sharey=True, sharex=True)
    finite = pd.concat([samples.stack() for samples in parts.values()])
    edge = 2 * finite[np.isfinite(finite)].max()
    for axes, (n, k) in zip(panels, tasks, strict=True):
        for side, samples in enumerate(parts.values()):
            for row, name in enumerate(names):
                values = samples.loc[(k, n), name].dropna().tolist() if name in samples else []
                if values:
                    look, opacity = style.looks(names)[name], PALE if side == 0 else 1
                    _draws(axes, row + SHIFT * (2 * side - 1), values, look, opacity, edge)
        if teachers is not None:
            mine = teachers[(teachers["n"] == n) & (teachers["k"] == k)]
            axes.axvline(mine["reached"].median(), color=OWNER["T"], lw=1.4, ls="-.", zorder=1)
        axes.set(xscale="log", title=f"({n}, {k})", xlabel="samples to 99%")
        axes.xaxis.set_major_formatter(_thousands)
    style.named_rows(panels[0], [name.replace("_", "-") for name in names])
    handles = [Line2D([], [], ls="", marker="o", ms=7, color="#444444", alpha=PALE if i == 0 else 1, label=part)
               for i, part in enumerate(parts)]  # fmt: skip
    if teachers is not None:
        handles.append(Line2D([], [], color=OWNER["T"], lw=1.4, ls="-.", label="the teacher, from labels"))
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles), fontsize=NOTE)
    return figure


def _thousands(value: float, _: object = None) -> str:
    """A number of samples in words: `64k`, `1.2M`."""
    return f"{value / 1e6:g}M" if value >= 1e6 else f"{value / 1e3:g}k"


def _draws(axes: Axes, row: float, values: Sequence[float], look: Look, alpha: float, edge: float) -> None:
    """A row of points, hollow at `edge` where infinite, and a bar at the median."""
    colour, _, marker = look
    there = np.isfinite(values)
    spots, heights = np.where(there, values, edge), row + np.linspace(-0.09, 0.09, len(values))
    for kind, face in ((there, to_rgba(colour, alpha)), (~there, "none")):
        axes.scatter(spots[kind], heights[kind], marker=marker, s=26, zorder=3, linewidths=0.8,
                     edgecolors=to_rgba(colour, alpha), facecolors=[face])  # fmt: skip
    middle = min(float(np.median(values)), edge)
    axes.plot([middle, middle], [row - 0.16, row + 0.16], color=colour, lw=2.5, alpha=alpha, zorder=2)


@style.context()
def task_ladder(points: pd.DataFrame) -> Figure:
    """Samples to 99% from task to task: a point per draw, a line through the medians of each curriculum.

    A hollow point did not arrive; it stands at the samples that its student had seen. The line ends where half did not.

    Arguments:
    - `points`: one row per draw, task (n, k) and curriculum: samples, reached.
    """
    tasks = sorted({(k, n) for k, n in zip(points["k"], points["n"], strict=True)})
    figure, (axes,) = style.row_of_axes(8, 4.4, 1)
    looks = style.looks(list(dict.fromkeys(points["curriculum"])))
    for number, (name, (colour, dashes, marker)) in enumerate(looks.items()):
        mine = points[points["curriculum"] == name]
        at = [tasks.index((k, n)) for k, n in zip(mine["k"], mine["n"], strict=True)]
        aside = pd.Series(at, index=mine.index) + 0.12 * (number - (len(looks) - 1) / 2)
        style.seed_points(axes, aside, mine["samples"], colour, marker, 30, mine["reached"].tolist())
        medians = or_never(mine).groupby(at).median().replace(np.inf, np.nan)
        axes.plot(medians, color=colour, ls=dashes, lw=2, label=name.replace("_", "-"))
    axes.set(yscale="log", ylabel="samples to 99%", xlabel="task (n, k)")
    axes.set_xticks(range(len(tasks)), [f"({n}, {k})" for k, n in tasks])
    axes.yaxis.set_major_formatter(_thousands)
    axes.legend(loc="upper left", fontsize=NOTE)
    return figure


def _degree_points(axes: Axes, degree: int, inside: tuple[Spots, Spots], outside: tuple[Spots, Spots]) -> None:
    """A degree's points (x, y): filled in the support, hollow and grey outside it."""
    colour, _, marker = style.degree_look(degree)
    axes.scatter(*inside, marker=marker, s=24, color=colour, linewidths=0, label=f"degree {degree}")
    axes.scatter(*outside, marker=marker, s=24, facecolors="none", edgecolors=OFF_SUPPORT[0], linewidths=0.9, zorder=1)


@style.context()
def degrees_standing_out(peaks: pd.DataFrame) -> Figure:
    """The highest reading of each degree below k in the teacher's transition: a row per setting, a panel per measure.

    A filled point per draw in the support; a hollow grey one for the mean over draws outside it.

    Arguments:
    - `peaks`: one row per setting, seed and degree, as shipped in `parity_spike`, of one k.
    """
    settings, k = list(dict.fromkeys(peaks["setting"])), int(peaks["k"].iloc[0])
    figure, panels = style.row_of_axes(9, 0.4 * len(settings) + 1.5, len(MEASURES), sharey=True)
    for axes, (measure, words) in zip(panels, MEASURES.items(), strict=True):
        for degree in range(1, k):
            mine, shift = peaks[peaks["degree"] == degree], 0.16 * (degree - k / 2)
            inside, outside = mine[f"{measure} in"], mine.groupby("setting")[f"{measure} off"].mean()
            _degree_points(axes, degree, (inside, mine["setting"].map(settings.index) + shift),
                           (outside, outside.index.map(settings.index) + shift))  # fmt: skip
        axes.set(xlim=(0, None), xlabel=words)
        for row in range(len(settings) - 1):
            axes.axhline(row + 0.5, color="#E5E5E5", lw=0.8, zorder=0)
        axes.grid(visible=False, axis="y")
    style.named_rows(panels[0], settings)
    looks = [(degree, style.degree_look(degree)) for degree in range(1, k)]
    handles = [Line2D([], [], ls="", marker=look[2], color=look[0], label=f"degree {degree}") for degree, look in looks]
    handles.append(
        Line2D([], [], ls="", marker="o", mfc="none", mec=OFF_SUPPORT[0], label="hollow: outside the support")
    )
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles), fontsize=NOTE)
    return figure


@style.context()
def few_bits_chart(students: pd.DataFrame, leak: pd.DataFrame, levels: Mapping[str, float]) -> Figure:
    """What the final teacher gives away at few bits, and the samples of students that were shown it first.

    On the left a filled point per draw and degree below k in the support, a hollow one for the mean outside it; on the
    right a point per draw (hollow at the top where the student did not arrive) and a line through the medians.

    Arguments:
    - `students`, `leak`: as from `parity_results.few_bits`.
    - `levels`: for curricula, the median samples to compare with, as lines on the right.
    """
    bits, k = sorted(leak["bits"].unique()), int(leak["k"].iloc[0])
    figure, (left, right) = style.row_of_axes(10, 4.2, 2)
    for degree in range(1, k):
        mine, shift = leak[leak["degree"] == degree], 0.2 * (degree - k / 2)
        outside = mine.groupby("bits")["decision off"].mean()
        _degree_points(left, degree, (mine["bits"].map(bits.index) + shift, mine["decision in"]),
                       (outside.index.map(bits.index) + shift, outside))  # fmt: skip
    samples, (colour, dashes, marker) = or_never(students), BASELINE["bit_planes"]
    edge, there = 2 * samples[np.isfinite(samples)].max(), np.isfinite(samples)
    right.scatter(students["bits"].map(bits.index), samples.where(there, edge), marker=marker, s=28, linewidths=0.9,
                  facecolors=[colour if one else "none" for one in there], edgecolors=colour)  # fmt: skip
    medians = samples.groupby(students["bits"]).median().replace(np.inf, np.nan)
    right.plot([bits.index(one) for one in medians.index], medians, color=colour, ls=dashes, lw=2)
    for name, level in levels.items():
        style.level_line(right, level, name.replace("_", "-"), *CURRICULUM[name][:2])
    right.set(yscale="log", ylabel="samples to 99%")
    style.log_ticks(right.yaxis, "{x:,.0f}", (1, 2, 5))
    left.set(ylim=(0, None), ylabel=MEASURES["decision"])
    accuracy = leak.groupby("bits")["accuracy"].mean()
    for axes in (left, right):
        axes.set_xticks(range(len(bits)), [f"{one}\n{accuracy[one]:.0%}" for one in bits])
    figure.supxlabel("bits of each weight, and accuracy of the rounded teacher", fontsize=11)
    left.legend(fontsize=NOTE, title="hollow: outside the support", title_fontsize=NOTE)
    return figure
