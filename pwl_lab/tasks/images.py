"""Image classification as a `Task`: normalised, augmented batches from the datasets in `datasets.py`."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from pwl_lab.support import config
from pwl_lab.support.errors import MissingDataError, invalid, unknown
from pwl_lab.support.resuming import Stream
from pwl_lab.support.seeding import TEACHER, generator
from pwl_lab.tasks import datasets
from pwl_lab.tasks.augment import Augmentation
from pwl_lab.tasks.base import Batch, Normalisation, Task, check_images, sent
from pwl_lab.tasks.checks import check_batch_size, check_count, check_n_train

SPLIT_RECIPE = 1  # raise it when the way images are assigned to splits or drawn into batches changes
SUBSET_RECIPE = 2  # raise it when `n_train` would pick other images


@dataclass(frozen=True)
class ImageTask(Task):
    """Which of `n_classes` classes does the image show? Inputs are normalised over the training images.

    Creating one is instant: the images are read, and checked against their recorded SHA-256, at the first use, once
    per process.

    Arguments:

    - `name`: a dataset of `datasets.DATASETS`; the task keeps its entry, with the code that reads it.
    - `n_train`: the number of training images, class-balanced; None uses all.
    - `augment`: random changes to training batches.
    - `folder`: where the dataset's files are; None looks where `datasets.fetch` does.
    - `subset_seed`: chooses the `n_train` images.

    Raises at once: UnknownNameError for an unknown dataset, InvalidValueError for a bad `n_train`, augmentation or
    `subset_seed`, MissingDataError if `folder` is not a folder. Errors in the files themselves are raised when they
    are first used (see `datasets.fetch`).
    """

    name: str = "fashion-mnist-small"
    n_train: int | None = None
    augment: Augmentation = field(default_factory=Augmentation)
    folder: str | Path | None = None
    subset_seed: int = 0
    input_shape: tuple[int, ...] = field(init=False, repr=False, compare=False)  # channels, height, width
    n_classes: int = field(init=False, repr=False, compare=False)
    class_names: tuple[str, ...] = field(init=False, repr=False, compare=False)
    normalisation: Normalisation = field(init=False, repr=False, compare=False)
    entry: datasets.Dataset = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Check the arguments and take the rest from the registry."""
        entry = datasets.dataset(self.name)
        if not isinstance(self.augment, Augmentation):
            raise invalid("augment", self.augment, "an Augmentation, e.g. Augmentation.none()")
        if self.folder is not None and not Path(self.folder).is_dir():
            raise MissingDataError(f"folder = {str(self.folder)!r} is not a folder")
        n_train = check_n_train(self.n_train, entry.sizes["train"], self.name)
        values = {
            "n_train": None if n_train == entry.sizes["train"] else n_train,  # asking for all of them is the default
            "subset_seed": check_count("subset_seed", self.subset_seed, 0),
            "input_shape": entry.image_shape,
            "n_classes": len(entry.class_names),
            "class_names": entry.class_names,
            "normalisation": Normalisation(entry.mean, entry.std),
            "entry": entry,  # other processes do not know a name of the reader's own, and a name would hide an edit
        }
        for name, value in values.items():
            object.__setattr__(self, name, value)  # the dataclass is frozen otherwise

    def size(self, split: str) -> int:
        """The number of images in a split. Raises UnknownNameError for an unknown split."""
        sizes = self.entry.sizes
        if split not in sizes:
            raise unknown("split", split, sizes)
        return self.n_train if split == "train" and self.n_train is not None else sizes[split]

    def steps_per_epoch(self, batch_size: int) -> int:
        """The number of full batches in one pass over the training images; the images left over are skipped.

        Raises InvalidValueError unless `batch_size` is from 1 to the number of training images.
        """
        n_train = self.size("train")
        check_batch_size(batch_size, n_train)
        return n_train // batch_size

    def batches(self, seed: int, batch_size: int, device: str = "cpu", role: str = TEACHER) -> Iterator[Batch]:
        """An endless stream of augmented training batches: inputs [batch_size, *input_shape], labels [batch_size].

        Each epoch has `steps_per_epoch` batches in a new order (stream `order`) without repeating an image; the stream
        `augment` drives the augmentation. Both are drawn for `role`. Raises InvalidValueError if `batch_size` is bad.
        """
        order, augment = generator(seed, "order", role), generator(seed, "augment", role)
        steps, where = self.steps_per_epoch(batch_size), config.device(device)
        images, labels = (part.to(where) for part in self._split("train"))

        def draw(rest: Tensor | None) -> tuple[Batch, Tensor]:
            if rest is None or not len(rest):  # the next epoch
                rest = torch.randperm(len(labels), generator=order)[: steps * batch_size].view(steps, batch_size)
            picked = sent(rest[0], where)
            return Batch(self.augment.apply(self.normalise(images[picked]), augment), labels[picked]), rest[1:]

        return Stream(draw, order, augment)

    def split(self, name: str, device: str = "cpu") -> Batch:
        """The whole split `train`, `validation` or `test`, never augmented. Raises UnknownNameError for other names."""
        where = config.device(device)
        images, labels = (part.to(where) for part in self._split(name))
        return Batch(self.normalise(images), labels)

    def sample(self, n: int, split: str = "test") -> tuple[UInt8[Tensor, "n height width *colours"], Batch]:
        """The first `n` images of a split (class-balanced), both as bytes to show and as a batch for a network.

        Grey images have shape [n, height, width], colour images [n, height, width, 3]. Raises InvalidValueError if the
        split has fewer images.
        """
        check_count("n", n, 1, self.size(split), f", the size of the split {split}")
        images, labels = (part[:n].clone() for part in self._split(split))
        shown = images[:, 0] if images.shape[1] == 1 else images.permute(0, 2, 3, 1).contiguous()
        return shown, Batch(self.normalise(images), labels)

    def normalise(self, images: Tensor) -> Float[Tensor, "batch channels height width"]:
        """Bytes [batch, *input_shape] as floats with mean 0 and standard deviation 1 over the training pixels.

        Raises InvalidValueError for images of another type or shape (hence the loose annotation).
        """
        check_images(images, self.input_shape)
        return standardise(images, *self.normalisation)

    def fingerprint(self) -> dict[str, Any]:
        """Everything that determines the data, as JSON values: of files the checksums, not the location."""
        return {
            "task": "images",
            "name": self.name,
            "recipe": SPLIT_RECIPE,
            "sizes": {split: self.size(split) for split in self.entry.sizes},
            "subset_seed": None if self.n_train is None else {"seed": self.subset_seed, "recipe": SUBSET_RECIPE},
            "augment": self.augment.model_dump(mode="json"),
            "normalisation": {name: list(part) for name, part in self.normalisation._asdict().items()},
            "files": {file.name: file.sha256 for file in self.entry.files.members},
        }

    def _split(self, name: str) -> tuple[UInt8[Tensor, "n channels height width"], Int[Tensor, " n"]]:
        """A split as tensors that share memory with `datasets.load`: do not write to them."""
        self.size(name)  # raises for an unknown split before anything is read
        raw = datasets.load(self.name, self.folder, self.entry)[name]
        if name == "train" and self.n_train is not None:
            raw = raw[datasets.balanced_order(raw.labels, self.subset_seed, "subset")[: self.n_train]]
        return torch.from_numpy(raw.images), torch.from_numpy(raw.labels).long()


def standardise(
    images: UInt8[Tensor, "batch channels *positions"], mean: Sequence[float], std: Sequence[float]
) -> Float[Tensor, "batch channels *positions"]:
    """Bytes to floats, `(value / 255 - mean) / std` per channel."""
    shape = (1, -1) + (1,) * (images.ndim - 2)  # [1, channels, 1, ...]
    middle, width = (sent(torch.tensor(part).view(shape) * 255, images.device) for part in (mean, std))
    return images.float().sub_(middle).div_(width)
