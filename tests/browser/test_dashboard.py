"""The dashboard as `make dashboard` shows it: a server behind a token, controls that answer, nothing from elsewhere."""

import os
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import nbformat
import psutil
import pytest
from labpage import ANSWER_MS, cut, open_notebook, run_all
from loopback import free_port, serving
from nbformat.v4 import new_code_cell, new_notebook
from playing import check_handover, watch_a_play, words
from playwright.sync_api import Browser, Locator, Page

from pwl_lab.study import recipes
from pwl_lab.study.settings import LoadingSettings

pytestmark = pytest.mark.browser
START_S = 120


@pytest.fixture(scope="module")
def stored_runs(shared_runs: Path) -> Path:
    """The runs of the other tests, with what notebooks 02 and 04 train at `smoke`, and not what 05 does."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("PWL_LAB_STORE", raising=False)
        patch.setenv("PWL_LAB_RUNS", str(shared_runs))
        recipes.loading_pair(LoadingSettings.load("smoke", family="resnet"), seed=0)
    return shared_runs


@contextmanager
def serving_dashboard(runs: Path, folder: Path, *command: str) -> Iterator[tuple[str, str, subprocess.Popen]]:
    """The dashboard's own server, started by `command` and the options of `pwl-lab dashboard`: address, token, process."""
    port, token = free_port(), secrets.token_hex(16)
    environment = {name: value for name, value in os.environ.items() if name != "PWL_LAB_STORE"}
    environment |= {"PWL_LAB_RUNS": str(runs), "JUPYTER_TOKEN": token, "JUPYTER_CONFIG_DIR": str(folder)}
    options = ["dashboard", "--preset", "smoke", "--port", str(port)]
    with (folder / "voila.log").open("w") as log:
        process = subprocess.Popen([sys.executable, *command, *options], env=environment, stdout=log, stderr=log)
        try:
            end = time.monotonic() + START_S
            while f"127.0.0.1:{port}" not in (folder / "voila.log").read_text() and time.monotonic() < end:
                assert process.poll() is None, (folder / "voila.log").read_text()
                time.sleep(0.2)
            yield f"http://127.0.0.1:{port}", token, process
        finally:
            process.terminate()
            process.wait(timeout=60)


@pytest.fixture(scope="module")
def server(stored_runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """The dashboard at `smoke`: address, token."""
    folder = tmp_path_factory.mktemp("dashboard")
    with serving_dashboard(stored_runs, folder, str(Path(sys.executable).parent / "pwl-lab")) as (address, token, _):
        yield address, token


@contextmanager
def instead(runs: Path, source: str) -> Iterator[None]:
    """A notebook of one cell in place of the dashboard's; it is read anew for every page."""
    (notebook,) = (runs / ".batches").glob("*/dashboard.ipynb")
    whole = notebook.read_text()
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(new_notebook(cells=[new_code_cell(source)], metadata=kernel), notebook)
    try:
        yield
    finally:
        notebook.write_text(whole)


def test_the_controls_answer_and_nothing_is_asked_elsewhere(page: Page, server: tuple[str, str]) -> None:
    address, token = server
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.set_default_timeout(START_S * 1000)
    page.set_viewport_size({"width": 1000, "height": 4000})
    page.goto(f"{address}/?token={token}", timeout=START_S * 1000)
    player = page.locator(".pwl-player")
    player.get_by_role("button", name="Play").wait_for()
    handle(page, "Optimiser steps").wait_for()
    assert page.get_by_label("Bandwidth").count() == page.get_by_label("Loading order").count() == 1
    page.set_default_timeout(ANSWER_MS)
    assert words(player).startswith("SSSS: 0 of 4")
    player.get_by_label("Teacher blocks loaded").press("ArrowRight")
    assert words(player).startswith("TSSS: 1 of 4")
    before = shown(page)
    handle(page, "Optimiser steps").focus()
    page.keyboard.press("ArrowRight")
    assert changed(page, before)[1] != before[1]
    player.get_by_label("Pair").focus()
    page.keyboard.press("ArrowDown")
    assert words(player).startswith("TSSS: 1 of 4 teacher blocks loaded of resnet")
    assert "pwl-lab run 05 --preset smoke" in page.inner_text("body")
    assert cut(page) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= 1000
    what_a_screen_reader_is_told(page)
    plays(player)
    fits_a_projector(page)
    assert {urlsplit(url).netloc for url in asked if not url.startswith(("data:", "blob:"))} == {
        urlsplit(address).netloc
    }


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


def test_an_error_is_shown_as_what_it_is(page: Page, server: tuple[str, str], stored_runs: Path) -> None:
    address, token = server
    with instead(stored_runs, "{}['no such pair']"):
        page.goto(f"{address}/?token={token}", timeout=START_S * 1000)
        page.get_by_text("KeyError: 'no such pair'").wait_for(timeout=START_S * 1000)


def test_the_page_reaches_no_other_server_not_even_on_this_machine(
    page: Page, server: tuple[str, str], stored_runs: Path, tmp_path: Path
) -> None:
    address, token = server
    with instead(stored_runs, "print('a page')"):
        answer = page.goto(f"{address}/?token={token}", timeout=START_S * 1000)
        page.get_by_text("a page").wait_for(timeout=START_S * 1000)
    assert "frame-ancestors 'self'" in answer.headers["content-security-policy"]
    ask = "url => fetch(url, {mode: 'no-cors'}).then(() => 'answered', () => 'refused')"
    with serving(tmp_path) as other:
        assert page.evaluate(ask, f"{address}/login") == "answered"
        assert page.evaluate(ask, other) == "refused"
    assert page.console_errors
    assert all("Content Security Policy" in text for text in page.console_errors)
    page.console_errors.clear()  # this one was to be


QUICK = """
import sys
from pwl_lab.runner import dashboard
from pwl_lab.cli import app
dashboard.IDLE_S, dashboard.LOOK_S, dashboard.NEXT_S = 5, 1, 1
dashboard.START_UP = "import colorsys"  # quick: while it starts, a kernel counts as idle
app(sys.argv[1:])
"""


def test_a_kernel_waits_for_the_next_page_and_none_outlives_its_page_or_the_server(
    browser: Browser, tmp_path: Path
) -> None:
    with serving_dashboard(tmp_path, tmp_path, "-c", QUICK) as (address, token, process):
        first = kernels_of(process)
        with instead(tmp_path, "import os, sys; print('kernel', os.getpid(), 'colorsys' in sys.modules)"):
            kernels, pages = [], []
            for _ in range(2):
                pages.append(browser.new_page())
                pages[-1].goto(f"{address}/?token={token}", timeout=START_S * 1000)
                words = pages[-1].get_by_text("kernel ", exact=False).last.inner_text(timeout=START_S * 1000)
                kernels.append(int(words.split()[-2]))
                assert words.split()[-1] == "True", "it has run what every kernel runs before it answers"
        assert first == {kernels[0]}
        ahead = kernels_of(process, but=kernels)
        pages[0].close()  # without a word to the server, as when a browser is killed
        end = time.monotonic() + 60
        while psutil.pid_exists(kernels[0]) and time.monotonic() < end:
            time.sleep(0.2)
        assert not psutil.pid_exists(kernels[0])
        time.sleep(7)  # longer than a kernel may be idle that has had its page
        assert kernels_of(process, but=kernels) == ahead, "the one that waits is still there, and there is no other"
        process.terminate()
        process.wait(timeout=60)
        assert not any(map(psutil.pid_exists, (kernels[1], *ahead)))
        assert not list((tmp_path / ".batches").iterdir()), "its folder went with it"
        pages[1].close()


def kernels_of(process: subprocess.Popen, but: Sequence[int] = ()) -> set[int]:
    """The process ids of a server's kernels without those in `but`, as soon as there is one."""
    end = time.monotonic() + START_S
    found: set[int] = set()
    while not found and time.monotonic() < end:
        children = psutil.Process(process.pid).children(recursive=True)
        found = {child.pid for child in children if "ipykernel_launcher" in child.cmdline()} - set(but)
        time.sleep(0.2)
    return found


def test_the_same_notebook_opens_in_jupyterlab(page: Page, lab: tuple[str, str, Path], stored_runs: Path) -> None:
    open_notebook(page, lab, "dashboard")
    run_all(page)
    assert page.locator("[data-mime-type$='.error']").count() == 0
    handle(page, "Optimiser steps").wait_for(timeout=20_000)
    plays(page.locator(".pwl-player"))
    assert cut(page) == []


def handle(page: Page, label: str) -> Locator:
    """The handles of the sliders with this label."""
    return page.locator(".widget-slider", has_text=label).locator(".noUi-handle")


def plays(player: Locator) -> None:
    """A play begins with no answer, ends with the whole teacher, and takes the time that it says."""
    before = player.locator(".speed").inner_text()
    seen = watch_a_play(player)
    check_handover(seen, ["SSSS", "TSSS", "TTSS", "TTTS", "TTTT"])
    speed = float(before.split("×")[0]) if "×" in before else 1
    seconds = seen[-1]["clock"] / speed if "speed-up" in before else seen[-1]["clock"] * speed
    assert seen[-1]["ms"] / 1000 == pytest.approx(seconds, rel=0.1)


EXPLORER = ".widget-vbox:has(.noUi-handle)"


def shown(page: Page) -> tuple[str, str]:
    """Words and picture of the explorer."""
    box = page.locator(EXPLORER).last
    return box.locator("[role=status]").inner_text(), box.locator(".widget-image").get_attribute("src")


def changed(page: Page, before: tuple[str, str]) -> tuple[str, str]:
    """Words and picture once both are others, within the time limit."""
    page.wait_for_function(
        "([words, picture]) => { const box = [...document.querySelectorAll('.widget-vbox:has(.noUi-handle)')].at(-1);"
        " return box.querySelector('[role=status]').innerText !== words"
        " && box.querySelector('.widget-image').src !== picture; }",
        arg=list(before),
    )
    return shown(page)


def what_a_screen_reader_is_told(page: Page) -> None:
    """Every handle and picture has a name; the words change inside an element that stays."""
    page.set_default_timeout(ANSWER_MS)
    one = page.get_by_role("slider", name="Optimiser steps")
    value = page.locator(".widget-slider").locator(".widget-readout").inner_text()
    assert one.get_attribute("aria-valuetext") == value
    said = page.locator(EXPLORER).last.locator("[role=status]")
    before, place = shown(page), said.element_handle()
    one.press("ArrowLeft")
    changed(page, before)
    assert one.get_attribute("aria-valuetext") != value
    assert place.evaluate("place => place.isConnected")
    assert said.get_attribute("aria-live") == "polite"
    assert said.locator("> *").count() == 1
    assert page.get_by_role("img", name="the state described above").count() == 1
    assert page.locator(".pwl-player [role=status]").count() == 1


def fits_a_projector(page: Page) -> None:
    """In a low window the whole player is seen when the page opens, and the explorer's control with its picture."""
    page.set_viewport_size({"width": 1366, "height": 768})
    page.evaluate("scrollTo(0, 0)")
    player = page.locator(".pwl-player").bounding_box()
    assert player["y"] >= 0
    assert player["y"] + player["height"] <= 768
    box = page.locator(EXPLORER).last
    box.evaluate("box => box.scrollIntoView({block: 'start'})")
    handle, picture = (box.locator(part).first.bounding_box() for part in (".noUi-handle", ".widget-image"))
    assert handle["y"] >= 0
    assert picture["y"] + picture["height"] <= 768, (handle, picture)
    assert picture["height"] > 200
