"""Notebook 04's pairs on all of Fashion-MNIST, as tables for `data/results`.

    pwl-lab batch presets/grids/full_pairs.yaml --only family=vgg --out runs/full_pairs  # hours; may be stopped and run again
    python scripts/full_pairs.py                                                         # ship what is done

The pairs of this grid and of `full_pairs_longer.yaml` come from the store, where the batches left them; nothing is trained.
A family and a number of epochs stay as they are in the tables until the store has every seed that is there. There are two
tables: `full_pairs.csv` has every mask of every seed, and `full_pairs_intervals.csv` what the seeds say together, where there
are two or more, with all n! loading orders (see `intervals.cube_intervals`).
"""

import argparse
import json
from collections.abc import Iterable
from itertools import permutations
from pathlib import Path
from typing import Any

import pandas as pd

from pwl_lab.runner.grid import read_grid
from pwl_lab.study import intervals, tables
from pwl_lab.study.recipes import loading_pair
from pwl_lab.study.results import Pair
from pwl_lab.study.settings import LoadingSettings
from pwl_lab.study.store import load_if_stored
from pwl_lab.support import paths
from pwl_lab.support.files import write_json
from pwl_lab.swap.orders import loading_orders, masks_on_the_way
from pwl_lab.training import TrainedModel

GRIDS = ("full_pairs", "full_pairs_longer")
FAMILIES = ("vgg", "resnet", "vit")
COLUMNS = ["seed", "mask", "teacher_blocks", "teacher_bytes", "validation", "test"]
TABLES = ("full_pairs", "full_pairs_intervals")
Case = tuple[str, int]  # a family, and epochs


def settings_in(grid_name: str) -> list[LoadingSettings]:
    """The settings of a grid's points, with its seeds."""
    grid, faults = read_grid(paths.grids() / f"{grid_name}.yaml")
    if grid is None or faults:
        raise SystemExit("\n".join(faults))
    [found] = grid.axes[0].factors()
    return [LoadingSettings.load(grid.preset, **values, seeds=grid.seeds) for values in found]


def every_order(n_blocks: int) -> dict[str, list[str]]:
    """The masks of all n! loading orders, by name."""
    named = loading_orders(n_blocks)
    numbered = (masks_on_the_way(blocks) for blocks in permutations(range(1, n_blocks + 1)))
    return named | {tables.order_name(path): path for path in numbered if path not in named.values()}


def record(kind: str, key: str) -> dict[str, Any]:
    """How an entry of the store was made."""
    text = (paths.store() / kind / key / "record.json").read_text(encoding="utf-8")
    return dict(json.loads(text)["made"])


def done(settings: LoadingSettings) -> dict[int, tuple[TrainedModel, Pair]]:
    """Teacher and pair of each seed that the store has."""
    loaded = {seed: load_if_stored(loading_pair, settings, seed) for seed in settings.seeds}
    return {seed: one for seed, one in loaded.items() if one is not None}


def told(settings: LoadingSettings, found: dict[int, tuple[TrainedModel, Pair]]) -> dict[str, Any]:
    """The provenance of the rows of a case."""
    runs = []
    for seed, (teacher, pair) in found.items():
        first, second = record("teacher", teacher.fingerprint), record("pair", pair.fingerprint)
        made = {name: second[name] for name in ("commit", "machine", "date")}
        runs.append({"seed": seed, "minutes": round(first["minutes"] + second["minutes"], 1)} | made)
    return {
        "family": settings.family,
        "epochs": settings.pair_epochs,
        "preset": settings.preset,
        "products": settings.products,
        "seeds": sorted(found),
        "test_images": next(iter(found.values()))[1].right.shape[1],
        "minutes": round(sum(run["minutes"] for run in runs), 1),
        "runs": runs,
    }


def spread(pairs: list[Pair]) -> pd.DataFrame:
    """What the seeds of a case say together; no rows if there is one seed only."""
    if len(pairs) < 2:
        return pd.DataFrame()
    masks, hits = tables.stacked_masks(pairs), tables.stacked_hits(pairs)
    return intervals.cube_intervals(hits, masks, every_order(pairs[0].n_blocks)).assign(seeds=len(pairs))


def ship() -> None:
    """Put all finished seeds of both grids into both tables."""
    new: dict[str, dict[Case, pd.DataFrame]] = {name: {} for name in TABLES}
    facts = dict[Case, dict[str, Any]]()
    before = {name: rows_before(paths.results() / f"{name}.csv") for name in TABLES}
    for settings in (one for grid in GRIDS for one in settings_in(grid)):
        case, found = (settings.family, settings.pair_epochs), done(settings)
        there = set(before[TABLES[0]][case]["seed"]) if case in before[TABLES[0]] else set()
        if missing := sorted(there - set(found)):
            print(f"{case[0]}, {case[1]} epochs: not in the store for seeds {missing}; left as it is")
        elif found:
            pairs = [pair for _, pair in found.values()]
            new[TABLES[0]][case], new[TABLES[1]][case] = tables.stacked_masks(pairs)[COLUMNS], spread(pairs)
            facts[case] = told(settings, found)
    if not facts:
        raise SystemExit(f"nothing to ship of {' and '.join(f'{name}.yaml' for name in GRIDS)}")
    about = paths.results() / f"{TABLES[0]}.json"  # it is the same for both tables
    earlier = json.loads(about.read_text(encoding="utf-8"))["points"] if about.exists() else []
    facts = {(one["family"], one["epochs"]): one for one in earlier} | facts
    said = {
        "command": "python scripts/full_pairs.py",
        "minutes": round(sum(one["minutes"] for one in facts.values()), 1),
        "points": [facts[case] for case in in_order(facts)],
    }
    for name in TABLES:
        path = paths.results() / f"{name}.csv"
        parts = {case: rows for case, rows in (before[name] | new[name]).items() if len(rows)}
        table = pd.concat({case: parts[case] for case in in_order(parts)}, names=["family", "epochs"])
        table.reset_index(["family", "epochs"]).to_csv(path, index=False)
        write_json(path.with_suffix(".json"), said)


def in_order(cases: Iterable[Case]) -> list[Case]:
    """Cases as the tables have them: by family, then by epochs."""
    return sorted(cases, key=lambda case: (FAMILIES.index(case[0]), case[1]))


def rows_before(path: Path) -> dict[Case, pd.DataFrame]:
    """The rows of each case in the table at `path`, if there is one."""
    if not path.exists():
        return {}
    cases = pd.read_csv(path).groupby(["family", "epochs"])
    return {case: rows.drop(columns=["family", "epochs"]) for case, rows in cases}


def main() -> None:
    """Ship what is done."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    ship()


if __name__ == "__main__":
    main()
