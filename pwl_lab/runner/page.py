"""A notebook as one HTML file that needs no network: styles, images and a font for formulas inside.

nbconvert's own page asks three content delivery networks for scripts (require.js, MathJax, the widget manager). Here
formulas become MathML, which browsers draw themselves, and where a live widget stood, a note and what the widget last
showed. Cells tagged `hide-input` and the parameters are folded, links lead from page to page (`links`).
"""

import base64
import copy
import html
import json
import logging
import re
import threading
import warnings
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
import nbformat
from latex2mathml.converter import convert
from nbconvert.exporters import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from nbformat import NotebookNode
from nbformat.v4 import new_markdown_cell, new_output

from pwl_lab.runner import links
from pwl_lab.runner.parameters import heading_of
from pwl_lab.runner.run_folder import PAGE, PARAMS, RunStatus, parse_json
from pwl_lab.runner.verdict import VIEW, reachable, views, widget_models
from pwl_lab.support.files import write_text

NOTE = '<p class="widget-note">{} could not be shown here; the executed notebook has it.</p>'
FOLDED = ("parameters", "injected-parameters", "hide-input")  # the tags of cells whose code is folded
TEMPLATES = Path(__file__).parent / "templates"

# Scripts and styles that an output brings along from elsewhere (matplotlib's player asks a network for its icons, for
# which the rules in the template stand in).
_REMOTE_SCRIPT = re.compile(r"<script\b[^>]*\bsrc\s*=\s*[\"']?(?:https?:)?//[^>]*>.*?</script>", re.I | re.S)
_REMOTE_LINK = re.compile(r"<link\b[^>]*\bhref\s*=\s*[\"']?(?:https?:)?//[^>]*>", re.I)
_DOLLARS = re.compile(r"^\s*(\$\$|\$|\\\[|\\\()(.*?)(\$\$|\$|\\\]|\\\))\s*$", re.S)
_IMAGE = re.compile(r"""(<img\b[^>]*?\bsrc\s*=\s*["'])([^"']+)""", re.I)
_SUMMARY = re.compile(r"(?<=<summary>).*?(?=</summary>)", re.S)
_SECTION = re.compile(r'<h2 id="([^"]*)">(.*?)<a class="anchor-link"', re.S)
_ONE_PAGE = threading.Lock()  # warning filters belong to the whole process, and several runs may write a page at once


def write_page(nb: NotebookNode, target: Path, status: RunStatus, folder: Path) -> str | None:
    """Write `nb` as a page; `folder` contains the images in its markdown.

    Nothing is raised: how a run ended does not depend on whether it can be shown. Returns what could not be shown, and why: a
    cell, which is replaced by its source, or the page as a whole; None if everything is there.
    """
    try:
        resources = _resources(nb, target, folder / Path(status.notebook).name, target.parent.parent)
        failed_at = None if status.cell is None else nb.cells[status.cell].get("id", "")
        resources |= {"run": status, "failed_at": failed_at, "parameters": _parameters(target.parent)}
        plain = without_widgets(nb)
        try:
            page, said = _html(plain, resources), None
        except Exception:  # noqa: BLE001 - of a template, a filter, a converter: each raises what it likes
            said = _replace_bad_cells(plain, resources)
            page = _html(plain, resources)
        write_text(target, page)
        return said
    except Exception as error:  # noqa: BLE001 - as above
        target.unlink(missing_ok=True)
        return f"{target.name} could not be created ({_words(error)})"


def write_source_pages(shown: Iterable[tuple[Path, Path]], base: Path) -> None:
    """Write notebooks that nothing executes as pages of the folder `base`: pairs of a notebook and its page."""
    for source, target in shown:
        nb = nbformat.read(source, as_version=4)
        target.parent.mkdir(exist_ok=True)
        resources = _resources(nb, target, source, base) | {"run": None, "source": source.name}
        write_text(target, _html(nb, resources))


def _resources(nb: NotebookNode, target: Path, source: Path, base: Path) -> dict[str, Any]:
    """The inputs of every page besides the notebook: where it stands among the other pages."""
    return {
        "metadata": {"name": heading_of(nb) or source.stem, "path": str(source.parent)},
        "place": (target.resolve(), base.resolve()),
        "navigation": links.navigation(source.resolve()),
    }


def _parameters(folder: Path) -> dict[str, str]:
    """The parameters of the run in `folder`, as text; empty if they were not recorded."""
    try:
        found = parse_json((folder / PARAMS).read_bytes())
    except (OSError, ValueError):
        return {}
    return {
        name: value if isinstance(value, str) else "none" if value is None else json.dumps(value)
        for name, value in found.items()
        if name != "given"
    }


@cache
def _exporter() -> "PageExporter":
    """The exporter that turns notebooks into pages. One for all: nine tenths of a small page's time compiled its templates."""
    return PageExporter(  # type: ignore[no-untyped-call]  # nbconvert has no types for it
        raw_template=(TEMPLATES / "page.html.j2").read_text(encoding="utf-8"),
        embed_images=True,
        filters={"latex_output": latex_output},
        log=logging.getLogger("pwl_lab.runner"),
    )


def _html(nb: NotebookNode, resources: Mapping[str, Any]) -> str:
    """The page of a notebook without widgets."""
    known = {"mark": links.MARK, "folded": FOLDED, "font": math_font()}
    page = offline(_exporter(), nb, known | dict(resources))
    listed = "".join(f'<li><a href="#{name}">{words}</a></li>' for name, words in _SECTION.findall(page))
    page = page.replace("<!-- sections -->", f"<ol>{listed}</ol>" if listed else "")
    return links.relinked(page, *resources["place"]) if "place" in resources else page


def offline(exporter: HTMLExporter, nb: NotebookNode, resources: dict[str, Any]) -> str:
    """What `exporter` makes of the notebook, without scripts and styles from elsewhere."""
    with _ONE_PAGE, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # nbconvert warns about outputs that have no HTML form
        page, _ = exporter.from_notebook_node(nb, copy.deepcopy(resources))
    return without_remote(page)


def without_remote(text: str) -> str:
    """HTML without scripts and styles from elsewhere."""
    return _REMOTE_LINK.sub("", _REMOTE_SCRIPT.sub("", text))


@cache
def math_font() -> str:
    """The font of the formulas, as a data URL (`scripts/math_font.py` made it)."""
    raw = (TEMPLATES / "fonts" / "stix-two-math.woff").read_bytes()
    return "data:font/woff;base64," + base64.b64encode(raw).decode()


def _replace_bad_cells(nb: NotebookNode, resources: Mapping[str, Any]) -> str | None:
    """Replace the parts of each cell that cannot be shown; returns which cells these are, and why the first one failed."""
    bad: dict[int, Exception] = {}
    for index, cell in enumerate(nb.cells):
        error = _error_of(nb, cell, resources)
        if error:
            bad[index] = error
            nb.cells[index] = _stand_in(nb, cell, resources)
    if not bad:
        return None
    names = ("cells " if len(bad) > 1 else "cell ") + ", ".join(map(str, bad))
    return f"{names} could not be shown in {PAGE} ({_words(next(iter(bad.values())))})"


def _error_of(nb: NotebookNode, cell: NotebookNode, resources: Mapping[str, Any]) -> Exception | None:
    """Why this cell cannot be shown by itself; None if it can."""
    try:
        _html(NotebookNode(nb, cells=[cell]), resources)
    except Exception as error:  # noqa: BLE001 - as above
        return error
    return None


def _stand_in(nb: NotebookNode, cell: NotebookNode, resources: Mapping[str, Any]) -> NotebookNode:
    """The cell without the outputs that cannot be shown; if that does not help, its source as text."""
    if cell.cell_type == "code":
        kept = [out for out in cell.outputs if not _error_of(nb, NotebookNode(cell, outputs=[out]), resources)]
        note = new_output("display_data", {"text/html": NOTE.format("An output")})
        rest = NotebookNode(cell, outputs=[*kept, note])
        if not _error_of(nb, rest, resources):
            return rest
    source = html.escape(cell.source)
    for sign in "$\\`*_":  # keep markdown from interpreting them
        source = source.replace(sign, f"&#{ord(sign)};")
    text = f"{NOTE.format('This cell')}\n\n<pre>{source}</pre>"
    return NotebookNode(new_markdown_cell(text), id=cell.get("id", ""))


def _words(error: Exception) -> str:
    """An error on one line."""
    return f"{type(error).__name__}: {error}".splitlines()[0]


class PageExporter(HTMLExporter):
    """nbconvert's HTML with formulas as MathML."""

    @jinja2.pass_context
    def markdown2html(self, context: jinja2.runtime.Context, source: str) -> str:
        """Markdown as HTML, formulas as MathML."""
        resources = context.get("resources", {})
        renderer = PageRenderer(
            escape=False,
            attachments=context.get("cell", {}).get("attachments", {}),
            embed_images=True,
            path=resources.get("metadata", {}).get("path", ""),
            anchor_link_text=self.anchor_link_text,
        )
        renderer.page = resources.get("place", (None,))[0]
        return MarkdownWithMath(renderer=renderer).render(source)


class PageRenderer(IPythonRenderer):
    """nbconvert's markdown renderer with formulas as MathML, and links that lead to pages.

    `page`: the file that is written; where it is None, links stay as they are.
    """

    page: Path | None = None

    def link(self, text: str, url: str, title: str | None = None) -> str:
        """A link: to a notebook's page, where it names one."""
        made = str(super().link(text, url, title))
        opening = links.opening_tag(url, Path(self.path).resolve(), self.page) if self.page else None
        return made if opening is None else re.sub(r'^<a href="[^"]*"', lambda _: opening, made)

    def block_html(self, html: str) -> str:
        """HTML as it is written, with the formulas in what a folded text is called."""
        return with_formulas_in_summaries(str(super().block_html(html)))

    def _html_embed_images(self, html: str) -> str:
        """The HTML with its images embedded. nbconvert would parse it, and so close a `<details>` before its content."""
        return _IMAGE.sub(lambda found: found[1] + (self._src_to_base64(found[2]) or found[2]), html)

    def inline_math(self, body: str) -> str:
        """A formula in a line of text."""
        return mathml(body, "inline") or super().inline_math(body)

    def block_math(self, body: str) -> str:
        """A formula on a line of its own."""
        return mathml(body, "block") or super().block_math(body)

    def latex_environment(self, name: str, body: str) -> str:
        """A formula written as an environment (align, equation)."""
        text = f"\\begin{{{name}}}{body}\\end{{{name}}}"
        return mathml(text, "block") or super().latex_environment(name, body)


def with_formulas_in_summaries(text: str) -> str:
    """HTML, or markdown, in which what a folded text is called has its formulas as MathML: markdown is not read there."""
    return _SUMMARY.sub(lambda words: re.sub(r"\$([^$]+)\$", _formula, words[0]), text)


def _formula(found: re.Match[str]) -> str:
    """A formula between dollars as MathML."""
    return mathml(found[1], "inline") or found[0]


def mathml(tex: str, display: str) -> str | None:
    """The formula as MathML, None when it holds what the converter does not know: then it stays TeX."""
    try:
        found = convert(tex.strip(), display=display)
    except Exception:  # noqa: BLE001 - it raises whatever it comes upon: StopIteration for \left alone
        return None
    if re.search(r">\\[a-zA-Z]", found):  # the converter returns an unknown command as its name
        return None
    # HTML needs no namespace (and nbconvert would turn it into a prefix in headings), but it needs ampersands escaped.
    return found.replace(' xmlns="http://www.w3.org/1998/Math/MathML"', "").replace(">&<", ">&amp;<")


def latex_output(text: str) -> str:
    """A LaTeX output of a cell (from sympy, say) as MathML, or as escaped text."""
    match = _DOLLARS.match(text)
    return mathml(match.group(2) if match else text, "block") or html.escape(text)


def without_widgets(nb: NotebookNode) -> NotebookNode:
    """A copy in which each live widget is replaced by a note and what it showed last."""
    plain = copy.deepcopy(nb)
    for cell in plain.cells:
        if cell.cell_type == "code":
            cell.outputs = [part for output in cell.outputs for part in _without_widget(nb, output)]
    plain.metadata.pop("widgets", None)
    return plain


def _without_widget(nb: NotebookNode, output: NotebookNode) -> list[NotebookNode]:
    """The outputs that replace this one on a page without a kernel."""
    if VIEW not in output.get("data", {}):
        return [output]
    models = widget_models(nb)
    inside = [model_id for start in views([output]) for model_id in reachable(nb, start)]
    note = '<p class="widget-note">A live control stands here in the notebook.</p>'
    parts = [new_output("display_data", {"text/html": note, "text/plain": "(a live control)"})]
    for model_id in inside:
        shown = models[model_id].get("state", {}).get("outputs", ())
        # An output that displays another widget is reached through that widget.
        parts += [NotebookNode(part) for part in copy.deepcopy(list(shown)) if VIEW not in part.get("data", {})]
    return parts
