"""A notebook as a class runs it: the first seed is trained, the results of the others ship."""

import json
import shutil
from pathlib import Path

import pytest
from script_modules import load_script

from pwl_lab.runner.execute import run_notebook
from pwl_lab.study import recipes, shipped_seeds
from pwl_lab.study.settings import LoadingSettings
from pwl_lab.support import environment, paths

ship_seeds = load_script("ship_seeds")


def a_home(folder: Path) -> Path:
    """What a run needs of the checkout, with nothing in `data/other_seeds`."""
    for part in ("notebooks", "presets"):
        shutil.copytree(paths.root() / part, folder / part)
    (folder / "data").mkdir()
    for part in paths.data().iterdir():
        if part.name != shipped_seeds.FOLDER:
            (folder / "data" / part.name).symlink_to(part)
    (folder / "data" / shipped_seeds.FOLDER).mkdir()
    return folder


@pytest.mark.notebook
def test_the_results_of_other_seeds_are_shown_and_not_trained(smoke_run, store_folder, tmp_path, monkeypatch):
    trained = smoke_run("04")
    settings = LoadingSettings.load("smoke", other_seeds="trained")
    with monkeypatch.context() as there:
        there.setenv(environment.STORE.name, str(trained.store))
        found = ship_seeds.asked(lambda: [recipes.tested_pair(settings, seed) for seed in settings.seeds[1:]])
        lines = [ship_seeds.line_of(recipe) for recipe in found]
    home = a_home(tmp_path / "home")
    (home / "data" / shipped_seeds.FOLDER / "04_vgg.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    asked = {"other_seeds": "shipped"}
    status = run_notebook("04", tmp_path / "out", "smoke", asked, environment={environment.HOME.name: str(home)})
    assert status.status == "ok", status.error
    here, before = (json.loads((out / "metrics.json").read_text()) for out in (tmp_path / "out", trained.out))
    del here["made"], before["made"]  # one commit and machine, another time
    origins = [one["results"] for one in here.pop("origins").values()]
    assert origins == ["trained", *["shipped"] * (len(settings.seeds) - 1)]
    assert {one["results"] for one in before.pop("origins").values()} == {"trained"}
    assert here == before
    assert len(list((store_folder / "pair").iterdir())) == 1
