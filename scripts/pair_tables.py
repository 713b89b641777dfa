"""The shipped tables of notebook 05: do curricula help progressive weight loading, with everything else equal?

    PYTHONPATH=. python scripts/pair_tables.py all --device cuda --processes 12 --budget-seconds 420 --out DIR

Verbs: `teachers`, `tuning` (the learning rate of each arm on seeds 100 to 102, by validation images), `arms` (seeds 0 to 15, on
the test images), `plateau` (parity) and `all` of them, most valuable first;
`tables` writes `data/results/pair_curricula*.csv`. Each finished point is a line of
`DIR/points.jsonl`; points that are there are skipped, so a stopped run goes on. `--images` names the folder of the full
Fashion-MNIST: then test accuracy is over all its 10,000 test images, else over the bundled 2,000. `--smoke` proves the
path in seconds. The arms are those of `pwl_lab.study.arms`.

**Expected before the run.** Fashion-MNIST has no plateau: one-shot distillation is at 81% by step 100. So neither an
early stage nor an auxiliary loss should make a better pair there: every difference from `none` within 0.3 points at 960
and 1,920 steps; at 240 steps `early` and `checkpoint` behind `none`, since they spend steps on something else; `auxiliary`
nearest to `none`. Parity has a plateau: there `early` should need the fewest steps to 99% of all masks, then
`auxiliary`, then `none` (sync says what a curriculum says, more slowly), then `checkpoint`; one-shot (PWL's terms do not
reach the student) the most, or never.

The first run (240 steps; 16 seeds; no `final`) refuted the first part for `checkpoint`: ahead by a point. **Expected before
the second run**, with `final`: it is the schedule and the soft output, not the checkpoint. Students that learn from the
output alone mixed 1.2 points better than plain PWL in notebook 05, which is the whole lead of `checkpoint`. So `final`
is ahead of `none` by about a point in the mixes, and `checkpoint` minus `final` is within half a point of zero. At 480
steps every difference is about half of that at 240, but for `auxiliary`, which pulls at the states to the end.

**Expected before the run at 480 steps** (`none`, `checkpoint`, `final`; the teachers of run 2): the leads over `none`
shrink to about half and do not turn. In the mixes `checkpoint` is ahead by 0.2 to 0.8 points and `final` by 0 to 0.6;
`checkpoint` minus `final` stays within half a point of zero. The paired differences scatter less than at 240 steps.
"""

import argparse
import json
import multiprocessing
import os
import time
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from points import Point, append, hits, one_thread, packed, read, test_images, unpacked, work_off

os.environ.setdefault("TQDM_DISABLE", "1")

from pwl_lab.models import mlp, transformer
from pwl_lab.study.arms import Arm, train_arm
from pwl_lab.study.intervals import crossed_interval
from pwl_lab.study.recipes import image_models, image_task, image_teacher, pair_losses
from pwl_lab.study.settings import CrossingSettings
from pwl_lab.study.store import provenance
from pwl_lab.study.verbs import train_or_load
from pwl_lab.support import paths
from pwl_lab.support.files import write_json
from pwl_lab.swap.evaluation import score_masks
from pwl_lab.swap.masks import all_masks
from pwl_lab.swap.pair_training import PairLearner, PairLossConfig
from pwl_lab.tasks.parity import SparseParity
from pwl_lab.training import TrainedModel, TrainPlan, image_plan

FAMILIES = ("resnet", "vgg")
BUDGETS = (240, 960, 480, 1_920)  # in the order of their value
TUNED_AT = {240: 240, 480: 240, 960: 960, 1_920: 960}  # where the settings for a budget were tuned
TUNING_SEEDS, SEEDS = (100, 101, 102), tuple(range(16))
RATES = (0.05, 0.1, 0.2)
# An early stage is a quarter of the steps. Its length and the weight of the projections were not tuned.
VARIANTS: dict[str, Point] = {
    "none": {},
    "early": {"share": 0.25},
    "auxiliary": {"weight": 1.0},
    "checkpoint": {"share": 0.25},
    "final": {"share": 0.25},  # a control for `checkpoint`
}
AGAINST = (("early", "none"), ("auxiliary", "none"), ("checkpoint", "none"), ("final", "none"), ("checkpoint", "final"))
PARITY_RATES = (0.02, 0.05)
PARITY_STEPS, PARITY_EVERY = 1_500, 25
PARITY_VARIANTS: dict[str, Point] = {
    "none": {},
    "early": {"share": 200 / PARITY_STEPS},
    "auxiliary": {"weight": 1.0},
    "checkpoint": {"share": 200 / PARITY_STEPS, "at_accuracy": 0.7},
    "one-shot": {},  # not tuned: it has the rate of `none`
}
NAMING = ("kind", "family", "arm", "variant", "rate", "budget", "seed")  # what a point is known by


def named(point: Point) -> str:
    """A point's name, the same in every run."""
    return json.dumps([point[key] for key in NAMING], sort_keys=True)


def settings_of(family: str, smoke: bool, device: str) -> CrossingSettings:
    """The pair of notebook 05."""
    preset = "smoke" if smoke else "lesson"
    return CrossingSettings.load(preset, family=family, device=device)


def image_point(point: Point, asked: argparse.Namespace, device: str) -> Point:
    """One pair on images."""
    settings = settings_of(point["family"], asked.smoke, device)
    task, teacher = image_task(settings), image_teacher(settings, point["seed"])
    student = image_models(settings, task)[1]
    arm = Arm(point["arm"], **{"at_accuracy": settings.checkpoint_accuracy} | point["variant"])
    steps = point["budget"]
    plan = image_plan(steps, point["rate"], settings.batch_size, settings.optimiser, eval_every=steps)
    begun = time.monotonic()
    net, _ = train_arm(arm, teacher, student, task, plan, pair_losses(settings), point["seed"], device)
    seconds = time.monotonic() - begun
    found: Point = {"seconds": round(seconds, 2), "steps_per_s": round(steps / seconds, 2)}
    found["score"] = score(score_masks(net, task.split("validation", device)).accuracies())
    if arm.name == "checkpoint":
        found["checkpoint_accuracy"] = teacher.checkpoint(at_accuracy=arm.at_accuracy).accuracy
    if point["kind"] == "arms":
        whole = asked.images is not None
        right = hits(net, test_images(task, asked.images, device) if whole else task.split("test", device))
        found["test"] = dict(zip(all_masks(net.n_blocks), right.mean(axis=1).tolist(), strict=True))
        found |= packed(right)
    return found


class UntilAllMasks(PairLearner):
    """Measures all masks and stops when each has 99% of the validation samples."""

    def evaluate(self, step: int) -> list[dict[str, Any]]:
        """The student's accuracy, and that of the worst mask."""
        found = score_masks(self.net, self.validation).accuracies()
        return [{"accuracy": found["S" * self.net.n_blocks], "worst": min(found.values())}]

    def finished(self, step: int, rows: list[dict[str, Any]], optimiser: torch.optim.Optimizer) -> bool:
        """Whether every mask has 99%."""
        return bool(rows[-1]["worst"] >= 0.99)


def parity_teacher(family: str, task: SparseParity, seed: int, device: str) -> TrainedModel:
    """A teacher of four blocks with its checkpoints."""
    model = mlp(task, 256, depth=4) if family == "parity-mlp" else transformer(task, 64, 4, layers=4)
    adam = family == "parity-transformer"
    plan = TrainPlan(
        steps=6_000,
        lr=1e-3 if adam else 0.05,
        optimiser="adam" if adam else "sgd",
        momentum=0.0 if adam else 0.9,
        eval_every=25,
        stop_at=1.0,
        saturation=1.2,
        keep_checkpoints=True,
    )
    return train_or_load(model, task, plan, seed, device)  # type: ignore[arg-type]


def parity_point(point: Point, asked: argparse.Namespace, device: str) -> Point:
    """One pair on (14, 4)-parity, or with a plateau of more bits for MLPs: the steps until all masks have 99%."""
    bits = 8 if asked.smoke else {"parity-mlp": 30, "parity-transformer": 14}[point["family"]]
    task = SparseParity(bits, 2 if asked.smoke else 4, eval_samples=1_024)
    teacher = parity_teacher(point["family"], task, point["seed"], device)
    is_mlp = point["family"] == "parity-mlp"
    student = mlp(task, 32, depth=4) if is_mlp else transformer(task, 16, 2, layers=4)
    one_shot = point["arm"] == "one-shot"
    arm = Arm("none" if one_shot else point["arm"], **point["variant"])
    momentum = {"lr": point["rate"], "momentum": 0.9, "clip_norm": 2.0}
    adam = {"lr": point["rate"] / 20, "optimiser": "adam", "clip_norm": 2.0}
    plan = TrainPlan(steps=point["budget"], eval_every=PARITY_EVERY, **(momentum if is_mlp else adam))
    losses = PairLossConfig(masks="all", cross_passes=1, cross_groups=4, student_joins_at=1.0 if one_shot else 0.0)
    begun = time.monotonic()
    _, history = train_arm(arm, teacher, student, task, plan, losses, point["seed"], device, UntilAllMasks)
    seconds, steps = time.monotonic() - begun, int(history["step"].max())
    found: Point = {"seconds": round(seconds, 2), "steps_per_s": round(steps / seconds, 2)}
    found |= {"teacher_steps": teacher.reached_at, "teacher_accuracy": teacher.test_accuracy}
    for name, column in (("student", "accuracy"), ("all_masks", "worst")):
        reached = history.loc[history[column] >= 0.99, "step"]
        found[f"steps_{name}"] = int(reached.iloc[0]) if len(reached) else None
        found[f"final_{name}"] = float(history[column].iloc[-1])
    return found


def run_point(asked: argparse.Namespace, point: Point) -> None:
    """One point in a worker, into the file of points."""
    if point["kind"] == "teacher":
        begun = time.monotonic()
        teacher = image_teacher(settings_of(point["family"], asked.smoke, DEVICE), point["seed"])
        found: Point = {"seconds": round(time.monotonic() - begun, 2), "test": teacher.test_accuracy}
    else:
        parity = point["family"].startswith("parity")
        found = (parity_point if parity else image_point)(point, asked, DEVICE)
    append(asked.out / "points.jsonl", [point | found | {"device": DEVICE}])


def begin(devices: Any, store: str) -> None:
    """Prepare a worker and give it its device."""
    global DEVICE  # one process, one device
    one_thread()
    os.environ["PWL_LAB_STORE"] = store
    DEVICE = devices.get()


def score(accuracy: Mapping[str, float]) -> float:
    """What is tuned for: the mean of the student's accuracy and of the mean over all mixed masks."""
    mixed = np.mean([value for mask, value in accuracy.items() if len(set(mask)) == 2])
    return float(accuracy["S" * len(next(iter(accuracy)))] + mixed) / 2


def best_rate(done: Iterable[Point], family: str, arm: str, budget: int) -> float:
    """The rate with the best mean score over the tuning seeds; before there are any, the middle of the grid."""
    by: dict[float, list[float]] = {}
    for point in done:
        if point["kind"] == "tuning" and (point["family"], point["arm"], point["budget"]) == (family, arm, budget):
            by.setdefault(point["rate"], []).append(point["score"])
    return max(by, key=lambda rate: np.mean(by[rate])) if by else 0.1


def tuning(family: str, budget: int, seeds: Iterable[int]) -> list[Point]:
    """Every arm at every rate."""
    return [
        {
            "kind": "tuning",
            "family": family,
            "arm": arm,
            "variant": variant,
            "rate": rate,
            "budget": budget,
            "seed": seed,
        }
        for seed in seeds
        for rate in RATES
        for arm, variant in VARIANTS.items()
    ]


def arms(family: str, budget: int, done: list[Point], seeds: Iterable[int]) -> list[Point]:
    """Each arm at its best rate, seed by seed."""
    best = {arm: best_rate(done, family, arm, TUNED_AT.get(budget, budget)) for arm in VARIANTS}
    common = {"kind": "arms", "family": family, "budget": budget}
    return [
        common | {"arm": arm, "variant": variant, "rate": best[arm], "seed": seed}
        for seed in seeds
        for arm, variant in VARIANTS.items()
    ]


def plateau(
    family: str, done: list[Point], seeds: Iterable[int], rates: Iterable[float] | None, one_shot: bool = False
) -> list[Point]:
    """Parity: `rates` for tuning (on the seeds given), None for each arm at its best rate; or one-shot alone."""
    common = {"kind": "plateau tuning" if rates else "plateau", "family": family, "budget": PARITY_STEPS}
    return [
        common | {"arm": arm, "variant": variant, "rate": rate, "seed": seed}
        for seed in seeds
        for arm, variant in PARITY_VARIANTS.items()
        if (arm == "one-shot") == one_shot
        for rate in rates or [parity_rate(done, family, arm)]
    ]


def parity_rate(done: Iterable[Point], family: str, arm: str) -> float:
    """The rate with the fewest steps until all masks have 99%, in the mean over the tuning seeds (never: the budget)."""
    by: dict[float, list[float]] = {}
    tuned = "none" if arm == "one-shot" else arm
    for point in done:
        if (point["kind"], point["family"], point["arm"]) == ("plateau tuning", family, tuned):
            by.setdefault(point["rate"], []).append(point["steps_all_masks"] or point["budget"])
    return min(by, key=lambda rate: np.mean(by[rate])) if by else 0.05


def phases(verb: str, asked: argparse.Namespace, done: list[Point]) -> Iterable[list[Point]]:
    """Lists of points; the next list may depend on the results of the ones before."""
    families, budgets = asked.families, asked.budgets
    few, many = (TUNING_SEEDS[:1], SEEDS[:2]) if asked.smoke else (TUNING_SEEDS, SEEDS)
    blank = {"arm": "", "variant": {}, "rate": 0.0, "budget": 0}
    for family in families:
        if verb in ("all", "teachers"):
            yield [{"kind": "teacher", "family": family, "seed": seed} | blank for seed in (*few, *many[:8])]
        if verb in ("all", "tuning"):
            for budget in [one for one in sorted(set(TUNED_AT.values())) if one in budgets]:
                yield tuning(family, budget, few)
        if verb in ("all", "arms"):
            yield [point for budget in budgets[:2] for point in arms(family, budget, done, many[:8])]
    for family in asked.plateaus if verb in ("all", "plateau") else ():
        yield plateau(family, done, few[:1], PARITY_RATES[:1] if asked.smoke else PARITY_RATES)
        yield plateau(family, done, many[:8], None)
        yield plateau(family, done, many[:8], None, one_shot=True)  # the longest of all: it may never arrive
    if verb in ("all", "arms"):
        for seeds in (many[:8], many[8:]):
            yield [point for family in families for b in budgets for point in arms(family, b, done, seeds)]


def whole_seeds(folders: Iterable[Path]) -> list[Point]:
    """The `arms` points of every folder, of seeds with all of its arms; a folder is a run, numbered from 1.

    Only pairs of the same run share a teacher. All arms are those that the run has for any seed of a family and budget.
    """
    kept: list[Point] = []
    for run, folder in enumerate(folders, start=1):
        points = [point | {"run": run} for point in read(folder / "points.jsonl") if point["kind"] == "arms"]
        table = pd.DataFrame(points, columns=["family", "budget", "seed", "arm"])
        arms_of = table.groupby(["family", "budget"])["arm"].agg(set)
        there = table.groupby(["family", "budget", "seed"])["arm"].agg(set)
        whole = {key for key, arms in there.items() if arms == arms_of[key[:2]]}
        kept += [point for point in points if (point["family"], point["budget"], point["seed"]) in whole]
    order = list(VARIANTS)
    return sorted(
        kept, key=lambda one: (one["run"], one["family"], one["budget"], one["seed"], order.index(one["arm"]))
    )


def by_measure(point: Point) -> dict[str, np.ndarray]:
    """Each measure of a pair as a value per test image; its mean is the accuracy."""
    masks, right = list(point["test"]), unpacked(point)
    mixed = [i for i, mask in enumerate(masks) if len(set(mask)) == 2]
    found = {mask: right[masks.index(mask)].astype(float) for mask in ("SSSS", "TSSS", "TTSS", "TTTS")}
    worst = min(mixed, key=lambda i: right[i].mean())
    return found | {"mixed": right[mixed].mean(axis=0), "worst": right[worst].astype(float)}


def row_of(point: Point) -> Point:
    """A row of `pair_curricula.csv`."""
    row = {key: point[key] for key in ("run", "family", "budget", "arm", "seed", "rate")}
    row |= {"share": point["variant"].get("share"), "weight": point["variant"].get("weight")}
    row |= {name: round(float(values.mean()), 5) for name, values in by_measure(point).items()}
    return row | {"images": point["images"], "checkpoint_accuracy": point.get("checkpoint_accuracy")}


def gains(points: list[Point]) -> Iterable[tuple[Point, pd.DataFrame]]:
    """One arm minus another (the pairs of `AGAINST`), a row per seed and a column per image, and which difference it is."""
    groups: dict[tuple[int, str, int], dict[str, dict[int, dict[str, np.ndarray]]]] = {}
    for point in points:
        group = groups.setdefault((point["run"], point["family"], point["budget"]), {})
        group.setdefault(point["arm"], {})[point["seed"]] = by_measure(point)
    for (run, family, budget), group in groups.items():
        for arm, against in AGAINST:
            seeds, plain = group.get(arm, {}), group.get(against, {})
            for measure in next(iter(seeds.values()), {}) if plain else ():
                row = {"run": run, "family": family, "budget": budget, "arm": arm, "against": against}
                both = {at: mine[measure] - plain[at][measure] for at, mine in seeds.items() if at in plain}
                yield row | {"measure": measure}, pd.DataFrame.from_dict(both, orient="index")


def interval_row(row: Point, gain: pd.DataFrame) -> Point:
    """The mean of a difference in percentage points and its interval over seeds and images."""
    low, mean, high = (round(100 * end, 4) for end in crossed_interval(gain))
    return row | {"low": low, "mean": mean, "high": high, "seeds": len(gain)}


def change_rows(found: Iterable[tuple[Point, pd.DataFrame]]) -> Iterable[Point]:
    """By how much a difference at a budget is larger than at the next smaller one, seed by seed and image by image."""
    before: dict[tuple[Any, ...], tuple[int, pd.DataFrame]] = {}
    for row, gain in sorted(found, key=lambda one: one[0]["budget"]):
        key = tuple(row[name] for name in ("run", "family", "arm", "against", "measure"))
        if key in before:
            budget, less = before[key]
            seeds = gain.index.intersection(less.index)
            yield interval_row(row | {"before": budget}, gain.loc[seeds] - less.loc[seeds])
        before[key] = row["budget"], gain


def ship(asked: argparse.Namespace) -> None:
    """Write the shipped tables from the points of all folders."""
    points = [point for folder in asked.points for point in read(folder / "points.jsonl")]
    everything = [
        *{json.dumps(point, sort_keys=True): point for point in points}.values()
    ]  # a copied tuning counts once
    pairs, keys = whole_seeds(asked.points), ["family", "budget", "arm", "rate", "seed"]
    tuned = [
        {key: point[key] for key in keys} | point["variant"] | {"score": round(point["score"], 5)}
        for point in everything
        if point["kind"] == "tuning"
    ]
    steps = [f"{what}_{name}" for what in ("steps", "final") for name in ("student", "all_masks")]
    parity = [
        {key: point[key] for key in ("kind", *keys, "teacher_steps", *steps)}
        for point in everything
        if point["kind"].startswith("plateau")
    ]
    parity = list({tuple(row[key] for key in ("kind", *keys)): row for row in reversed(parity)}.values())[::-1]
    compared = list(gains(pairs))
    seconds = sum(point.get("seconds", 0.0) for point in everything)
    made = {
        "command": "python scripts/pair_tables.py all --out DIR, then python scripts/pair_tables.py tables --points DIR",
        "preset": "lesson",
        "seeds": {"tuning": list(TUNING_SEEDS), "reported": sorted({point["seed"] for point in pairs})},
        "tables": {
            "pair_curricula": "a row per pair: test accuracies; `mixed` is the mean of all mixed masks, `worst` the worst",
            "pair_curricula_intervals": "an arm minus another (`against`), points of test accuracy, 95% over seeds and images",
            "pair_curricula_changes": "such a difference minus that at the budget `before`, on the same seeds and images",
            "pair_curricula_tuning": "validation: the mean of the student's accuracy and of the mean over all mixed masks",
            "pair_curricula_parity": "steps until the student and until all masks have 99% of the validation samples",
        },
        "machine": asked.machine,
        "core_minutes": round(seconds / 60, 1),
        "made": provenance(),
    }
    for name, rows in {
        "pair_curricula": [row_of(point) for point in pairs],
        "pair_curricula_intervals": [interval_row(*one) for one in compared],
        "pair_curricula_changes": list(change_rows(compared)),
        "pair_curricula_tuning": tuned,
        "pair_curricula_parity": parity,
    }.items():
        table = pd.DataFrame(rows)
        whole = {column: "Int64" for column in steps[:2] if column in table}
        table.astype(whole).to_csv(paths.results() / f"{name}.csv", index=False)
    write_json(paths.results() / "pair_curricula.json", made)


def main() -> None:
    """Work off the points of a verb, most valuable first."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("verb", choices=["all", "teachers", "tuning", "arms", "plateau", "tables"])
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--cpu-processes", type=int, default=0, help="more workers, on the CPU, beside those on a GPU")
    parser.add_argument("--budget-seconds", type=float, default=3_600)
    parser.add_argument("--out", type=Path, default=paths.runs() / "pair_tables")
    parser.add_argument("--points", type=Path, nargs="+", help="tables: a folder of points per run, in their order")
    parser.add_argument("--machine", default="", help="tables: what they were computed on, in words")
    parser.add_argument("--store", type=Path, help="where teachers are kept; by default in OUT")
    parser.add_argument("--images", help="folder of the full Fashion-MNIST")
    parser.add_argument("--families", nargs="+", default=list(FAMILIES))
    parser.add_argument("--plateaus", nargs="+", default=["parity-mlp"])
    parser.add_argument("--budgets", nargs="+", type=int, default=list(BUDGETS))
    parser.add_argument("--arms", nargs="+", default=list(VARIANTS), choices=list(VARIANTS), help="on images")
    parser.add_argument("--smoke", action="store_true")
    asked = parser.parse_args()
    if asked.verb == "tables":
        ship(asked)
        return
    for arm in set(VARIANTS) - set(asked.arms):
        del VARIANTS[arm]
    if asked.smoke:
        asked.budgets = [24]
        globals().update(BUDGETS=(24,), TUNED_AT={24: 24}, PARITY_STEPS=100, RATES=RATES[:1])
        PARITY_VARIANTS["early"], PARITY_VARIANTS["checkpoint"] = {"share": 0.2}, {"share": 0.2, "at_accuracy": 0.5}
    work(asked)


def work(asked: argparse.Namespace) -> None:
    """Work off the lists of points, one after the other."""
    asked.out.mkdir(parents=True, exist_ok=True)
    path, until = asked.out / "points.jsonl", time.time() + asked.budget_seconds
    done, devices = read(path), multiprocessing.get_context("spawn").Queue()
    given = devices, str((asked.store or asked.out / "store").absolute())
    workers = [asked.device] * asked.processes + ["cpu"] * asked.cpu_processes
    for points in phases(asked.verb, asked, done):
        for device in workers:
            devices.put(device)
        seen = {named(point) for point in done}
        left = [point for point in points if named(point) not in seen]
        work_off(partial(run_point, asked), left, len(workers), until, begin, given)
        done[:] = read(path)


if __name__ == "__main__":
    main()
