"""A notebook of the series, with widgets, in nbconvert, which knows nothing of us: it executes as it stands."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import nbformat
import pytest
from smoke import SmokeRun

from pwl_lab.support import paths


@pytest.mark.notebook
def test_nbconvert_executes_a_notebook(tmp_path: Path, smoke_run: Callable[[str], SmokeRun]) -> None:
    smoke_run("04").copy_store(tmp_path / "runs" / "store")
    nb = nbformat.read(paths.notebooks() / "04_progressive_weight_loading.ipynb", as_version=4)
    cell = next(cell for cell in nb.cells if "parameters" in cell.metadata.get("tags", []))
    cell.source = cell.source.replace('preset = "lesson"', 'preset = "smoke"')
    nbformat.write(nb, tmp_path / "as_it_stands.ipynb")
    command = [sys.executable, "-m", "nbconvert", "--to", "notebook", "--execute", "as_it_stands.ipynb"]
    environment = os.environ | {"PWL_LAB_RUNS": str(tmp_path / "runs")}
    done = subprocess.run(
        [*command, "--output", "executed"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    code = [one for one in nbformat.read(tmp_path / "executed.ipynb", as_version=4).cells if one.cell_type == "code"]
    assert [one.execution_count for one in code] == list(range(1, len(code) + 1))
    shown = {kind for one in code for output in one.outputs for kind in output.get("data", {})}
    assert {"image/png", "application/vnd.jupyter.widget-view+json"} <= shown
