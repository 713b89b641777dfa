"""The shipped tables of notebook 07: the best learning rate of each curriculum, more teachers, and students on the text.

    python scripts/language_tables.py tuning      # writes data/results/language_tuning.csv
    python scripts/language_tables.py teachers    # writes data/results/language_teachers.csv, at the rates of the first
    python scripts/language_tables.py text        # writes data/results/language_text.csv

The first two have one row per curriculum, learning rate and seed; a seed has a teacher and a student of its own for every
curriculum. `steps_90` and `steps_95` are the steps to that share of the teacher's accuracy, empty where the budget was
not enough: on the validation strings for `tuning`, on the test strings for `teachers`. The third has one row per
curriculum and seed: the student's `loss` on the test windows. All its students share one teacher, as in the notebook.

Beside each table is a JSON file that says how it was made. The store keeps every student, so an interrupted run goes on
where it stopped (and its minutes are those of the last run).
"""

import argparse
import time
from collections.abc import Iterable
from typing import Any

import pandas as pd
from points import ship_table

from pwl_lab.study import language_recipes as recipes
from pwl_lab.study import tables
from pwl_lab.study.cases import run_cases
from pwl_lab.study.settings import LanguageCurriculumSettings

TUNING_SEEDS = (10, 11, 12)
TEACHER_SEEDS = tuple(range(20, 28))
TEXT_SEEDS = tuple(range(8))  # the notebook's own and more
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
    history = recipes.of_teacher(runs).history
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


def text_table(settings: LanguageCurriculumSettings) -> pd.DataFrame:
    """One row per curriculum and seed: the loss on the test windows, in nats."""
    runs = recipes.language_students(settings, recipes.ELSEWHERE["text"], "text")
    losses = recipes.final_losses(runs, recipes.language_task(settings, "text"))
    same = {"student_lr": settings.other_lr}
    return pd.DataFrame(
        [
            {"curriculum": name} | same | {"seed": seed, "loss": loss}
            for name, values in losses.items()
            for seed, loss in zip(settings.seeds, values, strict=True)
        ]
    )


def _one_a_teacher(points: list[LanguageCurriculumSettings]) -> list[LanguageCurriculumSettings]:
    """One of the points for each seed: the others have the same teacher."""
    return list({one.seeds: one for one in points}.values())


def make(table: str, preset: str) -> tuple[pd.DataFrame, str, str]:
    """A table, the split on which it was measured, and its file's name."""
    if table == "text":
        return text_table(LanguageCurriculumSettings.load(preset, seeds=TEXT_SEEDS)), "test", recipes.TEXT
    if table == "tuning":
        return table_of(tuning_points(preset), "validation"), "validation", recipes.TUNING
    return table_of(teacher_points(preset), "test"), "test", recipes.TEACHERS


def main() -> None:
    """Make one of the tables, and print what it says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", choices=["tuning", "teachers", "text"])
    parser.add_argument("--preset", default="lesson")
    asked, begun = parser.parse_args(), time.monotonic()
    table, split, name = make(asked.table, asked.preset)
    ship_table(
        name.removesuffix(".csv"),
        table,
        command=f"python scripts/language_tables.py {asked.table} --preset {asked.preset}",
        split=split,
        seeds=sorted({int(seed) for seed in table["seed"]}),
        minutes=round((time.monotonic() - begun) / 60, 1),  # without what an earlier run had put into the store
    )
    said = {recipes.TUNING: recipes.best_rates, recipes.TEACHERS: recipes.over_teachers}
    print(said[name](table) if name in said else table.groupby("curriculum", sort=False)["loss"].describe())


if __name__ == "__main__":
    main()
