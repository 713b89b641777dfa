"""Plain Jupyter Notebook 7: what is typed into the parameters cell counts, and every kind of control moves what it shows."""

from collections.abc import Callable
from pathlib import Path

import nbformat
import pytest
from labpage import ANSWER_MS, cut, open_notebook, run_all
from nbformat.v4 import new_code_cell, new_notebook
from playing import captions
from playwright.sync_api import Page
from smoke import SmokeRun

from pwl_lab.support import paths

HELPERS = Path(__file__).parents[1] / "helpers"
PARAMETERS = 'preset = "smoke"  # smoke, lesson or paper'
CONTROLS = [
    f"""import sys
sys.path.insert(0, {str(HELPERS)!r})
from scored import scored_pair, some_predictions
from pwl_lab import widgets
widgets.layer_loader(scored_pair(), {{"pictures": some_predictions()}})""",
    """from pwl_lab.widgets.chooser import DrawingCanvas
DrawingCanvas()""",
    """table = widgets.FrameTable(
    (widgets.Choice("Checkpoint", "which one", range(1, 4)),),
    {(step,): widgets.Frame(b"", f"state {step}") for step in range(1, 4)},
)
widgets.FramePage(table)""",
    "widgets.FramePicker(table)",
]


@pytest.mark.browser
def test_controls_answer_and_the_parameters_are_shown(notebook_7: tuple[str, str, Path], page: Page) -> None:
    cells = [new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]}), *map(new_code_cell, CONTROLS)]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(new_notebook(cells=cells, metadata=kernel), notebook_7[2] / "small.ipynb")
    open_notebook(page, notebook_7, "small", "notebooks")
    page.console_errors.clear()  # Notebook 7 logs one of its own while it starts
    run_all(page)
    assert 'preset = "smoke"' in page.locator(".jp-CodeCell").first.inner_text()
    player = page.locator(".pwl-player")
    player.wait_for(timeout=20_000)
    assert page.locator("[data-mime-type$='.error']").count() == 0
    assert "LayerLoader(" not in page.inner_text(".jp-Notebook")
    assert cut(page) == []
    check_player(page)
    check_canvas(page)
    check_frames(page)


@pytest.mark.browser
def test_a_notebook_of_the_series_runs_at_the_preset_that_is_typed(
    notebook_7: tuple[str, str, Path], smoke_run: Callable[[str], SmokeRun], tmp_path: Path, page: Page
) -> None:
    smoke_run("04").copy_store(tmp_path / "runs" / "store")
    lesson = nbformat.read(paths.notebooks() / "04_progressive_weight_loading.ipynb", 4)
    lesson.cells.append(new_code_cell('print("It ran at", preset)'))
    nbformat.write(lesson, notebook_7[2] / "lesson.ipynb")
    open_notebook(page, notebook_7, "lesson", "notebooks")
    page.console_errors.clear()  # Notebook 7 logs one of its own while it starts
    line = page.locator(".cm-line", has_text='preset = "lesson"')
    line.scroll_into_view_if_needed()
    line.get_by_text('"lesson"', exact=True).dblclick()  # marks the word between the quotes
    page.keyboard.type("smoke")
    run_all(page)
    page.get_by_text("It ran at smoke").wait_for(timeout=20_000)
    page.locator(".pwl-player").first.wait_for(timeout=20_000)
    assert page.locator("[data-mime-type$='.error']").count() == 0


def check_player(page: Page) -> None:
    player = page.locator(".pwl-player")
    status = player.get_by_role("status")
    status.filter(has_text="SSS: 0 of 3").wait_for(timeout=20_000)  # it is drawn bit by bit
    before = captions(player)
    player.get_by_label("Teacher blocks loaded").focus()
    for count, mask in enumerate(("TSS", "TTS", "TTT"), 1):
        page.keyboard.press("ArrowRight")
        status.filter(has_text=f"{mask}: {count} of 3").wait_for(timeout=5 * ANSWER_MS)
    assert captions(player) != before, "the predictions under the pictures follow"


def check_canvas(page: Page) -> None:
    canvas = page.locator(".drawing-canvas canvas")
    canvas.focus()
    page.keyboard.press("Space")
    dot = canvas.evaluate("one => one.toDataURL()")
    page.keyboard.press("ArrowDown")
    assert canvas.evaluate("one => one.toDataURL()") != dot, "the pen moves"


def check_frames(page: Page) -> None:
    alone = page.locator(".frame-page")
    alone.get_by_label("Checkpoint").focus()
    page.keyboard.press("ArrowRight")
    alone.get_by_role("status").filter(has_text="state 2").wait_for(timeout=ANSWER_MS)
    live = page.locator(".widget-vbox", has_text="Checkpoint")
    track = live.locator(".noUi-target").bounding_box()  # Notebook 7 itself takes the arrow keys of ipywidgets' sliders
    page.mouse.click(track["x"] + track["width"] / 2, track["y"] + track["height"] / 2)
    live.get_by_role("status").filter(has_text="state 2").wait_for(timeout=5 * ANSWER_MS)
