"""Distillation by any curriculum, on any `BlockNet`: a cohort of students, each following its own stages."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from pwl_lab.distill.cohort import Cohort, make_cohort
from pwl_lab.distill.curriculum import Curriculum, Stage, TeacherHidden, TeacherOutput
from pwl_lab.distill.losses import cross_entropy_to, teacher_probabilities
from pwl_lab.distill.projection import Projection, random_projection
from pwl_lab.errors import invalid
from pwl_lab.models.blocknet import BlockNet, ModelConfig
from pwl_lab.tasks.base import Batch, Task
from pwl_lab.training import Learner, Losses, TrainedModel, TrainPlan, train

CALIBRATION_SAMPLES = 2048


@dataclass(frozen=True)
class Member:
    """One student of a cohort: which curriculum it follows, from which seed."""

    name: str
    seed: int
    curriculum: Curriculum


class TeacherTargets:
    """What the teacher says about a batch, each thing computed once for the whole cohort."""

    def __init__(self, teacher: TrainedModel, members: Sequence[Member], shapes: list[tuple[int, ...]]) -> None:
        """`shapes` are the student's hidden states. Raises InvalidValueError for a checkpoint the teacher has not."""
        self.final = teacher.model
        self.members, self.shapes = list(members), shapes
        self.checkpoints: dict[TeacherOutput, BlockNet] = {}
        for stage in (stage for member in members for stage in member.curriculum.stages):
            target = stage.target
            if isinstance(target, TeacherOutput) and not target.final:
                found = teacher.checkpoint(target.at_accuracy, target.at_step)
                self.checkpoints[target] = teacher.at(found)
        self.projections: dict[TeacherHidden, Projection] = {}

    @torch.no_grad()
    def calibrate(self, inputs: Float[Tensor, "batch *shape"]) -> None:
        """Draw every member's projections and centre and scale them on the teacher's states for `inputs`."""
        states, _ = self.final.hidden_states(inputs)
        targets = {stage.target for member in self.members for stage in member.curriculum.stages}
        for target in sorted((t for t in targets if isinstance(t, TeacherHidden)), key=str):
            block = target.block
            state, width = states[block - 1], self.shapes[block - 1][0]
            if state.shape[2:] != torch.Size(self.shapes[block - 1][1:]):
                raise invalid(
                    f"student state of block {block}", self.shapes[block - 1], f"the positions {tuple(state.shape[2:])}"
                )
            matrices = [random_projection(state.shape[1], width, member.seed, block) for member in self.members]
            stacked = torch.stack(matrices).to(state)
            self.projections[target] = Projection.fit(stacked, state, target.centre, target.scale)

    @torch.no_grad()
    def look(self, inputs: Float[Tensor, "batch *shape"], wanted: set) -> dict:
        """The teacher's outputs (logits) and hidden states for what the current stages want."""
        seen: dict = {}
        if any(isinstance(t, TeacherHidden) or (isinstance(t, TeacherOutput) and t.final) for t in wanted):
            states, logits = self.final.hidden_states(inputs)
            seen |= {"states": states, "final": logits}
        for target in wanted & set(self.checkpoints):
            seen[target] = self.checkpoints[target](inputs)
        return seen


class CurriculumLearner(Learner):
    """A cohort in training; every student moves through its curriculum by its own clock."""

    def __init__(
        self, cohort: Cohort, members: Sequence[Member], targets: TeacherTargets, evaluation: Batch, plan: TrainPlan
    ) -> None:
        """`evaluation` is where accuracy is measured; a student at `plan.stop_at` retires with what it knows."""
        self.cohort, self.members, self.targets = cohort, list(members), targets
        self.evaluation, self.plan = evaluation, plan
        self.active = list(range(len(members)))
        self.weights: dict[int, dict[str, Tensor]] = {}
        self._held: list[tuple[Tensor, Tensor]] = []

    def parameter_groups(self, lr: float) -> list[dict[str, Any]]:
        """All students in one group."""
        return [{"params": self.cohort.parameters(), "lr": lr}]

    def groups(self, step: int) -> dict[Stage, list[int]]:
        """The stages under way and the positions (in the cohort) of the students in each."""
        found: dict[Stage, list[int]] = defaultdict(list)
        for position, member in enumerate(self.active):
            found[self.members[member].curriculum.stage_at(step)].append(position)
        return found

    def losses(self, batch: Batch, step: int) -> Losses:
        """`total` sums over students, so that each one's gradient is as if it were alone; the other terms are means."""
        self.cohort.train()
        groups = self.groups(step)
        states, logits = self.cohort.hidden_states(batch.inputs)
        seen = self.targets.look(batch.inputs, {stage.target for stage in groups})
        terms: dict[str, list[Tensor]] = defaultdict(list)
        for stage, positions in groups.items():
            terms[stage.target.kind].append(self._stage_losses(stage, positions, states, logits, batch, seen))
        self._hold(groups)
        total = torch.cat([values for group in terms.values() for values in group]).sum()
        return {name: torch.cat(values).mean() for name, values in terms.items()} | {"total": total}

    def _stage_losses(
        self, stage: Stage, positions: list[int], states: list[Tensor], logits: Tensor, batch: Batch, seen: dict
    ) -> Float[Tensor, " group"]:
        """One loss per student of a group that pursues the same target."""
        target = stage.target
        if target.kind == "hidden":
            members = [self.active[position] for position in positions]
            wanted = self.targets.projections[target][members](seen["states"][target.block - 1])
            return target.weight * (states[target.block - 1][positions] - wanted).square().flatten(1).mean(dim=1)
        ours = logits[positions]
        if target.kind == "labels":
            wanted = torch.nn.functional.one_hot(batch.labels, ours.shape[-1]).to(ours.dtype)
        else:
            wanted = teacher_probabilities(seen["final" if target.final else target], target.temperature)
        return cross_entropy_to(ours, wanted)

    def _hold(self, groups: dict[Stage, list[int]]) -> None:
        """Remember the weights that a stage leaves as they are; `after_step` puts them back."""
        self._held = [
            (weight, weight.clone())
            for stage, positions in groups.items()
            if stage.trains == "block"
            for position in positions
            for weight in self.cohort.slices(position, below=stage.target.block)
        ]

    def after_step(self, step: int) -> None:
        """Undo what the optimiser did to held weights (whatever optimiser it is)."""
        for weight, value in self._held:
            weight.copy_(value)

    @torch.no_grad()
    def evaluate(self, step: int) -> list[dict[str, Any]]:
        """A row per student still in training: curriculum, seed, stage and accuracy."""
        self.cohort.train(False)
        hits = torch.zeros(len(self.cohort), dtype=torch.long, device=self.evaluation.labels.device)
        for inputs, labels in zip(self.evaluation.inputs.split(1024), self.evaluation.labels.split(1024), strict=True):
            _, logits = self.cohort.hidden_states(inputs)
            hits += (logits.argmax(dim=-1) == labels).sum(dim=1)
        rows = []
        for position, member in enumerate(self.active):
            who = self.members[member]
            stage = who.curriculum.stages.index(who.curriculum.stage_at(max(step - 1, 0))) + 1
            value = int(hits[position]) / len(self.evaluation)
            rows.append({"curriculum": who.name, "seed": who.seed, "stage": stage, "accuracy": value})
        return rows

    def finished(self, step: int, rows: list[dict[str, Any]], optimiser: torch.optim.Optimizer) -> bool:
        """Retire the students that reached `stop_at` in their last stage; done when none is left."""
        stop = self.plan.stop_at if self.plan.stop_at is not None else float("inf")
        ended = {
            position
            for position, row in enumerate(rows)
            if row["accuracy"] >= stop and row["stage"] == len(self.members[self.active[position]].curriculum.stages)
        }
        if not ended:
            return False
        self.collect(sorted(ended))
        going = [position for position in range(len(self.active)) if position not in ended]
        self.active = [self.active[position] for position in going]
        if going:
            self.cohort.keep(going, optimiser)
        return not going

    def collect(self, positions: Sequence[int] | None = None) -> None:
        """Take down the weights of students that end here."""
        for position in range(len(self.active)) if positions is None else positions:
            self.weights[self.active[position]] = self.cohort.state(position)


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
    for a block or a checkpoint that a network has not, before anything is trained.
    """
    n_blocks = min(student.n_blocks, teacher.config.n_blocks)
    members = [
        Member(name, seed, curriculum.for_blocks(n_blocks)) for name, curriculum in curricula.items() for seed in seeds
    ]
    cohort = make_cohort(student, [member.seed for member in members], device)
    targets = TeacherTargets(teacher, members, student.make().state_shapes(task.input_shape))
    targets.calibrate(calibration_inputs(task, data_seed, device))
    learner = CurriculumLearner(cohort, members, targets, task.split("test", device), plan)
    # The teacher saw the stream of its own seed: students get another one.
    batches = task.batches(data_seed + 1_000_003, plan.batch_size, device)
    history = train(learner, batches, plan, f"{len(members)} students")
    learner.collect([position for position, member in enumerate(learner.active) if member not in learner.weights])
    weights = {(members[i].name, members[i].seed): state for i, state in learner.weights.items()}
    return DistillationResult(history, stage_table(members), weights)


def calibration_inputs(task: Task, data_seed: int, device: str) -> Float[Tensor, "batch *shape"]:
    """Training inputs to centre and scale the projections on; none of the evaluation splits is touched."""
    batches = task.batches(data_seed + 2_000_003, 128, device)
    return torch.cat([next(batches).inputs for _ in range(CALIBRATION_SAMPLES // 128)])


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
