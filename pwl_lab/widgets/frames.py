"""Tables of frames, and two kinds of controls for them: a live widget, and a page that needs no kernel.

A frame is a picture and the same in words. All frames are made before a control shows one, so a control only ever picks.
Nothing writes to an Output widget, because that can hang batch execution and hides exceptions.
"""

import html
import json
from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from io import BytesIO
from itertools import product
from typing import Any

import ipywidgets as controls
from matplotlib.artist import Artist
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from pwl_lab.plots import style
from pwl_lab.support.errors import invalid
from pwl_lab.support.timing import phase

COLOURS = 256  # of a picture's palette
DPI = 110
SHORT = 12  # the most values of a slider that updates while it is dragged
WIDTH = "min(460px, 100%)"
ROW = {"flex_flow": "row wrap", "grid_gap": "0 1rem"}  # of controls beside each other
# Controls, text and picture fit into a projector's window; in a low window the picture stays large enough to read.
PICTURE_HEIGHT = "max(14rem, calc(100vh - 15rem))"
# At its own size rather than the page's width, so that it stays sharp, and no higher than the window.
PICTURE = {"max_width": "100%", "max_height": PICTURE_HEIGHT, "align_self": "flex-start"}
PICTURE_NAME = "the state described above"  # the text is read already, so the picture's name does not repeat it

Key = tuple[int | str, ...]  # one value for each choice


@dataclass(frozen=True)
class Frame:
    """One state of a control: its picture (PNG) and the same as text, for screen readers and tests."""

    picture: bytes
    words: str


@dataclass(frozen=True)
class Choice:
    """One choice, made with a slider or a menu.

    Arguments:
    - `label`: the label before the control.
    - `tooltip`: describes what is chosen.
    - `values`: all that can be chosen.
    - `start`: the value shown first; None for the first one.
    - `menu`: use a menu instead of a slider.
    """

    label: str
    tooltip: str
    values: Sequence[int] | Sequence[str]
    start: int | str | None = None
    menu: bool = False

    @property
    def first(self) -> int | str:
        """The value shown first."""
        return self.values[0] if self.start is None else self.start


@dataclass(frozen=True)
class FrameTable:
    """A frame for every combination of the choices: `frames[value of the first, value of the second, ...]`."""

    choices: tuple[Choice, ...]
    frames: Mapping[Key, Frame]

    def __post_init__(self) -> None:
        """Raise InvalidValueError if a choice has no value, or a combination no frame."""
        keys = self.keys()
        if not keys or set(keys) != set(self.frames):
            raise invalid("frames", sorted(self.frames), f"one frame for each choice, {keys or 'and at least one'}")
        object.__setattr__(self, "frames", dict(self.frames))

    def keys(self) -> list[Key]:
        """Every combination; the last choice changes fastest."""
        return list(product(*(choice.values for choice in self.choices)))

    @property
    def first(self) -> Frame:
        """The frame shown first."""
        return self.frames[self.start]

    @property
    def start(self) -> Key:
        """The values chosen first."""
        return tuple(choice.first for choice in self.choices)


class Painter:
    """Renders a figure in which only some artists change as PNG: everything else is drawn once.

    It takes a quarter of the time of drawing the whole figure each time.
    """

    @phase("drawing")
    def __init__(self, figure: Figure, moving: Sequence[Artist]) -> None:
        """`moving` are the artists that change, in all their colours; the layout must be final (no layout engine)."""
        self._canvas = _drawn(figure)
        self._palette = _small(_picture(self._canvas))
        self._white: Any = self._palette.getpixel((0, 0))  # a figure's corner: the index of white in the palette
        shown = [artist.get_visible() for artist in moving]
        for artist in moving:
            artist.set_visible(False)
        self._canvas.draw()
        for artist, visible in zip(moving, shown, strict=True):
            artist.set_visible(visible)
        self._still = self._canvas.copy_from_bbox(figure.bbox)

    @phase("drawing")
    def png(self, moving: Sequence[Artist]) -> bytes:
        """The figure as it is now; only `moving` may have changed."""
        self._canvas.restore_region(self._still)
        with style.context():  # the figure does this itself only when it draws everything
            for artist in moving:
                artist.draw(self._canvas.get_renderer())
        picture = _picture(self._canvas)
        small = picture.quantize(palette=self._palette, dither=Image.Dither.NONE)
        # Pillow's search for the nearest colour is inexact and turns white slightly grey.
        small.paste(self._white, mask=picture.convert("L").point([0] * 255 + [255]))
        return _bytes(small)


@phase("drawing")
def png(figure: Figure) -> bytes:
    """The figure as PNG bytes with a palette: less than half the size of full colour."""
    return _bytes(_small(_picture(_drawn(figure))))


def _drawn(figure: Figure) -> Any:
    """A canvas with the whole figure; Any, because matplotlib does not annotate it."""
    figure.set_dpi(DPI)
    canvas: Any = FigureCanvasAgg(figure)
    canvas.draw()
    return canvas


def _picture(canvas: Any) -> Image.Image:
    """What was drawn, without transparency."""
    return Image.frombuffer("RGBA", canvas.get_width_height(), canvas.buffer_rgba()).convert("RGB")


def _small(picture: Image.Image) -> Image.Image:
    """The picture with its own palette."""
    return picture.quantize(COLOURS, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)


def _bytes(picture: Image.Image) -> bytes:
    """The picture as PNG."""
    written = BytesIO()
    picture.save(written, "png")
    return written.getvalue()


def show(table: FrameTable, interactive: bool) -> "FramePicker | FramePage":
    """The table as a live widget, or as a control that needs no kernel: the same choices, pictures and text."""
    return FramePicker(table) if interactive else FramePage(table)


class FramePicker(controls.VBox):  # type: ignore[misc]  # ipywidgets has no types
    """A control for each choice of a table, above the frame for the chosen values. A change only swaps a picture."""

    def __init__(self, table: FrameTable) -> None:
        """The first frame is shown."""
        self.table = table
        self.controls = [control_for(choice) for choice in table.choices]
        self.words = controls.HTML()
        self.picture = controls.Image(format="png", layout=PICTURE)
        for control in self.controls:
            control.observe(told(self, self._show), names="value")
        self._show()
        super().__init__([controls.HBox(self.controls, layout=ROW), self.words, self.picture])

    def _show(self) -> None:
        """Show the frame for the chosen values."""
        frame = self.table.frames[tuple(control.value for control in self.controls)]
        self.picture.value = frame.picture
        self.words.value = status_line(frame.words)


def status_line(words: str) -> str:
    """Text as HTML, marked as the status for screen readers.

    The widget replaces the element at every change, and not every screen reader announces the content of a new element.
    The dashboard's own page marks the element that stays; in JupyterLab that is not possible from here.
    """
    return f"<div role='status' style='white-space: pre-line; line-height: 1.5'>{html.escape(words)}</div>"


def told(widget: Any, callback: Callable[[], None]) -> Callable[[object], None]:
    """`callback` as an observer whose exceptions appear in `widget.words`; otherwise they would only reach the log."""

    @wraps(callback)
    def observer(_: object) -> None:
        try:
            callback()
        except Exception as error:
            widget.words.value = f"<div role='alert'>{html.escape(repr(error))}</div>"
            raise

    return observer


def control_for(choice: Choice) -> Any:
    """A slider over consecutive whole numbers, a slider over named values, or a menu.

    A short slider updates while it is dragged. A long one waits for the release: every value on the way would send a
    picture, which is too slow with a remote kernel. Arrow keys always update at once.
    """
    values = list(choice.values)
    common: dict[str, Any] = {"value": choice.first, "description": choice.label, "tooltip": choice.tooltip}
    common["style"] = {"description_width": "initial"}  # otherwise long labels are cut off
    if choice.menu:
        return controls.Dropdown(options=values, layout={"width": "max-content"}, **common)
    common |= {"continuous_update": len(values) <= SHORT, "layout": {"width": WIDTH}}
    if isinstance(choice.values, range):
        return controls.IntSlider(min=values[0], max=values[-1], step=choice.values.step, **common)
    return controls.SelectionSlider(options=values, **common)


STYLE = """
.frame-page { margin: .4rem 0; }
.frame-page .choices { display: flex; flex-wrap: wrap; gap: .4rem 1.6rem; align-items: center; }
.frame-page .choice { display: flex; gap: .5rem; align-items: center; flex-wrap: wrap; }
.frame-page label { display: flex; gap: .5rem; align-items: center; flex-wrap: wrap; }
.frame-page select { max-width: 100%; }
.frame-page input[type=range] { width: 15rem; max-width: 100%; }
.frame-page .value { min-width: 2.5em; font-variant-numeric: tabular-nums; }
.frame-page .frame-words { margin: .5rem 0; white-space: pre-line; }
.frame-page .frame-picture { overflow-x: auto; }
.frame-page img { max-width: 100%; max-height: PICTURE_HEIGHT; width: auto; height: auto; }
""".replace("PICTURE_HEIGHT", PICTURE_HEIGHT)

# `currentScript` finds the control's own element, so that any number of them share a page without ids.
SCRIPT = """
(() => {
  const root = document.currentScript.parentElement;
  const data = JSON.parse(root.querySelector("script[type='application/json']").textContent);
  const picture = root.querySelector("img"), words = root.querySelector("[role=status]");
  const make = (name, attributes, parent) => parent.appendChild(Object.assign(document.createElement(name), attributes));
  const chosen = data.choices.map((choice) => choice.start), first = picture.src;
  const states = (n) => data.choices.slice(n).reduce((count, choice) => count * choice.values.length, 1);
  const position = (n) => chosen.slice(0, n).reduce((sum, value, i) => sum + value * states(i + 1), 0);
  const show = () => {
    const [number, text] = data.states[position(chosen.length)];
    picture.src = number === null ? first : "data:image/png;base64," + data.pictures[number];
    words.textContent = text;
  };
  const menu = (choice, label) => {
    const select = make("select", {}, label);
    choice.values.forEach((value) => make("option", { textContent: value }, select));
    select.selectedIndex = choice.start;
    return [select, () => select.selectedIndex];
  };
  const slider = (choice, label, box) => {
    const range = make("input", { type: "range", min: 0, max: choice.values.length - 1, step: 1 }, label);
    range.value = choice.start;
    const ticks = make("datalist", { id: "frame-ticks-" + document.querySelectorAll("datalist").length }, box);
    choice.values.forEach((value, i) => make("option", { value: i, label: value }, ticks));
    range.setAttribute("list", ticks.id);
    const shown = make("span", { className: "value" }, box);
    shown.setAttribute("aria-hidden", "true");  // the range says it itself
    const say = () => {
      shown.textContent = choice.values[range.value];
      range.setAttribute("aria-valuetext", choice.values[range.value]);
    };
    say();
    range.addEventListener("input", say);
    return [range, () => Number(range.value)];
  };
  // The page around it uses arrow keys, too: slides and JupyterLab hear a key after the control, Notebook 7 before it, but
  // not one for an element marked like this.
  root.addEventListener("keydown", (event) => event.stopPropagation());
  root.addEventListener("focusin", (event) => { event.target.dataset.lmSuppressShortcuts = "true"; });
  const row = root.querySelector(".choices");
  data.choices.forEach((choice, i) => {
    const box = make("div", { className: "choice" }, row);
    const label = make("label", { textContent: choice.label }, box);
    const [control, read] = (choice.menu ? menu : slider)(choice, label, box);
    control.title = choice.tooltip;
    control.addEventListener("input", () => { chosen[i] = read(); show(); });
  });
})();
"""


class FramePage:
    """The choices of a table above the chosen frame, as HTML that needs no kernel and no network.

    It works in an exported page and in a trusted notebook. If scripts are not allowed (an untrusted notebook, a viewer
    that strips them), the first frame's picture and text remain, because the script itself creates the controls.
    """

    def __init__(self, table: FrameTable) -> None:
        """All frames are embedded in the page; equal pictures only once."""
        self.table = table

    def __repr__(self) -> str:
        """The first frame as text, for text-only viewers."""
        return f"(the first of {len(self.table.frames)} states) {self.table.first.words}"

    def _repr_html_(self) -> str:
        """The control, its data and its script in one element."""
        first = self.table.first
        words = html.escape(first.words)
        data = as_json(self._data())
        return (
            f'<div class="frame-page"><style>{STYLE}</style><div class="choices"></div>'
            f'<p class="frame-words" role="status">{words}</p>'
            f'<div class="frame-picture"><img alt="{PICTURE_NAME}" src="data:image/png;base64,{_text(first.picture)}"></div>'
            f'<script type="application/json">{data}</script><script>{SCRIPT}</script></div>'
        )

    def _data(self) -> dict[str, object]:
        """What the script needs: the choices, each picture once, and picture and words of every state."""
        frames = [self.table.frames[key] for key in self.table.keys()]  # noqa: SIM118  (ordered as the script counts)
        others = dict.fromkeys(frame.picture for frame in frames if frame.picture != self.table.first.picture)
        pictures = {picture: number for number, picture in enumerate(others)}
        return {
            "choices": [
                {
                    "label": choice.label,
                    "tooltip": choice.tooltip,
                    "values": [str(value) for value in choice.values],
                    "start": list(choice.values).index(start),
                    "menu": choice.menu,
                }
                for choice, start in zip(self.table.choices, self.table.start, strict=True)
            ],
            "pictures": [_text(picture) for picture in pictures],
            # null for the picture that is on the page from the start
            "states": [[pictures.get(frame.picture), frame.words] for frame in frames],
        }


def as_json(data: Mapping[str, object]) -> str:
    """Data as JSON that is safe inside a script element: nothing in it ends the element early."""
    return json.dumps(data, ensure_ascii=False).replace("<", "\\u003c")


def _text(picture: bytes) -> str:
    """Bytes as base64."""
    return b64encode(picture).decode()
