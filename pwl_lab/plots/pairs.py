"""Figures of a pair: its architecture, accuracy as teacher blocks load, predictions at each loading state."""

from collections.abc import Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch, Rectangle

from pwl_lab.plots import style
from pwl_lab.plots.style import CONVERTER as CONVERTER_LOOK
from pwl_lab.plots.style import NOTE, OWNER, OWNER_NAME, Figure, Percent
from pwl_lab.study.recipes import SamplePredictions, StringPredictions
from pwl_lab.swap.orders import loading_orders
from pwl_lab.tasks.images import ImageTask

# (letter, height in the drawing) of the two networks, and for each direction the rows that a converter connects.
ROWS = {"teacher": ("T", 1.0), "student": ("S", 0.0)}
ENDS = {"encoder": ("teacher", "student"), "decoder": ("student", "teacher")}
DASHES: dict[Any, Any] = {"-": "", "--": (4, 1.5), ":": (1, 1), "-.": (3, 1.25, 1.5, 1.25)}  # as seaborn takes them
HALF = 0.3  # half of a box's width and height, in the drawing's units


@style.context()
def architecture(parts: pd.DataFrame) -> Figure:
    """Teacher above, student below, block by block in their owners' colours, with the converters between them.

    `parts` as from `study.results.outline`: part, block, channels, positions, layers, bytes. Each box shows its output
    channels (and positions), its layers and its bytes; the length of its dark bar is its share of the largest block's
    bytes. An encoder leads from the teacher's block to the student's next one, a decoder the other way.
    """
    n_blocks = int(parts["block"].max())
    small = NOTE if n_blocks <= 4 else 9 if n_blocks == 5 else 7 if n_blocks <= 7 else 6
    largest = parts.loc[parts["part"].isin(ROWS), "bytes"].max()
    figure, (axes,) = style.row_of_axes(9, 4.4)
    for part, (letter, height) in ROWS.items():
        rows = parts[parts["part"] == part].sort_values("block")
        for row in rows.itertuples():
            _box(axes, row, OWNER[letter], height, largest, small)
        name = f"{OWNER_NAME[letter]}\n{style.byte_words(rows['bytes'].sum())}"
        axes.text(0.28, height, name, ha="right", va="center", weight="bold", fontsize=NOTE)
        for i in range(n_blocks + 1):
            ends = (i + 1 - HALF, height), (i + HALF, height)
            axes.annotate("", *ends, arrowprops={"arrowstyle": "->", "lw": 1.2, "shrinkA": 0, "shrinkB": 0})
        axes.text(n_blocks + 1 - HALF, height, " class", va="center", fontsize=NOTE)
    for row in parts[parts["part"].isin(ENDS)].itertuples():
        _converter(axes, row, small)
    axes.set(xlim=(-0.35, n_blocks + 1.05), ylim=(-HALF - 0.1, 1 + HALF + 0.1))
    axes.axis("off")
    return figure


def _box(axes: Axes, row: Any, colour: str, height: float, largest: int, fontsize: float) -> None:
    """One block: channels and positions, layers, bytes, and its share of the largest block's bytes as a bar."""
    corner = (row.block - HALF, height - HALF)
    style_of_box = "round,pad=0,rounding_size=0.05"
    axes.add_patch(FancyBboxPatch(corner, 2 * HALF, 2 * HALF, boxstyle=style_of_box, fc=colour, ec="black", lw=1))
    kind = "units" if not row.positions else "channels" if fontsize > 6 else "ch."
    # One number is a sequence of tokens, two are an image's height and width.
    positions = row.positions if "×" in row.positions else f"{row.positions} tokens"
    outputs = f"{row.channels} {kind}" + (f"\n{positions}" if row.positions else "")
    layers = f"{row.layers} layer" + ("" if row.layers == 1 else "s")
    text = f"block {row.block}\n{outputs}\n{layers}\n{style.byte_words(row.bytes)}"
    axes.text(row.block, height + 0.05, text, ha="center", va="center", fontsize=fontsize, linespacing=1.35)
    left, width = row.block - HALF + 0.05, 2 * (HALF - 0.05)
    axes.add_patch(Rectangle((left, height - 0.25), width, 0.05, fc="none", ec="black", lw=0.6))
    axes.add_patch(Rectangle((left, height - 0.25), width * row.bytes / largest, 0.05, fc="black"))


def _converter(axes: Axes, row: Any, fontsize: float) -> None:
    """One converter: an arrow from the one network's block to the other's next, and its bytes."""
    colour, dashes, _ = CONVERTER_LOOK[row.part]
    (_, begin), (_, end) = (ROWS[name] for name in ENDS[row.part])
    down = 1 if begin > end else -1
    ends = (row.block + 1 - HALF, end + down * HALF), (row.block + HALF, begin - down * HALF)
    axes.annotate("", *ends, arrowprops={"arrowstyle": "->", "lw": 1.8, "ls": dashes, "color": colour})
    axes.text(row.block + HALF - 0.04, 0.5 + down * 0.1, f"{row.part}\n{style.byte_words(row.bytes)}", ha="right", va="center",
              fontsize=fontsize, color=colour)  # fmt: skip


@style.context()
def similarity_chart(table: pd.DataFrame) -> Figure:
    """How similar the networks are at each boundary: CKA before and after the converter, and the unexplained variance.

    `table` has the rows of `evaluation.boundary_similarity`, of several seeds if it has a column `seed`: mean, bars
    from the lowest to the highest seed. Hollow and dotted: the raw states. A column `untrained`, if there is one, is
    drawn as a grey line: the value for an untrained student.
    """
    boundaries = sorted(table["boundary"].unique())
    figure, (left, middle, right) = style.row_of_axes(9, 3.9, 3)
    middle.sharey(left)
    for axes, direction in ((left, "encoder"), (middle, "decoder")):
        by_boundary = table[table["direction"] == direction].groupby("boundary")
        if "untrained" in table:
            style.range_bars(axes, by_boundary["untrained"], ("#999999", "-.", "X"), label="untrained student")
        style.range_bars(axes, by_boundary["before"], ("#555555", ":", "D"), -0.12, mfc="white", label="before")
        style.range_bars(axes, by_boundary["after"], CONVERTER_LOOK[direction], 0.12, label=f"after the {direction}")
        style.range_bars(right, by_boundary["unexplained"], CONVERTER_LOOK[direction])
        axes.set_title(f"{direction}: {' to '.join(ENDS[direction])}", fontsize=NOTE)
    left.set(ylabel="similarity (CKA)")
    right.set_title("variance left unexplained", fontsize=NOTE)
    right.set_ylim(0, None)
    right.yaxis.set_major_formatter(Percent())
    drawn: dict[str, Any] = {}
    for axes in (left, middle):
        handles, labels = axes.get_legend_handles_labels()
        drawn |= zip(labels, handles, strict=True)
    figure.legend(drawn.values(), drawn.keys(), loc="outside upper center", ncols=len(drawn))
    for axes in (left, middle, right):
        axes.set_xticks(boundaries, [f"{b} | {b + 1}" for b in boundaries])
        axes.set(xlabel="boundary between blocks", xlim=(boundaries[0] - 0.4, boundaries[-1] + 0.4))
    return figure


def _name_size(names: Sequence[str]) -> float:
    """The font size at which class names do not overlap."""
    return NOTE if max(map(len, names)) <= 11 else 8


@style.context()
def image_grid(task: ImageTask, n_images: int = 20) -> Figure:
    """The first images of the training split with their classes.

    Arguments:
    - `task`: provides the images.
    - `n_images`: how many, in rows of ten.
    """
    images, batch = task.sample(n_images, "train")
    small = _name_size(task.class_names)
    figure = Figure(figsize=(9, 0.55 + 1.05 * (n_images // 10)), layout="constrained")
    for index, axes in enumerate(figure.subplots(-(-n_images // 10), 10, squeeze=False).flat):
        axes.axis("off")
        if index < n_images:
            axes.imshow(images[index].numpy(), cmap="gray_r")
            axes.set_title(task.class_names[int(batch.labels[index])], fontsize=small, loc="center")
    return figure


@style.context()
def network(mask: str) -> Figure:
    """A network of mixed blocks as a drawing: the owner of each block, and the converters where it changes."""
    figure, (axes,) = style.row_of_axes(9, 1.5)
    small = NOTE if len(mask) <= 4 else 8 if len(mask) == 5 else 7
    for index, letter in enumerate(mask):
        box = FancyBboxPatch((index + 0.2, 0.1), 0.6, 0.8, boxstyle="round,pad=0.02,rounding_size=0.08",
                             fc=OWNER[letter], ec="black", lw=1)  # fmt: skip
        axes.add_patch(box)
        axes.text(index + 0.5, 0.5, f"{OWNER_NAME[letter]}\nblock {index + 1}", ha="center", va="center", fontsize=NOTE)
        axes.annotate("", (index + 0.18, 0.5), (index - 0.18, 0.5), arrowprops={"arrowstyle": "->", "lw": 1.2})
        if index and mask[index - 1] != letter:
            axes.text(index, 0.6, "encoder" if letter == "S" else "decoder", ha="center", fontsize=small)
    axes.annotate("", (len(mask) + 0.18, 0.5), (len(mask) - 0.18, 0.5), arrowprops={"arrowstyle": "->", "lw": 1.2})
    axes.text(-0.22, 0.5, "image", ha="right", va="center")
    axes.text(len(mask) + 0.22, 0.5, "class", ha="left", va="center")
    axes.set(xlim=(-0.6, len(mask) + 0.6), ylim=(0, 1))
    axes.axis("off")
    return figure


@style.context()
def loss_terms(history: pd.DataFrame) -> Figure:
    """Each named loss term over the training of a pair, averaged between evaluations, on a logarithmic scale."""
    import seaborn as sns  # here: it takes a second, which every page of the dashboard would wait for

    columns = [name for name in history if name.startswith("loss_") and name != "loss_total"]
    table = history.melt("step", columns, "term", "loss").dropna()
    table["term"] = table["term"].str.removeprefix("loss_")
    colours, dashes, markers = zip(*(style.loss_look(term) for term in table["term"].unique()), strict=True)
    figure, (axes,) = style.row_of_axes(9, 3.6)
    patterns = [one[1] if isinstance(one, tuple) else DASHES[one] for one in dashes]
    sns.lineplot(table, x="step", y="loss", hue="term", style="term", ax=axes, palette=list(colours), lw=2,
                 errorbar=None, markers=list(markers), dashes=patterns)  # fmt: skip
    axes.set(xlabel="optimiser steps", ylabel="loss term (before its weight)", yscale="log", xlim=(0, None))
    style.log_ticks(axes.yaxis, "{x:g}")
    axes.legend(title=None, ncols=5, loc="upper center", bbox_to_anchor=(0.5, 1.15))
    return figure


@style.context()
def strings_by_mask(samples: StringPredictions) -> Figure:
    """Prefix order at a glance: each string, below it a row of predictions per mask, correct ones bold, and the labels."""
    masks, lengths = loading_orders(samples.n_blocks)["prefix"], [len(string) for string in samples.strings]
    height = len(masks) + 2.6
    figure = Figure(figsize=(9, 0.3 + 0.22 * height * len(lengths)), layout="constrained")
    axes = figure.subplots()
    axes.set(xlim=(-2.5, max(lengths)), ylim=(height * len(lengths), -0.5))
    axes.axis("off")

    def write(column: float, row: float, text: str, **look: Any) -> None:
        axes.text(column, row, text, ha="center", va="center", family="monospace", fontsize=10, **look)

    for place, string in enumerate(samples.strings):
        top = place * height
        for column, token in enumerate(string):
            write(column, top, token.symbol)
            for row, mask in enumerate(masks if token.number is not None else (), start=1):
                guess, label = int(samples.predicted[mask][token.number]), int(samples.labels[token.number])
                look = {"color": "black", "weight": "bold"} if guess == label else {"color": "#888888"}
                write(column, top + row, samples.class_names[guess], **look)
            if token.number is not None:
                write(column, top + len(masks) + 1, samples.class_names[int(samples.labels[token.number])])
        for row, words in enumerate([*masks, "label"], start=1):
            write(-1.5, top + row, words)
    return figure


@style.context()
def predictions_by_mask(samples: SamplePredictions) -> Figure:
    """Prefix order at a glance: a column per image, a row per mask; correct predictions are bold with a tick."""
    masks = loading_orders(samples.n_blocks)["prefix"]
    small = _name_size(samples.class_names)
    figure = Figure(figsize=(9, 1.35 + 0.36 * len(masks)), layout="constrained")
    pictures, table = figure.subfigures(2, 1, squeeze=False, height_ratios=(1.35, 0.36 * len(masks)))[:, 0]
    for index, axes in enumerate(pictures.subplots(1, len(samples.images) + 1).flat):
        axes.axis("off")
        if index:
            axes.imshow(samples.images[index - 1].numpy(), cmap="gray_r")
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
