"""The locations of files and folders, and the commit of the checkout. Only this module contains fixed paths."""

import os
import subprocess
from pathlib import Path

from pwl_lab.support import environment
from pwl_lab.support.errors import InvalidValueError, MissingDataError, invalid
from pwl_lab.support.storages import scheme_of

INTERACTIVE = "interactive"  # in the runs folder: the results of notebooks that were not run by a command
BENCH = "bench.json"  # in the runs folder: the results of the benchmarks


PACKAGE = Path(__file__).resolve().parents[1]


def root() -> Path:
    """The folder that holds presets and data: `PWL_LAB_HOME`, the checkout, or the package where there is no checkout."""
    folder: Path | None = environment.HOME.get()
    if folder is None:
        folder = PACKAGE if (PACKAGE / "presets").is_dir() else PACKAGE.parent
    if not (folder / "presets").is_dir():
        raise MissingDataError(f"{folder} has no presets/ folder. Set PWL_LAB_HOME to a checkout of the project.")
    return folder


def is_checkout() -> bool:
    """Whether `root` is a checkout, with notebooks; an installed package has only what the library needs."""
    return root() != PACKAGE


def needs_checkout(what: str) -> MissingDataError:
    """The error for something that only a checkout of the project has."""
    return MissingDataError(
        f"{what} a checkout of the project, and this pwl_lab was installed without one, in {PACKAGE}. "
        "Run the command in a checkout's own environment, or set PWL_LAB_HOME to a checkout of the same version."
    )


def presets() -> Path:
    """The folder of preset files."""
    return root() / "presets"


def notebooks() -> Path:
    """The folder of the series; an installed package has none."""
    return root() / "notebooks"


def web() -> Path:
    """The folder of the page on which a network loads."""
    return root() / "web"


def data() -> Path:
    """The folder of the bundled data."""
    return root() / "data"


def results() -> Path:
    """The folder of the shipped result tables."""
    return data() / "results"


def runs() -> Path:
    """The folder for all results: `PWL_LAB_RUNS`, or `runs/` in the checkout; without a checkout, in the current folder."""
    if environment.RUNS.get() is None and not is_checkout():
        environment.RUNS.put("runs")  # as if typed here, so that child processes and later calls mean the same folder
    return environment.RUNS.get() or root() / "runs"


def from_here(folder: str) -> str:
    """A folder named by a user, made absolute: relative to the current folder, otherwise to the checkout.

    An address (`s3://...`) or an empty name is returned as it is.
    """
    if not folder or "://" in folder:
        return folder
    here = absolute(folder, "folder")
    return str(here if here.exists() or not is_checkout() else root() / Path(folder).expanduser())


def absolute(path: str | Path, field: str = "out") -> Path:
    """The path made absolute; ~ is a user's home. Raises InvalidValueError, about `field`, if there is no such user."""
    try:
        return Path(path).expanduser().absolute()
    except RuntimeError:
        allowed = "there is no home folder for that user here (for a folder of that name, write ./~...)"
        raise invalid(field, str(path), f"the path of a folder; {allowed}") from None


def local_folder(
    path: str | Path,
    field: str = "out",
    elsewhere: str = "copy its content to an address afterwards (only a batch can write to an address)",
) -> Path:
    """The folder on this machine that `path` names, absolute; ~ is a user's home. It need not exist.

    Arguments:
    - `path`: the path as given by the user.
    - `field`: the name of the value in messages.
    - `elsewhere`: advice for a user who gave an address.

    Raises InvalidValueError for an empty text, an address, characters that no file name can have, and the home of an
    unknown user.
    """
    check_path(path, field)
    if scheme := scheme_of(path):
        raise invalid(field, f"{scheme}://...", f"a folder on this machine; {elsewhere}")
    return absolute(path, field)


def address(target: Path, folder: Path) -> str:
    """The address of a file for a page in `folder`: relative, or absolute where the file is on another drive."""
    try:
        return Path(os.path.relpath(target, folder)).as_posix()
    except ValueError:
        return target.absolute().as_uri()


def check_path(
    out: str | Path, field: str = "out", allowed: str = "the path of a folder; . is the current one"
) -> None:
    """Raise InvalidValueError for an empty text, and for characters that UTF-8 or a file name cannot have."""
    text = str(out)
    if not text.strip():
        raise invalid(field, text, allowed)
    try:
        text.encode()
    except UnicodeEncodeError:
        raise invalid(field, text, "a name in UTF-8") from None
    if "\0" in text:
        raise invalid(field, text, "a name without the character 0")


def names_in(folder: Path, field: str = "out") -> set[str]:
    """The names in a folder that will be written to; empty if it does not exist yet.

    Raises InvalidValueError, about `field`, if the folder cannot be created or read.
    """
    try:
        return {path.name for path in folder.iterdir()}
    except FileNotFoundError:
        return set()
    except OSError as error:
        raise no_folder(folder, error, field) from None


def no_folder(folder: Path, error: OSError, field: str = "out") -> InvalidValueError:
    """The error for a folder that cannot be created: a file is in the way, or the system's reason."""
    file = next((path for path in (folder, *folder.parents) if path.is_file()), None)
    if file is not None and not isinstance(error, PermissionError):
        which = "this" if file == folder else str(file)
        return invalid(field, str(folder), f"a folder that can be created and written to; {which} is a file")
    return invalid(field, str(folder), f"a folder that can be created and written to ({error.strerror})")


def example_batch() -> Path:
    """The folder of notebook 09's example batch."""
    return runs() / "example_batch"


def grids() -> Path:
    """The folder of the example grids."""
    return presets() / "grids"


def web_page() -> Path:
    """The folder of the page that `pwl-lab web` writes."""
    return runs() / "web"


def store() -> Path:
    """Where trained networks are kept between runs: `PWL_LAB_STORE`, or `store/` in the runs folder."""
    return environment.STORE.get() or runs() / "store"


def reserved() -> list[Path]:
    """Folders with a special use, which no series may use as its folder."""
    return [example_batch(), web_page(), store(), downloads(), scratch(), runs() / INTERACTIVE, runs() / BENCH]


def scratch() -> Path:
    """The folder for temporary files of running commands; no series can have this name.

    Batches with a remote location keep files here that are not copied yet; each dashboard keeps its server's files.
    """
    return runs() / ".batches"


def downloads() -> Path:
    """Where downloaded datasets are kept: `PWL_LAB_DATA`, or `downloads/` in the runs folder."""
    return environment.DATA.get() or runs() / "downloads"


def output(notebook: str) -> Path:
    """Where a notebook saves its `metrics.json`: the folder set by `pwl-lab run`, or its own one in the runs folder."""
    return environment.OUT.get() or runs() / INTERACTIVE / notebook


def commit() -> str | None:
    """The checkout's commit, marked if files differ from it; None outside a git checkout or without git."""
    if not is_checkout():  # the package may lie in a repository of the reader's own
        return None
    command = ["git", "-C", str(root()), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None
