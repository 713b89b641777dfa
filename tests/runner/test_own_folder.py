"""What is given to a command as its place, and is not its own: refused in one sentence, and left as it was."""

import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from pwl_lab.cli import app
from pwl_lab.loading import bundle
from pwl_lab.runner import execute as notebooks
from pwl_lab.runner import series
from pwl_lab.runner.execute import run_notebook
from pwl_lab.runner.location import EVENTS, POINTS, location_at
from pwl_lab.runner.points import BATCH
from pwl_lab.runner.run_folder import (
    FILES,
    NOTEBOOK,
    STATUS,
    alone_in_folder,
    clear,
    keep_changed_notebook,
    read_status,
    write_status,
)
from pwl_lab.support import paths
from pwl_lab.support.errors import InvalidValueError

HOLD = """
import sys, time
from pathlib import Path
from pwl_lab.runner.run_folder import alone_in_folder
with alone_in_folder(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def tree(folder: Path) -> dict[str, bytes | None]:
    """Everything below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write_notebook: Callable[..., Path]) -> Path:
    """The folder where a person works: files of their own, a notebook, a grid; it is the current one."""
    desk = tmp_path / "desk"
    (desk / "full").mkdir(parents=True)
    write_notebook("# Own", "1", parameters="count = 1", name="desk/own")
    (desk / "grid.yaml").write_text(
        json.dumps({"notebook": str(desk / "own.ipynb"), "axes": [{"product": {"count": [1]}}]})
    )
    (desk / "file").write_text("mine")
    for name in (*FILES, BATCH, EVENTS, "index.json", "index.html"):
        (desk / "full" / name).write_text("mine")
    monkeypatch.chdir(desk)
    monkeypatch.setenv("PWL_LAB_RUNS", str(tmp_path / "runs"))
    return desk


def run(out: str) -> str:
    return refused("run", "own.ipynb", "--out", out)


def batch(out: str) -> str:
    return refused("batch", "grid.yaml", "--out", out)


def plan_batch(out: str) -> str:
    return refused("batch", "grid.yaml", "--dry-run", "--out", out)


def export(out: str) -> str:
    with pytest.raises(InvalidValueError) as refusal:
        bundle._check_replaceable(Path(out))
    return str(refusal.value)


def refused(*words: str) -> str:
    """What the command says, in one line and with exit code 2."""
    done = CliRunner().invoke(app, list(words))
    assert done.exit_code == 2, done.output
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    return done.stderr


@pytest.mark.parametrize("out", ["", " ", ".", "file", "file/below", "full", "../desk", ".."])
@pytest.mark.parametrize("command", [run, batch, plan_batch, export])
def test_a_place_that_is_not_its_own_is_refused_and_left_as_it_was(desk: Path, command: Callable, out: str) -> None:
    before = tree(desk.parent)
    said = command(out)
    assert " is not allowed: " in said
    assert tree(desk.parent) == before


def status_of(out: str) -> str:
    return refused("status", out)


@pytest.mark.parametrize(
    ("out", "why"),
    [
        ("~nobody_x/y", "no home folder for that user"),
        ("a\udcff", "a name in UTF-8"),
        ("a\0", "without the character 0"),
    ],
)
@pytest.mark.parametrize("command", [run, batch, plan_batch, status_of])
def test_what_names_no_folder_is_refused_by_every_command_alike(
    desk: Path, command: Callable, out: str, why: str
) -> None:
    before = tree(desk.parent)
    assert why in command(out)
    assert tree(desk.parent) == before


@pytest.mark.parametrize(("out", "why"), [("file", "this is a file"), ("file/below", "/file is a file")])
@pytest.mark.parametrize("command", [run, batch, plan_batch])
def test_a_file_in_the_way_is_said_to_be_one(desk: Path, command: Callable, out: str, why: str) -> None:
    assert why in command(out)


def test_every_command_takes_the_home_folder_for_its_sign(desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(desk / "home"))
    assert paths.local_folder("~/x") == location_at("~/x").work == location_at("file://~/x").work == desk / "home" / "x"


@pytest.mark.parametrize("out", ["s3://bucket/prefix", "s3:/bucket", "https://host/x", "file:///tmp/x", "gs://b"])
@pytest.mark.parametrize("command", [run, export])
def test_an_address_makes_no_local_folder_of_that_name(desk: Path, command: Callable, out: str) -> None:
    before = tree(desk)
    assert "a folder on this machine" in command(out)
    assert tree(desk) == before


@given(st.sets(st.sampled_from(FILES), min_size=1), st.sampled_from(["", "{}", "mine", '{"status": "ok"}', "[]"]))
def test_no_file_is_replaced_without_a_run_s_own_status_beside_it(names: set[str], text: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        source, out = Path(folder, "own.ipynb"), Path(folder, "out")
        out.mkdir()
        source.write_text(json.dumps({"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": []}))
        for name in names:
            (out / name).write_text(text)
        before = tree(out)
        with pytest.raises(InvalidValueError, match="which no run left"):
            run_notebook(source, out)
        assert tree(out) == before


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run without a kernel: it leaves its files, and one more of its own."""

    def execute(state, source: Path, folder: Path, *_: object) -> None:
        (folder / NOTEBOOK).write_text("{}")
        (folder / "figure.png").write_text("made")
        state.status, state.files = "ok", notebooks.run_folder.left_files(folder)

    monkeypatch.setattr(notebooks, "_execute", execute)


def test_what_a_run_left_is_replaced_and_nothing_else(desk: Path, quick: None) -> None:
    out = desk / "new"
    run_notebook("own.ipynb", out)
    (out / "notes.txt").write_text("mine")
    assert run_notebook("own.ipynb", out).status == "ok"
    assert (out / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("state", ["ended", "failed", "killed"])
@pytest.mark.parametrize("name", [name for name in FILES if name != STATUS])
def test_what_its_reader_changed_or_added_is_never_replaced(
    desk: Path, quick: None, monkeypatch: pytest.MonkeyPatch, name: str, state: str
) -> None:
    out = desk / "new"
    run_notebook("own.ipynb", out)
    mine = "[]"  # as long as what the run left
    (out / name).write_text(mine)
    if state == "failed":
        write_status(out, read_status(out).model_copy(update={"status": "failed"}))
    elif state == "killed":  # the file is an older one that was moved there
        write_status(out, read_status(out).model_copy(update={"status": "running", "files": {}}))
        for file in set(out.iterdir()) - {out / STATUS}:
            os.utime(file, (1, 1) if file.name == name else None)
    before = tree(out)
    with pytest.raises(InvalidValueError, match=f"{name} in it was changed or added since the run"):
        run_notebook("own.ipynb", out)
    assert tree(out) == before
    (out / name).unlink()
    assert run_notebook("own.ipynb", out).status == "ok"


def test_a_batch_that_redoes_a_point_keeps_the_notebook_that_its_reader_changed(desk: Path, quick: None) -> None:
    out = desk / "new"
    for mine in ("[1]", "[2]"):
        run_notebook("own.ipynb", out)
        keep_changed_notebook(out)
        assert (out / NOTEBOOK).exists(), "it is as the run left it"
        (out / NOTEBOOK).write_text(mine)
        keep_changed_notebook(out)
        clear(out)
    assert [(out / f"changed-{n}.ipynb").read_text() for n in (1, 2)] == ["[1]", "[2]"]


@pytest.mark.parametrize("stage", ["begin", "parameters", "kernel"])
def test_what_a_killed_run_left_is_its_own(
    desk: Path, quick: None, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    class Killed(BaseException):
        """Stands for SIGKILL: nothing is written after it."""

    def kill(*_: object, **__: object) -> None:
        monkeypatch.setattr(notebooks.run_folder, "write_status", lambda *_: None)
        raise Killed

    where = {
        "begin": (notebooks.run_folder, "versions"),
        "parameters": (notebooks, "write_json"),
        "kernel": (notebooks, "_execute"),
    }
    run_notebook("own.ipynb", desk / "new")
    with monkeypatch.context() as patch:
        patch.setattr(*where[stage], kill)
        with pytest.raises(Killed):
            run_notebook("own.ipynb", desk / "new")
    monkeypatch.undo()
    monkeypatch.chdir(desk)
    monkeypatch.setattr(notebooks, "_execute", lambda state, *_: setattr(state, "status", "ok"))
    assert run_notebook("own.ipynb", desk / "new").status == "ok"


def test_an_empty_current_folder_is_a_good_place(desk: Path, quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    (desk / "empty").mkdir()
    monkeypatch.chdir(desk / "empty")
    assert run_notebook("../own.ipynb", ".").status == "ok"
    assert read_status(desk / "empty").status == "ok"


def test_two_runs_in_one_folder_the_second_is_refused_until_the_first_is_gone(desk: Path, quick: None) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(desk / "new")], stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "held\n"
    try:
        (desk / "link").symlink_to(desk / "new")
        for out in ("new", "link", "../desk/new/."):
            with pytest.raises(InvalidValueError, match="another run is in progress in"):
                run_notebook("own.ipynb", out)
        assert list((desk / "new").iterdir()) == []
    finally:
        holder.kill()
        holder.communicate()
    assert run_notebook("own.ipynb", "new").status == "ok"
    assert not [name for name in Path("new").iterdir() if name.name.startswith(".")]


def test_of_many_at_once_only_one_runs(desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inside, go, ended = threading.Semaphore(0), threading.Event(), []

    def execute(state, *_: object) -> None:
        inside.release()
        go.wait(60)
        state.status = "ok"

    def one() -> None:
        try:
            ended.append(run_notebook("own.ipynb", "new").status)
        except InvalidValueError as error:
            ended.append(str(error))
            refusals.release()

    monkeypatch.setattr(notebooks, "_execute", execute)
    refusals = threading.Semaphore(0)
    threads = [threading.Thread(target=one) for _ in range(8)]
    for thread in threads:
        thread.start()
    assert inside.acquire(timeout=60)
    for _ in range(7):
        assert refusals.acquire(timeout=60)
    go.set()
    for thread in threads:
        thread.join(60)
    assert sorted(said.partition(" in /")[0] for said in ended) == ["another run is in progress"] * 7 + ["ok"]


@pytest.mark.parametrize(
    "name", ["store", "downloads", "example_batch", "interactive", "", ".", "..", "../x", "x" * 300]
)
def test_a_series_takes_no_folder_that_has_another_use(desk: Path, name: str) -> None:
    before = tree(desk.parent)
    said = refused("series", "--name", name, "--only", "00", "--preset", "smoke")
    assert "name = " in said
    assert tree(desk.parent) == before


def test_a_series_replaces_no_page_and_no_folder_of_others(desk: Path) -> None:
    stem = series.series()[0].stem
    for name in ("index.html", f"{stem}/{NOTEBOOK}"):
        mine = paths.runs() / name.replace("/", "-") / name
        mine.parent.mkdir(parents=True)
        mine.write_text("mine")
        refused("series", "--name", name.replace("/", "-"), "--only", stem, "--preset", "smoke")
        assert mine.read_text() == "mine"


def test_two_series_of_one_name_the_second_is_refused(desk: Path) -> None:
    with alone_in_folder(paths.runs() / "trial"):
        assert "another run is in progress" in refused("series", "--name", "trial", "--only", "00", "--preset", "smoke")
    assert list((paths.runs() / "trial").iterdir()) == []


def test_a_batch_takes_up_its_own_also_without_its_list(desk: Path) -> None:
    done = CliRunner().invoke(app, ["batch", "grid.yaml", "--dry-run", "--out", "new"])
    assert done.exit_code == 0
    for leftover in (Path("new", POINTS, "abc"), Path("new", ".holder.json")):
        leftover.mkdir(parents=True)
    Path("new", EVENTS).write_text("")
    assert CliRunner().invoke(app, ["batch", "grid.yaml", "--dry-run", "--out", "new"]).exit_code == 0
    Path("new", "thesis.tex").write_text("mine")
    assert "thesis.tex" in batch("new")
    Path("new", BATCH).write_text('{"points": []}')
    assert CliRunner().invoke(app, ["batch", "grid.yaml", "--dry-run", "--out", "new"]).exit_code == 0


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"points": 3', "mine"])
def test_a_batch_replaces_no_list_that_is_none(desk: Path, text: str) -> None:
    Path("new").mkdir()
    Path("new", BATCH).write_text(text)
    assert BATCH in batch("new")
    assert Path("new", BATCH).read_text() == text
