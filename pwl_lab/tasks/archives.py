"""Unpacking an archive of data safely: the wanted files come out whole and all together, or nothing does."""

import gzip
import hashlib
import shutil
import tarfile
import zlib
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from pwl_lab.errors import InvalidValueError, MissingDataError
from pwl_lab.files import is_file, new_folder, readable

DAMAGE = (EOFError, gzip.BadGzipFile, tarfile.TarError, zlib.error)  # how a truncated or garbled tar.gz shows itself


@dataclass(frozen=True)
class Archive:
    """A tar.gz that holds all files of a data set in one folder."""

    name: str
    url: str
    sha256: str  # of the archive as it is, not of what is in it
    folder: str  # where the files are in it
    max_bytes: int  # it holds no more than this, unpacked


def file_sha256(path: Path) -> str:
    """SHA-256 (hex) of the file as it is, read in pieces.

    Raises MissingDataError if there is no such file, UnreadableError for one that cannot be read.
    """
    if not is_file(path):
        raise MissingDataError(f"{path} is missing")
    with readable(path), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def unpack(path: Path, archive: Archive, names: Collection[str], target: Path) -> None:
    """Unpack the files `names` of the archive at `path` into the folder `target`, which must not be there yet.

    They are written beside `target`, which appears once all are whole; whatever goes wrong, nothing else is left behind.
    The caller sees to it that no other process unpacks to the same `target` meanwhile.
    No name, mode or owner in the archive ever reaches the file system: only wanted files are written, under our names.
    (`tarfile`'s own extraction filters are missing in early releases of Python 3.11, Debian's among them.)
    Raises MissingDataError if the archive is missing, cut short, damaged or lacks a file, UnreadableError if it cannot be
    read, and InvalidValueError if it is unsafe: a path that leaves its folder, a link, anything but files and folders, a
    file twice, or more than `max_bytes`.
    """
    if not is_file(path):
        raise MissingDataError(f"{path} is missing")
    with readable(path), path.open("rb"):
        pass
    with new_folder(target) as aside:
        try:
            found = _copy_members(path, archive, names, aside)
        except DAMAGE as error:
            raise MissingDataError(
                f"{path} is damaged: not a complete tar.gz ({error or type(error).__name__}). "
                f"Delete it and fetch it again from {archive.url}"
            ) from error
        absent = sorted(set(names) - found)
        if absent:
            raise MissingDataError(
                f"{path} is cut short or another archive: {', '.join(absent)} is not in its folder {archive.folder}. "
                f"Delete it and fetch it again from {archive.url}"
            )


def _copy_members(path: Path, archive: Archive, names: Collection[str], folder: Path) -> set[str]:
    """Copy the wanted files into `folder`, looking at every member on the way; which ones were there."""
    found: set[str] = set()
    room = archive.max_bytes
    with gzip.open(path) as plain, tarfile.open(fileobj=plain, mode="r:") as tar:
        for member in tar:
            _check_member(path, member)
            room -= member.size
            if room < 0 or member.size < 0:  # known from the header, before the member is read
                raise _unsafe(path, f"it holds more than {archive.max_bytes} bytes")
            place = PurePosixPath(member.name)
            if not member.isreg() or str(place.parent) != archive.folder or place.name not in names:
                continue  # a folder, or a file that is not needed (a licence, a page of documentation)
            if place.name in found:
                raise _unsafe(path, f"it holds {member.name!r} twice")
            with tar.extractfile(member) as source, (folder / place.name).open("wb") as copy:
                shutil.copyfileobj(source, copy)
            found.add(place.name)
        # tarfile stops at the archive's end mark or at damage; only the gzip file's own end has its checksum
        while rest := plain.read(2**20):
            room -= len(rest)
            if room < 0:
                raise _unsafe(path, f"it holds more than {archive.max_bytes} bytes")
    return found


def _check_member(path: Path, member: tarfile.TarInfo) -> None:
    """Refuse a member that could write outside its folder, and everything but plain files and folders."""
    place = PurePosixPath(member.name.replace("\\", "/"))
    if place.is_absolute() or ".." in place.parts:
        raise _unsafe(path, f"the path {member.name!r} leaves its folder")
    if member.issym() or member.islnk():
        raise _unsafe(path, f"{member.name!r} is a link")
    if not (member.isdir() or member.isreg()) or member.issparse():
        raise _unsafe(path, f"{member.name!r} is neither a plain file nor a folder")


def _unsafe(path: Path, why: str) -> InvalidValueError:
    """The error for an archive that nothing is taken from."""
    return InvalidValueError(f"{path} is not unpacked, because {why}: it is not the published archive. Delete it")
