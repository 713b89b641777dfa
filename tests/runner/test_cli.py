import inspect
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from benches import COMMAND
from typer.testing import CliRunner

from pwl_lab import cli
from pwl_lab.cli import app
from pwl_lab.runner.index_page import question_of, result_of, write_index
from pwl_lab.runner.parameters import resolve_notebook, series
from pwl_lab.runner.series import default_jobs
from pwl_lab.support import paths


@pytest.fixture
def project(tmp_path: Path, monkeypatch, write_notebook) -> Path:
    """A small project of its own: three notebooks, the middle one fails."""
    root = tmp_path / "project"
    shutil.copytree(paths.presets(), root / "presets")
    (root / "notebooks").mkdir()
    monkeypatch.setenv("PWL_LAB_HOME", str(root))
    monkeypatch.setenv("PWL_LAB_RUNS", str(root / "runs"))
    good = (
        "import json, os, pathlib\n"
        "out = pathlib.Path(os.environ['PWL_LAB_OUT'], 'metrics.json')\n"
        "out.write_text(json.dumps({'best_accuracy': 0.98765, 'all': [1]}))\n"
        "from PIL import Image; display(Image.new('RGB', (600, 300), 'red'))"
    )
    for name, heading, code in (
        ("00_a", "# First & <best>", good),
        ("01_b", "# Second", "1 / 0"),
        ("02_c", "# Third", "2"),
    ):
        result = {"result": "The best is right on {best_accuracy:.1%}.", "thumbnail_shows": "A <red> square."}
        write_notebook(heading, code, name=f"project/notebooks/{name}", parameters='preset = "lesson"', pwl_lab=result)
    return root


def test_run_says_where_a_callback_raised_and_exits_1(write_notebook, tmp_path: Path) -> None:
    source = write_notebook(
        "from ipywidgets import interact", "@interact(x=(0, 3))\ndef show(x):\n    raise KeyError('no such layer')"
    )
    done = subprocess.run(
        [COMMAND, "run", source, "--out", tmp_path / "out"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "failed" in done.stderr
    assert "cell 1" in done.stderr
    assert "@interact(x=(0, 3))" in done.stderr
    assert "KeyError: 'no such layer'" in done.stderr
    status = json.loads((tmp_path / "out" / "status.json").read_text())
    assert (status["status"], status["cell"], status["error"]["name"]) == ("failed", 1, "KeyError")


def test_a_refusal_is_one_line_on_stderr_and_exit_code_2(write_notebook, tmp_path: Path) -> None:
    source = write_notebook("# Own", parameters="count = 3")
    before = os.times().children_user
    done = subprocess.run(
        [COMMAND, "run", source, "-p", "cuont=4", "--out", tmp_path / "out"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert os.times().children_user - before < 5, "seconds of a core: nothing large is imported for it"
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == "pwl-lab: unknown parameter 'cuont'. Did you mean 'count'? Known: count\n"
    assert not (tmp_path / "out").exists()


def test_params_lists_type_default_and_range() -> None:
    rows = {row["name"]: row for row in json.loads(_invoke("params", "02", "--preset", "smoke", "--json").stdout)}
    assert rows["teacher_width"] | {"description": ""} == {
        "name": "teacher_width",
        "type": "whole number",
        "default": 256,
        "range": "whole number from 1 to 1000000",
        "description": "",
    }
    table = _invoke("params", "02", "--preset", "smoke").stdout
    assert "teacher_width" in table
    assert _invoke("params", "2", "--preset", "smoke").stdout == table
    assert "[0, 1]" in table
    assert _invoke("params", "99", code=2).stdout == ""


def test_params_of_a_readers_own_notebook(write_notebook) -> None:
    source = write_notebook("# Own", parameters="count = 3  # how many\nname: str = 'x'")
    rows = json.loads(_invoke("params", str(source), "--json").stdout)
    assert [(row["name"], row["type"], row["default"], row["description"]) for row in rows] == [
        ("count", "int", 3, "how many"),
        ("name", "str", "x", ""),
    ]


def test_help_and_version_need_neither_torch_nor_papermill() -> None:
    heavy = {"torch", "papermill", "nbformat", "tornado", "httpx", "fsspec"}
    code = f"import sys, pwl_lab.cli, pwl_lab.runner.parameters; print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
    assert _invoke("--version").stdout.startswith("pwl-lab 0.")
    for command in ("run", "params", "series", "serve", "data"):
        assert command in _invoke("--help").stdout


def test_series_goes_on_after_a_failure_and_writes_an_index(project: Path) -> None:
    done = _invoke("series", "--preset", "smoke", "--name", "trial", "--only", "00,01", code=1)
    folder = project / "runs" / "trial"
    states = {path.parent.name: json.loads(path.read_text())["status"] for path in folder.glob("*/status.json")}
    assert states == {"00_a": "ok", "01_b": "failed"}
    assert done.stderr.index("== 00_a") < done.stderr.index("== 01_b")
    assert str(folder / "index.html") in done.output
    page = (folder / "index.html").read_text()
    for words in (
        "First &amp; &lt;best&gt;",
        "Second",
        "Third",
        "1 of 3 ok",
        "not run",
        "ZeroDivisionError",
        "The best is right on 98.8%.",
        "executed at preset <code>smoke</code>",
        'alt="A &lt;red&gt; square."',
    ):
        assert words in page
    assert page.count("data:image/png;base64") == 1, "a figure of the one notebook that has one"
    assert 'href="00_a/notebook.html"' in page
    assert "http" not in page
    assert "<script" not in page
    timing = json.loads((folder / "timing.json").read_text())
    assert {name: found["status"] for name, found in timing["notebooks"].items()} == states
    for name, found in timing["notebooks"].items():
        assert found["phases"]["kernel"] > 0
        assert sum(found["phases"].values()) == pytest.approx(found["seconds"], abs=0.1)
        assert re.search(rf"^{name} +\d+:\d\d +\d+:\d\d", done.stdout, re.M)
    assert (timing["preset"], timing["jobs"]) == ("smoke", default_jobs())
    assert timing["seconds"] > max(found["seconds"] for found in timing["notebooks"].values())
    assert re.search(r"^all +\d+:\d\d +\d+:\d\d", done.stdout, re.M)


def test_series_checks_before_it_starts(project: Path) -> None:
    assert "Did you mean 'lesson'" in _invoke("series", "--preset", "lessen", code=2).output
    assert "01_b" in _invoke("series", "--only", "01_d", code=2).output
    assert "name" in _invoke("series", "--name", "../x", code=2).output
    assert "store" in _invoke("series", "--name", "store", code=2).output
    for jobs in ("0", "-1"):
        assert f"jobs = {jobs} is not allowed" in _invoke("series", "--jobs", jobs, code=2).output
    assert not (project / "runs").exists()


@pytest.mark.parametrize(
    "name", ["example_batch", "store", "downloads", "interactive", "bench.json", "Store", "EXAMPLE_BATCH", ".batches"]
)
def test_a_series_is_refused_a_name_that_has_another_use(project: Path, name: str) -> None:
    assert f"name = {name!r} is not allowed" in _invoke("series", "--name", name, code=2).stderr
    assert not (project / "runs").exists()


def test_no_place_among_the_runs_is_left_out(project: Path) -> None:
    """Every function of `paths` that names a place among the runs names one that is reserved."""
    ours = [getattr(paths, name) for name, found in vars(paths).items() if inspect.isfunction(found)]
    places = [found() for found in ours if inspect.signature(found).return_annotation is Path and not _asks(found)]
    among = [place for place in places if paths.runs() in place.parents]
    assert len(among) >= 4
    assert set(among) <= set(paths.reserved())
    assert paths.output("x").parent in paths.reserved()


def _asks(found) -> bool:
    return bool(inspect.signature(found).parameters)


@pytest.mark.parametrize("where", ["", "deeper/", "deeper/down/"])
def test_a_series_is_refused_what_holds_a_place_or_lies_in_one(project: Path, monkeypatch, where: str) -> None:
    monkeypatch.setenv("PWL_LAB_STORE", str(project / "runs" / where / "kept"))
    name = (where or "kept").partition("/")[0]
    assert "has another use" in _invoke("series", "--name", name, code=2).stderr


def test_a_series_is_refused_a_batch_and_a_file(project: Path) -> None:
    (project / "runs" / "grid").mkdir(parents=True)
    (project / "runs" / "grid" / "batch.json").write_text("{}")
    (project / "runs" / "notes.txt").write_text("mine")
    for name in ("grid", "notes.txt"):
        assert "has another use" in _invoke("series", "--name", name, code=2).stderr


@pytest.mark.parametrize("name", ["a" * 300, "a\0b", "../x", "a/b", "x" * 5000])
@pytest.mark.parametrize(
    "command",
    [["series", "--name"], ["series", "--only"], ["series", "--preset"], ["params"]],
)
def test_a_name_that_no_file_can_have_is_refused_in_one_line(project: Path, command: list[str], name: str) -> None:
    message = _invoke(*command, name, code=2).stderr
    assert message.startswith("pwl-lab: ")
    assert message.count("\n") == 1
    assert len(message) < 1000


def test_index_of_an_empty_folder(project: Path) -> None:
    assert "0 of 3 ok" in write_index(project / "runs" / "none").read_text()


def test_the_index_leads_to_the_page_in_the_browser_if_that_was_built(project: Path) -> None:
    assert "web/index.html" not in write_index(project / "runs" / "none").read_text()
    (project / "runs" / "web").mkdir()
    (project / "runs" / "web" / "index.html").touch()
    assert '<a href="../web/index.html">' in write_index(project / "runs" / "none").read_text()


def test_the_question_of_a_notebook_is_plain_text() -> None:
    asked = "# T\n\n**Question.** *Which* of [two](01_b.ipynb)\nis `x`, with $k$ bits?\n\nMore."
    assert question_of({"cells": [{"cell_type": "markdown", "source": asked}]}) == "Which of two is x, with k bits?"
    assert question_of({"cells": [{"cell_type": "markdown", "source": "# T"}]}) is None


def test_the_sentence_of_a_result_takes_its_numbers_from_the_metrics() -> None:
    nb = {"cells": [], "metadata": {"pwl_lab": {"result": "{gap[vgg]:.1f} points in {steps[0]:,} steps"}}}
    assert result_of(nb, {"gap": {"vgg": 5.04}, "steps": [1200]}) == "5.0 points in 1,200 steps"
    for lacking in ({"gap": {}, "steps": [1]}, {"gap": {"vgg": 1.0}, "steps": []}, {"gap": {"vgg": None}}, None, [1]):
        assert result_of(nb, lacking) is None
    assert result_of({"cells": [], "metadata": {}}, {"gap": 1}) is None


def test_fetch_checks_the_bundled_images_and_says_where_they_lie() -> None:
    where = Path(_invoke("data", "fetch", "fashion-mnist-small").stdout.strip())
    assert where.exists()


def test_fetch_refuses_an_unknown_name_and_a_folder_without_the_files(tmp_path: Path) -> None:
    assert "Did you mean 'fashion-mnist'" in _invoke("data", "fetch", "fashion-mnst", code=2).stderr
    assert "fashion" in _invoke("data", "fetch", "fashion-mnist", "--folder", str(tmp_path), code=2).stderr


def test_fetch_finds_the_digits_where_scikit_learn_is_and_in_no_other_folder(tmp_path: Path) -> None:
    where = Path(_invoke("data", "fetch", "digits").stdout.strip())
    assert (where / "sklearn").is_dir()
    done = _invoke("data", "fetch", "digits", "--folder", str(tmp_path), code=2)
    assert "leave out folder" in done.stderr
    assert done.stdout == ""


def test_fetch_names_a_damaged_archive_and_leaves_nothing(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("PWL_LAB_DATA", str(tmp_path / "downloads"))
    (tmp_path / "cifar-10-binary.tar.gz").write_bytes(b"cut")
    message = _invoke("data", "fetch", "cifar-10", "--folder", str(tmp_path), code=2).stderr
    assert f"{tmp_path / 'cifar-10-binary.tar.gz'} is truncated, damaged or a different file" in message
    assert message.count("\n") == 1
    assert [path.suffix for path in (tmp_path / "downloads").iterdir()] == [".lock"]


def test_list_tells_what_each_data_set_holds_and_where_it_comes_from() -> None:
    lines = _invoke("data", "list").stdout.splitlines()
    table = {line.split()[0]: line for line in lines}
    names = ["fashion-mnist-small", "fashion-mnist", "cifar-10", "cifar-100", "digits", "fashion-mnist-32"]
    assert list(table) == ["name", *names]
    assert table["cifar-100"].split()[1:7] == ["32x32", "colour", "100", "45,000", "5,000", "10,000"]
    assert table["digits"].split()[1:] == ["8x8", "grey", "10", "1,000", "297", "500", "scikit-learn"]
    assert table["fashion-mnist-small"].endswith("pwl_lab")
    assert table["cifar-10"].endswith("download: https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz")


def _invoke(*words: str, code: int = 0):
    done = CliRunner().invoke(app, list(words))
    assert done.exit_code == code, done.output
    return done


def test_a_table_is_folded_to_the_terminal_and_each_line_stays_whole_for_a_program(monkeypatch) -> None:
    whole = _invoke("params", "02").stdout.splitlines()
    assert whole[0].split() == ["name", "default", "range", "description"]
    assert len(whole) == 1 + len(json.loads(_invoke("params", "02", "--json").stdout))
    monkeypatch.setenv("COLUMNS", "72")
    monkeypatch.setattr(cli, "_is_terminal", lambda: True)
    folded = _invoke("params", "02").stdout.splitlines()
    assert max(map(len, folded)) <= 72
    assert len(folded) > len(whole)
    assert sorted(" ".join(whole).split()) == sorted(" ".join(folded).split())


def test_run_without_a_folder_chooses_one_among_the_runs_and_says_so(project: Path) -> None:
    done = _invoke("run", "0", "--preset", "smoke")
    assert f"goes to {project / 'runs' / '00_a'}" in done.stderr
    assert json.loads((project / "runs" / "00_a" / "status.json").read_text())["status"] == "ok"
    shutil.copy(project / "notebooks" / "00_a.ipynb", project / "notebooks" / "store.ipynb")
    assert "give one with --out" in _invoke("run", "store", code=2).stderr


def test_a_number_names_a_lesson_and_with_a_letter_its_appendix(project: Path) -> None:
    for name in ("02b_more", "12_far"):
        shutil.copy(project / "notebooks" / "00_a.ipynb", project / "notebooks" / f"{name}.ipynb")
    for given, stem in (
        ("2", "02_c"),
        ("02", "02_c"),
        ("2b", "02b_more"),
        ("02b", "02b_more"),
        ("0", "00_a"),
        ("12", "12_far"),
    ):
        assert resolve_notebook(given).stem == stem
    assert [path.stem for path in series()] == ["00_a", "01_b", "02_c", "02b_more", "12_far"]
    assert "unknown notebook '7'" in _invoke("params", "7", code=2).stderr
