"""The index page of a series run: one self-contained HTML file over the folders of its notebooks."""

import platform
from datetime import UTC, datetime
from json import loads
from pathlib import Path
from typing import Any

import jinja2

from pwl_lab.batch.schema import heading_of, read_notebook, series
from pwl_lab.batch.status import METRICS, NOTEBOOK, PAGE, RunStatus, read_status
from pwl_lab.errors import PwlLabError, invalid
from pwl_lab.files import write_text
from pwl_lab.parallel import n_cores

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
