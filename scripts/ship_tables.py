"""Copy tables of a sweep to `data/results`, thinned out, each with a JSON file that says how it was made.

    python scripts/ship_tables.py curricula spike --source /tmp/sweep --commit 35e608b --minutes curricula=12 spike=3

The sweeps (`complexity_tables.py`, `teacher_tables.py`) may run on another machine, without git: the commit, the machine
in words and the minutes are given here. Columns that say the same in every row, or how long a part took, are left out.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import pandas as pd

from pwl_lab.study.exponents import or_never
from pwl_lab.support import paths
from pwl_lab.support.files import write_json

STUDENT = ["curriculum", "n", "k", "seed", "lr", "momentum", "stage_steps", "hidden_weight", "samples", "reached"]
# Per subject: the command that made its tables, and for each shipped one the sweep's file.
SUBJECTS: dict[str, tuple[str, dict[str, str]]] = {
    "curricula": (
        "complexity_tables.py curricula",
        {
            "parity_curricula": "curricula",
            "parity_curricula_common": "curricula_common",
            "parity_curricula_best": "curricula_best",
            "parity_curricula_tuning": "curricula_tuning",
            "parity_curricula_teachers": "curricula_teachers_0",
        },
    ),
    "spike": ("teacher_tables.py spike", {"parity_spike": "spike"}),
    "costs": ("teacher_tables.py costs", {"complexity_costs": "costs"}),
    "bits": (
        "teacher_tables.py bits",
        {"parity_bits": "bits", "parity_bits_leak": "bits_leak", "parity_bits_tuning": "bits_tuning"},
    ),
    "sizes": (
        "complexity_tables.py sizes",
        {"complexity_sizes": "sizes", "complexity_best": "sizes_best", "complexity_tuning": "sizes_tuning"},
    ),
    "wider": (
        "wider_settings.py",
        {name: name for name in ("complexity_sizes", "complexity_best", "complexity_tuning")},
    ),
}
# What tells one teacher of `teacher_tables.py costs` from another.
TEACHER_COLUMNS = ["n", "k", "seed", "weight_decay", "saturation"]


def setting_medians(table: pd.DataFrame) -> pd.DataFrame:
    """A row per setting: the median of its samples (infinite where half never got there), and how many draws did."""
    setting = ["curriculum", "k", "n", "lr", "momentum", "stage_steps", "hidden_weight"]
    grid = table.assign(samples=or_never(table)).groupby(setting, sort=False, as_index=False)
    return grid.agg(samples=("samples", "median"), reached=("reached", "sum"), draws=("reached", "size"))


def teacher_costs(students: pd.DataFrame) -> pd.DataFrame:
    """One row per teacher: rho, and `samples`, the fewest of its students over all settings (infinite if none got there).

    Arguments:
    - `students`: one row per teacher and setting (`scripts/teacher_tables.py costs`).
    """
    best = students.assign(samples=or_never(students)).sort_values("samples", kind="stable")
    kept = [*TEACHER_COLUMNS, "rho", "rho off", "samples", "lr", "stage_steps"]
    return best.drop_duplicates(TEACHER_COLUMNS)[kept].sort_values(TEACHER_COLUMNS).reset_index(drop=True)


# What is kept of a sweep's file.
THINNED: dict[str, Callable[[pd.DataFrame], pd.DataFrame]] = {
    "curricula_tuning": setting_medians,
    "sizes_tuning": setting_medians,
    "bits_tuning": setting_medians,
    "costs": teacher_costs,
}


def tidy(table: pd.DataFrame) -> pd.DataFrame:
    """Whole numbers as such, others to four digits; of a student's columns those that matter."""
    if "hidden_weight" in table and "seed" in table:
        table = table[[*STUDENT, *(name for name in ("machine",) if name in table)]]
    for name in table.select_dtypes("float"):
        column = table[name]
        whole = (column == column.round()).all() and column.abs().max() < 1e15
        table = table.assign(
            **{name: column.astype("int64") if whole else column.map(lambda value: float(f"{value:.4g}"))}
        )
    return table


def shipped_seeds(name: str) -> list[int]:
    """The seeds of the table that is shipped now: of a thinned table that was continued, they stay."""
    path = paths.results() / f"{name}.json"
    return list(json.loads(path.read_text(encoding="utf-8"))["seeds"]) if path.exists() else []


def main() -> None:
    """Ship the tables of the subjects asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("subjects", nargs="+", choices=list(SUBJECTS))
    parser.add_argument("--source", type=Path, required=True, help="the folder that the sweep wrote to")
    parser.add_argument("--commit", required=True)
    parser.add_argument("--device", default="cuda", help="that the sweep ran with")
    parser.add_argument("--machine", default="one H100 GPU")
    parser.add_argument("--note", default="", help="what else to know, such as parts that were made otherwise")
    parser.add_argument("--minutes", nargs="*", default=[], metavar="SUBJECT=MINUTES")
    asked = parser.parse_args()
    minutes = {name: float(value) for name, _, value in (one.partition("=") for one in asked.minutes)}
    device = "" if asked.device == "cpu" else f" --device {asked.device}"
    for subject in asked.subjects:
        command, files = SUBJECTS[subject]
        for name, source in files.items():
            table = pd.read_csv(asked.source / f"{source}.csv")
            seeds = sorted({int(seed) for seed in table["seed"]}) if "seed" in table else shipped_seeds(name)
            table = tidy(THINNED[source](table) if source in THINNED else table)
            table.to_csv(paths.results() / f"{name}.csv", index=False)
            made = {"command": f"python scripts/{command}{device}", "seeds": seeds}
            made |= {
                "minutes": minutes.get(subject, "not recorded"),
                "made": {"commit": asked.commit, "machine": asked.machine},
            }
            made |= {"note": asked.note} if asked.note else {}
            write_json(paths.results() / f"{name}.json", made)


if __name__ == "__main__":
    main()
