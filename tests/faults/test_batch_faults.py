"""A batch with real processes: whatever dies in the middle, the same command again finishes it and loses nothing."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from processes import alive, until

from pwl_lab.batch import engine
from pwl_lab.batch.gridplan import plan_grid
from pwl_lab.batch.points import point_folder, read_events, read_states
from pwl_lab.errors import InvalidValueError

COMMAND = str(Path(sys.executable).with_name("pwl-lab"))
HANG_S = 150

# What a point does stands in its parameter; the file `repaired` mends every fault.
CASES = """
import json, os, resource, time
from pathlib import Path
out, home = Path(os.environ["PWL_LAB_OUT"]), Path(os.getcwd())
with (home / "log").open("a") as log:
    log.write(f"{case} {os.getpid()} {os.getppid()}\\n")
def wait():
    end = time.monotonic() + 140
    while not (home / "go").exists() and time.monotonic() < end:
        time.sleep(0.05)
if (home / "repaired").exists():
    case = "fine"
"""
ACT = """
if case == "raises":
    raise KeyError("no such layer")
if case == "hangs":
    time.sleep(600)
if case == "memory":
    resource.setrlimit(resource.RLIMIT_AS, (2**33, 2**33))
    bytes(2**34)
if case == "killed":
    os.kill(os.getpid(), 9)
if case == "disk":
    with Path("/dev/full").open("w") as full:
        full.write("x" * 100_000)
if case.startswith("waits"):
    wait()
if case == "murders" and not (home / "repaired").exists():
    os.kill(os.getppid(), 9)
    wait()
"""
WIDGET = """
from ipywidgets import interact, IntSlider
def show(x):
    if case == "widget":
        raise ValueError("three is refused")
interact(show, x=IntSlider(3));
"""


class Bench:
    """A batch of points that do what they are told, in a folder of its own."""

    def __init__(self, home: Path, notebook: Path) -> None:
        self.home, self.notebook, self.out, self.started = home, notebook, home / "out", []

    def grid(self, *cases: object, **more: object) -> Path:
        path = self.home / "grid.yaml"
        path.write_text(json.dumps({"notebook": str(self.notebook), "axes": [{"product": {"case": cases}}], **more}))
        return path

    def start(self, grid: Path, *words: str) -> subprocess.Popen:
        self.started.append(
            subprocess.Popen(
                [COMMAND, "batch", grid, "--out", self.out, *words],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
        )
        return self.started[-1]

    def run(self, grid: Path, *words: str) -> tuple[int, str]:
        process = self.start(grid, *words)
        output, errors = process.communicate(timeout=HANG_S)
        return process.returncode, output + errors

    def states(self) -> dict[str, tuple[str, str | None]]:
        return {
            state.values["case"]: (state.status, state.error and state.error.name) for state in read_states(self.out)
        }

    def place(self, case: str) -> Path:
        return next(
            point_folder(self.out, state.hash) for state in read_states(self.out) if state.values["case"] == case
        )

    def begun(self, case: str) -> list[tuple[int, int]]:
        """The kernel and the worker of each time that this point began."""
        log = self.home / "log"
        lines = [line.split() for line in log.read_text().splitlines()] if log.exists() else []
        return [(int(line[-2]), int(line[-1])) for line in lines if line[0] == case]

    def go(self) -> None:
        (self.home / "go").touch()

    def kernels(self) -> list[int]:
        log = self.home / "log"
        return [int(line.split()[-2]) for line in log.read_text().splitlines()] if log.exists() else []


@pytest.fixture
def bench(tmp_path: Path, write_notebook: Callable[..., Path], monkeypatch) -> Iterator[Bench]:
    """A bench; afterwards nothing that it started still runs."""
    monkeypatch.setenv("PWL_LAB_RUNS", str(tmp_path / "runs"))
    notebook = write_notebook("# Cases", CASES, ACT, WIDGET, name="cases", parameters='case = "fine"')
    made = Bench(tmp_path, notebook)
    yield made
    for process in made.started:
        if process.poll() is None:
            process.kill()
            process.communicate()
    until(lambda: not any(map(alive, made.kernels())), 20)


def test_every_fault_has_its_true_reason_and_is_mended_by_the_same_command(bench: Bench) -> None:
    grid = bench.grid("fine", "raises", "hangs", "memory", "killed", "disk", "widget", timeout=10)
    code, said = bench.run(grid, "--workers", "3")
    assert code == 1, said
    assert bench.states() == {
        "fine": ("ok", None),
        "raises": ("failed", "KeyError"),
        "hangs": ("timeout", "CellTimeoutError"),
        "memory": ("failed", "MemoryError"),
        "killed": ("killed", "DeadKernelError"),
        "disk": ("failed", "OSError"),
        "widget": ("failed", "ValueError"),
    }
    assert "1 of 7 ok, 4 failed, 1 killed, 1 timeout" in said
    assert [event["event"] for event in read_events(bench.place("hangs"))] == ["begun", "ended"]
    (bench.place("raises") / "status.json").write_text('{"status": "o')
    (bench.home / "repaired").touch()
    code, said = bench.run(grid, "--workers", "3")
    assert code == 0, said
    assert "7 of 7 ok" in said
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


def test_a_point_that_kills_its_workers_is_called_so(bench: Bench) -> None:
    grid = bench.grid("fine", "murders")
    code, said = bench.run(grid, "--workers", "1")
    assert code == 1, said
    assert bench.states() == {"fine": ("ok", None), "murders": ("killed", "KilledWorker")}
    assert len(bench.begun("murders")) == 4
    assert "4 workers died while they ran this point" in said


def test_a_batch_that_is_killed_outright_leaves_nothing_running_and_resumes(bench: Bench) -> None:
    grid = bench.grid("fine", "waits")
    process = bench.start(grid, "--workers", "2")
    until(lambda: len(bench.begun("waits")) == 1 and _done(bench, "fine"), HANG_S)
    below = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.communicate()
    until(lambda: not any(alive(child.pid) for child in below), 30)
    assert bench.states() == {"fine": ("ok", None), "waits": ("cut off", None)}
    bench.go()
    code, said = bench.run(grid, "--workers", "2")
    assert (code, "2 of 2 ok" in said) == (0, True), said
    assert len(bench.begun("fine")) == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_batch_that_is_told_to_stop_ends_what_runs_and_resumes(bench: Bench, number: signal.Signals) -> None:
    grid = bench.grid("waits", "waits too", "waits as well")
    process = bench.start(grid, "--workers", "2")
    until(lambda: len(bench.begun("waits")) == 2, HANG_S)
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
    states = bench.states()
    assert sorted(states.values(), key=str) == [("killed", number.name)] * 2 + [("waiting", None)]
    bench.go()
    code, said = bench.run(grid, "--workers", "2")
    assert (code, "3 of 3 ok" in said) == (0, True), said


def _done(bench: Bench, case: str) -> bool:
    return bench.states()[case][0] == "ok"


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
        until(file.exists, HANG_S)
        yield json.loads(file.read_text())["address"], processes
    finally:
        for process in processes:
            process.kill()
            process.wait()


def test_a_cluster_started_by_hand_loses_nothing_with_one_of_its_workers(bench: Bench) -> None:
    grid = bench.grid("fine", "waits")
    with cluster(bench.home, 2) as (address, processes):
        batch = bench.start(grid, "--scheduler", address)
        until(lambda: len(bench.begun("waits")) == 1, HANG_S)
        kernel, lost = bench.begun("waits")[0]
        assert lost in [process.pid for process in processes]
        os.kill(lost, signal.SIGKILL)
        until(lambda: not alive(kernel), 20)
        until(lambda: len(bench.begun("waits")) == 2, HANG_S)
        # The batch itself is killed now: the worker that is left must not go on for nobody.
        batch.kill()
        batch.communicate()
        until(lambda: not alive(bench.begun("waits")[1][0]), 30)
        bench.go()
        code, said = bench.run(grid, "--scheduler", address)
        assert (code, "2 of 2 ok" in said) == (0, True), said
        assert len(bench.begun("fine")) == 1
        assert len(bench.begun("waits")) == 3


def test_a_scheduler_that_is_lost_stops_the_batch_and_the_kernels(bench: Bench) -> None:
    grid = bench.grid("waits")
    with cluster(bench.home, 1) as (address, processes):
        batch = bench.start(grid, "--scheduler", address)
        until(lambda: len(bench.begun("waits")) == 1, HANG_S)
        processes[0].kill()
        _, errors = batch.communicate(timeout=HANG_S)
        assert batch.returncode == 1
        assert "stopped (the scheduler is gone)" in errors
        assert "Traceback" not in errors, errors
        until(lambda: not any(map(alive, bench.kernels())), 30)
    bench.go()
    code, said = bench.run(grid, "--workers", "1")
    assert (code, "1 of 1 ok" in said) == (0, True), said


def test_a_scheduler_that_does_not_answer_is_refused(bench: Bench, monkeypatch) -> None:
    monkeypatch.setattr(engine, "CONNECT_S", 1)
    plan = plan_grid(bench.grid("fine"))
    with pytest.raises(InvalidValueError, match=r"scheduler = 'tcp://127\.0\.0\.1:9' is not allowed"):
        engine.run_points(plan, plan.points, bench.home, scheduler="tcp://127.0.0.1:9")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_disk_that_is_full_is_said_and_costs_nothing_that_was_done(bench: Bench) -> None:
    grid = bench.grid("fine", "also fine")
    plan = plan_grid(grid)
    place = point_folder(bench.out, plan.points[1].hash)
    place.mkdir(parents=True)
    (place / "events.jsonl").symlink_to("/dev/full")
    code, said = bench.run(grid, "--workers", "1")
    assert code == 1
    assert "OSError: [Errno 28] No space left on device" in said
    assert bench.states() == {"fine": ("ok", None), "also fine": ("failed", "OSError")}
    (place / "events.jsonl").unlink()
    (bench.out / "events.jsonl").unlink()
    (bench.out / "events.jsonl").symlink_to("/dev/full")
    code, said = bench.run(grid, "--workers", "1")
    assert code == 1
    assert "stopped (OSError: [Errno 28] No space left on device)" in said
    assert "Traceback" not in said
    (bench.out / "events.jsonl").unlink()
    code, said = bench.run(grid, "--workers", "1")
    assert (code, "2 of 2 ok" in said) == (0, True), said
    assert len(bench.begun("fine")) == 1


TEACHER = """
import os, time, torch
from pathlib import Path
from pwl_lab.store import Artifact, Recipe, Store
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
    grid = bench.grid(*range(3))
    code, said = bench.run(grid, "--workers", "3")
    assert code == 0, said
    assert (tmp_path / "made").read_text().split() == ["made"]
    (entry,) = (tmp_path / "runs" / "store" / "teacher").iterdir()
    (entry / "tensors.safetensors").write_bytes(b"short")
    code, said = bench.run(grid, "--workers", "2", "--force")
    assert code == 0, said
    assert (tmp_path / "made").read_text().split() == ["made", "made"]
    assert len(list((tmp_path / "runs" / "store" / "damaged").iterdir())) == 1
