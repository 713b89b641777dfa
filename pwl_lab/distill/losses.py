"""Distillation losses as pure functions of tensors; each returns one scalar (a mean over the batch).

Knowledge distillation with temperature as both papers use it. The distance between features stands in `features.py`.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from pwl_lab.support.errors import invalid


def hard_loss(logits: Float[Tensor, "batch classes"], labels: Int[Tensor, " batch"]) -> Float[Tensor, ""]:
    """Cross-entropy against the labels, in nats."""
    return F.cross_entropy(logits, labels)


def soft_loss(
    student: Float[Tensor, "batch classes"], teacher: Float[Tensor, "batch classes"], temperature: float = 1.0
) -> Float[Tensor, ""]:
    """`T^2 * KL(teacher || student)` of the softened distributions, in nats.

    The factor keeps the size of the gradient when `T` changes (Hinton, Vinyals and Dean 2015; arXiv 2509.22319).
    Raises InvalidValueError for a temperature that is not above 0.
    """
    if temperature <= 0:
        raise invalid("temperature", temperature, "above 0; use teacher_probabilities for the limit 0")
    divergence = F.kl_div(
        F.log_softmax(student / temperature, dim=-1),
        F.log_softmax(teacher / temperature, dim=-1),
        reduction="batchmean",
        log_target=True,
    )
    return temperature**2 * divergence


def teacher_probabilities(
    logits: Float[Tensor, "*batch classes"], temperature: float = 1.0
) -> Float[Tensor, "*batch classes"]:
    """The teacher's output as a target; temperature 0 gives its hard decision (one-hot).

    arXiv 2503.17494: with the temperature towards 0 the output says no more than the label does.
    """
    if temperature < 0:
        raise invalid("temperature", temperature, "0 (hard decisions) or above")
    if temperature == 0:
        return F.one_hot(logits.argmax(dim=-1), logits.shape[-1]).to(logits.dtype)
    return (logits / temperature).softmax(dim=-1)


def cross_entropy_to(
    logits: Float[Tensor, "*batch classes"], target: Float[Tensor, "*#batch classes"]
) -> Float[Tensor, "*members"]:
    """Cross-entropy against target probabilities, in nats, averaged over the batch (the last but one dimension)."""
    return -(target * logits.log_softmax(dim=-1)).sum(dim=-1).mean(dim=-1)


def mean_of(terms: list[Float[Tensor, ""]]) -> Float[Tensor, ""]:
    """The average of several terms (one per boundary)."""
    return torch.stack(terms).mean()
