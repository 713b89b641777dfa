"""Slides of a series run: the cells that its notebooks mark for them, as one reveal.js deck that needs no network.

A cell is marked in JupyterLab (*Property Inspector*, *Slide Type*), which writes `slideshow.slide_type` into its metadata:
`slide`, `subslide`, `fragment` or `notes`; `-` stays on the slide before it. Cells without a mark are left out. A code
cell shows only its output, unless it is tagged `slide-code`. Headings divide a text cell: one that begins a slide starts
at its first heading, one marked `-` or `fragment` ends there. A line on top of each slide names the notebook and the
section.
"""

import logging
import re
from pathlib import Path
from typing import Any

import nbformat
from nbconvert.exporters import SlidesExporter
from nbformat import NotebookNode
from nbformat.v4 import new_notebook

from pwl_lab.runner import links
from pwl_lab.runner.page import TEMPLATES, PageExporter, latex_output, math_font, offline, without_widgets
from pwl_lab.runner.parameters import heading_of, plain_heading, series
from pwl_lab.runner.run_folder import NOTEBOOK, read_status
from pwl_lab.support import paths
from pwl_lab.support.download import Archive, DataFile, DatasetFiles, obtain
from pwl_lab.support.errors import invalid
from pwl_lab.support.files import write_text

SLIDES = "slides.html"
TYPES = ("slide", "subslide", "fragment", "notes", "-")
_HEADING = re.compile(r"^(#{1,6})\s+(.+?)\s*#*$", re.M)
# MIT licence, Hakim El Hattab and contributors. Fetched once, into the folder of the downloads.
REVEAL = DatasetFiles(
    members=(
        DataFile("dist/reveal.js", "46538b52db48724192f59bf46f5e851a18e302777c46f4a34c32709d010d6a29"),
        DataFile("dist/reveal.css", "68f915a11ebf7203c0446576b7e952ff61c5dd02134a8a226ffaf62ed42136d2"),
        DataFile("plugin/notes/notes.js", "df1201d19d03241a2897d39c3d38768177df1cbd4bde06327b321cb83461ae89"),
    ),
    archive=Archive(
        url="https://registry.npmjs.org/reveal.js/-/reveal.js-5.2.1.tgz",
        sha256="359b575dd51bbda32f89b2fd4c7dc46ad7389a805572158916c29252f7a27333",
        folder="package",
    ),
)


class DeckExporter(SlidesExporter, PageExporter):
    """nbconvert's slides, with markdown and formulas as on our pages."""


def write_slides(folder: Path, reveal: Path | None = None) -> Path:
    """Write the deck of the series run in `folder` as its `slides.html`; return that path.

    `reveal`: a folder that holds reveal.js, or its archive; None fetches it where it is not among the downloads yet.

    Raises InvalidValueError where there are no slides to show, MissingDataError without reveal.js.
    """
    if not paths.is_checkout():
        raise paths.needs_checkout("slides need")
    deck = collected(folder)
    place = obtain("reveal.js", REVEAL, reveal)
    parts = {member.name: (place / member.name).read_text(encoding="utf-8") for member in REVEAL.members}
    target = folder / SLIDES
    exporter = DeckExporter(  # type: ignore[no-untyped-call]  # nbconvert is not annotated
        raw_template=(TEMPLATES / "slides.html.j2").read_text(encoding="utf-8"),
        embed_images=True,
        filters={"latex_output": latex_output},
        log=logging.getLogger("pwl_lab.runner"),
    )
    resources: dict[str, Any] = {
        "metadata": {"name": folder.name, "path": str(paths.notebooks())},
        "place": (target.resolve(), folder.resolve()),
        "font": math_font(),
        "parts": {name: text.replace("</script", "<\\/script") for name, text in parts.items()},
    }
    write_text(target, links.relinked(offline(exporter, deck, resources), target, folder))
    return target


def collected(folder: Path) -> NotebookNode:
    """One notebook of all cells that the executed notebooks in `folder` mark for slides, in the order of the series."""
    deck: NotebookNode = new_notebook()
    for stem in (path.stem for path in series()):
        status = read_status(folder / stem)
        if status and status.status == "ok":
            nb = without_widgets(nbformat.read(folder / stem / NOTEBOOK, as_version=4))
            deck.cells += _marked(nb, stem.partition("_")[0])
    if not deck.cells:
        allowed = "the folder of a series run (make run) in whose notebooks some cells have a slide type"
        raise invalid("name", folder.name, allowed)
    return deck


def _marked(nb: NotebookNode, number: str) -> list[NotebookNode]:
    """The cells of one notebook that are marked for slides; the first one begins a slide."""
    title = heading_of(nb) or number
    marked: list[NotebookNode] = []
    section, begun = "", False
    for cell in nb.cells:
        headings = list(_HEADING.finditer(cell.source)) if cell.cell_type == "markdown" else []
        kind = cell.metadata.get("slideshow", {}).get("slide_type")
        if kind in TYPES:
            if not begun and kind != "notes":
                kind = cell.metadata.slideshow.slide_type = "slide"
                begun = True
            begins = kind in ("slide", "subslide")
            if begins:
                cell.metadata.place = _place(title, section, headings[0] if headings else None)
            if headings and kind != "notes":
                at = headings[0].start()
                cell.source = cell.source[at:] if begins else cell.source[:at].rstrip()
            cell.id = f"{number}-{cell.get('id', '')}"
            marked.append(cell)
        section = plain_heading(headings[-1][2]) if headings else section
    return marked


def _place(title: str, section: str, heading: re.Match[str] | None) -> str:
    """Where in the series a slide belongs, unless its own heading says it."""
    if heading is None:
        return title if section in ("", title) else f"{title} › {section}"
    return "" if heading[1] == "#" else title
