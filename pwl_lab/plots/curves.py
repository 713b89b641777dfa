"""Figures of training and distillation: a teacher's history, students' learning curves, steps to a threshold."""

import numpy as np

from pwl_lab import analysis
from pwl_lab.plots.style import (
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
from pwl_lab.study import DistillationRuns
from pwl_lab.training import TrainedModel


def learning_curves(runs: DistillationRuns, threshold: float = 0.99, chance: float = 0.5) -> Figure:
    """Test accuracy against steps: the median over seeds, the band from the worst to the best seed, stages marked."""
    table, lost = analysis.held(runs.history), analysis.diverged(runs.history)
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
            median = analysis.median_steps(steps[name], budget)
            axes.plot([median, median], [row - 0.4, row + 0.4], color=colour, lw=3, zorder=1.5)
            more = "> " if 2 * steps[name].count(None) >= len(steps[name]) else ""
            axes.annotate(f"{more}{median:,.0f}", (median, row - 0.41), ha="center", va="bottom", fontsize=NOTE)
        lost = analysis.diverged(runs.history)
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
