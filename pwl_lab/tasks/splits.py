"""What every image data set has: its three splits as raw arrays, the order they are in, and an entry that describes it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from pwl_lab.errors import InvalidValueError, invalid
from pwl_lab.seeding import TEACHER, numpy_generator
from pwl_lab.tasks.files import Source

SPLITS = ("train", "validation", "test")
SPLIT_SEED = 0  # draws which images validate; a constant, because every run must hold out the same ones


@dataclass(frozen=True)
class RawSplit:
    """Images as bytes (0 to 255) with their class indices."""

    images: np.ndarray  # [n, channels, height, width]; types and shapes are what `check_split` is for
    labels: np.ndarray  # [n]


@dataclass(frozen=True, eq=False)
class Dataset:
    """An entry of the registry. Mean and standard deviation are those of the training pixels in [0, 1], per channel."""

    image_shape: tuple[int, int, int]  # channels, height, width
    class_names: tuple[str, ...]
    sizes: dict[str, int]  # images in each split
    mean: tuple[float, ...]
    std: tuple[float, ...]
    read: Callable[[Path], dict[str, RawSplit]]  # from the folder that holds its files
    source: Source


def balanced_order(labels: UInt8[np.ndarray, " n"], seed: int, role: str = TEACHER) -> np.ndarray:
    """A random order of the n samples in which every prefix is as class-balanced as the classes' sizes allow.

    The classes take turns; within a class, and within a round of turns, the order is random (stream `data`, drawn as `role`).
    """
    shuffled = numpy_generator(seed, "data", role).permutation(len(labels))
    turn = np.empty(len(labels), dtype=np.int64)
    for label in np.unique(labels):
        members = shuffled[labels[shuffled] == label]
        turn[members] = np.arange(len(members))
    return shuffled[np.argsort(turn[shuffled], kind="stable")]


def in_balanced_order(raw: RawSplit) -> RawSplit:
    """The same images in the one balanced order that every run sees (`SPLIT_SEED`)."""
    order = balanced_order(raw.labels, SPLIT_SEED)
    return RawSplit(raw.images[order], raw.labels[order])


def hold_out(train: RawSplit, test: RawSplit, n_validation: int) -> dict[str, RawSplit]:
    """The three splits of a data set that comes with two: official training and official test images.

    Validation is the first `n_validation` of the official training images in a fixed balanced order, training the
    rest, test the official test images in a balanced order.
    """
    train = in_balanced_order(train)
    return {
        "train": RawSplit(train.images[n_validation:], train.labels[n_validation:]),
        "validation": RawSplit(train.images[:n_validation], train.labels[:n_validation]),
        "test": in_balanced_order(test),
    }


def check_split(what: str, entry: Dataset, raw: RawSplit, size: int) -> None:
    """Refuse (InvalidValueError) what is not `size` images of bytes in the data set's shape with labels that it has."""
    if raw.images.dtype != np.uint8 or raw.labels.dtype != np.uint8:
        found = f"{raw.images.dtype} and {raw.labels.dtype}"
        raise InvalidValueError(f"{what}: expected images and labels of type uint8, found {found}")
    if raw.images.shape != (size, *entry.image_shape):
        expected = [size, *entry.image_shape]
        raise InvalidValueError(f"{what}: expected images of shape {expected}, found {list(raw.images.shape)}")
    if raw.labels.shape != (size,):
        raise InvalidValueError(f"{what}: expected labels of shape {[size]}, found {list(raw.labels.shape)}")
    if size and int(raw.labels.max()) >= len(entry.class_names):
        raise invalid(f"{what}: label", int(raw.labels.max()), f"from 0 to {len(entry.class_names) - 1}")
