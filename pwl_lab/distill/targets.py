"""What a teacher says about a batch: each output and each projected hidden state once, for a whole cohort.

The projections are those of arXiv 2503.17494: for a hidden layer of `m` units and a student's of `r`, a fixed Gaussian `P`
(m x r, scaled 1/sqrt(m)) gives the target `P^T h(x)`. Centring, scaling and orthogonal columns are ours: the paper
leaves them open.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from pwl_lab.distill.curriculum import Curriculum, Labels, Target, TeacherHidden, TeacherOutput
from pwl_lab.distill.losses import teacher_probabilities
from pwl_lab.fast import projecting, sped_up_by
from pwl_lab.models.blocknet import BlockNet
from pwl_lab.support.errors import invalid
from pwl_lab.support.seeding import generator
from pwl_lab.tasks.base import Batch, Task, batches_of
from pwl_lab.tasks.checks import CALIBRATION_BATCH, CALIBRATION_SAMPLES
from pwl_lab.training import TrainedModel


def random_projection(
    teacher_width: int, student_width: int, seed: int, block: int = 1, orthogonal: bool = False
) -> Float[Tensor, "m r"]:
    """A Gaussian matrix with entries of variance 1/m, from the stream `projection` of `seed`.

    Raises InvalidValueError for a width below 1, and for orthogonal columns with `r > m`.

    Arguments:
    - `teacher_width`, `student_width`: `m` and `r`.
    - `seed`, `block`: each seed and each block (from 1) has a matrix of its own.
    - `orthogonal`: make the columns orthonormal.
    """
    if min(teacher_width, student_width, block) < 1:
        raise invalid("width", (teacher_width, student_width, block), "at least 1 unit on both sides, blocks from 1")
    if orthogonal and student_width > teacher_width:
        raise invalid(
            "width of the projection",
            student_width,
            f"at most {teacher_width}, the teacher's units in block {block}, when orthogonal; "
            "narrow it (width), take a wider teacher, or orthogonal=False",
        )
    random = generator(seed, "projection", f"block {block}")
    matrix = torch.randn(teacher_width, student_width, generator=random) / teacher_width**0.5
    columns: Tensor = torch.linalg.qr(matrix).Q if orthogonal else matrix
    return columns


@sped_up_by(projecting.project)
def project(
    state: Float[Tensor, "batch m *positions"], matrices: Float[Tensor, "members m r"]
) -> Float[Tensor, "members batch r *positions"]:
    """`P^T h` at every position, for the matrix `P` of each student."""
    return torch.stack([torch.einsum("bm...,mr->br...", state, matrix) for matrix in matrices])


@dataclass(frozen=True)
class Projection:
    """Fixed projections for several students at once: `target = P^T h - offset`, per student."""

    matrices: Float[Tensor, "members m r"]
    offsets: Float[Tensor, "members r"]

    @classmethod
    def fit(
        cls,
        matrices: Float[Tensor, "members m r"],
        states: Float[Tensor, "batch m *positions"],
        centre: bool = True,
        scale: bool = True,
    ) -> "Projection":
        """Centre each unit and scale all units together to standard deviation 1, as measured on `states`.

        One factor for all units keeps how much each of them says; a factor per unit would blow up the silent ones.

        Arguments:
        - `matrices`: one for each student, see `random_projection`.
        - `states`: the teacher's hidden states of many samples.
        - `centre`, `scale`: whether to do so.
        """
        means, factors = [], []
        for matrix in torch.split(matrices, 1):  # each on its own: sums over several students would round otherwise
            raw = project(states, matrix).transpose(1, 2).flatten(2)  # (1, r, batch * positions)
            mean = raw.mean(dim=2) if centre else torch.zeros_like(raw[:, :, 0])
            spread = (raw - mean.unsqueeze(2)).square().mean(dim=(1, 2)).sqrt()
            means.append(mean)
            factors.append(1 / spread.clamp_min(1e-8) if scale else torch.ones_like(spread))
        factor = torch.cat(factors).unsqueeze(1)  # (members, 1)
        return cls(projecting.laid_out_by_unit(matrices * factor.unsqueeze(2)), torch.cat(means) * factor)

    def __call__(self, state: Float[Tensor, "batch m *positions"]) -> Float[Tensor, "members batch r *positions"]:
        """Each student's target for the teacher's hidden state."""
        ones = (1,) * (state.dim() - 2)
        offsets = self.offsets.reshape(len(self.offsets), 1, -1, *ones)  # (members, 1, r, 1...)
        return project(state, self.matrices) - offsets


class Activations(NamedTuple):
    """What a network makes of a batch: the hidden state of each block, and the logits."""

    states: Sequence[Tensor]
    logits: Tensor

    def at(self, target: Target) -> Tensor:
        """What `target` compares: the hidden state of its block, or the logits."""
        return self.states[target.in_block - 1] if isinstance(target, TeacherHidden) else self.logits


@dataclass(frozen=True)
class Member:
    """One student of a cohort: which curriculum it follows, from which seed."""

    name: str
    seed: int
    curriculum: Curriculum


class TeacherTargets:
    """What the members' curricula ask for: labels, outputs and projected hidden states of the teacher."""

    def __init__(self, teacher: TrainedModel, members: Sequence[Member], shapes: list[tuple[int, ...]]) -> None:
        """Raises InvalidValueError for a checkpoint that the teacher does not have.

        Arguments:
        - `teacher`: with the checkpoints that are asked for.
        - `members`: the students; every block of their curricula is written out.
        - `shapes`: of the student's hidden states (`BlockNet.state_shapes`).
        """
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
            block = target.in_block
            state, shape = states[block - 1], self.shapes[block - 1]
            if state.shape[2:] != torch.Size(shape[1:]):
                raise invalid(f"student state of block {block}", shape, f"the positions {tuple(state.shape[2:])}")
            width = target.width or shape[0]
            if width > shape[0]:
                raise invalid("width", width, f"from 1 to {shape[0]}, the student's units in block {block}")
            drawn = [random_projection(state.shape[1], width, seed, block, target.orthogonal) for seed in seeds]
            self.projections[target] = Projection.fit(torch.stack(drawn).to(state), state, target.centre, target.scale)

    def rows(self, target: TeacherHidden, seeds: Iterable[int]) -> list[int] | slice:
        """Where the projections of `seeds` stand in `compute(...)[target]`; a slice where all are asked for in order."""
        rows = [self.seeds[target].index(seed) for seed in seeds]
        return slice(None) if rows == list(range(len(self.seeds[target]))) else rows

    @torch.no_grad()
    def compute(
        self, batch: Batch, targets: Collection[Target], known: Activations | None = None
    ) -> dict[Target, Tensor]:
        """What each target wants of the students: the batch's labels, the teacher's class probabilities, or its hidden
        state projected for every seed.

        Arguments:
        - `batch`: of inputs and labels.
        - `targets`: those of the current stages.
        - `known`: what the final teacher makes of the batch, where that is known already.
        """

        @cache  # one pass for all targets, and none where no target needs it
        def final() -> Activations:
            return known or Activations(*self.final.hidden_states(batch.inputs))

        wanted: dict[Target, Tensor] = {}
        for target in targets:
            if isinstance(target, Labels):
                wanted[target] = batch.labels
            elif isinstance(target, TeacherHidden):
                wanted[target] = self.projections[target](final().at(target))
            else:
                logits = final().logits if target.final else self.checkpoints[target](batch.inputs)
                wanted[target] = teacher_probabilities(logits, target.temperature)
        return wanted


def calibration_inputs(task: Task, data_seed: int, device: str) -> Float[Tensor, "batch *shape"]:
    """Training inputs to centre and scale the projections on; none of the evaluation splits is touched."""
    batches = batches_of(task, data_seed, CALIBRATION_BATCH, device, role="calibration")
    return torch.cat([next(batches).inputs for _ in range(CALIBRATION_SAMPLES // CALIBRATION_BATCH)])
