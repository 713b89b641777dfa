"""An exported page fits its window: no line of code is cut, nothing is wider than the page, no type is too small to read.

A figure that would be too small on a narrow page is wider than the page, inside a box that scrolls.
"""

from base64 import b64encode
from pathlib import Path

import pytest
from labpage import cut
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from playwright.sync_api import Browser

from pwl_lab import plots
from pwl_lab.plots.style import STYLE
from pwl_lab.runner.page import write_page
from pwl_lab.runner.run_folder import RunStatus
from pwl_lab.widgets.frames import png

LINE = "long_number = 1000 + " + " + ".join(["number"] * 11) + "  #"  # 120 letters, as the longest lines of the project
SMALLEST = 11  # pixels
SMALLEST_IN_FIGURES = 8.8, 7  # pixels on the page, and points in the figure (class names above small pictures)
FIGURE = b64encode(png(plots.network("TSST"))).decode()
MEASURE = """() => {
  document.querySelectorAll('details').forEach(one => { one.open = true; });
  const shown = element => element.getBoundingClientRect().width > 0;
  const elements = [...document.querySelectorAll('body *')].filter(shown);
  const own = element => [...element.childNodes].some(node => node.nodeType === 3 && node.textContent.trim());
  const cut = element => element.scrollWidth > element.clientWidth + 1 || element.scrollHeight > element.clientHeight + 3;
  const scrolls = e => getComputedStyle(e).overflowX === 'auto';
  const edge = e => e.tagName === 'IMG' || scrolls(e) ? e.getBoundingClientRect().right : Infinity;
  const right = e => e ? Math.min(edge(e), right(e.parentElement)) : Infinity;  // of what is to be seen of it
  return {
    page: document.documentElement.scrollWidth,
    cut: elements.filter(e => e.matches('.jp-InputArea-editor, .jp-InputArea, math[display=block]') && cut(e)).length,
    wide: elements.filter(e => e.tagName === 'IMG').map(right),
    outputs: Math.max(...elements.filter(e => e.matches('.jp-OutputArea-output')).map(e => e.getBoundingClientRect().right)),
    smallest: Math.min(...elements.filter(own).map(e => parseFloat(getComputedStyle(e).fontSize))),
  };
}"""

FIGURES = """() => [...document.querySelectorAll('img')].filter(one => one.naturalWidth > 300).map(one => {
  const box = one.closest('.frame-picture, .jp-OutputArea-output');
  const [within, note] = [box.getBoundingClientRect(), getComputedStyle(box, '::before').content];
  const cut = one.width > within.width + 1, reached = box.tabIndex === 0;
  box.scrollLeft = 1e4;
  const lost = one.getBoundingClientRect().right > within.right + 1;
  box.scrollLeft = 0;
  return {scale: one.width / one.naturalWidth, cut, lost, reached, note};
})"""


@pytest.fixture(scope="module")
def own_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page with the longest code, a figure, a table and a formula with something below its line."""
    table = "<table class='dataframe'><tbody><tr><th>a claim in some words</th><td>yes</td></tr></tbody></table>"
    outputs = [
        new_output("display_data", {"image/png": FIGURE}),
        new_output("display_data", {"text/html": table}),
    ]
    cells = [
        new_markdown_cell("# A page\n\nWith $x_i$, and\n\n$$ y = \\prod_{i \\in S} x_i . $$"),
        new_code_cell(LINE, execution_count=12, outputs=outputs),
    ]
    target = tmp_path_factory.mktemp("page") / "page.html"
    status = RunStatus(status="ok", notebook="page.ipynb", started="", cells=len(cells), versions={}, commit=None)
    write_page(new_notebook(cells=cells), target, status, target.parent)
    return target


@pytest.mark.parametrize("width", [1366, 1000, 700, 390])
@pytest.mark.parametrize("made", ["own_page", pytest.param("page_of_04", marks=pytest.mark.browser)])
def test_nothing_is_cut_or_wider_than_the_window(
    browser: Browser, request: pytest.FixtureRequest, made: str, width: int
):
    window = browser.new_page(viewport={"width": width, "height": 900})
    window.goto(request.getfixturevalue(made).as_uri())
    found, controls_cut = window.evaluate(MEASURE), cut(window)
    window.close()
    assert found["page"] <= width
    assert found["cut"] == 0
    assert controls_cut == []
    assert found["wide"]
    assert max(found["wide"]) <= width
    assert found["outputs"] <= width
    assert found["smallest"] >= SMALLEST


@pytest.mark.parametrize("made", ["own_page", pytest.param("page_of_04", marks=pytest.mark.browser)])
def test_figures_stay_readable_on_a_narrow_page_and_scroll_in_their_boxes(
    browser: Browser, request: pytest.FixtureRequest, made: str
):
    window = browser.new_page(viewport={"width": 390, "height": 844})
    window.goto(request.getfixturevalue(made).as_uri())
    window.wait_for_selector(".jp-RenderedImage[tabindex]")
    figures = window.evaluate(FIGURES)
    least, points = SMALLEST_IN_FIGURES
    assert figures
    for one in figures:
        assert one["scale"] * points * STYLE["figure.dpi"] / 72 >= least
        assert not one["lost"]
        assert one["reached"] == one["cut"] == ("Scroll" in one["note"])
    assert any(one["cut"] for one in figures)
    box = window.locator(".jp-RenderedImage[tabindex]").first
    box.focus()
    window.keyboard.press("ArrowRight")
    window.wait_for_function("box => box.scrollLeft > 0", arg=box.element_handle())
    assert window.evaluate("scrollX") == 0
    window.set_viewport_size({"width": 1366, "height": 900})
    window.wait_for_function("() => !document.querySelector('.jp-RenderedImage[tabindex]')")
    wide = window.evaluate(FIGURES)
    window.close()
    assert not any(one["cut"] or one["reached"] or "Scroll" in one["note"] for one in wide)


@pytest.mark.browser
@pytest.mark.parametrize("width", [1366, 1000, 700, 390])
def test_the_parameters_of_a_run_fill_the_width(browser: Browser, page_of_04: Path, width: int):
    window = browser.new_page(viewport={"width": width, "height": 900})
    window.goto(page_of_04.as_uri())
    lefts = window.evaluate(
        "() => [...document.querySelectorAll('.run-parameters dt')].map(e => e.getBoundingClientRect().x)"
    )
    window.close()
    assert len(lefts) > 20
    assert len(set(lefts)) >= max(2, width // 250), "columns"
