"""A pair in the middle of loading: who owns which block, how accurate that is, and what it predicts for a few images."""

from collections.abc import Mapping, Sequence

import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from pwl_lab import analysis, cube
from pwl_lab.plots.loading import owner_row
from pwl_lab.plots.style import NOTE, OWNER, OWNER_NAME, Figure, Percent, levels_alone, order_look, style
from pwl_lab.samples import SamplePredictions
from pwl_lab.study import Pair

CONVERTER = {"S": "encoder", "T": "decoder"}  # in front of the first block of such an owner


def layer_loading(
    pair: Pair, mask: str, samples: SamplePredictions, orders: Mapping[str, list[str]] | None = None
) -> Figure:
    """One state of loading; see `LayerFigure`."""
    return LayerFigure(pair, samples, orders).at(mask)


class LayerFigure:
    """A figure of a pair that can be turned to any mask: its blocks, where on the accuracy curves it is, predictions.

    What all masks have in common is drawn and laid out once: many masks one after the other take a fraction of the
    time of as many figures, and nothing jumps between them.
    """

    def __init__(self, pair: Pair, samples: SamplePredictions, orders: Mapping[str, list[str]] | None = None) -> None:
        """`orders` (the named ones and the best one unless given) are the curves; every other mask is a grey dot."""
        self.pair, self.samples = pair, samples
        with style():
            self.figure = Figure(figsize=(9, 6), layout="constrained")
            top, middle, bottom = self.figure.subfigures(3, 1, height_ratios=(1.1, 2.4, 2.1))
            self._blocks, self._curves = top.subplots(), middle.subplots()
            self._ring = _accuracy_curves(self._curves, pair.masks, orders or cube.named_orders(pair.masks))
            self._strip = list(bottom.subplots(1, len(samples.images), squeeze=False)[0])
            for index, axes in enumerate(self._strip):
                axes.imshow(samples.images[index], cmap="gray_r")
                axes.set(xticks=[], yticks=[])
                axes.grid(False)
                axes.spines[:].set_visible(False)
                axes.set_xlabel(_roomiest(samples, index), fontsize=NOTE)
            self._frames = [axes.add_patch(_frame(axes)) for axes in self._strip]
            owner_row(self._blocks, ("TS" * pair.n_blocks)[: pair.n_blocks])  # a converter between any two blocks
            words = [text for text in self._blocks.texts if text.get_text()]
            self._names = [text for text in words if "\n" in text.get_text()]
            self._converters = [text for text in words if text.get_text() in CONVERTER.values()]
            self._title = self._curves.set_title("T", loc="left", y=1)
            self.figure.draw_without_rendering()  # lays out, with room for the longest words
            self.figure.set_layout_engine("none")

    def at(self, mask: str) -> Figure:
        """The figure at `mask`: the same object every time. Raises InvalidValueError for a mask that is none."""
        loaded, value = mask.count("T"), self.pair.accuracy(mask)
        with style():
            self._turn_blocks(mask)
            self._ring.set_data([loaded], [value])
            self._title.set_text(
                f"{mask}: {loaded} of {self.pair.n_blocks} teacher blocks, test accuracy {value:.1%} (seed {self.pair.seed})"
            )
            for index, right in enumerate(self.samples.right(mask)):
                self._frames[index].set(lw=2.5 if right else 1, ls="-" if right else ":")
                self._strip[index].set_xlabel(verdict(self.samples, mask, index), fontsize=NOTE)
        return self.figure

    @property
    def moving(self) -> list[Artist]:
        """What differs between masks; all else in the figure stays as it is drawn first."""
        strip = [*self._frames, *(axes.xaxis.label for axes in self._strip)]
        return [*self._blocks.patches, *self._names, *self._converters, self._ring, self._title, *strip]

    def _turn_blocks(self, mask: str) -> None:
        """Give the blocks their owners, and show the converters between those of two owners."""
        for letter, box, name in zip(mask, self._blocks.patches, self._names, strict=True):
            box.set_facecolor(OWNER[letter])
            name.set_text(f"{OWNER_NAME[letter]}\n{name.get_text().split(chr(10))[1]}")
        for before, letter, converter in zip(mask, mask[1:], self._converters, strict=False):
            converter.set(text=CONVERTER[letter], visible=before != letter)


def _frame(axes: Axes) -> Rectangle:
    """A frame around the axes: one artist, where the four sides of its own would be four to draw."""
    return Rectangle((0, 0), 1, 1, transform=axes.transAxes, fill=False, ec="black", clip_on=False, zorder=2.5)


def _accuracy_curves(axes: Axes, masks: pd.DataFrame, orders: Mapping[str, Sequence[str]]) -> Line2D:
    """Draw a curve for each order (later ones thinner, on top) and a dot for each mask; what it returns is the ring.

    Two levels to compare with: the student alone and the teacher alone.
    """
    curves = analysis.order_curves(masks, {order: list(sequence) for order, sequence in orders.items()})
    axes.plot(masks["teacher_blocks"], masks["test"], "o", color="#AAAAAA", ms=4, label="any mask")
    for place, (order, curve) in enumerate(curves.groupby("order", sort=False)):
        colour, dashes, marker = order_look(order)
        axes.plot(curve["teacher_blocks"], curve["accuracy"], color=colour, ls=dashes, marker=marker, ms=5,
                  lw=max(1.2, 3 - 0.5 * place), label=order)  # fmt: skip
    most, by_mask = int(masks["teacher_blocks"].max()), masks.set_index("mask")["test"]
    student, teacher = by_mask["S" * most], by_mask["T" * most]
    levels_alone(axes, student, teacher, close=abs(teacher - student) < 0.25 * (by_mask.max() - by_mask.min()))
    (ring,) = axes.plot([0], [masks["test"].iloc[0]], "o", ms=15, mfc="none", mec="black", mew=2.5, clip_on=False)
    axes.margins(y=0.2)
    axes.set(xlabel="teacher blocks loaded", ylabel="test accuracy", xlim=(-0.3, most + 0.3))
    axes.set_xticks(range(most + 1))
    axes.yaxis.set_major_locator(
        MaxNLocator(5, steps=(1, 2, 2.5, 5, 10))
    )  # as many ticks before the layout as after it
    axes.yaxis.set_major_formatter(Percent())
    axes.legend(loc="center left", bbox_to_anchor=(1.09, 0.5))  # beside the names of the levels
    return ring


def verdict(samples: SamplePredictions, mask: str, index: int) -> str:
    """What is predicted for a sample, how sure the network is, and the truth where that differs."""
    guess, truth = int(samples.predicted[mask][index]), int(samples.labels[index])
    sure = f"{samples.confidence[mask][index]:.0%}"
    if guess == truth:
        return f"✓ {samples.class_names[guess]}\n{sure}"
    return f"✗ {samples.class_names[guess]}\n{sure}, is:\n{samples.class_names[truth]}"


def _roomiest(samples: SamplePredictions, index: int) -> str:
    """The verdict on a sample that takes the most room over all masks: the most lines, then the longest one."""
    lines = (verdict(samples, mask, index).split("\n") for mask in samples.predicted)
    return "\n".join(max(lines, key=lambda them: (len(them), max(map(len, them)))))
