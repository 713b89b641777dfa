"""Figures of distillation: learning curves, steps to a threshold, choices beside each other, the explorer."""

from bisect import bisect_right
from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.ticker import SymmetricalLogLocator

from pwl_lab.distill.probes import TeacherReadings
from pwl_lab.plots.style import (
    CURRICULUM,
    NOTE,
    OWNER,
    Figure,
    Percent,
    chance_line,
    level_line,
    looks,
    row_of_axes,
    seed_points,
    style,
)
from pwl_lab.study import tables
from pwl_lab.study.results import DistillationRuns
from pwl_lab.training import TrainedModel


def learning_curves(runs: DistillationRuns, threshold: float = 0.99, chance: float = 0.5) -> Figure:
    """Test accuracy against steps: the median over seeds, the band from the worst to the best seed, stages marked."""
    table, lost = tables.held(runs.history), tables.diverged(runs.history)
    names = list(dict.fromkeys(table["curriculum"]))
    with style():
        figure, (axes,) = row_of_axes(9, 4.2)
        for name, (colour, dashes, _) in looks(names).items():
            curve = table[table["curriculum"] == name].groupby("step")["accuracy"]
            axes.fill_between(curve.min().index, curve.min(), curve.max(), color=colour, alpha=0.15, lw=0)
            label = name.replace("_", "-") + (f" ({len(lost[name])} diverged)" if lost[name] else "")
            axes.plot(curve.median(), color=colour, ls=dashes, lw=5 if name == "scratch" else 2, label=label)
        starts = runs.stages.loc[runs.stages["start"] > 0, "start"].unique()
        for start in starts:
            axes.axvline(start, color="#444444", lw=0.8)
            axes.annotate("on to the next target", (start, 1), xycoords=("data", "axes fraction"), xytext=(0, 3),
                          textcoords="offset points", fontsize=NOTE)  # fmt: skip
        chance_line(axes, chance)
        level_line(axes, threshold, f"{threshold:.0%}:\nlearned", "#444444")
        axes.set(xlabel="optimiser steps", ylabel="test accuracy", ylim=(None, 1.02), xlim=(0, None))
        axes.yaxis.set_major_formatter(Percent())
        axes.xaxis.set_major_formatter("{x:,.0f}")
        figure.legend(loc="outside upper center", ncols=len(names))
    return figure


def steps_to_threshold(runs: DistillationRuns, threshold: float = 0.99) -> Figure:
    """Steps to the threshold: a point per seed, a bar at the median; what was not reached stands at the budget, hollow."""
    steps = runs.steps_to(threshold)
    budget = runs.plan.steps
    with style():
        figure, (axes,) = row_of_axes(9, 0.8 * len(steps) + 1)
        for row, (name, (colour, _, marker)) in enumerate(looks(list(steps)).items()):
            there = [budget if value is None else value for value in steps[name]]
            heights = row + np.linspace(-0.28, 0.28, len(there))
            seed_points(axes, there, heights, colour, marker, 48, [value is not None for value in steps[name]])
            median = tables.median_steps(steps[name], budget)
            axes.plot([median, median], [row - 0.4, row + 0.4], color=colour, lw=3, zorder=1.5)
            more = "> " if 2 * steps[name].count(None) >= len(steps[name]) else ""
            axes.annotate(f"{more}{median:,.0f}", (median, row - 0.41), ha="center", va="bottom", fontsize=NOTE)
        lost = tables.diverged(runs.history)
        words = [name.replace("_", "-") + (f"\n({len(lost[name])} diverged)" if lost[name] else "") for name in steps]
        axes.set_yticks(range(len(steps)), words)
        axes.set(xlabel=f"optimiser steps to {threshold:.0%}", xlim=(0, None), ylim=(len(steps) - 0.5, -0.75))
        axes.xaxis.set_major_formatter("{x:,.0f}")
    return figure


def teacher_curve(teacher: TrainedModel, checkpoint_accuracy: float | None = None) -> Figure:
    """A teacher's validation accuracy over its training, with the moment it was done and the chosen checkpoint."""
    history = teacher.history
    with style():
        figure, (axes,) = row_of_axes(9, 3.2)
        axes.plot(history["step"], history["accuracy"], color=OWNER["T"], lw=2)
        chance_line(axes, 1 / teacher.config.n_classes)
        if checkpoint_accuracy is not None:
            chosen = teacher.checkpoint(at_accuracy=checkpoint_accuracy)
            axes.plot(chosen.step, chosen.accuracy, "^", color="#E69F00", mec="black", ms=10)
            left = chosen.step > 0.4 * history["step"].max()  # there is room on one side only
            axes.annotate(f"checkpoint\nof progressive:\nstep {chosen.step:,}, {chosen.accuracy:.0%}",
                          (chosen.step, chosen.accuracy), xytext=(-14 if left else 14, -4),
                          textcoords="offset points", ha="right" if left else "left")  # fmt: skip
        if teacher.reached_at is not None and teacher.reached_at < history["step"].max():
            axes.axvspan(teacher.reached_at, history["step"].max(), color="#EEEEEE", zorder=0)
            axes.annotate("goes on until it is saturated", (teacher.reached_at, 0.8),
                          xycoords=("data", "axes fraction"), xytext=(6, 0), textcoords="offset points")  # fmt: skip
        axes.set(xlabel="optimiser steps", ylabel="validation accuracy", xlim=(0, None), ylim=(None, 1.03))
        axes.yaxis.set_major_formatter(Percent())
        axes.xaxis.set_major_formatter("{x:,.0f}")
    return figure


def choices_chart(history: pd.DataFrame, curriculum_of: Mapping[str, str], budget: int, threshold: float) -> Figure:
    """Steps to the threshold per variant: a point per seed, a bar at the median; hollow at the budget: not reached.

    Curricula in `history` are called `choice: variant`; `curriculum_of[choice]` says in whose colour a choice is drawn.
    """
    steps = tables.steps_to_threshold(history, threshold)
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
    median = tables.median_steps(values, budget)
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


LINEAR = 100  # steps; from there on the time axis is logarithmic, for students take many times the teacher's steps
DEGREE_COLOURS = ("#009E73", "#0072B2", "#CC79A7")


def curves_over_seeds(history: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The "median", "min" and "max" accuracy over seeds: by step (the index), a column per curriculum, gaps filled."""
    table = tables.held(history).groupby(["curriculum", "step"])["accuracy"].agg(["median", "min", "max"])
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
