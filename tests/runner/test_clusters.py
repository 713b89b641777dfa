"""What a batch does when its cluster does not: no worker that fits, a node that is frozen."""

import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from benches import read_events
from distributed import Client, LocalCluster

from pwl_lab.runner import dask
from pwl_lab.runner.clusters import StoppedError, Workers, in_time, nobody_fits
from pwl_lab.runner.kernel import Runs
from pwl_lab.runner.points import BatchPlan, Point
from pwl_lab.runner.run_folder import RunStatus, write_status
from pwl_lab.runner.worker import PointTask

POINT = Point("h", {}, {})


@pytest.fixture
def client() -> Iterator[Client]:
    """A cluster of one worker in this process, which has one GPU as far as Dask knows."""
    with (
        LocalCluster(n_workers=1, processes=False, dashboard_address=None, resources={"GPU": 1}) as cluster,
        Client(cluster, set_as_default=False) as made,
    ):
        yield made


def task(folder: Path) -> PointTask:
    return PointTask("b", BatchPlan(Path("n"), "s", None, None, {}, ()), POINT, str(folder))


def test_a_batch_that_waits_for_a_worker_says_for_which(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dask, "QUIET_S", 0)
    said, runs = [], Runs()

    def say(line: str) -> None:
        said.append(line)
        if len(said) == 1:
            client.cluster.scale(0)
        else:
            runs.stop("enough")

    run = dask._BatchRun(client, "b", tmp_path, {"GPU": 2, "DISK": 1}, runs, on_line=say)
    run.submit([task(tmp_path)])
    run.follow()
    assert said == ["there is no worker with GPU=2 DISK=1 (1 without); waiting", "there is no worker; waiting"]
    assert [event["why"] for event in read_events(tmp_path)] == said


def test_a_worker_that_fits_is_nothing_to_speak_of(client: Client) -> None:
    workers = Workers(client).look()
    assert nobody_fits(workers, {}) is None
    assert nobody_fits(workers, {"GPU": 1}) is None
    assert nobody_fits(workers, {"GPU": 1, "DISK": 1}) is not None


def test_a_node_that_is_frozen_does_not_keep_the_batch_from_ending(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The points that the others have reported are still taken in."""
    monkeypatch.setattr(dask, "STOP_S", 0.1)
    monkeypatch.setattr(dask, "REPORT_S", 0.01)
    thawed, answered, cancelled = threading.Event(), [], []

    def frozen(*_, **__) -> dict:
        thawed.wait(20)
        answered.append(1)
        return {}

    ended = RunStatus(status="killed", notebook="", started="", cells=0, versions={}, commit=None)
    future = SimpleNamespace(key="k", status="finished", result=lambda: ended)
    client = SimpleNamespace(status="running", run=frozen, cancel=lambda *_, **__: cancelled.append(1), nthreads=dict)
    run = dask._BatchRun(client, "b", tmp_path, {}, Runs())
    monkeypatch.setattr(run.workers, "heard_of", lambda seconds: (["w"], []))  # it has fallen silent only now
    run.waiting = {"k": (task(tmp_path), future), "other": (task(tmp_path), future)}
    run.done.put(future)
    run.stop("SIGINT")
    assert not answered
    thawed.set()
    assert run.outcome.ended == {"h": ended}
    assert (run.outcome.stopped_by, cancelled) == ("SIGINT", [1])


def test_what_is_asked_in_time_is_answered_as_it_is() -> None:
    assert in_time(lambda: 3, 5) == 3
    with pytest.raises(KeyError):
        in_time(lambda: {}["none"], 5)


def test_what_is_waited_for_in_vain_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    never, runs = threading.Event(), Runs()
    with pytest.raises(TimeoutError):
        in_time(never.wait, 0.1)
    threading.Timer(0.3, lambda: runs.stop("SIGINT")).start()
    with pytest.raises(StoppedError, match="SIGINT"):
        in_time(never.wait, 60, runs)
    with pytest.raises(TimeoutError, match="its own"):
        in_time(lambda: (_ for _ in ()).throw(TimeoutError("its own")), 60)
    never.set()


def test_only_a_worker_that_the_scheduler_hears_nothing_more_of_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the scheduler's clock shows."""
    notes, clock = {"a": 1e9, "b": -5.0}, [0.0]
    client = SimpleNamespace(
        scheduler_info=lambda n_workers: {"workers": {n: {"last_seen": t} for n, t in notes.items()}}
    )
    monkeypatch.setattr("pwl_lab.runner.clusters.time", SimpleNamespace(monotonic=lambda: clock[0]))
    workers = Workers(client)
    workers.look()
    clock[0] = 100.0
    notes["b"] = -4.0
    workers.look()
    assert workers.silent() == ["a"]
    assert workers.silent(200) == []
    del notes["a"]
    workers.look()
    assert workers.silent() == []


def test_what_a_worker_does_not_give_any_more_is_read_at_the_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It wrote how its point ended, then was frozen with the answer."""
    monkeypatch.setattr(dask, "ANSWER_S", 0.1)
    thawed = threading.Event()
    future = SimpleNamespace(key="k", status="finished", result=lambda: thawed.wait(20))
    client = SimpleNamespace(status="running", nthreads=dict)
    run = dask._BatchRun(client, "b", tmp_path, {}, Runs())
    run.waiting = {"k": (task(tmp_path), future)}
    run._take(future)
    assert set(run.waiting) == {"k"}, "nothing is written: it is asked again"
    ended = RunStatus(status="failed", notebook="", started="", cells=0, versions={}, commit=None)
    (tmp_path / "points" / "h").mkdir(parents=True)
    write_status(tmp_path / "points" / "h", ended)
    run._take(run.done.get(timeout=1))
    thawed.set()
    assert run.waiting == {}
    assert run.outcome.ended["h"].status == "failed"
