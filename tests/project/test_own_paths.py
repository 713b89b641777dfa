"""Tests use paths of their own: nothing elsewhere on the machine is taken to be there, or not to be."""

import ast
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
# Devices, tables and a file of the system (never opened), and three places that a test looks for before it counts on them.
OF_THE_SYSTEM = (
    "/dev/full",
    "/etc/passwd",
    "/proc/self/clear_refs",
    "/proc/self/status",
    "/proc/net/tcp",
    "/proc/net/tcp6",
    "/usr/bin/chromium",
    "/usr/bin/chromium-headless-shell",
    "/usr/share/datasets/fashion-mnist",
    "~/bundle",  # in a home that the test makes
)

# How many of its first arguments may be one.
TAKES_A_PATH = {"Path": 1, "open": 1, "Store": 1, "setenv": 2, "setitem": 3}


def elsewhere(text):
    """Absolute paths written out where a path is meant: for `Path` or the environment, by name, in a mapping, assigned."""
    for node in ast.walk(ast.parse(text)):
        given = []
        if isinstance(node, ast.Call):
            to = TAKES_A_PATH.get(getattr(node.func, "id", getattr(node.func, "attr", "")), 0)
            given = [*node.args[:to], *(key.value for key in node.keywords)]
        elif isinstance(node, ast.Dict):
            given = node.values
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            given = [node.value]
        for one in given:
            if isinstance(one, ast.Constant) and isinstance(one.value, str) and one.value.startswith(("/", "~")):
                yield one.value


def test_no_test_counts_on_a_path_that_is_not_its_own():
    found = {path.name: set(elsewhere(path.read_text())) - {*OF_THE_SYSTEM} for path in TESTS.rglob("*.py")}
    assert {name: paths for name, paths in found.items() if paths} == {}


def test_the_search_finds_them():
    text = (
        'ImageTask(folder="/nothing"); Path("/no/such"); Path("mine"); ODD = {"CA_FILE": "/none/ca.pem"}; own = "/own"; '
        'patch.setenv("HOME", "/home/none"); patch.setitem(os.environ, "HOME", "~none")'
    )
    assert set(elsewhere(text)) == {"/no/such", "/nothing", "/none/ca.pem", "/own", "/home/none", "~none"}
