"""Controls over figures that were made before: a control never computes, it picks from a table.

Each has a plain twin in `plots`, shown above it, and comes in two forms with the same choices, pictures and words: a
live widget, and (`interactive=False`) HTML for a page without a kernel.
"""

from pwl_lab.widgets.checkpoints import checkpoint_slider
from pwl_lab.widgets.explorer import curriculum_explorer
from pwl_lab.widgets.frames import Choice, Frame, FrameTable
from pwl_lab.widgets.loader import LayerLoader, layer_loader
from pwl_lab.widgets.page import FramePage
from pwl_lab.widgets.picker import FramePicker
from pwl_lab.widgets.timeline import loading_timeline

__all__ = [
    "Choice",
    "Frame",
    "FramePage",
    "FramePicker",
    "FrameTable",
    "LayerLoader",
    "checkpoint_slider",
    "curriculum_explorer",
    "layer_loader",
    "loading_timeline",
]
