"""A run's folder: the files that a run leaves there, `status.json` which says how it ended, and what the next may replace."""

import itertools
import json
import platform
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from filelock import Timeout
from pydantic import BaseModel

from pwl_lab.support import paths
from pwl_lab.support.errors import InvalidValueError, TimeIsUpError, invalid
from pwl_lab.support.files import file_sha256, locked, set_aside, write_json

STATUS = "status.json"
PARAMS = "params.json"
METRICS = "metrics.json"
NOTEBOOK = "notebook.ipynb"
PAGE = "notebook.html"
PROGRESS = "progress.log"
FILES = (STATUS, PARAMS, METRICS, NOTEBOOK, PAGE, PROGRESS)
LASTING = (PARAMS, METRICS, NOTEBOOK, PAGE)  # files that never change once a run has ended

_REPORTED = ("pwl_lab", "torch", "numpy", "papermill", "nbclient", "ipykernel", "ipywidgets")


Ending = Literal["ok", "failed", "timeout", "killed", "stopped"]
TIME_IS_UP = TimeIsUpError.__name__  # why a run is stopped: the same command goes on from its last checkpoint


class RunError(BaseModel):
    """What went wrong: the exception's name and text, and the traceback without colours."""

    name: str
    message: str
    traceback: str = ""


class LeftFile(BaseModel):
    """One file as a run left it: its length in bytes, and its SHA-256 (hex)."""

    bytes: int
    sha256: str

    def is_at(self, path: Path) -> bool:
        """Whether the file at `path` is still this one. Raises UnreadableError where that cannot be known."""
        try:
            return path.stat().st_size == self.bytes and file_sha256(path) == self.sha256
        except (FileNotFoundError, NotADirectoryError):
            return False


class RunStatus(BaseModel):
    """What `status.json` holds. `metrics`: whether the run left a `metrics.json`, without which it is not whole.

    `files`: each file that the run left, once it has ended; one that is another since is damaged, or its reader's own. None
    are listed while it runs, and none were by earlier versions.
    `phases`: the seconds of each phase of `support/timing.py`, and of all else as `other`; `seconds` in all.
    `page_error` says why `notebook.html` is not there, or what it could not show: the run itself ended as `status` says.
    `cell` counts from 0 in the executed `notebook.ipynb` beside it. A status that still says `running` although nothing
    runs is a run whose own process was killed outright. A run that is `stopped` had to end by a certain time: the next
    goes on from the checkpoints of its trainings.
    """

    status: Literal["running"] | Ending
    notebook: str
    preset: str | None = None
    cell: int | None = None
    cell_source: str | None = None
    error: RunError | None = None
    started: str
    seconds: float = 0.0
    phases: dict[str, float] = {}
    cells: int
    metrics: bool = False
    files: dict[str, LeftFile] = {}
    page_error: str | None = None
    versions: dict[str, str | None]
    commit: str | None


def parse_json(text: str | bytes) -> Any:
    """What this JSON says. Raises ValueError, also for what is nested too deeply to be read."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def write_status(folder: Path, status: RunStatus) -> None:
    """Write `status` into `folder`."""
    write_json(folder / STATUS, status.model_dump(mode="json"))


def read_status(folder: Path) -> RunStatus | None:
    """The status in `folder`; None if it is missing or cannot be read."""
    try:
        return parse_status((folder / STATUS).read_bytes())
    except OSError:
        return None


def parse_status(content: bytes) -> RunStatus | None:
    """The status in this file's content; None if it cannot be read."""
    try:
        return RunStatus.model_validate_json(content)
    except ValueError:
        return None


def left_files(folder: Path) -> dict[str, LeftFile]:
    """The files that a run has left in `folder`, beside its status. Raises OSError where they cannot be read."""
    there = {name: folder / name for name in FILES if name != STATUS and (folder / name).is_file()}
    return {name: LeftFile(bytes=path.stat().st_size, sha256=file_sha256(path)) for name, path in there.items()}


def versions() -> dict[str, str | None]:
    """The versions of Python and of what shapes a result; None for what is not installed."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for name in _REPORTED:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def check_replaceable(folder: Path) -> None:
    """Raise InvalidValueError where a run in `folder` would replace, or lie among, what no run of ours left there.

    What was changed or added since the run is its reader's own. A folder that holds the current one, the project or the
    user's home is no run's own, unless it is empty.
    """
    names = paths.names_in(folder)
    others = sorted(names.intersection(FILES))
    status = read_status(folder)
    if status is None and others:
        allowed = (
            f"a folder that is new, empty or an earlier run's; this one holds {', '.join(others)}, which no run left"
        )
        raise invalid("out", str(folder), allowed)
    homes = (Path.cwd().resolve(), paths.root().resolve(), Path.home().resolve())
    if status is None and names and any(home.is_relative_to(folder.resolve()) for home in homes):
        raise invalid(
            "out", str(folder), "a folder used only by this run; this one is, or contains, your current folder"
        )
    if status and (own := [name for name in others if name != STATUS and not _is_left(status, folder, name)]):
        were = "was" if len(own) == 1 else "were"
        changed = f"{', '.join(own)} in it {were} changed or added since the run"
        raise invalid("out", str(folder), f"{changed}; move your files away, or give another folder")


def _is_left(status: RunStatus, folder: Path, name: str) -> bool:
    """Whether the file is the one that the run with this status left.

    A run that was killed outright has listed none. It had removed what was there before, so that what is older than its
    status is not its own; of what is newer nobody can tell.
    """
    if status.files:
        return name in status.files and status.files[name].is_at(folder / name)
    if status.status == "running":
        return (folder / name).stat().st_mtime_ns >= (folder / STATUS).stat().st_mtime_ns
    return True


def keep_changed_notebook(folder: Path) -> None:
    """Keep a notebook that was changed since its run under a name that no run writes; for one that is to be redone."""
    status = read_status(folder)
    if status and NOTEBOOK in status.files and (folder / NOTEBOOK).is_file() and not _is_left(status, folder, NOTEBOOK):
        names = (folder / f"changed-{number}.ipynb" for number in itertools.count(1))
        set_aside(folder / NOTEBOOK, next(path for path in names if not path.exists()))


def clear(folder: Path) -> None:
    """Remove what an earlier run left in `folder`, so that nothing old is taken for new; its status last."""
    for name in sorted(FILES, key=lambda name: name == STATUS):
        (folder / name).unlink(missing_ok=True)


@contextmanager
def alone_in_folder(folder: Path) -> Iterator[None]:
    """Inside, `folder` is there, and no other run works in it. Raises InvalidValueError where another one does."""
    with ExitStack() as stack:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            stack.enter_context(locked(folder))
        except Timeout:
            raise InvalidValueError(
                f"another run is in progress in {folder}; wait for it, or give another folder"
            ) from None
        except OSError as error:
            raise paths.no_folder(folder, error) from None
        yield
