"""Fold the code of a lesson that is no part of the lesson: its imports, its checks, and what it records.

    python scripts/fold_plumbing.py             # sets the marks in all notebooks of the series
    python scripts/fold_plumbing.py 02 04       # or in some

JupyterLab folds a cell by `jupyter.source_hidden`; the exported page (and Jupyter Book) by the tag `hide-input`. Both are set
on the same cells, and taken from others.
"""

import json
import re
import sys
from pathlib import Path
from typing import Any

from pwl_lab.runner.parameters import resolve_notebook, series

TAG = "hide-input"
PLUMBING = re.compile(r"\.from_notebook\(globals\(\)\)|\bcheck_claims\(|\brecord_metrics\(")
IMPORTS = re.compile(r"(?:import|from) ")
HEADING = re.compile(r"^## +(.+?) *$", re.MULTILINE)


def plumbing(cells: list[dict[str, Any]]) -> list[int]:
    """Which code cells are plumbing: imports before the first section, set-up, and everything in the section *Checks*."""
    found, section = [], ""
    for index, cell in enumerate(cells):
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            section = [section, *HEADING.findall(source)][-1]
        elif cell["cell_type"] == "code" and (
            section == "Checks" or PLUMBING.search(source) or (not section and IMPORTS.match(source))
        ):
            found.append(index)
    return found


def marked(cells: list[dict[str, Any]]) -> list[int]:
    """Which code cells have both marks. Raises ValueError for a cell that has one of them."""
    found = []
    for index, cell in enumerate(cells):
        tagged = TAG in cell["metadata"].get("tags", [])
        if tagged != bool(cell["metadata"].get("jupyter", {}).get("source_hidden")):
            raise ValueError(f"cell {index} has one of the two marks, {TAG} and jupyter.source_hidden")
        if tagged:
            found.append(index)
    return found


def fold(path: Path) -> bool:
    """Set the marks in the notebook; whether anything has changed."""
    before = path.read_text(encoding="utf-8")
    nb = json.loads(before)
    chosen = plumbing(nb["cells"])
    for index, cell in enumerate(nb["cells"]):
        metadata = cell["metadata"]
        tags = [tag for tag in metadata.get("tags", []) if tag != TAG] + [TAG] * (index in chosen)
        hidden = {key: value for key, value in metadata.get("jupyter", {}).items() if key != "source_hidden"}
        hidden |= {"source_hidden": True} if index in chosen else {}
        for key, value in (("jupyter", hidden), ("tags", tags)):
            metadata.pop(key, None)
            metadata.update({key: value} if value else {})
    after = json.dumps(nb, indent=1, ensure_ascii=False) + "\n"
    path.write_text(after, encoding="utf-8")
    return after != before


if __name__ == "__main__":
    for notebook in map(resolve_notebook, sys.argv[1:]) if sys.argv[1:] else series():
        print(f"{notebook.name}: {'changed' if fold(notebook) else 'as it was'}")
