"""What the student of a pair learns for itself: the sources' hard and soft loss, or any curriculum."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from pwl_lab.distill.curriculum import Curriculum, TeacherHidden, TeacherOutput
from pwl_lab.distill.losses import cross_entropy_to, hard_loss, soft_loss, teacher_probabilities
from pwl_lab.distill.targets import Member, TeacherTargets, calibration_inputs
from pwl_lab.errors import invalid
from pwl_lab.tasks.base import Batch, Task
from pwl_lab.training import Losses, TrainedModel


@dataclass(frozen=True)
class Pass:
    """What both networks of a pair make of a batch: every hidden state, and the logits."""

    batch: Batch
    teacher_states: Sequence[Tensor]
    teacher_logits: Float[Tensor, "batch classes"]
    student_states: Sequence[Tensor]
    student_logits: Float[Tensor, "batch classes"]


class StudentObjective(ABC):
    """The student's own loss at a step."""

    @abstractmethod
    def __call__(self, seen: Pass, step: int) -> tuple[Losses, Float[Tensor, ""]]:
        """The named terms, as they are, and what is minimised."""


class HardAndSoft(StudentObjective):
    """`alpha * hard + (1 - alpha) * soft` (arXiv 2509.22319)."""

    def __init__(self, alpha: float, temperature: float) -> None:
        """`temperature` of the soft loss."""
        self.alpha, self.temperature = alpha, temperature

    def __call__(self, seen: Pass, step: int) -> tuple[Losses, Float[Tensor, ""]]:
        """Terms `hard` and `soft`; one of weight 0 is not computed."""
        terms: Losses = {}
        if self.alpha > 0:
            terms["hard"] = hard_loss(seen.student_logits, seen.batch.labels)
        if self.alpha < 1:
            terms["soft"] = soft_loss(seen.student_logits, seen.teacher_logits, self.temperature)
        return terms, self.alpha * terms.get("hard", 0.0) + (1 - self.alpha) * terms.get("soft", 0.0)


class FollowCurriculum(StudentObjective):
    """The current stage of a curriculum, on the teacher states that the pair's training computes anyway.

    As in a cohort (`pwl_lab.distill.learner`) a stage on the hidden state of block i trains the layers up to it.
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
        """Raises InvalidValueError for a block or a checkpoint that the teacher has not, and for `trains="block"`."""
        self.curriculum = curriculum.for_blocks(len(student_shapes))
        if any(stage.trains == "block" for stage in self.curriculum.stages):
            raise invalid("trains", "block", "reach: the student of a pair computes all of its blocks in one pass")
        self.targets = TeacherTargets(teacher, [Member("student", seed, self.curriculum)], student_shapes)
        if self.targets.seeds:
            self.targets.calibrate(calibration_inputs(task, seed, device))

    def __call__(self, seen: Pass, step: int) -> tuple[Losses, Float[Tensor, ""]]:
        """One term, named after the kind of the stage's target: `labels`, `output` or `hidden`."""
        target = self.curriculum.stage_at(step).target
        if isinstance(target, TeacherHidden):
            loss = self._hidden(target, seen)
        elif isinstance(target, TeacherOutput):
            loss = self._output(target, seen)
        else:
            loss = hard_loss(seen.student_logits, seen.batch.labels)
        return {target.kind: loss}, loss

    def _hidden(self, target: TeacherHidden, seen: Pass) -> Float[Tensor, ""]:
        """Weighted mean squared error to the projected hidden state."""
        wanted = self.targets.projections[target](seen.teacher_states[target.block - 1])[0]
        ours = seen.student_states[target.block - 1]
        ours = ours if target.width is None else ours[:, : target.width]
        return target.weight * (ours - wanted).square().mean()

    def _output(self, target: TeacherOutput, seen: Pass) -> Float[Tensor, ""]:
        """Cross-entropy to what the final teacher, or one of its checkpoints, says."""
        with torch.no_grad():
            logits = seen.teacher_logits if target.final else self.targets.checkpoints[target](seen.batch.inputs)
            said = teacher_probabilities(logits, target.temperature)
        return cross_entropy_to(seen.student_logits, said)
