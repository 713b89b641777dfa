"""The site of the real series, documents and package as a reader opens it: from the disk, without a network."""

import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from crawling import broken_links
from playwright.sync_api import Page
from smoke import SmokeRun
from test_page_layout import MEASURE

from pwl_lab.runner.parameters import resolve_notebook
from pwl_lab.runner.site import write_site

pytest.importorskip("myst_nb", reason="the packages of the extra `site` are missing")
pytestmark = pytest.mark.browser

WIDTHS = (1366, 700, 390)  # a laptop, a tablet, a phone
EXECUTED = ("02", "04")  # the runs that other browser tests need, too
SHOWN = ("02_distillation_curricula.ipynb", "04_progressive_weight_loading.ipynb")
LESSON, PAIRS = (f"notebooks/{Path(name).stem}.html" for name in SHOWN)
PAGES = ("index.html", LESSON, PAIRS, Path("docs/findings.md").with_suffix(".html").as_posix(), "api/swap.html")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, smoke_run: Callable[[str], SmokeRun]) -> Path:
    """The whole site; of the notebooks, two were run."""
    folder = tmp_path_factory.mktemp("series")
    for name in EXECUTED:
        shutil.copytree(smoke_run(name).out, folder / resolve_notebook(name).stem)
    return write_site(folder).parent


@pytest.fixture
def offline(page: Page) -> Iterator[Page]:
    """A page of a browser that fails the test where anything asks a network."""
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.context.set_offline(True)
    page.set_viewport_size({"width": 1366, "height": 768})
    yield page
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []


def test_every_link_of_every_page_leads_somewhere(site: Path) -> None:
    assert len(list(site.rglob("*.html"))) > 60
    assert broken_links(site) == []


def test_no_page_names_a_script_or_style_of_another_machine(site: Path) -> None:
    remote = re.compile(r"""<(?:script|link|img|iframe)\b[^>]*(?:src|href)\s*=\s*["']?(?:https?:)?//""", re.I)
    assert [page.name for page in site.rglob("*.html") if remote.search(page.read_text(encoding="utf-8"))] == []


def test_search_finds_words_of_notebooks_documents_and_code(offline: Page, site: Path) -> None:
    for words, address in (
        ("projection", LESSON),
        ("glossary", Path("docs/glossary.md").with_suffix(".html").as_posix()),
        ("random_masks", "api/swap.html#pwl_lab.swap.masks.random_masks"),
    ):
        offline.goto((site / "index.html").as_uri())
        box = offline.locator(".sidebar-search")
        box.fill(words)
        box.press("Enter")
        found = offline.locator(f'#search-results a[href^="{address}"]').first
        found.wait_for()
        found.click()
        offline.wait_for_url(f"**/{address.partition('#')[0]}*")


def test_dark_is_switched_and_remembered(offline: Page, site: Path) -> None:
    offline.emulate_media(color_scheme="light")
    offline.goto((site / LESSON).as_uri())
    colour = "getComputedStyle(document.body).backgroundColor"
    light = offline.evaluate(colour)
    for _ in range(3):  # one of: as the system, light, dark
        offline.locator(".theme-toggle:visible").first.click()
        if offline.evaluate("document.body.dataset.theme") == "dark":
            break
    dark = offline.evaluate(colour)
    assert brightness(light) > 200
    assert brightness(dark) < 60
    offline.goto((site / "index.html").as_uri())
    assert offline.evaluate(colour) == dark


def brightness(colour: str) -> float:
    return sum(map(int, re.findall(r"\d+", colour)[:3])) / 3


def test_next_and_previous_go_through_the_series(offline: Page, site: Path) -> None:
    offline.goto((site / "notebooks" / "00_start_here.html").as_uri())
    for name in ("00b_from_scratch", "01_sparse_parity_teacher", "02_distillation_curricula"):
        offline.locator("a.next-page").click()
        offline.wait_for_url(f"**/{name}.html")
    offline.locator("a.prev-page").click()
    offline.wait_for_url("**/01_sparse_parity_teacher.html")


def test_a_slider_changes_its_figure_and_the_player_plays(offline: Page, site: Path) -> None:
    offline.goto((site / PAGES[2]).as_uri())
    control = offline.locator(".frame-page").first
    picture, words = control.locator("img"), control.locator("[role=status]")
    before = picture.get_attribute("src"), words.inner_text()
    slider = control.locator("input[type=range]").first
    slider.focus()
    slider.press("ArrowRight")
    assert picture.get_attribute("src") != before[0]
    assert words.inner_text() != before[1]
    player = offline.locator(".pwl-player").first
    player.locator(".play").click()
    player.locator("xpath=self::*[@data-mask='TTTT']").wait_for(timeout=60_000)


@pytest.mark.parametrize("name", PAGES)
def test_the_page_never_scrolls_sideways(offline: Page, site: Path, name: str) -> None:
    offline.goto((site / name).as_uri())
    offline.evaluate("document.fonts.ready")
    for width in WIDTHS:
        offline.set_viewport_size({"width": width, "height": 768})
        assert offline.evaluate(MEASURE)["page"] <= width
