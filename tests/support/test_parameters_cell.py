"""The parameters of a notebook are those of its parameters cells, whatever else it does with the same names."""

import ast
import json
import re
import subprocess
import sys

import nbformat
import pytest
from hypothesis import given
from hypothesis import strategies as st
from IPython.core.inputtransformer2 import TransformerManager
from sources import ROOT

from pwl_lab.runner.parameters import parameter_defaults, resolve_parameters, settings_of
from pwl_lab.study.settings import SETTINGS, CurriculaSettings, Settings
from pwl_lab.support.errors import InvalidValueError, UnknownNameError
from pwl_lab.support.parameters_cell import NOT_LITERAL, is_parameters_cell, values_in, values_that_ran

BOOKS = {path.stem: nbformat.read(path, 4) for path in sorted((ROOT / "notebooks").glob("*.ipynb"))}
BOOKS = {name: nb for name, nb in BOOKS.items() if settings_of(nb) is not None}

# Runs in a process of its own: a shell takes the place of __main__.
SESSION = '''
import json, sys
from traitlets.config import Config
from IPython.core.interactiveshell import InteractiveShell

def session(cells):
    """The settings after each cell that made some, or the error's name; None stands for: every name is something else."""
    shell = InteractiveShell(config=Config({"HistoryManager": {"hist_file": ":memory:"}}))
    own, told = set(shell.user_ns), []
    for source in cells:
        if source is None:
            for name in set(shell.user_ns) - own - {"settings"}:
                shell.user_ns[name] = object()
            continue
        done = shell.run_cell(source, store_history=True)
        if done.error_in_exec is not None:
            told.append(f"{type(done.error_in_exec).__name__}: {done.error_in_exec}")
        elif "from_notebook" in source:
            told.append(shell.user_ns["settings"].model_dump_json())
    return told

json.dump({name: session(cells) for name, cells in json.load(sys.stdin).items()}, open(sys.argv[1], "w"))
'''


def _parameters(nb) -> str:
    """The parameters cell, at the smallest preset with two seeds in an order of their own."""
    cell = next(cell for cell in nb.cells if "parameters" in cell.metadata.get("tags", []))
    return cell.source.replace('preset = "lesson"', 'preset = "smoke"').replace("\nseeds = None", "\nseeds = [3, 1]")


def _setup(nb) -> str:
    """The set-up, imports included, without magics: they want a front end."""
    code = [cell for cell in nb.cells if cell.cell_type == "code"]
    first = next(i for i, cell in enumerate(code) if "parameters" in cell.metadata.get("tags", [])) + 1
    last = next(i for i, cell in enumerate(code) if "from_notebook" in cell.source)
    lines = "\n".join(cell.source for cell in code[first : last + 1]).splitlines()
    return "\n".join(line for line in lines if not line.startswith("%"))


@pytest.fixture(scope="module")
def sessions(tmp_path_factory) -> dict[str, list[str]]:
    """What each notebook's set-up cell made of its parameters: at once, with all names taken, and after a misspelt one."""
    asked = {}
    for name, nb in BOOKS.items():
        first, setup = _parameters(nb), _setup(nb)
        wrong = "\n".join(f"{field}x = 1" for field in settings_of(nb).model_fields)
        injected = "# Parameters\nseeds = [5]\n"
        asked[name] = [first, setup, None, setup, injected, setup, first, setup, f"{first}\n{wrong}", setup]
    out = tmp_path_factory.mktemp("sessions") / "told.json"
    command = [sys.executable, "-c", SESSION, str(out)]
    subprocess.run(command, input=json.dumps(asked), text=True, check=True, cwd=ROOT, capture_output=True)
    return json.loads(out.read_text())


@pytest.mark.parametrize("name", BOOKS)
def test_the_setup_cell_run_again_finds_the_same_whatever_the_names_have_become(sessions, name) -> None:
    cls = settings_of(BOOKS[name])
    at_once, again, injected, anew, _ = sessions[name]
    assert at_once == again == anew
    made = cls.model_validate_json(at_once)
    assert (made.preset, made.seeds) == ("smoke", (3, 1))
    assert cls.model_validate_json(injected) == made.model_copy(update={"seeds": (5,)})


@pytest.mark.parametrize("name", BOOKS)
def test_a_misspelt_name_in_the_parameters_cell_is_refused_in_jupyter_too(sessions, name) -> None:
    assert sessions[name][-1].startswith("UnknownNameError: unknown parameter 'presetx'. Did you mean 'preset'?")


@pytest.mark.parametrize("name", BOOKS)
def test_no_other_cell_looks_like_a_parameters_cell(name) -> None:
    for cell in BOOKS[name].cells:
        if cell.cell_type == "code" and "parameters" not in cell.metadata.get("tags", []):
            plain = "\n".join(line for line in cell.source.splitlines() if not line.startswith("%"))
            assert not is_parameters_cell(plain)


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").rglob("*.ipynb")), ids=lambda path: path.stem)
def test_a_notebook_that_takes_its_parameters_by_name_uses_the_names_for_nothing_else(path) -> None:
    nb = nbformat.read(path, 4)
    mine = {
        name for cell in nb.cells if "parameters" in cell.metadata.get("tags", []) for name in values_in(cell.source)
    }
    if settings_of(nb) is not None or not mine:
        return
    for cell in nb.cells:
        if cell.cell_type == "code" and "parameters" not in cell.metadata.get("tags", []):
            plain = "\n".join(line for line in cell.source.splitlines() if not line.startswith("%"))
            bound = {
                node.id
                for node in ast.walk(ast.parse(plain))
                if isinstance(getattr(node, "ctx", None), ast.Store) and isinstance(node, ast.Name)
            }
            assert not mine & bound


@pytest.mark.parametrize("cls", SETTINGS.values(), ids=lambda cls: cls.__name__)
def test_every_misspelt_name_is_refused(cls) -> None:
    for name in cls.model_fields:
        with pytest.raises(UnknownNameError, match=f"Did you mean '{name}'"):
            cls.from_notebook({"In": ["", f'preset = "smoke"\n{name}x = 1', "set-up"]})


def test_a_cell_that_sets_all_begins_anew_and_others_are_laid_over() -> None:
    whole = "\n".join(f"{name} = None" for name in Settings.model_fields)
    others = "\n".join(["n_bits = 9", whole])
    assert values_that_ran(["", others, "seeds = [1]", whole], Settings.model_fields) == values_in(whole)
    assert values_that_ran([others, "# Parameters\nseeds = [1]", 'preset = "smoke"'], Settings.model_fields) == (
        values_in(others) | {"seeds": [1], "preset": "smoke"}
    )


def test_without_a_parameters_cell_there_are_no_settings() -> None:
    with pytest.raises(InvalidValueError, match="no parameters cell has run"):
        CurriculaSettings.from_notebook({"In": ["", "n_bits = 9"], "n_bits": 9})
    # Voila keeps no history, a script has none
    assert CurriculaSettings.from_notebook({"In": [""], "preset": "smoke", "n_bits": 9}).n_bits == 9


def test_an_expression_is_refused_rather_than_run_a_second_time() -> None:
    with pytest.raises(InvalidValueError, match="seeds = computed in the notebook is not allowed: a literal"):
        CurriculaSettings.from_notebook({"In": ['preset = "smoke"\nseeds = list(range(3))']})
    nb = nbformat.v4.new_notebook(metadata=BOOKS["02_distillation_curricula"].metadata)
    source = 'preset = "smoke"\nseeds = list(range(3))'
    nb.cells.append(nbformat.v4.new_code_cell(source, metadata={"tags": ["parameters"]}))
    with pytest.raises(InvalidValueError, match="seeds = computed in the notebook is not allowed: a literal"):
        resolve_parameters(nb, None, {})
    assert resolve_parameters(nb, None, {"seeds": [4]}).resolved["seeds"] == [4]


def test_a_cell_that_did_not_parse_did_not_run() -> None:
    cells = ['preset = "smoke"\nn_bits = 9', 'preset = "paper"\nn_bits = ', "x"]
    assert CurriculaSettings.from_notebook({"In": cells}).n_bits == 9


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


@given(values=st.dictionaries(st.from_regex(r"[a-z]{1,5}_", fullmatch=True), plain, max_size=4))
def test_a_literal_is_read_as_python_reads_it(values) -> None:
    source = "\n".join(f"{name} = {value!r}  # a comment" for name, value in values.items())
    assert values_in(source) == values
    assert values_in("import os\nx: int = 3\ny = z = [1]\n'a text'\nc = 1 + 1") == {
        "x": 3,
        "y": [1],
        "z": [1],
        "c": NOT_LITERAL,
    }


OTHER_WAYS = [
    "n_bits, k_sparse = 20, 3",
    "n_bits += 4",
    "seeds.append(1)",
    "if True:\n    n_bits = 20",
    "for n_bits in (20,):\n    pass",
    "(n_bits := 20)",
    "globals()['n_bits'] = 20",
    "n_bits: int",
    "exec('n_bits = 20')",
    "with open('x') as n_bits:\n    pass",
    "del n_bits",
    "def n_bits(): ...",
]


@pytest.mark.parametrize("other", OTHER_WAYS)
@pytest.mark.parametrize("magic", ["", "%%time\n", "%%capture out\n"])
def test_a_parameter_set_in_another_way_is_refused_by_its_line(other, magic) -> None:
    source = f'{magic}preset = "smoke"\n\nn_bits = 9\n{other}\n'
    line = re.escape(repr(other.splitlines()[0]))
    wanted = rf"line {4 + bool(magic)} of the parameters cell, {line}, is not allowed: each parameter"
    ran = TransformerManager().transform_cell(source)  # as IPython keeps it
    with pytest.raises(InvalidValueError, match=wanted):
        CurriculaSettings.from_notebook({"In": ["", ran, "set-up"]})
    cell = nbformat.v4.new_code_cell(source, metadata={"tags": ["parameters"]})
    with pytest.raises(InvalidValueError, match=wanted):  # and before there is a kernel
        parameter_defaults(nbformat.v4.new_notebook(cells=[cell]))
    whole = "\n".join(f"{name} = None" for name in Settings.model_fields)
    assert CurriculaSettings.from_notebook({"In": ["", ran, whole, "n_bits = 10"]}).preset == "lesson"


@pytest.mark.parametrize("magic", ["%%time", "%%capture", "%%capture --no-stderr out"])
def test_a_cell_that_is_only_timed_or_kept_quiet_is_read(magic) -> None:
    source = f'{magic}\npreset = "smoke"\nn_bits = 9  # it\'s'
    assert values_in(source) == {"preset": "smoke", "n_bits": 9}
    ran = TransformerManager().transform_cell(source)
    assert CurriculaSettings.from_notebook({"In": ["", ran]}).n_bits == 9
