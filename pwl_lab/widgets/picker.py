"""The live control over a table of frames: ipywidgets that only ever look up.

Nothing writes into an Output widget: that is what makes batch execution hang and hides exceptions. The picture is the
value of an Image widget instead.
"""

import html
from collections.abc import Callable
from functools import wraps
from typing import Any

import ipywidgets as controls

from pwl_lab.support.errors import invalid
from pwl_lab.widgets.frame_page import PICTURE_HEIGHT, PLAY_MS, FramePage
from pwl_lab.widgets.frames import Choice, FrameTable

WIDTH = "min(460px, 100%)"
ROW = {"flex_flow": "row wrap", "grid_gap": "0 1rem"}  # of controls beside each other
# At its own size, not as wide as the page, so that it stays sharp, and no higher than the window.
PICTURE = {"max_width": "100%", "max_height": PICTURE_HEIGHT, "align_self": "flex-start"}
SHORT = 12  # values of a slider that follows the hand


def show(table: FrameTable, interactive: bool) -> "FramePicker | FramePage":
    """The table as a live widget, or as a control that needs no kernel: the same choices, pictures and words."""
    return FramePicker(table) if interactive else FramePage(table)


class FramePicker(controls.VBox):
    """A control for each choice of a table above the frame of the values chosen. A change only swaps a picture."""

    def __init__(self, table: FrameTable) -> None:
        """All frames are there already: nothing is computed later. Raises InvalidValueError where some are not."""
        if not table.complete:
            raise invalid("table", f"{len(table.frames)} frames", f"one for each of {len(table.keys())} combinations")
        self.table = table
        self.controls = [control_for(choice) for choice in table.choices]
        self.words = controls.HTML()
        self.picture = controls.Image(format="png", layout=PICTURE)
        for control in self.controls:
            control.observe(told(self, self._show), names="value")
        self._show()
        row = [
            part
            for choice, control in zip(table.choices, self.controls, strict=True)
            for part in ([control, player(control)] if choice.play else [control])
        ]
        super().__init__([controls.HBox(row, layout=ROW), self.words, self.picture])

    def _show(self) -> None:
        """Put the frame of the values chosen on display."""
        frame = self.table.frames[tuple(control.value for control in self.controls)]
        self.picture.value = frame.picture
        self.words.value = status_line(frame.words)


def status_line(words: str) -> str:
    """Words as HTML, marked as what tells the state.

    The widget puts a new element in place of the old one at every change, and not every screen reader says what a new
    element holds. The dashboard's own page marks the place that stays; in JupyterLab that cannot be done from here.
    """
    return f"<div role='status' style='white-space: pre-line; line-height: 1.5'>{html.escape(words)}</div>"


def told(widget: Any, callback: Callable[[], None]) -> Callable[[object], None]:
    """`callback` as an observer whose exceptions the reader sees in `widget.words`; else they reach the log alone."""

    @wraps(callback)
    def observer(_: object) -> None:
        try:
            callback()
        except Exception as error:
            widget.words.value = f"<div role='alert'>{html.escape(repr(error))}</div>"
            raise

    return observer


def control_for(choice: Choice) -> controls.DOMWidget:
    """A slider over whole numbers without a gap, a slider over named values, or a menu.

    A short slider follows the hand. A long one waits until the hand lets go: on the way every value would send a
    picture, which a kernel far away answers too late. An arrow key always answers at once.
    """
    values, style = list(choice.values), {"description_width": "initial"}  # else long labels are cut
    whole = all(isinstance(value, int) and value == values[0] + place for place, value in enumerate(values))
    common = {"value": choice.first, "description": choice.label, "tooltip": choice.tooltip, "style": style}
    if choice.menu:
        return controls.Dropdown(options=values, layout={"width": "max-content"}, **common)
    common |= {"continuous_update": len(values) <= SHORT, "layout": {"width": WIDTH}}
    if whole:
        return controls.IntSlider(min=values[0], max=values[-1], **common)
    return controls.SelectionSlider(options=values, **common)


def player(slider: controls.IntSlider) -> controls.Play:
    """A play button that moves `slider` on its own; the two are linked in the browser."""
    play = controls.Play(
        min=slider.min,
        max=slider.max,
        value=slider.value,
        interval=PLAY_MS,
        show_repeat=False,
        tooltip="one after another",
    )
    controls.jslink((play, "value"), (slider, "value"))
    return play
