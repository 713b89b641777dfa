"""Figures of single images: a teacher's soft targets, images drawn at random, one image under each mask of an order."""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float, UInt8
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from torch import Tensor

from pwl_lab.plots import style
from pwl_lab.plots.style import NOTE, OWNER, Figure, Percent
from pwl_lab.study.recipes import Predictions, SamplePredictions, SoftTargets, StringPredictions, StringToken
from pwl_lab.study.results import Pair
from pwl_lab.swap.orders import loading_orders

SHADES = "Purples"  # for probabilities: a colour with no meaning elsewhere
PALE = 1.6  # above 1, so that text and frames stand out from the darkest shade in use
LABEL = "#444444"
MOST_CLASSES = 10  # columns that fit; of more classes those with the highest probabilities are shown
PICTURES_PER_ROW = 12
SMALL = 8  # font size of class names side by side

Probabilities = Mapping[str, Float[Tensor, " classes"]]  # of each mask, for one picture


@style.context()
def soft_targets(example: SoftTargets, temperatures: Sequence[float] = (1, 4, 16)) -> Figure:
    """An image, its label as a target, and the teacher's output as a target at each temperature."""
    figure, axes = style.row_of_axes(9, 3.2, 2 + len(temperatures), width_ratios=(1.1, *[1] * (1 + len(temperatures))))
    _show_image(axes[0], example.image, f"label: {example.class_names[example.label]}")
    _target_bars(axes[1], example, None, named=True)
    for panel, temperature in zip(axes[2:], temperatures, strict=True):
        _target_bars(panel, example, temperature)
    return figure


class TemperatureFigure:
    """An image, its label as a target, and beside it the teacher's output at any temperature."""

    def __init__(self, example: SoftTargets) -> None:
        """Everything but the teacher's bars is drawn and laid out once."""
        self.example = example
        with style.context():
            self.figure, axes = style.row_of_axes(9, 3.4, 3, width_ratios=(1, 1, 1.6))
            _show_image(axes[0], example.image, f"label: {example.class_names[example.label]}")
            _target_bars(axes[1], example, None, named=True)
            self._bars, self._words = _target_bars(axes[2], example, 1)
            self._title = axes[2].set_title(_teacher_at(1), fontsize=NOTE, y=1)
            self.figure.draw_without_rendering()
            self.figure.set_layout_engine("none")

    def at(self, temperature: float) -> Figure:
        """The figure at a temperature above 0: the same object every time."""
        for bar, words, value in zip(self._bars, self._words, self.example.at(temperature).tolist(), strict=True):
            bar.set_width(value)
            words.set(text=f"{value:.1%}", x=value + 0.02)
        self._title.set_text(_teacher_at(temperature))
        return self.figure

    @property
    def moving(self) -> list[Artist]:
        """The artists that differ between temperatures."""
        return [*self._bars, *self._words, self._title]


def _teacher_at(temperature: float) -> str:
    """The title of the teacher's bars."""
    return f"teacher, τ = {temperature:g}"


def _show_image(axes: Axes, image: UInt8[Tensor, "height width *colours"], title: str) -> None:
    """A picture without axes, with its title above it."""
    axes.imshow(image.numpy(), cmap="gray_r")
    axes.set_title(title, loc="center", fontsize=NOTE, y=1)
    axes.axis("off")


def _target_bars(
    axes: Axes, example: SoftTargets, temperature: float | None, named: bool = False
) -> tuple[list[Rectangle], list[Artist]]:
    """Draw a target as a bar for each class, with its value (without a temperature: the label); return both."""
    shown = _shown_classes(example.at(1)[None])
    values = torch.nn.functional.one_hot(torch.tensor(example.label), len(example.class_names)).float()
    colour, title = LABEL, "the label"
    if temperature is not None:
        values, colour, title = example.at(temperature), OWNER["T"], _teacher_at(temperature)
    bars = axes.barh(range(len(shown)), values[shown].tolist(), color=colour, height=0.7)
    words = [axes.text(value + 0.02, row, f"{value:.{1 if temperature else 0}%}", va="center", fontsize=SMALL)
             for row, value in enumerate(values[shown].tolist())]  # fmt: skip
    axes.set_yticks(range(len(shown)), [example.class_names[i] for i in shown] if named else [], fontsize=NOTE)
    axes.set(xlim=(0, 1.25), ylim=(len(shown) - 0.4, -0.6), xticks=(0, 0.5, 1))
    axes.xaxis.set_major_formatter(Percent())
    axes.set_title(title, fontsize=NOTE)
    axes.grid(False, axis="y")
    return list(bars), list(words)


def _shown_classes(probabilities: Float[Tensor, "masks classes"]) -> list[int]:
    """All classes, or if there are many, those with the highest probability anywhere, in class order."""
    highest = probabilities.amax(dim=0).argsort(descending=True, stable=True)[:MOST_CLASSES]
    return sorted(highest.tolist())


def share_right(samples: Predictions, mask: str) -> float:
    """The share of the labels that a mask predicts correctly."""
    right = samples.right(mask)
    return sum(right) / len(right)


def how_chosen(samples: Predictions, pair: Pair) -> str:
    """One line: how the samples were chosen, and how many predictions are correct."""
    student, teacher = "S" * pair.n_blocks, "T" * pair.n_blocks
    right = f"{share_right(samples, student):.0%} of these right at {student}, {share_right(samples, teacher):.0%} at {teacher}"
    everywhere = f"whole test set: {pair.accuracy(student):.0%} and {pair.accuracy(teacher):.0%}"
    n = len(samples.labels)
    chosen = f"{n} drawn at random" if samples.kind == "drawn" else f"{n} picked because their prediction changes"
    return f"{chosen}: {right} ({everywhere})"


@style.context()
def drawn_pictures(samples: SamplePredictions, pair: Pair) -> Figure:
    """All pictures, numbered, with their classes, and whether student and teacher predict each correctly."""
    rows = -(-len(samples.labels) // PICTURES_PER_ROW)
    figure = Figure(figsize=(9, 0.4 + 1.15 * rows), layout="constrained")
    figure.suptitle(how_chosen(samples, pair), fontsize=NOTE, x=0.01, ha="left")
    ends = [samples.right(letter * pair.n_blocks) for letter in "ST"]
    for index, axes in enumerate(figure.subplots(rows, PICTURES_PER_ROW, squeeze=False).flat):
        axes.axis("off")
        if index < len(samples.labels):
            name = samples.class_names[int(samples.labels[index])]
            _show_image(axes, samples.images[index], "")
            axes.set_title(f"{index + 1}. {name}", fontsize=7, loc="center", pad=3)
            student, teacher = ("✓" if right[index] else "✗" for right in ends)
            axes.text(
                0.5,
                -0.06,
                f"S {student}   T {teacher}",
                transform=axes.transAxes,
                ha="center",
                va="top",
                fontsize=SMALL,
            )
    return figure


class PictureFigure:
    """One picture, with the probability of each class at each mask of prefix order.

    What all pictures share is drawn and laid out once.
    """

    def __init__(self, pair: Pair, image_shape: Sequence[int], class_names: Sequence[str]) -> None:
        """`image_shape` is height and width, and a third dimension of 3 for a colour picture."""
        self.class_names = class_names
        self.masks = loading_orders(pair.n_blocks)["prefix"]
        with style.context():
            self.figure = Figure(figsize=(9, 1.1 + 0.36 * len(self.masks)), layout="constrained")
            left, right = self.figure.subplots(1, 2, width_ratios=(1, 4.2))
            _show_image(left, torch.arange(256, dtype=torch.uint8).repeat(16, 1), "own picture")
            self._title, self._picture = left.title, left.images[0]
            self._picture.set_extent((0, image_shape[1], image_shape[0], 0))
            self._build_table(right, pair)
            self.figure.draw_without_rendering()
            self.figure.set_layout_engine("none")

    def _build_table(self, axes: Axes, pair: Pair) -> None:
        """The table with its longest texts and all its colours: a row for each mask, a column for each class shown."""
        rows, columns = len(self.masks), min(MOST_CLASSES, len(self.class_names))
        ramp = torch.linspace(0, 1, rows * columns).view(rows, columns)
        self._shades = axes.imshow(ramp.numpy(), cmap=SHADES, vmin=0, vmax=PALE, aspect="auto")
        self._cells = [[axes.text(column, row, "100%", ha="center", va="center", fontsize=9)
                        for column in range(columns)] for row in range(rows)]  # fmt: skip
        self._boxes = [
            Rectangle((-0.5, row - 0.5), 1, 1, fill=False, ec="black", lw=2.5, zorder=3) for row in range(rows)
        ]
        for box in self._boxes:
            axes.add_patch(box)
        widest = max(self.class_names, key=len)
        self._heads = [axes.text(column, -0.6, widest, ha="center", va="bottom", fontsize=SMALL if len(widest) <= 11 else 6)
                       for column in range(columns)]  # fmt: skip
        axes.set_yticks(range(rows), self.masks, family="monospace")
        axes.set_xticks([])
        axes.grid(False)
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0)
        for row, mask in enumerate(self.masks):
            axes.text(columns - 0.3, row, f"{pair.accuracy(mask):.1%}", va="center", fontsize=9)
        axes.text(columns - 0.3, -0.6, "all test\npictures", va="bottom", fontsize=SMALL)

    def at(
        self, image: UInt8[Tensor, "height width *colours"], probabilities: Probabilities, label: int | None = None
    ) -> Figure:
        """The figure for a picture, without a label if it is the reader's own: the same object every time."""
        values = torch.stack([probabilities[mask] for mask in self.masks])
        shown = _shown_classes(values)
        self._picture.set_data(image.numpy())
        self._picture.set_clim(0, 255)
        self._title.set_text("own picture" if label is None else f"label: {self.class_names[label]}")
        self._shades.set_data(values[:, shown].numpy())
        inks = [[style.ink_on(shade) for shade in row] for row in self._shades.to_rgba(values[:, shown].numpy())]
        for head, number in zip(self._heads, shown, strict=True):
            head.set(text=self.class_names[number], weight="bold" if number == label else "normal")
        for row, cells in enumerate(self._cells):
            guess = int(values[row].argmax())
            for cell, value, ink in zip(cells, values[row, shown].tolist(), inks[row], strict=True):
                cell.set(text=f"{value:.0%}" if value >= 0.005 else "", color=ink)
            self._boxes[row].set_x(shown.index(guess) - 0.5)
            self._boxes[row].set_linestyle("-" if label in (None, guess) else ":")
        return self.figure

    @property
    def moving(self) -> list[Artist]:
        """The artists that differ between pictures."""
        cells = [cell for row in self._cells for cell in row]
        return [self._picture, self._title, self._shades, *cells, *self._boxes, *self._heads]


def guesses(probabilities: Probabilities, masks: Sequence[str], class_names: Sequence[str]) -> str:
    """One line: the prediction of each mask for a picture, with its probability."""
    tops = {mask: probabilities[mask].max(dim=0) for mask in masks}
    return "; ".join(f"{mask} {class_names[int(top.indices)]} {float(top.values):.0%}" for mask, top in tops.items())


def string_guesses(samples: StringPredictions, string: Sequence[StringToken]) -> str:
    """One line: the labels of one of the strings, and the predictions of each mask, with their probabilities."""
    numbers, names = [token.number for token in string if token.number is not None], samples.class_names

    def said(mask: str) -> str:
        predicted, sure = samples.predicted[mask], samples.confidence[mask]
        return " ".join(f"{names[int(predicted[one])]} {float(sure[one]):.0%}" for one in numbers)

    labels = " ".join(names[int(samples.labels[one])] for one in numbers)
    return f"Label: {labels}. {'; '.join(f'{one} {said(one)}' for one in loading_orders(samples.n_blocks)['prefix'])}"
