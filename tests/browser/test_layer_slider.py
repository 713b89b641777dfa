"""Notebook 04 as a reader sees it: JupyterLab runs all cells, the keyboard moves the slider, the output follows."""

import time
from pathlib import Path

import pytest
from playwright.sync_api import Error, Locator, Page

KERNEL = "window.jupyterapp?.shell?.currentWidget?.sessionContext?.session?.kernel?.status"
RUN_S = 240
ANSWER_MS = 1_000  # what a reader waits for a picture at most


def open_notebook(page: Page, lab: tuple[str, str, Path], name: str) -> None:
    """Open a notebook and wait for its kernel; the server may still be starting."""
    address, token, _ = lab
    end = time.monotonic() + 60
    while True:
        try:
            page.goto(f"{address}/lab/tree/{name}.ipynb?token={token}&reset")
            break
        except Error:
            if time.monotonic() > end:
                raise
            time.sleep(0.5)
    page.wait_for_function(f"{KERNEL} === 'idle'", timeout=90_000)


def run_all(page: Page) -> None:
    """Run all cells; the promise ends when the last one has."""
    page.set_default_timeout(RUN_S * 1000)
    page.evaluate("window.jupyterapp.commands.execute('notebook:run-all-cells')")


def loader(page: Page) -> Locator:
    """The control with its picture."""
    return page.locator(".widget-vbox", has=page.locator(".noUi-handle"))


def shown(page: Page) -> tuple[str, str]:
    """What the reader sees below the controls: the words and the picture."""
    return loader(page).locator("[role=status]").inner_text(), loader(page).locator("img").get_attribute("src")


def wait_for(page: Page, mask: str, within_ms: int = ANSWER_MS) -> tuple[str, str]:
    """What is shown once the words are those of `mask`."""
    page.wait_for_function(
        f"document.querySelector('.widget-vbox [role=status]').innerText.startsWith('{mask}')", timeout=within_ms
    )
    return shown(page)


def handle(page: Page, label: str) -> Locator:
    """The handle of the slider with this label."""
    return page.locator(".widget-slider", has_text=label).locator(".noUi-handle")


@pytest.mark.browser
@pytest.mark.parametrize("name", ["00_start_here", "04_progressive_weight_loading"])
def test_controls_change_words_and_picture(page: Page, lab: tuple[str, str, Path], name: str) -> None:
    open_notebook(page, lab, name)
    run_all(page)
    assert page.locator("[data-mime-type$='.error']").count() == 0
    page.wait_for_selector(".noUi-handle", timeout=20_000)
    nothing_is_clipped_or_shown_as_text(page)
    first, picture = shown(page)
    assert first.startswith("SSSS: 0 of 4")
    handle(page, "Teacher blocks loaded").focus()
    for mask in ("TSSS", "TTSS", "TTTS", "TTTT"):
        page.keyboard.press("ArrowRight")
        new_words, new_picture = wait_for(page, mask)
        assert new_picture != picture, f"the picture did not change at {mask}"
        words, picture = new_words, new_picture
    assert "4 of 4 teacher blocks loaded" in words
    assert words.split("Predictions:")[1] != first.split("Predictions:")[1]
    if name.startswith("04"):
        other_controls_follow(page)


def other_controls_follow(page: Page) -> None:
    """Order, bandwidth, switches and the play button, from all blocks loaded on."""
    handle(page, "Bandwidth").focus()
    page.keyboard.press("ArrowRight")
    page.wait_for_function("document.querySelector('.widget-vbox [role=status]').innerText.includes('at 10 MB/s')")
    page.get_by_role("button", name="block 2: teacher").focus()
    page.keyboard.press("Space")
    assert "3 of 4 teacher blocks loaded" in wait_for(page, "TSTT")[0]
    page.get_by_role("button", name="block 2: student").wait_for()
    loader(page).locator("select").select_option("suffix")
    wait_for(page, "STTT")
    handle(page, "Teacher blocks loaded").focus()
    page.keyboard.press("Home")
    wait_for(page, "SSSS")
    loader(page).locator(".widget-play button").first.click()
    wait_for(page, "SSST", 5_000)  # it plays at its own pace
    wait_for(page, "SSTT", 5_000)


def nothing_is_clipped_or_shown_as_text(page: Page) -> None:
    """No label is cut, no widget is only its name, and the console has no error of a widget."""
    clipped = page.evaluate(
        "[...document.querySelectorAll('.widget-label, .widget-toggle-button')]"
        ".filter(l => l.scrollWidth > l.clientWidth).map(l => l.innerText)"
    )
    assert clipped == []
    assert "LayerLoader(children" not in page.inner_text(".jp-Notebook")
    ours = [text for text in page.console_errors if "widget" in text.lower()]
    assert ours == []
