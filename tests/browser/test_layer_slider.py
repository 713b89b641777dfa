"""Notebook 04 as a reader sees it: JupyterLab runs all cells, the keyboard moves the slider, the output follows."""

import time
from pathlib import Path

import pytest
from playwright.sync_api import Error, Page

KERNEL = "window.jupyterapp?.shell?.currentWidget?.sessionContext?.session?.kernel?.status"
RUN_S = 240


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


def shown(page: Page) -> tuple[str, str]:
    """What the reader sees below the slider: the line of words and the picture."""
    picker = page.locator(".widget-vbox", has=page.locator(".noUi-handle"))
    return picker.locator("[role=status]").inner_text(), picker.locator("img").get_attribute("src")


@pytest.mark.browser
@pytest.mark.parametrize("name", ["00_start_here", "04_progressive_weight_loading"])
def test_slider_changes_words_and_picture(page: Page, lab: tuple[str, str, Path], name: str) -> None:
    open_notebook(page, lab, name)
    run_all(page)
    assert page.locator("[data-mime-type$='.error']").count() == 0
    page.wait_for_selector(".noUi-handle", timeout=20_000)
    words, picture = shown(page)
    assert words.startswith("SSSS: 0 of 4")
    page.locator(".noUi-handle").focus()
    for mask in ("TSSS", "TTSS", "TTTS", "TTTT"):
        page.keyboard.press("ArrowRight")
        page.wait_for_function(
            f"document.querySelector('.widget-vbox [role=status]').innerText.startsWith('{mask}')", timeout=5_000
        )
        new_words, new_picture = shown(page)
        assert new_picture != picture, f"the picture did not change at {mask}"
        words, picture = new_words, new_picture
    assert "4 of 4 teacher blocks loaded" in words


@pytest.mark.browser
def test_nothing_is_clipped_or_shown_as_text(page: Page, lab: tuple[str, str, Path]) -> None:
    open_notebook(page, lab, "04_progressive_weight_loading")
    run_all(page)
    page.wait_for_selector(".noUi-handle", timeout=20_000)
    clipped = page.evaluate(
        "[...document.querySelectorAll('.widget-label')].filter(l => l.scrollWidth > l.clientWidth).map(l => l.innerText)"
    )
    assert clipped == []
    assert "FramePicker(children" not in page.inner_text(".jp-Notebook")
    ours = [text for text in page.console_errors if "widget" in text.lower()]
    assert ours == []
