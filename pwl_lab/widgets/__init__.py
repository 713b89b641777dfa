"""Controls for figures made in advance: a control picks from a table of frames and does not compute.

One takes longer: the curriculum builder trains, once its *Train* button is pressed.

A control shows a figure of `plots`; the layer loader draws its own, since its bars move. Each comes in two forms with the
same choices, pictures and words: a live widget, and (`interactive=False`) HTML for a page without a kernel.
"""

from pwl_lab.widgets.chooser import OwnPicture, own_picture, picture_chooser, temperature_slider
from pwl_lab.widgets.curriculum_builder import CurriculumBuilder, curriculum_builder
from pwl_lab.widgets.frames import Choice, Frame, FramePage, FramePicker, FrameTable
from pwl_lab.widgets.loader import LayerLoader, LayerPage, layer_loader
from pwl_lab.widgets.sliders import checkpoint_slider, curriculum_explorer, loading_timeline
from pwl_lab.widgets.web_page import LivePage, PageLink, loading_page

__all__ = [
    "Choice",
    "CurriculumBuilder",
    "Frame",
    "FramePage",
    "FramePicker",
    "FrameTable",
    "LayerLoader",
    "LayerPage",
    "LivePage",
    "OwnPicture",
    "PageLink",
    "checkpoint_slider",
    "curriculum_builder",
    "curriculum_explorer",
    "layer_loader",
    "loading_page",
    "loading_timeline",
    "own_picture",
    "picture_chooser",
    "temperature_slider",
]
