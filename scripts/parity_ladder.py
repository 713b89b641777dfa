"""Sparse parity up to the papers' own task, (100, 6): tables for `data/results`. See `parity_sweep` for the terms.

    python scripts/parity_ladder.py momentum --n 50 --k 5  # does a teacher need Nesterov's or classical (heavy-ball) momentum?
    python scripts/parity_ladder.py precision --n 50 --k 6 # what products in bfloat16 cost in samples
    python scripts/parity_ladder.py ladder --n 50 --k 4    # how the lead of extracted over one-shot grows with the task
    python scripts/parity_ladder.py ship --tables ladder --core-minutes 90  # copy to data/results, with what made it

Teachers are of width 1,024, trained as notebook 02's, with the fast loop; they come from the store, and what a table has
is not made again, so each command may be stopped and run again. Settings of the students were fixed before the run and
are the same for all tasks, but for the length of extracted's first stage.

Expected before the run:
- `momentum`: no difference. The time until a teacher learns varies by a factor of four between seeds, so one seed that
  does not learn within a budget says little.
- `ladder`: a ratio of about 10 at (50, 4) and at least 100 at (100, 6).
"""

import argparse
import time
from itertools import islice
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from points import ship_table

from pwl_lab.fast.two_layer import Nets, Tasks
from pwl_lab.fast.two_layer_step import TwoLayerStep, two_layers
from pwl_lab.models import build, mlp
from pwl_lab.study.parity_sweep import TEST_SAMPLES, Curriculum, Draws, Setting, growing, on_device, train_students
from pwl_lab.study.verbs import train_or_load
from pwl_lab.support import paths
from pwl_lab.tasks.base import accuracy
from pwl_lab.tasks.parity import SparseParity
from pwl_lab.training import TrainedModel, TrainPlan, predict

BATCH, TEACHER_WIDTH, STUDENT_WIDTH = 128, 1_024, 100
PLAN = TrainPlan(
    steps=400_000, lr=0.2, momentum=0.9, nesterov=False, eval_every=200, stop_at=1.0, keep_checkpoints=True,
    keep_at=(0.6, 0.8), loop="fast",
)  # fmt: skip
# Per task (n, k): how many steps extracted shows the hidden layer, and how many samples a student may see.
TASKS = {
    (50, 4): (100, 4_000_000),
    (100, 4): (100, 10_000_000),
    (100, 5): (200, 30_000_000),
    (100, 6): (800, 60_000_000),
}
LR, MOMENTUM = 0.16, 0.9  # of the students; heavy-ball
MOST_PRECISE_STEPS = 40_000  # of a teacher in `precision`


def teacher(n: int, k: int, seed: int, **change: Any) -> TrainedModel:
    """The teacher of a draw."""
    task = SparseParity(n, k, seed=seed)
    plan = PLAN.model_copy(update=change)
    return train_or_load(mlp(task, width=TEACHER_WIDTH), task, plan, seed=seed, device="cpu")


def samples_to(trained: TrainedModel, accuracy: float) -> int:
    """The samples at which a teacher first had this validation accuracy; 0: never."""
    there = trained.history[trained.history["accuracy"] >= accuracy]
    return int(there["samples"].iloc[0]) if len(there) else 0


def momentum(asked: argparse.Namespace) -> None:
    """One row per task, seed and kind of momentum: the samples to 99%."""
    path = asked.out / "parity_momentum.csv"
    rows = pd.read_csv(path).to_dict("records") if path.exists() else []
    for seed in asked.seeds:
        for nesterov in (False, True):
            row = {"n": asked.n, "k": asked.k, "seed": seed, "nesterov": nesterov}
            if any(row.items() <= one.items() for one in rows):
                continue
            begun = time.process_time()
            found = teacher(**{name: row[name] for name in ("n", "k", "seed", "nesterov")})
            there = samples_to(found, 0.99)
            rows.append(row | {"samples": there or PLAN.steps * BATCH, "reached": there > 0})
            print(rows[-1], f"{time.process_time() - begun:.0f} s", flush=True)
            pd.DataFrame(rows).to_csv(path, index=False)


def precision(asked: argparse.Namespace) -> None:
    """One row per task, seed and type of the fast loop's products: the samples to 99% of a teacher, on validation.

    Where the processor has no products in bfloat16 they are slow, but as precise: take a small network there.
    """
    path = asked.out / "parity_precision.csv"
    rows = pd.read_csv(path).to_dict("records") if path.exists() else []
    for seed in asked.seeds:
        task = SparseParity(asked.n, asked.k, seed=seed)
        test = task.split("validation")
        for products in (torch.float32, torch.bfloat16):
            name = str(products).removeprefix("torch.")
            row = {"n": asked.n, "k": asked.k, "width": asked.width, "seed": seed, "products": name}
            if any(row.items() <= one.items() for one in rows):
                continue
            net = build(mlp(task, width=asked.width), seed)
            layers, batches = two_layers(net), task.batches(seed, BATCH)
            assert layers is not None
            step = TwoLayerStep(*layers, torch.optim.SGD(net.parameters(), PLAN.lr, PLAN.momentum), products)
            done, right = 0, 0.0
            while right < 0.99 and done < MOST_PRECISE_STEPS:
                for batch in islice(batches, 25):
                    step(batch.inputs, batch.labels)
                done, right = done + 25, accuracy(predict(net, test.inputs), test.labels)
            rows.append(row | {"samples": done * BATCH, "reached": right >= 0.99})
            print(rows[-1], flush=True)
            pd.DataFrame(rows).to_csv(path, index=False)


def as_nets(trained: list[TrainedModel]) -> Nets:
    """Teachers as the networks of a sweep, one in each group."""
    states = [one.model.state_dict() for one in trained]
    weight, bias = (torch.stack([state[f"blocks.0.0.{name}"] for state in states]) for name in ("weight", "bias"))
    out, shift = (torch.stack([state[f"head.{name}"] for state in states]) for name in ("weight", "bias"))
    return Nets(weight[:, None], bias[:, None], (out[:, 1] - out[:, 0])[:, None], (shift[:, 1] - shift[:, 0])[:, None])


def draws_of(n: int, k: int, seeds: list[int]) -> Draws:
    """The draws of one task with the supports of their teachers."""
    rows = tuple({"n": n, "k": k, "seed": seed} for seed in seeds)
    tasks = Tasks.of([n] * len(seeds), [SparseParity(n, k, seed=seed).support for seed in seeds])
    return Draws(rows, tasks, tasks.draw(TEST_SAMPLES, on_device(seeds[0], "evaluation", "cpu")), "cpu")


def ladder(asked: argparse.Namespace) -> None:
    """One row per draw and curriculum: the samples to 99%, and those of its teacher."""
    path = asked.out / "parity_ladder.csv"
    table = pd.read_csv(path) if path.exists() else pd.DataFrame(columns=["n", "k", "curriculum", "seed"])
    stage, budget = TASKS[asked.n, asked.k]
    for curriculum in asked.curricula:
        here = table[(table["n"] == asked.n) & (table["k"] == asked.k) & (table["curriculum"] == curriculum)]
        seeds = [seed for seed in asked.seeds if seed not in set(here["seed"])]
        for some in [[seed] for seed in seeds] if asked.one_by_one else [seeds] * bool(seeds):
            begun, trained = time.process_time(), [teacher(asked.n, asked.k, seed) for seed in some]
            setting = Setting(LR, MOMENTUM, stage if curriculum == "extracted" else 0)
            found = train_students(
                draws_of(asked.n, asked.k, some), as_nets(trained), curriculum, [[setting]], STUDENT_WIDTH, BATCH,
                budget // BATCH, growing(), nesterov=False,
            )  # fmt: skip
            found["teacher_samples"] = [samples_to(one, 0.99) for one in trained]
            found["teacher_wrong"] = [1 - one.test_accuracy for one in trained]
            table = pd.concat([one for one in (table, found.drop(columns="seconds")) if len(one)], ignore_index=True)
            table.to_csv(path, index=False)
            print(
                found[["n", "k", "curriculum", "seed", "samples", "reached", "teacher_samples"]].to_string(), flush=True
            )
            print(f"{time.process_time() - begun:.0f} s", flush=True)


def ship(asked: argparse.Namespace) -> None:
    """The tables asked for, sorted, with what made them."""
    for name, minutes in zip(asked.tables, asked.core_minutes, strict=True):
        by = [*("k", "n"), *(["curriculum"] if name == "ladder" else []), "seed"]
        table = pd.read_csv(asked.out / f"parity_{name}.csv").sort_values(by, kind="stable")
        command, seeds = f"python scripts/parity_ladder.py {name}", sorted({int(seed) for seed in table["seed"]})
        ship_table(f"parity_{name}", table, command=command, seeds=seeds, core_minutes=minutes)


def main() -> None:
    """Make or ship the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["momentum", "precision", "ladder", "ship"])
    parser.add_argument("--n", type=int, default=100)
    parser.add_argument("--k", type=int, default=6)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(8)))
    parser.add_argument("--curricula", nargs="+", default=["extracted", "one_shot"], choices=[*Curriculum.__args__])
    parser.add_argument("--one-by-one", action="store_true", help="a row as soon as a student is done")
    parser.add_argument("--width", type=int, default=TEACHER_WIDTH, help="of the teachers of `precision`")
    parser.add_argument("--tables", nargs="+", choices=["momentum", "precision", "ladder"], help="for `ship`")
    parser.add_argument("--core-minutes", type=float, nargs="+", help="for `ship`, of each table")
    parser.add_argument("--out", type=Path, default=paths.runs() / "parity")
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    {"momentum": momentum, "precision": precision, "ladder": ladder, "ship": ship}[asked.what](asked)


if __name__ == "__main__":
    main()
