"""The whole mask cube of a pair: the best order to load by exact search, and the best mask under a budget of bytes.

All functions take a `mask_table` (one or several seeds stacked, see `pwl_lab.analysis`) that holds every one of the
2^n masks. They choose by the mean over seeds on one split, the validation split unless told otherwise, so that the
test split can report what was chosen.
"""

from collections.abc import Callable, Sequence

import pandas as pd

from pwl_lab import analysis
from pwl_lab.errors import invalid
from pwl_lab.loading.masks import all_masks
from pwl_lab.loading.orders import TIE, arrivals, search_order


def check_cube(masks: pd.DataFrame) -> int:
    """The number of blocks n. Raises InvalidValueError unless each seed has each of the 2^n masks once, of equal bytes."""
    if masks.empty:
        raise invalid("masks", "an empty table", "one row per mask and seed")
    n_blocks = len(masks["mask"].iloc[0])
    whole = all_masks(n_blocks)
    for seed, table in masks.groupby("seed", sort=False):
        if sorted(table["mask"]) != whole:
            missing = sorted(set(whole) - set(table["mask"]))
            raise invalid(
                f"masks of seed {seed}",
                f"{len(table)} rows" + (f", without {missing[0]}" if missing else ""),
                f"each of the {len(whole)} masks of {n_blocks} blocks once",
            )
    if (masks.groupby("mask")["teacher_bytes"].nunique() > 1).any():
        raise invalid("teacher_bytes", "different between seeds", "the same teacher architecture for all seeds")
    return n_blocks


def order_name(order: Sequence[str]) -> str:
    """A loading order as the blocks that arrive, such as `2-3-1-4`. Raises InvalidValueError as `arrivals` does."""
    return "-".join(str(block) for block in arrivals(order))


def named_orders(masks: pd.DataFrame) -> dict[str, list[str]]:
    """The masks, k = 0..n, of each loading order that has a name, and of the `best_order` on the validation split."""
    best = best_order(masks)
    return analysis.loading_orders(len(best) - 1) | {"best": best}


def best_order(masks: pd.DataFrame, split: str = "validation") -> list[str]:
    """The masks, k = 0..n, of the loading order with the largest area under accuracy against bytes loaded.

    Area: accuracy is a step function of the bytes; while the next block's bytes arrive, the current mask predicts. So
    the area is the sum over steps of accuracy(mask before the step) * bytes(block that arrives) / bytes of all blocks,
    in [0, 1]: the mean accuracy over the time of loading at a constant rate. The finished teacher's accuracy does not
    enter (all orders end there), that of the student always does.

    The search is exact over all n! orders (`search_order`). Raises InvalidValueError as `check_cube` does.
    """
    return _search(masks, split, max)


def worst_order(masks: pd.DataFrame, split: str = "validation") -> list[str]:
    """The order with the smallest area: how much the choice of the order can matter. As `best_order` otherwise."""
    return _search(masks, split, min)


def _search(masks: pd.DataFrame, split: str, pick: Callable[..., float]) -> list[str]:
    """The order whose area `pick` (max or min) prefers."""
    n_blocks = check_cube(masks)
    accuracy = masks.groupby("mask")[split].mean().to_dict()
    arrived = masks.groupby("mask")["teacher_bytes"].first().to_dict()
    alone = ["S" * block + "T" + "S" * (n_blocks - block - 1) for block in range(n_blocks)]
    return search_order(accuracy, [arrived[mask] for mask in alone], pick)


def order_areas(curves: pd.DataFrame) -> pd.DataFrame:
    """One row per order and seed of `analysis.order_curves`: `area` under accuracy against bytes, as in `best_order`.

    Raises InvalidValueError where a curve does not go from all-student to all-teacher.
    """
    rows = []
    for (order, seed), curve in curves.groupby(["order", "seed"], sort=False):
        arrivals(curve["mask"].tolist())
        sizes, accuracy = curve["teacher_bytes"].to_numpy(), curve["accuracy"].to_numpy()
        area = float((accuracy[:-1] * (sizes[1:] - sizes[:-1])).sum() / sizes[-1])
        rows.append({"order": order, "seed": seed, "area": area})
    return pd.DataFrame(rows)


def order_area(masks: pd.DataFrame, order: Sequence[str], split: str = "test") -> dict[int, float]:
    """The area (see `best_order`) of one loading order on `split`, per seed. Raises InvalidValueError as `arrivals` does."""
    arrivals(order)
    areas = order_areas(analysis.order_curves(masks, {"this": list(order)}, split))
    return dict(zip(areas["seed"].tolist(), areas["area"].tolist(), strict=True))


def best_under_budget(masks: pd.DataFrame, split: str = "validation") -> pd.DataFrame:
    """The best mask for every budget of teacher bytes: a row at each number of bytes from which on there is a better one.

    Columns: teacher_bytes, mask, the accuracies `validation` and `test` (means over seeds), and `test_lowest` and
    `test_highest` over the seeds. Chosen by `split`, so `validation` never falls down the rows while `test` may. Of
    equally good masks the one of fewer bytes is taken. Raises InvalidValueError as `check_cube` does.
    """
    check_cube(masks)
    by_mask = masks.groupby("mask").agg(
        teacher_bytes=("teacher_bytes", "first"),
        validation=("validation", "mean"),
        test=("test", "mean"),
        test_lowest=("test", "min"),
        test_highest=("test", "max"),
    )
    ranked = by_mask.reset_index().sort_values(["teacher_bytes", split, "mask"], ascending=[True, False, True])
    best_so_far = ranked[split].cummax().shift(fill_value=-1.0)
    chosen = ranked[ranked[split] > best_so_far + TIE]
    return chosen[["teacher_bytes", "mask", "validation", "test", "test_lowest", "test_highest"]].reset_index(drop=True)
