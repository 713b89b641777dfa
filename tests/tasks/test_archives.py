"""Unpacking an archive: all of the wanted files or nothing, whatever the archive tries."""

import gzip
import io
import tarfile
from shutil import copytree

import pytest

from pwl_lab.support.errors import InvalidValueError, MissingDataError
from pwl_lab.support.files import work_folder
from pwl_lab.tasks import download
from pwl_lab.tasks.download import Archive, unpack

WANTED = {"one.bin": b"1" * 5_000, "two.bin": bytes(range(256)) * 40}
ARCHIVE = Archive("data.tar.gz", "https://example.org/data.tar.gz", "", folder="inner", max_bytes=20_000)


def member(name, data=b"", **fields):
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for field, value in fields.items():
        setattr(info, field, value)
    return info, data


GOOD = [
    member("inner", type=tarfile.DIRTYPE, mode=0o755),
    *(member(f"inner/{name}", data) for name, data in WANTED.items()),
    member("inner/readme.html", b"not wanted"),
    member("other/one.bin", b"the same name elsewhere"),
]


@pytest.fixture
def place(tmp_path):
    """A folder with nothing else in it, where the archive is unpacked."""
    (tmp_path / "place").mkdir()
    return tmp_path / "place"


def packed(tmp_path, members):
    path = tmp_path / ARCHIVE.name
    with tarfile.open(path, "w:gz") as tar:
        for info, data in members:
            tar.addfile(info, io.BytesIO(data))
    return path


def refused(path, place, error, words):
    with pytest.raises(error, match=words) as caught:
        unpack(path, ARCHIVE, WANTED, place / "data")
    assert str(path) in str(caught.value)
    assert not list(place.iterdir())
    assert path.is_file()
    return caught


@pytest.mark.parametrize("left_over", [False, True])
def test_the_wanted_files_come_out_whole_and_no_others(tmp_path, place, left_over):
    if left_over:  # by a process that was killed
        with work_folder(place / "data") as part:
            (part / "one.bin").write_bytes(b"half")
            copytree(part, place / f"{part.name[:-12]}{'0' * 12}")
    unpack(packed(tmp_path, GOOD), ARCHIVE, WANTED, place / "data")
    assert [path.name for path in place.iterdir()] == ["data"]
    assert {path.name: path.read_bytes() for path in (place / "data").iterdir()} == WANTED


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (member("../evil.bin", b"!"), r"'\.\./evil\.bin' leaves its folder"),
        (member("inner/../../evil.bin", b"!"), "leaves its folder"),
        (member("inner\\..\\evil.bin", b"!"), "leaves its folder"),
        (member("/tmp/evil.bin", b"!"), "'/tmp/evil.bin' leaves its folder"),
        (member("inner/link", type=tarfile.SYMTYPE, linkname="/etc/passwd"), "'inner/link' is a link"),
        (member("inner/link", type=tarfile.LNKTYPE, linkname="inner/one.bin"), "'inner/link' is a link"),
        (member("inner/pipe", type=tarfile.FIFOTYPE), "neither a plain file nor a folder"),
        (member("inner/device", type=tarfile.CHRTYPE), "neither a plain file nor a folder"),
        (member("inner/one.bin", b"another"), "'inner/one.bin' twice"),
        (member("inner/large.bin", bytes(20_000)), "more than 20000 bytes"),
    ],
    ids=lambda value: value[0].name if isinstance(value, tuple) else "",
)
def test_an_unsafe_archive_is_refused_and_leaves_nothing(tmp_path, place, bad, words):
    path = packed(tmp_path, [*GOOD, bad])
    refused(path, place, InvalidValueError, words)
    assert {found.name for found in tmp_path.iterdir()} == {"place", path.name}


def test_a_wanted_file_that_is_a_link_is_not_followed(tmp_path, place):
    (tmp_path / "secret").write_bytes(b"secret")
    link = member("inner/one.bin", type=tarfile.SYMTYPE, linkname=str(tmp_path / "secret"))
    refused(packed(tmp_path, [link, *GOOD[2:]]), place, InvalidValueError, "is a link")


@pytest.mark.parametrize("kept", [0, 5, 200, -300, -9])
def test_a_cut_archive_is_refused_and_leaves_nothing(tmp_path, place, kept):
    noise = member("inner/noise", bytes(range(256)))  # not compressible to nothing: every cut is within some file
    path = packed(tmp_path, [noise, *GOOD])
    path.write_bytes(path.read_bytes()[:kept])
    caught = refused(path, place, MissingDataError, r"damaged|cut short")
    assert ARCHIVE.url in str(caught.value)


@pytest.mark.parametrize("kept", [512 * 3, 6_000, 7_000])
def test_a_whole_gzip_file_of_a_cut_tar_is_refused(tmp_path, place, kept):
    path = packed(tmp_path, GOOD)
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes())[:kept]))
    refused(path, place, MissingDataError, r"damaged|cut short")


def test_flipped_bytes_and_other_files_are_refused(tmp_path, place):
    path = packed(tmp_path, GOOD)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)
    refused(path, place, MissingDataError, "damaged")
    path.write_bytes(b"<html>not found</html>")
    refused(path, place, MissingDataError, "damaged: not a complete tar.gz")


def test_an_archive_that_lacks_a_file_is_refused(tmp_path, place):
    refused(packed(tmp_path, GOOD[:2] + GOOD[3:]), place, MissingDataError, r"two\.bin is not in its folder inner")
    with pytest.raises(MissingDataError, match=r"absent\.tar\.gz is missing"):
        unpack(tmp_path / "absent.tar.gz", ARCHIVE, WANTED, place / "data")


def test_a_full_disk_is_not_called_a_damaged_archive(tmp_path, place, monkeypatch):
    def full(source, copy):
        copy.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(download.shutil, "copyfileobj", full)
    with pytest.raises(OSError, match="No space left"):
        unpack(packed(tmp_path, GOOD), ARCHIVE, WANTED, place / "data")
    assert not list(place.iterdir())
