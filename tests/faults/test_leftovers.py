"""What a process that was killed outright leaves behind: the next one that comes sweeps it, and nothing else."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from processes import until

from pwl_lab.runner import dashboard, kernel
from pwl_lab.runner.own_folder import LEFT_S, lock_folder, sweep
from pwl_lab.support import paths

GUARD = """
import time
from pwl_lab.runner.kernel import KernelGuard
guard = KernelGuard()
print(guard.folder, flush=True)
time.sleep(600)
"""


def age(folder: Path, seconds: float = LEFT_S + 60) -> None:
    os.utime(folder, (time.time() - seconds,) * 2)


def test_the_socket_folder_of_a_killed_run_is_swept_by_the_next_and_that_of_a_live_one_is_not(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(kernel.tempfile, "tempdir", str(tmp_path))
    started = [subprocess.Popen([sys.executable, "-c", GUARD], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    try:
        dead, live = (Path(process.stdout.readline().strip()) for process in started)
        started[0].kill()
        started[0].wait()
        for folder in (dead, live):
            age(folder)
        with kernel.KernelGuard() as guard:
            assert not dead.exists()
            assert live.exists()
            assert guard.folder.exists()
    finally:
        for process in started:
            process.kill()
            process.wait()
    assert list(tmp_path.iterdir()) == [live]


@given(
    st.booleans(),
    st.floats(0, 2 * LEFT_S),
    st.booleans(),
    st.lists(st.sampled_from(["kernel.json", "socket-1", "ipython", "thesis.tex", "socket"]), unique=True),
    st.sampled_from(["pwl-abc", "pwl-", "pw", "other"]),
)
def test_only_what_is_surely_left_over_is_swept(tmp_path_factory, is_folder, seconds, is_locked, names, name) -> None:
    parent = tmp_path_factory.mktemp("temporary")
    found = parent / name
    if is_folder:
        found.mkdir()
        for each in names:
            (found / each).touch()
    else:
        found.touch()
    age(found, seconds)
    release = lock_folder(found) if is_locked and is_folder else None
    sweep(parent, "pwl-", kernel.OWN_NAMES)
    left_over = is_folder and not is_locked and seconds > LEFT_S and not {"thesis.tex", "socket"} & set(names)
    assert found.exists() == (not (left_over and name.startswith("pwl-")))
    if release:
        release()


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="no users")
def test_what_is_another_user_s_is_left(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "pwl-abc").mkdir()
    age(tmp_path / "pwl-abc")
    own = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: own + 1)
    sweep(tmp_path, "pwl-", kernel.OWN_NAMES)
    assert (tmp_path / "pwl-abc").exists()


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "pwl-abc").symlink_to(tmp_path / "mine")
    age(tmp_path / "mine")
    sweep(tmp_path, "pwl-", kernel.OWN_NAMES)
    assert (tmp_path / "mine").exists()


def test_the_folder_of_a_killed_dashboard_is_swept_by_the_next(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("PWL_LAB_RUNS", str(tmp_path))
    dead, live = dashboard.prepare("smoke"), dashboard.prepare("smoke")
    release = lock_folder(live)
    for folder in (dead, live):
        age(folder)
    new = dashboard.prepare("smoke")
    assert set(paths.scratch().iterdir()) == {live, new}
    release()


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
