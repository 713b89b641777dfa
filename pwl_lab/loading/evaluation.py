"""What the masks of a `SwapNet` predict: accuracy of each mask, on the whole and class by class, and single predictions."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pwl_lab.loading.masks import all_masks, check_whole_cube
from pwl_lab.loading.swapnet import SwapNet, mask_logits
from pwl_lab.tasks.base import Batch
from pwl_lab.tasks.entrances import check_inputs, check_labels


@dataclass(frozen=True)
class MaskScores:
    """How many samples of each class each mask got right, from one pass over the data."""

    masks: tuple[str, ...]
    hits: Int[Tensor, "masks classes"]
    samples: Int[Tensor, " classes"]

    def accuracies(self) -> dict[str, float]:
        """Accuracy in [0, 1] of each mask over all samples."""
        total = int(self.samples.sum())
        return {mask: int(hits.sum()) / total for mask, hits in zip(self.masks, self.hits, strict=True)}

    def class_accuracies(self) -> dict[str, list[float]]:
        """Per mask, the accuracy in [0, 1] on the samples of each class; NaN for a class without any."""
        shares = (self.hits.double() / self.samples.double()).tolist()
        return dict(zip(self.masks, shares, strict=True))


def score_masks(net: SwapNet, data: Batch, masks: Sequence[str] | None = None, chunk: int = 512) -> MaskScores:
    """Each mask (all 2^n unless named) on `data`, `chunk` samples at a time.

    Raises InvalidValueError for a mask that is none, for the whole cube of more than `MOST_BLOCKS` blocks, and for data
    of another type or on another device than the networks.
    """
    masks = all_masks(check_whole_cube(net.n_blocks)) if masks is None else list(dict.fromkeys(masks))
    check_inputs(data.inputs, net=net)
    check_labels(data.labels, len(data))
    hits, samples = None, None
    for inputs, labels in zip(data.inputs.split(chunk), data.labels.split(chunk), strict=True):
        logits = torch.stack(list(mask_logits(net, inputs, masks).values()))
        right = logits.argmax(dim=-1) == labels
        # Products of whole numbers are computed as floats, which CUDA needs; a chunk's counts are exact in them.
        member = torch.nn.functional.one_hot(labels, logits.shape[-1]).float()
        found, present = (right.float() @ member).long(), member.sum(dim=0).long()
        hits, samples = (found, present) if hits is None else (hits + found, samples + present)
    return MaskScores(tuple(masks), hits.cpu(), samples.cpu())


def mask_accuracies(
    net: SwapNet, data: Batch, masks: Sequence[str] | None = None, chunk: int = 512
) -> dict[str, float]:
    """Accuracy in [0, 1] on `data` for each mask (all 2^n unless named); raises as `score_masks` does."""
    return score_masks(net, data, masks, chunk).accuracies()


def mask_class_accuracies(
    net: SwapNet, data: Batch, masks: Sequence[str] | None = None, chunk: int = 512
) -> dict[str, list[float]]:
    """Per mask (all 2^n unless named), the accuracy on each class of `data`; raises as `score_masks` does.

    Who wants both kinds of accuracy runs `score_masks` once.
    """
    return score_masks(net, data, masks, chunk).class_accuracies()


def mask_predictions(
    net: SwapNet, inputs: Tensor, masks: Sequence[str]
) -> tuple[Int[Tensor, "masks batch"], Float[Tensor, "masks batch"]]:
    """Predicted class and its probability for each mask and sample. Raises InvalidValueError as `score_masks` does."""
    check_inputs(inputs, net=net)
    logits = mask_logits(net, inputs, masks)
    probabilities = torch.stack([logits[mask] for mask in masks]).softmax(dim=-1)
    confidence, predicted = probabilities.max(dim=-1)
    return predicted, confidence
