"""Every environment variable of the study: what it means, what it may be, and the only place that reads it.

A relative folder is meant where it was typed. The command, a worker and a script run there. A notebook's kernel does not:
it runs beside the notebook, in an environment that Jupyter took from the shell, so there `PWD` says where that was. The
first reading makes a folder absolute in `os.environ` itself; from then on it is the same for every child process, and
wherever this one goes.
"""

import os
import re
import stat
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pwl_lab.support.errors import invalid, unknown

PREFIX = "PWL_LAB_"
MOST = 9_999  # of whatever a number counts: more is a typo
YES, NO = ("1", "true", "yes", "on"), ("0", "false", "no", "off")
DEVICES = ("auto", "cpu", "cuda")


@dataclass(frozen=True)
class Variable:
    """One variable. One that is empty counts as not set.

    Arguments:
    - `name`: the variable's name.
    - `kind`: folder, file, number, flag, device or text.
    - `meaning`: what it sets, in words.
    - `default`: what holds if it is not set, in words.
    """

    name: str
    kind: str
    meaning: str
    default: str

    def get(self) -> Any:
        """Its value as its kind has it (a Path, an int, a bool, a str); None where it is not set.

        Raises InvalidValueError for a value that makes no sense, and UnknownNameError as `refuse_unknown` does.
        """
        refuse_unknown()
        text = os.environ.get(self.name)
        return _READERS[self.kind](self.name, text) if text else None


def refuse_unknown() -> None:
    """Raise UnknownNameError where a variable is set whose name begins as ours do, and is misspelt."""
    for name in sorted(os.environ):
        if name.startswith(PREFIX) and name not in VARIABLES:
            raise unknown("environment variable", name, VARIABLES)


def settled() -> dict[str, str]:
    """This process's environment, as a child process gets it: our variables are checked, and every folder is absolute.

    Raises as `Variable.get` does.
    """
    for variable in VARIABLES.values():
        variable.get()
    return dict(os.environ)


def _path(name: str, text: str, fits: Callable[[Path], bool], what: str) -> Path:
    """A path, absolute from now on."""
    if "://" in text:
        raise invalid(name, text, f"{what} on this machine, not an address")
    try:
        path = Path(text).expanduser()
    except RuntimeError:
        raise invalid(name, text, f"{what}; no user of that name has a home folder here") from None
    path = Path(os.path.abspath(_typed_in() / path))  # noqa: PTH100 - a link stays what it is
    try:
        if not text.strip() or not fits(path):
            raise invalid(name, text, what)
    except OSError as error:
        raise invalid(name, text, f"{what} that can be there ({error.strerror})") from None
    os.environ[name] = str(path)
    return path


def _folder_fits(path: Path) -> bool:
    """Whether this is a folder, or can be made to be one. Raises OSError where it cannot even be looked at."""
    try:
        return stat.S_ISDIR(path.stat().st_mode)
    except FileNotFoundError:
        return path == path.parent or _folder_fits(path.parent)


def _typed_in() -> Path:
    """The folder that a relative path starts from."""
    shell = os.environ.get("PWD", "")
    from_kernel = "JPY_PARENT_PID" in os.environ  # jupyter_client sets it for every kernel
    return Path(shell) if from_kernel and Path(shell).is_absolute() and Path(shell).is_dir() else Path.cwd()


def _number(name: str, text: str) -> int:
    """A whole number."""
    if not re.fullmatch(r"0*[1-9][0-9]{0,3}", text):
        raise invalid(name, text, f"a whole number from 1 to {MOST:,}")
    return int(text)


def _flag(name: str, text: str) -> bool:
    """True or False, from one of the words for them."""
    if text.lower() not in YES + NO:
        raise invalid(name, text, f"one of {', '.join(YES + NO)}")
    return text.lower() in YES


def _device(name: str, text: str) -> str:
    """A device, as the notebooks' parameter of that name takes it."""
    if text not in DEVICES:
        raise invalid(name, text, f"one of {', '.join(DEVICES)}")
    return text


_READERS: dict[str, Callable[[str, str], Any]] = {
    "folder": partial(_path, fits=_folder_fits, what="a folder"),
    "file": partial(_path, fits=lambda path: not path.is_dir() and _folder_fits(path.parent), what="a file"),
    "number": _number,
    "flag": _flag,
    "device": _device,
    "text": lambda name, text: text,
}

HOME = Variable("PWL_LAB_HOME", "folder", "the project's checkout", "the one that the package was installed from")
RUNS = Variable("PWL_LAB_RUNS", "folder", "where everything that is computed goes", "runs/ in the project's folder")
STORE = Variable("PWL_LAB_STORE", "folder", "where trained things are kept between runs", "store/ among the runs")
DATA = Variable("PWL_LAB_DATA", "folder", "where downloaded datasets are kept", "downloads/ among the runs")
WORKERS = Variable("PWL_LAB_WORKERS", "number", "how many trainings run side by side", "one more than the cores")
DEVICE = Variable("PWL_LAB_DEVICE", "device", "where tensors live, for the parameter device = auto", "auto")
ONLY_STORED = Variable("PWL_LAB_ONLY_STORED", "flag", "nothing is trained that the store lacks", "off")
OUT = Variable(
    "PWL_LAB_OUT", "folder", "where a notebook leaves its results; set by a run", "interactive/ among the runs"
)
PROGRESS = Variable("PWL_LAB_PROGRESS", "file", "what progress is appended to; set by a run", "a bar is shown instead")
RUN_MARK = Variable("PWL_LAB_RUN_MARK", "text", "the runs that a process is part of; set by a run", "none")

VARIABLES = {
    each.name: each for each in (HOME, RUNS, STORE, DATA, WORKERS, DEVICE, ONLY_STORED, OUT, PROGRESS, RUN_MARK)
}
