"""Execute one notebook: check its parameters, run it, judge how it ended, leave its files.

`run_notebook` leaves in its folder `notebook.ipynb` and `notebook.html` (as far as the notebook got), `params.json`,
`status.json`, the notebook's own `metrics.json`, and `progress.log`.
"""

import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pwl_lab.runner import status as files
from pwl_lab.runner.imports import import_runner
from pwl_lab.runner.kernel import KernelGuard, Runs, neutral, stop_on_signal
from pwl_lab.runner.own_folder import alone_in_folder, check_replaceable, clear, folder_at
from pwl_lab.runner.parameters import Plan, make_plan, read_notebook, resolve_notebook, settings_of
from pwl_lab.runner.status import RunError, RunStatus, parse_json
from pwl_lab.support import paths
from pwl_lab.support.environment import OUT, PROGRESS
from pwl_lab.support.errors import invalid
from pwl_lab.support.files import settle, write_json, write_text
from pwl_lab.support.paths import commit

__all__ = ["RunStatus", "resolve_notebook", "run_notebook", "settings_of"]

TAIL_EVERY_S = 0.5
IN_WIDGET = "Raised in a widget's callback; Jupyter shows it inside the widget only.\n"


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
    """Execute `notebook` with this preset and these parameters and leave everything in the folder `out`.

    `timeout` is in seconds per cell; `on_line` gets each progress line as it comes. A notebook that fails, runs out of
    time or is killed is a status, not an exception. In the main thread SIGINT, SIGTERM and SIGHUP end the run (status
    `killed`); in any other it ends when `runs`, among which it then is, are stopped. `environment` is added to the
    kernel's. Raises UnknownNameError or InvalidValueError before a kernel starts and before anything is written.
    """
    source = resolve_notebook(notebook)
    original = read_notebook(source)
    plan = make_plan(original, preset, params or {})
    if timeout is not None and timeout < 1:
        raise invalid("timeout", timeout, "a whole number of seconds from 1")
    folder = folder_at(out)
    if (folder / files.NOTEBOOK).resolve() == source:
        raise invalid("out", str(folder), "the executed notebook would overwrite its source")
    check_replaceable(folder)  # before the folder is made
    with alone_in_folder(folder):
        check_replaceable(folder)
        clear(folder)
        return _run(original, source, folder, plan, timeout, on_line, environment or {}, runs or Runs())


def _run(
    original: Mapping[str, Any],
    source: Path,
    folder: Path,
    plan: Plan,
    timeout: int | None,
    *how: Any,
) -> RunStatus:
    """Run the notebook in its folder, and leave a status whatever happens."""
    begun, started = time.monotonic(), datetime.now(UTC).isoformat(timespec="seconds")
    state = RunStatus(
        status="running",
        notebook=_shown(source),
        preset=plan.preset,
        started=started,
        cells=len(original["cells"]),
        versions=files.versions(),
        commit=commit(),
    )
    files.write_status(folder, state)  # first: it says whose the other files are
    try:
        write_json(folder / files.PARAMS, plan.resolved | {"given": plan.given}, lenient=True)
        _execute(state, source, folder, plan, timeout, *how)
    except BaseException as error:
        state.status = "failed"
        state.error = RunError(name=type(error).__name__, message=str(error))
        with suppress(OSError):  # what ended the run is the one to say
            state.files = files.left_files(folder)
        raise
    finally:
        state.seconds = round(time.monotonic() - begun, 2)
        files.write_status(folder, state)
    return state


def _execute(
    state: RunStatus,
    source: Path,
    folder: Path,
    plan: Plan,
    timeout: int | None,
    on_line: Callable[[str], None] | None,
    environment: Mapping[str, str],
    runs: Runs,
) -> None:
    """Run the kernel, write the notebook and its page, and complete `state`."""
    import_runner()  # only now: a refusal needs nothing of it
    import nbformat

    from pwl_lab.runner.client import Job, execute
    from pwl_lab.runner.page import write_page

    progress = folder / files.PROGRESS
    # Threads that wait by spinning make a step up to forty times slower where other work wants the same cores.
    waiting = {"OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "PASSIVE")}
    extra = dict(environment) | {OUT.name: str(folder), PROGRESS.name: str(progress)} | waiting
    with KernelGuard() as guard, runs.including(guard), stop_on_signal(runs), _tail(progress, on_line):
        job = Job(
            source,
            folder / files.NOTEBOOK,
            plan.inject,
            guard.environment(extra | neutral(guard.folder)),
            timeout,
            guard,
        )
        execute(job)
        guard.end()
        if job.nb is None:
            job.nb = nbformat.read(source, as_version=4)
        _judge(state, job, folder)
        write_text(folder / files.NOTEBOOK, nbformat.writes(job.nb) + "\n")
        state.page_error = write_page(job.nb, folder / files.PAGE, state, source.parent)
        state.metrics = (folder / files.METRICS).is_file()
        settle(folder / name for name in files.FILES)  # before the status that says that they are there
        state.files = files.left_files(folder)
    if guard.stopped_by and state.status == "ok":
        state.status, state.error = (
            "killed",
            RunError(name=guard.stopped_by, message="stopped while the page was written"),
        )


def _judge(state: RunStatus, job: Any, folder: Path) -> None:
    """Complete `state`: what the client saw, then errors in outputs, then those in widgets, then missing metrics."""
    nb = job.nb
    state.status, state.error, state.cell, state.cells = job.status, job.error, job.cell, len(nb.cells)
    if state.status == "ok":
        _find_hidden(state, job)
    if state.status == "ok" and nb.metadata.get("pwl_lab", {}).get("metrics"):
        _check_metrics(state, folder / files.METRICS)
    if state.cell is not None and state.cell_source is None:
        lines = nb.cells[state.cell].source.strip().splitlines()
        state.cell_source = "\n".join(lines[:3]) or None


def _find_hidden(state: RunStatus, job: Any) -> None:
    """Fail `state` on an error that no cell execution reported."""
    from pwl_lab.runner import verdict
    from pwl_lab.runner.client import error_of

    plain = verdict.error_in_outputs(job.nb)
    if plain is not None:
        state.status, state.cell, state.error = "failed", plain[0], error_of(plain[1])
        return
    seen = [(found.model_id, found.cell, found.error) for found in job.widget_errors]
    seen += [(model_id, None, error_of(output)) for model_id, output in verdict.errors_in_widgets(job.nb)]
    for model_id, running, error in seen:
        shown = verdict.displaying_cell(job.nb, model_id)
        cell = shown if shown is not None else running
        if cell is not None and "raises-exception" in job.nb.cells[cell].metadata.get("tags", []):
            continue
        error.traceback = IN_WIDGET + error.traceback
        state.status, state.cell, state.error = "failed", cell, error
        state.cell_source = f"(the output widget {model_id}, which no cell displays)" if cell is None else None
        return


def _check_metrics(state: RunStatus, metrics: Path) -> None:
    """Fail `state` when a notebook that promises metrics left none that can be read."""
    try:
        parse_json(metrics.read_text(encoding="utf-8"))
    except FileNotFoundError:
        text = f"the notebook ran to its end but left no {files.METRICS}, which its metadata promise"
        state.status, state.error = "failed", RunError(name="MissingMetrics", message=text)
    except ValueError as error:
        text = f"{files.METRICS} is not JSON: {error}"
        state.status, state.error = "failed", RunError(name="MissingMetrics", message=text)


@contextmanager
def _tail(file: Path, on_line: Callable[[str], None] | None) -> Iterator[None]:
    """Hand each line that is appended to `file` to `on_line`, from a thread, until the block ends."""
    if on_line is None:
        yield
        return
    done = threading.Event()

    def follow() -> None:
        position, rest = 0, ""
        while True:
            last = done.wait(TAIL_EVERY_S)
            if file.exists():
                with file.open(encoding="utf-8", errors="replace", newline="") as lines:
                    lines.seek(position)
                    rest += lines.read()
                    position = lines.tell()
            *whole, rest = rest.split("\n")
            for line in whole:
                on_line(line)
            if last:
                return

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _shown(source: Path) -> str:
    """The notebook's path as the status shows it: inside the project relative to it."""
    root = paths.root()
    return str(source.relative_to(root)) if source.is_relative_to(root) else str(source)
