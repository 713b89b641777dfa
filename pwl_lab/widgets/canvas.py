"""A canvas to draw on with mouse, finger or keyboard, and a file input; the picture is sent to Python as PNG."""

from pathlib import Path

import anywidget
from ipywidgets.widgets.trait_types import CByteMemoryView

FOLDER = Path(__file__).parent


class DrawingCanvas(anywidget.AnyWidget):
    """A black canvas with a white pen, and a file input: `picture` is the PNG after each stroke or file selection.

    It is empty after the canvas is cleared, and if the file is not a picture, which the widget reports itself.
    """

    _esm = FOLDER / "canvas.js"
    _css = FOLDER / "canvas.css"
    picture = CByteMemoryView(help="PNG; empty if there is none").tag(sync=True)
