"""Where things lie, and from which state of the checkout. No other module of the package builds a path out of nothing."""

import subprocess
from pathlib import Path

from pwl_lab.support import environment
from pwl_lab.support.errors import MissingDataError, invalid

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
    try:
        here = Path(folder).expanduser()
    except RuntimeError:
        raise invalid("folder", folder, "a folder's path; no user of that name has a home folder here") from None
    return str(here.absolute() if here.exists() else root() / here)


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
