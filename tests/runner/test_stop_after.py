"""`--stop-after`: a run, a series and a batch end by a certain time, and the same command goes on."""

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from test_batch_command import GRID
from test_cli import _invoke, project  # noqa: F401 - a fixture
from test_worker import planned, ran  # noqa: F401 - a fixture

from pwl_lab.runner import dask, execute
from pwl_lab.runner.dask import BatchOutcome
from pwl_lab.runner.execute import run_notebook
from pwl_lab.runner.location import location_at
from pwl_lab.runner.run_folder import RunStatus
from pwl_lab.runner.worker import run_point
from pwl_lab.support import environment

# The time is up at step 60, in the first run alone.
TRAINS = """
import pathlib
from pwl_lab.models import mlp
from pwl_lab.study.verbs import train_or_load
from pwl_lab.support.resuming import Training
from pwl_lab.tasks.parity import SparseParity
from pwl_lab.training import TrainPlan

whole, first = Training.pause, not pathlib.Path("second").exists()
pathlib.Path("second").touch()

def pause(run, done):
    run._stop_at = 0.0 if first and done == 60 else None
    whole(run, done)

Training.pause = pause
task = SparseParity(n_bits=6, k_sparse=2, eval_samples=50)
teacher = train_or_load(mlp(task, 8), task, TrainPlan(steps=200, batch_size=8, eval_every=50), device="cpu")
"""


@pytest.fixture(autouse=True)
def no_limit(store_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No time is set before a test, or after it."""
    monkeypatch.setenv(environment.STOP_AT.name, "")


@pytest.mark.slow
def test_a_run_stops_with_an_exit_code_of_its_own_and_the_next_goes_on(
    write_notebook: Callable[..., Path], store_folder: Path, tmp_path: Path
) -> None:
    source, out = write_notebook(TRAINS), tmp_path / "out"
    done = _invoke("run", str(source), "--out", str(out), code=3)
    assert "stopped: " in done.stderr
    assert "TimeIsUpError: mlp teacher: the time is up at step 60" in done.stderr
    assert "the same command goes on from step 60" in done.stderr
    assert "run the same command again to go on" in done.stderr
    status = json.loads((out / "status.json").read_text())
    assert (status["status"], status["cell"], status["error"]["name"]) == ("stopped", 0, "TimeIsUpError")
    assert len(list((store_folder / "unfinished").rglob("*.checkpoint"))) == 1
    done = _invoke("run", str(source), "--out", str(out), code=0)
    assert "mlp teacher: resumed at step 60" in done.stderr
    assert not list((store_folder / "unfinished").rglob("*.checkpoint"))


def test_the_time_reaches_the_kernel(write_notebook: Callable[..., Path], tmp_path: Path) -> None:
    source = write_notebook("import os, time\nprint(float(os.environ['PWL_LAB_STOP_AT']) - time.time())")
    _invoke("run", str(source), "--out", str(tmp_path / "out"), "--stop-after", "1h")
    nb = json.loads((tmp_path / "out" / "notebook.ipynb").read_text())
    assert 3000 < float(nb["cells"][0]["outputs"][0]["text"][0]) < 3600


def test_what_does_not_stop_by_itself_is_ended(
    write_notebook: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(execute, "GRACE_S", 0.5)
    monkeypatch.setenv(environment.STOP_AT.name, str(time.time() + 5))
    status = run_notebook(write_notebook("import time", "time.sleep(600)"), tmp_path / "out")
    assert (status.status, status.error.name) == ("stopped", "TimeIsUpError")
    assert status.seconds < 60


@pytest.mark.parametrize("time", ["8", "soon", "0m"])
def test_a_bad_time_is_refused(time: str, project: Path) -> None:  # noqa: F811
    for command in (["run", "00"], ["series"]):
        done = _invoke(*command, "--stop-after", time, code=2)
        assert "--stop-after" in done.stderr
        assert "8m, 90s or 1h30m" in done.stderr


def test_a_series_whose_time_is_up_begins_no_more(project: Path, monkeypatch) -> None:  # noqa: F811
    monkeypatch.setenv(environment.STOP_AT.name, "1")
    done = _invoke("series", "--preset", "smoke", "--name", "trial", code=3)
    assert done.stderr.count("not begun") == 3
    assert not list((project / "runs" / "trial").glob("*/status.json"))
    assert (project / "runs" / "trial" / "index.html").exists()


@pytest.mark.parametrize(("statuses", "code"), [("ok stopped", 3), ("ok", 3), ("ok failed", 1), ("failed stopped", 1)])
def test_a_batch_says_whether_it_was_stopped(statuses, code, write_notebook, tmp_path, monkeypatch) -> None:
    """The grid has four points: those that are not there have not begun."""

    def pretend(plan, points, *_) -> BatchOutcome:
        common = {"notebook": "own", "started": "", "cells": 1, "versions": {}, "commit": None}
        ended = zip(points, statuses.split(), strict=False)
        return BatchOutcome({point.hash: RunStatus(status=status, **common) for point, status in ended})

    monkeypatch.setattr(dask, "run_points", pretend)
    monkeypatch.setattr(environment, "stop_after", lambda _: monkeypatch.setenv(environment.STOP_AT.name, "1"))
    grid = tmp_path / "grid.yaml"
    grid.write_text(GRID.format(write_notebook("# Own", parameters="rate = 0.5\nseed = 0")))
    _invoke("batch", str(grid), "--out", str(tmp_path / "out"), "--stop-after", "8m", code=code)
    scheduler = ("--scheduler", "tcp://127.0.0.1:1")
    done = _invoke("batch", str(grid), "--out", str(tmp_path / "other"), "--stop-after", "8m", *scheduler, code=2)
    assert "none with a scheduler" in done.stderr


def test_a_worker_begins_no_point_once_the_time_is_up(ran, tmp_path, monkeypatch) -> None:  # noqa: F811
    grid = tmp_path / "grid.yaml"
    grid.write_text("{notebook: 04, preset: smoke, seeds: [0]}")
    task = planned(grid, location_at(tmp_path / "out"))
    monkeypatch.setenv(environment.STOP_AT.name, "1")
    assert run_point(task) is None
    monkeypatch.setenv(environment.STOP_AT.name, "")
    assert run_point(task).status == "ok"
    assert len(ran) == 1
