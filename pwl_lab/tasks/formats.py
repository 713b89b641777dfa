"""Files of images: IDX (the format of MNIST and Fashion-MNIST), NPZ with reproducible bytes, checksums of contents."""

import gzip
import hashlib
import io
import math
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from pwl_lab.support.errors import InvalidValueError, MissingDataError
from pwl_lab.support.files import is_file, new_file, readable

GZIP_MAGIC = b"\x1f\x8b"
IDX_UINT8 = 0x08  # the third byte of an IDX file names the element type; images and labels are unsigned bytes
ZIP_DATE = (1980, 1, 1, 0, 0, 0)  # the earliest date a zip can hold: the same arrays must give the same bytes


def content(path: Path) -> bytes:
    """What the file holds, unpacked if it is gzipped (told by its first bytes, not by its name).

    Raises MissingDataError if there is no such file, or if it is a gzip file that is cut short or damaged; UnreadableError
    for one that cannot be read.
    """
    if not is_file(path):
        raise MissingDataError(f"{path} is missing")
    with readable(path):
        raw = path.read_bytes()
    if not raw.startswith(GZIP_MAGIC):
        return raw
    try:
        return gzip.decompress(raw)
    except (EOFError, OSError, zlib.error) as error:
        raise MissingDataError(f"{path} is damaged: not a complete gzip file ({error})") from error


def sha256(path: Path) -> str:
    """SHA-256 (hex) of the file's unpacked content, so that a plain and a gzipped copy have the same one.

    Raises MissingDataError as `content` does.
    """
    return hashlib.sha256(content(path)).hexdigest()


def read_idx(path: Path, n_dims: int) -> UInt8[np.ndarray, "..."]:
    """The array of unsigned bytes in an IDX file, plain or gzipped: 1 dimension for labels, 3 for grey images.

    Raises MissingDataError if the file is missing or damaged; InvalidValueError, naming the file, what was expected
    and what was found, if it is no IDX file of `n_dims` dimensions of unsigned bytes or if its length is not what its
    header says.
    """
    data = content(path)
    magic, expected = data[:4], bytes((0, 0, IDX_UINT8, n_dims))
    if magic != expected:
        raise InvalidValueError(
            f"{path} is not an IDX file of {n_dims} dimensions of unsigned bytes: "
            f"expected it to begin with {expected.hex()}, found {magic.hex() or 'nothing'}"
        )
    start = 4 + 4 * n_dims
    if len(data) < start:
        raise InvalidValueError(f"{path} is cut short: expected a header of {start} bytes, found {len(data)} bytes")
    shape = tuple(int(size) for size in np.frombuffer(data, ">u4", count=n_dims, offset=4))
    if len(data) - start != math.prod(shape):
        raise InvalidValueError(
            f"{path} has the wrong length: expected {math.prod(shape)} bytes for shape {list(shape)}, "
            f"found {len(data) - start}"
        )
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape).copy()  # a copy can be written to; data cannot


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


def read_npz(path: Path, names: tuple[str, ...]) -> dict[str, np.ndarray]:
    """The arrays `names` of an NPZ file, never unpickling anything.

    Raises MissingDataError if the file is missing, damaged or holds pickled objects, and InvalidValueError if one of
    the arrays is not in it; UnreadableError for a file that cannot be read.
    """
    if not is_file(path):
        raise MissingDataError(f"{path} is missing")
    with readable(path):
        whole = path.read_bytes()  # what goes wrong from here on is the content's doing
    try:
        with np.load(io.BytesIO(whole), allow_pickle=False) as archive:
            absent = sorted(set(names) - set(archive.files))
            if absent:
                raise InvalidValueError(
                    f"{path}: expected the arrays {', '.join(names)}; found {', '.join(sorted(archive.files))}"
                )
            return {name: archive[name] for name in names}
    except InvalidValueError:
        raise  # it is a ValueError too, but already says what is wrong
    except (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise MissingDataError(f"{path} is damaged: not a readable NPZ of plain arrays ({error})") from error
