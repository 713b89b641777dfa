"""Figures: data in, matplotlib Figure out; one style for all of them.

Colours are from Okabe and Ito's colour-blind-safe palette; line style and marker differ as well. Figures are made without
pyplot's list of open figures, so a notebook shows one exactly once: as the value of a cell's last line.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.patches import FancyBboxPatch
from matplotlib.ticker import PercentFormatter

from pwl_lab import analysis
from pwl_lab.study import DistillationRuns, Pair, SamplePredictions
from pwl_lab.tasks.vision import ImageTask
from pwl_lab.training import TrainedModel

OWNER = {"T": "#D55E00", "S": "#56B4E9"}
OWNER_NAME = {"T": "teacher", "S": "student"}
# (colour, line style, marker) of a curriculum; a reader's own ones take the spare entries in turn.
CURRICULUM = {
    "scratch": ("#7F7F7F", ":", "x"),
    "one_shot": ("#0072B2", "--", "s"),
    "progressive": ("#E69F00", "-.", "^"),
    "extracted": ("#009E73", "-", "o"),
}
SPARE = [("#CC79A7", "-", "D"), ("#56B4E9", "--", "v"), ("#D55E00", "-.", "P"), ("#000000", ":", "*")]
ORDER = {"prefix": ("#0072B2", "-", "o"), "suffix": ("#CC79A7", "--", "s")}
STYLE = {
    "figure.dpi": 110,
    "font.size": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#E5E5E5",
    "axes.axisbelow": True,
    "legend.frameon": False,
    "svg.fonttype": "none",
}


@contextmanager
def style() -> Iterator[None]:
    """The study's style inside, whatever the user's own is outside."""
    with mpl.rc_context(STYLE):
        yield


def looks(names: Sequence[str]) -> dict[str, tuple[str, str, str]]:
    """Colour, line style and marker for each curriculum name."""
    others = iter(SPARE * (1 + len(names) // len(SPARE)))
    return {name: CURRICULUM[name] if name in CURRICULUM else next(others) for name in names}


def _figure(width: float, height: float, columns: int = 1, **keys: object) -> tuple[Figure, list[Axes]]:
    """A figure in the study's style with a row of axes."""
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(1, columns, squeeze=False, **keys)
    return figure, list(axes.flat)


def _chance(axes: Axes, value: float) -> None:
    """The line of guessing, labelled."""
    axes.axhline(value, color="#999999", lw=1, ls=(0, (1, 2)))
    axes.annotate("guessing", (1, value), xycoords=("axes fraction", "data"), ha="right", va="bottom", color="#666666")


def learning_curves(runs: DistillationRuns, threshold: float = 0.99, chance: float = 0.5) -> Figure:
    """Test accuracy against steps: the median over seeds, the band from the worst to the best seed, stages marked."""
    table = analysis.held(runs.history)
    names = list(dict.fromkeys(table["curriculum"]))
    with style():
        figure, (axes,) = _figure(9, 4.2)
        for name, (colour, dashes, _) in looks(names).items():
            curve = table[table["curriculum"] == name].groupby("step")["accuracy"]
            axes.fill_between(curve.min().index, curve.min(), curve.max(), color=colour, alpha=0.15, lw=0)
            axes.plot(curve.median(), color=colour, ls=dashes, lw=2, label=name.replace("_", "-"))
        starts = runs.stages.loc[runs.stages["start"] > 0, "start"].unique()
        for start in starts:
            axes.axvline(start, color="#444444", lw=0.8)
            axes.annotate("on to the\nfinal output", (start, 0.02), xycoords=("data", "axes fraction"), xytext=(4, 0),
                          textcoords="offset points", fontsize=9)  # fmt: skip
        _chance(axes, chance)
        axes.axhline(threshold, color="#444444", lw=0.8, ls="--")
        axes.set(xlabel="optimiser steps", ylabel="test accuracy", ylim=(None, 1.02), xlim=(0, None))
        axes.yaxis.set_major_formatter(PercentFormatter(1))
        axes.legend(loc="center right")
    return figure


def steps_to_threshold(runs: DistillationRuns, threshold: float = 0.99) -> Figure:
    """Steps to the threshold: a point per seed, a bar at the median; what was not reached stands at the budget, hollow."""
    steps = runs.steps_to(threshold)
    budget = runs.plan.steps
    with style():
        figure, (axes,) = _figure(9, 0.6 * len(steps) + 1.2)
        for row, (name, (colour, _, marker)) in enumerate(looks(list(steps)).items()):
            there = [budget if value is None else value for value in steps[name]]
            heights = row + np.linspace(-0.2, 0.2, len(there))
            fills = ["none" if value is None else colour for value in steps[name]]
            edge = {"linewidths": 1.5, "edgecolors": colour} if marker != "x" else {"linewidths": 1.5, "color": colour}
            axes.scatter(
                there, heights, marker=marker, s=45, **(edge if marker == "x" else {"facecolors": fills} | edge)
            )
            median = analysis.median_steps(steps[name], budget)
            axes.plot([median, median], [row - 0.35, row + 0.35], color=colour, lw=3)
            axes.annotate(f"{median:,.0f}", (median, row - 0.37), ha="center", va="bottom", fontsize=10)
        axes.set_yticks(range(len(steps)), [name.replace("_", "-") for name in steps])
        axes.set(xlabel=f"optimiser steps to {threshold:.0%}", xlim=(0, None), ylim=(len(steps) - 0.5, -0.75))
        axes.xaxis.set_major_formatter("{x:,.0f}")
    return figure


def teacher_curve(teacher: TrainedModel, checkpoint_accuracy: float | None = None) -> Figure:
    """A teacher's validation accuracy over its training, with the moment it was done and the chosen checkpoint."""
    history = teacher.history
    with style():
        figure, (axes,) = _figure(9, 3.2)
        axes.plot(history["step"], history["accuracy"], color=OWNER["T"], lw=2)
        _chance(axes, 1 / teacher.config.n_classes)
        if checkpoint_accuracy is not None:
            chosen = teacher.checkpoint(at_accuracy=checkpoint_accuracy)
            axes.plot(chosen.step, chosen.accuracy, "^", color="#E69F00", mec="black", ms=10)
            axes.annotate(f"checkpoint of the progressive curriculum\nstep {chosen.step:,}, {chosen.accuracy:.0%}",
                          (chosen.step, chosen.accuracy), xytext=(14, -4), textcoords="offset points")  # fmt: skip
        if teacher.reached_at is not None:
            axes.axvspan(teacher.reached_at, history["step"].max(), color="#EEEEEE", zorder=0)
            axes.annotate("goes on until it is saturated", (teacher.reached_at, 0.9),
                          xycoords=("data", "axes fraction"), xytext=(6, 0), textcoords="offset points")  # fmt: skip
        axes.set(xlabel="optimiser steps", ylabel="validation accuracy", xlim=(0, None), ylim=(None, 1.03))
        axes.yaxis.set_major_formatter(PercentFormatter(1))
    return figure


def image_grid(task: ImageTask, n_images: int = 20) -> Figure:
    """The first images of the training split with their classes."""
    images, batch = task.sample(n_images, "train")
    with style():
        figure = Figure(figsize=(9, 0.55 + 1.15 * (n_images // 10)), layout="constrained")
        for index, axes in enumerate(figure.subplots(-(-n_images // 10), 10, squeeze=False).flat):
            axes.axis("off")
            if index < n_images:
                axes.imshow(images[index], cmap="gray_r")
                axes.set_title(task.class_names[int(batch.labels[index])], fontsize=8)
    return figure


def owner_row(axes: Axes, mask: str, labels: Sequence[str] | None = None) -> None:
    """Draw a network as a row of blocks in their owners' colours, letters inside, converters where the owner changes."""
    for index, letter in enumerate(mask):
        box = FancyBboxPatch((index + 0.2, 0.1), 0.6, 0.8, boxstyle="round,pad=0.02,rounding_size=0.08",
                             fc=OWNER[letter], ec="black", lw=1)  # fmt: skip
        axes.add_patch(box)
        text = labels[index] if labels is not None else f"block {index + 1}"
        axes.text(index + 0.5, 0.5, f"{OWNER_NAME[letter]}\n{text}", ha="center", va="center", fontsize=10)
        axes.annotate("", (index + 0.18, 0.5), (index - 0.18, 0.5), arrowprops={"arrowstyle": "->", "lw": 1.2})
        if index and mask[index - 1] != letter:
            axes.text(index, 0.6, "encoder" if letter == "S" else "decoder", ha="center", fontsize=8)
    axes.annotate("", (len(mask) + 0.18, 0.5), (len(mask) - 0.18, 0.5), arrowprops={"arrowstyle": "->", "lw": 1.2})
    axes.text(-0.22, 0.5, "image", ha="right", va="center")
    axes.text(len(mask) + 0.22, 0.5, "class", ha="left", va="center")
    axes.set(xlim=(-0.6, len(mask) + 0.6), ylim=(0, 1))
    axes.axis("off")


def order_curves(curves: pd.DataFrame, teacher_accuracy: float | None = None) -> Figure:
    """Accuracy against loaded teacher blocks for each loading order: mean over seeds, bars from worst to best seed."""
    with style():
        figure, (axes,) = _figure(9, 4.2)
        for order, table in curves.groupby("order", sort=False):
            colour, dashes, marker = ORDER.get(order, SPARE[3])
            by_k = table.groupby("teacher_blocks")["accuracy"]
            mean, low, high = by_k.mean(), by_k.min(), by_k.max()
            axes.errorbar(mean.index, mean, yerr=[mean - low, high - mean], color=colour, ls=dashes, marker=marker,
                          lw=2, ms=7, capsize=4, label=f"{order} order")  # fmt: skip
        if teacher_accuracy is not None:
            axes.axhline(teacher_accuracy, color=OWNER["T"], lw=1, ls=":")
            axes.annotate("teacher alone", (0, teacher_accuracy), xytext=(2, 3), textcoords="offset points")
        axes.set(xlabel="teacher blocks loaded", ylabel="test accuracy")
        axes.set_xticks(sorted(curves["teacher_blocks"].unique()))
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axes.legend(loc="lower right")
    return figure


def mask_chart(masks: pd.DataFrame, split: str = "test") -> Figure:
    """Accuracy of every swap mask, sorted: mean over seeds with the worst and the best seed, owners drawn as squares."""
    by_mask = masks.groupby("mask")[split].agg(["mean", "min", "max"]).sort_values("mean", ascending=False)
    n_blocks = len(by_mask.index[0])
    with style():
        figure, (squares, axes) = _figure(9, 0.28 * len(by_mask) + 1, 2, sharey=True, width_ratios=(n_blocks, 22))
        for row, mask in enumerate(by_mask.index):
            for column, letter in enumerate(mask):
                squares.text(column, row, letter, ha="center", va="center", fontsize=9,
                             bbox={"boxstyle": "square,pad=0.25", "fc": OWNER[letter], "ec": "none"})  # fmt: skip
        rows = np.arange(len(by_mask))
        axes.hlines(rows, by_mask["min"], by_mask["max"], color="#888888", lw=2)
        axes.plot(by_mask["mean"], rows, "o", color="black", ms=5)
        axes.axvline(by_mask.loc["S" * n_blocks, "mean"], color=OWNER["S"], lw=1.5, ls="--")
        axes.set_title("dashed: the student alone", fontsize=10, color="#0072B2", loc="left")
        squares.set(xlim=(-0.6, n_blocks - 0.4), ylim=(len(by_mask) - 0.5, -0.5))
        squares.axis("off")
        axes.set(xlabel=f"{split} accuracy")
        axes.tick_params(left=False)
        axes.grid(False, axis="y")
        axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    return figure


def loss_terms(history: pd.DataFrame) -> Figure:
    """Each named loss term over the training of a pair."""
    columns = [name for name in history if name.startswith("loss_") and name != "loss_total"]
    table = history.melt("step", columns, "term", "loss").dropna()
    table["term"] = table["term"].str.removeprefix("loss_")
    with style():
        figure, (axes,) = _figure(9, 3.6)
        sns.lineplot(
            table, x="step", y="loss", hue="term", style="term", ax=axes, palette="colorblind", lw=2, errorbar=None
        )
        axes.set(xlabel="optimiser steps", ylabel="loss term (before its weight)", ylim=(0, None))
        axes.legend(title=None, ncols=5, loc="upper center", bbox_to_anchor=(0.5, 1.15))
    return figure


def layer_loading(pair: Pair, mask: str, samples: SamplePredictions) -> Figure:
    """One state of loading: the blocks and their owners, where on the accuracy curve that is, and sample predictions."""
    curve = analysis.order_curves(pair.masks, {"prefix": analysis.loading_orders(pair.n_blocks)["prefix"]})
    with style():
        figure = Figure(figsize=(9, 5.6), layout="constrained")
        top, middle, bottom = figure.subfigures(3, 1, height_ratios=(1.1, 2.4, 1.7))
        owner_row(top.subplots(), mask)
        axes = middle.subplots()
        axes.plot(curve["teacher_blocks"], curve["accuracy"], color="#444444", marker="o", ms=5, lw=1.5)
        loaded, value = mask.count("T"), pair.accuracy(mask)
        axes.plot(loaded, value, "o", ms=15, mfc="none", mec=OWNER["T"], mew=3)
        axes.set_title(f"{mask}: {loaded} of {pair.n_blocks} teacher blocks, test accuracy {value:.1%}", loc="left")
        axes.set(xlabel="teacher blocks loaded, from the first on", xlim=(-0.3, pair.n_blocks + 0.3))
        axes.set_xticks(range(pair.n_blocks + 1))
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        prediction_strip(bottom, samples, mask)
    return figure


def prediction_strip(figure: SubFigure, samples: SamplePredictions, mask: str) -> None:
    """A row of images with the prediction at `mask` below each: a tick where it is right, a cross where it is wrong."""
    axes = figure.subplots(1, len(samples.images), squeeze=False)[0]
    for index, one in enumerate(axes):
        guess, truth = int(samples.predicted[mask][index]), int(samples.labels[index])
        one.imshow(samples.images[index], cmap="gray_r")
        one.set(xticks=[], yticks=[])
        one.grid(False)
        right = guess == truth
        for side in one.spines.values():
            side.set(visible=True, color="#009E73" if right else "#D55E00", lw=2.5)
        words = f"{'✓' if right else '✗'} {samples.class_names[guess]}\n{samples.confidence[mask][index]:.0%} sure"
        one.set_xlabel(words, fontsize=8)
