"""The grid over notebook 07, with its two mask rates, as `pwl-lab batch` runs it; at tiny sizes."""

import json
from pathlib import Path

import pytest
from edges import BASES
from typer.testing import CliRunner

from pwl_lab.cli import app
from pwl_lab.runner.grid import plan_grid
from pwl_lab.support import paths
from pwl_lab.support.yaml12 import read_yaml


@pytest.mark.notebook
def test_a_point_trains_with_its_own_mask_rate(smoke_run, store_folder: Path, tmp_path: Path) -> None:
    content = read_yaml((paths.grids() / "language.yaml").read_text())
    assert len(plan_grid(paths.grids() / "language.yaml").points) == 2 * 3 * 3
    axes = content["axes"][0]["product"]
    few, many = axes["mask_rate"]
    axes["mask_rate"], axes["student_width"], content["seeds"] = [few], [8], [1]
    tiny = {name: value for name, value in BASES["07"].items() if name not in (*axes, "seeds")}
    grid = tmp_path / "grid.yaml"
    grid.write_text(json.dumps(content | {"preset": "smoke", "parameters": tiny | {"train_on_text": False}}))
    words = ["batch", grid, "--out", tmp_path / "out", "--workers", "1"]
    done = CliRunner().invoke(app, list(map(str, words)), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    [found] = [json.loads(path.read_text()) for path in (tmp_path / "out").rglob("metrics.json")]
    assert found["seeds"] == [1]
    assert set(found["median_steps"]) >= {"one_shot_soft", "extracted"}
    other = smoke_run("07").out
    assert json.loads((other / "params.json").read_text()).get("mask_rate", many) == many
    known = json.loads((other / "metrics.json").read_text())["ceiling"]["hidden"]
    assert found["ceiling"]["hidden"] > known, "the more tokens are masked, the less can be predicted"
