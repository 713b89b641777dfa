"""Several notebooks of a series at once: they overlap, are told apart, and end together when the series is told to."""

import json
import os
import shutil
import signal
import subprocess
from pathlib import Path

import psutil
import pytest
from benches import COMMAND
from processes import alive, until

from pwl_lab.runner import execute
from pwl_lab.runner import series as series_module
from pwl_lab.runner.run_folder import RunError, RunStatus, write_status
from pwl_lab.runner.series import default_jobs, run_series
from pwl_lab.support import paths, processes
from pwl_lab.support.errors import InvalidValueError

HANG_S = 60

START = """
import os, subprocess, time
from pathlib import Path
out = Path(os.environ["PWL_LAB_OUT"])
def say(text):
    Path(os.environ["PWL_LAB_PROGRESS"]).open("a").write(text + "\\n")
def wait_for(file):
    end = time.monotonic() + 50
    while not file.exists():
        assert time.monotonic() < end, f"{file} never came"
        time.sleep(0.02)
"""
# Ends only if the other one runs at the same time.
MEET = START + "say('begins')\n(out / 'here').touch()\nwait_for(out.parent / 'OTHER' / 'here')\nsay('met')"
# Leaves the numbers of its kernel and of a child outside of the kernel's process group, then waits.
HANGS = (
    START
    + "child = subprocess.Popen(['sleep', '600'], start_new_session=True)\n"
    + "(out / 'pids.part').write_text(f'{os.getpid()} {child.pid}')\n"
    + "(out / 'pids.part').rename(out / 'pids')\ntime.sleep(600)"
)


@pytest.fixture
def series_of(tmp_path: Path, monkeypatch, write_notebook):
    """Make a project whose series are these notebooks (name -> code); returns the folder of its runs at `smoke`."""
    root = tmp_path / "project"
    shutil.copytree(paths.presets(), root / "presets")
    (root / "notebooks").mkdir()
    monkeypatch.setenv("PWL_LAB_HOME", str(root))
    monkeypatch.setenv("PWL_LAB_RUNS", str(root / "runs"))
    monkeypatch.delenv(processes.WORKERS, raising=False)

    def make(codes: dict[str, str], **facts: dict[str, object]) -> Path:
        for name, code in codes.items():
            ours = {fact: values[name] for fact, values in facts.items() if name in values}
            write_notebook(
                f"# {name}", code, name=f"project/notebooks/{name}", parameters='preset = "smoke"', pwl_lab=ours
            )
        return root / "runs" / "smoke"

    return make


def test_two_at_once_overlap_are_told_apart_and_come_back_in_order(series_of) -> None:
    # the first one is the last to end
    folder = series_of(
        {
            "00_a": MEET.replace("OTHER", "01_b") + "\nwait_for(out.parent / '02_c' / 'notebook.html')",
            "01_b": MEET.replace("OTHER", "00_a"),
            "02_c": START + "say('alone')",
        }
    )
    lines, ends = [], []
    ended = run_series("smoke", timeout=HANG_S, on_line=lines.append, on_end=ends.append, jobs=2)
    assert [(status.notebook, status.status) for status in ended] == [
        (f"notebooks/{name}.ipynb", "ok") for name in ("00_a", "01_b", "02_c")
    ]
    assert ends[-1] == ended[0]
    assert sorted(lines) == sorted(
        ["== 00_a", "== 01_b", "== 02_c", "00 begins", "00 met", "01 begins", "01 met", "02 alone"]
    )
    assert lines.index("00 begins") < lines.index("00 met")
    page = (folder / "index.html").read_text()
    assert "3 of 3 ok" in page
    assert page.index('id="00_a"') < page.index('id="01_b"') < page.index('id="02_c"')
    assert "from start to finish" in page


def test_a_failing_one_stops_neither_the_other_nor_the_next(series_of) -> None:
    series_of(
        {
            "00_a": START + "wait_for(out.parent / '01_b' / 'notebook.html')",
            "01_b": "1 / 0",
            "02_c": "1 + 1",
        }
    )
    ended = run_series("smoke", timeout=HANG_S, jobs=2)
    assert [status.status for status in ended] == ["ok", "failed", "ok"]
    assert ended[1].error.name == "ZeroDivisionError"


WORKERS = START + f"(out / 'workers').write_text(os.environ.get('{processes.WORKERS}', 'all'))\n"


@pytest.mark.parametrize("jobs", [1, 2])
def test_what_measures_time_runs_alone_with_all_workers_and_the_longest_begin(
    series_of, monkeypatch, jobs: int
) -> None:
    monkeypatch.setattr(processes, "n_cores", lambda: 4)
    names = ["00_timed", "01_a", "02_timed", "03_b", "04_long", "05_longest"]
    timed = dict.fromkeys(("00_timed", "02_timed"), True)
    minutes = {"01_a": 0.5, "04_long": 3, "05_longest": 4.5, "00_timed": 9}
    folder = series_of(dict.fromkeys(names, WORKERS), timed=timed, processor_minutes=minutes)
    lines = []
    ended = run_series("smoke", timeout=HANG_S, on_line=lines.append, jobs=jobs)
    assert [status.notebook for status in ended] == [f"notebooks/{name}.ipynb" for name in names]
    workers = {name: (folder / name / "workers").read_text() for name in names}
    if jobs == 1:
        assert lines == [f"== {name}" for name in names]
        assert set(workers.values()) == {"all"}
        return
    assert sorted(lines[:2]) == ["== 04_long", "== 05_longest"]
    assert sorted(lines[2:4]) == ["== 01_a", "== 03_b"]
    assert lines[4:] == ["== 00_timed", "== 02_timed"]
    assert workers == {name: "all" if name in timed else "2" for name in names}
    begun = {path.parent.name: path.stat().st_mtime_ns for path in folder.glob("*/params.json")}
    done = {path.parent.name: path.stat().st_mtime_ns for path in folder.glob("*/notebook.ipynb")}
    assert max(done[name] for name in names if name not in timed) <= begun["00_timed"]
    assert done["00_timed"] <= begun["02_timed"]


def test_how_many_workers_the_reader_asked_for_is_kept(series_of, monkeypatch) -> None:
    monkeypatch.setenv(processes.WORKERS, "3")
    folder = series_of({"00_a": WORKERS})
    assert run_series("smoke", timeout=HANG_S, jobs=2)[0].status == "ok"
    assert (folder / "00_a" / "workers").read_text() == "3"
    monkeypatch.setenv(processes.WORKERS, "many")
    with pytest.raises(InvalidValueError, match=f"{processes.WORKERS} = 'many'"):
        run_series("smoke", jobs=2)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_series_that_is_told_to_stop_ends_all_that_run(series_of, number: signal.Signals) -> None:
    before = psutil.Process().children(recursive=True)  # other tests may have left helpers of multiprocessing's
    folder = series_of({"00_a": HANGS, "01_b": HANGS, "02_c": "1"})
    write_status(_made(folder / "02_c"), _status("ok"))  # of an earlier run
    process, numbers = _started(folder)
    process.send_signal(number)
    output, errors = process.communicate(timeout=HANG_S)
    assert process.returncode == 1
    assert output.splitlines()[-1] == str(folder / "index.html")
    assert "Traceback" not in errors
    for name in ("00_a", "01_b"):
        status = json.loads((folder / name / "status.json").read_text())
        assert (status["status"], status["cell"], status["error"]["name"]) == ("killed", 3, number.name)
        assert f"killed: notebooks/{name}.ipynb, cell 3" in errors
        assert (folder / name / "notebook.html").stat().st_size > 0
    assert "02_c" not in errors
    page = (folder / "index.html").read_text()
    assert "0 of 3 ok" in page
    assert page.count("✗ killed") == 2
    assert page.count("not run") == 1
    assert not any(map(alive, numbers))
    assert not set(psutil.Process().children(recursive=True)) - set(before)


def test_a_series_that_is_killed_outright_leaves_no_kernel(series_of) -> None:
    process, numbers = _started(series_of({"00_a": HANGS, "01_b": HANGS}))
    process.kill()
    process.communicate(timeout=HANG_S)
    until(lambda: not any(map(alive, numbers)))


def test_a_fault_of_the_runner_ends_the_others_and_is_raised(series_of, monkeypatch) -> None:
    folder = series_of({"00_a": HANGS, "01_b": "1", "02_c": "1"})
    whole = execute.run_notebook

    def broken(source: Path, *words, **named) -> RunStatus:
        if source.stem == "00_a":
            return whole(source, *words, **named)
        until(lambda: (folder / "00_a" / "pids").exists(), HANG_S)
        raise OSError("no space left on device")

    monkeypatch.setattr(series_module, "run_notebook", broken)
    with pytest.raises(OSError, match="no space"):
        run_series("smoke", timeout=HANG_S, jobs=2)
    status = json.loads((folder / "00_a" / "status.json").read_text())
    assert (status["status"], status["error"]["name"]) == ("killed", "OSError")
    assert "✗ killed" in (folder / "index.html").read_text()
    assert not any(alive(int(number)) for number in (folder / "00_a" / "pids").read_text().split())


def test_jobs_have_to_be_at_least_one_and_are_one_a_core(series_of, monkeypatch) -> None:
    folder = series_of({"00_a": "1"})
    for jobs in (0, -2):
        with pytest.raises(InvalidValueError, match=f"jobs = {jobs} is not allowed: a whole number from 1"):
            run_series("smoke", jobs=jobs)
    assert not folder.exists()
    monkeypatch.setattr(processes, "n_cores", lambda: 5)
    monkeypatch.setattr(series_module, "device", lambda: "cpu")
    assert default_jobs() == 5
    monkeypatch.setattr(series_module, "device", lambda: "cuda")
    assert default_jobs() == 1


def _started(folder: Path) -> tuple[subprocess.Popen, list[int]]:
    """`pwl-lab series --jobs 2`, at the point where both notebooks wait; and the numbers of what they started."""
    command = [COMMAND, "series", "--preset", "smoke", "--jobs", "2"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ)
    files = [folder / name / "pids" for name in ("00_a", "01_b")]
    until(lambda: all(file.exists() for file in files), HANG_S)
    return process, [int(number) for file in files for number in file.read_text().split()]


def _made(folder: Path) -> Path:
    """The folder, made."""
    folder.mkdir(parents=True)
    return folder


def _status(state: str, error: RunError | None = None) -> RunStatus:
    return RunStatus(status=state, notebook="n", started="s", cells=1, versions={}, commit=None, error=error)
