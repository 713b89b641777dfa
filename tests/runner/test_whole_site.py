"""The site of a small project of its own: what the builder makes of notebooks, documents and docstrings, and refuses."""

import hashlib
import html
import re
from pathlib import Path

import nbformat
import pytest
from crawling import broken_links
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from pwl_lab.runner.api_pages import PACKAGE
from pwl_lab.runner.run_folder import RunError, RunStatus, write_status
from pwl_lab.runner.site import write_site
from pwl_lab.support.errors import InvalidValueError, PwlLabError

pytest.importorskip("myst_nb", reason="the packages of the extra `site` are missing")

STATUS = RunStatus(status="ok", notebook="own.ipynb", started="2026-01-01T10:00:00", cells=3, versions={}, commit=None)
MODULE = '''"""Masks, with `code` and a [link](https://example.org)."""

from dataclasses import dataclass

from jaxtyping import Float
from pydantic import BaseModel, Field
from torch import Tensor

from pwl_lab.training import Plan


class Own(BaseModel):
    """What is asked."""

    width: int = Field(64, ge=1, description="hidden units")
    steps: int = 10  # how many
    _hidden: int = 0

    @property
    def twice(self) -> int:
        """Twice the width."""
        return 2 * self.width


def mix(states: Float[Tensor, "batch width"], plan: Plan | None = None) -> Float[Tensor, " batch"]:
    """Mix them, $x^2$.

    Arguments:
    - `states`: one row per sample.
    """


def _private() -> None:
    """Nobody's business."""
'''
CONTRACT = '[[tool.importlinter.contracts]]\nlayers = ["pwl_lab.swap", "pwl_lab.training"]\n'
LINKS = (
    "[use](docs/USE.md#the-second), [first](notebooks/00_FIRST.ipynb), [data](data/README.md), [how](CONTRIBUTING.md)"
)
README = f"# Small\n\nSee {LINKS}.\n"
USE = "# Use\n\n## The second\n\nBack to [the start](../README.md); [a grid](../presets/grids/ONE.yaml).\n"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout with two notebooks, an exercise, a document and two modules; the first notebook was run."""
    monkeypatch.setenv("PWL_LAB_HOME", str(tmp_path))
    monkeypatch.delenv("PWL_LAB_RUNS", raising=False)
    texts = {
        "README.md": README,
        "docs/USE.md": USE,
        "docs/architecture.md": "# Architecture\n",
        "docs/figures/ONE.svg": '<svg xmlns="http://www.w3.org/2000/svg"/>',
        "data/README.md": "# Data\n",
        "CONTRIBUTING.md": "# Contributing\n\n[Use](docs/USE.md); [hooks](.pre-commit-config.yaml).\n",
        ".pre-commit-config.yaml": "repos: []\n",
        "CITATION.cff": "title: Small\n",
        "presets/grids/ONE.yaml": "notebook: 00\n",
        "pyproject.toml": CONTRACT,
        "pwl_lab/swap/__init__.py": '"""The network side."""\n',
        "pwl_lab/swap/masks.py": MODULE,
        "pwl_lab/training.py": '"""One loop."""\n\n\nclass Plan:\n    """How long."""\n',
    }
    for name, text in texts.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "notebooks" / "exercises").mkdir(parents=True)
    for name in ("00_FIRST", "01_second", "exercises/00_exercises"):
        nbformat.write(new_notebook(cells=[new_markdown_cell(f"# Of {name}")]), tmp_path / f"notebooks/{name}.ipynb")
    run = tmp_path / "runs" / "trial" / "00_FIRST"
    run.mkdir(parents=True)
    nbformat.write(executed(), run / "notebook.ipynb")
    write_status(run, STATUS)
    return tmp_path


def executed() -> nbformat.NotebookNode:
    asks = '<script src="https://example.org/x.js"></script><b class="mine">told</b>'
    output = new_output("display_data", {"text/html": asks, "text/plain": "told"})
    fold = "<details><summary>Is $x > 0$?</summary>\n\nIt is: $\\sqrt{2}$.\n\n</details>"
    cells = [
        new_markdown_cell("# First\n\nOn to [second](01_second.ipynb) and [exercises](exercises/00_exercises.ipynb)."),
        new_code_cell("preset = 'smoke'", metadata={"tags": ["parameters"]}),
        new_markdown_cell(fold),
        new_code_cell("tell()", outputs=[output]),
    ]
    return new_notebook(cells=cells, metadata={"language_info": {"name": "python"}})


def digests(folder: Path) -> dict[str, str]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_a_site_has_all_pages_and_is_the_same_each_time(home: Path) -> None:
    folder = home / "runs" / "trial"
    first = write_site(folder)
    assert first == folder / "site" / "index.html"
    assert broken_links(folder / "site") == []
    found = digests(folder / "site")
    page = (folder / "site" / "notebooks" / "00_FIRST.html").read_text()
    assert '<b class="mine">told</b>' in page
    assert "example.org" not in page
    assert page.count("<math") == 2
    assert "Run 2026-01-01 10:00 UTC" in page
    assert "Nothing in this notebook was run" not in page
    for name in ("01_second", "exercises/00_exercises"):
        assert "Nothing in this notebook was run" in (folder / "site" / "notebooks" / f"{name}.html").read_text()
    (folder / "site" / "left.txt").write_text("of an earlier version")
    write_site(folder)
    assert digests(folder / "site") == found
    assert [path.name for path in folder.glob(".part-*")] == []


def test_the_reference_has_signatures_as_written_and_what_fields_mean(home: Path) -> None:
    write_site(home / "runs" / "trial")
    page = home / "runs" / "trial" / "site" / "api" / "swap.html"
    words = " ".join(re.sub(r"<[^>]*>", "", html.unescape(page.read_text())).split())
    for said in (
        "states: Float[Tensor, 'batch width']",
        "→ Float[Tensor, 'batch']",
        "width: int = 64",
        "hidden units",
        "steps: int = 10",
        "how many",
        "property twice: int",
        "states: one row per sample.",
    ):
        assert said.replace(" ", "") in words.replace(" ", ""), said
    assert "Nobody" not in words
    assert "_hidden" not in words
    assert f'href="training.html#{PACKAGE}.training.Plan"' in page.read_text(), "a type leads to its class"


def test_a_run_that_failed_is_said_on_its_page(home: Path) -> None:
    error = RunError(name="ValueError", message="`a` is *wrong*\nmore")
    write_status(
        home / "runs/trial/00_FIRST", STATUS.model_copy(update={"status": "failed", "cell": 2, "error": error})
    )
    write_site(home / "runs" / "trial")
    page = html.unescape((home / "runs/trial/site/notebooks/00_FIRST.html").read_text())
    assert "failed" in page
    assert "ValueError: `a` is *wrong*" in page


@pytest.mark.parametrize(
    ("file", "broken", "named"),
    [
        ("docs/USE.md", "# Use\n\n[gone](gone.md)\n", "gone.md"),
        ("docs/USE.md", "# Use\n\n## Other\n", "the-second"),
        ("pwl_lab/training.py", '"""One."""\n\n\ndef f() -> None:\n    """See [it](nowhere.md)."""\n', "nowhere.md"),
    ],
)
def test_a_broken_link_is_refused_and_changes_nothing(home: Path, file: str, broken: str, named: str) -> None:
    folder = home / "runs" / "trial"
    (folder / "site").mkdir()
    (folder / "site" / "searchindex.js").write_text("earlier")
    (home / file).write_text(broken)
    with pytest.raises(PwlLabError, match=named) as caught:
        write_site(folder)
    assert str(home) not in str(caught.value), "places are named as in the checkout"
    assert digests(folder / "site").keys() == {"searchindex.js"}


def test_without_a_run_the_command_is_named(home: Path) -> None:
    with pytest.raises(InvalidValueError, match=r"make run NAME=none.*pwl-lab series --name none"):
        write_site(home / "runs" / "none")
    assert not (home / "runs" / "none").exists()


def test_what_is_no_site_is_not_replaced(home: Path) -> None:
    mine = home / "runs" / "trial" / "site" / "mine.txt"
    mine.parent.mkdir()
    mine.write_text("kept")
    with pytest.raises(InvalidValueError, match="something else"):
        write_site(home / "runs" / "trial")
    assert mine.read_text() == "kept"
