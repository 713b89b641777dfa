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
def test_each_point_trains_with_its_own_mask_rate(store_folder: Path, tmp_path: Path) -> None:
    content = read_yaml((paths.grids() / "language.yaml").read_text())
    axes = content["axes"][0]["product"]
    tiny = {name: value for name, value in BASES["07"].items() if name not in (*axes, "seeds")}
    grid = tmp_path / "grid.yaml"
    grid.write_text(json.dumps(content | {"preset": "smoke", "parameters": tiny | {"train_on_text": False}}))
    assert len(plan_grid(grid).points) == 2 * 3 * 3
    words = ["batch", grid, "--out", tmp_path / "out", "--workers", "1", "--only", "seed=1", "student_width=8"]
    done = CliRunner().invoke(app, list(map(str, words)), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    found = [json.loads(path.read_text()) for path in (tmp_path / "out").rglob("metrics.json")]
    assert [one["seeds"] for one in found] == [[1], [1]]
    few, many = sorted(one["ceiling"]["hidden"] for one in found)
    assert few < many, "the more tokens are masked, the less can be predicted"
    assert all(set(one["median_steps"]) >= {"one_shot_soft", "extracted"} for one in found)
