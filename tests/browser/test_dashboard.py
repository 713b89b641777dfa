"""The dashboard as `make dashboard` shows it: a server behind a token, three controls, nothing from elsewhere."""

import os
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import pytest
from conftest import free_port
from playwright.sync_api import Locator, Page
from test_layer_slider import ANSWER_MS, open_notebook, run_all

from pwl_lab import recipes
from pwl_lab.settings import CurriculaSettings, LoadingSettings

pytestmark = pytest.mark.browser
START_S = 120


@pytest.fixture(scope="module")
def stored_runs(shared_runs: Path) -> Path:
    """The runs of the other tests, with what notebooks 02 and 04 train at `smoke`, and not what 05 does."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("PWL_LAB_STORE", raising=False)
        patch.setenv("PWL_LAB_RUNS", str(shared_runs))
        recipes.curricula_runs(CurriculaSettings.load("smoke"))
        for family in ("vgg", "resnet"):
            recipes.loading_pair(LoadingSettings.load("smoke", family=family), seed=0)
    return shared_runs


@pytest.fixture(scope="module")
def server(stored_runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """The dashboard's own server at `smoke`: address, token."""
    port, token, folder = free_port(), secrets.token_hex(16), tmp_path_factory.mktemp("dashboard")
    environment = {name: value for name, value in os.environ.items() if name != "PWL_LAB_STORE"}
    environment |= {"PWL_LAB_RUNS": str(stored_runs), "JUPYTER_TOKEN": token, "JUPYTER_CONFIG_DIR": str(folder)}
    command = [str(Path(sys.executable).parent / "pwl-lab"), "dashboard", "--preset", "smoke", "--port", str(port)]
    with (folder / "voila.log").open("w") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        end = time.monotonic() + START_S
        while f"127.0.0.1:{port}" not in (folder / "voila.log").read_text() and time.monotonic() < end:
            assert process.poll() is None, (folder / "voila.log").read_text()
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}", token
        process.terminate()
        process.wait(timeout=60)


def test_three_controls_answer_and_nothing_is_asked_elsewhere(page: Page, server: tuple[str, str]) -> None:
    address, token = server
    asked, errors = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.set_default_timeout(START_S * 1000)
    page.set_viewport_size({"width": 1000, "height": 4000})
    page.goto(f"{address}/?token={token}")
    blocks = handle(page, "Teacher blocks loaded")
    handle(page, "Optimiser steps").wait_for()
    assert handle(page, "Bandwidth").count() == 2, "the loader has one, and the timeline"
    page.set_default_timeout(ANSWER_MS)
    first = shown(page, 0)
    assert first[0].startswith("SSSS: 0 of 4")
    blocks.focus()
    page.keyboard.press("ArrowRight")
    after = changed(page, 0, first)
    assert after[0].startswith("TSSS: 1 of 4")
    assert after[1] != first[1]
    for label, place in (("Bandwidth", 1), ("Optimiser steps", 2)):
        before = shown(page, place)
        handle(page, label).last.focus()
        page.keyboard.press("ArrowRight")
        assert changed(page, place, before)[1] != before[1]
    page.set_default_timeout(START_S * 1000)  # the first choice of a pair draws its pictures
    page.get_by_label("Family").focus()
    page.keyboard.press("ArrowDown")
    page.get_by_text("TSSS: 1 of 4 teacher blocks loaded of resnet").wait_for()
    assert "pwl-lab run 05 --preset smoke" in page.inner_text("body")
    assert cut(page) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= 1000
    assert {urlsplit(url).netloc for url in asked if not url.startswith(("data:", "blob:"))} == {
        urlsplit(address).netloc
    }
    assert errors + page.console_errors == []


def test_without_the_token_there_is_nothing(server: tuple[str, str]) -> None:
    address, token = server
    for path in ("/", "/?token=wrong", "/voila/render/dashboard.ipynb"):
        with urlopen(address + path) as answer:
            assert "/login" in answer.url
    with pytest.raises(HTTPError, match="403"):
        urlopen(Request(f"{address}/api/kernels/0-0-0-0-0/channels", headers={"Upgrade": "websocket"}))
    for file in ("dashboard.ipynb", "voila.json"):
        with pytest.raises(HTTPError, match="403"):
            urlopen(f"{address}/voila/files/{file}?token={token}")


def test_the_same_notebook_opens_in_jupyterlab(page: Page, lab: tuple[str, str, Path], stored_runs: Path) -> None:
    open_notebook(page, lab, "dashboard")
    run_all(page)
    assert page.locator("[data-mime-type$='.error']").count() == 0
    handle(page, "Optimiser steps").wait_for(timeout=20_000)
    assert handle(page, "Bandwidth").count() == 2
    assert cut(page) == []


def handle(page: Page, label: str) -> Locator:
    """The handles of the sliders with this label."""
    return page.locator(".widget-slider", has_text=label).locator(".noUi-handle")


def shown(page: Page, place: int) -> tuple[str, str]:
    """Words and picture of the control at this place on the page."""
    return page.locator("[role=status]").nth(place).inner_text(), page.locator(".widget-image").nth(
        place
    ).get_attribute("src")


def changed(page: Page, place: int, before: tuple[str, str]) -> tuple[str, str]:
    """Words and picture once both are others, within the time limit."""
    page.wait_for_function(
        "([place, words, picture]) => document.querySelectorAll('[role=status]')[place].innerText !== words"
        " && document.querySelectorAll('.widget-image')[place].src !== picture",
        arg=[place, *before],
    )
    return shown(page, place)


def cut(page: Page) -> list[str]:
    """The labels and buttons whose words do not fit."""
    return page.evaluate(
        "[...document.querySelectorAll('.widget-label, .widget-readout, .widget-toggle-button, select')]"
        ".filter(one => one.scrollWidth > one.clientWidth).map(one => one.innerText)"
    )
