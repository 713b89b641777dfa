"""What a teacher says about a batch: each output and each projected hidden state once, for a whole cohort.

Source of the projections: arXiv 2503.17494: for a hidden layer of `m` units and a student's of `r`, a fixed Gaussian `P`
(m x r, scaled 1/sqrt(m)) gives the target `P^T h(x)`. Centring, scaling and orthogonal columns are ours: the source
leaves them open.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from pwl_lab.distill.curriculum import Curriculum, TeacherHidden, TeacherOutput
from pwl_lab.distill.losses import teacher_probabilities
from pwl_lab.models.blocknet import BlockNet
from pwl_lab.support.errors import invalid
from pwl_lab.support.seeding import generator
from pwl_lab.tasks.base import Task
from pwl_lab.tasks.entrances import batches_of
from pwl_lab.tasks.sizes import CALIBRATION_BATCH
from pwl_lab.training import TrainedModel


def random_projection(
    teacher_width: int, student_width: int, seed: int, block: int = 1, orthogonal: bool = False
) -> Float[Tensor, "m r"]:
    """A Gaussian matrix with entries of variance 1/m, from the stream `projection` of `seed`, the role is its block.

    `orthogonal` makes its columns orthonormal, which takes `r <= m`: InvalidValueError otherwise.
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
    return torch.linalg.qr(matrix).Q if orthogonal else matrix


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
        """
        means, factors = [], []
        for matrix in matrices.split(1):  # each on its own: sums over several students would round otherwise
            raw = _project(states, _side_by_side(matrix), 1).transpose(1, 2).flatten(2)  # 1, r, batch * positions
            mean = raw.mean(dim=2) if centre else torch.zeros_like(raw[:, :, 0])
            spread = (raw - mean.unsqueeze(2)).square().mean(dim=(1, 2)).sqrt()
            means.append(mean)
            factors.append(1 / spread.clamp_min(1e-8) if scale else torch.ones_like(spread))
        return cls(matrices, torch.cat(means), torch.cat(factors))

    def __getitem__(self, members: Tensor | list[int]) -> "Projection":
        """The projections of some of the students."""
        return Projection(self.matrices[members], self.means[members], self.factors[members])

    def __call__(self, state: Float[Tensor, "batch m *positions"]) -> Float[Tensor, "members batch r *positions"]:
        """Each student's target for the teacher's hidden state."""
        positions = (1,) * (state.dim() - 2)
        offsets = (self.means * self.factors.unsqueeze(1)).reshape(len(self.means), 1, -1, *positions)
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
    product = state.movedim(1, -1) @ flat  # batch, *positions, members * r
    return product.unflatten(-1, (members, -1)).movedim((-2, -1), (0, 2))


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
