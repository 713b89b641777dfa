"""A parity teacher's checkpoints, one after another."""

from pwl_lab import plots
from pwl_lab.distill.probes import TeacherReadings
from pwl_lab.errors import invalid
from pwl_lab.widgets.frames import Choice, Frame, FrameTable, png
from pwl_lab.widgets.page import FramePage
from pwl_lab.widgets.picker import FramePicker, show


def checkpoint_slider(
    readings: TeacherReadings, at_most: int = 40, interactive: bool = True
) -> FramePicker | FramePage:
    """The teacher's checkpoints (evenly chosen where there are more than `at_most`), each with its map of bit pairs.

    A live widget, or with `interactive=False` a control for a page without a kernel. Raises InvalidValueError where
    `at_most` is less than 2: the first and the last one are always there.
    """
    if at_most < 2:
        raise invalid("at_most", at_most, "2 or more: the first checkpoint and the last one are always shown")
    steps, accuracies = readings.steps, readings.accuracies
    chosen = sorted({round(i * (len(steps) - 1) / (at_most - 1)) for i in range(at_most)})
    figure, frames = plots.CheckpointFigure(readings), {}
    for number, step in enumerate((steps[place] for place in chosen), start=1):
        row, column = divmod(int(readings.maps[step].abs().argmax()), len(readings.maps[step]))
        strongest = f"bit {row}" if row == column else f"bits {row} and {column}"
        words = f"step {step:,}: validation accuracy {accuracies[step]:.1%}, strongest correlation with {strongest}"
        frames[(number,)] = Frame(png(figure.at(step)), words)
    tooltip = "which of the teacher's checkpoints is shown; the last is the final teacher"
    return show(FrameTable((Choice("Checkpoint", tooltip, range(1, len(chosen) + 1)),), frames), interactive)
