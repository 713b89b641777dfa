"""What is named in a text is there: modules and names of the package, files of the checkout, commands of the documents."""

import ast
import importlib
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer.main
from sources import DOCUMENTS, MODULES, NOTEBOOKS, ROOT, SCRIPTS, TESTS, read, texts_of, trees

from pwl_lab.cli import app

CONFIGURATION = [ROOT / "pyproject.toml", ROOT / "Makefile", ROOT / ".ci" / "run", *(ROOT / "presets").rglob("*.yaml")]
EVERYTHING = [*MODULES, *SCRIPTS, *TESTS, *NOTEBOOKS, *DOCUMENTS, *CONFIGURATION]
EVERYTHING.remove(Path(__file__))  # its own examples of what is not there

DOTTED = re.compile(r"(?<![\w./-])pwl_lab(?:\.[A-Za-z_]\w*)+")  # a module, or what one holds
TOP = "pwl_lab|tests|scripts|docs|notebooks|presets"
IN_CHECKOUT = re.compile(rf"(?<![\w./-])(?:{TOP})/[\w./-]*\w")
# In the documents, a file of the package goes by its path in there, with a name in it behind a colon.
IN_PACKAGE = re.compile(r"`((?:[a-z]\w*/)?[a-z]\w*\.py)(?:: ([A-Za-z_]\w*)[^`]*)?`")
LINK = re.compile(r"\]\(([^()\s]+)\)|^\[[^\]\n]+\]: (\S+)$", re.MULTILINE)
CODE = re.compile(r"^```.*?^```|`[^`\n]+`", re.MULTILINE | re.DOTALL)
BY_INSTALLATION = {"pwl_lab.egg", "pwl_lab.presets", "pwl_lab.data"}  # -info, and folders packed into the package

each_file = pytest.mark.parametrize("path", EVERYTHING, ids=lambda path: str(path.relative_to(ROOT)))
each_document = pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)


def resolves(dotted: str) -> bool:
    """Whether this is a module of the package, or something in one."""
    parts = dotted.split(".")
    for n_modules in range(len(parts), 0, -1):
        place = ROOT.joinpath(*parts[:n_modules])
        if place.with_suffix(".py").is_file() or place.is_dir():
            return holds(".".join(parts[:n_modules]), parts[n_modules:])
    return False


def holds(module: str, names: list[str]) -> bool:
    """Whether a module has a name, and that the next one."""
    if not names:
        return True
    owner = importlib.import_module(module)
    for index, name in enumerate(names):
        if name in getattr(owner, "__annotations__", {}) or name in getattr(owner, "model_fields", {}):
            return True
        if not hasattr(owner, name):
            return index > 0 and not isinstance(owner, type)  # of an object, an attribute may be set later
        owner = getattr(owner, name)
    return True


def imports(path: Path) -> Iterator[str]:
    """What a file imports from the package, and what it then takes from the modules that it imported."""
    for tree in trees(path):
        modules = {}
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("pwl_lab"):
                for alias in node.names:
                    yield f"{node.module}.{alias.name}"
                    modules[alias.asname or alias.name] = f"{node.module}.{alias.name}"
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in modules:
                yield f"{modules[node.value.id]}.{node.attr}"


@each_file
def test_every_name_of_the_package_in_a_text_is_there(path: Path) -> None:
    named = {name for text in texts_of(path) for name in DOTTED.findall(text)} - BY_INSTALLATION
    assert [name for name in sorted(named) if not resolves(name)] == []


@each_file
def test_every_file_of_the_checkout_in_a_text_is_there(path: Path) -> None:
    named = {name for text in texts_of(path) for name in IN_CHECKOUT.findall(text)}
    missing = [name for name in sorted(named) if not (ROOT / name).exists()]
    assert [name for name in missing if not Path(name).stem.isupper()] == [], "but for stand-ins such as NAME.yaml"


@each_document
def test_every_file_of_the_package_in_a_document_is_there_and_has_the_name_behind_it(path: Path) -> None:
    missing = []
    for name, held in IN_PACKAGE.findall(read(path)):
        places = [
            place for folder in ("pwl_lab", "scripts", "tests") for place in (ROOT / folder).rglob(Path(name).name)
        ]
        modules = [place.relative_to(ROOT).with_suffix("") for place in places if place.match(f"*/{name}")]
        if not any(resolves(".".join([*module.parts, *filter(None, [held])])) for module in modules):
            missing.append(f"{name}: {held}")
    assert missing == []


@pytest.mark.parametrize("path", [*DOCUMENTS, *NOTEBOOKS], ids=lambda path: str(path.relative_to(ROOT)))
def test_code_in_documents_and_notebooks_takes_from_the_package_what_is_there(path: Path) -> None:
    assert [name for name in sorted(set(imports(path))) if not resolves(name)] == []


def links(text: str) -> list[str]:
    """What a text in Markdown links to, the internet left out."""
    found = [inline or defined for inline, defined in LINK.findall(CODE.sub("", text))]
    return [link for link in found if not re.match(r"https?:|mailto:", link)]


def anchors(text: str) -> set[str]:
    """The anchors of its headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def dead_links(text: str, path: Path) -> list[str]:
    """Those of its links that lead to no file, or in a document to no heading."""
    dead = []
    for link in links(text):
        place, _, anchor = link.partition("#")
        target = (path.parent / place).resolve() if place else path
        if not target.exists() or (anchor and target.suffix == ".md" and anchor not in anchors(read(target))):
            dead.append(link)
    return dead


@pytest.mark.parametrize("path", [*DOCUMENTS, *NOTEBOOKS], ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_leads_somewhere(path: Path) -> None:
    text = read(path)
    if path.suffix == ".ipynb":
        cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "markdown"]
        text = "\n\n".join("".join(cell["source"]) for cell in cells)
    assert dead_links(text, path) == []


def test_every_reference_of_the_findings_is_defined() -> None:
    text = CODE.sub("", read(ROOT / "docs" / "findings.md"))
    defined = set(re.findall(r"^\[([^\]]+)\]: ", text, re.MULTILINE))
    used = set(re.findall(r"\[(\d\d\w?)\](?![:(])", text))
    assert used == defined


@each_document
def test_every_command_in_a_document_is_one(path: Path) -> None:
    commands, targets = set(typer.main.get_group(app).commands), re.findall(r"^(\w+):", read(ROOT / "Makefile"), re.M)
    code = " ".join(re.findall(r"`[^`\n]+`|^```sh\n.*?^```", read(path), re.MULTILINE | re.DOTALL))
    assert set(re.findall(r"\bpwl-lab ([a-z]+)", code)) <= commands
    assert set(re.findall(r"\bmake ([a-z]+)", code)) <= set(targets)


def test_the_search_finds_what_is_not_there() -> None:
    assert resolves("pwl_lab.support.files.write_json")
    assert resolves("pwl_lab.support.files")
    assert resolves("pwl_lab.support.config.Settings.load")
    assert not resolves("pwl_lab.support.files.write_yaml")
    assert not resolves("pwl_lab.support.nowhere")
    assert not resolves("pwl_lab.support.config.Settings.unload")
    assert DOTTED.findall("see pwl_lab.cli:app, not runs/pwl_lab.x") == ["pwl_lab.cli"]
    here = ROOT / "docs" / "findings.md"
    assert dead_links("[a](diary.md), [b](none.md), `[c](none.md)`, [d](https://none)\n\n[01]: ../none", here) == [
        "none.md",
        "../none",
    ]
    assert dead_links("[a](#open), [b](diary.md#none)", here) == ["diary.md#none"]
    assert anchors("# Two · words, (50, 4)\n") == {"two--words-50-4"}
    assert IN_CHECKOUT.findall("docs/findings.md, ../docs/none and tests/helpers/.") == [
        "docs/findings.md",
        "tests/helpers",
    ]
