"""The script that turns a batch of notebook 07 into a table of learning rates, and the grid of that batch."""

import importlib.util
import json

import pandas as pd
import pytest

from pwl_lab.runner.grid import plan_grid
from pwl_lab.study.language_recipes import best_rates
from pwl_lab.study.settings import LanguageCurriculumSettings
from pwl_lab.support import paths
from pwl_lab.support.errors import MissingDataError


def load_script():
    """The script as a module; its work begins in `main` alone."""
    spec = importlib.util.spec_from_file_location("language_tuning", paths.root() / "scripts" / "language_tuning.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_table_has_a_row_for_each_curriculum_rate_and_seed(tmp_path):
    script = load_script()
    for number, (rate, steps) in enumerate({0.004: [500, None], 0.008: [400, 700]}.items()):
        (folder := tmp_path / "points" / f"{number}").mkdir(parents=True)
        metrics = {
            "grammar": "hidden",
            "seeds": [10, 11],
            "budget_steps": 1000,
            "learning_rates": {"extracted": rate},
            "steps_to_teacher_fraction": {"hidden": {"0.9": {"extracted": [1, 1]}, "0.95": {"extracted": steps}}},
        }
        (folder / "metrics.json").write_text(json.dumps(metrics))
    table = script.table_of(tmp_path)
    assert table["steps"].tolist() == [500, pd.NA, 400, 700]
    assert table["seed"].tolist() == [10, 11, 10, 11]
    table.to_csv(tmp_path / "table.csv", index=False)
    assert best_rates(pd.read_csv(tmp_path / "table.csv")) == {"extracted": 0.008}
    with pytest.raises(MissingDataError, match="no finished runs"):
        script.table_of(tmp_path / "nowhere")


def test_the_grid_tunes_on_other_seeds_than_the_notebook_reports():
    plan = plan_grid(paths.presets() / "grids" / "language_tuning.yaml")
    assert len(plan.points) == 12
    reported = {seed for preset in ("lesson", "paper") for seed in LanguageCurriculumSettings.load(preset).seeds}
    tuned = {seed for point in plan.points for seed in point.params["seeds"]}
    assert not reported & tuned
    assert {point.params["tuned"] for point in plan.points} == {False}
