"""A batch whose place is an object store: a real server on loopback, workers in processes of their own."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from benches import COMMAND, HANG_S, Bench
from processes import until
from s3_server import BUCKET, SECRET, S3Server
from s3fs import S3FileSystem

from pwl_lab.runner.batch import HOLDER
from pwl_lab.runner.grid import plan_grid
from pwl_lab.runner.location import location_at

WHOLE = {"status.json", "params.json", "notebook.ipynb", "notebook.html", "events.jsonl"}


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    """A server with one bucket, for all tests of this module."""
    made = S3Server()
    made.start()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in made.environment().items():
            patch.setenv(name, value)
        S3FileSystem.clear_instance_cache()
        S3FileSystem().mkdir(BUCKET)
        yield made
    S3FileSystem.clear_instance_cache()
    made.stop()


@pytest.fixture
def s3_bench(bench: Bench, server: S3Server, request: pytest.FixtureRequest) -> Iterator[Bench]:
    """A bench whose batch lies in the bucket."""
    bench.out = f"s3://{BUCKET}/{request.node.name}"
    yield bench
    server.refuse.clear()


def test_points_are_copied_by_their_workers_and_a_refused_copy_is_done_again_without_its_point(
    s3_bench: Bench, server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid = s3_bench.grid("fine", "raises", "refused", "overloaded")
    refused, overloaded = (point.hash for point in plan_grid(grid).points[2:])
    server.refuse[403] = lambda method, path: method == "PUT" and path.endswith(f"{refused}/notebook.html")
    server.refuse[500] = lambda method, path: method == "PUT" and path.endswith(f"{overloaded}/notebook.ipynb")
    code, said = s3_bench.run(grid, "--workers", "2")
    assert code == 1, said
    assert s3_bench.states() == {
        "fine": ("ok", None),
        "raises": ("failed", "KeyError"),
        "refused": ("failed", "LocationError"),
        "overloaded": ("failed", "LocationError"),
    }
    assert "LocationError: cannot write at s3://" in said
    assert "PermissionError: not today" in said
    names = location_at(s3_bench.out).names("points")
    fine, raises = (point.hash for point in plan_grid(grid).points[:2])
    for each in (fine, raises):
        assert {name.rpartition("/")[2] for name in names if each in name} == WHOLE
    assert f"points/{refused}/notebook.html" not in names

    server.refuse.clear()
    server.asked.clear()
    (s3_bench.home / "repaired").touch()
    code, said = s3_bench.run(grid, "--workers", "1")
    assert (code, "4 of 4 ok" in said) == (0, True), said
    assert {case: len(s3_bench.begun(case)) for case in ("fine", "raises", "refused", "overloaded")} == {
        "fine": 1,
        "raises": 2,
        "refused": 1,
        "overloaded": 1,
    }
    puts = [path for method, path in server.asked if method == "PUT" and refused in path]
    assert puts[-1].endswith("status.json"), "until then it is not taken for done"
    left = [path for path in (tmp_path / "runs" / ".batches").rglob("points/*/*") if not path.name.startswith(".")]
    assert left == [], "what is copied is not kept twice"
    everything = said + "".join(
        map(bytes.decode, location_at(s3_bench.out).read([*sorted(names), "events.jsonl"]).values())
    )
    assert SECRET not in everything

    # Another machine, without any of this one's files.
    monkeypatch.setenv("PWL_LAB_RUNS", str(tmp_path / "elsewhere"))
    server.asked.clear()
    code, said = s3_bench.run(grid)
    assert (code, "0 to do" in said, "4 of 4 ok" in said) == (0, True, True), said
    done = subprocess.run(
        [COMMAND, "status", s3_bench.out, "--json"], capture_output=True, text=True, timeout=HANG_S, check=True
    )
    assert [row["status"] for row in json.loads(done.stdout)] == ["ok"] * 4


def test_a_storage_that_goes_away_in_the_middle_costs_no_point(s3_bench: Bench, server: S3Server) -> None:
    grid = s3_bench.grid("fine", "waits")
    process = s3_bench.start(grid, "--workers", "2")
    until(lambda: len(s3_bench.begun("waits")) == 1 and s3_bench.done("fine"), HANG_S)
    assert s3_bench.states()["waits"] == ("running", None)
    code, said = s3_bench.run(grid)
    assert (code, "another batch (process" in said) == (2, True), said
    server.stop()
    try:
        s3_bench.go()
        _, errors = process.communicate(timeout=HANG_S)
        assert process.returncode == 1, errors
        assert "case=waits" in errors
        assert f"LocationError: cannot read at {s3_bench.out} (EndpointConnectionError" in errors
        assert "Traceback" not in errors
    finally:
        server.start()
    assert s3_bench.states() == {"fine": ("ok", None), "waits": ("cut off", None)}
    assert HOLDER in location_at(s3_bench.out).read([HOLDER]), "it could not be removed, and keeps nobody out"
    code, said = s3_bench.run(grid, "--workers", "1")
    assert (code, "2 of 2 ok" in said) == (0, True), said
    assert [len(s3_bench.begun(case)) for case in ("fine", "waits")] == [1, 1], "it is copied, not run again"
