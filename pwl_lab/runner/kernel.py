"""Ownership of everything that a run starts (the kernel, its children, its sockets), so that it ends in every case."""

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Self

import psutil

from pwl_lab.support import environment
from pwl_lab.support.files import work_folder

MARK = environment.RUN_MARK.name
LONGEST_TEMPORARY = 58  # a unix socket's path may have about 100 bytes; below this folder it needs 45
STARTING_S = 0.02  # after which a new process has an environment, by far
REAP_S = 5.0
# The shell blocks in `read` until the runner dies, which closes the other end of the pipe. Then it cleans up as
# KernelGuard.end would have done: the kernel's process group, children that left the group (Linux), the socket folder.
WATCHDOG = """
read _
kill -s KILL -- "-$1"
for file in /proc/[0-9]*/environ; do
    if grep -qsF "$2" "$file"; then pid=${file%/environ}; kill -s KILL "${pid#/proc/}"; fi
done
rm -rf "$3"
"""


class KernelGuard:
    """Owns one run's kernel: `with KernelGuard() as guard: ...` leaves no process behind, however the block ends.

    Three means, since each has a gap: the kernel leads a process group of its own, which is killed; a mark in the
    environment finds children that left the group; a watchdog kills the group when this process itself is killed.
    """

    def __init__(self) -> None:
        """Nothing is running yet; only the folder for the sockets exists."""
        self.mark = uuid.uuid4().hex
        self._at_end = ExitStack()
        self.folder = self._at_end.enter_context(work_folder(_temporary() / "kernel", 0o700))
        self.stopped_by: str | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._watchdog: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        """The guard itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """End everything that the run started."""
        self.end()

    def environment(self, extra: Mapping[str, str]) -> dict[str, str]:
        """The kernel's environment: this process's own, `extra`, and the mark that its children inherit."""
        own = environment_of_kernels()
        # A notebook may run others (a batch of them): they carry its mark as well, and end with it.
        return own | dict(extra) | {MARK: ",".join(filter(None, [own.get(MARK), self.mark]))}

    def started(self, process: subprocess.Popen[bytes]) -> None:
        """Take over the kernel's process, the leader of its own group."""
        self._process = process
        if sys.platform != "win32":
            command = ["/bin/sh", "-c", WATCHDOG, "sh", str(process.pid), self.mark, str(self.folder)]
            # Without the mark of an enclosing run: when that run is ended, the watchdog still has its own work to do.
            own = {name: value for name, value in os.environ.items() if name != MARK}
            self._watchdog = subprocess.Popen(
                command, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True, env=own
            )
        if self.stopped_by:
            self._kill_group()

    def stop(self, reason: str) -> None:
        """Kill the kernel at once and remember why; safe to call from a signal handler."""
        self.stopped_by = reason
        self._kill_group()

    def wait(self, seconds: float) -> None:
        """Wait at most `seconds` for the kernel's process to end by itself."""
        if self._process:
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(seconds)

    def exit_words(self) -> str:
        """How the kernel's process ended, as far as it is known."""
        code = self._process.poll() if self._process else None
        if code is None:
            return "the kernel is gone"
        if code >= 0:
            return f"the kernel process ended with exit code {code}"
        name = signal.Signals(-code).name
        hint = ", often because memory ran out" if name == "SIGKILL" else ""
        return f"the kernel process was ended by signal {-code} ({name}){hint}"

    def end(self) -> None:
        """Kill what is left of the run and remove its sockets."""
        if self._watchdog:
            self._watchdog.kill()
            self._watchdog.communicate()
        self._kill_group()
        self._kill_marked()
        self.wait(REAP_S)
        self._process = self._watchdog = None  # their process ids may be reused
        self._at_end.close()

    def _kill_group(self) -> None:
        """Kill the kernel and every child that stayed in its process group."""
        if self._process is None:
            return
        with suppress(ProcessLookupError, PermissionError):
            if sys.platform != "win32":
                os.killpg(self._process.pid, signal.SIGKILL)
            else:
                self._process.kill()

    def _kill_marked(self) -> None:
        """Kill every process that carries the mark, and repeat until none is found: one may have forked meanwhile.

        None has to be found twice in a row, because the environment of a process that has just started reads as empty.
        """
        clear = False
        for _ in range(10):
            found = [
                process for process in psutil.process_iter() if self.mark in _environment_of(process).get(MARK, "")
            ]
            for process in found:
                with suppress(psutil.Error):
                    process.kill()
            if clear and not found:
                return
            clear = not found
            psutil.wait_procs(found, timeout=0.2)
            time.sleep(STARTING_S if clear else 0)


def environment_of_kernels() -> dict[str, str]:
    """This process's environment without its backend of matplotlib: Agg, say, would leave a notebook without its figures."""
    return {name: value for name, value in environment.settled().items() if name != "MPLBACKEND"}


def neutral(folder: Path) -> dict[str, str]:
    """Variables that hide the user's own IPython and matplotlib configuration from a kernel; `folder` replaces it.

    A user's style or start-up file could change what the study shows, or break it. The user's caches are kept.
    """
    (folder / "matplotlibrc").touch()
    return {"IPYTHONDIR": str(folder / "ipython"), "MATPLOTLIBRC": str(folder / "matplotlibrc"), "PYTHONSTARTUP": ""}


class Runs:
    """The runs that one signal ends together: those under way in any thread, and those that would begin after it."""

    def __init__(self) -> None:
        """No run is under way yet."""
        self.stopped_by: str | None = None
        self._guards: set[KernelGuard] = set()

    def stop(self, reason: str) -> None:
        """Kill the kernel of every run at once and remember why; safe to call from a signal handler."""
        self.stopped_by = self.stopped_by or reason
        for guard in tuple(self._guards):
            guard.stop(self.stopped_by)

    @contextmanager
    def including(self, guard: KernelGuard) -> Iterator[None]:
        """Inside, what stops the runs stops that of `guard`, too."""
        self._guards.add(guard)
        if self.stopped_by:  # only now, so that a signal between the two lines is not lost
            guard.stop(self.stopped_by)
        try:
            yield
        finally:
            self._guards.discard(guard)


@contextmanager
def stop_on_signal(runs: Runs) -> Iterator[None]:
    """Let SIGINT, SIGTERM and SIGHUP stop `runs` (kill the kernels, then finish each status) instead of this process.

    A second signal does what it did before. Outside of the main thread Python has no signal handlers: nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    names = [name for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    # A signal that is already ignored (nohup, a shell's background job) stays ignored.
    before = {getattr(signal, name): signal.getsignal(getattr(signal, name)) for name in names}
    before = {number: handler for number, handler in before.items() if handler is not signal.SIG_IGN}

    def handle(number: int, _frame: FrameType | None) -> None:
        runs.stop(signal.Signals(number).name)
        signal.signal(number, before[number])

    for number in before:
        signal.signal(number, handle)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _temporary() -> Path:
    """The folder for temporary files, or /tmp if its path is too long for unix sockets."""
    folder = tempfile.gettempdir()
    too_long = sys.platform != "win32" and len(os.fsencode(folder)) > LONGEST_TEMPORARY
    return Path("/tmp" if too_long else folder)


def _environment_of(process: psutil.Process) -> dict[str, str]:
    """A process's environment; empty if the process is gone or we may not read it."""
    try:
        return dict(process.environ())
    except (psutil.Error, OSError):
        return {}
