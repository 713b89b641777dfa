"""The source distribution, installed where there is no checkout: the library works, and what needs a checkout says so."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
from pathlib import Path
from types import SimpleNamespace

import pytest
from sources import MODULES, ROOT

FILES = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]  # as a fresh checkout would have them
EXAMPLE = "{}/presets/grids/example.yaml"  # of the series' own, so it needs one of its notebooks
BUILD = "import sys, setuptools.build_meta as backend; print(backend.build_sdist(sys.argv[1]))"
LIBRARY = """
import json
import pwl_lab
from pwl_lab.loading.model import ProgressiveModel
from pwl_lab.models import mlp
from pwl_lab.study.settings import LoadingSettings
from pwl_lab.study.shipped_pair import shipped_pair
from pwl_lab.study.store import provenance, shipped
from pwl_lab.study.verbs import train_or_load, train_pair
from pwl_lab.support import paths
from pwl_lab.tasks.grammar import Grammar
from pwl_lab.tasks.images import ImageTask
from pwl_lab.tasks.parity import SparseParity
from pwl_lab.training import TrainPlan

task, plan = SparseParity(n_bits=8, k_sparse=2, eval_samples=256), TrainPlan(steps=20, batch_size=16, eval_every=10)
teacher = train_or_load(mlp(task, width=8, depth=2), task, plan)
pair = train_pair(teacher, mlp(task, width=4, depth=2), task, plan, to_export=True)
pair.export("bundle")
with ProgressiveModel.open("bundle") as model:
    model.wait("TT")
    mask = model.predict(task.split("test").inputs[:4]).mask
found = {
    "package": pwl_lab.__file__,
    "mask": mask,
    "runs": str(paths.runs()),
    "commit": provenance()["commit"],
    "preset": LoadingSettings.load("smoke").preset,
    "grammar": Grammar.load("hidden").name,
    "rows": len(shipped("complexity_best")),
    "pair": shipped_pair("cpu").accuracy("TTTT"),
    "images": list(ImageTask("fashion-mnist-small").split("test").inputs.shape),
}
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """The sdist, and an environment with it and with our other packages, in a folder whose name is not plain."""
    folder = tmp_path_factory.mktemp("sdist") / "ein Ordner ü"
    for name in filter(None, run(FILES, ROOT).stdout.split("\0")):
        if (ROOT / name).is_file():  # git also lists what was deleted a moment ago
            (folder / "source" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / "source" / name)
    name = run([sys.executable, "-c", BUILD, str(folder)], folder / "source").stdout.splitlines()[-1]
    environment = folder / "venv"
    run([sys.executable, "-m", "venv", "--without-pip", str(environment)], folder)
    program = environment / ("Scripts" if os.name == "nt" else "bin")
    site = Path(
        run([program / "python", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], folder).stdout.strip()
    )
    # A path alone: the editable installation of this checkout, which also lies there, is not in force.
    (site / "ours.pth").write_text(sysconfig.get_path("purelib"))
    pip = [sys.executable, "-m", "pip", "--python", str(program / "python"), "install", "--quiet", "--no-index"]
    run([*pip, "--no-deps", "--no-build-isolation", "--ignore-installed", str(folder / name)], folder)
    shutil.rmtree(folder / "source")
    (folder / "empty").mkdir()
    return SimpleNamespace(sdist=folder / name, bin=program, package=site / "pwl_lab", cwd=folder / "empty")


def run(command: list[str | Path], folder: Path, code: int = 0, **variables: str) -> subprocess.CompletedProcess:
    """The command in a folder, with none of our variables but these; it has to end with this code."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("PWL_LAB_", "PYTHONPATH"))}
    done = subprocess.run(command, cwd=folder, env=env | variables, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    return done


def test_the_sdist_has_the_whole_package_its_presets_and_its_data(installed):
    with tarfile.open(installed.sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    there = {path.relative_to(ROOT).as_posix() for path in MODULES}
    for folder in ("presets", "data"):
        there |= {path.relative_to(ROOT).as_posix() for path in (ROOT / folder).rglob("*") if path.is_file()}
    assert there | {"pwl_lab/py.typed"} <= names
    assert not [name for name in names if name.startswith(("tests", "notebooks", "docs", "scripts", "web"))]


def test_the_library_works_without_a_checkout_and_writes_where_it_was_started(installed):
    done = run([installed.bin / "python", "-c", LIBRARY], installed.cwd)
    found = json.loads(done.stdout.splitlines()[-1])
    assert Path(found.pop("package")).parent == installed.package
    assert (installed.package / "py.typed").is_file()
    assert Path(found.pop("runs")) == installed.cwd / "runs"
    assert found.pop("rows") > 5
    assert found == {
        "mask": "TT",
        "commit": None,
        "preset": "smoke",
        "grammar": "hidden",
        "pair": 0.9115,
        "images": [2_000, 1, 28, 28],
    }
    assert {path.name for path in installed.cwd.iterdir()} == {"bundle", "runs"}
    assert not (installed.package / "runs").exists()


@pytest.mark.parametrize(
    "words",
    [
        *(["params", "2"], ["run", "04"], ["series", "--preset", "smoke"], ["dashboard"], ["site"], ["slides"]),
        *(["web"], ["export", "bundle", "--out", "page"], ["batch", EXAMPLE, "--out", "batch"]),
    ],
)
def test_a_command_that_needs_a_checkout_says_so(installed, words):
    words = [word.format(installed.package) for word in words]
    said = " ".join(run([installed.bin / "pwl-lab", *words], installed.cwd, code=2).stderr.split())
    assert "a checkout of the project" in said
    assert "PWL_LAB_HOME" in said
    assert "Traceback" not in said


def test_a_batch_of_ones_own_notebook_runs(installed, write_notebook, tmp_path):
    own = write_notebook("# Own", 'print("size", size)', parameters="size = 3")
    (tmp_path / "grid.yaml").write_text(f"notebook: {own}\naxes:\n  - product: {{size: [1, 2]}}\n")
    command = [installed.bin / "pwl-lab", "batch", tmp_path / "grid.yaml", "--out", tmp_path / "out", "--workers", "1"]
    assert "2 of 2 ok" in run(command, installed.cwd).stdout


def test_with_a_checkout_named_or_a_notebook_of_ones_own_it_works(installed, write_notebook):
    command = [installed.bin / "pwl-lab", "params"]
    assert "student_width" in run([*command, "2"], installed.cwd, PWL_LAB_HOME=str(ROOT)).stdout
    assert "size" in run([*command, write_notebook("# Own", parameters="size = 3")], installed.cwd).stdout
