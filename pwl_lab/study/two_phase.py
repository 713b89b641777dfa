"""The two-phase training of the proofs: one large gradient step on the first layer, then only the outer layer.

arXiv 2410.05464 and arXiv 2503.17494 prove their bounds for this scheme instead of for plain SGD. The first
layer starts at zero, so that one step makes each unit's weights proportional to the correlation of its target with the
single bits; the outer layer is then a linear problem, solved here by ridge regression.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from pwl_lab.distill.targets import Projection, random_projection
from pwl_lab.models.blocknet import BlockNet
from pwl_lab.support.errors import unknown
from pwl_lab.support.seeding import generator
from pwl_lab.tasks.base import Batch, accuracy
from pwl_lab.tasks.checks import check_count
from pwl_lab.tasks.parity import SparseParity

STEP_LENGTH = 2.0  # norm of each unit's weights after the step: as large as the range of the biases
RIDGE = 1e-5
ROLE = "two_phase"  # a separate role: these streams are neither the teacher's nor a cohort's


@dataclass(frozen=True)
class TwoPhaseResult:
    """Test accuracy, and the ratio of the first layer's mean weight on the support to that off the support."""

    accuracy: float
    support_ratio: float


def two_phase(
    task: SparseParity,
    teacher: BlockNet,
    width: int,
    samples: int,
    seed: int = 0,
    target: Literal["hidden", "labels"] = "hidden",
    outer_samples: int = 8192,
) -> TwoPhaseResult:
    """Train a student with one step on the first layer, then its outer layer on other samples.

    Raises InvalidValueError for a number below 1, and for an unknown target.

    Arguments:
    - `task`, `teacher`: the task, and a network that has learned it.
    - `width`: units of the student.
    - `samples`, `outer_samples`: the number of samples for the step, and for the outer layer.
    - `seed`: the seed of all random numbers.
    - `target`: for the step: each unit's own projection of the teacher's hidden layer, or the label with a random sign.
    """
    for field, value in {"width": width, "samples": samples, "outer_samples": outer_samples}.items():
        check_count(field, value)
    if target not in ("hidden", "labels"):
        raise unknown("target", target, ("hidden", "labels"))
    random = generator(seed, "data", ROLE)
    first, outer = task.draw(samples, random), task.draw(outer_samples, random)
    weights = first_layer_step(_unit_targets(teacher, first, width, seed, target), first.inputs)
    signs = generator(seed, "init", ROLE)
    biases = torch.empty(width).uniform_(-STEP_LENGTH, STEP_LENGTH, generator=signs)
    solution = _ridge(_features(outer.inputs, weights, biases), 2.0 * outer.labels - 1)
    test = task.split("test")
    margin = _features(test.inputs, weights, biases) @ solution
    inside = weights[:, list(task.support)].abs().mean()
    outside = weights[:, [bit for bit in range(task.n_bits) if bit not in task.support]].abs().mean()
    return TwoPhaseResult(accuracy(torch.stack([-margin, margin], dim=1), test.labels), float(inside / outside))


def first_layer_step(
    targets: Float[Tensor, "batch units"], inputs: Float[Tensor, "batch bits"]
) -> Float[Tensor, "units bits"]:
    """Each unit's weights after one step from zero: along the mean of target times input, all with the same norm."""
    step: Tensor = targets.T @ inputs / len(inputs)  # (units, bits)
    lengths: Tensor = step.norm(dim=1, keepdim=True)  # (units, 1)
    return STEP_LENGTH * step / lengths.clamp_min(1e-12)


@torch.no_grad()
def _unit_targets(teacher: BlockNet, batch: Batch, width: int, seed: int, target: str) -> Float[Tensor, "batch units"]:
    """The regression target of each unit, centred and with standard deviation 1 as in the extracted curriculum."""
    if target == "labels":
        signs = torch.randint(0, 2, (width,), generator=generator(seed, "projection", ROLE)) * 2.0 - 1
        return (2.0 * batch.labels - 1).unsqueeze(1) * signs
    state = teacher.hidden_states(batch.inputs.to(next(teacher.parameters()).device))[0][0].to(batch.inputs)
    matrix = random_projection(state.shape[1], width, seed)
    return Projection.fit(matrix.unsqueeze(0), state)(state)[0]


def _features(
    inputs: Float[Tensor, "batch bits"], weights: Float[Tensor, "units bits"], biases: Float[Tensor, " units"]
) -> Float[Tensor, "batch features"]:
    """The outer layer's inputs: the ReLU units, and a constant 1 for its bias."""
    units = torch.relu(inputs @ weights.T + biases)
    return torch.cat([units, torch.ones(len(inputs), 1)], dim=1)


def _ridge(features: Float[Tensor, "batch features"], wanted: Float[Tensor, " batch"]) -> Float[Tensor, " features"]:
    """Least squares with a small penalty, in double precision because the features are nearly dependent."""
    left = features.double()
    penalty = RIDGE * len(left) * torch.eye(left.shape[1], dtype=torch.double)
    solution: Tensor = torch.linalg.solve(left.T @ left + penalty, left.T @ wanted.double())
    return solution.to(features)
