"""Plain Jupyter Notebook 7: the parameters cell is shown, and the layer loader is drawn, without an error."""

from pathlib import Path

import nbformat
import pytest
from labpage import cut, open_notebook, run_all
from nbformat.v4 import new_code_cell, new_notebook
from playwright.sync_api import Page

HELPERS = Path(__file__).parents[1] / "helpers"
PARAMETERS = 'preset = "smoke"  # smoke, lesson or paper'
LOADER = f"""import sys
sys.path.insert(0, {str(HELPERS)!r})
from scored import scored_pair, some_predictions
from pwl_lab import widgets
widgets.layer_loader(scored_pair(), {{"pictures": some_predictions()}})"""


@pytest.mark.browser
def test_a_widget_is_drawn_and_the_parameters_are_shown(page: Page, notebook_7: tuple[str, str, Path]) -> None:
    cells = [new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]}), new_code_cell(LOADER)]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(new_notebook(cells=cells, metadata=kernel), notebook_7[2] / "small.ipynb")
    open_notebook(page, notebook_7, "small", "notebooks")
    run_all(page)
    assert 'preset = "smoke"' in page.locator(".jp-CodeCell").first.inner_text()
    player = page.locator(".pwl-player")
    player.wait_for(timeout=20_000)
    assert page.locator("[data-mime-type$='.error']").count() == 0
    assert "LayerLoader(" not in page.inner_text(".jp-Notebook")
    assert cut(page) == []
    player.get_by_role("status").filter(has_text="SSS: 0 of 3").wait_for(timeout=20_000)  # it is drawn bit by bit
