"""Trainings side by side: the same results in the same order, one thread each, and nobody left behind."""

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import nullcontext
from pathlib import Path
from unittest.mock import Mock

import psutil
import pytest
import torch
import workers
from toys import MLP_STUDENT, MLP_TEACHER

from pwl_lab.benchmarks.harness import in_fresh_process
from pwl_lab.study import crossing, recipes, verbs
from pwl_lab.study.cases import run_cases
from pwl_lab.study.settings import CrossingSettings, LoadingSettings
from pwl_lab.study.store import Artifact, NotMadeError, Recipe, Store, load_if_stored, may_make, only_stored
from pwl_lab.support import config, processes, progress
from pwl_lab.support.errors import InvalidValueError, PwlLabError
from pwl_lab.support.processes import WorkerLostError, n_workers, one_thread, side_by_side
from pwl_lab.tasks.parity import SparseParity
from pwl_lab.training import TrainPlan

SIDE_BY_SIDE = "pwl_lab.study.cases.side_by_side"
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
    assert "spawn_main" in in_fresh_process(told, **cases[0])[1]


def test_a_refusal_ends_the_others_and_is_raised_here():
    begun = time.monotonic()
    with pytest.raises(InvalidValueError, match="case 1 is not allowed"):
        side_by_side(refuse, [{"number": 0}, {"number": 1}], "cases")
    assert time.monotonic() - begun < PATIENCE_S
    assert_no_workers()


def test_a_killed_worker_is_named_and_what_to_do():
    with pytest.raises(WorkerLostError, match=r"cases: .* SIGKILL, which .* memory .* PWL_LAB_WORKERS=1"):
        side_by_side(vanish, [{"number": 0}, {"number": 1}], "cases")
    assert_no_workers()


@pytest.mark.parametrize(
    ("work", "number", "error", "words"),
    [
        (workers.leave, 3, WorkerLostError, r"exit code 3\).*standard error"),
        (workers.fall, signal.SIGSEGV, WorkerLostError, "ended by SIGSEGV"),
        (workers.fall, signal.SIGTERM, WorkerLostError, "ended by SIGTERM"),
        (workers.stumble, 5, PwlLabError, "AwkwardError: 5 and 5"),
        (workers.keep_locked, 5, TypeError, "cannot pickle"),
        (workers.miss, 5, ModuleNotFoundError, "nowhere_to_be_found"),
    ],
)
@pytest.mark.parametrize("way", ["pool", "fresh"])
def test_the_true_reason_is_told(way, work, number, error, words):
    run = {
        "pool": lambda case: side_by_side(work, [case] * 2, "cases"),
        "fresh": lambda case: in_fresh_process(work, **case),
    }
    with pytest.raises(error, match=words) as told:
        run[way]({"number": number})
    assert ("memory" in str(told.value)) == (way == "pool" and error is WorkerLostError)  # the last word of the advice
    if error is not WorkerLostError:
        assert "run_packed" in str(told.value.__cause__)  # the traceback in the worker


def test_what_cannot_be_sent_is_refused_here():
    with pytest.raises(InvalidValueError, match=r"case of where = .*another process"):
        side_by_side(where, [{"number": threading.Lock()}] * 2, "cases")


SCRIPT = """
import os
from pwl_lab.benchmarks.harness import in_fresh_process
from pwl_lab.support.processes import side_by_side
from pwl_lab.models import MLPConfig

print("begun")

class Own(MLPConfig):
    def twice(self):
        return 2 * sum(self.widths)

def work(model, number):
    assert os.getpid() != PARENT
    return model.twice() + number, model.model_copy(update={"widths": (number,)})

PARENT = os.getpid()
cases = [{"model": Own(n_inputs=2, widths=(5,)), "number": number} for number in (1, 2)]
found = [*side_by_side(work, cases, "cases"), in_fresh_process(work, **cases[0])]
assert all(type(model) is Own for _, model in found)
print(*(number for number, _ in found), *(model.twice() for _, model in found))
"""


@pytest.mark.parametrize("started", ["script", "standard input", "main guard"])
def test_a_script_needs_no_main_guard(started, tmp_path):
    (tmp_path / "my_script.py").write_text(SCRIPT)
    words, text = {
        "script": ([str(tmp_path / "my_script.py")], None),
        "standard input": (["-"], SCRIPT),
        "main guard": (["-"], SCRIPT.replace("found =", "if __name__ == '__main__': found =")),
    }[started]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    ended = subprocess.run(
        [sys.executable, *words], input=text, capture_output=True, text=True, env=environment, timeout=PATIENCE_S
    )
    assert ended.stdout == "begun\n11 12 11 2 4 2\n", ended.stderr


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
from pwl_lab.support.processes import side_by_side
from test_processes import linger
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
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1] / "helpers"), *sys.path])}
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
    monkeypatch.setattr(processes.os, "sched_getaffinity", lambda _: {0}, raising=False)
    assert n_workers() == 1
    monkeypatch.setattr(processes.os, "sched_getaffinity", lambda _: {0, 1, 2}, raising=False)
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
    alone = verbs.train_or_load(**cases[1])
    asked = []
    monkeypatch.setattr(
        SIDE_BY_SIDE,
        lambda work, cases, *more: asked.extend(cases) or side_by_side(work, cases, *more),
    )
    together = run_cases(verbs.train_or_load, cases, "teachers", "cpu")
    assert [case["case"]["seed"] for case in asked] == [0, 2]
    assert [trained.fingerprint for trained in together] == [verbs.train_or_load(**case).fingerprint for case in cases]
    run_cases(verbs.train_or_load, cases, "teachers", "cpu")
    assert len(asked) == 2
    # One more, made in a worker, against the same made here in a store of its own.
    monkeypatch.setenv("PWL_LAB_STORE", str(Store().folder / "other"))
    again = verbs.train_or_load(**cases[2])
    for name, tensor in together[2].model.state_dict().items():
        assert torch.equal(tensor, again.model.state_dict()[name])
    assert alone.fingerprint != again.fingerprint


def note(folder: str, number: int, device: str = "auto") -> int:
    """Keeps in the store which process made it, and how many were at it at once."""
    artifact = Store().get(Recipe("note", 1, {"number": number}), lambda: Artifact({}, {}, {"process": os.getpid()}))
    return artifact.info["process"]


class PoolAsked(Exception):
    """Instead of a pool."""


@pytest.mark.parametrize("passed", [False, True], ids=["by settings", "in each case"])
@pytest.mark.parametrize("gpu", [False, True], ids=["no GPU", "GPU"])
@pytest.mark.parametrize("variable", [None, "auto", "cpu", "cuda"])
@pytest.mark.parametrize("device", ["auto", "cpu", "cuda"])
def test_cases_run_side_by_side_just_where_they_compute_on_the_cpu(
    monkeypatch, store_folder, device, variable, gpu, passed
):
    monkeypatch.setattr("torch.cuda.is_available", lambda: gpu)
    monkeypatch.delenv("PWL_LAB_DEVICE", raising=False)
    if variable is not None:
        monkeypatch.setenv("PWL_LAB_DEVICE", variable)
    cases = [{"folder": "", "number": number} | ({"device": device} if passed else {}) for number in range(2)]
    meant = variable or "auto" if device == "auto" else device
    computes = meant if meant != "auto" else "cuda" if gpu else "cpu"
    monkeypatch.setattr(processes, "ProcessPoolExecutor", Mock(side_effect=PoolAsked))
    error = InvalidValueError if computes == "cuda" and not gpu else PoolAsked if computes == "cpu" else None
    with pytest.raises(error) if error else nullcontext():
        assert run_cases(note, cases, "notes", device) == [os.getpid()] * 2


@pytest.mark.parametrize("passed", [False, True], ids=["by each", "in each case"])
@pytest.mark.parametrize("device", ["auto", "cpu", "cuda"])
def test_a_verb_that_takes_a_device_computes_where_its_cases_are_counted(monkeypatch, device, passed):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.delenv("PWL_LAB_DEVICE", raising=False)
    counted = []
    monkeypatch.setattr(SIDE_BY_SIDE, lambda work, cases, words, where: counted.append(where))

    def verb(number, device="auto"):
        if not may_make():
            raise NotMadeError("not in the store")
        return config.device(device)

    cases = [{"number": number} | ({"device": device} if passed else {}) for number in range(2)]
    assert run_cases(verb, cases, "notes", device) == counted * 2 == [config.device(device)] * 2


@pytest.mark.parametrize("recipe", ["loading_pairs", "crossed_pairs", "parity_crossings"])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_recipes_say_where_their_cases_compute(monkeypatch, recipe, device):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    where, told = (recipes if recipe == "loading_pairs" else crossing), []
    monkeypatch.setattr(where, "run_cases", lambda verb, cases, words, on, _: told.append(on) or [(0, 0)] * len(cases))
    settings = LoadingSettings if recipe == "loading_pairs" else CrossingSettings
    getattr(where, recipe)(settings.load("smoke", device=device))
    assert set(told) == {device}


def test_one_case_on_another_device_is_refused(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    with pytest.raises(InvalidValueError, match=r"device = 'cpu' is not allowed: the device of all cases, 'cuda'"):
        run_cases(note, [{"folder": "", "number": 0, "device": "cpu"}], "notes", "cuda")


@pytest.mark.usefixtures("store_folder")
def test_where_nothing_may_be_made_nothing_is():
    with only_stored(), pytest.raises(NotMadeError, match="not in the store"):
        verbs.train_or_load(MLP_STUDENT, PARITY, PLAN, device="cpu")
    assert verbs.train_or_load(MLP_STUDENT, PARITY, PLAN, device="cpu").model is not None


@pytest.mark.usefixtures("store_folder")
def test_not_even_side_by_side(monkeypatch):
    monkeypatch.setattr(SIDE_BY_SIDE, lambda *_: pytest.fail("workers know nothing of what may not be made"))
    cases = [{"model": MLP_STUDENT, "task": PARITY, "plan": PLAN, "seed": seed, "device": "cpu"} for seed in (0, 1)]
    with only_stored(), pytest.raises(NotMadeError, match="not in the store"):
        run_cases(verbs.train_or_load, cases, "teachers", "cpu")
    assert load_if_stored(run_cases, verbs.train_or_load, cases, "teachers", "cpu") is None
    verbs.train_or_load(**cases[0])
    assert load_if_stored(verbs.train_or_load, **cases[1]) is None
    assert load_if_stored(verbs.train_or_load, **cases[0]).model is not None
    assert may_make()
