"""The exercises: a solution runs and passes its own checks, a stub does not yet, and says so."""

import nbformat
import pytest

from pwl_lab.exercises import checking
from pwl_lab.support import paths
from pwl_lab.support.errors import ExerciseError

FOLDER = paths.notebooks() / "exercises"
SOLUTIONS = sorted(FOLDER.glob("*_solution.ipynb"))
NUMBERED = sorted(FOLDER.glob("[0-9][0-9]_solutions.ipynb"))

each_numbered = pytest.mark.parametrize("path", NUMBERED, ids=lambda path: path.stem)


@pytest.fixture(scope="module")
def common_store(tmp_path_factory):
    """One store for all numbered notebooks: several of them use the same small teacher."""
    with pytest.MonkeyPatch.context() as patched:
        for name in ("PWL_LAB_STORE", "PWL_LAB_OUT", "PWL_LAB_PROGRESS", "PWL_LAB_DEVICE"):
            patched.delenv(name, raising=False)
        patched.setenv("PWL_LAB_RUNS", str(tmp_path_factory.mktemp("exercises") / "runs"))
        yield


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
@each_numbered
def test_the_solutions_run_and_pass_their_checks(path, common_store):
    assert any(source.startswith("check.") for source in cells_of(path))
    run(path)


@each_numbered
def test_every_check_of_a_stub_says_that_it_is_not_solved_and_what_is_asked_for(path):
    names, refused = {}, 0
    for number, source in enumerate(cells_of(path.with_name(path.name.replace("solutions", "exercises")))):
        if source.startswith("check."):
            with pytest.raises(ExerciseError, match="not solved yet") as error:
                exec(source, names)
            assert "  expected: " in str(error.value)
            assert "  hint: " in str(error.value)
            refused += 1
        elif number == 0 or (source.startswith("def ") and "..." in source):
            exec(source, names)  # the imports and the stubs; what uses an answer comes after its check
    assert refused in (2, 3)


@pytest.mark.notebook
def test_the_toy_teacher_shows_what_the_exercises_say(common_store):
    """Should another version of torch train it another way, the texts around it would be wrong."""
    _, teacher = checking.small_parity_teacher()
    assert teacher.reached_at is not None
    assert teacher.test_accuracy == 1.0
    assert 0.7 < teacher.checkpoint(at_accuracy=0.75).accuracy < 0.9


@pytest.mark.notebook
@pytest.mark.filterwarnings("ignore:.* is the final teacher")  # the teacher of `smoke` has no earlier checkpoint
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
    with pytest.raises(ExerciseError, match="not solved yet"):
        run(stub)
