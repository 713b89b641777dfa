"""What a pair shows while its teacher's blocks arrive, state by state: all of it made before a control appears."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pwl_lab import analysis, plots
from pwl_lab.errors import invalid
from pwl_lab.loading.schedule import seconds_for
from pwl_lab.loading.throttle import Throttle
from pwl_lab.plots.clock import second_words
from pwl_lab.plots.states import verdict
from pwl_lab.plots.style import byte_words
from pwl_lab.samples import SamplePredictions
from pwl_lab.study import Pair
from pwl_lab.widgets.frames import DPI, Choice, Frame, FrameTable, Painter

Label = tuple[str, str]  # family and curriculum of a pair


@dataclass(frozen=True)
class LoadingStates:
    """All that the loader can show of a pair: a picture per mask, and words per mask and link."""

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

    def frames(self) -> dict[tuple[int | str, ...], Frame]:
        """A frame for each order, number of blocks and bandwidth."""
        return {
            (order, loaded, link): Frame(self.pictures[mask], self.words[mask, link])
            for order, masks in self.orders.items()
            for loaded, mask in enumerate(masks)
            for link in self.links
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
    dpi: int = DPI,
) -> LoadingStates:
    """Make every picture and every line of words (with the pair's `name` in it, where there are several pairs).

    Raises InvalidValueError where `masks` lack one of an order.
    """
    missing = [mask for way in orders.values() for mask in way if mask not in masks]
    if missing:
        raise invalid("masks", list(masks), f"all that the orders go through, also {missing[0]}")
    links = {f"{speed:g} MB/s": Throttle(speed) for speed in megabytes_per_s}
    arrived = analysis.arrived_bytes(pair.masks, pair.student_bytes, pair.converter_bytes)
    of = f" of {name}" if name else ""
    words = {
        (mask, link): f"{mask}: {mask.count('T')} of {pair.n_blocks} teacher blocks loaded{of}, "
        f"test accuracy {pair.accuracy(mask):.1%}. {byte_words(arrived[mask])} have arrived, "
        f"after {second_words(seconds_for(arrived[mask], throttle))} at {link}.\nPredictions: {spoken(samples, mask)}"
        for mask in masks
        for link, throttle in links.items()
    }
    return LoadingStates(dict(orders), _pictures(pair, samples, orders, masks, dpi), words, tuple(links))


def _pictures(
    pair: Pair, samples: SamplePredictions, orders: Mapping[str, list[str]], masks: Sequence[str], dpi: int
) -> dict[str, bytes]:
    """A picture for each mask."""
    figure = plots.LayerFigure(pair, samples, orders)
    figure.at(("TS" * pair.n_blocks)[: pair.n_blocks])  # has the colours of both owners
    painter = Painter(figure.figure, figure.moving, dpi)
    pictures = {}
    for mask in masks:
        figure.at(mask)
        pictures[mask] = painter.png(figure.moving)
    return pictures


def spoken(samples: SamplePredictions, mask: str) -> str:
    """What is predicted for each image, in a line."""
    verdicts = (
        verdict(samples, mask, index).replace(":\n", " ").replace("\n", " ") for index in range(len(samples.labels))
    )
    return "; ".join(verdicts)
