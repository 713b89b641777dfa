"""Every variable of the table: made absolute where it was typed, refused where it makes no sense, read nowhere else."""

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest
from benches import COMMAND
from hypothesis import given
from hypothesis import strategies as st
from jupyter_client import KernelManager
from sources import DOCUMENTS, MODULES, ROOT, SCRIPTS, read

from pwl_lab.loading.remote import READ_VARIABLES
from pwl_lab.support import config, environment
from pwl_lab.support.environment import PREFIX, VARIABLES, Variable
from pwl_lab.support.errors import InvalidValueError, UnknownNameError

READ_BY_JUPYTER = {"JUPYTER_TOKEN"}  # no code of ours does
KINDS = {"folder": Path, "file": Path, "number": int, "flag": bool, "device": str, "moment": float, "text": str}
PATHS = [each for each in VARIABLES.values() if each.kind in ("folder", "file")]
FOLDERS = [each for each in PATHS if each.kind == "folder"]

each_variable = pytest.mark.parametrize("variable", VARIABLES.values(), ids=lambda each: each.name)
each_path = pytest.mark.parametrize("variable", PATHS, ids=lambda each: each.name)


@pytest.fixture(autouse=True)
def only_the_tests(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A home and a working folder of the test's own, and none of our variables."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("JPY_PARENT_PID", raising=False)
    monkeypatch.chdir(tmp_path)


@each_path
@pytest.mark.parametrize(
    ("typed", "meant"), [("a", "a"), ("./b/../a/c", "a/c"), ("~/x", "home/x"), ("a b", "a b"), ("ä/ö", "ä/ö")]
)
def test_a_path_is_absolute_from_where_it_was_typed_and_stays_so(
    variable: Variable, typed: str, meant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable.name, typed)
    assert variable.get() == tmp_path / meant
    assert environment.settled()[variable.name] == os.environ[variable.name] == str(tmp_path / meant)
    monkeypatch.chdir("/")
    assert variable.get() == tmp_path / meant


@each_path
def test_a_kernel_means_the_folder_of_the_shell(
    variable: Variable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "notebooks").mkdir()
    monkeypatch.chdir("notebooks")
    monkeypatch.setenv("JPY_PARENT_PID", "1")
    for shell, base in ((str(tmp_path), tmp_path), ("not/absolute", Path.cwd()), (str(tmp_path / "gone"), Path.cwd())):
        monkeypatch.setenv("PWD", shell)
        monkeypatch.setenv(variable.name, "a")
        assert variable.get() == base / "a"


@each_path
@pytest.mark.parametrize("wrong", ["s3://bucket/x", "~nobody-of-that-name/x", " ", "taken/x", "n" * 300, "loop/x"])
def test_a_path_that_cannot_be_is_refused(variable: Variable, wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("taken").touch()
    Path("loop").symlink_to("loop")
    monkeypatch.setenv(variable.name, wrong)
    with pytest.raises(InvalidValueError, match=re.escape(f"{variable.name} = {wrong!r} is not allowed: a fi")[:-2]):
        variable.get()
    monkeypatch.setenv(variable.name, "taken" if variable.kind == "folder" else "home")
    with pytest.raises(InvalidValueError, match=f"is not allowed: a {variable.kind}"):
        variable.get()


@each_variable
@given(
    text=st.one_of(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])), st.integers().map(str))
)
def test_any_text_is_a_value_of_its_kind_or_refused(variable: Variable, text: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(variable.name, text)
        try:
            value = variable.get()
        except InvalidValueError as error:
            assert f"{variable.name} = {text!r} is not allowed" in str(error)  # noqa: PT017 - either is right
        else:
            assert value is None if text == "" else type(value) in (KINDS[variable.kind], type(Path()))


@pytest.mark.parametrize("wrong", ["0", "-1", "two", "1.5", "10000", "٣", "1_0", "9" * 5000, " 2"])
def test_a_number_that_makes_no_sense_is_refused(wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PWL_LAB_WORKERS", wrong)
    with pytest.raises(InvalidValueError, match=r"a whole number from 1 to 9,999"):
        environment.WORKERS.get()


@pytest.mark.parametrize(("text", "up"), [("1", True), ("True", True), ("0", False), ("false", False), ("off", False)])
def test_a_flag_that_says_no_is_not_up(text: str, up: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PWL_LAB_ONLY_STORED", text)
    assert environment.ONLY_STORED.get() is up


def test_a_device_is_one_that_a_notebook_knows() -> None:
    assert get_args(config.Device) == environment.DEVICES


@each_variable
def test_a_misspelt_name_is_refused_with_the_right_one(variable: Variable, monkeypatch: pytest.MonkeyPatch) -> None:
    for place in range(len(PREFIX), len(variable.name)):
        wrong = variable.name[:place] + variable.name[place + 1 :]
        with monkeypatch.context() as patch:
            patch.setenv(wrong, "x")
            with pytest.raises(UnknownNameError, match=f"unknown environment variable '{wrong}'. Did you mean") as told:
                variable.get()
            assert f"Did you mean '{variable.name}'?" in str(told.value)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_other_module_reads_a_variable(path: Path) -> None:
    """A name stands as a text of its own in the table alone; what the others have is a Variable, which `environ` refuses."""
    if path == Path(environment.__file__):
        return
    tree = ast.parse(path.read_text(encoding="utf-8"))
    texts = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    assert [text for text in texts if re.fullmatch(rf"{PREFIX}\w*", text)] == []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call | ast.Subscript | ast.Compare) and "environ" in (words := ast.unparse(node)):
            reads = re.search(
                r"environ(\.get\(|\[|\.pop\(|\.setdefault\()[^)\]]*\.name|\.name (not )?in os\.environ", words
            )
            assert not reads, words


def variables(tree: ast.AST) -> set[str]:
    """The environment variables that code names: keys of `os.environ`, and of what may be added to it."""
    keys: list[ast.expr] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Subscript) and "environ" in ast.unparse(node.value):
            keys.append(node.slice)
        elif isinstance(node, ast.Call) and re.search(r"environ\.\w+$", ast.unparse(node.func)):
            keys += node.args[:1]
        elif isinstance(node, ast.Compare) and "environ" in ast.unparse(node.comparators[0]):
            keys.append(node.left)
        elif isinstance(node, ast.Dict):
            keys += [key for key in node.keys if key]
    texts = {key.value for key in keys if isinstance(key, ast.Constant) and isinstance(key.value, str)}
    return {text for text in texts if re.fullmatch(r"[A-Z]+_[A-Z_]+|[A-Z]{3,}", text)}


def test_the_documents_have_a_row_for_every_variable() -> None:
    section = (ROOT / "docs" / "usage.md").read_text(encoding="utf-8").partition("## Environment variables\n")[2]
    rows = [line for line in section.partition("\n## ")[0].splitlines() if line.startswith("| `")]
    ours = [f"| `{one.name}` | {one.meaning} | {one.kind} | {one.default} |" for one in VARIABLES.values()]
    assert rows[: len(ours)] == ours
    others = {name for row in rows[len(ours) :] for name in re.findall(r"`(\w+)`", row.split("|")[1])}
    made = re.findall(r"^(?:un)?export (\w+)", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    (image,) = re.findall("^ENV (.*)$", read(ROOT / "Dockerfile"), re.MULTILINE)
    made += set(re.findall(r"(\w+)=", image)) - {"PATH"}  # no need to explain that
    made += [name for path in DOCUMENTS for name in re.findall(r"\b([A-Z_]+)=\S+ (?:make|pip)\b", read(path))]
    texts = [path.read_text(encoding="utf-8") for path in (*MODULES, *SCRIPTS)]
    trees = [ast.parse(text) for text in texts if "environ" in text]
    named = set(made).union(READ_VARIABLES, *map(variables, trees)) - set(VARIABLES)
    assert others - READ_BY_JUPYTER == named


def test_the_search_finds_the_variables_of_a_code() -> None:
    code = """import os
os.environ["A_A"]; os.environ.get("B_B", "no"); "C_C" in os.environ; own = os.environ | {"D_D": "E_E"}
environment["F_F"] = "G_G"; os.environ.pop("HHH"); text = "I_I"; J = {"lower": 1}"""
    assert variables(ast.parse(code)) == {"A_A", "B_B", "C_C", "D_D", "F_F", "HHH"}


SHOW = "import json, os; {show}(json.dumps({{n: v for n, v in os.environ.items() if n.startswith('PWL_LAB_')}}))"


def typed_in(folder: Path, *names: str) -> dict[str, str]:
    """The environment of a shell in `folder` where a person has typed relative paths."""
    own = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    return own | {"PWD": str(folder)} | {name: f"typed/{name[len(PREFIX) :].lower()}" for name in names}


def test_a_kernel_of_jupyter_has_them_where_the_shell_was(tmp_path: Path) -> None:
    """As JupyterLab starts one: its environment is the shell's, its folder the notebook's."""
    (tmp_path / "notebooks").mkdir()
    manager = KernelManager(kernel_name="python3")
    manager.start_kernel(cwd=str(tmp_path / "notebooks"), env=typed_in(tmp_path, "PWL_LAB_RUNS"))
    client = manager.blocking_client()
    try:
        client.start_channels()
        client.wait_for_ready(timeout=60)
        said = []
        client.execute_interactive(
            "from pwl_lab.support import paths; import os; print(paths.runs(), os.environ['PWL_LAB_RUNS'])",
            timeout=60,
            output_hook=lambda message: said.append(message["content"].get("text", "")),
        )
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    assert "".join(said).split() == [str(tmp_path / "typed" / "runs")] * 2


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A project of no notebooks, at the place where PWL_LAB_HOME is typed to be."""
    (tmp_path / "typed" / "home" / "presets").mkdir(parents=True)
    return tmp_path


@pytest.mark.parametrize("command", ["run", "batch", "papermill"])
def test_the_kernels_of_a_run_and_of_a_batchs_workers_have_absolute_paths(
    checkout: Path, write_notebook, command: str
) -> None:
    (checkout / "elsewhere").mkdir()
    show = SHOW.format(show="import pwl_lab.support.environment as e; e.settled(); open('seen.json', 'w').write")
    notebook = write_notebook("# Own", show, name="elsewhere/own", parameters="case = 1")
    if command == "batch":
        (checkout / "grid.yaml").write_text(f"notebook: {notebook}")
        words = [COMMAND, "batch", "grid.yaml", "--out", "out", "--workers", "1"]
    elif command == "run":
        words = [COMMAND, "run", str(notebook), "--out", "out"]
    else:
        words = [sys.executable, "-m", "papermill", str(notebook), "out.ipynb", "--cwd", "elsewhere", "-k", "python3"]
    set_by_a_run = {"PWL_LAB_OUT", "PWL_LAB_PROGRESS"}
    names = [each.name for each in PATHS if each.name not in set_by_a_run]
    done = subprocess.run(
        words, cwd=checkout, env=typed_in(checkout, *names), capture_output=True, text=True, check=False, timeout=150
    )
    assert done.returncode == 0, done.stdout + done.stderr
    seen = json.loads((checkout / "elsewhere" / "seen.json").read_text())
    for name in names:
        assert seen[name] == str(checkout / "typed" / name[len(PREFIX) :].lower())
    assert all(Path(seen[name]).is_absolute() for name in set_by_a_run & set(seen))


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("PWL_LAB_STOR", "x", "unknown environment variable 'PWL_LAB_STOR'. Did you mean 'PWL_LAB_STORE'?"),
        ("PWL_LAB_STORE", "s3://b/x", "PWL_LAB_STORE = 's3://b/x' is not allowed: a folder on this machine"),
        ("PWL_LAB_WORKERS", "many", "PWL_LAB_WORKERS = 'many' is not allowed: a whole number"),
    ],
)
def test_every_command_refuses_before_it_does_anything(name: str, value: str, said: str) -> None:
    for words in (["params", "04"], ["status", "x"], ["data", "list"], ["series"], ["dashboard"]):
        done = subprocess.run(
            [COMMAND, *words], env=os.environ | {name: value}, capture_output=True, text=True, check=False, timeout=60
        )
        assert done.returncode == 2
        assert said in done.stderr
        assert "Traceback" not in done.stderr
