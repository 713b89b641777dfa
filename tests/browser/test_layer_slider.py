"""Notebook 04 as a reader sees it: JupyterLab runs all cells, the keyboard moves the slider, the output follows."""

from pathlib import Path

import pytest
from labpage import ANSWER_MS, cut, open_notebook, run_all
from playwright.sync_api import Locator, Page


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
@pytest.mark.parametrize("name", ["04_progressive_weight_loading"])
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
    """No label, value or menu is cut, also in a narrow window; no widget is only its name."""
    for width in (1000, 1400):
        page.set_viewport_size({"width": width, "height": 4000})
        assert cut(page) == [], f"{width} pixels wide"
    assert "LayerLoader(children" not in page.inner_text(".jp-Notebook")
