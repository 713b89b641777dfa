"""Turns a picture of the reader's own into an image of a task."""

from io import BytesIO

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image, ImageOps
from torch import Tensor

from pwl_lab.support.errors import InvalidValueError
from pwl_lab.tasks.images import ImageTask

LARGEST = 512  # pixels per side after a first scaling; an image of a task has far fewer
BACKGROUND = 26  # of 255: how much a pixel may differ from the border and still be background (a tenth)
# What Pillow raises for a file that is not a picture, is damaged, or would fill the memory.
UNREADABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)


def picture_from(data: bytes, task: ImageTask) -> UInt8[Tensor, "1 channels height width"]:
    """The picture in a file's bytes, prepared like the task's images: with their size and, if grey, bright on black.

    For a grey task it follows the making of Fashion-MNIST (arXiv 1708.07747, section 2): a plain border is cut off, a
    picture with a bright border is inverted, the longer side is scaled to the image's size, and black fills the rest.
    For a task in colour the centre of the picture is cropped and scaled.

    Raises InvalidValueError for bytes that are not a picture, and for a grey picture of a single shade.
    """
    try:
        file = Image.open(BytesIO(data))
        file.thumbnail((LARGEST, LARGEST))
        picture = ImageOps.exif_transpose(file).convert("RGBA")
    except UNREADABLE as error:
        can = "PNG, JPEG, GIF, WebP, BMP and TIFF files can"
        raise InvalidValueError(f"This file cannot be read as a picture. {can}.") from error
    picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
    channels, height, width = task.input_shape
    if channels == 1:
        small = ImageOps.pad(_bright_on_black(picture.convert("L")), (width, height), Image.Resampling.LANCZOS)
        pixels = np.asarray(small)[None]
    else:
        small = ImageOps.fit(picture, (width, height), Image.Resampling.LANCZOS)
        pixels = np.asarray(small).transpose(2, 0, 1)
    return torch.from_numpy(pixels.copy())[None]


def _bright_on_black(picture: Image.Image) -> Image.Image:
    """The picture without its plain border, on black. Raises InvalidValueError if nothing differs from the border."""
    pixels: Float[np.ndarray, "height width"] = np.asarray(picture, dtype=np.float32)
    border = float(np.median(np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])))
    if border > 127:
        pixels, border = 255 - pixels, 255 - border
    rows, columns = (np.flatnonzero((np.abs(pixels - border) > BACKGROUND).any(axis=axis)) for axis in (1, 0))
    if not len(rows):
        raise InvalidValueError("There is nothing to see in this picture: it has a single shade.")
    pixels = (pixels - border).clip(0) * 255 / (255 - border)  # pixels as dark as the border become black
    return Image.fromarray(pixels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].astype(np.uint8))
