"""Where a batch lies: the same for a folder and for a storage, here one in memory."""

import json
import platform
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import fsspec
import pytest
from processes import until

from pwl_lab.batch import places, worker
from pwl_lab.batch.grid import Values
from pwl_lab.batch.holding import HOLDER, alone_in, holder
from pwl_lab.batch.places import FolderPlace, Place, PlaceError, StoragePlace, place_at
from pwl_lab.batch.points import log_event, look
from pwl_lab.batch.status import RunStatus, write_status
from pwl_lab.batch.worker import Task, note_failure, run_point
from pwl_lab.errors import InvalidValueError


@pytest.fixture(autouse=True)
def nothing_else(store_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An empty storage in memory, runs of the test's own, and no waiting."""
    memory = fsspec.filesystem("memory")
    memory.store.clear()
    monkeypatch.setattr(places, "WAITS_S", (0.0, 0.0))
    yield
    memory.store.clear()


@pytest.fixture(params=["folder", "memory"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """A place of each kind."""
    return place_at(tmp_path / "out" if request.param == "folder" else "memory://lab/out")


def test_files_come_and_go(place: Place) -> None:
    assert place.names("points") == set()
    assert place.read(["points/a/status.json"]) == {}
    place.write("points/a/status.json", "old")
    place.write("points/a/status.json", "new")
    place.write("batch.json", "{}")
    assert place.names("points") == place.names("points/a") == {"points/a/status.json"}
    assert place.read(["batch.json", "none", "points/a/status.json"]) == {
        "batch.json": b"{}",
        "points/a/status.json": b"new",
    }
    place.remove("batch.json")
    place.remove("batch.json")
    assert place.read(["batch.json"]) == {}
    assert place_at(place.address).names("points") == {"points/a/status.json"}


def test_what_an_address_means(tmp_path: Path) -> None:
    assert isinstance(place_at("runs/x"), FolderPlace)
    assert place_at(f"file://{tmp_path}").work == tmp_path
    one, other = place_at("memory://lab/out/"), place_at("memory://other/out")
    assert one.address == "memory://lab/out"
    assert one.work != other.work
    assert place_at(one) is one


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("s3://key:secret@bucket/out", "without a password"),
        ("s3://bucket/out?token=secret", "without any of"),
        ("s3://key:secret@bucket/out?a=[", "without a password"),
        ("s3://[bucket/out", "without any of"),
        ("nosuch://bucket/out", "fsspec"),
    ],
)
def test_addresses_that_are_refused_do_not_say_their_secrets(url: str, words: str) -> None:
    with pytest.raises(InvalidValueError, match=words) as refusal:
        place_at(url)
    assert "secret" not in str(refusal.value)


def task(place: Place, notebook: Path, **more: object) -> Task:
    return Task("batch", "abc", str(notebook), "source", place.address, None, {"rate": 1}, None, **more)


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> list[Values]:
    """A runner that only pretends: a list of what it was asked for."""
    asked: list[Values] = []

    def run(notebook, out, preset, params, *_, **__) -> RunStatus:
        asked.append(params)
        status = RunStatus(status="ok", notebook="own", started="", cells=1, versions={}, commit=None)
        for name in ("notebook.ipynb", "params.json", "extra/figure.svg"):
            (out / name).parent.mkdir(exist_ok=True)
            (out / name).write_text(name)
        write_status(out, status)
        return status

    monkeypatch.setattr(worker, "run_notebook", run)
    monkeypatch.setattr(worker, "source_hash", lambda nb: "source")
    monkeypatch.setattr(worker, "hash_here", lambda *_: "abc")
    monkeypatch.setattr(worker, "get_worker", lambda: SimpleNamespace(name=0, address="tcp://x"))
    return asked


def test_a_point_is_run_once_and_is_whole_at_its_place(place: Place, stub: list, write_notebook) -> None:
    asked = task(place, write_notebook("# Own"))
    place.write("points/abc/metrics.json", "of an earlier run")
    assert run_point(asked).status == "ok"
    assert run_point(asked).status == "ok"
    assert stub == [{"rate": 1}]
    assert look(place, ["abc"])["abc"].done
    names = {name.removeprefix("points/abc/") for name in place.names("points") if "/." not in name}
    wanted = {"notebook.ipynb", "params.json", "extra/figure.svg", "status.json", "events.jsonl"}
    assert names - {"metrics.json"} == wanted  # in a folder the runner removes it, not this stub
    if isinstance(place, StoragePlace):
        assert "metrics.json" not in names
    run_point(task(place, asked.notebook, force=True))
    events = place.read(["points/abc/events.jsonl"])["points/abc/events.jsonl"].decode().splitlines()
    assert [json.loads(line)["event"] for line in events] == ["begun", "ended"] * 2


def test_a_copy_that_breaks_off_is_not_taken_for_a_point_and_is_done_again_alone(
    stub: list, write_notebook, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, memory = place_at("memory://lab/out"), fsspec.filesystem("memory")
    asked = task(place, write_notebook("# Own"))
    tries, put = [], memory.put

    def failing(sources, targets, **_):
        if any(target.endswith("notebook.ipynb") for target in targets):
            tries.append(targets)
            put(sources[:1], targets[:1])
            raise OSError("reset by peer")
        put(sources, targets)

    with monkeypatch.context() as patch:
        patch.setattr(memory, "put", failing)
        with pytest.raises(PlaceError, match=r"cannot write at memory://lab/out \(OSError: reset by peer\)") as error:
            run_point(asked)
    assert len(tries) == 3
    assert look(place, ["abc"])["abc"].status.status == "running"
    said = note_failure(asked, type(error.value).__name__, str(error.value))
    assert look(place, ["abc"])["abc"].status == said
    assert run_point(asked).status == "ok"
    assert len(stub) == 1
    assert look(place, ["abc"])["abc"].done


def test_a_worker_that_is_closed_leaves_the_place_to_the_next(
    place: Place, stub: list, write_notebook, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, run = task(place, write_notebook("# Own")), worker.run_notebook

    def closed(*words, **more) -> RunStatus:
        (runs,) = worker._running.values()
        runs.stop(worker.CANCELLED)
        return run(*words, **more)

    monkeypatch.setattr(worker, "run_notebook", closed)
    run_point(asked)
    if isinstance(place, StoragePlace):
        assert look(place, ["abc"])["abc"].status.status == "running"


def test_what_another_try_finds_again_is_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    place, tries = place_at("memory://lab/out"), []

    def refused(*_, **__):
        tries.append(1)
        raise PermissionError("not yours")

    monkeypatch.setattr(fsspec.filesystem("memory"), "put", refused)
    with pytest.raises(PlaceError, match="PermissionError: not yours"):
        place.write("batch.json", "{}")
    assert len(tries) == 1


def test_a_storage_that_cannot_be_read_is_not_an_empty_one(monkeypatch: pytest.MonkeyPatch) -> None:
    place = place_at("memory://lab/out")
    place.write("points/abc/status.json", "{}")
    monkeypatch.setattr(fsspec.filesystem("memory"), "cat_file", lambda *_, **__: 1 / 0)
    with pytest.raises(PlaceError, match="cannot read at memory://lab/out"):
        look(place, ["abc"])


def test_one_batch_at_a_time_in_a_storage(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    place = place_at("memory://lab/out")
    with alone_in(place):
        assert holder(place)["host"] == platform.node()
        # A second batch from another machine, which has neither this one's lock nor its processes.
        with monkeypatch.context() as patch:
            patch.setattr("platform.node", lambda: "elsewhere")
            patch.setenv("PWL_LAB_RUNS", str(tmp_path / "elsewhere"))
            with pytest.raises(InvalidValueError, match=r"another batch \(process .* is at work on memory://lab/out"):
                _enter(place_at("memory://lab/out"))
    assert holder(place) is None
    assert place.read([HOLDER]) == {}


def test_a_batch_is_not_kept_out_by_its_own_note(monkeypatch: pytest.MonkeyPatch) -> None:
    memory, pipe_file = fsspec.filesystem("memory"), fsspec.filesystem("memory").pipe_file

    def deaf(path, value, mode="overwrite", **_):
        pipe_file(path, value, mode)
        raise OSError("the answer was lost")

    monkeypatch.setattr(memory, "pipe_file", deaf)
    _enter(place_at("memory://lab/out"))
    assert place_at("memory://lab/out").read([HOLDER]) == {}


@pytest.mark.parametrize(("age_s", "alive"), [(10, True), (300, False)])
def test_a_batch_elsewhere_that_says_nothing_any_more_is_dead(age_s: float, alive: bool) -> None:
    place = place_at("memory://lab/out")
    beat = (datetime.now(UTC) - timedelta(seconds=age_s)).isoformat()
    facts = {"pid": 1, "host": "elsewhere", "born": 0, "since": "noon", "id": "x", "beat": beat}
    place.write(HOLDER, json.dumps(facts))
    assert (holder(place) is not None) == alive
    if not alive:
        _enter(place)
        assert place.read([HOLDER]) == {}


def test_a_batch_at_work_says_so_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(StoragePlace, "beat_s", 0.02)
    place = place_at("memory://lab/out")
    with alone_in(place):
        first = place.read([HOLDER])[HOLDER]
        log_event(place.work, "batch begun")
        until(lambda: place.read([HOLDER, "events.jsonl"]).get("events.jsonl"))
        until(lambda: place.read([HOLDER])[HOLDER] != first)


def _enter(place: Place) -> None:
    with alone_in(place):
        pass
