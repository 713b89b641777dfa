"""Trainings side by side: the same results in the same order, one thread each, and nobody left behind."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pytest
import torch
from toys import MLP_STUDENT, MLP_TEACHER

from pwl_lab import parallel, progress, study
from pwl_lab.errors import InvalidValueError
from pwl_lab.parallel import WorkerLostError, n_workers, one_thread, side_by_side
from pwl_lab.plan import TrainPlan
from pwl_lab.store import NotMadeError, Store, may_make, only_stored, stored
from pwl_lab.tasks.parity import SparseParity

PARITY = SparseParity(n_bits=6, k_sparse=2, eval_samples=200)
PLAN = TrainPlan(steps=20, batch_size=8, eval_every=10, lr=0.3)
PATIENCE_S = 120  # a guard against hanging, however busy the machine is


@pytest.fixture(autouse=True)
def two_workers(monkeypatch):
    monkeypatch.setenv("PWL_LAB_WORKERS", "2")


def where(number: int) -> tuple[int, int, int]:
    """Runs in a worker: which case, which process, how many threads."""
    with progress.Progress("case", 10) as bar:
        bar.advance(10)
    return number, os.getpid(), torch.get_num_threads()


def told(name: str) -> tuple[str | None, str]:
    """Runs in a worker: what its environment says, and how it was made."""
    return os.environ.get(name), " ".join(psutil.Process().cmdline())


def refuse(number: int) -> int:
    if number == 1:
        raise InvalidValueError("case 1 is not allowed")
    time.sleep(PATIENCE_S)  # ended by the refusal, long before
    return number


def vanish(number: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_results_come_in_the_order_of_the_cases_from_other_processes_with_one_thread():
    found = side_by_side(where, [{"number": number} for number in (3, 1, 2)], "cases")
    assert [number for number, _, _ in found] == [3, 1, 2]
    assert os.getpid() not in {process for _, process, _ in found}
    assert {threads for _, _, threads in found} == {1}


def test_one_case_stays_in_this_process():
    assert side_by_side(where, [{"number": 7}], "case")[0][1] == os.getpid()


def test_workers_have_the_environment_of_now_however_often_it_changes(monkeypatch, tmp_path):
    cases = [{"name": "TOLD"}] * 2
    for value in ("first", "second"):
        monkeypatch.setenv("TOLD", value)
        assert {found[0] for found in side_by_side(told, cases, "cases")} == {value}
    monkeypatch.delenv("TOLD")
    found = side_by_side(told, cases, "cases")
    assert found[0][0] is None
    assert "forkserver" in found[0][1]
    # sockets do not fit under a temporary folder with a long name
    deep = tmp_path / ("d" * 90)
    deep.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(deep))
    assert "spawn_main" in side_by_side(told, cases, "cases")[0][1]


def test_a_refusal_ends_the_others_and_is_raised_here():
    begun = time.monotonic()
    with pytest.raises(InvalidValueError, match="case 1 is not allowed"):
        side_by_side(refuse, [{"number": 0}, {"number": 1}], "cases")
    assert time.monotonic() - begun < PATIENCE_S
    assert_no_workers()


def test_a_killed_worker_is_named_and_what_to_do():
    with pytest.raises(WorkerLostError, match="PWL_LAB_WORKERS=1"):
        side_by_side(vanish, [{"number": 0}, {"number": 1}], "cases")
    assert_no_workers()


def assert_no_workers() -> None:
    """No worker of this process is left (multiprocessing's own server and resource tracker may be)."""
    end = time.monotonic() + PATIENCE_S
    while workers := [c for c in psutil.Process().children(recursive=True) if _is_worker(c)]:
        assert time.monotonic() < end, workers
        time.sleep(0.05)


def _is_worker(process: psutil.Process) -> bool:
    try:
        words, parent = " ".join(process.cmdline()), " ".join(process.parent().cmdline())
        forked = "forkserver" in words and "forkserver" in parent
        return process.status() != psutil.STATUS_ZOMBIE and (forked or "spawn_main" in words)
    except psutil.NoSuchProcess:
        return False


PARENT = """
import sys, time
sys.path.insert(0, {folder!r})
from pwl_lab.parallel import side_by_side
from test_parallel import linger
if __name__ == "__main__":
    side_by_side(linger, [{{"folder": {mark!r}, "number": n}} for n in (0, 1)], "cases")
"""


def linger(folder: str, number: int) -> None:
    (Path(folder) / str(os.getpid())).touch()
    time.sleep(PATIENCE_S)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_workers_end_when_their_parent_does(how, tmp_path):
    script, marks = tmp_path / "parent.py", tmp_path / "marks"
    marks.mkdir()
    script.write_text(PARENT.format(folder=str(Path(__file__).parent), mark=str(marks)))
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])}
    parent = subprocess.Popen([sys.executable, str(script)], stderr=subprocess.DEVNULL, env=environment)
    try:
        end = time.monotonic() + PATIENCE_S
        while len(list(marks.iterdir())) < 2:
            assert time.monotonic() < end
            assert parent.poll() is None
            time.sleep(0.05)
        workers = [int(mark.name) for mark in marks.iterdir()]
        parent.send_signal(how)
        parent.wait(PATIENCE_S)
        while any(psutil.pid_exists(worker) and _is_worker(psutil.Process(worker)) for worker in workers):
            assert time.monotonic() < end
            time.sleep(0.05)
    finally:
        parent.kill()


def test_how_many_workers(monkeypatch):
    assert n_workers() == 2
    monkeypatch.delenv("PWL_LAB_WORKERS")
    monkeypatch.setattr(parallel.os, "sched_getaffinity", lambda _: {0}, raising=False)
    assert n_workers() == 1
    monkeypatch.setattr(parallel.os, "sched_getaffinity", lambda _: {0, 1, 2}, raising=False)
    assert n_workers() == 4
    for wrong in ("0", "-1", "two", "1.5"):
        monkeypatch.setenv("PWL_LAB_WORKERS", wrong)
        with pytest.raises(InvalidValueError, match="PWL_LAB_WORKERS"):
            n_workers()


def test_one_thread_is_put_back():
    before = torch.get_num_threads()
    with one_thread():
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before


@pytest.mark.usefixtures("store_folder")
def test_each_makes_what_is_missing_side_by_side_and_the_same_as_alone(monkeypatch):
    cases = [{"model": MLP_TEACHER, "task": PARITY, "plan": PLAN, "seed": seed, "device": "cpu"} for seed in range(3)]
    alone = study.train_or_load(**cases[1])
    asked = []
    monkeypatch.setattr(
        study, "side_by_side", lambda work, cases, _: asked.extend(cases) or side_by_side(work, cases, "")
    )
    together = study.each(study.train_or_load, cases, "teachers")
    assert [case["case"]["seed"] for case in asked] == [0, 2]
    assert [trained.fingerprint for trained in together] == [study.train_or_load(**case).fingerprint for case in cases]
    study.each(study.train_or_load, cases, "teachers")
    assert len(asked) == 2
    # One more, made in a worker, against the same made here in a store of its own.
    monkeypatch.setenv("PWL_LAB_STORE", str(Store().folder / "other"))
    again = study.train_or_load(**cases[2])
    for name, tensor in together[2].model.state_dict().items():
        assert torch.equal(tensor, again.model.state_dict()[name])
    assert alone.fingerprint != again.fingerprint


@pytest.mark.usefixtures("store_folder")
def test_where_nothing_may_be_made_nothing_is():
    with only_stored(), pytest.raises(NotMadeError, match="not in the store"):
        study.train_or_load(MLP_STUDENT, PARITY, PLAN, device="cpu")
    assert study.train_or_load(MLP_STUDENT, PARITY, PLAN, device="cpu").model is not None


@pytest.mark.usefixtures("store_folder")
def test_not_even_side_by_side(monkeypatch):
    monkeypatch.setattr(study, "side_by_side", lambda *_: pytest.fail("workers know nothing of what may not be made"))
    cases = [{"model": MLP_STUDENT, "task": PARITY, "plan": PLAN, "seed": seed, "device": "cpu"} for seed in (0, 1)]
    with only_stored(), pytest.raises(NotMadeError, match="not in the store"):
        study.each(study.train_or_load, cases, "teachers")
    assert stored(study.each, study.train_or_load, cases, "teachers") is None
    study.train_or_load(**cases[0])
    assert stored(study.train_or_load, **cases[1]) is None
    assert stored(study.train_or_load, **cases[0]).model is not None
    assert may_make()
