"""Figures of a batch: a metric over one axis of a grid, a line per value of another, panels over further ones."""

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator

from pwl_lab.plots import style
from pwl_lab.plots.style import CURRICULUM, NOTE, Figure, Look, Percent

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#7F7F7F", "#8C510A", "#5E3C99")
DASHES = ("-", "--", "-.", ":")
MARKERS = "osD^vPX*<>"
MOST_LABELS = 5  # at the ends of lines; there is no room for more
MOST_SEEDS_SHOWN, MOST_SPOTS_MARKED = 12, 12  # beyond, a band replaces the bars, and only hollow marks are drawn
LOG_FROM = 8  # the ratio of the largest to the smallest value from which on an axis is logarithmic
Spots = Mapping[Any, float]  # the position of each value on the axis


@style.context()
def sweep_curves(
    curves: pd.DataFrame,
    seeds: pd.DataFrame,
    metric: str,
    axis: str,
    hue: str = "",
    facets: Sequence[str] = (),
    statistic: str = "mean",
) -> Figure:
    """The mean or median over seeds with its 95% interval (or its range, if `bar` says so), over an axis.

    Every seed is a small mark, hollow if it is a lower bound.

    Arguments:
    - `curves`: a tidy table as `pwl_lab.runner.curves` makes it: columns for `facets`, `hue` and `axis`, then low, middle,
      high, bar, seeds, reached.
    - `seeds`: the same for single seeds: value, reached.
    - `metric`: the name of the metric, for the title.
    - `axis`: the column of the x axis.
    - `hue`: a line for each value of this column.
    - `facets`: panels from left to right over the first of these columns, from top to bottom over the second.
    - `statistic`: mean or median, for the title.
    """
    columns, rows = [*(_levels(curves[name]) for name in facets), [None], [None]][:2]
    looks = looks_of(_levels(curves[hue]) if hue else [""])
    spots = _spots(_levels(curves[axis]))
    direct = len(columns) == len(rows) == 1 and hue == "part" and len(looks) <= MOST_LABELS
    width = min(10.5, 8.6 if direct else 3.4 * len(columns) + 1.6)
    height = 4 if len(rows) == 1 else 2.7 * len(rows) + 0.8
    figure = Figure(figsize=(max(width, 6.4), height), layout="constrained")
    grid = figure.subplots(len(rows), len(columns), squeeze=False, sharex=True, sharey=True)
    for axes, (row, column) in zip(grid.flat, product(rows, columns), strict=True):
        here = dict(zip(facets, (column, row), strict=False))
        _panel(axes, _part(curves, here), _part(seeds, here), axis, hue, looks, spots)
        axes.set_title(", ".join(f"{name} = {say(value)}" for name, value in here.items()), fontsize=NOTE, loc="left")
    _scale(grid[0][0], curves, metric, spots)
    _name_spots(figure, grid[-1], axis, spots)
    words = _words(curves, metric, statistic)
    if direct:
        grid[0][0].set_title(words)
        _direct_labels(grid[0][0], curves, axis, hue, looks, spots)
    else:
        _legend(figure, looks, words, hue)
    return figure


def looks_of(values: Sequence[Any]) -> dict[Any, Look]:
    """The look of each value: the study's own for curricula, a scale of colours for three numbers or more."""
    if len(values) > 2 and all(isinstance(value, int | float) for value in values):
        scale = mpl.colormaps["viridis"](np.linspace(0, 0.88, len(values)))
        return {
            value: (mpl.colors.to_hex(scale[k]), DASHES[k % 4], MARKERS[k % len(MARKERS)])
            for k, value in enumerate(values)
        }
    used = {CURRICULUM[value][0] for value in values if value in CURRICULUM}
    free: list[Look] = [look for look in zip(PALETTE, DASHES * 3, MARKERS, strict=False) if look[0] not in used]
    spare = iter(free * (1 + len(values) // len(free)))
    return {value: CURRICULUM[value] if value in CURRICULUM else next(spare) for value in values}


def say(value: object) -> str:
    """A value as text in a figure."""
    if isinstance(value, float):
        return f"{value:g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value).replace("_", "-")


def _numeric(values: Sequence[Any]) -> bool:
    """Whether all of these are numbers."""
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)


def _levels(column: pd.Series) -> list[Any]:
    """The distinct values: numbers sorted, others in order of appearance."""
    plain = list(dict.fromkeys(column.tolist()))
    counted = all(isinstance(value, str) and value.isdigit() for value in plain)
    return sorted(plain, key=float) if counted or _numeric(plain) else plain


def _part(table: pd.DataFrame, here: Mapping[str, Any]) -> pd.DataFrame:
    """The rows of one panel."""
    for name, value in here.items():
        table = table[table[name].isna() if pd.isna(value) else table[name] == value]
    return table


def _spots(levels: Sequence[Any]) -> Spots:
    """The position of each value on the axis: numbers at their value, others side by side."""
    return {level: float(level) if _numeric(levels) else float(i) for i, level in enumerate(levels)}


def _logarithmic(values: Sequence[float]) -> bool:
    """Whether a logarithmic axis suits these better."""
    return len(values) > 1 and min(values) > 0 and max(values) / min(values) >= LOG_FROM


def _panel(
    axes: Axes,
    curves: pd.DataFrame,
    seeds: pd.DataFrame,
    axis: str,
    hue: str,
    looks: Mapping[Any, Look],
    spots: Spots,
) -> None:
    """The lines of one panel, slightly shifted if their bars would overlap."""
    logarithmic = _logarithmic(list(spots.values()))
    scale, back = (np.log, np.exp) if logarithmic else (np.asarray, np.asarray)
    gap = np.diff(scale(list(spots.values()))).min() if len(spots) > 1 else 1.0
    for k, (value, look) in enumerate(looks.items()):
        mine, each = (table[table[hue] == value] if hue else table for table in (curves, seeds))
        if mine.empty:
            continue
        shift = (k - (len(looks) - 1) / 2) * min(0.03, 0.3 / len(looks)) * gap
        shifted = {level: float(back(scale(spot) + shift)) for level, spot in spots.items()}
        mine = mine.assign(spot=mine[axis].map(shifted)).sort_values("spot").set_index("spot")
        many = len(spots) > MOST_SPOTS_MARKED
        _line(axes, mine, look, many)
        if not many and mine["seeds"].max() <= MOST_SEEDS_SHOWN:
            inks = [look[0] if reached else "white" for reached in each["reached"]]
            axes.scatter(each[axis].map(shifted), each["value"], s=12, marker=look[2], facecolors=inks,
                         edgecolors=look[0], lw=0.7, alpha=0.55)  # fmt: skip


def _line(axes: Axes, mine: pd.DataFrame, look: Look, many: bool) -> None:
    """A line with its bars and marks; with a band and only hollow marks if there are `many` of them."""
    colour, dashes, marker = look
    axes.plot(mine["middle"], color=colour, ls=dashes, lw=1.8)
    known, hollow = mine.dropna(subset=["low", "high"]), mine["reached"] < mine["seeds"]
    if many:
        style.band(axes, known["low"], known["high"], colour)
        mine, hollow = mine[hollow], hollow[hollow]
    else:
        axes.vlines(known.index, known["low"], known["high"], color=colour, lw=1.4)
    axes.scatter(mine.index, mine["middle"], s=14 if many else 46, marker=marker, edgecolors=colour, lw=1.4, zorder=3,
                 facecolors=np.where(hollow, "white", colour))  # fmt: skip


def _scale(axes: Axes, curves: pd.DataFrame, metric: str, spots: Spots) -> None:
    """The scales of both axes, and the tick labels of the y axis."""
    ends = curves[["low", "middle", "high"]].to_numpy(dtype=float)
    if _logarithmic(curves["middle"].tolist()):
        axes.set_yscale("log")
        style.log_ticks(axes.yaxis, axes.yaxis.get_major_formatter())
        axes.set_ylim(0.6 * max(np.nanmin(ends), 0.3 * curves["middle"].min()), 1.5 * np.nanmax(ends))
    if "accuracy" in metric:
        axes.yaxis.set_major_formatter(Percent())
    elif 1_000 <= np.nanmax(np.abs(ends)) < 1e7:
        axes.yaxis.set_major_formatter("{x:,.0f}")
    if _logarithmic(list(spots.values())):
        axes.set_xscale("log")


def _name_spots(figure: Figure, bottom: Sequence[Axes], axis: str, spots: Spots) -> None:
    """Label the values of the axis under the panels at the `bottom`, about twelve at most."""
    named = list(spots.items())[:: -(-len(spots) // 12)]
    inches = (figure.get_size_inches()[0] - 1.2) / len(bottom)
    turned = (max(len(say(level)) for level, _ in named) + 2) * len(named) > 12 * inches
    for axes in bottom:
        axes.set_xticks([spot for _, spot in named], [say(level) for level, _ in named])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.tick_params(axis="x", rotation=90 if turned else 0)
        axes.set_xlabel(axis)


def _words(curves: pd.DataFrame, metric: str, statistic: str) -> str:
    """The figure's title: the metric, and the meaning of its bars."""
    bars = set(curves["bar"]) - {""}
    if not bars:
        return f"{metric}: one seed"
    spread = {"95%": "95% interval", "seeds": "range over seeds"}
    said = [spread[bar] for bar in spread if bar in bars]
    return f"{metric}: {statistic} over seeds, with {' or '.join(said)}"


def _direct_labels(
    axes: Axes, curves: pd.DataFrame, axis: str, hue: str, looks: Mapping[Any, Look], spots: Spots
) -> None:
    """Each line's name at its right end, moved apart if two would overlap."""
    to_axes = axes.transData + axes.transAxes.inverted()
    last = curves.assign(spot=curves[axis].map(spots)).sort_values("spot").groupby(hue)[["spot", "middle"]].last()
    ends = pd.Series(to_axes.transform(last)[:, 1], last.index).sort_values()
    for value, height in zip(ends.index, style.spread_out(ends, 0.08), strict=True):
        axes.annotate(say(value), (1, height), xycoords="axes fraction", xytext=(8, 0), textcoords="offset points",
                      va="center", color=looks[value][0], fontweight="bold", annotation_clip=False)  # fmt: skip


def _legend(figure: Figure, looks: Mapping[Any, Look], words: str, hue: str) -> None:
    """One legend above all panels, below the title; only the title if there is a single line."""
    if len(looks) < 2:
        figure.suptitle(words, x=0.01, ha="left", fontsize=11)
        return
    handles = [
        Line2D([], [], color=colour, ls=dashes, marker=marker, lw=1.8, label=say(value))
        for value, (colour, dashes, marker) in looks.items()
    ]
    title = words if hue == "part" else f"{words}; lines: {hue}"
    figure.legend(handles=handles, title=title, loc="outside upper left", ncols=min(5, len(looks)), alignment="left")
