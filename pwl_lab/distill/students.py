"""Distillation by any curriculum, on any `BlockNet`: a cohort of students, each following its own stages."""

import math
import warnings
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from pwl_lab.distill.cohort import Cohort, make_cohort
from pwl_lab.distill.curriculum import Curriculum, Stage, Target, TeacherHidden
from pwl_lab.distill.losses import target_loss
from pwl_lab.distill.targets import Member, TeacherTargets, calibration_inputs
from pwl_lab.models.blocknet import ModelConfig
from pwl_lab.support.errors import invalid
from pwl_lab.tasks.base import Batch, Task
from pwl_lab.tasks.entrances import batches_of, split_of
from pwl_lab.training import Learner, Losses, TrainedModel, TrainPlan, train


class Group:
    """The students of a cohort that follow one curriculum: always in the same stage, so trained as one.

    What a stage does not train takes no part in its pass and gets no gradient, not even one of zero: no optimiser
    moves it, whatever its momentum or weight decay.
    """

    def __init__(self, cohort: Cohort, members: list[Member]) -> None:
        """`members` say who the students of `cohort` are, in its order."""
        self.curriculum, self.cohort, self.members = members[0].curriculum, cohort, members
        self.diverged = torch.zeros(len(members), dtype=torch.bool, device=cohort.parameters()[0].device)

    def losses(
        self,
        stage: Stage,
        inputs: Float[Tensor, "batch *shape"],
        wanted: Mapping[Target, Tensor],
        targets: TeacherTargets,
    ) -> Float[Tensor, " members"]:
        """One loss per student; `wanted` is what `targets` gave for the batch."""
        target = stage.target
        self.cohort.train()
        if isinstance(target, TeacherHidden):
            block, rows = target.in_block, targets.rows(target, [member.seed for member in self.members])
            ours = self.cohort.hidden_state(inputs, block, above=block if stage.trains == "block" else 1)
            # Each member's numbers in a row, whatever the cohort: the same mean to the bit.
            return target_loss(target, ours.contiguous(), wanted[target][rows])
        return target_loss(target, self.cohort.logits(inputs), wanted[target])

    def in_last_stage(self, step: int) -> bool:
        """Whether step `step` (counted from 0) belongs to the last stage."""
        return self.curriculum.number_at(step) == len(self.curriculum.stages)

    def hits(self, split: Batch) -> list[int]:
        """How many samples each student has right; one with a logit that is not finite is marked as diverged."""
        self.cohort.train(False)
        hits = torch.zeros(len(self.members), dtype=torch.long, device=split.labels.device)
        for inputs, labels in zip(torch.split(split.inputs, 1024), torch.split(split.labels, 1024), strict=True):
            logits = self.cohort.logits(inputs)  # (members, batch, classes)
            hits += (logits.argmax(dim=-1) == labels).sum(dim=1)
            self.diverged |= ~logits.isfinite().flatten(1).all(dim=1)
        return [int(number) for number in hits]

    def keep(self, positions: list[int], optimiser: torch.optim.Optimizer) -> None:
        """Let the students at other positions go."""
        self.cohort.keep(positions, optimiser)
        self.members = [self.members[position] for position in positions]
        self.diverged = self.diverged[positions]


class CurriculumLearner(Learner):
    """A cohort in training; every student moves through its curriculum by its own clock."""

    def __init__(
        self,
        cohort: Cohort,
        members: Sequence[Member],
        targets: TeacherTargets,
        evaluation: Batch,
        plan: TrainPlan,
        validation: Batch | None = None,
    ) -> None:
        """Sort the students by curriculum.

        Arguments:
        - `cohort`, `members`: the students, and who they are, in the same order.
        - `targets`: what they pursue, calibrated.
        - `evaluation`: where accuracy is reported.
        - `plan`: a student retires, as it is, at `plan.stop_at` on `validation`.
        - `validation`: `evaluation` unless given.
        """
        self.members, self.targets, self.evaluation, self.plan = list(members), targets, evaluation, plan
        self.validation = evaluation if validation is None else validation
        self._retired: dict[Member, dict[str, Tensor]] = {}
        self.groups: list[Group] = []
        for curriculum in dict.fromkeys(member.curriculum for member in members):
            numbers = [number for number, member in enumerate(members) if member.curriculum == curriculum]
            self.groups.append(Group(cohort.part(numbers), [members[number] for number in numbers]))

    def parameter_groups(self, lr: float) -> list[dict[str, Any]]:
        """All students in one group."""
        return [{"params": [p for group in self.groups for p in group.cohort.parameters()], "lr": lr}]

    def losses(self, batch: Batch, step: int) -> Losses:
        """`total` sums over students, so that each one's gradient is as if it were alone; the other terms are means.

        A student whose loss is not finite has diverged: it counts in none of them and leaves the others alone.
        """
        stages = [group.curriculum.stage_at(step) for group in self.groups]
        wanted = self.targets.look(batch, {stage.target for stage in stages})
        terms: dict[str, list[Tensor]] = defaultdict(list)
        going: dict[str, list[Tensor]] = defaultdict(list)
        for group, stage in zip(self.groups, stages, strict=True):
            values = group.losses(stage, batch.inputs, wanted, self.targets)  # (members)
            group.diverged |= ~values.detach().isfinite()
            terms[stage.target.kind].append(values.masked_fill(group.diverged, 0.0).sum())
            going[stage.target.kind].append((~group.diverged).sum())
        sums = {kind: torch.stack(values).sum() for kind, values in terms.items()}
        means = {kind: value / torch.stack(going[kind]).sum().clamp_min(1) for kind, value in sums.items()}
        return means | {"total": torch.stack(list(sums.values())).sum()}

    def clip_gradients(self, largest: float, optimiser: torch.optim.Optimizer) -> None:
        """By each student's own norm, as if it were alone."""
        for group in self.groups:
            group.cohort.clip_gradients(largest)

    @torch.no_grad()
    def evaluate(self, step: int) -> list[dict[str, Any]]:
        """A row per student still in training: curriculum, seed, stage, accuracy and validation_accuracy.

        An accuracy of NaN says that the student has diverged; the validation accuracy, which only retires students, is
        measured in the last stage.
        """
        rows, done = {}, max(step - 1, 0)
        for group in self.groups:
            stage, hits = group.curriculum.number_at(done), group.hits(self.evaluation)
            known = group.hits(self.validation) if group.in_last_stage(done) else [math.nan] * len(hits)
            for position, who in enumerate(group.members):
                value = math.nan if group.diverged[position] else hits[position] / len(self.evaluation)
                row = {"curriculum": who.name, "seed": who.seed, "stage": stage, "accuracy": value}
                rows[who] = row | {"validation_accuracy": known[position] / len(self.validation)}
        return [rows[member] for member in self.members if member in rows]

    def finished(self, step: int, rows: list[dict[str, Any]], optimiser: torch.optim.Optimizer) -> bool:
        """Retire the students that diverged, and those that reached `stop_at` in their last stage; done when none is left."""
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

    def weights(self) -> dict[tuple[str, int], dict[str, Tensor]]:
        """By curriculum and seed: each student's weights, as it retired or as it is. Those that diverged are left out."""
        going = {who: group.cohort.state(n) for group in self.groups for n, who in enumerate(group.members)}
        return {(who.name, who.seed): state for who, state in (self._retired | going).items()}


def _warn_of_divergence(who: Member, step: int) -> None:
    """Name a student that is left out."""
    warnings.warn(
        f"{who.name}, seed {who.seed}: diverged by step {step} (a loss that is not finite) and left out. "
        "Lower the learning rate (lr) or set clip_norm; the other students go on.",
        stacklevel=2,
    )


@dataclass
class DistillationResult:
    """What came of a cohort: its history (tidy: one row per student and evaluation) and every student's last weights."""

    history: pd.DataFrame
    stages: pd.DataFrame
    weights: dict[tuple[str, int], dict[str, Tensor]]


def distil_cohort(
    teacher: TrainedModel,
    student: ModelConfig,
    task: Task,
    curricula: Mapping[str, Curriculum],
    seeds: Sequence[int],
    plan: TrainPlan,
    data_seed: int = 0,
    device: str = "cpu",
) -> DistillationResult:
    """Train `curricula` x `seeds` students side by side on one stream of batches; accuracy is measured on the test split.

    Per seed all curricula share initial weights and projections: the comparison is paired. Raises InvalidValueError
    for a block or a checkpoint that a network does not have, before anything is trained.

    Arguments:
    - `teacher`: trained, with the checkpoints that the curricula ask for.
    - `student`: the architecture of every student.
    - `task`: gives the batches, the validation split that retires students and the test split.
    - `curricula`, `seeds`: a student for each of both.
    - `plan`: how long and with what optimiser; `batch_size` and `stop_at` as well.
    - `data_seed`: of the stream of batches that all students share.
    - `device`: where to compute.
    """
    if not curricula or not seeds:
        raise invalid("curricula and seeds", (list(curricula), list(seeds)), "at least one of each")
    n_blocks = min(student.n_blocks, teacher.config.n_blocks)
    members = [
        Member(name, seed, curriculum.for_blocks(n_blocks)) for name, curriculum in curricula.items() for seed in seeds
    ]
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
    """One row per curriculum and stage: where it starts and what it aims at."""
    curricula = {member.name: member.curriculum for member in members}
    rows = [
        {"curriculum": name, "stage": number, "start": start, "target": str(stage.target)}
        for name, one in curricula.items()
        for number, (stage, start) in enumerate(zip(one.stages, one.starts(), strict=True), start=1)
    ]
    return pd.DataFrame(rows)
