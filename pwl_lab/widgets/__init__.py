"""Controls over figures that were made before: a control picks from a table of frames and does not compute.

Two take longer: where a layer loader has several pairs, the first choice of another one makes its table; and the
curriculum builder trains, once its *Train* button is pressed.

What a control shows is a figure of `plots`. It comes in two forms with the same choices, pictures and words: a live widget,
and (`interactive=False`) HTML for a page without a kernel.
"""

from pwl_lab.widgets.chooser import OwnPicture, own_picture, picture_chooser, temperature_slider
from pwl_lab.widgets.curriculum_builder import CurriculumBuilder, curriculum_builder
from pwl_lab.widgets.frames import Choice, Frame, FramePage, FramePicker, FrameTable
from pwl_lab.widgets.loader import LayerLoader, layer_loader
from pwl_lab.widgets.sliders import checkpoint_slider, curriculum_explorer, loading_timeline

__all__ = [
    "Choice",
    "CurriculumBuilder",
    "Frame",
    "FramePage",
    "FramePicker",
    "FrameTable",
    "LayerLoader",
    "OwnPicture",
    "checkpoint_slider",
    "curriculum_builder",
    "curriculum_explorer",
    "layer_loader",
    "loading_timeline",
    "own_picture",
    "picture_chooser",
    "temperature_slider",
]
