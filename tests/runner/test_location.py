"""Where a batch lies: the same for a folder and for a storage, here one in memory."""

import errno
import json
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import fsspec
import pytest

from pwl_lab.runner import worker
from pwl_lab.runner.batch import alone_at, find_holder
from pwl_lab.runner.location import Location, LocationError, StorageLocation, location_at
from pwl_lab.runner.points import BatchPlan, Point, Values, read_results, write_batch
from pwl_lab.runner.run_folder import RunError, RunStatus, write_status
from pwl_lab.runner.worker import PointTask, note_failure, run_point
from pwl_lab.support.errors import InvalidValueError

PLAN = BatchPlan(Path("own.ipynb"), "source", None, None, {}, ())


pytestmark = pytest.mark.usefixtures("empty_storage")


def test_files_come_and_go(place: Location) -> None:
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
    assert location_at(place.address).names("points") == {"points/a/status.json"}


def test_what_an_address_means(tmp_path: Path) -> None:
    assert type(location_at("runs/x")) is Location
    assert location_at(f"file://{tmp_path}").work == tmp_path
    one, other = location_at("memory://lab/out/"), location_at("memory://other/out")
    assert one.address == "memory://lab/out"
    assert one.work != other.work
    assert location_at(one) is one
    assert location_at("memory://container@account/out").address == "memory://container@account/out"
    assert location_at("a:b/c").work == Path("a:b/c").absolute()


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("s3://key:secret@bucket/out", "without a password"),
        ("s3://bucket/out?token=secret", "without any of"),
        ("s3://key:secret@bucket/out?a=[", "without a password"),
        ("s3://[bucket/out", "without any of"),
        ("s3://key:sl/secret@bucket/out", "without a password"),
        ("zip://x::s3://key:secret@bucket/out", "without ::"),
        ("s3:/key:secret@bucket/out", "two slashes"),
        (Path("s3://bucket/out"), "two slashes"),
        ("nosuch://bucket/out", "fsspec"),
    ],
)
def test_addresses_that_are_refused_do_not_say_their_secrets(url: str | Path, words: str) -> None:
    with pytest.raises(InvalidValueError, match=words) as refusal:
        location_at(url)
    assert "secret" not in str(refusal.value)


def task(place: Location, notebook: Path, **more: object) -> PointTask:
    plan = BatchPlan(notebook, "source", None, None, {}, ())
    return PointTask("batch", plan, Point("abc", {}, {"rate": 1}), place.address, **more)


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
    monkeypatch.setattr(worker, "notebook_hash", lambda nb: "source")
    monkeypatch.setattr(worker, "hash_here", lambda *_: "abc")
    monkeypatch.setattr(worker, "get_worker", lambda: SimpleNamespace(name=0, address="tcp://x"))
    return asked


def test_a_point_is_run_once_and_is_whole_at_its_place(place: Location, stub: list, write_notebook) -> None:
    asked = task(place, write_notebook("# Own"))
    place.write("points/abc/metrics.json", "of an earlier run")
    assert run_point(asked).status == "ok"
    assert run_point(asked).status == "ok"
    assert stub == [{"rate": 1}]
    assert read_results(place, ["abc"])["abc"].done
    names = {name.removeprefix("points/abc/") for name in place.names("points") if "/." not in name}
    wanted = {"notebook.ipynb", "params.json", "extra/figure.svg", "status.json", "events.jsonl"}
    assert names - {"metrics.json"} == wanted  # in a folder the runner removes it, not this stub
    if isinstance(place, StorageLocation):
        assert "metrics.json" not in names
    run_point(task(place, asked.plan.notebook, force=True))
    events = place.read(["points/abc/events.jsonl"])["points/abc/events.jsonl"].decode().splitlines()
    assert [json.loads(line)["event"] for line in events] == ["begun", "ended"] * 2


def test_a_copy_that_breaks_off_is_not_taken_for_a_point_and_is_done_again_alone(
    stub: list, write_notebook, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, memory = location_at("memory://lab/out"), fsspec.filesystem("memory")
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
        with pytest.raises(
            LocationError, match=r"cannot write at memory://lab/out \(OSError: reset by peer\)"
        ) as error:
            run_point(asked)
    assert len(tries) == 3
    assert read_results(place, ["abc"])["abc"].status.status == "running"
    said = note_failure(asked, type(error.value).__name__, str(error.value))
    assert read_results(place, ["abc"])["abc"].status == said
    assert run_point(asked).status == "ok"
    assert len(stub) == 1
    assert read_results(place, ["abc"])["abc"].done


def test_a_worker_that_is_closed_leaves_the_place_to_the_next(
    place: Location, stub: list, write_notebook, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = task(place, write_notebook("# Own"))

    def closed(notebook, out, *_, **__) -> RunStatus:
        (runs,) = worker._running.values()
        runs.stop(worker.CANCELLED)
        stopped = RunError(name=runs.stopped_by, message="stopped")
        status = RunStatus(
            status="killed", notebook="own", started="", cells=1, versions={}, commit=None, error=stopped
        )
        write_status(out, status)
        return status

    with monkeypatch.context() as patch:
        patch.setattr(worker, "run_notebook", closed)
        assert run_point(asked).error.name == worker.CANCELLED
    left = read_results(place, ["abc"])["abc"]
    assert left.status.status == ("running" if isinstance(place, StorageLocation) else "killed")
    assert not left.done
    assert run_point(asked).status == "ok"
    assert read_results(place, ["abc"])["abc"].done
    assert len(stub) == 1


def test_what_another_try_finds_again_is_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    place, tries = location_at("memory://lab/out"), []

    def refused(*_, **__):
        tries.append(1)
        raise PermissionError("not yours")

    monkeypatch.setattr(fsspec.filesystem("memory"), "put", refused)
    with pytest.raises(LocationError, match="PermissionError: not yours"):
        place.write("batch.json", "{}")
    assert len(tries) == 1


def test_one_who_watches_an_address_asks_only_for_what_was_written_since(monkeypatch: pytest.MonkeyPatch) -> None:
    place, memory, asked = location_at("memory://lab/out"), fsspec.filesystem("memory"), []
    names, cat_file = [f"points/{number}/status.json" for number in range(3)], memory.cat_file

    def noting(path, *words, **more) -> bytes:
        asked.append(path[-13])
        return cat_file(path, *words, **more)

    def seen() -> tuple[list[bytes], str]:
        asked.clear()
        found = place.read(sorted(place.names("points")))
        return [found[name] for name in names], "".join(sorted(asked))

    monkeypatch.setattr(memory, "cat_file", noting)
    for name in names:
        place.write(name, "running")
    assert seen() == seen() == ([b"running"] * 3, "012"), "one who does not watch remembers nothing"
    place.remember()
    assert seen() == ([b"running"] * 3, "012")
    assert seen() == ([b"running"] * 3, "")
    location_at("memory://lab/out").write(names[1], "written")
    assert seen() == ([b"running", b"written", b"running"], "1")
    place.remove(names[2])
    place.names("points")
    assert set(place.read(names)) == set(names[:2])


def broken(*_: object, **__: object) -> None:
    raise OSError(errno.EIO, "the disk does not answer")


@pytest.mark.parametrize("call", [alone_at, lambda place: write_batch(place, PLAN)], ids=["hold", "list the points"])
def test_a_disk_that_is_full_when_a_batch_begins_is_said_in_plain_words(
    place: Location, monkeypatch: pytest.MonkeyPatch, call: Callable
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    for name in ("pathlib.Path.touch", "pathlib.Path.write_text"):
        monkeypatch.setattr(name, full)
    monkeypatch.setattr(fsspec.filesystem("memory"), "pipe_file", full)
    said = pytest.raises(LocationError, match=r"cannot write at .*out .OSError: .*No space left on device")
    with said, call(place) or nullcontext():
        pass


@pytest.mark.parametrize("what", ["list", "read"])
def test_a_place_that_cannot_be_read_is_not_an_empty_one(
    place: Location, stub: list, write_notebook, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    asked, memory = task(place, write_notebook("# Own")), fsspec.filesystem("memory")
    run_point(asked)
    with monkeypatch.context() as patch:
        if isinstance(place, StorageLocation):
            patch.setattr(memory, "find" if what == "list" else "cat_file", broken)
        elif what == "list":
            patch.setattr("os.scandir", broken)
        else:
            patch.setattr(Path, "read_bytes", broken)
        for look_again in (lambda: read_results(place, ["abc"]), lambda: run_point(asked)):
            with pytest.raises(LocationError, match=f"cannot {what} at .*out .OSError: .*does not answer"):
                look_again()
        with pytest.raises(LocationError) if what == "read" else nullcontext():
            find_holder(place)
    assert read_results(place, ["abc"])["abc"].done
    assert len(stub) == 1


def test_a_finished_copy_that_cannot_be_read_is_not_run_again(
    stub: list, write_notebook, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = task(location_at("memory://lab/out"), write_notebook("# Own"))
    with monkeypatch.context() as patch:
        patch.setattr(StorageLocation, "send", broken)
        with pytest.raises(OSError, match="does not answer"):
            run_point(asked)
        patch.setattr(Path, "read_bytes", broken)
        with pytest.raises(OSError, match="does not answer"):
            run_point(asked)
    assert run_point(asked).status == "ok"
    assert len(stub) == 1
