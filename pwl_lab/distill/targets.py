"""The teacher's targets for a batch: each output and projected hidden state, computed once for a whole cohort.

The projections are those of arXiv 2503.17494: for a hidden layer of `m` units in the teacher and `r` in the student, a
fixed Gaussian `P` (m x r, scaled by 1/sqrt(m)) gives the target `P^T h(x)`. Centring, scaling and orthogonal columns
are our choice: the paper leaves them open.
"""

import warnings
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Num
from torch import Tensor

from pwl_lab.distill.curriculum import Curriculum, Labels, OwnTarget, Target, TeacherHidden, TeacherOutput, blocks_of
from pwl_lab.distill.losses import teacher_probabilities
from pwl_lab.fast import projecting, sped_up_by
from pwl_lab.models.blocknet import BlockNet, real_tokens
from pwl_lab.support.errors import invalid
from pwl_lab.support.own_code import naming
from pwl_lab.support.seeding import generator
from pwl_lab.tasks.base import Batch, Task, at_once, batches_of, scored
from pwl_lab.tasks.checks import CALIBRATION_BATCH, CALIBRATION_SAMPLES
from pwl_lab.training import Checkpoint, TrainedModel


def random_projection(
    teacher_width: int, student_width: int, seed: int, block: int = 1, orthogonal: bool = False
) -> Float[Tensor, "m r"]:
    """A Gaussian matrix with entries of variance 1/m, from the stream `projection` of `seed`.

    Raises InvalidValueError for a width below 1, and for orthogonal columns with `r > m`.

    Arguments:
    - `teacher_width`, `student_width`: `m` and `r`.
    - `seed`, `block`: each seed and each block (from 1) has its own matrix.
    - `orthogonal`: make the columns orthonormal.
    """
    if min(teacher_width, student_width, block) < 1:
        raise invalid("width", (teacher_width, student_width, block), "at least 1 unit on both sides, blocks from 1")
    if orthogonal and student_width > teacher_width:
        raise invalid(
            "width of the projection",
            student_width,
            f"at most {teacher_width}, the teacher's units in block {block}, with orthogonal columns; "
            "reduce width, use a wider teacher, or set orthogonal=False",
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
        real: Bool[Tensor, "batch tokens"] | None = None,
    ) -> "Projection":
        """Centre each unit and scale all units together to standard deviation 1, as measured on `states`.

        One factor for all units preserves their relative variance; a factor per unit would amplify the quiet ones.

        Arguments:
        - `matrices`: one for each student (see `random_projection`).
        - `states`: the teacher's hidden states of many samples.
        - `centre`, `scale`: whether to apply each.
        - `real`: which positions hold a token; the others are not measured.
        """
        means, factors = [], []
        for matrix in torch.split(matrices, 1):  # one at a time: sums over several students would round differently
            raw = project(states, matrix).transpose(1, 2).flatten(2)  # (1, r, batch * positions)
            raw = raw if real is None else raw[:, :, real.flatten()]
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
    """A network's activations for a batch: the hidden state of each block, and the logits."""

    states: Sequence[Tensor]
    logits: Tensor

    def at(self, target: Target) -> Tensor:
        """The activation that `target` is about: the hidden state of its one block, or the logits."""
        blocks = blocks_of(target)
        return self.states[blocks[0] - 1] if blocks else self.logits


@dataclass(frozen=True)
class Member:
    """One student of a cohort: its curriculum, its seed, and its learning rate where that is not the plan's."""

    name: str
    seed: int
    curriculum: Curriculum
    lr: float | None = None


class TeacherTargets:
    """The targets in the members' curricula: labels, outputs and projected hidden states of the teacher."""

    def __init__(self, teacher: TrainedModel, members: Sequence[Member], shapes: list[tuple[int, ...]]) -> None:
        """Raises InvalidValueError for a checkpoint that the teacher does not have.

        Arguments:
        - `teacher`: a trained teacher with the checkpoints that the curricula need.
        - `members`: the students; every block of their curricula is set (see `Curriculum.for_blocks`).
        - `shapes`: the shapes of the student's hidden states (`BlockNet.state_shapes`).
        """
        self.final, self.shapes = teacher.model.eval().requires_grad_(False), shapes
        self.checkpoints: dict[TeacherOutput, BlockNet] = {}
        self.pads = self.final.pads
        self.seeds: dict[TeacherHidden, list[int]] = {}  # for each projected state, the seeds that use it
        stages = ((member, stage) for member in members for stage in member.curriculum.stages)
        for member, target in ((member, target) for member, stage in stages for target in stage.targets):
            if isinstance(target, TeacherOutput) and not target.final:
                found = teacher.checkpoint(target.at_accuracy, target.at_step)
                if target not in self.checkpoints and _is_final(teacher, found):
                    _warn_of_final(member, target, found)
                self.checkpoints[target] = teacher.at(found)
            elif isinstance(target, TeacherHidden):
                self.seeds[target] = sorted({*self.seeds.get(target, ()), member.seed})
        self.projections: dict[TeacherHidden, Projection] = {}

    @torch.no_grad()
    def calibrate(self, inputs: Num[Tensor, "batch *shape"]) -> None:
        """Draw the projections of every seed; centre and scale them on the teacher's states for `inputs`."""
        parts = [self.final.hidden_states(part)[0] for part in torch.split(inputs, at_once(inputs, len(inputs)))]
        for target, seeds in self.seeds.items():
            block = target.blocks[0]
            of_parts, shape = [states[block - 1] for states in parts], self.shapes[block - 1]
            state = of_parts[0] if len(of_parts) == 1 else torch.cat(of_parts)  # `cat` would change the memory layout
            if state.shape[2:] != torch.Size(shape[1:]):
                raise invalid(f"student state of block {block}", shape, f"the positions {tuple(state.shape[2:])}")
            width = target.width or shape[0]
            if width > shape[0]:
                raise invalid("width", width, f"from 1 to {shape[0]}, the student's units in block {block}")
            drawn = [random_projection(state.shape[1], width, seed, block, target.orthogonal) for seed in seeds]
            matrices, real = torch.stack(drawn).to(state), real_tokens(state) if self.pads else None
            self.projections[target] = Projection.fit(matrices, state, target.centre, target.scale, real)

    def rows(self, target: TeacherHidden, seeds: Iterable[int]) -> list[int] | slice:
        """The indices of `seeds` in `compute(...)[target]`; a slice if all are requested in order."""
        rows = [self.seeds[target].index(seed) for seed in seeds]
        return slice(None) if rows == list(range(len(self.seeds[target]))) else rows

    @torch.no_grad()
    def compute(
        self, batch: Batch, targets: Collection[Target], known: Activations | None = None
    ) -> dict[Target, Tensor]:
        """What the students should match, per target: the batch's labels, the teacher's class probabilities, its hidden
        state projected for every seed, or what a target of the reader's own says.

        Labels and probabilities are those of `scored` labels; a projected state is zero at padded positions.

        Arguments:
        - `batch`: inputs and labels.
        - `targets`: the targets of the current stages; hidden ones have a single block (`Stage.targets`).
        - `known`: the final teacher's activations for the batch, if they are already computed.
        """

        @cache  # one forward pass for all targets, and none if no target needs it
        def final() -> Activations:
            return known or Activations(*self.final.hidden_states(batch.inputs))

        wanted: dict[Target, Tensor] = {}
        for target in targets:
            if isinstance(target, Labels):
                wanted[target] = scored(batch.labels, batch.labels)
            elif isinstance(target, TeacherHidden):
                state = final().at(target)
                projected = self.projections[target](state)
                wanted[target] = projected * real_tokens(state).unsqueeze(1) if self.pads else projected
            elif isinstance(target, OwnTarget):
                given = final().states, scored(final().logits, batch.labels)
                with naming(type(target).wanted):
                    wanted[target] = target.wanted(*given)
            else:
                logits = final().logits if target.final else self.checkpoints[target](batch.inputs)
                wanted[target] = teacher_probabilities(scored(logits, batch.labels), target.temperature)
        return wanted


def _is_final(teacher: TrainedModel, checkpoint: Checkpoint) -> bool:
    """Whether a checkpoint has the final teacher's weights."""
    final = teacher.model.state_dict()
    return all(torch.equal(tensor, final[name].cpu()) for name, tensor in checkpoint.state.items())


def _warn_of_final(member: Member, target: TeacherOutput, checkpoint: Checkpoint) -> None:
    """Warn about a curriculum whose checkpoint shows nothing that the final teacher does not show."""
    warnings.warn(
        f"{member.name}: its {target} (step {checkpoint.step}, {checkpoint.accuracy:.1%}) is the final teacher, so this "
        "stage is no step on the way. Choose an earlier checkpoint (at_accuracy, at_step), keep more of them (a smaller "
        "eval_every of the teacher), or train the teacher longer (saturation).",
        stacklevel=2,
    )


def calibration_inputs(task: Task, data_seed: int, device: str) -> Num[Tensor, "batch *shape"]:
    """Training inputs for centring and scaling the projections; no evaluation split is used."""
    batches = batches_of(task, data_seed, CALIBRATION_BATCH, device, role="calibration")
    return torch.cat([next(batches).inputs for _ in range(CALIBRATION_SAMPLES // CALIBRATION_BATCH)])
