"""Figures of plain lists and dictionaries: what notebook 00b computes without the package."""

from collections.abc import Mapping, Sequence

from jaxtyping import Float
from torch import Tensor

from pwl_lab.plots import style
from pwl_lab.plots.style import CURRICULUM, OWNER, Figure

OFF_THE_WAY = "#999999"  # masks that do not occur while the teacher's blocks arrive


@style.context()
def accuracy_lines(curves: Mapping[str, Sequence[Mapping[int, float]]], second_stage: int) -> Figure:
    """Test accuracy against steps, one line for each student, and a line where the extracted ones begin their second stage.

    Arguments:
    - `curves`: for each curriculum, the accuracy by step of each student.
    - `second_stage`: the step at which the second stage begins.
    """
    figure, [axes] = style.row_of_axes(8, 3.4)
    for name, (colour, dashes, _) in style.looks(list(curves)).items():
        for number, curve in enumerate(curves[name]):
            label = name.replace("_", "-") if number == 0 else None
            axes.plot(list(curve), list(curve.values()), color=colour, ls=dashes, lw=1.8, label=label)
    axes.axvline(second_stage, color=CURRICULUM["extracted"][0], lw=1, ls=":")
    style.note_above(axes, second_stage, "second stage begins")
    style.steps_axis(axes)
    style.accuracy_axis(axes, "test accuracy")
    style.chance_line(axes, 0.5)
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2)  # above the axes
    return figure


@style.context()
def named_pictures(pictures: Float[Tensor, "pictures height width"], names: Sequence[str]) -> Figure:
    """Pictures in a row, dark on white, each under its name."""
    figure, panels = style.row_of_axes(8, 1.7, max(1, len(names)))
    for axes in panels:
        axes.axis("off")
    for axes, picture, name in zip(panels, pictures, names, strict=False):
        axes.imshow(picture.numpy(), cmap="gray_r")
        axes.set_title(name)
    return figure


@style.context()
def prefix_line(accuracies: Mapping[str, float], prefix: Sequence[str]) -> Figure:
    """Test accuracy while the teacher's blocks arrive: a labelled point for each mask of `prefix`, in this order."""
    figure, [axes] = style.row_of_axes(8, 3.2)
    heights = [accuracies[mask] for mask in prefix]
    axes.plot(prefix, heights, color=OWNER["T"], marker="o", lw=2)
    for mask, height in zip(prefix, heights, strict=True):
        axes.annotate(f"{height:.1%}", (mask, height), xytext=(0, 8), textcoords="offset points", ha="center")
    axes.set_xlabel("swap mask: teacher blocks arrive from the left")
    axes.margins(0.08, 0.2)
    style.accuracy_axis(axes, "test accuracy")
    return figure


@style.context()
def mask_points(accuracies: Mapping[str, float], prefix: Sequence[str]) -> Figure:
    """Test accuracy of every mask, by number of teacher blocks; those of `prefix` are in colour."""
    figure, [axes] = style.row_of_axes(8, 3.2)
    ranked = sorted(accuracies, key=lambda mask: (mask.count("T"), mask[::-1]))
    heights = [accuracies[mask] for mask in ranked]
    colours = [OWNER["T"] if mask in prefix else OFF_THE_WAY for mask in ranked]
    axes.scatter(ranked, heights, s=60, zorder=3, color=colours)
    style.levels_alone(axes, accuracies[ranked[0]])
    axes.tick_params(axis="x", rotation=60)
    axes.set_xlabel("swap mask, by number of teacher blocks")
    style.accuracy_axis(axes, "test accuracy")
    return figure
