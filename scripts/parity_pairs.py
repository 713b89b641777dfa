"""Are PWL's extra losses curricula in the sense of sample complexity? A table for notebook 08.

    python scripts/parity_pairs.py all --processes 2       # teachers, tune, measure; --help has sizes, draws, arms
    python scripts/parity_pairs.py slopes                  # what is there so far
    python scripts/parity_pairs.py ship                    # into data/results/

An arm is a point: finished ones are lines in `--out` (runs/parity_pairs), and a second call goes on with what is missing.
Design. Sparse parity, k = 4. MLPs of two hidden layers (two blocks, one boundary, mixed masks TS and ST): the teacher 256
wide, trained until it makes no error in 4,096 samples, then 500 steps of a falling learning rate, and frozen; the student
64 wide; a linear encoder and decoder at the boundary. SGD, batch 32, momentum 0.9, gradients of student and converters
clipped together at norm 2, as PWL trains. Every arm has the teacher's hard decisions on the student's output and one
extra term, from the first step to the last ("beside") or in a stage of its own before the output ("first"). The decisions
are those of a teacher that makes no error, so they are computed as the labels; `teachers_*.jsonl` has its errors in 65,536
samples. The endpoint is the number of samples until the *student alone* reaches 99% of 4,096 test samples. The unit of
resampling is a draw of (support, teacher, student, stream). Learning rate, weight and first stage are chosen per arm on
draws 100 to 107 at n = 30 and 60; draws 0 to 15 are reported. Controls are not tuned, they have the setting of their original.

The question is the exponent: a term that only helps to optimise gains a factor, a curriculum lowers the power of n.

Expected, before the first run:
- one-shot and recon: the same exponent. Recon shows the student nothing of the teacher: only its own state is converted
  there and back.
- extracted: the lowest exponent; its first stage hands over the support.
- sync: a curriculum too, although its targets move. The teacher's state must be decodable from the student's 64 units, so
  these have to carry the directions in which the teacher's state varies most, which are the support's. A lower exponent
  than one-shot's, nearer to extracted's.
- cross with hard decisions: the labels travel through the teacher's frozen second block, so gradients can leak hidden
  structure (mask ST); mask TS trains only the student's second block, on states that solve the task already. Expected: TS
  alone about one-shot's exponent, ST alone somewhat lower, both between one-shot and sync.
- the same losses with the teacher's *untrained* network (its decisions still those of the trained one): one-shot's
  exponent. If one of them gains as much as with the trained teacher, the gain is not the teacher's hidden structure.

Expected, before the run of cross, which came last: one-shot's exponent after all, with and without a trained teacher.
The student's first block, which has to find the support, takes part in mask ST only, and there no state of the teacher
meets its inputs: until something of the support is found, its gradient depends on the support through the label alone,
as one-shot's does. (Sync compares its state with the teacher's on the same input.) Cross may save a factor, or a part
that does not depend on n, since mask TS hands the second block over ready-made. An exponent below one-shot's by more
than 0.5 would refute the argument. With an untrained teacher: no faster than one-shot at any n.
"""

import argparse
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from points import append, read, ship_table, work_off
from safetensors.torch import load_file, save_file
from stacked_pairs import BATCH, EVERY, Arm, Draws, K, Pairs, Setting, errors, train_teachers
from torch import Tensor

from pwl_lab.study.arms import exponents_table

TUNING = tuple(range(100, 108))
TEACHER_BUDGET, SETTLE = 20_000, 500
RATES, WEIGHTS, STAGES = (0.02, 0.04, 0.08, 0.16), (0.3, 1.0, 3.0), (100, 300, 1_000)
ARMS = {  # the most valuable first
    "one_shot": Arm("none"),
    "extracted": Arm("hidden", first=True),
    "sync": Arm("sync"),
    "cross": Arm("cross"),
    "cross_untrained": Arm("cross", untrained=True, like="cross"),
    "sync_untrained": Arm("sync", untrained=True, like="sync"),
    "recon": Arm("recon", like="one_shot"),
    "cross_st": Arm("cross_st", like="cross"),
    "cross_ts": Arm("cross_ts", like="cross"),
    "pwl": Arm("pwl"),
    "hidden": Arm("hidden"),
    "sync_first": Arm("sync", first=True),
    "extracted_untrained": Arm("hidden", first=True, untrained=True, like="extracted"),
}


def grid(arm: Arm, smoke: bool) -> list[Setting]:
    """All settings that are tried for an arm."""
    rates, stages = (RATES[1:3], STAGES[:2]) if smoke else (RATES, STAGES)
    if arm.term == "none":
        return [Setting(lr) for lr in rates]
    if arm.first:
        return [Setting(lr, weight, stage) for lr, weight, stage in product(rates, (1.0, 5.0), stages)]
    return [Setting(lr, weight) for lr, weight in product(rates, WEIGHTS[1:2] if smoke else WEIGHTS)]


def _teacher_path(out: Path, part: str) -> Path:
    return out / f"teachers_{part}.safetensors"


def _draws(part: str, asked: argparse.Namespace) -> Draws:
    if asked.smoke:
        return Draws((12, 16), TUNING[:2] if part == "tune" else (0, 1), asked.device)
    if part == "tune":
        return Draws(asked.tuned_at, TUNING, asked.device, "validation")
    return Draws(asked.sizes, range(asked.draws), asked.device)


def make_teachers(part: str, asked: argparse.Namespace) -> None:
    """The teachers of the tuning draws or of the reported ones, unless they are there."""
    if _teacher_path(asked.out, part).exists():
        return
    begun, draws = time.monotonic(), _draws(part, asked)
    budget, settle = (2_000, 100) if asked.smoke else (TEACHER_BUDGET, SETTLE)
    net, arrived = train_teachers(draws, budget, settle)
    wrong = errors(net, draws).tolist()
    save_file({name: one.half().contiguous().cpu() for name, one in net.items()}, _teacher_path(asked.out, part))
    found = zip(draws.members, wrong, arrived.tolist(), strict=True)
    append(
        asked.out / f"teachers_{part}.jsonl",
        [{"n": n, "draw": draw, "wrong": share, "arrived": at} for (n, draw), share, at in found],
    )
    minutes = (time.monotonic() - begun) / 60
    print(f"teachers {part}: most wrong {max(wrong):.6f}, last at {arrived.max()}, {minutes:.1f} minutes", flush=True)


def chosen(tuning: Sequence[Mapping[str, Any]], name: str) -> dict[int, Setting]:
    """Per size, the setting with the lowest geometric mean of steps over the tuning draws.

    Sizes that were not tuned lie between, or beyond, the nearest two: values go with a power of n.
    """
    found: dict[int, dict[Setting, list[float]]] = {}
    for row in tuning:
        if row["arm"] == name:
            setting = Setting(row["lr"], row["weight"], row["stage"])
            # Not reached counts as twice the steps that were run.
            found.setdefault(row["n"], {}).setdefault(setting, []).append(row["steps"] or 2 * row["ran"])
    return {n: min(tried, key=lambda one: (_log_mean(tried[one]), one.lr)) for n, tried in found.items()}


def _log_mean(values: Sequence[float]) -> float:
    return sum(map(math.log, values)) / len(values)


def between(tuned: Mapping[int, Setting], n: int) -> Setting:
    """The setting for n bits; each of its values is a power of n through the two tuned sizes."""
    low, high = min(tuned), max(tuned)
    if low == high or tuned[low] == tuned[high]:
        return tuned[low]
    share = min(1.0, max(0.0, math.log(n / low) / math.log(high / low)))  # below the smallest tuned size: as there

    def value(a: float, b: float) -> float:
        return math.exp((1 - share) * math.log(a) + share * math.log(b)) if a and b else a

    one, other = tuned[low], tuned[high]
    stage = round(value(one.stage, other.stage) / EVERY) * EVERY
    return Setting(value(one.lr, other.lr), value(one.weight, other.weight), stage)


def _settings(name: str, part: str, draws: Draws, asked: argparse.Namespace) -> list[list[Setting]]:
    if part == "tune":
        return [[one] * len(draws) for one in grid(ARMS[name], asked.smoke)]
    tuned = chosen(read(asked.out / "tune.jsonl"), ARMS[name].like or name)
    found = [between(tuned, n) for n, _ in draws.members]
    return [[one if ARMS[name].term == "none" else replace(one, weight=one.weight or 1.0) for one in found]]


def run_point(asked: argparse.Namespace, point: tuple[str, str]) -> None:
    """One arm, tuned or measured: a line for every network."""
    (part, name), begun = point, time.monotonic()
    torch.set_float32_matmul_precision("high")
    draws = _draws(part, asked)
    teacher = {key: one.float().to(asked.device) for key, one in load_file(_teacher_path(asked.out, part)).items()}
    settings = _settings(name, part, draws, asked)
    pairs = Pairs(ARMS[name], draws, teacher, settings)

    per_size = len({draw for _, draw in draws.members})

    def given_up(reached: Tensor, step: int) -> Tensor:
        """All when the time is over; in tuning, a size at which some setting took all draws two thirds of this or less."""
        if part == "measure" or time.time() > asked.until:
            return torch.full_like(reached, time.time() > asked.until, dtype=torch.bool)
        by_size = reached.view(len(settings), -1, per_size)
        worst = torch.where(by_size > 0, by_size, 2 * step).amax(dim=2)  # (settings, sizes)
        decided = worst.amin(dim=0) <= step / 1.5
        return decided.repeat_interleave(per_size).repeat(len(settings))

    reached, ran = pairs.run(400 if asked.smoke else asked.budget_steps, given_up)
    cut, seconds = time.time() > asked.until and bool((reached == 0).any()), time.monotonic() - begun
    rows = [
        {"arm": name, "n": n, "draw": draw, **asdict(setting), "steps": at or None, "ran": steps}
        | {"seconds": round(seconds)}
        for (n, draw), setting, at, steps in zip(
            draws.members * len(settings), pairs.settings, reached.tolist(), ran.tolist(), strict=True
        )
    ]
    append(asked.out / f"{part}{'_cut' if cut else ''}.jsonl", rows)
    done, per_second = int((reached > 0).sum()), int(ran.sum()) / seconds
    said = f"{done} of {len(rows)} there, {pairs.done} steps, {seconds:.0f} s, {per_second:.0f} network-steps/s"
    print(f"{part} {name}: {said}{', cut' if cut else ''}", flush=True)


def run_points(part: str, asked: argparse.Namespace) -> None:
    """All arms of a part that are not finished, by several processes."""
    have, tuned = ({row["arm"] for row in read(asked.out / f"{name}.jsonl")} for name in (part, "tune"))
    names = [name for name in (asked.arms.split(",") if asked.arms else ARMS) if name not in have]
    wanted = [name for name in names if (not ARMS[name].like if part == "tune" else (ARMS[name].like or name) in tuned)]
    work_off(partial(run_point, asked), [(part, name) for name in wanted], asked.processes, asked.until)


def students(out: Path) -> pd.DataFrame:
    """A row per measured student, cut arms included, in the columns of `pwl_lab.study.exponents`."""
    measured = pd.DataFrame([*read(out / "measure.jsonl"), *read(out / "measure_cut.jsonl")])
    measured = measured.drop_duplicates(["arm", "n", "draw"])  # what was cut and is finished now
    samples = BATCH * measured["steps"].astype(float).fillna(measured["ran"]).astype("int64")
    found = measured.rename(columns={"arm": "curriculum", "draw": "seed"})[["curriculum", "n", "seed"]]
    found = found.assign(k=K, samples=samples, reached=measured["steps"].notna())
    return found.join(measured[["lr", "weight", "stage"]].round(5))


def ship(out: Path) -> None:
    """The measured students as `data/results/parity_pairs.csv` with how they were made."""
    table = students(out)
    tuning, teachers = (pd.DataFrame(read(out / f"{name}.jsonl")) for name in ("tune", "teachers_measure"))
    measured = pd.DataFrame([*read(out / "measure.jsonl"), *read(out / "measure_cut.jsonl")])
    trained = pd.concat([tuning, measured]).drop_duplicates(["arm", "seconds"])
    chosen_at = {arm: {str(n): asdict(one) for n, one in chosen(read(out / "tune.jsonl"), arm).items()} for arm in ARMS}
    ship_table(
        "parity_pairs",
        table,
        command="python scripts/parity_pairs.py all, then ship",
        draws={"reported": sorted(set(table["seed"].tolist())), "tuning": list(TUNING)},
        chosen={arm: found for arm, found in chosen_at.items() if found},
        batch_size=BATCH,
        teachers={
            "wrong in 65,536 samples, at most": teachers["wrong"].max(),
            "steps": teachers["arrived"].tolist(),
        },
        minutes=round(trained["seconds"].sum() / 60, 1),  # of the pairs, by the clock of a shared machine
    )


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(",")))


def main() -> None:
    """Make one part of the table, or all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["teachers", "tune", "measure", "all", "slopes", "ship"])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--budget-seconds", type=float, default=float("inf"))
    parser.add_argument("--out", type=Path, default=Path("runs/parity_pairs"))
    parser.add_argument("--sizes", type=_numbers, default=(20, 30, 40, 50, 60), help="n of the reported draws")
    parser.add_argument("--tuned-at", type=_numbers, default=(30, 60), help="n of the tuning draws: one or two")
    parser.add_argument("--draws", type=int, default=16, help="reported draws per size")
    parser.add_argument("--budget-steps", type=int, default=30_000, help="of a pair")
    parser.add_argument("--arms", default="", help="some of the arms, separated by commas")
    parser.add_argument("--smoke", action="store_true", help="two small sizes, two draws, few steps")
    asked = parser.parse_args()
    if asked.part == "slopes":
        print(exponents_table(students(asked.out)).to_string())
        return
    if asked.part == "ship":
        ship(asked.out)
        return
    asked.until = time.time() + asked.budget_seconds
    asked.out.mkdir(parents=True, exist_ok=True)
    torch.set_float32_matmul_precision("high")
    if asked.part in ("teachers", "all"):
        for part in ("tune", "measure"):
            make_teachers(part, asked)
    for part in ("tune", "measure"):
        if asked.part in (part, "all"):
            run_points(part, asked)


if __name__ == "__main__":
    main()
