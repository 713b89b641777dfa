"""The series: all notebooks in order, several at once, and the page that lists them."""

import json
import platform
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jinja2

from pwl_lab.runner.execute import run_notebook
from pwl_lab.runner.kernel import Runs, stop_on_signal
from pwl_lab.runner.parameters import heading_of, read_notebook, resolve_notebook, resolve_parameters, series
from pwl_lab.runner.run_folder import (
    METRICS,
    NOTEBOOK,
    PAGE,
    RunStatus,
    alone_in_folder,
    check_replaceable,
    clear,
    read_status,
)
from pwl_lab.study.settings import BATCH
from pwl_lab.support import paths, processes
from pwl_lab.support.config import device, read_preset
from pwl_lab.support.environment import WORKERS
from pwl_lab.support.errors import PwlLabError, invalid, unknown
from pwl_lab.support.files import write_text

HEADLINES = 8  # metrics of a notebook that the index page shows
LONGEST_TEXT = 40
INDEX = "index.html"
TITLE = "Series run: "


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

    They start in order, those that train side by side last. A failure does not end the series; a signal ends all that run
    and begins no other. `runs/<name>/index.html` is renewed whenever one ends.

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
    side_by_side = [source for source in chosen if _trains_side_by_side(source, preset)]
    alone = side_by_side if jobs > 1 else []
    shared = _shared_workers(jobs)
    run = _SeriesRun(folder, preset, timeout, on_line, on_end)
    with alone_in_folder(folder), stop_on_signal(run.runs):
        _check_index(folder)
        for source in chosen:
            check_replaceable(folder / source.stem)
        for source in chosen:
            clear(folder / source.stem)
        try:
            run.batch([source for source in chosen if source not in alone], jobs, shared)
            run.batch(alone, 1, {})
        finally:
            run.renew_index()
    return [run.ended[source] for source in chosen if source in run.ended]


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
        raise invalid("name", name, f"{folder} has another use; a series needs a folder of its own")
    return folder


def _spelt(path: Path) -> tuple[str, ...]:
    """A path as a file system that does not tell upper and lower case apart may know it."""
    return tuple(part.casefold() for part in path.absolute().parts)


def _chosen(only: Sequence[str]) -> list[Path]:
    """The notebooks to run, in the order of the series."""
    known = series()
    if not known:
        raise unknown("series in", str(paths.notebooks()), [])
    wanted = [resolve_notebook(part) for entry in only for part in entry.split(",")]
    for path in wanted:
        if path not in known:
            raise unknown("notebook of the series", path.stem, [each.stem for each in known])
    return [path for path in known if path in wanted] if wanted else known


def _trains_side_by_side(source: Path, preset: str) -> bool:
    """Check that the notebook can be run at `preset`; whether it trains side by side, and so wants all cores."""
    nb = read_notebook(source)
    resolve_parameters(nb, preset, {})
    return bool(nb["metadata"].get("pwl_lab", {}).get("side_by_side"))


def _shared_workers(jobs: int) -> dict[str, str]:
    """What tells each of `jobs` notebooks at once to take its share of the cores, should it train side by side."""
    workers = processes.n_workers()
    return {} if jobs == 1 or WORKERS.get() else {WORKERS.name: str(max(1, workers // jobs))}


@dataclass
class _SeriesRun:
    """What the notebooks of a series run have in common, and how each that has ended did so."""

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
        """Run one notebook; None where the series was stopped before it could begin."""
        if self.runs.stopped_by:
            return None
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
        """Hand on a line or a status, if somebody listens."""
        if listener:
            with self.speaking:
                listener(what)

    def renew_index(self) -> None:
        """Write the index page over what there is by now."""
        write_index(self.folder, time.monotonic() - self.begun)


def write_index(folder: Path, seconds: float | None = None) -> Path:
    """Write `index.html` over the notebook folders in `folder`, from their status files; return its path.

    `seconds`: how long the run that writes it has taken so far.
    """
    sources = {path.stem: path for path in series()}
    others = {path.parent.name for path in folder.glob("*/status.json")} - set(sources)
    found = {stem: read_status(folder / stem) for stem in (*sources, *sorted(others))}
    rows = [
        {
            "stem": stem,
            "heading": _heading(sources.get(stem)) or stem,
            "status": status,
            "files": {name for name in (PAGE, NOTEBOOK, METRICS) if (folder / stem / name).is_file()},
            "metrics": headlines(_metrics(folder / stem / METRICS)),
        }
        for stem, status in found.items()
    ]
    templates = jinja2.Environment(autoescape=True, trim_blocks=True, loader=jinja2.PackageLoader("pwl_lab.runner"))
    page = templates.get_template("series.html.j2")
    text = page.render(title=TITLE + folder.name, facts=_facts(found, seconds), rows=rows, duration=_duration)
    write_text(folder / INDEX, text)
    return folder / INDEX


def _check_index(folder: Path) -> None:
    """Raise InvalidValueError where `folder` holds an index page that no run of a series has written."""
    try:
        page = (folder / INDEX).read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return
    except OSError as error:
        allowed = f"a folder that can be written to ({error.strerror}: {error.filename})"
        raise invalid("name", folder.name, allowed) from None
    if f"<title>{TITLE}" not in page:
        allowed = f"a folder of the series' own; {folder} holds an {INDEX} that no series run left"
        raise invalid("name", folder.name, allowed)


def headlines(metrics: Any) -> list[tuple[str, str]]:
    """The few scalars at the top of a metrics file, ready to show."""
    if not isinstance(metrics, dict):
        return []
    found = [(name.replace("_", " "), _scalar(value)) for name, value in metrics.items()]
    return [(name, text) for name, text in found if text is not None][:HEADLINES]


def _scalar(value: Any) -> str | None:
    """A metric as text when it is small enough for a headline."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.4g}"
    return value if isinstance(value, str) and len(value) <= LONGEST_TEXT else None


def _facts(found: Mapping[str, RunStatus | None], seconds: float | None) -> list[str]:
    """The line under the title: how many, how long, of what, where."""
    done = [status for status in found.values() if status and status.status != "running"]

    def listed(values: set[str | None]) -> str:
        return ", ".join(sorted(value for value in values if value))

    good = sum(status.status == "ok" for status in done)
    minutes = f"{sum(status.seconds for status in done) / 60:.1f} min of notebooks"
    python, torch = (listed({status.versions.get(name) for status in done}) for name in ("python", "torch"))
    return [
        f"{good} of {len(found)} ok",
        minutes if seconds is None else f"{minutes}, the last run {seconds / 60:.1f} min from start to end",
        f"preset {listed({status.preset for status in done}) or 'none'}",
        f"commit {listed({status.commit and status.commit[:10] for status in done}) or 'unknown'}",
        f"{processes.n_cores()} CPU cores, {platform.system()} {platform.machine()}",
        f"Python {python}, torch {torch}",
        datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    ]


def _duration(seconds: float) -> str:
    """A time as a reader says it."""
    return f"{seconds:.0f} s" if seconds < 60 else f"{seconds / 60:.1f} min"


def _heading(source: Path | None) -> str | None:
    """The notebook's own heading; None if it has none or is missing."""
    try:
        return heading_of(read_notebook(source)) if source else None
    except PwlLabError:
        return None


def _metrics(file: Path) -> Any:
    """The notebook's metrics; None if the file is missing or not JSON."""
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
