"""What a handful of seeds can say: bootstrap intervals of medians and of slopes, and tables made of them."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd
from scipy.stats import bootstrap, t

from pwl_lab.study import tables
from pwl_lab.support.errors import invalid
from pwl_lab.support.seeding import numpy_generator

RESAMPLES = 2_000
Interval = tuple[float, float, float]


def median_interval(values: Sequence[float], confidence: float = 0.95) -> Interval:
    """Lower end, median and upper end: percentile bootstrap over the seeds (2,000 resamples, always the same ones)."""
    middle = float(np.median(values))
    if len(set(values)) == 1:  # nothing to resample, and scipy would warn
        return middle, middle, middle
    ends = bootstrap(
        (np.asarray(values, dtype=float),),
        np.median,
        n_resamples=RESAMPLES,
        confidence_level=confidence,
        method="percentile",
        rng=numpy_generator(0, "bootstrap"),
    ).confidence_interval
    return float(ends.low), middle, float(ends.high)


def mean_interval(values: Sequence[float], confidence: float = 0.95) -> Interval:
    """Lower end, mean and upper end by Student's t: for a few seeds, where a bootstrap would be too narrow.

    One value says nothing of its spread: its interval is not a number.
    """
    middle, n = float(np.mean(values)), len(values)
    if n < 2:
        return float("nan"), middle, float("nan")
    half = float(t.ppf((1 + confidence) / 2, n - 1) * np.std(values, ddof=1) / np.sqrt(n))
    return middle - half, middle, middle + half


def in_points(differences: Sequence[float]) -> str:
    """Differences of accuracies, one per seed, as their mean in percentage points with its 95% interval.

    Such as `+0.47 (-0.12 to +1.05)`; of one seed without an interval.
    """
    low, middle, high = (100 * value for value in mean_interval(differences))
    return f"{middle:+.2f}" if np.isnan(low) else f"{middle:+.2f} ({low:+.2f} to {high:+.2f})"


def gains_table(curves: pd.DataFrame, order: str = "prefix") -> pd.DataFrame:
    """What each block of a loading order brings, in points with 95% intervals: against the student, and the mask before.

    Differences are taken seed by seed, so that what all masks of a seed share (its teacher, its luck) cancels. One row per
    mask from the first teacher block on.

    Arguments:
    - `curves`: as from `tables.order_curves`.
    - `order`: which of its orders.
    """
    table = curves[curves["order"] == order].pivot(index="teacher_blocks", columns="seed", values="accuracy")
    masks = curves[curves["order"] == order].drop_duplicates("mask").set_index("teacher_blocks")["mask"]
    rows = [
        {
            "mask": masks[k],
            "against the student": in_points((table.loc[k] - table.loc[0]).tolist()),
            "against the mask before": in_points((table.loc[k] - table.loc[k - 1]).tolist()),
        }
        for k in range(1, len(table))
    ]
    return pd.DataFrame(rows).set_index("mask")


def areas_table(curves: pd.DataFrame, against: str = "prefix") -> pd.DataFrame:
    """One row per loading order: blocks as they arrive, its area (mean over seeds, least, most), points `against` another.

    Areas as in `tables.best_order`. The last column has a 95% interval of the differences seed by seed; a dash for the
    very same order, whatever its name.

    Arguments:
    - `curves`: as from `tables.order_curves`.
    - `against`: the order that all are compared with.
    """
    areas = tables.order_areas(curves).pivot(index="seed", columns="order", values="area")
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
        same = blocks == named[against]
        rows[order][f"points against {against}"] = "–" if same else in_points((area - areas[against]).tolist())
    return pd.DataFrame(rows).T.rename_axis("order")


def samples_table(
    history: pd.DataFrame, budget: int, batch_size: int, thresholds: Sequence[float] = (0.9, 0.99, 1.0)
) -> pd.DataFrame:
    """Training samples to each accuracy: the median over seeds with its 95% interval, one row per curriculum.

    A student that never got there counts at the budget; a number that is touched by that is marked with `>`.

    Arguments:
    - `history`: of `DistillationRuns`.
    - `budget`: the plan's steps.
    - `batch_size`: the plan's.
    - `thresholds`: the accuracies, a column for each.
    """
    rows: dict[str, dict[str, str]] = {}
    for threshold in thresholds:
        for name, steps in tables.steps_to_threshold(history, threshold).items():
            low, middle, high = _ends(steps, budget, lambda step: f"{step * batch_size / 1_000:,.0f}k")
            text = "none" if all(step is None for step in steps) else f"{middle} ({low} to {high})"
            rows.setdefault(name, {})[f"to {threshold:.0%}"] = text
    return pd.DataFrame(rows).T.rename_axis("curriculum")


def variants_table(history: pd.DataFrame, budget: int, threshold: float = 0.99) -> pd.DataFrame:
    """Steps to `threshold` of variants, one row each: how many seeds reached it, the median with its 95% interval.

    Arguments:
    - `history`: accuracies by curriculum, seed and step; the curricula are called `choice: variant`.
    - `budget`: the steps that each student had.
    - `threshold`: the test accuracy to reach.
    """
    rows: dict[tuple[str, str], dict[str, str]] = {}
    found = tables.steps_to_threshold(history, threshold)
    choices = dict.fromkeys(name.partition(": ")[0] for name in found)
    for name in sorted(found, key=lambda name: list(choices).index(name.partition(": ")[0])):
        steps, (choice, _, variant) = found[name], name.partition(": ")
        low, middle, high = _ends(steps, budget, lambda step: f"{step:,.0f}")
        reached = f"{sum(step is not None for step in steps)} of {len(steps)}"
        rows[choice, variant] = {"reached": reached, "median steps": middle, "95% interval": f"{low} to {high}"}
    return pd.DataFrame(rows).T.rename_axis(["choice", "variant"])


def _ends(steps: Sequence[int | None], budget: int, words: Callable[[float], str]) -> list[str]:
    """Lower end, median and upper end of steps, in words; a `>` marks what is due to students that never got there."""
    ends = median_interval([budget if step is None else step for step in steps])
    return [f"{'> ' if None in steps and end >= budget else ''}{words(end)}" for end in ends]


def slope_interval(points: Mapping[float, Sequence[float]], confidence: float = 0.95) -> Interval:
    """Slope of log(value) over log(size): lower end, least-squares slope through the medians, upper end.

    `points[size]` holds one value per seed. The bootstrap draws seeds anew within each size. Raises InvalidValueError
    for fewer than two sizes: one point has no slope.
    """
    if len(points) < 2:
        raise invalid("points", sorted(points), "at least 2 sizes for a slope")
    sizes = sorted(points)
    random = numpy_generator(0, "bootstrap", "slope")
    values = [np.log(np.asarray(points[size], dtype=float)) for size in sizes]
    drawn = np.array(
        [np.median(seeds[random.integers(len(seeds), size=(RESAMPLES, len(seeds)))], axis=1) for seeds in values]
    )
    slopes = np.polyfit(np.log(sizes), drawn, 1)[0]
    middle = np.polyfit(np.log(sizes), [np.median(seeds) for seeds in values], 1)[0]
    low, high = np.quantile(slopes, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(middle), float(high)
