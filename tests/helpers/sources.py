"""What the project's own rules are checked on: its modules, notebooks and documents, as text and as code."""

import ast
import json
import re
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MODULES = sorted((ROOT / "pwl_lab").rglob("*.py"))
SCRIPTS = sorted((ROOT / "scripts").glob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))
NOTEBOOKS = sorted((ROOT / "notebooks").rglob("*.ipynb"))
DOCUMENTS = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]


@cache
def read(path: Path) -> str:
    """The text of a file."""
    return path.read_text(encoding="utf-8")


def code_of(path: Path) -> list[str]:
    """The pieces of Python in a module, a notebook (its code cells without magics) or a document (its blocks)."""
    if path.suffix == ".ipynb":
        cells = [cell for cell in json.loads(read(path))["cells"] if cell["cell_type"] == "code"]
        return [re.sub(r"^[%!].*$", "", "".join(cell["source"]), flags=re.MULTILINE) for cell in cells]
    if path.suffix == ".md":
        return re.findall(r"^```python\n(.*?)^```", read(path), flags=re.MULTILINE | re.DOTALL)
    return [read(path)]


@cache
def trees(path: Path) -> list[ast.Module]:
    """The same, parsed."""
    return [ast.parse(code) for code in code_of(path)]


def texts_of(path: Path) -> list[str]:
    """Every text in a file: the constants of a module, its comments left out; of anything else, all of it."""
    if path.suffix != ".py":
        return [read(path)]
    return [
        node.value
        for tree in trees(path)
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]
