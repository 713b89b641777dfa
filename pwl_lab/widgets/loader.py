"""The layer loader: order, slider, single switches, play.

A slider or switch only picks a picture; choosing another pair draws its pictures once.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import ipywidgets as controls

from pwl_lab import plots
from pwl_lab.loading.throttle import Throttle
from pwl_lab.plots.clock import second_words
from pwl_lab.plots.pairs import verdict
from pwl_lab.plots.style import OWNER_NAME, byte_words
from pwl_lab.study import tables
from pwl_lab.study.recipes import SamplePredictions
from pwl_lab.study.results import Pair
from pwl_lab.support.errors import invalid
from pwl_lab.swap.masks import all_masks
from pwl_lab.widgets.frames import (
    PICTURE,
    ROW,
    Choice,
    Frame,
    FramePage,
    FrameTable,
    Key,
    Painter,
    bandwidth_choice,
    control_for,
    link_name,
    player,
    status_line,
    told,
)

Label = tuple[str, str]  # family and curriculum of a pair
ALONE: Label = ("", "")
MOST_SWITCHED_BLOCKS = 5  # 32 pictures; for more blocks only masks on the orders have one, and no block has a switch
STYLE = {"T": "warning", "S": "info"}  # of a switch: orange and blue, as the owners' colours in the pictures
LINKS = (0.01, 0.1, 1, 10)  # MB/s


@dataclass(frozen=True)
class LoadingStates:
    """All that the loader shows of a pair: a frame for each mask and link; the masks of each order; what to choose."""

    frames: Mapping[tuple[str, str], Frame]
    orders: Mapping[str, list[str]]
    choices: tuple[Choice, Choice, Choice]


def layer_loader(
    pair: Pair | Mapping[Label, Pair],
    samples: SamplePredictions | Mapping[Label, SamplePredictions],
    interactive: bool = True,
    orders: Mapping[str, list[str]] | None = None,
    megabytes_per_s: Sequence[float] = LINKS,
) -> "LayerLoader | FramePage":
    """Show a pair while its teacher's blocks arrive: blocks and owners, accuracy, bytes and seconds, predictions.

    Raises InvalidValueError where pairs and samples do not have the same labels, or pairs differ in their blocks.

    Arguments:
    - `pair`: a pair, or several of equally many blocks by (family, curriculum): menus choose among those that are there.
    - `samples`: what the pair predicts for a few images; for several pairs by the same labels.
    - `interactive`: a live widget, in which single blocks can be switched as well; the first choice of another pair draws
      that pair's pictures. Otherwise a control for a page without a kernel, with the pictures of all pairs.
    - `orders`: the masks k = 0..n of each loading order; unless given, each pair's named ones and its best one.
    - `megabytes_per_s`: the links to choose from.
    """
    pairs = pair if isinstance(pair, Mapping) else {ALONE: pair}
    seen = samples if isinstance(samples, Mapping) else {ALONE: samples}
    _check(pairs, seen)

    def states(label: Label) -> LoadingStates:
        """What is shown of one pair."""
        return loading_states(pairs[label], seen[label], orders, megabytes_per_s, interactive, _name(label))

    return LayerLoader(list(pairs), states) if interactive else FramePage(table_of({one: states(one) for one in pairs}))


def _check(pairs: Mapping[Label, Pair], samples: Mapping[Label, SamplePredictions]) -> None:
    """Raise InvalidValueError for pairs that cannot share the same controls."""
    if not pairs or set(pairs) != set(samples):
        raise invalid("samples", list(samples), f"those of each pair, {list(pairs) or 'and at least one pair'}")
    blocks = {label: pair.n_blocks for label, pair in pairs.items()}
    if len(set(blocks.values())) > 1:
        raise invalid("pairs", blocks, "pairs of equally many blocks")


def _name(label: Label) -> str:
    """A pair as words call it."""
    return ", ".join(filter(None, label))


def loading_states(
    pair: Pair,
    samples: SamplePredictions,
    orders: Mapping[str, list[str]] | None,
    megabytes_per_s: Sequence[float],
    switches: bool,
    name: str,
) -> LoadingStates:
    """Make the frames of all masks if blocks can be switched (`switches`), else of those that the orders go through.

    The words have the pair's `name` in them. Raises InvalidValueError where the pair lacks a mask of an order.
    """
    orders = orders or tables.orders_with_best(pair.masks)
    accuracy = pair.masks.set_index("mask")["test"]
    on_the_way = list(dict.fromkeys(mask for order in orders.values() for mask in order))
    for mask in on_the_way:
        if mask not in accuracy:
            raise invalid("orders", mask, f"masks of the pair, such as {accuracy.index[0]}")
    arrived = tables.arrived_bytes(pair.masks, pair.student_bytes, pair.converter_bytes)
    figure = plots.LayerFigure(pair, samples, orders)
    figure.at(("TS" * pair.n_blocks)[: pair.n_blocks])  # has the colours of both owners
    painter = Painter(figure.figure, figure.moving)
    frames = {}
    for mask in all_masks(pair.n_blocks) if switches and pair.n_blocks <= MOST_SWITCHED_BLOCKS else on_the_way:
        figure.at(mask)
        picture = painter.png(figure.moving)
        for speed in megabytes_per_s:
            frames[mask, link_name(speed)] = Frame(
                picture,
                f"{mask}: {mask.count('T')} of {pair.n_blocks} teacher blocks loaded{f' of {name}' if name else ''}, "
                f"test accuracy {accuracy[mask]:.1%}. {byte_words(arrived[mask])} have arrived, "
                f"after {second_words(Throttle(speed).seconds_for(arrived[mask]))} at {link_name(speed)}.\n"
                f"Predictions: {_spoken(samples, mask)}",
            )
    loaded = "how many of the teacher's blocks have replaced the student's"
    choices = (
        Choice("Loading order", "which teacher block comes when", list(orders), menu=True),
        Choice("Teacher blocks loaded", loaded, range(pair.n_blocks + 1), play=True),
        bandwidth_choice(megabytes_per_s),
    )
    return LoadingStates(frames, orders, choices)


def _spoken(samples: SamplePredictions, mask: str) -> str:
    """What is predicted for each image, in a line."""
    verdicts = (verdict(samples, mask, index) for index in range(len(samples.labels)))
    return "; ".join(words.replace(":\n", " ").replace("\n", " ") for words in verdicts)


def pair_choices(labels: Sequence[Label]) -> tuple[Choice | None, Choice | None]:
    """A menu of the families and one of the curricula; None where there is only one."""
    families, curricula = (list(dict.fromkeys(names)) for names in zip(*labels, strict=True))
    return (
        Choice("Family", "the architecture of teacher and student", families, menu=True) if families[1:] else None,
        Choice("Curriculum", "what the student was trained by", curricula, menu=True) if curricula[1:] else None,
    )


def table_of(states: Mapping[Label, LoadingStates]) -> FrameTable:
    """A frame for each pair, order, number of blocks and bandwidth; menus of families and curricula where there are two."""
    menus = {i: choice for i, choice in enumerate(pair_choices(list(states))) if choice}
    frames: dict[Key, Frame] = {
        (*(label[i] for i in menus), order, loaded, str(link)): mine.frames[mask, str(link)]
        for label, mine in states.items()
        for order, masks in mine.orders.items()
        for loaded, mask in enumerate(masks)
        for link in mine.choices[-1].values
    }
    return FrameTable((*menus.values(), *next(iter(states.values())).choices), frames)


class LayerLoader(controls.VBox):  # type: ignore[misc]  # ipywidgets has no types
    """Order, number of blocks (with a play button), a switch for each block, bandwidth; below them the state chosen.

    Slider and order choose a mask on that order; a switch leaves it, and the next move of the slider comes back to it.
    Where there are several pairs, menus above choose one by family and curriculum.
    """

    def __init__(self, labels: Sequence[Label], make: Callable[[Label], LoadingStates]) -> None:
        """`make` gives the states of a pair: of the first one now, of another one when it is first chosen."""
        self._labels, self._make, self._following = labels, make, False
        self.label = labels[0]
        self.states = make(self.label)
        self._made = {self.label: self.states}
        self.order, self.blocks, self.link = (control_for(choice) for choice in self.states.choices)
        self.mask = "S" * self.blocks.max
        self.family, self.curriculum = (choice and control_for(choice) for choice in pair_choices(labels))
        self.play = player(self.blocks)
        every_mask = len({mask for mask, _ in self.states.frames}) == 2**self.blocks.max
        self.switches = [switch(number) for number in range(1, len(self.mask) + 1)] if every_mask else []
        self.words = controls.HTML()
        self.picture = controls.Image(format="png", layout=PICTURE)
        self._choose_label()
        self._listen()
        self._turn(self.mask)
        rows = (
            [menu for menu in (self.family, self.curriculum) if menu],
            [self.order, controls.HBox([self.blocks, self.play], layout={"flex": "0 1 600px"})],
            [*self.switches, self.link],
        )
        boxes = [controls.HBox(row, layout=ROW) for row in rows if row]
        super().__init__([*boxes, self.words, self.picture])

    def _listen(self) -> None:
        """Let each control call the method that shows what it changes."""
        for control, callback in (
            (self.family, self._chosen),
            (self.curriculum, self._chosen),
            (self.order, self._moved),
            (self.blocks, self._moved),
            (self.link, self._show),
            *((one, self._switched) for one in self.switches),
        ):
            if control:
                control.observe(told(self, callback), names="value")

    def _choose_label(self) -> None:
        """Follow the menus; the curricula are those of the family, and the one chosen stays where it is among them."""
        family = self.family.value if self.family else self.label[0]
        curriculum = self.curriculum.value if self.curriculum else self.label[1]
        offered = [name for other, name in self._labels if other == family]
        self.label = (family, curriculum if curriculum in offered else offered[0])
        if self.curriculum:
            self.curriculum.options = offered
            self.curriculum.value = self.label[1]

    def _chosen(self) -> None:
        """Show the pair that the menus name now; draw its pictures if this is its first time."""
        if self._following:
            return
        with self._follow():
            self._choose_label()
        if self.label not in self._made:
            self.words.value = status_line(f"Drawing {_name(self.label)} ...")
            self._made[self.label] = self._make(self.label)
        self.states = self._made[self.label]
        self._moved()

    def _moved(self) -> None:
        """Show the mask that order and slider say."""
        if not self._following:
            self._turn(self.states.orders[self.order.value][self.blocks.value])

    def _switched(self) -> None:
        """Show the mask that the switches name now."""
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
        frame = self.states.frames[self.mask, self.link.value]
        self.picture.value = frame.picture
        self.words.value = status_line(frame.words)

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
