"""The shipped tables of notebooks 08 and 02: samples to 99% over sizes, curricula and settings; see `parity_sweep`.

    python scripts/complexity_tables.py sizes --device cuda     # k = 2, 3, 4 over n: tuned per size, then 16 other draws
    python scripts/complexity_tables.py curricula --device cuda # (50, 4) and (100, 4): tuned per curriculum, and untuned
    python scripts/complexity_tables.py ladder --device cuda    # up to the papers' (100, 6), teacher 1,024 wide
    python scripts/complexity_tables.py wide --device cuda      # (100, 6) with the papers' teacher, 50,000 wide

Each verb tunes on the draws of `TUNING` and reports on those of `REPORTED`. It writes `NAME_tuning.csv` (the whole grid),
`NAME_best.csv` and `NAME.csv` (a row per draw and curriculum) into `--out`, and continues with what is missing there.

Expected before the first run: one-shot's exponent near k - 1 (2410.05464 proves n^(k-1) as a lower bound for one large
step; SGD may do better), the two-checkpoint curriculum's at most 2, extracted's below 2 and not growing with k.
"""

import argparse
import json
import time
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import pandas as pd
import torch

from pwl_lab.fast.two_layer import Nets, joined
from pwl_lab.study.parity_sweep import (
    Curriculum,
    Draws,
    Setting,
    TeacherPlan,
    Teachers,
    best_settings,
    growing,
    train_students,
    train_teachers,
)

TUNING, REPORTED = tuple(range(100, 108)), tuple(range(16))
PLAIN, HEAVY = (0.05, 0.1, 0.2, 0.4, 0.8), (0.005, 0.01, 0.02, 0.04, 0.08)  # learning rates without and with momentum


def rates(smoke: bool, fast: bool) -> list[tuple[float, float]]:
    """Learning rate and momentum; `fast` leaves out the smallest rates, which would take the longest to be rejected."""
    first = 1 if fast else 0
    return (
        [(0.1, 0.0), (0.2, 0.0)] if smoke else [*((r, 0.0) for r in PLAIN[first:]), *((r, 0.9) for r in HEAVY[first:])]
    )


def grid(curriculum: Curriculum, stages: Sequence[int], weights: Sequence[float], smoke: bool) -> list[Setting]:
    """All settings that are tried for a curriculum."""
    several = curriculum not in ("labels", "one_shot")
    return [
        Setting(lr, momentum, steps, weight)
        for (lr, momentum), steps, weight in product(
            rates(smoke, not several), stages if several else (0,), weights if curriculum == "extracted" else (5.0,)
        )
    ]


class Sweep:
    """One table: its sizes, its teachers, what is tried, and where it is written."""

    def __init__(
        self, name: str, asked: argparse.Namespace, sizes: Sequence[tuple[int, int]], plan: TeacherPlan
    ) -> None:
        """`asked` are the command's options, `plan` is for the teachers of all `sizes`, (n, k)."""
        self.name, self.asked, self.sizes, self.plan = name, asked, sizes, plan
        self.even = name == "curricula"
        self.made: dict[tuple[int, ...], Teachers] = {}

    def path(self, suffix: str) -> Path:
        """A file of this table."""
        return Path(self.asked.out) / f"{self.name}{suffix}.csv"

    def teachers(self, seeds: Sequence[int]) -> Teachers:
        """The teachers of these draws; those that did not learn are named."""
        batch = self.plan.batch_size
        key = tuple(seeds)
        if key not in self.made:
            begun = time.monotonic()
            found = train_teachers(Draws.of(self.sizes, seeds, self.asked.device), self.plan, self.even)
            self.made[key] = found
            print(
                f"{len(found.draws.rows)} teachers in {time.monotonic() - begun:.0f} s; without: {found.missing}",
                flush=True,
            )
            rows = [
                row | {"width": self.plan.width, "reached": reached * batch, "samples": steps * batch}
                for row, reached, steps in zip(
                    found.draws.rows, found.reached.tolist(), found.steps.tolist(), strict=True
                )
            ]
            pd.DataFrame(rows).to_csv(self.path(f"_teachers_{seeds[0]}"), index=False)
        return self.made[key]

    def shown(self, teachers: Teachers, curriculum: Curriculum, checkpoint: float) -> Nets:
        """The networks whose output a curriculum shows, the final teacher last."""
        if curriculum == "even" and teachers.even is not None:
            return joined([teachers.even, teachers.nets])
        return (
            joined([teachers.checkpoints[checkpoint], teachers.nets]) if curriculum == "progressive" else teachers.nets
        )

    def run(
        self,
        suffix: str,
        seeds: Sequence[int],
        name: str,
        settings: list[list[Setting]],
        width: int,
        batch: int,
        budget: int,
    ) -> pd.DataFrame:
        """Train one curriculum, `name` (with the checkpoint's accuracy, if it has one), unless its rows are there."""
        path = self.path(suffix)
        known = pd.read_csv(path) if path.exists() else pd.DataFrame({"curriculum": []})
        if not known.empty:
            known = known.assign(size=list(zip(known["n"], known["k"], strict=True)))
        mine = known[(known["curriculum"] == name) & known["size"].isin(self.sizes)] if len(known) else known
        if mine.empty:
            curriculum, _, at = name.partition(" ")
            teachers, begun = self.teachers(seeds), time.monotonic()
            shown = self.shown(teachers, curriculum, float(at or 0))  # type: ignore[arg-type]
            mine = train_students(
                teachers.draws, shown, curriculum, settings, width, batch, budget // batch, growing()  # type: ignore[arg-type]
            ).assign(curriculum=name, width=width)  # fmt: skip
            pd.concat([known, mine], ignore_index=True).drop(columns="size", errors="ignore").to_csv(path, index=False)
            print(f"{self.name}{suffix} {name}: {len(mine)} students in {time.monotonic() - begun:.0f} s", flush=True)
        return mine

    def tuned(
        self, names: dict[str, tuple[Sequence[int], int]], weights: Sequence[float], width: int, batch: int
    ) -> None:
        """Tune every curriculum per size, then report it on the other draws. `names`: stage lengths and budget in samples."""
        for name, (stages, budget) in names.items():
            tried = grid(name.partition(" ")[0], stages, weights, self.asked.smoke)  # type: ignore[arg-type]
            table = self.run("_tuning", self.tuning, name, [tried], width, batch, budget)
            best = best_settings(table).set_index(["k", "n"])
            path = self.path("_best")
            best = best.reset_index().astype({"k": int, "n": int, "stage_steps": int})
            known = pd.read_csv(path) if path.exists() else best.iloc[:0]
            others = (known["curriculum"] != name) | ~known["k"].isin(best["k"])
            pd.concat([known[others], best]).to_csv(path, index=False)
            best = best.set_index(["k", "n"])
            rows = self.teachers(self.reported).draws.rows
            chosen = [[Setting.of(best.loc[(row["k"], row["n"])])] for row in rows]
            self.run("", self.reported, name, chosen, width, batch, 2 * budget)

    @property
    def tuning(self) -> tuple[int, ...]:
        """The draws that settings are chosen on."""
        return TUNING[:2] if self.asked.smoke else TUNING[: self.asked.draws // 2]

    @property
    def reported(self) -> tuple[int, ...]:
        """The draws that are reported."""
        return REPORTED[:2] if self.asked.smoke else REPORTED[: self.asked.draws]


STAGES = (25, 50, 100, 200, 400, 800, 1_600)


def sizes(asked: argparse.Namespace) -> None:
    """Notebook 08: k = 2, 3, 4 on the same n; students 64 wide, batches of 32."""
    bits = (10, 14) if asked.smoke else (16, 24, 36, 54, 81)
    ks = (2, 3) if asked.smoke else (2, 3, 4)
    long = {2: 300_000, 3: 800_000, 4: 3_000_000}  # samples for one-shot
    stages, budget = ((50, 100), 20_000) if asked.smoke else (STAGES, 200_000)
    for k in reversed(ks):
        sweep = Sweep("sizes", asked, [(n, k) for n in bits], TeacherPlan(width=128 if asked.smoke else 1024))
        names: dict[str, tuple[Sequence[int], int]] = {
            "extracted": (stages, budget),
            "progressive 0.8": (stages, budget),
        }
        sweep.tuned(names | {"one_shot": ((0,), budget if asked.smoke else long[k])}, (5.0, 25.0), 64, 32)


def curricula(asked: argparse.Namespace) -> None:
    """Notebook 02: every curriculum at its own best settings beside the common ones; batches of 128."""
    tasks = [(10, 3)] if asked.smoke else [(50, 4), (100, 4)]
    sweep = Sweep("curricula", asked, tasks, TeacherPlan(width=128 if asked.smoke else 1024, budget=20_000))
    stages, budget = ((50, 100), 20_000) if asked.smoke else ((50, 100, 200, 400, 600, 800), 1_000_000)
    names: dict[str, tuple[Sequence[int], int]] = {"extracted": (stages, budget), "progressive 0.8": (stages, budget)}
    names["even"] = ((50, 100) if asked.smoke else (100, 200, 400), budget)
    long = budget if asked.smoke else 4_000_000
    sweep.tuned(names | {"one_shot": ((0,), long), "labels": ((0,), long)}, (1.0, 5.0, 25.0), 64, 128)
    common = {"extracted": 600, "progressive 0.8": 600, "even": 600, "one_shot": 0, "labels": 0}
    for name, steps in common.items():
        sweep.run("_common", sweep.reported, name, [[Setting(0.2, 0.0, steps, 5.0)]], 64, 128, 3 * long)


def ladder(asked: argparse.Namespace) -> None:
    """(50, 4) to (100, 6): teachers 1,024 wide with heavy-ball momentum, students 100 wide, batches of 128."""
    tasks = [(10, 2), (10, 3)] if asked.smoke else [(50, 4), (100, 4), (100, 5), (100, 6)]
    plan = TeacherPlan(
        width=128 if asked.smoke else 1024,
        nesterov=False,
        stop_at=0.998,
        saturation=1.05,
        eval_every=20 if asked.smoke else 50,
        budget=500 if asked.smoke else 312_500,
    )
    sweep = Sweep("ladder", asked, tasks, plan)
    stages, budget = ((50, 100), 20_000) if asked.smoke else ((200, 400, 800, 1_600, 3_200), 1_500_000)
    names: dict[str, tuple[Sequence[int], int]] = {"extracted": (stages, budget), "progressive 0.6": (stages, budget)}
    sweep.tuned(names, (5.0,), 100, 128)
    budget = 40_000 if asked.smoke else 60_000_000
    both = [[Setting(0.2), Setting(0.05, 0.9)]]
    sweep.run("_one_shot", sweep.reported[:8], "one_shot", both, 100, 128, budget)


def wide(asked: argparse.Namespace) -> None:
    """(100, 6) as in the papers: three teachers 50,000 wide; students 100 and 1,000 wide."""
    task, width = ([(10, 3)], 512) if asked.smoke else ([(100, 6)], 50_000)
    plan = TeacherPlan(
        width=width, lr=0.1, nesterov=False, saturation=1.02, budget=500 if asked.smoke else 125_000, eval_every=200,
        stop_at=0.999, checkpoints=(0.6,),
    )  # fmt: skip
    sweep = Sweep("wide", asked, task, plan)
    seeds = sweep.reported[:3]
    settings = [
        Setting(lr, 0.0, steps, 5.0)
        for lr in (0.1, 0.2)
        for steps in ((50, 100) if asked.smoke else (800, 1_600, 2_400, 4_800))
    ]
    for units in (100, 1_000):
        for name in ("extracted", "progressive 0.6"):
            sweep.run(f"_{units}", seeds, name, [settings], units, 128, 20_000 if asked.smoke else 4_000_000)
    sweep.run(
        "_100", seeds, "one_shot", [[Setting(0.05, 0.9), Setting(0.2)]], 100, 128, 20_000 if asked.smoke else 20_000_000
    )


def main() -> None:
    """Make one of the tables."""
    verbs = {"sizes": sizes, "curricula": curricula, "ladder": ladder, "wide": wide}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", choices=list(verbs))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", default="data/results")
    parser.add_argument("--draws", type=int, default=16, help="reported draws; half as many are used for tuning")
    parser.add_argument("--smoke", action="store_true", help="tiny sizes, to see that it runs")
    asked, begun = parser.parse_args(), time.monotonic()
    Path(asked.out).mkdir(parents=True, exist_ok=True)
    torch.backends.cuda.matmul.allow_tf32 = False
    verbs[asked.table](asked)
    made = {"table": asked.table, "minutes": round((time.monotonic() - begun) / 60, 1), "device": asked.device}
    print(json.dumps(made))


if __name__ == "__main__":
    main()
