"""Tidy tables: what the runs say, with its spread over seeds. Tables in, tables out; nothing is trained here."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Protocol

import pandas as pd

from pwl_lab.loading.orders import loading_orders as loading_orders  # what the tables are read by


class HasMasks(Protocol):
    """Anything with a table of masks (`mask_table`), such as a pair."""

    masks: pd.DataFrame


def steps_to_threshold(history: pd.DataFrame, threshold: float) -> dict[str, list[int | None]]:
    """As `steps_by_seed`, a list per curriculum: its seeds in the order in which they were given."""
    return {name: list(steps.values()) for name, steps in steps_by_seed(history, threshold).items()}


def steps_by_seed(history: pd.DataFrame, threshold: float) -> dict[str, dict[int, int | None]]:
    """Per curriculum and seed, the first step at which the accuracy was at least `threshold` (None: never).

    `history` holds curriculum, seed, step and accuracy. A student that diverged never got there.
    """
    reached = history[history["accuracy"] >= threshold].groupby(["curriculum", "seed"], sort=False)["step"].min()
    lost = diverged(history)
    return {
        name: {
            seed: int(reached[name, seed]) if (name, seed) in reached.index and seed not in lost[name] else None
            for seed in _seeds(history, name)
        }
        for name in _curricula(history)
    }


def final_accuracy(history: pd.DataFrame) -> dict[str, list[float | None]]:
    """Per curriculum and, seeds in the order given, the accuracy at each student's last evaluation (None: it diverged)."""
    lost = diverged(history)
    last = history.sort_values("step").groupby(["curriculum", "seed"], sort=False)["accuracy"].last()
    return {
        name: [None if seed in lost[name] else float(last[name, seed]) for seed in _seeds(history, name)]
        for name in _curricula(history)
    }


def diverged(history: pd.DataFrame) -> dict[str, list[int]]:
    """Per curriculum, the seeds whose student diverged: its last row holds no accuracy."""
    lost = history[history["accuracy"].isna()]
    return {name: lost.loc[lost["curriculum"] == name, "seed"].unique().tolist() for name in _curricula(history)}


def _curricula(history: pd.DataFrame) -> list[str]:
    """Names in order of appearance."""
    return list(dict.fromkeys(history["curriculum"]))


def _seeds(history: pd.DataFrame, curriculum: str) -> list[int]:
    """The seeds of one curriculum in order of appearance, which is the one they were given in.

    Every student is evaluated at least once before any is retired.
    """
    return history.loc[history["curriculum"] == curriculum, "seed"].unique().tolist()


def held(history: pd.DataFrame) -> pd.DataFrame:
    """The history with every retired student held at its last accuracy up to the last step of all.

    Without this a curve over seeds would, from the first retirement on, show only the students that are slower.
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
    """The first step at which a teacher's accuracy was half way from `chance` to 1; None where it never was."""
    risen = history.loc[history["accuracy"] >= (1 + chance) / 2, "step"]
    return int(risen.min()) if len(risen) else None


def median_steps(steps: Iterable[int | None], budget: int) -> float:
    """The median with a student that never got there counted at `budget` (a lower bound, then)."""
    return float(pd.Series([budget if step is None else step for step in steps], dtype=float).median())


def threshold_table(history: pd.DataFrame, threshold: float, budget: int, batch_size: int) -> pd.DataFrame:
    """One row per curriculum: how many seeds got there, median, least and most steps, median samples, final accuracy."""
    finals, lost, rows = final_accuracy(history), diverged(history), []
    for name, steps in steps_to_threshold(history, threshold).items():
        there = [step for step in steps if step is not None]
        median = median_steps(steps, budget)
        # With half of the seeds or more still on their way, one of them is in the median: it is a lower bound.
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
    """Their mean, or a dash where there is none."""
    return f"{sum(values) / len(values):.1%}" if values else "–"


def mask_table(
    accuracies: Mapping[str, Mapping[str, float]], teacher_unit_bytes: Iterable[int], seed: int
) -> pd.DataFrame:
    """One row per mask: accuracy on each split (`accuracies[split][mask]`), teacher blocks and the bytes they take."""
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


def stacked_masks(pairs: Iterable[HasMasks]) -> pd.DataFrame:
    """The mask tables of several pairs (one per seed) as one."""
    return pd.concat([pair.masks for pair in pairs], ignore_index=True)


def order_curves(masks: pd.DataFrame, orders: Mapping[str, list[str]], split: str = "test") -> pd.DataFrame:
    """Accuracy against the number of loaded teacher blocks: one row per order, seed and k."""
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


def arrival_table(curves: pd.DataFrame, order: str, student_bytes: int, converter_bytes: int) -> pd.DataFrame:
    """What has arrived when each mask of a loading order can answer: accuracy (mean over seeds), bytes, share.

    The student answers from its own bytes; from the first teacher block on the converters are there too, all of them
    (an order may need fewer). `share` is of the bytes of the teacher alone, without student and converters.
    """
    mine = curves[curves["order"] == order].groupby("mask", sort=False)[["accuracy", "teacher_bytes"]].mean()
    teacher = mine.pop("teacher_bytes").astype(int)
    arrived = _arrived(teacher, student_bytes, converter_bytes)
    return mine.assign(bytes=arrived, share=arrived / teacher.iloc[-1])


def arrived_bytes(masks: pd.DataFrame, student_bytes: int, converter_bytes: int) -> dict[str, int]:
    """The bytes that have arrived when each mask of a `mask_table` can answer, as in `arrival_table`."""
    return _arrived(masks.groupby("mask")["teacher_bytes"].first(), student_bytes, converter_bytes).to_dict()


def _arrived(teacher_bytes: pd.Series, student_bytes: int, converter_bytes: int) -> pd.Series:
    """Student and teacher blocks, and with the first of these all converters."""
    return student_bytes + teacher_bytes + converter_bytes * (teacher_bytes > 0)


def mean_curve(curves: pd.DataFrame, order: str) -> list[float]:
    """The accuracy of one loading order at k = 0..n, mean over seeds."""
    return curves[curves["order"] == order].groupby("teacher_blocks")["accuracy"].mean().tolist()


def largest_dip(curve: Iterable[float]) -> float:
    """The largest fall from one point of the curve to the next; 0 where it never falls."""
    values = list(curve)
    return max([0.0, *(before - after for before, after in pairwise(values))])


def check_claims(claims: Mapping[str, bool], enforce: bool) -> pd.DataFrame:
    """What a notebook claims and whether its numbers bear it out, as a table.

    With `enforce` (the preset's own sizes, see `Settings.stock`) a claim that fails raises AssertionError: the text
    around it would be wrong. At other sizes the table just says so.
    """
    failed = [claim for claim, holds in claims.items() if not holds]
    if enforce and failed:
        raise AssertionError("the numbers do not bear out: " + "; ".join(failed))
    verdicts = ["yes" if holds else "no, at this size" for holds in claims.values()]
    return pd.DataFrame({"claim": list(claims), "holds here": verdicts}).set_index("claim")
