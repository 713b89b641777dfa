"""What the shipped tables of notebook 08 say: medians, exponents and ratios over sizes, and what extraction costs.

The unit of resampling is the draw: a support, a teacher and a student with streams of their own (`parity_sweep`). A
student that did not reach the threshold within its budget counts as one that never does.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pwl_lab.study.intervals import FEWEST, RESAMPLES, Interval, between, in_words, resampled_medians, slopes
from pwl_lab.study.store import shipped
from pwl_lab.support.seeding import numpy_generator

CURRICULA = ("one_shot", "progressive", "extracted")


def sizes() -> pd.DataFrame:
    """The shipped students over sizes: one row per draw (`seed`), size (k, n) and curriculum: samples, reached."""
    points = shipped("complexity_sizes")
    return points.assign(curriculum=points["curriculum"].str.partition(" ")[0])  # `progressive 0.8`


def or_never(points: pd.DataFrame) -> "pd.Series[float]":
    """The samples of each student, infinite where it did not reach the threshold."""
    return points["samples"].astype(float).where(points["reached"].astype(bool), np.inf)


@dataclass(frozen=True)
class Exponents:
    """Slopes of log(samples) over log(n), for each k and curriculum, and the same slopes of 2,000 resamples of draws.

    A column of `slopes` is a pair of k and curriculum; its first row has the slopes of the draws as they are. One
    resample takes the same draws for all curricula. `left_out` has the sizes (k, n, curriculum) at which half of the
    students or more never got there.
    """

    slopes: pd.DataFrame
    left_out: tuple[tuple[int, int, str], ...]

    def of(self, k: int, curriculum: str) -> Interval:
        """One exponent with its 95% interval (low, middle, high)."""
        return between(self.slopes[k, curriculum].to_numpy())

    def difference(self, one: tuple[int, str], other: tuple[int, str]) -> Interval:
        """The exponent of one pair of k and curriculum minus that of another, with its 95% interval."""
        return between((self.slopes[one] - self.slopes[other]).to_numpy())

    def table(self) -> pd.DataFrame:
        """The exponents with their intervals as text: a row for each curriculum, a column for each k."""
        words = {pair: in_words(self.of(*pair)) for pair in self.slopes}
        return pd.Series(words).rename_axis(["k", "curriculum"]).unstack("k").reindex(list(CURRICULA)).dropna(how="all")


def exponents(points: pd.DataFrame) -> Exponents:
    """The exponents of each curriculum at each k: the slope of least squares through the medians, on logarithmic axes.

    Raises InvalidValueError if fewer than two sizes are left for one of them.

    Arguments:
    - `points`: one row per draw (`seed`), size (k, n) and curriculum: samples, reached.
    """
    random, left_out = numpy_generator(0, "bootstrap", "draws"), []
    longest = points.groupby("curriculum")["samples"].max()  # where a resample's median never got there: at least this
    medians: dict[tuple[int, str], dict[float, NDArray[np.float64]]] = {}
    for (k, n), size in points.assign(samples=or_never(points)).groupby(["k", "n"]):
        draws = size.pivot(index="seed", columns="curriculum", values="samples")
        found = pd.DataFrame(resampled_medians(draws.to_numpy(), random), columns=draws.columns)
        for name in draws:
            if np.isfinite(draws[name]).mean() <= 0.5:
                left_out.append((int(k), int(n), str(name)))
            else:
                medians.setdefault((int(k), str(name)), {})[n] = np.minimum(found[name].to_numpy(), longest[name])
    fitted = pd.DataFrame({pair: slopes(mine) for pair, mine in medians.items()})
    return Exponents(fitted.rename_axis(["k", "curriculum"], axis=1), tuple(left_out))


def ratio_to(points: pd.DataFrame, curriculum: str = "one_shot", against: str = "extracted") -> Interval:
    """The ratio of two medians over draws with its 95% interval; infinite where half of the draws never got there.

    Arguments:
    - `points`: of one size, with one row per draw and curriculum. Draws that lack one of the two are not used.
    - `curriculum`, `against`: numerator and denominator.
    """
    return ratio(_by_draw(points), curriculum, against)


def _by_draw(points: pd.DataFrame) -> pd.DataFrame:
    """The samples of one size: a row per draw, a column per curriculum, infinite where it never got there."""
    return points.assign(samples=or_never(points)).pivot(index="seed", columns="curriculum", values="samples")


def ratio(draws: pd.DataFrame, one: str, other: str) -> Interval:
    """As `ratio_to`, of two columns of a table with a row per draw; a resample takes the same draws for both."""
    both = draws[[one, other]].dropna().to_numpy(float)
    above, below = resampled_medians(both, numpy_generator(0, "bootstrap", "ratio")).T
    finite = np.isfinite(below)
    finite[0] = True  # the median of all draws stays
    return between((above / below)[finite])


def medians_table(points: pd.DataFrame) -> pd.DataFrame:
    """A row for each size: the median samples of each curriculum, and the ratio of one-shot to extracted as text.

    The ratio has its 95% interval; of fewer than six draws, the range of their own ratios; of a single one, neither.

    Arguments:
    - `points`: one row per draw, size (k, n) and curriculum.
    """
    medians = points.assign(samples=or_never(points)).groupby(["k", "n", "curriculum"])["samples"].median().unstack()
    table = medians.reindex(columns=list(CURRICULA))
    both = table.dropna(subset=["one_shot", "extracted"]).index
    ratios = {(k, n): _ratio_in_words(points[(points["k"] == k) & (points["n"] == n)]) for k, n in both}
    return table.assign(**{"one_shot / extracted": pd.Series(ratios, dtype=object)}).fillna(
        {"one_shot / extracted": ""}
    )


def _ratio_in_words(points: pd.DataFrame) -> str:
    """See `medians_table`; `points` are of one size."""
    draws = _by_draw(points)
    both = draws[["one_shot", "extracted"]].dropna()
    low, middle, high = ratio(draws, "one_shot", "extracted")
    if len(both) >= FEWEST:
        return in_words((low, middle, high), 1)
    if len(both) == 1:
        return f"{middle:,.1f} (one draw)"
    own = both["one_shot"] / both["extracted"]
    words = f"{middle:,.1f} ({own.min():,.1f} to {own.max():,.1f}, range of {len(both)} draws)"
    return words.replace("inf", "∞")


# What may predict the samples of extraction; the coefficient of all but weight decay is an exponent.
PREDICTORS: dict[str, Callable[[pd.DataFrame], "pd.Series[float]"]] = {
    "rho": lambda table: np.log(table["rho"]),
    "n": lambda table: np.log(table["n"]),
    "saturation": lambda table: np.log(table["saturation"]),
    "weight decay": lambda table: table["weight_decay"] / 1e-3,
}


@dataclass(frozen=True)
class CostFit:
    """Least squares of log(samples): a coefficient with its 95% interval per predictor, and the share that is explained.

    A coefficient is an exponent, but for weight decay: there it is the change of log(samples) from 0 to 0.001.
    """

    coefficients: dict[str, Interval]
    intercept: float
    explained: float


def cost_fit(costs: pd.DataFrame, predictors: Sequence[str]) -> CostFit:
    """What predicts the samples that extraction needs, with intervals over supports.

    Teachers of one size and seed share a support and initial weights, so these are resampled together.

    Arguments:
    - `costs`: one row per teacher (shipped as `complexity_costs`); those that no student learned from are left out.
    - `predictors`: some of `PREDICTORS`.
    """
    table = costs[np.isfinite(costs["samples"])].reset_index(drop=True)
    columns = [np.ones(len(table)), *(PREDICTORS[name](table).to_numpy(dtype=float) for name in predictors)]
    x, y = np.stack(columns, axis=1), np.log(table["samples"].to_numpy(dtype=float))
    fitted = np.linalg.lstsq(x, y, rcond=None)[0]
    families = [rows.to_numpy() for rows in table.groupby(["n", "seed"], sort=False).groups.values()]
    random, drawn = numpy_generator(0, "bootstrap", "costs"), [fitted]
    for _ in range(RESAMPLES):
        rows = np.concatenate([families[one] for one in random.integers(len(families), size=len(families))])
        drawn.append(np.linalg.lstsq(x[rows], y[rows], rcond=None)[0])
    ends = [between(values) for values in np.stack(drawn, axis=1).astype(np.float64)]
    explained = 1 - (y - x @ fitted).var() / y.var()
    return CostFit(dict(zip(predictors, ends[1:], strict=True)), float(fitted[0]), float(explained))


def cost_table(costs: pd.DataFrame) -> pd.DataFrame:
    """A row for each choice of predictors, from rho alone to all: the coefficients as text, and the explained share."""
    rows = {}
    for chosen in (["rho"], ["rho", "n"], ["n", "saturation", "weight decay"], list(PREDICTORS)):
        fit = cost_fit(costs, chosen)
        words = {name: in_words(ends) for name, ends in fit.coefficients.items()}
        rows[", ".join(chosen)] = words | {"explained": f"{fit.explained:.0%}"}
    table = pd.DataFrame(rows).T.rename_axis("predictors")
    return table[[*PREDICTORS, "explained"]].fillna("")
