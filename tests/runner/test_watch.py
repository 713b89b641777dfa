"""Watching a batch."""

from pathlib import Path
from types import SimpleNamespace

import fsspec
import pytest

from pwl_lab.runner import batch
from pwl_lab.runner.batch import alone_at
from pwl_lab.runner.location import Location, location_at
from pwl_lab.runner.points import BatchPlan, Point, write_batch
from pwl_lab.runner.run_folder import STATUS, RunStatus
from pwl_lab.support.files import json_text

PLAN = BatchPlan(Path("own.ipynb"), "s", None, None, {}, tuple(Point(f"{n}abc", {"seed": n}, {}) for n in range(3)))


def leave(place: Location, number: int, status: str) -> None:
    facts = RunStatus(status=status, notebook="own", started="", cells=1, versions={}, commit=None)
    for name, text in (("notebook.ipynb", "{}"), ("params.json", "{}"), (STATUS, json_text(facts.model_dump()))):
        place.write(f"points/{number}abc/{name}", text)


@pytest.mark.parametrize(("out", "every_s"), [("folder", 2.0), ("memory://lab/out", 20.0)])
def test_a_batch_is_watched_until_it_is_gone_and_an_address_seldom(
    out: str, every_s: float, empty_storage: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, waits = str(tmp_path / out) if out == "folder" else out, []
    memory = fsspec.filesystem("memory")
    place, statuses, cat_file = location_at(out), [], memory.cat_file

    def noting(path, *words, **more) -> bytes:
        statuses.extend([path] * path.endswith(STATUS))
        return cat_file(path, *words, **more)

    monkeypatch.setattr(memory, "cat_file", noting)
    work = alone_at(place)
    work.__enter__()

    def wait(seconds: float) -> None:
        waits.append(seconds)
        leave(place, len(waits), "ok")
        if len(waits) == 2:
            work.__exit__(None, None, None)

    monkeypatch.setattr(batch, "time", SimpleNamespace(sleep=wait))
    write_batch(place, PLAN)
    leave(place, 0, "running")
    last = [lines[-1] for lines in batch.watch_batch(out, watch=True)]
    assert last == ["0 of 3 ok, 1 running, 2 waiting", "1 of 3 ok, 1 running, 1 waiting", "2 of 3 ok, 1 cut off"]
    assert waits == [every_s] * 2
    assert len(statuses) == (3 if "://" in out else 0), "each is asked for once"
    assert len(list(batch.watch_batch(out, watch=False))) == 1
