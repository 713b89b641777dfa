"""PWL training (arXiv 2509.22319): the student and the converters are trained with a frozen teacher.

Three terms are added to the student's own loss. `sync`: a converted hidden state should match the other network's.
`recon`: converting there and back should give the same state. `cross`: a mixed network should predict like the teacher.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from pwl_lab.distill.curriculum import Curriculum, blocks_of
from pwl_lab.distill.losses import real_share, soft_loss, target_loss
from pwl_lab.distill.targets import Activations, Member, TeacherTargets, calibration_inputs
from pwl_lab.fast import feature_distance as fast_distance
from pwl_lab.fast import folding, mixing, sped_up_by
from pwl_lab.models.blocknet import BlockNet
from pwl_lab.support.config import Frozen, MaskDistribution
from pwl_lab.support.errors import invalid
from pwl_lab.support.seeding import begin_noise, generator
from pwl_lab.swap.masks import random_masks
from pwl_lab.swap.swapnet import Converters, SwapNet
from pwl_lab.tasks.base import Batch, Task, accuracy, label_loss, scored
from pwl_lab.training import Learner, Losses, TrainedModel, predict


@dataclass(frozen=True)
class Boundary:
    """The states of both networks after one block (counted from 1), and the same states converted."""

    number: int
    teacher: Float[Tensor, "batch c_t *positions"]
    student: Float[Tensor, "batch c_s *positions"]
    encoded: Float[Tensor, "batch c_s *positions"]
    decoded: Float[Tensor, "batch c_t *positions"]


def make_boundaries(
    converters: Converters, teacher_states: Sequence[Tensor], student_states: Sequence[Tensor]
) -> list[Boundary]:
    """All boundaries between blocks, first to last. Every PWL term needs the conversions: they are computed once."""
    pairs = list(zip(teacher_states, student_states, strict=True))[:-1]
    return [
        Boundary(number, teacher, student, converters.encode(teacher, number), converters.decode(student, number))
        for number, (teacher, student) in enumerate(pairs, start=1)
    ]


@sped_up_by(fast_distance.feature_distance)
def feature_distance(
    ours: Float[Tensor, "batch channels *positions"],
    target: Float[Tensor, "batch channels *positions"],
    share: float | Tensor = 1.0,
) -> Float[Tensor, ""]:
    """Mean squared error plus one minus the cosine of the flattened features; 0 if equal (1 if both are all zero).

    `share` is the fraction of positions that are not padded (`real_share`): the error is the mean over these.
    """
    cosine = F.cosine_similarity(ours.flatten(1), target.flatten(1), dim=1, eps=1e-6)  # (batch)
    return F.mse_loss(ours, target) / share + 1 - cosine.mean()


def sync_loss(boundaries: Sequence[Boundary], share: float | Tensor = 1.0) -> Float[Tensor, ""]:
    """The distance of each network's converted state from the other's state, averaged over the boundaries."""
    terms = [
        feature_distance(b.encoded, b.student, share) + feature_distance(b.decoded, b.teacher, share)
        for b in boundaries
    ]
    return torch.stack(terms).mean()


def recon_loss(
    converters: Converters, boundaries: Sequence[Boundary], share: float | Tensor = 1.0
) -> Float[Tensor, ""]:
    """The distance of each state from itself converted there and back, averaged over the boundaries."""
    terms = [
        feature_distance(converters.decode(b.encoded, b.number), b.teacher, share)
        + feature_distance(converters.encode(b.decoded, b.number), b.student, share)
        for b in boundaries
    ]
    return torch.stack(terms).mean()


@sped_up_by(mixing.mixed_logits)
def mixed_logits(
    net: SwapNet, boundaries: Sequence[Boundary], wanted: Sequence[tuple[int, str]], groups: int
) -> list[Float[Tensor, "_ *_"]]:
    """The logits of each wanted (group, mask) for the samples of that group, one mask after the other.

    The blocks before a mask's first change of owner are not run again, because their states are known.

    Arguments:
    - `net`: runs the rest of each mask.
    - `boundaries`: the states of both networks for the whole batch.
    - `wanted`: pairs of a group number, from 0, and a mask with both letters.
    - `groups`: how many groups the batch is split into (by `Tensor.chunk`).
    """
    found = []
    for group, mask in wanted:
        change = len(mask) - len(mask.lstrip(mask[0]))  # the last block before the first change of owner
        known = boundaries[change - 1].teacher if mask[0] == "T" else boundaries[change - 1].student
        found.append(net.run_from(known.chunk(groups)[group], change, mask))
    return found


def cross_loss(
    net: SwapNet,
    boundaries: Sequence[Boundary],
    masks: Sequence[str],
    teacher_logits: Float[Tensor, "batch *tokens classes"],
    temperature: float,
    groups: int = 1,
    labels: Int[Tensor, "batch *tokens"] | None = None,
) -> Float[Tensor, ""]:
    """`T^2 * KL(teacher || the network that a mask describes)`, averaged over the masks.

    Arguments:
    - `net`: the pair.
    - `boundaries`: the states of both networks for the batch (see `make_boundaries`).
    - `masks`: each with both letters.
    - `teacher_logits`: the teacher's logits for the whole batch.
    - `temperature`: the temperature of the soft loss.
    - `groups`: how many groups the batch is split into (by `Tensor.chunk`); the masks are assigned to them in turn.
    - `labels`: of the batch, if each token has one: the logits are compared only where they are `scored`.
    """
    labels = teacher_logits.new_zeros(len(teacher_logits)).long() if labels is None else labels
    parts = labels.chunk(groups)
    targets = [scored(theirs, part) for theirs, part in zip(teacher_logits.chunk(groups), parts, strict=True)]
    wanted = [(turn % len(targets), mask) for turn, mask in enumerate(masks)]
    with net.student_on_running_statistics():
        logits = mixed_logits(net, boundaries, wanted, groups)
    terms = [
        soft_loss(scored(ours, parts[group]), targets[group], temperature)
        for (group, _), ours in zip(wanted, logits, strict=True)
    ]
    return torch.stack(terms).mean()


@dataclass(frozen=True)
class Pass:
    """A batch and the activations of both networks for it."""

    batch: Batch
    teacher: Activations
    student: Activations


# The student's own loss at a step (from 0): the named terms, unweighted, and the value to minimise.
StudentObjective = Callable[[Pass, int], tuple[Losses, Float[Tensor, ""]]]


@dataclass(frozen=True)
class HardAndSoft:
    """`alpha * hard + (1 - alpha) * soft` (arXiv 2509.22319); the temperature applies to the soft loss."""

    alpha: float
    temperature: float

    def __call__(self, seen: Pass, step: int) -> tuple[Losses, Float[Tensor, ""]]:
        """The terms `hard` and `soft`; a term with weight 0 is not computed."""
        terms, labels = {}, seen.batch.labels
        if self.alpha > 0:
            terms["hard"] = label_loss(seen.student.logits, labels)
        if self.alpha < 1:
            student, teacher = (scored(one.logits, labels) for one in (seen.student, seen.teacher))
            terms["soft"] = soft_loss(student, teacher, self.temperature)
        weights = {"hard": self.alpha, "soft": 1 - self.alpha}
        return terms, torch.stack([weights[name] * value for name, value in terms.items()]).sum()


class FollowCurriculum:
    """The loss of a curriculum's current stage, from the teacher states that pair training computes anyway.

    As in a cohort (`pwl_lab.distill.students`), a stage on the hidden state of block i trains the layers up to it.
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
        """Raises InvalidValueError for a block or a checkpoint that the teacher does not have, and for `trains="block"`.

        Arguments:
        - `curriculum`: the stages.
        - `teacher`: a trained teacher with the checkpoints that the stages need.
        - `student_shapes`: the shapes of the student's hidden states (`BlockNet.state_shapes`).
        - `task`, `seed`, `device`: for the inputs on which the projections are centred and scaled.
        """
        self.curriculum = curriculum.for_blocks(len(student_shapes))
        if any(stage.trains == "block" for stage in self.curriculum.stages):
            raise invalid("trains", "block", "reach: the student of a pair computes all of its blocks in one pass")
        self.targets = TeacherTargets(teacher, [Member("student", seed, self.curriculum)], student_shapes)
        if self.targets.seeds:
            self.targets.calibrate(calibration_inputs(task, seed, device))

    def __call__(self, seen: Pass, step: int) -> tuple[Losses, Float[Tensor, ""]]:
        """One term, named after the kind of the stage's target, such as `labels`, `output` or `hidden`."""
        stage = self.curriculum.stage_at(step)
        wanted = self.targets.compute(seen.batch, stage.targets, seen.teacher)
        losses = []
        for target in stage.targets:
            ours = seen.student.at(target)
            ours = ours if blocks_of(target) else scored(ours, seen.batch.labels)
            # A cohort of one.
            losses.append(target_loss(target, ours.unsqueeze(0), wanted[target], self.targets.pads)[0])
        loss = torch.stack(losses).mean()
        return {stage.target.kind: loss}, loss


class PairLossConfig(Frozen):
    """How a pair is trained: the weights of the five loss terms (the defaults are the paper's) and, our additions, how
    the cross loss is computed, where converters are placed, their learning rate, and when the terms reach the student.
    """

    alpha: float = Field(0.4, ge=0.0, le=1.0, description="weight of the hard loss; the soft loss has the rest")
    temperature: float = Field(2.0, gt=0.0, description="of the soft and the cross loss")
    sync: float = Field(1.0, ge=0.0, description="weight of the synchronisation loss")
    recon: float = Field(1.0, ge=0.0, description="weight of the reconstruction loss")
    cross: float = Field(2.0, ge=0.0, description="weight of the cross loss")
    masks: MaskDistribution = Field("all", description="how the cross loss draws its swap masks")
    cross_passes: int = Field(2, ge=1, le=16, description="passes of the batch through mixed networks, per step")
    cross_groups: int = Field(
        4, ge=1, le=64, description="groups that each pass splits its batch into, each with its own mask"
    )
    converters: Literal["always", "if_different"] = Field(
        "always", description="a converter at every boundary, or only where the channels differ"
    )
    freeze_norm_at: float = Field(
        0.6,
        ge=0.0,
        le=1.0,
        description="fraction of the training after which the student's batch-norm statistics are frozen",
    )
    converter_lr: float = Field(1.0, gt=0.0, description="learning rate of the converters, relative to the student's")
    student_joins_at: float = Field(
        0.0,
        ge=0.0,
        le=1.0,
        description="fraction of the training after which sync, recon and cross also train the student; before it "
        "they train only the converters",
    )


@sped_up_by(folding.folded)
def inference_teacher(teacher: BlockNet) -> BlockNet:
    """The teacher as used in training. The plain version returns it unchanged; the fast one folds its batch norms."""
    return teacher


class PairLearner(Learner):
    """Trains the student and the converters of a `SwapNet`, with named loss terms."""

    def __init__(
        self,
        net: SwapNet,
        config: PairLossConfig,
        validation: Batch,
        seed: int,
        steps: int,
        objective: StudentObjective | None = None,
    ) -> None:
        """Raises InvalidValueError for masks that do not fit the network.

        Arguments:
        - `net`: the pair; its student and converters are trained.
        - `config`: weights and options of the loss.
        - `validation`: the data for the accuracies in the history.
        - `seed`: the seed of the cross-loss masks, and of dropout if the student has any.
        - `steps`: the length of the plan.
        - `objective`: the student's own loss; by default the hard and the soft loss.
        """
        self.seed = seed
        self.freeze_norm_from = config.freeze_norm_at * steps
        self.student_joins_from, self.joined = config.student_joins_at * steps, config.student_joins_at == 0
        self.net, self.config, self.validation = net, config, validation
        self.passes = net.with_teacher(inference_teacher(net.teacher))
        self.masks, self.masks_drawn = random_masks(net.n_blocks, config.masks, generator(seed, "masks")), 0
        self.objective = objective or HardAndSoft(config.alpha, config.temperature)

    def parameter_groups(self, lr: float) -> list[dict[str, Any]]:
        """The parameters of student and converters, each with their own learning rate; none of the teacher's."""
        return [
            {"params": list(self.net.student.parameters()), "lr": lr},
            {"params": list(self.net.converters.parameters()), "lr": lr * self.config.converter_lr},
        ]

    def clip_gradients(self, largest: float, optimiser: torch.optim.Optimizer) -> None:
        """Clip student and converters together, or separately as long as the PWL terms must not reach the student."""
        student, converters = (list(part.parameters()) for part in (self.net.student, self.net.converters))
        for together in [student + converters] if self.joined else [student, converters]:
            nn.utils.clip_grad_norm_(together, largest)

    @torch.no_grad()
    def teacher_activations(self, batch: Batch) -> Activations:
        """The teacher's, for the inputs of a batch."""
        return Activations(*self.passes.teacher.hidden_states(batch.inputs))

    def losses(self, batch: Batch, step: int, teacher: Activations | None = None) -> Losses:
        """The student's own terms, `sync`, `recon` and `cross`, all unweighted, and the weighted `total`.

        Arguments:
        - `batch`: inputs and labels.
        - `step`: optimiser steps done.
        - `teacher`: its activations for the batch, if they are already computed.
        """
        net = self.net.train()
        if step >= self.freeze_norm_from:
            net.student_norms(training=False)
        teacher = self.teacher_activations(batch) if teacher is None else teacher
        begin_noise(self.seed, step, batch.inputs.device, "pair")
        student = Activations(*net.student.hidden_states(batch.inputs))
        seen = Pass(batch, teacher, student)
        terms, total = self.objective(seen, step)
        self.joined = step >= self.student_joins_from
        if self.joined:
            mixed = self._mixed_terms(seen)
        else:
            with net.student_left_alone():
                detached = student._replace(states=[state.detach() for state in student.states])
                mixed = self._mixed_terms(replace(seen, student=detached))
        for name, value in mixed.items():
            total = total + getattr(self.config, name) * value
        return terms | mixed | {"total": total}

    def state(self) -> dict[str, Any]:
        """Student and converters, and how many masks were drawn."""
        networks = {"student": self.net.student.state_dict(), "converters": self.net.converters.state_dict()}
        return networks | {"masks_drawn": self.masks_drawn}

    def restore(self, state: dict[str, Any], optimiser: torch.optim.Optimizer) -> None:
        """Become what `state` describes; the masks are drawn again."""
        self.net.student.load_state_dict(state["student"])
        self.net.converters.load_state_dict(state["converters"])
        self._draw_masks(state["masks_drawn"])

    def _draw_masks(self, many: int) -> list[str]:
        """The next masks for the cross loss."""
        self.masks_drawn += many
        return list(islice(self.masks, many))

    def _mixed_terms(self, seen: Pass) -> Losses:
        """`sync`, `recon` and `cross`. A term with weight 0 is not computed: an ablation shows what that saves."""
        config, terms = self.config, {}
        boundaries = make_boundaries(self.net.converters, seen.teacher.states, seen.student.states)
        share = real_share(seen.teacher.states[0]) if self.net.teacher.pads else 1.0
        if config.sync:
            terms["sync"] = sync_loss(boundaries, share)
        if config.recon:
            terms["recon"] = recon_loss(self.net.converters, boundaries, share)
        if config.cross:
            groups = min(config.cross_groups, len(seen.batch))
            rounds = config.cross_passes * len(seen.teacher.logits.chunk(groups))
            masks = self._draw_masks(rounds)
            logits, labels = seen.teacher.logits, seen.batch.labels
            terms["cross"] = cross_loss(self.passes, boundaries, masks, logits, config.temperature, groups, labels)
        return terms

    def evaluate(self, step: int) -> list[dict[str, Any]]:
        """The student's `accuracy` on the validation split."""
        return [{"accuracy": accuracy(predict(self.net.student, self.validation.inputs), self.validation.labels)}]
