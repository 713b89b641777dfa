"""The two shipped tables of notebook 07: the best learning rate of each curriculum, and the comparison over more teachers.

    python scripts/language_tables.py tuning      # writes data/results/language_tuning.csv
    python scripts/language_tables.py teachers    # writes data/results/language_teachers.csv, at the rates of the first

Each has one row per curriculum, learning rate and seed; a seed has a teacher and a student of its own for every
curriculum. `steps_90` and `steps_95` are the steps to that share of the teacher's accuracy, empty where the budget was
not enough: on the validation strings for `tuning`, on the test strings for `teachers`. Beside each table is a JSON file
that says how it was made. The store keeps every student, so an interrupted run goes on where it stopped (and its
minutes are those of the last run).
"""

import argparse
import json
import time
from collections.abc import Iterable
from typing import Any

import pandas as pd

from pwl_lab.study import language_recipes as recipes
from pwl_lab.study import tables
from pwl_lab.study.settings import LanguageCurriculumSettings
from pwl_lab.study.store import provenance
from pwl_lab.study.verbs import run_cases
from pwl_lab.support import paths
from pwl_lab.support.files import write_json

TUNING_SEEDS = (10, 11, 12)
TEACHER_SEEDS = tuple(range(20, 28))
RATES = (0.002, 0.004, 0.008, 0.016, 0.032)
BUDGET = 2_400  # a slow rate may be the best one of a slow curriculum


def tuning_points(preset: str) -> list[LanguageCurriculumSettings]:
    """All curricula at every rate, on seeds that nothing else uses."""
    return [
        LanguageCurriculumSettings.load(preset, tuned=False, student_lr=rate, budget_steps=BUDGET, seeds=[seed])
        for rate in RATES
        for seed in TUNING_SEEDS
    ]


def teacher_points(preset: str) -> list[LanguageCurriculumSettings]:
    """Each curriculum at its own best rate, on other seeds again."""
    return [LanguageCurriculumSettings.load(preset, tuned=True, seeds=[seed]) for seed in TEACHER_SEEDS]


def rows_of(settings: LanguageCurriculumSettings, split: str) -> Iterable[dict[str, Any]]:
    """One row per curriculum, for the only seed of `settings`."""
    names, rates = list(recipes.language_curricula(settings)), recipes.learning_rates(settings)
    runs = recipes.language_students(settings, names)
    history = recipes.of_teacher(runs, recipes.language_teacher(settings)).history
    if split == "validation":  # where a student was not measured on it, it is not yet in its last stage
        on_validation = history["validation_accuracy"].fillna(0.0).where(history["accuracy"].notna())
        history = history.assign(accuracy=on_validation)
    steps = {f"steps_{share}": tables.steps_to_threshold(history, share / 100) for share in (90, 95)}
    for name in names:
        row = {"grammar": recipes.grammar_task(settings).name, "curriculum": name, "student_lr": rates[name]}
        row |= {"seed": settings.seeds[0], "budget": settings.budget_steps}
        yield row | {column: found[name][0] for column, found in steps.items()}


def table_of(points: list[LanguageCurriculumSettings], split: str) -> pd.DataFrame:
    """The rows of all points; what is not in the store is trained first, several points in parallel."""
    device = points[0].device
    run_cases(recipes.language_teacher, [{"settings": one} for one in _one_a_teacher(points)], "teachers", device)
    names = list(recipes.language_curricula(points[0]))
    run_cases(recipes.language_students, [{"settings": one, "names": names} for one in points], "students", device)
    table = pd.DataFrame([row for one in points for row in rows_of(one, split)])
    return table.astype({"steps_90": "Int64", "steps_95": "Int64"})


def _one_a_teacher(points: list[LanguageCurriculumSettings]) -> list[LanguageCurriculumSettings]:
    """One of the points for each seed: the others have the same teacher."""
    return list({one.seeds: one for one in points}.values())


def main() -> None:
    """Make one of the tables, and print what it says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", choices=["tuning", "teachers"])
    parser.add_argument("--preset", default="lesson")
    asked, begun = parser.parse_args(), time.monotonic()
    tuning = asked.table == "tuning"
    split = "validation" if tuning else "test"
    points = tuning_points(asked.preset) if tuning else teacher_points(asked.preset)
    table = table_of(points, split)
    path = paths.results() / (recipes.TUNING if tuning else recipes.TEACHERS)
    path.parent.mkdir(parents=True, exist_ok=True)
    table.to_csv(path, index=False)
    made = {
        "command": f"python scripts/language_tables.py {asked.table} --preset {asked.preset}",
        "split": split,
        "seeds": sorted({int(seed) for seed in table["seed"]}),
        "minutes": round((time.monotonic() - begun) / 60, 1),  # without what an earlier run had put into the store
        "made": provenance(),
    }
    write_json(path.with_suffix(".json"), made)
    print(json.dumps(recipes.best_rates(table)) if tuning else recipes.over_teachers(table))


if __name__ == "__main__":
    main()
