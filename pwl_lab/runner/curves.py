"""Which curves to draw of a batch, and their numbers: the middle and its interval over seeds at each place."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pandas as pd

from pwl_lab.runner.report import PART, Batch
from pwl_lab.study.intervals import mean_interval, median_interval
from pwl_lab.support.errors import InvalidValueError, invalid, unknown

NONE = "none"  # asks for no hue, or no facets
MOST_HUES, MOST_FACETS, MOST_PANELS = 10, 6, 12
INTERVALS = {"mean": mean_interval, "median": median_interval}


@dataclass(frozen=True)
class View:
    """What is drawn: `metric` over `axis`, a line per value of `hue`, panels over one or two `facets` (columns, rows).

    Over what is left, the `averaged` axes, each seed's mean is taken first, so that the interval is one over seeds.
    """

    metric: str
    axis: str
    hue: str = ""
    facets: tuple[str, ...] = ()
    averaged: tuple[str, ...] = ()

    @property
    def words(self) -> str:
        """The view as a reader says it."""
        hue = f", a line per {self.hue}" if self.hue else ""
        facets = f", panels over {' and '.join(self.facets)}" if self.facets else ""
        averaged = f"; mean over {', '.join(self.averaged)}" if self.averaged else ""
        return f"{self.metric} over {self.axis}{hue}{facets}{averaged}"


def choose(batch: Batch, metric: str = "", axis: str = "", hue: str = "", facet: Sequence[str] | None = None) -> View:
    """The view that is asked for; what is empty is chosen by this rule.

    *Metric*: the first number, or group of numbers, of `metrics.json` that differs between points of one seed (else the
    first). *Axis*: the parts of a group that are numbered, else the first axis of the grid that has several numbers, else
    its first axis. *Hue*: the parts of a group, else the next axis with at most 10 values. *Facets*: the next axes with
    at most 6, two at most, and 12 panels. `none` asks for no hue, or no facets. Raises UnknownNameError for a name that is
    not there, InvalidValueError where a batch has nothing to draw, or a figure would have too much in it.
    """
    metric = metric or _first_metric(batch)
    table = batch.values(metric)
    free = [name for name in batch.axes if table[name].nunique(dropna=False) > 1]
    parts = [PART] if PART in table and table[PART].nunique() > 1 else []
    known = [*parts, *free, *(["seed"] if "seed" not in free else [])]
    for name in (axis, hue, *(facet or ())):
        if name not in ("", NONE, *known):
            raise unknown("axis", name, [*known, NONE])
    taken = {axis, hue, *(facet or ())}
    left = [name for name in [*parts, *free] if name not in taken]
    axis = axis or _take(left, *_axes_first(table, left)) or "seed"
    hue = hue or _take(left, *[name for name in left if table[name].nunique() <= MOST_HUES])
    if facet is None:
        facet = _facets(table, left)
    facets = tuple(name for name in facet if name not in ("", NONE))
    view = View(metric, axis, "" if hue == NONE else hue, facets, tuple(name for name in left if name not in facets))
    _check(table, view)
    return view


def tidy(batch: Batch, view: View) -> pd.DataFrame:
    """What is drawn, seed by seed: facets, hue, axis, seed, value, reached (all of the `points` that it is a mean of)."""
    keys = list(dict.fromkeys([*view.facets, *filter(None, [view.hue]), view.axis, "seed"]))
    table = batch.values(view.metric)
    groups = table.groupby(keys, sort=False, dropna=False)
    return groups.agg(value=("value", "mean"), reached=("reached", "all"), points=("value", "size")).reset_index()


def curves(batch: Batch, view: View, statistic: str = "mean") -> pd.DataFrame:
    """One row for each place of the view: facets, hue, axis, low, middle, high, bar, seeds, reached, missing.

    `bar` says what low and high are: `95%` (`mean` with Student's t, `median` with a bootstrap: `pwl_lab.study.intervals`),
    `seeds` (least and most of them) where no such interval can be told, and none of one seed. `reached` of the `seeds` got
    there; `missing` runs, of those that all places together have, are not there, so that the place cannot be compared.
    """
    if statistic not in INTERVALS:
        raise invalid("statistic", statistic, f"one of {', '.join(INTERVALS)}")
    keys = list(dict.fromkeys([*view.facets, *filter(None, [view.hue]), view.axis]))
    runs = [name for name in dict.fromkeys(["seed", *view.averaged]) if name not in keys]
    whole = len(batch.values(view.metric)[runs].drop_duplicates()) if runs else 1
    rows = []
    for place, mine in tidy(batch, view).groupby(keys, sort=False, dropna=False):
        counts = {"seeds": len(mine), "reached": mine["reached"].sum(), "missing": whole - mine["points"].sum()}
        rows.append(dict(zip(keys, place, strict=True)) | _spread(mine, statistic) | counts)
    return pd.DataFrame(rows)


def _spread(mine: pd.DataFrame, statistic: str) -> dict[str, Any]:
    """The middle of one place's seeds, and how far they are apart: low, middle, high, and what low and high are.

    There is no 95% interval of two seeds (t would make it 13 times as wide as they are apart), none of a median of fewer
    than six (least and most hold it with at most 1 - 2 / 2^5 = 94%), and none of values of which some are only a bound.
    """
    values = mine["value"].tolist()
    low, middle, high = INTERVALS[statistic](values)
    bar = "95%"
    if len(values) == 1:
        low, high, bar = float("nan"), float("nan"), ""
    elif len(values) == 2 or (statistic == "median" and len(values) < 6) or not mine["reached"].all():
        low, high, bar = min(values), max(values), "seeds"
    return {"low": low, "middle": middle, "high": high, "bar": bar}


def as_record(view: View, statistic: str) -> dict[str, Any]:
    """The view as plain values."""
    return asdict(view) | {"statistic": statistic}


def as_records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of `curves` as plain values, what is not known as None."""
    return json.loads(table.to_json(orient="records"))


def _first_metric(batch: Batch) -> str:
    """The first metric with something to see."""
    if not batch.metrics:
        raise InvalidValueError(f"no point of {batch.address} has left a number in its metrics.json: nothing to draw")
    keys = ["seed", PART]
    for metric in batch.metrics:
        table = batch.values(metric)
        groups = table.groupby([name for name in keys if name in table], dropna=False)["value"]
        if (groups.nunique() > 1).any():
            return metric
    return batch.metrics[0]


def _axes_first(table: pd.DataFrame, left: Sequence[str]) -> list[str]:
    """The axes in the order in which they offer themselves as the horizontal one."""
    counted = [name for name in left if name == PART and table[name].str.fullmatch(r"\d+").all()]
    others = [name for name in left if name != PART]
    numbers = [name for name in others if numeric(table[name])]
    return [*counted, *numbers, *others, *left]


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


def _take(left: list[str], *offers: str) -> str:
    """The first that is offered, taken out of what is left; empty where there is none."""
    if not offers:
        return ""
    left.remove(offers[0])
    return offers[0]


def numeric(column: pd.Series) -> bool:
    """Whether these are numbers of which there are several."""
    plain = column.dropna()
    return all(isinstance(each, int | float) and not isinstance(each, bool) for each in plain) and plain.nunique() > 1


def _check(table: pd.DataFrame, view: View) -> None:
    """Raise InvalidValueError where one name has two uses, or a figure would have too many lines or panels."""
    uses = [view.axis, *filter(None, [view.hue]), *view.facets]
    if len(set(uses)) < len(uses) or len(view.facets) > 2:
        raise invalid("axis, hue and facet", ", ".join(uses), "different ones, with at most two facets")
    if view.hue and table[view.hue].nunique() > MOST_HUES:
        raise invalid("hue", view.hue, f"an axis with at most {MOST_HUES} values; take it as axis or facet")
    panels = 1
    for name in view.facets:
        panels *= table[name].nunique(dropna=False)
    if panels > MOST_PANELS:
        raise invalid("facet", ", ".join(view.facets), f"axes that make at most {MOST_PANELS} panels, not {panels}")
