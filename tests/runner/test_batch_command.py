"""`pwl-lab batch` and `pwl-lab status`, with a runner that only pretends."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from pwl_lab.cli import app
from pwl_lab.runner import dask, worker
from pwl_lab.runner.batch import Reporter
from pwl_lab.runner.dask import BatchOutcome
from pwl_lab.runner.kernel import Runs
from pwl_lab.runner.points import BatchPlan, Point
from pwl_lab.runner.run_folder import RunError, RunStatus, write_status
from pwl_lab.runner.worker import PointTask

GRID = "notebook: {}\naxes: [product: {{rate: [1, 2]}}]\nseeds: [0, 1]\n"


@pytest.fixture
def grid(tmp_path: Path, write_notebook, monkeypatch) -> Path:
    """A grid of four points; its points fail where the rate is 2."""
    monkeypatch.setattr(dask, "run_points", pretend)
    path = tmp_path / "grid.yaml"
    path.write_text(GRID.format(write_notebook("# Own", parameters="rate = 0.5\nseed = 0")))
    return path


def pretend(plan, points, place, workers, scheduler, force, on_end, on_line) -> BatchOutcome:
    """A stub of `run_points`: leaves a status for each point and runs nothing."""
    outcome = BatchOutcome()
    for point in points:
        bad = point.values["rate"] == 2
        error = RunError(name="KeyError", message="no such layer\nmore", traceback="long") if bad else None
        status = RunStatus(
            status="failed" if bad else "ok",
            notebook="own.ipynb",
            cell=3 if bad else None,
            error=error,
            started="",
            seconds=30,
            cells=4,
            versions={},
            commit=None,
        )
        folder = place.point(point.hash)
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("notebook.ipynb", "params.json"):
            (folder / name).write_text("{}")
        write_status(folder, status)
        outcome.ended[point.hash] = status
        on_end(point, status, 2)
    return outcome


def invoke(*words: object):
    return CliRunner().invoke(app, list(map(str, words)), catch_exceptions=False)


def test_a_dry_run_shows_the_points_and_writes_nothing(grid: Path, tmp_path: Path) -> None:
    done = invoke("batch", grid, "--out", tmp_path / "out", "--dry-run")
    assert done.exit_code == 0
    lines = done.stdout.splitlines()
    assert [line.partition("  ")[2] for line in lines[:4]] == [f"rate={r} seed={s}" for r in (1, 2) for s in (0, 1)]
    assert lines[4] == "4 points of own, 4 to do; no time estimate, because there is no earlier run"
    assert not (tmp_path / "out").exists()


def test_a_batch_says_how_each_point_ended_and_the_next_does_the_rest(grid: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = invoke("batch", grid, "--out", out, "--workers", 2)
    assert done.exit_code == 1
    assert done.stdout.splitlines()[-1] == f"{out}: 2 of 4 ok, 2 failed"
    assert "[1/4] ok" in done.stderr
    assert "KeyError: no such layer" in done.stderr
    again = invoke("batch", grid, "--out", out, "--dry-run", "--workers", 2)
    assert "2 to do; about 0.5 min on 2 workers (30 s per point, the median of 2 earlier points)" in again.stdout
    assert "rate=1" not in again.stdout
    assert "0 to do" in invoke("batch", grid, "--out", out, "--only", "rate=1", "--dry-run").stdout
    assert "4 to do" in invoke("batch", grid, "--out", out, "--force", "--dry-run").stdout
    only = invoke("batch", grid, "--out", out, "--only", "rate=1", "--force")
    assert only.exit_code == 0, "what was asked for went well"


def test_finished_points_that_the_grid_does_not_mean_any_more_are_spoken_of(
    grid: Path, tmp_path: Path, write_notebook
) -> None:
    """A typo mended in a text is a new notebook: nobody should wonder why all is to do again."""
    out = tmp_path / "out"
    invoke("batch", grid, "--out", out)
    write_notebook("# Own, mended", parameters="rate = 0.5\nseed = 0")
    said = invoke("batch", grid, "--out", out, "--dry-run").stdout
    assert (
        "4 to do (2 finished points here belong to another notebook, parameters or version); no time estimate" in said
    )
    invoke("batch", grid, "--out", out, "--only", "rate=1", "--only", "seed=0")
    write_notebook("# Own", parameters="rate = 0.5\nseed = 0")
    said = invoke("batch", grid, "--out", out, "--dry-run").stdout
    assert "2 to do (1 finished point here belongs to another" in said


def test_status_is_a_table_or_json(grid: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    invoke("batch", grid, "--out", out)
    done = invoke("status", out)
    assert done.exit_code == 0
    assert done.stdout.splitlines()[-1] == "2 of 4 ok, 2 failed"
    assert "rate=2 seed=1  cell 3: KeyError: no such layer\n" in done.stdout
    rows = json.loads(invoke("status", out, "--json").stdout)
    assert [(row["values"]["rate"], row["status"]) for row in rows] == [(1, "ok")] * 2 + [(2, "failed")] * 2
    assert rows[2]["error"] == {"name": "KeyError", "message": "no such layer\nmore"}
    assert "2 of 4 ok" in invoke("status", out, "--watch").stdout, "nothing is at work: it looks once"


WITHOUT_TORCH = """
import sys
from typer.testing import CliRunner
from pwl_lab.cli import app
grid, out = sys.argv[1:]
for words in (["batch", grid, "--out", out, "--only", "rate=1"], ["batch", grid, "--out", out, "--dry-run"], ["status", out]):
    done = CliRunner().invoke(app, words, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    heavy = {"torch", "distributed", "fsspec", "pandas"} & set(sys.modules)
    assert not heavy, (words, heavy)
"""


def test_a_batch_that_is_done_and_a_look_at_it_need_neither_torch_nor_dask(grid: Path, tmp_path: Path) -> None:
    invoke("batch", grid, "--out", tmp_path / "out")
    for path in (grid, *(Path(__file__).resolve().parents[2] / "presets" / "grids").glob("*.yaml")):
        words = WITHOUT_TORCH if path == grid else WITHOUT_TORCH.replace('"--only", "rate=1"', '"--dry-run"')
        command = [sys.executable, "-c", words, path, tmp_path / "out"]
        own = os.environ | {"PWL_LAB_DEVICE": "cpu"}  # where there may be a GPU, only torch knows
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=own)
        assert done.returncode == 0, done.stderr


def test_the_minutes_that_are_left_are_those_of_all_workers() -> None:
    lines: list[str] = []
    report = Reporter(13, lines.append)
    point = Point("0123456789abc", {"rate": 1}, {})
    ended = RunStatus(status="ok", notebook="own", started="", seconds=60, cells=1, versions={}, commit=None)
    report(point, ended, 4)
    assert lines == ["[1/13] ok 01234567 rate=1 (60 s, about 3.0 min left)"]
    report(point, ended.model_copy(update={"seconds": 180.0}), 4)
    assert lines[1].endswith("(180 s, about 5.5 min left)")


class Cluster:
    """A client whose scheduler takes back everything it is given, or whose workers are closed."""

    def __init__(self, answer: str) -> None:
        self.status, self.answer, self.submitted = "running", answer, []

    def scheduler_info(self, n_workers: int) -> dict:
        return {"workers": {}}

    def submit(self, work, task: PointTask, key: str, **_) -> SimpleNamespace:
        self.submitted.append(key)
        stopped = RunError(name=worker.CANCELLED, message="stopped")
        status = RunStatus(status="killed", notebook="", error=stopped, started="", cells=0, versions={}, commit=None)
        return SimpleNamespace(key=key, status=self.answer, result=lambda: status, add_done_callback=lambda take: None)


@pytest.mark.parametrize(("answer", "ended"), [("cancelled", "failed"), ("lost", "failed"), ("finished", "killed")])
def test_what_the_scheduler_takes_back_is_handed_out_again_and_not_for_ever(
    tmp_path: Path, answer: str, ended: str
) -> None:
    cluster = Cluster(answer)
    run = dask._BatchRun(cluster, "b", tmp_path, {}, Runs())
    task = PointTask("b", BatchPlan(Path("n"), "s", None, None, {}, ()), Point("h", {}, {}), str(tmp_path))
    run.submit([task])
    for _ in range(10):
        for _, future in list(run.waiting.values()):
            run._take(future)
    assert len(cluster.submitted) == len(set(cluster.submitted)) == dask.SUBMISSIONS
    assert (run.outcome.ended["h"].status, run.outcome.ended["h"].error.name) == (ended, worker.CANCELLED)
    assert run.outcome.stopped_by is None
    cluster.status = "connecting"
    run.submit([task])
    if answer != "finished":
        run._take(next(iter(run.waiting.values()))[1])
        assert run.outcome.stopped_by == "the scheduler is gone"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--workers", "0"), "workers = 0 is not allowed: a whole number from 1"),
        (("--workers", "2", "--scheduler", "tcp://x:1"), "none with a scheduler"),
        (("--only", "rat=1"), "Did you mean 'rate'?"),
        (("--force", "--retry-failed"), "--force and --retry-failed are not allowed together"),
    ],
)
def test_what_is_refused(grid: Path, tmp_path: Path, words: tuple[str, ...], said: str) -> None:
    done = invoke("batch", grid, "--out", tmp_path / "out", *words)
    assert done.exit_code == 2
    assert said in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_folder_without_a_batch_is_refused(tmp_path: Path) -> None:
    done = invoke("status", tmp_path)
    assert done.exit_code == 2
    assert "there is no batch" in done.stderr


def test_the_examples_are_good_grids(tmp_path: Path) -> None:
    examples = sorted((Path(__file__).resolve().parents[2] / "presets" / "grids").glob("*.yaml"))
    assert {"curricula", "loading", "language"} <= {path.stem for path in examples}
    for path in examples:
        done = invoke("batch", path, "--out", tmp_path / "out", "--dry-run")
        assert done.exit_code == 0, done.output
