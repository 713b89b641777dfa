"""Data files: reading IDX, checksums, looking for files, and downloading them (over the loopback)."""

import functools
import gzip
import hashlib
import runpy
from dataclasses import replace

import numpy as np
import pytest
from loopback import serving

from pwl_lab.support import paths
from pwl_lab.support.download import DataFile, DatasetFiles, content
from pwl_lab.support.errors import InvalidValueError, MissingDataError, UnknownNameError
from pwl_lab.tasks import datasets
from pwl_lab.tasks.images import ImageTask

NAME = "tiny-fashion"
SIZES = {"train": 30, "validation": 10, "test": 20}


def idx_bytes(array: np.ndarray) -> bytes:
    return bytes((0, 0, 8, array.ndim)) + np.array(array.shape, ">u4").tobytes() + array.tobytes()


def contents() -> dict[str, bytes]:
    """The four files of a small dataset in MNIST's layout."""
    random = np.random.default_rng(0)
    files = {}
    for part, n in (("train", 40), ("t10k", 20)):
        files[f"{part}-images-idx3-ubyte"] = idx_bytes(random.integers(0, 256, (n, 28, 28), dtype=np.uint8))
        files[f"{part}-labels-idx1-ubyte"] = idx_bytes(np.arange(n, dtype=np.uint8) % 10)
    return files


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """Registers a small dataset served over the loopback; gives the folder that is served."""
    for variable in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("PWL_LAB_DATA", str(tmp_path / "downloads"))
    served = tmp_path / "served"
    served.mkdir()
    files = []
    with serving(served) as url:
        for name, data in contents().items():
            packed = gzip.compress(data, mtime=0)
            (served / f"{name}.gz").write_bytes(packed)
            files.append(DataFile(name, digest(data), f"{url}{name}.gz", digest(packed)))
        entry = replace(
            datasets.dataset("fashion-mnist"),
            sizes=SIZES,
            read=functools.partial(datasets.read_mnist_like, n_validation=SIZES["validation"]),
            files=DatasetFiles(tuple(files), system_folders=(str(tmp_path / "system"),)),
        )
        monkeypatch.setitem(datasets.DATASETS, NAME, entry)
        yield served


@pytest.mark.parametrize("packed", [False, True])
def test_idx_files_are_read_plain_and_gzipped(tmp_path, packed):
    array = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    data = idx_bytes(array)
    path = tmp_path / "images"
    path.write_bytes(gzip.compress(data) if packed else data)
    read = datasets.read_idx(path, 3)
    assert np.array_equal(read, array)
    assert read.flags.writeable
    assert content(path) == data


GOOD = idx_bytes(np.zeros((2, 3, 4), np.uint8))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "found nothing"),
        (b"\x00\x00\x08\x01" + GOOD[4:], "expected it to begin with 00000803, found 00000801"),  # labels, not images
        (b"\x00\x00\x0d\x03" + GOOD[4:], "found 00000d03"),  # floats
        (b"PK\x03\x04" + GOOD[4:], "found 504b0304"),
        (GOOD[:10], "expected a header of 16 bytes, found 10"),
        (GOOD[:-1], r"expected 24 bytes for shape \[2, 3, 4\], found 23"),
        (GOOD + b"\x00", "found 25"),
    ],
)
def test_bad_idx_files_are_refused(tmp_path, data, words):
    path = tmp_path / "images"
    path.write_bytes(data)
    with pytest.raises(InvalidValueError, match=words) as caught:
        datasets.read_idx(path, 3)
    assert str(path) in str(caught.value)


def test_a_cut_or_missing_gzip_file_is_refused(tmp_path):
    path = tmp_path / "images.gz"
    path.write_bytes(gzip.compress(GOOD)[:-5])
    with pytest.raises(MissingDataError, match=r"images\.gz is damaged: it is not a complete gzip file"):
        datasets.read_idx(path, 3)
    with pytest.raises(MissingDataError, match="labels is missing"):
        datasets.read_idx(tmp_path / "labels", 1)


def test_npz_bytes_depend_on_the_arrays_alone(tmp_path):
    write_npz = runpy.run_path(str(paths.root() / "scripts" / "make_fashion_mnist_small.py"))["write_npz"]
    arrays = {"images": np.arange(100, dtype=np.uint8), "labels": np.ones(3, np.uint8)}
    for name in ("a.npz", "b.npz"):
        write_npz(tmp_path / name, arrays)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    with np.load(tmp_path / "a.npz") as read:
        assert all(np.array_equal(read[name], arrays[name]) for name in arrays)
    with pytest.raises(ValueError, match="Object arrays"):
        write_npz(tmp_path / "c.npz", {"good": np.ones(3), "bad": np.array([None])})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.npz", "b.npz"]


def test_the_bundled_set_is_there_and_is_what_was_recorded():
    assert datasets.fetch("fashion-mnist-small") == paths.data()
    with pytest.raises(UnknownNameError, match="Did you mean 'fashion-mnist'"):
        datasets.fetch("fashion-mnst")


def test_a_changed_or_missing_bundle_is_refused(tmp_path):
    with pytest.raises(MissingDataError, match=r"fashion-mnist-small\.npz .*is missing; searched"):
        datasets.fetch("fashion-mnist-small", tmp_path)
    data = bytearray((paths.data() / datasets.BUNDLE).read_bytes())
    data[1000] ^= 1
    (tmp_path / datasets.BUNDLE).write_bytes(data)
    with pytest.raises(MissingDataError) as caught:
        ImageTask(folder=tmp_path).split("test")
    for part in (str(tmp_path / datasets.BUNDLE), datasets.BUNDLE_FILE.sha256, digest(bytes(data)), "git"):
        assert part in str(caught.value)


def test_a_download_is_checked_kept_and_used(tiny, tmp_path):
    folder = datasets.fetch(NAME)
    assert folder == tmp_path / "downloads" / NAME
    assert sorted(path.name for path in folder.iterdir()) == sorted(f"{name}.gz" for name in contents())
    task = ImageTask(NAME)
    assert {split: len(task.split(split)) for split in SIZES} == SIZES
    assert next(task.batches(0, 30)).inputs.shape == (30, 1, 28, 28)
    for path in tiny.iterdir():
        path.unlink()  # the second time nothing is asked of the server
    assert datasets.fetch(NAME) == folder


def test_a_download_with_another_checksum_is_not_kept(tiny, tmp_path):
    name = "t10k-images-idx3-ubyte.gz"
    (tiny / name).write_bytes((tiny / name).read_bytes()[:-20])
    with pytest.raises(
        MissingDataError, match=f"{name} was not found in .*downloading http.* failed: SHA256 hash"
    ) as caught:
        datasets.fetch(NAME)
    assert str(tmp_path / "system") in str(caught.value)
    kept = [path.name for path in (tmp_path / "downloads" / NAME).iterdir()]
    assert sorted(kept) == ["train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"]  # what came before it


def test_a_file_that_the_server_has_not_is_named(tiny, tmp_path):
    (tiny / "train-images-idx3-ubyte.gz").unlink()
    with pytest.raises(MissingDataError, match=r"train-images-idx3-ubyte\.gz failed: 404.*Put train-images"):
        datasets.fetch(NAME)
    assert not list((tmp_path / "downloads").rglob("*ubyte*"))


def test_a_damaged_download_is_set_aside_and_made_again(tiny, caplog):
    folder = datasets.fetch(NAME)
    damaged = folder / "t10k-labels-idx1-ubyte.gz"
    good = damaged.read_bytes()
    damaged.write_bytes(good[:-9])
    assert datasets.fetch(NAME) == folder
    assert damaged.read_bytes() == good
    assert damaged.with_name(f"{damaged.name}.damaged").is_file()
    assert f"{damaged} does not have the recorded checksum" in caplog.text


@pytest.mark.parametrize("where", ["given", "system"])
def test_files_that_are_there_are_not_downloaded(tiny, tmp_path, where):
    folder = tmp_path / where
    folder.mkdir()
    for name, data in contents().items():
        (folder / name).write_bytes(data)  # plain, unlike those of the server
    assert datasets.fetch(NAME, folder if where == "given" else None) == folder
    assert len(ImageTask(NAME, folder=folder).split("train")) == SIZES["train"]
    assert not (tmp_path / "downloads").exists()


@pytest.mark.parametrize("where", ["given", "system"])
def test_files_that_are_there_but_wrong_are_refused(tiny, tmp_path, where):
    folder = tmp_path / where
    folder.mkdir()
    for name, data in contents().items():
        (folder / name).write_bytes(data + b"!")
    with pytest.raises(MissingDataError, match="train-images-idx3-ubyte is not the expected file: expected content"):
        datasets.fetch(NAME, folder if where == "given" else None)


def test_a_given_folder_is_the_only_one_searched(tiny, tmp_path):
    with pytest.raises(MissingDataError, match=f"train-images-idx3-ubyte.* of {NAME} is missing; searched {tmp_path}"):
        datasets.fetch(NAME, tmp_path)


def test_labels_and_images_must_be_as_many(tmp_path):
    for name, data in (contents() | {"t10k-labels-idx1-ubyte": idx_bytes(np.zeros(3, np.uint8))}).items():
        (tmp_path / name).write_bytes(data)
    with pytest.raises(InvalidValueError, match="expected as many t10k labels as images, found 3 and 20"):
        datasets.read_mnist_like(tmp_path)
