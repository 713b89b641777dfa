"""The metrics of many points as columns of numbers, under plain dotted names.

`{"hard": {"median_steps": {"extracted": 900}}}` is the column `hard.median_steps.extracted`. Names that differ in one
place are a *metric family*, written with a star: `hard.median_steps.*`, whose *parts* are the curricula. A list is one
value per seed (columns `NAME.0`, `NAME.1`, ...) only where the notebook says so, of this name or of one above it, in
`store.record_metrics(..., per_seed=[...])`, as is what stands there under the seeds' own names; that a list is as long as
the seeds proves nothing, since five seeds and five depths of loading look alike. Any other list is a family whose parts
count from 0, and a list of one is just `NAME`. What a notebook without such a word may have meant as seeds is listed. Lists
that are long, or hold more than numbers and texts, are left out, and so is `made`: it says where a result is from.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from pwl_lab.batch.status import parse_json

LONGEST_LIST = 64


class MetricColumns:
    """The metrics of all points, column by column: one pass, and eight bytes for a number."""

    def __init__(self, rows: int) -> None:
        """For so many points."""
        self.rows = rows
        self.found: dict[str, np.ndarray] = {}
        self.nulls: dict[str, np.ndarray] = {}
        self.per_seed: set[str] = set()
        self.undeclared: dict[str, None] = {}  # as long as the seeds, and nothing said

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
            found = parse_json(text)
            if not isinstance(found, dict):
                raise ValueError
        except ValueError:
            return "its metrics cannot be read"
        listed, declared, wrong = found.get("seeds"), _declared(found), []
        n_seeds = len(listed) if isinstance(listed, list) else 1
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


def _declared(found: Mapping[str, Any]) -> list[str] | None:
    """The names that have one value per seed, as the notebook has said; None where it has said nothing."""
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
