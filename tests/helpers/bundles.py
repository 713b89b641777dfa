"""Bundles of small pairs that were never trained, for tests of the loader."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor
from toys import LANGUAGE_STUDENT, LANGUAGE_TEACHER, PAIRS, samples_for, used

from pwl_lab.loading.bundle import BundleIndex, Inputs, write_bundle
from pwl_lab.models import build
from pwl_lab.swap.masks import all_masks
from pwl_lab.swap.swapnet import SwapNet, mask_logits

FAMILIES = PAIRS | {"language": (LANGUAGE_TEACHER, LANGUAGE_STUDENT, (9,))}


def pair_of(family: str) -> SwapNet:
    """A pair of three blocks, its batch norms as if it had been trained."""
    teacher, student, shape = FAMILIES[family]
    torch.manual_seed(0)
    return SwapNet(used(build(teacher, 1)), used(build(student, 2), 5), shape).eval()


def bundle_of(
    net: SwapNet, folder: Path, family: str = "vgg", accuracies: Mapping[str, float] | None = None
) -> BundleIndex:
    """Export the pair."""
    teacher, student, shape = FAMILIES[family]
    table = (
        {mask: 0.5 + 0.1 * mask.count("T") for mask in all_masks(net.n_blocks)} if accuracies is None else accuracies
    )
    return write_bundle(
        net, (teacher, student), folder, Inputs(shape=shape, n_tokens=net.n_tokens), "abc", {"validation": table}
    )


def inputs_for(family: str, samples: int = 5) -> Tensor:
    """Some samples."""
    teacher, _, shape = FAMILIES[family]
    return samples_for(teacher, samples, shape, torch.Generator().manual_seed(3))


def expected(net: SwapNet, inputs: Tensor) -> dict[str, Tensor]:
    """The logits of every mask, each computed alone."""
    with torch.no_grad():
        return {mask: mask_logits(net, inputs, [mask])[mask] for mask in all_masks(net.n_blocks)}
