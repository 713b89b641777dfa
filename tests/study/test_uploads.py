"""A reader's own picture as an image of a task: what is cut off, turned into its negative, scaled, and refused."""

from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image

from pwl_lab.study.uploads import picture_from
from pwl_lab.support.errors import InvalidValueError
from pwl_lab.tasks.images import ImageTask

TASK = ImageTask()


def file_of(pixels, mode=None, format="PNG", **keys):
    """A picture file's bytes."""
    written = BytesIO()
    Image.fromarray(np.asarray(pixels, dtype=np.uint8), mode).save(written, format, **keys)
    return written.getvalue()


def box(background=0, ink=255, height=200, width=100):
    """A tall box in the corner of a larger picture."""
    pixels = np.full((400, 300), background, dtype=np.uint8)
    pixels[20 : 20 + height, 30 : 30 + width] = ink
    return pixels


def test_an_image_of_the_task_stays_what_it_is():
    images, _ = TASK.sample(50)
    # of those that touch all four sides and have a black border nothing is cut off, and so nothing changes
    tight = [
        image
        for image in images
        if all(side.max() > 26 for side in (image[0], image[-1], image[:, 0], image[:, -1]))
        and np.median(np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]])) == 0
    ]
    assert tight
    for image in tight:
        assert torch.equal(picture_from(file_of(image.numpy()), TASK)[0, 0], image)


@pytest.mark.parametrize(("background", "ink"), [(0, 255), (255, 0)])
def test_the_border_is_cut_off_and_a_bright_one_turned_into_its_negative(background, ink):
    image = picture_from(file_of(box(background, ink)), TASK)
    assert image.shape == (1, 1, 28, 28)
    assert image.dtype == torch.uint8
    found = image[0, 0]
    assert (found[:, 8:20] > 250).all(), "twice as high as wide, in the middle, from top to bottom"
    assert (found[:, :6] == 0).all()
    assert (found[:, 22:] == 0).all()


def test_a_grey_border_becomes_black_and_what_is_darker_than_it_too():
    pixels = box(40, 255)
    pixels[100:120, 50:70] = 0
    found = picture_from(file_of(pixels), TASK)[0, 0]
    assert found[:, :6].max() == 0
    assert found.min() == 0
    assert found.max() > 250


def test_transparent_pixels_count_as_white_paper():
    rgba = np.zeros((60, 60, 4), dtype=np.uint8)
    rgba[10:50, 10:50] = (0, 0, 0, 255)  # a black box on nothing
    assert (picture_from(file_of(rgba), TASK) > 250).all()


def test_a_photo_lying_on_its_side_is_put_upright():
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    wide = box().T
    assert torch.equal(
        picture_from(file_of(wide, exif=exif), TASK), picture_from(file_of(np.rot90(wide, k=-1).copy()), TASK)
    )


def test_colour_is_kept_where_the_task_has_colour_and_the_middle_cut_out():
    pixels = np.zeros((100, 300, 3), dtype=np.uint8)
    pixels[:, 100:200] = (200, 30, 60)
    image = picture_from(file_of(pixels), ImageTask("cifar-10"))
    assert image.shape == (1, 3, 32, 32)
    assert [float(channel.float().mean()) for channel in image[0]] == pytest.approx([200, 30, 60], abs=2)


@pytest.mark.parametrize("data", [b"", b"this is no picture", file_of(box())[:60]])
def test_what_is_no_picture_is_refused(data):
    with pytest.raises(InvalidValueError, match="cannot be read as a picture"):
        picture_from(data, TASK)


def test_a_picture_that_would_fill_the_memory_is_refused(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1_000)
    with pytest.raises(InvalidValueError, match="cannot be read as a picture"):
        picture_from(file_of(box()), TASK)


@pytest.mark.parametrize("shade", [0, 130, 255])
def test_a_picture_of_one_shade_is_refused(shade):
    with pytest.raises(InvalidValueError, match="it has a single shade"):
        picture_from(file_of(np.full((50, 50), shade)), TASK)
