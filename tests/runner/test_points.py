import os
import subprocess
import sys
from pathlib import Path

import pytest
from benches import point_folder, read_events

from pwl_lab.runner.batch import alone_at, find_holder, read_states
from pwl_lab.runner.location import location_at
from pwl_lab.runner.points import BatchPlan, Point, log_event, read_finished, read_results, select_todo, write_batch
from pwl_lab.runner.run_folder import RunError, RunStatus, write_status
from pwl_lab.support.errors import InvalidValueError, UnknownNameError

HOLD = """
import sys, time
from pathlib import Path
from pwl_lab.runner.batch import alone_at
with alone_at(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def plan() -> BatchPlan:
    """Six points: two bits times three seeds."""
    values = [{"n_bits": bits, "seed": seed} for bits in (10, 12) for seed in (0, 1, 2)]
    points = tuple(Point(f"{index}abc", each, each) for index, each in enumerate(values))
    return BatchPlan(Path("x.ipynb"), "s", "smoke", None, {}, points)


def leave(
    folder: Path,
    name: str,
    status: str,
    files: tuple[str, ...] = ("notebook.ipynb", "params.json"),
    metrics: bool = False,
) -> Path:
    place = point_folder(folder, name)
    place.mkdir(parents=True)
    for file in files:
        (place / file).write_text("{}")
    error = None if status in ("ok", "running") else RunError(name="KeyError", message="no", traceback="long")
    facts = {"notebook": "x", "started": "", "seconds": 3, "cells": 1, "versions": {}, "commit": None}
    write_status(place, RunStatus(status=status, error=error, metrics=metrics, **facts))
    return place


def todo(plan: BatchPlan, folder: Path, *more: object, **asked: bool) -> list[Point]:
    return select_todo(plan, read_results(location_at(folder), [point.hash for point in plan.points]), *more, **asked)


def hashes(points: list[Point]) -> str:
    return "".join(point.hash[0] for point in points)


def test_what_is_ok_is_skipped_and_the_rest_done_again(plan: BatchPlan, tmp_path: Path) -> None:
    leave(tmp_path, "0abc", "ok")
    leave(tmp_path, "1abc", "failed")
    leave(tmp_path, "2abc", "running")
    leave(tmp_path, "3abc", "ok").joinpath("status.json").write_text('{"status": "ok", "cel')
    leave(tmp_path, "4abc", "ok", files=("params.json",))
    assert hashes(todo(plan, tmp_path)) == "12345"
    assert hashes(todo(plan, tmp_path, retry_failed=True)) == "1"
    assert hashes(todo(plan, tmp_path, force=True)) == "012345"
    assert read_finished(point_folder(tmp_path, "0abc")).seconds == 3
    write_batch(location_at(tmp_path), plan)
    states = read_states(tmp_path)
    assert [state.status for state in states] == ["ok", "failed", "cut off", "damaged", "damaged", "waiting"]
    assert states[1].as_json()["error"] == {"name": "KeyError", "message": "no"}
    assert states[5].words == "n_bits=12 seed=2"


def test_a_point_whose_metrics_are_lost_is_to_do_again(plan: BatchPlan, tmp_path: Path) -> None:
    files = ("notebook.ipynb", "params.json", "metrics.json")
    for name, left, metrics in (("0abc", files, True), ("1abc", files[:2], True), ("2abc", files[:2], False)):
        leave(tmp_path, name, "ok", left, metrics)
    assert hashes(todo(plan, tmp_path)) == "1345"
    write_batch(location_at(tmp_path), plan)
    assert [state.status for state in read_states(tmp_path)][:3] == ["ok", "damaged", "ok"]


@pytest.mark.parametrize(
    ("only", "expected"),
    [
        (["n_bits=12"], "345"),
        (["n_bits=12", "seed=0"], "3"),
        (["seed=0", "seed=2"], "0235"),
        (["1ab", "4"], "14"),
        (["1", "4", "n_bits=10"], "1"),
    ],
)
def test_only_some(plan: BatchPlan, tmp_path: Path, only: list[str], expected: str) -> None:
    assert hashes(todo(plan, tmp_path, only)) == expected


@pytest.mark.parametrize(
    ("only", "words"),
    [(["n_bit=1"], "Did you mean 'n_bits'"), (["n_bits=9"], "no point"), (["9"], "hash"), (["zz"], "hash")],
)
def test_only_what_is_not_there_is_refused(plan: BatchPlan, tmp_path: Path, only: list[str], words: str) -> None:
    with pytest.raises((InvalidValueError, UnknownNameError), match=words):
        todo(plan, tmp_path, only)


def test_a_second_batch_on_the_same_folder_is_refused_until_the_first_is_gone(plan: BatchPlan, tmp_path: Path) -> None:
    leave(tmp_path, "2abc", "running")
    write_batch(location_at(tmp_path), plan)
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    assert find_holder(tmp_path).pid == process.pid
    assert read_states(tmp_path)[2].status == "running"
    with pytest.raises(InvalidValueError, match=rf"another batch \(process {process.pid} on .*, since ") as refusal:
        _enter(tmp_path)
    assert str(tmp_path) in str(refusal.value)
    process.kill()
    process.communicate()
    assert find_holder(tmp_path) is None, "its own note is still there, but it is not"
    assert read_states(tmp_path)[2].status == "cut off"
    with alone_at(tmp_path):
        assert find_holder(tmp_path).pid == os.getpid()
    assert find_holder(tmp_path) is None


def test_events_are_lines_and_one_that_was_cut_off_is_left_out(tmp_path: Path) -> None:
    log_event(tmp_path, "begun", worker=1)
    with (tmp_path / "events.jsonl").open("a") as file:
        file.write('{"event": "en\n')
    log_event(tmp_path, "ended", status="ok")
    assert [event["event"] for event in read_events(tmp_path)] == ["begun", "ended"]
    assert read_events(tmp_path / "none") == []


def test_a_folder_without_a_batch(tmp_path: Path) -> None:
    with pytest.raises(InvalidValueError, match="there is no batch"):
        read_states(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidValueError, match="can be created and written to"):
        _enter(tmp_path / "file" / "below")


def _enter(folder: Path) -> None:
    with alone_at(folder):
        pass
