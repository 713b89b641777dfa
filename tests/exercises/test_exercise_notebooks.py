"""The exercise notebooks as files: a stub and its solution, alike but for the cells to be solved, linked from the series."""

import re
import statistics
from itertools import pairwise

import nbformat
import pytest

from pwl_lab.support import paths

FOLDER = paths.notebooks() / "exercises"
STUBS = sorted(FOLDER.glob("[0-9][0-9]_exercises.ipynb"))
ALL = sorted(FOLDER.glob("*.ipynb"))
LINES_PER_CELL, MEDIAN_LINES_PER_CELL = 15, 8

each_stub = pytest.mark.parametrize("path", STUBS, ids=lambda path: path.stem)


def cells_of(path):
    return nbformat.read(path, as_version=4).cells


def to_solve(cell):
    return "solve" in cell.metadata.get("tags", [])


def test_the_first_notebooks_of_the_series_have_exercises():
    assert {"00", "01", "02", "03", "04", "05", "06", "07", "08", "09"} <= {path.stem[:2] for path in STUBS}


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.stem)
def test_it_is_committed_clean(path):
    nb = nbformat.read(path, as_version=4)
    nbformat.validate(nb)
    code = [cell for cell in nb.cells if cell.cell_type == "code"]
    assert all(cell.outputs == [] and cell.execution_count is None for cell in code)
    assert not {"widgets", "papermill"} & set(nb.metadata)
    assert nb.metadata.kernelspec.name == "python3"
    assert re.match(r"# \S", nb.cells[0].source)


@each_stub
def test_stub_and_solution_differ_in_the_cells_to_be_solved_alone(path):
    solution = path.with_name(path.name.replace("exercises", "solutions"))
    for ours, theirs in zip(cells_of(path), cells_of(solution), strict=True):
        if to_solve(ours):
            assert ours.source != theirs.source
            assert "..." in ours.source
            assert re.search(r"\.\.\.( |,|$)", theirs.source) is None, "nothing is left open"
            assert ours.source.splitlines()[:2] == theirs.source.splitlines()[:2], "the same question"
            assert '"""' in ours.source
            ours.source = theirs.source = ""
        assert ours == theirs
    assert 2 <= sum(map(to_solve, cells_of(path))) <= 3


@each_stub
def test_each_cell_to_be_solved_is_followed_by_its_check(path):
    cells = cells_of(path)
    for cell, after in pairwise(cells):
        if to_solve(cell):
            name = re.search(r"def (\w+)\(", cell.source)[1]
            assert after.source == f"check.{name}({name})"


@each_stub
def test_code_cells_are_short(path):
    for each in (path, path.with_name(path.name.replace("exercises", "solutions"))):
        lengths = [len(cell.source.splitlines()) for cell in cells_of(each) if cell.cell_type == "code"]
        assert max(lengths) <= LINES_PER_CELL
        assert statistics.median(lengths) <= MEDIAN_LINES_PER_CELL


@each_stub
def test_it_and_its_notebook_link_to_each_other(path):
    series = next(paths.notebooks().glob(f"{path.stem[:2]}_*.ipynb"))
    assert f"(../{series.name})" in cells_of(path)[0].source
    section = next(cell.source for cell in cells_of(series) if "## Exercises" in cell.source)
    assert f"(exercises/{path.name})" in section.partition("## Exercises")[2]
