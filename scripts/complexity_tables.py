"""The shipped tables of notebooks 08 and 02: samples to 99% over sizes, curricula and settings; see `parity_sweep`.

    python scripts/complexity_tables.py sizes --device cuda     # k = 2, 3, 4 over n: tuned per size, then 16 other draws
    python scripts/complexity_tables.py curricula --bits 50     # (50, 4) or (100, 4): tuned per curriculum, and untuned
    python scripts/complexity_tables.py ladder --device cuda    # up to the papers' (100, 6), teacher 1,024 wide
    python scripts/complexity_tables.py wide --device cuda      # (100, 6) with the papers' teacher, 50,000 wide

Each verb tunes on the draws of `TUNING` and reports on those of `REPORTED`. It writes `NAME_tuning.csv` (the whole grid),
`NAME_best.csv` and `NAME.csv` (a row per draw and curriculum) into `--out`, and continues there with the settings that
are missing. Teachers are not stored: what continues trains them again.

Expected before the first run: one-shot's exponent near k - 1 (2410.05464 proves n^(k-1) as a lower bound for one large
step; SGD may do better), the two-checkpoint curriculum's at most 2, extracted's below 2 and not growing with k.

Expected of `curricula` before even checkpoints and one-shot ran: one-shot needs what labels need (ratio 0.8 to 1.25).
Even checkpoints are faster than labels, since two or three of the eight lie in the transition, but slower than
progressive, since the others only guess: two to four times its samples on (50, 4). Extracted with rates beyond those of
the first grid gains less than a factor of 1.5.

Expected of `curricula` before (100, 4) ran with settings beyond the ends of the grid: labels, whose best rate there was
the largest, gain another factor of 1.2 to 2, so that they need 25 to 50 times the samples of extracted; even checkpoints
need four to eight times those of progressive, a wider gap than on (50, 4), since labels are slower beside them; one-shot
is labels again; on (50, 4) nothing changes by more than a fifth. In the common setting (a learning rate that is too
small for it) even gains less than a factor of 2 over labels.
"""

import argparse
import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from pwl_lab.fast.two_layer import Nets, joined
from pwl_lab.study.exponents import or_never
from pwl_lab.study.parity_sweep import (
    EVENLY,
    Curriculum,
    Draws,
    Setting,
    TeacherPlan,
    Teachers,
    growing,
    train_students,
    train_teachers,
)

CLIMBS = 8  # at most so many rounds of neighbouring settings
TUNING, REPORTED = tuple(range(100, 108)), tuple(range(16))
PLAIN, HEAVY = (0.05, 0.1, 0.2, 0.4, 0.8), (0.005, 0.01, 0.02, 0.04, 0.08)  # learning rates without and with momentum
STAGES = (25, 50, 100, 200, 400, 800, 1_600)
RATES = {0.0: (*PLAIN, 1.6, 3.2, 6.4), 0.9: (*HEAVY, 0.16, 0.32, 0.64)}  # without and with momentum
LENGTHS, WEIGHTS = (3, 6, 12, *STAGES), (1.0, 5.0, 25.0, 125.0, 625.0)
SETTING = ["lr", "momentum", "stage_steps", "hidden_weight"]

Grid = dict[tuple[int, int], list[Setting]]  # settings by size (n, k), equally many for each


def rates(plain: Iterable[float], heavy: Iterable[float]) -> list[tuple[float, float]]:
    """Pairs of learning rate and momentum: none for the first rates, 0.9 for the others."""
    return [*((rate, 0.0) for rate in plain), *((rate, 0.9) for rate in heavy)]


def best_settings(table: pd.DataFrame, by: Sequence[str] = ("k", "n", "curriculum")) -> pd.DataFrame:
    """Per group of `by`, the setting with the smallest median of samples; students that did not arrive count as never.

    Columns: those of `by`, lr, momentum, stage_steps, hidden_weight, samples (the median; infinite if half never
    arrived) and `edge`: the settings at an end of the grid.
    """
    samples = or_never(table)
    medians = table.assign(samples=samples).groupby([*by, *SETTING], as_index=False)["samples"].median()
    best = medians.loc[medians.groupby(list(by))["samples"].idxmin()].reset_index(drop=True)
    return best.assign(edge=[_edges(medians, row, by) for _, row in best.iterrows()])


def _edges(medians: pd.DataFrame, row: "pd.Series[Any]", by: Sequence[str]) -> str:
    """Which of a best setting's values are the least or largest that were tried with its momentum."""
    mine = medians[(medians[list(by)] == row[list(by)]).all(axis=1) & (medians["momentum"] == row["momentum"])]
    tried = {name: sorted(mine[name].unique()) for name in SETTING if name != "momentum"}
    return " ".join(name for name, values in tried.items() if len(values) > 1 and row[name] in (values[0], values[-1]))


def beside(values: tuple[float, ...], value: float) -> tuple[float, ...]:
    """A value and its neighbours."""
    at = values.index(value)
    return values[max(at - 1, 0) : at + 2]


def neighbours(best: Setting, name: str) -> list[Setting]:
    """All settings one step away from this one, in any of its parts, with and without momentum."""
    at = RATES[best.momentum].index(best.lr)
    lengths = beside(LENGTHS, best.stage_steps) if best.stage_steps else (0,)
    weights = beside(WEIGHTS, best.hidden_weight) if name == "extracted" else (best.hidden_weight,)
    pairs = [(rate, momentum) for momentum, values in RATES.items() for rate in values[max(at - 1, 0) : at + 2]]
    return [
        Setting(rate, momentum, int(steps), weight)
        for (rate, momentum), steps, weight in product(pairs, lengths, weights)
    ]


@dataclass(frozen=True)
class Tried:
    """The settings that are tried for a curriculum, all combinations, each for at most `budget` samples."""

    budget: int
    stages: Sequence[int] = (0,)
    weights: Sequence[float] = (5.0,)
    rates: Sequence[tuple[float, float]] = tuple(rates(PLAIN, HEAVY))

    def settings(self, smoke: bool) -> list[Setting]:
        """One for each combination."""
        pairs = [(0.1, 0.0), (0.2, 0.0)] if smoke else self.rates
        return [
            Setting(lr, momentum, steps, weight)
            for (lr, momentum), steps, weight in product(pairs, self.stages, self.weights)
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
            self.write(f"_teachers_{seeds[0]}", pd.DataFrame(rows), ["n", "k", "seed"])
        return self.made[key]

    def shown(self, teachers: Teachers, curriculum: Curriculum, checkpoint: float) -> Nets:
        """The networks whose output a curriculum shows, the final teacher last."""
        if curriculum == "even" and teachers.even is not None:
            return joined([teachers.even, teachers.nets])
        return (
            joined([teachers.checkpoints[checkpoint], teachers.nets]) if curriculum == "progressive" else teachers.nets
        )

    def known(self, suffix: str) -> pd.DataFrame:
        """The rows of a file of this table, none if it is not there."""
        path = self.path(suffix)
        return pd.read_csv(path) if path.exists() else pd.DataFrame(columns=["curriculum", "n", "k", "seed", *SETTING])

    def write(self, suffix: str, rows: pd.DataFrame, by: Sequence[str]) -> None:
        """Add rows to a file; they take the place of those that are equal in the columns `by`."""
        parts = [part for part in (self.known(suffix), rows) if len(part)]
        pd.concat(parts, ignore_index=True).drop_duplicates(by, keep="last").to_csv(self.path(suffix), index=False)

    def run(
        self, suffix: str, seeds: Sequence[int], name: str, tried: Grid, width: int, batch: int, budget: int
    ) -> pd.DataFrame:
        """The rows of one curriculum, `name` (with the checkpoint's accuracy, if it has one); what is missing is trained.

        Where a single setting is tried per size, it takes the place of another one's rows.
        """
        known, many = self.known(suffix), range(len(tried[self.sizes[0]]))
        by = ["curriculum", "n", "k", "seed", *(SETTING if suffix == "_tuning" or len(many) > 1 else [])]
        there = set(known.loc[known["curriculum"] == name, ["n", "k", *SETTING]].itertuples(index=False, name=None))
        left = [i for i in many if any((*size, *astuple(tried[size][i])) not in there for size in self.sizes)]
        if left:
            curriculum, _, at = name.partition(" ")
            teachers, begun = self.teachers(seeds), time.monotonic()
            shown = self.shown(teachers, curriculum, float(at or 0))  # type: ignore[arg-type]
            settings = [[tried[row["n"], row["k"]][i] for i in left] for row in teachers.draws.rows]
            found = train_students(
                teachers.draws, shown, curriculum, settings, width, batch, budget // batch, growing()  # type: ignore[arg-type]
            ).assign(curriculum=name, width=width, machine=self.asked.machine)  # fmt: skip
            self.write(suffix, found, by)
            print(f"{self.name}{suffix} {name}: {len(found)} students in {time.monotonic() - begun:.0f} s", flush=True)
            known = self.known(suffix)
        return known[known["curriculum"] == name].merge(pd.DataFrame(self.sizes, columns=["n", "k"]))

    def tuned(self, tried: dict[str, Tried], width: int, batch: int) -> None:
        """Tune every curriculum per size, then report it on the other draws, with twice the budget."""
        for name, one in tried.items():
            table = self.run(
                "_tuning", self.tuning, name, self.all_sizes(one.settings(self.asked.smoke)), width, batch, one.budget
            )
            self.report(name, best_settings(table), width, batch, 2 * one.budget)

    def climbed(self, tried: dict[str, Tried], width: int, batch: int) -> None:
        """As `tuned`, for a single size, but wherever the best setting has neighbours that were not tried, they follow.

        They get no more samples than the best median: a setting that needs more would not be better.
        """
        (size,) = self.sizes
        for name, one in tried.items():
            new, budget = one.settings(self.asked.smoke), one.budget
            for _ in range(1 if self.asked.smoke else CLIMBS):
                table = self.run("_tuning", self.tuning, name, {size: new}, width, batch, budget)
                best = best_settings(table)
                there = set(table[SETTING].itertuples(index=False, name=None))
                budget = int(min(budget, best["samples"].iloc[0]))
                new = [near for near in neighbours(Setting.of(best.iloc[0]), name) if astuple(near) not in there]
                new = [near for near in new if near.stage_steps * batch < budget]
                if not new:
                    break
            self.report(name, best, width, batch, 2 * one.budget)

    def report(self, name: str, best: pd.DataFrame, width: int, batch: int, budget: int) -> None:
        """Students of the reported draws, each with the setting that was best at its size."""
        self.write("_best", best.astype({"k": int, "n": int, "stage_steps": int}), ["curriculum", "k", "n"])
        chosen = {(int(row["n"]), int(row["k"])): [Setting.of(row)] for _, row in best.iterrows()}
        self.run("", self.reported, name, chosen, width, batch, budget)

    def all_sizes(self, settings: list[Setting]) -> Grid:
        """The same settings for each size."""
        return dict.fromkeys(self.sizes, settings)

    @property
    def tuning(self) -> tuple[int, ...]:
        """The draws that settings are chosen on."""
        return TUNING[:2] if self.asked.smoke else TUNING[: self.asked.draws // 2]

    @property
    def reported(self) -> tuple[int, ...]:
        """The draws that are reported."""
        return REPORTED[:2] if self.asked.smoke else REPORTED[: self.asked.draws]


SMOKE = Tried(20_000, (50, 100))
FASTER = rates(PLAIN[1:], HEAVY[1:])  # without the smallest rates, which would take the longest to be rejected


def sizes(asked: argparse.Namespace) -> None:
    """Notebook 08: k = 2, 3, 4 on the same n; students 64 wide, batches of 32."""
    bits = (10, 14) if asked.smoke else (16, 24, 36, 54, 81)
    long = {2: 300_000, 3: 800_000, 4: 3_000_000}  # samples for one-shot
    several = SMOKE if asked.smoke else Tried(200_000, STAGES)
    for k in (3, 2) if asked.smoke else (4, 3, 2):
        sweep = Sweep("sizes", asked, [(n, k) for n in bits], TeacherPlan(width=128 if asked.smoke else 1024))
        tried = {"extracted": replace(several, weights=(5.0, 25.0)), "progressive 0.8": several}
        tried["one_shot"] = Tried(SMOKE.budget if asked.smoke else long[k], rates=FASTER)
        sweep.tuned(tried, 64, 32)


def curricula(asked: argparse.Namespace) -> None:
    """Notebook 02: every curriculum at its best, beyond the grid if it lies at an end, beside the common settings."""
    n, k = (10, 3) if asked.smoke else (asked.bits, 4)
    plan = TeacherPlan(width=128 if asked.smoke else 1024, budget=20_000)
    sweep = Sweep("curricula", asked, [(n, k)], plan)
    single = Tried(400_000 if n <= 50 else 2_500_000, rates=rates((0.4, 0.8, 1.6), (0.04, 0.08, 0.16)))
    tried = {
        "labels": single,
        "extracted": Tried(100_000, (12, 25, 50, 100), (1.0, 5.0, 25.0), rates((0.8, 1.6), (0.08, 0.16, 0.32))),
        "progressive 0.8": Tried(300_000, (50, 100, 200, 400), rates=rates((0.8, 1.6), (0.08, 0.16))),
        "even": Tried(400_000, (25, 50, 100, 200), rates=rates((0.2, 0.4, 0.8, 1.6), (0.02, 0.04, 0.08, 0.16)))
        if n <= 50
        else Tried(1_000_000, (50, 100, 200), rates=rates((0.8, 1.6), (0.08, 0.16))),
    }
    sweep.climbed(dict.fromkeys(tried, SMOKE) if asked.smoke else tried, 64, 128)
    # 600 steps before the final teacher's output is shown, which `even` shares between its seven checkpoints.
    common = {"extracted": 600, "progressive 0.8": 600, "even": 600 // (EVENLY - 1), "one_shot": 0, "labels": 0}
    for name, steps in common.items():
        grid = sweep.all_sizes([Setting(0.2, 0.0, steps, 5.0)])
        sweep.run("_common", sweep.reported, name, grid, 64, 128, 5 * single.budget)
    sweep.climbed({"one_shot": SMOKE if asked.smoke else single}, 64, 128)  # the longest, last


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
    several = SMOKE if asked.smoke else Tried(1_500_000, (200, 400, 800, 1_600, 3_200))
    sweep.tuned({"extracted": several, "progressive 0.6": several}, 100, 128)
    both = sweep.all_sizes([Setting(0.2), Setting(0.05, 0.9)])
    sweep.run("_one_shot", sweep.reported[:8], "one_shot", both, 100, 128, 40_000 if asked.smoke else 60_000_000)


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
            grid = sweep.all_sizes(settings)
            sweep.run(f"_{units}", seeds, name, grid, units, 128, 20_000 if asked.smoke else 4_000_000)
    both = sweep.all_sizes([Setting(0.05, 0.9), Setting(0.2)])
    sweep.run("_100", seeds, "one_shot", both, 100, 128, 20_000 if asked.smoke else 20_000_000)


def main() -> None:
    """Make one of the tables."""
    verbs = {"sizes": sizes, "curricula": curricula, "ladder": ladder, "wide": wide}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", choices=list(verbs))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", default="data/results")
    parser.add_argument("--draws", type=int, default=16, help="reported draws; half as many are used for tuning")
    parser.add_argument("--bits", type=int, default=50, help="of `curricula`")
    parser.add_argument("--machine", default="CPU", help="where it runs, in words, for the tables")
    parser.add_argument("--smoke", action="store_true", help="tiny sizes, to see that it runs")
    asked, begun = parser.parse_args(), time.monotonic()
    Path(asked.out).mkdir(parents=True, exist_ok=True)
    torch.backends.cuda.matmul.allow_tf32 = False
    verbs[asked.table](asked)
    made = {"table": asked.table, "minutes": round((time.monotonic() - begun) / 60, 1), "device": asked.device}
    print(json.dumps(made))


if __name__ == "__main__":
    main()
