"""The tables of notebook 08, with settings beyond the grid of `complexity_tables.py sizes` wherever its best lay at an end.

    python scripts/wider_settings.py --out /tmp/wider        # on the CPU; continues what is in --out

It begins at the shipped tables. For every size and curriculum it tries all neighbours of the best setting that were not
tried yet (half and twice the learning rate and stage length, a fifth and five times the weight, with and without
momentum), on the draws that settings are chosen on, until none of them is better. Where the best setting has changed, the
reported draws are measured anew with it; all other rows stay. A student whose setting is tried gets no more samples
than the best median needs: one that needs more would not be better.

Expected before the run: extracted gains a factor of 1.5 to 2 at n = 16 and 24 and hardly any at n = 81, so its exponents
rise by 0.1 to 0.3 and still do not grow from k = 3 to 4; one-shot gains at k = 3 more than at k = 4.
"""

import argparse
import json
import time
from dataclasses import astuple
from pathlib import Path

import pandas as pd
from complexity_tables import LENGTHS, RATES, REPORTED, SETTING, TUNING, WEIGHTS, neighbours
from ship_tables import setting_medians

from pwl_lab.fast.two_layer import joined
from pwl_lab.study.parity_sweep import (
    Curriculum,
    Draws,
    Setting,
    TeacherPlan,
    Teachers,
    growing,
    train_students,
    train_teachers,
)
from pwl_lab.study.store import shipped

BATCH, WIDTH = 32, 64


def at_end(best: Setting, name: str) -> str:
    """Which parts of a setting are the last that could be tried."""
    ends = {
        "lr": best.lr in (RATES[best.momentum][0], RATES[best.momentum][-1]),
        "stage_steps": best.stage_steps in (LENGTHS[0], LENGTHS[-1]),
        "hidden_weight": name == "extracted" and best.hidden_weight in (WEIGHTS[0], WEIGHTS[-1]),
    }
    return " ".join(part for part, last in ends.items() if last)


class Tables:
    """The three tables, from the folder if they are there, otherwise as shipped; written after each part."""

    names = ("tuning", "best", "sizes")

    def __init__(self, folder: Path) -> None:
        """Read them."""
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.tables = {
            name: pd.read_csv(self.path(name)) if self.path(name).exists() else shipped(f"complexity_{name}")
            for name in self.names
        }
        if "machine" not in self.tables["sizes"]:
            gpu = self.tables["sizes"]["curriculum"] != "one_shot"
            self.tables["sizes"] = self.tables["sizes"].assign(machine=gpu.map({True: "H100", False: "CPU"}))

    def path(self, name: str) -> Path:
        """The file of a table."""
        return self.folder / f"complexity_{name}.csv"

    def of(self, table: str, name: str, size: tuple[int, int]) -> pd.DataFrame:
        """The rows of a curriculum at a size (n, k)."""
        rows = self.tables[table]
        return rows[(rows["curriculum"] == name) & (rows["n"] == size[0]) & (rows["k"] == size[1])]

    def put(self, table: str, name: str, size: tuple[int, int], rows: pd.DataFrame) -> None:
        """Replace the rows of a curriculum at a size, and write the table."""
        others = self.tables[table].drop(self.of(table, name, size).index)
        self.tables[table] = pd.concat([others, rows], ignore_index=True)
        self.tables[table].to_csv(self.path(table), index=False)


class Size:
    """One size: its teachers, trained when they are needed."""

    def __init__(self, size: tuple[int, int], smoke: bool) -> None:
        """`size` is (n, k)."""
        self.size, self.smoke, self.made = size, smoke, dict[tuple[int, ...], Teachers]()
        self.plan = TeacherPlan(width=128 if smoke else 1024)

    def students(self, name: str, seeds: tuple[int, ...], settings: list[Setting], budget: int) -> pd.DataFrame:
        """Train a curriculum on these draws; `budget` is in samples."""
        if seeds not in self.made:
            self.made[seeds] = train_teachers(Draws.of([self.size], seeds), self.plan)
        teachers = self.made[seeds]
        curriculum: Curriculum = name.partition(" ")[0]  # type: ignore[assignment]
        early = curriculum == "progressive"
        shown = joined([teachers.checkpoints[float(name.split()[1])], teachers.nets]) if early else teachers.nets
        table = train_students(teachers.draws, shown, curriculum, [settings], WIDTH, BATCH, budget // BATCH, growing())
        return table.assign(curriculum=name)


def climb(tables: Tables, size: Size, name: str, rounds: int) -> Setting:
    """Try the neighbours of the best setting until none is better; the best one."""
    for _ in range(rounds):
        known = tables.of("tuning", name, size.size)
        row = known.loc[known["samples"].idxmin()]
        best, tried = Setting.of(row), set(known[SETTING].itertuples(index=False, name=None))
        new = [one for one in neighbours(best, name) if astuple(one) not in tried]
        new = [one for one in new if one.stage_steps * BATCH < row["samples"]]
        if not new:
            break
        seeds = TUNING[:2] if size.smoke else TUNING
        found = setting_medians(size.students(name, seeds, new, int(row["samples"])))
        tables.put("tuning", name, size.size, pd.concat([known, found[known.columns]]))
    known = tables.of("tuning", name, size.size)
    row = known.loc[known["samples"].idxmin()]
    best = Setting.of(row)
    columns = ["curriculum", "k", "n", *SETTING, "samples"]
    tables.put("best", name, size.size, row[columns].to_frame().T.assign(edge=at_end(best, name)))
    return best


def measure(tables: Tables, size: Size, name: str, best: Setting) -> str:
    """Measure the reported draws with the best setting, unless they were; what came of it, in words."""
    rows = tables.of("sizes", name, size.size)
    before = rows["samples"].median()
    if (rows[SETTING] == pd.Series(astuple(best), index=SETTING)).all(axis=None):
        return f"as before, {before:,.0f} samples"
    seeds = REPORTED[:2] if size.smoke else REPORTED
    found = size.students(name, seeds, [best], int(20 * before))
    found = found.assign(machine="CPU")[rows.columns]
    tables.put("sizes", name, size.size, found)
    return (
        f"{before:,.0f} to {found['samples'].median():,.0f} samples, {found['reached'].sum()} of {len(found)} arrived"
    )


def main() -> None:
    """Widen the grids and measure anew."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--k", type=int, nargs="+", default=(3, 4, 2))
    parser.add_argument("--n", type=int, nargs="+", default=(16, 24, 36, 54, 81))
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--smoke", action="store_true", help="one size with tiny teachers, to see that it runs")
    asked, begun = parser.parse_args(), time.monotonic()
    tables = Tables(asked.out)
    sizes = [(16, 2)] if asked.smoke else [(n, k) for k in asked.k for n in asked.n]
    for n, k in sizes:
        size = Size((n, k), asked.smoke)
        for name in ("extracted", "progressive 0.8", "one_shot"):
            since = time.monotonic()
            best = climb(tables, size, name, 1 if asked.smoke else asked.rounds)
            said = measure(tables, size, name, best)
            print(f"({n}, {k}) {name}: {said}; {best}; {time.monotonic() - since:.0f} s", flush=True)
    print(json.dumps({"minutes": round((time.monotonic() - begun) / 60, 1)}))


if __name__ == "__main__":
    main()
