"""What a teacher says about a batch: each output and each projected hidden state once, for a whole cohort.

The projections are those of arXiv 2503.17494: for a hidden layer of `m` units and a student's of `r`, a fixed Gaussian `P`
(m x r, scaled 1/sqrt(m)) gives the target `P^T h(x)`. Centring, scaling and orthogonal columns are ours: the paper
leaves them open.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from pwl_lab.distill.curriculum import Curriculum, Target, TeacherHidden, TeacherOutput
from pwl_lab.distill.losses import teacher_probabilities
from pwl_lab.models.blocknet import BlockNet
from pwl_lab.support.errors import invalid
from pwl_lab.support.seeding import generator
from pwl_lab.tasks.base import Batch, Task, batches_of
from pwl_lab.tasks.sizes import CALIBRATION_BATCH
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


@dataclass(frozen=True)
class Projection:
    """Fixed projections for several students at once: `target = (P^T h - mean) * factor`, per student."""

    matrices: Float[Tensor, "members m r"]
    means: Float[Tensor, "members r"]
    factors: Float[Tensor, " members"]

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
        for member in range(len(matrices)):  # each on its own: sums over several students would round otherwise
            raw = _project(states, matrices[member], 1).transpose(1, 2).flatten(2)  # (1, r, batch * positions)
            mean = raw.mean(dim=2) if centre else torch.zeros_like(raw[:, :, 0])
            spread = (raw - mean.unsqueeze(2)).square().mean(dim=(1, 2)).sqrt()
            means.append(mean)
            factors.append(1 / spread.clamp_min(1e-8) if scale else torch.ones_like(spread))
        return cls(matrices, torch.cat(means), torch.cat(factors))

    def __call__(self, state: Float[Tensor, "batch m *positions"]) -> Float[Tensor, "members batch r *positions"]:
        """Each student's target for the teacher's hidden state."""
        ones = (1,) * (state.dim() - 2)
        offsets = (self.means * self.factors.unsqueeze(1)).reshape(
            len(self.means), 1, -1, *ones
        )  # (members, 1, r, 1...)
        return _project(state, self._scaled, len(self.means)) - offsets

    @cached_property
    def _scaled(self) -> Float[Tensor, "m columns"]:
        """All matrices side by side, each times its factor: the form in which they are used at every step."""
        return _side_by_side(self.matrices * self.factors.reshape(-1, 1, 1))


def _side_by_side(matrices: Float[Tensor, "members m r"]) -> Float[Tensor, "m columns"]:
    """One matrix for one product."""
    members, m, r = matrices.shape
    return matrices.permute(1, 0, 2).reshape(m, members * r)


def _project(
    state: Float[Tensor, "batch m *positions"], flat: Float[Tensor, "m columns"], members: int
) -> Float[Tensor, "members batch r *positions"]:
    """`P^T h` at every position, for all students in one matrix product."""
    product = state.movedim(1, -1) @ flat  # (batch, *positions, members * r)
    return product.reshape(*product.shape[:-1], members, -1).movedim((-2, -1), (0, 2))


CALIBRATION_SAMPLES = 2048


Seen = tuple[Sequence[Tensor], Tensor]  # hidden states and logits of a network


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
        """Where the projections of `seeds` stand in `look(...)[target]`; all in order as a slice, which copies nothing."""
        rows = [self.seeds[target].index(seed) for seed in seeds]
        return slice(None) if rows == list(range(len(self.seeds[target]))) else rows

    @torch.no_grad()
    def look(self, batch: Batch, targets: Collection[Target], seen: Seen | None = None) -> dict[Target, Tensor]:
        """What each target wants of the students: the batch's labels, the teacher's class probabilities, or its hidden
        state projected for every seed.

        Arguments:
        - `batch`: of inputs and labels.
        - `targets`: those of the current stages.
        - `seen`: hidden states and logits of the final teacher, where they are known already.
        """

        @cache  # one pass for all targets, and none where no target needs it
        def final() -> Seen:
            return seen or self.final.hidden_states(batch.inputs)

        wanted: dict[Target, Tensor] = {}
        for target in targets:
            if isinstance(target, TeacherHidden):
                wanted[target] = self.projections[target](final()[0][target.in_block - 1])
            elif isinstance(target, TeacherOutput):
                said = final()[1] if target.final else self.checkpoints[target](batch.inputs)
                wanted[target] = teacher_probabilities(said, target.temperature)
            else:
                wanted[target] = batch.labels
        return wanted


def calibration_inputs(task: Task, data_seed: int, device: str) -> Float[Tensor, "batch *shape"]:
    """Training inputs to centre and scale the projections on; none of the evaluation splits is touched."""
    batches = batches_of(task, data_seed, CALIBRATION_BATCH, device, role="calibration")
    return torch.cat([next(batches).inputs for _ in range(CALIBRATION_SAMPLES // CALIBRATION_BATCH)])
