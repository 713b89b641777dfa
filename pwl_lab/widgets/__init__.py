"""Controls over figures that were made before: a control picks from a table of frames and does not compute.

There is one exception: a live `LayerLoader` of several pairs shows the first one's pictures at once, draws those of the
others while nobody waits, and finishes those of a pair that is chosen before they are all there.

What a control shows is a figure of `plots`. It comes in two forms with the same choices, pictures and words: a live widget,
and (`interactive=False`) HTML for a page without a kernel.
"""

from pwl_lab.widgets.frame_page import FramePage
from pwl_lab.widgets.frames import Choice, Frame, FrameTable
from pwl_lab.widgets.loader import LayerLoader, layer_loader
from pwl_lab.widgets.picker import FramePicker
from pwl_lab.widgets.sliders import checkpoint_slider, curriculum_explorer, loading_timeline

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
