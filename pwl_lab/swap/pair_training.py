"""PWL training (arXiv 2509.22319): student and converters beside a frozen teacher."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from pwl_lab.distill.curriculum import Curriculum, TeacherHidden
from pwl_lab.distill.losses import hard_loss, soft_loss, target_loss
from pwl_lab.distill.targets import Member, TeacherTargets, calibration_inputs
from pwl_lab.fast import folding, sped_up_by
from pwl_lab.models.blocknet import BlockNet
from pwl_lab.support.config import Frozen, MaskDistribution
from pwl_lab.support.errors import invalid
from pwl_lab.support.seeding import generator
from pwl_lab.swap.masks import random_masks
from pwl_lab.swap.pair_losses import boundaries, cross_loss, recon_loss, sync_loss
from pwl_lab.swap.swapnet import SwapNet
from pwl_lab.tasks.base import Batch, Task, accuracy
from pwl_lab.training import Learner, Losses, TrainedModel, predict


@dataclass(frozen=True)
class Pass:
    """What both networks of a pair make of a batch: every hidden state, and the logits."""

    batch: Batch
    teacher_states: Sequence[Tensor]
    teacher_logits: Float[Tensor, "batch classes"]
    student_states: Sequence[Tensor]
    student_logits: Float[Tensor, "batch classes"]


# The student's own loss at a step (from 0): the named terms, as they are, and what is minimised.
StudentObjective = Callable[[Pass, int], tuple[Losses, Float[Tensor, ""]]]


@dataclass(frozen=True)
class HardAndSoft:
    """`alpha * hard + (1 - alpha) * soft` (arXiv 2509.22319); the temperature is that of the soft loss."""

    alpha: float
    temperature: float

    def __call__(self, seen: Pass, step: int) -> tuple[Losses, Float[Tensor, ""]]:
        """Terms `hard` and `soft`; one of weight 0 is not computed."""
        terms: Losses = {}
        if self.alpha > 0:
            terms["hard"] = hard_loss(seen.student_logits, seen.batch.labels)
        if self.alpha < 1:
            terms["soft"] = soft_loss(seen.student_logits, seen.teacher_logits, self.temperature)
        weights = {"hard": self.alpha, "soft": 1 - self.alpha}
        return terms, torch.stack([weights[name] * value for name, value in terms.items()]).sum()


class FollowCurriculum:
    """The current stage of a curriculum, on the teacher states that the pair's training computes anyway.

    As in a cohort (`pwl_lab.distill.students`) a stage on the hidden state of block i trains the layers up to it.
    """

    def __init__(
        self,
        curriculum: Curriculum,
        teacher: TrainedModel,
        student_shapes: list[tuple[int, ...]],
        task: Task,
        seed: int,
        device: str,
    ) -> None:
        """Raises InvalidValueError for a block or a checkpoint that the teacher does not have, and for `trains="block"`.

        Arguments:
        - `curriculum`: the stages.
        - `teacher`: with the checkpoints that the stages ask for.
        - `student_shapes`: of the student's hidden states (`BlockNet.state_shapes`).
        - `task`, `seed`, `device`: of the inputs on which the projections are centred and scaled.
        """
        self.curriculum = curriculum.for_blocks(len(student_shapes))
        if any(stage.trains == "block" for stage in self.curriculum.stages):
            raise invalid("trains", "block", "reach: the student of a pair computes all of its blocks in one pass")
        self.targets = TeacherTargets(teacher, [Member("student", seed, self.curriculum)], student_shapes)
        if self.targets.seeds:
            self.targets.calibrate(calibration_inputs(task, seed, device))

    def __call__(self, seen: Pass, step: int) -> tuple[Losses, Float[Tensor, ""]]:
        """One term, named after the kind of the stage's target: `labels`, `output` or `hidden`."""
        target = self.curriculum.stage_at(step).target
        wanted = self.targets.look(seen.batch, {target}, (seen.teacher_states, seen.teacher_logits))
        ours = seen.student_logits
        if isinstance(target, TeacherHidden):
            ours = seen.student_states[target.in_block - 1]
        loss = target_loss(target, ours.unsqueeze(0), wanted[target])[0]  # a cohort of one
        return {target.kind: loss}, loss


class PairLossConfig(Frozen):
    """PWL training: the weights of the five terms (the defaults are the paper's), and how they are computed (ours)."""

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
    converter_lr: float = Field(1.0, gt=0.0, description="learning rate of the converters, as a share of the student's")
    student_joins_at: float = Field(
        0.0,
        ge=0.0,
        le=1.0,
        description="the share of the training from which on sync, recon and cross reach the student; before it they "
        "train the converters alone",
    )


@sped_up_by(folding.folded)
def frozen(teacher: BlockNet) -> BlockNet:
    """The teacher as training runs it: itself. Folding its batch norms gives the same values up to rounding."""
    return teacher


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
        """Raises InvalidValueError for masks that do not fit the net.

        Arguments:
        - `net`: its student and converters are trained.
        - `config`: weights and options of the loss.
        - `validation`: what the accuracies in the history are measured on.
        - `seed`: of the stream of cross masks.
        - `steps`: the plan's length.
        - `objective`: what the student learns for itself; hard and soft loss unless given.
        """
        self.freeze_norm_from = config.freeze_norm_at * steps
        self.student_joins_from, self.joined = config.student_joins_at * steps, config.student_joins_at == 0
        self.net, self.config, self.validation = net, config, validation
        self.passes = net.with_teacher(frozen(net.teacher))
        self.masks = random_masks(net.n_blocks, config.masks, generator(seed, "masks"))
        self.objective = objective or HardAndSoft(config.alpha, config.temperature)

    def parameter_groups(self, lr: float) -> list[dict[str, Any]]:
        """Student and converters, each with its own learning rate; nothing of the teacher."""
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
            teacher_states, teacher_logits = self.passes.teacher.hidden_states(batch.inputs)
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
        config, terms = self.config, {}
        between = boundaries(self.net.converters, seen.teacher_states, seen.student_states)
        if config.sync:
            terms["sync"] = sync_loss(between)
        if config.recon:
            terms["recon"] = recon_loss(self.net.converters, between)
        if config.cross:
            groups = min(config.cross_groups, len(seen.teacher_logits))
            rounds = config.cross_passes * len(seen.teacher_logits.chunk(groups))
            masks = list(islice(self.masks, rounds))
            terms["cross"] = cross_loss(self.passes, between, masks, seen.teacher_logits, config.temperature, groups)
        return terms

    def evaluate(self, step: int) -> list[dict[str, Any]]:
        """`accuracy` of the student on the validation split."""
        return [{"accuracy": accuracy(predict(self.net.student, self.validation.inputs), self.validation.labels)}]
