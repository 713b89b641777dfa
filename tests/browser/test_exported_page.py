"""A page that a batch run leaves, opened from disk: its controls work with no kernel, no server and no network."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from bundles import bundle_of, pair_of
from nbformat.v4 import new_code_cell, new_notebook, new_output
from playwright.sync_api import Browser, Locator, Page
from scored import scored_pair, some_predictions

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


def test_the_slider_of_04_works_by_keyboard(page: Page, opened: Callable, page_of_04: Path) -> None:
    control = opened(page_of_04)
    seen = [shown(control)]
    control.get_by_label("Teacher blocks loaded").focus()
    for _ in range(4):
        page.keyboard.press("ArrowRight")
        seen.append(shown(control))
    assert [words.split(":")[0] for words, _ in seen] == ["SSSS", "TSSS", "TTSS", "TTTS", "TTTT"]
    assert len({picture for _, picture in seen}) == 5
    page.keyboard.press("Home")
    assert shown(control) == seen[0]
    control.get_by_label("Loading order").select_option("suffix")
    control.get_by_role("button", name="Play").click()
    control.get_by_text("SSST: 1 of 4").wait_for(timeout=10_000)
    control.get_by_role("button", name="Pause").click()
    assert page.locator("math").count() > 5, "formulas are drawn by the browser itself"
    assert page_of_04.stat().st_size < 5_000_000


def test_a_move_is_announced_once_and_every_control_has_its_hint(
    page: Page, opened: Callable, page_of_04: Path
) -> None:
    control = opened(page_of_04)
    assert control.locator("output, [aria-live], [role=alert]").count() == 0
    assert control.locator("[role=status]").count() == 1
    assert control.locator(".value:not([aria-hidden=true])").count() == 0
    for slider in control.get_by_role("slider").all():
        assert slider.get_attribute("title")
        assert slider.get_attribute("aria-valuetext")
    assert control.get_by_label("Loading order").get_attribute("title")


def test_slider_and_picture_fit_a_projector(page: Page, opened: Callable, page_of_04: Path) -> None:
    page.set_viewport_size({"width": 1366, "height": 768})
    control = opened(page_of_04)
    control.evaluate("control => control.scrollIntoView({block: 'start'})")
    control.get_by_role("slider").first.focus()
    for key in ("Home", "ArrowRight", "End"):
        page.keyboard.press(key)
        shown(control)
        top, picture = control.get_by_role("slider").first.bounding_box(), control.locator("img").bounding_box()
        assert top["y"] >= 0
        assert picture["y"] + picture["height"] <= 768
        assert picture["height"] > 250


def test_without_scripts_the_first_state_remains(browser: Browser, page_of_04: Path) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(page_of_04.as_uri())
    control = page.locator(".frame-page")
    assert control.locator("[role=status]").inner_text().startswith("SSSS: 0 of 4")
    assert control.locator("img").bounding_box()["width"] > 100
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
    for key, words in (
        ("ArrowRight", "prefix order at 10 MB/s"),
        ("Tab", ""),
        ("ArrowDown", "suffix order at 10 MB/s"),
    ):
        page.keyboard.press(key)
        assert words in shown(first)[0]
        seen.add(shown(first))
    assert len(seen) == 3
    assert shown(second) == before
    ids = page.evaluate("[...document.querySelectorAll('.frame-page [id]')].map(one => one.id)")
    assert len(ids) == len(set(ids)) == 2


def test_menus_offer_only_the_pairs_that_there_are(page: Page, opened: Callable, tmp_path: Path) -> None:
    labels = [("vgg", "none"), ("resnet", "extracted"), ("resnet", "none")]
    pairs = {label: scored_pair() for label in labels}
    made = widgets.layer_loader(pairs, dict.fromkeys(labels, some_predictions()), interactive=False)
    output = new_output("display_data", {"text/html": made._repr_html_(), "text/plain": repr(made)})
    nb = new_notebook(cells=[new_code_cell("pairs", outputs=[output])])
    write_page(nb, tmp_path / "own.html", RunStatus.model_construct(status="ok", notebook="own", error=None), tmp_path)
    control = opened(tmp_path / "own.html")
    family, curriculum = control.get_by_label("Family"), control.get_by_label("Curriculum")
    offered = "one => [...one.options].filter(option => !option.disabled).map(option => option.value)"
    assert shown(control)[0].startswith("SSS: 0 of 3 teacher blocks loaded of vgg, none")
    assert curriculum.evaluate(offered) == ["none"]
    family.focus()
    page.keyboard.press("ArrowDown")
    assert "of resnet, none" in shown(control)[0]
    assert curriculum.evaluate(offered) == ["none", "extracted"]
    curriculum.select_option("extracted")
    assert "of resnet, extracted" in shown(control)[0]
    family.select_option("vgg")
    assert "of vgg, none" in shown(control)[0], "what is not there is left for what is"
    assert curriculum.input_value() == "none"
