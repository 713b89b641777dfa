"""Curves that grow while a network is trained: small SVG charts, drawn in a millisecond and from any thread.

matplotlib takes fifty times as long for a figure, and all threads of a process share its configuration.
"""

import html
import math
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

import ipywidgets
from IPython.display import display
from matplotlib.ticker import MaxNLocator

from pwl_lab.plots import style
from pwl_lab.support.progress import Row

FIRST_AFTER_S = 2.0  # shorter trainings show no curve
EVERY_S = 0.5
SHARE = 0.015  # the largest share of the time spent on drawing
MOST_POINTS = 120  # of a line
LOG_FROM = 8  # the ratio of the largest to the smallest loss from which on the axis is logarithmic
# The size of a panel and the room around its axes, in SVG units.
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 460, 250, 52, 84, 24, 42
LEARNED = 0.99  # the accuracy that counts as learned

Points = Sequence[tuple[float, float]]
Curves = dict[int, list[tuple[float, float]]]  # by seed: accuracy by step


@dataclass(frozen=True)
class Line:
    """A line of a panel; `name` is written at its right end, `listed` in the legend."""

    points: Points
    look: style.Look
    name: str = ""
    listed: str = ""
    width: float = 1.8
    opacity: float = 1.0


@dataclass(frozen=True)
class Panel:
    """Axes with lines: `y` is the range shown (None: fitted to the lines, logarithmic if they span a wide range)."""

    title: str
    lines: Sequence[Line]
    x_end: float
    y: tuple[float, float] | None = None
    percent: bool = False
    marks: Sequence[tuple[float, str]] = ()  # steps at which a stage begins, each with its colour


def chart(panels: Sequence[Panel], words: str) -> str:
    """The panels side by side, or below each other on a narrow page, as HTML; `words` is the text alternative."""
    figures = "".join(f"<div style='flex: 1 1 300px; max-width: 560px'>{_svg(panel)}</div>" for panel in panels)
    listed = {line.listed: line for panel in panels for line in panel.lines if line.listed}
    legend = "".join(f"<span style='white-space: nowrap'>{_sample(line)} {html.escape(name)}</span>"
                     for name, line in listed.items())  # fmt: skip
    row = "display: flex; flex-wrap: wrap; gap: .2rem 1.2rem; line-height: 1.4"
    return (
        f"<div role='img' aria-label='{html.escape(words, quote=True)}' style='background: white; color: #222'>"
        f"<div style='{row}'>{legend}</div><div style='{row}'>{figures}</div></div>"
    )


def _stroke(line: Line) -> str:
    """A line's colour, width and dashes as attributes."""
    colour, dashes, _ = line.look
    pattern = style.svg_dashes(dashes, 1.6)
    return f"stroke='{colour}' stroke-width='{line.width}' stroke-dasharray='{pattern}' opacity='{line.opacity}'"


def _sample(line: Line) -> str:
    """A line's look for the legend."""
    return f"<svg width='30' height='10' aria-hidden='true'><path d='M0 5H30' fill='none' {_stroke(line)}/></svg>"


def _svg(panel: Panel) -> str:
    """One panel."""
    values = [y for line in panel.lines for _, y in line.points if math.isfinite(y)]
    low, high = panel.y or (min(values, default=0.0), max(values, default=1.0))
    logarithmic = panel.y is None and low > 0 and high / low > LOG_FROM
    if panel.y is None:
        low, high = (0.8 * low, 1.25 * high) if logarithmic else (min(0.0, low), 1.05 * high or 1.0)
    scale: Callable[[float], float] = math.log if logarithmic else float
    span = scale(high) - scale(low) or 1.0

    def spot(x: float, y: float) -> tuple[float, float]:
        across = min(x / panel.x_end, 1.0)
        return LEFT + across * (WIDTH - LEFT - RIGHT), TOP + (scale(high) - scale(y)) / span * (HEIGHT - TOP - BOTTOM)

    ticks = _log_ticks(low, high) if logarithmic else _ticks(low, high)
    words = style.Percent().format_ticks(ticks) if panel.percent else [f"{tick:g}" for tick in ticks]
    parts = [_text(LEFT, 14, panel.title, "start", "font-weight='bold'")]
    for tick, said in zip(ticks, words, strict=True):
        _, y = spot(0, tick)
        parts.append(
            f"<path d='M{LEFT} {y:.1f}H{WIDTH - RIGHT}' stroke='#E5E5E5'/>{_text(LEFT - 6, y + 4, said, 'end')}"
        )
    for step in _ticks(0, panel.x_end):
        parts.append(_text(spot(step, high)[0], HEIGHT - BOTTOM + 17, f"{step:,.0f}", "middle"))
    parts.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 6, "optimiser steps", "middle"))
    for step, colour in panel.marks:
        x = spot(step, high)[0]
        parts.append(f"<path d='M{x:.1f} {TOP}V{HEIGHT - BOTTOM}' stroke='{colour}' stroke-dasharray='4 4'/>")
    parts += [_drawn(line, spot) for line in panel.lines if line.points]
    parts.append(_names(panel.lines, spot))
    return f"<svg viewBox='0 0 {WIDTH} {HEIGHT}' width='100%' font-size='13' fill='#222'>{''.join(parts)}</svg>"


Spot = Callable[[float, float], tuple[float, float]]


def _drawn(line: Line, spot: Spot) -> str:
    """The path of a line, which ends at a missing value."""
    some = line.points[:: -(-len(line.points) // MOST_POINTS)]
    some = some if some[-1] == line.points[-1] else [*some, line.points[-1]]
    places = " ".join("{:.1f},{:.1f}".format(*spot(x, y)) for x, y in some if math.isfinite(y))
    return f"<polyline points='{places}' fill='none' stroke-linejoin='round' {_stroke(line)}/>"


def _names(lines: Sequence[Line], spot: Spot) -> str:
    """Names at the right ends of lines, kept apart."""
    named = [(spot(*line.points[-1])[1], line) for line in lines if line.name and line.points]
    named.sort(key=lambda one: one[0])
    height = HEIGHT - TOP - BOTTOM
    apart = min(15 / height, 1 / max(1, len(named)))
    if not named:
        return ""
    spots = style.spread_out([(y - TOP) / height for y, _ in named], apart)
    return "".join(
        _text(
            spot(line.points[-1][0], 1.0)[0] + 5,
            TOP + float(y) * height + 4,
            line.name,
            "start",
            f"fill='{line.look[0]}'",
        )
        for y, (_, line) in zip(spots, named, strict=True)
    )


def _text(x: float, y: float, words: str, anchor: str, more: str = "") -> str:
    """Words in the chart."""
    return f"<text x='{x:.1f}' y='{y:.1f}' text-anchor='{anchor}' {more}>{html.escape(words)}</text>"


def _ticks(low: float, high: float) -> list[float]:
    """Round values within a range, about five."""
    found = MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
    return [float(tick) for tick in found if low - 1e-9 <= tick <= high + 1e-9]


def _log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten within a range, with their multiples by 2 and 5 if there are few."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    factors = (1, 2, 5) if high / low < 100 else (1,)
    return [factor * 10.0**power for power in powers for factor in factors if low <= factor * 10.0**power <= high]


class Redraws:
    """Decides when to draw again: at most twice a second, and so that drawing takes little of the time."""

    def __init__(self, first_after_s: float = 0.0) -> None:
        """`first_after_s` is how long the first drawing waits."""
        self._next = time.monotonic() + first_after_s

    def draw(self, make: Callable[[], None], now: bool = False) -> None:
        """Call `make` if it is time for it, or `now`."""
        begun = time.monotonic()
        if begun >= self._next or now:
            make()
            took = time.monotonic() - begun
            self._next = begun + max(EVERY_S, took / SHARE)


class LiveCurves:
    """Live curves of accuracy and loss terms below a training's progress bar; removed when the training ends."""

    def __init__(self) -> None:
        """Nothing is shown before `FIRST_AFTER_S` seconds."""
        self._accuracy: dict[tuple[str, str, int], list[tuple[float, float]]] = defaultdict(list)
        self._losses: dict[tuple[str, str], list[tuple[float, float]]] = defaultdict(list)
        self._redraws = Redraws(FIRST_AFTER_S)
        self._area: Any = None

    def add(self, rows: Sequence[Row], run: str) -> None:
        """Add new rows of a history, and draw when it is time."""
        for row in rows:
            if row.get("accuracy") is not None:
                one = f"{run} {row['pair']}" if "pair" in row else run  # pairs side by side are numbered
                who = (one, str(row.get("curriculum", "")), int(row.get("seed", 0)))
                self._accuracy[who].append((row["step"], row["accuracy"]))
        for row in {row["step"]: row for row in rows}.values():  # the losses are those of all students together
            for name, value in row.items():
                if name.startswith("loss_"):
                    number, _, term = name.removeprefix("loss_").rpartition(" ")
                    self._losses[f"{run} {number}".strip(), term].append((row["step"], value))
        self._redraws.draw(self._show)

    def close(self) -> None:
        """Remove the curves."""
        if self._area is not None:
            self._area.close()

    def _show(self) -> None:
        """Draw the curves so far."""
        if self._area is None:
            self._area = ipywidgets.HTML()
            display(self._area)  # type: ignore[no-untyped-call]  # IPython is not annotated
        self._area.value = self.html()

    def html(self) -> str:
        """The curves so far."""
        every = [*self._accuracy.values(), *self._losses.values()]
        end = max((points[-1][0] for points in every), default=1) or 1
        names = list(dict.fromkeys(name for _, name, _ in self._accuracy if name))
        looks: Mapping[str, style.Look] = style.looks(names)
        accuracy = [Line(points, looks.get(name) or _network_look(run), listed=name.replace("_", "-"), width=1.4)
                    for (run, name, _), points in self._accuracy.items()]  # fmt: skip
        terms = {term for _, term in self._losses}
        losses = [Line(points, style.loss_look(term), name=term) for (_, term), points in self._losses.items()
                  if term != "total" or len(terms) == 1]  # fmt: skip
        # A term shared by several trainings is named once.
        losses = [replace(line, name="" if line.name in {one.name for one in losses[:i]} else line.name)
                  for i, line in enumerate(losses)]  # fmt: skip
        low = min((y for points in self._accuracy.values() for _, y in points if math.isfinite(y)), default=0.0)
        panels = [Panel("accuracy", accuracy, end, (max(0.0, low - 0.05), 1.02), percent=True),
                  Panel("loss", losses, end)]  # fmt: skip
        return chart(panels, f"Training, after {end:,.0f} steps.")


def _network_look(run: str) -> style.Look:
    """The colour of the network that a run trains."""
    return style.NETWORK["teacher" if "teacher" in run else "student"]


def own_chart(
    behind: Mapping[str, Curves],
    before: Curves,
    mine: Curves,
    marks: Sequence[int],
    budget: int,
) -> str:
    """A reader's own curriculum during its training, as HTML: its seeds and their median.

    Arguments:
    - `behind`: curricula to compare with.
    - `before`: the reader's previous one, drawn faintly.
    - `mine`: the one in training.
    - `marks`: the steps at which one of its stages begins.
    - `budget`: the steps of the axis.
    """
    own, goal = style.SPARE[0], style.LEVEL["learned"]
    lines = [Line([(0, LEARNED), (budget, LEARNED)], goal, name=f"{LEARNED:.0%}", width=1)]
    for curves, (name, dashes), grey in zip(
        behind.values(), _behind_looks(behind), ("#A9A9A9", "#6E6E6E"), strict=False
    ):
        lines.append(Line(_middle(curves, budget), (grey, dashes, ""), listed=f"{name} (median)", width=2.2))
    if before:
        lines.append(Line(_middle(before, budget), own, listed="your previous one (median)", width=2, opacity=0.35))
    lines += [Line(points, own, listed="yours, one line per seed", width=1.6) for points in mine.values()]
    panel = Panel("test accuracy", lines, budget, (0.4, 1.02), percent=True, marks=[(mark, own[0]) for mark in marks])
    now = ", ".join(f"{points[-1][1]:.0%} at step {points[-1][0]:,.0f}" for points in mine.values() if points)
    return chart([panel], f"Yours: {now or 'not trained yet'}.")


def _behind_looks(behind: Mapping[str, Curves]) -> list[tuple[str, style.Dashes]]:
    """The name and the line style of each curriculum."""
    return [(name.replace("_", "-"), look[1]) for name, look in style.looks(list(behind)).items()]


def _middle(curves: Curves, budget: int) -> Points:
    """The median over seeds; a finished student keeps its last accuracy."""
    steps = sorted({step for points in curves.values() for step, _ in points} | {budget})
    by_seed = [dict(points) for points in curves.values()]
    held: list[list[float]] = []
    for known in by_seed:
        last, values = math.nan, []
        for step in steps:
            last = known.get(step, last)
            values.append(last)
        held.append(values)
    return [(step, median(values)) for step, *values in zip(steps, *held, strict=True)]
