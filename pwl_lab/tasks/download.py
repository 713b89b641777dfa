"""Where a data set's files come from: the checkout, a given folder, a package, an earlier download, or a new one.

Every file is known by a SHA-256 and is never used unchecked; a download, and what is unpacked from it, appears whole or
not at all.
"""

import gzip
import importlib.metadata
import logging
import shutil
import tarfile
import zlib
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from filelock import FileLock

from pwl_lab.support import paths
from pwl_lab.support.errors import InvalidValueError, MissingDataError
from pwl_lab.support.files import file_sha256, is_file, new_folder, readable, usual_mode, work_folder
from pwl_lab.tasks.formats import sha256

DAMAGE = (EOFError, gzip.BadGzipFile, tarfile.TarError, zlib.error)  # how a truncated or garbled tar.gz shows itself


@dataclass(frozen=True)
class Archive:
    """A tar.gz that holds all files of a data set in one folder."""

    name: str
    url: str
    sha256: str  # of the archive as it is, not of what is in it
    folder: str  # where the files are in it
    max_bytes: int  # it holds no more than this, unpacked


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


log = logging.getLogger(__name__)


@dataclass(frozen=True)
class DataFile:
    """One file of a data set, known by the SHA-256 of its unpacked content: a gzipped copy is as good as a plain one.

    `url` is where a gzipped copy can be downloaded, and `url_sha256` the checksum of that copy as it is; a file that
    comes in an archive has neither.
    """

    name: str
    sha256: str
    url: str = ""
    url_sha256: str = ""


@dataclass(frozen=True)
class Source:
    """The files of a data set and where they may be."""

    files: tuple[DataFile, ...]
    bundled: bool = False  # in the checkout's data folder
    system_folders: tuple[str, ...] = ()  # where an operating system's package may have put them
    archive: Archive | None = None  # what is downloaded instead of single files: it holds them all
    package: str = ""  # the Python package that they come with, by its name on PyPI

    @property
    def origin(self) -> str:
        """Where it comes from, in a few words."""
        if self.bundled:
            return "the checkout"
        return self.package or f"download: {self.archive.url if self.archive else self.files[0].url.rpartition('/')[0]}"


def find(folder: Path, name: str) -> Path | None:
    """Where the file `name` is in `folder`, gzipped or plain; None if it is not there."""
    return next((place for place in (folder / f"{name}.gz", folder / name) if is_file(place)), None)


def obtain(name: str, source: Source, folder: Path | None = None) -> Path:
    """The folder that holds all files of the data set `name`, each with its recorded checksum.

    Bundled files are only checked, those of a package are left to their reader. Others are looked for in `folder` alone
    if it is given (as files, or as the archive of them); else in the operating system's folders, then among earlier
    downloads, and are downloaded if they are in none of them.
    Raises MissingDataError, naming the file, for one that is missing, damaged or cannot be downloaded, and
    InvalidValueError for an archive that is not safe to unpack or a `folder` that is of no use.
    """
    if source.package:
        return _installed(name, source, folder)
    if folder is not None or source.bundled:
        place = _given(name, source, paths.data() if folder is None else folder)
        _check(name, source, place)
        return place
    for place in map(Path, source.system_folders):
        if _complete(source, place):
            _check(name, source, place)
            return place
    place = paths.downloads() / name
    if source.archive is not None:
        _unpacked(source, place)
    else:
        for file in source.files:
            if not _intact(file, place):
                _download(file, place, source)
    _check(name, source, place)
    return place


def _installed(name: str, source: Source, folder: Path | None) -> Path:
    """Where the package that brings the data set is installed."""
    if folder is not None:
        raise InvalidValueError(f"{name} comes with the package {source.package}: leave folder = {str(folder)!r} out")
    try:
        return Path(str(importlib.metadata.distribution(source.package).locate_file("")))
    except importlib.metadata.PackageNotFoundError as error:
        raise MissingDataError(
            f"{name} comes with the package {source.package}, which is not installed: pip install {source.package}"
        ) from error


def _given(name: str, source: Source, folder: Path) -> Path:
    """Where the files are, of those in a given folder: there, in the archive's folder within, or in the archive itself."""
    archive = source.archive
    if archive is None or _complete(source, folder):
        return folder
    if _complete(source, folder / archive.folder):
        return folder / archive.folder
    if not is_file(folder / archive.name):
        return folder
    place = paths.downloads() / name  # not into the given folder: it may be read-only, and it is not ours
    _unpacked(source, place, folder / archive.name)
    return place


def _complete(source: Source, folder: Path) -> bool:
    """Whether all files are in the folder, whatever they hold."""
    return all(find(folder, file.name) for file in source.files)


def _unpacked(source: Source, place: Path, own: Path | None = None) -> None:
    """Have the archive's files in the folder `place`: as unpacked before, else from the archive `own`, else downloaded.

    A folder in which one of them is damaged or missing is set aside. Processes take turns. Raises as `obtain` does.
    """
    archive = source.archive
    if _all_intact(source, place):
        return  # without a lock: the downloads may be another user's, to be read only
    place.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(place.with_name(f".{place.name}.lock")):
        if _all_intact(source, place):
            return
        if place.is_dir():
            _set_aside(place)
        path = own or _retrieve(archive.name, archive.url, archive.sha256, place.parent, source)
        if own is not None and (found := file_sha256(own)) != archive.sha256:
            raise MissingDataError(
                f"{own} is cut short, damaged or another file: expected SHA-256 {archive.sha256}, found {found}. "
                f"Delete it and fetch it again from {archive.url}"
            )
        unpack(path, archive, [file.name for file in source.files], place)
        if own is None:
            path.unlink(missing_ok=True)  # what was in it is checked at every load; twice the space serves no one


def _all_intact(source: Source, folder: Path) -> bool:
    """Whether all files are there with their recorded checksums."""
    try:
        return all(
            (path := find(folder, file.name)) is not None and sha256(path) == file.sha256 for file in source.files
        )
    except MissingDataError as error:
        log.warning("%s", error)
        return False


def _check(name: str, source: Source, folder: Path) -> None:
    """Refuse a folder in which a file is missing or is not the recorded one."""
    for file in source.files:
        path = find(folder, file.name)
        if path is None:
            raise MissingDataError(
                f"{file.name} (or {file.name}.gz) of {name} is missing; searched {folder}. {_advice(source)}"
            )
        found = sha256(path)
        if found != file.sha256:
            raise MissingDataError(
                f"{path} is not the file it should be: expected content with SHA-256 {file.sha256}, found {found}. "
                f"{_advice(source)}"
            )


def _advice(source: Source) -> str:
    """What to do about a missing or wrong file."""
    if source.bundled:
        return "It comes with the checkout: restore it with git, or make it again as data/README.md says."
    names = ", ".join(file.name for file in source.files)
    either = f"{source.archive.name}, or its {names}" if source.archive else names
    return f"Put {either} (gzipped or plain) into one folder and name it (folder=...), or fetch them while online."


def _intact(file: DataFile, folder: Path) -> bool:
    """Whether an earlier download is there and whole. A damaged one is named in the log and set aside."""
    path = find(folder, file.name)
    if path is None:
        return False
    try:
        if sha256(path) == file.sha256:
            return True
    except MissingDataError as error:
        log.warning("%s", error)
    _set_aside(path)
    return False


def _set_aside(path: Path) -> None:
    """Rename a damaged file or folder, in place of what was set aside before, and say so in the log."""
    aside = path.with_name(f"{path.name}.damaged")
    log.warning("%s does not have the recorded checksum; set aside as %s, to be downloaded again", path, aside.name)
    if aside.is_dir():
        shutil.rmtree(aside)
    path.replace(aside)


def _download(file: DataFile, folder: Path, source: Source) -> None:
    """Download one gzipped file. Raises as `_retrieve` does."""
    _retrieve(f"{file.name}.gz", file.url, file.url_sha256, folder, source)


def _retrieve(name: str, url: str, checksum: str, folder: Path, source: Source) -> Path:
    """Download a file, whole and with the SHA-256 `checksum` or not at all. Raises MissingDataError."""
    import pooch  # only here: it loads an HTTP client that most runs never need

    try:
        with work_folder(
            folder / name
        ) as work:  # pooch would leave the file to its owner alone, and a part of it if killed
            part = Path(pooch.retrieve(url, known_hash=f"sha256:{checksum}", fname=name, path=work))
            usual_mode(part)
            return part.replace(folder / name)
    except (OSError, ValueError) as error:  # no connection or no such page; a checksum that differs
        searched = ", ".join([*source.system_folders, str(folder)])
        raise MissingDataError(
            f"{name} is in none of {searched}, and downloading {url} failed: {error}. {_advice(source)}"
        ) from error
