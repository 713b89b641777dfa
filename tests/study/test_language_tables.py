"""The script that makes the shipped tables of notebook 07."""

import pandas as pd
import pytest
from script_modules import load_script

from pwl_lab.study import language_recipes as recipes
from pwl_lab.study.settings import LanguageCurriculumSettings
from pwl_lab.support import paths
from pwl_lab.support.errors import InvalidValueError


@pytest.fixture(scope="module")
def script():
    return load_script("language_tables")


@pytest.fixture
def store(tmp_path, monkeypatch):
    for name in ("PWL_LAB_STORE", "PWL_LAB_OUT", "PWL_LAB_PROGRESS", "PWL_LAB_DEVICE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PWL_LAB_RUNS", str(tmp_path / "runs"))


def test_the_table_has_a_row_for_each_curriculum_and_point(script, store):
    tiny = {"teacher_steps": 8, "teacher_eval_every": 4, "checkpoint_accuracy": 0.0, "eval_strings": 16,
            "device": "cpu", "budget_steps": 10, "eval_every": 5, "block_steps": 2}  # fmt: skip
    points = [LanguageCurriculumSettings.load("smoke", **tiny, seeds=[seed]) for seed in (10, 11)]
    names = list(recipes.language_curricula(points[0]))
    for split in ("validation", "test"):
        table = script.table_of(points, split)
        assert table["seed"].tolist() == [10] * len(names) + [11] * len(names)
        assert table["curriculum"].tolist() == names * 2
        late = table[table["curriculum"].isin(["extracted", "last_block", "at_once"])]
        steps = late["steps_90"].dropna()
        # while hidden states are trained, nothing is measured on the validation split
        assert split == "test" or (steps > 2).all()


def test_tuning_reported_seeds_and_teachers_are_all_different(script):
    tuned = {seed for one in script.tuning_points("lesson") for seed in one.seeds}
    reported = {seed for preset in ("lesson", "paper") for seed in LanguageCurriculumSettings.load(preset).seeds}
    teachers = set(script.TEACHER_SEEDS)
    assert tuned == set(script.TUNING_SEEDS)
    assert not tuned & reported | tuned & teachers | reported & teachers


def test_ratios_are_taken_teacher_by_teacher_and_none_counts_at_the_budget():
    soft, extracted = (800, 800, 800, 1000, 1000, 1000, 1000), (400, 400, 400, None, 600, 600, 600)
    rows = [("one_shot_soft", seed, steps) for seed, steps in enumerate(soft)]
    rows += [("extracted", seed, steps) for seed, steps in reversed(list(enumerate(extracted)))]
    table = pd.DataFrame(rows, columns=["curriculum", "seed", "steps_95"]).assign(budget=1500)
    found = recipes.over_teachers(table)
    assert found.loc["one_shot_soft"].tolist() == ["7 of 7", "1,000", "–"]
    assert found.loc["extracted", ["reached", "median steps"]].tolist() == ["6 of 7", "600"]
    assert found.loc["extracted", "of one_shot_soft's"].startswith("0.60 (0.50 to ")
    with pytest.raises(InvalidValueError, match="at least 6 values"):
        recipes.over_teachers(table[table["seed"] < 5])


@pytest.mark.parametrize("name", [recipes.TUNING, recipes.TEACHERS])
def test_the_shipped_tables_hold_every_curriculum_for_every_seed(script, name):
    table = pd.read_csv(paths.results() / name)
    names = set(recipes.language_curricula(LanguageCurriculumSettings.load("lesson")))
    seeds, rates = (script.TUNING_SEEDS, script.RATES) if name == recipes.TUNING else (script.TEACHER_SEEDS, None)
    assert set(table["curriculum"]) == names
    assert set(table["seed"]) == set(seeds)
    each = len(seeds) * (len(rates) if rates else 1)
    assert (table.groupby("curriculum").size() == each).all()
    assert (table["steps_90"].dropna() <= table["budget"].loc[table["steps_90"].notna()]).all()
    assert (paths.results() / name).with_suffix(".json").is_file()


def test_the_table_of_the_text_has_the_losses_of_the_notebooks_students(script, store):
    tiny = {"teacher_steps": 8, "teacher_eval_every": 4, "eval_strings": 16, "text_length": 8, "text_steps": 20}
    settings = LanguageCurriculumSettings.load("smoke", **tiny, seeds=[2, 5], device="cpu")
    table, runs = script.text_table(settings), recipes.all_students(settings)
    assert table["seed"].tolist() == [2, 5] * len(recipes.ELSEWHERE["text"])
    by_curriculum = {name: mine["loss"].tolist() for name, mine in table.groupby("curriculum", sort=False)}
    assert by_curriculum == recipes.text_losses(settings, runs)


def test_the_shipped_table_of_the_text_has_the_notebooks_seeds_and_more(script):
    table = pd.read_csv(paths.results() / recipes.TEXT)
    reported = set(LanguageCurriculumSettings.load("lesson").seeds)
    for name in recipes.ELSEWHERE["text"]:
        assert table.loc[table["curriculum"] == name, "seed"].tolist() == list(script.TEXT_SEEDS)
    assert reported <= set(script.TEXT_SEEDS)
    assert (paths.results() / recipes.TEXT).with_suffix(".json").is_file()


def test_the_other_teachers_students_had_the_rates_that_the_tuning_chose():
    table = pd.read_csv(paths.results() / recipes.TUNING)
    chosen = recipes.best_rates(table)
    shipped = pd.read_csv(paths.results() / recipes.TEACHERS).groupby("curriculum")["student_lr"].unique()
    assert {name: rates.tolist() for name, rates in shipped.items()} == {name: [chosen[name]] for name in shipped.index}
