"""The exercises: a solution runs and passes its own checks, a stub does not yet."""

import nbformat
import pytest

from pwl_lab import paths

FOLDER = paths.notebooks() / "exercises"
SOLUTIONS = sorted(FOLDER.glob("*_solution.ipynb"))


def cells_of(path):
    """The code cells, at the size that only proves the path."""
    sources = [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    return [s.replace("%matplotlib inline\n", "").replace('preset = "lesson"', 'preset = "smoke"') for s in sources]


def run(path):
    """The names that the notebook leaves."""
    names = {}
    for source in cells_of(path):
        exec(compile(source, path.name, "exec"), names)
    return names


@pytest.mark.notebook
@pytest.mark.parametrize("path", SOLUTIONS, ids=lambda path: path.stem)
def test_a_solution_runs(path, store_folder):
    names = run(path)
    assert set(names["runs"].steps_to()) == {"extracted", "mine"}


@pytest.mark.notebook
@pytest.mark.parametrize("path", SOLUTIONS, ids=lambda path: path.stem)
def test_its_stub_differs_in_one_cell_and_is_not_solved(path, store_folder):
    stub = path.with_name(path.name.replace("_solution", ""))
    differing = [(a, b) for a, b in zip(cells_of(stub), cells_of(path), strict=True) if a != b]
    assert len(differing) == 1
    assert "..." in differing[0][0]
    assert len(differing[0][1].splitlines()) < 20, "a curriculum of one's own takes under 20 lines"
    with pytest.raises(ValueError, match="stages"):
        run(stub)
