"""Live controls over figures that were made before: a widget never computes, it picks from a table.

Each has a plain twin in `plots`, shown above it. No widget writes into an Output widget: that is what makes batch
execution hang and hides exceptions; the pictures are values of an Image widget instead.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO

import ipywidgets as controls
from matplotlib.figure import Figure

from pwl_lab import analysis, plots
from pwl_lab.clock.timeline import anytime_area
from pwl_lab.distill.probes import TeacherReadings
from pwl_lab.errors import invalid
from pwl_lab.loading.bundle import BundleIndex
from pwl_lab.plots.clock import horizon, plans_for, second_words
from pwl_lab.samples import SamplePredictions
from pwl_lab.study import Pair


@dataclass(frozen=True)
class Frame:
    """One state of a widget: its picture (PNG) and the same in words, for screen readers and for tests."""

    picture: bytes
    words: str


def png(figure: Figure, dpi: int = 110) -> bytes:
    """The figure as PNG bytes."""
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    return buffer.getvalue()


class FramePicker(controls.VBox):
    """A slider over a table of frames: `frames[value]` is shown. Moving it only swaps a picture for another."""

    def __init__(self, frames: Mapping[int, Frame], description: str, tooltip: str) -> None:
        """`frames` has one entry per slider value, without a gap. Raises InvalidValueError where it has one."""
        values = sorted(frames)
        if not values or values != list(range(values[0], values[-1] + 1)):
            raise invalid("frames", values, "one frame per slider value, without a gap")
        self.frames = dict(frames)
        self.slider = controls.IntSlider(
            value=values[0],
            min=values[0],
            max=values[-1],
            description=description,
            tooltip=tooltip,
            style={"description_width": "initial"},
            layout={"width": "min(460px, 100%)"},
        )
        self.words = controls.HTML()
        self.picture = controls.Image(format="png", layout={"max_width": "100%"})
        self.slider.observe(self._moved, names="value")
        self._show(values[0])
        super().__init__([self.slider, self.words, self.picture])

    def _moved(self, change: Mapping[str, int]) -> None:
        """The slider has a new value."""
        self._show(change["new"])

    def _show(self, value: int) -> None:
        """Put the frame of `value` on display."""
        frame = self.frames[value]
        self.picture.value = frame.picture
        self.words.value = f"<span role='status'>{frame.words}</span>"


def layer_loader(pair: Pair, samples: SamplePredictions) -> FramePicker:
    """How many teacher blocks are loaded, from the first on: blocks, accuracy curve and sample predictions for each."""
    frames = {}
    for loaded, mask in enumerate(analysis.loading_orders(pair.n_blocks)["prefix"]):
        words = f"{mask}: {loaded} of {pair.n_blocks} teacher blocks loaded, test accuracy {pair.accuracy(mask):.1%}"
        frames[loaded] = Frame(png(plots.layer_loading(pair, mask, samples)), words)
    return FramePicker(frames, "Teacher layers loaded", "how many of the teacher's blocks have replaced the student's")


def checkpoint_slider(readings: TeacherReadings, at_most: int = 40) -> FramePicker:
    """The teacher's checkpoints (evenly chosen where there are more than `at_most`), each with its map of bit pairs."""
    steps, accuracies = readings.steps, readings.accuracies
    chosen = sorted({round(i * (len(steps) - 1) / (at_most - 1)) for i in range(at_most)})
    frames = {}
    for number, step in enumerate((steps[place] for place in chosen), start=1):
        row, column = divmod(int(readings.maps[step].abs().argmax()), len(readings.maps[step]))
        strongest = f"bit {row}" if row == column else f"bits {row} and {column}"
        words = f"step {step:,}: validation accuracy {accuracies[step]:.1%}, strongest correlation with {strongest}"
        frames[number] = Frame(png(plots.checkpoint_map(readings, step)), words)
    return FramePicker(
        frames, "Checkpoint", "which of the teacher's checkpoints is shown; the last is the final teacher"
    )


class TimelinePicker(controls.VBox):
    """Two choices over a table of frames, a link and a loading order: `frames[link, order]` is shown."""

    def __init__(self, frames: Mapping[tuple[str, str], Frame]) -> None:
        """`frames` has one entry for every pair of a link and an order. Raises InvalidValueError where one is missing."""
        links, orders = (list(dict.fromkeys(key[place] for key in frames)) for place in (0, 1))
        if not frames or len(frames) != len(links) * len(orders):
            raise invalid("frames", sorted(frames), "one frame for each link with each order")
        self.frames, wide = dict(frames), {"description_width": "initial"}
        self.link = controls.SelectionSlider(
            options=links, value=links[len(links) // 2], description="Bandwidth", tooltip="how fast the bytes come",
            style=wide, layout={"width": "min(460px, 100%)"},
        )  # fmt: skip
        self.order = controls.Dropdown(
            options=orders, description="Loading order", tooltip="which teacher block comes when", style=wide
        )
        self.words = controls.HTML()
        self.picture = controls.Image(format="png", layout={"max_width": "100%"})
        for control in (self.link, self.order):
            control.observe(self._changed, names="value")
        self._show()
        super().__init__(
            [controls.HBox([self.link, self.order], layout={"flex_flow": "row wrap"}), self.words, self.picture]
        )

    def _changed(self, _: object) -> None:
        """One of the two has a new value."""
        self._show()

    def _show(self) -> None:
        """Put the frame of the two choices on display."""
        frame = self.frames[self.link.value, self.order.value]
        self.picture.value = frame.picture
        self.words.value = f"<span role='status'>{frame.words}</span>"


def loading_timeline(
    index: BundleIndex,
    megabytes_per_s: Sequence[float] = (0.1, 0.5, 1, 5, 25),
    orders: Sequence[str] = ("prefix", "suffix", "contiguous", "best"),
) -> TimelinePicker:
    """Accuracy against seconds on a link of so many MB/s, by the bundle's bytes and recorded accuracies, for each order."""
    frames = {}
    for speed in megabytes_per_s:
        plans = plans_for(index, speed, orders)
        for order, plan in plans.items():
            first, last = (second_words(plan["seconds"].iloc[place]) for place in (0, -1))
            words = (
                f"{order} order at {speed:g} MB/s: first prediction after {first}, the whole teacher after {last}, "
                f"mean accuracy over the time shown {anytime_area(plan, horizon(plans)):.1%}"
            )
            frames[f"{speed:g} MB/s", order] = Frame(png(plots.planned_chart(index, speed, order, orders)), words)
    return TimelinePicker(frames)
