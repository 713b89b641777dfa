"""The layer loader in JupyterLab: cells run, the player answers the keyboard and plays, browser and kernel tell each other."""

from pathlib import Path

import nbformat
import pytest
from labpage import ANSWER_MS, cut, open_notebook, run_all
from nbformat.v4 import new_code_cell, new_notebook
from playing import captions, check_handover, watch_a_play, words
from playwright.sync_api import Page

HELPERS = Path(__file__).parents[1] / "helpers"
OWN = f"""import sys
sys.path.insert(0, {str(HELPERS)!r})
from scored import scored_pair, some_predictions, some_strings
from pwl_lab import widgets
loader = widgets.layer_loader(scored_pair(), {{"pictures": some_predictions(), "strings": some_strings()}})
def answer(change):  # the kernel hears which mask answers, and turns the order
    if change.new == "TTS":
        loader.order = "suffix"
loader.observe(answer, "mask")
loader"""


@pytest.mark.browser
@pytest.mark.parametrize("name", ["00_start_here", "04_progressive_weight_loading"])
def test_the_player_answers_and_plays(page: Page, lab: tuple[str, str, Path], name: str) -> None:
    open_notebook(page, lab, name)
    run_all(page)
    assert page.locator("[data-mime-type$='.error']").count() == 0
    player = page.locator(".pwl-player")
    player.wait_for(timeout=20_000)
    for width in (1000, 1400):
        page.set_viewport_size({"width": width, "height": 4000})
        assert cut(page) == [], f"{width} pixels wide"
    assert "LayerLoader(" not in page.inner_text(".jp-Notebook")
    player.get_by_role("status").filter(has_text="SSSS: 0 of 4").wait_for(timeout=20_000)  # it is drawn bit by bit
    seen = [words(player)]
    player.get_by_label("Teacher blocks loaded").focus()
    for mask in ("TSSS", "TTSS", "TTTS", "TTTT"):
        page.keyboard.press("ArrowRight")
        seen.append(words(player))
        assert seen[-1].startswith(mask)
    assert all(text[:1] in "✓✗" for text in captions(player))
    check_handover(watch_a_play(player), ["SSSS", "TSSS", "TTSS", "TTTS", "TTTT"])


@pytest.mark.browser
def test_the_kernel_is_told_which_mask_answers_and_can_choose_and_strings_follow(
    page: Page, lab: tuple[str, str, Path]
) -> None:
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(new_notebook(cells=[new_code_cell(OWN)], metadata=kernel), lab[2] / "own_player.ipynb")
    open_notebook(page, lab, "own_player")
    run_all(page)
    player = page.locator(".pwl-player")
    player.wait_for(timeout=20_000)
    player.get_by_label("Teacher blocks loaded").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    page.wait_for_function(
        "document.querySelector('.pwl-player [role=status]').innerText.startsWith('STT: 2 of 3')", timeout=5 * ANSWER_MS
    )
    assert player.get_by_label("Loading order").input_value() == "suffix"
    player.locator(".foot select").select_option("strings")
    assert player.locator(".string").first.locator("b").all_inner_texts() == ["a", "□", "␣"]
    assert player.locator(".tally").inner_text() == "8 of these 8 predicted tokens right"
    player.get_by_label("Teacher blocks loaded").focus()
    page.keyboard.press("ArrowLeft")
    assert player.locator(".tally").inner_text() == "4 of these 8 predicted tokens right"
