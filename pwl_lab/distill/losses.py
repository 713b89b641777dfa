"""Distillation losses as pure functions of tensors, and the loss for each kind of curriculum target."""

import torch
from jaxtyping import Float, Shaped
from torch import Tensor
from torch.nn import functional as F

from pwl_lab.distill.curriculum import Labels, OwnTarget, Target, TeacherHidden
from pwl_lab.models.blocknet import real_tokens
from pwl_lab.support.errors import invalid
from pwl_lab.support.own_code import located, naming


def target_loss(
    target: Target, ours: Float[Tensor, "members batch _ *_"], wanted: Shaped[Tensor, "*_"], pads: bool = False
) -> Float[Tensor, " members"]:
    """The loss of each student in a cohort for `target`. A single student is a cohort of one.

    Arguments:
    - `target`: the target of the current stage; a hidden one has a single block.
    - `ours`: each student's hidden state in the target's block, or its logits for any other target (`scored`).
    - `wanted`: the result of `TeacherTargets.compute` for the target: the labels, the teacher's class probabilities,
      its hidden state projected for each student, or what a target of the reader's own says.
    - `pads`: whether hidden states are zero at padded positions (`BlockNet.pads`), which then do not count.

    Raises InvalidValueError if a target of the reader's own gives anything but a number for each student.
    """
    if isinstance(target, OwnTarget):
        with naming(type(target).loss):
            losses = [target.loss(one, wanted) for one in ours]
        if not all(isinstance(loss, Tensor) and loss.dim() == 0 for loss in losses):
            one = losses[0]
            seen = f"Tensor of shape {list(one.shape)}" if isinstance(one, Tensor) else type(one).__name__
            raise invalid(located(type(target).loss), seen, "a tensor with one number, such as a mean")
        return torch.stack(losses)
    if isinstance(target, TeacherHidden):
        difference = fine(ours[:, :, : target.width]) - fine(wanted)  # (members, batch, channels, *positions)
        loss = target.weight * difference.square().mean(dim=tuple(range(1, difference.dim())))
        return loss / real_share(wanted[0]) if pads else loss
    if isinstance(target, Labels):
        wanted = F.one_hot(wanted, ours.shape[-1]).to(ours.dtype)  # (batch, classes)
    return cross_entropy_to(ours, wanted)


def fine(values: Tensor) -> Tensor:
    """In float32 at least: under autocast logits and states have eight bits, and on a CPU not every loss casts them."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def real_share(state: Float[Tensor, "batch channels tokens"]) -> Float[Tensor, ""]:
    """The fraction of positions that are not padded; a mean over all positions, divided by it, is one over real tokens."""
    return real_tokens(state).to(state.dtype).mean().clamp_min(torch.finfo(state.dtype).tiny)


def soft_loss(
    student: Float[Tensor, "batch classes"], teacher: Float[Tensor, "batch classes"], temperature: float = 1.0
) -> Float[Tensor, ""]:
    """`T^2 * KL(teacher || student)` between the softened distributions, in nats.

    The factor keeps the gradient's magnitude independent of `T` (Hinton, Vinyals and Dean 2015; arXiv 2509.22319).
    Raises InvalidValueError unless the temperature is above 0.

    Arguments:
    - `student`, `teacher`: logits.
    - `temperature`: the divisor of both.
    """
    if temperature <= 0:
        raise invalid("temperature", temperature, "above 0; use teacher_probabilities for the limit 0")
    if not len(student):
        return student.sum()  # a group of strings without a scored token
    divergence = F.kl_div(
        F.log_softmax(fine(student) / temperature, dim=-1),  # (batch, classes)
        F.log_softmax(fine(teacher) / temperature, dim=-1),  # (batch, classes)
        reduction="batchmean",
        log_target=True,
    )
    return temperature**2 * divergence


def teacher_probabilities(
    logits: Float[Tensor, "*batch classes"], temperature: float = 1.0
) -> Float[Tensor, "*batch classes"]:
    """The teacher's output as a target; temperature 0 gives its hard decision (one-hot).

    As the temperature goes to 0 the output says no more than the label does (arXiv 2503.17494).
    Raises InvalidValueError for a negative temperature.
    """
    if temperature < 0:
        raise invalid("temperature", temperature, "0 (hard decisions) or above")
    if temperature == 0:
        return F.one_hot(logits.argmax(dim=-1), logits.shape[-1]).to(logits.dtype)
    return (fine(logits) / temperature).softmax(dim=-1)


def cross_entropy_to(
    logits: Float[Tensor, "*members batch classes"], target: Float[Tensor, "*#members batch classes"]
) -> Float[Tensor, "*members"]:
    """Cross-entropy against target probabilities, in nats, averaged over the batch (the last but one dimension).

    It is 0 for an empty batch: strings without a scored token.
    """
    terms = -(fine(target) * fine(logits).log_softmax(dim=-1)).sum(dim=-1)
    return terms.mean(dim=-1) if terms.shape[-1] else terms.sum(dim=-1)
