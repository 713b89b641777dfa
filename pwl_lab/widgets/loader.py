"""Loading a teacher block by block, by hand."""

from pwl_lab import analysis, plots
from pwl_lab.samples import SamplePredictions
from pwl_lab.study import Pair
from pwl_lab.widgets.frames import Choice, Frame, FrameTable, png
from pwl_lab.widgets.page import FramePage
from pwl_lab.widgets.picker import FramePicker, show


def layer_loader(pair: Pair, samples: SamplePredictions, interactive: bool = True) -> FramePicker | FramePage:
    """How many teacher blocks are loaded, from the first on: blocks, accuracy curve and sample predictions for each.

    A live widget, or with `interactive=False` a control for a page without a kernel.
    """
    frames = {}
    for loaded, mask in enumerate(analysis.loading_orders(pair.n_blocks)["prefix"]):
        words = f"{mask}: {loaded} of {pair.n_blocks} teacher blocks loaded, test accuracy {pair.accuracy(mask):.1%}"
        frames[(loaded,)] = Frame(png(plots.layer_loading(pair, mask, samples)), words)
    tooltip = "how many of the teacher's blocks have replaced the student's"
    blocks = Choice("Teacher blocks loaded", tooltip, range(pair.n_blocks + 1))
    return show(FrameTable((blocks,), frames), interactive)
