"""CIFAR-10 and CIFAR-100 from small files and archives of the same format, also over the loopback."""

import functools
import gzip
import hashlib
import io
import tarfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from loopback import serving

from pwl_lab.support.download import DataFile
from pwl_lab.support.errors import InvalidValueError, MissingDataError
from pwl_lab.tasks import datasets
from pwl_lab.tasks import datasets as cifar
from pwl_lab.tasks.augment import Augmentation
from pwl_lab.tasks.images import ImageTask

SIZES = {"train": 30, "validation": 20, "test": 20}
N_CLASSES = {"cifar-10": 10, "cifar-100": 100}
LABEL_BYTES = {"cifar-10": 1, "cifar-100": 2}
both = pytest.mark.parametrize("name", list(N_CLASSES))


def record_bytes(labels, images):
    """Records as the published files hold them, written one by one."""
    return b"".join(bytes(label) + image.tobytes() for label, image in zip(labels.tolist(), images, strict=True))


def records(n, label_bytes, n_classes=10, seed=0):
    random = np.random.default_rng(seed)
    labels = np.arange(n)[:, None] % n_classes // np.array([20, 1])[-label_bytes:]  # coarse label, fine label
    return labels.astype(np.uint8), random.integers(0, 256, (n, 3, 32, 32), dtype=np.uint8)


def contents(name):
    """The files of a small dataset: 50 training images, 20 test images."""
    names = [file.name for file in datasets.dataset(name).files.members]
    each = 50 // (len(names) - 1)
    numbers = dict(enumerate(names))
    return {
        file: record_bytes(*records(20 if i == len(names) - 1 else each, LABEL_BYTES[name], 10, seed=i))
        for i, file in numbers.items()
    }


def digest(data):
    return hashlib.sha256(data).hexdigest()


def pack(files, folder):
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for name, data in {**files, "readme.html": b"<p>"}.items():
            info = tarfile.TarInfo(f"{folder}/{name}")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return packed.getvalue()


def entry_of(name, archive, url, files):
    """The registry's entry, for small files with checksums of their own."""
    entry = datasets.dataset(name)
    published = replace(entry.files.archive, url=f"{url}{entry.files.archive.name}", sha256=digest(archive))
    members = tuple(DataFile(file, digest(data)) for file, data in files.items())
    read = functools.partial(entry.read.func, **entry.read.keywords, n_validation=SIZES["validation"])
    return replace(entry, sizes=SIZES, read=read, files=replace(entry.files, members=members, archive=published))


@pytest.fixture
def small(tmp_path, monkeypatch, request):
    """A small CIFAR served over the loopback in place of the published one: cifar-10 unless the test asks for others."""
    for variable in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    downloads, served = tmp_path / "downloads", tmp_path / "served"
    monkeypatch.setenv("PWL_LAB_DATA", str(downloads))
    served.mkdir()
    name = request.node.callspec.params.get("name", "cifar-10") if hasattr(request.node, "callspec") else "cifar-10"
    files, archive = contents(name), datasets.dataset(name).files.archive
    packed = pack(files, archive.folder)
    (served / archive.name).write_bytes(packed)
    with serving(served) as url:
        monkeypatch.setitem(datasets.DATASETS, name, entry_of(name, packed, url, files))
        yield SimpleNamespace(name=name, files=files, archive=served / archive.name, downloads=downloads, url=url)


def kept(folder):
    """What is in a folder, locks left out."""
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".lock") if folder.is_dir() else []


@settings(max_examples=20)
@given(n=st.integers(1, 5), label_bytes=st.integers(1, 2), seed=st.integers(0, 99), packed=st.booleans())
def test_records_survive_the_way_through_a_file(tmp_path_factory, n, label_bytes, seed, packed):
    random = np.random.default_rng(seed)
    labels = random.integers(0, 256, (n, label_bytes), dtype=np.uint8)
    images = random.integers(0, 256, (n, 3, 32, 32), dtype=np.uint8)
    path = tmp_path_factory.mktemp("records") / "train.bin"
    data = record_bytes(labels, images)
    assert len(data) == n * (label_bytes + 3_072)
    path.write_bytes(gzip.compress(data) if packed else data)
    read_labels, read_images = cifar.read_records(path, label_bytes)
    assert np.array_equal(read_labels, labels)
    assert np.array_equal(read_images, images)
    assert read_images.flags.writeable


def test_pixels_come_plane_by_plane_and_row_by_row(tmp_path):
    pixels = bytearray(3_072)
    pixels[0 * 1_024 + 0 * 32 + 5] = 10  # red, first row, sixth column
    pixels[2 * 1_024 + 31 * 32 + 0] = 20  # blue, last row, first column
    (tmp_path / "one.bin").write_bytes(bytes([7]) + bytes(pixels))
    labels, images = cifar.read_records(tmp_path / "one.bin", 1)
    assert labels.tolist() == [[7]]
    assert (images[0, 0, 0, 5], images[0, 2, 31, 0], images.sum()) == (10, 20, 30)


@pytest.mark.parametrize(
    ("size", "label_bytes"), [(0, 1), (3_072, 1), (3_073 * 2 - 1, 1), (3_073 * 2 + 1, 1), (3_073, 2), (3_074, 1)]
)
def test_files_of_another_length_are_refused(tmp_path, size, label_bytes):
    path = tmp_path / "train.bin"
    path.write_bytes(bytes(size))
    expected = f"records of {3_072 + label_bytes} bytes .* found {size} bytes"
    with pytest.raises(InvalidValueError, match=expected) as caught:
        cifar.read_records(path, label_bytes)
    assert str(path) in str(caught.value)


@both
def test_an_archive_is_downloaded_checked_unpacked_and_used(small, name):
    folder = datasets.fetch(name)
    assert folder == small.downloads / name
    assert kept(small.downloads) == [name]  # the archive is gone, and nothing half-made is there
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == small.files
    small.archive.unlink()  # the second time nothing is asked of the server
    assert datasets.fetch(name) == folder
    task = ImageTask(name, augment=Augmentation.of_the_paper())
    assert (task.input_shape, task.n_classes) == ((3, 32, 32), N_CLASSES[name])
    assert {split: len(task.split(split)) for split in SIZES} == SIZES
    assert next(task.batches(0, 30)).inputs.shape == (30, 3, 32, 32)


@both
def test_splits_hold_every_image_once_with_its_finest_label(small, name):
    raw = datasets.load(name)
    files = list(small.files.values())
    known = {}
    for data in files:
        rows = np.frombuffer(data, np.uint8).reshape(-1, 3_072 + LABEL_BYTES[name])
        known |= {row[LABEL_BYTES[name] :].tobytes(): row[LABEL_BYTES[name] - 1] for row in rows}
    seen = {image.tobytes(): label for split in raw.values() for image, label in zip(split.images, split.labels)}  # noqa: B905
    assert seen == known
    assert len(seen) == sum(SIZES.values())
    official_test = {row[LABEL_BYTES[name] :].tobytes() for row in rows}
    assert {image.tobytes() for image in raw["test"].images} == official_test
    assert np.bincount(raw["validation"].labels).tolist() == [2] * 10  # balanced


def test_inputs_are_normalised_by_channel_and_shown_as_bytes(small):
    task = ImageTask("cifar-10")
    images, batch = task.sample(3)
    assert images.shape == (3, 32, 32, 3)
    entry = datasets.dataset("cifar-10")
    expected = (images / 255 - torch.tensor(entry.mean)) / torch.tensor(entry.std)
    torch.testing.assert_close(batch.inputs.permute(0, 2, 3, 1), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("where", ["archive", "folder in it", "files"])
def test_a_given_folder_may_hold_the_archive_or_its_files(small, tmp_path, where):
    given = tmp_path / "given"
    place = given / "cifar-10-batches-bin" if where == "folder in it" else given
    place.mkdir(parents=True)
    if where == "archive":
        (given / small.archive.name).write_bytes(small.archive.read_bytes())
    else:
        for file, data in small.files.items():
            (place / file).write_bytes(data)
    small.archive.unlink()
    assert datasets.fetch("cifar-10", given) == (small.downloads / "cifar-10" if where == "archive" else place)
    assert len(ImageTask("cifar-10", folder=given).split("train")) == SIZES["train"]
    assert (given / small.archive.name).is_file() == (where == "archive")  # what is the reader's own stays


def test_a_given_archive_that_is_cut_is_refused_and_leaves_nothing(small, tmp_path):
    given = tmp_path / "given"
    given.mkdir()
    (given / small.archive.name).write_bytes(small.archive.read_bytes()[:-100])
    with pytest.raises(MissingDataError, match="is truncated, damaged or a different file: expected SHA-256") as caught:
        datasets.fetch("cifar-10", given)
    assert str(given / small.archive.name) in str(caught.value)
    assert small.url in str(caught.value)  # where a whole one is
    assert kept(small.downloads) == []


def test_a_given_folder_without_either_is_refused(small, tmp_path):
    words = r"data_batch_1\.bin .*of cifar-10 is missing; searched .*Put cifar-10-binary\.tar\.gz, or its data_batch_1"
    with pytest.raises(MissingDataError, match=words):
        datasets.fetch("cifar-10", tmp_path)


@pytest.mark.parametrize("how", ["cut", "changed", "absent"])
def test_a_bad_download_is_refused_and_leaves_nothing(small, how):
    data = small.archive.read_bytes()
    if how == "absent":
        small.archive.unlink()
    else:
        small.archive.write_bytes(data[:-50] if how == "cut" else data[:-1] + b"!")
    with pytest.raises(MissingDataError, match=r"downloading http.*cifar-10-binary\.tar\.gz failed"):
        datasets.fetch("cifar-10")
    assert kept(small.downloads) == []
    small.archive.write_bytes(data)
    assert datasets.fetch("cifar-10").is_dir()  # and the next time all is well


def test_a_full_disk_is_not_called_a_damaged_archive(small, monkeypatch):
    def full(*_, path, **__):
        (Path(path) / "half").write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tarfile.TarFile, "extractall", full)
    with pytest.raises(OSError, match="No space left"):
        datasets.fetch("cifar-10")
    assert kept(small.downloads) == []


@pytest.mark.parametrize("harm", ["changed", "lost"])
def test_damaged_files_are_set_aside_and_fetched_again(small, caplog, harm):
    folder = datasets.fetch("cifar-10")
    if harm == "lost":
        (folder / "test_batch.bin").unlink()
    else:
        (folder / "test_batch.bin").write_bytes(b"!")
    for _ in range(2):  # the second time there is one set aside already
        assert datasets.fetch("cifar-10") == folder
        assert (folder / "test_batch.bin").read_bytes() == small.files["test_batch.bin"]
        (folder / "test_batch.bin").write_bytes(b"?")
    assert kept(small.downloads) == ["cifar-10", "cifar-10.damaged"]
    assert f"{folder} does not have the recorded checksum" in caplog.text


def test_a_label_that_is_no_class_is_refused(small, monkeypatch):
    entry = datasets.dataset("cifar-10")
    monkeypatch.setitem(datasets.DATASETS, "cifar-10", replace(entry, class_names=entry.class_names[:9]))
    with pytest.raises(InvalidValueError, match="cifar-10: train: label = 9 is not allowed: from 0 to 8"):
        ImageTask("cifar-10").split("test")


def test_the_published_sets_are_described_as_they_are():
    ten, hundred = (datasets.dataset(name) for name in N_CLASSES)
    assert [len(entry.class_names) for entry in (ten, hundred)] == [10, 100]
    assert list(hundred.class_names) == sorted(hundred.class_names)
    assert [hundred.class_names[i] for i in (0, 1, 49, 99)] == ["apple", "aquarium fish", "mountain", "worm"]
    assert [file.name for file in ten.files.members][-1] == "test_batch.bin"
    for entry in (ten, hundred):
        assert sum(entry.sizes.values()) == 60_000
        sums = [entry.files.archive.sha256, *(file.sha256 for file in entry.files.members)]
        assert len(set(sums)) == len(sums)
        assert all(len(bytes.fromhex(checksum)) == 32 for checksum in sums)
    assert ImageTask("cifar-10").fingerprint() != ImageTask("cifar-100").fingerprint()
