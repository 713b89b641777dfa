"""How the points that run at once on one machine share its cores and GPUs."""

from pathlib import Path

import pytest

from pwl_lab.runner import machine, worker
from pwl_lab.runner.machine import default_workers, share_out
from pwl_lab.runner.points import BatchPlan, Point
from pwl_lab.runner.worker import PointTask
from pwl_lab.support.errors import InvalidValueError


@pytest.fixture(autouse=True)
def own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight cores, and nothing said about devices."""
    for name in ("OMP_NUM_THREADS", "PWL_LAB_WORKERS", "PWL_LAB_DEVICE", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwl_lab.support.processes.n_cores", lambda: 8)


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch):
    """Pretend that this machine has so many GPUs."""

    def pretend(number: int) -> None:
        monkeypatch.setattr(machine, "_has_driver", lambda: number > 0)
        monkeypatch.setattr("torch.cuda.device_count", lambda: number)

    return pretend


def plan(resources: dict[str, float], **params: object) -> BatchPlan:
    return BatchPlan(Path("x.ipynb"), "s", None, None, resources, (Point("h", params, params),))


def seen(environment: dict[str, str], workers: int) -> list[str]:
    """The GPUs that each worker's kernel sees."""
    task = PointTask("b", plan({}), Point("h", {}, {}), "p", environment=environment)
    assert machine.GPUS not in worker._environment(task, 0)
    return [worker._environment(task, name)["CUDA_VISIBLE_DEVICES"] for name in range(workers)]


@pytest.mark.parametrize(
    ("found", "asked", "workers", "expected"),
    [(4, 1, None, "0 1 2 3"), (4, 1, 2, "0 1"), (4, 2, None, "0,1 2,3"), (3, 2, 8, "0,1")],
)
def test_gpus_are_shared_out(gpus, found: int, asked: int, workers: int | None, expected: str) -> None:
    gpus(found)
    number, environment = share_out(plan({"GPU": asked}), 9, workers)
    assert seen(environment, number) == expected.split()


def test_only_the_gpus_that_this_process_may_use_are_shared_out(gpus, monkeypatch: pytest.MonkeyPatch) -> None:
    gpus(2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2, GPU-5a,9")  # there is no 9: CUDA stops there
    number, environment = share_out(plan({"GPU": 1}), 9, None)
    assert seen(environment, number) == ["2", "GPU-5a"]


@pytest.mark.parametrize("asked", [1, 0.5])
def test_gpus_that_are_not_there_are_refused(gpus, asked: float) -> None:
    gpus(0)
    with pytest.raises(InvalidValueError, match=f"resources.GPU = {asked:g} is not allowed here: this machine has 0"):
        share_out(plan({"GPU": asked}), 9, None)


def test_points_that_may_use_a_gpu_without_asking_for_one_run_one_at_a_time(
    gpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpus(2)
    assert default_workers(plan({})) == share_out(plan({}), 9, None)[0] == 1
    assert share_out(plan({}), 9, 3)[0] == 3, "whoever says how many is the one to know"
    assert default_workers(plan({"GPU": 1})) == 2
    assert default_workers(plan({}, device="cpu")) == 8
    monkeypatch.setenv("PWL_LAB_DEVICE", "cpu")
    assert default_workers(plan({})) == 8
    assert default_workers(plan({}, device="cuda")) == 1
    gpus(0)
    assert default_workers(plan({})) == 8


def test_the_cores_are_shared_out(gpus, monkeypatch: pytest.MonkeyPatch) -> None:
    gpus(0)
    assert share_out(plan({}), 9, None) == (8, {"OMP_NUM_THREADS": "1", "PWL_LAB_WORKERS": "1"})
    assert share_out(plan({}), 9, 2) == (2, {"OMP_NUM_THREADS": "4", "PWL_LAB_WORKERS": "4"})
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert share_out(plan({}), 9, 2)[1]["OMP_NUM_THREADS"] == "3"
