"""Make data/fashion-mnist-small.npz from the four files of Fashion-MNIST, or check that it is what they give.

    python scripts/make_fashion_mnist_small.py [--source FOLDER]            writes data/fashion-mnist-small.npz
    python scripts/make_fashion_mnist_small.py [--source FOLDER] --check    rebuilds it aside and compares

Each split of the small set is the beginning of the same split of the full one (see `read_mnist_like` in
pwl_lab/tasks/datasets.py), so nothing that the small set holds out is trained on in the full one either. After a change
record the printed numbers in `DATASETS` in pwl_lab/tasks/datasets.py and in data/README.md.
"""

import argparse
import io
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from pwl_lab.support import paths
from pwl_lab.support.errors import PwlLabError
from pwl_lab.support.files import file_sha256, new_file
from pwl_lab.tasks import datasets

ZIP_DATE = (1980, 1, 1, 0, 0, 0)  # the earliest date a zip can hold: the same arrays must give the same bytes


def build(source: Path | None) -> dict[str, np.ndarray]:
    """The arrays of the small set, from the verified files of the full one."""
    full, sizes = datasets.load("fashion-mnist", source), datasets.dataset("fashion-mnist-small").sizes
    arrays = {}
    for split, size in sizes.items():
        arrays[f"{split}_images"] = full[split].images[:size, 0]
        arrays[f"{split}_labels"] = full[split].labels[:size]
    return arrays


def write_npz(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write a compressed NPZ whose bytes depend on the arrays alone (numpy's own holds the time of writing).

    The file appears whole or not at all: it is written beside its place and then renamed.
    """
    with new_file(path) as aside, zipfile.ZipFile(aside, "w") as archive:
        for name, array in arrays.items():
            entry = zipfile.ZipInfo(f"{name}.npy", date_time=ZIP_DATE)
            entry.create_system = 3  # Unix, wherever this runs
            entry.external_attr = 0o644 << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            buffer = io.BytesIO()
            np.lib.format.write_array(buffer, np.ascontiguousarray(array), version=(1, 0), allow_pickle=False)
            archive.writestr(entry, buffer.getvalue(), compresslevel=9)


def describe(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Print what has to be recorded."""
    pixels = arrays["train_images"] / 255
    print(f"SHA-256 {file_sha256(path)}, {path.stat().st_size} bytes")
    print(f"training pixels: mean {pixels.mean():.4f}, standard deviation {pixels.std():.4f}")
    for name, array in arrays.items():
        print(f"{name}: {array.dtype} {list(array.shape)}")


def check(arrays: dict[str, np.ndarray]) -> bool:
    """Whether the bundled file holds these arrays; its bytes may differ under another zlib, and that is said."""
    bundled = paths.data() / datasets.BUNDLE
    recorded = datasets.dataset("fashion-mnist-small").files.members[0].sha256
    with tempfile.TemporaryDirectory() as folder:
        rebuilt = Path(folder) / datasets.BUNDLE
        write_npz(rebuilt, arrays)
        sums = {"recorded": recorded, "bundled": file_sha256(bundled), "rebuilt": file_sha256(rebuilt)}
    for what, value in sums.items():
        print(f"{what:8} SHA-256 {value}")
    with np.load(bundled, allow_pickle=False) as present:
        same = all(np.array_equal(arrays[name], present[name]) for name in arrays)
    if sums["bundled"] != recorded:
        print("DIFFERENT: the bundled file does not have the recorded checksum")
        return False
    arrays_are = "identical" if same else "DIFFERENT"
    print("identical bytes" if sums["rebuilt"] == recorded else f"other bytes; arrays {arrays_are}")
    return same


def main() -> int:
    """Exit code 0 if the file was written or is what it should be."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--source", type=Path, help="folder of the four IDX files; by default they are found or downloaded"
    )
    parser.add_argument("--check", action="store_true", help="compare with the bundled file instead of writing it")
    options = parser.parse_args()
    try:
        arrays = build(options.source)
        if options.check:
            return 0 if check(arrays) else 1
        target = paths.data() / datasets.BUNDLE
        write_npz(target, arrays)
        describe(target, arrays)
    except PwlLabError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
