"""A small pair of three blocks whose masks all have an accuracy, and what it predicts, without any training."""

import pandas as pd
import torch
from toys import MLP_STUDENT, MLP_TEACHER, ToyImages, as_trained

from pwl_lab.models import build
from pwl_lab.study import tables
from pwl_lab.study.recipes import SamplePredictions, StringPredictions, StringToken
from pwl_lab.study.results import Pair
from pwl_lab.swap.masks import all_masks
from pwl_lab.swap.swapnet import SwapNet


def rising(shift: float = 0.0) -> dict[str, float]:
    """An accuracy for every mask: 0.5 and a tenth for each teacher block."""
    return {mask: 0.5 + 0.1 * mask.count("T") + shift for mask in all_masks(3)}


def scored_pair() -> Pair:
    """A pair with these accuracies: 5, 6 and 7 bytes of teacher blocks, 9 of the student."""
    net = SwapNet(as_trained(MLP_TEACHER).model, build(MLP_STUDENT, 0), (6,)).eval()
    masks = tables.mask_table({"validation": rising(), "test": rising()}, [5, 6, 7], seed=0)
    nothing, unknown = pd.DataFrame(), torch.zeros(8, 0, dtype=torch.bool)
    return Pair(net, 0, nothing, masks, nothing, 18, 9, (MLP_TEACHER, MLP_STUDENT), ToyImages(), unknown)


def some_predictions() -> SamplePredictions:
    """Of three images: the first is always right, the second from the first teacher block on, the third never."""
    masks = all_masks(3)
    return SamplePredictions(
        images=torch.zeros(3, 8, 8, dtype=torch.uint8),
        labels=torch.tensor([0, 1, 0]),
        class_names=("cat", "dog"),
        probabilities={mask: as_sure_as([0, int("T" in mask), 1], [0.5, 0.75, 1.0]) for mask in masks},
    )


def some_strings() -> StringPredictions:
    """Four strings, of two predicted tokens each: of each, one is always right and the other from two blocks on."""
    tokens = [StringToken("a", None), StringToken("□", 0), StringToken("␣", 1)]
    strings = [[StringToken(s, n if n is None else n + 2 * i) for s, n in tokens] for i in range(4)]
    masks = all_masks(3)
    return StringPredictions(
        strings=tuple(map(tuple, strings)),
        labels=torch.tensor([0, 1] * 4),
        class_names=("a", "␣"),
        probabilities={mask: as_sure_as([0, int(mask.count("T") > 1)] * 4, [0.75] * 8) for mask in masks},
    )


def as_sure_as(predicted: list[int], confidence: list[float], n_classes: int = 2) -> torch.Tensor:
    """Probabilities whose largest one, for each image, is that of the class predicted; the others share what is left."""
    sure = torch.tensor(confidence)
    rest = ((1 - sure) / (n_classes - 1))[:, None].repeat(1, n_classes)
    return rest.scatter(1, torch.tensor(predicted)[:, None], sure[:, None])
