"""A trained pair that ships with the project: so that there is something to show, serve and load before anything is trained.

It is notebook 04's `vgg` pair at `lesson`, of seed 0. `data/vgg_pair/` is its bundle. `data/vgg_pair.json` has the rest: its
recipe, history, the tables of every mask, which test images each mask gets right, and where it was made.
"""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool
from safetensors.torch import load_file
from torch import Tensor, nn

from pwl_lab.loading.bundle import BOOT, BundleIndex, check_folder, parts_of_unit
from pwl_lab.loading.sources import INDEX
from pwl_lab.models.blocknet import parameter_bytes
from pwl_lab.study.recipes import image_task, loading_pairs
from pwl_lab.study.results import Pair
from pwl_lab.study.settings import SHIPPED_PAIR, ClockSettings, LoadingSettings
from pwl_lab.study.verbs import make_pair
from pwl_lab.support import config, paths
from pwl_lab.support.errors import MissingDataError
from pwl_lab.support.files import file_sha256, is_file
from pwl_lab.swap.swapnet import SwapNet

PRESET, FAMILY, SEED = "lesson", SHIPPED_PAIR[0], SHIPPED_PAIR[1][0]
TABLES = ("history", "masks", "classes")
MADE_BY = "python scripts/make_vgg_pair.py"


def shipped_bundle() -> Path:
    """The folder of its bundle, which can be opened and served like any other."""
    return paths.data() / "vgg_pair"


def shipped_description() -> Path:
    """The file with everything but the weights."""
    return paths.data() / "vgg_pair.json"


def shipped_settings(device: config.Device = "auto") -> LoadingSettings:
    """The settings of notebook 04 that it was trained with."""
    return LoadingSettings.load(PRESET, family=FAMILY, seeds=(SEED,), device=device)


def shipped_pair(device: config.Device = "auto") -> Pair:
    """The pair that `recipes.loading_pair` would return after its teacher; nothing is trained.

    Raises MissingDataError if its files are missing or not of one commit, BundleError for a damaged bundle.
    """
    bundle, about = shipped_bundle(), shipped_description()
    if not is_file(about):
        raise MissingDataError(f"{about} is missing; {MADE_BY} makes it and {bundle.name}/")
    try:
        told = json.loads(about.read_text(encoding="utf-8"))
        expected = told["sha256"]
        kept = {name: pd.DataFrame(told["tables"][name]) for name in TABLES}
        right = _unpacked(told["right"], told["test_images"])
    except (ValueError, KeyError, TypeError):
        raise MissingDataError(f"{about} cannot be read; take it and {bundle.name}/ from one commit") from None
    index = check_folder(bundle)
    if file_sha256(bundle / INDEX) != expected:
        raise MissingDataError(f"{bundle} is not the bundle that {about.name} describes; take both from one commit")
    net = _networks(index, bundle)
    return Pair(
        net=net.to(config.device(device)).eval(),
        seed=SEED,
        **kept,
        teacher_bytes=parameter_bytes(net.teacher),
        student_bytes=parameter_bytes(net.student),
        models=(index.teacher, index.student),
        task=image_task(shipped_settings()),
        right=right,
        fingerprint=expected,  # not the store's key: a reader's pair of the same recipe may have other weights
    )


def clock_pairs(settings: ClockSettings) -> list[Pair]:
    """The pairs of notebooks 06 and 06b, on the CPU: one per seed as in notebook 04, or the shipped one."""
    if settings.pair_source == "shipped":
        return [shipped_pair("cpu")]
    asked = {name: getattr(settings, name) for name in ("family", "seeds", "other_seeds")}
    return loading_pairs(LoadingSettings.load(settings.preset, **asked, device="cpu"))[1]


def _networks(index: BundleIndex, bundle: Path) -> SwapNet:
    """Teacher, student and converters with the float32 weights of the bundle."""
    task = image_task(shipped_settings())
    net = make_pair(index.teacher.make(), index.student.make(), task, SEED, index.converters)
    net.student.load_state_dict(load_file(bundle / index.shard(BOOT).file))
    for block in range(1, index.n_blocks + 1):
        unit = nn.ModuleDict(parts_of_unit(net.teacher, net.converters, block))
        unit.load_state_dict(load_file(bundle / index.shard(block).file))
    return net


def _unpacked(right: list[str], samples: int) -> Bool[Tensor, "masks samples"]:
    """Which samples each mask gets right, from hexadecimal digits: four samples to a digit."""
    rows = [np.unpackbits(np.frombuffer(bytes.fromhex(row), dtype=np.uint8), count=samples) for row in right]
    return torch.from_numpy(np.stack(rows).astype(bool))
