"""A real JupyterLab on loopback and a real Chromium that reaches nothing else."""

import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import nbformat
import pytest
from loopback import free_port
from playwright.sync_api import Browser, Page, sync_playwright
from script_modules import load_script
from smoke import SmokeRun

from pwl_lab.support import paths

DRIVEN = load_script("chromium")


# Not for the whole session: Playwright's event loop would still run in tests that need one of their own.
@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Debian's Chromium, or the one that PWL_CHROMIUM names."""
    if not Path(DRIVEN.CHROMIUM).exists():
        pytest.skip(f"no browser at {DRIVEN.CHROMIUM}; set PWL_CHROMIUM")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=DRIVEN.CHROMIUM, args=DRIVEN.FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture(scope="session")
def shared_runs(tmp_path_factory: pytest.TempPathFactory, smoke_run: Callable[[str], SmokeRun]) -> Path:
    """Where the kernels of these tests keep what they trained, from the start what 02 and 04 train at `smoke`."""
    runs = tmp_path_factory.mktemp("runs")
    for name in ("02", "04"):
        smoke_run(name).copy_store(runs / "store")
    return runs


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory, shared_runs: Path) -> Iterator[tuple[str, str, Path]]:
    """A JupyterLab of its own on a copy of the series, with `smoke` as the preset: address, token, folder."""
    folder = tmp_path_factory.mktemp("lab")
    work = folder / "notebooks"
    shutil.copytree(paths.notebooks(), work, ignore=shutil.ignore_patterns(".ipynb_checkpoints"))
    for path in work.glob("*.ipynb"):
        if path.stem != "example_point":  # has no presets
            use_smoke(path)
    with jupyter("jupyterlab", work, folder, shared_runs, "--LabApp.news_url=None") as (address, token):
        yield address, token, work


@contextmanager
def jupyter(module: str, work: Path, folder: Path, runs: Path, *options: str) -> Iterator[tuple[str, str]]:
    """JupyterLab or Notebook 7 on `work`, with nobody's configuration: address and token. It may still be starting."""
    port, token = free_port(), secrets.token_hex(16)
    environment = os.environ | {
        "JUPYTER_CONFIG_DIR": str(folder / "config"),
        "JUPYTERLAB_SETTINGS_DIR": str(folder / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(folder / "workspaces"),
        "PWL_LAB_RUNS": str(runs),
    }
    command = [sys.executable, "-m", module, "--no-browser", "--allow-root", "--expose-app-in-browser", *options]
    command += [f"--ServerApp.port={port}", "--ServerApp.port_retries=0", f"--IdentityProvider.token={token}"]
    command += [f"--ServerApp.root_dir={work}", "--ServerApp.ip=127.0.0.1"]
    with (folder / "jupyter.log").open("w") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=work)
        yield f"http://127.0.0.1:{port}", token
        server.terminate()
        server.wait(timeout=30)


@pytest.fixture
def notebook_7(tmp_path: Path) -> Iterator[tuple[str, str, Path]]:
    """Plain Jupyter Notebook on an empty folder: address, token, folder."""
    work = tmp_path / "work"
    work.mkdir()
    with jupyter("notebook", work, tmp_path, tmp_path / "runs") as (address, token):
        yield address, token, work


def use_smoke(path: Path) -> None:
    """Set the preset in a notebook's parameters cell; the example of a grid's point has none."""
    notebook = nbformat.read(path, 4)
    cell = next(cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", []))
    assert 'preset = "lesson"' in cell.source or path.stem == "example_point"
    cell.source = cell.source.replace('preset = "lesson"', 'preset = "smoke"')
    nbformat.write(notebook, path)


@pytest.fixture(scope="session")
def page_of_04(smoke_run: Callable[[str], SmokeRun]) -> Path:
    """Notebook 04 as the runner leaves it at `smoke`."""
    run = smoke_run("04")
    assert run.status.status == "ok", run.status.error
    return run.out / "notebook.html"


@pytest.fixture
def page(browser: Browser, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Page]:
    """A tall page (cells out of sight are not painted), without an error at its end; kept as a picture of a failure."""
    context = browser.new_context(viewport={"width": 1400, "height": 4000})
    one = context.new_page()
    one.console_errors = []
    one.on("console", lambda message: one.console_errors.append(message.text) if message.type == "error" else None)
    one.on("pageerror", lambda error: one.console_errors.append(f"{error.name}: {error.message}"))
    yield one
    failed = getattr(request.node, "failed", False)
    if failed:
        one.screenshot(path=tmp_path / "failed.png")
    context.close()
    assert failed or one.console_errors == []


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo) -> Iterator[None]:
    """Let the `page` fixture know whether its test failed."""
    outcome = yield
    if call.when == "call":
        item.failed = outcome.get_result().failed
