"""The API reference of a site: a page for each layer of the package, from its docstrings.

The pages are MyST Markdown, because docstrings here are Markdown. Modules are read, never imported: a signature stands
as in the source, with the shapes of tensors, and a field with the words of its `Field(description=...)` or its comment.
"""

import ast
import inspect
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pwl_lab.support import paths
from pwl_lab.support.files import write_text

PACKAGE = "pwl_lab"
INDEX = "index.md"
_COMMENT = re.compile(r"\s*#\s*(?!type: |noqa)(.+)")
Definition = ast.FunctionDef | ast.AsyncFunctionDef


def write_api_pages(folder: Path) -> None:
    """Write the pages into `folder`, with an `index.md` that lists the layers from the ground up."""
    package = paths.root() / PACKAGE
    about = (
        "Every public class and function, with what its docstring says. Layers stand from the ground up, as in "
        "[architecture](../docs/architecture.md): a layer uses only those before it."
    )
    listed = []
    for layer in _layers():
        write_text(folder / f"{layer}.md", _page(package, layer))
        whole = package / layer / "__init__.py" if (package / layer).is_dir() else package / f"{layer}.py"
        listed.append(f"- [`{layer}`]({layer}.md): {_first_line(_tree(whole))}")
    contents = ["```{toctree}", ":hidden:", "", *_layers(), "```"]
    write_text(folder / INDEX, "\n\n".join(["# API reference", about, "\n".join(listed), "\n".join(contents)]) + "\n")


def _layers() -> list[str]:
    """The layers of the package, from the ground up: those that the linter of imports knows."""
    project = tomllib.loads((paths.root() / "pyproject.toml").read_text(encoding="utf-8"))
    (contract,) = project["tool"]["importlinter"]["contracts"]
    return [layer.removeprefix(f"{PACKAGE}.") for layer in reversed(contract["layers"])]


def _page(package: Path, layer: str) -> str:
    """The page of a layer: a list of its modules, then each of them; or of the one module that it is."""
    if (package / f"{layer}.py").is_file():
        return _Module(package / f"{layer}.py", f"{PACKAGE}.{layer}").section(f"# `{layer}`")
    files = sorted(path for path in (package / layer).glob("*.py") if path.stem != "__init__")
    modules = [_Module(path, f"{PACKAGE}.{layer}.{path.stem}") for path in files]
    listed = [f"- {{py:mod}}`{one.path.stem} <{one.dotted}>`: {_first_line(one.tree)}" for one in modules]
    about = ast.get_docstring(_tree(package / layer / "__init__.py")) or ""
    sections = [one.section(f"## `{one.path.stem}`") for one in modules]
    return "\n\n".join([f"# `{layer}`", about, "\n".join(listed), *sections]) + "\n"


def _first_line(tree: ast.Module) -> str:
    """The first line of a module's docstring."""
    return (ast.get_docstring(tree) or "").partition("\n")[0]


def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


class _Module:
    """One module as MyST directives of Sphinx's Python domain."""

    def __init__(self, path: Path, dotted: str) -> None:
        self.path, self.dotted = path, dotted
        self.tree = _tree(path)
        self.lines = path.read_text(encoding="utf-8").splitlines()
        own = {node.name: f"{dotted}.{node.name}" for node in self.tree.body if isinstance(node, ast.ClassDef)}
        self.types = _Types(own | _imported(self.tree))

    def section(self, heading: str) -> str:
        """Heading, docstring, then every public class and function in the order of the source."""
        parts = [heading, _directive("py:module", self.dotted, [], ""), ast.get_docstring(self.tree) or ""]
        return "\n\n".join([*parts, *self._members(self.tree.body)]) + "\n"

    def _members(self, body: list[ast.stmt]) -> Iterator[str]:
        """The public classes, functions and fields of a module or a class."""
        for node in body:
            if isinstance(node, ast.ClassDef) and _public(node.name):
                yield self._class(node)
            elif isinstance(node, Definition) and _public(node.name):
                yield self._function(node, "function" if node in self.tree.body else "method")
            elif isinstance(node, ast.AnnAssign) and body is not self.tree.body and _public(ast.unparse(node.target)):
                yield self._field(node)

    def _class(self, node: ast.ClassDef) -> str:
        """A class: what it is called with, what it builds on, its docstrings, its members."""
        start = next((one for one in node.body if isinstance(one, Definition) and one.name == "__init__"), None)
        bases = ", ".join(f"{{py:class}}`{self.types.written(base)}`" for base in node.bases)
        about = [f"Builds on {bases}." if bases else "", ast.get_docstring(node) or ""]
        about += [ast.get_docstring(start) or ""] if start else []
        signature = node.name + (self._signature(start, bound=True) if start else "")
        body = "\n\n".join([*filter(None, about), *self._members(node.body)])
        return _directive("py:class", signature, [], body, fence=7)

    def _function(self, node: Definition, kind: str) -> str:
        """A function, method or property."""
        marks = {ast.unparse(mark).rpartition(".")[2] for mark in node.decorator_list}
        options = [f":{option}:" for mark, option in _OPTIONS.items() if mark in marks]
        options += [":async:"] if isinstance(node, ast.AsyncFunctionDef) else []
        about = ast.get_docstring(node) or ""
        if marks & {"property", "cached_property"}:
            options += [f":type: {self.types.written(node.returns)}"] if node.returns else []
            return _directive("py:property", node.name, options, about)
        bound = kind == "method" and "staticmethod" not in marks
        return _directive(f"py:{kind}", node.name + self._signature(node, bound), options, about)

    def _signature(self, node: Definition, bound: bool) -> str:
        """Arguments and result, on one line; `bound`: without the first one, which is self or the class."""
        found = ast.parse(ast.unparse(node.args).join(("def f(", "): pass"))).body[0]
        assert isinstance(found, ast.FunctionDef)
        arguments = found.args
        if bound:
            (arguments.posonlyargs or arguments.args)[:1] = []
        for one in ast.walk(arguments):
            if isinstance(one, ast.arg) and one.annotation:
                one.annotation = self.types.visit(one.annotation)
        returns = "" if node.returns is None or node.name == "__init__" else f" -> {self.types.written(node.returns)}"
        return f"({ast.unparse(arguments)}){returns}"

    def _field(self, node: ast.AnnAssign) -> str:
        """A field of a class: its type, its default, and what it means."""
        value, words = node.value, ""
        if isinstance(value, ast.Call) and ast.unparse(value.func) in ("Field", "field"):
            given = {one.arg: one.value for one in value.keywords}
            words = str(ast.literal_eval(given["description"])) if "description" in given else ""
            value = value.args[0] if value.args else given.get("default")
        if isinstance(value, ast.Constant) and value.value is ...:
            value = None
        end = node.end_lineno or node.lineno
        comment = _COMMENT.fullmatch(self.lines[end - 1].encode()[node.end_col_offset :].decode())
        options = [f":type: {self.types.written(node.annotation)}"]
        options += [f":value: {ast.unparse(value)}"] if value else []
        return _directive("py:attribute", ast.unparse(node.target), options, words or (comment[1] if comment else ""))


class _Types(ast.NodeTransformer):
    """Annotations with the full names of classes, which Sphinx needs for links; it shows what follows a `~` short."""

    def __init__(self, known: dict[str, str]) -> None:
        self.known = known

    def written(self, annotation: ast.expr) -> str:
        """An annotation as text."""
        return ast.unparse(self.visit(ast.parse(ast.unparse(annotation), mode="eval").body))

    def visit_Name(self, node: ast.Name) -> ast.expr:
        """A name, full where that is known."""
        return ast.parse(f"~{self.known[node.id]}", mode="eval").body if node.id in self.known else node

    def visit_Constant(self, node: ast.Constant) -> ast.expr:
        """A text that is an annotation itself (a name, one of several), or the shape of a tensor: `" batch"` is one too."""
        names = isinstance(node.value, str) and re.fullmatch(r"[A-Z]\w*(\[[\w, .\[\]|]*\])?( \| \w+)*", node.value)
        return (
            self.visit(ast.parse(str(node.value), mode="eval").body) if names else ast.Constant(_stripped(node.value))
        )


def _stripped(value: Any) -> Any:
    """Text without blanks around it."""
    return value.strip() if isinstance(value, str) else value


_OPTIONS = {"staticmethod": "staticmethod", "classmethod": "classmethod", "abstractmethod": "abstractmethod"}


def _imported(tree: ast.Module) -> dict[str, str]:
    """What a module imports from the package, by the name that it has there; with what only a type checker imports."""
    return {
        alias.asname or alias.name: f"{node.module}.{alias.name}"
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(PACKAGE)
        for alias in node.names
    }


def _public(name: str) -> bool:
    return not name.startswith("_") or name == "__call__"


def _directive(name: str, argument: str, options: list[str], body: str, fence: int = 5) -> str:
    """A directive; its fence must be longer than those in its body."""
    marks = "`" * fence
    return "\n".join([f"{marks}{{{name}}} {argument}", *options, "", inspect.cleandoc(body), marks])
