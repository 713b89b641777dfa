"""Figures of distillation: learning curves, steps to a threshold, and curricula crossed with loading."""

from collections.abc import Mapping, Sequence

import pandas as pd
from matplotlib.axes import Axes

from pwl_lab.models.blocknet import ModelConfig
from pwl_lab.plots import style
from pwl_lab.plots.style import CURRICULUM, LEVEL, NOTE, OWNER, Figure, Look, Percent
from pwl_lab.study import tables
from pwl_lab.study.crossing import LOADING_WORDS, LOADINGS, MEASURES, PWL_ONLY, Crossed
from pwl_lab.study.results import DistillationRuns
from pwl_lab.training import TrainedModel

ABLATED = {"student": "student alone", "prefix_mean": "prefix order,\nmean on the way", "worst": "worst of all masks"}
# What an ablation changed, where the name in its table is too short to be understood.
CHANGED = {"equal channels: only where different": "equal channels: no converter there"}
LINEAR = 2  # points; what an ablation costs spans from tenths of a point to tens


@style.context()
def learning_curves(
    runs: DistillationRuns, threshold: float = 0.99, levels: Mapping[str, float] | None = None
) -> Figure:
    """Test accuracy against steps: the median over seeds, with a band from the worst to the best seed.

    A line in a curriculum's colour marks where a new stage begins; another line marks the accuracy of guessing.

    Arguments:
    - `runs`: the students, by curriculum and seed.
    - `threshold`: the accuracy that counts as learned, drawn as a line.
    - `levels`: other accuracies to draw in its place, by the words beside their lines.
    """
    table, lost = tables.hold_last_accuracy(runs.history), tables.diverged(runs.history)
    names = list(dict.fromkeys(table["curriculum"]))
    figure, (axes,) = style.row_of_axes(9, 4.2)
    looks = style.looks(names)
    for name, (colour, dashes, _) in looks.items():
        curve = table[table["curriculum"] == name].groupby("step")["accuracy"]
        style.band(axes, curve.min(), curve.max(), colour)
        label = _name(name) + (f" ({len(lost[name])} diverged)" if lost[name] else "")
        axes.plot(curve.median(), color=colour, ls=dashes, lw=5 if name == "scratch" else 2, label=label)
    _stage_marks(axes, runs.stages, looks)
    _guessing(axes, runs.student_config)
    for words, value in (levels or {f"{threshold:.0%}:\nlearned": threshold}).items():
        style.level_line(axes, value, words, *LEVEL["learned"][:2])
    style.steps_axis(axes)
    style.accuracy_axis(axes, "test accuracy")
    axes.set_ylim(None, 1.02 * max(levels.values()) if levels else 1.02)
    figure.legend(loc="outside upper center", ncols=min(len(names), 5))
    return figure


def _guessing(axes: Axes, model: ModelConfig) -> None:
    """The line of guessing among a network's classes; a reader's own family may not say how many there are."""
    classes = getattr(model, "n_classes", None)
    if classes:
        style.chance_line(axes, 1 / classes)


def _stage_marks(axes: Axes, stages: pd.DataFrame, looks: Mapping[str, Look]) -> None:
    """A line where a stage begins, in its curriculum's colour; dashes of several colours where curricula coincide."""
    begins = stages[(stages["start"] > 0) & stages["curriculum"].isin(list(looks))]
    for start, there in begins.groupby("start"):
        names = list(dict.fromkeys(there["curriculum"]))
        for i, name in enumerate(names):
            dashes = "-" if len(names) == 1 else (6 * i, (6, 6 * (len(names) - 1)))
            axes.axvline(start, color=looks[name][0], lw=1.4, ls=dashes, zorder=1.5)
    if len(begins):
        words = "second stage begins" if begins["start"].nunique() == 1 else "lines: the next stage begins"
        style.note_above(axes, begins["start"].min(), words)


@style.context()
def steps_to_threshold(runs: DistillationRuns, threshold: float = 0.99, of: str = "") -> Figure:
    """Steps to a test accuracy: a point per seed, a bar at the median; hollow points at the budget did not reach it.

    Arguments:
    - `runs`: the students, by curriculum and seed.
    - `threshold`: the test accuracy to reach.
    - `of`: what it is a fraction of, such as `of the teacher's accuracy`; by default of all samples.
    """
    steps, lost, budget = runs.steps_to(threshold), tables.diverged(runs.history), runs.plan.steps
    figure, (axes,) = style.row_of_axes(9, 0.8 * len(steps) + 1)
    for row, (name, look) in enumerate(style.looks(list(steps)).items()):
        median = _steps_row(axes, row, steps[name], budget, look)
        more = "> " if 2 * steps[name].count(None) >= len(steps[name]) else ""
        axes.annotate(f"{more}{median:,.0f}", (median, row - 0.37), ha="center", va="bottom", fontsize=NOTE)
    style.named_rows(
        axes, [_name(name) + (f"\n({len(lost[name])} diverged)" if lost[name] else "") for name in steps], 0.75
    )
    style.steps_axis(axes, f"optimiser steps to {threshold:.0%} {of}".rstrip())
    return figure


@style.context()
def choices_chart(history: pd.DataFrame, curriculum_of: Mapping[str, str], budget: int, threshold: float) -> Figure:
    """Steps to the threshold per variant: a point per seed, a bar at the median; hollow points did not reach it.

    Arguments:
    - `history`: accuracies by curriculum, seed and step; the curricula are named `choice: variant`.
    - `curriculum_of`: for each choice, the curriculum in whose colour it is drawn.
    - `budget`: the steps that each student had.
    - `threshold`: the test accuracy to reach.
    """
    steps = tables.steps_to_threshold(history, threshold)
    figure, (axes,) = style.row_of_axes(9, 0.29 * len(steps) + 0.25 * len(curriculum_of) + 1)
    labels: dict[float, str] = {}
    row = 0.0
    for choice, curriculum in curriculum_of.items():
        axes.annotate(choice, (0, row), xycoords=("axes fraction", "data"), xytext=(-8, 0), ha="right", va="center",
                      textcoords="offset points", weight="bold", fontsize=NOTE)  # fmt: skip
        for name in (name for name in steps if name.startswith(f"{choice}: ")):
            row += 1
            labels[row] = name.removeprefix(f"{choice}: ")
            _steps_row(axes, row, steps[name], budget, CURRICULUM[curriculum])
        row += 1.4
    axes.set_yticks(list(labels), list(labels.values()))
    axes.axvline(budget, color="#444444", lw=0.8, ls="--")
    style.note_above(axes, budget, "budget", ha="center")
    style.steps_axis(axes, f"optimiser steps to {threshold:.0%}")
    axes.set_ylim(row - 0.6, -0.8)
    return figure


def _steps_row(axes: Axes, row: float, values: Sequence[int | None], budget: int, look: Look) -> float:
    """Draw a row of steps, hollow at the budget if not reached; return the median."""
    there = [budget if value is None else value for value in values]
    median = tables.median_steps(values, budget)
    style.seed_row(axes, row, there, median, look, [value is not None for value in values], apart=0.25)
    return median


@style.context()
def teacher_curve(teacher: TrainedModel, checkpoint_accuracy: float | None = None) -> Figure:
    """A teacher's validation accuracy over its training, with the step at which it reached its goal.

    Arguments:
    - `teacher`: a trained teacher with its history and checkpoints.
    - `checkpoint_accuracy`: mark the checkpoint that first reached this, which the progressive curriculum uses.
    """
    history = teacher.history
    end = history["step"].max()
    figure, (axes,) = style.row_of_axes(9, 3.2)
    axes.plot(history["step"], history["accuracy"], color=OWNER["T"], lw=2)
    _guessing(axes, teacher.config)
    if checkpoint_accuracy is not None:
        chosen = teacher.checkpoint(at_accuracy=checkpoint_accuracy)
        axes.plot(chosen.step, chosen.accuracy, "^", color=CURRICULUM["progressive"][0], mec="black", ms=10)
        left = chosen.step > 0.4 * end  # there is room on one side only
        axes.annotate(f"checkpoint for\nprogressive:\nstep {chosen.step:,}, {chosen.accuracy:.0%}",
                      (chosen.step, chosen.accuracy), xytext=(-14 if left else 14, -4),
                      textcoords="offset points", ha="right" if left else "left")  # fmt: skip
    if teacher.reached_at is not None and teacher.reached_at < end:
        axes.axvspan(teacher.reached_at, end, color="#EEEEEE", zorder=0)
        axes.annotate("continues until saturated", (teacher.reached_at, 0.8),
                      xycoords=("data", "axes fraction"), xytext=(6, 0), textcoords="offset points")  # fmt: skip
    style.steps_axis(axes)
    style.accuracy_axis(axes, "validation accuracy")
    axes.set_ylim(None, 1.03)
    return figure


def _name(curriculum: str) -> str:
    """The name of a curriculum, or of plain PWL, in legends."""
    words = {PWL_ONLY[0]: "plain PWL", "last_block": "last block", "at_once": "all at once"}
    words |= {f"one_shot_{output}": f"one-shot, {output}" for output in ("soft", "hard")}
    return words.get(curriculum, curriculum.replace("_", "-"))


def _share_frame(figure: Figure, panels: Sequence[Axes], label: str) -> None:
    """One label, in percent, for the y axis that the panels share, and one legend above them."""
    style.accuracy_axis(panels[0], label)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels))


def _in_each(curriculum: str) -> str:
    """The label of a curriculum where plain PWL is drawn in every panel, whatever the panel is about."""
    return _name(curriculum) + (" (in every panel)" if curriculum == PWL_ONLY[0] else "")


@style.context()
def crossing_histories(found: Sequence[Crossed], chance: float | None = None) -> Figure:
    """The student's validation accuracy over training: one panel per loading, one line with a band per curriculum.

    Plain PWL, for comparison, is in every panel.

    Arguments:
    - `found`: the students, as from `crossing.crossed_pairs`.
    - `chance`: the accuracy of guessing, a line.
    """
    others = {one.loading for one in found if one.curriculum != PWL_ONLY[0]}
    loadings = [name for name in LOADINGS if name in others]
    figure, panels = style.row_of_axes(9, 3.4, len(loadings), sharey=True)
    for axes, loading in zip(panels, loadings, strict=True):
        shown = [one for one in found if one.loading == loading or one.curriculum == PWL_ONLY[0]]
        for curriculum in dict.fromkeys(one.curriculum for one in found):
            mine = [one.pair.history.set_index("step")["accuracy"] for one in shown if one.curriculum == curriculum]
            table = pd.concat(mine, axis=1)
            colour, dashes, _ = CURRICULUM[curriculum]
            axes.plot(table.mean(axis=1), color=colour, ls=dashes, lw=2, label=_in_each(curriculum))
            style.band(axes, table.min(axis=1), table.max(axis=1), colour)
        if 0 < LOADINGS[loading] < 1:
            axes.axvline(LOADINGS[loading] * table.index.max(), color="#444444", lw=0.8, ls="--")
        if chance is not None:
            style.chance_line(axes, chance, named=axes is panels[-1])
        axes.set_title(LOADING_WORDS[loading], fontsize=NOTE)
        axes.set(xlabel="optimiser steps", xlim=(0, None))
    _share_frame(figure, panels, "student, validation accuracy")
    return figure


@style.context()
def crossing_prefixes(table: pd.DataFrame) -> Figure:
    """Accuracy by loaded teacher blocks: a panel per loading, a line per curriculum (mean, bars from worst to best seed).

    `table` as from `crossing.crossing_table`. Plain PWL, for comparison, is in every panel.
    """
    alone = table["curriculum"] == PWL_ONLY[0]
    loadings = [name for name in LOADINGS if (table.loc[~alone, "loading"] == name).any()]
    figure, panels = style.row_of_axes(9, 3.6, len(loadings), sharey=True)
    for axes, loading in zip(panels, loadings, strict=True):
        chosen = table[(table["loading"] == loading) | alone]
        for i, (curriculum, mine) in enumerate(chosen.groupby("curriculum", sort=False)):
            accuracy = pd.DataFrame(mine["prefix_accuracy"].tolist()).melt(var_name="blocks")
            style.range_bars(axes, accuracy.groupby("blocks")["value"], CURRICULUM[curriculum], 0.06 * (i - 1.5), ms=5, lw=1.6,
                       capsize=2, label=_in_each(curriculum))  # fmt: skip
        axes.set_title(LOADING_WORDS[loading], fontsize=NOTE)
        axes.set_xlabel("teacher blocks loaded")
        axes.set_xticks(range(accuracy["blocks"].max() + 1))
    _share_frame(figure, panels, "test accuracy")
    return figure


@style.context()
def crossing_chart(table: pd.DataFrame) -> Figure:
    """All combinations, for the student, prefix order and all mixes on one scale: points are seeds, bars means.

    Up and down within a row the points are only kept apart.

    `table` as from `crossing.crossing_table`.
    """
    groups = table.groupby(["curriculum", "loading"], sort=False)
    figure, panels = style.row_of_axes(9, 0.32 * len(groups) + 1.2, len(MEASURES), sharex=True, sharey=True)
    for axes, (measure, title) in zip(panels, MEASURES.items(), strict=True):
        for row, ((curriculum, _), mine) in enumerate(groups):
            style.seed_row(axes, row, mine[measure], mine[measure].mean(), CURRICULUM[curriculum], apart=0.2)
        axes.set_title(title, fontsize=NOTE)
        axes.xaxis.set_major_formatter(Percent())
        axes.set_xlabel("test accuracy")
    style.named_rows(
        panels[0],
        [_name(c) if c == PWL_ONLY[0] else f"{_name(c)}: {LOADING_WORDS[how]}" for (c, how), _ in groups],
    )
    return figure


@style.context()
def parity_crossing(found: Sequence[Crossed]) -> Figure:
    """The smallest pair: each student's accuracy over training, with and without PWL, one line per seed."""
    figure, panels = style.row_of_axes(9, 3.2, 2, sharey=True)
    lowest = min([0.47, *(one.pair.history["accuracy"].min() for one in found)])
    for axes, loading in zip(panels, ("alone", "combined"), strict=True):
        names = dict.fromkeys(one.curriculum for one in found if one.loading == loading)
        for curriculum in names:
            mine = [one.pair.history for one in found if (one.curriculum, one.loading) == (curriculum, loading)]
            colour, dashes, _ = CURRICULUM[curriculum]
            for i, history in enumerate(mine):
                label = None if i else _name(curriculum)
                axes.plot(history["step"], history["accuracy"], color=colour, ls=dashes, lw=1.8, label=label)
        axes.set_title(LOADING_WORDS[loading], fontsize=NOTE)
        style.chance_line(axes, 0.5, named=loading == "combined")
        axes.set(xlabel="optimiser steps", xlim=(0, None), ylim=(lowest - 0.02, 1.03))
    _share_frame(figure, panels, "student, validation accuracy")
    return figure


@style.context()
def ablation_chart(table: pd.DataFrame) -> Figure:
    """The effect of each change to PWL training, against the default with the same seed: points are seeds, bars means.

    The axis is linear between the two ticks beside 0, and logarithmic outside.
    `table` has one row per group, variant and seed (`scripts/pair_ablation.py`). The variants of `equal channels` have
    a different student than the default: they are compared with the first of them.
    """
    measured = table.set_index(["group", "variant", "seed"])[list(ABLATED)].sort_index()  # or pandas warns
    keys = [key for key, _ in table.groupby(["group", "variant"], sort=False) if key[0] != "default"]
    own = next((key for key in keys if key[0] == "equal channels"), None)
    rows = [key for key in keys if key != own]
    figure, panels = style.row_of_axes(9, 0.3 * len(rows) + 1.4, len(ABLATED), sharex=True, sharey=True)
    for axes, (measure, title) in zip(panels, ABLATED.items(), strict=True):
        axes.axvline(0, color="#444444", lw=1)
        for row, key in enumerate(rows):
            reference = own if key[0] == "equal channels" else ("default", "default")
            values = 100 * (measured.loc[key] - measured.loc[reference])[measure]
            style.seed_row(axes, row, values, values.mean(), ("#222222", "-", "o"))
        axes.set_title(title, fontsize=NOTE)
        axes.set_xlabel("points of accuracy")
        axes.set_xscale("symlog", linthresh=LINEAR, linscale=0.8)
        axes.set_xticks([-40, -LINEAR, 0, LINEAR])
        axes.set_xticks([-30, -20, -10, -5], minor=True)
        axes.xaxis.set_major_formatter("{x:g}")
    names = [f"{group}: {variant}" for group, variant in rows]
    style.named_rows(panels[0], [CHANGED.get(name, name) for name in names])
    return figure
