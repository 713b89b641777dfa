"""The page of a run: whatever it cannot show, the run ended as it did, and what is missing is said."""

import json
from pathlib import Path

import nbformat
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from typer.testing import CliRunner

from pwl_lab.cli import app
from pwl_lab.runner import page as export
from pwl_lab.runner.execute import run_notebook
from pwl_lab.runner.run_folder import RunStatus, read_status

OK = RunStatus(status="ok", notebook="own.ipynb", started="", cells=3, versions={}, commit=None)
KINDS = [
    ValueError,
    KeyError,
    RecursionError,
    StopIteration,
    OSError,
    MemoryError,
    AssertionError,
    UnicodeError,
    TypeError,
]
SIGNS = r"\left \right \frac \sqrt \begin{a} \end{a} \hline \color \text { } [ ] ( ) ^ _ & % \\ x 1 \limits \x".split()  # noqa: SIM905


@given(st.lists(st.sampled_from(SIGNS)).map(" ".join), st.sampled_from(["inline", "block"]))
def test_no_formula_raises(tex: str, display: str) -> None:
    found = export.mathml(tex, display)
    assert found is None or found.startswith("<math")


def test_formulas_that_cannot_be_converted_stay_as_they_are_written(tmp_path: Path) -> None:
    nb = new_notebook(cells=[new_markdown_cell(r"$\left$ and $x^2$ and " + f"${'{' * 3000}$")])
    assert export.write_page(nb, tmp_path / "page.html", OK, tmp_path) is None
    page = (tmp_path / "page.html").read_text()
    assert r"$\left$" in page
    assert "<msup>" in page


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("index", [0, 1, 2])
def test_a_cell_that_cannot_be_shown_is_named_and_its_source_stands_there(kind, index, tmp_path, monkeypatch) -> None:
    bad = "the *bad* one: $a_b$ `c` \\d <e>"
    cells = [new_markdown_cell("good zero"), new_code_cell("good = 1"), new_markdown_cell("good two")]
    cells[index] = new_markdown_cell(bad)
    renders = export.PageExporter.markdown2html

    def broken(self, context, source):
        if source == bad:
            raise kind("no way")
        return renders(self, context, source)

    broken.jinja_pass_arg = renders.jinja_pass_arg
    monkeypatch.setattr(export.PageExporter, "markdown2html", broken)
    # The shared exporter would keep the method that it had when it was made.
    monkeypatch.setattr(export, "_exporter", export._exporter.__wrapped__)
    said = export.write_page(new_notebook(cells=cells), tmp_path / "page.html", OK, tmp_path)
    assert said.startswith(f"cell {index} could not be shown")
    page = (tmp_path / "page.html").read_text()
    shown = (
        page.replace("&#36;", "$")
        .replace("&#96;", "`")
        .replace("&#42;", "*")
        .replace("&#95;", "_")
        .replace("&#92;", "\\")
    )
    assert "the *bad* one: $a_b$ `c` \\d &lt;e&gt;" in shown
    assert page.count("good") == 2 + page.count("<title>good")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=4,
)
MIMES = ["text/html", "text/latex", "image/png", "image/svg+xml", "text/markdown", "application/json", export.VIEW, "x"]


@settings(max_examples=15)
@given(st.dictionaries(st.sampled_from(MIMES), JSON, max_size=3))
def test_no_output_of_odd_content_keeps_the_page_from_being_made(tmp_path_factory, data: dict) -> None:
    odd = nbformat.from_dict({"output_type": "display_data", "data": data, "metadata": {}})
    cell = new_code_cell("made()")
    cell.outputs = [new_output("stream", text="kept"), odd]
    folder = tmp_path_factory.mktemp("page")
    nb = new_notebook(cells=[new_markdown_cell("# Head")])
    nb.cells.append(cell)
    said = export.write_page(nb, folder / "page.html", OK, folder)
    assert said is None or said.startswith("cell 1 could not be shown")
    page = (folder / "page.html").read_text()
    assert "kept" in page
    assert "made" in page
    assert ("An output could not be shown" in page) == (said is not None)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("part", ["_html", "without_widgets", "heading_of", "write_text"])
def test_a_page_that_cannot_be_made_at_all_is_said(kind, part: str, tmp_path: Path, monkeypatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise kind("no way")

    (tmp_path / "page.html").write_text("old")
    monkeypatch.setattr(export, part, broken)
    said = export.write_page(new_notebook(cells=[new_markdown_cell("x")]), tmp_path / "page.html", OK, tmp_path)
    assert said.startswith("page.html could not be created (")
    assert "no way" in said
    assert not (tmp_path / "page.html").exists()


METRICS = (
    "import os, json, pathlib\npathlib.Path(os.environ['PWL_LAB_OUT'], 'metrics.json').write_text(json.dumps({'a': 1}))"
)


def test_the_run_ended_well_all_the_same(write_notebook, tmp_path: Path, monkeypatch) -> None:
    source = write_notebook("# Own", METRICS, pwl_lab={"metrics": True})
    monkeypatch.setattr(export, "_html", lambda *_: [][1])
    done = CliRunner().invoke(app, ["run", str(source), "--out", str(tmp_path / "out")])
    assert done.exit_code == 0
    assert done.stderr == "notebook.html could not be created (IndexError: list index out of range)\n"
    status = read_status(tmp_path / "out")
    assert (status.status, status.error, status.cell) == ("ok", None, None)
    assert status.page_error == done.stderr.strip()
    assert json.loads((tmp_path / "out" / "metrics.json").read_text()) == {"a": 1}
    assert nbformat.read(tmp_path / "out" / "notebook.ipynb", as_version=4).cells[1].execution_count == 1
    assert set(status.files) == {"notebook.ipynb", "metrics.json", "params.json"}


def test_the_failure_of_a_run_is_not_covered_by_that_of_its_page(write_notebook, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(export, "_html", lambda *_: [][1])
    status = run_notebook(write_notebook("1 / 0"), tmp_path / "out")
    assert (status.status, status.cell, status.error.name) == ("failed", 0, "ZeroDivisionError")
    assert "could not be created" in status.page_error


def test_an_output_that_no_notebook_can_hold_is_left_out_and_said(write_notebook, tmp_path: Path) -> None:
    source = write_notebook("display({'text/html': None}, raw=True)", "print('on')")
    assert run_notebook(source, tmp_path / "out").status == "ok"
    executed = nbformat.read(tmp_path / "out" / "notebook.ipynb", as_version=4)
    assert "An output was left out" in executed.cells[0].outputs[0].text
    assert executed.cells[1].outputs[0].text == "on\n"
