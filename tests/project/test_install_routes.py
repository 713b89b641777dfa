"""The ways to install: pip, uv, conda, a container, Binder and commands by hand all ask for the same."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from importlib.metadata import packages_distributions, requires

import pytest
from packaging.requirements import Requirement
from sources import MODULES, ROOT, read

from pwl_lab.support.yaml12 import read_yaml

PYPROJECT = tomllib.loads(read(ROOT / "pyproject.toml"))
PROJECT, UV = PYPROJECT["project"], PYPROJECT["tool"]["uv"]
LOCKS = {
    "uv.lock": {"pypi.org", "files.pythonhosted.org", "download.pytorch.org"},
    "web/package-lock.json": set(),  # it leaves the registry to the reader (web/.npmrc)
}
ROUTES = ["pyproject.toml", "constraints.txt", "environment.yml", "Dockerfile", "binder/requirements.txt", "web/.npmrc"]
PYTORCH = "https://download.pytorch.org/whl/cpu"
CONDA_NAMES = {
    "torch": "pytorch",
    "playwright": "playwright-python",
    "jupyter-client": "jupyter_client",
    "jupyter-server": "jupyter_server",
}
# What a package of ours brings and we import, too.
BROUGHT = {
    "dask": "distributed",
    "docutils": "sphinx",
    "ipython": "ipykernel",
    "pydantic-core": "pydantic",
    "traitlets": "ipywidgets",
}


def hosts(text: str) -> set[str]:
    return set(re.findall(r"https?://([^/\s\"']+)", text))


def sources(text: str) -> str:
    """The lines of a lock that say where something comes from; npm also notes where its authors take donations."""
    return "\n".join(line for line in text.splitlines() if re.search(r"\b(resolved|registry|url|index)\b", line))


def pinned() -> dict[str, str]:
    return dict(re.findall(r"^([\w-]+)==(\S+)$", read(ROOT / "constraints.txt"), re.MULTILINE))


def locked() -> list[dict]:
    return tomllib.loads(read(ROOT / "uv.lock"))["package"]


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_names_public_registries_only(name):
    assert hosts(sources(read(ROOT / name))) == LOCKS[name]


@pytest.mark.parametrize("name", ROUTES)
def test_what_installs_names_public_registries_only(name):
    assert hosts(read(ROOT / name)) <= set.union({"arxiv.org"}, *LOCKS.values())


def test_the_pinned_versions_are_those_of_uv_and_torch_is_one_that_the_project_allows():
    assert tuple(map(int, pinned()["torch"].split(".")[:2])) >= (2, 6)
    assert UV["constraint-dependencies"] == [f"{name}=={version}" for name, version in pinned().items()]
    found = {(one["name"], one["version"].partition("+")[0]) for one in locked() if one["name"] in pinned()}
    assert found == set(pinned().items())


def test_the_lock_is_of_this_project():
    """Names and ranges; whether the rest fits, only `uv lock --check` can say."""
    (ours,) = [one for one in locked() if one["name"] == "pwl-lab"]
    groups = {"": PROJECT["dependencies"], **PROJECT["optional-dependencies"]}
    wanted = {(_name(line), extra, _range(line)) for extra, lines in groups.items() for line in lines}
    asked = ours["metadata"]["requires-dist"]
    assert {(one["name"], _extra(one), one.get("specifier", "")) for one in asked} == wanted


def _name(requirement: str) -> str:
    return re.sub(r"[._-]+", "-", re.match(r"[\w.-]+", requirement)[0])


def _range(requirement: str) -> str:
    return re.sub(r"^[\w.-]+", "", requirement.partition(";")[0]).strip()


def _extra(asked: dict) -> str:
    return (re.findall(r"extra == '(\w+)'", asked.get("marker", "")) or [""])[0]


def test_uv_takes_torch_without_cuda():
    assert UV["sources"]["torch"] == {"index": "pytorch-cpu", "marker": "sys_platform == 'linux'"}
    assert UV["index"] == [{"name": "pytorch-cpu", "url": PYTORCH, "explicit": True}]
    names = {one["name"] for one in locked()}
    assert not {name for name in names if name.startswith(("nvidia", "cuda")) or name == "triton"}
    (linux,) = [one for one in locked() if one["name"] == "torch" and "+cpu" in one["version"]]
    assert linux["source"] == {"registry": PYTORCH}
    pythons = {name.rpartition(" ")[2].replace(".", "") for name in PROJECT["classifiers"] if ":: 3." in name}
    for machine in ("x86_64", "aarch64"):
        wheels = [wheel["url"] for wheel in linux["wheels"] if wheel["url"].endswith(f"{machine}.whl")]
        assert {re.search(r"-cp(\d+)-", url)[1] for url in wheels} == pythons
    assert all(re.fullmatch("sha256:[0-9a-f]{64}", wheel["hash"]) for wheel in linux["wheels"])


def test_conda_and_pip_ask_for_the_same():
    extras = PROJECT["optional-dependencies"]
    wanted = [*PROJECT["dependencies"], *extras["dev"], *extras["hf"], *extras["web"]]
    wanted = {re.sub(r"^[\w.-]+", lambda name: CONDA_NAMES.get(name[0], name[0]), line) for line in wanted}
    wanted |= {f"python{PROJECT['requires-python']}", "pip"}
    conda = read_yaml(read(ROOT / "environment.yml"))
    assert conda["name"] == "pwl-lab"
    assert conda["channels"] == ["conda-forge"]
    assert {line for line in conda["dependencies"] if isinstance(line, str)} == wanted
    rest = set(extras) - {"dev", "hf", "web"} - {"s3"}  # `dev` has what `s3` asks for
    assert [line for line in conda["dependencies"] if isinstance(line, dict)] == [
        {"pip": [f"-e .[{','.join(sorted(rest))}]"]}
    ]
    assert set(extras["s3"]) <= set(extras["dev"])


@cache
def distributions() -> dict[str, set[str]]:
    """The packages, as registries name them, that bring a module."""
    return {module: {_name(one).lower() for one in names} for module, names in packages_distributions().items()}


def asked_for(*lines: str) -> set[str]:
    """The packages that requirements name, and those of the table that one of them brings."""
    names = {_name(line).lower() for line in lines}
    return names | {name for name, bringer in BROUGHT.items() if bringer in names}


def imported(tree: ast.AST, at_import: bool = True) -> Iterator[tuple[str, bool]]:
    """The modules that code imports, without the library's and ours, and whether importing the code does it already."""
    for node in ast.iter_child_nodes(tree):
        names = [one.name for one in node.names] if isinstance(node, ast.Import) else []
        names += [node.module] if isinstance(node, ast.ImportFrom) else []
        for name in (name.partition(".")[0] for name in names):
            if name not in {*sys.stdlib_module_names, "pwl_lab"}:
                yield name, at_import
        guarded = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        guarded |= isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        guarded |= isinstance(node, ast.Try) and any("ImportError" in ast.unparse(one) for one in node.handlers)
        yield from imported(node, at_import and not guarded)


def test_the_package_asks_for_what_it_imports():
    extras = [line for name, lines in PROJECT["optional-dependencies"].items() if name != "dev" for line in lines]
    always, at_most = asked_for(*PROJECT["dependencies"]), asked_for(*PROJECT["dependencies"], *extras)
    found = {(name, first) for path in MODULES for name, first in imported(ast.parse(read(path)))}
    assert {("torch", True), ("PIL", True), ("ruamel", True), ("onnx", False), ("docutils", False)} <= found
    unasked = {name for name, first in found if not distributions()[name] & (always if first else at_most)}
    assert unasked == set()


@pytest.mark.parametrize("name", BROUGHT)
def test_what_another_package_is_said_to_bring_it_brings(name):
    lines = [Requirement(line) for line in requires(BROUGHT[name])]
    assert name in {_name(line.name).lower() for line in lines if line.marker is None or line.marker.evaluate()}


def test_what_make_installs_can_be_imported():
    """Otherwise tests that need an extra would be skipped, and nobody would notice."""
    (extras,) = re.findall(r"-e '\.\[([\w,]+)\]'", read(ROOT / "Makefile"))
    lines = [Requirement(line) for extra in extras.split(",") for line in PROJECT["optional-dependencies"][extra]]
    wanted = {_name(line.name).lower() for line in lines if line.marker is None or line.marker.evaluate()}
    public = {one: names for one, names in distributions().items() if one.isidentifier() and not one.startswith("_")}
    assert wanted <= set.union(*public.values())
    modules = [one for one, names in public.items() if names & wanted]
    code = f"import {', '.join(modules)}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_every_folder_of_the_package_is_packed():
    setup = PYPROJECT["tool"]["setuptools"]
    folders = {".".join(path.relative_to(ROOT).parent.parts) for path in MODULES}
    assert set(setup["packages"]) == folders | set(setup["package-dir"])
    for name, folder in setup["package-dir"].items():
        assert name == f"pwl_lab.{folder}"
        assert any((ROOT / folder).glob(setup["package-data"][name][0]))


def test_the_container_copies_what_is_there_and_runs_what_is_installed():
    text = read(ROOT / "Dockerfile").replace("\\\n", " ")
    steps = [line.split(maxsplit=1) for line in text.splitlines() if line and not line.startswith("#")]
    for step, rest in steps:
        if step == "COPY":
            *sources, _ = [word for word in rest.split() if not word.startswith("--")]
            assert all((ROOT / source).exists() for source in sources)
    said = dict(steps)
    version = re.fullmatch(r"python:(3\.\d+)-slim", said["FROM"])[1]
    assert f"Programming Language :: Python :: {version}" in PROJECT["classifiers"]
    assert read(ROOT / "binder" / "runtime.txt").strip() == f"python-{version}"
    assert said["USER"] == "learner"
    command = json.loads(said["CMD"])
    assert command[:2] == ["jupyter", "lab"]
    assert (ROOT / command[2]).is_dir()
    assert f"--port={said['EXPOSE']}" in command
    assert not {"uv.lock", "presets", "data", "pwl_lab"} & set(read(ROOT / ".dockerignore").split())


def test_the_dev_container_is_the_same_image_with_everything():
    told = json.loads(read(ROOT / ".devcontainer" / "devcontainer.json"))
    assert (ROOT / ".devcontainer" / told["build"]["dockerfile"]).resolve() == ROOT / "Dockerfile"
    text = read(ROOT / "Dockerfile")
    assert f"USER {told['remoteUser']}" in text
    assert f"EXPOSE {told['forwardPorts'][0]}" in text
    (environment,) = re.findall(r"UV_PROJECT_ENVIRONMENT=(\S+)", text)
    settings = told["customizations"]["vscode"]["settings"]
    assert settings["python.defaultInterpreterPath"] == f"{environment}/bin/python"
    assert "--all-extras" in told["postCreateCommand"]


def test_binder_installs_the_pinned_torch_without_cuda():
    lines = [line for line in read(ROOT / "binder" / "requirements.txt").splitlines() if not line.startswith("#")]
    assert lines == [f"--extra-index-url {PYTORCH}", "-c ../constraints.txt", "-e ."]


def test_the_container_builds():
    docker = shutil.which("docker")
    if not docker or subprocess.run([docker, "info"], capture_output=True, check=False).returncode:
        pytest.skip("no docker engine answers here")
    done = subprocess.run([docker, "build", "--tag", "pwl-lab-test", ROOT], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4_000:]


def dry_run(target: str) -> str:
    """What `make TARGET` would run; a make around these tests hands its own variables on."""
    if not shutil.which("make"):
        pytest.skip("no make here")
    ours = {"MAKEFLAGS", "MFLAGS", "MAKEOVERRIDES", "PRESET", "NAME", "JOBS", "ARGS", "PORT", "CONSTRAINTS", "PYTHON"}
    env = {name: value for name, value in os.environ.items() if name not in ours}
    words = ["make", "--no-print-directory", "--dry-run", "--always-make", target]
    return subprocess.run(words, cwd=ROOT, env=env, capture_output=True, text=True, check=True).stdout


def said_by_make(target: str) -> list[str]:
    """What `make TARGET` runs after it has installed, as it is typed in an activated environment."""
    text = dry_run(target).replace("\\\n", " ").partition(".installed\n")[2]
    if found := re.search(r"folder=\$\((.*?)\) && echo .*? && +(.*)", text):
        text = f"{text[: found.start()]}{found[1]}\n{found[2]}".replace('"$folder"', "FOLDER")
    lines = [" ".join(line.replace(".venv/bin/", "").split()) for line in text.splitlines()]
    return [line for line in lines if line and not line.startswith(("command -v", "touch"))]


def test_the_commands_behind_each_target_are_the_ones_that_are_written_down():
    section = read(ROOT / "docs" / "usage.md").partition("## Without make")[2].partition("\n## ")[0]
    rows = dict(re.findall(r"^\| `make (\w+)` \| (.*) \|$", section, re.MULTILINE))
    targets = set(re.findall(r"^\.PHONY: (.*)$", read(ROOT / "Makefile"), re.MULTILINE)[0].split())
    assert set(rows) == targets - {"help", "install", "clean", "distclean"}
    for target, commands in rows.items():
        assert re.findall(r"`([^`]+)`", commands) == said_by_make(target), target
    (by_make,) = re.findall(r"(-m pip install) --quiet( .*)", dry_run("install"))
    assert "".join(by_make).replace("'", '"') in section
