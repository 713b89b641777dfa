import asyncio
import json
import re
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import nbformat
import pytest
import zmq
from bs4 import BeautifulSoup

from pwl_lab.runner import parameters as schema
from pwl_lab.runner.execute import run_notebook
from pwl_lab.runner.parameters import resolve_notebook, settings_of
from pwl_lab.runner.run_folder import FILES, read_status
from pwl_lab.study.settings import CurriculaSettings
from pwl_lab.support import paths
from pwl_lab.support.errors import InvalidValueError, MissingDataError, UnknownNameError
from pwl_lab.support.files import write_text

REMOTE = re.compile(r"^(https?:)?//")


def remote(page: str) -> list[str]:
    """Everything on a page that a browser would ask a network for by itself."""
    soup = BeautifulSoup(page, "html.parser")
    found = [str(tag)[:200] for tag in soup.find_all(src=REMOTE)]
    found += [str(tag)[:200] for tag in soup.find_all("link", href=REMOTE)]
    styles = " ".join(tag.get_text() for tag in soup.find_all("style"))
    found += re.findall(r"(?:@import|url\()\s*[\"']?(?:https?:)?//[^)\s]*", styles)
    scripts = " ".join(tag.get_text() for tag in soup.find_all("script"))
    return found + re.findall(r"[\"'`](?:https?:)?//[^\"'`]*", scripts)


RICH = """
import json, os
from pathlib import Path
from IPython.display import HTML, display
import matplotlib.pyplot as plt
out, log = Path(os.environ["PWL_LAB_OUT"]), Path(os.environ["PWL_LAB_PROGRESS"])
plt.plot([1, 2]); plt.show()
display(HTML('<link rel="stylesheet" href="https://cdn.example/icons.css"><script src="https://cdn.example/x.js"></script>kept'))
log.open("a").write("teacher: 10/20 steps\\nteacher: done\\n")
(out / "metrics.json").write_text(json.dumps({"steps": steps, "rate": rate}))
(out / "found.txt").write_text(f"{steps} {rate} {os.getcwd()}")
"""


TIMED = """
import time
from pwl_lab.support.timing import phase
time.sleep(0.3)
with phase("training"):
    time.sleep(0.4)
"""


@pytest.mark.parametrize(("last", "ended"), [("2 + 2", "ok"), ("1 / 0", "failed")])
def test_a_run_says_where_its_time_went(write_notebook, tmp_path: Path, last: str, ended: str) -> None:
    status = run_notebook(write_notebook("# Own", TIMED, "time.sleep(0.5)\n" + last), tmp_path / "out")
    assert status.status == ended
    found = status.phases
    assert found["kernel"] >= 0.3
    assert found["training"] >= 0.4
    assert found["page"] > 0
    assert found["other"] >= 0.5
    assert found["evaluation"] == 0
    assert sum(found.values()) == pytest.approx(status.seconds, abs=0.1)  # the cell with the import counts once


def test_a_run_leaves_everything(write_notebook, tmp_path: Path) -> None:
    source = write_notebook(
        "# What $x^2$ and $\\unknowncommand$ are",
        RICH,
        name="rich",
        parameters="steps = 3  # how many\nrate = 0.5",
        pwl_lab={"metrics": True},
    )
    out, lines = tmp_path / "out {a}", []
    stale = "import os, pathlib; pathlib.Path(os.environ['PWL_LAB_OUT'], 'metrics.json').write_text('{\"stale\": 1}')"
    assert run_notebook(write_notebook(stale), out).metrics
    status = run_notebook(source, out, params={"rate": 2}, on_line=lines.append)

    assert (status.status, status.cell, status.error) == ("ok", None, None)
    assert read_status(out) == status
    assert status.cells == 4
    assert status.versions["torch"]
    assert status.seconds > 0
    assert json.loads((out / "params.json").read_text()) == {"steps": 3, "rate": 2.0, "given": {"rate": 2.0}}
    assert json.loads((out / "metrics.json").read_text()) == {"steps": 3, "rate": 2.0}
    assert (out / "found.txt").read_text() == f"3 2.0 {tmp_path}"
    assert lines == ["teacher: 10/20 steps", "teacher: done"]

    executed = nbformat.read(out / "notebook.ipynb", as_version=4)
    assert [cell.metadata.get("tags") for cell in executed.cells[1:3]] == [["parameters"], ["injected-parameters"]]
    assert "steps" not in executed.cells[2].source
    page = (out / "notebook.html").read_text()
    assert remote(page) == []
    assert '<math display="inline"><mrow><msup>' in page
    assert "$\\unknowncommand$" in page
    assert "data:image/png;base64," in page
    assert "kept" in page
    assert len(page) < 5_000_000


def test_the_check_for_remote_parts_finds_them() -> None:
    for part in (
        '<script src="https://cdn.example/x.js"></script>',
        "<img src='//cdn.example/x.png'>",
        '<link rel="stylesheet" href="https://cdn.example/x.css">',
        "<style>@import url(https://cdn.example/x.css)</style>",
        "<script type='module'>import x from 'https://cdn.example/x.mjs'</script>",
    ):
        assert remote(part)
    assert remote('<p>see <a href="https://example.org">there</a>: src="https://x"</p>') == []


def test_settings_notebook_gets_only_what_was_given(write_notebook, tmp_path: Path) -> None:
    fields = "\n".join(f"{name} = None" for name in CurriculaSettings.model_fields)
    source = write_notebook(
        "# Settings",
        "from pwl_lab.study.settings import CurriculaSettings as C\ns = C.load(preset, teacher_lr=teacher_lr, seeds=seeds)",
        "print(s.teacher_lr, s.seeds, s.n_bits, repr(interactive), n_bits)",
        parameters=fields,
        pwl_lab={"settings": "distillation_curricula"},
    )
    status = run_notebook(
        source, tmp_path / "out", "smoke", schema.parse_parameters(["teacher_lr=1e-3", "seeds=[4,5]"])
    )
    assert status.status == "ok"
    assert status.preset == "smoke"
    executed = nbformat.read(tmp_path / "out" / "notebook.ipynb", as_version=4)
    assert executed.cells[-1].outputs[0].text == "0.001 (4, 5) 12 False None\n"
    saved = json.loads((tmp_path / "out" / "params.json").read_text())
    assert saved["given"] == {"preset": "smoke", "teacher_lr": 0.001, "seeds": [4, 5]}
    assert saved["n_bits"] == CurriculaSettings.load("smoke").n_bits
    assert saved["interactive"] is False


def test_output_widgets_do_not_hang_the_client(write_notebook, tmp_path: Path) -> None:
    # Without the guard (nbclient issue 312) about one run in two of this size loses a wake-up, and a cell ends as a timeout.
    cells = [f"for step in range(5): slider.value = {number} * 10 + step" for number in range(1, 41)]
    source = write_notebook(
        "from ipywidgets import interact, IntSlider\nslider = IntSlider(max=10_000)\n"
        "def show(x):\n    print('value', x)\ninteract(show, x=slider);",
        *cells,
    )
    status = run_notebook(source, tmp_path / "out", timeout=40)
    assert status.status == "ok"
    executed = nbformat.read(tmp_path / "out" / "notebook.ipynb", as_version=4)
    state = executed.metadata.widgets["application/vnd.jupyter.widget-state+json"]["state"]
    shown = [model.state.outputs for model in state.values() if model.model_name == "OutputModel"]
    assert shown[0][0]["text"] == "value 404\n"
    page = (tmp_path / "out" / "notebook.html").read_text()
    assert "value 404" in page
    assert "A live control stands here" in page
    assert remote(page) == []


def test_the_guard_asks_the_shell_socket_after_each_send(monkeypatch) -> None:
    from nbclient.output_widget import OutputWidget

    from pwl_lab.runner.client import GuardedOutputWidget

    asked = []

    class Socket:
        get = staticmethod(asked.append)

    widget = GuardedOutputWidget.__new__(GuardedOutputWidget)
    widget.kernel_client = type("Client", (), {"shell_channel": type("Channel", (), {"socket": Socket})})
    monkeypatch.setattr(OutputWidget, "_publish_msg", lambda *args, **keys: asked.append("sent"))
    widget.send({"method": "update"})
    assert asked == ["sent", zmq.EVENTS]


CALLBACK = "def show(x):\n    if x == 3:\n        raise ValueError('three is refused')\n    print(x)\n"


@pytest.mark.parametrize(
    ("cells", "cell"),
    [
        (["from ipywidgets import interact, IntSlider", CALLBACK + "interact(show, x=IntSlider(3));", "1"], 1),
        # displayed later, inside a container, and a good value afterwards clears the widget's output
        (
            [
                "from ipywidgets import interactive, IntSlider, VBox\nslider = IntSlider()\n"
                + CALLBACK
                + "box = VBox([VBox([interactive(show, x=slider)])])",
                "1",
                "box",
                "slider.value = 3",
                "slider.value = 4",
            ],
            2,
        ),
        # displayed by no cell: the cell that was running is named
        (["from ipywidgets import Output\nout = Output()", "with out:\n    raise ValueError('three is refused')"], 1),
        # a control of ours, moved by a later cell
        (
            [
                "from pwl_lab.widgets import Choice, Frame, FramePicker, FrameTable",
                "values = (1, 2, 3)\nframes = {(value,): Frame(b'', '') for value in values}\n"
                "picker = FramePicker(FrameTable((Choice('x', 'y', values),), frames))\n"
                "class Refusing(dict):\n    def __getitem__(self, key):\n        raise ValueError('three is refused')\n"
                "object.__setattr__(picker.table, 'frames', Refusing())\npicker",
                "picker.controls[0].value = 3",
            ],
            2,
        ),
    ],
    ids=["interact", "in a container, then cleared", "never displayed", "one of ours"],
)
def test_an_error_in_a_widget_fails_the_run(write_notebook, tmp_path: Path, cells: list[str], cell: int) -> None:
    status = run_notebook(write_notebook(*cells), tmp_path / "out")
    assert (status.status, status.cell) == ("failed", cell)
    assert (status.error.name, status.error.message) == ("ValueError", "three is refused")
    assert status.cell_source == "\n".join(cells[cell].splitlines()[:3])
    assert 'role="alert"' in (tmp_path / "out" / "notebook.html").read_text()


def test_a_failing_cell_is_named_and_the_rest_kept(write_notebook, tmp_path: Path) -> None:
    status = run_notebook(write_notebook("print('before')", "\n# divide\n1 / 0", "print('never')"), tmp_path / "out")
    assert (status.status, status.cell, status.cell_source) == ("failed", 1, "# divide\n1 / 0")
    assert (status.error.name, status.error.message) == ("ZeroDivisionError", "division by zero")
    assert "1 / 0" in status.error.traceback
    assert "\x1b" not in status.error.traceback
    executed = nbformat.read(tmp_path / "out" / "notebook.ipynb", as_version=4)
    assert len(executed.cells) == 3
    assert executed.cells[0].outputs[0].text == "before\n"
    assert executed.cells[2].outputs == []


def test_expected_errors_and_foreign_kernels_are_fine(write_notebook, tmp_path: Path) -> None:
    source = write_notebook(
        "1 / 0",
        "print('on')",
        tags={0: ["raises-exception"]},
        kernelspec={"name": "ir", "language": "R", "display_name": "R"},
    )
    status = run_notebook(source, tmp_path / "out")
    assert status.status == "ok"
    assert status.error is None


def test_a_promised_metrics_file_must_be_there(write_notebook, tmp_path: Path, monkeypatch) -> None:
    # a temporary folder whose path is longer than a unix socket may have
    deep = tmp_path / ("d" * 90)
    deep.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(deep))
    status = run_notebook(write_notebook("1 + 1", pwl_lab={"metrics": True}), tmp_path / "out")
    assert status.status == "failed"
    assert "metrics.json" in status.error.message


def test_runs_in_threads_at_the_same_time(write_notebook, tmp_path: Path) -> None:
    source, ended = write_notebook("print(1)"), []
    work = [
        threading.Thread(target=lambda place=place: ended.append(run_notebook(source, tmp_path / place)))
        for place in "ab"
    ]
    for thread in work:
        thread.start()
    for thread in work:
        thread.join()
    assert [status.status for status in ended] == ["ok", "ok"]


def test_runs_inside_a_running_loop_as_in_jupyter(write_notebook, tmp_path: Path) -> None:
    source = write_notebook("from ipywidgets import Output\nout = Output()\nwith out:\n    print(1)", "out")

    async def inside():
        return run_notebook(source, tmp_path / "out", timeout=20)

    assert asyncio.run(inside()).status == "ok"


PARAMETERS = "count = 3\nrate = 0.5\nname = 'a=b'\nflag = True\nsizes = [1]\nfree = None\ncomputed = 1 + 1"


@pytest.mark.parametrize(
    ("pair", "words"),
    [
        ("cuont=1", ["cuont", "Did you mean 'count'"]),
        ("count=1.5", ["count = 1.5", "int"]),
        ("count=true", ["count = True", "int"]),
        ("rate=fast", ["rate = 'fast'", "float"]),
        ("name=5", ["name = 5", "str"]),
        ("flag=1", ["flag = 1", "bool"]),
        ("sizes=3", ["sizes = 3", "list"]),
        ("count=null", ["count = None", "int"]),
        ("preset=smoke", ["preset"]),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_written(write_notebook, tmp_path, pair, words) -> None:
    source = write_notebook("# Own", "1 / 0", parameters=PARAMETERS)
    with pytest.raises(InvalidValueError) as refused:
        run_notebook(source, tmp_path / "out", params=schema.parse_parameters([pair]))
    assert all(word in str(refused.value) for word in words)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("pair", "value"),
    [
        ("count=4", 4),
        ("rate=1", 1.0),
        ("rate=1e-3", 1e-3),
        ("name=c", "c"),
        ("name='5'", "5"),
        ("free=[1, x]", [1, "x"]),
        ("computed=9", 9),
    ],
)
def test_what_fits_is_taken(write_notebook, pair: str, value: object) -> None:
    nb = schema.read_notebook(write_notebook("# Own", parameters=PARAMETERS))
    plan = schema.resolve_parameters(nb, None, schema.parse_parameters([pair]))
    assert list(plan.given.values()) == [value]
    assert plan.inject == plan.given
    assert type(plan.given[pair.split("=")[0]]) is type(value)


@pytest.mark.parametrize(
    ("preset", "pairs", "words"),
    [
        ("smok", [], ["smok", "Did you mean 'smoke'"]),
        ("smoke", ["preset=lesson"], ["--preset already says 'smoke'"]),
        (None, ["teacher_widht=3"], ["Did you mean 'teacher_width'"]),
        (None, ["teacher_width=0"], ["teacher_width = 0", "from 1 to 1000000"]),
        (None, ["seeds=[0, -1]"], ["seeds[1] = -1"]),
        (None, ["device=gpu"], ["device = 'gpu'", "auto, cpu, cuda"]),
    ],
)
def test_settings_are_checked_before_a_kernel(write_notebook, tmp_path, preset, pairs, words) -> None:
    fields = "\n".join(f"{name} = None" for name in CurriculaSettings.model_fields)
    source = write_notebook("# S", "1 / 0", parameters=fields, pwl_lab={"settings": "distillation_curricula"})
    with pytest.raises(InvalidValueError) as refused:
        run_notebook(source, tmp_path / "out", preset, schema.parse_parameters(pairs))
    assert all(word in str(refused.value) for word in words)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("parameters", [None, "count = 1"])
def test_a_notebook_without_that_parameter_takes_no_preset(write_notebook, tmp_path, parameters) -> None:
    source = write_notebook("# Own", "1", parameters=parameters)
    nb = schema.read_notebook(source)
    for ask in (
        lambda: run_notebook(source, tmp_path / "out", "aaa"),
        lambda: schema.describe_parameters(nb, "aaa"),
        lambda: schema.check_value(nb, "preset", "aaa"),
    ):
        with pytest.raises(InvalidValueError, match="'aaa' is not allowed: this notebook takes no preset"):
            ask()


def test_preset_as_parameter_or_option_is_the_same(write_notebook) -> None:
    nb = schema.read_notebook(
        write_notebook(
            "# S",
            parameters='preset = "lesson"\nseeds = None\nmine = 1',
            pwl_lab={"settings": "distillation_curricula"},
        )
    )
    plan = schema.resolve_parameters(nb, "smoke", {})
    assert (
        plan
        == schema.resolve_parameters(nb, None, {"preset": "smoke"})
        == schema.resolve_parameters(nb, "smoke", {"preset": "smoke"})
    )
    assert plan.inject == {"preset": "smoke"}
    assert schema.resolve_parameters(nb, None, {}).preset == "lesson"
    # an integral float is the whole number that it says; a parameter of the reader's own is checked by its default
    taken = schema.resolve_parameters(nb, None, schema.parse_parameters(["seeds=[1e1]", "mine=2"]))
    assert taken.given == {"seeds": [10], "mine": 2}
    with pytest.raises(InvalidValueError, match="mine = 'x'"):
        schema.resolve_parameters(nb, None, {"mine": "x"})


@pytest.mark.parametrize("pair", ["seeds", "=3", "a b=3", "seeds=[0"])
def test_malformed_pairs_are_refused(pair: str) -> None:
    with pytest.raises(InvalidValueError):
        schema.parse_parameters([pair])
    with pytest.raises(InvalidValueError, match="twice"):
        schema.parse_parameters(["a=1", "a=2"])


def test_names_and_beginnings_of_names(tmp_path: Path, monkeypatch, write_notebook) -> None:
    (tmp_path / "presets").mkdir()
    (tmp_path / "notebooks").mkdir()
    for name in ("04_loading", "05_meet", "05_more"):
        write_notebook("1", name=f"notebooks/{name}")
    monkeypatch.setenv("PWL_LAB_HOME", str(tmp_path))
    expected = (tmp_path / "notebooks" / "04_loading.ipynb").resolve()
    for name in ("04", "04_loading", "04_loading.ipynb", str(expected), str(expected)[: -len(".ipynb")]):
        assert resolve_notebook(name) == expected
    with pytest.raises(InvalidValueError, match="05_meet, 05_more"):
        resolve_notebook("05")
    for name in ("05b_between", "06_last", "06b_behind"):
        write_notebook("1", name=f"notebooks/{name}")
    assert resolve_notebook("05b").stem == "05b_between"
    assert resolve_notebook("06").stem == "06_last", "not 06b"
    assert [path.stem for path in schema.series()] == [
        *("04_loading", "05_meet", "05_more", "05b_between", "06_last", "06b_behind")
    ]
    with pytest.raises(UnknownNameError, match="Did you mean '04_loading'"):
        resolve_notebook("04_loadign")


def test_an_unknown_section_and_a_broken_file_are_refused(write_notebook, tmp_path: Path) -> None:
    nb = schema.read_notebook(write_notebook("1", pwl_lab={"settings": "distilation_curricula"}))
    with pytest.raises(UnknownNameError, match="Did you mean 'distillation_curricula'"):
        settings_of(nb)
    broken = tmp_path / "broken.ipynb"
    for text in ("", "{}", "[1]", '{"nbformat": 4, "cells": [3]}', '{"nbformat": 3, "worksheets": []}'):
        broken.write_text(text)
        with pytest.raises(InvalidValueError, match="notebook"):
            run_notebook(broken, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_source_is_never_overwritten_and_a_bad_folder_refused(write_notebook, tmp_path: Path) -> None:
    source = write_notebook("1", name="notebook")
    before = source.read_bytes()
    with pytest.raises(InvalidValueError, match="overwrite"):
        run_notebook(source, tmp_path)
    with pytest.raises(InvalidValueError, match="out = "):
        run_notebook(write_notebook("1"), source)
    with pytest.raises(InvalidValueError, match="timeout"):
        run_notebook(source, tmp_path / "out", timeout=0)
    assert source.read_bytes() == before


def test_writing_is_all_or_nothing(tmp_path: Path) -> None:
    target = tmp_path / "status.json"
    write_text(target, "old")
    with pytest.raises(UnicodeEncodeError):
        write_text(target, "new \ud800")
    assert target.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["status.json"]
    assert "status.json" in FILES


def test_every_series_notebook_can_be_planned_at_every_preset() -> None:
    for path in schema.series():
        for preset in sorted(file.stem for file in paths.presets().glob("*.yaml")):
            plan = schema.resolve_parameters(schema.read_notebook(path), preset, {})
            assert plan.inject == {"preset": preset, "interactive": False}


@pytest.mark.parametrize("name", ["00", "04"])
def test_missing_images_are_named_before_anything_starts(name, tmp_path, monkeypatch) -> None:
    from pwl_lab.tasks import images

    (tmp_path / "home" / "data").mkdir(parents=True)
    for folder in ("presets", "notebooks"):
        (tmp_path / "home" / folder).symlink_to(paths.root() / folder)
    monkeypatch.setenv("PWL_LAB_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(images.datasets, "_READ", {})
    with pytest.raises(MissingDataError, match="fashion-mnist-small"):
        run_notebook(name, tmp_path / "out", preset="smoke")
    assert not (tmp_path / "out").exists()


IMPORTED = """
import sys
from pwl_lab.runner.execute import UNUSED, _without_unused
with _without_unused():
    import pwl_lab.runner.client, pwl_lab.runner.page
assert "papermill" in sys.modules and "nbconvert" in sys.modules
assert UNUSED not in sys.modules and not {"torch", "distributed"} & set(sys.modules)
try:
    __import__(UNUSED)
except ModuleNotFoundError:
    pass  # it is not installed: nothing else may be in its way
"""


def test_what_runs_notebooks_is_imported_without_a_grammar_that_takes_longer_than_all_of_it() -> None:
    done = subprocess.run([sys.executable, "-c", IMPORTED], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
