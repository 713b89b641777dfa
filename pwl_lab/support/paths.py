"""Where things lie, and from which state of the checkout. Only this module of the package knows fixed paths."""

import subprocess
from pathlib import Path

from pwl_lab.support import environment
from pwl_lab.support.errors import InvalidValueError, MissingDataError, invalid
from pwl_lab.support.storages import scheme_of

INTERACTIVE = "interactive"  # among the runs: what a notebook leaves that no command runs
BENCH = "bench.json"  # among the runs: what the benchmarks measured


def root() -> Path:
    """The project's folder: `PWL_LAB_HOME`, or the checkout that this package was installed from."""
    folder = environment.HOME.get() or Path(__file__).resolve().parents[2]
    if not (folder / "presets").is_dir():
        raise MissingDataError(
            f"{folder} holds no presets/ folder. Install the package from a checkout (pip install -e .) "
            "or set PWL_LAB_HOME to one."
        )
    return folder


def presets() -> Path:
    """The folder of preset files."""
    return root() / "presets"


def notebooks() -> Path:
    """The folder of the series."""
    return root() / "notebooks"


def data() -> Path:
    """The folder of what is bundled with the checkout."""
    return root() / "data"


def results() -> Path:
    """The folder of shipped result tables."""
    return data() / "results"


def runs() -> Path:
    """Where everything that is computed goes: `PWL_LAB_RUNS`, or `runs/` in the project's folder."""
    return environment.RUNS.get() or root() / "runs"


def from_here(folder: str) -> str:
    """A folder as a person names it, made absolute: as seen from where the command runs, else from the project's folder.

    An address (`s3://...`) and an empty name stay what they are.
    """
    if not folder or "://" in folder:
        return folder
    here = absolute(folder, "folder")
    return str(here if here.exists() else root() / Path(folder).expanduser())


def absolute(path: str | Path, field: str = "out") -> Path:
    """The path made absolute; ~ is a user's home. Raises InvalidValueError, about `field`, where no user has that name."""
    try:
        return Path(path).expanduser().absolute()
    except RuntimeError:
        allowed = "no user of that name has a home folder here (for a folder called so write ./~...)"
        raise invalid(field, str(path), f"the path of a folder; {allowed}") from None


def local_folder(
    path: str | Path,
    field: str = "out",
    elsewhere: str = "copy what is in it to an address afterwards (only a batch writes to one itself)",
) -> Path:
    """The folder of this machine that `path` names, absolute; ~ is a user's home. It need not be there.

    Arguments:
    - `path`: as the user gave it.
    - `field`: what messages call the value.
    - `elsewhere`: the advice for one who gives an address.

    Raises InvalidValueError for an empty text, an address, what no file's name can hold, and an unknown user's home.
    """
    check_path(path, field)
    if scheme := scheme_of(path):
        raise invalid(field, f"{scheme}://...", f"a folder of this machine; {elsewhere}")
    return absolute(path, field)


def check_path(
    out: str | Path, field: str = "out", allowed: str = "the path of a folder; . is the current one"
) -> None:
    """Raise InvalidValueError for an empty text, and for one that neither UTF-8 nor a file's name can hold."""
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
    """The names in a folder that is to be written to, none where it is not there yet.

    Raises InvalidValueError, about `field`, where no folder can be there or it cannot be read.
    """
    try:
        return {path.name for path in folder.iterdir()}
    except FileNotFoundError:
        return set()
    except OSError as error:
        raise no_folder(folder, error, field) from None


def no_folder(folder: Path, error: OSError, field: str = "out") -> InvalidValueError:
    """Why no folder can be there: a file is in the way, or what the system says."""
    file = next((path for path in (folder, *folder.parents) if path.is_file()), None)
    if file is not None and not isinstance(error, PermissionError):
        which = "this" if file == folder else str(file)
        return invalid(field, str(folder), f"a folder that can be made and written to; {which} is a file")
    return invalid(field, str(folder), f"a folder that can be made and written to ({error.strerror})")


def example_batch() -> Path:
    """Where the example batch of notebook 09 is kept."""
    return runs() / "example_batch"


def grids() -> Path:
    """The folder of the example grids."""
    return presets() / "grids"


def store() -> Path:
    """Where trained things are kept between runs: `PWL_LAB_STORE`, or `store/` among the runs."""
    return environment.STORE.get() or runs() / "store"


def reserved() -> list[Path]:
    """Locations that have a use of their own, which no series may have for its folder."""
    return [example_batch(), store(), downloads(), scratch(), runs() / INTERACTIVE, runs() / BENCH]


def scratch() -> Path:
    """What only a command at work needs; a name that no series can have.

    Batches whose location is on another machine keep here what is not copied there yet, each dashboard its server's files.
    """
    return runs() / ".batches"


def downloads() -> Path:
    """Where downloaded datasets are kept: `PWL_LAB_DATA`, or `downloads/` among the runs."""
    return environment.DATA.get() or runs() / "downloads"


def output(notebook: str) -> Path:
    """Where a notebook leaves its `metrics.json`: the folder `pwl-lab run` named, else one of its own among the runs."""
    return environment.OUT.get() or runs() / INTERACTIVE / notebook


def commit() -> str | None:
    """The checkout's commit, marked where files differ from it; None outside a git checkout or without git."""
    command = ["git", "-C", str(root()), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None
