"""Files and folders, written aside and then renamed: a reader sees the old content or the new, never half of one.

What is new has the mode that the umask gives, whoever wrote it: libraries that write through a temporary name of their own
leave files to their owner alone. What a killed writer left aside is removed by the next one.
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
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, BinaryIO

from filelock import FileLock, Timeout

from pwl_lab.support.errors import MissingDataError, PwlLabError, UnreadableError

POSIX = os.name == "posix"
if POSIX:  # elsewhere, age alone says that a writer is gone
    import fcntl

UNABLE = (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS)  # what a file system says that knows no fsync
ABSENT = (FileNotFoundError, NotADirectoryError)
STALE_S = 86_400.0  # nobody writes this long without changing a file
LOCK = ".run.lock"  # only in a folder that cannot be locked itself
_PART = re.compile(r"\.part-([0-9a-f]{8})-([0-9a-f]{6})-[0-9a-f]{12}")  # of which name, on which machine


def write_bytes(path: Path, content: bytes | memoryview) -> None:
    """Write `path`, whose folder is made if it has to be. Raises OSError; what was there before is then still there."""
    with new_file(path) as file:
        file.write(content)


def write_text(path: Path, text: str) -> None:
    """Write `path` as UTF-8, as `write_bytes` does."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any, lenient: bool = False) -> None:
    """Write `value` as JSON. `lenient`: what JSON has no form for is written as text."""
    write_text(path, json_text(value, lenient))


def json_text(value: Any, lenient: bool = False) -> str:
    """`value` as the text of a JSON file. Raises TypeError and ValueError for what JSON has no form for, unless `lenient`."""
    return json.dumps(value, indent=1, allow_nan=lenient, default=str if lenient else None) + "\n"


@contextmanager
def new_file(path: Path) -> Iterator[BinaryIO]:
    """Open a file under a name of its own; it becomes `path` at the end of the block, unless an exception ends that.

    Arguments:
    - `path`: the file to write or replace; its folder is made if it has to be.

    Raises OSError.
    """
    with _aside(path, _touch) as part:
        with part.open("wb") as file:
            yield file
        part.replace(path)


@contextmanager
def new_folder(path: Path, within: Path | None = None) -> Iterator[Path]:
    """Make an empty folder to fill; it becomes `path` at the end of the block, unless an exception ends that.

    Arguments:
    - `path`: what the folder becomes; where there is one already, the block has to move it away.
    - `within`: where the folder is filled, on the same file system as `path`; beside `path` if not given.

    Raises OSError.
    """
    with work_folder(path if within is None else within / path.name) as part:
        yield part
        usual_mode(*[file for file in part.rglob("*") if file.is_file()])
        part.rename(path)


@contextmanager
def work_folder(path: Path, mode: int = 0o777) -> Iterator[Path]:
    """Inside, an empty folder beside `path`, for what is to be moved there or is needed now; afterwards it is gone.

    Raises OSError.
    """
    with _aside(path, lambda part: part.mkdir(mode)) as part:
        yield part


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Inside, no other process or thread has locked `folder`. Raises filelock.Timeout where one has.

    The system's lock on the folder itself leaves no file behind, and ends with the process that holds it. A file in the
    folder is locked where the system cannot do that (Windows, some shares).
    """
    with _lock(folder.resolve()) as free:
        if free is False:
            raise Timeout(str(folder))
        with nullcontext() if free else FileLock(folder / LOCK, timeout=0):
            yield


def set_aside(path: Path, aside: Path) -> None:
    """Move a file or folder to `aside`, in place of what was set aside there before. Raises OSError."""
    aside.parent.mkdir(exist_ok=True)
    with suppress(FileNotFoundError):  # another process was faster
        if aside.is_dir():
            shutil.rmtree(aside)
        path.replace(aside)


def usual_mode(*paths: Path) -> None:
    """Give files that their writer kept to their owner the mode of any new file beside the first. Raises OSError."""
    if paths:
        with _aside(paths[0], _touch) as probe:  # the umask cannot be asked for, only set
            mode = stat.S_IMODE(probe.stat().st_mode)
        for path in paths:
            path.chmod(mode)


@contextmanager
def _aside(path: Path, make: Callable[[Path], None]) -> Iterator[Path]:
    """Inside, what `make` made under a name of its own beside `path`, locked; afterwards it is gone, if it is still there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sweep(path.parent, path.name)
    with ExitStack() as until_then:
        part = _claim(path, make, until_then)
        try:
            yield part
        finally:
            _remove(part)


def _claim(path: Path, make: Callable[[Path], None], until: ExitStack) -> Path:
    """Something new beside `path`, locked until the stack is closed."""
    while True:
        part = path.parent / f".part-{sha256(path.name, 8)}-{sha256(platform.node(), 6)}-{secrets.token_hex(6)}"
        make(part)
        with suppress(FileNotFoundError):  # between its making and its locking, a sweep took it for a dead writer's
            locked = until.enter_context(_lock(part))
            if locked is not False and part.exists():
                return part


def _touch(part: Path) -> None:
    """Make a new file; raises FileExistsError if there is one."""
    part.touch(exist_ok=False)


def sweep(folder: Path, name: str | None = None) -> None:
    """Remove what killed writers left aside in `folder`: those of the file `name`, or of all where the folder is ours.

    The system's lock tells a live writer, whose work is never touched. Where it cannot tell (another machine's writer, a
    file system without locks) only what nobody has changed for a day is removed.
    """
    of = None if name is None else sha256(name, 8)
    with suppress(OSError):
        for part in folder.glob(".part-*"):
            found = _PART.fullmatch(part.name)
            if found and of in (None, found[1]):
                with suppress(OSError):  # gone meanwhile, or another user's: it harms nobody
                    _sweep_one(part, here=found[2] == sha256(platform.node(), 6))


def _sweep_one(part: Path, here: bool) -> None:
    """Remove one leftover if its writer is gone. Raises OSError where that cannot be found out."""
    with _lock(part) as locked:
        age = time.time() - max(path.lstat().st_mtime for path in (part, *part.rglob("*")))
        if (locked and here) or (locked is not False and age > STALE_S):
            _remove(part)


@contextmanager
def _lock(part: Path) -> Iterator[bool | None]:
    """Inside, the file or folder is locked: True; False: another process has the lock; None: there are no locks here.

    A lock goes with its process, however that ends. Raises OSError where the file or folder cannot be opened.
    """
    if not POSIX:
        yield None
        return
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
    """Remove a file or a folder, if it is there."""
    with suppress(OSError):
        part.unlink() if not part.is_dir() else shutil.rmtree(part)


def is_file(path: Path) -> bool:
    """Whether there is a file; UnreadableError where that cannot be found out (`Path.is_file` says no to that, or raises)."""
    with readable(path):
        try:
            return stat.S_ISREG(path.stat().st_mode)
        except ABSENT:
            return False


def exists(path: Path) -> bool:
    """Whether there is anything of this name; raises as `is_file` does."""
    with readable(path):
        try:
            path.lstat()
        except ABSENT:
            return False
        return True


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Inside, whatever keeps `path` from being read, other than that it is not there, is an UnreadableError.

    What cannot be read is not damaged: another user's file, a disk that is away, too many open files.
    """
    try:
        yield
    except (*ABSENT, IsADirectoryError, PwlLabError):
        raise
    except OSError as error:
        advice = ". Ask its owner for permission to read it" if isinstance(error, PermissionError) else ""
        raise UnreadableError(
            f"{error.filename or path} cannot be read ({error.strerror or error}), so it was left as it is{advice}"
        ) from error


def sha256(content: bytes | str, digits: int = 64) -> str:
    """The first hex digits of the SHA-256 of this content; a text counts as UTF-8."""
    raw = content.encode(errors="replace") if isinstance(content, str) else content
    return hashlib.sha256(raw).hexdigest()[:digits]


def file_sha256(path: Path) -> str:
    """SHA-256 (hex) of a file, read in pieces.

    Raises MissingDataError if there is no such file, UnreadableError for one that cannot be read.
    """
    if not is_file(path):
        raise MissingDataError(f"{path} is missing")
    with readable(path), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def settle(files: Iterable[Path]) -> None:
    """Wait until those of these files that are there, and their folders, would outlast a loss of power.

    Raises OSError where the disk does not take them. Some milliseconds a file: only for what later work relies on.
    """
    there = [path for path in files if path.is_file()]
    folders = {path.parent for path in there} if POSIX else set()
    how = os.O_RDONLY if POSIX else os.O_RDWR  # Windows: only what is open for writing
    for path in (*there, *folders):  # the folders last: they hold the names
        handle = os.open(path, how)
        try:
            os.fsync(handle)
        except OSError as error:
            if error.errno not in UNABLE:
                raise
        finally:
            os.close(handle)
