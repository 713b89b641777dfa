"""Whatever the package defines is used: by the package, a notebook, a script or code in the documents; tests do not count."""

import ast
import importlib
import inspect
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from sources import DOCUMENTS, MODULES, NOTEBOOKS, ROOT, SCRIPTS, TESTS, read, trees

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef

# What others call by its name, and why it is not found by a base class of theirs that has it.
CALLED_FROM_OUTSIDE = {
    "end_helpers": "a kernel calls it in the code that it is sent at its end (`runner/client.py`)",
    "setup": "Sphinx calls it in each of its extensions (`runner/site.py`)",
    "_Types.visit_Name": "`ast` calls it for each name (`runner/api_pages.py`)",
    "_Types.visit_Constant": "the same for each constant",
}
# Decorators that hand a function over to whoever will call it.
REGISTERING = {"model_validator", "field_validator", "model_serializer", "field_serializer", "command", "callback"}
LOOKS_UP = {"getattr", "hasattr", "attrgetter", "methodcaller"}


def uses(tree: ast.AST) -> Counter[str]:
    """How often each name is read, as a variable or as an attribute, or looked up by its text."""
    found: Counter[str] = Counter()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
            found[node.id] += 1
        elif isinstance(node, ast.Attribute):
            found[node.attr] += 1
        elif isinstance(node, ast.alias) and node.asname:
            found[node.name] += 1
        elif isinstance(node, ast.Call) and getattr(node.func, "id", getattr(node.func, "attr", "")) in LOOKS_UP:
            found.update(one.value for one in node.args if isinstance(one, ast.Constant))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.isidentifier():
            found[node.value] += _names_a_type(node)
    return found


def _names_a_type(node: ast.Constant) -> bool:
    """Whether a text may be an annotation, `-> "Store"`; classes alone begin with a capital letter."""
    return node.value[:1].isupper()


def definitions(tree: ast.AST, within: str = "") -> Iterator[tuple[str, Definition]]:
    """The functions, classes and methods of a module with their names, dotted within a class."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, Definition):
            yield within + node.name, node
            if isinstance(node, ast.ClassDef):
                yield from definitions(node, f"{within}{node.name}.")
        elif isinstance(node, ast.If | ast.Try):
            yield from definitions(node, within)


def handed_over(node: Definition) -> bool:
    """Whether a decorator registers it."""
    calls = [one.func if isinstance(one, ast.Call) else one for one in node.decorator_list]
    return any(getattr(one, "attr", getattr(one, "id", "")) in REGISTERING for one in calls)


def is_hook(module: str, name: str) -> bool:
    """Whether a method takes the place of one that a library's class has, and calls."""
    owner_name, _, method = name.rpartition(".")
    owner = importlib.import_module(module)
    for part in filter(None, owner_name.split(".")):
        owner = getattr(owner, part)
    return inspect.isclass(owner) and any(
        hasattr(base, method) for base in owner.__mro__[1:] if not base.__module__.startswith("pwl_lab")
    )


def in_templates() -> Counter[str]:
    """The names in the templates of exported pages."""
    texts = [read(path) for path in (ROOT / "pwl_lab").rglob("templates/**/*") if path.suffix in (".j2", ".html")]
    return Counter(re.findall(r"\w+", " ".join(re.findall(r"\{[{%].*?[}%]\}", "\n".join(texts), re.DOTALL))))


def unused(modules: list[Path], others: list[Path]) -> dict[str, str]:
    """What is defined in a module and used nowhere outside of its own body: dotted names, and where they are."""
    everywhere = sum((uses(tree) for path in (*modules, *others) for tree in trees(path)), in_templates())
    found = {}
    for path in modules:
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for name, node in definitions(trees(path)[0]):
            plain = node.name
            by_convention = plain.startswith("_") and plain.endswith("_")  # Python's own, and what IPython looks for
            if by_convention or everywhere[plain] > uses(node)[plain]:
                continue
            if not (handed_over(node) or name in CALLED_FROM_OUTSIDE or is_hook(module, name)):
                found[name] = f"{path.relative_to(ROOT)}:{node.lineno}"
    return found


def test_nothing_is_defined_that_only_tests_use() -> None:
    code = "\n".join(read(path) for path in SCRIPTS)
    helpers = [
        path for path in TESTS if path.parent.name == "helpers" and re.search(rf"^import {path.stem}$", code, re.M)
    ]
    found = unused(MODULES, [*SCRIPTS, *helpers, *NOTEBOOKS, *DOCUMENTS])
    assert not found, "no caller but tests:\n" + "\n".join(f"{place} {name}" for name, place in found.items())


def test_what_is_called_from_outside_is_still_there() -> None:
    there = {name for path in MODULES for name, _ in definitions(trees(path)[0])}
    assert set(CALLED_FROM_OUTSIDE) <= there


def test_the_search_finds_what_has_no_caller() -> None:
    tree = ast.parse("class A:\n def f(self): return self.f()\n def g(self): return h()\n@app.command()\ndef h(): A()")
    assert [name for name, _ in definitions(tree)] == ["A", "A.f", "A.g", "h"]
    lonely = [name for name, node in definitions(tree) if uses(tree)[node.name] <= uses(node)[node.name]]
    assert lonely == ["A.f", "A.g"]
    assert handed_over(dict(definitions(tree))["h"])
    assert is_hook("pwl_lab.support.errors", "InvalidValueError.with_traceback")
    assert not is_hook("pwl_lab.support.errors", "ExerciseError._render_traceback_")
