"""What docstrings show as code can be called as they show it."""

import ast
import importlib
import inspect
import pkgutil
import re

import pytest

import pwl_lab

MODULES = [name for _, name, _ in pkgutil.walk_packages(pwl_lab.__path__, "pwl_lab.") if not name.endswith("__main__")]
SPAN = re.compile(r"``(.+?)``|`(.+?)`", re.DOTALL)


def documented(module):
    """Names and docstrings of a module's own classes and functions."""
    yield module.__name__, module.__doc__
    for name, one in vars(module).items():
        if getattr(one, "__module__", None) == module.__name__ and (inspect.isclass(one) or inspect.isfunction(one)):
            yield name, one.__doc__
            for inner, method in vars(one).items() if inspect.isclass(one) else ():
                yield f"{name}.{inner}", getattr(method, "__doc__", None) if callable(method) else None


def examples(text):
    """The pieces of code in a docstring that hold a call."""
    for span in SPAN.findall(text or ""):
        code = " ".join("".join(span).split())
        try:
            tree = ast.parse(code)
        except SyntaxError:
            continue
        if any(isinstance(node, ast.Call) for node in ast.walk(tree)):
            yield code, tree


def mismatches(tree, names):
    """Calls of something known with arguments that it does not take; what has another meaning here is passed over."""
    instances = {
        item.optional_vars.id: item.context_expr.func.id
        for node in ast.walk(tree)
        if isinstance(node, ast.With)
        for item in node.items
        if isinstance(item.optional_vars, ast.Name) and isinstance(getattr(item.context_expr, "func", 0), ast.Name)
    }
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        called = _found(call.func, names, instances)
        shown = [one for one in call.args if not isinstance(one, ast.Starred)]
        open_ended = len(shown) < len(call.args) or any(key.arg is None for key in call.keywords)
        if called is None or any(isinstance(one, ast.Constant) and one.value is ... for one in call.args):
            continue
        bind = inspect.signature(called).bind_partial if open_ended else inspect.signature(called).bind
        try:
            bind(*shown, **{key.arg: key.value for key in call.keywords if key.arg})
        except TypeError as error:
            yield f"{ast.unparse(call)}: {error}"


def _found(node, names, instances):
    """The function or class of the package that is called, bound where it is a method of an instance."""
    if isinstance(node, ast.Name):
        found = names.get(node.id)
        return found if getattr(found, "__module__", "").startswith("pwl_lab") and callable(found) else None
    if not isinstance(node, ast.Attribute) or not isinstance(node.value, ast.Name):
        return None
    owner = names.get(instances.get(node.value.id, node.value.id))
    found = inspect.getattr_static(owner, node.attr, None)
    if node.value.id in instances and inspect.isfunction(found):
        return found.__get__(object())
    return getattr(owner, node.attr, None) if callable(getattr(owner, node.attr, None)) and owner is not None else None


@pytest.mark.parametrize("name", MODULES)
def test_calls_in_docstrings_are_calls_that_can_be_made(name):
    module = importlib.import_module(name)
    found = {
        who: list(mismatches(tree, vars(module))) for who, text in documented(module) for _, tree in examples(text)
    }
    assert {who: wrong for who, wrong in found.items() if wrong} == {}


def test_the_search_finds_calls_that_cannot_be_made():
    from pwl_lab.support import progress

    def wrong(code):
        return list(mismatches(ast.parse(code), vars(progress)))

    assert wrong('with Progress("teacher", 3000) as bar: bar.advance(1, 2, loss=0.69)')
    assert wrong('Progress("teacher", 3000, total=1)')
    assert not wrong('with Progress("teacher", 3000) as bar: bar.advance(1, loss=0.69)')


def literal_examples():
    """Examples that need nothing but their module: they are run as they stand."""
    for name in MODULES:
        module = importlib.import_module(name)
        for who, text in documented(module):
            for code, tree in examples(text):
                known = {*vars(module), *dir(__builtins__), *_bound(tree)}
                used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
                if used <= known and "..." not in code and isinstance(tree.body[0], ast.With):
                    yield pytest.param(code, vars(module), id=f"{name}:{who}")


def _bound(tree):
    return {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}


@pytest.mark.parametrize(("code", "names"), list(literal_examples()))
def test_examples_that_stand_alone_run(code, names):
    exec(code, dict(names))
