"""What a link and a loading order would bring."""

from collections.abc import Sequence

from pwl_lab import plots
from pwl_lab.clock.timeline import anytime_area
from pwl_lab.loading.bundle import BundleIndex
from pwl_lab.plots.clock import horizon, plans_for, second_words
from pwl_lab.widgets.frames import Choice, Frame, FrameTable, bandwidth_choice, link_name, png
from pwl_lab.widgets.page import FramePage
from pwl_lab.widgets.picker import FramePicker, show


def loading_timeline(
    index: BundleIndex,
    megabytes_per_s: Sequence[float] = (0.1, 0.5, 1, 5, 25),
    orders: Sequence[str] = ("prefix", "suffix", "contiguous", "best"),
    interactive: bool = True,
) -> FramePicker | FramePage:
    """Accuracy against seconds on a link of so many MB/s, by the bundle's bytes and recorded accuracies, for each order.

    A live widget, or with `interactive=False` a control for a page without a kernel.
    """
    frames = {}
    for speed in megabytes_per_s:
        plans = plans_for(index, speed, orders)
        for order, plan in plans.items():
            first, last = (second_words(plan["seconds"].iloc[place]) for place in (0, -1))
            words = (
                f"{order} order at {link_name(speed)}: first prediction after {first}, the whole teacher after {last}, "
                f"mean accuracy over the time shown {anytime_area(plan, horizon(plans)):.1%}"
            )
            frames[link_name(speed), order] = Frame(png(plots.planned_chart(index, speed, order, orders)), words)
    choices = (
        bandwidth_choice(megabytes_per_s),
        Choice("Loading order", "which teacher block comes when", orders, menu=True),
    )
    return show(FrameTable(choices, frames), interactive)
