"""The small widgets: a slider over a teacher's checkpoints, the curriculum explorer, the loading timeline."""

from collections.abc import Sequence

import pandas as pd

from pwl_lab import plots
from pwl_lab.benchmarks.accuracy import anytime_area
from pwl_lab.distill.probes import TeacherReadings
from pwl_lab.loading.bundle import BundleIndex
from pwl_lab.plots.clock import horizon, plans_for, second_words
from pwl_lab.plots.correlations import latest
from pwl_lab.study.results import DistillationRuns
from pwl_lab.support.errors import invalid
from pwl_lab.widgets.frames import (
    Choice,
    Frame,
    FramePage,
    FramePicker,
    FrameTable,
    Key,
    Painter,
    png,
    show,
)


def checkpoint_slider(
    readings: TeacherReadings, at_most: int = 40, interactive: bool = True
) -> FramePicker | FramePage:
    """A slider over a teacher's checkpoints, each with its map of bit pairs.

    Raises InvalidValueError if `at_most` is less than 2.

    Arguments:
    - `readings`: what `probe_teacher` read from each checkpoint.
    - `at_most`: the largest number of checkpoints shown, evenly chosen; the first and the last one always are.
    - `interactive`: a live widget; otherwise a control for a page without a kernel.
    """
    if at_most < 2:
        raise invalid("at_most", at_most, "2 or more: the first checkpoint and the last one are always shown")
    steps, accuracies = readings.steps, readings.accuracies
    chosen = sorted({round(i * (len(steps) - 1) / (at_most - 1)) for i in range(at_most)})
    figure = plots.CheckpointFigure(readings)
    frames: dict[Key, Frame] = {}
    for number, step in enumerate((steps[i] for i in chosen), start=1):
        row, column = divmod(int(readings.maps[step].abs().argmax()), len(readings.maps[step]))
        strongest = f"bit {row}" if row == column else f"bits {row} and {column}"
        words = f"step {step:,}: validation accuracy {accuracies[step]:.1%}, strongest correlation with {strongest}"
        frames[(number,)] = Frame(png(figure.at(step)), words)
    tooltip = "which of the teacher's checkpoints is shown; the last is the final teacher"
    return show(FrameTable((Choice("Checkpoint", tooltip, range(1, len(chosen) + 1)),), frames), interactive)


def curriculum_explorer(
    runs: DistillationRuns, readings: TeacherReadings | None = None, at_most: int = 24, interactive: bool = True
) -> FramePicker | FramePage:
    """A slider over the steps of students and teacher: how far each of them is at that step.

    Arguments:
    - `runs`: the students, by curriculum and seed.
    - `readings`: what `probe_teacher` read from each of the teacher's checkpoints; None for a task that has no bits.
    - `at_most`: the largest number of steps to choose from.
    - `interactive`: a live widget; otherwise a control for a page without a kernel.
    """
    figure = plots.ExplorerFigure(runs, readings)
    steps = figure.moments(at_most)
    painter = Painter(figure.at(steps[0]), figure.moving)
    frames: dict[Key, Frame] = {}
    for step in steps:
        figure.at(step)
        frames[(f"{step:,}",)] = Frame(painter.png(figure.moving), _words(figure, runs.stages, step))
    choice = Choice("Optimiser steps", "of each network's own training", [f"{step:,}" for step in steps])
    return show(FrameTable((choice,), frames), interactive)


def _words(figure: plots.ExplorerFigure, stages: pd.DataFrame, step: int) -> str:
    """The three panels at a step, as text."""
    row = figure.students.loc[latest(figure.students.index.tolist(), step)]
    students = [f"{name.replace('_', '-')} {row[name]:.1%}{_stage(stages, name, step)}" for name in figure.students]
    said = f"After {step:,} steps the students (median over seeds; band: worst to best): {', '.join(students)}."
    if figure.kept.empty:
        return said
    point = latest(sorted(figure.kept["step"].unique()), step)
    probe = figure.kept[figure.kept["step"] == point]
    read = [
        f"degree {reading.degree} {reading.in_support:.3f} in the support, {reading.off_support:.3f} outside it"
        for reading in probe.itertuples()
    ]
    accuracy = probe["accuracy"].iloc[0]
    return f"{said}\nThe teacher as it was at step {point:,}: {accuracy:.1%}; correlation: {'; '.join(read)}."


def _stage(stages: pd.DataFrame, name: str, step: int) -> str:
    """The current target of a curriculum of several stages at a step, in brackets."""
    mine = stages[stages["curriculum"] == name]
    begun = mine[mine["start"] <= step]
    return f" (shown: {begun['target'].iloc[-1]})" if len(mine) > 1 and len(begun) else ""


def loading_timeline(
    index: BundleIndex,
    megabytes_per_s: Sequence[float] = (0.1, 0.5, 1, 5, 25),
    orders: Sequence[str] = ("prefix", "suffix", "contiguous", "best"),
    interactive: bool = True,
) -> FramePicker | FramePage:
    """Show accuracy against seconds on a link, by a bundle's bytes and recorded accuracies, for each loading order.

    Arguments:
    - `index`: the bundle's index.
    - `megabytes_per_s`: the links to choose from.
    - `orders`: the loading orders to choose from, as in the index.
    - `interactive`: a live widget; otherwise a control for a page without a kernel.
    """
    frames: dict[Key, Frame] = {}
    links = [f"{speed:g} MB/s" for speed in megabytes_per_s]
    for link, speed in zip(links, megabytes_per_s, strict=True):
        plans = plans_for(index, speed, orders)
        for order, plan in plans.items():
            first, last = (second_words(plan["seconds"].iloc[i]) for i in (0, -1))
            words = (
                f"{order} order at {link}: first prediction after {first}, the whole teacher after {last}, "
                f"mean accuracy over the time shown {anytime_area(plan, horizon(plans)):.1%}"
            )
            frames[link, order] = Frame(png(plots.planned_chart(index, speed, order, orders)), words)
    choices = (
        Choice("Bandwidth", "how fast the bytes arrive", links, start=links[len(links) // 2]),
        Choice("Loading order", "which teacher block comes when", orders, menu=True),
    )
    return show(FrameTable(choices, frames), interactive)
