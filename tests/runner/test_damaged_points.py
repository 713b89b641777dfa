"""What befalls a point's files once it is done: any of them cut, lost or not to be read, and only that point with it."""

import tempfile
from pathlib import Path

import fsspec
import pytest
from benches import point_folder
from hypothesis import given
from hypothesis import strategies as st

from pwl_lab.runner import report
from pwl_lab.runner.batch import _count_others, read_states, status_lines
from pwl_lab.runner.location import Location, LocationError, location_at
from pwl_lab.runner.points import BatchPlan, Point, read_finished, read_results, select_todo, write_batch
from pwl_lab.runner.run_folder import (
    LASTING,
    METRICS,
    NOTEBOOK,
    PAGE,
    PARAMS,
    STATUS,
    RunStatus,
    left_files,
    write_status,
)

POINTS = tuple(Point(f"{n}abc", {"seed": n}, {}) for n in range(3))
PLAN = BatchPlan(Path("own.ipynb"), "s", None, None, {}, POINTS)
TEXTS = {NOTEBOOK: '{"cells": [1]}', PARAMS: '{"given": {}}', METRICS: '{"a": 1.25}', PAGE: "<p>all</p>"}


def leave(folder: Path) -> Location:
    """A batch of three points that are done."""
    place = location_at(folder)
    write_batch(place, PLAN)
    for point in POINTS:
        own = point_folder(folder, point.hash)
        own.mkdir(parents=True)
        for name, text in TEXTS.items():
            (own / name).write_text(text)
        facts = {"notebook": "x", "started": "", "cells": 1, "versions": {}, "commit": None, "metrics": True}
        write_status(own, RunStatus(status="ok", files=left_files(own), **facts))
    return place


def todo(place: Location) -> list[str]:
    return [point.hash for point in select_todo(PLAN, read_results(place, [point.hash for point in POINTS]))]


@given(st.sampled_from([*LASTING, STATUS]), st.floats(0, 1, exclude_max=True), st.booleans())
def test_a_point_with_a_file_cut_anywhere_is_to_do_again_and_no_other(name: str, share: float, longer: bool) -> None:
    with tempfile.TemporaryDirectory() as home:
        place = leave(Path(home))
        assert todo(place) == []
        file = point_folder(Path(home), POINTS[1].hash) / name
        whole = file.read_bytes()
        file.write_bytes(whole + b"\0" if longer else whole[: int(share * len(whole))])
        assert todo(place) == [POINTS[1].hash]
        assert read_finished(file.parent) is None
        assert [state.status for state in read_states(place)] == ["ok", "damaged", "ok"]


@pytest.mark.parametrize("name", [NOTEBOOK, PARAMS, METRICS, STATUS])
def test_a_point_without_one_of_its_files_is_to_do_again_and_without_its_page_is_not(name: str, tmp_path: Path) -> None:
    place = leave(tmp_path)
    (point_folder(tmp_path, POINTS[0].hash) / PAGE).unlink()
    (point_folder(tmp_path, POINTS[1].hash) / name).unlink()
    assert todo(place) == [POINTS[1].hash]


def test_a_notebook_that_was_saved_since_is_said_to_be_changed(tmp_path: Path) -> None:
    place = leave(tmp_path)
    (point_folder(tmp_path, POINTS[1].hash) / NOTEBOOK).write_text('{"cells": [1], "metadata": {"mine": 1}}')
    assert [state.status for state in read_states(place)] == ["ok", "damaged", "ok"]


@pytest.mark.parametrize("name", LASTING)
def test_a_file_of_the_same_length_that_holds_something_else_is_damaged(name: str, tmp_path: Path) -> None:
    place = leave(tmp_path)
    file = point_folder(tmp_path, POINTS[1].hash) / name
    file.write_text(TEXTS[name].translate(str.maketrans("1l{", "2m[")))
    assert len(file.read_text()) == len(TEXTS[name])
    assert read_finished(file.parent) is None
    if name in (PARAMS, METRICS):  # a listing of thousands reads no more than these
        assert todo(place) == [POINTS[1].hash]
        assert [state.status for state in read_states(place)] == ["ok", "damaged", "ok"]


def test_a_status_that_is_a_folder_is_unknown_rather_than_waiting(tmp_path: Path) -> None:
    place = leave(tmp_path)
    status = point_folder(tmp_path, POINTS[1].hash) / STATUS
    status.unlink()
    status.mkdir()
    assert [state.status for state in read_states(place)] == ["ok", "unknown", "ok"]


def test_a_status_of_before_files_were_listed_says_what_it_said(tmp_path: Path) -> None:
    place = leave(tmp_path)
    status = tmp_path / "points" / POINTS[1].hash / STATUS
    old = RunStatus.model_validate_json(status.read_text()).model_dump(exclude={"files", "page_error"})
    write_status(status.parent, RunStatus(**old))
    (status.parent / METRICS).write_text("{")
    assert todo(place) == []


@pytest.fixture(params=["folder", "memory"])
def place(request, tmp_path: Path, monkeypatch) -> Location:
    """A batch of three points in a folder, or in a storage, of which nothing below the second can be read."""
    leave(tmp_path / "out")
    bad = POINTS[1].hash

    def refuse(path: object) -> None:
        if bad in str(path):
            raise PermissionError(13, "Permission denied", str(path))

    if request.param == "folder":
        sizes, reads = Location.sizes, Path.read_bytes

        def listing(self, below):  # as os.walk does, which root alone may do everywhere
            with self._saying("list"):
                if bad in below or below == "points":
                    refuse(f"{below}/{bad}")
            return sizes(self, below)

        monkeypatch.setattr(Location, "sizes", listing)
        monkeypatch.setattr(Path, "read_bytes", lambda self: refuse(self) or reads(self))
        return location_at(tmp_path / "out")
    memory = fsspec.filesystem("memory")
    memory.store.clear()
    for file in (tmp_path / "out").rglob("*"):
        if file.is_file():
            memory.pipe_file(f"/lab/out/{file.relative_to(tmp_path / 'out').as_posix()}", file.read_bytes())
    cat = type(memory).cat_file
    monkeypatch.setattr(
        type(memory), "cat_file", lambda self, path, *args, **keys: refuse(path) or cat(self, path, *args, **keys)
    )
    return location_at("memory://lab/out")


def test_one_point_that_cannot_be_read_is_unknown_alone(place: Location) -> None:
    states = read_states(place)
    assert [state.status for state in states] == ["ok", "unknown", "ok"]
    assert "Permission denied" in states[1].error.message
    assert status_lines(place)[-1] == "2 of 3 ok, 1 unknown"
    assert todo(place) == [POINTS[1].hash], "the batch tries it, and says what is amiss with it"
    assert _count_others(place, PLAN) == 0
    found = report.read_batch(place)
    assert list(found.points["status"]) == ["ok", "unknown", "ok"]
    assert list(found.points["a"].dropna()) == [1.25, 1.25]
    assert "Permission denied" in found.failures["message"].iloc[0]


def test_metrics_alone_that_cannot_be_read_are_missing_alone(tmp_path: Path, monkeypatch) -> None:
    place, reads = leave(tmp_path), Path.read_bytes

    def read(self: Path) -> bytes:
        if POINTS[1].hash in str(self) and self.name == METRICS:
            raise PermissionError(13, "Permission denied", str(self))
        return reads(self)

    monkeypatch.setattr(Path, "read_bytes", read)
    assert list(report.read_batch(place).points["note"]) == ["", "its metrics cannot be read", ""]


def test_a_place_that_is_away_is_not_points_that_are_unknown(tmp_path: Path, monkeypatch) -> None:
    place = leave(tmp_path)

    def away(*_: object) -> None:
        raise LocationError("cannot read: the share is away")

    for name in ("sizes", "read"):
        monkeypatch.setattr(Location, name, away)
    with pytest.raises(LocationError, match="away"):
        read_states(place)
