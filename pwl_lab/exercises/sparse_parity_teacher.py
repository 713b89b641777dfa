"""Checks of the exercises to notebook 01: monomials, the correlation probe, and the noise floor."""

from collections.abc import Callable, Sequence
from math import pi

import torch
from jaxtyping import Float
from torch import Tensor

from pwl_lab.distill import probes
from pwl_lab.exercises.checking import attempt, same_numbers
from pwl_lab.support.seeding import generator

SUBSETS = [(0, 2), (1, 3), (0, 5), (2, 4)]


def _inputs(rows: int) -> Float[Tensor, "rows 6"]:
    """Random signs, the same at every call."""
    return torch.randint(0, 2, (rows, 6), generator=generator(0, "data")) * 2.0 - 1


def monomial(answer: Callable[[Tensor, Sequence[int]], Float[Tensor, " batch"]]) -> str:
    """`answer(inputs, subset)`: the product of the bits of a subset, one number per row."""
    hint = "pick the columns of the subset (`inputs[:, list(subset)]`), then multiply along dimension 1"
    inputs = _inputs(40)
    for subset in ((0, 2, 5), (3,), (1, 4)):
        bits = inputs[:, list(subset)]
        mistakes = {
            "this is the sum of the bits, not their product": bits.sum(dim=1),
            "this takes rows, which are samples: the bits are the columns": inputs[list(subset)].prod(dim=0),
            "give one number per row, without a dimension of length 1": bits.prod(dim=1, keepdim=True),
            "this is the mean of the bits, not their product": bits.mean(dim=1),
            "this multiplies all bits of a row, not those of the subset alone": inputs.prod(dim=1),
            "this multiplies over the batch: one number per bit, not one per row": bits.prod(dim=0),
            "these are the bits themselves: take their product": bits,
            "this counts bits from 1; here the first bit is 0": inputs[:, [bit - 1 for bit in subset]].prod(dim=1),
        }
        found = attempt(answer, inputs, subset, hint=hint, on=f"40 rows of 6 signs and the subset {subset}")
        same_numbers("monomial", found, bits.prod(dim=1), hint, mistakes)
    return "Right: the label is the monomial of the whole support; all smaller ones are uncorrelated with it."


def mean_correlation(answer: Callable[[Tensor, Tensor, list[tuple[int, ...]]], float]) -> str:
    """`answer(values, inputs, subsets)`: the mean of |correlation| of the values with each subset's monomial."""
    hint = (
        "for each subset: centre the values and the monomial, take the mean of their product, divide by both standard "
        "deviations, drop the sign; then the mean over the subsets"
    )
    inputs = _inputs(600)
    products = probes.monomials(inputs, torch.tensor(SUBSETS))
    noise = torch.randn(600, generator=generator(1, "data"))
    values = 3.0 + 2.0 * products[:, 0] - 1.5 * products[:, 1] + noise
    signed = probes.correlations(values.unsqueeze(1), products)[0]
    together = (values.unsqueeze(1) * products).mean(dim=0)
    mistakes = {
        "correlations of different sign cancel here: take absolute values before the mean": signed.mean(),
        "correlations of different sign cancel here: absolute value of the mean, not mean of the absolute values": (
            signed.mean().abs()
        ),
        "this is the covariance: divide by both standard deviations": (signed * values.std()).abs().mean(),
        "the values are not centred: subtract their mean first": (together / values.std()).abs().mean(),
        "the values are neither centred nor divided by their standard deviation": together.abs().mean(),
        "this is the largest correlation, not the mean": signed.abs().max(),
        "this is the sum over the subsets, not the mean": signed.abs().sum(),
    }
    found = attempt(answer, values, inputs, SUBSETS, hint=hint, on="600 values, 600 rows of 6 signs, four subsets")
    # Standard deviations by n or by n - 1 are both fine.
    same_numbers("mean_correlation", found, signed.abs().mean(), hint, mistakes, tolerance=5e-3)
    return "Right, and the same as pwl_lab.distill.probes computes."


def samples_for(answer: Callable[[float], float]) -> str:
    """`answer(floor)`: how many samples a probe needs for a noise floor of `floor`."""
    hint = "solve floor = sqrt(2 / (pi N)) for N"
    for floor in (0.01, 0.05, 0.002):
        mistakes = {
            "this grows with 1 / floor; halving the floor takes four times the samples": 2 / (pi * floor),
            "the factor 2 / pi is missing": 1 / floor**2,
            "this is the square root of the number asked for": (2 / (pi * floor**2)) ** 0.5,
            "this is the noise floor for that many samples; the question asks for the reverse": (2 / (pi * floor))
            ** 0.5,
            "2 and pi are swapped": pi / (2 * floor**2),
        }
        found = attempt(answer, floor, hint=hint, on=f"a noise floor of {floor}")
        same_numbers("samples_for", found, 2 / (pi * floor**2), hint, mistakes, tolerance=5e-3)
    return "Right: distinguishing a correlation of size c from noise takes about 1 / c^2 samples. Notebook 08 builds on this."
