"""What a process that was killed outright leaves behind: the next one that comes sweeps it, and nothing else."""

import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from processes import until

from pwl_lab.runner import dashboard, kernel
from pwl_lab.support import paths

GUARD = """
import time
from pwl_lab.runner.kernel import KernelGuard
guard = KernelGuard()
print(guard.folder, flush=True)
time.sleep(600)
"""


@pytest.fixture
def temporary(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of temporary files whose path is short enough for sockets."""
    with tempfile.TemporaryDirectory() as folder:
        monkeypatch.setenv("TMPDIR", folder)
        monkeypatch.setattr(tempfile, "tempdir", folder)
        yield Path(folder)


def test_the_socket_folder_of_a_killed_run_is_swept_by_the_next_and_that_of_a_live_one_is_not(temporary: Path) -> None:
    started = [subprocess.Popen([sys.executable, "-c", GUARD], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    try:
        dead, live = (Path(process.stdout.readline().strip()) for process in started)
        started[0].kill()
        started[0].wait()
        assert dead.exists()
        with kernel.KernelGuard() as guard:
            assert set(temporary.iterdir()) == {live, guard.folder}
    finally:
        for process in started:
            process.kill()
            process.communicate()  # closes its pipe, too
    assert list(temporary.iterdir()) == [live]


def test_nobody_else_s_folder_is_swept(temporary: Path) -> None:
    for name in ("pwl-thesis", "kernel", "kernel.part-mine", ".part-mine"):
        (temporary / name).mkdir()
    (temporary / ".part-link").symlink_to(temporary / "kernel")
    before = set(temporary.iterdir())
    with kernel.KernelGuard() as guard:
        assert set(temporary.iterdir()) == before | {guard.folder}
        assert stat.S_IMODE(guard.folder.stat().st_mode) == 0o700, "whoever enters it can talk to the kernel"
    assert set(temporary.iterdir()) == before


def test_the_folder_of_a_killed_dashboard_is_swept_by_the_next(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("PWL_LAB_RUNS", str(tmp_path))
    with dashboard.prepared("smoke") as live:
        dead = live.with_name(live.name[:-12] + 12 * "0")
        shutil.copytree(live, dead)
        with dashboard.prepared("smoke") as new:
            assert set(paths.scratch().iterdir()) == {live, new}
    assert list(paths.scratch().iterdir()) == []


def test_what_dask_left_for_a_killed_batch_is_swept_also_when_nothing_is_to_do(bench) -> None:
    grid = bench.grid("waits")
    process = bench.start(grid, "--workers", "1")
    until(lambda: bench.begun("waits"), 120)
    assert (bench.out / ".dask").exists()
    process.kill()
    process.communicate()
    bench.go()
    code, output = bench.run(grid, "--workers", "1")
    assert code == 0, output
    (bench.out / ".dask" / "dask-scratch-space" / "worker-1").mkdir(parents=True)
    assert bench.run(grid)[0] == 0
    assert not (bench.out / ".dask").exists()
    (bench.out / ".dask").mkdir()
    (bench.out / ".dask" / "mine").touch()
    assert bench.run(grid)[0] == 0
    assert (bench.out / ".dask" / "mine").exists()
