"""The folder that a command writes into: its own alone, for as long as it works, and nothing but what a run left is replaced."""

import os
import shutil
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from pwl_lab import paths
from pwl_lab.batch.status import FILES, NOTEBOOK, STATUS, read_status
from pwl_lab.errors import InvalidValueError, invalid
from pwl_lab.storages import scheme_of

LOCK = ".run.lock"  # only where a folder itself cannot be locked
LEFT_S = 3600.0  # a folder is made before it is locked


def folder_at(out: str | Path) -> Path:
    """The folder that `out` names, absolute. Raises InvalidValueError where it names none: an empty text, an address."""
    if not str(out).strip():
        raise invalid("out", str(out), "the path of a folder; . is the current one")
    if scheme := scheme_of(out):
        raise invalid("out", f"{scheme}://...", "a folder of this machine; only a batch can be kept at an address")
    return Path(out).expanduser().absolute()


def check_replaceable(folder: Path) -> None:
    """Raise InvalidValueError where a run in `folder` would replace, or lie among, what no run of ours left there.

    A notebook that was changed since its run is its reader's own. A folder that holds the current one, the project or the
    user's home is no run's own, unless it is empty.
    """
    try:
        there = {path.name for path in folder.iterdir()}
    except FileNotFoundError:
        return
    except OSError as error:
        raise invalid("out", str(folder), f"a folder that can be made and written to ({error.strerror})") from None
    status = read_status(folder)
    others = sorted(there.intersection(FILES))
    if status is None and others:
        allowed = (
            f"a folder that is new, empty or an earlier run's; this one holds {', '.join(others)}, which no run left"
        )
        raise invalid("out", str(folder), allowed)
    if status is None and there and any(home.is_relative_to(folder.resolve()) for home in _homes()):
        raise invalid("out", str(folder), "a folder of the run's own; this one is, or holds, where you work")
    length = status.files.get(NOTEBOOK) if status else None
    if length is not None and NOTEBOOK in there and (folder / NOTEBOOK).stat().st_size != length:
        changed = f"its {NOTEBOOK} was changed since it was run; move it away, or give another folder"
        raise invalid("out", str(folder), changed)


def _homes() -> list[Path]:
    """Where a person works: the current folder, the project, the user's home."""
    return [Path.cwd().resolve(), paths.root().resolve(), Path.home().resolve()]


def clear(folder: Path) -> None:
    """Remove what an earlier run left in `folder`, so that nothing old is taken for new; its status last."""
    for name in sorted(FILES, key=lambda name: name == STATUS):
        (folder / name).unlink(missing_ok=True)


@contextmanager
def alone_in_folder(folder: Path) -> Iterator[None]:
    """Inside, `folder` is there, and no other run works in it. Raises InvalidValueError where another one does.

    The system's lock on the folder itself leaves no file behind, and goes with the process that holds it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        release = lock_folder(folder)
    except Timeout:
        raise InvalidValueError(f"another run is at work in {folder}; wait for it, or give another folder") from None
    except OSError as error:
        raise invalid("out", str(folder), f"a folder that can be made and written to ({error.strerror})") from None
    try:
        yield
    finally:
        release()


def lock_folder(folder: Path) -> Callable[[], None]:
    """Lock the folder, by a file in it where the system cannot (Windows, some shares); what releases it, once.

    Raises Timeout where another has locked it.
    """
    if os.name == "posix":
        import fcntl

        handle = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            raise Timeout(str(folder)) from None
        except OSError:
            os.close(handle)
        else:
            return lambda: os.close(handle)
    lock = FileLock(folder / LOCK, timeout=0)
    lock.acquire()
    return lock.release


def sweep(parent: Path, prefix: str, known: tuple[str, ...]) -> None:
    """Remove the folders `prefix...` in `parent` whose process was killed before it could do so.

    That is safe to say of one that is this user's, that nothing was made in for an hour, that holds nothing but what
    begins with the `known` names, and that no process has locked.
    """
    for folder in parent.glob(f"{prefix}*"):
        with suppress(OSError, Timeout):  # another's, in use, or just gone: left alone
            facts = folder.lstat()
            mine = not hasattr(os, "getuid") or facts.st_uid == os.getuid()
            if not mine or not stat.S_ISDIR(facts.st_mode) or time.time() - facts.st_mtime < LEFT_S:
                continue
            if all(path.name.startswith(known) for path in folder.iterdir()):
                release = lock_folder(folder)
                try:
                    shutil.rmtree(folder)
                finally:
                    release()
