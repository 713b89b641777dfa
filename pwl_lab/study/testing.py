"""What is measured on a trained pair and stored beside it: all official test images, and how alike its states are.

The bundled subset of Fashion-MNIST has 2,000 of the 10,000 test images. With the full dataset on this machine, masks
are tested on all of them. Training and validation stay on the bundled images; no bundled training or validation image
is a test image of the full dataset.
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

import pandas as pd
import torch

from pwl_lab.models.blocknet import build, unit_bytes, without_weights
from pwl_lab.study.code_changes import with_own_code
from pwl_lab.study.results import Pair
from pwl_lab.study.store import Artifact, NotMadeError, Recipe, Store, from_shipped
from pwl_lab.study.tables import cube_tables
from pwl_lab.study.verbs import VERSIONS
from pwl_lab.support import download
from pwl_lab.support.errors import invalid
from pwl_lab.swap import evaluation
from pwl_lab.swap.evaluation import score_masks
from pwl_lab.tasks import datasets
from pwl_lab.tasks.base import Batch
from pwl_lab.tasks.images import ImageTask

WHOLE = {"fashion-mnist-small": "fashion-mnist"}  # a bundled subset -> the dataset that it is a part of


def all_test_images(dataset: str, required: bool = False) -> str | None:
    """The name of the dataset with all test images of `dataset`, if it is on this machine; nothing is downloaded.

    None if `dataset` is no subset of another one. If the other one is missing, None, or InvalidValueError if `required`.
    """
    name = WHOLE.get(dataset)
    if name is None or download.where_present(name, datasets.dataset(name).files):
        return name
    if not required:
        return None
    fetched = f"auto or bundled: the dataset {name} is not on this machine (get it with: pwl-lab data fetch {name})"
    raise invalid("test_images", "all", fetched)


def tested_on(pair: Pair, task: ImageTask, whole: str) -> Pair:
    """The pair with the test columns of its tables, and `right`, from the test images of the dataset `whole`.

    Evaluated once: the store keeps the results beside the pair, under its key and the checksums of the images.

    Arguments:
    - `pair`: a trained pair.
    - `task`: its task; normalises the images.
    - `whole`: from `all_test_images`.
    """
    images, device = ImageTask(whole), next(pair.net.parameters()).device
    configuration = {"pair": pair.fingerprint, "images": images.fingerprint()}
    recipe = Recipe("tested", VERSIONS["tested"], with_own_code(configuration, images))

    def make() -> Artifact:
        raw = datasets.load(whole)["test"]
        inputs = task.normalise(torch.from_numpy(raw.images).to(device))  # as in training
        data = Batch(inputs, torch.from_numpy(raw.labels).long().to(device))
        scores = score_masks(pair.net, data)
        return Artifact({"right": scores.right}, cube_tables({"test": scores}, unit_bytes(pair.net.teacher), pair.seed))

    kept = Store().get(recipe, make)
    masks = pair.masks.assign(**{name: kept.tables["masks"][name] for name in ("test", "test_loss")})
    return replace(pair, masks=masks, classes=kept.tables["classes"], right=kept.tensors["right"])


def similarity(pair: Pair) -> pd.DataFrame:
    """`evaluation.boundary_similarity` on 512 bundled test images, beside an untrained student, with the pair's seed.

    The store keeps it under the pair's key; that of a pair without weights ships, as the pair does.
    """
    recipe = Recipe("similarity", VERSIONS["similarity"], {"pair": pair.fingerprint})

    def make() -> Artifact:
        device = str(next(pair.net.parameters()).device)
        inputs = pair.task.split("test", device).inputs[:512]
        untrained = build(pair.models[1], pair.seed, device, "student")
        return Artifact(tables={"similarity": evaluation.boundary_similarity(pair.net, inputs, untrained)})

    return beside(pair, recipe, make).tables["similarity"].assign(seed=pair.seed)


def beside(pair: Pair, recipe: Recipe, make: Callable[[], Artifact]) -> Artifact:
    """What is stored beside a pair: of one whose results ship, what ships. Where nothing may be made, it is not stored."""
    if without_weights(pair.net):
        with from_shipped():
            return Store().get(recipe, make)
    with suppress(NotMadeError):
        return Store().get(recipe, make)
    return make()
