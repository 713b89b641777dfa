"""The series: all notebooks in order, several at once, and the page that lists them."""

import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pwl_lab.runner.execute import run_notebook
from pwl_lab.runner.index_page import check_site, join_pages, relink_pages, write_index
from pwl_lab.runner.kernel import Runs, stop_on_signal
from pwl_lab.runner.parameters import read_notebook, resolve_notebook, resolve_parameters, series
from pwl_lab.runner.run_folder import TIME_IS_UP, RunError, RunStatus, alone_in_folder, check_replaceable, clear
from pwl_lab.study.settings import BATCH
from pwl_lab.support import paths, processes
from pwl_lab.support.config import device, read_preset
from pwl_lab.support.environment import WORKERS, seconds_left
from pwl_lab.support.errors import InvalidValueError, invalid, unknown
from pwl_lab.support.files import write_json
from pwl_lab.support.timing import PHASES

TIMING = "timing.json"


def run_series(
    preset: str = "lesson",
    name: str | None = None,
    only: Sequence[str] = (),
    timeout: int | None = None,
    on_line: Callable[[str], None] | None = None,
    on_end: Callable[[RunStatus], None] | None = None,
    jobs: int | None = None,
) -> list[RunStatus]:
    """Execute the notebooks of the series, each into `runs/<name>/<notebook>/`, and return their statuses in its order.

    Several at once start with the longest, so that no core is idle at the end; those that measure time run last, each
    alone. A failure does not end the series; a signal ends all that run and begins no other. `runs/<name>/index.html` is
    renewed whenever one ends, and `timing.json` beside it says where the time went.

    Arguments:
    - `preset`: `smoke`, `lesson` or `paper`.
    - `name`: the folder among the runs; the preset's name if None.
    - `only`: these notebooks alone, each as `run_notebook` takes it; several may be joined by commas.
    - `timeout`: in seconds, for each cell.
    - `on_line`: gets each progress line, with the notebook's number in front.
    - `on_end`: gets the status of each notebook that ends.
    - `jobs`: how many run at once; `default_jobs()` if None.

    All is checked before the first one starts: raises UnknownNameError and InvalidValueError as `run_notebook` does.
    """
    jobs = default_jobs() if jobs is None else jobs
    if jobs < 1:
        raise invalid("jobs", jobs, "a whole number from 1, the number of notebooks that run at once")
    folder = series_folder(preset if name is None else name)
    chosen = _chosen(only)
    read_preset(preset)
    facts = {source: _checked(source, preset) for source in chosen}
    alone = [source for source in chosen if facts[source].get("timed")] if jobs > 1 else []
    together = [source for source in chosen if source not in alone]
    if jobs > 1:
        together.sort(key=lambda source: -(facts[source].get("processor_minutes") or 0))
    run = _SeriesRun(folder, preset, timeout, on_line, on_end)
    with alone_in_folder(folder), stop_on_signal(run.runs):
        check_site(folder)
        for source in chosen:
            check_replaceable(folder / source.stem)
        for source in chosen:
            clear(folder / source.stem)
        try:
            run.batch(together, jobs, _shared_workers(jobs))
            run.batch(alone, 1, {})
        finally:
            run.renew_index()  # first, so that the pages can link to it
            (relink_pages if run.runs.stopped_by else join_pages)(folder)
            run.renew_index()
            run.write_timing(jobs)
    return [run.ended[source] for source in chosen if source in run.ended]


def timing_table(ended: Sequence[RunStatus]) -> list[tuple[str, ...]]:
    """Minutes and seconds of each notebook, in all and by phase; the first row has the names, the last the sums."""
    sums = {name: sum(status.phases.get(name, 0) for status in ended) for name in (*PHASES, "other")}
    shown = [name for name, seconds in sums.items() if seconds >= 0.5]  # rounded to whole seconds below
    rows = [(Path(status.notebook).stem, status.seconds, status.phases) for status in ended]
    rows.append(("all", sum(status.seconds for status in ended), sums))
    cells = [(stem, _clock(total), *(_clock(spent.get(name, 0)) for name in shown)) for stem, total, spent in rows]
    return [("minutes", "all", *shown), *cells]


def _clock(seconds: float) -> str:
    """A duration as minutes and seconds, such as `2:05`."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02}"


def default_jobs() -> int:
    """How many notebooks run at once: one a core; one where there is a GPU, which a training has to itself."""
    return processes.n_cores() if device() == "cpu" else 1


def series_folder(name: str) -> Path:
    """Where the series run called `name` goes. Raises InvalidValueError for a name that is no plain folder name."""
    if not re.fullmatch(r"\w[\w.-]{,99}", name):
        raise invalid("name", name, "up to 100 letters, digits, dots, dashes and underscores, no dot or dash first")
    folder = paths.runs() / name
    mine, others = _spelt(folder), map(_spelt, paths.reserved())
    meets = any(mine[: len(other)] == other or other[: len(mine)] == mine for other in others)
    if meets or folder.is_file() or (folder / BATCH).exists():
        raise invalid("name", name, f"{folder} has another use; a series needs its own folder")
    return folder


def usual_folder(notebook: str) -> Path:
    """Where a run of this notebook alone goes when no folder is given. Raises as `run_notebook` does."""
    stem = resolve_notebook(notebook).stem
    try:
        return series_folder(stem)
    except InvalidValueError:
        raise invalid("out", str(paths.runs() / stem), "a folder used only by this run; give one with --out") from None


def _spelt(path: Path) -> tuple[str, ...]:
    """A path as a case-insensitive file system sees it."""
    return tuple(part.casefold() for part in path.absolute().parts)


def _chosen(only: Sequence[str]) -> list[Path]:
    """The notebooks to run, in the order of the series."""
    known = series()
    if not known and not paths.is_checkout():
        raise paths.needs_checkout("the series needs")
    if not known:
        raise unknown("series in", str(paths.notebooks()), [])
    wanted = [resolve_notebook(part) for entry in only for part in entry.split(",")]
    for path in wanted:
        if path not in known:
            raise unknown("notebook of the series", path.stem, [each.stem for each in known])
    return [path for path in known if path in wanted] if wanted else known


def _checked(source: Path, preset: str) -> dict[str, Any]:
    """Check that the notebook can run at `preset`; returns what its metadata says of it.

    `timed`: it measures time, so nothing may run beside it. `processor_minutes`: what it takes of one core at `lesson`.
    """
    nb = read_notebook(source)
    resolve_parameters(nb, preset, {})
    facts: dict[str, Any] = nb["metadata"].get("pwl_lab", {})
    return facts


def _shared_workers(jobs: int) -> dict[str, str]:
    """The environment that tells each of `jobs` notebooks its share of the cores, in case it trains side by side."""
    workers = processes.n_workers()
    return {} if jobs == 1 or WORKERS.get() else {WORKERS.name: str(max(1, workers // jobs))}


@dataclass
class _SeriesRun:
    """What the notebooks of a series run share, and how those that have ended did so."""

    folder: Path
    preset: str
    timeout: int | None
    on_line: Callable[[str], None] | None
    on_end: Callable[[RunStatus], None] | None
    ended: dict[Path, RunStatus] = field(default_factory=dict)
    runs: Runs = field(default_factory=Runs)
    begun: float = field(default_factory=time.monotonic)
    speaking: threading.Lock = field(default_factory=threading.Lock)  # one line, or one report, at a time

    def batch(self, sources: Sequence[Path], jobs: int, environment: Mapping[str, str]) -> None:
        """Run these, `jobs` at once, until all have ended. What goes wrong in the runner itself stops all and is raised."""
        if not sources or self.runs.stopped_by:
            return
        with ThreadPoolExecutor(jobs) as pool:
            waiting = {pool.submit(self._one, source, environment): source for source in sources}
            try:
                for future in as_completed(waiting):
                    if status := future.result():
                        self.ended[waiting[future]] = status
                        self.renew_index()
                        self._say(self.on_end, status)
            except BaseException as error:
                self.runs.stop(type(error).__name__)
                raise

    def _one(self, source: Path, environment: Mapping[str, str]) -> RunStatus | None:
        """Run one notebook; None if the series was stopped before it could start."""
        if self.runs.stopped_by:
            return None
        if seconds_left() <= 0:
            why = RunError(name=TIME_IS_UP, message="not begun")
            return RunStatus(
                status="stopped", notebook=source.name, error=why, started="", cells=0, versions={}, commit=None
            )
        number = source.stem.partition("_")[0]
        self._say(self.on_line, f"== {source.stem}")
        return run_notebook(
            source,
            self.folder / source.stem,
            self.preset,
            timeout=self.timeout,
            on_line=lambda line: self._say(self.on_line, f"{number} {line}"),
            environment=environment,
            runs=self.runs,
        )

    def _say(self, listener: Callable[[Any], None] | None, what: str | RunStatus) -> None:
        """Pass on a line or a status, if there is a listener."""
        if listener:
            with self.speaking:
                listener(what)

    def write_timing(self, jobs: int) -> None:
        """Write the seconds of each notebook of this run, in all and by phase; and how long `jobs` at once took for all."""
        notebooks = {
            source.stem: {"status": status.status, "seconds": status.seconds, "phases": status.phases}
            for source, status in self.ended.items()
        }
        took = {"seconds": round(time.monotonic() - self.begun, 2), "jobs": jobs}
        write_json(self.folder / TIMING, {"preset": self.preset} | took | {"notebooks": notebooks})

    def renew_index(self) -> None:
        """Write the index page over what there is by now."""
        write_index(self.folder, time.monotonic() - self.begun)
