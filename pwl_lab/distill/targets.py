"""What a teacher says about a batch: each output and each projected hidden state once, for a whole cohort."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from pwl_lab.distill.curriculum import Curriculum, TeacherHidden, TeacherOutput
from pwl_lab.distill.losses import teacher_probabilities
from pwl_lab.distill.projection import Projection, random_projection
from pwl_lab.errors import invalid
from pwl_lab.models.blocknet import BlockNet
from pwl_lab.tasks.base import Task
from pwl_lab.tasks.entrances import batches_of
from pwl_lab.tasks.sizes import CALIBRATION_BATCH
from pwl_lab.training import TrainedModel

CALIBRATION_SAMPLES = 2048


@dataclass(frozen=True)
class Member:
    """One student of a cohort: which curriculum it follows, from which seed."""

    name: str
    seed: int
    curriculum: Curriculum


class TeacherTargets:
    """The teacher's outputs and projected hidden states, as far as the members' curricula ask for them."""

    def __init__(self, teacher: TrainedModel, members: Sequence[Member], shapes: list[tuple[int, ...]]) -> None:
        """`shapes` are the student's hidden states. Raises InvalidValueError for a checkpoint the teacher has not."""
        self.final, self.shapes = teacher.model.eval().requires_grad_(False), shapes
        self.checkpoints: dict[TeacherOutput, BlockNet] = {}
        self.seeds: dict[TeacherHidden, list[int]] = {}  # of a projected state: whose students look at it
        for member, stage in ((one, stage) for one in members for stage in one.curriculum.stages):
            target = stage.target
            if isinstance(target, TeacherOutput) and not target.final:
                found = teacher.checkpoint(target.at_accuracy, target.at_step)
                self.checkpoints[target] = teacher.at(found)
            elif isinstance(target, TeacherHidden):
                self.seeds[target] = sorted({*self.seeds.get(target, ()), member.seed})
        self.projections: dict[TeacherHidden, Projection] = {}

    @torch.no_grad()
    def calibrate(self, inputs: Float[Tensor, "batch *shape"]) -> None:
        """Draw the projections of every seed and centre and scale them on the teacher's states for `inputs`."""
        states, _ = self.final.hidden_states(inputs)
        for target, seeds in self.seeds.items():
            block = target.block
            state, shape = states[block - 1], self.shapes[block - 1]
            if state.shape[2:] != torch.Size(shape[1:]):
                raise invalid(f"student state of block {block}", shape, f"the positions {tuple(state.shape[2:])}")
            width = target.width or shape[0]
            if width > shape[0]:
                raise invalid("width", width, f"from 1 to {shape[0]}, the student's units in block {block}")
            matrices = [random_projection(state.shape[1], width, seed, block, target.orthogonal) for seed in seeds]
            self.projections[target] = Projection.fit(
                torch.stack(matrices).to(state), state, target.centre, target.scale
            )

    def rows(self, target: TeacherHidden, seeds: Iterable[int]) -> list[int] | slice:
        """Where the projections of `seeds` stand in `look(...)[target]`; all of them in order: a slice, which copies nothing."""
        rows = [self.seeds[target].index(seed) for seed in seeds]
        return slice(None) if rows == list(range(len(self.seeds[target]))) else rows

    @torch.no_grad()
    def look(self, inputs: Float[Tensor, "batch *shape"], wanted: set) -> dict:
        """What the current stages want: class probabilities of outputs, projected hidden states of all seeds."""
        hidden = {target for target in wanted if isinstance(target, TeacherHidden)}
        outputs = {target for target in wanted if isinstance(target, TeacherOutput)}
        seen: dict = {}
        if hidden or any(target.final for target in outputs):
            states, logits = self.final.hidden_states(inputs)
            seen = {target: self.projections[target](states[target.block - 1]) for target in hidden}
        for target in outputs:
            said = logits if target.final else self.checkpoints[target](inputs)
            seen[target] = teacher_probabilities(said, target.temperature)
        return seen


def calibration_inputs(task: Task, data_seed: int, device: str) -> Float[Tensor, "batch *shape"]:
    """Training inputs to centre and scale the projections on; none of the evaluation splits is touched."""
    batches = batches_of(task, data_seed, CALIBRATION_BATCH, device, role="calibration")
    return torch.cat([next(batches).inputs for _ in range(CALIBRATION_SAMPLES // CALIBRATION_BATCH)])
