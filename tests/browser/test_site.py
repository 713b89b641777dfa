"""The pages of a series as a reader finds them, with no kernel, no server and no network; and its slides."""

import re
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from playwright.sync_api import Page
from test_page_layout import FIGURE, MEASURE

from pwl_lab.runner.page import write_page
from pwl_lab.runner.run_folder import RunStatus, write_status
from pwl_lab.runner.slides import write_slides
from pwl_lab.support import paths
from pwl_lab.support.errors import MissingDataError

pytestmark = pytest.mark.browser

WIDE, LAPTOP, PHONE = 1366, 700, 390
FOLDED = """**Predict.** Which one?

<details><summary>The first</summary>

No, since $\\sqrt{\\frac{a}{b}} > 1$ and `code` says so.

</details>
<details><summary>The second</summary>

Right.

</details>
"""
TABLE = "\n".join(["|" + " a long heading |" * 8, "|" + "---|" * 8, "|" + " some_value_that_is_long |" * 8])
SECTIONS = [f"## Section {number}\n\n" + "Some words. " * 120 for number in range(12)]
STATUS = RunStatus(status="ok", notebook="own.ipynb", started="2026-01-01", cells=9, versions={}, commit=None)


def lesson() -> nbformat.NotebookNode:
    """A notebook with what a lesson has: a fold, a wide table, plumbing, a figure, sections."""
    figure = [new_output("display_data", {"image/png": FIGURE, "text/plain": "figure"})]
    marked = [
        new_markdown_cell("# A lesson\n\n" + TABLE, metadata={"slideshow": {"slide_type": "slide"}}),
        new_markdown_cell("More of it.", metadata={"slideshow": {"slide_type": "fragment"}}),
        new_code_cell("draw()", outputs=figure, metadata={"slideshow": {"slide_type": "slide"}}),
        new_markdown_cell("Say this.", metadata={"slideshow": {"slide_type": "notes"}}),
        new_markdown_cell(FOLDED, metadata={"slideshow": {"slide_type": "slide"}}),
    ]
    plumbing = new_code_cell("import plumbing", metadata={"tags": ["hide-input"]})
    return new_notebook(cells=[*marked, plumbing, *map(new_markdown_cell, SECTIONS)])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder with one executed notebook of the series, and its page."""
    folder = tmp_path_factory.mktemp("site")
    run = folder / "00_start_here"
    run.mkdir()
    nbformat.write(lesson(), run / "notebook.ipynb")
    write_status(run, STATUS)
    assert write_page(lesson(), run / "notebook.html", STATUS, paths.notebooks()) is None
    return folder


@pytest.fixture
def offline(page: Page) -> Iterator[Page]:
    """A page of a browser that fails the test where anything asks a network."""
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.context.set_offline(True)
    yield page
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []


def opened(page: Page, site: Path, width: int, height: int = 768) -> Page:
    page.set_viewport_size({"width": width, "height": height})
    page.goto((site / "00_start_here" / "notebook.html").as_uri())
    return page


@pytest.mark.parametrize("width", [WIDE, LAPTOP, PHONE])
def test_wide_content_scrolls_in_itself_and_the_page_does_not(offline: Page, site: Path, width: int) -> None:
    opened(offline, site, width)
    found = offline.evaluate(MEASURE)
    assert found["page"] <= width
    assert found["cut"] == 0
    assert max(found["wide"]) <= width
    table = offline.locator("main table").first
    assert table.evaluate("e => e.scrollWidth > e.clientWidth"), "too wide for any of these windows"
    assert table.evaluate("e => getComputedStyle(e).overflowX") == "auto"
    assert table.bounding_box()["width"] <= width


@pytest.mark.parametrize("width", [WIDE, LAPTOP, PHONE])
def test_a_fold_opens_by_keyboard_and_holds_its_text(offline: Page, site: Path, width: int) -> None:
    opened(offline, site, width)
    answer = offline.get_by_text("says so")
    assert not answer.is_visible()
    offline.get_by_text("The first", exact=True).focus()
    offline.keyboard.press("Enter")
    assert answer.is_visible()
    assert offline.locator("main math").first.bounding_box()["height"] > 20
    assert not offline.get_by_text("Right.").is_visible()
    offline.keyboard.press("Space")
    assert not answer.is_visible()


def test_plumbing_opens_on_demand(offline: Page, site: Path) -> None:
    opened(offline, site, WIDE)
    code = offline.get_by_text("plumbing")
    assert not code.is_visible()
    offline.get_by_text("Show the code").click()
    assert code.is_visible()


def test_what_is_folded_is_printed(offline: Page, site: Path) -> None:
    opened(offline, site, WIDE)
    offline.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert offline.get_by_text("says so").is_visible()
    offline.evaluate("dispatchEvent(new Event('afterprint'))")
    assert not offline.get_by_text("says so").is_visible()
    offline.emulate_media(media="print")
    height = "e => e.getBoundingClientRect().height"
    assert offline.get_by_text("Right.").evaluate(height) > 10, "even where no script runs"


def test_the_sections_stay_in_sight_on_a_wide_screen_and_are_folded_on_a_narrow_one(offline: Page, site: Path) -> None:
    opened(offline, site, WIDE)
    beside = offline.locator("aside.sections")
    assert beside.get_by_role("link").count() == 12
    beside.get_by_role("link", name="Section 9").click()
    offline.wait_for_timeout(100)
    assert -1 <= offline.locator("h2", has_text="Section 9").bounding_box()["y"] < 100
    assert 0 <= beside.bounding_box()["y"] < 50, "it has not scrolled away"
    for width in (LAPTOP, PHONE):
        opened(offline, site, width)
        assert not beside.is_visible()
        link = offline.locator("details.sections").get_by_role("link", name="Section 9")
        assert not link.is_visible()
        offline.locator("details.sections summary").click()
        link.click()
        offline.wait_for_timeout(100)
        assert -1 <= offline.locator("h2", has_text="Section 9").bounding_box()["y"] < 100


def test_formulas_use_the_font_that_the_page_carries(offline: Page, site: Path) -> None:
    opened(offline, site, WIDE)
    offline.get_by_text("The first", exact=True).click()
    offline.evaluate("document.fonts.ready")
    assert offline.evaluate("[...document.fonts].map(font => font.family + ' ' + font.status)") == [
        "STIX Two Math loaded"
    ]
    with_font = offline.locator("main math").first.bounding_box()["width"]
    offline.add_style_tag(content="math { font-family: monospace !important; }")
    assert offline.locator("main math").first.bounding_box()["width"] != with_font


@pytest.fixture(scope="module")
def deck(site: Path) -> Path:
    try:
        return write_slides(site)
    except MissingDataError as error:
        pytest.skip(f"no reveal.js, and none can be fetched: {error}")


def test_slides_turn_by_keyboard_and_keep_their_notes_and_folds(offline: Page, deck: Path) -> None:
    offline.set_viewport_size({"width": 1366, "height": 768})
    offline.goto(deck.as_uri())
    offline.wait_for_function("window.Reveal && Reveal.isReady()")
    assert offline.evaluate("Reveal.getTotalSlides()") == 3
    assert not offline.get_by_text("draw()").is_visible(), "the figure, not its code"
    assert offline.evaluate("getComputedStyle(document.querySelector('.fragment')).visibility") == "hidden"
    offline.keyboard.press("ArrowRight")
    offline.wait_for_function("getComputedStyle(document.querySelector('.fragment')).visibility === 'visible'")
    offline.keyboard.press("ArrowRight")
    picture = offline.locator("section.present img")
    picture.wait_for()
    box = picture.bounding_box()
    assert box["width"] > 300
    assert box["y"] + box["height"] <= 768
    assert "Say this." in offline.evaluate("Reveal.getSlideNotes()")
    assert not offline.get_by_text("Say this.").first.is_visible()
    offline.keyboard.press("ArrowRight")
    offline.get_by_text("The second", exact=True).focus()
    offline.keyboard.press("Space")
    assert offline.get_by_text("Right.", exact=True).is_visible()
    assert offline.evaluate("Reveal.getIndices().h") == 2, "the key went to the fold"
    assert re.fullmatch(r"3 ?/ ?3", offline.locator(".slide-number").inner_text().replace("\n", ""))
