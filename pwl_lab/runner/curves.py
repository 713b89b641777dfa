"""Which curves of a batch to draw, and their numbers: the mean or median over seeds with its interval at each point."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pandas as pd

from pwl_lab.runner.report import PART, BatchReport
from pwl_lab.study.intervals import mean_interval, median_and_spread
from pwl_lab.support.errors import InvalidValueError, invalid, unknown

NONE = "none"  # asks for no hue, or no facets
MOST_HUES, MOST_FACETS, MOST_PANELS = 10, 6, 12
STATISTICS = ("mean", "median")


@dataclass(frozen=True)
class View:
    """What is drawn: `metric` over `axis`, a line per value of `hue`, panels over one or two `facets` (columns, rows).

    Each seed is first averaged over the remaining (`averaged`) axes, so that the interval is over seeds.
    """

    metric: str
    axis: str
    hue: str = ""
    facets: tuple[str, ...] = ()
    averaged: tuple[str, ...] = ()

    @property
    def keys(self) -> list[str]:
        """The names that tell the points of the curves apart: facets, hue, axis."""
        return list(dict.fromkeys([*self.facets, *filter(None, [self.hue]), self.axis]))

    @property
    def words(self) -> str:
        """The view in words."""
        hue = f", a line per {self.hue}" if self.hue else ""
        facets = f", panels over {' and '.join(self.facets)}" if self.facets else ""
        averaged = f"; mean over {', '.join(self.averaged)}" if self.averaged else ""
        return f"{self.metric} over {self.axis}{hue}{facets}{averaged}"


def choose(
    batch: BatchReport, metric: str = "", axis: str = "", hue: str = "", facet: Sequence[str] | None = None
) -> View:
    """The requested view; empty values are chosen by a rule.

    Arguments:
    - `metric`: what is drawn, a name or a group as `NAME.*`. By the rule: the first number, or group of numbers, of
      `metrics.json` that differs between points of one seed (else the first).
    - `axis`: the horizontal axis. By the rule: the parts of a group that are numbered, else the first axis of the grid that
      has several numbers, else its first axis.
    - `hue`: a line for each of its values, `none` for one line. By the rule: the parts of a group, else the next axis with at
      most 10 values.
    - `facet`: a panel for each of its values, `none` for one panel. By the rule: the next axes with at most 6 values, two at
      most, and 12 panels.

    Raises UnknownNameError for a name that is not there, InvalidValueError where a batch has nothing to draw, or a figure
    would have too much in it.
    """
    metric = metric or _first_metric(batch)
    table = batch.values(metric)
    left = [PART] if PART in table and table[PART].nunique() > 1 else []
    left += [name for name in batch.axes if table[name].nunique(dropna=False) > 1]
    asked, known = (axis, hue, *(facet or ())), (*left, "seed", NONE)
    for name in asked:
        if name and name not in known:
            raise unknown("axis", name, known)
    left = [name for name in left if name not in asked]
    axis = axis or next(iter(_by_fitness(table, left)), "seed")
    left = [name for name in left if name != axis]
    hue = hue or next((name for name in left if table[name].nunique() <= MOST_HUES), "")
    left = [name for name in left if name != hue]
    if facet is None:
        facet = _facets(table, left)
    facets = tuple(name for name in facet if name not in ("", NONE))
    averaged = tuple(name for name in left if name not in facets)
    view = View(metric, axis, "" if hue == NONE else hue, facets, averaged)
    _check(table, view)
    return view


def tidy(batch: BatchReport, view: View) -> pd.DataFrame:
    """What is drawn, seed by seed: facets, hue, axis, seed, value, reached (all of the `points` that it is a mean of)."""
    keys = list(dict.fromkeys([*view.keys, "seed"]))
    groups = batch.values(view.metric).groupby(keys, sort=False, dropna=False)
    return groups.agg(value=("value", "mean"), reached=("reached", "all"), points=("value", "size")).reset_index()


def summarize(batch: BatchReport, view: View, statistic: str = "mean") -> pd.DataFrame:
    """The points of the curves, one a row: facets, hue, axis, low, middle, high, bar, seeds, reached, missing.

    `bar` says what low and high are: `95%` (`mean` with Student's t, `median` with a bootstrap: `pwl_lab.study.intervals`),
    `seeds` (least and most of them) where no such interval can be told, and none of one seed. `reached` of the `seeds` got
    there; `missing` runs, of those that all points together have, are not there, so that the point cannot be compared.
    """
    if statistic not in STATISTICS:
        raise invalid("statistic", statistic, f"one of {', '.join(STATISTICS)}")
    runs = [name for name in ("seed", *view.averaged) if name not in view.keys]
    whole = len(batch.values(view.metric)[runs].drop_duplicates()) if runs else 1
    rows = []
    for values, mine in tidy(batch, view).groupby(view.keys, sort=False, dropna=False):
        counts = {"seeds": len(mine), "reached": mine["reached"].sum(), "missing": whole - mine["points"].sum()}
        rows.append(dict(zip(view.keys, values, strict=True)) | _spread(mine, statistic) | counts)
    return pd.DataFrame(rows)


def _spread(mine: pd.DataFrame, statistic: str) -> dict[str, Any]:
    """The middle of one point's seeds, and how far they are apart: low, middle, high, and what low and high are.

    There is no 95% interval of two seeds (t would make it 13 times as wide as they are apart), none of a median of fewer
    than six (least and most hold it with at most 1 - 2 / 2^5 = 94%), and none of values of which some are only a bound.
    """
    values = mine["value"].tolist()
    if statistic == "median":
        (low, middle, high), kind = median_and_spread(values)
    else:
        (low, middle, high), kind = mean_interval(values), "95%" if len(values) > 2 else "range"
    bar = "95%"
    if len(values) == 1:
        low, high, bar = float("nan"), float("nan"), ""
    elif kind == "range" or not mine["reached"].all():
        low, high, bar = min(values), max(values), "seeds"
    return {"low": low, "middle": middle, "high": high, "bar": bar}


def as_record(view: View, statistic: str) -> dict[str, Any]:
    """The view and the statistic as plain values, for `metrics.json`."""
    return asdict(view) | {"statistic": statistic}


def as_records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of `summarize` as plain values, what is not known as None."""
    rows: list[dict[str, Any]] = json.loads(table.to_json(orient="records"))
    return rows


def _first_metric(batch: BatchReport) -> str:
    """The first metric with something to see."""
    if not batch.metrics:
        raise InvalidValueError(f"no point of {batch.address} has a number in its metrics.json: nothing to draw")
    for metric in batch.metrics:
        table = batch.values(metric)
        groups = table.groupby([name for name in ("seed", PART) if name in table], sort=False, dropna=False)["value"]
        if (groups.nunique() > 1).any():
            return metric
    return batch.metrics[0]


def _by_fitness(table: pd.DataFrame, names: Sequence[str]) -> list[str]:
    """The names in the order in which they offer themselves as the horizontal axis."""
    numbered = [name for name in names if name == PART and table[name].str.fullmatch(r"\d+").all()]
    others = [name for name in names if name != PART]
    numeric = [name for name in others if _is_numeric(table[name])]
    return [*numbered, *numeric, *others, *names]


def _is_numeric(column: pd.Series) -> bool:
    """Whether these are numbers of which there are several."""
    plain = column.dropna()
    return all(isinstance(each, int | float) and not isinstance(each, bool) for each in plain) and plain.nunique() > 1


def _facets(table: pd.DataFrame, left: list[str]) -> tuple[str, ...]:
    """Up to two axes to make panels of."""
    found: list[str] = []
    panels = 1
    for name in left:
        count = table[name].nunique(dropna=False)
        if len(found) < 2 and count <= MOST_FACETS and panels * count <= MOST_PANELS:
            found.append(name)
            panels *= count
    return tuple(found)


def _check(table: pd.DataFrame, view: View) -> None:
    """Raise InvalidValueError where one name has two uses, or a figure would have too many lines or panels."""
    uses = [view.axis, *filter(None, [view.hue]), *view.facets]
    if len(set(uses)) < len(uses) or len(view.facets) > 2:
        raise invalid("axis, hue and facet", ", ".join(uses), "different ones, with at most two facets")
    if view.hue and table[view.hue].nunique() > MOST_HUES:
        raise invalid("hue", view.hue, f"an axis with at most {MOST_HUES} values; use it as axis or facet")
    panels = math.prod(table[name].nunique(dropna=False) for name in view.facets)
    if panels > MOST_PANELS:
        raise invalid("facet", ", ".join(view.facets), f"axes with at most {MOST_PANELS} panels, not {panels}")
