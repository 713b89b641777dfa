"""Figures of the correlation probe: over checkpoints, pair by pair, and on projected hidden states."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from pwl_lab.distill.probes import TeacherReadings
from pwl_lab.plots.style import NOTE, OWNER, Figure, Percent, chance_line, level_line, row_of_axes, style

# (colour, line style, marker) of a degree; higher ones go round again.
DEGREE = [("#009E73", "-", "o"), ("#0072B2", "--", "s"), ("#CC79A7", "-.", "^"), ("#E69F00", ":", "D")]
OTHERS = 12  # bits off the support in a map: more make it too fine to see, and they all look alike
INSIDE, OUTSIDE = "#D55E00", "#888888"


def checkpoint_probe(readings: TeacherReadings) -> Figure:
    """Accuracy above, mean |correlation| of the margin per degree below; the final teacher stands apart on the right.

    Filled markers are monomials of the support, hollow grey ones those off it.
    """
    kept, final = (readings.table[readings.table["final"] == last] for last in (False, True))
    with style():
        figure = Figure(figsize=(9, 5.4), layout="constrained")
        grid = {"height_ratios": [1, 2.2], "width_ratios": [6, 1]}
        ((above, above_end), (below, below_end)) = figure.subplots(2, 2, sharex="col", sharey="row", gridspec_kw=grid)
        curve = kept.drop_duplicates("step")
        above.plot(curve["step"], curve["accuracy"], color=OWNER["T"], lw=2)
        above_end.plot([0], final["accuracy"].iloc[:1], "o", color=OWNER["T"])
        chance_line(above, 0.5, named=False)
        chance_line(above_end, 0.5)
        for degree, look in _degree_looks(readings.table):
            _degree(below, kept[kept["degree"] == degree], kept["step"].unique(), look)
            _degree(below_end, final[final["degree"] == degree], [0], look)
        level_line(below, readings.noise_floor, "", "#444444", (0, (1, 2)))
        level_line(below_end, readings.noise_floor, "noise\nfloor", "#444444", (0, (1, 2)))
        above.set(ylabel="validation\naccuracy", ylim=(None, 1.05))
        above.yaxis.set_major_formatter(Percent())
        below.set(xlabel="optimiser steps", ylabel="mean |correlation|", ylim=(0, None))
        below.xaxis.set_major_formatter("{x:,.0f}")
        below_end.set(xlim=(-1, 1), xticks=[0], xticklabels=[f"final,\n{int(final['step'].iloc[0]):,}"])
        handles = _legend(readings)
        figure.legend(handles=handles, loc="outside upper center", ncols=len(handles), fontsize=NOTE)
    return figure


def _degree_looks(table: pd.DataFrame) -> list[tuple[int, tuple[str, str, str]]]:
    """Each degree in the table with its look."""
    return [(degree, DEGREE[(degree - 1) % len(DEGREE)]) for degree in sorted(table["degree"].unique())]


def _degree(axes: Axes, rows: pd.DataFrame, places: np.ndarray | list[int], look: tuple[str, str, str]) -> None:
    """One degree's two lines."""
    colour, dashes, marker = look
    axes.plot(places, rows["off_support"], color=OUTSIDE, ls=dashes, lw=1, marker=marker, ms=3.5, mfc="none")
    axes.plot(places, rows["in_support"], color=colour, ls=dashes, lw=2, marker=marker, ms=4.5)


def _legend(readings: TeacherReadings) -> list[Line2D]:
    """An entry per degree, and one for all that is off the support."""
    entries = [
        Line2D([], [], color=colour, ls=dashes, marker=marker, lw=2, label=f"degree {degree} in the support")
        for degree, (colour, dashes, marker) in _degree_looks(readings.table)
    ]
    return [*entries, Line2D([], [], color=OUTSIDE, marker="o", mfc="none", lw=1, label="hollow: off it")]


def maps_over_steps(readings: TeacherReadings, at: Sequence[float] = (0.0, 0.55, 0.7, 0.85, 1.0)) -> Figure:
    """The maps of the first checkpoints that reached the accuracies `at`, and of the final teacher, side by side."""
    accuracies = readings.accuracies
    reached = [next((step for step in readings.steps if accuracies[step] >= value), None) for value in at]
    steps = sorted({step for step in reached if step is not None} | {readings.steps[-1]})
    with style():
        figure, row = row_of_axes(9, 2.3, len(steps))
        for axes, step in zip(row, steps, strict=True):
            image = _map(axes, readings, step)
            name = "final:" if step == readings.steps[-1] else "step"
            axes.set_title(f"{name} {step:,}\n{accuracies[step]:.0%} right", fontsize=NOTE)
        figure.colorbar(image, ax=row, label="correlation", shrink=0.75)
    return figure


def checkpoint_map(readings: TeacherReadings, step: int) -> Figure:
    """One checkpoint; see `CheckpointFigure`."""
    return CheckpointFigure(readings).at(step)


class CheckpointFigure:
    """A teacher's checkpoint: where it stands on the accuracy curve, its correlation with every bit and pair of bits.

    It can be turned to any checkpoint: what all have in common is laid out once.
    """

    def __init__(self, readings: TeacherReadings) -> None:
        """`readings` has every checkpoint, the final teacher last."""
        self.readings, self._curve = readings, list(readings.accuracies.values())
        with style():
            self.figure, (left, right) = row_of_axes(9, 3.6, 2, width_ratios=[1.2, 1])
            left.plot(range(1, len(self._curve) + 1), self._curve, color=OWNER["T"], lw=2)
            (self._point,) = left.plot(1, self._curve[0], "o", color=OWNER["T"], mec="black", ms=10)
            chance_line(left, 0.5)
            left.set(xlabel="checkpoint (the last: final teacher)", ylabel="validation accuracy", ylim=(None, 1.05))
            left.yaxis.set_major_formatter(Percent())
            self._title = left.set_title("step")
            self._image = _map(right, readings, readings.steps[0])
            right.set(xlabel="bits, the support first", ylabel="bits, the support first")
            self.figure.colorbar(self._image, ax=right, label="correlation with the pair")
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
    """One map of the support's bits, framed, and some others; the same colours mean the same for all of a teacher."""
    inside = len(readings.support)
    largest = max(readings.table["in_support"].max(), 4 * readings.noise_floor)
    image = axes.imshow(_values(readings, step), cmap="RdBu_r", vmin=-largest, vmax=largest, interpolation="nearest")
    axes.add_patch(Rectangle((-0.5, -0.5), inside, inside, fill=False, lw=1, ec="black"))
    axes.set(xticks=[], yticks=[])
    axes.grid(visible=False)
    return image


def _values(readings: TeacherReadings, step: int) -> np.ndarray:
    """The correlations of one map: bits of the support first, then some others."""
    n_bits, inside = len(readings.maps[step]), len(readings.support)
    order = [*readings.support, *(bit for bit in range(n_bits) if bit not in readings.support)][: inside + OTHERS]
    return readings.maps[step][order][:, order].numpy()


def projected_probe(table: pd.DataFrame, noise_floor: float) -> Figure:
    """The probe on projected hidden states: a point per projection seed, in and off the support, by degree."""
    degrees = sorted(table["degree"].unique())
    with style():
        figure, (axes,) = row_of_axes(9, 3.4)
        for side, (column, colour, marker, fill, name) in enumerate(
            (("in_support", INSIDE, "o", INSIDE, "in the support"), ("off_support", "#555555", "s", "none", "off it"))
        ):
            for place, degree in enumerate(degrees):
                values = table.loc[table["degree"] == degree, column].to_numpy()
                spots = place - 0.15 + 0.3 * side + np.linspace(-0.08, 0.08, len(values))
                label = name if place == 0 else None
                axes.scatter(spots, values, marker=marker, s=40, facecolors=fill, edgecolors=colour, label=label)
                axes.annotate(f"{values.mean():.3f}", (spots.mean(), values.max()), xytext=(0, 7),
                              textcoords="offset points", ha="center", fontsize=NOTE)  # fmt: skip
        level_line(axes, noise_floor, "noise floor", "#444444", (0, (1, 2)))
        axes.set_xticks(range(len(degrees)), [f"degree {degree}" for degree in degrees])
        axes.set(ylabel="mean |correlation|", xlim=(-0.6, len(degrees) - 0.4))
        axes.set_ylim(0, 1.15 * max(table["in_support"].max(), table["off_support"].max()))
        axes.legend(loc="upper right")
    return figure
