"""Shallower or narrower students, identity or learned converters, at equal bytes: accuracy while the teacher's blocks arrive.

The papers' students are shallower than their teachers (as wide, one layer a block), so the states of both have the same
channels and no converter is needed. The students of notebook 04 are narrower (as deep), and need learned converters.
Which is better at the same bytes? Four kinds of students ("arms") for the same teacher of three layers a block:

- `shallower, identity`: the teacher's channels, one layer a block, no converters. Its bytes are the budget of the others.
- `shallower, learned`: one layer a block, channels a little below the teacher's, so that student *and* learned
  converters together have these bytes.
- `narrower, learned`: three layers a block, channels so small that student and converters together have these bytes.
- `shallower, extra converters`: the student of the first arm with learned converters on top, which cost bytes that the
  others do not have: with it, the first arm shows what the converters alone do.

A budget as small as that of notebook 04 (46 to 70 times below the teacher) is out of reach of a student as wide as its
teacher: at equal width the smallest has one layer a block, here 26% (vgg), 31% (resnet) and 38% (vit) of the teacher.

What we expected, before the first run:

1. The *student alone* is better shallower than narrower for vgg and resnet: a wide shallow network trains faster in few
   steps. For vit about equal.
2. While blocks arrive (the mean over the prefix masks between student and teacher), learned converters beat the identity
   at equal bytes by 0.2 to 1 points for vgg and resnet: the identity forces the student's states to be the teacher's.
   The ablation of notebook 04, where learned converters were *worse* at equal channels (by 0.6 points over all masks),
   speaks against it; so does the dip of the public code, which uses the identity, at TSSS.
3. Over all masks, narrower is no worse than shallower, learned, by more than a point, and the worst mask is the better
   with learned converters.

The learning rate of each arm is chosen on other seeds (100 and up), by the validation accuracy over the prefix masks;
the fourth has that of the first, to which it adds only converters. Reported are seeds 0 to 7 on all 10,000 test images.
Before a tuning all arms have the rate of notebook 04; what is measured at it and confirmed is not measured again.

    python scripts/student_axis.py tune    --out DIR [--device cpu] [--processes 2] [--budget-seconds 600]
    python scripts/student_axis.py measure --out DIR [the same]        reads DIR/tuning.jsonl, if it is there
    python scripts/student_axis.py tables  --out DIR                   writes data/results/student_axis*.csv

`--families`, `--rates` and `--seeds` take a part; what is left can follow later into the same folder. Every finished
student is a line of DIR/tuning.jsonl or DIR/measured.jsonl at once; what is there is not done again. All students of a
seed see the same batches, so one process trains them one after the other, and the teacher runs once for all of them.
`--images` is the folder of the four files of Fashion-MNIST, if they are not where `pwl-lab data fetch` finds them.
"""

import argparse
import json
import time
from collections.abc import Iterable
from functools import partial
from itertools import count, product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from points import Point, append, hits, packed, read, ship_table, test_images, unpacked, work_off
from safetensors.torch import load_file, save_file

from pwl_lab.distill.targets import Activations
from pwl_lab.models import ModelConfig, resnet, vgg, vit
from pwl_lab.models.blocknet import build, parameter_bytes
from pwl_lab.support.seeding import initialisation
from pwl_lab.swap.masks import all_masks
from pwl_lab.swap.orders import loading_orders
from pwl_lab.swap.pair_training import PairLearner, PairLossConfig
from pwl_lab.swap.swapnet import SwapNet
from pwl_lab.tasks.augment import Augmentation
from pwl_lab.tasks.base import batches_of, split_of
from pwl_lab.tasks.images import ImageTask
from pwl_lab.training import fit, image_plan, train

FAMILIES = ("vgg", "resnet", "vit")
BLOCKS, LAYERS = 4, 3  # of the teacher
CHANNELS = {"vgg": (16, 32, 64, 64), "resnet": (16, 32, 64, 64), "vit": (64, 64, 64, 64)}
BASE = "shallower, identity"  # its bytes are the budget
# arm -> (layers of each block, converters, channels and heads in each family)
ARMS: dict[str, tuple[int, str, dict[str, tuple[tuple[int, ...], int]]]] = {
    BASE: (1, "if_different", {family: (channels, 4) for family, channels in CHANNELS.items()}),
    "shallower, learned": (
        1,
        "always",
        {"vgg": ((15, 29, 59, 59), 4), "resnet": ((16, 31, 62, 62), 4), "vit": ((60,) * 4, 4)},
    ),
    "narrower, learned": (
        LAYERS,
        "always",
        {"vgg": ((8, 16, 31, 31), 4), "resnet": ((9, 17, 35, 35), 4), "vit": ((38,) * 4, 2)},
    ),
    "shallower, extra converters": (1, "always", {family: (channels, 4) for family, channels in CHANNELS.items()}),
}
LIKE = {"shallower, extra converters": BASE}  # a control is not tuned: it has the learning rate of this arm
LOSSES = {"vgg": (0.25, 4.0), "resnet": (0.25, 6.0), "vit": (0.1, 2.0)}  # sync and cross as in `lesson`
RATES, DEFAULT_RATE = (0.05, 0.1, 0.2), 0.1
TUNING_SEEDS, SEEDS = (100, 101), tuple(range(8))
EPOCHS = 6  # of teacher and pair, as in `lesson` (there the teacher of vgg has 5, vit 8)


def image_task(smoke: bool) -> ImageTask:
    """The bundled images, mirrored at random but not moved, as in notebook 04; `smoke` takes a tenth of them."""
    return ImageTask(n_train=1_024 if smoke else None, augment=Augmentation(crop_padding=0, rotation_degrees=0.0))


def network(family: str, task: ImageTask, channels: tuple[int, ...], layers: int, heads: int = 4) -> ModelConfig:
    """A network of four blocks, with the stems of notebook 04."""
    depths = (layers,) * BLOCKS
    if family == "vgg":
        return vgg(task, channels, depths)
    if family == "resnet":
        return resnet(task, channels, depths, stem_stride=2)
    return vit(task, channels[0], heads, depths, patch=8)


def models(family: str, arm: str, task: ImageTask) -> tuple[ModelConfig, ModelConfig]:
    """The configurations of teacher and student."""
    layers, _, sizes = ARMS[arm]
    channels, heads = sizes[family]
    return network(family, task, CHANNELS[family], LAYERS), network(family, task, channels, layers, heads)


def make_pair(family: str, arm: str, task: ImageTask, seed: int, device: str) -> SwapNet:
    """Teacher (untrained), student and converters, with the initial weights of `seed`."""
    teacher, student = models(family, arm, task)
    ours = build(student, seed, device, stream="student")
    with initialisation(seed, "converters"):
        return SwapNet(build(teacher, seed, device), ours, task.input_shape, ARMS[arm][1]).to(device)


def sizes(family: str, arm: str) -> dict[str, int]:
    """Bytes of teacher, student and converters."""
    net = make_pair(family, arm, image_task(smoke=False), 0, "cpu")
    parts = {"teacher": net.teacher, "student": net.student, "converter": net.converters}
    return {f"{name}_bytes": parameter_bytes(part) for name, part in parts.items()}


def train_teacher(folder: Path, device: str, smoke: bool, epochs: int, seen: tuple[str, int]) -> Path:
    """The teacher of a family and seed, in a file; made if it is not there."""
    family, seed = seen
    path = folder / "teachers" / f"{family}-{seed}.safetensors"
    if not path.is_file():
        task = image_task(smoke)
        epoch = task.steps_per_epoch(128)
        plan = image_plan(epochs * epoch, DEFAULT_RATE, eval_every=epoch)
        trained = fit(models(family, BASE, task)[0], task, plan, seed, device)
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_suffix(".part")
        save_file({name: tensor.cpu().contiguous() for name, tensor in trained.model.state_dict().items()}, aside)
        aside.replace(path)
    return path


class SharedTeacher:
    """The states and logits of a teacher for each step of a training, computed once for all students of a seed."""

    def __init__(self) -> None:
        """Nothing is known yet."""
        self.kept: list[tuple[torch.Tensor, Activations]] = []

    def serve(self, learner: PairLearner) -> None:
        """Let `learner` take what its teacher says from here. Raises ValueError at a step with other images."""
        compute, steps = learner.passes.teacher.hidden_states, count()

        def hidden_states(inputs: torch.Tensor) -> Activations:
            step = next(steps)
            if step == len(self.kept):
                self.kept.append((inputs, Activations(*compute(inputs))))
            seen, found = self.kept[step]
            if not torch.equal(seen, inputs):
                raise ValueError(f"step {step} of this student has other images than that of the first")
            return found

        learner.passes.teacher.hidden_states = hidden_states  # type: ignore[method-assign, assignment]


def train_student(
    point: Point, shared: SharedTeacher, folder: Path, device: str, smoke: bool, epochs: int
) -> tuple[SwapNet, float]:
    """The pair of a point and the optimiser steps per second of its training."""
    family, seed, task = point["family"], point["seed"], image_task(smoke)
    net = make_pair(family, point["arm"], task, seed, device)
    net.teacher.load_state_dict(load_file(train_teacher(folder, device, smoke, epochs, (family, seed)), device=device))
    epoch = task.steps_per_epoch(128)
    plan = image_plan(epochs * epoch, point["lr"], eval_every=epochs * epoch)
    sync, cross = LOSSES[family]
    losses = PairLossConfig(sync=sync, cross=cross, masks="alternating", converters=ARMS[point["arm"]][1])
    learner = PairLearner(net, losses, split_of(task, "validation", device), seed, plan.steps)
    shared.serve(learner)
    begun = time.monotonic()
    train(learner, batches_of(task, seed, plan.batch_size, device, role="pair"), plan, f"{family} {point['arm']}")
    return net.eval(), plan.steps / (time.monotonic() - begun)


def curve(right: np.ndarray) -> dict[str, float]:
    """What a pair is judged by: student, the mean over the prefix masks between student and teacher, all masks, the worst."""
    accuracy = dict(zip(all_masks(BLOCKS), right.mean(axis=1), strict=True))
    prefix = loading_orders(BLOCKS)["prefix"]
    mixed = [value for mask, value in accuracy.items() if len(set(mask)) == 2]
    return {
        "student": accuracy[prefix[0]],
        "prefix": float(np.mean([accuracy[mask] for mask in prefix[1:-1]])),
        "mixed": float(np.mean(mixed)),
        "worst": min(mixed),
        "teacher": accuracy[prefix[-1]],
    }


def evaluate_points(
    folder: Path, device: str, smoke: bool, epochs: int, images: str | None, deadline: float, points: list[Point]
) -> None:
    """Train the pairs of one family and seed, as far as time goes, and append what was found to their files."""
    shared, task = SharedTeacher(), image_task(smoke)
    for point in points:
        if time.time() > deadline:
            return
        begun = time.process_time()
        net, speed = train_student(point, shared, folder, device, smoke, epochs)
        tuning = point["table"] == "tuning"
        bundled = split_of(task, "validation" if tuning else "test", device)  # with `smoke` the tests are of these
        right = hits(net, bundled if tuning or smoke else test_images(task, images, device))
        line = point | curve(right) | {"steps_per_second": round(speed, 2)}
        line |= {"seconds": round(time.process_time() - begun, 1)}  # of a core
        append(folder / f"{point['table']}.jsonl", [line | ({} if tuning else packed(right))])


def chosen_rates(lines: Iterable[Point]) -> dict[tuple[str, str], float]:
    """The learning rate of each (family, arm): the best mean over the tuning seeds of student and prefix masks.

    The default where nothing was tuned; a control has the rate of the arm that it is like.
    """
    scores: dict[tuple[str, str], dict[float, list[float]]] = {}
    for one in lines:
        by_rate = scores.setdefault((one["family"], one["arm"]), {})
        by_rate.setdefault(one["lr"], []).append((one["student"] + 3 * one["prefix"]) / 4)
    best = {key: max(by_rate, key=lambda lr: np.mean(by_rate[lr])) for key, by_rate in scores.items()}
    every = product(FAMILIES, ARMS)
    return {(family, arm): best.get((family, LIKE.get(arm, arm)), DEFAULT_RATE) for family, arm in every}


def points_of(verb: str, folder: Path, asked: argparse.Namespace) -> list[Point]:
    """What is to be done and is not done yet, the most valuable first: whole seeds, one after the other."""
    table = "tuning" if verb == "tune" else "measured"
    rates = chosen_rates(read(folder / "tuning.jsonl"))
    arms = [(family, arm) for family in asked.families for arm in ARMS]
    if verb == "tune":
        tuned = [(family, arm) for family, arm in arms if arm not in LIKE]
        wanted = [(*one, seed, lr) for seed in TUNING_SEEDS for lr in asked.rates for one in tuned]
    else:
        wanted = [(*one, seed, rates[one]) for seed in range(asked.seeds) for one in arms]
    wanted = [one for one in wanted if not asked.smoke or (one[2] in (0, 1, 100) and one[3] == DEFAULT_RATE)]
    done = {(one["family"], one["arm"], one["seed"], one["lr"]) for one in read(folder / f"{table}.jsonl")}
    names = ("family", "arm", "seed", "lr")
    return [{"table": table} | dict(zip(names, one, strict=True)) for one in wanted if one not in done]


def right_by_arm(lines: Iterable[Point]) -> dict[tuple[str, str], pd.DataFrame]:
    """For each (family, arm): rows (mask, seed), a column per image, whether the mask predicts its label."""
    found: dict[tuple[str, str], dict[int, pd.DataFrame]] = {}
    for one in lines:
        frame = pd.DataFrame(unpacked(one), index=all_masks(BLOCKS))
        found.setdefault((one["family"], one["arm"]), {})[one["seed"]] = frame
    return {key: pd.concat(seeds, names=["seed", "mask"]).swaplevel() for key, seeds in found.items()}


def measures(right: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """For each mask, and for the means over prefix and mixed masks: a row per seed, a column per image."""
    by_mask = {mask: right.loc[mask].astype(float) for mask in all_masks(BLOCKS)}
    groups = {"prefix": loading_orders(BLOCKS)["prefix"][1:-1], "mixed": [m for m in by_mask if len(set(m)) == 2]}
    means = {name: sum(by_mask[mask] for mask in group) / len(group) for name, group in groups.items()}
    accuracy = pd.DataFrame({mask: by_mask[mask].mean(axis=1) for mask in groups["mixed"]})
    lowest = [by_mask[mask].loc[[seed]] for seed, mask in accuracy.idxmin(axis=1).items()]  # of each seed its own
    return by_mask | means | {"worst": pd.concat(lowest)}


def interval_rows(by_arm: dict[tuple[str, str], pd.DataFrame]) -> list[dict[str, Any]]:
    """Every measure of every arm, and its difference from every other arm on the same seeds, with crossed intervals.

    In points, over seeds and images.
    """
    from pwl_lab.study.intervals import crossed_interval  # not needed where students are trained

    rows = []
    for family in FAMILIES:
        found = {arm: measures(by_arm[family, arm]) for arm in ARMS if (family, arm) in by_arm}
        for arm, against in product(found, ["", *found]):
            for measure, mine in found[arm].items() if arm != against else ():
                both = mine - found[against][measure] if against else mine
                low, mean, high = (round(100 * end, 4) for end in crossed_interval(both))
                row = {"family": family, "arm": arm, "against": against, "measure": measure}
                rows.append(row | {"low": low, "mean": mean, "high": high, "seeds": len(both)})
    return rows


def accuracy_rows(lines: Iterable[Point]) -> Iterable[dict[str, Any]]:
    """A row per pair and mask: its bytes and its test accuracy."""
    order = sorted(lines, key=lambda one: (FAMILIES.index(one["family"]), one["seed"], list(ARMS).index(one["arm"])))
    for one in order:
        size = sizes(one["family"], one["arm"])
        for mask, mine in right_by_arm([one])[one["family"], one["arm"]].groupby(level="mask", sort=False):
            base = {name: one[name] for name in ("family", "arm", "seed", "lr")}
            yield base | size | {"mask": mask, "accuracy": round(float(mine.to_numpy().mean()), 5)}


def write_tables(folder: Path) -> None:
    """`data/results/student_axis*.csv`, each with a JSON file that says how it was made."""
    tuning, lines = (read(folder / f"{name}.jsonl") for name in ("tuning", "measured"))
    rates = chosen_rates(tuning)
    lines = [
        one for one in lines if one["lr"] == rates[one["family"], one["arm"]]
    ]  # some were measured before the tuning
    complete = complete_seeds(lines)
    whole = [one for one in lines if one["seed"] in complete.get(one["family"], ())]
    names = ["family", "arm", "lr", "seed", "student", "prefix", "mixed", "worst"]
    tables = {
        "student_axis": pd.DataFrame(accuracy_rows(whole)),
        "student_axis_intervals": pd.DataFrame(interval_rows(right_by_arm(whole))),
    }
    if tuning:
        tables["student_axis_tuning"] = pd.DataFrame(tuning)[names].sort_values(names[:4]).round(5)
    facts = {
        "command": "python scripts/student_axis.py tune, then measure, then tables",
        "preset": "lesson, but for the networks: see the script",
        "teacher": f"{LAYERS} layers a block, {CHANNELS}; {EPOCHS} epochs of the bundled 10,000 images",
        "seeds": complete,
        "tuning": {"seeds": sorted({one["seed"] for one in tuning}), "split": "validation"},  # no seeds: not tuned
        "split": f"test, {whole[0]['images']:,} images",
        "core_minutes": round(sum(one["seconds"] for one in [*tuning, *whole]) / 60, 1),  # without the teachers
    }
    made = [ship_table(name, table, **facts) for name, table in tables.items()]
    print(json.dumps(made[0], indent=1))


def complete_seeds(lines: Iterable[Point]) -> dict[str, list[int]]:
    """For each family the seeds of which every arm is there: only these are compared."""
    counts = pd.Series([(one["family"], one["seed"]) for one in lines], dtype=object).value_counts()
    there = [key for key in counts.index if counts[key] == len(ARMS)]
    return {name: sorted(seed for family, seed in there if family == name) for name in {family for family, _ in there}}


def work_all(verb: str, asked: argparse.Namespace) -> None:
    """Teachers first, then the points."""
    deadline, folder = time.time() + asked.budget_seconds, Path(asked.out)
    folder.mkdir(parents=True, exist_ok=True)
    points = points_of(verb, folder, asked)
    teachers = list(dict.fromkeys((point["family"], point["seed"]) for point in points))
    of_a_seed = [[one for one in points if (one["family"], one["seed"]) == teacher] for teacher in teachers]
    common = folder, asked.device, asked.smoke, asked.epochs
    work_off(partial(train_teacher, *common), teachers, asked.processes, deadline)
    work_off(partial(evaluate_points, *common, asked.images, deadline), of_a_seed, asked.processes, deadline)
    lines = read(folder / f"{'tuning' if verb == 'tune' else 'measured'}.jsonl")
    print(f"{len(lines)} points are there, {len(points_of(verb, folder, asked))} are missing", flush=True)


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("verb", choices=["tune", "measure", "tables", "sizes"])
    parser.add_argument("--out", default="runs/student_axis")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--budget-seconds", type=float, default=1e9)
    parser.add_argument("--images", help="folder of the four files of Fashion-MNIST")
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="passes over the images, for teacher and pair")
    parser.add_argument("--families", nargs="+", default=FAMILIES, choices=FAMILIES)
    parser.add_argument("--rates", nargs="+", type=float, default=RATES, help="learning rates to tune over")
    parser.add_argument("--seeds", type=int, default=len(SEEDS), help="how many of the reported seeds")
    parser.add_argument("--smoke", action="store_true", help="a quick run over everything; its numbers mean nothing")
    asked = parser.parse_args()
    if asked.verb == "sizes":
        rows = [{"family": family, "arm": arm} | sizes(family, arm) for family in FAMILIES for arm in ARMS]
        print(pd.DataFrame(rows).to_string())
        return
    if asked.verb == "tables":
        write_tables(Path(asked.out))
        return
    work_all(asked.verb, asked)


if __name__ == "__main__":
    main()
