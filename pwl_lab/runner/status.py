"""How a run ended: `status.json`, and the names of the other files of a run."""

import json
import platform
import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel

from pwl_lab.support.files import file_sha256, write_json

STATUS = "status.json"
PARAMS = "params.json"
METRICS = "metrics.json"
NOTEBOOK = "notebook.ipynb"
PAGE = "notebook.html"
PROGRESS = "progress.log"
FILES = (STATUS, PARAMS, METRICS, NOTEBOOK, PAGE, PROGRESS)
LASTING = (PARAMS, METRICS, NOTEBOOK, PAGE)  # what nothing changes once a run has ended

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_REPORTED = ("pwl_lab", "torch", "numpy", "papermill", "nbclient", "ipykernel", "ipywidgets")


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
    `page_error` says why `notebook.html` is not there, or what it could not show: the run itself ended as `status` says.
    `cell` counts from 0 in the executed `notebook.ipynb` beside it. A status that still says `running` although nothing
    runs is a run whose own process was killed outright.
    """

    status: Literal["running", "ok", "failed", "timeout", "killed"]
    notebook: str
    preset: str | None = None
    cell: int | None = None
    cell_source: str | None = None
    error: RunError | None = None
    started: str
    seconds: float = 0.0
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
        raise ValueError("it is nested too deeply to be read") from None


def plain(text: str) -> str:
    """`text` without terminal colours."""
    return _COLOURS.sub("", text)


def write_status(folder: Path, status: RunStatus) -> None:
    """Leave `status` in `folder`."""
    write_json(folder / STATUS, status.model_dump(mode="json"))


def read_status(folder: Path) -> RunStatus | None:
    """The status in `folder`, None where there is none that can be read."""
    try:
        return parse_status((folder / STATUS).read_bytes())
    except OSError:
        return None


def parse_status(content: bytes) -> RunStatus | None:
    """The status in this file's content, None where it cannot be read."""
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
