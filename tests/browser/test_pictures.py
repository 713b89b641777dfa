"""Notebook 00 as a reader sees it, live and as a page: temperatures, pictures to choose from, a picture drawn or uploaded."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from labpage import cut, open_notebook, run_all
from PIL import Image
from playwright.sync_api import Locator, Page
from smoke import SmokeRun

pytestmark = pytest.mark.browser
PREDICTED_MS = 5_000  # a first prediction chooses kernels, and other tests want the same cores


def control(page: Page, label: str, box: str) -> Locator:
    """The control with the slider of this label."""
    return page.locator(box).filter(has_text=label).last


def told(widget: Locator) -> str:
    """The words of its state."""
    return widget.locator("[role=status]").inner_text()


def shown(widget: Locator) -> tuple[str, str]:
    """Words and picture of its state."""
    return told(widget), widget.locator("img").get_attribute("src")


def when_other(widget: Locator, than: str) -> str:
    """The words once they are others."""
    page = widget.page
    for _ in range(PREDICTED_MS // 50):
        if told(widget) != than:
            return told(widget)
        page.wait_for_timeout(50)
    raise AssertionError(f"still {than}")


def draw(page: Page, canvas: Locator, points: list[tuple[float, float]]) -> None:
    """A stroke through points given as shares of the canvas."""
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    places = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in points]
    page.mouse.move(*places[0])
    page.mouse.down()
    for place in places[1:]:
        page.mouse.move(*place, steps=3)
    page.mouse.up()


def test_notebook_00_live(page: Page, lab: tuple[str, str, Path], tmp_path: Path) -> None:
    open_notebook(page, lab, "00_start_here")
    run_all(page)
    assert page.locator("[data-mime-type$='.error']").count() == 0
    page.wait_for_selector(".drawing-canvas canvas", timeout=20_000)
    page.set_default_timeout(PREDICTED_MS)
    for width in (1000, 1400):
        page.set_viewport_size({"width": width, "height": 9000})
        assert cut(page) == [], f"{width} pixels wide"
    for label, first, second in (("Temperature", "τ = 1:", "τ = 1.5:"), ("Pictures", "Label:", "Label:")):
        widget = control(page, label, ".widget-vbox")
        before = shown(widget)
        assert before[0].startswith(first)
        widget.locator(".noUi-handle").first.focus()
        page.keyboard.press("ArrowRight")
        assert when_other(widget, before[0]).startswith(second)
        assert shown(widget)[1] != before[1]
    own = page.locator(".widget-vbox", has=page.locator(".drawing-canvas"))
    how_to = told(own)
    assert "Draw with mouse" in how_to
    by_hand(page, own, how_to)
    by_file(own, how_to, tmp_path)


def by_hand(page: Page, own: Locator, how_to: str) -> None:
    """Draw with the mouse, go on by keyboard, clear."""
    canvas = own.locator("canvas")
    draw(page, canvas, [(0.3, 0.2), (0.7, 0.2), (0.7, 0.8), (0.3, 0.8), (0.3, 0.2)])
    assert when_other(own, how_to).startswith("Your picture: SSSS ")
    drawn = shown(own)[1]
    canvas.focus()
    page.keyboard.press("Space")
    for _ in range(20):
        page.keyboard.press("ArrowDown")
    page.keyboard.press("Space")
    own.locator(f"img:not([src='{drawn}'])").wait_for(timeout=PREDICTED_MS)
    own.get_by_role("button", name="Clear").click()
    own.locator("[role=status]").filter(has_text=how_to).wait_for(timeout=PREDICTED_MS)
    own.locator("img").wait_for(state="hidden", timeout=PREDICTED_MS)


def by_file(own: Locator, how_to: str, folder: Path) -> None:
    """Upload a picture larger than a kernel's messages may be, and something that is none."""
    noise = np.random.default_rng(0).integers(0, 255, (2000, 2000, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / "large.png")
    assert (folder / "large.png").stat().st_size > 11_000_000
    (folder / "words.png").write_text("these are words")
    chosen = own.get_by_label("Upload a picture")
    chosen.set_input_files(folder / "large.png")
    assert when_other(own, how_to).startswith("Your picture: SSSS ")
    chosen.set_input_files(folder / "words.png")
    own.get_by_role("alert").filter(has_text="words.png cannot be read as a picture").wait_for(timeout=PREDICTED_MS)
    own.locator("[role=status]").filter(has_text=how_to).wait_for(timeout=PREDICTED_MS)


@pytest.mark.parametrize("width", [390, 700, 1366])
def test_notebook_00_as_a_page(page: Page, smoke_run: Callable[[str], SmokeRun], width: int) -> None:
    page.context.set_offline(True)
    page.set_viewport_size({"width": width, "height": 2000})
    page.goto((smoke_run("00_start_here").out / "notebook.html").as_uri())
    assert cut(page) == []
    temperature, chooser = (control(page, label, ".frame-page") for label in ("Temperature", "Pictures"))
    before = shown(temperature)
    temperature.get_by_label("Temperature").focus()
    page.keyboard.press("End")
    assert told(temperature).startswith("τ = 32:")
    assert shown(temperature)[1] != before[1]
    assert "36 drawn at random" in told(chooser)
    first = shown(chooser)
    chooser.get_by_label("Picture", exact=True).focus()
    page.keyboard.press("ArrowRight")
    assert shown(chooser)[1] != first[1]
    chooser.get_by_label("Pictures").select_option("picked because they change")
    assert "36 picked because their prediction changes" in told(chooser)
    assert page.get_by_text("With a live kernel, you can draw or upload").count() == 1
