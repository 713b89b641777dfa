"""What the points of a batch found: metrics flattened to columns of numbers, one table, costs and failures."""

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pandas.io.formats.style import Styler

from pwl_lab.runner.batch import read_states
from pwl_lab.runner.location import EVENTS, POINTS, Location, location_at
from pwl_lab.runner.points import BAD, BATCH, PointState, read_each
from pwl_lab.runner.run_folder import METRICS, PARAMS, parse_json
from pwl_lab.support.errors import unknown

LONGEST_LIST = 64
CHARACTERS = 84  # in a line of a notebook's table
AT_ONCE = 1_000  # how many files are held in memory
FACTS = ("hash", "status", "seconds", "note", "seed")  # the table's own columns, besides axes and metrics
LIMIT = "budget_steps"  # if a null among the metrics means "not within the budget", this is the budget
PART = "part"
FAILED = (*BAD, "damaged", "cut off", "unknown")


class MetricColumns:
    """The metrics of all points, column by column: one pass, and eight bytes for a number."""

    def __init__(self, rows: int) -> None:
        """Room for the metrics of `rows` points; still empty."""
        self.rows = rows
        self.found: dict[str, np.ndarray] = {}
        self.nulls: dict[str, np.ndarray] = {}
        self.per_seed: set[str] = set()
        self.undeclared: dict[str, None] = {}  # as long as the list of seeds, and not declared otherwise

    def take_in(self, text: bytes, row: int) -> str:
        """Take in one `metrics.json`; returns what is wrong with it, empty where nothing is."""
        found = _mapping(text)
        if found is None:
            return "its metrics cannot be read"
        listed, declared = found.get("seeds"), _declared(found)
        n_seeds = len(listed) if isinstance(listed, list) else 1
        wrong: list[str] = []
        for name, value in _flat(_by_seed(found, declared or [], listed)):
            if not isinstance(value, list):
                self._put(row, name, value)
                continue
            if declared is not None and any(name == above or name.startswith(f"{above}.") for above in declared):
                (self.per_seed.add if len(value) == n_seeds else wrong.append)(name)
            elif declared is None and len(value) == n_seeds and name != "seeds":
                self.undeclared[name] = None
            for index, each in enumerate(value):
                self._put(row, f"{name}.{index}", each)
        return f"not one value for each seed: {', '.join(wrong)}" if wrong else ""

    def _put(self, row: int, name: str, value: Any) -> None:
        """Set one value of one point; a text turns the whole column into text."""
        if name not in self.found:
            self.found[name] = np.full(self.rows, np.nan)
        if value is None:
            self.nulls.setdefault(name, np.zeros(self.rows, dtype=bool))[row] = True
            return
        if isinstance(value, str) and self.found[name].dtype != object:
            self.found[name] = self.found[name].astype(object)
        self.found[name][row] = value


def _mapping(text: bytes | None) -> dict[str, Any] | None:
    """The mapping in this JSON; None if there is no text, or it contains something else."""
    try:
        found = parse_json(text or b"")
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _declared(found: Mapping[str, Any]) -> list[str] | None:
    """The names that the notebook declares to have one value per seed; None if it declares nothing."""
    made = found.get("made")
    said = made.get("per_seed") if isinstance(made, dict) else None
    return [str(name) for name in said] if isinstance(said, list) else None


def _by_seed(found: Mapping[str, Any], declared: list[str], seeds: Any) -> Mapping[str, Any]:
    """The metrics with what is declared and kept under the seeds' names, `{"0": {"a": 1}, "1": {"a": 2}}`, as lists."""
    names = [str(seed) for seed in seeds] if isinstance(seeds, list) else []
    turned = dict(found)
    for name in declared:
        mine = found.get(name)
        if isinstance(mine, dict) and set(mine) == set(names) and all(isinstance(each, dict) for each in mine.values()):
            inner = dict.fromkeys(key for each in mine.values() for key in each)
            turned[name] = {key: [mine[seed].get(key) for seed in names] for key in inner}
    return turned


def _flat(values: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Every scalar, and every list of several scalars, with its dotted name."""
    for key, value in values.items():
        if not above and key == "made":
            continue
        name = f"{above}{str(key).replace('.', '_')}"
        if isinstance(value, dict):
            yield from _flat(value, f"{name}.")
        elif not isinstance(value, list):
            yield name, value
        elif len(value) <= LONGEST_LIST and not any(isinstance(each, dict | list) for each in value):
            yield name, value[0] if len(value) == 1 else value


@dataclass(frozen=True)
class BatchReport:
    """A batch as it was found.

    `points` has one row a point, in the order of the grid: hash, a column for each of `axes`, seed, status, seconds, note
    (what is wrong with its metrics, if anything), then the metrics. `per_seed` are metrics with a value for each seed
    of a run, in the columns `NAME.0`, `NAME.1`, ...; `undeclared` are lists of as many values as the run has seeds, of
    which its notebook does not say whether they are that. `nulls` says where a metric was null, and not just absent.
    """

    address: str
    notebook: str
    preset: str | None
    axes: tuple[str, ...]
    points: pd.DataFrame
    failures: pd.DataFrame
    per_seed: frozenset[str] = frozenset()
    undeclared: tuple[str, ...] = ()
    nulls: Mapping[str, np.ndarray] = field(default_factory=dict)
    wall_seconds: float = 0.0

    @property
    def numbers(self) -> list[str]:
        """The columns of metrics that are numbers."""
        known = {*FACTS, *self.axes}
        columns = self.points.select_dtypes("number").columns
        return [name for name in columns if name not in known and name.partition(".")[0] != "seeds"]

    @property
    def metrics(self) -> list[str]:
        """What can be drawn, in the order of `metrics.json`: numbers by their name, groups of them as `NAME.*`."""
        bases = [name for name in dict.fromkeys(map(self._base, self.numbers)) if name.rpartition(".")[2] != LIMIT]
        parents = {name: name.rpartition(".")[0] for name in bases}
        size = Counter(parents.values())
        found = (f"{parent}.*" if parent and size[parent] > 1 else name for name, parent in parents.items())
        return list(dict.fromkeys(found))

    def counts(self) -> dict[str, int]:
        """How many points there are, and how many of each status."""
        statuses: dict[str, int] = self.points["status"].value_counts().to_dict()
        return {"points": len(self.points)} | statuses

    def head(self, rows: int) -> pd.DataFrame:
        """The first `rows` of `points`, with as many columns as fit into a line of a notebook."""
        table = self.points if self.points["note"].any() else self.points.drop(columns="note")
        table = table.assign(hash=table["hash"].str[:8]).set_index("hash").iloc[:rows].round(3)
        room = np.cumsum([max(len(name), 7) + 2 for name in table.columns])
        return table.iloc[:, : max(3, int((room <= CHARACTERS).sum()))]

    def values(self, metric: str) -> pd.DataFrame:
        """The values of a metric or a family, one row per point, part and seed: hash, axes, seed, part, value, reached.

        A null among steps, that is, beside a `budget_steps` or below it under a name with `steps` in it, counts at that
        budget and is not `reached`; any other is left out. Raises UnknownNameError for a metric that no point has.
        """
        shape = re.compile(r"\.".join(r"([^.]+)" if bit == "*" else re.escape(bit) for bit in metric.split(".")))
        known = ["hash", *self.axes, "seed"]
        parts = []
        for column in self.numbers:
            base = self._base(column)
            match = shape.fullmatch(base)
            if not match or ("*" in metric and base.rpartition(".")[2] == LIMIT):
                continue
            found = self._at_limit(self.points[[*known, column]].rename(columns={column: "value"}), column, base)
            if base != column:
                found["seed"] = self.points.get(f"seeds.{column.rpartition('.')[2]}", found["seed"])
            parts.append(found.assign(**{PART: ".".join(match.groups())})[found["value"].notna()])
        if not parts:
            raise unknown("metric", metric, [*self.metrics, *self.numbers])
        table = pd.concat(parts, ignore_index=True)
        return table if "*" in metric else table.drop(columns=PART)

    def _at_limit(self, table: pd.DataFrame, column: str, base: str) -> pd.DataFrame:
        """The column's values, with nulls replaced by the nearest budget in `metrics.json`."""
        null = self.nulls.get(column)
        if null is None:
            return table.assign(reached=True)
        owner = base
        while owner:
            owner = owner.rpartition(".")[0]
            limit = f"{owner}.{LIMIT}".lstrip(".")
            below = base.removeprefix(f"{owner}.")
            if limit in self.points and ("steps" in below or "." not in below):
                return table.assign(value=table["value"].where(~null, self.points[limit]), reached=~null)
        return table.assign(reached=True)

    def _base(self, column: str) -> str:
        """A column's metric: without the number of a seed."""
        stem, _, last = column.rpartition(".")
        return stem if stem in self.per_seed and last.isdigit() else column

    def kinds_of_failure(self) -> pd.DataFrame:
        """How often each error came, the most frequent first: status, error, message, points, and one point that has it."""
        if self.failures.empty:
            return pd.DataFrame(columns=["status", "error", "message", "points", "such as"])
        groups = self.failures.groupby(["status", "error", "message"], sort=False, dropna=False)
        found = groups["point"].agg(**{"points": "size", "such as": "first"}).reset_index()
        return found.sort_values("points", ascending=False, kind="stable", ignore_index=True)

    def cost(self) -> dict[str, float]:
        """Seconds of all points together, of the median and of the longest one, and from start to end of the batches."""
        spent = self.points.loc[self.points["seconds"] > 0, "seconds"]
        return {
            "seconds": float(spent.sum()),
            "median_seconds": float(spent.median()) if len(spent) else 0.0,
            "longest_seconds": float(spent.max()) if len(spent) else 0.0,
            "wall_seconds": self.wall_seconds,
        }

    def slowest(self, most: int = 5) -> pd.DataFrame:
        """The points that took longest."""
        slow = self.points.nlargest(most, "seconds")[["hash", *self.axes, "seed", "status", "seconds"]]
        return slow.assign(hash=slow["hash"].str[:8]).set_index("hash")


def listing(table: pd.DataFrame) -> Styler:
    """A table of texts for a page: whole, set left, wrapped where they are long."""
    shown = table.style.hide(axis="index").format(na_rep="–")
    shown = shown.set_table_styles([{"selector": "th", "props": "text-align: left"}])
    return shown.set_properties(**{"text-align": "left", "white-space": "pre-wrap", "overflow-wrap": "break-word"})


def read_batch(out: str | Path, seeds: Sequence[int] = ()) -> BatchReport:
    """The report on a batch.

    Arguments:
    - `out`: the batch's folder, or its address.
    - `seeds`: report only the points with these seeds; all where none are given.

    Raises InvalidValueError where no batch is there. A point without metrics, or with damaged ones, is a row without them,
    and `note` says so.
    """
    location = location_at(out)
    states = read_states(location)
    head = parse_json(location.read([BATCH])[BATCH])
    if seeds:
        states = [state for state in states if state.values.get("seed") in seeds]
    axes = tuple(dict.fromkeys(name for state in states for name in state.values if name != "seed"))
    columns = MetricColumns(len(states))
    points = _points(location, states, axes, columns)
    clear = {name: f"metrics.{name}" if name in points else name for name in columns.found}
    metrics = pd.DataFrame({clear[name]: values for name, values in columns.found.items()}, index=points.index)
    return BatchReport(
        address=str(location),
        notebook=str(head.get("notebook", "")),
        preset=head.get("preset"),
        axes=axes,
        points=pd.concat([points, metrics], axis=1),
        failures=_failures(states),
        per_seed=frozenset(columns.per_seed),
        undeclared=tuple(columns.undeclared),
        nulls={clear[name]: where for name, where in columns.nulls.items() if name in clear},
        wall_seconds=_wall_seconds(location),
    )


def _points(
    location: Location, states: Sequence[PointState], axes: Sequence[str], columns: MetricColumns
) -> pd.DataFrame:
    """One row per point without its metrics, which go to `columns`: hash, axes, seed, status, seconds, note."""
    notes = _read_metrics(location, states, columns)
    own = columns.found.pop("seeds", np.full(len(states), np.nan))  # for runs with one seed that the grid does not set
    return pd.DataFrame(
        {
            "hash": [state.hash for state in states],
            **_axes(location, states, axes),
            "seed": [state.values.get("seed", seed) for state, seed in zip(states, own, strict=True)],
            "status": [state.status for state in states],
            "seconds": [state.seconds for state in states],
            "note": notes,
        }
    )


def _read_metrics(location: Location, states: Sequence[PointState], columns: MetricColumns) -> list[str]:
    """Collect the metrics of all points that went well; returns for each point what is wrong with them, or an empty text."""
    notes = [""] * len(states)
    rows = [row for row, state in enumerate(states) if state.status == "ok"]
    for some in (rows[begin : begin + AT_ONCE] for begin in range(0, len(rows), AT_ONCE)):
        names = {row: f"{POINTS}/{states[row].hash}/{METRICS}" for row in some}
        texts = read_each(location, list(names.values()))
        for row, name in names.items():
            notes[row] = columns.take_in(texts[name] or b"", row) if name in texts else "no metrics"
    return notes


def _axes(location: Location, states: Sequence[PointState], axes: Sequence[str]) -> dict[str, list[Any]]:
    """The points' values on each axis; values left to the preset come from the point's `params.json`, if it has run."""
    lacking = [state.hash for state in states if any(name not in state.values for name in axes)]
    texts = read_each(location, [f"{POINTS}/{name}/{PARAMS}" for name in lacking])
    own = {name.split("/")[1]: _mapping(text) or {} for name, text in texts.items()}
    return {
        name: [_scalar(state.values.get(name, own.get(state.hash, {}).get(name))) for state in states] for name in axes
    }


def _scalar(value: Any) -> Any:
    """The value in a form that can be compared and grouped: lists and mappings become text."""
    return json.dumps(value, separators=(",", ":")) if isinstance(value, list | dict) else value


def _failures(states: Sequence[PointState]) -> pd.DataFrame:
    """One row for each point that did not end well: hash, point, status, cell, error, message (its first line)."""
    rows = [
        {
            "hash": state.hash[:8],
            "point": state.words,
            "status": state.status,
            "cell": state.cell,
            "error": state.error.name if state.error else "",
            "message": state.error.message.strip().partition("\n")[0] if state.error else "",
        }
        for state in states
        if state.status in FAILED
    ]
    table = pd.DataFrame(rows, columns=["hash", "point", "status", "cell", "error", "message"])
    return table.astype({"cell": "Int64"})


def _wall_seconds(location: Location) -> float:
    """How long batches ran there, according to their events; one that was killed counts up to its last event."""
    times: dict[str, list[datetime]] = {}
    for line in location.read([EVENTS]).get(EVENTS, b"").splitlines():
        with suppress(ValueError, KeyError, TypeError):  # an incomplete line
            event = parse_json(line)
            times.setdefault(event["batch"], []).append(datetime.fromisoformat(event["time"]))
    return sum((max(each) - min(each)).total_seconds() for each in times.values())
