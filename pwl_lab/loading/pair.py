"""PWL training: a student and its converters learn beside a frozen teacher, so that any mix of their blocks predicts.

Source: arXiv 2509.22319, its five losses; which cross masks are drawn, how batch norms run in a mixed pass and the
clipping are ours (docs/decisions.md).
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from pwl_lab.config import Frozen, MaskDistribution
from pwl_lab.distill.losses import feature_distance, mean_of, soft_loss
from pwl_lab.loading.masks import random_masks
from pwl_lab.loading.objective import HardAndSoft, Pass, StudentObjective
from pwl_lab.loading.swapnet import SwapNet
from pwl_lab.seeding import generator
from pwl_lab.tasks.base import Batch, accuracy
from pwl_lab.training import Learner, Losses, predict


class PairLossConfig(Frozen):
    """PWL training: the weights of the five terms (the defaults are the sources'), and how they are computed (ours)."""

    alpha: float = Field(0.4, ge=0.0, le=1.0, description="share of the hard loss; the soft loss has the rest")
    temperature: float = Field(2.0, gt=0.0, description="of the soft and the cross loss")
    sync: float = Field(1.0, ge=0.0, description="weight of the synchronisation loss")
    recon: float = Field(1.0, ge=0.0, description="weight of the reconstruction loss")
    cross: float = Field(2.0, ge=0.0, description="weight of the cross loss")
    masks: MaskDistribution = Field("all", description="how the cross loss draws its swap masks")
    cross_passes: int = Field(2, ge=1, le=16, description="passes of the batch through mixed networks, per step")
    cross_groups: int = Field(
        4, ge=1, le=64, description="each pass splits its batch into so many groups, each with a mask of its own"
    )
    converters: Literal["always", "if_different"] = Field(
        "always", description="a converter at every boundary, or only where the channels differ"
    )
    freeze_norm_at: float = Field(
        0.6,
        ge=0.0,
        le=1.0,
        description="from this share of the training on, the student's batch norms keep their statistics",
    )
    converter_lr: float = Field(1.0, gt=0.0, description="step size of the converters, as a share of the student's")
    student_joins_at: float = Field(
        0.0,
        ge=0.0,
        le=1.0,
        description="the share of the training from which on sync, recon and cross reach the student; before it they "
        "train the converters alone",
    )


def sync_loss(net: SwapNet, teacher_states: Sequence[Tensor], student_states: Sequence[Tensor]) -> Float[Tensor, ""]:
    """Each network's state, converted, against the other's; averaged over the boundaries (arXiv 2509.22319)."""
    return mean_of(
        [
            feature_distance(net.converters.encode(teacher, boundary), student)
            + feature_distance(net.converters.decode(student, boundary), teacher)
            for boundary, teacher, student in _boundaries(teacher_states, student_states)
        ]
    )


def recon_loss(net: SwapNet, teacher_states: Sequence[Tensor], student_states: Sequence[Tensor]) -> Float[Tensor, ""]:
    """Each state against itself, converted there and back; averaged over the boundaries (arXiv 2509.22319)."""
    encode, decode = net.converters.encode, net.converters.decode
    return mean_of(
        [
            feature_distance(decode(encode(teacher, boundary), boundary), teacher)
            + feature_distance(encode(decode(student, boundary), boundary), student)
            for boundary, teacher, student in _boundaries(teacher_states, student_states)
        ]
    )


def _boundaries(teacher_states: Sequence[Tensor], student_states: Sequence[Tensor]) -> list[tuple[int, Tensor, Tensor]]:
    """(boundary, teacher state, student state) for every block but the last, counted from 1."""
    pairs = zip(teacher_states, student_states, strict=True)
    return [(i, t, s) for i, (t, s) in enumerate(pairs, start=1) if i < len(teacher_states)]


def cross_loss(
    net: SwapNet,
    mask: str,
    teacher_states: Sequence[Tensor],
    student_states: Sequence[Tensor],
    teacher_logits: Float[Tensor, "batch classes"],
    temperature: float,
) -> Float[Tensor, ""]:
    """`T^2 * KL(teacher || the network that mask describes)`, mean over the batch.

    The leading blocks of one owner are not computed again: the mixed network goes on from the state they gave out.
    """
    done = len(mask) - len(mask.lstrip(mask[0]))
    states = teacher_states if mask[0] == "T" else student_states
    with net.student_on_running_statistics():
        logits = net.run_from(states[done - 1], done, mask)
    return soft_loss(logits, teacher_logits, temperature)


class PairLearner(Learner):
    """Student and converters of a `SwapNet`; every term of its loss is named."""

    def __init__(
        self,
        net: SwapNet,
        config: PairLossConfig,
        validation: Batch,
        seed: int,
        steps: int,
        objective: StudentObjective | None = None,
    ) -> None:
        """`seed` gives the stream of cross masks; `validation` the accuracies in the history; `steps` the plan's length.

        `objective` is what the student learns for itself: hard and soft loss unless given.
        """
        self.freeze_norm_from = config.freeze_norm_at * steps
        self.student_joins_from, self.joined = config.student_joins_at * steps, config.student_joins_at == 0
        self.net, self.config, self.validation = net, config, validation
        self.masks = random_masks(net.n_blocks, config.masks, generator(seed, "masks"))
        self.objective = objective or HardAndSoft(config.alpha, config.temperature)

    def parameter_groups(self, lr: float) -> list[dict[str, Any]]:
        """Student and converters, each with its own step size; nothing of the teacher."""
        return [
            {"params": list(self.net.student.parameters()), "lr": lr},
            {"params": list(self.net.converters.parameters()), "lr": lr * self.config.converter_lr},
        ]

    def clip_gradients(self, largest: float, optimiser: torch.optim.Optimizer) -> None:
        """Student and converters as one; before PWL joins the student, each alone, so that nothing of it reaches the student."""
        if self.joined:
            super().clip_gradients(largest, optimiser)
            return
        for group in optimiser.param_groups:
            nn.utils.clip_grad_norm_(group["params"], largest)

    def losses(self, batch: Batch, step: int) -> Losses:
        """The student's own terms (`hard` and `soft`), `sync`, `recon`, `cross` as they are, and `total` with weights."""
        net = self.net.train()
        if step >= self.freeze_norm_from:
            net.student_norms(training=False)
        with torch.no_grad():
            teacher_states, teacher_logits = net.teacher.hidden_states(batch.inputs)
        student_states, student_logits = net.student.hidden_states(batch.inputs)
        seen = Pass(batch, teacher_states, teacher_logits, student_states, student_logits)
        terms, total = self.objective(seen, step)
        self.joined = step >= self.student_joins_from
        if self.joined:
            mixed = self._mixed_terms(seen)
        else:
            with net.student_left_alone():
                mixed = self._mixed_terms(replace(seen, student_states=[state.detach() for state in student_states]))
        for name, value in mixed.items():
            total = total + getattr(self.config, name) * value
        return terms | mixed | {"total": total}

    def _mixed_terms(self, seen: Pass) -> Losses:
        """`sync`, `recon` and `cross`. One of weight 0 is not computed: an ablation should show what that saves."""
        terms, states = {}, (seen.teacher_states, seen.student_states)
        if self.config.sync:
            terms["sync"] = sync_loss(self.net, *states)
        if self.config.recon:
            terms["recon"] = recon_loss(self.net, *states)
        if self.config.cross:
            terms["cross"] = self._cross(*states, seen.teacher_logits)
        return terms

    def _cross(
        self, teacher_states: Sequence[Tensor], student_states: Sequence[Tensor], teacher_logits: Tensor
    ) -> Float[Tensor, ""]:
        """The mean cross loss over all passes and groups, each with the next mask.

        The groups of a pass cost what one mask for the whole batch would, and tell the student of several masks at once.
        """
        config, groups = self.config, min(self.config.cross_groups, len(teacher_logits))
        parts = [[state.chunk(groups) for state in states] for states in (teacher_states, student_states)]
        logits = teacher_logits.chunk(groups)
        losses = [
            cross_loss(
                self.net,
                next(self.masks),
                *([state[group] for state in states] for states in parts),
                logits[group],
                config.temperature,
            )
            for _ in range(config.cross_passes)
            for group in range(len(logits))
        ]
        return mean_of(losses)

    def evaluate(self, step: int) -> list[dict[str, Any]]:
        """`accuracy` of the student on the validation split."""
        return [{"accuracy": accuracy(predict(self.net.student, self.validation.inputs), self.validation.labels)}]
