"""Run the series, several notebooks at once, each into a folder of its own, with an index page over all.

Each runs in a thread: its kernel is a process already, with a guard over it, while a second layer of processes would
have to be watched, signalled and ended, too. Nearly all notebooks use one core at a time, so as many of them run at
once as there are cores. One whose metadata say `side_by_side` trains on all cores: it runs alone, after the others.
Two of those at once would end no sooner, and each would take twice as long.
"""

import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path

from pwl_lab import parallel, paths
from pwl_lab.batch.imports import import_runner
from pwl_lab.batch.index_page import check_index, write_index
from pwl_lab.batch.kernel import Runs, stop_on_signal
from pwl_lab.batch.notebooks import run_notebook
from pwl_lab.batch.own_folder import alone_in_folder, check_replaceable, clear
from pwl_lab.batch.schema import make_plan, read_notebook, resolve_notebook, series
from pwl_lab.batch.status import RunStatus
from pwl_lab.checks import BATCH
from pwl_lab.config import device, read_preset
from pwl_lab.environment import WORKERS
from pwl_lab.errors import invalid, unknown

__all__ = ["run_series", "write_index"]


def run_series(
    preset: str = "lesson",
    name: str | None = None,
    only: Sequence[str] = (),
    timeout: int | None = None,
    on_line: Callable[[str], None] | None = None,
    on_end: Callable[[RunStatus], None] | None = None,
    jobs: int | None = None,
) -> list[RunStatus]:
    """Execute the notebooks of the series (or `only` some), `jobs` at once, each into `runs/<name>/<notebook>/`.

    They are started in order, those that train side by side last; `jobs` is `default_jobs()` unless given. `on_line`
    gets each progress line with the notebook's number in front. A failure does not end the series; a signal ends all
    that run and begins no other. `runs/<name>/index.html` is renewed whenever one ends. The statuses come back in the
    order of the series. All is checked before the first one starts: raises UnknownNameError and InvalidValueError as
    `run_notebook` does.
    """
    jobs = default_jobs() if jobs is None else jobs
    if jobs < 1:
        raise invalid("jobs", jobs, "a whole number from 1: so many notebooks run at once")
    folder = series_folder(preset if name is None else name)
    chosen = _chosen(only)
    read_preset(preset)
    alone = [source for source in chosen if _checked(source, preset)]
    shared = _shared_workers(jobs)
    _check_own(folder, chosen)
    run = _SeriesRun(folder, preset, timeout, on_line, on_end)
    with alone_in_folder(folder), stop_on_signal(run.runs):
        _check_own(folder, chosen)
        for source in chosen:
            clear(folder / source.stem)
        try:
            if jobs == 1:
                run.batch(chosen, 1, {})
            else:
                run.batch([source for source in chosen if source not in alone], jobs, shared)
                run.batch(alone, 1, {})
        finally:
            run.renew_index()
    return [run.ended[source] for source in chosen if source in run.ended]


def _check_own(folder: Path, chosen: Sequence[Path]) -> None:
    """Raise InvalidValueError where the series would replace what no run of ours left."""
    check_index(folder)
    for source in chosen:
        check_replaceable(folder / source.stem)


def default_jobs() -> int:
    """How many notebooks run at once: one a core; one where there is a GPU, which a training has to itself."""
    return parallel.n_cores() if device() == "cpu" else 1


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
        import_runner()
        with ThreadPoolExecutor(jobs) as pool:
            waiting: dict[Future[RunStatus | None], Path] = {
                pool.submit(self._one, source, environment): source for source in sources
            }
            try:
                for future in as_completed(waiting):
                    self._note(waiting[future], future.result())
            except BaseException as error:
                self.runs.stop(type(error).__name__)
                raise

    def _one(self, source: Path, environment: Mapping[str, str]) -> RunStatus | None:
        """Run one notebook; None where the series was stopped before it could begin."""
        if self.runs.stopped_by:
            return None
        number = source.stem.partition("_")[0]
        self._say(f"== {source.stem}")
        return run_notebook(
            source,
            self.folder / source.stem,
            self.preset,
            timeout=self.timeout,
            on_line=self.on_line and (lambda line: self._say(f"{number} {line}")),
            environment=environment,
            runs=self.runs,
        )

    def _say(self, line: str) -> None:
        """Hand on a line."""
        if self.on_line:
            with self.speaking:
                self.on_line(line)

    def _note(self, source: Path, status: RunStatus | None) -> None:
        """Keep how a notebook ended, renew the index page, and report."""
        if status is None:
            return
        self.ended[source] = status
        self.renew_index()
        if self.on_end:
            with self.speaking:
                self.on_end(status)

    def renew_index(self) -> None:
        """Write the index page over what there is by now."""
        write_index(self.folder, time.monotonic() - self.begun)


def _checked(source: Path, preset: str) -> bool:
    """Check that the notebook can be run at `preset`; whether it trains side by side, and so wants all cores."""
    nb = read_notebook(source)
    make_plan(nb, preset, {})
    return bool(nb["metadata"].get("pwl_lab", {}).get("side_by_side"))


def _shared_workers(jobs: int) -> dict[str, str]:
    """What tells each of `jobs` notebooks at once to take its share of the cores, should it train side by side."""
    workers = parallel.n_workers()
    return {} if jobs == 1 or WORKERS.get() else {WORKERS.name: str(max(1, workers // jobs))}


def series_folder(name: str) -> Path:
    """Where the series run called `name` goes. Raises InvalidValueError for a name that is no plain folder name."""
    if not re.fullmatch(r"\w[\w.-]{,99}", name):
        raise invalid("name", name, "up to 100 letters, digits, dots, dashes and underscores, no dot or dash first")
    folder = paths.runs() / name
    if _has_another_use(folder):
        raise invalid("name", name, f"{folder} has another use; a series needs a folder of its own")
    return folder


def _has_another_use(folder: Path) -> bool:
    """Whether this is, holds or lies in a place that is reserved, by any spelling, or a file or a batch is there already."""
    mine = _spelt(folder)
    others = [_spelt(place) for place in paths.reserved()]
    meets = any(mine[: len(other)] == other or other[: len(mine)] == mine for other in others)
    return meets or folder.is_file() or (folder / BATCH).exists()


def _spelt(place: Path) -> tuple[str, ...]:
    """A place as a file system that does not tell upper and lower case apart may know it."""
    return tuple(part.casefold() for part in place.absolute().parts)


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
