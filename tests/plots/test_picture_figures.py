"""Figures of single pictures show the numbers they are given: soft targets, pictures drawn at random, one under all masks."""

from dataclasses import replace

import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from scored import scored_pair, some_predictions

from pwl_lab import plots
from pwl_lab.plots.pictures import MOST_CLASSES, guesses, how_chosen
from pwl_lab.study.recipes import SoftTargets

SHIRT = SoftTargets(
    torch.arange(64, dtype=torch.uint8).view(8, 8), 1, ("bag", "shirt", "coat"), torch.tensor([0.0, 4.0, 3.0])
)


def widths(axes):
    return [bar.get_width() for bar in axes.patches]


def test_temperature_divides_the_logits():
    assert torch.allclose(SHIRT.at(1), torch.tensor([0.0132, 0.7214, 0.2654]), atol=1e-4)
    assert torch.allclose(SHIRT.at(4), (SHIRT.logits / 4).exp() / (SHIRT.logits / 4).exp().sum())
    assert SHIRT.at(1e6).tolist() == pytest.approx([1 / 3] * 3, abs=1e-5)


def test_soft_targets_has_the_label_and_a_panel_for_each_temperature():
    image, label, *teacher = plots.soft_targets(SHIRT, temperatures=(1, 4)).axes
    assert image.get_title() == "label: shirt"
    assert widths(label) == [0, 1, 0]
    assert [text.get_text() for text in label.get_yticklabels()] == ["bag", "shirt", "coat"]
    for axes, temperature in zip(teacher, (1, 4), strict=True):
        assert widths(axes) == pytest.approx(SHIRT.at(temperature).tolist())
        assert axes.get_title(loc="left") == f"teacher, T = {temperature}"


def test_the_temperature_figure_turns_to_any_temperature():
    figure = plots.TemperatureFigure(SHIRT)
    for temperature in (1, 16, 2.5):
        assert figure.at(temperature) is figure.figure
        axes = figure.figure.axes[-1]
        assert widths(axes) == pytest.approx(SHIRT.at(temperature).tolist())
        assert [text.get_text() for text in axes.texts] == [f"{value:.1%}" for value in SHIRT.at(temperature).tolist()]
        assert axes.get_title(loc="left") == f"teacher, T = {temperature:g}"


def test_of_many_classes_the_likeliest_are_shown():
    logits = torch.zeros(100)
    logits[torch.arange(0, 100, 10)] = 5.0
    names = tuple(f"class {i}" for i in range(100))
    label = plots.soft_targets(SoftTargets(SHIRT.image, 10, names, logits)).axes[1]
    assert [text.get_text() for text in label.get_yticklabels()] == [f"class {i}" for i in range(0, 100, 10)]


def test_how_pictures_were_chosen_is_said_with_both_rates():
    samples, pair = some_predictions(), scored_pair()
    picked = how_chosen(samples, pair)
    assert picked == (
        "3 picked because their prediction changes: 33% of these right at SSS, 67% at TTT (whole test set: 50% and 80%)"
    )
    drawn = replace(samples, kind="drawn")
    assert how_chosen(drawn, pair).startswith("3 drawn at random: 33%")


def test_drawn_pictures_are_numbered_and_ticked():
    figure = plots.drawn_pictures(some_predictions(), scored_pair())
    shown = [axes for axes in figure.axes if axes.images]
    assert [axes.get_title() for axes in shown] == ["1. cat", "2. dog", "3. cat"]
    assert [axes.texts[0].get_text() for axes in shown] == ["S ✓   T ✓", "S ✗   T ✓", "S ✗   T ✗"]
    assert "whole test set: 50% and 80%" in figure.get_suptitle()


def table_of(figure):
    """The words in each row's cells, and of each row's frame the column and the line."""
    rows = [[cell.get_text() for cell in row] for row in figure._cells]
    return rows, [(round(box.get_x() + 0.5), box.get_linestyle()) for box in figure._boxes]


def test_a_picture_has_a_row_for_each_mask_and_a_frame_around_the_prediction():
    samples, pair = some_predictions(), scored_pair()
    figure = plots.PictureFigure(pair, (8, 8), samples.class_names)
    assert figure.masks == ["SSS", "TSS", "TTS", "TTT"]
    figure.at(samples.images[1], {mask: values[1] for mask, values in samples.probabilities.items()}, label=1)
    rows, frames = table_of(figure)
    assert rows == [["75%", "25%"], *[["25%", "75%"]] * 3]
    assert frames == [(0, ":"), (1, "-"), (1, "-"), (1, "-")]
    assert [head.get_weight() for head in figure._heads] == ["normal", "bold"]
    assert figure._title.get_text() == "label: dog"
    accuracies = [text.get_text() for text in figure.figure.axes[1].texts if text.get_text().endswith(".0%")]
    assert accuracies == ["50.0%", "60.0%", "70.0%", "80.0%"]


def test_a_picture_of_ones_own_is_neither_right_nor_wrong():
    samples = some_predictions()
    figure = plots.PictureFigure(scored_pair(), (8, 8), samples.class_names)
    figure.at(samples.images[2], {mask: values[2] for mask, values in samples.probabilities.items()})
    assert {line for _, line in table_of(figure)[1]} == {"-"}
    assert [head.get_weight() for head in figure._heads] == ["normal", "normal"]
    assert figure._title.get_text() == "own picture"


def test_a_picture_among_a_hundred_classes_shows_ten_and_frames_the_right_one():
    names = tuple(f"class {i}" for i in range(100))
    masks = ("SSS", "TSS", "TTS", "TTT")
    values = {mask: torch.full((100,), 0.001) for mask in masks}
    for i, mask in enumerate(masks):
        values[mask][90 - i] = 0.9
    figure = plots.PictureFigure(scored_pair(), (8, 8, 3), names)
    figure.at(torch.zeros(8, 8, 3, dtype=torch.uint8), values, label=5)
    heads = [head.get_text() for head in figure._heads]
    assert len(heads) == MOST_CLASSES
    for (column, line), i in zip(table_of(figure)[1], range(4), strict=True):
        assert heads[column] == f"class {90 - i}"
        assert line == ":"


def test_nothing_in_a_picture_figure_overlaps():
    samples = some_predictions()
    names = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
    figure = plots.PictureFigure(scored_pair(), (8, 8), names)
    values = {mask: torch.full((10,), 0.1) for mask in figure.masks}
    drawn = figure.at(samples.images[0], values, label=0)
    FigureCanvasAgg(drawn).draw()
    boxes = [text.get_window_extent() for text in drawn.axes[1].texts if text.get_text()]
    assert all(not a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


def test_guesses_say_the_class_and_how_sure():
    samples = some_predictions()
    values = {mask: probabilities[1] for mask, probabilities in samples.probabilities.items()}
    assert guesses(values, ["SSS", "TTT"], samples.class_names) == "SSS cat 75%; TTT dog 75%"
