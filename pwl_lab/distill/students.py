"""Distillation with any curriculum, for any `BlockNet`: a cohort of students, each following its own stages."""

import math
import warnings
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float, Num
from torch import Tensor, nn

from pwl_lab.distill.curriculum import Stage, Target, TeacherHidden, blocks_of
from pwl_lab.distill.losses import target_loss
from pwl_lab.distill.targets import Member, TeacherTargets, calibration_inputs
from pwl_lab.fast import is_plain
from pwl_lab.fast.stacked import StackedCohort, is_stackable
from pwl_lab.models.blocknet import BlockNet, ModelConfig, build
from pwl_lab.support.errors import invalid
from pwl_lab.support.seeding import begin_noise
from pwl_lab.tasks.base import Batch, Task, at_once, batches_of, scored, split_of
from pwl_lab.training import Learner, Losses, TrainedModel, TrainPlan, train


class SeparateCohort:
    """A list of students, run one after another. `StackedCohort` runs all in one pass, for networks that allow it."""

    def __init__(self, students: Sequence[BlockNet]) -> None:
        """The students are copied."""
        self.students = [deepcopy(student) for student in students]
        self._noise: tuple[int, list[int]] | None = None  # the step and each student's seed

    def __len__(self) -> int:
        """The number of students."""
        return len(self.students)

    def part(self, members: list[int]) -> "SeparateCohort":
        """Some of the students as a cohort of their own."""
        return SeparateCohort([self.students[member] for member in members])

    @classmethod
    def joined(cls, cohorts: Sequence["SeparateCohort"]) -> "SeparateCohort":
        """All their students, not copied, as one cohort."""
        whole = cls([])
        whole.students = [student for cohort in cohorts for student in cohort.students]
        return whole

    def parameters(self) -> list[Tensor]:
        """The parameters for the optimiser."""
        return [parameter for student in self.students for parameter in student.parameters()]

    def hidden_states(
        self, inputs: Num[Tensor, "batch *shape"], last: int, first_trained: int = 1
    ) -> list[Float[Tensor, "members batch _ *_"]]:
        """Each student's hidden states up to block `last` (from 1), on the same inputs; later layers are not computed.

        Blocks before `first_trained` run in eval mode and get no gradient.
        """
        found = [_hidden_states(student, inputs, last, first_trained) for student in self._each_in_its_noise(inputs)]
        return [torch.stack(states) for states in zip(*found, strict=True)]

    def logits(self, inputs: Num[Tensor, "batch *shape"]) -> Float[Tensor, "members batch *tokens classes"]:
        """Each student's logits on the same inputs."""
        return torch.stack([student(inputs) for student in self._each_in_its_noise(inputs)])

    def train(self, step: int, seeds: list[int]) -> None:
        """Put all of them into training mode for this step (from 0); what a student draws then depends on it and its seed."""
        self._noise = step, seeds
        for student in self.students:
            student.train()

    def eval(self) -> None:
        """Put all of them into eval mode."""
        self._noise = None
        for student in self.students:
            student.eval()

    def _each_in_its_noise(self, inputs: Tensor) -> Iterator[BlockNet]:
        """The students, each where its own draws begin."""
        for number, student in enumerate(self.students):
            if self._noise is not None:
                step, seeds = self._noise
                begin_noise(seeds[number], step, inputs.device, "student")
            yield student

    def clip_gradients(self, largest: float) -> None:
        """Scale each student's gradient so that its norm over all parameters is at most `largest`."""
        for student in self.students:
            nn.utils.clip_grad_norm_(student.parameters(), largest)

    def state(self, member: int) -> dict[str, Tensor]:
        """A copy of one student's weights, named as in its `BlockNet`."""
        return {name: tensor.detach().clone() for name, tensor in self.students[member].state_dict().items()}

    def restore(self, member: int, state: Mapping[str, Tensor]) -> None:
        """Give a student these weights, as `state` returns them."""
        self.students[member].load_state_dict(state)

    def keep(self, members: list[int], optimiser: torch.optim.Optimizer) -> None:
        """Drop all students but `members`, with their optimiser state; those stay in the given order."""
        gone = {id(parameter) for parameter in self.parameters()}
        self.students = [self.students[member] for member in members]
        gone -= {id(parameter) for parameter in self.parameters()}
        for group in optimiser.param_groups:
            for parameter in group["params"]:
                if id(parameter) in gone:
                    optimiser.state.pop(parameter, None)
            group["params"] = [parameter for parameter in group["params"] if id(parameter) not in gone]


Cohort = SeparateCohort | StackedCohort


def joined(cohorts: Sequence[Cohort]) -> Cohort:
    """Cohorts of one kind as one, for a pass through all of them; gradients arrive at the cohorts' own parameters."""
    first = cohorts[0]
    return first if len(cohorts) == 1 else type(first).joined(cohorts)  # type: ignore[arg-type]  # all are of its type


def _hidden_states(
    student: BlockNet, inputs: Num[Tensor, "batch *shape"], last: int, first_trained: int
) -> list[Float[Tensor, "batch _ *_"]]:
    """See `SeparateCohort.hidden_states`."""
    for module in [student.stem, *student.blocks[: first_trained - 1]] if first_trained > 1 else []:
        module.eval()
    state, states = student.stem(inputs), []
    for number, part in enumerate(student.blocks[:last], start=1):
        if 1 < number == first_trained:
            state = state.detach()
        state = part(state)
        states.append(state)
    return states


def make_cohort(config: ModelConfig, seeds: Sequence[int], device: str = "cpu") -> Cohort:
    """One student per entry of `seeds`: equal seeds start from equal weights, whatever their curriculum."""
    students = [build(config, seed, device, stream="student") for seed in seeds]
    return StackedCohort(students) if is_stackable(students[0]) and not is_plain() else SeparateCohort(students)


class CurriculumGroup:
    """The students that follow the same curriculum at the same learning rate.

    They are always in the same stage, so they are trained together.

    Layers that a stage does not train get no gradient at all, not even a zero one, so no optimiser changes them,
    whatever its momentum or weight decay.
    """

    def __init__(self, cohort: Cohort, members: list[Member]) -> None:
        """`members` describe the students of `cohort`, in its order."""
        self.curriculum, self.lr, self.cohort, self.members = members[0].curriculum, members[0].lr, cohort, members
        self.diverged = torch.zeros(len(members), dtype=torch.bool, device=cohort.parameters()[0].device)

    def needs(self, stage: Stage) -> tuple[int, int] | None:
        """The last block that `stage` runs and the first that it trains; None for an output, which needs all of them."""
        if not (blocks := blocks_of(stage.target)):
            return None
        last = max(blocks)
        return last, last if stage.trains == "block" else 1

    def losses(
        self,
        stage: Stage,
        ours: Sequence[Float[Tensor, "members batch _ *_"]],
        batch: Batch,
        wanted: Mapping[Target, Tensor],
        targets: TeacherTargets,
    ) -> Float[Tensor, " members"]:
        """One loss per student.

        Arguments:
        - `stage`: the group's present one.
        - `ours`: what `stage` needs: the hidden states of its members, or only their logits.
        - `wanted`: the result of `targets.compute` for the batch.
        """
        losses, seeds = [], [member.seed for member in self.members]
        for target in stage.targets:
            theirs, blocks = wanted[target], blocks_of(target)
            if isinstance(target, TeacherHidden):
                theirs = theirs[targets.rows(target, seeds)]
            # Each member's numbers contiguous, whatever the cohort: the same mean, bit for bit.
            found = ours[blocks[0] - 1].contiguous() if blocks else scored(ours[0], batch.labels)
            losses.append(target_loss(target, found, theirs, targets.pads))
        return torch.stack(losses).mean(dim=0)

    def in_last_stage(self, step: int) -> bool:
        """Whether step `step` (counted from 0) is in the last stage."""
        return self.curriculum.number_at(step) == len(self.curriculum.stages)

    def hits(self, split: Batch) -> list[int]:
        """How many scored labels each student gets right; one with a logit that is not finite is marked as diverged."""
        self.cohort.eval()
        hits = torch.zeros(len(self.members), dtype=torch.long, device=split.labels.device)
        # All students run at once: of strings, fewer fit in the processor's cache.
        size = at_once(split.inputs, 1024 if split.inputs.is_floating_point() else 256)
        for inputs, labels in zip(torch.split(split.inputs, size), torch.split(split.labels, size), strict=True):
            logits = scored(self.cohort.logits(inputs), labels)  # (members, scored, classes)
            hits += (logits.argmax(dim=-1) == scored(labels, labels)).sum(dim=1)
            self.diverged |= ~logits.isfinite().flatten(1).all(dim=1)
        return [int(number) for number in hits]

    def keep(self, positions: list[int], optimiser: torch.optim.Optimizer) -> None:
        """Drop the students at all other positions."""
        self.cohort.keep(positions, optimiser)
        self.members = [self.members[position] for position in positions]
        self.diverged = self.diverged[positions]


class CurriculumLearner(Learner):
    """A cohort in training; each student moves through its curriculum independently."""

    def __init__(
        self,
        cohort: Cohort,
        members: Sequence[Member],
        targets: TeacherTargets,
        evaluation: Batch,
        plan: TrainPlan,
        validation: Batch | None = None,
    ) -> None:
        """Group the students by curriculum and learning rate.

        Arguments:
        - `cohort`, `members`: the students and their descriptions, in the same order.
        - `targets`: their targets, calibrated.
        - `evaluation`: the data on which accuracy is reported.
        - `plan`: a student stops training once it reaches `plan.stop_at` on `validation`.
        - `validation`: by default the same as `evaluation`.
        """
        self.members, self.targets, self.evaluation, self.plan = list(members), targets, evaluation, plan
        self.validation = evaluation if validation is None else validation
        self._retired: dict[Member, dict[str, Tensor]] = {}
        self.groups: list[CurriculumGroup] = []
        for alike in dict.fromkeys((member.curriculum, member.lr) for member in members):
            numbers = [number for number, one in enumerate(members) if (one.curriculum, one.lr) == alike]
            self.groups.append(CurriculumGroup(cohort.part(numbers), [members[number] for number in numbers]))

    def parameter_groups(self, lr: float) -> list[dict[str, Any]]:
        """The students of each learning rate in one group."""
        by_rate = defaultdict[float, list[Tensor]](list)
        for group in self.groups:
            by_rate[lr if group.lr is None else group.lr] += group.cohort.parameters()
        return [{"params": parameters, "lr": rate} for rate, parameters in by_rate.items()]

    def losses(self, batch: Batch, step: int) -> Losses:
        """`total` sums over students, so that each one's gradient is as if it trained alone; the other terms are means.

        A student whose loss is not finite has diverged: it is left out of all terms and does not affect the others.
        """
        stages = [group.curriculum.stage_at(step) for group in self.groups]
        wanted = self.targets.compute(batch, {target for stage in stages for target in stage.targets})
        terms: dict[str, list[Tensor]] = defaultdict(list)
        going: dict[str, list[Tensor]] = defaultdict(list)
        for group, stage, ours in zip(self.groups, stages, self._outputs(stages, batch.inputs, step), strict=True):
            values = group.losses(stage, ours, batch, wanted, self.targets)  # (members)
            group.diverged |= ~values.detach().isfinite()
            terms[stage.target.kind].append(values.masked_fill(group.diverged, 0.0).sum())
            going[stage.target.kind].append((~group.diverged).sum())
        sums = {kind: torch.stack(values).sum() for kind, values in terms.items()}
        means = {kind: value / torch.stack(going[kind]).sum().clamp_min(1) for kind, value in sums.items()}
        return means | {"total": torch.stack(list(sums.values())).sum()}

    def _outputs(self, stages: Sequence[Stage], inputs: Num[Tensor, "batch *shape"], step: int) -> list[list[Tensor]]:
        """What each group's stage needs of its members; groups that need the same run in one pass."""
        alike = defaultdict[tuple[int, int] | None, list[int]](list)
        for number, (group, stage) in enumerate(zip(self.groups, stages, strict=True)):
            alike[group.needs(stage)].append(number)
        found: dict[int, list[Tensor]] = {}  # by the number of the group
        for needs, numbers in alike.items():
            groups = [self.groups[number] for number in numbers]
            cohort = joined([group.cohort for group in groups])
            cohort.train(step, [member.seed for group in groups for member in group.members])
            outputs = [cohort.logits(inputs)] if needs is None else cohort.hidden_states(inputs, *needs)
            sizes = [len(group.members) for group in groups]
            parts = [torch.split(output, sizes) for output in outputs]
            found |= {number: list(mine) for number, mine in zip(numbers, zip(*parts, strict=True), strict=True)}
        return [found[number] for number in range(len(self.groups))]

    def clip_gradients(self, largest: float, optimiser: torch.optim.Optimizer) -> None:
        """Clip by each student's own norm, as if it trained alone."""
        for group in self.groups:
            group.cohort.clip_gradients(largest)

    @torch.no_grad()
    def evaluate(self, step: int) -> list[dict[str, Any]]:
        """A row per student still in training: curriculum, seed, stage, accuracy and validation_accuracy.

        An accuracy of NaN means that the student has diverged. The validation accuracy, which is used only to stop
        students early, is measured in the last stage.
        """
        rows, done = {}, max(step - 1, 0)
        for group in self.groups:
            stage, hits = group.curriculum.number_at(done), group.hits(self.evaluation)
            known = group.hits(self.validation) if group.in_last_stage(done) else [math.nan] * len(hits)
            for position, who in enumerate(group.members):
                value = math.nan if group.diverged[position] else hits[position] / self.evaluation.n_scored
                row = {"curriculum": who.name, "seed": who.seed, "stage": stage, "accuracy": value}
                rows[who] = row | {"validation_accuracy": known[position] / self.validation.n_scored}
        return [rows[member] for member in self.members if member in rows]

    def finished(self, step: int, rows: list[dict[str, Any]], optimiser: torch.optim.Optimizer) -> bool:
        """Drop students that diverged or reached `stop_at` in their last stage; finished when none is left."""
        stop = self.plan.stop_at if self.plan.stop_at is not None else math.inf
        reached = {(row["curriculum"], row["seed"]): row["validation_accuracy"] for row in rows}
        for group in self.groups:
            staying = []
            for position, who in enumerate(group.members):
                if group.diverged[position]:
                    _warn_of_divergence(who, step)
                elif group.in_last_stage(step - 1) and reached[who.name, who.seed] >= stop:
                    self._retired[who] = group.cohort.state(position)
                else:
                    staying.append(position)
            if len(staying) < len(group.members):
                group.keep(staying, optimiser)
        self.groups = [group for group in self.groups if group.members]
        return not self.groups

    def state(self) -> dict[str, Any]:
        """Each student that is left, by its number, with its weights and whether it diverged; and those that are done."""
        going = [
            (self.members.index(who), group.cohort.state(position), bool(group.diverged[position]))
            for group in self.groups
            for position, who in enumerate(group.members)
        ]
        return {"going": going, "retired": [(self.members.index(who), one) for who, one in self._retired.items()]}

    def restore(self, state: dict[str, Any], optimiser: torch.optim.Optimizer) -> None:
        """Become what `state` describes."""
        going = {self.members[number]: rest for number, *rest in state["going"]}
        self._retired = {self.members[number]: weights for number, weights in state["retired"]}
        for group in self.groups:
            group.keep([position for position, who in enumerate(group.members) if who in going], optimiser)
            for position, who in enumerate(group.members):
                weights, group.diverged[position] = going[who]
                group.cohort.restore(position, weights)
        self.groups = [group for group in self.groups if group.members]

    def weights(self) -> dict[tuple[str, int], dict[str, Tensor]]:
        """Each student's last weights, by curriculum and seed. Students that diverged are left out."""
        going = {who: group.cohort.state(n) for group in self.groups for n, who in enumerate(group.members)}
        return {(who.name, who.seed): state for who, state in (self._retired | going).items()}


def _warn_of_divergence(who: Member, step: int) -> None:
    """Warn about a student that is left out."""
    warnings.warn(
        f"{who.name}, seed {who.seed}: diverged by step {step} (its loss is not finite) and is left out. "
        "Lower the learning rate (lr) or set clip_norm; the other students continue.",
        stacklevel=2,
    )


@dataclass
class DistillationResult:
    """A cohort's history (tidy: one row per student and evaluation) and every student's last weights."""

    history: pd.DataFrame
    stages: pd.DataFrame
    weights: dict[tuple[str, int], dict[str, Tensor]]


def distil_members(
    teacher: TrainedModel,
    student: ModelConfig,
    task: Task,
    members: Sequence[Member],
    plan: TrainPlan,
    data_seed: int = 0,
    device: str = "cpu",
) -> DistillationResult:
    """Train the students `members` side by side on the same batches; accuracy is measured on the test split.

    For each seed, all curricula share initial weights and projections, so the comparison is paired. Raises
    InvalidValueError before training for a block or a checkpoint that a network does not have.

    Arguments:
    - `teacher`: a trained teacher with the checkpoints that the curricula need.
    - `student`: the architecture of every student.
    - `task`: provides the batches, the validation split (for early stopping) and the test split.
    - `members`: each student's curriculum (of `Curriculum.for_blocks`) and seed, and its learning rate if it has its own.
    - `plan`: length, optimiser and schedule, `batch_size` and `stop_at`.
    - `data_seed`: the seed of the batches, which all students share.
    - `device`: where to compute.
    """
    if not members:
        raise invalid("curricula and seeds", [], "at least one of each")
    cohort = make_cohort(student, [member.seed for member in members], device)
    targets = TeacherTargets(teacher, members, student.make().state_shapes(task.input_shape))
    targets.calibrate(calibration_inputs(task, data_seed, device))
    learner = CurriculumLearner(
        cohort, members, targets, split_of(task, "test", device), plan, split_of(task, "validation", device)
    )
    batches = batches_of(task, data_seed, plan.batch_size, device, role="student")
    history = train(learner, batches, plan, f"{len(members)} students")
    return DistillationResult(history, stage_table(members), learner.weights())


def stage_table(members: Sequence[Member]) -> pd.DataFrame:
    """One row per curriculum and stage: the step at which it starts, and its target."""
    curricula = {member.name: member.curriculum for member in members}
    rows = [
        {"curriculum": name, "stage": number, "start": start, "target": str(stage.target)}
        for name, one in curricula.items()
        for number, (stage, start) in enumerate(zip(one.stages, one.starts(), strict=True), start=1)
    ]
    return pd.DataFrame(rows)
