"""The two-phase training of the proofs: one large gradient step on the first layer, then only the outer layer.

arXiv 2410.05464 and arXiv 2503.17494 prove their bounds for a scheme of this kind instead of for plain SGD. The first
layer has random weights of +1 and -1. The gradient of the correlation loss `-mean(t(x) relu(w x + b))` at these weights
becomes the new first layer; the initial weights are dropped, as weight decay does in such proofs. The outer layer is
then a linear problem, solved here by ridge regression.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import scipy
import torch
from jaxtyping import Float
from torch import Tensor

from pwl_lab.distill.targets import Projection, random_projection
from pwl_lab.models.blocknet import BlockNet
from pwl_lab.support.errors import unknown
from pwl_lab.support.seeding import generator
from pwl_lab.support.timing import phase
from pwl_lab.tasks.base import Batch, accuracy
from pwl_lab.tasks.checks import CALIBRATION_SAMPLES, check_count
from pwl_lab.tasks.parity import SparseParity

STEP_LENGTH = 2.0  # root mean square norm of a unit's weights after the step: as large as the range of the biases
RIDGE = 1e-5
CHUNK = 4_096  # samples at a time: millions at once would not fit into memory
StepTarget = Literal["hidden", "labels"]
ROLE = "two_phase"  # a separate role: these streams are neither the teacher's nor a cohort's


@dataclass(frozen=True)
class TwoPhaseResult:
    """What one step on `samples` samples gives.

    The test accuracy after the outer layer is fitted, and the ratio of the first layer's mean absolute weight on the
    support to that off it.
    """

    samples: int
    accuracy: float
    support_ratio: float


@phase("training")
@torch.no_grad()
def two_phase(
    task: SparseParity,
    teacher: BlockNet,
    width: int,
    samples: Sequence[int],
    seed: int = 0,
    target: StepTarget = "hidden",
    outer_samples: int = 8192,
) -> list[TwoPhaseResult]:
    """Train a student with one step on the first layer, then its outer layer on other samples.

    One result for each number of samples, in increasing order. A larger step repeats the samples of the smaller ones and
    adds new ones, so the results of one seed depend on each other.

    Raises InvalidValueError for a number below 1, and for an unknown target.

    Arguments:
    - `task`, `teacher`: the task, and a network that has learned it.
    - `width`: units of the student.
    - `samples`, `outer_samples`: the numbers of samples for the step, and the number for the outer layer.
    - `seed`: the seed of all random numbers.
    - `target`: for the step: each unit's own projection of the teacher's hidden layer, or the label (+1 or -1) for all.
    """
    for field, value in [("width", width), ("outer_samples", outer_samples), *(("samples", one) for one in samples)]:
        check_count(field, value)
    if target not in ("hidden", "labels"):
        raise unknown("target", target, ("hidden", "labels"))
    start = generator(seed, "init", ROLE)
    weights = torch.randint(0, 2, (width, task.n_bits), generator=start) * 2.0 - 1
    biases = torch.empty(width).uniform_(-STEP_LENGTH, STEP_LENGTH, generator=start)
    random = generator(seed, "data", ROLE)
    outer, many = task.draw(outer_samples, random), task.draw(CALIBRATION_SAMPLES, random)
    shown = _Target(teacher, width, seed, target, many)
    total, seen, results = torch.zeros_like(weights), 0, []
    for amount in sorted(samples):
        while seen < amount:
            batch = task.draw(min(CHUNK, amount - seen), random)
            total += len(batch.inputs) * first_layer_gradient(
                shown(batch), batch.inputs, weights, initial_bias(task.n_bits, task.k_sparse)
            )
            seen += len(batch.inputs)
        results.append(_second_phase(task, amount, -total, biases, outer))
    return results


def initial_bias(n_bits: int, k_sparse: int) -> float:
    """The bias of every unit before the step: 0 for an even k, else the square root of n.

    Without a bias a unit is active for exactly one of x and -x (ties aside), and then the gradient holds no hint at a
    support of an odd number of bits.
    """
    return math.sqrt(n_bits) if k_sparse % 2 else 0.0


def first_layer_gradient(
    targets: Float[Tensor, "batch #units"],
    inputs: Float[Tensor, "batch bits"],
    weights: Float[Tensor, "units bits"],
    bias: float = 0.0,
) -> Float[Tensor, "units bits"]:
    """The gradient of the correlation loss: minus the mean of target times input, over the samples at which a unit is active.

    Inactive samples count in the mean, with a gradient of 0. The loss of unit j is `-mean(t_j(x) relu(w_j x + b))`. A
    single column of targets is for all units.
    """
    active = (inputs @ weights.T).gt_(-bias)  # (batch, units) of 0.0 and 1.0
    if targets.shape[1] == 1:  # the same sum, with the smaller of the two factors multiplied
        return active.T @ (targets * inputs) / -len(inputs)
    return active.mul_(targets).T @ inputs / -len(inputs)


def expected_ratio(n_bits: int, k_sparse: int, samples: float) -> float:
    """The support ratio that theory expects of a step from labels: signal and sampling noise in a normal approximation.

    At a bit of the support, the gradient's expectation is the coefficient of a unit's activity on the other k - 1 bits,
    of order n^(-(k-1)/2). At another bit it is the coefficient on k + 1 bits, which is far smaller. Sampling adds noise of
    order 1 / sqrt(samples) to both.
    """
    bias = initial_bias(n_bits, k_sparse)
    noise = math.sqrt(_activity(n_bits, 0, bias) / samples)
    on, off = (_mean_size(_activity(n_bits, degree, bias), noise) for degree in (k_sparse - 1, k_sparse + 1))
    return on / off


def _activity(n_bits: int, degree: int, bias: float) -> float:
    """The expectation of a unit's activity times `degree` of its terms w_i x_i, over random signs; of degree 0, its share."""
    if degree > n_bits:
        return 0.0
    negative = np.arange(degree + 1)  # how many of these terms are -1
    signs = (-1.0) ** negative * scipy.special.comb(degree, negative) / 2.0**degree
    # The unit is active if w x > -bias, that is if fewer of the remaining terms are -1 than this:
    fewer = np.ceil((n_bits - 2 * negative + bias) / 2)
    rest = n_bits - degree
    share = np.where(
        fewer > rest, 1.0, np.where(fewer < 1, 0.0, scipy.special.bdtr(np.clip(fewer - 1, 0, rest), rest, 0.5))
    )
    return float(signs @ share)


def _mean_size(mean: float, deviation: float) -> float:
    """The mean absolute value of a normal variable."""
    ratio = mean / deviation
    return deviation * (
        math.sqrt(2 / math.pi) * math.exp(-(ratio**2) / 2) + ratio * (1 - 2 * float(scipy.special.ndtr(-ratio)))
    )


class _Target:
    """Each unit's target: the label, or its projection of the hidden layer, as the extracted curriculum has it."""

    def __init__(self, teacher: BlockNet, width: int, seed: int, target: str, many: Batch) -> None:
        self.teacher, self.projection = teacher, None
        if target == "hidden":
            state = self._state(many.inputs)
            self.projection = Projection.fit(random_projection(state.shape[1], width, seed).unsqueeze(0), state)

    def __call__(self, batch: Batch) -> Float[Tensor, "batch #units"]:
        """Standard deviation 1 over the samples (of the projections: over all units together)."""
        if self.projection is None:
            return (2.0 * batch.labels - 1).unsqueeze(1)
        return self.projection(self._state(batch.inputs))[0]

    def _state(self, inputs: Float[Tensor, "batch bits"]) -> Float[Tensor, "batch m"]:
        """The teacher's first hidden layer."""
        return self.teacher.hidden_states(inputs.to(next(self.teacher.parameters()).device))[0][0].to(inputs)


def _second_phase(
    task: SparseParity,
    samples: int,
    step: Float[Tensor, "units bits"],
    biases: Float[Tensor, " units"],
    outer: Batch,
) -> TwoPhaseResult:
    """Fit the outer layer. One learning rate for all units brings the step to a useful length, whatever its target."""
    weights = step * STEP_LENGTH / step.square().sum(dim=1).mean().sqrt().clamp_min(1e-12)
    solution = _ridge(_features(outer.inputs, weights, biases), 2.0 * outer.labels - 1)
    test = task.split("test")
    margin = _features(test.inputs, weights, biases) @ solution
    inside = weights[:, list(task.support)].abs().mean()
    outside = weights[:, [bit for bit in range(task.n_bits) if bit not in task.support]].abs().mean()
    right = accuracy(torch.stack([-margin, margin], dim=1), test.labels)
    return TwoPhaseResult(samples, right, float(inside / outside))


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
