"""Learning curves, the teacher's checkpoints and the probe, with one moment picked out of all of them."""

import pandas as pd

from pwl_lab import plots
from pwl_lab.distill.probes import TeacherReadings
from pwl_lab.plots.explorer import latest
from pwl_lab.results import DistillationRuns
from pwl_lab.widgets.frames import Choice, Frame, FrameTable, Painter
from pwl_lab.widgets.page import FramePage
from pwl_lab.widgets.picker import FramePicker, show


def curriculum_explorer(
    runs: DistillationRuns, readings: TeacherReadings, at_most: int = 24, interactive: bool = True
) -> FramePicker | FramePage:
    """A slider over the steps of students and teacher (`at_most` of them): who is where at that moment.

    A live widget, or with `interactive=False` a control for a page without a kernel.
    """
    figure = plots.ExplorerFigure(runs, readings)
    steps = figure.moments(at_most)
    painter, frames = Painter(figure.at(steps[0]), figure.moving), {}
    for step in steps:
        figure.at(step)
        frames[(f"{step:,}",)] = Frame(painter.png(figure.moving), _words(figure, runs.stages, step))
    choice = Choice("Optimiser steps", "of each network's own training", [f"{step:,}" for step in steps])
    return show(FrameTable((choice,), frames), interactive)


def _words(figure: plots.ExplorerFigure, stages: pd.DataFrame, step: int) -> str:
    """What the three panels say at a step."""
    row = figure.students.loc[latest(figure.students.index.tolist(), step)]
    students = [f"{name.replace('_', '-')} {row[name]:.1%}{_stage(stages, name, step)}" for name in figure.students]
    point = latest(sorted(figure.kept["step"].unique()), step)
    probe = figure.kept[figure.kept["step"] == point]
    read = [
        f"degree {reading.degree} {reading.in_support:.3f} in the support, {reading.off_support:.3f} off it"
        for reading in probe.itertuples()
    ]
    return (
        f"After {step:,} steps the students (median over seeds; band: worst to best): {', '.join(students)}.\n"
        f"The teacher as it was at step {point:,}: {probe['accuracy'].iloc[0]:.1%}; correlation: {'; '.join(read)}."
    )


def _stage(stages: pd.DataFrame, name: str, step: int) -> str:
    """What a curriculum of several stages shows at a step, in brackets."""
    mine = stages[stages["curriculum"] == name]
    begun = mine[mine["start"] <= step]
    return f" (shown: {begun['target'].iloc[-1]})" if len(mine) > 1 and len(begun) else ""
