"""Notebook 04's pairs on all of Fashion-MNIST, as tables for `data/results`.

    pwl-lab batch presets/grids/full_pairs.yaml --only family=vgg --out runs/full_pairs  # hours; may be stopped and run again
    python scripts/full_pairs.py vgg                                                      # ship the seeds that are done

The pairs come from the store, where the batch left them; nothing is trained. Rows of other families stay. There are two
tables: `full_pairs.csv` has every mask of every seed, `full_pairs_intervals.csv` what all seeds say together, with all n!
loading orders (see `intervals.cube_intervals`).
"""

import argparse
import json
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

FAMILIES = ("vgg", "resnet", "vit")
COLUMNS = ["seed", "mask", "teacher_blocks", "teacher_bytes", "validation", "test"]
TABLES = ("full_pairs", "full_pairs_intervals")


def grid_file() -> Path:
    """The grid of all families."""
    return paths.grids() / "full_pairs.yaml"


def settings_of(family: str) -> LoadingSettings:
    """The settings of a family's points, and their seeds."""
    grid, faults = read_grid(grid_file())
    if grid is None or faults:
        raise SystemExit("\n".join(faults))
    [points] = grid.axes[0].factors()
    [values] = [one for one in points if one["family"] == family]
    return LoadingSettings.load(grid.preset, **values, seeds=grid.seeds)


def every_order(n_blocks: int) -> dict[str, list[str]]:
    """The masks of all n! loading orders, by name."""
    named = loading_orders(n_blocks)
    numbered = (masks_on_the_way(blocks) for blocks in permutations(range(1, n_blocks + 1)))
    return named | {tables.order_name(path): path for path in numbered if path not in named.values()}


def record(kind: str, key: str) -> dict[str, Any]:
    """How an entry of the store was made."""
    text = (paths.store() / kind / key / "record.json").read_text(encoding="utf-8")
    return dict(json.loads(text)["made"])


def told(settings: LoadingSettings, found: dict[int, tuple[TrainedModel, Pair]]) -> dict[str, Any]:
    """The provenance of a family's rows."""
    how = {
        seed: (record("teacher", one.fingerprint), record("pair", two.fingerprint))
        for seed, (one, two) in found.items()
    }
    last = how[max(how)][1]
    return {
        "grid": grid_file().name,
        "preset": settings.preset,
        "teacher_epochs": settings.teacher_epochs,
        "pair_epochs": settings.pair_epochs,
        "seeds": sorted(found),
        "test_images": next(iter(found.values()))[1].right.shape[1],
        "minutes": round(sum(part["minutes"] for parts in how.values() for part in parts), 1),
        "made": {name: last[name] for name in ("commit", "machine", "versions", "date")},
    }


def ship(family: str) -> None:
    """Put the finished seeds of a family into both tables."""
    settings = settings_of(family)
    loaded = {seed: load_if_stored(loading_pair, settings, seed) for seed in settings.seeds}
    found = {seed: one for seed, one in loaded.items() if one is not None}
    if len(found) < 2:
        raise SystemExit(
            f"{len(found)} of the seeds of {family} in {grid_file()} are done; two are needed for an interval"
        )
    pairs = [pair for _, pair in found.values()]
    masks, hits = tables.stacked_masks(pairs), tables.stacked_hits(pairs)
    spread = intervals.cube_intervals(hits, masks, every_order(pairs[0].n_blocks))
    new = (masks[COLUMNS], spread.assign(seeds=len(pairs)))
    about = paths.results() / f"{TABLES[0]}.json"  # it is the same for both tables
    families = json.loads(about.read_text(encoding="utf-8"))["families"] if about.exists() else {}
    families = {name: one for name, one in families.items() if name != family} | {family: told(settings, found)}
    families = {name: families[name] for name in FAMILIES if name in families}
    minutes = round(sum(one["minutes"] for one in families.values()), 1)
    command = f"python scripts/full_pairs.py {' '.join(families)}"
    for name, mine in zip(TABLES, new, strict=True):
        path = paths.results() / f"{name}.csv"
        with_family(path, family, mine).to_csv(path, index=False)
        write_json(path.with_suffix(".json"), {"command": command, "minutes": minutes, "families": families})


def with_family(path: Path, family: str, mine: pd.DataFrame) -> pd.DataFrame:
    """The table at `path`, if there is one, with these rows in place of the family's."""
    parts = dict(iter(pd.read_csv(path).groupby("family"))) if path.exists() else {}
    parts[family] = mine.assign(family=family)
    return pd.concat([parts[name] for name in FAMILIES if name in parts])[["family", *mine.columns]]


def main() -> None:
    """Ship the families asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("families", nargs="+", choices=FAMILIES)
    for family in parser.parse_args().families:
        ship(family)


if __name__ == "__main__":
    main()
