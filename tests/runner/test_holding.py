"""One batch at a time on a place."""

import json
import os
import platform
import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import fsspec
import psutil
import pytest
from processes import until

from pwl_lab.runner.batch import HOLDER, alone_at, find_holder
from pwl_lab.runner.location import Location, location_at
from pwl_lab.runner.points import log_event
from pwl_lab.support.errors import InvalidValueError

pytestmark = pytest.mark.usefixtures("empty_storage")


def test_one_batch_at_a_time_in_a_storage(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    place = location_at("memory://lab/out")
    with alone_at(place):
        assert find_holder(place).host == platform.node()
        # A second batch from another machine, which has neither this one's lock nor its processes.
        with monkeypatch.context() as patch:
            patch.setattr("platform.node", lambda: "elsewhere")
            patch.setenv("PWL_LAB_RUNS", str(tmp_path / "elsewhere"))
            with pytest.raises(InvalidValueError, match=r"another batch \(process .* is running on memory://lab/out"):
                _enter(location_at("memory://lab/out"))
    assert find_holder(place) is None
    assert place.read([HOLDER]) == {}


def test_a_batch_is_not_kept_out_by_its_own_note(monkeypatch: pytest.MonkeyPatch) -> None:
    memory, pipe_file = fsspec.filesystem("memory"), fsspec.filesystem("memory").pipe_file

    def deaf(path, value, mode="overwrite", **_):
        pipe_file(path, value, mode)
        raise OSError("the answer was lost")

    monkeypatch.setattr(memory, "pipe_file", deaf)
    _enter(location_at("memory://lab/out"))
    assert location_at("memory://lab/out").read([HOLDER]) == {}


@pytest.mark.parametrize("answer", ["refuses", "overwrites"])
def test_a_storage_that_cannot_create_holds_one_batch_all_the_same(
    monkeypatch: pytest.MonkeyPatch, answer: str
) -> None:
    memory, pipe_file = fsspec.filesystem("memory"), fsspec.filesystem("memory").pipe_file

    def unable(path, value, mode="overwrite", **_):
        if answer == "refuses" and mode == "create":
            raise OSError("A header you provided implies functionality that is not implemented")
        pipe_file(path, value)

    monkeypatch.setattr(memory, "pipe_file", unable)
    place = location_at("memory://lab/out")
    assert place.claim(HOLDER, "mine")
    assert not place.claim(HOLDER, "another's")
    assert place.read([HOLDER]) == {HOLDER: b"mine"}


@pytest.mark.parametrize(("age_s", "alive"), [(10, True), (300, False), (-300, False)])
def test_a_batch_elsewhere_that_says_nothing_any_more_is_dead(place: Location, age_s: float, alive: bool) -> None:
    note(place, host="elsewhere", pid=1, age_s=age_s)
    assert (find_holder(place) is not None) == alive
    if not alive:
        _enter(place)
        assert place.read([HOLDER]) == {}


@pytest.mark.parametrize(
    ("clock_s", "age_s", "alive"), [(0, 300, True), (3, 300, True), (3600, 10, True), (3600, 300, False)]
)
def test_the_time_of_birth_of_a_batch_here_may_move_with_the_clock(
    place: Location, clock_s: float, age_s: float, alive: bool
) -> None:
    note(place, born=psutil.Process().create_time() - clock_s, age_s=age_s)
    assert (find_holder(place) is not None) == alive


def test_a_batch_here_whose_process_has_ended_is_dead_at_once(place: Location) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        note(place, born=psutil.Process(process.pid).create_time(), pid=process.pid, age_s=0)
        assert find_holder(place)
        process.kill()
        until(lambda: find_holder(place) is None)  # nobody has reaped it yet
    assert find_holder(place) is None


def test_a_batch_whose_place_is_taken_says_so_and_leaves_it_to_the_other(
    place: Location, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    monkeypatch.setattr(Location, "beat_s", 0.02)
    with alone_at(place):
        until(lambda: note(place, host="elsewhere", pid=7, age_s=0) or recwarn.list)
        theirs = place.read([HOLDER])
        log_event(place.work, "more")
        until(lambda: b"more" in place.read(["events.jsonl"]).get("events.jsonl", b""))
    (said,) = recwarn.list
    assert re.search(r"another batch \(process 7 on elsewhere, .* has started on .*out", str(said.message))
    assert place.read([HOLDER]) == theirs


def test_a_batch_at_work_says_so_again_and_again(place: Location, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Location, "beat_s", 0.02)
    with alone_at(place):
        first = place.read([HOLDER])[HOLDER]
        log_event(place.work, "batch begun")
        until(lambda: place.read([HOLDER, "events.jsonl"]).get("events.jsonl"))
        until(lambda: place.read([HOLDER])[HOLDER] != first)


def note(place: Location, age_s: float, **facts: object) -> None:
    """What another batch would have left there."""
    beat = (datetime.now(UTC) - timedelta(seconds=age_s)).isoformat()
    own = {"pid": os.getpid(), "host": platform.node(), "born": 0, "since": "noon", "id": "x", "beat": beat}
    place.write(HOLDER, json.dumps(own | facts))


def _enter(place: Location) -> None:
    with alone_at(place):
        pass
