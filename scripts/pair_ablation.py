"""Which parts of PWL training matter: each changed alone, over several seeds, on the validation split.

Writes `data/results/pair_ablation.csv` (one row per variant and seed) and `pair_ablation.json` (how it was made).
Takes about three hours of a core for eight seeds, and keeps every pair in the store: an interrupted run goes on where it stopped.
"""

import argparse
import json
import time
from collections.abc import Iterable
from itertools import pairwise

import pandas as pd
from points import ship_table

from pwl_lab.study import tables
from pwl_lab.study.cases import run_cases
from pwl_lab.study.recipes import image_models, image_plan_of_pair, image_task, image_teacher, pair_losses
from pwl_lab.study.results import Pair
from pwl_lab.study.settings import LoadingSettings
from pwl_lab.study.verbs import train_pair
from pwl_lab.swap.orders import loading_orders
from pwl_lab.swap.pair_training import PairLossConfig

# A student with the teacher's channels at two of three boundaries, to see what converters do where none is needed.
EQUAL_CHANNELS = {"student_channels": (24, 48, 24, 16)}

# The table is read long after it was made: these settings say of which pair it is.
DESCRIBED = {"teacher_channels", "teacher_depths", "student_channels", "sync_weight", "cross_weight", "masks"}

# group -> variant -> (changes of the losses, changes of the settings)
VARIANTS: dict[str, dict[str, tuple[dict[str, object], dict[str, object]]]] = {
    "default": {"default": ({}, {})},
    "leave out": {
        "hard": ({"alpha": 0.0}, {}),
        "soft": ({"alpha": 1.0}, {}),
        "sync": ({"sync": 0.0}, {}),
        "recon": ({"recon": 0.0}, {}),
        "cross": ({"cross": 0.0}, {}),
    },
    "masks": {
        "prefix": ({"masks": "prefix"}, {}),
        "all": ({"masks": "all"}, {}),
        "mixture as published": ({"masks": "mixture"}, {}),
        "one mask a pass": ({"cross_groups": 1}, {}),
    },
    "as published": {
        "sync weight 1": ({"sync": 1.0}, {}),
        "slow converters": ({"converter_lr": 0.2}, {}),
    },
    "equal channels": {
        "converters always": ({}, EQUAL_CHANNELS),
        "only where different": ({"converters": "if_different"}, EQUAL_CHANNELS),
    },
}


def variant_pair(settings: LoadingSettings, losses: PairLossConfig, seed: int) -> Pair:
    """The pair of one variant and seed; the teacher is that of notebook 04."""
    task, teacher = image_task(settings), image_teacher(settings, seed)
    student = image_models(settings, task)[1]
    plan = image_plan_of_pair(settings, task)
    return train_pair(teacher, student, task, plan, losses, seed, settings.device)


def largest_dip(curve: Iterable[float]) -> float:
    """The largest fall from one point of the curve to the next; 0 if it never falls."""
    values = list(curve)
    return max([0.0, *(before - after for before, after in pairwise(values))])


def measures(pair: Pair) -> dict[str, float]:
    """What a variant is judged by, on the validation split, in [0, 1]."""
    masks, n_blocks = pair.masks.set_index("mask")["validation"], pair.n_blocks
    prefix = loading_orders(n_blocks)["prefix"]
    mixed = masks.drop(["S" * n_blocks, "T" * n_blocks])
    return {
        "student": float(masks["S" * n_blocks]),
        "prefix_area": tables.order_area(pair.masks, prefix, "validation")[pair.seed],
        "prefix_mean": float(masks[prefix[1:-1]].mean()),
        "largest_fall": largest_dip(masks[prefix]),
        "mixed_mean": float(mixed.mean()),
        "worst": float(masks.min()),
    }


def main() -> None:
    """Train what is missing, then write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--family", default="resnet")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(8)))
    parser.add_argument("--preset", default="lesson")
    asked = parser.parse_args()
    begun = time.monotonic()
    rows, cases = [], []
    for group, variants in VARIANTS.items():
        for name, (losses, changes) in variants.items():
            settings = LoadingSettings.load(asked.preset, family=asked.family, **changes)
            changed = pair_losses(settings).model_copy(update=losses)
            for seed in asked.seeds:
                rows.append({"family": asked.family, "group": group, "variant": name, "seed": seed})
                cases.append({"settings": settings, "losses": changed, "seed": seed})
    teachers = {case["seed"]: {"settings": case["settings"], "seed": case["seed"]} for case in cases}
    run_cases(image_teacher, list(teachers.values()), "teachers", settings.device)
    pairs = run_cases(variant_pair, cases, "pairs", settings.device)
    table = pd.DataFrame([row | measures(pair) for row, pair in zip(rows, pairs, strict=True)])
    made = ship_table(
        "pair_ablation",
        table.round(5),
        command=f"python scripts/pair_ablation.py --family {asked.family} --preset {asked.preset}"
        + f" --seeds {' '.join(map(str, asked.seeds))}",
        pair=LoadingSettings.load(asked.preset, family=asked.family).model_dump(mode="json", include=DESCRIBED),
        split="validation",
        seeds=asked.seeds,
        minutes=round((time.monotonic() - begun) / 60, 1),
    )
    print(table.groupby(["group", "variant"], sort=False).mean(numeric_only=True).drop(columns="seed").round(4))
    print(json.dumps(made))


if __name__ == "__main__":
    main()
