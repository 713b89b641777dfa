"""Atomic writing of files and folders: they are written aside and then renamed, so a reader never sees half of one.

New files get the mode given by the umask, whichever library writes them; libraries that use temporary files often make
them readable only by their owner. Leftovers of a killed writer are removed by the next one.
"""

import errno
import hashlib
import json
import os
import platform
import re
import secrets
import shutil
import stat
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, BinaryIO

from filelock import FileLock, Timeout

from pwl_lab.support.errors import MissingDataError, PwlLabError, UnreadableError

if sys.platform != "win32":  # there, only its age tells that a writer is gone
    import fcntl

UNABLE = (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS)  # the errors of a file system without fsync
ABSENT = (FileNotFoundError, NotADirectoryError)
STALE_S = 86_400.0  # no writer takes this long without changing a file
LOCK = ".run.lock"  # used only for a folder that cannot be locked itself
_PART = re.compile(r"\.part-([0-9a-f]{8})-([0-9a-f]{6})-[0-9a-f]{12}")  # for which name, on which machine


def write_bytes(path: Path, content: bytes | memoryview) -> None:
    """Write `path`, creating its folder if needed. Raises OSError; the previous content is then unchanged."""
    with new_file(path) as file:
        file.write(content)


def write_text(path: Path, text: str) -> None:
    """Write `path` as UTF-8, as `write_bytes` does."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any, lenient: bool = False) -> None:
    """Write `value` as JSON. With `lenient`, values that JSON cannot represent are written as text."""
    write_text(path, json_text(value, lenient))


def json_text(value: Any, lenient: bool = False) -> str:
    """`value` as JSON text. Raises TypeError or ValueError for values that JSON cannot represent, unless `lenient`."""
    return json.dumps(value, indent=1, allow_nan=lenient, default=str if lenient else None) + "\n"


@contextmanager
def new_file(path: Path) -> Iterator[BinaryIO]:
    """Open a temporary file that becomes `path` at the end of the block, unless the block raises an exception.

    Arguments:
    - `path`: the file to write or replace; its folder is created if needed.

    Raises OSError.
    """
    with _aside(path, _touch) as part:
        with part.open("wb") as file:
            yield file
        part.replace(path)


@contextmanager
def new_folder(path: Path, within: Path | None = None) -> Iterator[Path]:
    """Create an empty folder that becomes `path` at the end of the block, unless the block raises an exception.

    Arguments:
    - `path`: the final path of the folder; if it exists already, the block has to move it away.
    - `within`: where the folder is filled, on the same file system as `path`; by default beside `path`.

    Raises OSError.
    """
    with work_folder(path if within is None else within / path.name) as part:
        yield part
        usual_mode(*[file for file in part.rglob("*") if file.is_file()])
        part.rename(path)


@contextmanager
def work_folder(path: Path, mode: int = 0o777) -> Iterator[Path]:
    """A temporary empty folder beside `path`, deleted at the end of the block.

    Raises OSError.
    """
    with _aside(path, lambda part: part.mkdir(mode)) as part:
        yield part


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a lock on `folder` during the block. Raises filelock.Timeout if another process or thread holds it.

    The system's lock on the folder itself leaves no file behind, and ends with its process. If the system does not
    support that (Windows, some shares), a file in the folder is locked.
    """
    with _lock(folder.resolve()) as free:
        if free is False:
            raise Timeout(str(folder))
        with nullcontext() if free else FileLock(folder / LOCK, timeout=0):
            yield


def set_aside(path: Path, aside: Path) -> None:
    """Move a file or folder to `aside`, replacing what was set aside there before. Raises OSError."""
    aside.parent.mkdir(exist_ok=True)
    with suppress(FileNotFoundError):  # another process was faster
        if aside.is_dir():
            shutil.rmtree(aside)
        path.replace(aside)


def usual_mode(*paths: Path) -> None:
    """Give files the mode that a new file beside the first one would get. Raises OSError."""
    if paths:
        with _aside(paths[0], _touch) as probe:  # the umask cannot be read, only set
            mode = stat.S_IMODE(probe.stat().st_mode)
        for path in paths:
            path.chmod(mode)


@contextmanager
def _aside(path: Path, make: Callable[[Path], None]) -> Iterator[Path]:
    """A locked temporary file or folder beside `path`, created by `make`; deleted afterwards if it still exists."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sweep(path.parent, path.name)
    with ExitStack() as until_then:
        part = _claim(path, make, until_then)
        try:
            yield part
        finally:
            _remove(part)


def _claim(path: Path, make: Callable[[Path], None], until: ExitStack) -> Path:
    """Create something new beside `path`, locked until the stack is closed."""
    while True:
        part = path.parent / f".part-{sha256(path.name, 8)}-{sha256(platform.node(), 6)}-{secrets.token_hex(6)}"
        make(part)
        with suppress(FileNotFoundError):  # a sweep may remove it as a dead writer's before it is locked
            locked = until.enter_context(_lock(part))
            if locked is not False and part.exists():
                return part


def _touch(part: Path) -> None:
    """Create a new file; raises FileExistsError if it exists."""
    part.touch(exist_ok=False)


def sweep(folder: Path, name: str | None = None) -> None:
    """Remove the leftovers of killed writers in `folder`: those for the file `name`, or all if the folder is ours.

    A live writer holds a system lock, and its work is never touched. If locks do not tell (a writer on another machine,
    a file system without locks), only files that have not changed for a day are removed.
    """
    of = None if name is None else sha256(name, 8)
    with suppress(OSError):
        for part in folder.glob(".part-*"):
            found = _PART.fullmatch(part.name)
            if found and of in (None, found[1]):
                with suppress(OSError):  # already gone, or another user's: it does no harm
                    _sweep_one(part, here=found[2] == sha256(platform.node(), 6))


def _sweep_one(part: Path, here: bool) -> None:
    """Remove one leftover if its writer is gone. Raises OSError if that cannot be determined."""
    with _lock(part) as locked:
        age = time.time() - max(path.lstat().st_mtime for path in (part, *part.rglob("*")))
        if (locked and here) or (locked is not False and age > STALE_S):
            _remove(part)


@contextmanager
def _lock(part: Path) -> Iterator[bool | None]:
    """Try to lock the file or folder: True if locked, False if another process has the lock, None without locks here.

    A lock ends with its process in any case. Raises OSError if the file or folder cannot be opened.
    """
    if sys.platform == "win32":
        yield None
    else:
        handle = os.open(part, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            locked: bool | None = True
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                locked = False if isinstance(error, BlockingIOError) else None
            yield locked
        finally:
            os.close(handle)


def _remove(part: Path) -> None:
    """Remove a file or a folder if it exists."""
    with suppress(OSError):
        part.unlink() if not part.is_dir() else shutil.rmtree(part)


def is_file(path: Path) -> bool:
    """Whether it is a file. Raises UnreadableError if that is unknown (`Path.is_file` may then return False)."""
    with readable(path):
        try:
            return stat.S_ISREG(path.stat().st_mode)
        except ABSENT:
            return False


def exists(path: Path) -> bool:
    """Whether anything of this name exists; raises as `is_file` does."""
    with readable(path):
        try:
            path.lstat()
        except ABSENT:
            return False
        return True


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """A context that turns every error in reading `path`, except that it does not exist, into UnreadableError.

    An unreadable file is not damaged: it is another user's, the disk is unmounted, or too many files are open.
    """
    try:
        yield
    except (*ABSENT, IsADirectoryError, PwlLabError):
        raise
    except OSError as error:
        advice = ". Ask its owner for permission to read it" if isinstance(error, PermissionError) else ""
        raise UnreadableError(
            f"{error.filename or path} cannot be read ({error.strerror or error}), so it was not changed{advice}"
        ) from error


def sha256(content: bytes | str, digits: int = 64) -> str:
    """The first hex digits of the SHA-256 of this content; text is encoded as UTF-8."""
    raw = content.encode(errors="replace") if isinstance(content, str) else content
    return hashlib.sha256(raw).hexdigest()[:digits]


def file_sha256(path: Path) -> str:
    """The SHA-256 (hex) of a file, read in pieces.

    Raises MissingDataError if there is no such file, UnreadableError for one that cannot be read.
    """
    if not is_file(path):
        raise MissingDataError(f"{path} is missing")
    with readable(path), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def settle(files: Iterable[Path]) -> None:
    """Wait until those of these files that exist, and their folders, are safe from a loss of power (fsync).

    Raises OSError if the disk fails. It takes some milliseconds per file: only for files that later work relies on.
    """
    there = [path for path in files if path.is_file()]
    windows = sys.platform == "win32"  # which takes only files, and only those that are open for writing
    folders = set() if windows else {path.parent for path in there}
    how = os.O_RDWR if windows else os.O_RDONLY
    for path in (*there, *folders):  # the folders last, because they hold the names
        handle = os.open(path, how)
        try:
            os.fsync(handle)
        except OSError as error:
            if error.errno not in UNABLE:
                raise
        finally:
            os.close(handle)
