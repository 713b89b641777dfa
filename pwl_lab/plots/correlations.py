"""Figures of the correlation probe: over checkpoints, pair by pair, for projected states, and with the students."""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import SymmetricalLogLocator

from pwl_lab.distill.probes import TeacherReadings
from pwl_lab.plots import style
from pwl_lab.plots.style import LEVEL, NOTE, OFF_SUPPORT, OWNER, Figure, Look
from pwl_lab.study import tables
from pwl_lab.study.results import DistillationRuns

OTHERS = 12  # bits outside the support in a map: more would make it too fine, and they all look alike
OUTSIDE = OFF_SUPPORT[0]
MAPPED = (0.0, 0.55, 0.7, 0.85, 1.0)  # accuracies: the first checkpoint that reached each of them has a map
LINEAR = 100  # steps; from there on the axis is logarithmic, because students take many times the teacher's steps


@style.context()
def checkpoint_probe(readings: TeacherReadings) -> Figure:
    """Accuracy above, mean |correlation| of the margin per degree below; the final teacher is separate on the right.

    `readings` as from `probe_teacher`. Filled markers are monomials in the support, hollow grey ones those outside it.
    """
    kept, final = (readings.table[readings.table["final"] == last] for last in (False, True))
    figure = Figure(figsize=(9, 5.4), layout="constrained")
    grid = {"height_ratios": [1, 2.2], "width_ratios": [5, 1.3]}
    ((above, above_end), (below, below_end)) = figure.subplots(2, 2, sharex="col", sharey="row", gridspec_kw=grid)
    curve = kept.drop_duplicates("step")
    above.plot(curve["step"], curve["accuracy"], color=OWNER["T"], lw=2)
    above_end.plot([0], final["accuracy"].iloc[:1], "o", color=OWNER["T"], mec="black", ms=8)
    style.chance_line(above, 0.5, named=False)
    style.chance_line(above_end, 0.5)
    looks = _degree_looks(readings.table)
    for i, (degree, look) in enumerate(looks):
        _degree(below, kept[kept["degree"] == degree], curve["step"].tolist(), look)
        _final(below_end, final[final["degree"] == degree], i - (len(looks) - 1) / 2, look)
    style.level_line(below, readings.noise_floor, "", *LEVEL["noise floor"][:2])
    style.level_line(below_end, readings.noise_floor, "noise\nfloor", *LEVEL["noise floor"][:2])
    style.accuracy_axis(above, "validation\naccuracy")
    above.set_ylim(None, 1.05)
    below.set(xlabel="optimiser steps", ylabel="mean |correlation|", ylim=(0, None))
    below.xaxis.set_major_formatter("{x:,.0f}")
    half = len(looks) / 2
    below_end.set(xlim=(-half, half), xticks=[0], xticklabels=[f"final,\n{int(final['step'].iloc[0]):,}"])
    handles = [
        Line2D([], [], color=colour, ls=dashes, marker=marker, lw=2, label=f"degree {degree} in the support")
        for degree, (colour, dashes, marker) in looks
    ]
    handles.append(Line2D([], [], color=OUTSIDE, marker="o", mfc="none", lw=1, label="hollow: outside it"))
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles), fontsize=NOTE)
    return figure


def _degree_looks(table: pd.DataFrame) -> list[tuple[int, Look]]:
    """Each degree in the table with its look."""
    return [(degree, style.degree_look(degree)) for degree in sorted(table["degree"].unique())]


def _degree(axes: Axes, rows: pd.DataFrame, steps: Sequence[int], look: Look) -> None:
    """Draw the two lines of a degree: in the support, and outside it."""
    colour, dashes, marker = look
    axes.plot(steps, rows["off_support"], color=OUTSIDE, ls=dashes, lw=1, marker=marker, ms=3.5, mfc="none")
    axes.plot(steps, rows["in_support"], color=colour, ls=dashes, lw=2, marker=marker, ms=4.5)


def _final(axes: Axes, rows: pd.DataFrame, spot: float, look: Look) -> None:
    """The two markers of a degree for the final teacher, side by side, in front of the frame that they touch."""
    colour, _, marker = look
    kind: dict[str, Any] = {"ls": "", "marker": marker, "ms": 7.5, "clip_on": False, "zorder": 5}
    axes.plot([spot + 0.2], rows["off_support"], mec=OUTSIDE, mfc="white", **kind)
    axes.plot([spot - 0.2], rows["in_support"], mec="black", mfc=colour, **kind)


@style.context()
def maps_over_steps(readings: TeacherReadings) -> Figure:
    """A teacher's correlations with every bit and pair of bits, as maps side by side; the last is the final teacher's.

    `readings` as from `probe_teacher`.
    """
    accuracies = readings.accuracies
    reached = [next((step for step in readings.steps if accuracies[step] >= value), None) for value in MAPPED]
    steps = sorted({step for step in reached if step is not None} | {readings.steps[-1]})
    figure, row = style.row_of_axes(9, 2.3, len(steps))
    for axes, step in zip(row, steps, strict=True):
        image = _map(axes, readings, step)
        name = "final:" if step == readings.steps[-1] else "step"
        axes.set_title(f"{name} {step:,}\n{accuracies[step]:.0%} accurate", fontsize=NOTE)
        axes.set_xlabel("bit $i$")
    row[0].set_ylabel("bit $j$")
    figure.colorbar(image, ax=row, label="correlation", shrink=0.75)
    return figure


class CheckpointFigure:
    """A teacher's checkpoint on the accuracy curve, and its correlations with every bit and pair of bits.

    It can show any checkpoint: what all of them share is drawn once.
    """

    def __init__(self, readings: TeacherReadings) -> None:
        """`readings` has every checkpoint, the final teacher last."""
        self.readings, self._curve = readings, list(readings.accuracies.values())
        with style.context():
            self.figure, (left, right) = style.row_of_axes(9, 3.6, 2, width_ratios=[1.2, 1])
            left.plot(range(1, len(self._curve) + 1), self._curve, color=OWNER["T"], lw=2)
            (self._point,) = left.plot(1, self._curve[0], "o", color=OWNER["T"], mec="black", ms=10)
            style.chance_line(left, 0.5)
            left.set(xlabel="checkpoint (last: final teacher)", ylim=(None, 1.05))
            style.accuracy_axis(left, "validation accuracy")
            self._title = left.set_title("step")
            self._image = _map(right, readings, readings.steps[0])
            right.set(xlabel="bits (support first)", ylabel="bits (support first)")
            self.figure.colorbar(self._image, ax=right, label="correlation with each pair")
            self.figure.draw_without_rendering()
            self.figure.set_layout_engine("none")

    def at(self, step: int) -> Figure:
        """The figure at the checkpoint of `step`: the same object every time."""
        here = self.readings.steps.index(step)
        self._point.set_data([here + 1], [self._curve[here]])
        self._title.set_text(f"step {step:,}")
        self._image.set_data(_values(self.readings, step))
        return self.figure


def _map(axes: Axes, readings: TeacherReadings, step: int) -> AxesImage:
    """One map of the support's bits, framed, and some others, with one colour scale for all maps of a teacher."""
    inside = len(readings.support)
    largest = max(readings.table["in_support"].max(), 4 * readings.noise_floor)
    image = axes.imshow(_values(readings, step), cmap="RdBu_r", vmin=-largest, vmax=largest, interpolation="nearest")
    axes.add_patch(Rectangle((-0.5, -0.5), inside, inside, fill=False, lw=1, ec="black"))
    axes.set(xticks=[], yticks=[])
    axes.grid(visible=False)
    return image


def _values(readings: TeacherReadings, step: int) -> Float[np.ndarray, "bits bits"]:
    """The correlations of one map: bits of the support first, then some others."""
    n_bits, inside = len(readings.maps[step]), len(readings.support)
    order = [*readings.support, *(bit for bit in range(n_bits) if bit not in readings.support)][: inside + OTHERS]
    values: Float[np.ndarray, "bits bits"] = readings.maps[step][order][:, order].numpy()
    return values


@style.context()
def projected_probe(table: pd.DataFrame, noise_floor: float) -> Figure:
    """The probe on projected hidden states: one point per projection seed, inside and outside the support, by degree.

    Arguments:
    - `table`: one row per projection seed and degree, with the mean |correlation| `in_support` and `off_support`.
    - `noise_floor`: the value for independent variables, drawn as a line.
    """
    degrees = sorted(table["degree"].unique())
    figure, (axes,) = style.row_of_axes(9, 3.4)
    for i, (degree, (inside, _, marker)) in enumerate(_degree_looks(table)):
        for side, (column, colour, fill) in enumerate(
            (("in_support", inside, inside), ("off_support", OUTSIDE, "none"))
        ):
            values = table.loc[table["degree"] == degree, column].to_numpy()
            spots = i - 0.15 + 0.3 * side + np.linspace(-0.08, 0.08, len(values))
            axes.scatter(spots, values, marker=marker, s=40, facecolors=fill, edgecolors=colour)
            axes.annotate(f"{values.mean():.3f}", (spots.mean(), values.max()), xytext=(0, 7),
                          textcoords="offset points", ha="center", fontsize=NOTE)  # fmt: skip
    style.level_line(axes, noise_floor, "noise floor", *LEVEL["noise floor"][:2])
    axes.set_xticks(range(len(degrees)), [f"degree {degree}" for degree in degrees])
    axes.set(ylabel="mean |correlation|", xlim=(-0.6, len(degrees) - 0.4))
    axes.set_ylim(0, 1.15 * max(table["in_support"].max(), table["off_support"].max()))
    handles = [Line2D([], [], ls="", marker="o", mfc=fill, mec=colour, label=name)
               for colour, fill, name in (("#444444", "#444444", "in the support"), (OUTSIDE, "none", "outside it"))]  # fmt: skip
    axes.legend(handles=handles, loc="upper right")
    return figure


@style.context()
def bit_correlations(by_target: Mapping[str, Sequence[float]], support: Sequence[int], n_samples: int) -> Figure:
    """How strongly a student's first target correlates with each input bit: one panel per curriculum.

    Arguments:
    - `by_target`: for each curriculum, the |correlation| of its first target with each bit.
    - `support`: the bits that the label depends on; they come first and are dark.
    - `n_samples`: the number of samples behind the correlations, for the noise floor.
    """
    figure, row = style.row_of_axes(9, 3, len(by_target), sharey=True)
    for axes, (name, values) in zip(row, by_target.items(), strict=True):
        inside = [float(values[bit]) for bit in support]
        outside = [float(value) for bit, value in enumerate(values) if bit not in support]
        axes.bar(range(len(inside)), inside, color="#444444", label="bits of the support")
        axes.bar(range(len(inside), len(values)), outside, color=OUTSIDE, label="other bits")
        floor = (2 / (np.pi * n_samples)) ** 0.5
        style.level_line(axes, floor, "noise\nfloor" if axes is row[-1] else "", *LEVEL["noise floor"][:2])
        axes.set(title=name.replace("_", "-"), xlabel="input bits (support first)", xticks=[])
    row[0].set_ylabel("|correlation|")
    row[0].legend(loc="upper right", fontsize=NOTE)
    return figure


def curves_over_seeds(history: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The "median", "min" and "max" accuracy over seeds: by step (the index), a column per curriculum, gaps filled."""
    table = tables.hold_last_accuracy(history).groupby(["curriculum", "step"])["accuracy"].agg(["median", "min", "max"])
    names = list(dict.fromkeys(history["curriculum"]))  # in order of appearance
    return {statistic: table[statistic].unstack("curriculum")[names].ffill() for statistic in table}


def latest(steps: list[int], step: int) -> int:
    """The last of the sorted `steps` that is not after `step`, or the first one if all are."""
    return steps[max(0, bisect_right(steps, step) - 1)]


class ExplorerFigure:
    """Three panels over the same optimiser steps, with a movable line across all of them.

    The students (a curve for each curriculum: median over seeds, with a band from the worst seed to the best), below
    them the teacher's own training with its checkpoints, and the mean |correlation| of those checkpoints with monomials
    inside and outside the support.
    """

    def __init__(self, runs: DistillationRuns, readings: TeacherReadings | None, magnified: bool = False) -> None:
        """Both on the same task; a final teacher that took more steps than any student is left out.

        Without `readings`, which only teachers of a parity have, there is the panel of the students alone.
        `magnified` shows the teacher's training and a little more, on a linear axis with room for its transition.
        """
        curves = curves_over_seeds(runs.history)
        self.students = curves["median"]
        self.kept = pd.DataFrame({"step": []}, dtype=int)
        if readings is not None:
            steps, final = readings.table["step"], readings.table["final"]
            self.kept = readings.table[~final | (steps <= self.students.index.max())]
        heights = (1.5, 1, 1.2) if readings else (1.5,)
        lowest = min(0.38, curves["min"].min().min() - 0.02)
        with style.context():
            self.figure = Figure(figsize=(9, 6.2 if readings else 3.2), layout="constrained")
            panels = self.figure.subplots(len(heights), 1, sharex=True, height_ratios=heights, squeeze=False)[:, 0]
            self._draw_students(panels[0], curves)
            if readings:
                self._draw_teacher(panels[1])
                self._draw_probe(panels[2])
            self._lines = [axes.axvline(0, color="black", lw=1.5) for axes in panels]
            self._title = panels[0].set_title("step", loc="left", y=1)
            self._time_axis(panels[-1], magnified)
            for axes in panels[:2]:
                axes.set_ylim(lowest, 1.05)
                if readings:
                    style.chance_line(axes, 0.5)
            self.figure.draw_without_rendering()
            self.figure.set_layout_engine("none")

    @property
    def last(self) -> int:
        """The last step of the time axis."""
        return self.moments()[-1]

    def moments(self, at_most: int | None = None) -> list[int]:
        """The steps with an evaluation, or up to `at_most` of them, evenly spaced on the axis."""
        known = sorted({*self.students.index.tolist(), *self.kept["step"].tolist()})
        if at_most is None:
            return known
        wanted = np.geomspace(max(1, LINEAR / 4), known[-1], at_most - 1)
        return sorted({known[0], *(latest(known, round(step)) for step in wanted)})

    def at(self, step: int) -> Figure:
        """The figure with its line at `step`: the same object every time."""
        self._title.set_text(f"after {step:,} steps")
        for line in self._lines:
            line.set_xdata([step, step])
        return self.figure

    def _time_axis(self, axes: Axes, magnified: bool) -> None:
        """The steps that all panels share."""
        if magnified:
            axes.set(xlabel="optimiser steps of each network", xlim=(0, 1.6 * self.kept["step"].max()))
        else:
            axes.set_xscale("symlog", linthresh=LINEAR, linscale=0.4)
            axes.set(xlabel="optimiser steps of each network (logarithmic)", xlim=(0, 1.05 * self.last))
            axes.xaxis.set_major_locator(SymmetricalLogLocator(base=10, linthresh=LINEAR, subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter("{x:,.0f}")

    @property
    def moving(self) -> list[Artist]:
        """The artists that differ between steps; the rest of the figure is drawn once."""
        return [*self._lines, self._title]

    def _draw_students(self, axes: Axes, curves: Mapping[str, pd.DataFrame]) -> None:
        """A curve and a band for each curriculum."""
        median, low, high = (curves[statistic] for statistic in ("median", "min", "max"))
        for name, (colour, dashes, _) in style.looks(list(median)).items():
            style.band(axes, low[name], high[name], colour)
            width = 5 if name == "scratch" else 2  # one-shot often lies on it
            axes.plot(median[name], color=colour, ls=dashes, lw=width, label=name.replace("_", "-"))
        style.accuracy_axis(axes, "students,\ntest accuracy")
        title = "median over seeds;\nband: worst to best"
        axes.legend(loc="upper left", bbox_to_anchor=(1, 1), title=title, title_fontsize=NOTE, alignment="left")

    def _draw_teacher(self, axes: Axes) -> None:
        """The teacher's curve with a mark for each checkpoint."""
        curve = self.kept.drop_duplicates("step")
        label = "checkpoint;\nlast: final"
        axes.plot(curve["step"], curve["accuracy"], color=OWNER["T"], marker="|", ms=7, lw=1.5, label=label)
        style.accuracy_axis(axes, "teacher,\nvalidation")
        axes.legend(loc="upper left", bbox_to_anchor=(1, 1))

    def _draw_probe(self, axes: Axes) -> None:
        """A line for each degree in the support, and in grey those outside it."""
        for degree, (colour, dashes, _) in _degree_looks(self.kept):
            rows = self.kept[self.kept["degree"] == degree]
            label = None if degree > self.kept["degree"].min() else "outside the support"
            axes.plot(rows["step"], rows["off_support"], color=OUTSIDE, ls=dashes, lw=1, label=label)
            axes.plot(rows["step"], rows["in_support"], color=colour, ls=dashes, lw=2, label=f"degree {degree}")
        axes.set(ylabel="teacher's mean\n|correlation|", ylim=(0, None))
        axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
