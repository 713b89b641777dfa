"""Sample complexity: steps to a threshold over task sizes and student widths, as tidy points with fitted slopes."""

import warnings
from collections.abc import Iterable, Sequence

import pandas as pd

from pwl_lab.distill.curriculum import extracted, one_shot
from pwl_lab.models import mlp
from pwl_lab.study import tables
from pwl_lab.study.intervals import Interval, slope_interval
from pwl_lab.study.settings import ComplexitySettings
from pwl_lab.study.two_phase import two_phase
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
    slopes = {}
    for name, mine in points.groupby("curriculum", sort=False):
        whole = mine.groupby("n").filter(lambda size: size["reached"].mean() > 0.5)
        if whole["n"].nunique() < 2:
            warnings.warn(
                f"{name}: most students ran out of budget; its slope is a bound. Raise budget_steps.", stacklevel=2
            )
            whole = mine
        slopes[name] = slope_interval({float(n): size["steps"].tolist() for n, size in whole.groupby("n")})
    return slopes


def two_phase_table(settings: ComplexitySettings, samples: Sequence[int]) -> pd.DataFrame:
    """The two-phase scheme of the proofs, with both targets: one row per target, number of samples and seed.

    Columns target (`labels` or `hidden`), samples, seed, accuracy and support ratio, see `TwoPhaseResult`.

    Arguments:
    - `settings`: of notebook 08; those that begin with `two_phase_` are for this table.
    - `samples`: the numbers of samples for the one large step, each tried with every seed.
    """
    task, teacher = complexity_teacher(settings, settings.two_phase_bits, settings.two_phase_k)
    net = teacher.model.cpu()
    rows = []
    for target in ("labels", "hidden"):
        for amount in samples:
            for seed in settings.seeds:
                found = two_phase(task, net, settings.two_phase_width, amount, seed, target)
                row = {"target": target, "samples": amount, "seed": seed}
                rows.append(row | {"accuracy": found.accuracy, "support ratio": found.support_ratio})
    return pd.DataFrame(rows)
