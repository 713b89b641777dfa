"""A worker that is frozen or dies, whenever it does, is a worker less: the batch goes on, and says so."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest
from benches import HANG_S, Bench, read_events
from processes import alive, until

STARTS_S = 60  # a batch plans, connects and waits for the silent no longer than this, on a busy machine


@contextmanager
def cluster(home: Path, workers: int) -> Iterator[tuple[str, list[subprocess.Popen]]]:
    """A scheduler and workers on loopback, all of them there: the address, and the processes in this order."""
    dask, file = [sys.executable, "-m", "dask"], home / "scheduler.json"
    common = ["--no-dashboard", "--host", "127.0.0.1", "--scheduler-file", str(file)]
    with (home / "dask.log").open("a") as log:
        commands = [[*dask, "scheduler", *common, "--port", "0"]]
        commands += [[*dask, "worker", *common, "--nthreads", "1", "--no-nanny"]] * workers
        processes = [subprocess.Popen(command, cwd=home, stdout=log, stderr=log) for command in commands]
    try:
        until(lambda: (home / "dask.log").read_text().count("Registered to:") >= workers, HANG_S)
        yield json.loads(file.read_text())["address"], processes
    finally:
        for process in processes:
            process.kill()
            process.wait()


def test_a_worker_that_is_frozen_before_the_start_leaves_the_points_to_the_other(bench: Bench) -> None:
    cases = [f"fine-{number}" for number in range(3)]
    with cluster(bench.home, 2) as (address, processes):
        processes[1].send_signal(signal.SIGSTOP)
        code, said = bench.run(bench.grid(*cases), "--scheduler", address)
        assert (code, "3 of 3 ok" in said) == (0, True), said
        assert "1 of 2 workers does not answer (tcp://127.0.0.1:" in said
        assert {worker for case in cases for _, worker in bench.begun(case)} == {processes[2].pid}


def test_where_all_workers_are_frozen_it_is_said_and_the_first_signal_ends_the_batch(bench: Bench) -> None:
    with cluster(bench.home, 1) as (address, processes):
        processes[1].send_signal(signal.SIGSTOP)
        process = bench.start(bench.grid("fine"), "--scheduler", address)
        until(
            lambda: bench.out.exists() and any("workers does" in e.get("why", "") for e in read_events(bench.out)),
            STARTS_S,
        )
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=STARTS_S)
        assert process.returncode == 1, errors
        assert "1 of 1 workers does not answer" in errors
        assert "stopped (SIGINT)" in errors
        assert "Traceback" not in errors
        processes[1].send_signal(signal.SIGCONT)  # it is a worker again, and takes the next batch's points
        code, said = bench.run(bench.grid("fine"), "--scheduler", address)
        assert (code, "1 of 1 ok" in said) == (0, True), said


def test_a_signal_while_the_workers_are_asked_ends_the_batch(bench: Bench) -> None:
    with cluster(bench.home, 1) as (address, processes):
        processes[1].send_signal(signal.SIGSTOP)
        process = bench.start(bench.grid("fine"), "--scheduler", address)
        until(lambda: (bench.out / ".holder.json").exists(), STARTS_S)
        time.sleep(3)  # somewhere in what it does with the cluster
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=STARTS_S)
        assert process.returncode == 1, errors
        assert "stopped (SIGINT)" in errors
        assert "Traceback" not in errors


def test_a_batch_that_is_stopped_asks_only_the_workers_that_are_heard_of(bench: Bench) -> None:
    with cluster(bench.home, 2) as (address, processes):
        process = bench.start(bench.grid("waits-1", "waits-2"), "--scheduler", address)
        until(lambda: bench.begun("waits-1") and bench.begun("waits-2"), HANG_S)
        processes[1].send_signal(signal.SIGSTOP)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=HANG_S)
        assert process.returncode == 1, errors
        assert "not waiting for workers that do not answer (tcp://127.0.0.1:" in errors, errors
        assert "stopped (SIGINT)" in errors
        assert "Traceback" not in errors
        assert "killed" in {status for status, _ in bench.states().values()}, "the one that is heard of was told"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize("seed", range(2))
def test_workers_that_end_while_a_batch_starts_are_workers_less(
    bench: Bench, number: signal.Signals, seed: int
) -> None:
    """At a moment of its own each: before it is connected to, while it is asked, when it has a point."""
    draw = random.Random(seed)
    with cluster(bench.home, 4) as (address, processes):
        process = bench.start(bench.grid("fine-1", "fine-2"), "--scheduler", address)
        until(lambda: (bench.out / ".holder.json").exists(), STARTS_S)
        for worker in processes[1:4]:
            time.sleep(draw.random())
            worker.send_signal(number)
        output, errors = process.communicate(timeout=HANG_S)
        assert process.returncode == 0, errors
        assert "2 of 2 ok" in output
        assert "Traceback" not in errors


@pytest.mark.parametrize("when", ["before", "during"])
def test_a_scheduler_that_is_frozen_is_named_and_a_signal_ends_the_batch(bench: Bench, when: str) -> None:
    with cluster(bench.home, 1) as (address, processes):
        if when == "before":
            processes[0].send_signal(signal.SIGSTOP)
            code, said = bench.run(bench.grid("waits"), "--scheduler", address)
            assert code == 2
            assert "does not answer like a Dask scheduler: it is of another kind, or frozen" in said
            return
        process = bench.start(bench.grid("waits"), "--scheduler", address)
        until(lambda: bench.begun("waits"), HANG_S)
        processes[0].send_signal(signal.SIGSTOP)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=HANG_S)
        assert process.returncode == 1, errors
        assert "stopped (SIGINT)" in errors
        assert "Traceback" not in errors


def test_a_process_of_this_machine_that_is_frozen_while_it_starts_does_not_outlive_the_batch(bench: Bench) -> None:
    process = bench.start(bench.grid("fine"), "--workers", "1")
    found: list[psutil.Process] = []

    def worker() -> bool:
        with suppress(psutil.Error):
            below = psutil.Process(process.pid).children(recursive=True)
            found[:] = [child for child in below if "spawn_main" in " ".join(child.cmdline())]
        return bool(found)

    until(worker, STARTS_S)
    found[0].suspend()
    os.kill(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=HANG_S)
    assert process.returncode == 1, errors
    assert "stopped (SIGINT)" in errors
    assert "Traceback" not in errors
    until(lambda: not alive(found[0].pid), STARTS_S)
