"""The metrics of many points as columns of numbers, under plain dotted names.

`{"hard": {"median_steps": {"extracted": 900}}}` is the column `hard.median_steps.extracted`. Names that differ in one
place are a *metric family*, written with a star: `hard.median_steps.*`, whose *parts* are the curricula. A list with one
number for each of the run's seeds is one value per seed (columns `NAME.0`, `NAME.1`, ...; a list of one is just `NAME`);
any other list of numbers is a family whose parts count from 0. Lists that are longer, or hold more than numbers and
texts, are left out, and so is `made`: it says where a result is from.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

LONGEST_LIST = 64


class MetricColumns:
    """The metrics of all points, column by column: one pass, and eight bytes for a number."""

    def __init__(self, rows: int) -> None:
        """For so many points."""
        self.rows = rows
        self.found: dict[str, np.ndarray] = {}
        self.nulls: dict[str, np.ndarray] = {}
        self.per_seed: set[str] = set()

    def _put(self, row: int, name: str, value: Any) -> None:
        """One value of one point; a text makes its column one of texts."""
        if name not in self.found:
            self.found[name] = np.full(self.rows, np.nan)
        if value is None:
            self.nulls.setdefault(name, np.zeros(self.rows, dtype=bool))[row] = True
            return
        if isinstance(value, str) and self.found[name].dtype != object:
            self.found[name] = self.found[name].astype(object)
        self.found[name][row] = value

    def take_in(self, text: bytes, row: int) -> str:
        """Take in one `metrics.json`; what is wrong with it, empty where nothing is."""
        try:
            found = json.loads(text)
            if not isinstance(found, dict):
                raise ValueError
        except ValueError:
            return "its metrics cannot be read"
        listed = found.get("seeds")
        n_seeds = len(listed) if isinstance(listed, list) else 1
        for name, value, per_seed in _flat(found, n_seeds):
            self._put(row, name, value)
            if per_seed:
                self.per_seed.add(name.rpartition(".")[0])
        return ""


def _flat(values: Mapping[str, Any], n_seeds: int, above: str = "") -> Iterator[tuple[str, Any, bool]]:
    """Every scalar with its dotted name, and whether it is one seed's of several."""
    for key, value in values.items():
        if not above and key == "made":
            continue
        name = f"{above}{str(key).replace('.', '_')}"
        if isinstance(value, dict):
            yield from _flat(value, n_seeds, f"{name}.")
        elif not isinstance(value, list):
            yield name, value, False
        elif len(value) <= LONGEST_LIST and not any(isinstance(each, dict | list) for each in value):
            if len(value) == 1:
                yield name, value[0], False
            else:
                yield from ((f"{name}.{index}", each, len(value) == n_seeds) for index, each in enumerate(value))
