"""The series, the documents and an API reference as one site that needs no network: Sphinx builds it, with search.

The sources are laid out as in the checkout (`notebooks/`, `docs/`, `data/`, the README as `index.md`), so that relative
links hold; an executed notebook takes the place of its source. Formulas become MathML, as on the pages of a run. Whatever
Sphinx warns about, such as a broken link, is an error.
"""

import html
import io
import re
import shutil
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nbformat
from nbformat import NotebookNode
from nbformat.v4 import new_markdown_cell

from pwl_lab.runner.api_pages import PACKAGE, write_api_pages
from pwl_lab.runner.index_page import only_shown
from pwl_lab.runner.links import EXERCISES, INDEX
from pwl_lab.runner.page import FOLDED, TEMPLATES, mathml, with_formulas_in_summaries, without_remote, without_widgets
from pwl_lab.runner.parameters import series
from pwl_lab.runner.run_folder import NOTEBOOK, RunStatus, read_status
from pwl_lab.support import paths
from pwl_lab.support.errors import MissingDataError, PwlLabError, invalid
from pwl_lab.support.files import work_folder, write_text

if TYPE_CHECKING:
    from docutils import nodes
    from sphinx.application import Sphinx

SITE = "site"
EXTRA = "the packages Sphinx, myst-nb and furo; install them with: pip install -e '.[site]'"
# The order of the documents in the navigation; those that are not named here follow.
DOCUMENTS = ("usage", "teaching", "extend", "grids", "clusters", "glossary", "findings", "decisions", "architecture")
CONTRIBUTING = "CONTRIBUTING.md"
LINKED = ("CITATION.cff", ".pre-commit-config.yaml")  # files at the root that these pages lead to
_COLOUR = re.compile(r"\x1b\[[\d;]*m")  # in Sphinx's messages
CONFIGURATION = {
    "project": "pwl_lab",
    "html_title": "pwl_lab",
    "extensions": ["myst_nb", "pwl_lab.runner.site"],
    "nb_execution_mode": "off",
    "nb_ipywidgets_js": {},  # by default, scripts from a content delivery network
    "nb_code_prompt_show": "Show the code",
    "nb_code_prompt_hide": "Hide the code",
    "myst_enable_extensions": ["dollarmath"],
    "myst_disable_syntax": ["myst_line_comment", "myst_block_break", "myst_target"],  # GitHub has none of them
    "myst_heading_anchors": 6,
    "python_maximum_signature_line_length": 80,
    "add_module_names": False,
    "toc_object_entries": False,
    "html_theme": "furo",
    "html_theme_options": {"navigation_with_keys": True},
    "html_math_renderer": "mathml",
    "html_static_path": [str(TEMPLATES / "site"), str(TEMPLATES / "fonts")],
    "html_css_files": ["site.css"],
    "html_js_files": ["site.js"],
    "html_extra_path": ["extra"],
    "html_copy_source": False,
    "html_show_copyright": False,
    "exclude_patterns": ["extra"],
}


def write_site(folder: Path) -> Path:
    """Build the site of the series run in `folder` as its `site/`; return the first page. An earlier one is replaced.

    A notebook that this run has not executed, or not to its end, stands there with a note.

    Raises InvalidValueError for a folder without executed notebooks, MissingDataError without the packages of the extra
    `site`, PwlLabError for a broken link and whatever else Sphinx warns about. Then nothing has changed.
    """
    if not paths.is_checkout():
        raise paths.needs_checkout("a site needs")
    target = folder / SITE
    if not any((folder / source.stem / NOTEBOOK).is_file() for source in series()):
        command = f"make run NAME={folder.name}, or pwl-lab series --name {folder.name}"
        raise invalid(
            "name", folder.name, f"a run of the series, and {folder} has no executed notebook; first: {command}"
        )
    if target.exists() and not (target / "searchindex.js").is_file():
        raise invalid("name", folder.name, f"a folder used only by the series; its {SITE} is something else")
    with work_folder(target) as part:
        _lay_out(folder, part / "sources")
        _build(part / "sources", part / "built", part / "read")
        if target.exists():
            target.rename(part / "earlier")
        (part / "built").rename(target)
    return target / INDEX


def _lay_out(folder: Path, sources: Path) -> None:
    """Write the sources of the site."""
    root = paths.root()
    shown = [source for source, _ in only_shown(folder)]
    for source in series():
        executed = folder / source.stem / NOTEBOOK
        try:
            nb = nbformat.read(executed if executed.is_file() else source, as_version=4)
        except (ValueError, nbformat.ValidationError):
            raise PwlLabError(f"{executed} is not a notebook; run it again") from None
        _write_notebook(nb, read_status(folder / source.stem), sources / source.relative_to(root))
    for source in shown:
        _write_notebook(nbformat.read(source, as_version=4), None, sources / source.relative_to(root))
    for source in [*_documents(), root / "data" / "README.md", root / CONTRIBUTING]:
        text = source.read_text(encoding="utf-8").replace("](../README.md", "](../index.md")
        write_text(sources / source.relative_to(root), text)
    for name in LINKED:
        shutil.copy(root / name, sources)
    shutil.copytree(paths.grids(), sources / "presets" / "grids")
    for place in (sources, sources / "extra"):  # the second for HTML in the README, which names them itself
        shutil.copytree(root / "docs" / "figures", place / "docs" / "figures")
    write_api_pages(sources / "api")
    _write_contents(shown, sources)


def _write_contents(shown: list[Path], sources: Path) -> None:
    """Write the first page, with the navigation, and the list of the exercises."""
    exercises = [source.stem for source in shown if source.parent.name == EXERCISES]
    lessons = [*series(), *(source for source in shown if source.parent.name != EXERCISES)]
    groups = {
        "The series": [*(f"notebooks/{source.stem}" for source in lessons), f"notebooks/{EXERCISES}/index"],
        "Documents": [*(f"docs/{source.stem}" for source in _documents()), Path(CONTRIBUTING).stem, "data/README"],
        "Code": ["api/index"],
    }
    write_text(sources / "notebooks" / EXERCISES / "index.md", f"# Exercises\n\n{_contents(exercises)}")
    readme = (paths.root() / "README.md").read_text(encoding="utf-8")
    navigation = [_contents(pages, f":caption: {caption}", ":hidden:") for caption, pages in groups.items()]
    write_text(sources / "index.md", "\n\n".join([readme, *navigation]))


def _documents() -> list[Path]:
    """The documents, in the order of the navigation."""
    found = {path.stem: path for path in sorted((paths.root() / "docs").glob("*.md"))}
    return [found[name] for name in sorted(found, key=lambda name: (*DOCUMENTS, name).index(name))]


def _contents(pages: Iterable[str], *options: str) -> str:
    """A list of pages, which the navigation shows too."""
    return "\n".join(["```{toctree}", *options, ":maxdepth: 1", "", *pages, "```"]) + "\n"


def _write_notebook(nb: NotebookNode, status: RunStatus | None, target: Path) -> None:
    """Write a notebook for Sphinx: without live widgets and parts from elsewhere, plumbing folded; and how its run ended."""
    plain = without_widgets(nb)
    for cell in plain.cells:
        if cell.cell_type == "markdown":
            cell.source = with_formulas_in_summaries(cell.source)
        elif set(cell.metadata.get("tags", [])) & set(FOLDED):
            cell.metadata["tags"] = ["hide-input"]
        for output in cell.get("outputs", ()):
            if "text/html" in output.get("data", {}):
                output.data["text/html"] = without_remote("".join(output.data["text/html"]))
    if status is None or status.status != "ok":
        plain.cells.insert(1, new_markdown_cell(_note(target.name, status), id="note"))
    if status is not None:
        plain.cells.append(new_markdown_cell(_facts(status), id="facts"))
    target.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(plain, target)


def _note(name: str, status: RunStatus | None) -> str:
    """What a page says below its title where not all of the notebook was run."""
    if status is None:
        return f"```{{note}}\nNothing in this notebook was run. To work on it, open `{name}` in JupyterLab.\n```"
    where = "" if status.cell is None else f" at cell {status.cell}"
    what = ""
    if status.error:
        first = status.error.message.partition("\n")[0]  # of an assertion without words, nothing
        what = f"\n\n    {status.error.name}: {first}"
    return f"````{{warning}}\nThis run ended as `{status.status}`{where}.{what}\n````"


def _facts(status: RunStatus) -> str:
    """When a run was made, and with what."""
    facts = [f"Run {status.started[:16].replace('T', ' ')} UTC", f"{status.seconds:.0f} s"]
    facts += [f"preset {status.preset}"] if status.preset else []
    facts += [f"commit {status.commit[:10]}"] if status.commit else []
    facts += [f"{name} {status.versions[name]}" for name in ("python", "torch") if status.versions.get(name)]
    return f'<p class="made">{html.escape(", ".join(facts))}.</p>'


def _build(sources: Path, target: Path, read: Path) -> None:
    """Have Sphinx build the pages in `target`; `read` is for what it keeps between reading and writing."""
    try:
        import furo  # noqa: F401
        import myst_nb  # noqa: F401
        from sphinx.application import Sphinx
        from sphinx.util.docutils import docutils_namespace, patch_docutils
    except ImportError:
        raise MissingDataError(f"a site needs {EXTRA}") from None
    warned = io.StringIO()
    with patch_docutils(sources), docutils_namespace(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about the extensions' own code
        app = Sphinx(sources, None, target, read, "html", CONFIGURATION, status=None, warning=warned)
        app.build()
    if text := _COLOUR.sub("", warned.getvalue()).strip():
        raise PwlLabError("the site was not built:\n" + text.replace(f"{sources}/", ""))
    (target / ".buildinfo").unlink(missing_ok=True)


def setup(app: "Sphinx") -> dict[str, Any]:
    """Tell Sphinx how formulas are written, and which names lead nowhere; it calls this."""
    app.add_html_math_renderer("mathml", (_visit_formula, None), (_visit_formula, None))
    app.connect("doctree-read", _unlink)
    return {"parallel_read_safe": True}


def _unlink(app: "Sphinx", document: "nodes.document") -> None:
    """Leave the types of other packages as text.

    Otherwise Sphinx would look through all names for each `int`, and take `bytes` for a field of that name.
    """
    from sphinx.addnodes import pending_xref

    for node in list(document.findall(pending_xref)):
        if node.get("refdomain") == "py" and not node["reftarget"].startswith(PACKAGE):
            node.replace_self(node.children)


def _visit_formula(writer: Any, node: "nodes.Element") -> None:
    """Write a formula as MathML, or as its TeX where that cannot be had."""
    from docutils.nodes import SkipNode

    text = node.astext()
    display = "block" if node.tagname == "math_block" else "inline"
    writer.body.append(mathml(text, display) or f"<code>{html.escape(text)}</code>")
    raise SkipNode
