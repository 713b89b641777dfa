"""Distillation by any curriculum, on any `BlockNet`: a cohort of students, each following its own stages."""

import math
import warnings
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import one_hot

from pwl_lab.distill.cohort import Cohort, make_cohort
from pwl_lab.distill.curriculum import Curriculum, Stage
from pwl_lab.distill.losses import cross_entropy_to
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

    def __init__(self, curriculum: Curriculum, cohort: Cohort, members: list[int], seeds: list[int]) -> None:
        """`members` are the students' numbers in the whole cohort, in the order of `cohort`."""
        self.curriculum, self.cohort, self.members, self.seeds = curriculum, cohort, members, seeds
        self._starts = curriculum.starts()
        self.diverged = torch.zeros(len(members), dtype=torch.bool, device=cohort.parameters()[0].device)

    def number(self, step: int) -> int:
        """Which stage (from 1) step `step` (counted from 0) belongs to."""
        return bisect_right(self._starts, step)

    def stage(self, step: int) -> Stage:
        """The stage that step `step` (counted from 0) belongs to."""
        return self.curriculum.stages[self.number(step) - 1]

    def losses(self, stage: Stage, batch: Batch, seen: dict, targets: TeacherTargets) -> Float[Tensor, " members"]:
        """One loss per student."""
        target = stage.target
        self.cohort.train()
        if target.kind == "hidden":
            above = target.block if stage.trains == "block" else 1
            states, _ = self.cohort.hidden_states(batch.inputs, upto=target.block, above=above)
            wanted = seen[target][targets.rows(target, self.seeds)]
            ours = states[-1] if target.width is None else states[-1][:, :, : target.width]
            return target.weight * (ours - wanted).square().flatten(1).mean(dim=1)
        _, logits = self.cohort.hidden_states(batch.inputs)
        if target.kind == "labels":
            return cross_entropy_to(logits, one_hot(batch.labels, logits.shape[-1]).to(logits.dtype))
        return cross_entropy_to(logits, seen[target])

    def hits(self, evaluation: Batch) -> Int[Tensor, " members"]:
        """How many samples each student has right; one with a logit that is not finite is marked as diverged."""
        self.cohort.train(False)
        hits = torch.zeros(len(self.members), dtype=torch.long, device=evaluation.labels.device)
        for inputs, labels in zip(evaluation.inputs.split(1024), evaluation.labels.split(1024), strict=True):
            _, logits = self.cohort.hidden_states(inputs)
            hits += (logits.argmax(dim=-1) == labels).sum(dim=1)
            self.diverged |= ~logits.isfinite().flatten(1).all(dim=1)
        return hits

    def keep(self, positions: list[int], optimiser: torch.optim.Optimizer) -> None:
        """Let the students at other positions go."""
        self.cohort.keep(positions, optimiser)
        self.members = [self.members[position] for position in positions]
        self.seeds = [self.seeds[position] for position in positions]
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
        """`evaluation` is where accuracy is reported; at `plan.stop_at` on `validation` a student retires as it is."""
        self.members, self.targets, self.evaluation, self.plan = list(members), targets, evaluation, plan
        self.validation = evaluation if validation is None else validation
        self.weights: dict[int, dict[str, Tensor]] = {}
        self.groups: list[Group] = []
        for curriculum in dict.fromkeys(member.curriculum for member in members):
            numbers = [n for n, member in enumerate(members) if member.curriculum == curriculum]
            seeds = [members[n].seed for n in numbers]
            self.groups.append(Group(curriculum, cohort.part(numbers), numbers, seeds))

    def parameter_groups(self, lr: float) -> list[dict[str, Any]]:
        """All students in one group."""
        return [{"params": [p for group in self.groups for p in group.cohort.parameters()], "lr": lr}]

    def losses(self, batch: Batch, step: int) -> Losses:
        """`total` sums over students, so that each one's gradient is as if it were alone; the other terms are means.

        A student whose loss is not finite has diverged: it counts in none of them and leaves the others alone.
        """
        stages = [group.stage(step) for group in self.groups]
        seen = self.targets.look(batch.inputs, {stage.target for stage in stages})
        terms: dict[str, list[Tensor]] = {}
        going: dict[str, int | Tensor] = {}
        for group, stage in zip(self.groups, stages, strict=True):
            kind, values = stage.target.kind, group.losses(stage, batch, seen, self.targets)
            group.diverged |= ~values.detach().isfinite()
            terms.setdefault(kind, []).append(values.masked_fill(group.diverged, 0.0).sum())
            going[kind] = going.get(kind, 0) + (~group.diverged).sum()
        sums = {kind: torch.stack(values).sum() for kind, values in terms.items()}
        means = {kind: value / going[kind].clamp_min(1) for kind, value in sums.items()}
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
        rows = {}
        for group in self.groups:
            hits = group.hits(self.evaluation).tolist()
            last = group.number(max(step - 1, 0)) == len(group.curriculum.stages)
            known = group.hits(self.validation).tolist() if last else [math.nan] * len(group.members)
            for position, number in enumerate(group.members):
                who, stage = self.members[number], group.number(max(step - 1, 0))
                value = math.nan if group.diverged[position] else hits[position] / len(self.evaluation)
                row = {"curriculum": who.name, "seed": who.seed, "stage": stage, "accuracy": value}
                rows[number] = row | {"validation_accuracy": known[position] / len(self.validation)}
        return [rows[number] for number in sorted(rows)]

    def finished(self, step: int, rows: list[dict[str, Any]], optimiser: torch.optim.Optimizer) -> bool:
        """Retire the students that diverged, and those that reached `stop_at` in their last stage; done when none is left."""
        stop = self.plan.stop_at if self.plan.stop_at is not None else math.inf
        reached = dict(zip(sorted(n for group in self.groups for n in group.members), rows, strict=True))
        for group in self.groups:
            last = group.number(step - 1) == len(group.curriculum.stages)
            ended = [
                position
                for position, number in enumerate(group.members)
                if group.diverged[position] or (last and reached[number]["validation_accuracy"] >= stop)
            ]
            if ended:
                self.collect(group, ended, step)
                group.keep([position for position in range(len(group.members)) if position not in ended], optimiser)
        self.groups = [group for group in self.groups if group.members]
        return not self.groups

    def collect(self, group: Group | None = None, positions: Sequence[int] | None = None, step: int = 0) -> None:
        """Take down the weights of students that end here (all by default); one that diverged is named instead."""
        for one in self.groups if group is None else [group]:
            for position in range(len(one.members)) if positions is None else positions:
                number = one.members[position]
                if not one.diverged[position]:
                    self.weights[number] = one.cohort.state(position)
                    continue
                who = self.members[number]
                warnings.warn(
                    f"{who.name}, seed {who.seed}: diverged by step {step} (a loss that is not finite) and left out. "
                    "Lower the step size (lr) or set clip_norm; the other students go on.",
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
    """Train `curricula` x `seeds` students side by side, as `distil_members`."""
    n_blocks = min(student.n_blocks, teacher.config.n_blocks)
    members = [
        Member(name, seed, curriculum.for_blocks(n_blocks)) for name, curriculum in curricula.items() for seed in seeds
    ]
    return distil_members(teacher, student, task, members, plan, data_seed, device)


def distil_members(
    teacher: TrainedModel,
    student: ModelConfig,
    task: Task,
    members: Sequence[Member],
    plan: TrainPlan,
    data_seed: int = 0,
    device: str = "cpu",
) -> DistillationResult:
    """Train the students `members` side by side on one stream of batches; accuracy is measured on the test split.

    Per seed all curricula share initial weights and projections: the comparison is paired. Raises InvalidValueError
    for a block or a checkpoint that a network has not, before anything is trained.
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
    learner.collect()
    weights = {(members[i].name, members[i].seed): state for i, state in learner.weights.items()}
    return DistillationResult(history, stage_table(members), weights)


def stage_table(members: Sequence[Member]) -> pd.DataFrame:
    """One row per curriculum and stage: where it starts and what it aims at."""
    rows = {}
    for member in members:
        for number, (stage, start) in enumerate(
            zip(member.curriculum.stages, member.curriculum.starts(), strict=True), start=1
        ):
            row = {"curriculum": member.name, "stage": number, "start": start, "target": str(stage.target)}
            rows[member.name, number] = row
    return pd.DataFrame(list(rows.values()))
