"""Figures of the whole mask cube: loading orders against blocks and bytes, budgets, classes, and the cube as a lattice."""

from collections.abc import Mapping, Sequence
from math import ceil, floor, log10

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from pandas.api.typing import SeriesGroupBy

from pwl_lab.plots.style import (
    Figure,
    Percent,
    byte_words,
    ink_on,
    labels_above,
    levels_alone,
    order_look,
    row_of_axes,
    style,
)
from pwl_lab.study import tables
from pwl_lab.support.errors import invalid
from pwl_lab.swap.masks import all_masks

NARROW_STEP = 0.08  # share of the bytes below which a step has no room for bars side by side
MOST_LATTICE_BLOCKS = 5  # 32 masks; more cannot be read


def order_curves(curves: pd.DataFrame, teacher_accuracy: float | None = None) -> Figure:
    """Accuracy against loaded teacher blocks for each loading order: mean over seeds, bars from worst to best seed.

    `curves` as from `analysis.order_curves`. Several orders stand a little apart, so that each one's bars can be seen.
    """
    orders = list(dict.fromkeys(curves["order"]))
    with style():
        figure, (axes,) = row_of_axes(9, 4.2)
        for place, order in enumerate(orders):
            colour, dashes, marker = order_look(order)
            by_k = curves[curves["order"] == order].groupby("teacher_blocks")["accuracy"]
            mean, low, high = by_k.mean(), by_k.min(), by_k.max()
            spots = mean.index + 0.04 * (place - (len(orders) - 1) / 2)
            axes.errorbar(spots, mean, yerr=[mean - low, high - mean], color=colour, ls=dashes, marker=marker,
                          lw=2, ms=7, capsize=4, label=_order_label(curves, order))  # fmt: skip
        _levels(axes, curves, teacher_accuracy)
        axes.set(xlabel="teacher blocks loaded", ylabel="test accuracy")
        axes.set_xticks(sorted(curves["teacher_blocks"].unique()))
        axes.yaxis.set_major_formatter(Percent())
        figure.legend(loc="outside upper center", ncols=len(orders) if len(orders) <= 4 else 3)
    return figure


def byte_curves(curves: pd.DataFrame, teacher_accuracy: float | None = None) -> Figure:
    """Accuracy against the teacher's bytes loaded: steps, since a block helps once it has arrived as a whole.

    `curves` as from `analysis.order_curves`, each from all-student to all-teacher. Mean over seeds; in the middle of each
    step that is wide enough a bar from the worst to the best seed; a marker where a block is complete. The legend gives
    the area under each curve (`tables.best_order`). Later orders are drawn thinner on top of earlier ones: common
    stretches show both.
    """
    areas = tables.order_areas(curves).groupby("order")["area"].mean()
    total = curves["teacher_bytes"].max()
    with style():
        figure, (axes,) = row_of_axes(9, 4.6)
        for place, (order, table) in enumerate(curves.groupby("order", sort=False)):
            colour, dashes, marker = order_look(order)
            by_k = table.groupby("teacher_blocks")
            share, accuracy = by_k["teacher_bytes"].mean() / total, by_k["accuracy"]
            thick = 0.8 * (len(areas) - 1 - place)
            axes.step(share, accuracy.mean(), where="post", color=colour, ls=dashes, marker=marker, lw=2 + thick,
                      ms=6 + thick, label=f"{_order_label(curves, order)}, area {areas[order]:.2%}")  # fmt: skip
            _step_bars(axes, share, accuracy, colour, 0.012 * (place - (len(areas) - 1) / 2))
        _levels(axes, curves, teacher_accuracy)
        axes.margins(y=0.12)
        axes.set(xlabel=f"share of the teacher's bytes loaded (all: {byte_words(total)})", ylabel="test accuracy")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(Percent())
        figure.legend(loc="outside upper center", ncols=2)
    return figure


def _step_bars(axes: Axes, share: pd.Series, accuracy: SeriesGroupBy, colour: str, shift: float) -> None:
    """A bar from the worst to the best seed in the middle of each step, where it does not crowd its neighbours'."""
    begin, end = share.to_numpy()[:-1], share.to_numpy()[1:]
    wide = end - begin > NARROW_STEP
    low, high = (values.to_numpy()[:-1][wide] for values in (accuracy.min(), accuracy.max()))
    axes.vlines(((begin + end) / 2)[wide] + shift, low, high, color=colour, lw=1.6)


def _order_label(curves: pd.DataFrame, order: str) -> str:
    """The order's name; for the ones that were searched for also the blocks as they arrive."""
    if order not in ("best", "worst"):
        return f"{order} order"
    masks = curves.loc[curves["order"] == order, "mask"].drop_duplicates().tolist()
    return f"{order} order {tables.order_name(masks)}"


def _levels(axes: Axes, curves: pd.DataFrame, teacher_accuracy: float | None) -> None:
    """The student alone, where all orders begin, and the teacher alone, where its accuracy is given."""
    levels_alone(axes, curves.loc[curves["teacher_blocks"] == 0, "accuracy"].mean(), teacher_accuracy)


def budget_curve(budgets: pd.DataFrame, masks: pd.DataFrame | None = None) -> Figure:
    """The best mask under a budget of teacher bytes as a staircase, each step labelled with its mask.

    `budgets` as from `tables.best_under_budget`: mean test accuracy, bars from worst to best seed. With `masks` (a
    `mask_table`) every mask of the cube is a grey cross. The scale of bytes is logarithmic but for its beginning, which
    is linear so that 0 has a place: blocks differ by orders of magnitude.
    """
    sizes, accuracy = budgets["teacher_bytes"].to_numpy(), budgets["test"].to_numpy()
    points = pd.DataFrame({"teacher_bytes": sizes, "test": accuracy})
    if masks is not None:
        points = pd.concat([points, masks.groupby("mask")[["teacher_bytes", "test"]].mean()])
    end = 1.8 * points["teacher_bytes"].max()
    smallest = points.loc[points["teacher_bytes"] > 0, "teacher_bytes"].min()
    with style():
        figure, (axes,) = row_of_axes(9, 4.8)
        if masks is not None:
            everything = points.iloc[len(budgets) :]
            axes.plot(everything["teacher_bytes"], everything["test"], "x", color="#777777", ms=5, label="every mask")
        axes.step(np.append(sizes, end), np.append(accuracy, accuracy[-1]), where="post", color="#0072B2", lw=2,
                  label="the best that fits, chosen on validation")  # fmt: skip
        spread = [accuracy - budgets["test_lowest"], budgets["test_highest"] - accuracy]
        axes.errorbar(sizes, accuracy, yerr=spread, fmt="o", color="#0072B2", ms=6, capsize=4)
        axes.set_xscale("symlog", linthresh=smallest, linscale=0.5)
        axes.set_xticks(_byte_ticks(smallest, end))
        axes.minorticks_off()
        axes.set(xlim=(-0.15 * smallest, end), xlabel="budget: teacher bytes loaded", ylabel="test accuracy")
        axes.xaxis.set_major_formatter(lambda size, _: byte_words(size))
        axes.yaxis.set_major_formatter(Percent())
        labels_above(axes, budgets["mask"].tolist(), sizes, budgets["test_highest"].tolist())
        figure.legend(loc="outside lower center", ncols=2)
    return figure


def _byte_ticks(smallest: float, end: float) -> list[float]:
    """0 and the powers of ten from the smallest block on; 2 and 5 times them as well where those would be few."""
    powers = [10.0**power for power in range(floor(log10(smallest)), ceil(log10(end)) + 1)]
    factors = (1, 2, 5) if log10(end / smallest) < 2.5 else (1,)
    return [0, *(power * factor for power in powers for factor in factors if smallest <= power * factor <= end)]


def class_chart(classes: pd.DataFrame, masks: Sequence[str], class_names: Sequence[str] | None = None) -> Figure:
    """Accuracy per class (rows) for some masks (columns), such as those of one loading order: means over seeds, written out.

    `classes` is a `class_table`; `class_names` in the order of the classes. The darker, the better; a dash: no samples.
    """
    table = classes.groupby(["class", "mask"])["test"].mean().unstack()[list(masks)]
    names = list(table.index) if class_names is None else [class_names[index] for index in table.index]
    with style():
        figure, (axes,) = row_of_axes(9, 1.2 + 0.34 * len(table))
        image = axes.imshow(table, cmap="cividis_r", aspect="auto", interpolation="nearest")
        for (row, column), value in np.ndenumerate(table.to_numpy()):
            words, ink = ("–", "black") if np.isnan(value) else (f"{value:.1%}", ink_on(image.to_rgba(value)))
            axes.text(column, row, words, ha="center", va="center", color=ink)
        axes.set_xticks(range(len(masks)), masks, family="monospace")
        axes.set_yticks(range(len(table)), names)
        axes.tick_params(length=0, top=True, labeltop=True, bottom=False, labelbottom=False)
        axes.grid(visible=False)
        for side in axes.spines.values():
            side.set_visible(False)
        bar = figure.colorbar(image, ax=axes, label="test accuracy", pad=0.02)
        bar.ax.yaxis.set_major_formatter(Percent())
    return figure


def mask_lattice(masks: pd.DataFrame, orders: Mapping[str, Sequence[str]], split: str = "test") -> Figure:
    """The mask cube: a column per number of teacher blocks, a line wherever one block more leads to another mask.

    Colour and the number in each node: percentage points above or below the student alone, mean over seeds. Each of
    `orders` is a path from the student to the teacher. Raises InvalidValueError above 5 blocks, and as `tables.check_cube`.
    """
    n_blocks = tables.check_cube(masks)
    if n_blocks > MOST_LATTICE_BLOCKS:
        raise invalid("n_blocks", n_blocks, f"at most {MOST_LATTICE_BLOCKS}: a lattice of more masks cannot be read")
    means = masks.groupby("mask")[split].mean()
    gain = 100 * (means - means["S" * n_blocks])
    spots = _lattice_spots(n_blocks)
    with style():
        figure, (axes,) = row_of_axes(9, 1.6 + 0.6 * max(abs(y) * 2 + 1 for _, y in spots.values()))
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
        figure.colorbar(colours, ax=axes, label="points above the student", pad=0.02)
    return figure


def _lattice_spots(n_blocks: int) -> dict[str, tuple[int, float]]:
    """Where each mask stands: by its number of teacher blocks, and within that column from the prefix mask down."""
    columns = [[m for m in reversed(all_masks(n_blocks)) if m.count("T") == k] for k in range(n_blocks + 1)]
    return {
        mask: (k, (len(column) - 1) / 2 - row) for k, column in enumerate(columns) for row, mask in enumerate(column)
    }


def _lattice_nodes(axes: Axes, spots: Mapping[str, tuple[int, float]], gain: pd.Series) -> ScalarMappable:
    """Each mask with its gain in the colour of its gain; the scale of colours."""
    largest = max(gain.abs().max(), 0.1)
    colours = ScalarMappable(Normalize(-largest, largest), colormaps["PuOr_r"])
    for mask, (x, y) in spots.items():
        face = colours.to_rgba(gain[mask])
        box = {"boxstyle": "round,pad=0.35", "fc": face, "ec": "#444444"}
        axes.text(x, y, f"{mask}\n{_signed(gain[mask])}", ha="center", va="center", fontsize=9, family="monospace",
                  color=ink_on(face), bbox=box, zorder=4)  # fmt: skip
    return colours


def _signed(points: float) -> str:
    """One decimal with its sign, and none for what rounds to nothing."""
    return f"{points:+.1f}" if abs(points) >= 0.05 else "0.0"


def _lattice_paths(axes: Axes, spots: Mapping[str, tuple[int, float]], orders: Mapping[str, Sequence[str]]) -> None:
    """Each order as a thick line, a little above or below the others so that common stretches show all of them."""
    for place, (order, masks) in enumerate(orders.items()):
        colour, dashes, _ = order_look(order)
        xs, ys = zip(*(spots[mask] for mask in masks), strict=True)
        lift = 0.06 * (place - (len(orders) - 1) / 2)
        label = f"{order} order {tables.order_name(masks)}"
        axes.plot(xs, np.array(ys) + lift, color=colour, ls=dashes, lw=3, zorder=2, label=label)
