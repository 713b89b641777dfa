"""What a pair shows while its teacher's blocks arrive, state by state: all of it made before it can be chosen."""

from collections.abc import Generator, Iterator, Mapping, Sequence
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
from pwl_lab.widgets.frames import Choice, Frame, FrameTable, Painter, bandwidth_choice, link_name

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
    arrived = analysis.arrived_bytes(pair.masks, pair.student_bytes, pair.converter_bytes)
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
                    f"after {second_words(seconds_for(arrived[mask], throttle))} at {link}.\n"
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
