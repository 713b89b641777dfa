"""Widgets about single pictures: what they show is what was computed; a picture of one's own is predicted or refused."""

from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image
from scored import as_sure_as, scored_pair, some_predictions

from pwl_lab import widgets
from pwl_lab.models import build
from pwl_lab.models.convnets import VGGConfig
from pwl_lab.study.recipes import SoftTargets
from pwl_lab.study.uploads import picture_from
from pwl_lab.support.errors import InvalidValueError
from pwl_lab.swap.swapnet import SwapNet
from pwl_lab.tasks.images import ImageTask

PREFIX = ["SSS", "TSS", "TTS", "TTT"]
SHIRT = SoftTargets(torch.zeros(8, 8, dtype=torch.uint8), 1, ("bag", "shirt", "coat"), torch.tensor([0.0, 4.0, 3.0]))


def words(widget):
    return widget.words.value


def test_the_temperature_slider_says_what_the_teacher_says():
    slider = widgets.temperature_slider(SHIRT, (1, 2, 8))
    assert "τ = 1: the teacher says shirt 72.1%, coat 26.5%, bag 1.3%. The label says shirt 100%." in words(slider)
    before = slider.picture.value
    slider.controls[0].value = "8"
    top = SHIRT.at(8).max()
    assert f"τ = 8: the teacher says shirt {float(top):.1%}" in words(slider)
    assert slider.picture.value != before


def test_live_and_exported_controls_hold_the_same_frames():
    assert widgets.temperature_slider(SHIRT, (1, 2)).table == widgets.temperature_slider(SHIRT, (1, 2), False).table
    groups = [replace(some_predictions(), kind="drawn"), some_predictions()]
    live, page = (widgets.picture_chooser(scored_pair(), groups, interactive) for interactive in (True, False))
    assert live.table == page.table


def test_the_chooser_shows_each_picture_and_how_it_was_chosen():
    picked = some_predictions()
    turned = {mask: as_sure_as([1, 1, 1], [0.9] * 3) for mask in picked.probabilities}
    drawn = replace(picked, probabilities=turned, kind="drawn")
    chooser = widgets.picture_chooser(scored_pair(), [drawn, picked])
    group, number = chooser.controls
    assert "Label: cat. SSS dog 90%; TSS dog 90%; TTS dog 90%; TTT dog 90%." in words(chooser)
    assert "3 drawn at random: 33% of these right at SSS, 33% at TTT (whole test set: 50% and 80%)" in words(chooser)
    group.value = "picked because they change"
    number.value = 2
    assert "Label: dog. SSS cat 75%; TSS dog 75%; TTS dog 75%; TTT dog 75%." in words(chooser)
    assert "3 picked because their prediction changes: 33%" in words(chooser)


@pytest.mark.parametrize(
    "groups",
    [
        [],
        [some_predictions(), some_predictions()],
        [some_predictions(), replace(some_predictions(), labels=torch.zeros(2), kind="drawn")],
    ],
)
def test_groups_that_share_no_control_are_refused(groups):
    with pytest.raises(InvalidValueError, match="groups of equal size"):
        widgets.picture_chooser(scored_pair(), groups)


@pytest.fixture
def task():
    return ImageTask()


@pytest.fixture
def pair(task):
    """Untrained networks of images, with made-up accuracies."""
    teacher = VGGConfig(channels=(4, 6, 7), convolutions=(1, 2, 1), n_classes=10)
    student = VGGConfig(channels=(3, 5, 6), convolutions=(1, 1, 1), n_classes=10)
    net = SwapNet(build(teacher, 0), build(student, 1), task.input_shape).eval()
    return replace(scored_pair(), net=net, task=task, models=(teacher, student))


def file_of(shade):
    """A box of a shade on black."""
    pixels = np.zeros((60, 60), dtype=np.uint8)
    pixels[10:50, 20:40] = shade
    written = BytesIO()
    Image.fromarray(pixels).save(written, "PNG")
    return written.getvalue()


def test_a_picture_is_predicted_by_each_mask_of_prefix_order(pair, task):
    own = widgets.own_picture(pair, task)
    assert own.picture.layout.display == "none"
    assert "always predicts one of them: T-shirt/top, Trouser" in words(own)
    own.canvas.picture = file_of(255)
    assert own.picture.layout.display is None
    inputs = task.normalise(picture_from(file_of(255), task))
    for mask, probabilities in zip(PREFIX, pair.probabilities(inputs, PREFIX)[:, 0], strict=True):
        top = probabilities.max(dim=0)
        assert f"{mask} {task.class_names[int(top.indices)]} {float(top.values):.0%}" in words(own)
    before = bytes(own.picture.value)
    own.canvas.picture = file_of(90)
    assert bytes(own.picture.value) != before


@pytest.mark.parametrize(
    ("data", "said"),
    [(b"no picture", "cannot be read as a picture"), (file_of(0), "a single shade"), (b"", "Draw with")],
)
def test_what_cannot_be_predicted_is_said_and_the_last_prediction_goes(pair, task, data, said):
    own = widgets.own_picture(pair, task)
    own.canvas.picture = file_of(255)
    own.canvas.picture = data
    assert said in words(own)
    assert own.picture.layout.display == "none"


def test_a_page_without_a_kernel_says_that_one_is_needed(pair, task):
    assert "live kernel" in widgets.own_picture(pair, task, interactive=False).data
