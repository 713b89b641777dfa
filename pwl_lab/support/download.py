"""Where a dataset's files come from: pwl_lab's own data, a given folder, a package, an earlier download, or a new one.

Every file has a recorded SHA-256 and is never used unchecked. pooch downloads and unpacks; its results appear
completely or not at all.
"""

import gzip
import importlib.metadata
import logging
import sys
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from pwl_lab.support import paths
from pwl_lab.support.errors import InvalidValueError, MissingDataError
from pwl_lab.support.files import file_sha256, is_file, readable, set_aside, sha256, usual_mode, work_folder

GZIP_MAGIC = b"\x1f\x8b"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class DataFile:
    """One file of a dataset, identified by the SHA-256 of its unpacked content: it may be gzipped or plain.

    `url` is where a gzipped copy can be downloaded, and `url_sha256` the checksum of that gzipped copy; a file that
    comes in an archive has neither.
    """

    name: str
    sha256: str
    url: str = ""
    url_sha256: str = ""


@dataclass(frozen=True)
class Archive:
    """A tar file that holds all files of a dataset in one folder."""

    url: str
    sha256: str  # of the archive itself, not of its content
    folder: str  # in the archive, with the files

    @property
    def name(self) -> str:
        """The file name of the archive."""
        return self.url.rpartition("/")[2]


@dataclass(frozen=True)
class DatasetFiles:
    """The files of a dataset, and where they may be found."""

    members: tuple[DataFile, ...]
    bundled: bool = False  # in pwl_lab's own data folder
    system_folders: tuple[str, ...] = ()  # where an operating system's package may have installed them
    archive: Archive | None = None  # downloaded instead of single files: it holds them all
    package: str = ""  # the Python package that they come with, by its name on PyPI

    @property
    def origin(self) -> str:
        """Where the files come from, for a table of datasets."""
        if self.bundled:
            return "pwl_lab"
        if self.package:
            return self.package
        return f"download: {self.archive.url if self.archive else self.members[0].url.rpartition('/')[0]}"


def content(path: Path) -> bytes:
    """The content of a file, unpacked if it is gzipped (determined by its first bytes, not by its name).

    Raises MissingDataError if there is no such file, or if it is a truncated or damaged gzip file;
    UnreadableError for one that cannot be read.
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
        raise MissingDataError(f"{path} is damaged: it is not a complete gzip file ({error})") from error


def find(folder: Path, name: str) -> Path | None:
    """The path of the file `name` in `folder`, gzipped or plain; None if it is not there."""
    return next((path for path in (folder / f"{name}.gz", folder / name) if is_file(path)), None)


def obtain(name: str, files: DatasetFiles, folder: Path | None = None) -> Path:
    """The folder that holds all files of the dataset `name`, each with its recorded checksum.

    The files of a package are left to their reader; for everything else see `datasets.fetch`.
    """
    if files.package:
        if folder is not None:
            raise InvalidValueError(
                f"{name} comes with the package {files.package}: leave out folder = {str(folder)!r}"
            )
        return Path(str(importlib.metadata.distribution(files.package).locate_file("")))
    location = _where(name, files, paths.data() if files.bundled and folder is None else folder)
    for file in files.members:
        if problem := _problem(name, file, location):
            raise MissingDataError(f"{problem}. {_advice(files)}")
    return location


def where_present(name: str, files: DatasetFiles) -> Path | None:
    """The folder that has all files of the dataset `name` on this machine (not yet checked); nothing is downloaded."""
    folders = [*map(Path, files.system_folders), paths.downloads() / name]
    return next((one for one in folders if all(find(one, file.name) for file in files.members)), None)


def _where(name: str, files: DatasetFiles, given: Path | None) -> Path:
    """The folder that should have the files (not yet checked): a given folder, or the archive's folder within it."""
    archive = files.archive
    if given is None:
        folders = [Path(folder) for folder in files.system_folders]
    else:
        folders = [given, given / archive.folder] if archive else [given]
    for folder in folders:
        if all(find(folder, file.name) for file in files.members):
            return folder
    if given is None:
        return _downloaded(name, files)
    if archive and is_file(given / archive.name):
        return _downloaded(name, files, given / archive.name)  # the given folder may be read-only, and is not ours
    return given


def _problem(name: str, file: DataFile, folder: Path) -> str:
    """What is wrong with a file of the dataset `name`, in words; empty if it has the recorded checksum."""
    path = find(folder, file.name)
    if path is None:
        return f"{file.name} (or {file.name}.gz) of {name} is missing; searched {folder}"
    try:
        found = sha256(content(path))
    except MissingDataError as error:
        return str(error)
    expected = f"expected content with SHA-256 {file.sha256}, found {found}"
    return "" if found == file.sha256 else f"{path} is not the expected file: {expected}"


def _downloaded(name: str, files: DatasetFiles, own: Path | None = None) -> Path:
    """The downloads folder with the files: already there, or unpacked from the archive `own`, or downloaded now.

    Damaged files are named in the log and set aside. Processes take turns. Raises as `obtain` does.
    """
    location = paths.downloads() / name
    if not any(_problem(name, file, location) for file in files.members):
        return location  # without a lock: the downloads may be another user's and read-only
    location.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(location.with_name(f".{name}.lock")):
        lacking = [file for file in files.members if _problem(name, file, location)]
        if lacking and files.archive is not None:
            _set_aside(location)
            with work_folder(location) as work:
                archive = files.archive
                path = _checked(own, archive) if own else _retrieve(archive.url, archive.sha256, work, files)
                _unpack(path, archive.folder, [file.name for file in files.members], location)
            return location
        for file in lacking:
            _set_aside(find(location, file.name))
            with work_folder(location / file.name) as work:
                _retrieve(file.url, file.url_sha256, work, files).replace(location / f"{file.name}.gz")
    return location


def _set_aside(path: Path | None) -> None:
    """Rename a damaged file or folder, replacing one that was set aside before, and log it."""
    if path is None or not path.exists():
        return
    aside = path.with_name(f"{path.name}.damaged")
    log.warning("%s does not have the recorded checksum; set aside as %s, to be downloaded again", path, aside.name)
    set_aside(path, aside)


def _checked(own: Path, archive: Archive) -> Path:
    """The user's own copy of the archive. Raises MissingDataError unless it is the published one."""
    if (found := file_sha256(own)) != archive.sha256:
        raise MissingDataError(
            f"{own} is truncated, damaged or a different file: expected SHA-256 {archive.sha256}, found {found}. "
            f"Delete it and fetch it again from {archive.url}"
        )
    return own


def _retrieve(url: str, checksum: str, work: Path, files: DatasetFiles) -> Path:
    """Download a file into the folder `work` and check its SHA-256, `checksum`. Raises MissingDataError."""
    import pooch  # imported here because it loads an HTTP client that most runs never need

    name = url.rpartition("/")[2]
    try:
        bar = sys.stderr.isatty()  # 170 MB take a while; in a log a bar would be noise
        path = Path(pooch.retrieve(url, known_hash=f"sha256:{checksum}", fname=name, path=work, progressbar=bar))
        usual_mode(path)  # pooch makes it readable only by its owner
    except (OSError, ValueError) as error:  # no connection, no such page, or a wrong checksum
        searched = ", ".join([*files.system_folders, str(work.parent)])
        raise MissingDataError(
            f"{name} was not found in {searched}, and downloading {url} failed: {error}. {_advice(files)}"
        ) from error
    return path


def _unpack(path: Path, folder: str, names: Sequence[str], target: Path) -> None:
    """Unpack the files `names` from the `folder` of a checked archive into the new folder `target`."""
    import pooch

    with work_folder(target) as work:
        members = [f"{folder}/{name}" for name in names]
        files = pooch.Untar(members=members, extract_dir=str(work))(str(path), "fetch", None)
        usual_mode(*map(Path, files))
        (work / folder).rename(target)


def _advice(files: DatasetFiles) -> str:
    """What to do about a missing or wrong file."""
    if files.bundled:
        return "It comes with pwl_lab: restore it with git, install again, or create it as data/README.md describes."
    names = ", ".join(file.name for file in files.members)
    either = f"{files.archive.name}, or its {names}" if files.archive else names
    return f"Put {either} (gzipped or plain) into one folder and pass it (folder=...), or fetch them while online."
