"""Random augmentations that keep an image's class: shifted crops, horizontal flips, small rotations.

The functions are pure: they take images and a generator and return new images. All random numbers are drawn on the
CPU, so a run on a GPU sees the same ones.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from torch import Generator, Tensor

from pwl_lab.support.config import Frozen
from pwl_lab.tasks.base import sent
from pwl_lab.tasks.checks import check_crop


class Augmentation(Frozen):
    """Random changes to each training image, in the order of the fields. The default suits small grey images."""

    crop_padding: int = Field(2, ge=0, le=16, description="shift by up to this many pixels each way; 0: none")
    flip: bool = Field(True, description="flip horizontally with probability 1/2")
    rotation_degrees: float = Field(0.0, ge=0.0, le=180.0, description="rotate by up to this many degrees; 0: none")

    @classmethod
    def none(cls) -> "Augmentation":
        """No augmentation: every epoch sees the original images."""
        return cls(crop_padding=0, flip=False, rotation_degrees=0.0)

    @classmethod
    def of_the_paper(cls) -> "Augmentation":
        """As in progressive weight loading (arXiv 2509.22319): padded crop, flip, rotation by up to 15 degrees.

        The paper pads by reflection but does not say by how much; 4 pixels on each side is common at 32x32. The order
        of the three is our choice.
        """
        return cls(crop_padding=4, flip=True, rotation_degrees=15.0)

    def apply(
        self, images: Float[Tensor, "batch channels height width"], generator: Generator
    ) -> Float[Tensor, "batch channels height width"]:
        """Augment each image independently. Without augmentation, return the images and draw no random numbers.

        Raises InvalidValueError unless `crop_padding` is smaller than the images' height and width.
        """
        if self.crop_padding:
            images = random_crop(images, self.crop_padding, generator)
        if self.flip:
            images = random_flip(images, generator)
        if self.rotation_degrees:
            images = random_rotation(images, self.rotation_degrees, generator)
        return images


def random_crop(
    images: Float[Tensor, "batch channels height width"], padding: int, generator: Generator
) -> Float[Tensor, "batch channels height width"]:
    """Shift each image by -padding..padding pixels along both axes; the gap is filled by reflecting the border.

    Raises InvalidValueError unless `padding` is smaller than both sides (otherwise there is too little to reflect).
    """
    n, _, height, width = images.shape
    check_crop(padding, height, width)
    top, left = sent(torch.randint(0, 2 * padding + 1, (2, n), generator=generator), images.device)
    padded = F.pad(images, (padding, padding, padding, padding), mode="reflect")
    # all windows of the original size, as views: [n, channels, 2*padding + 1, 2*padding + 1, height, width]
    windows = padded.unfold(2, height, 1).unfold(3, width, 1)
    return windows[torch.arange(n, device=images.device), :, top, left]


def random_flip(
    images: Float[Tensor, "batch channels height width"], generator: Generator
) -> Float[Tensor, "batch channels height width"]:
    """Flip each image horizontally with probability 1/2."""
    mirrored = sent(torch.rand(images.shape[0], generator=generator) < 0.5, images.device)
    return torch.where(mirrored[:, None, None, None], images.flip(-1), images)


def random_rotation(
    images: Float[Tensor, "batch channels height width"], degrees: float, generator: Generator
) -> Float[Tensor, "batch channels height width"]:
    """Rotate each image about its centre by an angle uniform in [-degrees, degrees]; bilinear, reflected borders."""
    n, _, height, width = images.shape
    angle = (torch.rand(n, generator=generator) * 2 - 1) * math.radians(degrees)
    cos, sin, zero = angle.cos(), angle.sin(), torch.zeros(n)
    # grid coordinates run from -1 to 1 along both axes, so rotating a non-square image needs its aspect ratio
    rows = (cos, -sin * height / width, zero, sin * width / height, cos, zero)
    affine = sent(torch.stack(rows, dim=1).view(n, 2, 3).to(images.dtype), images.device)
    grid = F.affine_grid(affine, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
