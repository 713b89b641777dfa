"""What the shipped tables of notebook 08 say: medians, exponents and ratios over sizes.

The unit of resampling is the draw: a support, a teacher and a student with streams of their own (`parity_sweep`). A
student that did not reach the threshold within its budget counts as one that never does.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pwl_lab.study.intervals import Interval, between, in_words, resampled_medians, slopes
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
    draws = points.assign(samples=or_never(points)).pivot(index="seed", columns="curriculum", values="samples")
    both = draws[[curriculum, against]].dropna().to_numpy()
    one, other = resampled_medians(both, numpy_generator(0, "bootstrap", "ratio")).T
    finite = np.isfinite(other)
    finite[0] = True  # the median of all draws stays
    return between((one / other)[finite])


def medians_table(points: pd.DataFrame) -> pd.DataFrame:
    """A row for each size: the median samples of each curriculum, and the ratio of one-shot to extracted as text.

    Arguments:
    - `points`: one row per draw, size (k, n) and curriculum.
    """
    medians = points.assign(samples=or_never(points)).groupby(["k", "n", "curriculum"])["samples"].median().unstack()
    table = medians.reindex(columns=list(CURRICULA))
    both = table.dropna(subset=["one_shot", "extracted"]).index
    ratios = {size: in_words(ratio_to(points[(points["k"] == size[0]) & (points["n"] == size[1])]), 1) for size in both}
    return table.assign(**{"one_shot / extracted": pd.Series(ratios, dtype=object)}).fillna(
        {"one_shot / extracted": ""}
    )
