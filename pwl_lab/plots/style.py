"""The study's style: colours, line styles and markers by meaning, and the frame of a figure.

Colours are from Okabe and Ito's colour-blind-safe palette; line styles and markers differ as well. Figures are made
without pyplot's list of open figures, so a notebook shows each exactly once: as the value of a cell's last line.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
import matplotlib.figure
import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.ticker import Formatter, LogLocator, NullFormatter
from numpy.typing import ArrayLike, NDArray
from pandas.api.typing import SeriesGroupBy

from pwl_lab.study.tables import ORDER_NOTE
from pwl_lab.support.timing import phase

Dashes = Any  # a line style: matplotlib takes a name, or an offset with the lengths of dashes and gaps
Look = tuple[str, Dashes, str]  # colour, line style, marker

# The meaning of colours and line styles, the same in every figure of the series; `docs/glossary.md` shows the table.
# Seeds have no colours of their own: points, lines and bands take the colour of the thing that was repeated.
NETWORK: dict[str, Look] = {"teacher": ("#D55E00", "-", "o"), "student": ("#56B4E9", "-", "s")}
OWNER = {"T": NETWORK["teacher"][0], "S": NETWORK["student"][0]}
OWNER_NAME = {"T": "teacher", "S": "student"}
OWNER_INK = {"T": "#A84600", "S": "#1A6FA3"}  # the same two hues, dark enough for text and thin lines
# For a curriculum ("none": plain PWL); a reader's own ones take the spare entries in turn.
CURRICULUM: dict[str, Look] = {
    "scratch": ("#A6A6A6", ":", "X"),
    "one_shot": ("#332288", "--", "s"),
    "progressive": ("#C49A00", "-.", "^"),
    "even": ("#6B5400", (0, (3, 1, 1, 1)), "p"),  # progressive with checkpoints at even distances
    "extracted": ("#009E73", "-", "o"),
    "none": ("#000000", "-", "D"),
}
# Of notebook 07, beside the others: what is like one-shot is of its hue, and so is what is like extracted.
STRINGS: dict[str, Look] = {
    "one_shot_hard": ("#9D92E3", "-.", "D"),
    "last_block": ("#8FE0C0", "--", "v"),
    "at_once": ("#005A3C", (0, (5, 1.5)), "P"),
    "reversed": ("#A6611A", (0, (3, 1)), "<"),
    "untrained": ("#C51B7D", ":", ">"),
}
SPARE: list[Look] = [
    ("#8C510A", (0, (4, 2)), "D"),
    ("#8FB43A", "--", "v"),
    ("#7B3F9E", "-.", "P"),
    ("#2F4F4F", ":", "*"),
]
ORDER: dict[str, Look] = {
    "prefix": ("#14716A", "-", "o"),
    "suffix": ("#F0957A", "--", "s"),
    "contiguous": ("#999933", "-.", "^"),
    "best": ("#5E0F3A", (0, (5, 1.5)), "D"),
    "worst": ("#9C9C9C", ":", "X"),
}
# For a monomial's degree, darker as it grows; above five they repeat.
DEGREE: list[Look] = [
    ("#E58CC0", "-", "o"),
    ("#C2418F", "--", "s"),
    ("#8E1763", "-.", "^"),
    ("#4D0A36", ":", "D"),
    ("#170010", (0, (5, 1.5)), "P"),
]
OFF_SUPPORT: Look = ("#8A8A8A", "-", "o")
# For progressive loading (teal, like its orders) and its baselines: in the hue of the network that they load.
BASELINE: dict[str, Look] = {
    "progressive": ("#0B5D57", "-", "o"),
    "progressive_8bit_first": ("#5FB8AE", (0, (5, 1.5)), "D"),
    "student_only": ("#56B4E9", ":", "s"),
    "teacher_safetensors": ("#D55E00", "-.", "^"),
    "teacher_torch_load": ("#F2C14E", "--", "v"),
    "teacher_streamer": ("#5E2A00", ":", "*"),
    "teacher_8bit": ("#8A4B08", "--", "P"),
    "bit_planes": ("#6A51A3", "-.", "X"),
}
LATENCY: dict[str, Look] = {"idle": ("#707B7C", "--", "o"), "loading": ("#0B5D57", (0, (8, 1)), "o")}
# For a converter: the hue of the network that it converts for.
CONVERTER: dict[str, Look] = {"encoder": (OWNER_INK["S"], "-", "o"), "decoder": (OWNER_INK["T"], "--", "s")}
LOSS: dict[str, Look] = {
    "hard": ("#4477AA", "-", "o"),
    "soft": ("#66CCEE", "--", "s"),
    "sync": ("#228833", "-.", "^"),
    "recon": ("#BBA020", ":", "D"),
    "cross": ("#7A1F5C", (0, (5, 1.5)), "v"),
    "labels": ("#EE6677", "-", "X"),
    "output": ("#F5B7B1", "--", "P"),
    "hidden": ("#225522", "-.", "*"),
    "total": ("#333333", "-", "p"),
}
MASK: dict[str, Look] = {"any mask": ("#AAAAAA", "-", "o"), "best within a budget": ("#4B3F72", "-", "D")}
LEVEL: dict[str, Look] = {
    "guessing": ("#666666", (0, (1, 2)), ""),
    "learned": ("#444444", "--", ""),
    "noise floor": ("#444444", (0, (1, 2)), ""),
    "student alone": (OWNER_INK["S"], ":", ""),
    "teacher alone": (OWNER["T"], ":", ""),
}
# In points: the smallest font in a figure, for notes, labels at lines, names of panels. Smaller only where text would
# overlap otherwise: five blocks or more side by side, long class names, a crowded lattice.
NOTE = 10
STYLE: dict[str, Any] = {
    "figure.dpi": 110,
    "font.size": 11,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "legend.fontsize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#E5E5E5",
    "axes.axisbelow": True,
    "legend.frameon": False,
    "svg.fonttype": "none",
}


@contextmanager
def context() -> Iterator[None]:
    """A context with the study's style: matplotlib's defaults and `STYLE`, whatever the user's own configuration."""
    with phase("drawing"), mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(STYLE)  # type: ignore[arg-type]  # it takes any mapping of its own keys
        yield


class Figure(matplotlib.figure.Figure):
    """A figure that keeps the study's style when it is drawn, which in a notebook is long after it was created.

    Ticks, fonts and LaTeX are decided only then, by the current configuration: a user's own `text.usetex` could require
    a LaTeX that is not installed.
    """

    def draw(self, renderer: Any) -> None:
        """Draw in the study's style."""
        with context():
            super().draw(renderer)

    def get_tightbbox(self, *args: Any, **keys: Any) -> Any:
        """The box around everything drawn, measured in the study's style."""
        with context():
            return super().get_tightbbox(*args, **keys)

    def savefig(self, *args: Any, **keys: Any) -> None:
        """Save in the study's style."""
        with context():
            super().savefig(*args, **keys)


def looks(names: Sequence[str]) -> dict[str, Look]:
    """The look of each curriculum; one-shot with soft outputs, where both kinds are compared, is one-shot."""
    others = iter(SPARE * (1 + len(names) // len(SPARE)))
    known = CURRICULUM | STRINGS | {"one_shot_soft": CURRICULUM["one_shot"]}
    return {name: known[name] if name in known else next(others) for name in names}


def order_look(order: str) -> Look:
    """The look of a loading order, also of a reader's own."""
    return ORDER.get(order, SPARE[3])


def loss_look(term: str) -> Look:
    """The look of a loss term, also of a reader's own."""
    return LOSS.get(term, SPARE[3])


def order_note(figure: Figure, orders: Iterable[str]) -> None:
    """Add a note below a figure that defines the best or the worst order, if it shows that order."""
    said = [f"{order}: {ORDER_NOTE[order]}" for order in orders if order in ORDER_NOTE]
    if said:
        figure.supxlabel("\n".join(said), fontsize=NOTE, x=0.01, ha="left", color="#444444")


def byte_words(size: float, _: object = None) -> str:
    """A number of bytes in words: `840 B`, `56 kB`, `1.2 MB` (powers of 1,000)."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= 0.9995 * factor:
            value = size / factor
            return f"{value:.1f} {unit}" if value < 9.95 else f"{value:,.0f} {unit}"
    return f"{size:,.0f} B"


def ink_on(colour: Iterable[float]) -> str:
    """Black or white, whichever has the higher contrast on `colour` (WCAG's relative luminance)."""
    parts = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in list(colour)[:3]]
    luminance = 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]
    return "black" if (luminance + 0.05) / 0.05 > 1.05 / (luminance + 0.05) else "white"


def row_of_axes(width: float, height: float, columns: int = 1, **keys: Any) -> tuple[Figure, list[Axes]]:
    """A figure in the study's style with a row of axes."""
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(1, columns, squeeze=False, **keys)
    return figure, list(axes.flat)


class Percent(Formatter):
    """Shares as percentages, with just enough decimals to distinguish the ticks."""

    digits = 0

    def format_ticks(self, values: Sequence[float]) -> list[str]:
        """All ticks of an axis, with the same number of decimals."""
        ticks = [100 * value for value in values]
        self.digits = next((d for d in range(3) if all(abs(tick - round(tick, d)) < 1e-6 for tick in ticks)), 3)
        return [self(value) for value in values]

    def __call__(self, value: float, pos: int | None = None) -> str:
        """`value` (a share: 1 is 100%) in words."""
        return f"{100 * value:.{self.digits}f}%"


def accuracy_axis(axes: Axes, label: str) -> None:
    """The y axis shows an accuracy, in percent."""
    axes.set_ylabel(label)
    axes.yaxis.set_major_formatter(Percent())


def steps_axis(axes: Axes, label: str = "optimiser steps") -> None:
    """The x axis shows steps, from 0 on."""
    axes.set(xlabel=label, xlim=(0, None))
    axes.xaxis.set_major_formatter("{x:,.0f}")


def log_ticks(
    axis: Axis, words: Formatter | Callable[[float, object], str] | str, subs: Sequence[float] = (1, 2, 5)
) -> None:
    """Ticks of a logarithmic axis at these multiples of the powers of ten, each with a label; no minor ticks."""
    axis.set_major_locator(LogLocator(subs=subs))
    axis.set_major_formatter(words)
    axis.set_minor_formatter(NullFormatter())


def named_rows(axes: Axes, names: Sequence[str], above: float = 0.5) -> None:
    """A named row for each name, from the top down, with room `above` the first one."""
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -above)


def note_above(axes: Axes, x: float, words: str, **keys: Any) -> None:
    """Text right above the axes at `x`."""
    axes.annotate(words, (x, 1), xycoords=("data", "axes fraction"), xytext=(0, 3), textcoords="offset points",
                  fontsize=NOTE, **keys)  # fmt: skip


def svg_dashes(dashes: Dashes, scale: float) -> str:
    """A line style as SVG writes it, the lengths of an own pattern times `scale`."""
    named = {"-": "", "--": "8 4", "-.": "8 3 2 3", ":": "2 3"}
    return named[dashes] if isinstance(dashes, str) else " ".join(f"{scale * length:g}" for length in dashes[1])


def degree_look(degree: int) -> Look:
    """The look of a monomial's degree."""
    return DEGREE[(degree - 1) % len(DEGREE)]


def level_line(axes: Axes, value: float, words: str, colour: str, ls: Dashes = "--") -> None:
    """A horizontal line to compare with, with its name at its right end, outside the axes, where nothing overlaps it."""
    axes.axhline(value, color=colour, lw=1, ls=ls, zorder=1)
    axes.annotate(words, (1, value), xycoords=("axes fraction", "data"), xytext=(4, 0), textcoords="offset points",
                  ha="left", va="center", fontsize=NOTE, color=colour, annotation_clip=False)  # fmt: skip


def band(axes: Axes, low: pd.Series, high: pd.Series, colour: str, **keys: Any) -> None:
    """A band between two curves over the same index."""
    axes.fill_between(low.index, low, high, color=colour, alpha=0.15, lw=0, **keys)


def bar_lengths(mean: ArrayLike, low: ArrayLike, high: ArrayLike) -> NDArray[np.float64]:
    """How far bars reach below and above the means, as `Axes.errorbar` wants it.

    Never negative: the mean of equal values may differ from them in its last digit.
    """
    below, above = np.subtract(mean, low), np.subtract(high, mean)
    return np.maximum([below, above], 0.0)


def range_bars(axes: Axes, groups: SeriesGroupBy, look: Look, shift: float = 0.0, **keys: Any) -> None:
    """The mean of each group at its key, slightly to the side, with a bar from its lowest value to its highest."""
    colour, dashes, marker = look
    mean, low, high = groups.mean(), groups.min(), groups.max()
    keys = {"lw": 2, "ms": 7, "capsize": 4, **keys}
    bars = bar_lengths(mean, low, high)
    axes.errorbar(mean.index + shift, mean, yerr=bars, color=colour, ls=dashes, marker=marker, **keys)


def seed_row(
    axes: Axes,
    row: float,
    values: Sequence[float],
    middle: float,
    look: Look,
    reached: Sequence[bool] | None = None,
    apart: float = 0.0,
) -> None:
    """A row of points, one for each seed, and a bar at their middle; `apart` is their vertical spread."""
    colour, _, marker = look
    seed_points(axes, values, row + np.linspace(-apart, apart, len(values)), colour, marker, 48, reached)
    axes.plot([middle, middle], [row - 0.36, row + 0.36], color=colour, lw=2.5, zorder=1.5)


def seed_points(
    axes: Axes,
    values: ArrayLike,
    heights: ArrayLike,
    colour: str,
    marker: str,
    size: float,
    reached: Sequence[bool] | None = None,
) -> None:
    """A point for each seed, with a white edge to separate overlapping ones; hollow if a goal was not reached."""
    full = [True] * np.size(values) if reached is None else reached
    axes.scatter(values, heights, marker=marker, s=size, zorder=3, linewidths=[0.6 if done else 1.5 for done in full],
                 facecolors=[colour if done else "none" for done in full],
                 edgecolors=["white" if done else colour for done in full])  # fmt: skip


def labels_above(axes: Axes, words: Sequence[str], xs: Sequence[float], ys: Sequence[float]) -> None:
    """Labels for points that may be close together: in a row above the axes, each with a thin line down to its point.

    Each is as close to its point as its neighbours allow. `xs` must ascend; set the limits of the axes before.
    """
    small = NOTE if len(words) <= 10 else 7
    wide = 0.0011 * small * (2 + max(len(line) for word in words for line in word.split("\n")))
    at = axes.transAxes.inverted().transform(axes.transData.transform([(x, 0) for x in xs]))[:, 0]
    for word, x, y, spot in zip(words, xs, ys, spread_out(at, min(wide, 1 / len(words))), strict=True):
        axes.annotate(word, (x, y), xytext=(spot, 1.05), textcoords="axes fraction", ha="center", family="monospace",
                      fontsize=small, arrowprops={"arrowstyle": "-", "color": "#999999", "lw": 0.8, "shrinkB": 4})  # fmt: skip


def spread_out(spots: ArrayLike, apart: float) -> Float[np.ndarray, " n"]:
    """The ascending `spots` (0 to 1), moved as little as possible so that they are `apart` from each other."""
    slots = apart * np.arange(np.size(spots))
    shifts = np.asarray(spots) - slots  # these must not descend
    pushed, pulled = np.maximum.accumulate(shifts), np.minimum.accumulate(shifts[::-1])[::-1]
    return np.clip((pushed + pulled) / 2, 0, 1 - slots[-1]) + slots


def levels_alone(axes: Axes, student: float, teacher: float | None = None) -> None:
    """The levels of the student alone and, if given, of the teacher alone."""
    level_line(axes, student, "student\nalone", *LEVEL["student alone"][:2])
    if teacher is not None:
        level_line(axes, teacher, "teacher\nalone", *LEVEL["teacher alone"][:2])


def chance_line(axes: Axes, value: float, named: bool = True) -> None:
    """The line of guessing; `named` only in the last of several panels in a row."""
    level_line(axes, value, "guessing" if named else "", *LEVEL["guessing"][:2])
