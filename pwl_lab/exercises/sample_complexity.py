"""Checks of the exercises to notebook 08: a slope on logarithmic axes, its bootstrap interval, one gradient step."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from pwl_lab.exercises.checking import as_numbers, attempt, pair_of, refusal, same_numbers
from pwl_lab.study.intervals import slope_interval
from pwl_lab.study.two_phase import first_layer_gradient
from pwl_lab.support.seeding import generator, numpy_generator

Points = Mapping[float, Sequence[float]]
POINTS: dict[float, list[float]] = {  # some students take long: means and medians differ
    20: [900, 1_100, 1_000, 1_300, 5_200],
    30: [2_600, 2_200, 2_400, 2_300, 7_900],
    45: [4_800, 5_600, 5_100, 6_300, 5_000],
    70: [13_000, 11_500, 12_400, 30_000, 12_000],
}
SPREAD: dict[float, list[float]] = {  # even enough for a bootstrap's quantiles to lie apart
    20: [700, 820, 950, 1_040, 1_180, 1_310, 1_500],
    30: [1_600, 1_750, 2_050, 2_300, 2_480, 2_900, 3_300],
    45: [3_500, 4_100, 4_600, 5_150, 5_900, 6_500, 7_600],
    70: [8_500, 9_600, 11_200, 12_500, 13_900, 16_200, 18_000],
}


def slope(answer: Callable[[Points], float]) -> str:
    """`answer(points)`: the least-squares slope of log(steps) over log(n), through the medians over seeds."""
    hint = "a straight line (np.polyfit) through the logarithms: of the sizes, and of the median of each size's steps"
    for points in (POINTS, {size: POINTS[size] for size in (20.0, 45.0, 70.0)}):
        sizes = np.array(sorted(points))
        medians, means = (np.array([middle(points[size]) for size in sizes]) for middle in (np.median, np.mean))
        log_n, log_steps = np.log(sizes), np.log(medians)
        mistakes = {
            "no logarithms: a power law is a straight line only on two logarithmic axes": _line(sizes, medians),
            "only the steps are in logarithms: take those of the sizes as well": _line(sizes, log_steps),
            "only the sizes are in logarithms: take those of the steps as well": _line(log_n, medians),
            "means over seeds: one student that took long moves them; take medians": _line(log_n, np.log(means)),
            "this is log(n) against log(steps): swap the axes": _line(log_steps, log_n),
            "this is the intercept: polyfit gives the highest power first": np.polyfit(log_n, log_steps, 1)[1],
            "a line through the first and the last point: least squares uses all of them": (
                (log_steps[-1] - log_steps[0]) / (log_n[-1] - log_n[0])
            ),
        }
        found = attempt(answer, points, hint=hint, on=f"{len(points)} sizes, 5 seeds each")
        same_numbers("slope", found, slope_interval(points)[1], hint, mistakes)
    return "Right: the exponent of a power law. Theory's lower bound for one-shot is k - 1 at large n."


def _line(x: NDArray[Any], y: NDArray[Any]) -> float:
    """The slope of the line through points, by least squares."""
    return float(np.polyfit(x, y, 1)[0])


def interval(answer: Callable[[Points], Sequence[float]]) -> str:
    """`answer(points)`: both ends of the 95% bootstrap interval of the slope, seeds drawn anew within each size."""
    hint = "2,000 times: draw as many seeds as there are, with replacement, within each size; fit; then quantiles 0.025, 0.975"
    low, middle, high = slope_interval(SPREAD)
    found = attempt(answer, SPREAD, hint=hint, on="4 sizes, 7 seeds each")
    parts = pair_of("interval", found, "(lower end, upper end)", hint)
    pair = as_numbers("interval", parts, torch.zeros(2), hint)
    if pair.shape != (2,):
        raise refusal("interval", "two numbers are expected", hint, "(lower end, upper end)", repr(found))
    room = 0.12 * (high - low)  # chance: two bootstraps of 2,000 resamples differ by a few percent of the width

    def near(ends: Sequence[float]) -> bool:
        """Whether the answer is this interval."""
        return all(abs(float(ours) - end) <= room for ours, end in zip(pair, ends, strict=True))

    if near((low, high)):
        return "Right, up to the randomness of the resamples. It covers the students' seeds only, not other teachers."
    named = [wrong for wrong, ends in _wrong_intervals(middle, low, high).items() if near(ends)]
    wrong = named[0] if named else "these are not the ends of the interval"
    raise refusal("interval", wrong, hint, f"about ({low:.3f}, {high:.3f})", tuple(pair.tolist()))


def _wrong_intervals(middle: float, low: float, high: float) -> dict[str, Sequence[float]]:
    """What the usual mistakes give."""
    random, sizes = numpy_generator(1, "bootstrap"), np.array(sorted(SPREAD))
    values = np.log(np.array([SPREAD[size] for size in sizes]))
    seeds = values.shape[1]
    drawn = [np.median(row[random.integers(seeds, size=(2_000, seeds))], axis=1) for row in values]
    slopes = np.polyfit(np.log(sizes), np.array(drawn), 1)[0]
    single = np.array([row[random.integers(seeds, size=2_000)] for row in values])
    alone = np.polyfit(np.log(sizes), single, 1)[0]
    return {
        "upper end before lower end": (high, low),
        "this is the range of all resamples: take the quantiles 0.025 and 0.975": (slopes.min(), slopes.max()),
        "this is the middle half: 95% lie between the quantiles 0.025 and 0.975": np.quantile(slopes, (0.25, 0.75)),
        "this has no width: draw the seeds with replacement, and again for each resample": (middle, middle),
        "one seed per size: draw as many as there are, and take their median": np.quantile(alone, (0.025, 0.975)),
    }


def one_step(answer: Callable[[Tensor, Tensor, Tensor, float], Float[Tensor, "units bits"]]) -> str:
    """`answer(inputs, targets, weights, bias)`: one step of each unit's weights, minus the gradient of its loss."""
    hint = "the mean over the batch of target times activity (0 or 1) times input is one matrix product, (units, bits)"
    random = generator(0, "data")
    inputs = torch.randint(0, 2, (200, 6), generator=random) * 2.0 - 1
    targets = inputs[:, :3] @ torch.randn(3, 4, generator=random) + torch.randn(200, 4, generator=random)
    weights, bias = torch.randint(0, 2, (4, 6), generator=random) * 2.0 - 1, 1.0
    right = -first_layer_gradient(targets, inputs, weights, bias)
    values = inputs @ weights.T + bias
    active = (values > 0).float()
    mistakes = {
        "this is the gradient: a step goes the other way": -right,
        "this counts every sample: only those count at which a unit is active": (targets.T @ inputs / len(inputs)),
        "inactive samples count in the mean, as 0: divide by the size of the batch": (
            right * len(inputs) / active.sum(dim=0).unsqueeze(1)
        ),
        "this is the sum over the batch: take the mean": right * len(inputs),
        "the bias is missing: a unit is active where w x + b > 0": -first_layer_gradient(targets, inputs, weights),
        "this multiplies by the ReLU's value: its derivative is 0 or 1": (targets * values * active).T
        @ inputs
        / len(inputs),
        "the shape is (bits, units): a unit's weights are a row": right.T,
    }
    found = attempt(answer, inputs, targets, weights, bias, hint=hint, on="200 rows of 6 signs, targets of 4 units")
    same_numbers("one_step", found, right, hint, mistakes)
    return "Right: the step follows the correlation of target and bits over the samples at which a unit is active."
