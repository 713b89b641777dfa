"""A page that a batch run leaves, opened from disk: its controls work with no kernel, no server and no network."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from bundles import bundle_of, pair_of
from nbformat.v4 import new_code_cell, new_notebook, new_output
from playing import check_handover, watch_a_play, words
from playwright.sync_api import Browser, Locator, Page

from pwl_lab import widgets
from pwl_lab.runner.page import write_page
from pwl_lab.runner.run_folder import RunStatus
from pwl_lab.swap.masks import all_masks

pytestmark = pytest.mark.browser


@pytest.fixture
def opened(page: Page) -> Iterator[Callable[[Path], Locator]]:
    """Open a page from disk; whatever it asks a network for fails the test."""
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.context.set_offline(True)

    def open_page(path: Path) -> Locator:
        page.goto(path.as_uri())
        return page.locator(".frame-page")

    yield open_page
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []


def shown(control: Locator) -> tuple[str, str]:
    """What the reader sees: the words and the picture."""
    words, picture = control.locator("[role=status]"), control.locator("img")
    assert picture.get_attribute("alt") == "the state described above"
    assert picture.evaluate("image => image.decode().then(() => image.naturalWidth)") > 100
    return words.inner_text(), picture.get_attribute("src")


def test_the_player_of_04_works_by_keyboard(page: Page, opened: Callable, page_of_04: Path) -> None:
    opened(page_of_04)
    player = page.locator(".pwl-player")
    seen = [words(player)]
    player.get_by_label("Teacher blocks loaded").focus()
    for _ in range(4):
        page.keyboard.press("ArrowRight")
        seen.append(words(player))
    assert [line.split(":")[0] for line in seen] == ["SSSS", "TSSS", "TTSS", "TTTS", "TTTT"]
    page.keyboard.press("Home")
    assert words(player) == seen[0]
    player.get_by_label("Loading order").select_option("suffix")
    check_handover(watch_a_play(player), ["SSSS", "SSST", "SSTT", "STTT", "TTTT"])
    assert page.locator("math").count() > 5, "formulas are drawn by the browser itself"
    assert page_of_04.stat().st_size < 5_000_000


def test_the_player_fits_a_projector(page: Page, opened: Callable, page_of_04: Path) -> None:
    page.set_viewport_size({"width": 1366, "height": 768})
    opened(page_of_04)
    player = page.locator(".pwl-player")
    player.evaluate("player => player.scrollIntoView({block: 'start'})")
    for key in ("Home", "ArrowRight", "End"):
        player.get_by_label("Teacher blocks loaded").press(key)
        box = player.bounding_box()
        assert box["y"] > -1  # a page scrolls by whole pixels, and the player may begin between two
        assert box["y"] + box["height"] <= 768


def test_without_scripts_a_table_remains(browser: Browser, page_of_04: Path) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(page_of_04.as_uri())
    control = page.locator(".pwl-page")
    rows = control.locator("tbody tr").all_inner_texts()
    assert [row.split()[0] for row in rows] == ["SSSS", "TSSS", "TTSS", "TTTS", "TTTT"]
    assert control.locator("input, select, button").count() == 0, "nothing that does not work"
    context.close()


def test_both_choices_of_a_timeline_work_and_two_controls_share_a_page(
    page: Page, opened: Callable, tmp_path: Path
) -> None:
    rising = {mask: 0.5 + 0.1 * mask.count("T") for mask in all_masks(3)}
    index = bundle_of(pair_of("vgg"), tmp_path / "bundle").model_copy(update={"accuracies": {"test": rising}})
    made = widgets.loading_timeline(index, (0.1, 1, 10), ("prefix", "suffix"), interactive=False)
    output = new_output("display_data", {"text/html": made._repr_html_(), "text/plain": repr(made)})
    nb = new_notebook(cells=[new_code_cell("twice", outputs=[output, output])])
    write_page(nb, tmp_path / "own.html", RunStatus.model_construct(status="ok", notebook="own", error=None), tmp_path)
    controls = opened(tmp_path / "own.html")
    first, second = controls.nth(0), controls.nth(1)
    before = shown(second)
    assert "prefix order at 1 MB/s" in before[0]
    seen = {shown(first)}
    first.get_by_label("Bandwidth").focus()
    for key, expected in (
        ("ArrowRight", "prefix order at 10 MB/s"),
        ("Tab", ""),
        ("ArrowDown", "suffix order at 10 MB/s"),
    ):
        page.keyboard.press(key)
        assert expected in shown(first)[0]
        seen.add(shown(first))
    assert len(seen) == 3
    assert shown(second) == before
    ids = page.evaluate("[...document.querySelectorAll('.frame-page [id]')].map(one => one.id)")
    assert len(ids) == len(set(ids)) == 2
