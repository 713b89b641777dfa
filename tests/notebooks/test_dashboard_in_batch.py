"""The dashboard as a batch run leaves it: it reads what is stored and makes nothing."""

import json
from pathlib import Path

import pytest

from pwl_lab.runner.execute import run_notebook
from pwl_lab.study import recipes
from pwl_lab.study.settings import LoadingSettings


def runs_at_smoke(out: Path) -> str:
    """Run it; its page."""
    status = run_notebook("dashboard", out, preset="smoke")
    assert status.status == "ok", status.error
    assert (out / "notebook.html").stat().st_size < 5_000_000
    return (out / "notebook.html").read_text()


@pytest.mark.notebook
def test_with_nothing_stored_it_says_how_to_make_it_and_makes_nothing(store_folder: Path, tmp_path: Path) -> None:
    page = runs_at_smoke(tmp_path / "out")
    assert page.count('<div class="frame-page">') == 0
    assert page.count('<div class="pwl-page">') == 1, "the pair that ships, which says so"
    assert "No pair of preset smoke is stored yet. This one ships with the project: vgg at preset lesson" in page
    for notebook in ("02", "04", "05"):
        assert f".venv/bin/pwl-lab run {notebook} --preset smoke" in page
    assert not store_folder.exists()


@pytest.mark.notebook
def test_with_some_stored_the_rest_is_named(smoke_run, store_folder: Path, tmp_path: Path) -> None:
    for name in ("02", "04"):
        smoke_run(name).copy_store(store_folder)
    recipes.loading_pair(LoadingSettings.load("smoke", family="vit"), seed=0)
    before = sorted(store_folder.rglob("*"))
    page = runs_at_smoke(tmp_path / "out")
    assert page.count('<div class="pwl-page">') == page.count('<div class="frame-page">') == 1
    assert "pwl-lab run 04 --preset smoke -p family=resnet" in page
    assert "pwl-lab run 02" not in page
    assert sorted(store_folder.rglob("*")) == before


@pytest.mark.notebook
@pytest.mark.parametrize("stored", [True, False], ids=["a stored pair", "the pair that ships"])
def test_its_live_controls_write_into_no_output_widget(
    smoke_run, store_folder: Path, tmp_path: Path, stored: bool
) -> None:
    """Such a write while a cell runs is what makes Voila wait for ever."""
    if stored:
        smoke_run("04").copy_store(store_folder)
    assert run_notebook("dashboard", tmp_path, preset="smoke", params={"interactive": True}).status == "ok"
    notebook = json.loads((tmp_path / "notebook.ipynb").read_text())
    state = notebook["metadata"]["widgets"]["application/vnd.jupyter.widget-state+json"]["state"]
    names = [model["model_name"] for model in state.values()]
    assert names.count("AnyModel") == 2  # the player, and the canvas for a picture of one's own
    assert "OutputModel" not in names
