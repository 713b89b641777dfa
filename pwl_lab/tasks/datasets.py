"""The image datasets: what each contains, where its files come from, and its three splits as raw arrays.

To add a dataset, add an entry to `DATASETS`: its shape, classes, sizes, files with checksums, and a reader that turns
a folder of verified files into splits.
"""

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, SupportsIndex

import numpy as np
from jaxtyping import UInt8

from pwl_lab.support.download import Archive, DataFile, DatasetFiles, content, find, obtain
from pwl_lab.support.errors import InvalidValueError, MissingDataError, invalid, unknown
from pwl_lab.support.files import sha256
from pwl_lab.support.seeding import TEACHER, numpy_generator

SPLITS = ("train", "validation", "test")
SPLIT_SEED = 0  # chooses the validation images; a constant, because every run must hold out the same ones
IDX_UINT8 = 0x08  # the third byte of an IDX file names the element type; images and labels are unsigned bytes
BUNDLE = "fashion-mnist-small.npz"
CIFAR_SHAPE = (3, 32, 32)  # a red, a green and a blue plane, each row by row
DARKEST = 16  # the largest pixel value of the digits; the smallest is 0


@dataclass(frozen=True)
class RawSplit:
    """Images as bytes (0 to 255) with their class indices."""

    images: np.ndarray  # [n, channels, height, width]; `check_split` checks types and shapes
    labels: np.ndarray  # [n]

    def __getitem__(self, which: slice | np.ndarray) -> "RawSplit":
        """The selected images with their labels, in the order of the indices."""
        return RawSplit(self.images[which], self.labels[which])


@dataclass(frozen=True, eq=False)
class Dataset:
    """An entry of the registry. Mean and standard deviation are those of the training pixels in [0, 1], per channel."""

    image_shape: tuple[int, int, int]  # channels, height, width
    class_names: tuple[str, ...]
    sizes: dict[str, int]  # images in each split
    mean: tuple[float, ...]
    std: tuple[float, ...]
    read: Callable[[Path], dict[str, RawSplit]]  # from the folder that holds its files
    files: DatasetFiles

    def __reduce_ex__(self, protocol: SupportsIndex) -> str | tuple[Any, ...]:
        """An entry of ours is sent to another process by its name, so that it stays the one that is read there once."""
        name = next((name for name, entry in OURS.items() if entry is self), None)
        return (dataset, (name,)) if name else super().__reduce_ex__(protocol)


def balanced_order(labels: UInt8[np.ndarray, " n"], seed: int, role: str = TEACHER) -> np.ndarray:
    """A random order of the n samples in which every prefix is as class-balanced as the class sizes allow.

    The classes take turns; the order within a class, and within each round, is random (stream `data`, for `role`).
    """
    shuffled = numpy_generator(seed, "data", role).permutation(len(labels))
    turn = np.empty(len(labels), dtype=np.int64)
    for label in np.unique(labels):
        members = shuffled[labels[shuffled] == label]
        turn[members] = np.arange(len(members))
    return shuffled[np.argsort(turn[shuffled], kind="stable")]


def in_balanced_order(raw: RawSplit) -> RawSplit:
    """The same images in the balanced order that every run uses (`SPLIT_SEED`)."""
    return raw[balanced_order(raw.labels, SPLIT_SEED)]


def hold_out(train: RawSplit, test: RawSplit, n_validation: int) -> dict[str, RawSplit]:
    """Three splits from a dataset that comes with two, official training and official test images.

    The validation split is the first `n_validation` official training images in a fixed balanced order, the training
    split is the rest, and the test split is the official test images in a balanced order.
    """
    train = in_balanced_order(train)
    return {"train": train[n_validation:], "validation": train[:n_validation], "test": in_balanced_order(test)}


def check_split(what: str, entry: Dataset, raw: RawSplit, size: int) -> None:
    """Raise InvalidValueError unless `raw` has `size` images of the dataset's shape, as bytes, with valid labels."""
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


def read_idx(path: Path, n_dims: int) -> UInt8[np.ndarray, "..."]:
    """The array of unsigned bytes in an IDX file, plain or gzipped: 1 dimension for labels, 3 for grey images.

    Raises MissingDataError if the file is missing or damaged; InvalidValueError, naming the file, what was expected
    and what was found, if it is not an IDX file of unsigned bytes in `n_dims` dimensions or if its length does not
    match its header.
    """
    data = content(path)
    magic, expected = data[:4], bytes((0, 0, IDX_UINT8, n_dims))
    if magic != expected:
        raise InvalidValueError(
            f"{path} is not an IDX file of unsigned bytes in {n_dims} dimensions: "
            f"expected it to begin with {expected.hex()}, found {magic.hex() or 'nothing'}"
        )
    start = 4 + 4 * n_dims
    if len(data) < start:
        raise InvalidValueError(f"{path} is truncated: expected a header of {start} bytes, found {len(data)} bytes")
    shape = tuple(int(size) for size in np.frombuffer(data, ">u4", count=n_dims, offset=4))
    if len(data) - start != math.prod(shape):
        raise InvalidValueError(
            f"{path} has the wrong length: expected {math.prod(shape)} bytes for shape {list(shape)}, "
            f"found {len(data) - start}"
        )
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape).copy()  # a copy, because `data` is read-only


def read_mnist_like(folder: Path, n_validation: int = 5_000) -> dict[str, RawSplit]:
    """The splits (see `hold_out`) from the four IDX files of a dataset in MNIST's layout, grey 8-bit images.

    Raises as `read_idx` does.
    """

    def read(part: str) -> RawSplit:
        names = {3: f"{part}-images-idx3-ubyte", 1: f"{part}-labels-idx1-ubyte"}
        images, labels = (read_idx(find(folder, name) or folder / name, dims) for dims, name in names.items())
        if len(images) != len(labels):
            raise InvalidValueError(
                f"{folder}: expected as many {part} labels as images, found {len(labels)} and {len(images)}"
            )
        return RawSplit(images[:, None], labels)

    return hold_out(read("train"), read("t10k"), n_validation)


def read_padded(folder: Path, border: int) -> dict[str, RawSplit]:
    """As `read_mnist_like`, with a black border of so many pixels around each image."""
    sides = ((0, 0), (0, 0), (border, border), (border, border))
    splits = read_mnist_like(folder)
    return {name: RawSplit(np.pad(raw.images, sides), raw.labels) for name, raw in splits.items()}


def read_bundle(folder: Path) -> dict[str, RawSplit]:
    """The splits from the bundled NPZ: arrays `SPLIT_images` [n, height, width] and `SPLIT_labels` [n] of bytes."""
    with np.load(folder / BUNDLE, allow_pickle=False) as arrays:
        return {split: RawSplit(arrays[f"{split}_images"][:, None], arrays[f"{split}_labels"]) for split in SPLITS}


def read_records(
    path: Path, label_bytes: int
) -> tuple[UInt8[np.ndarray, "n label_bytes"], UInt8[np.ndarray, "n 3 32 32"]]:
    """The labels and images of a file of records, each `label_bytes` bytes of labels, then 3,072 bytes of pixels.

    Raises MissingDataError if the file is missing or a damaged gzip file; InvalidValueError, naming the file, what was
    expected and what was found, if it is empty or its length is not a whole number of records.
    """
    data = np.frombuffer(content(path), np.uint8)
    size = label_bytes + math.prod(CIFAR_SHAPE)
    if not len(data) or len(data) % size:
        raise InvalidValueError(
            f"{path} has the wrong length: expected a whole number of records of {size} bytes "
            f"({label_bytes} of labels, {math.prod(CIFAR_SHAPE)} of pixels), found {len(data)} bytes"
        )
    records = data.reshape(-1, size)
    return records[:, :label_bytes].copy(), records[:, label_bytes:].reshape(-1, *CIFAR_SHAPE).copy()


def read_cifar(
    folder: Path, train: tuple[str, ...], test: str, label_bytes: int, n_validation: int = 5_000
) -> dict[str, RawSplit]:
    """The splits (see `hold_out`) from the files of records named `train` and `test`.

    If a record has several labels, the last and finest one is used. Raises as `read_records` does.
    """

    def read(*names: str) -> RawSplit:
        parts = [read_records(find(folder, name) or folder / name, label_bytes) for name in names]
        labels, images = (np.concatenate(part) for part in zip(*parts, strict=True))
        return RawSplit(images, labels[:, -1])

    return hold_out(read(*train), read(test), n_validation)


def read_digits(folder: Path) -> dict[str, RawSplit]:
    """The splits of the 1,797 images in a fixed balanced order: test first, then validation, then training.

    `folder` is ignored: scikit-learn knows where its digits are. Raises MissingDataError if they are not the recorded
    ones.
    """
    from sklearn import __version__  # only here: it takes a second to import and most runs never need it
    from sklearn.datasets import load_digits

    raw = load_digits()
    images, labels = as_bytes(raw.images)[:, None], raw.target.astype(np.uint8)
    found = sha256(images.tobytes() + labels.tobytes())
    if found != DIGITS_FILE.sha256:
        raise MissingDataError(
            f"the digits in scikit-learn {__version__} are not the recorded ones: expected images and labels with "
            f"SHA-256 {DIGITS_FILE.sha256}, found {found}. Install another release of scikit-learn"
        )
    ordered = in_balanced_order(RawSplit(images, labels))
    test, validation = DIGITS.sizes["test"], DIGITS.sizes["validation"]
    return {
        "train": ordered[test + validation :],
        "validation": ordered[test : test + validation],
        "test": ordered[:test],
    }


def as_bytes(pixels: np.ndarray) -> np.ndarray:
    """Pixels from 0 to 16 as bytes from 0 to 255, rounded to the nearest whole number (halves up)."""
    return ((pixels.astype(np.int64) * 255 + DARKEST // 2) // DARKEST).astype(np.uint8)


def dataset(name: str) -> Dataset:
    """The entry `name` of the registry. Raises UnknownNameError, which suggests the nearest name."""
    if name not in DATASETS:
        raise unknown("dataset", name, DATASETS)
    return DATASETS[name]


def fetch(name: str, folder: str | Path | None = None, entry: Dataset | None = None) -> Path:
    """Make a dataset available on this machine, check its files, and return the folder that holds them.

    Data that is bundled, or comes with an installed package, is only checked. Otherwise the files are taken from
    `folder` if it is given, else from the operating system's folder or an earlier download, and are downloaded if they
    are in neither. `folder` may also hold the archive they come in, which is then unpacked into the downloads folder.

    Arguments:

    - `name`: a dataset of `DATASETS`, else UnknownNameError.
    - `folder`: the only place to look for the files. InvalidValueError if the data comes with a package.
    - `entry`: what to use under this name; None takes it from `DATASETS`.

    Raises MissingDataError, naming the file, if a file is missing, cannot be downloaded, or does not have the recorded
    checksum.
    """
    entry = entry or dataset(name)
    location = obtain(name, entry.files, None if folder is None else Path(folder))
    if entry.files.package:
        entry.read(location)  # the checksum covers the arrays, so they have to be read
    return location


_READ: dict[tuple[str, str | None], tuple[Dataset, dict[str, RawSplit]]] = {}  # by name and folder


def load(name: str, folder: str | Path | None = None, entry: Dataset | None = None) -> dict[str, RawSplit]:
    """The three splits of a dataset as bytes, read once per process. The arrays are shared: do not write to them.

    Arguments: as for `fetch`. Raises as `fetch` does, and InvalidValueError for arrays of the wrong type, shape or size.
    """
    entry, place = entry or dataset(name), (name, None if folder is None else str(folder))
    if place not in _READ or _READ[place][0] is not entry:  # a newer entry of this name takes the older one's place
        splits = entry.read(fetch(name, folder, entry))
        for split, raw in splits.items():
            check_split(f"{name}: {split}", entry, raw, entry.sizes[split])
        _READ[place] = entry, splits
    return _READ[place][1]


FASHION_NAMES = "T-shirt/top, Trouser, Pullover, Dress, Coat, Sandal, Shirt, Sneaker, Bag, Ankle boot"
FASHION_CLASSES = tuple(FASHION_NAMES.split(", "))
FASHION_URL = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
FASHION_FILES = {  # the SHA-256 of the content, and of the official .gz
    "train-images-idx3-ubyte": (
        "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
    ),
    "train-labels-idx1-ubyte": (
        "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
    ),
    "t10k-images-idx3-ubyte": (
        "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
    ),
    "t10k-labels-idx1-ubyte": (
        "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
        "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
    ),
}
CIFAR_URL = "https://www.cs.toronto.edu/~kriz/"
CIFAR_10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
FINE_NAMES = (  # in the order of the archive's fine_label_names.txt, which is alphabetical
    "apple, aquarium fish, baby, bear, beaver, bed, bee, beetle, bicycle, bottle, bowl, boy, bridge, bus, butterfly, "
    "camel, can, castle, caterpillar, cattle, chair, chimpanzee, clock, cloud, cockroach, couch, crab, crocodile, cup, "
    "dinosaur, dolphin, elephant, flatfish, forest, fox, girl, hamster, house, kangaroo, keyboard, lamp, lawn mower, "
    "leopard, lion, lizard, lobster, man, maple tree, motorcycle, mountain, mouse, mushroom, oak tree, orange, orchid, "
    "otter, palm tree, pear, pickup truck, pine tree, plain, plate, poppy, porcupine, possum, rabbit, raccoon, ray, "
    "road, rocket, rose, sea, seal, shark, shrew, skunk, skyscraper, snail, snake, spider, squirrel, streetcar, "
    "sunflower, sweet pepper, table, tank, telephone, television, tiger, tractor, train, trout, tulip, turtle, "
    "wardrobe, whale, willow tree, wolf, woman, worm"
)
CIFAR_100_CLASSES = tuple(FINE_NAMES.split(", "))


def _cifar(
    archive: str,
    archive_sha256: str,
    folder: str,
    files: Mapping[str, str],
    label_bytes: int,
    class_names: tuple[str, ...],
    mean: tuple[float, ...],
    std: tuple[float, ...],
) -> Dataset:
    """CIFAR-10 or CIFAR-100, binary version: `files` are the archive's files with their SHA-256, the test images last.

    Mean and standard deviation are the commonly published ones. They cover all 50,000 official training images,
    including the 5,000 used for validation here. data/README.md says where the checksums are published.
    """
    *train, test = files
    return Dataset(
        image_shape=CIFAR_SHAPE,
        class_names=class_names,
        sizes={"train": 45_000, "validation": 5_000, "test": 10_000},
        mean=mean,
        std=std,
        read=functools.partial(read_cifar, train=tuple(train), test=test, label_bytes=label_bytes),
        files=DatasetFiles(
            tuple(DataFile(name, sha256) for name, sha256 in files.items()),
            archive=Archive(CIFAR_URL + archive, archive_sha256, folder),
        ),
    )


BUNDLE_FILE = DataFile(BUNDLE, "0fc0ccc6010cbdcb490d371220c773b800c8ba7130584edfffbc3f2da17bc782")
DIGITS_FILE = DataFile("digits", "a19cb3d96bba7deace8ee5a513a6eb7bad0403d528f00bf4d351b6a7a55baa91")
DIGITS = Dataset(
    image_shape=(1, 8, 8),
    class_names=tuple("0123456789"),
    sizes={"train": 1_000, "validation": 297, "test": 500},
    mean=(0.3060,),
    std=(0.3764,),
    read=read_digits,
    files=DatasetFiles((DIGITS_FILE,), package="scikit-learn"),
)
DATASETS: dict[str, Dataset] = {
    "fashion-mnist-small": Dataset(
        image_shape=(1, 28, 28),
        class_names=FASHION_CLASSES,
        sizes={"train": 10_000, "validation": 2_000, "test": 2_000},
        mean=(0.2868,),
        std=(0.3536,),
        read=read_bundle,
        files=DatasetFiles((BUNDLE_FILE,), bundled=True),
    ),
    "fashion-mnist": Dataset(
        image_shape=(1, 28, 28),
        class_names=FASHION_CLASSES,
        sizes={"train": 55_000, "validation": 5_000, "test": 10_000},
        mean=(0.2860,),
        std=(0.3530,),
        read=read_mnist_like,
        files=DatasetFiles(
            tuple(
                DataFile(name, own, f"{FASHION_URL}{name}.gz", packed) for name, (own, packed) in FASHION_FILES.items()
            ),
            system_folders=("/usr/share/datasets/fashion-mnist",),
        ),
    ),
    "cifar-10": _cifar(
        "cifar-10-binary.tar.gz",
        "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
        folder="cifar-10-batches-bin",
        files={
            "data_batch_1.bin": "cee916563c9f80d84e3cc88e17fdc0941787f1244f00a67874d45b261883ada5",
            "data_batch_2.bin": "a591ca11fa1708a91ee40f54b3da4784ccd871ecf2137de63f51ada8b3fa57ed",
            "data_batch_3.bin": "bbe8596564c0f86427f876058170b84dac6670ddf06d79402899d93ceea26f67",
            "data_batch_4.bin": "014e562d6e23c72197cc727519169a60359f5eccd8945ad5a09d710285ff4e48",
            "data_batch_5.bin": "755304fc0b379caeae8c14f0dac912fbc7d6cd469eb67a1029a08a39453a9add",
            "test_batch.bin": "8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b",
        },
        label_bytes=1,
        class_names=CIFAR_10_CLASSES,
        mean=(0.4914, 0.4822, 0.4465),
        std=(0.2470, 0.2435, 0.2616),
    ),
    "cifar-100": _cifar(
        "cifar-100-binary.tar.gz",
        "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
        folder="cifar-100-binary",
        files={
            "train.bin": "f31298fc616915fa142368359df1c4ca2ae984d6915ca468b998a5ec6aeebf29",
            "test.bin": "d8b1e6b7b3bee4020055f0699b111f60b1af1e262aeb93a0b659061746f8224a",
        },
        label_bytes=2,  # coarse label, fine label
        class_names=CIFAR_100_CLASSES,
        mean=(0.5071, 0.4865, 0.4409),
        std=(0.2673, 0.2564, 0.2762),
    ),
    "digits": DIGITS,
}
# At the size that the papers' VGG needs: each of its five blocks halves the resolution.
DATASETS["fashion-mnist-32"] = replace(
    DATASETS["fashion-mnist"],
    image_shape=(1, 32, 32),
    mean=(0.2190,),
    std=(0.3318,),
    read=functools.partial(read_padded, border=2),
)
OURS = dict(DATASETS)  # what this package brings, whatever a reader registers
