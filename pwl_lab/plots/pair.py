"""Figures of a pair itself: its parts and their sizes, and how alike the two networks are at each boundary."""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch, Rectangle

from pwl_lab.plots.style import NOTE, OWNER, OWNER_NAME, Figure, Percent, byte_words, row_of_axes, style

# (letter, height in the drawing) of the two networks, and by direction the rows that a converter leads from and to.
ROWS = {"teacher": ("T", 1.0), "student": ("S", 0.0)}
ENDS = {"encoder": ("teacher", "student"), "decoder": ("student", "teacher")}
# (colour, line style, marker) of a converter: the owner it translates for.
DIRECTION = {"encoder": ("#0072B2", "-", "o"), "decoder": (OWNER["T"], "--", "s")}
HALF = 0.3  # half of a box's width and height, in the drawing's units


def architecture(parts: pd.DataFrame) -> Figure:
    """Teacher above, student below, block by block in their owners' colours, with the converters between them.

    `parts` as from `loading.outline.outline`: part, block, channels, positions, layers, bytes. Each box says how many
    channels it gives out (and at how many positions), its layers and its bytes; the dark bar in it is as long as its share of the
    largest block's bytes. An encoder leads from the teacher's block to the student's next one, a decoder the other way.
    """
    n_blocks = int(parts["block"].max())
    small = NOTE if n_blocks <= 4 else 9 if n_blocks == 5 else 7 if n_blocks <= 7 else 6
    largest = parts.loc[parts["part"].isin(ROWS), "bytes"].max()
    with style():
        figure, (axes,) = row_of_axes(9, 4.4)
        for part, (letter, height) in ROWS.items():
            rows = parts[parts["part"] == part].sort_values("block")
            for row in rows.itertuples():
                _box(axes, row, OWNER[letter], height, largest, small)
            name = f"{OWNER_NAME[letter]}\n{byte_words(rows['bytes'].sum())}"
            axes.text(0.28, height, name, ha="right", va="center", weight="bold", fontsize=NOTE)
            for place in range(n_blocks + 1):
                ends = (place + 1 - HALF, height), (place + HALF, height)
                axes.annotate("", *ends, arrowprops={"arrowstyle": "->", "lw": 1.2, "shrinkA": 0, "shrinkB": 0})
            axes.text(n_blocks + 1 - HALF, height, " class", va="center", fontsize=NOTE)
        for row in parts[parts["part"].isin(ENDS)].itertuples():
            _converter(axes, row, small)
        axes.set(xlim=(-0.35, n_blocks + 1.05), ylim=(-HALF - 0.1, 1 + HALF + 0.1))
        axes.axis("off")
    return figure


def _box(axes: Axes, row: tuple, colour: str, height: float, largest: int, fontsize: float) -> None:
    """One block: channels and positions, layers, bytes, and its share of the largest block's bytes as a bar."""
    corner = (row.block - HALF, height - HALF)
    style_of_box = "round,pad=0,rounding_size=0.05"
    axes.add_patch(FancyBboxPatch(corner, 2 * HALF, 2 * HALF, boxstyle=style_of_box, fc=colour, ec="black", lw=1))
    kind = "units" if not row.positions else "channels" if fontsize > 6 else "ch."
    # One number is a row of tokens, two are a picture's height and width.
    positions = row.positions if "×" in row.positions else f"{row.positions} tokens"
    width = f"{row.channels} {kind}" + (f"\n{positions}" if row.positions else "")
    layers = f"{row.layers} layer" + ("" if row.layers == 1 else "s")
    text = f"block {row.block}\n{width}\n{layers}\n{byte_words(row.bytes)}"
    axes.text(row.block, height + 0.05, text, ha="center", va="center", fontsize=fontsize, linespacing=1.35)
    width = 2 * (HALF - 0.05)
    axes.add_patch(Rectangle((row.block - width / 2, height - 0.25), width, 0.05, fc="none", ec="black", lw=0.6))
    axes.add_patch(Rectangle((row.block - width / 2, height - 0.25), width * row.bytes / largest, 0.05, fc="black"))


def _converter(axes: Axes, row: tuple, fontsize: float) -> None:
    """One converter: an arrow from the one network's block to the other's next, and its bytes."""
    colour, dashes, _ = DIRECTION[row.part]
    (_, begin), (_, end) = (ROWS[name] for name in ENDS[row.part])
    down = 1 if begin > end else -1
    ends = (row.block + 1 - HALF, end + down * HALF), (row.block + HALF, begin - down * HALF)
    axes.annotate("", *ends, arrowprops={"arrowstyle": "->", "lw": 1.8, "ls": dashes, "color": colour})
    words = f"{row.part}\n{byte_words(row.bytes)}"
    axes.text(
        row.block + HALF - 0.04, 0.5 + down * 0.1, words, ha="right", va="center", fontsize=fontsize, color=colour
    )


def similarity_chart(table: pd.DataFrame) -> Figure:
    """How alike the networks are at each boundary: CKA before and after the converter, and what is left unexplained.

    `table` holds the rows of `similarity.boundary_similarity`, of several seeds where it has a column `seed`: mean, bars
    from the lowest to the highest seed. Hollow and dotted: the raw states. A column `untrained`, where there is one, is
    a grey line: what an untrained student shows.
    """
    boundaries = sorted(table["boundary"].unique())
    with style():
        figure, (left, middle, right) = row_of_axes(9, 3.9, 3)
        middle.sharey(left)
        for axes, direction in ((left, "encoder"), (middle, "decoder")):
            mine = table[table["direction"] == direction]
            colour, dashes, marker = DIRECTION[direction]
            if "untrained" in mine:
                _spread(axes, mine, "untrained", 0, color="#999999", ls="-.", marker="X", label="untrained student")
            _spread(axes, mine, "before", -0.05, color="#555555", ls=":", marker="D", mfc="white", label="before")
            _spread(axes, mine, "after", 0.05, color=colour, ls=dashes, marker=marker, label=f"after the {direction}")
            axes.set_title(f"{direction}: {' to '.join(ENDS[direction])}", fontsize=NOTE)
            _spread(right, mine, "unexplained", 0, color=colour, ls=dashes, marker=marker)
        left.set(ylabel="similarity (CKA)")
        right.set_title("variance unexplained after", fontsize=NOTE)
        right.set_ylim(0, None)
        right.yaxis.set_major_formatter(Percent())
        drawn = {
            label: handle
            for axes in (left, middle)
            for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
        }
        figure.legend(drawn.values(), drawn.keys(), loc="outside upper center", ncols=len(drawn))
        for axes in (left, middle, right):
            axes.set_xticks(boundaries, [f"{b} | {b + 1}" for b in boundaries])
            axes.set(xlabel="boundary between blocks", xlim=(boundaries[0] - 0.4, boundaries[-1] + 0.4))
    return figure


def _spread(axes: Axes, table: pd.DataFrame, column: str, shift: float, **look: object) -> None:
    """One column over the boundaries: mean over seeds, bars from the lowest to the highest."""
    by_boundary = table.groupby("boundary")[column]
    mean, low, high = by_boundary.mean(), by_boundary.min(), by_boundary.max()
    axes.errorbar(mean.index + shift, mean, yerr=[mean - low, high - mean], lw=2, ms=7, capsize=4, **look)
