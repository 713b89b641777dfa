"""The commit hooks: what git runs before a commit leaves committed files as they are, and cleans what was run."""

import shlex
import shutil
import subprocess
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_output
from sources import NOTEBOOKS, ROOT

from pwl_lab.support.yaml12 import read_yaml

CONFIGURATION = ROOT / ".pre-commit-config.yaml"
HOOKS = {hook["id"]: hook for repo in read_yaml(CONFIGURATION.read_text())["repos"] for hook in repo["hooks"]}


def run_hook(name: str, *files: Path) -> None:
    """Run a hook on files, as pre-commit does."""
    command = [*shlex.split(HOOKS[name]["entry"]), *map(str, files)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_configuration_is_valid() -> None:
    command = [ROOT / ".venv" / "bin" / "pre-commit", "validate-config", CONFIGURATION]
    subprocess.run(command, check=True, timeout=60)
    assert set(HOOKS) == {"nbstripout", "ruff", "ruff-format"}


def test_the_hooks_leave_the_committed_notebooks_as_they_are(tmp_path: Path) -> None:
    copies = [Path(shutil.copy(path, tmp_path)) for path in NOTEBOOKS]
    run_hook("nbstripout", *copies)
    assert [
        path.name for path, copy in zip(NOTEBOOKS, copies, strict=True) if path.read_bytes() != copy.read_bytes()
    ] == []


def test_a_notebook_that_was_run_is_committed_as_it_was_before(tmp_path: Path) -> None:
    source = ROOT / "notebooks" / "02_distillation_curricula.ipynb"
    nb = nbformat.read(source, as_version=4)
    assert any("slideshow" in cell.metadata for cell in nb.cells)
    nb.metadata |= {"widgets": {"state": {}}, "papermill": {"duration": 1.0}}
    nb.metadata.language_info |= {
        "version": "3.11.7",
        "mimetype": "text/x-python",
        "codemirror_mode": {"name": "ipython"},
    }
    for number, cell in enumerate(cell for cell in nb.cells if cell.cell_type == "code"):
        cell.execution_count = number
        cell.outputs = [new_output("stream", text="12")]
        cell.metadata |= {"papermill": {"status": "completed"}, "execution": {"iopub.execute_input": "now"}}
    nbformat.write(nb, tmp_path / "run.ipynb")
    run_hook("nbstripout", tmp_path / "run.ipynb")
    assert (tmp_path / "run.ipynb").read_bytes() == source.read_bytes()


@pytest.mark.parametrize("name", ["ruff", "ruff-format"])
def test_ruff_mends_what_is_committed(name: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text('"""Mine."""\n\nimport os\nx = { "a":1 }\n')
    run_hook(name, file)
    assert ("import os" not in file.read_text()) if name == "ruff" else ('x = {"a": 1}' in file.read_text())
