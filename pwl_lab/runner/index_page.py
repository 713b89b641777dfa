"""The pages of a series run as one site: the index, the notebooks that are only shown, and the links between all."""

import base64
import io
import platform
import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jinja2

from pwl_lab.runner import links
from pwl_lab.runner.links import EXERCISES, INDEX
from pwl_lab.runner.parameters import heading_of, read_notebook, series
from pwl_lab.runner.run_folder import (
    METRICS,
    NOTEBOOK,
    PAGE,
    LeftFile,
    RunStatus,
    parse_json,
    read_status,
    write_status,
)
from pwl_lab.support import paths, processes
from pwl_lab.support.errors import PwlLabError, invalid
from pwl_lab.support.files import file_sha256, write_text

TITLE = "Series run: "
THUMBNAIL_WIDTH = 360  # twice what is shown, for displays of high density
_QUESTION = re.compile(r"\*\*Question\.\*\*\s+(.+?)(?:\n\s*\n|\Z)", re.S)
_INLINE_IMAGE = re.compile(r"data:image/png;base64,([A-Za-z0-9+/=]+)")


def write_index(folder: Path, seconds: float | None = None) -> Path:
    """Write `index.html` over the notebook folders in `folder`, from their status files; return its path.

    `seconds`: how long the run that writes it has taken so far.
    """
    sources = {path.stem: path for path in series()}
    others = {path.parent.name for path in folder.glob("*/status.json")} - set(sources)
    found = {stem: read_status(folder / stem) for stem in (*sources, *sorted(others))}
    rows = [_row(folder, stem, sources.get(stem), status) for stem, status in found.items()]
    templates = jinja2.Environment(autoescape=True, trim_blocks=True, loader=jinja2.PackageLoader("pwl_lab.runner"))
    page = templates.get_template("series.html.j2")
    text = page.render(
        title=TITLE + folder.name,
        preset=_listed(status.preset for status in found.values() if status),
        counted=_counted(found),
        facts=_facts(found, seconds),
        rows=rows,
        duration=_duration,
        web=paths.address(web, folder) if (web := paths.web_page() / INDEX).is_file() else None,
    )
    write_text(folder / INDEX, text)
    return folder / INDEX


def join_pages(folder: Path) -> None:
    """Write the pages of the notebooks that a series only shows, and set the links of all pages to what is there.

    A page that was changed since its run is its reader's own, and stays as it is.
    """
    from pwl_lab.runner.page import write_source_pages  # imported here because it loads nbconvert

    shown = list(only_shown(folder))
    write_source_pages(shown, folder)
    relink_pages(folder, [page for _, page in shown])


def relink_pages(folder: Path, shown: Iterable[Path] | None = None) -> None:
    """Set the links of all pages in `folder` to what is there now; pages that were changed since their run stay as they are.

    `shown`: the pages of the notebooks that the series only shows, if they are already known.
    """
    for page in (page for _, page in only_shown(folder)) if shown is None else shown:
        if page.is_file():
            _relink(page, folder)
    for page in sorted(folder.glob(f"*/{PAGE}")):
        status = read_status(page.parent)
        if status and PAGE in status.files and status.files[PAGE].is_at(page) and _relink(page, folder):
            status.files[PAGE] = LeftFile(bytes=page.stat().st_size, sha256=file_sha256(page))
            write_status(page.parent, status)


def _relink(page: Path, folder: Path) -> bool:
    """Set the links of one page; whether that changed it. A page that is right, perhaps of megabytes, is not rewritten."""
    before = page.read_text(encoding="utf-8")
    after = links.relinked(before, page, folder)
    if after != before:
        write_text(page, after)
    return after != before


def check_site(folder: Path) -> None:
    """Raise InvalidValueError where a page of the series would replace one that no series run has left."""
    marks = {folder / INDEX: f"<title>{TITLE}"} | {target: links.MARK for _, target in only_shown(folder)}
    for page, mark in marks.items():
        try:
            text = page.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            continue
        except OSError as error:
            allowed = f"a folder that can be written to ({error.strerror}: {error.filename})"
            raise invalid("name", folder.name, allowed) from None
        if mark not in text:
            name = page.relative_to(folder)
            allowed = f"a folder used only by the series; {folder} has an {name} that is not from a series run"
            raise invalid("name", folder.name, allowed)


def only_shown(folder: Path) -> Iterator[tuple[Path, Path]]:
    """Each notebook that a series shows without running it, and its page: the exercises, and notebooks that lessons link to."""
    notebooks = paths.notebooks()
    known, linked = series(), "".join(path.read_text(encoding="utf-8") for path in series())
    beside = [path for path in sorted(notebooks.glob("*.ipynb")) if path not in known and f"({path.name}" in linked]
    for source in [*sorted((notebooks / EXERCISES).glob("*.ipynb")), *beside]:
        yield source, folder / source.relative_to(notebooks).with_suffix(".html")


def _row(folder: Path, stem: str, source: Path | None, status: RunStatus | None) -> dict[str, Any]:
    """The index entry of one notebook: its question, its result, a figure, and links to its files."""
    original, executed = _read(source), _read(folder / stem / NOTEBOOK)
    nb = original or executed or {"cells": [], "metadata": {}}
    number = stem.partition("_")[0]
    more = {"Exercises": f"{EXERCISES}/{number}_exercises.html", "Solutions": f"{EXERCISES}/{number}_solutions.html"}
    files = {"Executed notebook": f"{stem}/{NOTEBOOK}", "Metrics": f"{stem}/{METRICS}"}
    return {
        "stem": stem,
        "heading": heading_of(nb) or stem,
        "question": question_of(nb),
        "result": result_of(nb, _metrics(folder / stem / METRICS)) if status and status.status == "ok" else None,
        "thumbnail": thumbnail(executed) if executed else None,
        "drawn": nb["metadata"].get("pwl_lab", {}).get("thumbnail_shows", ""),
        "status": status,
        "page": f"{stem}/{PAGE}" if (folder / stem / PAGE).is_file() else None,
        "links": {words: file for words, file in (more | files).items() if (folder / file).is_file()},
    }


def question_of(nb: Mapping[str, Any]) -> str | None:
    """What a notebook asks, as plain text: the paragraph that its first cell begins with **Question.**"""
    first = next((cell["source"] for cell in nb["cells"] if cell["cell_type"] == "markdown"), "")
    found = _QUESTION.search(first)
    if not found:
        return None
    words = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", found[1])
    return " ".join(re.sub(r"[$*`]", "", words).split())


def result_of(nb: Mapping[str, Any], metrics: Any) -> str | None:
    """What a run found, in the sentence of the notebook's metadata (`result` under `pwl_lab`), with numbers of its metrics.

    The sentence is a format string over `metrics.json`, such as `{gap[vgg]:.1f} points`. None where the notebook has
    none, or where the run lacks a number that it names.
    """
    sentence = nb["metadata"].get("pwl_lab", {}).get("result")
    try:
        return str(sentence).format_map(metrics) if sentence else None
    except (AttributeError, IndexError, KeyError, TypeError, ValueError):
        return None


def thumbnail(nb: Mapping[str, Any]) -> str | None:
    """A small copy of a figure as a data URL: of the cell that the metadata name (`thumbnail`), else the first."""
    chosen = nb["metadata"].get("pwl_lab", {}).get("thumbnail")
    cells = [cell for cell in nb["cells"] if cell["cell_type"] == "code"]
    for cell in sorted(cells, key=lambda cell: cell.get("id") != chosen):
        for output in cell.get("outputs", ()):
            if raw := _picture(output.get("data", {})):
                return _small(raw)
    return None


def _picture(data: Mapping[str, Any]) -> bytes | None:
    """The figure in an output, or the first one of a control on a page."""
    text = data.get("image/png")
    found = None if text else _INLINE_IMAGE.search("".join(data.get("text/html") or ""))
    text = found[1] if found else text
    return base64.b64decode("".join(text)) if text else None


def _small(raw: bytes) -> str | None:
    """A picture at thumbnail size, in few colours; None if it is not a picture."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(raw)) as image:
            size = (THUMBNAIL_WIDTH, max(1, round(image.height * THUMBNAIL_WIDTH / image.width)))
            small = image.convert("RGB").resize(size, Image.Resampling.LANCZOS).quantize(64)
    except OSError:
        return None
    file = io.BytesIO()
    small.save(file, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def _counted(found: Mapping[str, RunStatus | None]) -> str:
    """How many notebooks ended well, and how many minutes they took."""
    done = [status for status in found.values() if status and status.status != "running"]
    good = sum(status.status == "ok" for status in done)
    return f"{good} of {len(found)} ok · {sum(status.seconds for status in done) / 60:.1f} min of notebooks"


def _facts(found: Mapping[str, RunStatus | None], seconds: float | None) -> list[str]:
    """The small print: preset, commit, machine, versions, date."""
    done = [status for status in found.values() if status and status.status != "running"]
    python, torch = (_listed(status.versions.get(name) for status in done) for name in ("python", "torch"))
    return [
        *([] if seconds is None else [f"the last run took {seconds / 60:.1f} min from start to finish"]),
        f"preset {_listed(status.preset for status in done) or 'none'}",
        f"commit {_listed(status.commit and status.commit[:10] for status in done) or 'unknown'}",
        f"{processes.n_cores()} CPU cores, {platform.system()} {platform.machine()}",
        f"Python {python}, torch {torch}",
        datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    ]


def _listed(values: Iterable[str | None]) -> str:
    """Those that are known, each once."""
    return ", ".join(sorted({value for value in values if value}))


def _duration(seconds: float) -> str:
    """A duration for readers."""
    return f"{seconds:.0f} s" if seconds < 60 else f"{seconds / 60:.1f} min"


def _read(notebook: Path | None) -> dict[str, Any] | None:
    """The notebook; None if it is missing or unreadable."""
    try:
        return read_notebook(notebook) if notebook and notebook.is_file() else None
    except PwlLabError:
        return None


def _metrics(file: Path) -> Any:
    """The notebook's metrics; None if the file is missing or not JSON."""
    try:
        return parse_json(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
