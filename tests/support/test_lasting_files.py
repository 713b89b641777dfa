"""What a run leaves outlasts a loss of power, or its status does not say that it is there."""

import errno
import os
from contextlib import nullcontext
from pathlib import Path

import pytest

from pwl_lab.runner import execute
from pwl_lab.runner.points import read_finished
from pwl_lab.runner.run_folder import FILES, read_status
from pwl_lab.support.files import settle, write_text

LEAVES_METRICS = """
import os
from pathlib import Path
(Path(os.environ["PWL_LAB_OUT"]) / "metrics.json").write_text("{}")
"""


def test_what_a_run_leaves_is_on_the_disk_before_its_status_says_so(
    write_notebook, tmp_path: Path, monkeypatch
) -> None:
    settled, out = [], tmp_path / "out"

    def noting(paths) -> None:
        settled.append((read_status(out).status, {path.name for path in paths if path.exists()}))

    monkeypatch.setattr(execute, "settle", noting)
    assert execute.run_notebook(write_notebook(LEAVES_METRICS), out).metrics
    assert settled == [("running", set(FILES) - {"progress.log"})]
    assert read_finished(out).metrics
    (out / "metrics.json").unlink()
    assert read_finished(out) is None, "the one file for which it was run is gone"
    assert not execute.run_notebook(write_notebook("1 + 1"), out).metrics
    assert read_finished(out), "this one left none"


def test_a_disk_that_does_not_keep_the_files_fails_the_run(write_notebook, tmp_path: Path, monkeypatch) -> None:
    def worn(paths) -> None:
        raise OSError(errno.EIO, "worn out")

    monkeypatch.setattr(execute, "settle", worn)
    with pytest.raises(OSError, match="worn out"):
        execute.run_notebook(write_notebook("1 + 1"), tmp_path / "out")
    assert read_status(tmp_path / "out").error.message == "[Errno 5] worn out"


def test_what_is_settled_are_the_files_that_are_there_and_then_their_folder(tmp_path: Path, monkeypatch) -> None:
    synced, fsync = [], os.fsync

    def noting(handle: int) -> None:
        synced.append(os.fstat(handle).st_ino)
        fsync(handle)

    monkeypatch.setattr("os.fsync", noting)
    names = [tmp_path / name for name in ("a", "none", "b")]
    write_text(names[0], "1")
    write_text(names[2], "2")
    assert synced == [], "a small file alone costs no wait"
    settle(iter(names))
    assert synced == [path.stat().st_ino for path in (names[0], names[2], tmp_path)]


@pytest.mark.parametrize(
    ("number", "outcome"), [(errno.EINVAL, nullcontext()), (errno.EIO, pytest.raises(OSError, match="worn out"))]
)
def test_a_file_system_without_fsync_is_one_without_and_a_bad_disk_is_bad(
    tmp_path: Path, monkeypatch, number: int, outcome
) -> None:
    def refusing(handle: int) -> None:
        raise OSError(number, "worn out")

    monkeypatch.setattr("os.fsync", refusing)
    write_text(tmp_path / "a", "1")
    with outcome:
        settle([tmp_path / "a"])
