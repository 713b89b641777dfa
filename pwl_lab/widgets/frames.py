"""Tables of frames: what a control shows for each choice, all of it made before the control appears."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from itertools import product, takewhile

import numpy as np
from jaxtyping import Integer, UInt32
from matplotlib.artist import Artist
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from pwl_lab.plots.style import style
from pwl_lab.support.errors import invalid

COLOURS = 256  # of a picture's palette
DPI = 110
UNKNOWN = -1
_BYTES = (1, 2**8, 2**16)  # red, green and blue in a number


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


def link_name(megabytes_per_s: float) -> str:
    """A link as controls and words call it."""
    return f"{megabytes_per_s:g} MB/s"


def bandwidth_choice(megabytes_per_s: Sequence[float]) -> Choice:
    """A slider over links of so many MB/s, which starts in the middle."""
    links = [link_name(speed) for speed in megabytes_per_s]
    return Choice("Bandwidth", "how fast the bytes come", links, start=links[len(links) // 2])


@dataclass(frozen=True)
class FrameTable:
    """A frame for every combination of the choices: `frames[value of the first, value of the second, ...]`.

    What the menus at the front choose may be missing as a whole: it is not offered then.
    """

    choices: tuple[Choice, ...]
    frames: Mapping[tuple[int | str, ...], Frame]

    def __post_init__(self) -> None:
        """Raise InvalidValueError where a choice has no value, or a combination no frame."""
        menus = len(list(takewhile(lambda choice: choice.menu, self.choices)))
        keys, chosen = self.keys(), {key[:menus] for key in self.frames}
        wanted = {key for key in keys if key[:menus] in chosen}
        unused = [choice for i, choice in enumerate(self.choices) if set(choice.values) != {key[i] for key in wanted}]
        if not keys or unused or wanted != set(self.frames):
            raise invalid("frames", sorted(self.frames), f"one frame for each choice, {keys or 'and at least one'}")
        object.__setattr__(self, "frames", dict(self.frames))

    def keys(self) -> list[tuple[int | str, ...]]:
        """Every combination, also those that are not offered; the last choice changes fastest."""
        return list(product(*(choice.values for choice in self.choices)))

    @property
    def complete(self) -> bool:
        """Whether every combination has a frame."""
        return len(self.frames) == len(self.keys())

    @property
    def first(self) -> Frame:
        """The frame shown first."""
        return self.frames[self.start]

    @property
    def start(self) -> tuple[int | str, ...]:
        """The values chosen first: each choice's own, or the first combination where that one is not offered."""
        key = tuple(choice.first for choice in self.choices)
        return key if key in self.frames else next(key for key in self.keys() if key in self.frames)


class Painter:
    """Pictures (PNG) of a figure of which only some artists change: everything else is drawn once, and so is the palette.

    A tenth of the time of drawing the whole figure for each picture.
    """

    def __init__(self, figure: Figure, moving: Sequence[Artist], dpi: int = DPI) -> None:
        """`moving` is what will change, in the colours it will have; the layout has to be finished (no layout engine)."""
        figure.set_dpi(dpi)
        self._canvas = FigureCanvasAgg(figure)
        shown = [artist.get_visible() for artist in moving]
        for artist in moving:
            artist.set_visible(False)
        self._canvas.draw()
        for artist, visible in zip(moving, shown, strict=True):
            artist.set_visible(visible)
        self._still = self._canvas.copy_from_bbox(figure.bbox)
        self._colours = self._pixels()
        still = _picture(self._canvas).getcolors(self._colours.size)
        self._draw(moving)
        self._palette = _small(_picture(self._canvas)).getpalette()
        self._places = np.full(2**24, UNKNOWN, np.int16)  # in the palette, of a colour
        self._look_up(np.array([colour for _, colour in still], np.uint8) @ np.array(_BYTES))
        self._indices = self._places[self._colours].astype(np.uint8)

    def png(self, moving: Sequence[Artist]) -> bytes:
        """The figure as it is now, where nothing but `moving` has changed."""
        self._draw(moving)
        now, indices = self._pixels(), self._indices.copy()
        changed = now != self._colours
        colours = now[changed]
        self._look_up(np.unique(colours[self._places[colours] == UNKNOWN]))
        indices[changed] = self._places[colours]
        picture = Image.fromarray(indices)
        picture.putpalette(self._palette)
        return _bytes(picture)

    def _draw(self, moving: Sequence[Artist]) -> None:
        """Put `moving` over what stays."""
        self._canvas.restore_region(self._still)
        with style():  # the figure itself sees to that when it draws all
            for artist in moving:
                artist.draw(self._canvas.get_renderer())

    def _pixels(self) -> UInt32[np.ndarray, "height width"]:
        """What was drawn, a number for each colour."""
        return np.asarray(self._canvas.buffer_rgba()).view("<u4")[..., 0] & 0xFFFFFF

    def _look_up(self, colours: Integer[np.ndarray, " n"]) -> None:
        """Find the nearest colour of the palette; Pillow's own search is not exact, and makes white a little grey."""
        parts = colours[:, None] // np.array(_BYTES) % 256
        distances = ((parts[:, None] - np.array(self._palette).reshape(-1, 3)) ** 2).sum(axis=2)
        self._places[colours] = distances.argmin(axis=1)


def png(figure: Figure, dpi: int = DPI) -> bytes:
    """The figure as PNG bytes with a palette: less than half of what all colours take."""
    figure.set_dpi(dpi)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return _bytes(_small(_picture(canvas)))


def _picture(canvas: FigureCanvasAgg) -> Image.Image:
    """What was drawn, without transparency."""
    return Image.frombuffer("RGBA", canvas.get_width_height(), canvas.buffer_rgba()).convert("RGB")


def _small(picture: Image.Image) -> Image.Image:
    """The picture with a palette of its own."""
    return picture.quantize(COLOURS, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)


def _bytes(picture: Image.Image) -> bytes:
    """The picture as PNG."""
    written = BytesIO()
    picture.save(written, "png")
    return written.getvalue()
