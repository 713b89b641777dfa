"""Notebook 09: on the example, which it runs itself, on a batch that is named, and ended in the middle."""

import json
import signal
import subprocess
from pathlib import Path

import psutil
import pytest
import stub_runner
from benches import COMMAND
from processes import alive, until

from pwl_lab.runner.execute import run_notebook
from pwl_lab.runner.grid import plan_grid
from pwl_lab.runner.parameters import read_notebook, resolve_notebook, resolve_parameters
from pwl_lab.runner.run_folder import read_status
from pwl_lab.support import paths
from pwl_lab.support.errors import InvalidValueError

START_S = 240  # a kernel, a cluster and another kernel, on a machine that has other work

# A notebook that runs a batch, and one of its points: it leaves the numbers of its kernel and of two children, and waits.
OUTER = """
from pathlib import Path
from pwl_lab.runner import batch as batches
batches.run_batch(batches.prepare(Path(r"{grid}"), Path(r"{out}")), workers=1)
"""
INNER = """
import os, subprocess, time
from pathlib import Path
children = [subprocess.Popen(["sleep", "600"]), subprocess.Popen(["sleep", "600"], start_new_session=True)]
Path(os.environ["PWL_LAB_OUT"], "pids").write_text(" ".join(str(n) for n in (os.getpid(), *(c.pid for c in children))))
time.sleep(600)
"""


@pytest.mark.notebook
def test_the_example_is_run_once_and_reported(
    smoke_run, store_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = smoke_run("09")
    monkeypatch.setenv("PWL_LAB_RUNS", str(first.runs))
    second = run_notebook("09", tmp_path / "second", preset="smoke")
    for status, out in ((first.status, first.out), (second, tmp_path / "second")):
        assert status.status == "ok", status.error
        metrics = json.loads((out / "metrics.json").read_text())
        assert (metrics["points"], metrics["ok"], metrics["failed"]) == (7, 6, 1)
        assert metrics["view"] | {"statistic": "", "averaged": []} == {
            "metric": "steps_to_threshold.*", "axis": "n_bits", "hue": "part", "facets": [], "averaged": [], "statistic": ""
        }  # fmt: skip
        assert {row["part"] for row in metrics["curves"]} == {"one_shot", "progressive", "extracted"}
    page = (tmp_path / "second" / "notebook.html").read_text()
    assert "at_accuracy = 0.8 is not allowed" in page, "the point that fails is listed with its error"
    events = (paths.example_batch() / "events.jsonl").read_text()
    assert events.count("batch begun") == 1, "the second time there is nothing to run, the failed point neither"


@pytest.mark.notebook
def test_a_batch_that_is_named_as_seen_from_where_the_command_runs(
    store_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stub_runner.write_grid(tmp_path / "grid.yaml", bits=1, seeds=2)
    plan = plan_grid(tmp_path / "grid.yaml")
    stub_runner.fill(tmp_path / "batch", plan, list(plan.points[:-3]))
    monkeypatch.chdir(tmp_path)
    asked = {"batch": "batch", "metric": "teacher.steps", "axis": "stage_steps", "hue": "none", "facet": ["none"]}
    status = run_notebook("09", tmp_path / "out", params=asked)
    assert status.status == "ok", status.error
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["points"] == 40
    assert metrics["statuses"]["waiting"] == 3
    assert metrics["view"]["averaged"] == ["student_width"]
    assert not paths.example_batch().exists()


@pytest.mark.parametrize(
    "params", [{"batch": "nowhere"}, {"batch": 3}, {"statistic": "mode"}, {"facet": ["a", "b", "c"]}, {"facet": "none"}]
)
def test_a_bad_value_is_refused_before_a_kernel_starts(params: dict) -> None:
    with pytest.raises(InvalidValueError, match=rf"{next(iter(params))} = "):
        resolve_parameters(read_notebook(resolve_notebook("09")), None, params)


@pytest.mark.notebook
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=lambda number: number.name)
def test_a_notebook_that_runs_a_batch_leaves_nothing_when_it_is_ended(
    write_notebook, store_folder: Path, tmp_path: Path, number: signal.Signals
) -> None:
    grid, out = tmp_path / "grid.yaml", tmp_path / "batch"
    grid.write_text(f"notebook: {write_notebook(INNER, name='inner')}\n")
    outer = write_notebook(OUTER.format(grid=grid, out=out), name="outer")
    process = subprocess.Popen([COMMAND, "run", str(outer), "--out", str(tmp_path / "outer")])
    until(lambda: any(file.read_text() for file in out.glob("points/*/pids")), START_S)
    numbers = list(map(int, next(out.glob("points/*/pids")).read_text().split()))
    started = [child.pid for child in psutil.Process(process.pid).children(recursive=True)]
    assert set(numbers) <= set(started)
    process.send_signal(number)
    process.wait(60)
    until(lambda: not any(map(alive, started)), 60)
    if number == signal.SIGTERM:
        assert read_status(tmp_path / "outer").status == "killed"
