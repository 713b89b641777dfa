"""The layer loader: order, slider, single switches, play; every state from a table that was made before."""

import asyncio
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

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
from pwl_lab.widgets.frame_page import FramePage
from pwl_lab.widgets.frames import Choice, Frame, FrameTable, Painter, bandwidth_choice, link_name
from pwl_lab.widgets.picker import PICTURE, ROW, control_for, player, status_line, told

Label = tuple[str, str]  # family and curriculum of a pair


@dataclass(frozen=True)
class LoadingStates:
    """All that the loader can show of a pair: a picture per mask, and words per mask and link."""

    orders: Mapping[str, list[str]]
    pictures: Mapping[str, bytes]
    words: Mapping[tuple[str, str], str]
    bandwidth: Choice

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
            self.bandwidth,
        )  # fmt: skip

    def frames(self) -> dict[tuple[int | str, ...], Frame]:
        """A frame for each order, number of blocks and bandwidth."""
        return {
            (order, loaded, link): Frame(self.pictures[mask], self.words[mask, link])
            for order, masks in self.orders.items()
            for loaded, mask in enumerate(masks)
            for link in self.bandwidth.values
        }


def table_of(states: Mapping[Label, LoadingStates]) -> FrameTable:
    """A frame for each pair, order, number of blocks and bandwidth; a choice for family or curriculum where there are two."""
    choices = pair_choices(list(states))
    places = [place for place, choice in enumerate(choices) if choice]
    frames = {
        (*(label[place] for place in places), *key): frame
        for label, mine in states.items()
        for key, frame in mine.frames().items()
    }
    return FrameTable((*(choices[place] for place in places), *next(iter(states.values())).choices()), frames)


def pair_choices(labels: Sequence[Label]) -> tuple[Choice | None, Choice | None]:
    """A menu of the families and one of the curricula; None where there is only one."""
    families, curricula = (list(dict.fromkeys(names)) for names in zip(*labels, strict=True))
    return (
        Choice("Family", "the architecture of teacher and student", families, menu=True) if families[1:] else None,
        Choice("Curriculum", "what the student was trained by", curricula, menu=True) if curricula[1:] else None,
    )


def loading_states(
    pair: Pair,
    samples: SamplePredictions,
    orders: Mapping[str, list[str]],
    masks: Sequence[str],
    megabytes_per_s: Sequence[float],
    name: str = "",
) -> Generator[None, None, LoadingStates]:
    """Make every picture and every line of words (with the pair's `name` in it, where there are several pairs).

    In steps of a picture each: a generator that *returns* the states, so that others have their turn between two steps;
    `finished` makes them at once. Raises InvalidValueError where `masks` lack one of an order.
    """
    missing = [mask for way in orders.values() for mask in way if mask not in masks]
    if missing:
        raise invalid("masks", list(masks), f"all that the orders go through, also {missing[0]}")
    links = {link_name(speed): Throttle(speed) for speed in megabytes_per_s}
    arrived = tables.arrived_bytes(pair.masks, pair.student_bytes, pair.converter_bytes)
    of, accuracy = f" of {name}" if name else "", pair.masks.set_index("mask")["test"]
    pictures, words = {}, {}
    yield
    for mask, picture in _pictures(pair, samples, orders, masks):
        if picture is not None:
            pictures[mask] = picture
            for link, throttle in links.items():
                words[mask, link] = (
                    f"{mask}: {mask.count('T')} of {pair.n_blocks} teacher blocks loaded{of}, "
                    f"test accuracy {accuracy[mask]:.1%}. {byte_words(arrived[mask])} have arrived, "
                    f"after {second_words(throttle.seconds_for(arrived[mask]))} at {link}.\n"
                    f"Predictions: {spoken(samples, mask)}"
                )
        yield
    return LoadingStates(dict(orders), pictures, words, bandwidth_choice(megabytes_per_s))


def finished(steps: Generator[None, None, LoadingStates]) -> LoadingStates:
    """What the steps make, all of them taken now."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


def _pictures(
    pair: Pair, samples: SamplePredictions, orders: Mapping[str, list[str]], masks: Sequence[str]
) -> Iterator[tuple[str, bytes | None]]:
    """Each mask and its picture; before them, when the figure is laid out and when it is painted, None for a picture."""
    figure = plots.LayerFigure(pair, samples, orders)
    yield "", None
    figure.at(("TS" * pair.n_blocks)[: pair.n_blocks])  # has the colours of both owners
    painter = Painter(figure.figure, figure.moving)
    yield "", None
    for mask in masks:
        figure.at(mask)
        yield mask, painter.png(figure.moving)


def spoken(samples: SamplePredictions, mask: str) -> str:
    """What is predicted for each image, in a line."""
    verdicts = (
        verdict(samples, mask, index).replace(":\n", " ").replace("\n", " ") for index in range(len(samples.labels))
    )
    return "; ".join(verdicts)


MOST_SWITCHED_BLOCKS = 5  # 32 pictures; for more blocks only masks on the orders have one, and no block has a switch
STYLE = {"T": "warning", "S": "info"}  # of a switch: orange and blue, as the owners' colours in the pictures
LINKS = (0.01, 0.1, 1, 10)  # MB/s
ALONE: Label = ("", "")
PAUSE = 0.02  # seconds between two pictures drawn ahead: whatever the reader does has its turn there
Steps = Generator[None, None, LoadingStates]


def layer_loader(
    pair: Pair | Mapping[Label, Pair],
    samples: SamplePredictions | Mapping[Label, SamplePredictions],
    interactive: bool = True,
    orders: Mapping[str, list[str]] | None = None,
    megabytes_per_s: Sequence[float] = LINKS,
) -> "LayerLoader | FramePage":
    """A pair while its teacher's blocks arrive: blocks and owners, accuracy, bytes and seconds, predictions.

    Several pairs, of equally many blocks, go by (family, curriculum), and so do their samples: menus choose among those
    that are there. `orders` are the masks k = 0..n of each loading order (each pair's named ones and its best one unless
    given). In a live widget single blocks can be switched as well, and the pictures of all pairs but the first are drawn
    after it is shown (where an event loop runs; else when a pair is first chosen). With `interactive=False` it is a
    control for a page without a kernel, with all its pictures.
    Raises InvalidValueError where pairs and samples do not have the same labels, or pairs differ in their blocks.
    """
    pairs = pair if isinstance(pair, Mapping) else {ALONE: pair}
    seen = samples if isinstance(samples, Mapping) else {ALONE: samples}
    _check(pairs, seen)
    makers = {
        label: partial(_states, one, seen[label], interactive, orders, megabytes_per_s, _name(label))
        for label, one in pairs.items()
    }
    if interactive:
        return LayerLoader(makers)
    return FramePage(table_of({label: finished(make()) for label, make in makers.items()}))


def _name(label: Label) -> str:
    """A pair as words call it."""
    return ", ".join(filter(None, label))


def _check(pairs: Mapping[Label, Pair], samples: Mapping[Label, SamplePredictions]) -> None:
    """Refuse what cannot share the same controls."""
    if not pairs or set(pairs) != set(samples):
        raise invalid("samples", list(samples), f"those of each pair, {list(pairs) or 'and at least one pair'}")
    blocks = {label: pair.n_blocks for label, pair in pairs.items()}
    if len(set(blocks.values())) > 1:
        raise invalid("pairs", blocks, "pairs of equally many blocks")


def _states(
    pair: Pair,
    samples: SamplePredictions,
    interactive: bool,
    orders: Mapping[str, list[str]] | None,
    megabytes_per_s: Sequence[float],
    name: str,
) -> Steps:
    """The states of one pair: of every mask where blocks can be switched, else of those that the orders go through."""
    orders = orders or tables.named_orders(pair.masks)
    every = interactive and pair.n_blocks <= MOST_SWITCHED_BLOCKS
    masks = all_masks(pair.n_blocks) if every else list(dict.fromkeys(mask for way in orders.values() for mask in way))
    return loading_states(pair, samples, orders, masks, megabytes_per_s, name)


class LayerLoader(controls.VBox):
    """Order, number of blocks (with a play button), a switch for each block, bandwidth; below them the state chosen.

    Slider and order choose a mask on that order; a switch leaves it, and the next move of the slider comes back to it.
    Where there are several pairs, menus above choose one by family and curriculum.
    """

    def __init__(self, makers: Mapping[Label, Callable[[], Steps]]) -> None:
        """The states of the first pair are made now, those of the others by `drawing`, or when they are first chosen.

        `drawing` is a task of the event loop; None where no loop runs, or there is only one pair.
        """
        self._makers, self._made, self._begun, self._following = dict(makers), {}, {}, False
        self.label = next(iter(makers))
        self.states = self._states_of(self.label)
        self.mask = "S" * self.states.n_blocks
        self.family, self.curriculum = (choice and control_for(choice) for choice in pair_choices(list(makers)))
        self.order, self.blocks, self.link = (control_for(choice) for choice in self.states.choices())
        self.play = player(self.blocks)
        self.switches = [switch(number) for number in range(1, len(self.mask) + 1)] if self.states.every_mask else []
        self.words = controls.HTML()
        self.picture = controls.Image(format="png", layout=PICTURE)
        self._offer_curricula()
        self._listen()
        self._turn(self.mask)
        rows = (
            [menu for menu in (self.family, self.curriculum) if menu],
            [self.order, controls.HBox([self.blocks, self.play], layout={"flex": "0 1 600px"})],
            [*self.switches, self.link],
        )
        boxes = [controls.HBox(row, layout=ROW) for row in rows if row]
        super().__init__([*boxes, self.words, self.picture])
        self.drawing = self._draw_ahead()

    def _listen(self) -> None:
        """Each control calls what it changes."""
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

    def _states_of(self, label: Label) -> LoadingStates:
        """The states of a pair, made where they are not yet."""
        while label not in self._made:
            self._step(label)
        return self._made[label]

    def _step(self, label: Label) -> None:
        """One step more towards the states of a pair, whoever took those before."""
        if label not in self._begun:
            self._begun[label] = self._makers[label]()
        try:
            next(self._begun[label])
        except StopIteration as end:
            self._made[label] = end.value
            del self._begun[label]
        except Exception:
            del self._begun[label]  # to fail again, in the reader's sight, when the pair is chosen
            raise

    def _draw_ahead(self) -> asyncio.Task | None:
        """Have the event loop draw what the reader may choose next, a picture at a time."""
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:  # a plain script has none
            return None
        return loop.create_task(self._draw_the_others()) if len(self._makers) > 1 else None

    async def _draw_the_others(self) -> None:
        """A picture, then a pause, until the pictures of all pairs are there; a pair that fails is told and left out."""
        for label in self._makers:
            step = told(self, partial(self._step, label))
            while label not in self._made:
                await asyncio.sleep(PAUSE)
                try:
                    if label not in self._made:  # the reader may have chosen it in the pause
                        step(None)
                except Exception as error:  # noqa: BLE001  (the words show it already; it goes where the loop's errors go)
                    context = {"message": f"drawing {_name(label)} failed", "exception": error}
                    asyncio.get_running_loop().call_exception_handler(context)
                    break

    def _offer_curricula(self) -> None:
        """The menu has the curricula that there are of this family; the one chosen stays where it is among them."""
        if self.curriculum:
            offered = [curriculum for family, curriculum in self._makers if family == self.label[0]]
            self.curriculum.options = offered
            self.curriculum.value = self.label[1] if self.label[1] in offered else offered[0]

    def _chosen(self) -> None:
        """The menus name another pair."""
        if self._following:
            return
        family, curriculum = (
            menu.value if menu else now for menu, now in zip((self.family, self.curriculum), self.label, strict=True)
        )
        with self._follow():
            self.label = (family, curriculum)
            self._offer_curricula()
            self.label = (family, self.curriculum.value if self.curriculum else curriculum)
        if self.label not in self._made:
            self.words.value = status_line(f"Drawing {_name(self.label)} ...")
        self.states = self._states_of(self.label)
        self._moved()

    def _moved(self) -> None:
        """Order, slider or pair are other ones."""
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
