"""The folder that a command writes into: its own alone, for as long as it works, and nothing but what a run left is replaced."""

import itertools
import os
import shutil
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from pwl_lab.runner.status import FILES, NOTEBOOK, STATUS, RunStatus, read_status
from pwl_lab.support import paths
from pwl_lab.support.errors import InvalidValueError, invalid
from pwl_lab.support.storages import scheme_of

LOCK = ".run.lock"  # only where a folder itself cannot be locked
LEFT_S = 3600.0  # a folder is made before it is locked


def folder_at(out: str | Path) -> Path:
    """The folder that `out` names, absolute; ~ is a user's home.

    Raises InvalidValueError where it names none: an empty text, an address, what no name of a file can hold.
    """
    check_name(out)
    if scheme := scheme_of(out):
        raise invalid("out", f"{scheme}://...", "a folder of this machine; only a batch can be kept at an address")
    try:
        return Path(out).expanduser().absolute()
    except RuntimeError:
        allowed = (
            "the path of a folder; no user of that name has a home folder here (for a folder called so write ./~...)"
        )
        raise invalid("out", str(out), allowed) from None


def check_name(out: str | Path, allowed: str = "the path of a folder; . is the current one") -> None:
    """Raise InvalidValueError for an empty text, and for one that neither UTF-8 nor a file's name can hold."""
    if not str(out).strip():
        raise invalid("out", str(out), allowed)
    try:
        str(out).encode()
    except UnicodeEncodeError:
        raise invalid("out", str(out), "a name in UTF-8") from None
    if "\0" in str(out):
        raise invalid("out", str(out), "a name without the character 0")


def no_folder(folder: Path, error: OSError) -> InvalidValueError:
    """Why no folder can be there: a file is in the way, or what the system says."""
    file = next((path for path in (folder, *folder.parents) if path.is_file()), None)
    if file is not None and not isinstance(error, PermissionError):
        which = "this" if file == folder else str(file)
        return invalid("out", str(folder), f"a folder that can be made and written to; {which} is a file")
    return invalid("out", str(folder), f"a folder that can be made and written to ({error.strerror})")


def check_replaceable(folder: Path) -> None:
    """Raise InvalidValueError where a run in `folder` would replace, or lie among, what no run of ours left there.

    What was changed or added since the run is its reader's own. A folder that holds the current one, the project or the
    user's home is no run's own, unless it is empty.
    """
    try:
        there = {path.name for path in folder.iterdir()}
    except FileNotFoundError:
        return
    except OSError as error:
        raise no_folder(folder, error) from None
    status = read_status(folder)
    others = sorted(there.intersection(FILES))
    if status is None and others:
        allowed = (
            f"a folder that is new, empty or an earlier run's; this one holds {', '.join(others)}, which no run left"
        )
        raise invalid("out", str(folder), allowed)
    if status is None and there and any(home.is_relative_to(folder.resolve()) for home in _homes()):
        raise invalid("out", str(folder), "a folder of the run's own; this one is, or holds, where you work")
    if status and (own := [name for name in others if name != STATUS and not _is_left(status, folder, name)]):
        are = "was" if len(own) == 1 else "were"
        changed = f"{', '.join(own)} in it {are} changed or added since the run; move away what is yours, or give another folder"
        raise invalid("out", str(folder), changed)


def _is_left(status: RunStatus, folder: Path, name: str) -> bool:
    """Whether the file is what the run with this status left there.

    A run that was killed outright has listed none. It had removed what was there before, so that what is older than its
    status is not its own; of what is newer nobody can tell.
    """
    if status.files:
        return name in status.files and status.files[name].is_at(folder / name)
    if status.status == "running":
        return (folder / name).stat().st_mtime_ns >= (folder / STATUS).stat().st_mtime_ns
    return True


def set_aside(folder: Path) -> None:
    """Keep a notebook that was changed since its run under a name that no run writes; for one that is to be redone."""
    status = read_status(folder)
    if status and NOTEBOOK in status.files and (folder / NOTEBOOK).is_file() and not _is_left(status, folder, NOTEBOOK):
        names = (folder / f"changed-{number}.ipynb" for number in itertools.count(1))
        (folder / NOTEBOOK).rename(next(path for path in names if not path.exists()))


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
        raise no_folder(folder, error) from None
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
