"""Tests use paths of their own: nothing elsewhere on the machine is taken to be there, or not to be."""

import ast
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
# Devices, tables and a file of the system (never opened), and two places that a test looks for before it counts on them.
OF_THE_SYSTEM = (
    "/dev/full",
    "/etc/passwd",
    "/proc/self/clear_refs",
    "/proc/self/status",
    "/proc/net/tcp",
    "/proc/net/tcp6",
    "/usr/bin/chromium",
    "/usr/share/datasets/fashion-mnist",
)


def elsewhere(text):
    """Absolute paths written out where a path is meant: as an argument of `Path`, or by name."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call):
            path = getattr(node.func, "id", getattr(node.func, "attr", "")) in ("Path", "open", "Store")
            given = [*(node.args[:1] if path else ()), *(key.value for key in node.keywords)]
            for one in given:
                if isinstance(one, ast.Constant) and isinstance(one.value, str) and one.value.startswith(("/", "~")):
                    yield one.value


def test_no_test_counts_on_a_path_that_is_not_its_own():
    found = {path.name: set(elsewhere(path.read_text())) - {*OF_THE_SYSTEM} for path in TESTS.rglob("*.py")}
    assert {name: paths for name, paths in found.items() if paths} == {}


def test_the_search_finds_them():
    assert set(elsewhere('ImageTask(folder="/nothing"); Path("/no/such"); Path("mine")')) == {"/no/such", "/nothing"}
