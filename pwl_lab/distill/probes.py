"""Probes: which products of input bits correlate with a network's output, or a projection of its hidden state?

arXiv 2410.05464 and 2503.17494: during its phase transition a teacher's output correlates with single bits of
the support, which a small student can learn at once; a projected hidden layer of the *final* teacher carries the same.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from pwl_lab.distill.targets import random_projection
from pwl_lab.models.blocknet import BlockNet
from pwl_lab.support.errors import invalid
from pwl_lab.support.seeding import generator
from pwl_lab.tasks.checks import check_count, check_probe, check_support
from pwl_lab.tasks.parity import SparseParity
from pwl_lab.training import TrainedModel, predict


def monomials(
    inputs: Float[Tensor, "batch n_bits"], subsets: Int[Tensor, "subsets degree"]
) -> Float[Tensor, "batch subsets"]:
    """The product of each subset's bits."""
    product = torch.ones(len(inputs), len(subsets), dtype=inputs.dtype, device=inputs.device)
    for bits in subsets.unbind(dim=1):  # degree by degree, to avoid a tensor of batch x subsets x degree
        product *= inputs[:, bits]
    return product


def correlations(
    values: Float[Tensor, "batch functions"], others: Float[Tensor, "batch subsets"]
) -> Float[Tensor, "functions subsets"]:
    """Pearson correlation, over the batch, of every function with every other; 0 if one of the two is constant."""
    return _standardised(values).T @ _standardised(others) / len(values)


def _standardised(values: Float[Tensor, "batch columns"]) -> Float[Tensor, "batch columns"]:
    """Mean 0 and standard deviation 1 per column; a constant column becomes 0."""
    centred = values - values.mean(dim=0)
    spread = centred.square().mean(dim=0).sqrt()
    constant = spread <= 1e-6 * values.abs().amax(dim=0)  # rounding makes a constant column vary slightly
    return torch.where(constant, 0.0, centred / spread.clamp_min(1e-30))


def in_support_subsets(support: Sequence[int], degree: int) -> Int[Tensor, "subsets degree"]:
    """All subsets of `degree` bits of the support. Raises InvalidValueError for a degree larger than the support."""
    if not 1 <= degree <= len(support):
        raise invalid("degree", degree, f"from 1 to {len(support)}, the size of the support")
    return torch.tensor(list(combinations(sorted(support), degree)))


def off_support_subsets(
    support: Sequence[int], n_bits: int, degree: int, at_most: int, seed: int = 0
) -> Int[Tensor, "subsets degree"]:
    """Distinct subsets of `degree` bits that are not contained in the support (they may share some bits with it).

    All of them if there are at most `at_most`, otherwise that many drawn from the stream `probe` of `seed`.
    Raises InvalidValueError if there is none.
    """
    inside = set(support)
    there = math.comb(n_bits, degree) - math.comb(len(inside), degree)
    if there < 1 or at_most < 1:
        raise invalid("degree", degree, f"a degree with subsets outside the support, {len(inside)} of {n_bits} bits")
    if there <= at_most:
        kept = [subset for subset in combinations(range(n_bits), degree) if not inside.issuperset(subset)]
        return torch.tensor(kept)
    random = generator(seed, "probe", f"degree {degree}")
    found: dict[tuple[int, ...], None] = {}  # a dict keeps the order in which they were drawn; a set would not
    while len(found) < at_most:
        subset = tuple(sorted(torch.randperm(n_bits, generator=random)[:degree].tolist()))
        if not inside.issuperset(subset):
            found[subset] = None
    return torch.tensor(list(found))


@dataclass(frozen=True)
class CorrelationProbe:
    """Fixed inputs and, per degree, the subsets of bits (one per row) inside and outside the support."""

    inputs: Float[Tensor, "batch n_bits"]
    support: tuple[int, ...]
    in_support: dict[int, Int[Tensor, "_ _"]]
    off_support: dict[int, Int[Tensor, "_ _"]]

    @classmethod
    def draw(
        cls,
        task: SparseParity,
        samples: int = 16_384,
        degrees: Sequence[int] | None = None,
        off_subsets: int = 300,
        seed: int = 0,
    ) -> "CorrelationProbe":
        """Draw inputs and subsets.

        Raises InvalidValueError for a degree that has no subset inside, or none outside, the support.

        Arguments:
        - `task`: provides the inputs and the support.
        - `samples`: the number of inputs.
        - `degrees`: the number of bits in a subset; by default 1 to k-1.
        - `off_subsets`: the most subsets outside the support, per degree.
        - `seed`: the seed of the stream `probe`.
        """
        check_count("samples", samples, 2)  # a correlation needs at least two samples
        support = check_support(task.support, task.n_bits, task.k_sparse)
        if degrees is None:
            check_probe(task.n_bits, task.k_sparse, samples, off_subsets)
            degrees = range(1, task.k_sparse)
        inputs = task.draw(samples, generator(seed, "probe")).inputs
        inside, outside = {}, {}
        for degree in degrees:
            at_most = off_subsets if degree > 1 else max(off_subsets, task.n_bits)  # use all single bits
            inside[degree] = in_support_subsets(support, degree)
            outside[degree] = off_support_subsets(support, task.n_bits, degree, at_most, seed)
        return cls(inputs, support, inside, outside)

    @property
    def noise_floor(self) -> float:
        """The mean |correlation| of two independent variables over the probe's samples: sqrt(2 / (pi samples))."""
        return math.sqrt(2 / (math.pi * len(self.inputs)))

    @cached_property
    def _monomials(self) -> dict[int, dict[str, Float[Tensor, "batch _"]]]:
        """Per degree, the standardised monomials inside and outside the support: the same for every probed function."""
        return {
            degree: {
                "in_support": _standardised(monomials(self.inputs, self.in_support[degree])),
                "off_support": _standardised(monomials(self.inputs, self.off_support[degree])),
            }
            for degree in self.in_support
        }

    def __call__(self, values: Float[Tensor, "batch functions"]) -> list[dict[str, Any]]:
        """Per degree, the mean |correlation| over functions and subsets, as `degree`, `in_support`, `off_support`."""
        ours = _standardised(values).T / len(values)
        return [
            {"degree": degree} | {where: (ours @ others).abs().mean().item() for where, others in both.items()}
            for degree, both in self._monomials.items()
        ]

    def bit_map(self, values: Float[Tensor, " batch"]) -> Float[Tensor, "n_bits n_bits"]:
        """The signed correlation of one function with each pair of bits; on the diagonal, with each single bit.

        The signs are treated as centred, which holds up to the noise floor: one matrix product covers all pairs.
        """
        ours = _standardised(values.unsqueeze(1))
        pairs = (self.inputs * ours).T @ self.inputs / len(values)
        single = (self.inputs * ours).mean(dim=0)
        return pairs.diagonal_scatter(single)


def margin(logits: Float[Tensor, "batch 2"]) -> Float[Tensor, " batch"]:
    """The logit of label 1 minus that of label 0: how strongly the network prefers label 1."""
    return logits[:, 1] - logits[:, 0]


@dataclass
class TeacherReadings:
    """The probe applied to a teacher's margin, at every checkpoint and at the end.

    `table` has one row per checkpoint and degree (step, accuracy, degree, in_support, off_support; `final` marks the
    final teacher), `maps` the signed correlations with bits and pairs of bits, for each step in it.
    """

    table: pd.DataFrame
    maps: dict[int, Float[Tensor, "n_bits n_bits"]]
    support: tuple[int, ...]
    noise_floor: float

    @property
    def accuracies(self) -> dict[int, float]:
        """Validation accuracy by step."""
        return dict(zip(self.table["step"], self.table["accuracy"], strict=True))

    @property
    def steps(self) -> list[int]:
        """The steps of the checkpoints in order, the final teacher last."""
        return list(self.maps)


def probe_teacher(teacher: TrainedModel, probe: CorrelationProbe) -> TeacherReadings:
    """Apply the probe to the margin of every checkpoint and of the final teacher."""
    last = teacher.history.iloc[-1]
    stages = [(point.step, point.accuracy, teacher.at(point), False) for point in teacher.checkpoints]
    stages.append((int(last["step"]), float(last["accuracy"]), teacher.model, True))
    rows, maps = [], {}
    for step, value, net, final in stages:
        values = margin(predict(net, probe.inputs.to(next(net.parameters()).device))).to(probe.inputs.device)
        maps[step] = probe.bit_map(values)
        front = {"step": step, "accuracy": value, "final": final}
        rows += [front | reading for reading in probe(values.unsqueeze(1))]
    # A teacher that never saturated already has its end among its checkpoints: the row marked final stands for both.
    table = pd.DataFrame(rows).drop_duplicates(["step", "degree"], keep="last", ignore_index=True)
    return TeacherReadings(table, maps, probe.support, probe.noise_floor)


def probe_projections(
    net: BlockNet, probe: CorrelationProbe, width: int, seeds: Sequence[int], block: int = 1
) -> pd.DataFrame:
    """Apply the probe to random projections of a hidden state: a row per seed and degree.

    They are the projections that an extracted curriculum uses for a student of the same seed.

    Arguments:
    - `net`: the network whose hidden state is projected.
    - `probe`: the inputs and subsets.
    - `width`: the number of units of the projection.
    - `seeds`: one projection for each.
    - `block`: the block of the hidden state, from 1.
    """
    projected = projected_states(net, probe.inputs, width, seeds, block)
    return pd.DataFrame(
        [{"seed": seed} | reading for seed, values in zip(seeds, projected, strict=True) for reading in probe(values)]
    )


@torch.no_grad()
def projected_states(
    net: BlockNet, inputs: Float[Tensor, "batch *shape"], width: int, seeds: Sequence[int], block: int = 1
) -> Float[Tensor, "seeds batch units"]:
    """`P^T h` with one `P` per seed (each unit at each position counts as a unit), neither centred nor scaled."""
    device, matrices, parts = next(net.parameters()).device, None, []
    for chunk in torch.split(inputs, 1024):  # a hidden state of all inputs at once would take hundreds of megabytes
        state = net.hidden_states(chunk.to(device))[0][block - 1]
        if matrices is None:
            drawn = [random_projection(state.shape[1], width, seed, block) for seed in seeds]
            matrices = torch.stack(drawn).to(state)
        found = torch.einsum("bmp,smr->sbrp", state.flatten(2) if state.dim() > 2 else state.unsqueeze(2), matrices)
        parts.append(found.flatten(2).to(inputs.device))
    return torch.cat(parts, dim=1)
