"""What a few seeds can tell: confidence intervals of medians, means and slopes, and tables of them."""

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

import numpy as np
import pandas as pd
import scipy  # its parts load when they are first used: `special` takes a third of a second
from numpy.typing import NDArray

from pwl_lab.study import tables
from pwl_lab.support.errors import invalid
from pwl_lab.support.seeding import numpy_generator

RESAMPLES = 2_000
FEWEST = 6  # values, for an interval of a median
Interval = tuple[float, float, float]


def median_interval(values: Sequence[float], confidence: float = 0.95) -> Interval:
    """Lower end, median and upper end, by a percentile bootstrap over the seeds (2,000 resamples, always the same).

    Values may be infinite. Raises InvalidValueError for fewer than six: even their whole range covers the median in at
    most 1 - 2 / 2^5 = 94% of all experiments. Such values have a range (`median_and_spread`).
    """
    if len(values) < FEWEST:
        raise invalid("values", list(values), f"at least {FEWEST} values, for an interval of their median")
    return between(resampled_medians(np.asarray(values, dtype=float), numpy_generator(0, "bootstrap")), confidence)


def resampled_medians(values: NDArray[np.float64], random: np.random.Generator) -> NDArray[np.float64]:
    """The median over the first axis, and below it those of 2,000 resamples of it: the same ones for every column."""
    chosen = random.integers(len(values), size=(RESAMPLES, len(values)))
    return np.concatenate([np.median(values, axis=0, keepdims=True), np.median(values[chosen], axis=1)])


def median_and_spread(values: Sequence[float]) -> tuple[Interval, str]:
    """The median between the ends of its 95% interval, or of the range where there are fewer than six values.

    The text says which of the two it is: `95%` or `range`.
    """
    if len(values) >= FEWEST:
        return median_interval(values), "95%"
    return (float(min(values)), float(np.median(values)), float(max(values))), "range"


def mean_interval(values: Sequence[float], confidence: float = 0.95) -> Interval:
    """Lower end, mean and upper end, by Student's t: with few seeds a bootstrap interval would be too narrow.

    With a single value there is no spread: the ends are NaN.
    """
    middle, n = float(np.mean(values)), len(values)
    if n < 2:
        return float("nan"), middle, float("nan")
    half = float(scipy.special.stdtrit(n - 1, (1 + confidence) / 2) * np.std(values, ddof=1) / np.sqrt(n))
    return middle - half, middle, middle + half


def crossed_interval(scores: pd.DataFrame, confidence: float = 0.95) -> Interval:
    """Lower end, mean and upper end over seeds *and* samples: where the mean would lie with others of both.

    Seeds share their test samples, so the spread between seeds says nothing about other samples. Two half-widths are
    joined, the root of the sum of their squares: that of `mean_interval`, and that of the variance between samples as
    far as all seeds share it. So the interval is never narrower than over seeds alone. With one seed the ends are NaN.

    Arguments:
    - `scores`: a row per seed and a column per sample, for example hits of one mask minus hits of another.
    - `confidence`: the share of such intervals that contain the true mean.
    """
    values = scores.to_numpy(dtype=float)
    (n_seeds, n_samples), by_seed, by_sample = values.shape, values.mean(axis=1), values.mean(axis=0)
    low, middle, _ = mean_interval(by_seed.tolist(), confidence)
    if n_seeds < 2:
        return low, middle, low
    rest = values - by_seed[:, None] - by_sample + middle  # what neither the seed nor the sample explains
    noise = (rest**2).sum() / ((n_seeds - 1) * (n_samples - 1))
    samples = max(0.0, by_sample.var(ddof=1) - noise / n_seeds) / n_samples  # variance of the mean over samples
    half = float(np.hypot(middle - low, scipy.special.stdtrit(n_samples - 1, (1 + confidence) / 2) * np.sqrt(samples)))
    return middle - half, middle, middle + half


def in_points(differences: Sequence[float] | pd.DataFrame) -> str:
    """Differences of accuracies as their mean in percentage points with its 95% interval.

    One number per seed gives an interval over seeds (`mean_interval`), a frame of seeds and samples one over both
    (`crossed_interval`). For example `+0.47 (-0.12 to +1.05)`; with one seed there is no interval.
    """
    both = isinstance(differences, pd.DataFrame)
    low, middle, high = (100 * end for end in (crossed_interval(differences) if both else mean_interval(differences)))
    return f"{middle:+.2f}" if np.isnan(low) else f"{middle:+.2f} ({low:+.2f} to {high:+.2f})"


def gain(hits: pd.DataFrame, mask: str, before: str) -> pd.DataFrame:
    """What `mask` gets right minus what `before` does, a row per seed and a column per sample.

    `hits` is from `tables.stacked_hits`.
    """
    return hits.xs(mask, level="mask").astype(float) - hits.xs(before, level="mask")


def gains_table(hits: pd.DataFrame, order: Sequence[str]) -> pd.DataFrame:
    """What each block of a loading order adds, in points with 95% intervals, against the student and the previous mask.

    Differences are taken seed by seed and sample by sample, so that what is common to all masks (such as the seed's
    teacher) cancels; the intervals are over both. One row per mask from the first teacher block on.

    Arguments:
    - `hits`: from `tables.stacked_hits`.
    - `order`: the masks of the order, k = 0..n.
    """
    rows = [
        {
            "mask": mask,
            "against the student": in_points(gain(hits, mask, order[0])),
            "against the mask before": in_points(gain(hits, mask, before)),
        }
        for before, mask in pairwise(order)
    ]
    return pd.DataFrame(rows).set_index("mask")


def area_by_sample(hits: pd.DataFrame, curve: pd.DataFrame) -> pd.DataFrame:
    """The share of a load during which each sample is answered correctly, a row per seed; its mean is the area.

    Arguments:
    - `hits`: from `tables.stacked_hits`.
    - `curve`: one order's rows of `tables.order_curves`.
    """
    one = curve[curve["seed"] == curve["seed"].iloc[0]]
    shares = one["teacher_bytes"].diff().iloc[1:] / one["teacher_bytes"].iloc[-1]
    weights = pd.Series(shares.to_numpy(), index=one["mask"].iloc[:-1])  # a mask predicts while the next block arrives
    return hits.mul(weights, level="mask", axis=0).groupby(level="seed", sort=False).sum()


def areas_table(curves: pd.DataFrame, hits: pd.DataFrame) -> pd.DataFrame:
    """One row per loading order: its blocks, its area (mean over seeds, least, most), and points against prefix order.

    Areas are as in `tables.best_order`. The last column has a 95% interval of the differences, over seeds and samples,
    or a dash for the same order under another name.

    Arguments:
    - `curves`: from `tables.order_curves`.
    - `hits`: from `tables.stacked_hits`, of the same pairs.
    """
    areas = tables.order_areas(curves).pivot(index="seed", columns="order", values="area")
    by_sample = {order: area_by_sample(hits, mine) for order, mine in curves.groupby("order")}
    named = curves.groupby("order", sort=False)["mask"].agg(
        lambda mine: tables.order_name(mine.drop_duplicates().tolist())
    )
    rows = {}
    for order, blocks in named.items():
        area = areas[order]
        rows[order] = {
            "blocks arrive": blocks,
            "mean area": f"{area.mean():.2%}",
            "least": f"{area.min():.2%}",
            "most": f"{area.max():.2%}",
        }
        same = blocks == named["prefix"]
        rows[order]["points against prefix"] = "–" if same else in_points(by_sample[order] - by_sample["prefix"])
    return pd.DataFrame(rows).T.rename_axis("order")


def cube_intervals(hits: pd.DataFrame, masks: pd.DataFrame, orders: Mapping[str, list[str]]) -> pd.DataFrame:
    """What pairs of several seeds reach, in points with 95% intervals over seeds and samples: kind, name, low, mean, high.

    The kinds are `mask` (the accuracy of each mask), `block` (what each block of prefix order adds, by the mask with
    which it has arrived), `gap` (the teacher minus the student), `area` (of each order, as in `tables.best_order`) and
    `lead` (prefix order's area minus that of each other order, or minus the accuracy of the student, `alone`).

    Arguments:
    - `hits`: from `tables.stacked_hits`.
    - `masks`: from `tables.stacked_masks`, of the same pairs.
    - `orders`: by name, the masks of each loading order, prefix order among them.
    """
    curves, prefix = tables.order_curves(masks, orders), orders["prefix"]
    areas = {name: area_by_sample(hits, curves[curves["order"] == name]) for name in orders}
    alone = hits.xs(prefix[0], level="mask").astype(float)
    found: dict[tuple[str, str], pd.DataFrame] = {
        ("mask", mask): hits.xs(mask, level="mask") for mask in dict.fromkeys(hits.index.get_level_values("mask"))
    }
    found |= {("block", mask): gain(hits, mask, before) for before, mask in pairwise(prefix)}
    found["gap", prefix[-1]] = gain(hits, prefix[-1], prefix[0])
    found |= {("area", name): area for name, area in areas.items()}
    found |= {("lead", name): areas["prefix"] - area for name, area in areas.items() if name != "prefix"}
    found["lead", "alone"] = areas["prefix"] - alone
    rows = [(*key, *(round(100 * end, 3) for end in crossed_interval(scores))) for key, scores in found.items()]
    return pd.DataFrame(rows, columns=["kind", "name", "low", "mean", "high"])


def samples_table(
    history: pd.DataFrame, budget: int, batch_size: int, thresholds: Sequence[float] = (0.9, 0.99, 1.0)
) -> pd.DataFrame:
    """Training samples needed for each accuracy: the median over seeds with its 95% interval, one row per curriculum.

    Of fewer than six seeds it is the range, and called so. A student that never reached it counts at the budget;
    numbers affected by that are marked with `>`.

    Arguments:
    - `history`: of `DistillationRuns`.
    - `budget`: the plan's steps.
    - `batch_size`: the plan's.
    - `thresholds`: the accuracies, a column for each.
    """
    rows: dict[str, dict[str, str]] = {}
    for threshold in thresholds:
        for name, steps in tables.steps_to_threshold(history, threshold).items():
            (low, middle, high), kind = _ends(steps, budget, lambda step: f"{step * batch_size / 1_000:,.0f}k")
            spread = f"{'range ' if kind == 'range' else ''}{low} to {high}"
            text = "none" if all(step is None for step in steps) else f"{middle} ({spread})"
            rows.setdefault(name, {})[f"to {threshold:.0%}"] = text
    return pd.DataFrame(rows).T.rename_axis("curriculum")


def variants_table(history: pd.DataFrame, budget: int, threshold: float = 0.99) -> pd.DataFrame:
    """Steps to `threshold` per variant: how many seeds reached it, and the median with its 95% interval.

    Of fewer than six seeds it is the range over seeds, in a column of that name.

    Arguments:
    - `history`: accuracies by curriculum, seed and step; the curricula are named `choice: variant`.
    - `budget`: the steps that each student had.
    - `threshold`: the test accuracy to reach.
    """
    rows: dict[tuple[str, str], dict[str, str]] = {}
    found = tables.steps_to_threshold(history, threshold)
    choices = dict.fromkeys(name.partition(": ")[0] for name in found)
    for name in sorted(found, key=lambda name: list(choices).index(name.partition(": ")[0])):
        steps, (choice, _, variant) = found[name], name.partition(": ")
        (low, middle, high), kind = _ends(steps, budget, lambda step: f"{step:,.0f}")
        reached = f"{sum(step is not None for step in steps)} of {len(steps)}"
        column = "95% interval" if kind == "95%" else "range over seeds"
        rows[choice, variant] = {"reached": reached, "median steps": middle, column: f"{low} to {high}"}
    return pd.DataFrame(rows).T.rename_axis(["choice", "variant"])


def _ends(steps: Sequence[int | None], budget: int, words: Callable[[float], str]) -> tuple[list[str], str]:
    """Lower end, median and upper end of steps as text, and what the ends are (`median_and_spread`).

    `>` marks values affected by students that never got there.
    """
    ends, kind = median_and_spread([budget if step is None else step for step in steps])
    return [f"{'> ' if None in steps and end >= budget else ''}{words(end)}" for end in ends], kind


def slope_interval(points: Mapping[float, Sequence[float]], confidence: float = 0.95) -> Interval:
    """Slope of log(value) over log(size): lower end, least-squares slope through the medians, upper end.

    `points[size]` holds one value per seed. The bootstrap resamples the seeds within each size. Raises
    InvalidValueError for fewer than two sizes.
    """
    random = numpy_generator(0, "bootstrap", "slope")
    drawn = {size: resampled_medians(np.asarray(points[size], dtype=float), random) for size in sorted(points)}
    return between(slopes(drawn), confidence)


def slopes(medians: Mapping[float, NDArray[np.float64]]) -> NDArray[np.float64]:
    """The slopes of log(value) over log(size) by least squares, one for each of the values that every size has.

    Raises InvalidValueError for fewer than two sizes.
    """
    if len(medians) < 2:
        raise invalid("points", sorted(medians), "at least 2 sizes, to fit a slope")
    found: NDArray[np.float64] = np.polyfit(np.log(list(medians)), np.log(np.stack(list(medians.values()))), 1)[0]
    return found


def between(values: NDArray[np.float64], confidence: float = 0.95) -> Interval:
    """The first value, and around it the percentile interval of the others, those of all resamples.

    Arguments:
    - `values`: that of the data as they are, then those of the resamples; they may be infinite.
    - `confidence`: the share of the resampled values between the ends.
    """
    low, high = np.quantile(values[1:], [(1 - confidence) / 2, (1 + confidence) / 2], method="nearest")
    return float(low), float(values[0]), float(high)


def in_words(interval: Interval, digits: int = 2) -> str:
    """A value with its interval, such as `3.2 (2.9 to 3.6)`; `none` for what was never reached."""
    low, middle, high = ("none" if math.isinf(end) else f"{end:,.{digits}f}" for end in interval)
    return f"{middle} ({low} to {high})"
