"""Loading a teacher block by block, by hand: choose an order and move the slider, or switch single blocks."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import ipywidgets as controls

from pwl_lab import analysis, cube, plots
from pwl_lab.errors import invalid
from pwl_lab.loading.masks import all_masks
from pwl_lab.loading.schedule import seconds_for
from pwl_lab.loading.throttle import Throttle
from pwl_lab.plots.clock import second_words
from pwl_lab.plots.states import verdict
from pwl_lab.plots.style import OWNER_NAME, byte_words
from pwl_lab.samples import SamplePredictions
from pwl_lab.study import Pair
from pwl_lab.widgets.frames import Choice, Frame, FrameTable, png
from pwl_lab.widgets.page import FramePage
from pwl_lab.widgets.picker import control_for, player, status_line, told

MOST_SWITCHED_BLOCKS = 5  # 32 pictures; for more blocks only masks on the orders have one, and no block has a switch
STYLE = {"T": "warning", "S": "info"}  # of a switch: orange and blue, as the owners' colours in the pictures
LINKS = (0.01, 0.1, 1, 10)  # MB/s


@dataclass(frozen=True)
class LoadingStates:
    """All that the loader can show: a picture per mask, and words per mask and link."""

    orders: Mapping[str, list[str]]
    pictures: Mapping[str, bytes]
    words: Mapping[tuple[str, str], str]
    links: tuple[str, ...]

    @property
    def n_blocks(self) -> int:
        """How many blocks can be swapped."""
        return len(next(iter(self.pictures)))

    @property
    def every_mask(self) -> bool:
        """Whether each block can be switched on its own."""
        return len(self.pictures) == 2**self.n_blocks

    def choices(self) -> tuple[Choice, Choice, Choice]:
        """Order, number of blocks, bandwidth."""
        return (
            Choice("Loading order", "which teacher block comes when", list(self.orders), menu=True),
            Choice("Teacher blocks loaded", "how many of the teacher's blocks have replaced the student's",
                   range(self.n_blocks + 1), play=True),
            Choice("Bandwidth", "how fast the bytes come", self.links, start=self.links[len(self.links) // 2]),
        )  # fmt: skip

    def table(self) -> FrameTable:
        """A frame for each order, number of blocks and bandwidth."""
        frames = {
            (order, loaded, link): Frame(self.pictures[mask], self.words[mask, link])
            for order, masks in self.orders.items()
            for loaded, mask in enumerate(masks)
            for link in self.links
        }
        return FrameTable(self.choices(), frames)


def layer_loader(
    pair: Pair,
    samples: SamplePredictions,
    interactive: bool = True,
    orders: Mapping[str, list[str]] | None = None,
    megabytes_per_s: Sequence[float] = LINKS,
) -> "LayerLoader | FramePage":
    """A pair while its teacher's blocks arrive: blocks and owners, accuracy, bytes and seconds, predictions.

    `orders` are the masks k = 0..n of each loading order (the named ones and the best one unless given). In a live
    widget single blocks can be switched as well; with `interactive=False` it is a control for a page without a kernel.
    """
    orders = orders or cube.named_orders(pair.masks)
    every = interactive and pair.n_blocks <= MOST_SWITCHED_BLOCKS
    masks = all_masks(pair.n_blocks) if every else list(dict.fromkeys(mask for way in orders.values() for mask in way))
    states = loading_states(pair, samples, orders, masks, megabytes_per_s)
    return LayerLoader(states) if interactive else FramePage(states.table())


def loading_states(
    pair: Pair,
    samples: SamplePredictions,
    orders: Mapping[str, list[str]],
    masks: Sequence[str],
    megabytes_per_s: Sequence[float],
) -> LoadingStates:
    """Make every picture and every line of words. Raises InvalidValueError where `masks` lack one of an order."""
    missing = [mask for way in orders.values() for mask in way if mask not in masks]
    if missing:
        raise invalid("masks", list(masks), f"all that the orders go through, also {missing[0]}")
    figure = plots.LayerFigure(pair, samples, orders)
    links = {f"{speed:g} MB/s": Throttle(speed) for speed in megabytes_per_s}
    arrived = analysis.arrived_bytes(pair.masks, pair.student_bytes, pair.converter_bytes)
    words = {
        (mask, name): f"{mask}: {mask.count('T')} of {pair.n_blocks} teacher blocks loaded, "
        f"test accuracy {pair.accuracy(mask):.1%}. {byte_words(arrived[mask])} have arrived, "
        f"after {second_words(seconds_for(arrived[mask], link))} at {name}.\nPredictions: {spoken(samples, mask)}"
        for mask in masks
        for name, link in links.items()
    }
    return LoadingStates(dict(orders), {mask: png(figure.at(mask)) for mask in masks}, words, tuple(links))


def spoken(samples: SamplePredictions, mask: str) -> str:
    """What is predicted for each image, in a line."""
    verdicts = (
        verdict(samples, mask, index).replace(":\n", " ").replace("\n", " ") for index in range(len(samples.labels))
    )
    return "; ".join(verdicts)


class LayerLoader(controls.VBox):
    """Order, number of blocks (with a play button), a switch for each block, bandwidth; below them the state chosen.

    Slider and order choose a mask on that order; a switch leaves it, and the next move of the slider comes back to it.
    """

    def __init__(self, states: LoadingStates) -> None:
        """All pictures and words are there already: nothing is computed later."""
        self.states, self.mask, self._following = states, "S" * states.n_blocks, False
        self.order, self.blocks, self.link = (control_for(choice) for choice in states.choices())
        self.play = player(self.blocks)
        self.switches = [switch(number) for number in range(1, states.n_blocks + 1)] if states.every_mask else []
        self.words = controls.HTML()
        self.picture = controls.Image(format="png", layout={"max_width": "100%"})
        for control in (self.order, self.blocks):
            control.observe(told(self, self._moved), names="value")
        for one in self.switches:
            one.observe(told(self, self._switched), names="value")
        self.link.observe(told(self, self._show), names="value")
        self._turn(self.mask)
        rows = (
            (self.order, controls.HBox([self.blocks, self.play], layout={"flex": "0 1 600px"})),
            (*self.switches, self.link),
        )
        super().__init__(
            [*(controls.HBox(row, layout={"flex_flow": "row wrap"}) for row in rows), self.words, self.picture]
        )

    def _moved(self) -> None:
        """Order or slider have a new value."""
        if not self._following:
            self._turn(self.states.orders[self.order.value][self.blocks.value])

    def _switched(self) -> None:
        """A block has a new owner."""
        if not self._following:
            self._turn("".join("T" if one.value else "S" for one in self.switches))

    def _turn(self, mask: str) -> None:
        """Show `mask`; slider and switches follow."""
        with self._follow():
            self.mask = mask
            self.blocks.value = mask.count("T")
            for one, letter in zip(self.switches, mask, strict=False):
                one.value = letter == "T"
                one.description = one.description.split(":")[0] + f": {OWNER_NAME[letter]}"
                one.button_style = STYLE[letter]
            self._show()

    def _show(self) -> None:
        """Put picture and words of the mask on display."""
        self.picture.value = self.states.pictures[self.mask]
        self.words.value = status_line(self.states.words[self.mask, self.link.value])

    @contextmanager
    def _follow(self) -> Iterator[None]:
        """Controls that are set in here only follow: nobody moved them."""
        self._following = True
        try:
            yield
        finally:
            self._following = False


def switch(number: int) -> controls.ToggleButton:
    """The switch of a block between student and teacher."""
    return controls.ToggleButton(
        description=f"block {number}:",
        tooltip=f"who owns block {number}",
        layout={"width": "max-content", "min_width": "10em"},
        style={"text_color": "black"},
    )
