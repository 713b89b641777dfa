"""Notebooks at `smoke`, each run once for all tests, whichever of pytest's processes they are in."""

import shutil
from pathlib import Path
from typing import NamedTuple

import pytest
from filelock import FileLock

from pwl_lab.runner.execute import run_notebook
from pwl_lab.runner.parameters import resolve_notebook
from pwl_lab.runner.run_folder import RunStatus, read_status


class SmokeRun(NamedTuple):
    """A run from an empty store. Other tests read it, too: to change something, take a copy."""

    out: Path  # as `pwl-lab run` leaves it
    runs: Path  # what it computed
    status: RunStatus

    @property
    def store(self) -> Path:
        """What it trained, and nothing else."""
        return self.runs / "store"

    def copy_store(self, to: Path) -> None:
        """Add what it trained to another store."""
        shutil.copytree(self.store, to, dirs_exist_ok=True)


def smoke_run(folder: Path, name: str) -> SmokeRun:
    """The run of this notebook in `folder`, made if nobody has made it yet."""
    place = folder / resolve_notebook(name).stem
    out, runs = place / "out", place / "runs"
    with FileLock(f"{place}.lock"):
        if not out.exists():
            with pytest.MonkeyPatch.context() as patched:
                for variable in ("PWL_LAB_STORE", "PWL_LAB_OUT", "PWL_LAB_PROGRESS", "PWL_LAB_DEVICE"):
                    patched.delenv(variable, raising=False)
                patched.setenv("PWL_LAB_RUNS", str(runs))
                run_notebook(name, out, preset="smoke")
    return SmokeRun(out, runs, read_status(out))
