"""Tables of histories and masks: steps to a threshold, accuracy of every mask, orders, dips, accuracy per byte."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

import pandas as pd

from pwl_lab.support.errors import invalid
from pwl_lab.swap.evaluation import MaskScores
from pwl_lab.swap.masks import all_masks
from pwl_lab.swap.orders import TIE, arrivals, loading_orders, search_order

if TYPE_CHECKING:
    from pwl_lab.study.results import Pair

Value = TypeVar("Value")

# The meaning of "best" and "worst" for a loading order, in all figures and tables.
ORDER_NOTE = {
    "best": "the largest area under accuracy against teacher bytes loaded, on the validation split",
    "worst": "the smallest area under accuracy against teacher bytes loaded, on the validation split",
}


def first_step(history: pd.DataFrame, accuracy: float) -> int | None:
    """The first step at which a single network's accuracy was at least `accuracy`; None if it never was."""
    reached = history.loc[history["accuracy"] >= accuracy, "step"]
    return int(reached.min()) if len(reached) else None


def steps_by_seed(history: pd.DataFrame, threshold: float) -> dict[str, dict[int, int | None]]:
    """Per curriculum and seed, the first step at which the accuracy was at least `threshold` (None: never).

    `history` holds curriculum, seed, step and accuracy. A student that diverged counts as never.
    """
    return _by_student(history, lambda rows: None if _has_diverged(rows) else first_step(rows, threshold))


def steps_to_threshold(history: pd.DataFrame, threshold: float) -> dict[str, list[int | None]]:
    """As `steps_by_seed`, with a list per curriculum, its seeds in the order given."""
    return {name: list(steps.values()) for name, steps in steps_by_seed(history, threshold).items()}


def final_accuracy(history: pd.DataFrame) -> dict[str, list[float | None]]:
    """Per curriculum, each student's accuracy at its last evaluation (None: it diverged), seeds in the order given."""
    last = _by_student(history, lambda rows: None if _has_diverged(rows) else float(rows["accuracy"].iloc[-1]))
    return {name: list(values.values()) for name, values in last.items()}


def diverged(history: pd.DataFrame) -> dict[str, list[int]]:
    """Per curriculum, the seeds whose student diverged: its last row has no accuracy."""
    lost = _by_student(history, _has_diverged)
    return {name: [seed for seed, gone in seeds.items() if gone] for name, seeds in lost.items()}


def _has_diverged(rows: pd.DataFrame) -> bool:
    """Whether a student diverged: some evaluation in its rows has no accuracy."""
    return bool(rows["accuracy"].isna().any())


def _by_student(history: pd.DataFrame, measure: Callable[[pd.DataFrame], Value]) -> dict[str, dict[int, Value]]:
    """Apply `measure` to the rows of each student; per curriculum and seed, both in the order given.

    That is the order of their first rows: every student is evaluated at least once before any stops.
    """
    found: dict[str, dict[int, Value]] = {}
    for (name, seed), rows in history.groupby(["curriculum", "seed"], sort=False):
        found.setdefault(name, {})[int(seed)] = measure(rows.sort_values("step"))
    return found


def hold_last_accuracy(history: pd.DataFrame) -> pd.DataFrame:
    """The history with each student that stopped early keeping its last accuracy up to the last step of all.

    Otherwise a curve over seeds would show only the slower students once the first ones have stopped.
    A student that diverged ends where it did.
    """
    lost = diverged(history)
    steps = sorted(history["step"].unique())
    parts = []
    for (name, seed), student in history.groupby(["curriculum", "seed"], sort=False):
        accuracy = student.set_index("step")[["accuracy"]].reindex(steps)
        accuracy = accuracy if seed in lost[name] else accuracy.ffill()
        parts.append(accuracy.assign(curriculum=name, seed=seed).reset_index())
    return pd.concat(parts, ignore_index=True)


def transition_step(history: pd.DataFrame, chance: float = 0.5) -> int | None:
    """The first step at which a teacher's accuracy was half way from `chance` to 1; None if it never was.

    Arguments:
    - `history`: of the teacher, one row per evaluation.
    - `chance`: the accuracy of guessing.
    """
    return first_step(history, (1 + chance) / 2)


def median_steps(steps: Iterable[int | None], budget: int) -> float:
    """The median, with students that never got there counted at `budget` (it is then a lower bound)."""
    return float(pd.Series([budget if step is None else step for step in steps], dtype=float).median())


def threshold_table(history: pd.DataFrame, threshold: float, budget: int, batch_size: int) -> pd.DataFrame:
    """One row per curriculum: how many seeds got there, median, least and most steps, median samples, final accuracy."""
    finals, lost, rows = final_accuracy(history), diverged(history), []
    for name, steps in steps_to_threshold(history, threshold).items():
        there = [step for step in steps if step is not None]
        median = median_steps(steps, budget)
        # If half of the seeds or more did not get there, the median includes one of them: it is a lower bound.
        at_least = "> " if 2 * len(there) <= len(steps) else ""
        rows.append(
            {
                "curriculum": name,
                "reached": f"{len(there)} of {len(steps)}" + (f", {len(lost[name])} diverged" if lost[name] else ""),
                "median steps": f"{at_least}{median:,.0f}",
                "fewest": f"{min(there):,}" if there else "–",
                "most": f"{max(there):,}" if len(there) == len(steps) else f"> {budget:,}",
                "median samples": f"{at_least}{median * batch_size:,.0f}",
                "final accuracy": _percent([value for value in finals[name] if value is not None]),
            }
        )
    return pd.DataFrame(rows).set_index("curriculum")


def _percent(values: list[float]) -> str:
    """The mean of some accuracies in percent, or a dash if there are none."""
    return f"{sum(values) / len(values):.1%}" if values else "–"


def mask_table(
    accuracies: Mapping[str, Mapping[str, float]],
    teacher_unit_bytes: Iterable[int],
    seed: int,
    losses: Mapping[str, Mapping[str, float]] | None = None,
) -> pd.DataFrame:
    """One row per mask: accuracy on each split (`accuracies[split][mask]`), teacher blocks and the bytes they take.

    With `losses`, the mean cross-entropies in nats, a column such as `test_loss` holds those of each split.
    """
    units = list(teacher_unit_bytes)
    first = next(iter(accuracies.values()))
    rows = [
        {
            "mask": mask,
            "seed": seed,
            "teacher_blocks": mask.count("T"),
            "teacher_bytes": sum(size for letter, size in zip(mask, units, strict=True) if letter == "T"),
        }
        | {split: table[mask] for split, table in accuracies.items()}
        | {f"{split}_loss": table[mask] for split, table in (losses or {}).items()}
        for mask in first
    ]
    return pd.DataFrame(rows)


def class_table(accuracies: Mapping[str, Sequence[float]], seed: int) -> pd.DataFrame:
    """One row per mask and class (its index): `test` is the accuracy on that class's test samples, NaN without any."""
    return pd.DataFrame(
        [
            {"mask": mask, "seed": seed, "class": index, "test": value}
            for mask, values in accuracies.items()
            for index, value in enumerate(values)
        ]
    )


def cube_tables(scores: Mapping[str, MaskScores], unit_bytes: Iterable[int], seed: int) -> dict[str, pd.DataFrame]:
    """Every mask of a pair, overall (`masks`) and per class (`classes`), from its scores on each split.

    `unit_bytes` are the bytes that each of the teacher's blocks brings.
    """
    accuracies = {split: score.accuracies() for split, score in scores.items()}
    losses = {split: score.losses() for split, score in scores.items()}
    return {
        "masks": mask_table(accuracies, unit_bytes, seed, losses),
        "classes": class_table(scores["test"].class_accuracies(), seed),
    }


def stacked_masks(pairs: Iterable["Pair"]) -> pd.DataFrame:
    """The mask tables of several pairs (one per seed) as one."""
    return pd.concat([pair.masks for pair in pairs], ignore_index=True)


def stacked_hits(pairs: Iterable["Pair"]) -> pd.DataFrame:
    """Which test samples each mask of several pairs (one per seed) gets right: rows (seed, mask), a column per sample."""
    return pd.concat({pair.seed: pair.hits() for pair in pairs}, names=["seed", "mask"])


def order_curves(masks: pd.DataFrame, orders: Mapping[str, list[str]], split: str = "test") -> pd.DataFrame:
    """Accuracy against the number of loaded teacher blocks: one row per order, seed and k.

    Columns order, seed, teacher_blocks (k), mask, teacher_bytes and accuracy.

    Arguments:
    - `masks`: from `mask_table`, of one or more seeds.
    - `orders`: by name, the masks of each loading order, k = 0..n.
    - `split`: the column of `masks` that becomes the accuracy.
    """
    found = masks.set_index(["seed", "mask"])
    return pd.DataFrame(
        [
            {
                "order": order,
                "seed": seed,
                "teacher_blocks": mask.count("T"),
                "mask": mask,
                "teacher_bytes": int(found.loc[(seed, mask), "teacher_bytes"]),
                "accuracy": float(found.loc[(seed, mask), split]),
            }
            for order, sequence in orders.items()
            for seed in masks["seed"].unique()
            for mask in sequence
        ]
    )


def arrival_table(curves: pd.DataFrame, order: str, student_bytes: int, block_bytes: Sequence[int]) -> pd.DataFrame:
    """What has arrived when each mask of a loading order can answer: accuracy (mean over seeds), bytes, share.

    `share` is of the bytes of the teacher alone, without student and converters.

    Arguments:
    - `curves`: as from `order_curves`.
    - `order`: which of its orders.
    - `student_bytes`, `block_bytes`: of the pair, as `Pair` has them.
    """
    mine = curves[curves["order"] == order].groupby("mask", sort=False)[["accuracy", "teacher_bytes"]].mean()
    teacher = mine.pop("teacher_bytes").iloc[-1]
    loaded = [sum(size for owner, size in zip(mask, block_bytes, strict=True) if owner == "T") for mask in mine.index]
    arrived = student_bytes + pd.Series(loaded, index=mine.index)
    return mine.assign(bytes=arrived, share=arrived / teacher)


def mean_curve(curves: pd.DataFrame, order: str) -> list[float]:
    """The accuracy of one loading order at k = 0..n, mean over seeds.

    Arguments:
    - `curves`: as from `order_curves`.
    - `order`: which of its orders.
    """
    means = curves[curves["order"] == order].groupby("teacher_blocks")["accuracy"].mean()
    return [float(value) for value in means]


def check_claims(claims: Mapping[str, bool], enforce: bool, timed: Mapping[str, bool] | None = None) -> pd.DataFrame:
    """A table of a notebook's claims and whether its numbers support them.

    Arguments:
    - `claims`: whether each one holds.
    - `enforce`: whether the text was written for these numbers (`Settings.stock`). A claim that fails then raises
      AssertionError, because the text would be wrong; otherwise the table only says so.
    - `timed`: claims about seconds. On a busy machine they may fail, so they never raise.
    """
    failed = [claim for claim, holds in claims.items() if not holds]
    if enforce and failed:
        raise AssertionError("the numbers do not support: " + "; ".join(failed))
    verdicts = {claim: "yes" if holds else "no, at this size" for claim, holds in claims.items()}
    no = "no, not on this machine now" if enforce else "no, at this size"
    verdicts |= {claim: "yes" if holds else no for claim, holds in (timed or {}).items()}
    return pd.DataFrame({"claim": list(verdicts), "holds here": list(verdicts.values())}).set_index("claim")


def check_cube(masks: pd.DataFrame) -> int:
    """The number of blocks. Raises InvalidValueError unless each seed has each mask once, with equal bytes."""
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
    """A loading order as its blocks, such as `2-3-1-4`. Raises InvalidValueError as `arrivals` does."""
    return "-".join(str(block) for block in arrivals(order))


def orders_with_best(masks: pd.DataFrame) -> dict[str, list[str]]:
    """The masks, k = 0..n, of each named loading order, and of the `best_order` on the validation split."""
    best = best_order(masks)
    return loading_orders(len(best) - 1) | {"best": best}


def best_order(masks: pd.DataFrame, split: str = "validation") -> list[str]:
    """The masks, k = 0..n, of the loading order with the largest area under accuracy against bytes loaded.

    Accuracy is a step function of the bytes: while the next block's bytes arrive, the current mask predicts. So the
    area is the sum over steps of accuracy(mask before the step) * bytes(block that arrives) / bytes of all blocks, in
    [0, 1]: the mean accuracy during loading at a constant rate. The complete teacher's accuracy does not count (all
    orders end there); that of the student always does.

    Arguments:
    - `masks`: as from `mask_table`, every mask of one or more seeds; accuracies are means over the seeds.
    - `split`: the column of `masks` that is searched.

    The search is exact over all n! orders (`search_order`). Raises InvalidValueError as `check_cube` does.
    """
    n_blocks = check_cube(masks)
    accuracy = masks.groupby("mask")[split].mean().to_dict()
    arrived = masks.groupby("mask")["teacher_bytes"].first().to_dict()
    alone = ["S" * block + "T" + "S" * (n_blocks - block - 1) for block in range(n_blocks)]
    return search_order(accuracy, [arrived[mask] for mask in alone])


def order_areas(curves: pd.DataFrame) -> pd.DataFrame:
    """One row per order and seed of `order_curves`: `area` under accuracy against bytes, as in `best_order`.

    Raises InvalidValueError if a curve does not lead from all-student to all-teacher.
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
    areas = order_areas(order_curves(masks, {"this": list(order)}, split))
    return dict(zip(areas["seed"].tolist(), areas["area"].tolist(), strict=True))


def best_under_budget(masks: pd.DataFrame, split: str = "validation") -> pd.DataFrame:
    """The best mask for every budget of teacher bytes: a row for each number of bytes at which the best mask changes.

    Columns: teacher_bytes, mask, the accuracies `validation` and `test` (means over seeds), and `test_lowest` and
    `test_highest` over the seeds. Masks are chosen by `split`, so `validation` never falls from row to row, while
    `test` may. Of equally good masks the one with fewer bytes is taken.

    Arguments:
    - `masks`: as from `mask_table`, every mask of one or more seeds.
    - `split`: the column of `masks` that the masks are chosen by.

    Raises InvalidValueError as `check_cube` does.
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
