"""Arms: what a student learns before or beside the loss of PWL training, everything else being equal.

Every arm has PWL's terms from its first step to its last, the same final objective (`0.4 hard + 0.6 soft` at temperature
2), the same teacher, initial weights, batches and number of steps. The *last stage* of an arm has the whole cosine
schedule, and the batch norms are frozen at the same fraction of it. An early stage before it runs at the peak learning
rate throughout, with an optimiser of its own.

- `none`: the final objective, nothing else.
- `early`: the extracted curriculum (arXiv 2503.17494), block by block, in the early stage.
- `auxiliary`: the same projections of all blocks as an addition to the final objective, from the first step to the last.
- `checkpoint`: the output of an early checkpoint of the teacher, in the early stage.
- `final`: the output of the final teacher there, a control for `checkpoint` with the same schedule.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
import pandas as pd
from jaxtyping import Float
from torch import Tensor

from pwl_lab.distill.curriculum import Curriculum, Stage, TeacherHidden, TeacherOutput
from pwl_lab.models import ModelConfig, build
from pwl_lab.study.exponents import Exponents, exponents, or_never
from pwl_lab.study.intervals import Interval, in_words, mean_interval
from pwl_lab.study.verbs import make_pair
from pwl_lab.support import paths
from pwl_lab.swap.pair_training import (
    FollowCurriculum,
    HardAndSoft,
    PairLearner,
    PairLossConfig,
    Pass,
    StudentObjective,
)
from pwl_lab.swap.swapnet import SwapNet
from pwl_lab.tasks.base import Task, batches_of, split_of
from pwl_lab.training import Learner, Losses, TrainedModel, TrainPlan, train

ArmName = Literal["none", "early", "auxiliary", "checkpoint", "final"]


@dataclass(frozen=True)
class Arm:
    """One way to train a pair. `share`: fraction of the steps in the early stage; `weight`: of the projections."""

    name: ArmName
    share: float = 0.0
    weight: float = 5.0
    at_accuracy: float = 0.8

    def early_steps(self, steps: int) -> int:
        """The length of the early stage, of `steps` in all."""
        return round(self.share * steps)

    def early_curriculum(self, steps: int, n_blocks: int) -> Curriculum:
        """What the early stage of that many steps follows."""
        if self.name == "early":
            each = max(1, steps // n_blocks)
            hidden = [TeacherHidden(block=block, weight=self.weight) for block in range(1, n_blocks + 1)]
            return Curriculum(stages=tuple(Stage(target=target, steps=each) for target in hidden))
        output = TeacherOutput(at_accuracy=self.at_accuracy if self.name == "checkpoint" else None)
        return Curriculum(stages=(Stage(target=output, steps=steps),))


@dataclass(frozen=True)
class Auxiliary:
    """The sum of two objectives of the student: its own, and one beside it."""

    own: StudentObjective
    beside: StudentObjective

    def __call__(self, seen: Pass, step: int) -> tuple[Losses, Float[Tensor, ""]]:
        """The terms of both, and the sum of their values."""
        (terms, total), (more, extra) = self.own(seen, step), self.beside(seen, step)
        return terms | more, total + extra


def train_arm(
    arm: Arm,
    teacher: TrainedModel,
    student: ModelConfig,
    task: Task,
    plan: TrainPlan,
    losses: PairLossConfig,
    seed: int,
    device: str,
    make_learner: Callable[..., Learner] = PairLearner,
) -> tuple[SwapNet, pd.DataFrame]:
    """Train a pair; returns it in eval mode, with the history of both stages.

    Arguments:
    - `arm`: what the student learns before or beside the loss of PWL training.
    - `teacher`, `student`, `task`: as in `train_pair`.
    - `plan`: of all steps; its schedule is that of the last stage.
    - `losses`: the weights of PWL's terms.
    - `seed`: of the initial weights, batches and masks.
    - `device`: where to compute.
    - `make_learner`: a `PairLearner`, or a subclass that evaluates something else.
    """
    initial = build(student, seed, device, stream="student")
    net = make_pair(teacher.model, initial, task, seed, losses.converters).to(device)
    shapes = student.make().state_shapes(task.input_shape)
    follow = partial(FollowCurriculum, teacher=teacher, student_shapes=shapes, task=task, seed=seed, device=device)
    validation = split_of(task, "validation", device)
    batches = batches_of(task, seed, plan.batch_size, device, role="pair")
    early = arm.early_steps(plan.steps)
    history = []
    if early:
        unfrozen = losses.model_copy(update={"freeze_norm_at": 1.0})
        first = plan.model_copy(update={"steps": early, "schedule": "constant"})
        objective = follow(arm.early_curriculum(early, student.n_blocks))
        learner = make_learner(net, unfrozen, validation, seed, early, objective)
        history.append(train(learner, batches, first, f"{arm.name}, early"))
    last = plan.model_copy(update={"steps": plan.steps - early})
    own: StudentObjective = HardAndSoft(losses.alpha, losses.temperature)
    if arm.name == "auxiliary":
        every = Stage(target=TeacherHidden(block="all", weight=arm.weight))
        own = Auxiliary(own, follow(Curriculum(stages=(every,))))
    history.append(train(make_learner(net, losses, validation, seed, last.steps, own), batches, last, arm.name))
    history[-1][["step", "samples"]] += [early, early * plan.batch_size]
    return net.eval(), pd.concat(history, ignore_index=True)


# The arms of the shipped tables, with their words in figures and tables; a name that is not here is its own word.
ARM_WORDS = {
    "none": "plain PWL",
    "early": "extracted first",
    "auxiliary": "extracted throughout",
    "checkpoint": "checkpoint first",
    "final": "final teacher first",
    "one_shot": "one-shot",
    "sync_untrained": "sync, untrained",
    "cross_untrained": "cross, untrained",
}
# Measures of the shipped tables (`scripts/pair_tables.py`), with their words in figures and tables.
ARM_MEASURES = {"SSSS": "student alone", "mixed": "mean of all mixes", "worst": "worst mix"}
# The same of the kinds of students in 04b (`scripts/student_axis.py`).
STUDENT_MEASURES = {"SSSS": "student alone", "prefix": "mean of prefix mixes"} | ARM_MEASURES
PARITY_WORDS = {"steps_student": "student", "steps_all_masks": "all masks"}
MARGIN = 0.3  # points of accuracy: an arm whose interval lies within makes no difference that matters here


def shipped_arms(name: Literal["", "intervals", "changes", "tuning", "parity"] = "") -> pd.DataFrame:
    """A shipped table: the pairs, arms against others and how that changes with the budget, the tuning, or parity."""
    return pd.read_csv(paths.results() / f"pair_curricula{name and f'_{name}'}.csv")


def verdict(low: float, high: float, margin: float = MARGIN) -> str:
    """What an interval of a difference, in points, decides: `within` the margin, `better`, `worse`, or `open`."""
    if -margin < low and high < margin:
        return "within"
    return "better" if low > 0 else "worse" if high < 0 else "open"


def arms_table(intervals: pd.DataFrame) -> pd.DataFrame:
    """A row per family, budget, run and arm of notebook 05, as `verdicts_table` has them.

    A variant is compared with plain PWL, or with the one that stands behind `minus`.
    """
    words = intervals[["arm", "against"]].replace(ARM_WORDS)
    plain = intervals["against"] == "none"
    named = intervals.assign(variant=words["arm"].where(plain, words["arm"] + " minus " + words["against"]))
    table = verdicts_table(named, ARM_MEASURES, ["family", "budget", "run", "variant", "seeds"])
    return table.sort_index(ascending=[False, True, True, False, True])


def verdicts_table(intervals: pd.DataFrame, measures: Mapping[str, str], keys: Sequence[str]) -> pd.DataFrame:
    """A column per measure, a row per value of the `keys`: such as `+0.12 (-0.05 to +0.29) within`."""
    chosen = intervals[intervals["measure"].isin(list(measures))].replace({"measure": dict(measures)})
    said = [
        f"{row.mean:+.2f} ({row.low:+.2f} to {row.high:+.2f}) {verdict(row.low, row.high)}"
        for row in chosen[["low", "mean", "high"]].itertuples(index=False)
    ]
    table = chosen.assign(said=said).pivot(index=list(keys), columns="measure", values="said")
    return table.loc[chosen.set_index(list(keys)).index.drop_duplicates(), list(measures.values())]


def parity_steps(parity: pd.DataFrame, column: str) -> dict[str, pd.Series]:
    """Per arm, the steps of each reported seed in `column`, by seed; the budget where a seed never got there."""
    mine = parity[parity["kind"] == "plateau"].set_index("seed")
    steps = mine[column].fillna(mine["budget"]).astype(float)
    return {arm: steps[mine["arm"] == arm] for arm in dict.fromkeys(mine["arm"])}


def parity_ratios(parity: pd.DataFrame, column: str) -> dict[str, Interval]:
    """Per arm, its steps divided by those of `none`, seed by seed: lower end, geometric mean, upper end.

    The ends are those of the 95% interval of the mean logarithm (NaN with one seed). A seed that never got there counts
    at the budget, so the ratio of a slower arm is a lower limit.
    """
    steps, found = parity_steps(parity, column), {}
    for arm, mine in steps.items():
        low, middle, high = mean_interval(np.log(mine / steps["none"].loc[mine.index]).tolist())
        found[arm] = (float(np.exp(low)), float(np.exp(middle)), float(np.exp(high)))
    return found


def parity_arms_table(parity: pd.DataFrame) -> pd.DataFrame:
    """A row per arm: seeds that arrived, median steps and range, for the student and for all masks; and the ratio."""
    rows: dict[str, dict[str, str]] = {}
    for column, words in PARITY_WORDS.items():
        ratios, mine = parity_ratios(parity, column), parity[parity["kind"] == "plateau"]
        arrived = mine[column].notna().groupby(mine["arm"]).agg(["sum", "size"])
        for arm, steps in parity_steps(parity, column).items():
            row = rows.setdefault(arm, {})
            row[f"{words}: seeds"] = "{} of {}".format(*arrived.loc[arm])
            row[f"{words}: median steps"] = f"{np.median(steps):,.0f} ({min(steps):,.0f} to {max(steps):,.0f})"
            row[f"{words}: times plain PWL"] = "–" if arm == "none" else in_words(ratios[arm])
    return pd.DataFrame(rows).T.rename(index=ARM_WORDS).rename_axis("variant")


def arm_exponents(points: pd.DataFrame) -> Exponents:
    """The exponents of all arms but those that have none: most of their students got there at fewer than two sizes.

    Arguments:
    - `points`: as from `store.shipped("parity_pairs")`.
    """
    most = points.groupby(["curriculum", "n"])["reached"].mean() > 0.5
    return exponents(points[points["curriculum"].map(most.groupby("curriculum").sum() > 1)])


def exponents_table(points: pd.DataFrame, against: str = "one_shot") -> pd.DataFrame:
    """A row per arm: its median samples at each n, its exponent in n, and by how much that is above another arm's.

    Arguments:
    - `points`: as from `store.shipped("parity_pairs")`. A median is infinite where half never got there.
    - `against`: the other arm.
    """
    fits, every = arm_exponents(points), points.assign(samples=or_never(points))
    table = every.groupby(["curriculum", "n"], sort=False)["samples"].median().unstack().sort_index(axis=1)
    table = table.rename(columns="n = {}".format).rename_axis("variant").rename_axis(None, axis=1)
    keys = {arm: (k, arm) for k, arm in fits.slopes}
    table["exponent"] = pd.Series({arm: in_words(fits.of(*key)) for arm, key in keys.items()})
    other = keys[against]
    table[f"minus {ARM_WORDS.get(against, against)}'s"] = pd.Series(
        {arm: in_words(fits.difference(key, other)) for arm, key in keys.items() if key != other}
    )
    return table.rename(index=ARM_WORDS)
