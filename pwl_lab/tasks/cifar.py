"""CIFAR-10 and CIFAR-100 in their binary version, which needs no pickle: 32x32 coloured images in records of bytes."""

import functools
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from pwl_lab.errors import InvalidValueError
from pwl_lab.tasks.archives import Archive
from pwl_lab.tasks.files import DataFile, Source, find
from pwl_lab.tasks.idx import content
from pwl_lab.tasks.splits import Dataset, RawSplit, hold_out

SHAPE = (3, 32, 32)  # red, green and blue plane, each row by row
PIXEL_BYTES = 3 * 32 * 32


def read_records(
    path: Path, label_bytes: int
) -> tuple[UInt8[np.ndarray, "n label_bytes"], UInt8[np.ndarray, "n 3 32 32"]]:
    """The labels and images of a file of records: `label_bytes` bytes of labels, then 3,072 bytes of pixels, each.

    Raises MissingDataError if the file is missing or a damaged gzip file; InvalidValueError, naming the file, what was
    expected and what was found, if it is empty or its length is not a whole number of records.
    """
    data = np.frombuffer(content(path), np.uint8)
    size = label_bytes + PIXEL_BYTES
    if not len(data) or len(data) % size:
        raise InvalidValueError(
            f"{path} has the wrong length: expected a whole number of records of {size} bytes "
            f"({label_bytes} of labels, {PIXEL_BYTES} of pixels), found {len(data)} bytes"
        )
    records = data.reshape(-1, size)
    return records[:, :label_bytes].copy(), records[:, label_bytes:].reshape(-1, *SHAPE).copy()


def read_cifar(
    folder: Path, train: tuple[str, ...], test: tuple[str, ...], label_bytes: int, n_validation: int = 5_000
) -> dict[str, RawSplit]:
    """The splits (see `hold_out`) from the files named `train` and `test`. Of several labels the last, finest one counts.

    Raises as `read_records` does.
    """
    parts = []
    for names in (train, test):
        labels, images = zip(
            *(read_records(find(folder, name) or folder / name, label_bytes) for name in names), strict=True
        )
        parts.append(RawSplit(np.concatenate(images), np.concatenate(labels)[:, -1]))
    return hold_out(*parts, n_validation)


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

# Where the checksums are published is told in data/README.md.
CIFAR_10_ARCHIVE = Archive(
    "cifar-10-binary.tar.gz",
    f"{CIFAR_URL}cifar-10-binary.tar.gz",
    "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
    folder="cifar-10-batches-bin",
    max_bytes=200_000_000,
)
CIFAR_10_FILES = (
    DataFile("data_batch_1.bin", "cee916563c9f80d84e3cc88e17fdc0941787f1244f00a67874d45b261883ada5"),
    DataFile("data_batch_2.bin", "a591ca11fa1708a91ee40f54b3da4784ccd871ecf2137de63f51ada8b3fa57ed"),
    DataFile("data_batch_3.bin", "bbe8596564c0f86427f876058170b84dac6670ddf06d79402899d93ceea26f67"),
    DataFile("data_batch_4.bin", "014e562d6e23c72197cc727519169a60359f5eccd8945ad5a09d710285ff4e48"),
    DataFile("data_batch_5.bin", "755304fc0b379caeae8c14f0dac912fbc7d6cd469eb67a1029a08a39453a9add"),
    DataFile("test_batch.bin", "8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b"),
)
CIFAR_100_ARCHIVE = Archive(
    "cifar-100-binary.tar.gz",
    f"{CIFAR_URL}cifar-100-binary.tar.gz",
    "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
    folder="cifar-100-binary",
    max_bytes=200_000_000,
)
CIFAR_100_FILES = (
    DataFile("train.bin", "f31298fc616915fa142368359df1c4ca2ae984d6915ca468b998a5ec6aeebf29"),
    DataFile("test.bin", "d8b1e6b7b3bee4020055f0699b111f60b1af1e262aeb93a0b659061746f8224a"),
)

# Mean and standard deviation are the commonly published ones, of all 50,000 official training images: the 5,000 that
# validate here are among them. They were not computed by us.
CIFAR_10 = Dataset(
    image_shape=SHAPE,
    class_names=CIFAR_10_CLASSES,
    sizes={"train": 45_000, "validation": 5_000, "test": 10_000},
    mean=(0.4914, 0.4822, 0.4465),
    std=(0.2470, 0.2435, 0.2616),
    read=functools.partial(
        read_cifar,
        train=tuple(f"data_batch_{number}.bin" for number in range(1, 6)),
        test=("test_batch.bin",),
        label_bytes=1,
    ),
    source=Source(CIFAR_10_FILES, archive=CIFAR_10_ARCHIVE),
)
CIFAR_100 = Dataset(
    image_shape=SHAPE,
    class_names=CIFAR_100_CLASSES,
    sizes={"train": 45_000, "validation": 5_000, "test": 10_000},
    mean=(0.5071, 0.4865, 0.4409),
    std=(0.2673, 0.2564, 0.2762),
    read=functools.partial(
        read_cifar, train=("train.bin",), test=("test.bin",), label_bytes=2
    ),  # coarse label, fine label
    source=Source(CIFAR_100_FILES, archive=CIFAR_100_ARCHIVE),
)
