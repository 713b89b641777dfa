"""The series: all notebooks in order, several at once, and the page that lists them."""

import platform
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from datetime import UTC, datetime
from json import loads
from pathlib import Path
from typing import Any

import jinja2

from pwl_lab.runner.execute import run_notebook
from pwl_lab.runner.imports import import_runner
from pwl_lab.runner.kernel import Runs, stop_on_signal
from pwl_lab.runner.own_folder import alone_in_folder, check_replaceable, clear
from pwl_lab.runner.parameters import heading_of, make_plan, read_notebook, resolve_notebook, series
from pwl_lab.runner.status import METRICS, NOTEBOOK, PAGE, RunStatus, read_status
from pwl_lab.study.settings import BATCH
from pwl_lab.support import paths, processes
from pwl_lab.support.config import device, read_preset
from pwl_lab.support.environment import WORKERS
from pwl_lab.support.errors import PwlLabError, invalid, unknown
from pwl_lab.support.files import write_text
from pwl_lab.support.processes import n_cores

__all__ = [
    "run_series",
    "write_index",
]


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
    return processes.n_cores() if device() == "cpu" else 1


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
    workers = processes.n_workers()
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


HEADLINES = 8
LONGEST_TEXT = 40
INDEX = "index.html"
TITLE = "Series run: "

TEMPLATE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title>
<style>
:root { color-scheme: light dark; --ink: #1c1c1e; --soft: #5c5c63; --paper: #fff; --card: #f5f5f7; --line: #d9d9de;
  --link: #0b57d0; --good: #1b6e3c; --bad: #b3261e; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #ececf1; --soft: #a5a5ae; --paper: #17171a; --card: #222226; --line: #3a3a40;
    --link: #8ab4f8; --good: #6fcf97; --bad: #ff8a80; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 60rem; padding: 2rem 1.25rem 4rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 0 0 .4rem; }
h2 { font-size: 1.15rem; margin: 0; }
a { color: var(--link); }
.facts { color: var(--soft); margin: 0 0 2rem; }
article { background: var(--card); border: 1px solid var(--line); border-radius: .6rem; padding: 1rem 1.2rem;
  margin: 0 0 1rem; }
.top { display: flex; flex-wrap: wrap; gap: .3rem 1rem; align-items: baseline; justify-content: space-between; }
.state { font-weight: 600; white-space: nowrap; }
.ok { color: var(--good); } .failed, .timeout, .killed { color: var(--bad); } .running, .waiting { color: var(--soft); }
.small { color: var(--soft); font-size: .9rem; margin: .2rem 0 0; }
.links { margin: .5rem 0 0; display: flex; flex-wrap: wrap; gap: .2rem 1.2rem; }
dl { display: grid; grid-template-columns: repeat(auto-fill, minmax(13rem, 1fr)); gap: .5rem 1.5rem;
  margin: .9rem 0 0; }
dt { color: var(--soft); font-size: .85rem; overflow-wrap: anywhere; }
dd { margin: 0; font-variant-numeric: tabular-nums; font-weight: 600; overflow-wrap: anywhere; }
pre { background: var(--paper); border: 1px solid var(--line); border-radius: .4rem; padding: .7rem; margin: .9rem 0 0;
  white-space: pre-wrap; overflow-wrap: anywhere; font: .85rem/1.45 ui-monospace, Menlo, Consolas, monospace; }
</style>
</head>
<body>
<main>
<h1>{{ title }}</h1>
<p class="facts">{{ facts | join(" · ") }}</p>
{% for row in rows %}
<article id="{{ row.stem }}">
<div class="top">
<h2>{% if row.page %}<a href="{{ row.page }}">{{ row.heading }}</a>{% else %}{{ row.heading }}{% endif %}</h2>
<span class="state {{ row.state }}">{{ row.words }}</span></div>
<p class="small">{{ row.facts | join(" · ") }}</p>
{% if row.links %}
<p class="links">{% for name, link in row.links %}<a href="{{ link }}">{{ name }}</a>{% endfor %}</p>
{% endif %}
{% if row.metrics %}
<dl>{% for name, value in row.metrics %}<div><dt>{{ name }}</dt><dd>{{ value }}</dd></div>{% endfor %}</dl>
{% endif %}
{% if row.error %}<pre>{{ row.error }}</pre>{% endif %}
</article>
{% endfor %}
</main>
</body>
</html>
"""

WORDS = {
    "ok": "✓ ok",
    "failed": "✗ failed",
    "timeout": "✗ out of time",
    "killed": "✗ killed",
    "running": "running, or cut off",
    "waiting": "not run",
}


def write_index(folder: Path, seconds: float | None = None) -> Path:
    """Write `index.html` over the notebook folders in `folder`, from their status files; returns its path.

    `seconds`: how long the run that writes it has taken so far.
    """
    stems = [path.stem for path in series()]
    stems += sorted(path.parent.name for path in folder.glob("*/status.json") if path.parent.name not in stems)
    found = {stem: read_status(folder / stem) for stem in stems}
    page = jinja2.Environment(autoescape=True, trim_blocks=True).from_string(TEMPLATE)
    rows = [_row(folder, stem, status) for stem, status in found.items()]
    target = folder / INDEX
    folder.mkdir(parents=True, exist_ok=True)
    write_text(target, page.render(title=TITLE + folder.name, facts=_facts(found, seconds), rows=rows))
    return target


def check_index(folder: Path) -> None:
    """Raise InvalidValueError where `folder` holds a page of that name that is no index of ours."""
    try:
        page = (folder / INDEX).read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return
    except OSError as error:
        raise invalid(
            "name", folder.name, f"a folder that can be written to ({error.strerror}: {error.filename})"
        ) from None
    if f"<title>{TITLE}" not in page:
        raise invalid(
            "name", folder.name, f"a folder of the series' own; {folder} holds an {INDEX} that no series run left"
        )


def headlines(metrics: Any) -> list[tuple[str, str]]:
    """The few scalars at the top of a metrics file, ready to show."""
    if not isinstance(metrics, dict):
        return []
    found = [(name.replace("_", " "), _scalar(value)) for name, value in metrics.items()]
    return [(name, text) for name, text in found if text is not None][:HEADLINES]


def _row(folder: Path, stem: str, status: RunStatus | None) -> dict[str, Any]:
    """What the page says about one notebook."""
    place, state = folder / stem, status.status if status else "waiting"
    files = {"page": PAGE, "notebook": NOTEBOOK, "metrics": METRICS}
    links = [(name, f"{stem}/{file}") for name, file in files.items() if (place / file).is_file()]
    facts = [stem]
    if status and state != "running":
        facts += [_duration(status.seconds), f"preset {status.preset}"]
        facts += [f"commit {status.commit[:10]}"] if status.commit else []
    return {
        "stem": stem,
        "heading": _heading(stem),
        "state": state,
        "words": WORDS[state],
        "facts": facts,
        "page": dict(links).get("page"),
        "links": links,
        "metrics": headlines(_metrics(place)),
        "error": _error_words(status),
    }


def _facts(found: dict[str, RunStatus | None], seconds: float | None) -> list[str]:
    """The line under the title: how many, how long, of what, where."""
    done = [status for status in found.values() if status and status.status != "running"]
    good = sum(status.status == "ok" for status in done)
    presets = sorted({str(status.preset) for status in done})
    commits = sorted({status.commit[:10] for status in done if status.commit})
    python = sorted({str(status.versions.get("python")) for status in done})
    torch = sorted({str(status.versions.get("torch")) for status in done})
    minutes = f"{sum(status.seconds for status in done) / 60:.1f} min of notebooks"
    return [
        f"{good} of {len(found)} ok",
        minutes if seconds is None else f"{minutes}, the last run {seconds / 60:.1f} min from start to end",
        f"preset {', '.join(presets) or 'none'}",
        f"commit {', '.join(commits) or 'unknown'}",
        f"{n_cores()} CPU cores, {platform.system()} {platform.machine()}",
        f"Python {', '.join(python)}, torch {', '.join(torch)}",
        datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    ]


def _duration(seconds: float) -> str:
    """A time as a reader says it."""
    return f"{seconds:.0f} s" if seconds < 60 else f"{seconds / 60:.1f} min"


def _heading(stem: str) -> str:
    """The notebook's own heading, or its name."""
    for path in series():
        if path.stem == stem:
            try:
                return heading_of(read_notebook(path)) or stem
            except PwlLabError:
                return stem
    return stem


def _metrics(place: Path) -> Any:
    """The notebook's metrics, None where there are none."""
    try:
        return loads((place / METRICS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _scalar(value: Any) -> str | None:
    """A metric as text when it is small enough for a headline."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.4g}"
    return value if isinstance(value, str) and len(value) <= LONGEST_TEXT else None


def _error_words(status: RunStatus | None) -> str | None:
    """Where and how a run went wrong."""
    if status is None or status.error is None:
        return None
    place = f"cell {status.cell}" if status.cell is not None else "the notebook"
    source = f"\n    {status.cell_source.splitlines()[0]}" if status.cell_source else ""
    return f"{place}:{source}\n{status.error.name}: {status.error.message}"
