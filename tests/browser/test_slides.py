"""The slides of the series on a projector: each fits its screen, with every answer unfolded, too, and one key shows them all."""

import io
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from PIL import Image
from playwright.sync_api import Page
from smoke import SmokeRun
from test_page_layout import LINE

from pwl_lab.runner.parameters import series
from pwl_lab.runner.run_folder import RunStatus, write_status
from pwl_lab.runner.slides import write_slides
from pwl_lab.support.errors import MissingDataError

pytestmark = pytest.mark.browser

WIDTH, HEIGHT = 1366, 768
STATUS = RunStatus(status="ok", notebook="own.ipynb", started="2026-01-01", cells=9, versions={}, commit=None)
SMALLEST = 15  # pixels of the slide, which is 1280 wide
MEASURE = """() => {
  const slide = Reveal.getCurrentSlide(), all = [...slide.querySelectorAll('*')].filter(e => e.checkVisibility());
  const inner = e => e.closest('math, svg, .listened');
  const outside = e => e.getBoundingClientRect().right > innerWidth + 1;
  const hidden = e => getComputedStyle(e).overflowX !== 'visible' && e.scrollWidth > e.clientWidth + 1 && e.clientWidth > 0;
  return {
    height: slide.scrollHeight, room: slide.clientHeight, bottom: slide.getBoundingClientRect().bottom,
    cut: all.filter(e => !inner(e) && (outside(e) || hidden(e))).map(e => e.outerHTML.slice(0, 120)),
    letters: parseFloat(getComputedStyle(slide.querySelector('.jp-RenderedMarkdown') ?? slide).fontSize),
    answers: slide.querySelectorAll('details').length,
    words: slide.innerText.slice(0, 80),
  };
}"""
UNFOLD = "open => Reveal.getCurrentSlide().querySelectorAll('details').forEach(one => { one.open = open; })"


def figure(width: int, height: int) -> nbformat.NotebookNode:
    """A picture as a cell's output."""
    file = io.BytesIO()
    Image.new("RGB", (width, height), "#777").save(file, "PNG")
    return new_output("display_data", {"image/png": b64encode(file.getvalue()).decode(), "text/plain": "figure"})


def hard_cases() -> nbformat.NotebookNode:
    """What does not fit a screen by itself: a tall figure with a long reading, long code, a wide table."""
    slide, stays = {"slideshow": {"slide_type": "slide"}}, {"slideshow": {"slide_type": "-"}}
    reading = f"<details><summary><b>Read the figure</b></summary>\n\n{'Some words on it. ' * 65}\n\n</details>"
    table = "\n".join(["|" + " a heading |" * 8, "|" + "---|" * 8, *["|" + " some_value |" * 8] * 9])
    code = new_code_cell("\n".join([LINE] * 9), metadata=slide | {"tags": ["slide-code"]})
    return new_notebook(
        cells=[
            new_code_cell("draw()", outputs=[figure(1002, 1100)], metadata=slide),
            new_markdown_cell(reading, metadata=stays),
            new_code_cell("draw()", outputs=[figure(2400, 300)], metadata=slide),
            code,
            new_markdown_cell(f"## A table\n\n{table}\n\n" + "And words. " * 90, metadata=slide),
        ]
    )


@pytest.fixture(scope="module")
def deck(tmp_path_factory: pytest.TempPathFactory, smoke_run: Callable[[str], SmokeRun]) -> Path:
    """Slides of the whole series: 02 and 04 as they ran, of the others all text, and a figure where one would stand."""
    folder = tmp_path_factory.mktemp("deck")
    for number, source in enumerate(series()):
        nb = nbformat.read(source, as_version=4)
        if source.stem[:3] in ("02_", "04_"):
            nb = nbformat.read(smoke_run(source.stem[:2]).out / "notebook.ipynb", as_version=4)
        elif source.stem.startswith("09_"):
            nb = hard_cases()
        else:
            for cell in nb.cells:
                if cell.cell_type == "code":
                    cell.outputs = [figure(1002, 460 + 20 * number)]
        (folder / source.stem).mkdir()
        nbformat.write(nb, folder / source.stem / "notebook.ipynb")
        write_status(folder / source.stem, STATUS)
    try:
        return write_slides(folder)
    except MissingDataError as error:
        pytest.skip(f"no reveal.js, and none can be fetched: {error}")


def shown(page: Page, deck: Path) -> Page:
    """The first slide, on a laptop's screen."""
    page.set_viewport_size({"width": WIDTH, "height": HEIGHT})
    page.goto(deck.as_uri())
    page.wait_for_function("window.Reveal && Reveal.isReady()")
    return page


def faults(page: Page) -> list[str]:
    """What is cut of the present slide."""
    page.evaluate("() => new Promise(after => requestAnimationFrame(() => requestAnimationFrame(after)))")
    found = page.evaluate(MEASURE)
    said = [f"cut: {element}" for element in found["cut"]]
    if found["height"] > found["room"] + 1 or found["bottom"] > HEIGHT:
        said.append(f"{found['height']} pixels tall")
    if found["letters"] < SMALLEST:
        said.append(f"letters of {found['letters']} pixels")
    return [f"{found['words']!r}: {one}" for one in said]


def test_no_slide_is_cut_whatever_is_unfolded(page: Page, deck: Path) -> None:
    shown(page, deck)
    found, seen = faults(page), 1
    while not page.evaluate("Reveal.isLastSlide()"):
        before = page.evaluate("Reveal.getSlidePastCount()")
        page.keyboard.press("ArrowRight")
        if page.evaluate("Reveal.getSlidePastCount()") == before:
            continue  # the key has shown a fragment
        seen += 1
        found += faults(page)
        page.evaluate(UNFOLD, True)
        found += [f"unfolded: {one}" for one in faults(page)]
        page.evaluate(UNFOLD, False)
    assert found == []
    assert seen == page.evaluate("Reveal.getTotalSlides()") > 30, "one key shows them all, those of a player included"


def test_figures_fill_the_slide_until_an_answer_needs_the_room(page: Page, deck: Path) -> None:
    shown(page, deck)
    slides = page.evaluate("Reveal.getTotalSlides()")
    page.evaluate("count => Reveal.slide(Reveal.getIndices(Reveal.getSlides()[count - 4]).h)", slides)
    picture = page.locator("section.present img")
    tall = picture.bounding_box()["height"]
    assert tall > 500
    page.locator("section.present summary").click()
    page.wait_for_function("before => document.querySelector('section.present img').height < 0.8 * before", arg=tall)
    page.keyboard.press("ArrowRight")
    assert picture.last.bounding_box()["width"] > 1200


def test_each_slide_says_where_it_belongs(page: Page, deck: Path) -> None:
    shown(page, deck)
    for slide in page.locator(".slides section:not(.stack)").all():
        text = slide.evaluate("e => e.textContent").strip()
        assert text[:2].isdigit(), text[:100]
