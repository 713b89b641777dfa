"""Widgets for single samples: a slider over temperatures, a chooser of test pictures or strings, the reader's own picture."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import anywidget
import ipywidgets as controls
from IPython.display import Markdown
from ipywidgets.widgets.trait_types import CByteMemoryView

from pwl_lab import plots
from pwl_lab.plots.pictures import guesses, how_chosen, string_guesses
from pwl_lab.study.recipes import Predictions, SamplePredictions, SoftTargets, StringPredictions
from pwl_lab.study.results import Pair
from pwl_lab.study.uploads import picture_from
from pwl_lab.support.errors import InvalidValueError, invalid
from pwl_lab.support.own_code import located
from pwl_lab.tasks.base import Task
from pwl_lab.tasks.images import ImageTask
from pwl_lab.widgets.frames import (
    PICTURE,
    Choice,
    Frame,
    FramePage,
    FramePicker,
    FrameTable,
    Key,
    Painter,
    png,
    show,
    status_line,
    told,
)

FOLDER = Path(__file__).parent
TEMPERATURES = (1, 1.5, 2, 3, 4, 6, 8, 12, 16, 32)
KIND = {"drawn": "drawn at random", "picked": "picked because they change"}  # names in the menu
NO_KERNEL = "With a live kernel, you can draw or upload your own picture here."


def temperature_slider(
    example: SoftTargets, temperatures: Sequence[float] = TEMPERATURES, interactive: bool = True
) -> FramePicker | FramePage:
    """A slider over the temperature of a teacher's output for one image.

    Arguments:
    - `example`: the image and the teacher's logits.
    - `temperatures`: the choices, all above 0.
    - `interactive`: a live widget; otherwise a control for a page without a kernel.
    """
    figure = plots.TemperatureFigure(example)
    painter = Painter(figure.at(temperatures[0]), figure.moving)
    frames: dict[Key, Frame] = {}
    for temperature in temperatures:
        figure.at(temperature)
        values = example.at(temperature)
        top = values.argsort(descending=True)[:3].tolist()
        said = ", ".join(f"{example.class_names[i]} {float(values[i]):.1%}" for i in top)
        words = (
            f"τ = {temperature:g}: the teacher says {said}. The label says {example.class_names[example.label]} 100%."
        )
        frames[(f"{temperature:g}",)] = Frame(painter.png(figure.moving), words)
    choice = Choice("Temperature", "τ: the logits are divided by it", [f"{one:g}" for one in temperatures])
    return show(FrameTable((choice,), frames), interactive)


def picture_chooser(
    pair: Pair, samples: Sequence[SamplePredictions] | Sequence[StringPredictions], interactive: bool = True
) -> FramePicker | FramePage:
    """Choose a test picture and see the probability of each class at each mask of prefix order.

    A task without pictures has strings, or rows of numbers: below one stands what each mask predicts.

    Arguments:
    - `pair`: the pair whose masks predict.
    - `samples`: the groups to choose from, of equal size and different kinds: all of pictures, or all of strings.
    - `interactive`: a live widget; otherwise a control for a page without a kernel.

    Raises InvalidValueError unless there are such groups.
    """
    sizes = {KIND[group.kind]: _size(group) for group in samples}
    pictures = [group for group in samples if isinstance(group, SamplePredictions)]
    mixed = len(pictures) not in (0, len(samples))
    if not samples or mixed or len(set(sizes.values())) > 1 or len(sizes) < len(samples):
        raise invalid(
            "samples", sizes, "groups of equal size, each of a different kind, all of pictures or all of strings"
        )
    if pictures:
        what, frames = "Picture", _picture_frames(pair, pictures)
    else:
        what, frames = "Sample", _string_frames(pair, [one for one in samples if isinstance(one, StringPredictions)])
    choices = (
        Choice(f"{what}s", f"how these test {what.lower()}s were chosen", list(sizes), menu=True),
        Choice(what, "which of them", range(1, sizes[KIND[samples[0].kind]] + 1)),
    )
    return show(FrameTable(choices, frames), interactive)


def _size(group: Predictions) -> int:
    """How many pictures or strings there are to choose from."""
    return len(group.strings if isinstance(group, StringPredictions) else group.labels)


def _picture_frames(pair: Pair, samples: Sequence[SamplePredictions]) -> dict[Key, Frame]:
    """A frame for each picture of each group."""
    figure = plots.PictureFigure(pair, samples[0].images.shape[1:], samples[0].class_names)
    painter = Painter(figure.figure, figure.moving)
    frames: dict[Key, Frame] = {}
    for group in samples:
        chosen = how_chosen(group, pair)
        for i, image in enumerate(group.images):
            values, label = {mask: group.probabilities[mask][i] for mask in figure.masks}, int(group.labels[i])
            figure.at(image, values, label)
            words = f"Label: {group.class_names[label]}. {guesses(values, figure.masks, group.class_names)}.\n{chosen}."
            frames[KIND[group.kind], i + 1] = Frame(painter.png(figure.moving), words)
    return frames


def _string_frames(pair: Pair, samples: Sequence[StringPredictions]) -> dict[Key, Frame]:
    """A frame for each string of each group."""
    frames: dict[Key, Frame] = {}
    for group in samples:
        chosen = how_chosen(group, pair)
        for i, string in enumerate(group.strings):
            words = f"{' '.join(token.symbol for token in string)}\n{string_guesses(group, string)}.\n{chosen}."
            frames[KIND[group.kind], i + 1] = Frame(
                png(plots.strings_by_mask(replace(group, strings=(string,)))), words
            )
    return frames


def own_picture(pair: Pair, task: Task, interactive: bool = True) -> "OwnPicture | Markdown":
    """Draw or upload a picture and see what each mask of prefix order predicts.

    Arguments:
    - `pair`: the pair whose masks predict.
    - `task`: defines how images are prepared.
    - `interactive`: the live widget; a page without a kernel only says that one is needed.

    Raises InvalidValueError for any task but an `ImageTask`: no other says how a picture becomes an input.
    """
    if not isinstance(task, ImageTask):
        raise invalid("task", located(type(task)), "an ImageTask; no other says how a picture becomes an input")
    return OwnPicture(pair, task) if interactive else Markdown(NO_KERNEL)  # type: ignore[no-untyped-call]  # IPython is not annotated


def how_to(task: ImageTask) -> str:
    """Instructions, and how a picture is prepared."""
    channels, height, _ = task.input_shape
    becomes = "It is cropped to its central square"
    if channels == 1:
        becomes = "A plain border is cut off, a bright background is inverted (the network expects a black one)"
    return (
        f"Draw with mouse, finger or keyboard, or upload a picture. {becomes}, and the rest is scaled to {height} px. "
        f"The network knows {len(task.class_names)} classes and always predicts one of them: "
        f"{', '.join(task.class_names)}."
    )


class DrawingCanvas(anywidget.AnyWidget):
    """A black canvas with a white pen, and a file input: `picture` is the PNG after each stroke or file selection.

    It is empty after the canvas is cleared, and if the file is not a picture, which the widget reports itself.
    """

    _esm = FOLDER / "canvas.js"
    _css = FOLDER / "canvas.css"
    picture = CByteMemoryView(help="PNG; empty if there is none").tag(sync=True)


class OwnPicture(controls.VBox):  # type: ignore[misc]  # ipywidgets has no types
    """A canvas and a file input; below them the picture as the networks see it, and their predictions.

    No table can hold predictions for a new picture, so this widget computes: one forward pass of one image per mask.
    """

    def __init__(self, pair: Pair, task: ImageTask) -> None:
        """`pair` predicts; `task` defines how images are prepared."""
        self._pair, self._task = pair, task
        height, width = task.input_shape[1:]
        colours = () if task.input_shape[0] == 1 else (3,)
        self._figure = plots.PictureFigure(pair, (height, width, *colours), task.class_names)
        self._painter = Painter(self._figure.figure, self._figure.moving)
        self.canvas = DrawingCanvas()
        self.words = controls.HTML(status_line(how_to(task)))
        self.picture = controls.Image(format="png", layout=PICTURE | {"display": "none"})
        self.canvas.observe(told(self, self._changed), names="picture")
        super().__init__([self.canvas, self.words, self.picture])

    def _changed(self) -> None:
        """Predict the picture, or show the instructions if there is none."""
        if len(self.canvas.picture):
            self._predict(bytes(self.canvas.picture))
        else:
            self._say(how_to(self._task))

    def _predict(self, data: bytes) -> None:
        """Show what the networks see and predict, or why they cannot."""
        try:
            image = picture_from(data, self._task)
        except InvalidValueError as error:
            self._say(str(error))
            return
        masks = self._figure.masks
        inputs = self._task.normalise(image).to(next(self._pair.net.parameters()).device)
        probabilities = self._pair.probabilities(inputs, masks)[:, 0].cpu()
        by_mask = dict(zip(masks, probabilities, strict=True))
        shown = image[0, 0] if image.shape[1] == 1 else image[0].permute(1, 2, 0)
        self._figure.at(shown, by_mask)
        self.picture.value = self._painter.png(self._figure.moving)
        self.picture.layout.display = None
        self.words.value = status_line(f"Your picture: {guesses(by_mask, masks, self._task.class_names)}.")

    def _say(self, words: str) -> None:
        """Text instead of a prediction."""
        self.words.value = status_line(words)
        self.picture.layout.display = "none"
