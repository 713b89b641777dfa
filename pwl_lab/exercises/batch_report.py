"""Checks of the exercises to notebook 09: plain names for nested numbers, and a mean that counts the missing students."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from pwl_lab.exercises.checking import attempt, pair_of, same_numbers, same_values

NESTED = {"steps": {"extracted": 900, "one_shot": 7_000}, "hard": {"steps": {"extracted": 1_100}}, "threshold": 0.99}
FLAT = {"steps.extracted": 900, "steps.one_shot": 7_000, "hard.steps.extracted": 1_100, "threshold": 0.99}


def dotted(answer: Callable[[Mapping[str, Any]], Mapping[str, float]]) -> str:
    """`answer(metrics)`: nested mappings of numbers as one, each number under all the names that lead to it."""
    hint = (
        "if a value is a mapping, call the same function on it, and put its name and a dot before each resulting name"
    )
    mistakes = {
        "only the last name is kept: numbers of different groups overwrite each other": {
            name.rpartition(".")[2]: value for name, value in FLAT.items()
        },
        "this goes only one level down": {name: value for name, value in FLAT.items() if not name.startswith("hard")}
        | {"hard.steps": {"extracted": 1_100}},
        "numbers at the top level are lost": {name: value for name, value in FLAT.items() if "." in name},
        "the names are joined without a dot": {name.replace(".", ""): value for name, value in FLAT.items()},
    }
    found = attempt(answer, NESTED, hint=hint, on="nested metrics")
    same_values("dotted", found, FLAT, hint, mistakes)
    same_values("dotted of nothing", attempt(answer, {"a": {}}, hint=hint, on="an empty group"), {}, hint)
    return "Right: a table needs one name for each number, and this is how the report names its columns."


def mean_steps(answer: Callable[[Sequence[int | None], int], tuple[float, bool]]) -> str:
    """`answer(steps, budget)`: the mean with None counted at the budget, and whether that is only a lower bound."""
    hint = "replace each None by the budget, then take the mean; it is a lower bound if there was a None"
    for steps, budget in (([800, None, 1_000, None], 12_000), ([700, 900, 1_100], 12_000), ([None, None], 500)):
        there = [step for step in steps if step is not None]
        full = [budget if step is None else step for step in steps]
        found = attempt(answer, steps, budget, hint=hint, on=f"steps {steps} and a budget of {budget}")
        mean, bound = float(np.mean(full)), None in steps
        mistakes = {
            "a missing student does not count as 0 steps": [float(np.mean([step or 0 for step in steps])), bound],
            "this is the median, not the mean": [float(np.median(full)), bound],
            "it is a lower bound if, and only if, some student did not get there": [mean, not bound],
        }
        if there:
            wrong = "students that did not get there are left out: they are the slowest, so the mean is too small"
            mistakes = {wrong: [float(np.mean(there)), bound], **mistakes}
        name = f"mean_steps of {steps}"
        pair = pair_of(name, found, "(mean, whether it is a lower bound)", hint)
        same_numbers(name, pair, [mean, bound], hint, mistakes)
    return "Right: that is why the report draws such a marker hollow."
