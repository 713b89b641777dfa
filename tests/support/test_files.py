"""What we write appears whole, with the mode that the umask gives; what killed writers left goes, what live ones write stays."""

import multiprocessing
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest
from filelock import Timeout

from pwl_lab.support import files
from pwl_lab.support.errors import UnreadableError
from pwl_lab.support.files import (
    new_file,
    new_folder,
    readable,
    sweep,
    usual_mode,
    work_folder,
    write_bytes,
    write_json,
)

pytestmark = pytest.mark.skipif(os.name != "posix", reason="modes and locks are POSIX's")
UMASKS = [0o022, 0o002, 0o077, 0o027]
PATIENCE_S = 60
WRITERS = {
    "file": "with new_file(target) as file: file.write(b'x' * 9); file.flush(); wait()",
    "folder": "with new_folder(target) as part: (part / 'a').write_text('x'); wait()",
    "work": "with work_folder(target) as part: (part / 'a').write_text('x'); wait()",
}
HELD = """
import sys, time
from pathlib import Path
from pwl_lab.support.files import new_file, new_folder, work_folder
target = Path(sys.argv[1])
def wait():
    print('writing', flush=True)
    time.sleep(600)
"""


@pytest.fixture
def umask(request):
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


@pytest.fixture
def writer():
    """Starts a process that is in the middle of writing; none outlives the test."""
    started = []

    def start(kind: str, target: Path) -> subprocess.Popen:
        process = subprocess.Popen([sys.executable, "-c", HELD + WRITERS[kind], target], stdout=subprocess.PIPE)
        started.append(process)
        assert process.stdout.readline() == b"writing\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


def kill(process: subprocess.Popen) -> None:
    process.send_signal(signal.SIGKILL)
    process.wait(PATIENCE_S)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def parts(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name.startswith("."))


@pytest.mark.parametrize("umask", UMASKS, indirect=True, ids=oct)
def test_what_is_new_has_the_mode_that_the_umask_gives(umask, tmp_path):
    write_json(tmp_path / "deep" / "er" / "a.json", 1)
    with new_folder(tmp_path / "deep" / "folder") as part:
        (part / "below").mkdir()
        for path in (part / "private", part / "below" / "private"):
            path.touch(0o600)  # as safetensors leaves a file
    (tmp_path / "downloaded").touch(0o600)
    usual_mode(tmp_path / "downloaded")
    found = {path: mode(path) for path in tmp_path.rglob("*")}
    assert len(found) == 8
    assert found == {path: (0o777 if path.is_dir() else 0o666) & ~umask for path in found}


@pytest.mark.parametrize("write", [new_file, new_folder, work_folder])
def test_an_exception_leaves_what_was_there_and_nothing_else(write, tmp_path):
    write_bytes(tmp_path / "a", b"old")
    with pytest.raises(ZeroDivisionError), write(tmp_path / "a"):
        raise ZeroDivisionError
    assert (tmp_path / "a").read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_name_as_long_as_names_may_be(tmp_path):
    write_bytes(tmp_path / ("a" * 255), b"1")
    assert [path.name for path in tmp_path.iterdir()] == ["a" * 255]


@pytest.mark.parametrize("kind", WRITERS)
def test_what_a_killed_writer_left_is_removed_by_the_next_and_a_live_ones_is_not(kind, tmp_path, writer):
    dead, live = writer(kind, tmp_path / "a"), writer(kind, tmp_path / "a")
    assert len(parts(tmp_path)) == 2
    write_bytes(tmp_path / "b", b"another name")
    assert len(parts(tmp_path)) == 2
    kill(dead)
    write_bytes(tmp_path / "a", b"1")
    (left,) = parts(tmp_path)
    kill(live)
    sweep(tmp_path, "b")
    assert parts(tmp_path) == [left]
    sweep(tmp_path)
    assert parts(tmp_path) == []


@pytest.mark.parametrize("why", ["no locks", "another machine", "Windows"])
def test_where_no_lock_tells_only_what_is_a_day_old_goes(why, tmp_path, writer, monkeypatch):
    kill(writer("folder", tmp_path / "a"))
    (name,) = parts(tmp_path)
    part = tmp_path / name
    if why == "no locks":
        monkeypatch.setattr(files.fcntl, "flock", lambda *_: os.close(-1))  # EBADF, as from an NFS
    elif why == "Windows":
        monkeypatch.setattr(sys, "platform", "win32")
    else:
        monkeypatch.setattr("platform.node", lambda: "elsewhere")
    sweep(tmp_path)
    assert part.is_dir()
    yesterday = time.time() - files.STALE_S - 60
    os.utime(part, (yesterday, yesterday))
    sweep(tmp_path)
    assert part.is_dir(), "a file in it is younger"
    os.utime(part / "a", (yesterday, yesterday))
    sweep(tmp_path)
    assert not part.exists()


def test_on_windows_everything_is_written_settled_and_locked_without_its_locks(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.delattr(files, "fcntl")
    write_json(tmp_path / "a.json", {"a": 1})
    with new_folder(tmp_path / "b") as part:
        (part / "c").write_bytes(b"1")
    files.settle([tmp_path / "a.json", tmp_path / "b" / "c"])
    assert (tmp_path / "b" / "c").read_bytes() == b"1"
    with files.locked(tmp_path / "b"):
        assert (tmp_path / "b" / files.LOCK).is_file()
        with pytest.raises(Timeout), files.locked(tmp_path / "b"):
            pass


@pytest.mark.parametrize("name", [".part-", ".part-two", ".part-of my thesis", ".part-OLD_one8", ".parts", "a.part"])
def test_what_is_nobody_elses_part_is_left_alone_however_old(name, tmp_path):
    (tmp_path / name).touch()
    os.utime(tmp_path / name, (0, 0))
    sweep(tmp_path)
    assert (tmp_path / name).exists()


@pytest.mark.parametrize("write", [new_file, new_folder])
def test_sweeping_all_the_time_costs_no_writer_its_work(write, tmp_path):
    """The moment between the making of a part and its lock is one, too: a second process sweeps, and this one writes."""
    context = multiprocessing.get_context("spawn")
    done = context.Event()
    sweeper = context.Process(target=keep_sweeping, args=(tmp_path, done))
    sweeper.start()
    try:
        for number in range(300):
            with write(tmp_path / f"{number}") as part:
                part.write(b"x") if write is new_file else (part / "a").touch()
    finally:
        done.set()
        sweeper.join(PATIENCE_S)
    assert len(list(tmp_path.iterdir())) == 300


def keep_sweeping(folder: Path, done) -> None:
    while not done.is_set():
        sweep(folder)


def test_a_sweep_between_making_and_locking_makes_the_writer_begin_anew(tmp_path, monkeypatch):
    lock, taken = files._lock, []

    def too_late(part: Path):
        if len(taken) < 3:
            taken.append(part)
            files._remove(part)
        return lock(part)

    monkeypatch.setattr(files, "_lock", too_late)
    write_bytes(tmp_path / "a", b"1")
    assert len(taken) == 3
    assert (tmp_path / "a").read_bytes() == b"1"


def test_threads_that_write_the_same_file_leave_one_of_their_contents(tmp_path):
    def write(letter: bytes) -> None:
        for _ in range(50):
            write_bytes(tmp_path / "a", letter * 10_000)

    threads = [threading.Thread(target=write, args=(letter,)) for letter in (b"x", b"y")]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        with suppress(FileNotFoundError):
            content = (tmp_path / "a").read_bytes()
            assert len(content) == 10_000
            assert len(set(content)) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_what_cannot_be_read_is_said_to_be_that_and_what_is_absent_is_not(tmp_path):
    for number, words in ((13, "Permission denied.*Ask its owner"), (5, "Input/output error")):
        with pytest.raises(UnreadableError, match=f"thing cannot be read .{words}") as caught, readable(tmp_path):
            raise OSError(number, os.strerror(number), "thing")
        assert isinstance(caught.value.__cause__, OSError)
    for absent in (FileNotFoundError, NotADirectoryError):
        with pytest.raises(absent), readable(tmp_path):
            raise absent(2, "x")


def test_a_folder_of_many_files_is_looked_through_as_often_as_one_of_few(tmp_path, monkeypatch):
    looks = []
    ours = files.sweep
    monkeypatch.setattr(files, "sweep", lambda folder, name=None: (looks.append(folder), ours(folder, name)))
    counts = []
    for number in (2, 60):
        looks.clear()
        with new_folder(tmp_path / f"of {number}") as part:
            (part / "below").mkdir()
            for index in range(number):
                for file in (part / f"{index}", part / "below" / f"{index}"):
                    file.touch(0o600)
        counts.append(len(looks))
        done = [path for path in (tmp_path / f"of {number}").rglob("*") if path.is_file()]
        assert len(done) == 2 * number
        (tmp_path / "usual").touch()
        assert {path.stat().st_mode for path in done} == {(tmp_path / "usual").stat().st_mode}
    assert counts == [2, 2], "once for itself, and once for the mode of a new file"
