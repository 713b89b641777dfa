"""The study's one style: colours, line styles and markers by meaning, and the frame of a figure.

Colours are from Okabe and Ito's colour-blind-safe palette; line style and marker differ as well. Figures are made without
pyplot's list of open figures, so a notebook shows one exactly once: as the value of a cell's last line.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

OWNER = {"T": "#D55E00", "S": "#56B4E9"}
OWNER_NAME = {"T": "teacher", "S": "student"}
# (colour, line style, marker) of a curriculum; a reader's own ones take the spare entries in turn.
CURRICULUM = {
    "scratch": ("#7F7F7F", ":", "X"),
    "one_shot": ("#0072B2", "--", "s"),
    "progressive": ("#E69F00", "-.", "^"),
    "extracted": ("#009E73", "-", "o"),
}
SPARE = [("#CC79A7", "-", "D"), ("#56B4E9", "--", "v"), ("#D55E00", "-.", "P"), ("#000000", ":", "*")]
ORDER = {
    "prefix": ("#0072B2", "-", "o"),
    "suffix": ("#CC79A7", "--", "s"),
    "contiguous": ("#E69F00", "-.", "^"),
    "best": ("#009E73", (0, (5, 1.5)), "D"),
    "worst": ("#7F7F7F", ":", "X"),
}
STYLE = {
    "figure.dpi": 110,
    "font.size": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#E5E5E5",
    "axes.axisbelow": True,
    "legend.frameon": False,
    "svg.fonttype": "none",
}


@contextmanager
def style() -> Iterator[None]:
    """The study's style inside, whatever the user's own is outside."""
    with mpl.rc_context(STYLE):
        yield


def looks(names: Sequence[str]) -> dict[str, tuple[str, str, str]]:
    """Colour, line style and marker for each curriculum name."""
    others = iter(SPARE * (1 + len(names) // len(SPARE)))
    return {name: CURRICULUM[name] if name in CURRICULUM else next(others) for name in names}


def order_look(order: str) -> tuple[str, str | tuple, str]:
    """Colour, line style and marker of a loading order; of a reader's own one too."""
    return ORDER.get(order, SPARE[3])


def byte_words(size: float) -> str:
    """A number of bytes in words: `840 B`, `56 kB`, `1.2 MB` (powers of 1,000)."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= 0.9995 * factor:
            value = size / factor
            return f"{value:.1f} {unit}" if value < 9.95 else f"{value:,.0f} {unit}"
    return f"{size:,.0f} B"


def ink_on(colour: tuple[float, ...]) -> str:
    """Black or white, whichever has the higher contrast on `colour` (WCAG's relative luminance)."""
    parts = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour[:3]]
    luminance = 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]
    return "black" if (luminance + 0.05) / 0.05 > 1.05 / (luminance + 0.05) else "white"


def row_of_axes(width: float, height: float, columns: int = 1, **keys: object) -> tuple[Figure, list[Axes]]:
    """A figure in the study's style with a row of axes."""
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(1, columns, squeeze=False, **keys)
    return figure, list(axes.flat)


def chance_line(axes: Axes, value: float) -> None:
    """The line of guessing, labelled."""
    axes.axhline(value, color="#999999", lw=1, ls=(0, (1, 2)))
    axes.annotate("guessing", (1, value), xycoords=("axes fraction", "data"), xytext=(0, -3), textcoords="offset points",
                  ha="right", va="top", color="#666666")  # fmt: skip
