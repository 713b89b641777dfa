"""Where a data set's files come from: the checkout, a given folder, an operating system's package, or a download.

Every file is known by a SHA-256 and is never used unchecked; a download appears whole or not at all.
"""

import logging
from dataclasses import dataclass
from pathlib import Path

from pwl_lab import paths
from pwl_lab.errors import MissingDataError
from pwl_lab.tasks.idx import sha256

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class DataFile:
    """One file of a data set, known by the SHA-256 of its unpacked content: a gzipped copy is as good as a plain one.

    `url` is where a gzipped copy can be downloaded, and `url_sha256` the checksum of that copy as it is.
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


def find(folder: Path, name: str) -> Path | None:
    """Where the file `name` is in `folder`, gzipped or plain; None if it is not there."""
    return next((place for place in (folder / f"{name}.gz", folder / name) if place.is_file()), None)


def obtain(name: str, source: Source, folder: Path | None = None) -> Path:
    """The folder that holds all files of the data set `name`, each with its recorded checksum.

    Bundled files are only checked. Others are looked for in `folder` alone if it is given; else in the operating
    system's folders, then among earlier downloads, and are downloaded if they are in none of them.
    Raises MissingDataError, naming the file, for one that is missing, damaged or cannot be downloaded.
    """
    if folder is not None or source.bundled:
        place = paths.data() if folder is None else folder
        _check(name, source, place)
        return place
    for place in map(Path, source.system_folders):
        if all(find(place, file.name) for file in source.files):
            _check(name, source, place)
            return place
    place = paths.downloads() / name
    for file in source.files:
        if not _intact(file, place):
            _download(file, place, source)
    _check(name, source, place)
    return place


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
    return f"Put {names} (gzipped or plain) into one folder and name it (folder=...), or fetch them while online."


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
    aside = path.with_name(f"{path.name}.damaged")
    log.warning("%s does not have the recorded checksum; set aside as %s, to be downloaded again", path, aside.name)
    path.replace(aside)
    return False


def _download(file: DataFile, folder: Path, source: Source) -> None:
    """Download one file, whole and with its recorded checksum or not at all. Raises MissingDataError."""
    import pooch  # only here: it loads an HTTP client that most runs never need

    try:
        pooch.retrieve(file.url, known_hash=f"sha256:{file.url_sha256}", fname=f"{file.name}.gz", path=folder)
    except (OSError, ValueError) as error:  # no connection or no such page; a checksum that differs
        searched = ", ".join([*source.system_folders, str(folder)])
        raise MissingDataError(
            f"{file.name}.gz is in none of {searched}, and downloading {file.url} failed: {error}. {_advice(source)}"
        ) from error
