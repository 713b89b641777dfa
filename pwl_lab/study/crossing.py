"""Curricula crossed with progressive loading: which curriculum makes the student that accepts teacher blocks best?

Every student has the same teacher, initial weights, batches and number of steps. They differ in what they learn for
themselves (the curriculum) and in when PWL's losses begin to train them (the loading). Neither paper asks this.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from pwl_lab.distill.curriculum import Curriculum, extracted, one_shot, progressive
from pwl_lab.models import mlp
from pwl_lab.study import tables
from pwl_lab.study.cases import run_cases
from pwl_lab.study.intervals import in_points, mean_interval
from pwl_lab.study.recipes import image_models, image_task, image_teacher, pair_losses
from pwl_lab.study.results import Pair
from pwl_lab.study.settings import CrossingSettings
from pwl_lab.study.verbs import train_or_load, train_pair, train_pairs
from pwl_lab.swap.orders import loading_orders
from pwl_lab.swap.pair_training import PairLossConfig
from pwl_lab.tasks.parity import SparseParity
from pwl_lab.training import TrainPlan, image_plan

# The share of the budget after which PWL trains the student; until then it trains only the converters.
# The names are values of the notebook's parameter `loadings`; readers see the words below.
LOADINGS = {"alone": 1.0, "followed": 0.5, "combined": 0.0}
LOADING_WORDS = {
    "alone": "without PWL",
    "followed": "then PWL",
    "combined": "with PWL",
}  # the words in figures and menus
# The student that all others are compared with: PWL from the first step on, the paper's hard and soft losses, no curriculum.
PWL_ONLY = ("none", "combined")
# The measures of a pair (columns of `crossing_table`), with their words in figures and tables.
MEASURES = {
    "student_accuracy": "student alone",
    "prefix_area": "prefix order, area",
    "mixed_accuracy": "mean of all mixes",
}

# Sizes of the smallest pair that are not parameters of the notebook.
PARITY_TEACHER_PLAN = TrainPlan(steps=4_000, lr=0.1, momentum=0.9, eval_every=50, stop_at=1.0)
PARITY_TEACHER_WIDTH, PARITY_STUDENT_WIDTH = 256, 32
PARITY_STAGE_STEPS = 50  # of each of the extracted curriculum's early stages


@dataclass(frozen=True)
class Crossed:
    """One student: its curriculum, when PWL joined, and the resulting pair."""

    curriculum: str
    loading: str
    pair: Pair


def image_curricula(settings: CrossingSettings, n_blocks: int) -> dict[str, Curriculum]:
    """The three curricula for images. Their early stages take the same total number of steps (`early_share` of the budget)."""
    early = round(settings.early_share * settings.budget_steps)
    return {
        "one_shot": one_shot(),
        "progressive": progressive([settings.checkpoint_accuracy], early),
        "extracted": extracted(early // n_blocks),
    }


CURRICULA = ("one_shot", "progressive", "extracted")
PARITY_COMBINED = [(name, loading) for name in ("one_shot", "extracted") for loading in ("alone", "combined")]


def combinations(loadings: Sequence[str], curricula: Sequence[str] = CURRICULA) -> list[tuple[str, str]]:
    """(curriculum, loading) of every student of a seed: plain PWL, then each of `curricula` with each of `loadings`."""
    chosen = [loading for loading in LOADINGS if loading in loadings]
    return [PWL_ONLY, *((name, loading) for name in CURRICULA if name in curricula for loading in chosen)]


def crossed_pair(settings: CrossingSettings, seed: int, curriculum: str, loading: str) -> Pair:
    """One student of one seed; from the store if it was trained before."""
    return _crossed(settings, seed, [(curriculum, loading)])[0].pair


def crossed_of_seed(settings: CrossingSettings, seed: int) -> list[Crossed]:
    """All students of one seed. Those that are not in the store are trained side by side, on one pass of the teacher."""
    return _crossed(settings, seed, combinations(settings.loadings, settings.curricula))


def _crossed(settings: CrossingSettings, seed: int, combined: Sequence[tuple[str, str]]) -> list[Crossed]:
    """The students of one seed with these curricula and loadings."""
    task, teacher = image_task(settings), image_teacher(settings, seed)
    student = image_models(settings, task)[1]
    how = settings.batch_size, settings.optimiser, settings.eval_every, settings.products
    plan = image_plan(settings.budget_steps, settings.pair_lr, *how)
    curricula, losses = image_curricula(settings, student.n_blocks), pair_losses(settings)
    arms = [
        (losses.model_copy(update={"student_joins_at": LOADINGS[loading]}), curricula.get(name))
        for name, loading in combined
    ]
    pairs = train_pairs(teacher, student, task, plan, arms, seed, settings.device)
    return [Crossed(*who, pair) for who, pair in zip(combined, pairs, strict=True)]


def crossed_pairs(settings: CrossingSettings) -> list[Crossed]:
    """All combinations and seeds. What is not in the store is trained first, several seeds in parallel, teachers first."""
    cases = [{"settings": settings, "seed": seed} for seed in settings.seeds]
    run_cases(image_teacher, cases, "teachers", settings.device, settings.shipped_seeds)
    by_seed = run_cases(crossed_of_seed, cases, "students", settings.device, settings.shipped_seeds)
    return [one for combined in zip(*by_seed, strict=True) for one in combined]


def _every_seed(
    recipe: Callable[..., Pair], settings: CrossingSettings, combined: Sequence[tuple[str, str]], description: str
) -> list[Crossed]:
    """The result of `recipe` for each (curriculum, loading) and seed."""
    whole = [(name, loading, seed) for name, loading in combined for seed in settings.seeds]
    cases = [
        {"settings": settings, "seed": seed, "curriculum": name, "loading": loading} for name, loading, seed in whole
    ]
    pairs = run_cases(recipe, cases, description, settings.device, settings.shipped_seeds)
    return [Crossed(name, loading, pair) for (name, loading, _), pair in zip(whole, pairs, strict=True)]


def steps_to_share(history: pd.DataFrame, share: float = 0.98) -> int:
    """The first step at which a student's validation accuracy was at least `share` of its last one."""
    step = tables.first_step(history, share * history["accuracy"].iloc[-1])
    assert step is not None, "the last step at the latest"
    return step


def crossing_table(found: Sequence[Crossed]) -> pd.DataFrame:
    """One row per student: curriculum, loading, seed, student_accuracy, steps_to_98pct, prefix_accuracy (a list,
    k = 0..n), prefix_area (under accuracy against bytes) and mixed_accuracy (the mean over all mixed masks).

    Accuracies are on the test split, in [0, 1].
    """  # fmt: skip
    rows = []
    for one in found:
        masks, n_blocks = one.pair.masks, one.pair.n_blocks
        prefix = loading_orders(n_blocks)["prefix"]
        mixed = masks.loc[~masks["mask"].isin(["S" * n_blocks, "T" * n_blocks]), "test"]
        rows.append(
            {
                "curriculum": one.curriculum,
                "loading": one.loading,
                "seed": one.pair.seed,
                "student_accuracy": one.pair.accuracy("S" * n_blocks),
                "steps_to_98pct": steps_to_share(one.pair.history),
                "prefix_accuracy": one.pair.prefix_accuracy(),
                "prefix_area": tables.order_area(masks, prefix)[one.pair.seed],
                "mixed_accuracy": float(mixed.mean()),
            }
        )
    return pd.DataFrame(rows)


def against_pwl(table: pd.DataFrame, measure: str) -> pd.DataFrame:
    """Each student against plain PWL on the same seed: curriculum, loading, seed, difference of `measure`."""
    alone = table[(table["curriculum"] == PWL_ONLY[0])].set_index("seed")[measure]
    others = table[table["curriculum"] != PWL_ONLY[0]]
    difference = others[measure].to_numpy() - alone.loc[others["seed"]].to_numpy()
    return others[["curriculum", "loading", "seed"]].assign(difference=difference)


def against_pwl_intervals(table: pd.DataFrame) -> pd.DataFrame:
    """Every curriculum and loading against plain PWL: mean difference over seeds with its 95% interval, in points.

    Columns curriculum, loading, measure, low, mean, high.
    """
    rows = []
    for measure in MEASURES:
        differences = against_pwl(table, measure).groupby(["curriculum", "loading"], sort=False)["difference"]
        for (curriculum, loading), mine in differences:
            low, mean, high = (100 * value for value in mean_interval(mine))
            row = {"curriculum": curriculum, "loading": loading, "measure": measure}
            rows.append(row | {"low": low, "mean": mean, "high": high})
    return pd.DataFrame(rows)


def against_pwl_table(table: pd.DataFrame) -> pd.DataFrame:
    """The same in words such as `+0.47 (-0.12 to +1.05)`: a row per curriculum and loading, a column per measure."""
    columns = {}
    for measure, title in MEASURES.items():
        differences = against_pwl(table, measure).replace({"loading": LOADING_WORDS})
        students = differences.groupby(["curriculum", "loading"], sort=False)["difference"]
        columns[title] = students.agg(lambda mine: in_points(mine.tolist()))
    return pd.DataFrame(columns).rename(index={"one_shot": "one-shot"}).rename_axis(["curriculum", "PWL"])


def paired(table: pd.DataFrame) -> dict[tuple[str, str], pd.Series]:
    """What PWL does to each curriculum, and how extracted compares with one-shot: differences seed by seed.

    By what is compared, in words, and the measure. Comparisons of students that are not in the table are left out.
    """
    by_seed = table.pivot(index="seed", columns=["curriculum", "loading"], values=list(MEASURES))
    asked = {
        f"{name.replace('_', '-')}: with PWL minus without": ((name, "combined"), (name, "alone")) for name in CURRICULA
    }
    asked["with PWL: extracted minus one-shot"] = ("extracted", "combined"), ("one_shot", "combined")
    asked = {words: both for words, both in asked.items() if set(both) <= set(by_seed.columns.droplevel(0))}
    return {
        (words, measure): by_seed[measure, *ours] - by_seed[measure, *theirs]
        for words, (ours, theirs) in asked.items()
        for measure in MEASURES
    }


def paired_table(differences: Mapping[tuple[str, str], pd.Series]) -> pd.DataFrame:
    """The same in words: a row per comparison, a column per measure.

    `differences` as from `paired`.
    """
    said = {
        title: {words: in_points(mine.tolist()) for (words, of), mine in differences.items() if of == measure}
        for measure, title in MEASURES.items()
    }
    return pd.DataFrame(said)


def parity_pair(settings: CrossingSettings, seed: int, curriculum: str, loading: str, **weights: float) -> Pair:
    """The smallest pair: MLPs of two blocks on sparse parity.

    Arguments:
    - `settings`: of notebook 05; `parity_n_bits`, `parity_k_sparse` and `parity_steps` are for this pair.
    - `seed`: of teacher, student and converters.
    - `curriculum`: `one_shot` or `extracted`.
    - `loading`: a name in `LOADINGS`.
    - `weights`: of PWL's terms where they are not the paper's, such as `sync=0.0`.
    """
    task = SparseParity(settings.parity_n_bits, settings.parity_k_sparse, eval_samples=1024)
    teacher_model, student = (mlp(task, width, depth=2) for width in (PARITY_TEACHER_WIDTH, PARITY_STUDENT_WIDTH))
    teacher = train_or_load(teacher_model, task, PARITY_TEACHER_PLAN, seed, settings.device)
    plan = TrainPlan(steps=settings.parity_steps, lr=0.02, momentum=0.9, clip_norm=2.0, eval_every=20)
    chosen = {"one_shot": one_shot(0.0), "extracted": extracted(PARITY_STAGE_STEPS, temperature=0.0)}[curriculum]
    # Two blocks have two mixed masks, so two draws a step are enough: a step of such small networks is mostly overhead.
    joins = LOADINGS[loading]
    losses = PairLossConfig(masks="all", cross_passes=1, cross_groups=2, student_joins_at=joins, **weights)
    return train_pair(teacher, student, task, plan, losses, seed, settings.device, chosen)


def parity_crossings(settings: CrossingSettings) -> list[Crossed]:
    """One-shot and extracted on the smallest pair, without and with PWL, all seeds."""
    return _every_seed(parity_pair, settings, PARITY_COMBINED, "smallest pairs")


def parity_table(found: Sequence[Crossed], threshold: float = 0.99) -> pd.DataFrame:
    """One row per student: curriculum, loading, seed, steps to `threshold` (missing: never), accuracy of each mask."""
    rows = []
    for one in found:
        row = {"curriculum": one.curriculum, "loading": one.loading, "seed": one.pair.seed}
        row["steps"] = tables.first_step(one.pair.history, threshold)
        rows.append(row | one.pair.masks.set_index("mask")["test"].to_dict())
    return pd.DataFrame(rows).astype({"steps": "Int64"})
