"""The handwritten digits that come with scikit-learn: 1,797 grey images of 8x8, for runs that last seconds."""

import hashlib
from pathlib import Path

import numpy as np

from pwl_lab.errors import MissingDataError
from pwl_lab.tasks.files import DataFile, Source
from pwl_lab.tasks.splits import Dataset, RawSplit, in_balanced_order

SIZES = {"train": 1_000, "validation": 297, "test": 500}
DARKEST = 16  # the digits' pixels go from 0 to this


def read_digits(folder: Path) -> dict[str, RawSplit]:
    """The splits, cut from the 1,797 images in a fixed balanced order: test first, then validation, the rest to train on.

    `folder` is not looked into: scikit-learn knows where its digits are. Raises MissingDataError if they are not the
    recorded ones.
    """
    from sklearn import __version__  # only here: it takes a second to import and most runs never need it
    from sklearn.datasets import load_digits

    raw = load_digits()
    images = as_bytes(raw.images)[:, None]
    labels = raw.target.astype(np.uint8)
    found = arrays_sha256(images, labels)
    if found != DIGITS_FILE.sha256:
        raise MissingDataError(
            f"the digits of scikit-learn {__version__} are not the recorded ones: expected images and labels with "
            f"SHA-256 {DIGITS_FILE.sha256}, found {found}. Install another release of scikit-learn"
        )
    ordered = in_balanced_order(RawSplit(images, labels))
    begin, splits = 0, {}
    for split in ("test", "validation", "train"):
        part = slice(begin, begin + SIZES[split])
        splits[split] = RawSplit(ordered.images[part], ordered.labels[part])
        begin = part.stop
    return splits


def as_bytes(pixels: np.ndarray) -> np.ndarray:
    """Pixels of 0 to 16 as bytes of 0 to 255, to the nearest whole number, a half upwards."""
    return ((pixels.astype(np.int64) * 255 + DARKEST // 2) // DARKEST).astype(np.uint8)


def arrays_sha256(images: np.ndarray, labels: np.ndarray) -> str:
    """SHA-256 (hex) of the images' bytes followed by the labels': of what is decoded, however it was packed."""
    return hashlib.sha256(images.tobytes() + labels.tobytes()).hexdigest()


DIGITS_FILE = DataFile("digits", "a19cb3d96bba7deace8ee5a513a6eb7bad0403d528f00bf4d351b6a7a55baa91")
DIGITS = Dataset(
    image_shape=(1, 8, 8),
    class_names=tuple("0123456789"),
    sizes=SIZES,
    mean=(0.3060,),
    std=(0.3764,),
    read=read_digits,
    source=Source((DIGITS_FILE,), package="scikit-learn"),
)
