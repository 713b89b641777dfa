"""Figures of progressive loading: blocks and their owners, accuracy by mask and order, predictions on the way."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch
from matplotlib.ticker import LogLocator, NullFormatter

from pwl_lab import analysis
from pwl_lab.plots.style import NOTE, OWNER, OWNER_NAME, Figure, Percent, row_of_axes, style
from pwl_lab.samples import SamplePredictions
from pwl_lab.tasks.vision import ImageTask


def _name_size(names: Sequence[str]) -> float:
    """The size of type at which class names side by side keep apart."""
    return NOTE if max(map(len, names)) <= 11 else 8


def image_grid(task: ImageTask, n_images: int = 20) -> Figure:
    """The first images of the training split with their classes."""
    images, batch = task.sample(n_images, "train")
    small = _name_size(task.class_names)
    with style():
        figure = Figure(figsize=(9, 0.55 + 1.05 * (n_images // 10)), layout="constrained")
        for index, axes in enumerate(figure.subplots(-(-n_images // 10), 10, squeeze=False).flat):
            axes.axis("off")
            if index < n_images:
                axes.imshow(images[index], cmap="gray_r")
                axes.set_title(task.class_names[int(batch.labels[index])], fontsize=small, loc="center")
    return figure


def owner_row(axes: Axes, mask: str, labels: Sequence[str] | None = None) -> None:
    """Draw a network as a row of blocks in their owners' colours, letters inside, converters where the owner changes."""
    small = NOTE if len(mask) <= 4 else 8 if len(mask) == 5 else 7
    for index, letter in enumerate(mask):
        box = FancyBboxPatch((index + 0.2, 0.1), 0.6, 0.8, boxstyle="round,pad=0.02,rounding_size=0.08",
                             fc=OWNER[letter], ec="black", lw=1)  # fmt: skip
        axes.add_patch(box)
        text = labels[index] if labels is not None else f"block {index + 1}"
        axes.text(index + 0.5, 0.5, f"{OWNER_NAME[letter]}\n{text}", ha="center", va="center", fontsize=NOTE)
        axes.annotate("", (index + 0.18, 0.5), (index - 0.18, 0.5), arrowprops={"arrowstyle": "->", "lw": 1.2})
        if index and mask[index - 1] != letter:
            axes.text(index, 0.6, "encoder" if letter == "S" else "decoder", ha="center", fontsize=small)
    axes.annotate("", (len(mask) + 0.18, 0.5), (len(mask) - 0.18, 0.5), arrowprops={"arrowstyle": "->", "lw": 1.2})
    axes.text(-0.22, 0.5, "image", ha="right", va="center")
    axes.text(len(mask) + 0.22, 0.5, "class", ha="left", va="center")
    axes.set(xlim=(-0.6, len(mask) + 0.6), ylim=(0, 1))
    axes.axis("off")


def network(mask: str) -> Figure:
    """A network of mixed blocks as a drawing: who owns what, and which converter stands where."""
    with style():
        figure, (axes,) = row_of_axes(9, 1.5)
        owner_row(axes, mask)
    return figure


def mask_chart(masks: pd.DataFrame, split: str = "test") -> Figure:
    """Accuracy of every swap mask, sorted: mean over seeds with the worst and the best seed, owners drawn as squares."""
    by_mask = masks.groupby("mask")[split].agg(["mean", "min", "max"]).sort_values("mean", ascending=False)
    n_blocks = len(by_mask.index[0])
    with style():
        figure, (squares, axes) = row_of_axes(9, 0.28 * len(by_mask) + 1, 2, sharey=True, width_ratios=(n_blocks, 34))
        for row, mask in enumerate(by_mask.index):
            for column, letter in enumerate(mask):
                squares.text(column, row, letter, ha="center", va="center", fontsize=NOTE,
                             bbox={"boxstyle": "square,pad=0.25", "fc": OWNER[letter], "ec": "none"})  # fmt: skip
        rows = np.arange(len(by_mask))
        axes.hlines(rows, by_mask["min"], by_mask["max"], color="#888888", lw=2)
        axes.plot(by_mask["mean"], rows, "o", color="black", ms=5)
        axes.axvline(by_mask.loc["S" * n_blocks, "mean"], color=OWNER["S"], lw=1.5, ls="--")
        axes.annotate("student alone", (by_mask.loc["S" * n_blocks, "mean"], 1), xycoords=("data", "axes fraction"),
                      xytext=(0, 3), textcoords="offset points", ha="center", fontsize=NOTE, color="#0072B2")  # fmt: skip
        squares.set(xlim=(-0.6, n_blocks - 0.4), ylim=(len(by_mask) - 0.5, -0.5))
        squares.axis("off")
        axes.set(xlabel=f"{split} accuracy")
        axes.tick_params(left=False)
        axes.grid(False, axis="y")
        axes.xaxis.set_major_formatter(Percent())
    return figure


def loss_terms(history: pd.DataFrame) -> Figure:
    """Each named loss term over the training of a pair, the mean since the point before; the scale is logarithmic."""
    columns = [name for name in history if name.startswith("loss_") and name != "loss_total"]
    table = history.melt("step", columns, "term", "loss").dropna()
    table["term"] = table["term"].str.removeprefix("loss_")
    with style():
        figure, (axes,) = row_of_axes(9, 3.6)
        sns.lineplot(
            table,
            x="step",
            y="loss",
            hue="term",
            style="term",
            ax=axes,
            palette="colorblind",
            lw=2,
            errorbar=None,
            markers=True,
        )
        axes.set(xlabel="optimiser steps", ylabel="loss term (before its weight)", yscale="log", xlim=(0, None))
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.legend(title=None, ncols=5, loc="upper center", bbox_to_anchor=(0.5, 1.15))
    return figure


def predictions_by_mask(samples: SamplePredictions) -> Figure:
    """Prefix order at once: a column per image, a row per mask; what is predicted, in bold with a tick where it is right."""
    masks = analysis.loading_orders(samples.n_blocks)["prefix"]
    small = _name_size(samples.class_names)
    with style():
        figure = Figure(figsize=(9, 1.35 + 0.36 * len(masks)), layout="constrained")
        pictures, table = figure.subfigures(2, 1, height_ratios=(1.35, 0.36 * len(masks)))
        for index, axes in enumerate(pictures.subplots(1, len(samples.images) + 1).flat):
            axes.axis("off")
            if index:
                axes.imshow(samples.images[index - 1], cmap="gray_r")
                axes.set_title(samples.class_names[int(samples.labels[index - 1])], fontsize=small, loc="center")
        axes = table.subplots()
        axes.set(xlim=(0, len(samples.images) + 1), ylim=(len(masks), 0))
        axes.axis("off")
        for row, mask in enumerate(masks):
            axes.text(0.5, row + 0.5, mask, ha="center", va="center", family="monospace", fontsize=11)
            for column in range(len(samples.images)):
                right = int(samples.predicted[mask][column]) == int(samples.labels[column])
                words = ("✓ " if right else "✗ ") + samples.class_names[int(samples.predicted[mask][column])]
                axes.text(column + 1.5, row + 0.5, words, ha="center", va="center", fontsize=small,
                          color="black" if right else "#666666", weight="bold" if right else "normal")  # fmt: skip
    return figure
