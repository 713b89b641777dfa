"""Run the series, one notebook after another, each into a folder of its own, with an index page over all."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from pwl_lab import paths
from pwl_lab.batch.index_page import write_index
from pwl_lab.batch.notebooks import clear, run_notebook
from pwl_lab.batch.schema import make_plan, read_notebook, resolve_notebook, series
from pwl_lab.batch.status import RunStatus
from pwl_lab.config import read_preset
from pwl_lab.errors import invalid, unknown

__all__ = ["run_series", "write_index"]

STOPPED = ("SIGINT", "SIGTERM", "SIGHUP")


def run_series(
    preset: str = "lesson",
    name: str | None = None,
    only: Sequence[str] = (),
    timeout: int | None = None,
    on_line: Callable[[str], None] | None = None,
    on_end: Callable[[RunStatus], None] | None = None,
) -> list[RunStatus]:
    """Execute the notebooks of the series (or `only` some) in order, each into `runs/<name>/<notebook>/`.

    A failure does not end the series; a signal does. `runs/<name>/index.html` is renewed after each notebook. All is
    checked before the first one starts: raises UnknownNameError and InvalidValueError as `run_notebook` does.
    """
    folder = series_folder(name or preset)
    chosen = _chosen(only)
    read_preset(preset)
    for source in chosen:
        make_plan(read_notebook(source), preset, {})
    for source in chosen:
        clear(folder / source.stem)
    ended = []
    for source in chosen:
        if on_line:
            on_line(f"== {source.stem}")
        ended.append(run_notebook(source, folder / source.stem, preset, timeout=timeout, on_line=on_line))
        write_index(folder)
        if on_end:
            on_end(ended[-1])
        if ended[-1].error is not None and ended[-1].error.name in STOPPED:
            break
    return ended


def series_folder(name: str) -> Path:
    """Where the series run called `name` goes. Raises InvalidValueError for a name that is no plain folder name."""
    folder = paths.runs() / name
    if not re.fullmatch(r"\w[\w.-]*", name) or folder in (paths.store(), paths.downloads()):
        raise invalid("name", name, "letters, digits, dot, dash and underscore, and no folder that has another use")
    return folder


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
