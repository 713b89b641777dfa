"""The image data sets: what each is made of, where its files come from, and its three splits as raw arrays.

A new data set is one more entry in `DATASETS`: its shape, classes, sizes, files with checksums, and a reader that
turns a folder of verified files into splits.
"""

import functools
from pathlib import Path

from pwl_lab.errors import InvalidValueError, unknown
from pwl_lab.tasks.cifar import CIFAR_10, CIFAR_100
from pwl_lab.tasks.digits import DIGITS
from pwl_lab.tasks.files import DataFile, Source, find, obtain
from pwl_lab.tasks.idx import read_idx, read_npz
from pwl_lab.tasks.splits import SPLITS, Dataset, RawSplit, balanced_order, check_split, hold_out

__all__ = [
    "BUNDLE",
    "BUNDLE_FILE",
    "DATASETS",
    "SPLITS",
    "Dataset",
    "RawSplit",
    "balanced_order",
    "check_split",
    "dataset",
    "fetch",
    "load",
    "read_bundle",
    "read_mnist_like",
]


def read_mnist_like(folder: Path, n_validation: int = 5_000) -> dict[str, RawSplit]:
    """The splits (see `hold_out`) from the four IDX files of a data set in MNIST's layout, grey 8-bit images.

    Raises as `read_idx` does.
    """
    raw = []
    for part in ("train", "t10k"):
        names = {3: f"{part}-images-idx3-ubyte", 1: f"{part}-labels-idx1-ubyte"}
        images, labels = (read_idx(find(folder, name) or folder / name, dims) for dims, name in names.items())
        if len(images) != len(labels):
            raise InvalidValueError(
                f"{folder}: expected as many {part} labels as images, found {len(labels)} and {len(images)}"
            )
        raw.append(RawSplit(images[:, None], labels))
    return hold_out(*raw, n_validation)


def read_bundle(folder: Path) -> dict[str, RawSplit]:
    """The splits from the bundled NPZ: arrays `SPLIT_images` [n, height, width] and `SPLIT_labels` [n] of bytes."""
    names = tuple(f"{split}_{what}" for split in SPLITS for what in ("images", "labels"))
    arrays = read_npz(folder / BUNDLE, names)
    return {split: RawSplit(arrays[f"{split}_images"][:, None], arrays[f"{split}_labels"]) for split in SPLITS}


def dataset(name: str) -> Dataset:
    """The registry's entry `name`. Raises UnknownNameError naming the nearest one."""
    if name not in DATASETS:
        raise unknown("dataset", name, DATASETS)
    return DATASETS[name]


def fetch(name: str, folder: str | Path | None = None) -> Path:
    """Make a data set available on this machine, check its files, and return the folder that holds them.

    What is bundled, or comes with an installed package, is only checked. Otherwise the files are taken from `folder` if
    it is given, else from the operating system's folder or an earlier download, and are downloaded if they are in
    neither. Where they come in an archive, `folder` may hold that archive instead; it is then unpacked among the downloads.
    Raises UnknownNameError for an unknown data set; MissingDataError, naming the file, for one that is missing or
    cannot be downloaded, or whose checksum is not the recorded one; InvalidValueError for an archive that is not safe to
    unpack, and for a `folder` where the data comes with a package.
    """
    entry = dataset(name)
    place = obtain(name, entry.source, None if folder is None else Path(folder))
    if entry.source.package:
        entry.read(place)  # the checksum is that of the arrays, so only reading them checks it
    return place


@functools.cache
def _load(entry: Dataset, name: str, folder: str | None) -> dict[str, RawSplit]:
    """The splits, read and checked once a process for each place they are read from."""
    splits = entry.read(fetch(name, folder))
    for split, raw in splits.items():
        check_split(f"{name}: {split}", entry, raw, entry.sizes[split])
    return splits


def load(name: str, folder: str | Path | None = None) -> dict[str, RawSplit]:
    """The three splits of a data set as bytes. They are shared: do not write to them.

    Raises as `fetch` does, and InvalidValueError for arrays of the wrong type, shape or size.
    """
    return _load(dataset(name), name, None if folder is None else str(folder))


BUNDLE = "fashion-mnist-small.npz"
BUNDLE_FILE = DataFile(BUNDLE, "0fc0ccc6010cbdcb490d371220c773b800c8ba7130584edfffbc3f2da17bc782")
FASHION_URL = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
FASHION_CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
FASHION_FILES = tuple(
    DataFile(name, content, f"{FASHION_URL}{name}.gz", gzipped)
    for name, content, gzipped in (
        (
            "train-images-idx3-ubyte",
            "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
            "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
        ),
        (
            "train-labels-idx1-ubyte",
            "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
            "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
        ),
        (
            "t10k-images-idx3-ubyte",
            "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
            "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
        ),
        (
            "t10k-labels-idx1-ubyte",
            "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
            "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
        ),
    )
)

DATASETS: dict[str, Dataset] = {
    "fashion-mnist-small": Dataset(
        image_shape=(1, 28, 28),
        class_names=FASHION_CLASSES,
        sizes={"train": 10_000, "validation": 2_000, "test": 2_000},
        mean=(0.2868,),
        std=(0.3536,),
        read=read_bundle,
        source=Source((BUNDLE_FILE,), bundled=True),
    ),
    "fashion-mnist": Dataset(
        image_shape=(1, 28, 28),
        class_names=FASHION_CLASSES,
        sizes={"train": 55_000, "validation": 5_000, "test": 10_000},
        mean=(0.2860,),
        std=(0.3530,),
        read=read_mnist_like,
        source=Source(FASHION_FILES, system_folders=("/usr/share/datasets/fashion-mnist",)),
    ),
    "cifar-10": CIFAR_10,
    "cifar-100": CIFAR_100,
    "digits": DIGITS,
}
