"""Figures of a batch: a metric over one axis of a grid, a line per value of another, small multiples over further ones."""

from collections.abc import Sequence
from itertools import product

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, LogLocator, NullFormatter, NullLocator

from pwl_lab.plots.style import CURRICULUM, NOTE, Figure, Percent, spread_out, style

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#7F7F7F", "#8C510A", "#5E3C99")
DASHES = ("-", "--", "-.", ":")
MARKERS = "osD^vPX*<>"
MOST_LABELS = 5  # beside the lines' ends; more would not find room
MOST_SEEDS_SHOWN, MOST_PLACES_MARKED = 12, 12  # beyond, a band stands for the bars, and only hollow marks are left
LOG_FROM = 8  # times between the least and the largest value from which on an axis is logarithmic
Look = tuple[str, str, str]


def sweep_curves(
    curves: pd.DataFrame,
    seeds: pd.DataFrame,
    metric: str,
    axis: str,
    hue: str = "",
    facets: Sequence[str] = (),
    statistic: str = "mean",
) -> Figure:
    """The middle over seeds with its 95% interval (or, where `bar` says so, from the least to the most), over an axis.

    Every seed is a small mark, hollow where it is a lower bound. `curves` and `seeds` are tidy, as `pwl_lab.runner.curves`
    makes them: columns for `facets`, `hue` and `axis`, then low, middle, high, bar, seeds, reached, and value, reached.
    Panels run over the first facet from left to right, over the second from top to bottom.
    """
    columns, rows = (_levels(curves[name]) for name in facets) if len(facets) == 2 else (_only(curves, facets), [None])
    looks = looks_of(_levels(curves[hue]) if hue else [""])
    places = _levels(curves[axis])
    with style():
        direct = len(columns) == len(rows) == 1 and hue == "part" and len(looks) <= MOST_LABELS
        width = min(10.5, 8.6 if direct else 3.4 * len(columns) + 1.6)
        figure = Figure(
            figsize=(max(width, 6.4), (4 if len(rows) == 1 else 2.7 * len(rows) + 0.8)), layout="constrained"
        )
        grid = figure.subplots(len(rows), len(columns), squeeze=False, sharex=True, sharey=True)
        for (i, row), (j, column) in product(enumerate(rows), enumerate(columns)):
            here = dict(zip(facets, (column, row), strict=False))
            axes = grid[i][j]
            mine, each = (_part(table, here) for table in (curves, seeds))
            _panel(axes, mine, each, axis, hue, looks, places)
            axes.set_title(
                ", ".join(f"{name} = {say(value)}" for name, value in here.items()), fontsize=NOTE, loc="left"
            )
        _frame(grid, curves, metric, axis, places)
        words = _words(curves, metric, statistic)
        if direct:
            grid[0][0].set_title(words)
            _direct_labels(grid[0][0], curves, axis, hue, looks, places)
        else:
            _legend(figure, grid[0][0], looks, words, hue)
    return figure


def looks_of(values: Sequence[object]) -> dict[object, Look]:
    """Colour, line style and marker of each value: the study's own for curricula, a scale for three numbers or more."""
    if len(values) > 2 and all(isinstance(value, int | float) for value in values):
        scale = mpl.colormaps["viridis"](np.linspace(0, 0.88, len(values)))
        return {
            value: (mpl.colors.to_hex(scale[k]), DASHES[k % 4], MARKERS[k % len(MARKERS)])
            for k, value in enumerate(values)
        }
    used = {CURRICULUM[value] for value in values if value in CURRICULUM}
    free = [look for look in zip(PALETTE, DASHES * 3, MARKERS, strict=False) if look[0] not in {u[0] for u in used}]
    spare = iter(free * (1 + len(values) // len(free)))
    return {value: CURRICULUM[value] if value in CURRICULUM else next(spare) for value in values}


def say(value: object) -> str:
    """A value as a figure says it."""
    if isinstance(value, float):
        return f"{value:g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value).replace("_", "-")


def _only(curves: pd.DataFrame, facets: Sequence[str]) -> list[object]:
    """The values of the only facet, or one panel."""
    return _levels(curves[facets[0]]) if facets else [None]


def _levels(column: pd.Series) -> list[object]:
    """The different values: numbers in order of size, others as they came."""
    found = list(dict.fromkeys(column.tolist()))
    plain = [value.item() if isinstance(value, np.generic) else value for value in found]
    counted = all(isinstance(value, str) and value.isdigit() for value in plain)
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in plain)
    return sorted(plain, key=float) if counted or numbers else plain


def _part(table: pd.DataFrame, here: dict[str, object]) -> pd.DataFrame:
    """The rows of one panel."""
    for name, value in here.items():
        table = table[table[name].isna() if pd.isna(value) else table[name] == value]
    return table


def _at(places: Sequence[object]) -> dict[object, float]:
    """Where each value of the axis stands: a number at itself, others side by side."""
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in places):
        return {value: float(value) for value in places}
    return {value: float(index) for index, value in enumerate(places)}


def _logarithmic(values: Sequence[float]) -> bool:
    """Whether a logarithmic axis serves these better."""
    return len(values) > 1 and min(values) > 0 and max(values) / min(values) >= LOG_FROM


def _panel(
    axes: Axes,
    curves: pd.DataFrame,
    seeds: pd.DataFrame,
    axis: str,
    hue: str,
    looks: dict[object, Look],
    places: Sequence[object],
) -> None:
    """The lines of one panel, a little beside each other where their bars would hide each other."""
    at = _at(places)
    logarithmic = _logarithmic(list(at.values()))
    gap = np.diff(np.log(list(at.values())) if logarithmic else list(at.values())).min() if len(at) > 1 else 1.0
    for k, (value, (colour, dashes, marker)) in enumerate(looks.items()):
        mine, each = (table[table[hue] == value] if hue else table for table in (curves, seeds))
        mine = mine.set_index(axis).reindex([place for place in places if place in set(mine[axis])])
        if mine.empty:
            continue
        shift = (k - (len(looks) - 1) / 2) * min(0.03, 0.3 / len(looks)) * gap
        shifted = {place: spot * np.exp(shift) if logarithmic else spot + shift for place, spot in at.items()}
        x = np.array([shifted[place] for place in mine.index])
        known = mine[["low", "high"]].notna().all(axis=1).to_numpy()
        short = (mine["reached"] < mine["seeds"]).to_numpy()
        fills = np.where(short, "white", colour)
        axes.plot(x, mine["middle"], color=colour, ls=dashes, lw=1.8)
        if len(places) > MOST_PLACES_MARKED:
            axes.fill_between(x[known], mine["low"][known], mine["high"][known], color=colour, alpha=0.15, lw=0)
            axes.scatter(
                x[short], mine["middle"][short], s=14, marker=marker, facecolors="white", edgecolors=colour, zorder=3
            )
            continue
        if mine["seeds"].max() <= MOST_SEEDS_SHOWN:
            inks = [colour if reached else "white" for reached in each["reached"]]
            spots = [shifted[place] for place in each[axis]]
            axes.scatter(
                spots, each["value"], s=12, marker=marker, facecolors=inks, edgecolors=colour, lw=0.7, alpha=0.55
            )
        axes.vlines(x[known], mine["low"][known], mine["high"][known], color=colour, lw=1.4)
        axes.scatter(x, mine["middle"], s=46, marker=marker, facecolors=fills, edgecolors=colour, lw=1.4, zorder=3)


def _frame(grid: np.ndarray, curves: pd.DataFrame, metric: str, axis: str, places: Sequence[object]) -> None:
    """Scales, ticks and labels."""
    at = _at(places)
    first = grid[0][0]
    ends = curves[["low", "middle", "high"]].to_numpy(dtype=float)
    if _logarithmic(curves["middle"].tolist()):
        first.set_yscale("log")
        first.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        first.yaxis.set_minor_formatter(NullFormatter())
        least = curves["middle"].min()
        first.set_ylim(0.6 * max(np.nanmin(ends), 0.3 * least), 1.5 * np.nanmax(ends))
    if "accuracy" in metric:
        first.yaxis.set_major_formatter(Percent())
    elif np.nanmax(np.abs(ends)) >= 1_000 and np.nanmax(np.abs(ends)) < 1e7:
        first.yaxis.set_major_formatter("{x:,.0f}")
    if _logarithmic(list(at.values())):
        first.set_xscale("log")
    spots = list(at.items()) if len(at) <= 12 else list(at.items())[:: -(-len(at) // 12)]
    inches = (first.figure.get_size_inches()[0] - 1.2) / len(grid[0])
    turned = (max(len(say(place)) for place, _ in spots) + 2) * len(spots) > 12 * inches
    for axes in grid[-1]:
        axes.xaxis.set_major_locator(FixedLocator([spot for _, spot in spots]))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xticks([spot for _, spot in spots], [say(place) for place, _ in spots])
        axes.tick_params(axis="x", rotation=90 if turned else 0)
        axes.set_xlabel(axis)


def _words(curves: pd.DataFrame, metric: str, statistic: str) -> str:
    """What is drawn, and what the bars are."""
    bars = set(curves["bar"]) - {""}
    if not bars:
        return f"{metric}: one seed"
    spread = {"95%": "its 95% interval", "seeds": "the least and the most"}
    said = [spread[bar] for bar in spread if bar in bars]
    return f"{metric}: {statistic} over seeds, with {' or '.join(said)}"


def _direct_labels(
    axes: Axes, curves: pd.DataFrame, axis: str, hue: str, looks: dict[object, Look], places: Sequence[object]
) -> None:
    """Each line's name at its right end, pushed apart where two would overlap."""
    to_axes = axes.transData + axes.transAxes.inverted()
    ends = {}
    for value in looks:
        mine = curves[curves[hue] == value].set_index(axis)["middle"]
        last = [place for place in places if place in mine.index][-1]
        ends[value] = to_axes.transform((_at(places)[last], mine[last]))[1]
    order = sorted(ends, key=ends.__getitem__)
    for value, height in zip(order, spread_out([ends[value] for value in order], 0.08), strict=True):
        axes.annotate(say(value), (1, height), xycoords="axes fraction", xytext=(8, 0), textcoords="offset points",
                      va="center", color=looks[value][0], fontweight="bold", annotation_clip=False)  # fmt: skip


def _legend(figure: Figure, axes: Axes, looks: dict[object, Look], words: str, hue: str) -> None:
    """One legend above all panels, under what they show; the title alone where there is one line."""
    if len(looks) < 2:
        figure.suptitle(words, x=0.01, ha="left", fontsize=11)
        return
    handles = [
        axes.plot([], [], color=colour, ls=dashes, marker=marker, lw=1.8, label=say(value))[0]
        for value, (colour, dashes, marker) in looks.items()
    ]
    title = words if hue == "part" else f"{words}; lines: {hue}"
    figure.legend(handles=handles, title=title, loc="outside upper left", ncols=min(5, len(looks)), alignment="left")
