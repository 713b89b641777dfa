"""The figures of notebook 00b show the numbers that they are given."""

import pytest
import torch

from pwl_lab import plots
from pwl_lab.plots.style import CURRICULUM
from pwl_lab.swap.masks import all_masks
from pwl_lab.swap.orders import loading_orders

PREFIX = loading_orders(4)["prefix"]
ACCURACIES = {mask: 0.5 + place / 100 for place, mask in enumerate(all_masks(4))}


def test_each_student_is_a_line_and_each_curriculum_has_one_name() -> None:
    curves = {"one_shot": [{0: 0.5, 50: 0.6}, {0: 0.4, 50: 0.7}], "extracted": [{0: 0.5, 50: 1.0}]}
    [axes] = plots.accuracy_lines(curves, 25).axes
    drawn = [(line.get_color(), list(line.get_ydata())) for line in axes.lines[:3]]
    assert drawn == [(CURRICULUM[name][0], list(one.values())) for name in curves for one in curves[name]]
    assert [words.get_text() for words in axes.get_legend().get_texts()] == ["one-shot", "extracted"]
    assert list(axes.lines[3].get_xdata()) == [25, 25]


@pytest.mark.parametrize("count", [0, 1, 6])
def test_each_picture_has_its_name(count: int) -> None:
    names = [f"class {number}" for number in range(count)]
    panels = plots.named_pictures(torch.rand(count, 28, 28), names).axes
    assert [panel.get_title(loc="left") for panel in panels if panel.images] == names


def test_the_masks_on_the_way_are_labelled_in_order() -> None:
    [axes] = plots.prefix_line(ACCURACIES, PREFIX).axes
    assert [words.get_text() for words in axes.texts] == [f"{ACCURACIES[mask]:.1%}" for mask in PREFIX]


def test_every_mask_has_a_point_and_those_on_the_way_are_in_colour() -> None:
    figure = plots.mask_points(ACCURACIES, PREFIX)
    figure.draw_without_rendering()
    [axes] = figure.axes
    masks = [words.get_text() for words in axes.get_xticklabels()]
    [points] = axes.collections
    assert [ACCURACIES[mask] for mask in masks] == pytest.approx(points.get_offsets()[:, 1].tolist())
    assert [mask.count("T") for mask in masks] == sorted(mask.count("T") for mask in masks)
    alone = plots.mask_points(dict.fromkeys(PREFIX, 0.5), PREFIX).axes[0].collections[0].get_facecolors()[0]
    coloured = [
        mask for mask, colour in zip(masks, points.get_facecolors(), strict=True) if list(colour) == list(alone)
    ]
    assert set(coloured) == set(PREFIX)
