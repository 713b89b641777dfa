"""Draw the README's two figures from the stored results of `make run` (what is not stored yet is made first).

They stand side by side at half a page's width: drawn small, so that their type comes out as large as the text around them,
with names at the curves in place of a legend.
"""

from collections.abc import Mapping
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from pwl_lab import plots
from pwl_lab.study import recipes, tables
from pwl_lab.study.settings import CurriculaSettings, LoadingSettings
from pwl_lab.support import paths
from pwl_lab.swap.orders import loading_orders

FOLDER = paths.root() / "docs" / "figures"
SIZE = (5, 3.7)  # inches
# Where the names of the curves stand, in the axes' units; a line leads from each to its curve.
CURRICULA = {
    "progressive": (1_350, 0.945),
    "extracted": (1_350, 0.865),
    "one-shot": (4_300, 0.82),
    "scratch": (4_300, 0.72),
}
ORDERS = {"prefix order": (0.75, 0.887), "contiguous order": (2.25, 0.845), "suffix order": (1.3, 0.827)}


def curricula(target: Path) -> None:
    """Learning curves of notebook 02."""
    settings = CurriculaSettings.load("lesson")
    save(plots.learning_curves(recipes.curricula_runs(settings), settings.threshold), CURRICULA, target)


def loading(target: Path) -> None:
    """Loading orders of notebook 04."""
    settings = LoadingSettings.load("lesson")
    teachers, pairs = recipes.loading_pairs(settings)
    teacher_accuracy = sum(teacher.test_accuracy for teacher in teachers) / len(teachers)
    curves = tables.order_curves(tables.stacked_masks(pairs), loading_orders(pairs[0].n_blocks))
    save(plots.order_curves(curves, teacher_accuracy), ORDERS, target)


def save(figure: Figure, places: Mapping[str, tuple[float, float]], target: Path) -> None:
    """At the README's size, with a name at each curve; letters are outlines, so that no font is needed."""
    figure.set_size_inches(SIZE)
    (legend,) = figure.legends
    legend.remove()
    (axes,) = figure.axes
    figure.draw_without_rendering()  # the places of points are known only then
    for handle, name in zip(*axes.get_legend_handles_labels(), strict=True):
        line = handle if hasattr(handle, "get_xydata") else handle.lines[0]
        points = axes.transData.transform(line.get_xydata())
        nearest = np.argmin(np.linalg.norm(points - axes.transData.transform(places[name]), axis=1))
        axes.annotate(name, line.get_xydata()[nearest], places[name], va="center", fontsize=9,
                      arrowprops={"arrowstyle": "-", "color": line.get_color(), "lw": 1.5, "shrinkB": 4})  # fmt: skip
    with mpl.rc_context({"svg.fonttype": "path", "svg.hashsalt": target.stem}):  # the same file for the same numbers
        figure.savefig(target, metadata={"Date": None})


if __name__ == "__main__":
    FOLDER.mkdir(parents=True, exist_ok=True)
    curricula(FOLDER / "curricula.svg")
    loading(FOLDER / "loading.svg")
