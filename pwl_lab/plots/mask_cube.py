"""Figures of all masks: loading orders against blocks and bytes, budgets, all masks sorted, classes, a lattice."""

from collections.abc import Mapping, Sequence
from math import ceil, floor, log10
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.ticker import MaxNLocator
from pandas.api.typing import SeriesGroupBy

from pwl_lab.plots import style
from pwl_lab.plots.style import MASK, NOTE, OWNER, OWNER_INK, Figure, Percent
from pwl_lab.study import tables
from pwl_lab.support.errors import invalid
from pwl_lab.swap.masks import all_masks
from pwl_lab.swap.orders import loading_orders

NARROW_STEP = 0.08  # the share of the bytes below which a step has no room for bars side by side
MOST_LATTICE_BLOCKS = 5  # 32 masks; more cannot be read


@style.context()
def order_curves(curves: pd.DataFrame, teacher_accuracy: float | None = None) -> Figure:
    """Accuracy against loaded teacher blocks for each loading order: mean over seeds, bars from worst to best seed.

    Orders are drawn slightly apart, so that each one's bars are visible.

    Arguments:
    - `curves`: as from `tables.order_curves`.
    - `teacher_accuracy`: the teacher's own, drawn as a line.
    """
    orders = list(dict.fromkeys(curves["order"]))
    figure, (axes,) = style.row_of_axes(9, 4.2)
    for i, order in enumerate(orders):
        by_k = curves[curves["order"] == order].groupby("teacher_blocks")["accuracy"]
        shift = 0.04 * (i - (len(orders) - 1) / 2)
        style.range_bars(axes, by_k, style.order_look(order), shift, label=_order_label(curves, order))
    _levels(axes, curves, teacher_accuracy)
    axes.set(xlabel="teacher blocks loaded")
    axes.set_xticks(sorted(curves["teacher_blocks"].unique()))
    style.accuracy_axis(axes, "test accuracy")
    style.order_note(figure, orders)
    figure.legend(loc="outside upper center", ncols=len(orders) if len(orders) <= 4 else 3)
    return figure


@style.context()
def byte_curves(curves: pd.DataFrame, teacher_accuracy: float | None = None) -> Figure:
    """Accuracy against the teacher's bytes loaded: steps, since a block helps once it has arrived as a whole.

    Mean over seeds, with a bar from the worst to the best seed in the middle of each step that is wide enough, and a
    marker where a block is complete. The legend gives the area under each curve. Later orders are drawn thinner, on top
    of earlier ones, so that overlapping lines stay visible.

    Arguments:
    - `curves`: as from `tables.order_curves`, each from all-student to all-teacher.
    - `teacher_accuracy`: the teacher's own, drawn as a line.
    """
    areas = tables.order_areas(curves).groupby("order")["area"].mean()
    total = curves["teacher_bytes"].max()
    figure, (axes,) = style.row_of_axes(9, 4.6)
    for i, (order, table) in enumerate(curves.groupby("order", sort=False)):
        colour, dashes, marker = style.order_look(order)
        by_k = table.groupby("teacher_blocks")
        share, accuracy = by_k["teacher_bytes"].mean() / total, by_k["accuracy"]
        thick = 0.8 * (len(areas) - 1 - i)
        axes.step(share, accuracy.mean(), where="post", color=colour, ls=dashes, marker=marker, lw=2 + thick,
                  ms=6 + thick, label=f"{_order_label(curves, order)}, area {areas[order]:.2%}")  # fmt: skip
        _step_bars(axes, share, accuracy, colour, 0.012 * (i - (len(areas) - 1) / 2))
    _levels(axes, curves, teacher_accuracy)
    axes.margins(y=0.12)
    axes.set(xlabel=f"share of the teacher's bytes loaded (all: {style.byte_words(total)})")
    axes.xaxis.set_major_formatter(Percent())
    style.accuracy_axis(axes, "test accuracy")
    style.order_note(figure, areas.index)
    figure.legend(loc="outside upper center", ncols=2)
    return figure


@style.context()
def prefix_by_data(full: pd.DataFrame, own: pd.DataFrame, family: str, run: str) -> Figure:
    """The prefix curves of pairs trained on much data, a panel per family, and this run's beside that of its own family.

    Means with 95% intervals over seeds and test images.

    Arguments:
    - `full`: from `intervals.cube_intervals`, with the columns family and seeds.
    - `own`: the same of this run, without them.
    - `family`: this run's; it has a panel in any case.
    - `run`: what this run is called in the legend.
    """
    families = list(dict.fromkeys([*full["family"], family]))
    figure, panels = style.row_of_axes(9, 4.2, len(families), sharey=True)
    colour, _, marker = style.order_look("prefix")
    for axes, name in zip(panels, families, strict=True):
        shipped = full[full["family"] == name]
        if len(shipped):
            words = f"all of Fashion-MNIST (stored, {shipped['seeds'].iloc[0]} seeds)"
            _prefix_bars(axes, shipped, -0.05, color=colour, ls="-", marker=marker, label=words)
        if name == family:
            look = {"color": "#444444", "ls": "--", "marker": "s", "mfc": "white"}
            _prefix_bars(axes, own, 0.05, **look, label=run)
        axes.set_title(name, fontsize=NOTE)
        axes.set(xlabel="teacher blocks loaded")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))  # this run may have another number of blocks
        style.accuracy_axis(axes, "test accuracy" if axes is panels[0] else "")
    drawn = {words: line for axes in panels for line, words in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(drawn.values(), drawn.keys(), loc="outside upper center", ncols=2)
    return figure


@style.context()
def ends_by_epochs(masks: pd.DataFrame) -> Figure:
    """Accuracy of the student alone and of the teacher against epochs of training, a panel per family.

    A thin line for each seed, and a marker at the mean where there is more than one seed.

    Arguments:
    - `masks`: columns family, epochs, seed, mask and test.
    """
    families = list(dict.fromkeys(masks["family"]))
    figure, panels = style.row_of_axes(9, 3.8, len(families), sharex=True, sharey=True)
    n_blocks = len(masks["mask"].iloc[0])
    for axes, family in zip(panels, families, strict=True):
        for name, letter in (("teacher", "T"), ("student alone", "S")):
            mine = masks[(masks["family"] == family) & (masks["mask"] == letter * n_blocks)]
            by_seed = mine.pivot(index="epochs", columns="seed", values="test")
            colour, dashes, marker = style.NETWORK[style.OWNER_NAME[letter]]
            axes.plot(by_seed, color=colour, lw=0.9, alpha=0.6, marker=".", ms=3)
            several = by_seed[by_seed.count(axis=1) > 1].mean(axis=1)
            axes.plot(several, color=colour, ls=dashes, lw=2.5, marker=marker, ms=8, label=f"{name}, mean over seeds")
        axes.set_title(family, fontsize=NOTE)
        axes.set_xscale("log", base=2)
        axes.set(xlabel="epochs for each")
        style.accuracy_axis(axes, "test accuracy" if axes is panels[0] else "")
    lengths = sorted(masks["epochs"].unique())
    panels[0].set_xticks(lengths, map(str, lengths))
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=2)
    return figure


def _prefix_bars(axes: Axes, spread: pd.DataFrame, shift: float, **keys: Any) -> None:
    """One prefix curve with its intervals, from the rows of `intervals.cube_intervals`."""
    masks = spread[spread["kind"] == "mask"].set_index("name")[["low", "mean", "high"]] / 100
    prefix = masks.loc[loading_orders(len(masks.index[0]))["prefix"]]
    # With one seed there is no interval, and no bar.
    bars = style.bar_lengths(
        prefix["mean"], prefix["low"].fillna(prefix["mean"]), prefix["high"].fillna(prefix["mean"])
    )
    blocks = np.arange(len(prefix))
    axes.errorbar(blocks + shift, prefix["mean"], yerr=bars, lw=2, ms=7, capsize=4, **keys)


def _step_bars(axes: Axes, share: pd.Series, accuracy: SeriesGroupBy, colour: str, shift: float) -> None:
    """A bar from the worst to the best seed in the middle of each step, if there is room between its neighbours."""
    begin, end = share.to_numpy()[:-1], share.to_numpy()[1:]
    wide = end - begin > NARROW_STEP
    low, high = (values.to_numpy()[:-1][wide] for values in (accuracy.min(), accuracy.max()))
    axes.vlines(((begin + end) / 2)[wide] + shift, low, high, color=colour, lw=1.6)


def _order_label(curves: pd.DataFrame, order: str) -> str:
    """The order's name; for orders found by search, also their blocks."""
    if order not in ("best", "worst"):
        return f"{order} order"
    masks = curves.loc[curves["order"] == order, "mask"].drop_duplicates().tolist()
    return f"{order} order {tables.order_name(masks)}"


def _levels(axes: Axes, curves: pd.DataFrame, teacher_accuracy: float | None) -> None:
    """The student alone, where all orders begin, and the teacher alone if its accuracy is given."""
    style.levels_alone(axes, curves.loc[curves["teacher_blocks"] == 0, "accuracy"].mean(), teacher_accuracy)


@style.context()
def budget_curve(budgets: pd.DataFrame, masks: pd.DataFrame | None = None) -> Figure:
    """The best mask under a budget of teacher bytes as a staircase, each step labelled with its mask.

    Mean test accuracy, bars from worst to best seed. The byte axis is logarithmic, because blocks differ by orders of
    magnitude, except near 0, where it is linear.

    Arguments:
    - `budgets`: as from `tables.best_under_budget`.
    - `masks`: a `mask_table`; if given, every mask is a grey cross.
    """
    sizes, accuracy = budgets["teacher_bytes"].to_numpy(), budgets["test"].to_numpy()
    best, cross = MASK["best within a budget"][0], MASK["any mask"][0]
    everything = None if masks is None else masks.groupby("mask")[["teacher_bytes", "test"]].mean()
    known = pd.concat([budgets, everything])["teacher_bytes"]
    end, smallest = 1.8 * known.max(), known[known > 0].min()
    figure, (axes,) = style.row_of_axes(9, 4.8)
    if everything is not None:
        axes.plot(everything["teacher_bytes"], everything["test"], "x", color=cross, ms=5, label="every mask")
    axes.step(np.append(sizes, end), np.append(accuracy, accuracy[-1]), where="post", color=best, lw=2,
              label="the best that fits, chosen on validation")  # fmt: skip
    spread = style.bar_lengths(accuracy, budgets["test_lowest"], budgets["test_highest"])
    axes.errorbar(sizes, accuracy, yerr=spread, fmt="D", color=best, ms=6, capsize=4)
    axes.set_xscale("symlog", linthresh=smallest, linscale=0.5)
    axes.set_xticks(_byte_ticks(smallest, end))
    axes.minorticks_off()
    axes.set(xlim=(-0.15 * smallest, end), xlabel="budget: teacher bytes loaded")
    axes.xaxis.set_major_formatter(style.byte_words)
    style.accuracy_axis(axes, "test accuracy")
    style.labels_above(axes, budgets["mask"].tolist(), sizes, budgets["test_highest"].tolist())
    figure.legend(loc="outside lower center", ncols=2)
    return figure


def _byte_ticks(smallest: float, end: float) -> list[float]:
    """0 and the powers of ten from the smallest block on, with their multiples by 2 and 5 if there are few."""
    powers = [10.0**power for power in range(floor(log10(smallest)), ceil(log10(end)) + 1)]
    factors = (1, 2, 5) if log10(end / smallest) < 2.5 else (1,)
    return [0, *(power * factor for power in powers for factor in factors if smallest <= power * factor <= end)]


@style.context()
def mask_chart(masks: pd.DataFrame) -> Figure:
    """The accuracy of every swap mask, sorted: mean, worst and best seed, with owners drawn as squares.

    Arguments:
    - `masks`: as from `tables.mask_table`, of one or more seeds.
    """
    by_mask = masks.groupby("mask")["test"].agg(["mean", "min", "max"]).sort_values("mean", ascending=False)
    n_blocks = len(by_mask.index[0])
    figure, (squares, axes) = style.row_of_axes(9, 0.28 * len(by_mask) + 1, 2, sharey=True, width_ratios=(n_blocks, 34))
    for row, mask in enumerate(by_mask.index):
        for column, letter in enumerate(mask):
            squares.text(column, row, letter, ha="center", va="center", fontsize=NOTE,
                         bbox={"boxstyle": "square,pad=0.25", "fc": OWNER[letter], "ec": "none"})  # fmt: skip
    rows = np.arange(len(by_mask))
    axes.hlines(rows, by_mask["min"], by_mask["max"], color="#888888", lw=2)
    axes.plot(by_mask["mean"], rows, "o", color="black", ms=5)
    student = by_mask.loc["S" * n_blocks, "mean"]
    axes.axvline(student, color=OWNER["S"], lw=1.5, ls="--")
    style.note_above(axes, student, "student alone", ha="center", color=OWNER_INK["S"])
    squares.set(xlim=(-0.6, n_blocks - 0.4), ylim=(len(by_mask) - 0.5, -0.5))
    squares.axis("off")
    axes.set(xlabel="test accuracy")
    axes.tick_params(left=False)
    axes.grid(False, axis="y")
    axes.xaxis.set_major_formatter(Percent())
    return figure


@style.context()
def class_chart(classes: pd.DataFrame, masks: Sequence[str], class_names: Sequence[str] | None = None) -> Figure:
    """Accuracy per class (rows) for some masks (columns), such as those of one loading order: means over seeds.

    Darker is better; a dash means no samples.

    Arguments:
    - `classes`: as from `tables.class_table`.
    - `masks`: the columns, in this order.
    - `class_names`: in the order of the classes; numbers unless given.
    """
    table = classes.groupby(["class", "mask"])["test"].mean().unstack()[list(masks)]
    names = list(table.index) if class_names is None else [class_names[index] for index in table.index]
    figure, (axes,) = style.row_of_axes(9, 1.2 + 0.34 * len(table))
    image = axes.imshow(table, cmap="cividis_r", aspect="auto", interpolation="nearest")
    for (row, column), value in np.ndenumerate(table.to_numpy()):
        words, ink = ("–", "black") if np.isnan(value) else (f"{value:.1%}", style.ink_on(image.to_rgba(value)))
        axes.text(column, row, words, ha="center", va="center", color=ink)
    axes.set_xticks(range(len(masks)), masks, family="monospace")
    axes.set_yticks(range(len(table)), names)
    axes.tick_params(length=0, top=True, labeltop=True, bottom=False, labelbottom=False)
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    bar = figure.colorbar(image, ax=axes, label="test accuracy", pad=0.02)
    bar.ax.yaxis.set_major_formatter(Percent())
    return figure


@style.context()
def mask_lattice(masks: pd.DataFrame, orders: Mapping[str, Sequence[str]]) -> Figure:
    """All masks as a lattice: a column per number of teacher blocks, a line between masks that differ in one block.

    Colour and the number in each node: percentage points above or below the student alone, mean over seeds.
    Raises InvalidValueError above 5 blocks, and as `tables.check_cube`.

    Arguments:
    - `masks`: as from `tables.mask_table`, every mask of the cube.
    - `orders`: the masks of each loading order: a path from the student to the teacher.
    """
    n_blocks = tables.check_cube(masks)
    if n_blocks > MOST_LATTICE_BLOCKS:
        raise invalid("n_blocks", n_blocks, f"at most {MOST_LATTICE_BLOCKS}: a lattice of more masks cannot be read")
    means = masks.groupby("mask")["test"].mean()
    gain = 100 * (means - means["S" * n_blocks])
    spots = _lattice_spots(n_blocks)
    figure, (axes,) = style.row_of_axes(9, 1.6 + 0.6 * max(abs(y) * 2 + 1 for _, y in spots.values()))
    for mask, (x, y) in spots.items():
        for other in (mask[:i] + "T" + mask[i + 1 :] for i in range(n_blocks) if mask[i] == "S"):
            axes.plot([x, spots[other][0]], [y, spots[other][1]], color="#DDDDDD", lw=1, zorder=1)
    _lattice_paths(axes, spots, orders)
    colours = _lattice_nodes(axes, spots, gain)
    axes.set(xlim=(-0.4, n_blocks + 0.4), xlabel="teacher blocks loaded")
    axes.set_xticks(range(n_blocks + 1))
    axes.margins(y=0.12)
    axes.yaxis.set_visible(False)
    axes.spines["left"].set_visible(False)
    axes.grid(visible=False)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3)
    style.order_note(figure, orders)
    figure.colorbar(colours, ax=axes, label="points above the student", pad=0.02)
    return figure


def _lattice_spots(n_blocks: int) -> dict[str, tuple[int, float]]:
    """The position of each mask: a column per number of teacher blocks, and within it from the prefix mask down."""
    columns = [[m for m in reversed(all_masks(n_blocks)) if m.count("T") == k] for k in range(n_blocks + 1)]
    return {
        mask: (k, (len(column) - 1) / 2 - row) for k, column in enumerate(columns) for row, mask in enumerate(column)
    }


def _lattice_nodes(axes: Axes, spots: Mapping[str, tuple[int, float]], gain: pd.Series) -> ScalarMappable:
    """Draw each mask with its gain as text and colour; return the colour scale."""
    largest = max(gain.abs().max(), 0.1)
    colours = ScalarMappable(Normalize(-largest, largest), colormaps["PuOr_r"])
    for mask, (x, y) in spots.items():
        face = colours.to_rgba(gain[mask])
        signed = f"{gain[mask]:+.1f}" if abs(gain[mask]) >= 0.05 else "0.0"  # values that round to 0 have no sign
        box = {"boxstyle": "round,pad=0.35", "fc": face, "ec": "#444444"}
        axes.text(x, y, f"{mask}\n{signed}", ha="center", va="center", fontsize=9, family="monospace",
                  color=style.ink_on(face), bbox=box, zorder=4)  # fmt: skip
    return colours


def _lattice_paths(axes: Axes, spots: Mapping[str, tuple[int, float]], orders: Mapping[str, Sequence[str]]) -> None:
    """Each order as a thick line, slightly above or below the others, so that overlapping lines stay visible."""
    for i, (order, masks) in enumerate(orders.items()):
        colour, dashes, _ = style.order_look(order)
        xs, ys = zip(*(spots[mask] for mask in masks), strict=True)
        lift = 0.06 * (i - (len(orders) - 1) / 2)
        label = f"{order} order {tables.order_name(masks)}"
        axes.plot(xs, np.array(ys) + lift, color=colour, ls=dashes, lw=3, zorder=2, label=label)
