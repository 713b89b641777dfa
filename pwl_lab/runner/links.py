"""How pages find each other: which page shows a notebook, and the links from one to the next.

A page names in each link the notebook that is meant (`data-notebook`), so that the address can be set again once other
pages have come: `relinked` does that. In a run's folder `runs/NAME/` the page of an executed notebook is
`STEM/notebook.html`, that of one which is only shown `STEM.html`; exercises lie in `exercises/`.
"""

import html
import os
import re
from pathlib import Path

from pwl_lab.runner.parameters import heading_of, read_notebook, series
from pwl_lab.runner.run_folder import PAGE
from pwl_lab.support import paths
from pwl_lab.support.errors import PwlLabError

INDEX = "index.html"
EXERCISES = "exercises"
MARK = "<!-- a page of pwl_lab -->"  # on every page written here except the index
_LINK = re.compile(r'<a\b[^>]*\bdata-notebook="([^"]*)"[^>]*>')
_SET_ANEW = re.compile(r'\s(?:href="[^"]*"|hidden(?:="")?)(?=[\s>])')
_ABSOLUTE = re.compile(r"^([a-z][a-z0-9+.-]*:|//|/|#|$)", re.I)


def page_of(name: str, base: Path) -> Path | None:
    """The page in `base` that shows the notebook `name` (relative to the notebooks' folder); None if there is none.

    The empty name stands for the index page.
    """
    if not name:
        return base / INDEX if (base / INDEX).is_file() else None
    place = base / name.removesuffix(".ipynb")
    return next((page for page in (place / PAGE, place.with_name(f"{place.name}.html")) if page.is_file()), None)


def relinked(text: str, page: Path, base: Path) -> str:
    """The HTML of `page` with each link to a notebook set to what is there now: its page in `base`, else its source.

    A link that stands beside the text (`data-aside`: previous, next, contents) is hidden where there is no page.
    """
    return _LINK.sub(lambda found: _set_anew(found[0], html.unescape(found[1]), page, base), text)


def _set_anew(tag: str, name: str, page: Path, base: Path) -> str:
    """The opening tag of a link to the notebook `name` (with an anchor after a #), with its current address."""
    notebook, _, fragment = name.partition("#")
    there = page_of(notebook, base)
    rest = _SET_ANEW.sub("", tag).removeprefix("<a")
    if there is None and "data-aside" in tag:
        return f'<a href="" hidden{rest}'
    target, place = (there, fragment) if there else (paths.notebooks().resolve() / notebook, "")
    return f'<a href="{html.escape(_between(page, target, place))}"{rest}'


def link(name: str, words: str, relation: str) -> str:
    """A link beside the text to the page of a notebook; `relinked` sets its address."""
    return f'<a data-notebook="{html.escape(name)}" data-aside class="{relation}">{html.escape(words)}</a>'


def opening_tag(url: str, source_folder: Path, page: Path) -> str | None:
    """The `<a ...` of a link that a notebook in `source_folder` writes as `url`; None for one that needs no change.

    A notebook is named, for `relinked`; the address of any other file is relative to the page.
    """
    if _ABSOLUTE.match(url):
        return None
    path, _, fragment = url.partition("#")
    target, folder = Path(os.path.normpath(source_folder / path)), paths.notebooks().resolve()
    if target.suffix == ".ipynb" and target.is_relative_to(folder):
        name = target.relative_to(folder).as_posix()
        return f'<a data-notebook="{html.escape(f"{name}#{fragment}" if fragment else name)}"'
    return f'<a href="{html.escape(_between(page, target, fragment))}"'


def navigation(source: Path) -> list[str]:
    """The links that stand above and below the page of this notebook, in their order."""
    folder = paths.notebooks().resolve()
    number = source.stem.partition("_")[0]
    contents = link("", "Contents", "contents")
    if source.parent == folder / EXERCISES:
        others = [*folder.glob(f"{number}_*.ipynb"), *(folder / EXERCISES).glob(f"{number}_*.ipynb")]
        around = [link(_name(other), _words(other), "up") for other in others if other.name != source.name]
        return [contents, *around]
    known = [path.resolve() for path in series()]
    if source not in known:
        return [contents]
    at = known.index(source)
    links = [link(_name(known[at - 1]), f"← {_title(known[at - 1])}", "previous")] if at else []
    links.append(contents)
    links += [link(_name(path), "Exercises", "up") for path in (folder / EXERCISES).glob(f"{number}_exercises.ipynb")]
    return links + [link(_name(path), f"{_title(path)} →", "next") for path in known[at + 1 : at + 2]]


def _between(page: Path, target: Path, fragment: str) -> str:
    """The address of a file relative to the page."""
    address = paths.address(target, page.parent.resolve())
    return f"{address}#{fragment}" if fragment else address


def _name(notebook: Path) -> str:
    """A notebook's path within the notebooks' folder."""
    return notebook.resolve().relative_to(paths.notebooks().resolve()).as_posix()


def _words(notebook: Path) -> str:
    """The text of a link from an exercise to its lesson, stub or solution."""
    if notebook.parent.name != EXERCISES:
        return _title(notebook)
    return "Solutions" if notebook.stem.endswith(("_solutions", "_solution")) else "Exercises"


def _title(notebook: Path) -> str:
    """The text of a link to this notebook: its heading."""
    try:
        return heading_of(read_notebook(notebook)) or notebook.stem
    except PwlLabError:
        return notebook.stem
