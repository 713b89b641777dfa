"""Curricula crossed with progressive weight loading, with the same final objective for all: the shipped table of notebook 05.

    python scripts/pair_tables.py tuning   --out DIR [--device cpu] [--processes 2] [--budget-seconds 600]
    python scripts/pair_tables.py measured --out DIR [the same]        at the rates that DIR/tuning.jsonl gives

Four arms, all trained with PWL's three losses from the first step on, and all with the paper's hard and soft loss at T = 2
as the student's own objective in the last stage:

- `none`: this objective from the beginning.
- `early`: first a stage for each block on the projected hidden state of the teacher (an extracted curriculum), over a
  quarter of the steps together.
- `auxiliary`: this objective from the beginning, and beside it, to the end, the projection loss of all blocks.
- `checkpoint`: first the output of the teacher's first checkpoint above 80%, over a quarter of the steps.

Equal steps in all. An early stage has a constant learning rate, the peak of the last stage. The last stage is a training
of its own: a new optimiser, a cosine over its own length, and batch norms frozen after 60% of it.

Expected before the first run: Fashion-MNIST has no plateau that a curriculum could shorten, so no arm is better than
`none` by more than 0.3 points at any budget; `early` and `checkpoint` lose up to a point at 240 steps, because a quarter of
their steps does not serve the final objective, and nothing at 1,920; `auxiliary` gains at most 0.3 points.
"""

import argparse
import base64
import json
import multiprocessing
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file, save_file
from student_axis import curve, hits, read_lines, test_images, until
from torch import Tensor

from pwl_lab.distill.curriculum import extracted, progressive
from pwl_lab.models.blocknet import build
from pwl_lab.study.recipes import image_models, image_task, pair_losses
from pwl_lab.study.settings import CrossingSettings
from pwl_lab.study.verbs import make_pair
from pwl_lab.swap.pair_training import FollowCurriculum, HardAndSoft, PairLearner, Pass
from pwl_lab.tasks.base import batches_of, split_of
from pwl_lab.tasks.images import ImageTask
from pwl_lab.training import Checkpoint, Losses, TrainedModel, fit, image_plan, train

ARMS = ("none", "early", "auxiliary", "checkpoint")
RATES, TUNING_SEEDS, SEEDS = (0.05, 0.1, 0.2), (100, 101, 102), tuple(range(16))
EARLY, AT_ACCURACY, AUXILIARY_WEIGHT = 0.25, 0.8, 1.0
# Most valuable first: (family, budget in steps, how many seeds).
TUNED = (("resnet", 240), ("resnet", 960), ("vgg", 240), ("vgg", 960))
MEASURED = (("resnet", 240, 16), ("resnet", 960, 8), ("vgg", 240, 16), ("vgg", 960, 8), ("resnet", 960, 16), ("vgg", 960, 16),
            ("resnet", 480, 16), ("vgg", 480, 16), ("resnet", 1_920, 8), ("vgg", 1_920, 8), ("resnet", 1_920, 16), ("vgg", 1_920, 16))  # fmt: skip

Point = dict[str, Any]  # table, family, arm, budget, seed, lr


class WithProjections:
    """The final objective, and beside it the projection loss of all blocks at once."""

    def __init__(self, final: HardAndSoft, follow: FollowCurriculum, weight: float) -> None:
        """`follow` has one stage on all blocks."""
        self.final, self.follow, self.weight = final, follow, weight

    def __call__(self, seen: Pass, step: int) -> tuple[Losses, Tensor]:
        """The terms of the final objective, and `hidden`."""
        terms, total = self.final(seen, step)
        extra, loss = self.follow(seen, 0)
        return terms | extra, total + self.weight * loss


def settings_of(point: Point, smoke: bool) -> CrossingSettings:
    """Notebook 05's settings for the point's family."""
    sizes = {"n_train": 1_024, "teacher_epochs": 1} if smoke else {}
    return CrossingSettings.load("lesson", family=point["family"], budget_steps=max(point["budget"], 48), **sizes)


def train_teacher(seen: tuple[str, int], folder: Path, device: str, smoke: bool) -> Path:
    """The teacher of a family and seed and its checkpoint, in a file; made if it is not there."""
    family, seed = seen
    path = folder / "teachers" / f"{family}-{seed}.safetensors"
    if not path.is_file():
        settings = settings_of({"family": family, "budget": 240}, smoke)
        task = image_task(settings)
        epoch = task.steps_per_epoch(settings.batch_size)
        plan = image_plan(
            settings.teacher_epochs * epoch, settings.teacher_lr, settings.batch_size, eval_every=max(1, epoch // 2)
        )
        plan = plan.model_copy(update={"keep_checkpoints": True})
        found = fit(image_models(settings, task)[0], task, plan, seed, device)
        point = found.checkpoints[0] if smoke else found.checkpoint(AT_ACCURACY)
        tensors = {f"final.{name}": tensor.cpu().contiguous() for name, tensor in found.model.state_dict().items()}
        tensors |= {f"checkpoint.{name}": tensor.contiguous() for name, tensor in point.state.items()}
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_suffix(".part")
        save_file(tensors | {"accuracy": torch.tensor(point.accuracy), "step": torch.tensor(point.step)}, aside)
        aside.replace(path)
    return path


def read_teacher(path: Path, settings: CrossingSettings, task: ImageTask, seed: int, device: str) -> TrainedModel:
    """A teacher with its one checkpoint."""
    tensors, config = load_file(path, device=device), image_models(settings, task)[0]
    model = build(config, seed, device)
    parts = {
        start: {
            name.removeprefix(f"{start}."): tensor for name, tensor in tensors.items() if name.startswith(f"{start}.")
        }
        for start in ("final", "checkpoint")
    }
    model.load_state_dict(parts["final"])
    model.eval().requires_grad_(False)
    kept = Checkpoint(
        int(tensors["step"]), float(tensors["accuracy"]), {k: v.cpu() for k, v in parts["checkpoint"].items()}
    )
    return TrainedModel(config, model, pd.DataFrame(), [kept], 0.0, None, "")


def train_pair(point: Point, folder: Path, device: str, smoke: bool) -> tuple[Any, TrainedModel, float]:
    """The trained pair of a point, its teacher, and the optimiser steps per second."""
    settings, seed = settings_of(point, smoke), point["seed"]
    task = image_task(settings)
    teacher = read_teacher(train_teacher((point["family"], seed), folder, device, smoke), settings, task, seed, device)
    config, losses = image_models(settings, task)[1], pair_losses(settings)
    net = make_pair(teacher.model, build(config, seed, device, stream="student"), task, seed, losses.converters).to(
        device
    )
    final = HardAndSoft(losses.alpha, losses.temperature)
    early = round(EARLY * point["budget"]) if point["arm"] in ("early", "checkpoint") else 0
    follow = partial(FollowCurriculum, teacher=teacher, student_shapes=config.make().state_shapes(task.input_shape), task=task, seed=seed, device=device)  # fmt: skip
    batches, validation = (
        batches_of(task, seed, settings.batch_size, device, role="pair"),
        split_of(task, "validation", device),
    )
    begun, last = time.monotonic(), point["budget"] - early
    whole = image_plan(last, point["lr"], settings.batch_size, eval_every=last)
    if early:
        stages = extracted(early // len(teacher.config.make().blocks)) if point["arm"] == "early" else progressive([min(AT_ACCURACY, teacher.checkpoints[0].accuracy)], early)  # fmt: skip
        learner = PairLearner(
            net, losses.model_copy(update={"freeze_norm_at": 1.0}), validation, seed, early, follow(stages)
        )
        train(learner, batches, whole.model_copy(update={"steps": early, "schedule": "constant"}), "early stage")
    objective = final
    if point["arm"] == "auxiliary":
        objective = WithProjections(final, follow(extracted(1, at_once=True, weight=1.0)), AUXILIARY_WEIGHT)  # type: ignore[assignment]
    train(PairLearner(net, losses, validation, seed, last, objective), batches, whole, point["arm"])
    return net.eval(), teacher, point["budget"] / (time.monotonic() - begun)


def evaluate_point(point: Point, folder: Path, device: str, smoke: bool, images: str | None) -> None:
    """Train the pair of a point and append what was found to its file."""
    begun = time.monotonic()
    net, teacher, speed = train_pair(point, folder, device, smoke)
    tuning = point["table"] == "tuning"
    data = (
        split_of(image_task(settings_of(point, smoke)), "validation", device)
        if tuning
        else test_images(images, smoke, device)
    )
    right = hits(net, data)
    line = point | curve(right) | {"checkpoint_accuracy": teacher.checkpoints[0].accuracy}
    line |= {"steps_per_second": round(speed, 2), "seconds": round(time.monotonic() - begun, 1)}
    if not tuning:
        line |= {"images": right.shape[1], "hits": base64.b85encode(np.packbits(right).tobytes()).decode()}
    with (folder / f"{point['table']}.jsonl").open("a") as file:  # one write: lines of several processes do not mix
        file.write(json.dumps(line) + "\n")


def best_rates(lines: list[Point]) -> dict[tuple[str, int, str], float]:
    """The learning rate of each family, budget and arm: the best mean of student and mixed masks over the tuning seeds."""
    if not lines:
        return {}
    table = pd.DataFrame(lines)
    score = (table["student"] + table["mixed"]) / 2
    means = (
        score.groupby([table["family"], table["budget"], table["arm"], table["lr"]]).mean().reset_index(name="score")
    )
    best = means.loc[means.groupby(["family", "budget", "arm"])["score"].idxmax()]
    return {(row.family, int(row.budget), row.arm): float(row.lr) for row in best.itertuples()}


def rate_of(rates: dict[tuple[str, int, str], float], family: str, budget: int, arm: str) -> float:
    """That of the nearest budget that was tuned (the larger of two), or the middle of the grid."""
    tuned = sorted((abs(np.log(other / budget)), -other) for name, other, one in rates if (name, one) == (family, arm))
    return rates[family, -tuned[0][1], arm] if tuned else RATES[1]


def points_of(table: str, folder: Path, smoke: bool) -> list[Point]:
    """What is to be done and is not done yet, the most valuable first."""
    if table == "tuning":
        wanted = [(f, arm, b, seed, lr) for f, b in TUNED for seed in TUNING_SEEDS for lr in RATES for arm in ARMS]
    else:
        rates = best_rates(read_lines(folder / "tuning.jsonl"))
        wanted = [
            (f, arm, b, seed, rate_of(rates, f, b, arm)) for f, b, n in MEASURED for seed in SEEDS[:n] for arm in ARMS
        ]
    if smoke:
        wanted = [
            (f, arm, 48, seed, lr) for f, arm, b, seed, lr in wanted if b == 240 and seed in (0, 100) and lr == RATES[1]
        ]
    done = {(one["family"], one["arm"], one["budget"], one["seed"]) + ((one["lr"],) if table == "tuning" else ()) for one in read_lines(folder / f"{table}.jsonl")}  # fmt: skip
    names = ("family", "arm", "budget", "seed", "lr")
    left = [one for one in dict.fromkeys(wanted) if one[: 5 if table == "tuning" else 4] not in done]
    return [{"table": table} | dict(zip(names, one, strict=True)) for one in left]


def work_off(asked: argparse.Namespace) -> None:
    """Teachers first, then the points, on several processes."""
    deadline, folder = time.time() + asked.budget_seconds, Path(asked.out)
    folder.mkdir(parents=True, exist_ok=True)
    points = points_of(asked.table, folder, asked.smoke)[: asked.most]
    teachers = list(dict.fromkeys((point["family"], point["seed"]) for point in points))
    common = {"folder": folder, "device": asked.device, "smoke": asked.smoke}
    jobs: list[tuple[Callable[[Any], object], list[Any]]] = [(partial(train_teacher, **common), teachers)]
    jobs.append((partial(evaluate_point, **common, images=asked.images), points))
    with multiprocessing.get_context("spawn").Pool(asked.processes) as pool:
        for task, items in jobs:
            begun = time.monotonic()
            errors = [found for found in pool.imap_unordered(partial(until, deadline, task), items) if found]
            print(f"{len(items)} in {time.monotonic() - begun:.0f} s; errors: {errors[:3]}", flush=True)
    lines = read_lines(folder / f"{asked.table}.jsonl")
    print(f"{len(lines)} points are there, {len(points_of(asked.table, folder, asked.smoke))} are missing", flush=True)
    if lines:
        print(
            pd.DataFrame(lines)
            .groupby(["family", "budget", "arm"])[["steps_per_second", "seconds", "student", "mixed"]]
            .mean()
        )


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", choices=["tuning", "measured"])
    parser.add_argument("--out", default="runs/pair_tables")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--most", type=int, default=100_000, help="the most points of this call")
    parser.add_argument("--budget-seconds", type=float, default=1e9)
    parser.add_argument("--images", help="folder of the four files of Fashion-MNIST")
    parser.add_argument("--smoke", action="store_true", help="a quick run over everything; its numbers mean nothing")
    work_off(parser.parse_args())


if __name__ == "__main__":
    main()
