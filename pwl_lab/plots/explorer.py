"""Students, teacher and probe on one time axis: what each of them is at so many steps of its own training."""

from bisect import bisect_right
from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.ticker import SymmetricalLogLocator

from pwl_lab import analysis
from pwl_lab.distill.probes import TeacherReadings
from pwl_lab.plots.style import NOTE, OWNER, Figure, Percent, chance_line, looks, style
from pwl_lab.results import DistillationRuns

LINEAR = 100  # steps; from there on the time axis is logarithmic, for students take many times the teacher's steps
DEGREE_COLOURS = ("#009E73", "#0072B2", "#CC79A7")


def curves_over_seeds(history: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The "median", "min" and "max" accuracy over seeds: by step (the index), a column per curriculum, gaps filled."""
    table = analysis.held(history).groupby(["curriculum", "step"])["accuracy"].agg(["median", "min", "max"])
    names = list(dict.fromkeys(history["curriculum"]))  # in order of appearance
    return {statistic: table[statistic].unstack("curriculum")[names].ffill() for statistic in table}


def latest(steps: list[int], step: int) -> int:
    """The last of the sorted `steps` that is not after `step`; the first one where all are."""
    return steps[max(0, bisect_right(steps, step) - 1)]


class ExplorerFigure:
    """Three panels over the same optimiser steps, with a line across all of them that can be moved.

    Above the students (a curve for each curriculum: median over seeds, the band from the worst seed to the best), below
    them the teacher's own training with its checkpoints, and the probe's mean |correlation| of those checkpoints with
    monomials in and off the support.
    """

    def __init__(self, runs: DistillationRuns, readings: TeacherReadings, magnified: bool = False) -> None:
        """Both on the same task; a final teacher that took more steps than any student is left out.

        `magnified` shows the teacher's training and a little more, on a linear axis: there its transition has room.
        """
        curves = curves_over_seeds(runs.history)
        self.students = curves["median"]
        steps, final = readings.table["step"], readings.table["final"]
        self.kept = readings.table[~final | (steps <= self.students.index.max())]
        lowest = min(0.38, curves["min"].min().min() - 0.02)
        with style():
            self.figure = Figure(figsize=(9, 6.2), layout="constrained")
            panels = self.figure.subplots(3, 1, sharex=True, height_ratios=(1.5, 1, 1.2))
            self._draw_students(panels[0], curves)
            self._draw_teacher(panels[1])
            self._draw_probe(panels[2])
            self._lines = [axes.axvline(0, color="black", lw=1.5) for axes in panels]
            self._title = panels[0].set_title("step", loc="left", y=1)
            self._time_axis(panels[2], magnified)
            for axes in panels[:2]:
                axes.yaxis.set_major_formatter(Percent())
                axes.set(ylim=(lowest, 1.05))
                chance_line(axes, 0.5)
            self.figure.draw_without_rendering()
            self.figure.set_layout_engine("none")

    @property
    def last(self) -> int:
        """The last step of the time axis."""
        return self.moments()[-1]

    def moments(self, at_most: int | None = None) -> list[int]:
        """The steps at which anything was evaluated, or up to `at_most` of them, as evenly as the axis is drawn."""
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
            axes.set(xlabel="optimiser steps, each network's own", xlim=(0, 1.6 * self.kept["step"].max()))
        else:
            axes.set_xscale("symlog", linthresh=LINEAR, linscale=0.4)
            axes.set(xlabel="optimiser steps, each network's own (logarithmic)", xlim=(0, 1.05 * self.last))
            axes.xaxis.set_major_locator(SymmetricalLogLocator(base=10, linthresh=LINEAR, subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter("{x:,.0f}")

    @property
    def moving(self) -> list[Artist]:
        """What differs between steps; all else in the figure stays as it is drawn first."""
        return [*self._lines, self._title]

    def _draw_students(self, axes: Axes, curves: Mapping[str, pd.DataFrame]) -> None:
        """A curve and a band for each curriculum."""
        median, low, high = (curves[statistic] for statistic in ("median", "min", "max"))
        for name, (colour, dashes, _) in looks(list(median)).items():
            axes.fill_between(median.index, low[name], high[name], color=colour, alpha=0.15, lw=0)
            axes.plot(median.index, median[name], color=colour, ls=dashes, lw=2, label=name.replace("_", "-"))
        axes.set(ylabel="students,\ntest accuracy")
        title = "median over seeds;\nband: worst to best"
        axes.legend(loc="upper left", bbox_to_anchor=(1, 1), title=title, title_fontsize=NOTE, alignment="left")

    def _draw_teacher(self, axes: Axes) -> None:
        """The teacher's curve with a mark for each checkpoint."""
        curve = self.kept.drop_duplicates("step")
        axes.plot(
            curve["step"],
            curve["accuracy"],
            color=OWNER["T"],
            marker="|",
            ms=7,
            lw=1.5,
            label="checkpoint;\nthe last: final",
        )
        axes.set(ylabel="teacher,\nvalidation")
        axes.legend(loc="upper left", bbox_to_anchor=(1, 1))

    def _draw_probe(self, axes: Axes) -> None:
        """A line for each degree in the support, and the same off it in grey."""
        for place, (degree, rows) in enumerate(self.kept.groupby("degree")):
            dashes = ("-", "--", "-.")[place % 3]
            axes.plot(rows["step"], rows["off_support"], color="#888888", ls=dashes, lw=1,
                      label=None if place else "off the support")  # fmt: skip
            axes.plot(rows["step"], rows["in_support"], color=DEGREE_COLOURS[place % 3], ls=dashes, lw=2,
                      label=f"degree {degree}")  # fmt: skip
        axes.set(ylabel="teacher's mean\n|correlation|", ylim=(0, None))
        axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
