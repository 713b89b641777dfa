"""Notebook 04's pairs on all of Fashion-MNIST, as tables for `data/results`.

    pwl-lab batch presets/grids/full_pairs.yaml --only family=vgg --out runs/full_pairs  # hours; may be stopped and run again
    python scripts/full_pairs.py vgg                                                      # ship the seeds that are done
    python scripts/full_pairs.py longer  # after presets/grids/full_pairs_longer.yaml: the same pairs with more epochs

The pairs come from the store, where the batch left them; nothing is trained. Rows of other families stay. There are three
tables: `full_pairs.csv` has every mask of every seed, `full_pairs_intervals.csv` what all seeds say together, with all n!
loading orders (see `intervals.cube_intervals`), and `full_pairs_longer.csv` every mask of the longer trainings.
"""

import argparse
import json
from itertools import permutations
from pathlib import Path
from typing import Any

import pandas as pd
import points

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
LONGER = "full_pairs_longer"


def settings_in(grid_name: str) -> list[LoadingSettings]:
    """The settings of a grid's points, with its seeds."""
    grid, faults = read_grid(paths.grids() / f"{grid_name}.yaml")
    if grid is None or faults:
        raise SystemExit("\n".join(faults))
    [found] = grid.axes[0].factors()
    return [LoadingSettings.load(grid.preset, **values, seeds=grid.seeds) for values in found]


def settings_of(family: str) -> LoadingSettings:
    """The settings of a family's points in the grid of all families."""
    [found] = [one for one in settings_in(TABLES[0]) if one.family == family]
    return found


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
    """The provenance of a family's rows."""
    how = {
        seed: (record("teacher", one.fingerprint), record("pair", two.fingerprint))
        for seed, (one, two) in found.items()
    }
    last = how[max(how)][1]
    return {
        "preset": settings.preset,
        "teacher_epochs": settings.teacher_epochs,
        "pair_epochs": settings.pair_epochs,
        "products": settings.products,
        "seeds": sorted(found),
        "test_images": next(iter(found.values()))[1].right.shape[1],
        "minutes": round(sum(part["minutes"] for parts in how.values() for part in parts), 1),
        "made": {name: last[name] for name in ("commit", "machine", "versions", "date")},
    }


def ship(family: str) -> None:
    """Put the finished seeds of a family into both tables."""
    settings = settings_of(family)
    found = done(settings)
    if len(found) < 2:
        raise SystemExit(f"{len(found)} of the seeds of {family} in {TABLES[0]}.yaml are done; an interval needs two")
    pairs = [pair for _, pair in found.values()]
    masks, hits = tables.stacked_masks(pairs), tables.stacked_hits(pairs)
    spread = intervals.cube_intervals(hits, masks, every_order(pairs[0].n_blocks))
    new = (masks[COLUMNS], spread.assign(seeds=len(pairs)))
    about = paths.results() / f"{TABLES[0]}.json"  # it is the same for both tables
    families = json.loads(about.read_text(encoding="utf-8"))["families"] if about.exists() else {}
    facts = {"grid": f"{TABLES[0]}.yaml"} | told(settings, found)
    families = {name: one for name, one in families.items() if name != family} | {family: facts}
    families = {name: families[name] for name in FAMILIES if name in families}
    minutes = round(sum(one["minutes"] for one in families.values()), 1)
    command = f"python scripts/full_pairs.py {' '.join(families)}"
    for name, mine in zip(TABLES, new, strict=True):
        path = paths.results() / f"{name}.csv"
        with_family(path, family, mine).to_csv(path, index=False)
        write_json(path.with_suffix(".json"), {"command": command, "minutes": minutes, "families": families})


def ship_longer() -> None:
    """Put the finished points of the grid of longer trainings into their table."""
    parts, about = [], []
    for settings in settings_in(LONGER):
        if found := done(settings):
            masks = tables.stacked_masks([pair for _, pair in found.values()])[COLUMNS]
            parts.append(masks.assign(family=settings.family, epochs=settings.pair_epochs))
            about.append({"family": settings.family} | told(settings, found))
    if not parts:
        raise SystemExit(f"no point of {LONGER}.yaml is done")
    table = pd.concat(parts)[["family", "epochs", *COLUMNS]]
    minutes = round(sum(one["minutes"] for one in about), 1)
    points.ship_table(LONGER, table, command="python scripts/full_pairs.py longer", minutes=minutes, points=about)


def with_family(path: Path, family: str, mine: pd.DataFrame) -> pd.DataFrame:
    """The table at `path`, if there is one, with these rows in place of the family's."""
    parts = dict(iter(pd.read_csv(path).groupby("family"))) if path.exists() else {}
    parts[family] = mine.assign(family=family)
    return pd.concat([parts[name] for name in FAMILIES if name in parts])[["family", *mine.columns]]


def main() -> None:
    """Ship the families asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="+", choices=[*FAMILIES, "longer"], help="families, or the longer trainings")
    for name in parser.parse_args().what:
        ship_longer() if name == "longer" else ship(name)


if __name__ == "__main__":
    main()
