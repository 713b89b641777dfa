"""What a worker does with one point, and with the batches that share it."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from distributed import Client, LocalCluster
from filelock import FileLock
from processes import until

from pwl_lab.runner import grid as grids
from pwl_lab.runner import worker
from pwl_lab.runner.grid import plan_grid
from pwl_lab.runner.kernel import Runs
from pwl_lab.runner.location import Location, location_at
from pwl_lab.runner.points import read_results
from pwl_lab.runner.run_folder import RunStatus, write_status
from pwl_lab.runner.worker import CANCELLED, PointError, PointTask, StopUnwanted, note_failure, run_point
from pwl_lab.support import paths


@pytest.fixture
def cluster() -> Iterator[LocalCluster]:
    """A scheduler and one worker in this process."""
    with LocalCluster(n_workers=1, processes=False, dashboard_address=None) as made:
        yield made


def test_a_second_batch_on_a_worker_stops_none_of_the_first(
    cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = Runs()
    monkeypatch.setitem(worker._running, "point-first-abc-1", runs)
    for _ in range(2):
        with Client(cluster, set_as_default=False) as client:
            client.register_plugin(StopUnwanted())
    assert runs.stopped_by is None
    cluster.scale(0)
    until(lambda: runs.stopped_by == CANCELLED)


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """A runner that only pretends: the folders that it was given."""
    folders: list[Path] = []

    def run(notebook, out, *_, **__) -> RunStatus:
        folders.append(out)
        status = RunStatus(status="ok", notebook="own", started="", cells=1, versions={}, commit=None)
        for name in ("notebook.ipynb", "params.json"):
            (out / name).write_text("{}")
        write_status(out, status)
        return status

    monkeypatch.setattr(worker, "run_notebook", run)
    monkeypatch.setattr(worker, "get_worker", lambda: SimpleNamespace(name=0, address="tcp://x"))
    return folders


def planned(grid: Path, place: Location, force: bool = False) -> PointTask:
    """The first point of a grid as a worker gets it."""
    plan = plan_grid(grid)
    return PointTask("batch", replace(plan, points=()), plan.points[0], place.address, force=force)


def test_a_preset_or_data_that_are_not_the_planned_ones_are_refused(
    ran: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    presets = tmp_path / "presets"
    shutil.copytree(paths.presets(), presets)
    monkeypatch.setattr(paths, "presets", lambda: presets)
    grid = tmp_path / "grid.yaml"
    grid.write_text("{notebook: 04, preset: smoke, seeds: [0]}")
    asked = planned(grid, location_at(tmp_path / "out"))
    with monkeypatch.context() as patch:
        patch.setattr(grids, "_data", lambda name: "others")
        with pytest.raises(PointError, match="has changed here since the batch was planned"):
            run_point(asked)
    other = (presets / "lesson.yaml").read_text()
    with monkeypatch.context() as patch:
        patch.setattr(paths, "presets", lambda: tmp_path / "other")
        (tmp_path / "other").mkdir()
        (tmp_path / "other" / "smoke.yaml").write_text(other)
        with pytest.raises(PointError, match="the preset smoke"):
            run_point(asked)
    assert ran == []
    assert run_point(asked).status == "ok"
    assert len(ran) == 1


@pytest.fixture
def own_grid(tmp_path: Path, write_notebook) -> Path:
    """A grid of one point."""
    path = tmp_path / "grid.yaml"
    path.write_text(f"notebook: {write_notebook('# Own', '1', parameters='rate = 0.5')}")
    return path


@pytest.mark.parametrize("force", [False, True])
def test_a_point_that_is_done_stays_done_whatever_is_said_of_it_later(
    place: Location, own_grid: Path, ran: list[Path], force: bool
) -> None:
    done = run_point(planned(own_grid, place))
    asked = planned(own_grid, place, force)
    said = note_failure(asked, "PointError", "another process is still working on this point")
    assert said.status == ("failed" if force else "ok"), "with force it was to be run once more, and was not"
    assert read_results(place, [asked.hash])[asked.hash].done == done


def test_a_point_that_another_process_works_on_is_left_to_it(place: Location, own_grid: Path) -> None:
    asked = planned(own_grid, place)
    place.point(asked.hash).mkdir(parents=True)
    with FileLock(place.point(asked.hash) / ".lock"):
        assert note_failure(asked, "PointError", "another process still works on it").status == "failed"
        assert read_results(place, [asked.hash])[asked.hash].status is None
    note_failure(asked, "PointError", "nobody does")
    assert read_results(place, [asked.hash])[asked.hash].status.error.message == "nobody does"


def test_a_disk_that_is_full_after_the_last_cell_does_not_undo_the_point(
    place: Location, own_grid: Path, ran: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(folder: Path, event: str, **_: object) -> None:
        if event == "ended":
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(worker, "log_event", full)
    asked = planned(own_grid, place)
    assert run_point(asked).status == "ok"
    assert read_results(place, [asked.hash])[asked.hash].done
