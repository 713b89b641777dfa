"""Every environment variable of the study: its meaning and its allowed values. They are read only here.

A relative folder is relative to where it was typed. The command, a worker and a script run there. A notebook's kernel
does not: it runs in the notebook's folder, with an environment that Jupyter took from the shell, where `PWD` is the
original folder. The first reading makes a folder absolute in `os.environ` itself, so that it stays the same for child
processes and when this process changes its folder.
"""

import math
import os
import re
import stat
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pwl_lab.support.errors import invalid, unknown

PREFIX = "PWL_LAB_"
MOST = 9_999  # the largest number accepted: more is a typo
YES, NO = ("1", "true", "yes", "on"), ("0", "false", "no", "off")
DEVICES = ("auto", "cpu", "cuda")


@dataclass(frozen=True)
class Variable:
    """One variable. An empty one counts as not set.

    Arguments:
    - `name`: the variable's name.
    - `kind`: folder, file, number, flag, device, moment or text.
    - `meaning`: what it sets, in words.
    - `default`: the default, in words.
    """

    name: str
    kind: str
    meaning: str
    default: str

    def get(self) -> Any:
        """Its value, converted to its kind (a Path, an int, a bool, a float, a str); None if it is not set.

        Raises InvalidValueError for an invalid value, and UnknownNameError as `refuse_unknown` does.
        """
        refuse_unknown()
        text = os.environ.get(self.name)
        return _READERS[self.kind](self.name, text) if text else None

    def put(self, text: str) -> None:
        """Set it, for this process and those that it starts."""
        os.environ[self.name] = text


def refuse_unknown() -> None:
    """Raise UnknownNameError if a variable is set whose name begins like ours but is not known."""
    for name in sorted(os.environ):
        if name.startswith(PREFIX) and name not in VARIABLES:
            raise unknown("environment variable", name, VARIABLES)


def settled() -> dict[str, str]:
    """This process's environment for a child process: our variables are checked, and every folder is absolute.

    Raises as `Variable.get` does.
    """
    for variable in VARIABLES.values():
        variable.get()
    return dict(os.environ)


def stop_after(duration: str) -> None:
    """Let the trainings of this process, and of those that it starts, stop after this time: `8m`, `90s`, `1h30m`."""
    parts = re.fullmatch(r"(?:(\d{1,4})h)?(?:(\d{1,4})m)?(?:(\d{1,5})s)?", duration)
    hours, minutes, seconds = (int(part or 0) for part in parts.groups()) if parts else (0, 0, 0)
    if not hours + minutes + seconds:
        raise invalid("--stop-after", duration, "hours, minutes and seconds, such as 8m, 90s or 1h30m")
    STOP_AT.put(f"{time.time() + 3600 * hours + 60 * minutes + seconds:.1f}")


def seconds_left() -> float:
    """How long trainings may go on; infinity unless a time was set."""
    stop_at = STOP_AT.get()
    return math.inf if stop_at is None else float(stop_at) - time.time()


def _path(name: str, text: str, fits: Callable[[Path], bool], what: str) -> Path:
    """The path, made absolute for good."""
    if "://" in text:
        raise invalid(name, text, f"{what} on this machine, not an address")
    try:
        path = Path(text).expanduser()
    except RuntimeError:
        raise invalid(name, text, f"{what}; there is no home folder for that user here") from None
    path = Path(os.path.abspath(_typed_in() / path))  # noqa: PTH100 - links are not resolved
    try:
        if not text.strip() or not fits(path):
            raise invalid(name, text, what)
    except OSError as error:
        raise invalid(name, text, f"{what} that is possible here ({error.strerror})") from None
    os.environ[name] = str(path)
    return path


def _folder_fits(path: Path) -> bool:
    """Whether this is a folder or can be created. Raises OSError if that cannot be determined."""
    try:
        return stat.S_ISDIR(path.stat().st_mode)
    except FileNotFoundError:
        return path == path.parent or _folder_fits(path.parent)


def _typed_in() -> Path:
    """The folder that relative paths start from."""
    shell = os.environ.get("PWD", "")
    from_kernel = "JPY_PARENT_PID" in os.environ  # jupyter_client sets it for every kernel
    return Path(shell) if from_kernel and Path(shell).is_absolute() and Path(shell).is_dir() else Path.cwd()


def _number(name: str, text: str) -> int:
    """A whole number."""
    if not re.fullmatch(r"0*[1-9][0-9]{0,3}", text):
        raise invalid(name, text, f"a whole number from 1 to {MOST:,}")
    return int(text)


def _flag(name: str, text: str) -> bool:
    """True or False, from a word such as yes or no."""
    if text.lower() not in YES + NO:
        raise invalid(name, text, f"one of {', '.join(YES + NO)}")
    return text.lower() in YES


def _device(name: str, text: str) -> str:
    """A device, as in the notebooks' parameter of that name."""
    if text not in DEVICES:
        raise invalid(name, text, f"one of {', '.join(DEVICES)}")
    return text


def _moment(name: str, text: str) -> float:
    """A time, in seconds since 1970."""
    if not re.fullmatch(r"[0-9]{1,12}(\.[0-9]+)?", text):
        raise invalid(name, text, "a number of seconds since 1970, as `date +%s` prints it")
    return float(text)


_READERS: dict[str, Callable[[str, str], Any]] = {
    "folder": partial(_path, fits=_folder_fits, what="a folder"),
    "file": partial(_path, fits=lambda path: not path.is_dir() and _folder_fits(path.parent), what="a file"),
    "number": _number,
    "flag": _flag,
    "device": _device,
    "moment": _moment,
    "text": lambda name, text: text,
}

HOME = Variable(
    "PWL_LAB_HOME", "folder", "a checkout of the project", "the one from which the package was installed, if any"
)
RUNS = Variable(
    "PWL_LAB_RUNS", "folder", "where all results go", "runs/ in the checkout; without one, in the current folder"
)
STORE = Variable("PWL_LAB_STORE", "folder", "where trained networks are kept between runs", "store/ in the runs folder")
DATA = Variable("PWL_LAB_DATA", "folder", "where downloaded datasets are kept", "downloads/ in the runs folder")
WORKERS = Variable("PWL_LAB_WORKERS", "number", "how many trainings run in parallel", "one more than the cores")
DEVICE = Variable("PWL_LAB_DEVICE", "device", "the device for the parameter device = auto", "auto")
ONLY_STORED = Variable("PWL_LAB_ONLY_STORED", "flag", "use stored networks only, train nothing", "off")
OUT = Variable(
    "PWL_LAB_OUT", "folder", "where a notebook saves its results; set by a run", "interactive/ in the runs folder"
)
PROGRESS = Variable("PWL_LAB_PROGRESS", "file", "where progress is logged; set by a run", "a bar is shown instead")
STOP_AT = Variable(
    "PWL_LAB_STOP_AT", "moment", "when trainings stop, to be resumed (seconds since 1970); set by --stop-after", "never"
)
RUN_MARK = Variable("PWL_LAB_RUN_MARK", "text", "the runs that a process belongs to; set by a run", "none")

VARIABLES = {
    each.name: each
    for each in (HOME, RUNS, STORE, DATA, WORKERS, DEVICE, ONLY_STORED, OUT, PROGRESS, STOP_AT, RUN_MARK)
}
