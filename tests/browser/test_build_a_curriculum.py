"""The curriculum builder as a reader uses it: stages chosen, curves that grow, Stop; and its page without a kernel."""

from collections.abc import Callable
from pathlib import Path

import nbformat
import pytest
from labpage import ANSWER_MS, cut, open_notebook, run_all
from nbformat.v4 import new_code_cell, new_notebook
from playwright.sync_api import Locator, Page
from smoke import SmokeRun

from pwl_lab.plots import style

pytestmark = pytest.mark.browser
KERNEL = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
# A small task, and students that go on to the end of the budget: long enough to watch on any machine.
OWN = """from dataclasses import replace
from pwl_lab import widgets
from pwl_lab.study import recipes
from pwl_lab.study.settings import CurriculaSettings
sizes = {"n_bits": 16, "k_sparse": 3, "teacher_width": 128, "student_width": 32}
bench = recipes.workbench(CurriculaSettings.load("smoke", **sizes))
plan = bench.plan.model_copy(update={"steps": 4_000, "stop_at": None})
widgets.curriculum_builder(replace(bench, plan=plan))"""
TRAINED_MS = 120_000  # other tests want the same cores
# Presses Train, and notes how far each of the reader's own curves has come, until Train can be pressed again.
WATCH = """(root, colour) => new Promise((done) => {
  const train = [...root.querySelectorAll("button")].find((one) => one.textContent === "Train"), seen = [];
  let begun = false;
  const watcher = new MutationObserver(() => {
    const lines = [...root.querySelectorAll(`polyline[stroke="${colour}"][opacity="1.0"]`)];
    seen.push(lines.map((line) => Number(line.getAttribute("points").split(" ").at(-1).split(",")[0])));
    begun ||= train.disabled;
    if (begun && !train.disabled) { watcher.disconnect(); done(seen); }
  });
  watcher.observe(root, { subtree: true, childList: true, attributes: true });
  train.click();
})"""


def words(builder: Locator) -> str:
    """The words above the curves."""
    return builder.locator("[role=status]").inner_text()


@pytest.fixture
def builder(page: Page, lab: tuple[str, str, Path]) -> Locator:
    """The builder in JupyterLab, in a notebook of its own."""
    nbformat.write(new_notebook(cells=[new_code_cell(OWN)], metadata=KERNEL), lab[2] / "own_builder.ipynb")
    open_notebook(page, lab, "own_builder")
    run_all(page)
    page.set_default_timeout(10 * ANSWER_MS)  # the kernel answers most of what is done here
    found = page.locator(".jp-OutputArea-output .widget-vbox", has=page.get_by_role("button", name="Train")).first
    found.wait_for(timeout=20_000)
    assert page.locator("[data-mime-type$='.error']").count() == 0
    return found


def wait_for(builder: Locator, beginning: str) -> str:
    """The words once they begin so."""
    builder.locator("[role=status]").filter(has_text=beginning).wait_for(timeout=TRAINED_MS)
    return words(builder)


def test_a_length_that_cannot_be_is_said_beside_it(builder: Locator) -> None:
    length = builder.get_by_label("for steps").first
    train = builder.get_by_role("button", name="Train")
    for steps, expected in (("0", "at least 1 step"), ("4000", "none is left")):
        length.fill(steps)
        length.press("Enter")
        alert = builder.get_by_role("alert").filter(has_text=expected)
        alert.wait_for()
        assert train.is_disabled()
        here, there = alert.bounding_box(), length.bounding_box()
        assert 0 < here["y"] - there["y"] < 60, "right below the control"
    length.fill("300")
    length.press("Enter")
    builder.get_by_role("alert").wait_for(state="detached")
    assert train.is_enabled()


def test_stages_are_chosen_and_the_curves_grow_until_the_end(page: Page, builder: Locator) -> None:
    builder.get_by_role("button", name="Add a stage").click()
    builder.get_by_label("Stage 3: show").wait_for()
    for width in (390, 500, 700, 1400):
        page.set_viewport_size({"width": width, "height": 4000})
        assert cut(page) == [], f"{width} pixels wide"
    builder.get_by_label("Stage 2: show").select_option("the labels")
    before = builder.locator("polyline").count()
    seen = builder.evaluate(WATCH, style.SPARE[0][0])
    growing = [state for state in seen if len(state) == 3]
    reached = [sum(state) for state in growing]
    assert reached == sorted(reached)
    assert len(set(reached)) >= 3, "at least three states on the way"
    assert len(growing[-1]) == 3, "a curve for each of three students"
    assert wait_for(builder, "Steps to 99%").startswith("Steps to 99%, one number for each seed: yours ")
    assert builder.locator("polyline").count() == before + 3


def test_stop_stops(builder: Locator) -> None:
    builder.get_by_label("for steps").first.fill("777")  # not one that another test has trained
    builder.get_by_label("for steps").first.press("Enter")
    builder.get_by_role("button", name="Train").click()
    wait_for(builder, "Training")
    stop = builder.get_by_role("button", name="Stop")
    stop.click()
    assert wait_for(builder, "Stopped") == "Stopped. This training is not kept."
    assert stop.is_disabled()
    assert builder.get_by_role("button", name="Train").is_enabled()


@pytest.mark.parametrize("width", [390, 700, 1366])
def test_the_page_has_trained_curricula_to_choose_from(
    page: Page, smoke_run: Callable[[str], SmokeRun], width: int
) -> None:
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.context.set_offline(True)
    page.set_viewport_size({"width": width, "height": 2000})
    page.goto((smoke_run("02").out / "notebook.html").as_uri())
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
    choice = page.locator(".frame-page", has=page.locator("select"))
    picture, seen = choice.locator("img"), set()
    menu = choice.get_by_label("Curriculum")
    names = menu.locator("option").all_inner_texts()
    assert len(names) == 6
    for name in names:
        menu.select_option(name)
        assert picture.evaluate("image => image.decode().then(() => image.naturalWidth)") > 100
        assert words(choice).startswith("Steps to 99%, one number for each seed: chosen ")
        assert "JupyterLab" in words(choice)
        seen.add(picture.get_attribute("src"))
        assert choice.bounding_box()["width"] <= width, "on a narrow page the picture scrolls in its box"
    assert len(seen) >= 3
    assert cut(page) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width, "nothing scrolls sideways"
