"""Train notebook 04's `vgg` pair at `lesson`, seed 0, and write it to `data/vgg_pair/` (a bundle) and `data/vgg_pair.json`.

    python scripts/make_vgg_pair.py

It comes from the store if it is there; a training that was stopped goes on. `--core-minutes` says how long it took, if that
is known.
"""

import argparse
import json
from typing import Any

import numpy as np
from jaxtyping import Bool
from torch import Tensor

from pwl_lab.loading.sources import INDEX
from pwl_lab.study.recipes import image_models, image_plan_of_pair, image_task, loading_pair, pair_losses
from pwl_lab.study.shipped_pair import (
    MADE_BY,
    PRESET,
    SEED,
    TABLES,
    shipped_bundle,
    shipped_description,
    shipped_settings,
)
from pwl_lab.study.store import provenance
from pwl_lab.support.files import file_sha256, write_json


def packed(right: Bool[Tensor, "masks samples"]) -> list[str]:
    """A text of hexadecimal digits for each mask, four samples to a digit."""
    return [np.packbits(row).tobytes().hex() for row in right.numpy()]


def ship_pair(minutes: float | None) -> dict[str, Any]:
    """Train the pair (or load it from the store) and write its files to `data/`; return its description without the tables.

    `minutes`: core minutes that training teacher and pair took; None: not measured.
    """
    made = provenance()  # before anything is written: that would make the commit a changed one
    settings = shipped_settings("cpu")
    teacher, pair = loading_pair(settings, SEED)
    task = image_task(settings)
    pair.export(shipped_bundle())
    said = {
        "command": MADE_BY,
        "notebook": "04_progressive_weight_loading",
        "preset": PRESET,
        "seed": SEED,
        "task": task.fingerprint(),
        "models": dict(
            zip(("teacher", "student"), (m.model_dump() for m in image_models(settings, task)), strict=True)
        ),
        "teacher_epochs": settings.teacher_epochs,
        "plan": image_plan_of_pair(settings, task).model_dump(),
        "losses": pair_losses(settings).model_dump(),
        "teacher_test_accuracy": teacher.test_accuracy,
        "sha256": file_sha256(shipped_bundle() / INDEX),
        "core_minutes": minutes,
        "made": made,
    }
    tables = {name: getattr(pair, name).to_dict("list") for name in TABLES}
    hits = {"test_images": pair.right.shape[1], "right": packed(pair.right)}
    write_json(shipped_description(), said | {"tables": tables} | hits, lenient=True)
    return said


def main() -> None:
    """Train or load, write, and print what is said of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--core-minutes", type=float)
    print(json.dumps(ship_pair(parser.parse_args().core_minutes), indent=1))


if __name__ == "__main__":
    main()
