"""Figures of strings: how one was derived, what can be predicted of it, and what a teacher learns on the way."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch, Rectangle

from pwl_lab.plots import style
from pwl_lab.plots.style import CURRICULUM, LEVEL, NOTE, OWNER, OWNER_INK, Figure, Percent
from pwl_lab.study.recipes import HIDDEN
from pwl_lab.study.token_probes import ShownString
from pwl_lab.tasks.sequences import Ceiling
from pwl_lab.training import TrainedModel

SCORED = "#F3E3B3"  # behind a token that has to be predicted
MOST_LABELS = 40  # tokens of a string whose symbols can be read


@style.context()
def derivation_tree(string: ShownString) -> Figure:
    """How a string was derived: a row of spans for each level, the tokens below them, and what a network sees.

    Scored tokens have a coloured background; one that was replaced by another is bold.
    """
    figure = Figure(figsize=(9, 0.42 * (len(string.levels) + 3)), layout="constrained")
    axes = figure.subplots()
    for row, level in enumerate(string.levels):
        shade = mpl.colormaps["Greys"](0.12 + 0.1 * row)
        for span in level:
            box = FancyBboxPatch((span.start - 0.38, row - 0.32), span.end - span.start - 0.24, 0.64,
                                 boxstyle="round,pad=0,rounding_size=0.15", fc=shade, ec="white")  # fmt: skip
            axes.add_patch(box)
            _write(axes, (span.start + span.end - 1) / 2, row, span.symbol, string)
    bottom = len(string.levels)
    _token_rows(axes, string, bottom)
    rows = [f"level {number}" for number in range(1, bottom + 1)]
    style.named_rows(axes, [*rows, "tokens", "seen"])
    axes.set(xlim=(-0.6, len(string.tokens) - 0.4), xticks=[])
    _without_frame(axes)
    return figure


def _write(axes: Axes, x: float, y: float, words: str, string: ShownString, **look: Any) -> None:
    """A symbol at its place, where the string is short enough for it to be read."""
    if len(string.tokens) <= MOST_LABELS:
        axes.text(x, y, words, ha="center", va="center", family="monospace", fontsize=NOTE, **look)


def _token_rows(axes: Axes, string: ShownString, row: int) -> None:
    """The string, and below it the same as a network sees it."""
    for place, (token, seen, scored) in enumerate(zip(string.tokens, string.seen, string.scored, strict=True)):
        if scored:
            axes.add_patch(Rectangle((place - 0.5, row + 0.5), 1, 1, fc=SCORED, lw=0))
        _write(axes, place, row, token, string)
        replaced = {"weight": "bold", "color": OWNER_INK["T"]} if seen not in (None, token) else {}
        _write(axes, place, row + 1, HIDDEN if seen is None else seen, string, **replaced)


def _without_frame(axes: Axes) -> None:
    """No frame, no ticks, no grid: for what is a drawing, not a chart."""
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)


@style.context()
def predictable(string: ShownString, ceiling: float) -> Figure:
    """What can be predicted of a string: the exact probabilities at each scored position, and the largest of them.

    Arguments:
    - `string`: the string with its exact posterior.
    - `ceiling`: the mean of the largest probability over all scored positions of the test split, a line.
    """
    n_symbols, length = len(string.symbols), len(string.tokens)
    figure = Figure(figsize=(9, 1.2 + 0.34 * n_symbols + 1.6), layout="constrained")
    above, below = figure.subplots(2, 1, height_ratios=[0.34 * (n_symbols + 1), 1.6], sharex=True)
    shares = string.posterior.numpy()
    for place in (place for place, scored in enumerate(string.scored) if scored):
        for row, symbol in enumerate(string.symbols):
            colour = mpl.colormaps["Greys"](0.8 * shares[place, row])
            edge = {"ec": "#000000", "lw": 1.6, "zorder": 2} if symbol == string.tokens[place] else {"ec": "white"}
            above.add_patch(Rectangle((place - 0.46, row - 0.46), 0.92, 0.92, fc=colour, **edge))
            _write(above, place, row, f"{100 * shares[place, row]:.0f}", string, color=style.ink_on(colour))
    for place, token in enumerate(string.seen):
        _write(above, place, n_symbols, HIDDEN if token is None else token, string)
    style.named_rows(above, [*string.symbols, "seen"])
    _without_frame(above)
    scored = np.flatnonzero(string.scored)
    below.bar(scored, shares[scored].max(axis=1), width=0.7, color="#8A8A8A")
    style.level_line(below, ceiling, f"ceiling,\nall strings:\n{ceiling:.1%}", *LEVEL["learned"][:2])
    style.accuracy_axis(below, "best guess")
    below.set(ylim=(0, 1.02), xlim=(-0.6, length - 0.4), xticks=[])
    below.set_xlabel("position in the string")
    return figure


@style.context()
def teacher_phases(
    teacher: TrainedModel, ceiling: Ceiling, checkpoint_accuracy: float, phases: Sequence[int] = ()
) -> Figure:
    """A teacher's validation loss and accuracy over its training, against the best that is possible.

    Arguments:
    - `teacher`: with its checkpoints.
    - `ceiling`: the exact bounds.
    - `checkpoint_accuracy`: mark the first checkpoint that reached this.
    - `phases`: the steps at which its second and third phase begin; they are shaded.
    """
    figure, (left, right) = style.row_of_axes(9, 3.4, 2)
    chosen = teacher.checkpoint(at_accuracy=checkpoint_accuracy)
    for axes, column, level, words in (
        (left, "validation_loss", ceiling.loss, "floor"),
        (right, "accuracy", ceiling.accuracy, "ceiling"),
    ):
        curve = teacher.history.set_index("step")[column]
        axes.plot(curve, color=OWNER["T"], lw=2)
        axes.plot(chosen.step, curve[chosen.step], "^", color=CURRICULUM["progressive"][0], mec="black", ms=10)
        if phases:
            axes.axvspan(*phases, color="#EEEEEE", zorder=0)
        style.level_line(axes, level, words, *LEVEL["learned"][:2])
        style.steps_axis(axes)
    left.set_ylabel("validation loss (nats)")
    style.accuracy_axis(right, "validation accuracy")
    right.annotate(f"checkpoint for\nprogressive: {chosen.accuracy:.0%}", (chosen.step, chosen.accuracy),
                   xytext=(12, -6), textcoords="offset points", va="top", fontsize=NOTE)  # fmt: skip
    if phases:
        style.note_above(left, phases[0], "the fall")
    return figure


@style.context()
def probe_lines(probe: pd.DataFrame, reliance: Mapping[str, pd.DataFrame], phases: Sequence[int] = ()) -> Figure:
    """What a teacher knows at its checkpoints: parents read off its states, a line per block; reliance on neighbours.

    Arguments:
    - `probe`: as from `token_probes.parent_probe`.
    - `reliance`: for each grammar, as from `token_probes.neighbour_reliance`; thin lines are the exact posterior's.
    - `phases`: as in `teacher_phases`; shaded for the teacher that is probed.
    """
    figure, (left, right) = style.row_of_axes(9, 4, 2)
    last = max(probe["block"])
    for block, mine in probe.groupby("block"):
        shade = mpl.colormaps["Oranges"](0.35 + 0.6 * block / last)
        left.plot(mine["step"], mine["accuracy"], color=shade, ls="-" if block else ":", marker="os^Dv"[block % 5], ms=5,
                  label=f"block {block}" if block else "embedding")  # fmt: skip
    style.chance_line(left, probe["chance"].iloc[0])
    style.accuracy_axis(left, "parents read off")
    for (name, table), dashes in zip(reliance.items(), ("-", "--", "-.", ":"), strict=False):
        right.plot(table["step"], table["change"], color=OWNER["T"], lw=2, ls=dashes, marker="o", ms=4, label=name)
        words = f"exact, {name}"
        right.axhline(table["exact"].iloc[0], color=LEVEL["learned"][0], lw=1, ls=dashes, label=words)
    right.set(ylabel="change without the neighbours", ylim=(0, None))
    right.yaxis.set_major_formatter(Percent())
    if phases:
        left.axvspan(*phases, color="#EEEEEE", zorder=0)
    for axes, ncols in ((left, 3), (right, 2)):
        style.steps_axis(axes)
        axes.legend(
            fontsize=NOTE, loc="lower left", bbox_to_anchor=(0, 1), ncols=ncols, columnspacing=1, handlelength=2.6
        )
    return figure
