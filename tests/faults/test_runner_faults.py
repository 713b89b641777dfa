"""Every way in which a run can end badly: said truly, and nothing left running."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import nbformat
import psutil
import pytest
from benches import COMMAND
from processes import alive, until

from pwl_lab.runner import client, execute, kernel
from pwl_lab.runner.execute import run_notebook
from pwl_lab.runner.kernel import KernelGuard

# A kernel with two children: one in its own process group, one that left it. Their numbers are left in PWL_LAB_OUT.
CHILDREN = """
import os, subprocess
from pathlib import Path
children = [subprocess.Popen(["sleep", "600"]), subprocess.Popen(["sleep", "600"], start_new_session=True)]
numbers = [os.getpid(), *(child.pid for child in children)]
Path(os.environ["PWL_LAB_OUT"], "pids").write_text(" ".join(map(str, numbers)))
"""
WAIT = "import time\ntime.sleep(600)"
# The control thread flushes the outputs after a request to shut down, by a message to the thread that sends them. Here that
# message is late: it comes when the main thread has ended the other thread, unless the main thread waits for the message.
LATE = """
def set_up():
    import collections, threading, time
    outputs = get_ipython().kernel.iopub_thread
    wait = outputs.thread.join

    class Late(collections.deque):
        def append(self, message):
            super().append(message)
            if threading.current_thread().name == "Control":
                wait(1)

    def join(timeout):
        wait(timeout)
        time.sleep(0.5)

    outputs._events = Late()
    outputs.thread.join = join

set_up()  # in names of its own: those of the notebook are gone when it ends
"""


def test_a_cell_that_runs_too_long(write_notebook, tmp_path: Path) -> None:
    status = run_notebook(
        write_notebook("print('kept')", CHILDREN, WAIT, "print('never')"), tmp_path / "out", timeout=2
    )
    assert (status.status, status.cell, status.cell_source) == ("timeout", 2, WAIT)
    assert "2 s" in status.error.message
    _check_left_overs(tmp_path / "out")
    executed = nbformat.read(tmp_path / "out" / "notebook.ipynb", as_version=4)
    states = [cell.metadata.papermill.status for cell in executed.cells]
    assert states == ["completed", "completed", "failed", "pending"]


@pytest.mark.parametrize(
    ("end", "words"),
    [("os.kill(os.getpid(), 9)", "signal 9 (SIGKILL)"), ("os._exit(3)", "exit code 3")],
)
def test_a_kernel_that_dies(write_notebook, tmp_path: Path, end: str, words: str) -> None:
    status = run_notebook(write_notebook(CHILDREN, end, "print('never')"), tmp_path / "out")
    assert (status.status, status.cell, status.error.name) == ("killed", 1, "DeadKernelError")
    assert words in status.error.message
    _check_left_overs(tmp_path / "out")


def test_a_good_run_leaves_no_children_either(write_notebook, tmp_path: Path) -> None:
    assert run_notebook(write_notebook(CHILDREN), tmp_path / "out").status == "ok"
    _check_left_overs(tmp_path / "out")


@pytest.mark.parametrize("late", [False, True], ids=["as_it_comes", "control_thread_last"])
def test_a_good_kernel_ends_by_itself(write_notebook, tmp_path: Path, monkeypatch, late: bool) -> None:
    monkeypatch.setattr(client, "SHUTDOWN_S", 100)  # one that had to be ended would be waited for so long
    codes = _noted_exit_codes(monkeypatch)
    hook = "import atexit, os, pathlib\natexit.register(pathlib.Path(os.environ['PWL_LAB_OUT'], 'left').touch)"
    status = run_notebook(write_notebook(hook, *[LATE] * late), tmp_path / "out")
    assert status.status == "ok", status.error
    assert (tmp_path / "out" / "left").exists(), "its exit hooks must have run"
    assert codes == [0]


def test_a_kernel_that_trained_side_by_side_ends_by_itself_too(write_notebook, tmp_path: Path, monkeypatch) -> None:
    place = tmp_path / "temporary"
    place.mkdir()
    monkeypatch.setenv("TMPDIR", str(place))
    work = (
        "import os\nfrom pwl_lab.support.processes import side_by_side\n"
        "side_by_side(os.path.abspath, [{'path': 'a'}] * 2, 'paths')"
    )
    hook = "import atexit, pathlib\natexit.register(pathlib.Path(os.environ['PWL_LAB_OUT'], 'left').touch)"
    status = run_notebook(write_notebook(work, hook), tmp_path / "out", environment={"PWL_LAB_WORKERS": "2"})
    assert status.status == "ok", status.error
    assert (tmp_path / "out" / "left").exists(), "its exit hooks must have run"
    assert not list(place.glob("pymp-*")), "multiprocessing's own exit hook must have run"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_runner_that_is_told_to_stop(write_notebook, tmp_path: Path, number: signal.Signals) -> None:
    process = _started(write_notebook("print('kept')", CHILDREN + WAIT), tmp_path / "out")
    process.send_signal(number)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 1
    assert "killed" in errors
    assert "Traceback" not in errors
    status = json.loads((tmp_path / "out" / "status.json").read_text())
    assert (status["status"], status["cell"], status["error"]["name"]) == ("killed", 1, number.name)
    _check_left_overs(tmp_path / "out")
    assert "kept" in (tmp_path / "out" / "notebook.html").read_text()


def test_a_runner_that_is_killed_outright(write_notebook, tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory() as place:  # whose path is short enough for sockets
        process = _started(write_notebook("print('kept')", CHILDREN + WAIT), tmp_path / "out", TMPDIR=place)
        assert list(Path(place).glob(".part-*"))
        process.kill()
        process.communicate(timeout=20)
        status = json.loads((tmp_path / "out" / "status.json").read_text())
        assert status["status"] == "running", "nobody is left to say how it ended, and it must not look finished"
        _check_gone(tmp_path / "out")
        until(lambda: not list(Path(place).glob(".part-*")))


def test_progress_comes_while_the_notebook_runs(write_notebook, tmp_path: Path) -> None:
    line = "Path(os.environ['PWL_LAB_PROGRESS']).open('a').write('teacher: 10/20\\n')\n"
    process = _started(write_notebook(CHILDREN + line + WAIT), tmp_path / "out")
    assert process.stderr.readline() == "teacher: 10/20\n"
    process.terminate()
    process.communicate(timeout=20)
    _check_gone(tmp_path / "out")


def test_a_fault_of_the_runner_itself_is_a_failed_status(write_notebook, tmp_path: Path, monkeypatch) -> None:
    def broken(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(execute, "write_text", broken)
    with pytest.raises(OSError, match="no space"):
        run_notebook(write_notebook(CHILDREN), tmp_path / "out")
    status = json.loads((tmp_path / "out" / "status.json").read_text())
    assert (status["status"], status["error"]["name"]) == ("failed", "OSError")
    _check_gone(tmp_path / "out")


def test_a_kernel_that_cannot_start(write_notebook, tmp_path: Path, monkeypatch) -> None:
    from pwl_lab.runner import client

    monkeypatch.setattr(client, "KERNEL_COMMAND", [sys.executable, "-c", "raise SystemExit(5)"])
    status = run_notebook(write_notebook("1"), tmp_path / "out")
    assert (status.status, status.error.name) == ("failed", "KernelStartError")


def test_the_guard_spares_what_is_not_its_own() -> None:
    other = subprocess.Popen(["sleep", "600"], start_new_session=True)
    try:
        with KernelGuard() as guard:
            child = subprocess.Popen(["sleep", "600"], start_new_session=True, env=guard.environment({}))
        until(lambda: child.poll() is not None)
        assert other.poll() is None
        assert not guard.folder.exists()
    finally:
        other.kill()
        other.wait()


def test_the_guard_finds_a_process_whose_environment_was_not_there_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = []

    def environment(process: psutil.Process) -> dict[str, str]:
        """As the kernel shows it: empty at the first look at a process that has just started."""
        looks.append(process.pid)
        return process.environ() if looks.count(process.pid) > 1 and process.pid == child.pid else {}

    with KernelGuard() as guard:
        child = subprocess.Popen(["sleep", "600"], start_new_session=True, env=guard.environment({}))
        monkeypatch.setattr(kernel, "_environment_of", environment)
    until(lambda: child.poll() is not None)


def _noted_exit_codes(monkeypatch: pytest.MonkeyPatch) -> list[int | None]:
    """A list to which each run's end adds the exit code of its kernel; None if it has not ended by itself."""
    codes = []

    def end(guard: KernelGuard) -> None:
        if guard._process:
            codes.append(guard._process.poll())
        whole_end(guard)

    whole_end = KernelGuard.end
    monkeypatch.setattr(KernelGuard, "end", end)
    return codes


def _started(source: Path, out: Path, **environment: str) -> subprocess.Popen:
    """`pwl-lab run` on `source`, at the point where the kernel's children exist."""
    process = subprocess.Popen(
        [COMMAND, "run", str(source), "--out", str(out)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | environment,
    )
    until(lambda: len((out / "pids").read_text().split()) == 3 if (out / "pids").exists() else False, seconds=60)
    return process


def _check_left_overs(out: Path) -> None:
    """The files of a run are there and complete, its processes are not."""
    _check_gone(out)
    for name in ("notebook.ipynb", "notebook.html", "params.json", "status.json"):
        assert (out / name).stat().st_size > 0
    assert [path.name for path in out.iterdir() if path.name.startswith(".")] == []


def _check_gone(out: Path) -> None:
    """The kernel and both of its children have ended."""
    numbers = [int(number) for number in (out / "pids").read_text().split()]
    until(lambda: not any(alive(number) for number in numbers))
