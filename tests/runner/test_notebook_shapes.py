"""Notebooks of odd shape and of odd name: refused in one sentence, or run; never a traceback."""

import json
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from pwl_lab.cli import app
from pwl_lab.runner import client, parameters
from pwl_lab.runner.batch import read_states
from pwl_lab.runner.execute import run_notebook
from pwl_lab.runner.location import location_at
from pwl_lab.runner.points import check_own
from pwl_lab.runner.report import MetricColumns
from pwl_lab.runner.run_folder import RunStatus
from pwl_lab.runner.verdict import _check_metrics
from pwl_lab.support.errors import InvalidValueError, PwlLabError

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-1, 9) | st.floats(allow_nan=False) | st.sampled_from(["", "x", "code"]),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["settings", "name", "x"]), inner, max_size=2)
    ),
    max_leaves=3,
)
# Every place of a notebook that something of ours, of papermill or of nbclient reads; None is the notebook itself.
PLACES = [
    *((name,) for name in ("nbformat", "nbformat_minor", "metadata", "cells")),
    *(
        ("metadata", name)
        for name in ("pwl_lab", "kernelspec", "language_info", "papermill", "widgets", "jupytext", "title")
    ),
    *(("metadata", "pwl_lab", name) for name in ("settings", "metrics", "timed", "processor_minutes")),
    ("metadata", "widgets", "application/vnd.jupyter.widget-state+json"),
    *(("cells", cell) for cell in (0, 1, 2)),
    *(
        ("cells", cell, name)
        for cell in (0, 1, 2)
        for name in ("id", "cell_type", "metadata", "source", "outputs", "execution_count", "attachments")
    ),
    *(("cells", cell, "metadata", name) for cell in (0, 1, 2) for name in ("tags", "papermill", "execution", "name")),
]


def notebook() -> dict:
    code = {"cell_type": "code", "source": "count = 1", "outputs": [], "execution_count": None}
    return {
        "nbformat": 4,
        "nbformat_minor": 5,
        "metadata": {"pwl_lab": {}, "widgets": {}},
        "cells": [
            {"cell_type": "markdown", "id": "a", "metadata": {}, "source": "# Head"},
            {**code, "id": "b", "metadata": {"tags": ["parameters"]}},
            {**code, "id": "c", "metadata": {}},
        ],
    }


DEEP = {
    "brackets": "[" * 100_000 + "]" * 100_000,
    "mappings": '{"a":' * 5_000 + "1" + "}" * 5_000,
    "just too deep": json.dumps(notebook()).replace('"widgets": {}', '"widgets": ' + '{"a":' * 98 + "{}" + "}" * 98),
}


@pytest.mark.parametrize("kind", DEEP)
@pytest.mark.parametrize("command", [["params"], ["run", "--out", "out"]])
def test_a_notebook_nested_too_deeply_is_refused_in_a_sentence(
    command: list[str], kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("deep.ipynb").write_text(DEEP[kind])
    done = CliRunner().invoke(app, [command[0], "deep.ipynb", *command[1:]])
    assert (done.exit_code, done.stderr.count("\n")) == (2, 1)
    assert "nested more than" in done.stderr
    assert not Path("out").exists()


def test_metrics_nested_too_deeply_are_no_metrics(tmp_path: Path) -> None:
    (tmp_path / "metrics.json").write_text(DEEP["brackets"])
    state = RunStatus(status="ok", notebook="x", started="", cells=1, versions={}, commit=None)
    _check_metrics(state, tmp_path / "metrics.json")
    assert (state.status, state.error.name) == ("failed", "MissingMetrics")
    assert "nested too deeply" in state.error.message
    assert MetricColumns(1).take_in(DEEP["brackets"].encode(), 0) == "its metrics cannot be read"
    (tmp_path / "batch.json").write_text(DEEP["brackets"])
    for refusing in (read_states, lambda place: check_own(location_at(place))):
        with pytest.raises(InvalidValueError):
            refusing(tmp_path)


def test_a_notebook_with_a_byte_order_mark_is_refused_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "own.ipynb").write_text(json.dumps(notebook()), encoding="utf-8-sig")
    with pytest.raises(InvalidValueError, match="begins with a byte-order mark"):
        parameters.read_notebook(tmp_path / "own.ipynb")


def with_odd(place: tuple, value: object) -> dict:
    """A notebook with this value in that place."""
    nb = part = notebook()
    for name in place[:-1]:
        part = part[name]
    part[place[-1]] = value
    return nb


def is_refused_or_planned(path: Path) -> bool:
    """Whether all that reads a notebook before a kernel starts takes it; any error but a refusal is raised."""
    try:
        nb = parameters.read_notebook(path)
        parameters.describe_parameters(nb)
        parameters.resolve_parameters(nb, None, {})
        parameters.heading_of(nb)
    except PwlLabError:
        return False
    return True


@settings(max_examples=600)
@given(st.sampled_from(PLACES), JSON)
@example(("cells", 1, "metadata", "tags"), None)
@example(("metadata", "pwl_lab"), None)
def test_every_odd_shape_is_refused_or_planned(tmp_path_factory, place: tuple, value: object) -> None:
    path = tmp_path_factory.getbasetemp() / "odd.ipynb"
    path.write_text(json.dumps(with_odd(place, value)))
    is_refused_or_planned(path)


@settings(max_examples=40)
@given(st.sampled_from(PLACES), JSON)
@example(("metadata", "widgets"), None)
@example(("metadata", "language_info"), {})
def test_what_is_planned_runs_whatever_papermill_and_the_page_make_of_it(tmp_path_factory, place, value) -> None:
    def execute(self, **_: object):
        self.nb.metadata.pop("widgets", None)
        return self.nb

    folder = tmp_path_factory.mktemp("odd")
    (folder / "odd.ipynb").write_text(json.dumps(with_odd(place, value)))
    if is_refused_or_planned(folder / "odd.ipynb"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(client.LabClient, "execute", execute)
            assert run_notebook(folder / "odd.ipynb", folder / "out").status in ("ok", "failed")


def test_widget_state_that_was_stored_before_is_not_this_run_s(write_notebook, tmp_path: Path) -> None:
    error = {"output_type": "error", "ename": "Old", "evalue": "", "traceback": []}
    state = {"a": {"model_name": "OutputModel", "state": {"outputs": [error]}}}
    stored = {"application/vnd.jupyter.widget-state+json": {"state": state, "version_major": 2, "version_minor": 0}}
    assert run_notebook(write_notebook("1", widgets=stored), tmp_path / "out").status == "ok"


NAMES = [
    "x" * 300,
    "é" * 200,
    "x/" * 3000,
    "\0",
    "a\0b",
    "",
    " ",
    "/",
    ".",
    "..",
    "~",
    "*",
    "[",
    "\n",
    "//",
    "-",
    "s3://x/y",
]


@pytest.mark.parametrize("name", NAMES, ids=lambda name: repr(name[:4]))
@pytest.mark.parametrize("kind", ["notebook", "preset", "only", "series preset", "dashboard preset"])
def test_odd_names_are_refused_in_one_line(name: str, kind: str, write_notebook, tmp_path: Path) -> None:
    words = {
        "notebook": ["params", "--", name],
        "preset": ["params", "02", "--preset", name],
        "only": ["series", "--only", name, "--preset", "smoke", "--name", "none"],
        "series preset": ["series", "--preset", name, "--name", "none"],
        "dashboard preset": ["dashboard", "--preset", name, "--port", "1"],
    }[kind]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 2, (done.output, done.exception)
    assert done.stderr.startswith("pwl-lab: ")


def test_the_part_that_is_wrong_is_named(tmp_path: Path) -> None:
    for place, words in {
        ("cells", 1, "metadata", "tags"): "odd.ipynb: cell 1, metadata.tags = None is not allowed: a list",
        ("metadata", "pwl_lab"): "odd.ipynb: metadata.pwl_lab = None is not allowed: a mapping",
    }.items():
        (tmp_path / "odd.ipynb").write_text(json.dumps(with_odd(place, None)))
        with pytest.raises(InvalidValueError) as refusal:
            run_notebook(tmp_path / "odd.ipynb", tmp_path / "out")
        assert str(refusal.value) == words
        assert not (tmp_path / "out").exists()
