"""Sample complexity: steps to a threshold over task sizes and student widths, as tidy points with fitted slopes."""

import warnings
from collections.abc import Iterable, Sequence
from itertools import pairwise

import pandas as pd

from pwl_lab.distill.curriculum import extracted, one_shot
from pwl_lab.models import mlp
from pwl_lab.study import tables
from pwl_lab.study.intervals import Interval, mean_interval, slope_difference, slope_interval
from pwl_lab.study.settings import ComplexitySettings
from pwl_lab.study.two_phase import StepTarget, expected_ratio, two_phase
from pwl_lab.study.verbs import distill, train_or_load
from pwl_lab.tasks.parity import SparseParity
from pwl_lab.training import TrainedModel, TrainPlan

TEACHER_EVAL_EVERY = 25  # steps between evaluations of a teacher, which stops at the first one without an error


def complexity_teacher(settings: ComplexitySettings, n_bits: int, k_sparse: int) -> tuple[SparseParity, TrainedModel]:
    """A task of this size and a teacher that has just learned it."""
    task = SparseParity(n_bits, k_sparse, eval_samples=settings.eval_samples)
    plan = TrainPlan(
        steps=settings.teacher_max_steps,
        batch_size=settings.batch_size,
        lr=settings.teacher_lr,
        momentum=settings.teacher_momentum,
        eval_every=TEACHER_EVAL_EVERY,
        stop_at=1.0,
    )
    return task, train_or_load(mlp(task, width=settings.teacher_width), task, plan, device=settings.device)


def threshold_points(
    settings: ComplexitySettings, n_bits: int, k_sparse: int, width: int | None = None
) -> pd.DataFrame:
    """One row per curriculum and seed: k, n, width, curriculum, seed, steps (the budget if not reached), reached."""
    task, teacher = complexity_teacher(settings, n_bits, k_sparse)
    width = width or settings.student_width
    plan = TrainPlan(
        steps=settings.budget_steps,
        batch_size=settings.batch_size,
        lr=settings.student_lr,
        eval_every=settings.eval_every,
        stop_at=1.0,  # on the validation set: well above the threshold, which is applied to the test set
    )
    curricula = {"one_shot": one_shot(0.0), "extracted": extracted(settings.stage_steps, temperature=0.0)}
    runs = distill(teacher, mlp(task, width), task, curricula, settings.seeds, plan, device=settings.device)
    rows = []
    for name, steps in tables.steps_by_seed(runs.history, settings.threshold).items():
        for seed, step in steps.items():
            where = {"k": k_sparse, "n": n_bits, "width": width, "curriculum": name, "seed": seed}
            rows.append(where | {"steps": plan.steps if step is None else step, "reached": step is not None})
    return pd.DataFrame(rows)


def over_sizes(settings: ComplexitySettings, sizes: Iterable[int], k_sparse: int) -> pd.DataFrame:
    """The points (`threshold_points`) of several task sizes, each with its own teacher.

    Arguments:
    - `settings`: of notebook 08.
    - `sizes`: the numbers of bits n.
    - `k_sparse`: how many of them the label depends on.
    """
    return pd.concat([threshold_points(settings, n, k_sparse) for n in sizes], ignore_index=True)


def over_widths(settings: ComplexitySettings, widths: Iterable[int], n_bits: int, k_sparse: int) -> pd.DataFrame:
    """The points (`threshold_points`) of several student widths, one teacher for all.

    Arguments:
    - `settings`: of notebook 08.
    - `widths`: hidden units of the students.
    - `n_bits`: bits of the task.
    - `k_sparse`: how many of them the label depends on.
    """
    return pd.concat([threshold_points(settings, n_bits, k_sparse, width) for width in widths], ignore_index=True)


def fitted_slopes(points: pd.DataFrame) -> dict[str, Interval]:
    """Per curriculum, the slope of log(steps) over log(n) with its 95% bootstrap interval (low, middle, high).

    The slope is fitted to medians, so a few students that ran out of budget (and count at the budget) do not affect it.
    Sizes at which half of the students did are left out; if fewer than two sizes remain, all are used, with a warning.
    """
    return {name: slope_interval(sizes) for name, sizes in _fitted_points(points).items()}


def slope_differences(points: pd.DataFrame, k: int, other_k: int) -> dict[str, Interval]:
    """Per curriculum, its slope at `k` minus its slope at `other_k`, with the 95% bootstrap interval of the difference.

    Arguments:
    - `points`: of several sizes for both k (`threshold_points`).
    - `k`, `other_k`: two numbers of bits that the label depends on.
    """
    one, other = (_fitted_points(points[points["k"] == value]) for value in (k, other_k))
    return {name: slope_difference(one[name], other[name]) for name in one}


def _fitted_points(points: pd.DataFrame) -> dict[str, dict[float, list[float]]]:
    """Per curriculum and size, the steps of all seeds, without the sizes at which half of them ran out of budget."""
    found = {}
    for name, mine in points.groupby("curriculum", sort=False):
        whole = mine.groupby("n").filter(lambda size: size["reached"].mean() > 0.5)
        if whole["n"].nunique() < 2:
            warnings.warn(
                f"{name}: most students ran out of budget; its slope is a bound. Raise budget_steps.", stacklevel=3
            )
            whole = mine
        found[str(name)] = {float(n): size["steps"].tolist() for n, size in whole.groupby("n")}
    return found


def two_phase_table(settings: ComplexitySettings) -> pd.DataFrame:
    """The two-phase scheme of the proofs, with both targets: one row per target, number of samples and seed.

    Columns target (`labels` or `hidden`), samples, seed, accuracy and support ratio (`TwoPhaseResult`), and expected
    ratio: what theory expects of labels (`expected_ratio`; missing for the hidden layer, of which it says nothing).

    Arguments:
    - `settings`: of notebook 08; those that begin with `two_phase_` are for this table.
    """
    n_bits, k = settings.two_phase_bits, settings.two_phase_k
    task, teacher = complexity_teacher(settings, n_bits, k)
    net = teacher.model.cpu()
    amounts: dict[StepTarget, Sequence[int]] = {
        "labels": settings.two_phase_label_samples,
        "hidden": settings.two_phase_hidden_samples,
    }
    rows = []
    for target, samples in amounts.items():
        for seed in settings.seeds[: settings.two_phase_seeds]:
            for found in two_phase(task, net, settings.two_phase_width, samples, seed, target):
                expected = expected_ratio(n_bits, k, found.samples) if target == "labels" else float("nan")
                row = {"target": target, "samples": found.samples, "seed": seed, "accuracy": found.accuracy}
                rows.append(row | {"support ratio": found.support_ratio, "expected ratio": expected})
    return pd.DataFrame(rows)


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
    ranks, so students that ran out of budget do no harm. The p-values are not corrected for their number.

    Arguments:
    - `points`: of several widths (`over_widths`).
    """
    from scipy.stats import mannwhitneyu  # only here: it takes half a second to load

    widths = sorted(points["width"].unique())
    pairs = dict.fromkeys([*pairwise(widths), (widths[0], widths[-1])])
    rows = []
    for name, mine in points.groupby("curriculum", sort=False):
        steps = {width: one["steps"] for width, one in mine.groupby("width")}
        for narrow, wide in pairs:
            row = {"curriculum": name, "narrow": narrow, "wide": wide}
            row |= {"median, narrow": steps[narrow].median(), "median, wide": steps[wide].median()}
            rows.append(row | {"p-value": float(mannwhitneyu(steps[narrow], steps[wide]).pvalue)})
    return pd.DataFrame(rows).set_index(["curriculum", "narrow", "wide"])
