"""The project's own rules, checked: dependencies in step, notebooks fit to commit, code within the house's limits."""

import ast
import builtins
import json
import re
import statistics
import subprocess
import sys
import tomllib
from pathlib import Path

import nbformat
import pytest
from script_modules import load_script
from sources import ROOT, SCRIPTS

from pwl_lab.runner.parameters import settings_of
from pwl_lab.support.yaml12 import read_yaml

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
SERIES = [path for path in NOTEBOOKS if re.match(r"\d\d[a-z]?_", path.name)]
MODULES = sorted((ROOT / "pwl_lab").rglob("*.py"))
BIN = Path(sys.executable).parent

LINES_PER_FILE, LINES_PER_FUNCTION = 450, 40  # a file is a subject, not a slice of one
LINES_PER_CELL, MEDIAN_LINES_PER_CELL = 15, 8

each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
each_of_the_series = pytest.mark.parametrize("path", SERIES, ids=lambda path: path.stem)
each_module = pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))


def test_the_citation_and_the_changelog_name_the_version_and_the_papers() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    citation = read_yaml((ROOT / "CITATION.cff").read_text())
    assert str(citation["version"]) == version
    assert citation["cff-version"] == "1.2.0"
    assert {"message", "title", "authors", "license"} <= set(citation)
    assert all({"type", "title", "authors"} <= set(reference) for reference in citation["references"])
    numbers = {reference["url"].rpartition("/")[2] for reference in citation["references"]}
    assert numbers == set(re.findall(r"arXiv[ :](\d{4}\.\d{5})", (ROOT / "README.md").read_text()))
    releases = re.findall(r"^## (\d+\.\d+\.\d+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert releases[0] == version


@each_module
def test_what_mypy_ignores_has_a_reason(path: Path) -> None:
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if "# type: ignore" in line]
    assert [line for line in lines if not re.search(r"# type: ignore\[[\w, -]+\]  # \S", line)] == []


def test_make_and_ci_run_the_same_tests() -> None:
    ci = ROOT / ".ci" / "run"
    assert ci.stat().st_mode & 0o111
    assert ci.read_text().rstrip().endswith("make test")
    for target in ("run", "slides", "site", "check", "test", "lab", "dashboard", "web", "bench"):
        done = _run("make", "--dry-run", "--always-make", target, "NAME=trial")
        assert "pip install" in done, "each target installs on first use"
    assert "pwl-lab series --preset lesson --name trial" in _run("make", "--dry-run", "run", "NAME=trial")
    assert "pwl-lab slides --name trial" in _run("make", "--dry-run", "slides", "NAME=trial")
    assert "pwl-lab slides --name smoke" in _run("make", "--dry-run", "slides", "PRESET=smoke")
    assert "pwl-lab site --name trial" in _run("make", "--dry-run", "site", "NAME=trial")
    assert "pwl-lab site --name smoke" in _run("make", "--dry-run", "site", "PRESET=smoke")
    assert "pwl-lab series --preset smoke" in _run("make", "--dry-run", "run", "PRESET=smoke")
    assert "pwl-lab series --preset lesson --jobs 3" in " ".join(_run("make", "--dry-run", "run", "JOBS=3").split())
    assert "pwl-lab web --preset smoke" in _run("make", "--dry-run", "web", "PRESET=smoke")
    assert "pwl-lab dashboard --preset smoke" in _run("make", "--dry-run", "dashboard", "PRESET=smoke")
    assert "make test" in _run("make")


@each_of_the_series
def test_code_that_is_no_part_of_the_lesson_is_folded(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is folded, and how: scripts/fold_plumbing.py, which also sets the marks."""
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    import fold_plumbing

    cells = nbformat.read(path, as_version=4).cells
    assert fold_plumbing.marked(cells) == fold_plumbing.plumbing(cells) != []


def test_make_check_runs_every_linter_and_the_types() -> None:
    said = _run("make", "--dry-run", "check")
    for command in ("ruff check .", "ruff format --check .", "lint-imports", "mypy"):
        assert f"/{command}\n" in said
    assert "pytest -m 'not slow and not linter'" in said


def test_make_refuses_an_old_python(tmp_path: Path) -> None:
    old = tmp_path / "python"
    old.write_text("#!/bin/sh\nexit 1\n")  # what the version check of an older Python answers
    old.chmod(0o755)
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    done = subprocess.run(
        ["make", "-C", tmp_path, "test", f"PYTHON={old}"], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode != 0
    assert "needs Python 3.11 or newer" in done.stderr
    assert not (tmp_path / ".venv").exists()


@each_of_the_series
def test_metadata_says_what_measures_time_and_how_long_the_others_compute(path: Path) -> None:
    nb = nbformat.read(path, as_version=4)
    code = "\n".join(cell.source for cell in nb.cells if cell.cell_type == "code")
    facts = nb.metadata.pwl_lab
    assert facts.get("timed", False) == bool(re.search(r"\bharness\.", code))
    assert facts.get("timed", False) or facts.processor_minutes > 0
    assert facts.metrics


def test_the_series_has_its_first_notebooks() -> None:
    assert {"00", "00b", "02", "04"} <= {path.stem.partition("_")[0] for path in SERIES}


@each_of_the_series
def test_a_notebook_and_the_readme_tell_the_same_minutes(path: Path) -> None:
    said = re.search(r"`lesson` about (\d+(?:\.\d+)?)", path.read_text(encoding="utf-8"))
    row = re.search(rf"\[{path.stem}\].*\| ([^|]+) \|", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert row
    assert row[1].split()[0] == (said[1] if said else "<"), row[1]


@each_notebook
def test_a_notebook_is_committed_clean(path: Path) -> None:
    nb = nbformat.read(path, as_version=4)
    nbformat.validate(nb)
    for cell in nb.cells:
        if cell.cell_type == "code":
            assert cell.outputs == []
            assert cell.execution_count is None
    assert "widgets" not in nb.metadata
    assert "papermill" not in nb.metadata
    assert nb.metadata.kernelspec.name == "python3"


@each_of_the_series
def test_code_cells_are_short(path: Path) -> None:
    nb = nbformat.read(path, as_version=4)
    code = [cell for cell in nb.cells if cell.cell_type == "code" and "parameters" not in cell.metadata.get("tags", [])]
    lengths = [len(cell.source.splitlines()) for cell in code]  # the parameters cell has one line per setting
    assert max(lengths) <= LINES_PER_CELL
    assert statistics.median(lengths) <= MEDIAN_LINES_PER_CELL


@each_of_the_series
def test_the_parameters_cell_holds_one_literal_per_setting(path: Path) -> None:
    nb = nbformat.read(path, as_version=4)
    tagged = [cell for cell in nb.cells if "parameters" in cell.metadata.get("tags", [])]
    assert len(tagged) == 1
    body = ast.parse(tagged[0].source).body
    assert all(isinstance(node, ast.Assign) and len(node.targets) == 1 for node in body)
    values = {node.targets[0].id: ast.literal_eval(node.value) for node in body}
    assert len(values) == len(body), "a name stands there twice"
    assert set(values) == set(settings_of(nb).model_fields)
    assert values["preset"] is not None


@each_of_the_series
def test_a_notebook_names_its_result_and_its_figure_for_the_index_page(path: Path) -> None:
    nb = nbformat.read(path, as_version=4)
    assert "{" in nb.metadata.pwl_lab.result, "the numbers are the run's"
    code = {cell.id: cell.source for cell in nb.cells if cell.cell_type == "code"}
    if path.stem != "06b_what_loading_costs":  # which has tables only
        assert nb.metadata.pwl_lab.thumbnail in code
        assert nb.metadata.pwl_lab.thumbnail_shows, "what stands in place of the figure for those who cannot see it"


@each_of_the_series
def test_the_first_cell_is_the_title(path: Path) -> None:
    first = nbformat.read(path, as_version=4).cells[0]
    assert first.cell_type == "markdown"
    assert re.match(r"# \S", first.source)


@pytest.mark.linter
@pytest.mark.parametrize(
    "command", [("ruff", "check", "."), ("ruff", "format", "--check", "."), ("lint-imports",), ("mypy",)], ids=" ".join
)
def test_linters_pass(command: tuple[str, ...]) -> None:
    _run(str(BIN / command[0]), *command[1:])


# For Windows mypy need not know the types of other packages, which take it most of a minute to read: what it does not
# understand without them it says for both systems. jaxtyping is there because it would take the names of axes for types.
SYSTEMS = """
[mypy]
follow_imports = skip
ignore_missing_imports = True
[mypy-pwl_lab.*,jaxtyping.*]
follow_imports = normal
"""


@pytest.mark.linter
def test_nothing_is_used_that_windows_does_not_have(tmp_path: Path) -> None:
    """What only other systems have stands behind a check of sys.platform or a hasattr, which mypy understands."""
    (tmp_path / "mypy.ini").write_text(SYSTEMS)
    (tmp_path / "probe.py").write_text("import os\n\nos.killpg(1, 9)\n")
    said = {}
    for system in ("linux", "win32"):
        options = ["--config-file", tmp_path / "mypy.ini", "--platform", system, "--cache-dir", f".mypy_cache/{system}"]
        command = [BIN / "mypy", *options, "pwl_lab", tmp_path / "probe.py"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=600)
        assert done.returncode in (0, 1), done.stdout + done.stderr
        said[system] = {line for line in done.stdout.splitlines() if ": error: " in line}
    of_windows = sorted(said["win32"] - said["linux"])
    assert [line.partition(": error: ")[2] for line in of_windows] == [
        'Module has no attribute "killpg"  [attr-defined]'
    ], of_windows


@pytest.mark.linter
def test_the_types_in_the_scripts_of_the_page_fit() -> None:
    compiler = ROOT / "web" / "node_modules" / ".bin" / "tsc"
    if not compiler.is_file():
        pytest.skip("no type checker for JavaScript; fetch it with: npm ci --prefix web")
    _run(str(compiler), "--project", str(ROOT / "web"))


@each_module
def test_a_module_keeps_the_limits(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    assert len(source.splitlines()) <= LINES_PER_FILE
    long = {}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            documented = ast.get_docstring(node) is not None
            begin = node.body[0].end_lineno + 1 if documented and len(node.body) > 1 else node.lineno
            if node.end_lineno - begin + 1 > LINES_PER_FUNCTION:
                long[node.name] = node.end_lineno - begin + 1
        if isinstance(node, ast.ExceptHandler):
            assert node.type is not None, f"bare except in line {node.lineno}"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id != "print", f"print in line {node.lineno}"
    assert long == {}


def _run(*command: str) -> str:
    """The output of a command in the project's folder, which must go well."""
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_no_two_modules_share_a_name() -> None:
    names = [path.stem for path in MODULES if path.stem != "__init__"]
    assert sorted({name for name in names if names.count(name) > 1}) == []


def test_every_folder_says_what_it_is_about() -> None:
    for path in (ROOT / "pwl_lab").glob("*/__init__.py"):
        assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))), path
        assert f"`{path.parent.name}/`" in (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8"), path


def test_the_picture_of_the_imports_is_current() -> None:
    """Otherwise: .venv/bin/python scripts/architecture.py"""
    script = load_script("architecture")
    (files, lines), edges = script.sizes(script.ROOT / "pwl_lab"), script.imports(script.ROOT / "pwl_lab")
    order = script.from_the_ground_up(set(files), edges)
    drawn = re.search(r"<dc:description>(.*?)</dc:description>", script.FIGURE.read_text(), re.DOTALL)
    assert drawn
    assert drawn[1].splitlines() == script.described(order, edges, lines).splitlines()
    assert all(order.index(source) > order.index(target) for source, target in edges), "imports point down"


def test_the_core_is_as_long_as_the_architecture_says() -> None:
    said = re.search(
        r"core of the study \(([a-z, ]+): about ([\d,]+) lines\)", (ROOT / "docs" / "architecture.md").read_text()
    )
    assert said
    lines = load_script("architecture").sizes(ROOT / "pwl_lab")[1]
    assert abs(sum(lines[folder] for folder in said[1].split(", ")) - int(said[2].replace(",", ""))) < 500


def test_the_architecture_names_files_that_are_there() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    named = {name for name in re.findall(r"`((?:[a-z]+/)?[a-z_0-9]+\.py)[`:]", text) if "/" in name}
    assert len(named) > 15
    assert [name for name in named if not (ROOT / "pwl_lab" / name).is_file()] == []


def test_every_shipped_table_is_described_and_says_how_it_was_made() -> None:
    text = (ROOT / "data" / "README.md").read_text(encoding="utf-8")
    results = ROOT / "data" / "results"
    shared = {path.stem for path in results.glob("pair_curricula_*.csv")}  # one JSON for all
    for path in sorted(results.glob("*.csv")):
        assert f"| `{path.name}` |" in text, path.name
        how = results / ("pair_curricula.json" if path.stem in shared else f"{path.stem}.json")
        made = json.loads(how.read_text(encoding="utf-8"))
        assert made["command"].startswith("python scripts/"), path.name
        minutes = made["core_minutes"] if "core_minutes" in made else made["minutes"]
        assert minutes == "not recorded" or minutes > 0, path.name


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_a_script_uses_no_undefined_name(path: Path) -> None:
    """The linter does not look for undefined names, because of the shapes in signatures."""
    names = set(vars(builtins)) | {"__file__", "__name__"}
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            names.add(node.id)
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.arg):
            names.add(node.arg)
        elif isinstance(node, ast.alias):
            names.add((node.asname or node.name).partition(".")[0])
        elif isinstance(node, ast.ExceptHandler) and node.name:
            names.add(node.name)
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
    assert used - names == set()
