"""Execute one notebook: check its parameters, run it, judge how it ended, leave its files.

Every notebook is run by `run_notebook`. It leaves in its folder `notebook.ipynb` and `notebook.html` (as far as the
notebook got), `params.json`, `status.json`, the notebook's own `metrics.json`, and `progress.log`.
"""

import math
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pwl_lab.runner import run_folder
from pwl_lab.runner.kernel import KernelGuard, Runs, neutral, stop_on_signal
from pwl_lab.runner.parameters import (
    ResolvedParameters,
    read_notebook,
    resolve_notebook,
    resolve_parameters,
    settings_of,
)
from pwl_lab.runner.run_folder import RunError, RunStatus
from pwl_lab.support import paths
from pwl_lab.support.environment import OUT, PROGRESS, seconds_left
from pwl_lab.support.errors import invalid
from pwl_lab.support.files import settle, write_json, write_text
from pwl_lab.support.paths import commit
from pwl_lab.support.timing import PHASES, phase, totals
from pwl_lab.support.waiting import ticking

__all__ = ["RunStatus", "resolve_notebook", "run_notebook", "settings_of"]

TAIL_EVERY_S = 0.5
GRACE_S = 45.0
# With it jsonschema, which nbformat imports, also checks internationalised addresses; no notebook has any. Its grammar
# takes 1.4 s of a core to build, more than all other imports here together, and no option leaves it out.
UNUSED = "rfc3987_syntax"
_importing = threading.Lock()


def run_notebook(
    notebook: str | Path,
    out: str | Path,
    preset: str | None = None,
    params: Mapping[str, Any] | None = None,
    timeout: int | None = None,
    on_line: Callable[[str], None] | None = None,
    environment: Mapping[str, str] | None = None,
    runs: Runs | None = None,
) -> RunStatus:
    """Execute `notebook` and leave everything in the folder `out`.

    A notebook that fails, runs out of time or is killed is a status, not an exception. In the main thread SIGINT, SIGTERM
    and SIGHUP end the run (status `killed`). One whose time is up (`--stop-after`) has the status `stopped`: its trainings
    have left checkpoints, from which the next run goes on.

    Arguments:
    - `notebook`: a file, a name among the project's notebooks, or how only one of them begins (`04`).
    - `out`: the folder; made if it is missing. What an earlier run left in it is replaced, nothing else.
    - `preset`: `smoke`, `lesson` or `paper`; the notebook's own if None.
    - `params`: values of the notebook's parameters, by name.
    - `timeout`: the longest time of each cell, in seconds.
    - `on_line`: gets each progress line as it comes, in a thread.
    - `environment`: variables that are added to the kernel's.
    - `runs`: the runs that are stopped together; this one is among them while it runs.

    Raises UnknownNameError or InvalidValueError before a kernel starts and before anything is written.
    """
    source = resolve_notebook(notebook)
    original = read_notebook(source)
    parameters = resolve_parameters(original, preset, params or {})
    if timeout is not None and timeout < 1:
        raise invalid("timeout", timeout, "a whole number of seconds from 1")
    folder = paths.local_folder(out)
    if (folder / run_folder.NOTEBOOK).resolve() == source:
        raise invalid("out", str(folder), "the executed notebook would overwrite its source")
    with run_folder.alone_in_folder(folder):
        run_folder.check_replaceable(folder)
        run_folder.clear(folder)
        state = _begun(source, parameters, len(original["cells"]))
        with _recorded(state, folder):
            write_json(folder / run_folder.PARAMS, parameters.resolved | {"given": parameters.given}, lenient=True)
            _execute(state, source, folder, parameters, timeout, on_line, environment or {}, runs or Runs())
        return state


def _begun(source: Path, parameters: ResolvedParameters, cells: int) -> RunStatus:
    """The status of a notebook that starts now; a path inside the project's folder is relative to it."""
    root = paths.root()
    return RunStatus(
        status="running",
        notebook=(source.relative_to(root) if source.is_relative_to(root) else source).as_posix(),
        preset=parameters.preset,
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        cells=cells,
        versions=run_folder.versions(),
        commit=commit(),
    )


@contextmanager
def _recorded(state: RunStatus, folder: Path) -> Iterator[None]:
    """A context in which `status.json` says that the notebook runs, and afterwards how it ended, even if the runner failed."""
    begun, before = time.monotonic(), totals()
    run_folder.write_status(folder, state)  # first, because it says whose the other files are
    try:
        yield
    except BaseException as error:
        state.status, state.error = "failed", RunError(name=type(error).__name__, message=str(error))
        with suppress(OSError):  # the error that ended the run is the one to report
            state.files = run_folder.left_files(folder)
        raise
    finally:
        state.seconds = round(time.monotonic() - begun, 2)
        in_kernel, here = state.phases, totals()
        spent = {name: in_kernel.get(name, 0) + here.get(name, 0) - before.get(name, 0) for name in PHASES}
        spent["other"] = max(0.0, state.seconds - sum(spent.values()))
        state.phases = {name: round(seconds, 2) for name, seconds in spent.items()}
        run_folder.write_status(folder, state)


def _execute(
    state: RunStatus,
    source: Path,
    folder: Path,
    parameters: ResolvedParameters,
    timeout: int | None,
    on_line: Callable[[str], None] | None,
    environment: Mapping[str, str],
    runs: Runs,
) -> None:
    """Run the kernel, write the notebook and its page, and complete `state`."""
    with _without_unused(), phase("kernel"):  # imported here because an invalid run does not need them
        import nbformat

        from pwl_lab.runner.client import Job, execute
        from pwl_lab.runner.page import write_page
        from pwl_lab.runner.verdict import judge

    progress = folder / run_folder.PROGRESS
    # Threads that spin while they wait make a step up to forty times slower if other work needs the same cores.
    waiting = {"OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "PASSIVE")}
    extra = dict(environment) | {OUT.name: str(folder), PROGRESS.name: str(progress)} | waiting
    with KernelGuard() as guard, runs.including(guard), stop_on_signal(runs), _ends(guard), _tail(progress, on_line):
        kernels = guard.environment(extra | neutral(guard.folder))
        job = Job(source, folder / run_folder.NOTEBOOK, parameters.inject, kernels, timeout, guard)
        execute(job)
        state.phases = job.phases
        with phase("kernel"):
            guard.end()
        nb = nbformat.read(source, as_version=4) if job.nb is None else job.nb
        judge(state, job, nb, folder)
        write_text(folder / run_folder.NOTEBOOK, nbformat.writes(nb) + "\n")
        with phase("page"):
            state.page_error = write_page(nb, folder / run_folder.PAGE, state, source.parent)
        state.metrics = (folder / run_folder.METRICS).is_file()
        settle(folder / name for name in run_folder.FILES)  # before the status that lists them
        state.files = run_folder.left_files(folder)
    if guard.stopped_by and state.status == "ok":
        state.status = "killed"
        state.error = RunError(name=guard.stopped_by, message="stopped while the page was written")


@contextmanager
def _ends(guard: KernelGuard) -> Iterator[None]:
    """A context in which the kernel is ended some time after the time is up: not all it does is a training, which stops."""
    left = seconds_left() + GRACE_S
    timer = threading.Timer(min(max(left, 0), threading.TIMEOUT_MAX), guard.stop, [run_folder.TIME_IS_UP])
    timer.daemon = True
    if left < math.inf:
        timer.start()
    try:
        yield
    finally:
        timer.cancel()


@contextmanager
def _without_unused() -> Iterator[None]:
    """A context in which imports behave as if `UNUSED` were not installed; for one thread at a time."""
    with _importing:
        before = sys.modules.setdefault(UNUSED, None)  # type: ignore[arg-type]  # Python's own sign of an absent module
        try:
            yield
        finally:
            if before is None:
                del sys.modules[UNUSED]


@contextmanager
def _tail(file: Path, on_line: Callable[[str], None] | None) -> Iterator[None]:
    """Pass each line appended to `file` to `on_line`, from a thread, until the block ends."""
    if on_line is None:
        yield
        return
    position, rest = 0, ""

    def follow() -> None:
        nonlocal position, rest
        if file.exists():
            with file.open(encoding="utf-8", errors="replace", newline="") as lines:
                lines.seek(position)
                rest += lines.read()
                position = lines.tell()
        *whole, rest = rest.split("\n")
        for line in whole:
            on_line(line)

    with ticking(follow, TAIL_EVERY_S, at_end=True):
        yield
