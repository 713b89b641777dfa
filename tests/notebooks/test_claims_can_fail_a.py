"""The claims of notebooks 00, 01, 02, 02b and 08 hold for results as the text has them, and each fails for others.

The cells are executed as they stand in the notebooks, on results made here.
"""

from collections.abc import Callable
from itertools import product
from types import SimpleNamespace as Names
from typing import Any

import nbformat
import numpy as np
import pandas as pd
import pytest
import torch

from pwl_lab.study import arms, complexity, exponents, intervals, parity_results, store, tables
from pwl_lab.support import paths

SEEDS = range(8)


def claims_of(cell: str, names: dict[str, Any]) -> dict[str, bool]:
    """What the cell that makes the claims, and those before it that it needs, leave in `claims`."""
    exec(compile(cell, "claims", "exec"), names)
    return {claim: bool(holds) for claim, holds in names["claims"].items()}


def cells_with_claims(notebook: str) -> list[str]:
    """The claims cells of a notebook, each with the hidden cell before it where that prepares it."""
    found, before = [], ""
    for cell in nbformat.read(paths.notebooks() / f"{notebook}.ipynb", as_version=4).cells:
        if cell.cell_type != "code":
            before = ""
        elif "tables.check_claims(" in cell.source:
            found.append(before + cell.source)
        else:
            before += cell.source + "\n" if "hide-input" in cell.metadata.get("tags", []) else ""
    return found


def cell_of(notebook: str, name: str) -> str:
    """The source of the cell with this id."""
    cells = nbformat.read(paths.notebooks() / f"{notebook}.ipynb", as_version=4).cells
    return str(next(cell.source for cell in cells if cell.id == name))


def common() -> dict[str, Any]:
    return {
        "pd": pd,
        "tables": tables,
        "intervals": intervals,
        "complexity": complexity,
        "parity_results": parity_results,
        "exponents": exponents,
    }


def start_here() -> dict[str, Any]:
    steps = {"one_shot": [2_600, 3_400, None], "extracted": [1_000, 1_000, 1_100]}
    return common() | {
        "runs": Names(steps_to=lambda threshold: steps),
        "steps_found": steps,
        "sizes": Names(budget_steps=12_000),
        "prefix": [0.84, 0.86, 0.87, 0.89, 0.91],
        "pair": Names(),
        "images": Names(split=lambda name: Names(labels=torch.zeros(2_000))),
        "image_teacher": Names(test_accuracy=0.91),
        "settings": Names(stock=False),
    }


def set_prefix(names: dict[str, Any]) -> None:
    names["pair"].prefix_accuracy = lambda: names["prefix"]


def teacher_readings() -> dict[str, Any]:
    """A teacher of ten checkpoints, whose pairs stand out in the seventh."""
    rows, papers = [], []
    for step in range(0, 1_001, 100):
        final, spiking = step == 1_000, step == 700
        accuracy = 1.0 if final or step > 800 else 0.8 if spiking else 0.5
        for degree in (1, 2, 3):
            inside = 0.3 if spiking and degree == 2 else 0.1 + (-1) ** (step // 100) * 0.03 if degree == 1 else 0.01
            outside = 0.1 if degree == 1 else 0.01
            row = {"step": step, "accuracy": accuracy, "degree": degree, "final": final}
            rows.append(row | {"in_support": inside, "off_support": outside})
            paper = 0.05 if spiking and degree == 2 else 0.008
            papers.append({"step": step, "degree": degree, "in_support": paper, "off_support": 0.003})
    ones = [{"seed": seed, "degree": 1, "in_support": 0.28, "off_support": 0.05} for seed in SEEDS]
    return common() | {
        "readings": Names(table=pd.DataFrame(rows)),
        "papers": pd.DataFrame(papers).set_index(["step", "degree"]),
        "projected": pd.DataFrame(ones),
        "transition_step": 700,
        "task": Names(k_sparse=4),
        "settings": Names(stock=False),
    }


SINGLE = {"as it is": 0.02, "weight decay 0.001": 0.021, "lr 0.4": 0.04, "batch 16, lr 0.05": 0.036, "lr 0.05": 0.017}
SINGLE |= {
    "batch 1,024": 0.014,
    "momentum 0.9, lr 0.2": 0.038,
    "initial weights times 0.1": 0.03,
    "batch 1, lr 0.01": 0.048,
}
SPIKES: dict[int, dict[str, tuple[float, ...]]] = {
    4: {name: (first, 0.055, 0.08 if name == "momentum 0.9, lr 0.2" else 0.008) for name, first in SINGLE.items()}
    | {"initial weights times 3": (0.02, 0.055, 0.055)},
    6: {
        "as it is": (0.03, 0.02, 0.01, 0.05, 0.01, 0.2),
        "batch 1, lr 0.01": (0.06, 0.03, 0.03, 0.03, 0.05, 0.2),
        "batch 1, lr 0.005": (0.03, 0.02, 0.01, 0.05, 0.01, 0.2),
        "initial weights times 3": (0.01, 0.01, 0.03, 0.02, 0.05, 0.2),
    },
}


def spikes() -> dict[str, Any]:
    """The shipped table of spikes, as small as the claims allow."""
    rows = []
    for k, settings in SPIKES.items():
        for setting, values in settings.items():
            for seed, (degree, value) in product(range(4), enumerate(values, start=1)):
                row = {
                    "k": k,
                    "setting": setting,
                    "seed": seed,
                    "degree": degree,
                    "p in": value + 0.0005 * seed * degree,
                }
                r = 0.34 if degree == 1 and setting == "initial weights times 0.1" else 5 * value
                row |= {"r in": r, "decision in": 4 * value}
                rows.append(row | {"p off": 0.004, "r off": 0.01, "decision off": 0.01})
    peaks = pd.DataFrame(rows)
    names = {"peaks": peaks, "four": peaks[peaks["k"] == 4]}
    return common() | names | {"settings": Names(stock=False)}


def peak(names: dict[str, Any], setting: str, degree: int, column: str, values: Any, k: int = 4) -> None:
    table = names["peaks"]
    here = (table["k"] == k) & (table["setting"] == setting) & (table["degree"] == degree)
    table.loc[here, column] = values
    names["four"] = table[table["k"] == 4]


def rounded(
    blurred: float = 0.005, pairs: float = 0.03, checkpoint: float = 0.12, shown: float = 0.35, hidden: float = 1.0
) -> dict[str, Any]:
    """Eight draws at 1, 2, 3, 4 and 8 bits, of which half show pairs at four bits and need `shown` of one-shot's samples."""
    rows, leaks, given = [], [], {}
    for seed in SEEDS:
        for bits in (1, 2, 3, 4, 8):
            clear = bits == 4 and seed % 2 == 0
            part = 1.0 if bits == 8 else shown if clear else 1.2 * hidden if bits == 4 else hidden
            row = {"k": 4, "seed": seed, "bits": bits}
            rows.append(
                row | {"curriculum": f"{bits} bits", "samples": 3e5 * part * (1 + 0.02 * seed), "reached": True}
            )
            given[seed, bits] = pairs * (1.4 if clear else 0.5) if bits == 4 else 0.006
            noise = blurred if seed % 2 else 0.004
            for degree, value in ((1, noise), (2, given[seed, bits]), (3, 0.004), (4, 0.5)):
                leaks.append(row | {"degree": degree, "decision in": value, "decision off": 0.0062})
    students, leak = pd.DataFrame(rows), pd.DataFrame(leaks)
    of_02 = pd.DataFrame(
        {"progressive": 3e5 * checkpoint * (1 + 0.02 * np.arange(8))}, index=pd.RangeIndex(8, name="seed")
    )
    samples = students.pivot(index="seed", columns="curriculum", values="samples").join(of_02)
    names = common() | {"students": students, "leak": leak, "samples": samples, "settings": Names(stock=False)}
    exec(compile(cell_of("02b_which_choices_matter", "cell-bits-pairs-table"), "pairs", "exec"), names)
    return names


def tuned_curricula() -> dict[str, Any]:
    """Samples to 99% of sixteen draws on two tasks, with the common setting and tuned."""
    medians = {"scratch": (600, 170), "one_shot": (600, 170), "progressive": (110, 24), "extracted": (92, 9)}
    medians["even"] = (500, 88)
    late = np.append(np.ones(16), np.tile([1.2, 2.5], 8))  # on (100, 4) half of the draws
    index = pd.MultiIndex.from_tuples([(4, n, seed) for n in (50, 100) for seed in range(16)], names=["k", "n", "seed"])
    random, draws = np.random.default_rng(0), np.linspace(0.8, 1.2, 16) * 1_000
    spread = {name: np.append(random.permutation(draws), random.permutation(draws)) for name in medians}
    spread["one_shot"] = spread["scratch"]
    parts = {
        part: pd.DataFrame({name: both[which] * spread[name] for name, both in medians.items()}, index=index)
        for which, part in enumerate(("the same setting for all", "each at its best"))
    }
    parts["each at its best"]["even"] *= late
    teachers = pd.DataFrame({"n": [50, 100], "reached": [60_000, 290_000]})
    names = {"parts": parts, "teachers": teachers, "store": Names(shipped=lambda name: teachers)}
    return common() | names | {"settings": Names(stock=False)}


def papers_width() -> dict[str, Any]:
    """The stored runs with a teacher of the papers' width."""
    return common() | {"paper": store.shipped("parity_paper"), "settings": Names(stock=False)}


def student_takes(names: dict[str, Any], curriculum: str, samples: float, reached: bool = True) -> None:
    """Give the first student of a curriculum another result."""
    table = names["paper"]
    first = table.index[table["curriculum"] == curriculum][0]
    table.loc[first, ["samples", "reached"]] = [samples, reached]


def slow_down(names: dict[str, Any], part: str, curriculum: str, factor: Any) -> None:
    names["parts"][part][curriculum] *= factor


def reading(names: dict[str, Any], step: int, degree: int, column: str, value: float) -> None:
    table = names["readings"].table
    table.loc[(table["step"] == step) & (table["degree"] == degree), column] = value


def prefer_early(names: dict[str, Any]) -> None:
    table = names["readings"].table
    table.loc[(table["step"] < 600) & (table["degree"] == 1), "in_support"] += 0.05


def hand() -> dict[str, Any]:
    support = (1, 3)
    mixed = torch.full((10,), 0.05)
    mixed[list(support)] = 0.2
    return common() | {
        "task": Names(support=support, n_bits=10),
        "by_target": {"extracted": mixed},
        "difference": 1e-8,
        "settings": Names(stock=False),
    }


def curricula() -> dict[str, Any]:
    steps = {
        "scratch": [2_600, 3_400, 3_600, 4_000, 2_700, 3_500, None, 8_100],
        "one_shot": [2_600, 3_400, 3_600, 4_000, 2_700, 3_500, None, 8_100],
        "progressive": [1_000, 1_100, 900, 1_100, 1_000, 1_000, 900, 1_000],
        "extracted": [1_000, 1_000, 1_000, 1_100, 1_000, 1_100, 900, 1_000],
    }
    hard = {"one_shot": [None] * 8, "progressive": [3_200] * 8, "extracted": [1_500] * 8}
    return common() | {
        "runs": Names(steps_to=lambda threshold: steps),
        "hard_runs": Names(steps_to=lambda threshold: hard),
        "hard_teacher": Names(history=pd.DataFrame({"step": [0, 150_800]})),
        "found": steps,
        "hard_found": hard,
        "settings": Names(stock=False, threshold=0.99, budget_steps=12_000, hard_budget_steps=4_000),
    }


CHOICES = {
    "checkpoint: step 300": [4_400, None, 1_700, 4_200],
    "checkpoint: step 475": [3_300, 1_700, 5_600, None],
    "checkpoint: step 550": [2_400, 1_900, 1_600, 3_100],
    "checkpoint: step 700": [900, 900, 900, 900],
    "checkpoint: step 750": [2_700, 3_400, 3_600, 4_000],
    "stage length: 100 steps": [400, 400, 400, 500],
    "projection: as in 02": [1_000, 1_000, 1_000, 1_100],
    "projection: orthogonal columns": [1_100, 900, 1_000, 1_100],
    "projection: on an eighth of the units": [1_600, 1_300, 1_100, 1_300],
    "projection: on one unit": [2_900, 5_200, 5_300, 2_300],
    "projection: not centred": [900, 1_000, 900, 1_000],
    "projection: not scaled": [1_200, 1_100, 1_100, 1_000],
    "temperature: 0": [2_600, 3_400, 3_600, 4_000],
    "temperature: 1": [2_800, 3_800, 4_100, 4_100],
    "match: before the ReLU": [900, 900, 900, 1_000],
}


def choices() -> dict[str, Any]:
    reached = {name: list(values) for name, values in CHOICES.items()}
    return common() | {
        "tables": Names(
            check_claims=tables.check_claims,
            median_steps=tables.median_steps,
            steps_to_threshold=lambda history, threshold: reached,
        ),
        "found": reached,
        "history": None,
        "short_stage": 100,
        "names": [name for name in CHOICES if name.startswith("checkpoint")],
        "tried_steps": [300, 475, 550, 700, 750],
        "kept": {300: 0.5, 475: 0.5, 550: 0.51, 700: 0.8, 750: 0.98},
        "settings": Names(stock=False, choice_steps=6_000, threshold=0.99, eval_every=100),
    }


FITTED = {
    **{(k, "extracted"): value for k, value in ((2, 0.57), (3, 1.06), (4, 0.78))},
    **{(k, "progressive"): value for k, value in ((2, 0.88), (3, 1.39), (4, 1.22))},
    **{(k, "one_shot"): value for k, value in ((2, 0.82), (3, 1.51), (4, 2.29))},
}


def fits(fitted: dict[tuple[int, str], float], half: float = 0.1) -> exponents.Exponents:
    """Exponents with resamples spread evenly around each, in an order of their own."""
    spread, random = np.linspace(-half, half, 401), np.random.default_rng(0)
    slopes = pd.DataFrame({pair: value + np.append(0, random.permutation(spread)) for pair, value in fitted.items()})
    return exponents.Exponents(slopes.rename_axis(["k", "curriculum"], axis=1), ())


def sizes() -> dict[str, Any]:
    """Exponents as the text has them, students of k = 4 on two sizes, and new ones that need the same."""
    medians = {("one_shot", 16): 5_100, ("one_shot", 81): 206_000, ("extracted", 16): 2_800, ("extracted", 81): 10_500}
    medians[("progressive", 81)] = 36_000
    points = pd.DataFrame([
        {"k": 4, "n": n, "curriculum": name, "seed": seed, "samples": middle * factor, "reached": True}
        for (name, n), middle in medians.items()
        for seed, factor in zip(SEEDS, np.linspace(0.9, 1.1, 8), strict=True)
    ])  # fmt: skip
    at_3 = points.assign(k=3)
    at_3.loc[at_3["curriculum"] == "progressive", "samples"] *= 206_000 / 36_000  # as one-shot
    low, high = (
        FITTED | {(3, "extracted"): 1.07, (4, "extracted"): 0.67},
        FITTED | {(k, "extracted"): 0.96 for k in (3, 4)},
    )
    return common() | {
        "points": pd.concat([points, points.assign(k=2), at_3]),
        "own": points.copy(),
        "fits": fits(FITTED),
        "halves": {"n up to 36": fits(low, 0.16), "n from 36": fits(high, 0.2)},
        "settings": Names(stock=False),
    }


def fit(k: int, curriculum: str, value: float) -> Callable[[dict[str, Any]], None]:
    """Another exponent, with the same spread."""
    return lambda names: names.update(fits=fits(FITTED | {(k, curriculum): value}))


def more_samples(table: str, curriculum: str, n: int, factor: float) -> Callable[[dict[str, Any]], None]:
    """All students of one curriculum and size need this many times the samples."""

    def spoil(names: dict[str, Any]) -> None:
        rows = (names[table]["curriculum"] == curriculum) & (names[table]["n"] == n)
        names[table]["samples"] = names[table]["samples"].where(~rows, factor * names[table]["samples"])

    return spoil


def widths() -> dict[str, Any]:
    """Extracted gains with every doubling, one-shot by nothing that eight draws can show."""
    slow, quick = dict.fromkeys((16, 32, 64, 128), 45_000), {16: 37_000, 32: 9_400, 64: 5_300, 128: 4_700}
    rows = [
        {"curriculum": name, "width": width, "seed": seed, "samples": middle * factor, "reached": True}
        for name, middles in (("one_shot", slow), ("extracted", quick))
        for width, middle in middles.items()
        for seed, factor in zip(SEEDS, np.linspace(0.7, 1.4, 8), strict=True)
    ]
    return common() | {"by_width": pd.DataFrame(rows), "settings": Names(stock=False, widths=tuple(slow))}


def faster(names: dict[str, Any], curriculum: str, width: int, factor: float) -> None:
    table = names["by_width"]
    table.loc[(table["curriculum"] == curriculum) & (table["width"] == width), "samples"] *= factor


def phases() -> dict[str, Any]:
    """Means of the two-phase table: labels need millions of samples, the hidden layer a thousand."""
    rows = [("labels", samples, ratio, accuracy, ratio)
            for samples, ratio, accuracy in ((1_000, 1.0, 0.5), (100_000, 1.1, 0.5), (1_000_000, 2.2, 0.51),
                                             (4_000_000, 4.2, 0.7))]  # fmt: skip
    rows += [
        ("hidden", 100, 2.3, 0.51, np.nan),
        ("hidden", 1_000, 4.6, 0.7, np.nan),
        ("hidden", 10_000, 5.6, 0.95, np.nan),
    ]
    columns = ["target", "samples", "ratio", "accuracy", "expected ratio"]
    table = pd.DataFrame(rows, columns=columns).set_index(["target", "samples"])
    for name, half in (("ratio", 0.1), ("accuracy", 0.02)):
        table = table.assign(**{f"{name} low": table[name] - half, f"{name} high": table[name] + half})
    return common() | {"means": table, "settings": Names(stock=False)}


def costs(power: float = -2.0, by_size: float = 0.9, beyond: float = 0.0) -> dict[str, Any]:
    """What 108 teachers cost: a power of rho, which grows a little with everything, and powers of n and saturation."""
    random, rows = np.random.default_rng(0), []
    for n, seed in ((n, seed) for n in (30, 50, 70) for seed in range(4)):
        draw = random.uniform(0.9, 1.1)
        for saturation, decay in ((one, other) for one in (1.0, 2.0, 4.0) for other in (0.0, 1e-4, 1e-3)):
            rho = 0.3 * draw * saturation**0.08 * (1 + 150 * decay) * (n / 50) ** 0.12 * random.uniform(0.95, 1.05)
            samples = 1_000 * rho**power * (n / 50) ** by_size * saturation**beyond * np.exp(random.normal(0, 0.1))
            row = {"n": n, "k": 4, "seed": seed, "weight_decay": decay, "saturation": saturation, "rho": rho}
            rows.append(row | {"samples": samples})
    table = pd.DataFrame(rows)
    by_rho = exponents.cost_fit(table, ["rho", "n"])
    return common() | {"costs": table, "by_rho": by_rho, "settings": Names(stock=False)}


def losses(more: dict[str, float] | None = None, times: dict[str, float] | None = None) -> dict[str, Any]:
    """The shipped students of PWL's losses, with numbers added to exponents and samples multiplied."""
    table = store.shipped("parity_pairs").astype({"samples": float})
    grown = (table["n"] / table["n"].min()) ** table["curriculum"].map(more or {}).fillna(0.0)
    table["samples"] *= grown * table["curriculum"].map(times or {}).fillna(1.0)
    return common() | {"losses": table, "by_loss": arms.arm_exponents(table), "settings": Names(stock=False)}


def other_losses(**changes: dict[str, float]) -> Callable[[dict[str, Any]], None]:
    """Put results of `losses` with these changes in place of the names."""
    return lambda names: names.update(losses(**changes))


def all_arrive(names: dict[str, Any]) -> None:
    names["losses"].loc[names["losses"]["curriculum"] == "sync_untrained", "reached"] = True


def mean(names: dict[str, Any], target: str, samples: int, column: str, value: float) -> None:
    """Another value with the same interval around it."""
    table = names["means"]
    for part in (column, f"{column} low", f"{column} high"):
        table.loc[(target, samples), part] += value


def put(name: str, key: Any, values: Any) -> Callable[[dict[str, Any]], None]:
    """Replace one entry of a mapping among the names."""

    def spoil(names: dict[str, Any]) -> None:
        names[name][key] = values

    return spoil


def become(name: str, value: Any) -> Callable[[dict[str, Any]], None]:
    """Replace one of the names."""
    return lambda names: names.update({name: value})


Spoil = Callable[[dict[str, Any]], Any]


# Per notebook and claims cell: the results for which all claims hold, and for each claim results for which it must not.
def ladder() -> dict[str, Any]:
    """Samples to 99% from task to task, with a lead of extracted that grows."""
    leads, needed = [9, 22, 60, 120], {(50, 4): 20, (100, 4): 32, (100, 5): 95, (100, 6): 280}
    rows = []
    for lead, ((n, k), samples) in zip(leads, needed.items(), strict=True):
        for seed, spread in enumerate(np.linspace(0.9, 1.1, 4)):
            for curriculum, times in (("extracted", 1), ("one_shot", lead)):
                row = {"n": n, "k": k, "seed": seed, "curriculum": curriculum, "samples": times * samples * spread}
                rows.append(row | {"reached": (k, curriculum) != (6, "one_shot") or seed < 3})
    return common() | {"ladder": pd.DataFrame(rows), "settings": Names(stock=False)}


def slower(task: tuple[int, int], curriculum: str, factor: float) -> Spoil:
    def spoil(names: dict[str, Any]) -> None:
        table = names["ladder"]
        here = (table["n"] == task[0]) & (table["k"] == task[1]) & (table["curriculum"] == curriculum)
        table.loc[here, "samples"] *= factor

    return spoil


CASES: dict[tuple[str, int], tuple[Callable[[], dict[str, Any]], list[tuple[str, Spoil]]]] = {
    ("00_start_here", 0): (
        start_here,
        [
            ("in every seed one-shot needs", put("steps_found", "one_shot", [2_600, 1_900, 3_600])),
            ("in every seed one-shot needs", put("steps_found", "extracted", [1_000, None, 1_000])),
            ("with all teacher blocks loaded", become("image_teacher", Names(test_accuracy=0.92))),
            ("every block raises", become("prefix", [0.84, 0.86, 0.85, 0.89, 0.91])),
            ("the loaded teacher is better", become("prefix", [0.90, 0.902, 0.904, 0.908, 0.91])),
        ],
    ),
    ("01_sparse_parity_teacher", 0): (
        teacher_readings,
        [
            ("before the transition no preference", prefer_early),
            ("the spike lies inside", lambda names: reading(names, 700, 2, "accuracy", 0.5)),
            ("at the spike, in-support", lambda names: reading(names, 700, 2, "off_support", 0.05)),
            ("the final teacher keeps", lambda names: reading(names, 1_000, 2, "in_support", 0.05)),
            ("the papers' measure: the same spike", lambda names: names["papers"].update({"off_support": {(0, 2): 0.006}})),
            ("the papers' measure: single bits", lambda names: names["papers"].update({"in_support": {(0, 1): 0.02}})),
            ("projected: single bits", lambda names: names["projected"].update({"off_support": {3: 0.1}})),
        ],
    ),
    ("02_distillation_curricula", 0): (
        papers_width,
        [
            ("50,000 units: every extracted", lambda names: student_takes(names, "progressive", 6_000_000, reached=False)),
            ("50,000 units: one-shot takes", lambda names: student_takes(names, "one_shot", 23_000_000)),
            ("50,000 units: each of them takes", lambda names: student_takes(names, "extracted", 1_400_000)),
        ],
    ),
    ("02_distillation_curricula", 1): (
        hand,
        [
            ("one step by hand", become("difference", 1e-3)),
            ("the mixed units depend", lambda names: names["by_target"]["extracted"].__setitem__(3, 0.14)),
        ],
    ),
    ("02_distillation_curricula", 2): (
        curricula,
        [
            ("every extracted student gets there", put("hard_found", "extracted", [1_500] * 7 + [None])),
            ("one-shot needs at least twice", put("found", "one_shot", [1_500, 1_600] * 2 + [3_500] * 4)),
            ("extracted and progressive differ", put("found", "progressive", [1_300] * 8)),
            ("one-shot is as fast as labels", put("found", "one_shot", [3_600, 2_600, 3_400, 4_000, 2_700, 3_500, 9_000, 8_100])),
            ("hard: one-shot gets there in no seed", put("hard_found", "one_shot", [None] * 7 + [3_900])),
            ("hard: extracted needs less than a fiftieth", put("hard_found", "extracted", [1_500] * 7 + [3_100])),
            ("hard: every extracted student is there", put("hard_found", "progressive", [3_200] * 7 + [1_500])),
        ],
    ),
    ("02_distillation_curricula", 3): (
        tuned_curricula,
        [
            ("(50, 4): one-shot needs what", lambda names: slow_down(names, "each at its best", "one_shot", 1.01)),
            ("(100, 4): at their best, within", lambda names: slow_down(names, "each at its best", "one_shot", 1.3)),
            ("at their best: one-shot needs", lambda names: slow_down(names, "each at its best", "one_shot", 0.65)),
            ("with the same setting for all", lambda names: slow_down(names, "the same setting for all", "one_shot", 2.5)),
            ("at their best: progressive", lambda names: slow_down(names, "each at its best", "progressive", 0.8)),
            ("even needs twice", lambda names: slow_down(names, "each at its best", "even", 0.55)),
            ("(50, 4): even needs fewer", lambda names: slow_down(names, "each at its best", "even", 1.9)),
            ("(100, 4): even cannot", lambda names: slow_down(names, "each at its best", "even", 0.7)),
            ("(50, 4): extracted gains most", lambda names: slow_down(names, "the same setting for all", "progressive", 3)),
            ("the slowest extracted", lambda names: names["teachers"].update({"reached": {0: 10_000}})),
        ],
    ),
    ("02b_which_choices_matter", 0): (
        choices,
        [
            ("the first and the last checkpoint", put("found", "checkpoint: step 750", [2_700, 3_400, 3_600, 1_200])),
            ("checkpoints 55 to 95% accurate", put("found", "checkpoint: step 700", [900, 900, 900, 2_100])),
        ],
    ),
    ("02b_which_choices_matter", 1): (
        choices,
        [
            ("a shorter first stage", put("found", "stage length: 100 steps", [400, 400, 400, 1_100])),
            ("no temperature brings", put("found", "temperature: 1", [2_100, 3_800, 4_100, 4_100])),
        ],
    ),
    ("02b_which_choices_matter", 2): (
        choices,
        [
            ("one projected unit needs", put("found", "projection: on one unit", [2_900, 5_200, 5_300, 2_100])),
            ("an eighth of the units", put("found", "projection: on an eighth of the units", [1_600, 1_300, 1_000, 1_300])),
            ("before the ReLU", put("found", "match: before the ReLU", [900, 900, 900, 1_200])),
            ("before the ReLU", put("found", "match: before the ReLU", [900, 900, 700, 1_000])),
        ],
    ),
    ("02b_which_choices_matter", 3): (
        choices,
        [("what 'matters little'", put("found", "projection: not scaled", [1_200, 1_100, 1_100, 1_500]))],
    ),
    ("02b_which_choices_matter", 4): (
        spikes,
        [
            ("k = 4: pairs stand out", lambda names: peak(names, "batch 1,024", 1, "p in", 0.1)),
            ("there, triples do", lambda names: peak(names, "momentum 0.9, lr 0.2", 3, "p in", 0.02)),
            ("large initial weights raise", lambda names: peak(names, "initial weights times 3", 3, "p in", 0.009)),
            ("noisy steps bring out", lambda names: peak(names, "lr 0.4", 1, "p in", [0.0, 0.0, 0.0, 0.1])),
            ("weight decay changes", lambda names: peak(names, "weight decay 0.001", 1, "p in", 0.05)),
            ("with small initial weights", lambda names: peak(names, "initial weights times 0.1", 1, "r in", 0.1)),
        ],
    ),
    ("02b_which_choices_matter", 5): (
        spikes,
        [
            ("k = 6, batches of 128", lambda names: peak(names, "as it is", 2, "p in", 0.06, 6)),
            ("k = 4, large initial", lambda names: peak(names, "initial weights times 3", 3, "p in", [0.10, 0.11, 0.12, 0.13])),
            ("k = 6, single samples", lambda names: peak(names, "batch 1, lr 0.01", 5, "p in", [0.05, 0.05, 0.05, 0.07], 6)),
            ("they do in no other plan", lambda names: peak(names, "batch 1, lr 0.005", 1, "p in", 0.06, 6)),
            ("k = 6, large initial weights", lambda names: peak(names, "initial weights times 3", 4, "p in", 0.05, 6)),
            ("k = 6: single samples raise", lambda names: peak(names, "as it is", 1, "p in", [0.03, 0.03, 0.03, 0.12], 6)),
        ],
    ),
    ("02b_which_choices_matter", 6): (
        rounded,
        [
            ("1 to 3 bits: nothing", lambda names: names.update(rounded(blurred=0.05))),
            ("4 bits: pairs of the support", lambda names: names.update(rounded(blurred=0.09))),
            ("no number of bits is shown", lambda names: names.update(rounded(hidden=0.7))),
            ("each needs more than twice", lambda names: names.update(rounded(checkpoint=0.3))),
            ("teachers that show pairs", lambda names: names.update(rounded(shown=0.6))),
            ("teachers that do not", lambda names: names.update(rounded(hidden=0.7))),
        ],
    ),
    ("08_sample_complexity", 0): (
        sizes,
        [
            ("progressive: every exponent", fit(3, "progressive", 1.95)),
            ("extracted: every exponent", fit(3, "extracted", 1.3)),
            ("extracted: every exponent", fit(4, "progressive", 0.9)),
            ("extracted: the exponent grows", fit(3, "extracted", 0.6)),
            ("extracted: from k = 3 to 4", fit(4, "extracted", 1.0)),
        ],
    ),
    ("08_sample_complexity", 1): (
        sizes,
        [
            ("one-shot: the exponent grows", fit(3, "one_shot", 1.8)),
            ("one-shot: the exponents lie below", fit(4, "one_shot", 2.95)),
            ("one-shot: the exponents lie below", fit(2, "one_shot", 0.95)),
            ("one-shot: its exponent is above", fit(3, "one_shot", 1.1)),
            ("k = 4: by more than 1", fit(4, "one_shot", 1.75)),
            ("n = 81: progressive saves", more_samples("points", "progressive", 81, 0.7)),
            ("n = 81: progressive saves", more_samples("points", "progressive", 81, 1.6)),
        ],
    ),
    ("08_sample_complexity", 2): (
        sizes,
        [
            ("extracted: no bend", lambda names: names["halves"].update({"n from 36": fits(FITTED | {(4, "extracted"): 1.2})})),
            ("k = 4: one-shot needs", more_samples("points", "one_shot", 81, 0.5)),
            ("k = 4: one-shot needs", more_samples("points", "extracted", 16, 0.5)),
            ("this run's medians", more_samples("own", "extracted", 81, 1.6)),
            ("this run's medians", more_samples("own", "one_shot", 16, 0.6)),
        ],
    ),
    ("08_sample_complexity", 3): (
        widths,
        [
            ("extracted: three doublings", lambda names: faster(names, "extracted", 128, 4.5)),
            ("one-shot: no difference", lambda names: faster(names, "one_shot", 32, 0.4)),
            ("from 64 units on", lambda names: faster(names, "extracted", 64, 2.0)),
        ],
    ),
    ("08_sample_complexity", 4): (
        phases,
        [
            ("labels, up to 1 million", lambda names: mean(names, "labels", 100_000, "accuracy", 0.05)),
            ("labels, the largest step", lambda names: mean(names, "labels", 4_000_000, "ratio", -1.15)),
            ("labels, the largest step", lambda names: mean(names, "labels", 4_000_000, "accuracy", -0.09)),
            (
                "theory's ratio lies in the intervals",
                lambda names: [mean(names, "labels", samples, "ratio", 0.2) for samples in (1_000, 1_000_000)],
            ),
        ],
    ),
    ("08_sample_complexity", 5): (
        phases,
        [
            ("hidden layer, 1,000 samples", lambda names: mean(names, "hidden", 1_000, "ratio", -1.55)),
            ("hidden layer, the largest step", lambda names: mean(names, "hidden", 10_000, "accuracy", -0.24)),
        ],
    ),
    ("08_sample_complexity", 6): (
        costs,
        [
            ("at a given n: an", lambda names: names.update(costs(power=-0.5))),
            ("at a given n: an", lambda names: names.update(costs(power=-4))),
            ("rho and n explain more than twice", lambda names: names.update(costs(by_size=0.0))),
            ("rho and n explain more than n, sat", lambda names: names.update(costs(power=0.0, beyond=-0.5))),
            ("beside rho and n", lambda names: names.update(costs(beyond=-0.3))),
        ],
    ),
    ("08_sample_complexity", 7): (
        ladder,
        [
            ("from (50, 4) to (100, 4)", slower((50, 4), "one_shot", 3.0)),
            ("the lead of extracted grows", slower((100, 5), "one_shot", 0.3)),
            ("the lead of extracted grows", slower((100, 6), "one_shot", 0.6)),
            ("extracted: from (50, 4) to (100, 6)", slower((100, 6), "extracted", 2.0)),
        ],
    ),
    ("08_sample_complexity", 8): (
        losses,
        [
            ("losses: cross's exponent is above", other_losses(more={"cross": -0.6})),
            ("losses: cross saves samples", other_losses(times={"cross": 2.0})),
            ("losses: at n = 60", other_losses(times={"cross": 0.5})),
            ("losses: with an untrained teacher cross's", other_losses(more={"cross_untrained": -1.0})),
            ("losses: at n = 20 cross needs", other_losses(times={"cross": 2.5})),
        ],
    ),
    ("08_sample_complexity", 9): (
        losses,
        [
            ("losses: the exponents of sync", other_losses(more={"extracted": 0.2})),
            ("losses: recon's exponent", other_losses(more={"recon": -1.0})),
            ("losses: sync's is below", other_losses(more={"sync": 0.3})),
            ("losses: sync saves 3 times", other_losses(more={"sync": 0.4})),
            ("losses: with an untrained teacher sync", all_arrive),
        ],
    ),
}  # fmt: skip


def cases() -> list[Any]:
    """One test for each claim and way to spoil it."""
    return [
        pytest.param(notebook, cell, claim, spoil, id=f"{notebook[:3].rstrip('_')}: {claim}")
        for (notebook, cell), (_, spoiled) in CASES.items()
        for claim, spoil in spoiled
    ]


def told(notebook: str, cell: int, spoil: Spoil | None = None) -> dict[str, bool]:
    """The claims of a cell on good results, or on these once they are spoiled."""
    names = CASES[notebook, cell][0]()
    if "pair" in names:
        set_prefix(names)
    if spoil is not None:
        spoil(names)
    if "peaks" in names:
        names["firsts"] = {one: parity_results.standing_out(names["peaks"], one) for one in parity_results.MEASURES}
    return claims_of(cells_with_claims(notebook)[cell], names)


@pytest.mark.parametrize("notebook", sorted({notebook for notebook, _ in CASES}))
def test_every_claim_is_spoiled_once(notebook: str) -> None:
    cells = cells_with_claims(notebook)
    assert sorted(cell for name, cell in CASES if name == notebook) == list(range(len(cells)))
    for cell in range(len(cells)):
        claims, spoiled = told(notebook, cell), [claim for claim, _ in CASES[notebook, cell][1]]
        assert [claim for claim in claims if not any(map(claim.startswith, spoiled))] == []


@pytest.mark.parametrize(("notebook", "cell"), CASES)
def test_all_claims_hold_on_results_as_the_text_has_them(notebook: str, cell: int) -> None:
    assert [claim for claim, holds in told(notebook, cell).items() if not holds] == []


@pytest.mark.parametrize(("notebook", "cell", "claim", "spoil"), cases())
def test_a_claim_fails_on_results_that_contradict_it(notebook: str, cell: int, claim: str, spoil: Spoil) -> None:
    verdicts = [holds for name, holds in told(notebook, cell, spoil).items() if name.startswith(claim)]
    assert verdicts == [False]
