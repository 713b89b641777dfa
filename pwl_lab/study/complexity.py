"""What notebook 08 trains: students of parity over sizes and widths, and the two-phase scheme of the proofs."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise, product
from typing import Literal

import numpy as np
import pandas as pd
import scipy  # its parts load when they are first used: `stats` takes half a second

from pwl_lab.models import mlp
from pwl_lab.study.exponents import or_never
from pwl_lab.study.intervals import mean_interval
from pwl_lab.study.parity_sweep import Draws, Setting, TeacherPlan, Teachers, growing, train_students, train_teachers
from pwl_lab.study.settings import ComplexitySettings
from pwl_lab.study.store import Artifact, Recipe, Store, shipped
from pwl_lab.study.two_phase import StepTarget, expected_ratio, two_phase
from pwl_lab.study.verbs import VERSIONS, train_or_load
from pwl_lab.support.config import device
from pwl_lab.tasks.parity import SparseParity
from pwl_lab.training import TrainedModel, TrainPlan

TEACHER_EVAL_EVERY = 25  # steps between evaluations of a teacher, which stops at the first one without an error
OWN_DRAWS = range(1_000, 2**62)  # the reader's own draws, by seed: none of the shipped tables has them
TRAINED_HERE: tuple[Literal["one_shot", "extracted"], ...] = ("one_shot", "extracted")
WIDTH_K = 4  # bits that matter in the task on which widths are compared
COLUMNS = ["k", "n", "width", "curriculum", "seed", "lr", "stage_steps", "steps", "samples", "reached"]


def complexity_teachers(
    settings: ComplexitySettings, n_bits: int, k_sparse: int, seeds: Sequence[int]
) -> tuple[SparseParity, list[TrainedModel]]:
    """A task of this size and, for each seed, a teacher that has just learned it."""
    task = SparseParity(n_bits, k_sparse, eval_samples=settings.eval_samples)
    plan = TrainPlan(
        steps=settings.teacher_max_steps,
        batch_size=settings.teacher_batch_size,
        lr=settings.teacher_lr,
        momentum=settings.teacher_momentum,
        eval_every=TEACHER_EVAL_EVERY,
        stop_at=1.0,
    )
    model = mlp(task, width=settings.teacher_width)
    return task, [train_or_load(model, task, plan, seed, settings.device) for seed in seeds]


def over_sizes(settings: ComplexitySettings) -> pd.DataFrame:
    """Samples to the threshold over task sizes: students of draws that no shipped table holds (`trained_here`)."""
    seeds = settings.seeds[: settings.size_seeds]
    width = (settings.student_width,)
    tables = [trained_here(settings, n, settings.k_sparse, width, seeds) for n in settings.sizes]
    return pd.concat(tables, ignore_index=True)


def over_widths(settings: ComplexitySettings) -> pd.DataFrame:
    """Samples to the threshold over student widths, on one task size (`trained_here`)."""
    return trained_here(settings, settings.width_n_bits, WIDTH_K, settings.widths, settings.seeds)


def trained_here(
    settings: ComplexitySettings, n_bits: int, k_sparse: int, widths: Sequence[int], seeds: Sequence[int]
) -> pd.DataFrame:
    """One row per draw, width and curriculum, with the columns of `parity_sweep.train_students` and `width`.

    Each student has the settings that were best at the nearest size of the shipped table, unless `settings` has its own.
    The student of a teacher that did not learn within its budget counts as one that never arrives, with a warning.
    The store keeps the table: all draws of a size come from one stream of samples, so they are trained together.

    Arguments:
    - `settings`: of notebook 08.
    - `n_bits`, `k_sparse`: the task's size.
    - `widths`: hidden units of the students.
    - `seeds`: one draw each.
    """
    best, own = shipped("complexity_best"), [OWN_DRAWS[seed] for seed in seeds]
    plan = TeacherPlan(
        width=settings.teacher_width, lr=settings.teacher_lr, momentum=settings.teacher_momentum,
        batch_size=settings.teacher_batch_size, budget=settings.teacher_max_steps, checkpoints=()
    )  # fmt: skip
    tuned: dict[str, Setting] = {
        name: _setting(settings, best[best["curriculum"] == name], n_bits, k_sparse) for name in TRAINED_HERE
    }
    configuration = {
        "n_bits": n_bits,
        "k_sparse": k_sparse,
        "seeds": own,
        "teacher": vars(plan),
        "widths": list(widths),
        "settings": {name: vars(one) for name, one in tuned.items()},
        "students": {
            "batch_size": settings.batch_size,
            "budget": settings.budget_steps,
            "threshold": settings.threshold,
        },
    }

    def make() -> Artifact:
        draws = Draws.of([(n_bits, k_sparse)], own, device(settings.device))
        teachers = train_teachers(draws, plan)
        return Artifact(
            tables={"students": _students(settings, teachers, tuned, widths)}, info={"missing": len(teachers.missing)}
        )

    kept = Store().get(Recipe("sweep", VERSIONS["sweep"], configuration), make)
    if kept.info["missing"]:
        warnings.warn(f"({n_bits}, {k_sparse}): {kept.info['missing']} teachers did not learn", stacklevel=3)
    return kept.tables["students"]


def _students(
    settings: ComplexitySettings, teachers: Teachers, tuned: Mapping[str, Setting], widths: Sequence[int]
) -> pd.DataFrame:
    """The rows of `trained_here`: students of each width and curriculum, and those whose teacher did not learn."""
    found = []
    for width, curriculum in product(widths, TRAINED_HERE):
        if teachers.draws.rows:
            table = train_students(
                teachers.draws, teachers.nets, curriculum, [[tuned[curriculum]]], width, settings.batch_size,
                settings.budget_steps, growing(), settings.threshold,
            )  # fmt: skip
            found.append(table.assign(width=width))
        steps = settings.budget_steps
        lost = {"width": width, "curriculum": curriculum, "steps": steps, "samples": steps * settings.batch_size}
        lost |= vars(tuned[curriculum]) | {"reached": False}
        found.extend(pd.DataFrame([row | lost]) for row in teachers.missing)
    return pd.concat(found, ignore_index=True)[COLUMNS]


def _setting(settings: ComplexitySettings, best: pd.DataFrame, n_bits: int, k_sparse: int) -> Setting:
    """The best setting of the nearest size: the nearest k, and of its n the nearest in the ratio."""
    near = best.assign(k_away=(best["k"] - k_sparse).abs(), n_away=(np.log(best["n"]) - np.log(n_bits)).abs())
    row = near.sort_values(["k_away", "n_away"]).iloc[0]
    tuned = Setting.of(row)
    if settings.student_lr is not None:
        tuned = replace(tuned, lr=settings.student_lr, momentum=0.0)
    return tuned if settings.stage_steps is None else replace(tuned, stage_steps=settings.stage_steps)


def two_phase_table(settings: ComplexitySettings) -> pd.DataFrame:
    """The two-phase scheme of the proofs, with both targets: one row per target, number of samples and seed.

    Columns target (`labels` or `hidden`), samples, seed (of teacher and step), accuracy and support ratio
    (`TwoPhaseResult`), and expected ratio: what theory expects of labels (`expected_ratio`; missing for the hidden layer, of
    which it says nothing). The store keeps the table.

    Arguments:
    - `settings`: of notebook 08; those that begin with `two_phase_` are for this table.
    """
    n_bits, k = settings.two_phase_bits, settings.two_phase_k
    seeds, width = settings.seeds[: settings.two_phase_seeds], settings.two_phase_width
    task, teachers = complexity_teachers(settings, n_bits, k, seeds)
    amounts: dict[StepTarget, Sequence[int]] = {
        "labels": settings.two_phase_label_samples,
        "hidden": settings.two_phase_hidden_samples,
    }
    configuration = {
        "teachers": [teacher.fingerprint for teacher in teachers],
        "task": task.fingerprint(),
        "width": width,
        "samples": amounts,
        "seeds": seeds,
    }

    def make() -> Artifact:
        rows = []
        for (target, samples), (seed, teacher) in product(amounts.items(), zip(seeds, teachers, strict=True)):
            for found in two_phase(task, teacher.model.cpu(), width, samples, seed, target):
                expected = expected_ratio(n_bits, k, found.samples) if target == "labels" else float("nan")
                row = {"target": target, "samples": found.samples, "seed": seed, "accuracy": found.accuracy}
                rows.append(row | {"support ratio": found.support_ratio, "expected ratio": expected})
        return Artifact(tables={"phases": pd.DataFrame(rows)})

    return Store().get(Recipe("two_phase", VERSIONS["two_phase"], configuration), make).tables["phases"]


def two_phase_means(phases: pd.DataFrame) -> pd.DataFrame:
    """One row per target and number of samples: ratio, its interval, the expected ratio, the accuracy and its interval.

    Both are means over seeds with 95% intervals by Student's t (columns `ratio low`, `ratio`, `ratio high` and so on).

    Arguments:
    - `phases`: the table of `two_phase_table`.
    """
    rows = []
    for (target, samples), mine in phases.groupby(["target", "samples"], sort=False):
        row = {"target": target, "samples": samples, "expected ratio": mine["expected ratio"].iloc[0]}
        for name, column in (("ratio", "support ratio"), ("accuracy", "accuracy")):
            low, middle, high = mean_interval(mine[column].tolist())
            row |= {f"{name} low": low, name: middle, f"{name} high": high}
        rows.append(row)
    return pd.DataFrame(rows).set_index(["target", "samples"])


def compare_widths(points: pd.DataFrame) -> pd.DataFrame:
    """Does a wider student need other numbers of steps? One row per curriculum and pair of widths, with a p-value.

    The pairs are the neighbours, and the narrowest with the widest. The test is Mann and Whitney's, two-sided: it compares
    ranks, so students that never got there do no harm. The p-values are not corrected for their number.

    Arguments:
    - `points`: of several widths (`over_widths`).
    """
    widths = sorted(points["width"].unique())
    pairs = dict.fromkeys([*pairwise(widths), (widths[0], widths[-1])] if widths else [])
    rows = []
    for name, mine in points.assign(samples=or_never(points)).groupby("curriculum", sort=False):
        samples = {width: one["samples"] for width, one in mine.groupby("width")}
        for narrow, wide in pairs:
            row = {"curriculum": name, "narrow": narrow, "wide": wide}
            row |= {"median, narrow": samples[narrow].median(), "median, wide": samples[wide].median()}
            rows.append(row | {"p-value": float(scipy.stats.mannwhitneyu(samples[narrow], samples[wide]).pvalue)})
    columns = ["curriculum", "narrow", "wide", "median, narrow", "median, wide", "p-value"]
    return pd.DataFrame(rows, columns=columns).set_index(columns[:3])
