"""An executed notebook as one HTML file that needs no network: styles and images inside, formulas as MathML.

nbconvert's own page asks three content delivery networks for scripts (require.js, MathJax, the widget manager). Here
formulas become MathML, which browsers draw themselves, and where a live widget stood, a note and what the widget last
showed.
"""

import copy
import html
import logging
import re
import threading
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
from latex2mathml.converter import convert
from nbconvert.exporters import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from nbformat import NotebookNode
from nbformat.v4 import new_markdown_cell, new_output

from pwl_lab.runner.parameters import heading_of
from pwl_lab.runner.run_folder import PAGE, RunStatus
from pwl_lab.runner.verdict import VIEW, reachable, views, widget_models
from pwl_lab.support.files import write_text

NOTE = '<p class="widget-note">{} could not be shown here; the executed notebook has it.</p>'

# Scripts and styles that an output brings along from elsewhere (matplotlib's player asks a network for its icons, for
# which the rules in the template stand in).
_REMOTE_SCRIPT = re.compile(r"<script\b[^>]*\bsrc\s*=\s*[\"']?(?:https?:)?//[^>]*>.*?</script>", re.I | re.S)
_REMOTE_LINK = re.compile(r"<link\b[^>]*\bhref\s*=\s*[\"']?(?:https?:)?//[^>]*>", re.I)
_DOLLARS = re.compile(r"^\s*(\$\$|\$|\\\[|\\\()(.*?)(\$\$|\$|\\\]|\\\))\s*$", re.S)
_ONE_PAGE = threading.Lock()  # the filters of warnings are the whole process's, and several runs may write a page


def write_page(nb: NotebookNode, target: Path, status: RunStatus, folder: Path) -> str | None:
    """Write `nb` as a page; `folder` is where the images that its markdown names lie.

    Nothing is raised: how the run ended does not hang on whether it can be shown. Returns what could not be, and why: a
    cell, in whose place its source stands, or the page as a whole; None where all is there.
    """
    try:
        name = heading_of(nb) or Path(status.notebook).stem
        failed_at = None if status.cell is None else nb.cells[status.cell].get("id", "")
        resources = {"metadata": {"name": name, "path": str(folder)}, "run": status, "failed_at": failed_at}
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
        return f"{target.name} could not be made ({_words(error)})"


def _html(nb: NotebookNode, resources: Mapping[str, Any]) -> str:
    """The page of a notebook without widgets."""
    template = (Path(__file__).parent / "templates" / "page.html.j2").read_text(encoding="utf-8")
    exporter = PageExporter(  # type: ignore[no-untyped-call]  # nbconvert has no types for it
        raw_template=template,
        embed_images=True,
        filters={"latex_output": latex_output},
        log=logging.getLogger("pwl_lab.runner"),
    )
    with _ONE_PAGE, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # nbconvert warns of outputs that have no HTML form
        page, _ = exporter.from_notebook_node(nb, copy.deepcopy(dict(resources)))
    return _REMOTE_LINK.sub("", _REMOTE_SCRIPT.sub("", page))


def _replace_bad_cells(nb: NotebookNode, resources: Mapping[str, Any]) -> str | None:
    """Replace what cannot be shown of each cell; which cells these are, and why the first of them cannot."""
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
    """Why this cell alone cannot be shown; None where it can."""
    try:
        _html(NotebookNode(nb, cells=[cell]), resources)
    except Exception as error:  # noqa: BLE001 - as above
        return error
    return None


def _stand_in(nb: NotebookNode, cell: NotebookNode, resources: Mapping[str, Any]) -> NotebookNode:
    """The cell without those of its outputs that cannot be shown; where that is not it, its source as it was written."""
    if cell.cell_type == "code":
        kept = [out for out in cell.outputs if not _error_of(nb, NotebookNode(cell, outputs=[out]), resources)]
        note = new_output("display_data", {"text/html": NOTE.format("An output")})
        rest = NotebookNode(cell, outputs=[*kept, note])
        if not _error_of(nb, rest, resources):
            return rest
    source = html.escape(cell.source)
    for sign in "$\\`*_":  # none of which markdown is to read
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
        renderer = MathRenderer(
            escape=False,
            attachments=context.get("cell", {}).get("attachments", {}),
            embed_images=True,
            path=context.get("resources", {}).get("metadata", {}).get("path", ""),
            anchor_link_text=self.anchor_link_text,
        )
        return MarkdownWithMath(renderer=renderer).render(source)


class MathRenderer(IPythonRenderer):
    """nbconvert's markdown renderer with formulas as MathML."""

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


def mathml(tex: str, display: str) -> str | None:
    """The formula as MathML, None when it holds what the converter does not know: then it stays TeX."""
    try:
        found = convert(tex.strip(), display=display)
    except Exception:  # noqa: BLE001 - it raises whatever it comes upon: StopIteration for \left alone
        return None
    if re.search(r">\\[a-zA-Z]", found):  # an unknown command comes back as its own name
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
    """The outputs that stand for this one on a page without a kernel."""
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
