"""The learning rate at which each curriculum of notebook 07 needs the fewest steps: a batch's numbers as a shipped table.

    pwl-lab batch presets/grids/language_tuning.yaml --out runs/language_tuning
    python scripts/language_tuning.py runs/language_tuning

Writes `data/results/language_tuning.csv` (one row per curriculum, rate and seed: the steps to 95% of the teacher's
accuracy, empty where the budget was not enough) and `language_tuning.json` (how it was made). Notebook 07 takes its rates
from it where `tuned` is true.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from pwl_lab.study.language_recipes import best_rates
from pwl_lab.study.language_settings import TUNING
from pwl_lab.study.store import provenance
from pwl_lab.support import paths
from pwl_lab.support.errors import MissingDataError
from pwl_lab.support.files import write_json

FRACTION = "0.95"


def rows_of(metrics: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The rows of one run of the notebook; all of its curricula had the same rate."""
    grammar = metrics["grammar"]
    for name, steps in metrics["steps_to_teacher_fraction"][grammar][FRACTION].items():
        for seed, step in zip(metrics["seeds"], steps, strict=True):
            yield {
                "grammar": grammar,
                "curriculum": name,
                "student_lr": metrics["learning_rates"][name],
                "seed": seed,
                "steps": step,
                "budget": metrics["budget_steps"],
            }


def table_of(batch: Path) -> pd.DataFrame:
    """The rows of all runs in a batch's folder. Raises MissingDataError if there is none."""
    found = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(batch.glob("points/*/metrics.json"))]
    if not found:
        raise MissingDataError(f"{batch} has no finished runs: points/*/metrics.json")
    table = pd.DataFrame([row for metrics in found for row in rows_of(metrics)]).astype({"steps": "Int64"})
    return table.sort_values(["grammar", "curriculum", "student_lr", "seed"], ignore_index=True)


def main() -> None:
    """Write the table, and say what it chooses."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("batch", type=Path, help="the folder of the finished batch")
    asked = parser.parse_args()
    table = table_of(asked.batch)
    paths.results().mkdir(parents=True, exist_ok=True)
    table.to_csv(paths.results() / TUNING, index=False)
    made = {
        "command": "pwl-lab batch presets/grids/language_tuning.yaml, then python scripts/language_tuning.py",
        "seeds": sorted({int(seed) for seed in table["seed"]}),
        "made": provenance(),
    }
    write_json((paths.results() / TUNING).with_suffix(".json"), made)
    for grammar, mine in table.groupby("grammar"):
        print(grammar, json.dumps(best_rates(mine)))


if __name__ == "__main__":
    main()
