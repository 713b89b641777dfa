"""The accuracy of every mask of a pair, and the similarity of hidden states at each boundary."""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
import torch
from jaxtyping import Bool, Float, Int, Num
from torch import Tensor

from pwl_lab.models.blocknet import BlockNet
from pwl_lab.support.errors import invalid
from pwl_lab.support.rows import evaluating
from pwl_lab.support.timing import phase
from pwl_lab.swap.masks import all_masks, check_whole_cube
from pwl_lab.swap.swapnet import SwapNet, mask_logits
from pwl_lab.tasks.base import Batch, at_once, check_inputs, check_labels, scored


@dataclass(frozen=True)
class MaskScores:
    """Which samples each mask got right, and how many of each class, from one pass over the data.

    If each token has a label, the samples are the scored tokens. `nats` is the sum of the cross-entropy over them.
    """

    masks: tuple[str, ...]
    hits: Int[Tensor, "masks classes"]
    samples: Int[Tensor, " classes"]
    nats: Float[Tensor, " masks"]
    right: Bool[Tensor, "masks samples"]

    def accuracies(self) -> dict[str, float]:
        """The accuracy of each mask over all samples, in [0, 1]."""
        total = int(self.samples.sum())
        return {mask: int(hits.sum()) / total for mask, hits in zip(self.masks, self.hits, strict=True)}

    def losses(self) -> dict[str, float]:
        """The mean cross-entropy of each mask over all samples, in nats; its exponential is the perplexity."""
        return dict(zip(self.masks, (self.nats / self.samples.sum()).tolist(), strict=True))

    def class_accuracies(self) -> dict[str, list[float]]:
        """Per mask, the accuracy on each class, in [0, 1]; NaN for a class without samples."""
        shares = (self.hits.double() / self.samples.double()).tolist()
        return dict(zip(self.masks, shares, strict=True))


@phase("evaluation")
def score_masks(net: SwapNet, data: Batch, masks: Sequence[str] | None = None, chunk: int = 512) -> MaskScores:
    """Evaluate masks on `data`, in one pass.

    Raises InvalidValueError for an invalid mask, for all masks of more than `MOST_BLOCKS` blocks, and for data whose
    type or device differs from the networks'.

    Arguments:
    - `net`: the pair.
    - `data`: inputs and labels.
    - `masks`: the masks to evaluate; by default all 2^n.
    - `chunk`: how many samples to compute at once; of long strings fewer are.
    """
    masks = all_masks(check_whole_cube(net.n_blocks)) if masks is None else list(dict.fromkeys(masks))
    check_inputs(data.inputs, net=net)
    check_labels(data.labels, data.inputs)
    hits, samples, nats = torch.tensor(0), torch.tensor(0), torch.zeros(len(masks), dtype=torch.float64)
    parts: list[Tensor] = []
    chunk = at_once(data.inputs, chunk)
    for inputs, labels in zip(torch.split(data.inputs, chunk), torch.split(data.labels, chunk), strict=True):
        logits = scored(torch.stack(list(mask_logits(net, inputs, masks).values())), labels)
        labels = scored(labels, labels)
        right = logits.argmax(dim=-1) == labels
        # CUDA has no integer matrix product, so this one uses floats, which represent a chunk's counts exactly.
        member = torch.nn.functional.one_hot(labels, logits.shape[-1]).float()
        hits = hits + (right.float() @ member).long().cpu()  # (masks, classes)
        samples = samples + member.sum(dim=0).long().cpu()  # (classes)
        parts.append(right.cpu())
        nats = nats - (logits.log_softmax(dim=-1) * member).sum(dim=(1, 2)).double().cpu()  # (masks)
    return MaskScores(tuple(masks), hits, samples, nats, torch.cat(parts, dim=1))


@phase("evaluation")
def mask_probabilities(
    net: SwapNet, inputs: Tensor, masks: Sequence[str]
) -> Float[Tensor, "masks batch *tokens classes"]:
    """The probability of each class, per mask and sample. Raises InvalidValueError as `score_masks` does."""
    check_inputs(inputs, net=net)
    logits = mask_logits(net, inputs, masks)
    return torch.stack([logits[mask] for mask in masks]).softmax(dim=-1)


def linear_cka(x: Float[Tensor, "batch *left"], y: Float[Tensor, "as_many *right"]) -> float:
    """Linear centred kernel alignment, in [0, 1] (Kornblith et al. 2019, arXiv 1905.00414, section 3).

    All dimensions after the batch are features, centred over the batch: `|Y'X|^2 / (|X'X| |Y'Y|)` in Frobenius norms.
    It is 1 if the two are equal up to a rotation, a shift and a common scale, and near 0 for unrelated features if the
    batch is much larger than their number (a small batch biases it upwards). NaN if one of them does not vary. Raises
    InvalidValueError if the samples differ in number or are fewer than 2.
    """
    if len(x) != len(y) or len(x) < 2:
        raise invalid("samples", (len(x), len(y)), "the same number in both, at least 2")
    x, y = (state.flatten(1) - state.flatten(1).mean(dim=0) for state in (x, y))
    return (_overlap(x, y) / (_overlap(x, x) * _overlap(y, y)).sqrt()).item()


def _overlap(x: Float[Tensor, "batch left"], y: Float[Tensor, "batch right"]) -> Float[Tensor, ""]:
    """`|Y'X|^2`, computed over features or over samples, whichever is smaller."""
    if len(x) < max(x.shape[1], y.shape[1]):
        return ((x @ x.T) * (y @ y.T)).sum()
    return (y.T @ x).square().sum()


def unexplained(converted: Float[Tensor, "batch *shape"], wanted: Float[Tensor, "batch *shape"]) -> float:
    """`|converted - wanted|^2 / |wanted - its mean over the batch|^2`: 0 is exact, 1 is no better than the mean.

    Unlike CKA, it is sensitive to scale: a state with the wrong scale is of no use to the next block.
    """
    spread = (wanted - wanted.mean(dim=0)).square().sum()
    return ((converted - wanted).square().sum() / spread).item()


@phase("evaluation")
@torch.no_grad()
def boundary_similarity(
    net: SwapNet, inputs: Num[Tensor, "batch *shape"], untrained: BlockNet | None = None
) -> pd.DataFrame:
    """One row per boundary and direction (`encoder`: teacher to student, `decoder`: student to teacher).

    `before` is the CKA between the two raw states (the same in both directions), `after` the CKA between the converted
    state and the state it replaces, `unexplained` the share of the replaced state's variance that the converted state
    misses. All networks are in eval mode.

    Arguments:
    - `net`: the pair.
    - `inputs`: a few hundred are enough; their pairwise products are kept in memory.
    - `untrained`: an untrained student; adds a column `untrained`, the CKA between the teacher's state and its state,
      which is what any network would show, since both see the same inputs.
    """
    with evaluating(net), evaluating(untrained or net):
        teachers, students = (owner.hidden_states(inputs)[0] for owner in (net.teacher, net.student))
        floor = untrained and untrained.hidden_states(inputs)[0]
        rows = []
        for boundary, (teacher, student) in enumerate(list(zip(teachers, students, strict=True))[:-1], start=1):
            both = {"before": linear_cka(teacher, student)}
            least = {"untrained": linear_cka(teacher, floor[boundary - 1])} if floor else {}
            for direction, converted, wanted in (
                ("encoder", net.converters.encode(teacher, boundary), student),
                ("decoder", net.converters.decode(student, boundary), teacher),
            ):
                found = {"after": linear_cka(converted, wanted), "unexplained": unexplained(converted, wanted)}
                rows.append({"boundary": boundary, "direction": direction} | both | found | least)
    return pd.DataFrame(rows)
