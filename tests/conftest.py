import signal
from collections.abc import Callable
from pathlib import Path

import jaxtyping
import nbformat
import pytest
import torch
from hypothesis import settings
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

# Shapes in signatures are checked wherever a test goes; this must come before these modules are first imported.
CHECKED = [f"pwl_lab.{part}" for part in ("tasks", "models", "fast", "training", "distill", "swap", "loading")]
jaxtyping.install_import_hook(CHECKED, "shapecheck.check")

# A shell's background job ignores interrupts, and so would every process that a test starts in order to interrupt it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# A deadline would measure the other work of the machine; without a fixed seed a run could not be repeated.
settings.register_profile("house", deadline=None, derandomize=True)
settings.load_profile("house")


@pytest.fixture(scope="session", autouse=True)
def one_torch_thread() -> None:
    """Numbers repeat only at the same number of threads."""
    torch.set_num_threads(1)


@pytest.fixture
def store_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store of the test's own; the folder is not there yet."""
    for name in ("PWL_LAB_STORE", "PWL_LAB_OUT", "PWL_LAB_PROGRESS", "PWL_LAB_DEVICE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PWL_LAB_RUNS", str(tmp_path / "runs"))
    return tmp_path / "runs" / "store"


@pytest.fixture
def write_notebook(tmp_path: Path) -> Callable[..., Path]:
    """Write a notebook: texts become code cells (markdown when they begin with #+space and one line), dicts metadata."""

    def write(*cells: str, name: str = "own", parameters: str | None = None, tags: dict | None = None, **metadata):
        made = [
            new_markdown_cell(text) if text.startswith("# ") and "\n" not in text else new_code_cell(text)
            for text in cells
        ]
        if parameters is not None:
            made.insert(1, new_code_cell(parameters, metadata={"tags": ["parameters"]}))
        for index, names in (tags or {}).items():
            made[index].metadata["tags"] = names
        path = tmp_path / f"{name}.ipynb"
        nbformat.write(new_notebook(cells=made, metadata=metadata), path)
        return path

    return write
