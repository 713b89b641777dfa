"""Tables of frames: what a control shows for each choice, all of it made before the control appears."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from itertools import product

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from pwl_lab.errors import invalid

COLOURS = 256  # of a picture's palette


@dataclass(frozen=True)
class Frame:
    """One state of a control: its picture (PNG) and the same in words, for screen readers and for tests."""

    picture: bytes
    words: str


@dataclass(frozen=True)
class Choice:
    """One thing to choose: a slider over its values, or a menu of them.

    With `play` a button beside the slider goes through the values in turn.
    """

    label: str
    tooltip: str
    values: Sequence[int] | Sequence[str]
    start: int | str | None = None  # the value shown first; None: the first one
    menu: bool = False
    play: bool = False

    @property
    def first(self) -> int | str:
        """The value shown first."""
        return self.values[0] if self.start is None else self.start


@dataclass(frozen=True)
class FrameTable:
    """A frame for every combination of the choices: `frames[value of the first, value of the second, ...]`."""

    choices: tuple[Choice, ...]
    frames: Mapping[tuple[int | str, ...], Frame]

    def __post_init__(self) -> None:
        """Raise InvalidValueError where a choice has no value, or a combination no frame."""
        keys = self.keys()
        if not keys or set(keys) != set(self.frames):
            raise invalid("frames", sorted(self.frames), f"one frame for each choice, {keys or 'and at least one'}")
        object.__setattr__(self, "frames", dict(self.frames))

    def keys(self) -> list[tuple[int | str, ...]]:
        """Every combination, the last choice changing fastest."""
        return list(product(*(choice.values for choice in self.choices)))

    @property
    def first(self) -> Frame:
        """The frame shown first."""
        return self.frames[tuple(choice.first for choice in self.choices)]


def png(figure: Figure, dpi: int = 110) -> bytes:
    """The figure as PNG bytes with a palette: less than half of what all colours take."""
    figure.set_dpi(dpi)
    canvas, small = FigureCanvasAgg(figure), BytesIO()
    canvas.draw()
    picture = Image.frombuffer("RGBA", canvas.get_width_height(), canvas.buffer_rgba()).convert("RGB")
    picture.quantize(COLOURS, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(small, "png")
    return small.getvalue()
