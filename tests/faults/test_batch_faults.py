"""A batch with real processes: whatever dies in the middle, the same command again finishes it and loses nothing."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest
from benches import HANG_S, Bench, point_folder, read_events
from processes import alive, until
from typer.testing import CliRunner

from pwl_lab.cli import app
from pwl_lab.runner import clusters
from pwl_lab.runner import clusters as reaching
from pwl_lab.runner import dask as engine
from pwl_lab.runner.grid import plan_grid
from pwl_lab.runner.location import location_at
from pwl_lab.support.errors import InvalidValueError

FULL = Path("/dev/full")


@pytest.mark.skipif(not FULL.exists(), reason="no device that is always full")
def test_every_fault_has_its_true_reason_and_is_mended_by_the_same_command(bench: Bench) -> None:
    grid = bench.grid("hangs", "fine", "raises", "memory", "killed", "disk", "widget", "full", timeout=8)
    full = point_folder(bench.out, plan_grid(grid).points[-1].hash)  # where even the point's own files find no room
    full.mkdir(parents=True)
    (full / "events.jsonl").symlink_to(FULL)
    code, said = bench.run(grid, "--workers", "2")
    assert code == 1, said
    assert bench.states() == {
        "fine": ("ok", None),
        "raises": ("failed", "KeyError"),
        "hangs": ("timeout", "CellTimeoutError"),
        "memory": ("failed", "MemoryError"),
        "killed": ("killed", "DeadKernelError"),
        "disk": ("failed", "OSError"),
        "widget": ("failed", "ValueError"),
        "full": ("failed", "OSError"),
    }
    assert "1 of 8 ok, 5 failed, 1 killed, 1 timeout" in said
    assert "OSError: [Errno 28] No space left on device" in said
    assert [event["event"] for event in read_events(bench.place("hangs"))] == ["begun", "ended"]
    (full / "events.jsonl").unlink()
    (bench.place("raises") / "status.json").write_text('{"status": "o')
    (bench.home / "repaired").touch()
    code, said = bench.run(grid, "--workers", "2")
    assert code == 0, said
    assert "8 of 8 ok" in said
    assert len(bench.begun("fine")) == 1, "a finished point is not run again"
    assert {len(bench.begun(case)) for case in ("raises", "hangs", "disk")} == {2}
    assert not any(map(alive, bench.kernels()))


def test_a_worker_that_is_killed_costs_one_attempt(bench: Bench) -> None:
    process = bench.start(bench.grid("fine", "waits"), "--workers", "2")
    until(lambda: len(bench.begun("waits")) == 1, HANG_S)
    kernel, worker = bench.begun("waits")[0]
    os.kill(worker, signal.SIGKILL)
    until(lambda: not alive(kernel), 20)
    until(lambda: len(bench.begun("waits")) == 2, HANG_S)
    bench.go()
    output, errors = process.communicate(timeout=HANG_S)
    assert process.returncode == 0, errors
    assert "2 of 2 ok" in output
    assert len(bench.begun("fine")) == 1
    assert [event["event"] for event in read_events(bench.place("waits"))] == ["begun", "begun", "ended"]


def test_a_point_that_kills_its_workers_is_called_so(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clusters, "ALLOWED_FAILURES", 1)
    grid = bench.grid("fine", "murders")
    done = CliRunner().invoke(app, ["batch", str(grid), "--out", str(bench.out), "--workers", "1"])
    assert done.exit_code == 1, done.output
    assert bench.states() == {"fine": ("ok", None), "murders": ("killed", "KilledWorker")}
    assert len(bench.begun("murders")) == 2
    assert "2 workers died while they ran this point" in done.stderr


def test_a_batch_that_is_killed_outright_leaves_nothing_running_and_resumes(bench: Bench) -> None:
    grid = bench.grid("fine", "waits")
    process = bench.start(grid, "--workers", "2")
    until(lambda: len(bench.begun("waits")) == 1 and bench.done("fine"), HANG_S)
    below = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.communicate()
    until(lambda: not any(alive(child.pid) for child in below), 30)
    assert bench.states() == {"fine": ("ok", None), "waits": ("cut off", None)}
    bench.go()
    code, said = bench.run(grid, "--workers", "2")
    assert (code, "2 of 2 ok" in said) == (0, True), said
    assert len(bench.begun("fine")) == 1
    assert not (bench.out / ".dask").exists(), "what the killed one left of Dask's own"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_batch_that_is_told_to_stop_ends_what_runs_and_resumes(bench: Bench, number: signal.Signals) -> None:
    grid = bench.grid("waits", "waits too")
    process = bench.start(grid, "--workers", "1")
    until(lambda: len(bench.begun("waits")) == 1, HANG_S)
    code, said = bench.run(grid)
    assert code == 2
    assert f"another batch (process {process.pid} on " in said
    below = psutil.Process(process.pid).children(recursive=True)
    if number == signal.SIGINT:
        os.killpg(process.pid, number)  # as a terminal does, to all of its processes
    else:
        process.send_signal(number)
    _, errors = process.communicate(timeout=HANG_S)
    assert process.returncode == 1, errors
    assert f"stopped ({number.name})" in errors
    assert "Traceback" not in errors
    until(lambda: not any(alive(child.pid) for child in below))
    assert bench.states() == {"waits": ("killed", number.name), "waits too": ("waiting", None)}
    if number == signal.SIGINT:  # the state is the same after the other
        bench.go()
        code, said = bench.run(grid, "--workers", "1")
        assert (code, "2 of 2 ok" in said) == (0, True), said


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_batch_that_is_told_to_stop_while_its_workers_start(bench: Bench, number: signal.Signals) -> None:
    process = bench.start(bench.grid("waits"), "--workers", "1")
    until(lambda: any("spawn_main" in words for words in _commands_below(process.pid)), HANG_S)
    below = psutil.Process(process.pid).children(recursive=True)
    os.killpg(process.pid, number)
    output, errors = process.communicate(timeout=HANG_S)
    assert process.returncode == 1, errors
    assert f"stopped ({number.name})" in errors
    assert "Traceback" not in errors, errors
    assert "0 of 1 ok, 1 waiting" in output
    until(lambda: not any(alive(child.pid) for child in below))


def _commands_below(number: int) -> list[str]:
    """The command of each process that this one started, as one text."""
    found = []
    for child in psutil.Process(number).children(recursive=True):
        with suppress(psutil.Error):
            found.append(" ".join(child.cmdline()))
    return found


@contextmanager
def cluster(home: Path, workers: int) -> Iterator[tuple[str, list[subprocess.Popen]]]:
    """A Dask scheduler and its workers on loopback, started by hand: its address, and the processes in this order."""
    dask, file = [sys.executable, "-m", "dask"], home / "scheduler.json"
    common = ["--no-dashboard", "--host", "127.0.0.1", "--scheduler-file", str(file)]
    with (home / "dask.log").open("a") as log:
        commands = [[*dask, "scheduler", *common, "--port", "0"]]
        commands += [[*dask, "worker", *common, "--nthreads", "1", "--no-nanny"]] * workers
        processes = [subprocess.Popen(command, cwd=home, stdout=log, stderr=log) for command in commands]
    try:
        until(lambda: file.exists() and file.read_text(), HANG_S)  # Dask does not write it in one piece
        yield json.loads(file.read_text())["address"], processes
    finally:
        for process in processes:
            process.kill()
            process.wait()


def test_a_cluster_started_by_hand_loses_nothing_whatever_is_lost_of_it(bench: Bench) -> None:
    grid = bench.grid("fine", "waits")
    with cluster(bench.home, 3) as (address, processes):
        batch = bench.start(grid, "--scheduler", address)
        # One of its workers is killed, the next one closed in good order: each time another one takes the point.
        for attempt, number in enumerate((signal.SIGKILL, signal.SIGTERM)):
            until(lambda count=attempt + 1: len(bench.begun("waits")) == count, HANG_S)
            kernel, worker = bench.begun("waits")[attempt]
            assert worker in [process.pid for process in processes]
            os.kill(worker, number)
            until(lambda lost=kernel: not alive(lost), 20)
        until(lambda: len(bench.begun("waits")) == 3 and bench.done("fine"), HANG_S)
        # The batch itself is killed now: the worker that is left must not go on for nobody.
        batch.kill()
        batch.communicate()
        until(lambda: not alive(bench.begun("waits")[2][0]), 30)
        # Another one goes on from there, and loses the scheduler.
        batch = bench.start(grid, "--scheduler", address)
        until(lambda: len(bench.begun("waits")) == 4, HANG_S)
        processes[0].kill()
        _, errors = batch.communicate(timeout=HANG_S)
        assert batch.returncode == 1
        assert "stopped (the scheduler is gone)" in errors
        assert "Traceback" not in errors, errors
        until(lambda: not any(map(alive, bench.kernels())), 30)
    bench.go()
    code, said = bench.run(grid, "--workers", "1")
    assert (code, "2 of 2 ok" in said) == (0, True), said
    assert (len(bench.begun("fine")), len(bench.begun("waits"))) == (1, 5)


def test_a_scheduler_that_does_not_answer_is_refused(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reaching, "CONNECT_S", 1)
    plan = plan_grid(bench.grid("fine"))
    with pytest.raises(InvalidValueError, match=r"scheduler = 'tcp://127\.0\.0\.1:9' is not allowed"):
        engine.run_points(plan, plan.points, location_at(bench.home), scheduler="tcp://127.0.0.1:9")


@pytest.mark.skipif(not FULL.exists(), reason="no device that is always full")
def test_a_disk_that_is_full_stops_the_batch_and_is_said(bench: Bench) -> None:
    grid = bench.grid("fine")
    bench.out.mkdir()
    (bench.out / "events.jsonl").symlink_to(FULL)
    done = CliRunner().invoke(app, ["batch", str(grid), "--out", str(bench.out), "--workers", "1"])
    assert done.exit_code == 1, done.output
    assert "stopped (OSError: [Errno 28] No space left on device)" in done.stderr
    assert bench.states() == {"fine": ("waiting", None)}


TEACHER = """
import os, time, torch
from pathlib import Path
from pwl_lab.study.store import Artifact, Recipe, Store
def make():
    time.sleep(1)
    with Path("made").open("a") as log:
        log.write("made\\n")
    return Artifact(tensors={"weights": torch.ones(3)})
weights = Store().get(Recipe("teacher", 1, {"bits": 5}), make).tensors["weights"]
assert weights.sum() == 3
"""


def test_a_teacher_that_all_points_need_is_made_once_and_again_when_it_is_damaged(
    bench: Bench, write_notebook, tmp_path: Path
) -> None:
    bench.notebook = write_notebook("# Shared", TEACHER, name="shared", parameters="case = 1")
    grid = bench.grid(*range(2))
    code, said = bench.run(grid, "--workers", "2")
    assert code == 0, said
    assert (tmp_path / "made").read_text().split() == ["made"]
    (entry,) = (tmp_path / "runs" / "store" / "teacher").iterdir()
    (entry / "tensors.safetensors").write_bytes(b"short")
    code, said = bench.run(grid, "--workers", "1", "--force", "--only", "case=1")
    assert code == 0, said
    assert (tmp_path / "made").read_text().split() == ["made", "made"]
    assert len(list((tmp_path / "runs" / "store" / "damaged").iterdir())) == 1
