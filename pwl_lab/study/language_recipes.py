"""Recipes of notebook 07: teachers, students and pairs for strings of tokens, from grammars and from text.

Each has a `place`: the main grammar, the other grammar, or the text.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import pandas as pd
from jaxtyping import Int
from torch import Tensor

from pwl_lab.distill.curriculum import Curriculum, Stage, extracted, from_labels, one_shot, progressive
from pwl_lab.models import ModelConfig, language_transformer
from pwl_lab.models.blocknet import BlockNet, without_weights
from pwl_lab.study import tables
from pwl_lab.study.cases import run_cases
from pwl_lab.study.intervals import Interval, in_words, mean_interval, median_interval
from pwl_lab.study.language_settings import TEACHERS, TEXT, TUNING, LanguageCurriculumSettings
from pwl_lab.study.results import DistillationRuns, Pair
from pwl_lab.study.store import from_shipped, load_if_stored
from pwl_lab.study.verbs import distill, train_or_load, train_pair
from pwl_lab.support import paths
from pwl_lab.support.config import content_hash
from pwl_lab.tasks.base import label_loss
from pwl_lab.tasks.grammar import Grammar
from pwl_lab.tasks.sequences import GrammarTask, SequenceTask, TextTask
from pwl_lab.training import TrainedModel, TrainPlan, predict

Place = Literal["grammar", "other", "text"]
Who = Literal["teacher", "student", "pair"]
CONTROLS = ("reversed", "untrained")
AGAINST = "one_shot_soft"  # the curriculum that the others are compared with in tables, seed by seed
ELSEWHERE: dict[Place, tuple[str, ...]] = {  # the curricula in the other two places
    "other": ("one_shot_soft", "extracted"),
    "text": ("scratch", "one_shot_soft", "extracted"),
}
DONE = 0.97  # of the teacher's accuracy: a student that reaches it stops
PWL_DONE = 0.95  # the same for the student of a pair whose steps are counted


def language_task(settings: LanguageCurriculumSettings, place: Place = "grammar") -> SequenceTask:
    """Masked prediction on the strings of a place."""
    if place == "text":
        return TextTask(length=settings.text_length, mask_rate=settings.mask_rate, eval_windows=settings.eval_strings)
    return grammar_task(settings, place)


def grammar_task(settings: LanguageCurriculumSettings, place: Literal["grammar", "other"] = "grammar") -> GrammarTask:
    """Masked prediction on the strings of one of the two grammars."""
    grammar = settings.grammar if place == "grammar" else settings.other_grammar
    return GrammarTask(grammar, mask_rate=settings.mask_rate, eval_strings=settings.eval_strings)


def network(settings: LanguageCurriculumSettings, task: SequenceTask, who: Who) -> ModelConfig:
    """The transformer of the teacher, of the students, or of the student in the pair."""
    width, heads = getattr(settings, f"{who}_width"), getattr(settings, f"{who}_heads")
    return language_transformer(task, width, heads, settings.layers)


def language_teacher(settings: LanguageCurriculumSettings, place: Place = "grammar") -> TrainedModel:
    """The teacher of a place, with a checkpoint at every evaluation; its seed is the first of `settings.seeds`.

    On the text, where only the end is compared, teacher and students are evaluated four times.
    """
    task = language_task(settings, place)
    steps = {"grammar": settings.teacher_steps, "other": settings.other_teacher_steps, "text": settings.text_steps}
    plan = TrainPlan(
        steps=steps[place],
        batch_size=settings.teacher_batch_size,
        optimiser="adam",
        lr=settings.teacher_lr,
        schedule="cosine",
        clip_norm=1.0,
        eval_every=_rarely(settings.text_steps) if place == "text" else settings.teacher_eval_every,
        keep_checkpoints=True,
    )
    return train_or_load(network(settings, task, "teacher"), task, plan, settings.seeds[0], settings.device)


def elsewhere(settings: LanguageCurriculumSettings) -> dict[Place, tuple[str, ...]]:
    """The places besides the main grammar where students are trained, with the names of their curricula."""
    return {place: names for place, names in ELSEWHERE.items() if place != "text" or settings.train_on_text}


def _rarely(steps: int) -> int:
    """Steps between evaluations where only the end counts: on the text."""
    return max(1, steps // 4)


def language_teachers(settings: LanguageCurriculumSettings) -> dict[Place, TrainedModel]:
    """The teachers of the places where students are trained, in parallel."""
    places: list[Place] = [*elsewhere(settings), "grammar"]  # the longest first
    cases = [{"settings": settings, "place": place} for place in places]
    return dict(zip(places, run_cases(language_teacher, cases, "teachers", settings.device), strict=True))


def language_curricula(settings: LanguageCurriculumSettings) -> dict[str, Curriculum]:
    """All curricula of the notebook; `untrained` is `extracted`, from a teacher whose states are untrained."""
    block_steps, backwards = settings.block_steps, range(settings.layers, 0, -1)
    return {
        "scratch": from_labels(),
        "one_shot_soft": one_shot(),
        "one_shot_hard": one_shot(temperature=0.0),
        "progressive": progressive([settings.checkpoint_accuracy], settings.checkpoint_steps),
        "extracted": extracted(block_steps),
        "last_block": extracted(settings.last_block_steps, blocks=[settings.layers]),
        "at_once": extracted(settings.at_once_steps, at_once=True),
        "reversed": extracted(block_steps, blocks=backwards),
        "untrained": extracted(block_steps),
    }


def stage_words(stage: Stage) -> str:
    """A stage in words, for a table: its target, what of an output is shown, and its length if it has one."""
    shown = getattr(stage.target, "temperature", 1.0)
    words = str(stage.target) + (", most probable token" if shown == 0 else "")
    return words if stage.steps is None else f"{words}, {stage.steps} steps"


def learning_rates(settings: LanguageCurriculumSettings) -> dict[str, float]:
    """The learning rate of each curriculum on the main grammar.

    With `settings.tuned` it is the rate of the fewest steps to 95% of the teacher, in the median over the seeds of
    `data/results/language_tuning.csv`; a curriculum that is not in that table has `student_lr`.
    """
    rates = dict.fromkeys(language_curricula(settings), settings.student_lr)
    if not settings.tuned:
        return rates
    table = pd.read_csv(paths.results() / TUNING)
    return rates | best_rates(table[table["grammar"] == Grammar.load(settings.grammar).name])


def best_rates(table: pd.DataFrame) -> dict[str, float]:
    """For each curriculum, the rate with the fewest steps, in the median over seeds; the lower one of two equal ones.

    `table` has one row per curriculum, student_lr and seed: steps_95 (missing: not reached) and budget.
    """
    steps = table.assign(steps=_within_budget(table))
    medians = steps.groupby(["curriculum", "student_lr"])["steps"].median().unstack()
    return {str(name): float(rate) for name, rate in medians.idxmin(axis=1).items()}


def more_teachers(grammar: str) -> pd.DataFrame:
    """The shipped rows of `data/results/language_teachers.csv` for a grammar; none if it was tried on others only."""
    table = pd.read_csv(paths.results() / TEACHERS)
    return table[table["grammar"] == grammar]


def over_teachers(table: pd.DataFrame) -> pd.DataFrame:
    """Steps to 95% of the teacher where every student has a teacher of its own: one row per curriculum.

    How many students got there, the median of their steps, and the median of the ratio to `AGAINST` with its
    interval (see `ratio_over_teachers`).

    Arguments:
    - `table`: one row per curriculum and seed: steps_95 (missing: not reached) and budget.
    """
    rows = {}
    for name, mine in table.groupby("curriculum", sort=False):
        rows[name] = {
            "reached": f"{mine['steps_95'].notna().sum()} of {len(mine)}",
            "median steps": f"{_within_budget(mine).median():,.0f}",
            f"of {AGAINST}'s": "–" if name == AGAINST else in_words(ratio_over_teachers(table, str(name), AGAINST)),
        }
    return pd.DataFrame(rows).T.rename_axis("curriculum")


def ratio_over_teachers(table: pd.DataFrame, name: str, against: str) -> Interval:
    """The median ratio of one curriculum's steps to another's, teacher by teacher, with its 95% bootstrap interval.

    A student that did not get there counts at its budget: its ratio is then a bound, not a value. `table` is as in
    `over_teachers`. Raises InvalidValueError for fewer than six teachers.
    """
    steps = {one: _within_budget(mine.set_index("seed")) for one, mine in table.groupby("curriculum")}
    return median_interval((steps[name] / steps[against]).tolist())


def _within_budget(table: pd.DataFrame) -> pd.Series:
    """Steps to 95%, the budget where they are missing."""
    return table["steps_95"].astype(float).fillna(table["budget"])


def language_students(
    settings: LanguageCurriculumSettings,
    names: Sequence[str],
    place: Place = "grammar",
    seeds: Sequence[int] | None = None,
) -> DistillationRuns:
    """Students of the teacher of a place.

    Arguments:
    - `settings`: of notebook 07.
    - `names`: some of `language_curricula`.
    - `place`: what the strings are.
    - `seeds`: one student per curriculum for each; by default those of the settings.
    """
    task, teacher = language_task(settings, place), language_teacher(settings, place)
    known, student = language_curricula(settings), network(settings, task, "student")
    rates = learning_rates(settings) if place == "grammar" else dict.fromkeys(names, settings.other_lr)
    parts = []
    for source in (teacher, with_untrained_states(teacher)):
        chosen = {name: known[name] for name in names if (name == "untrained") == (source is not teacher)}
        if chosen:
            own = {name: rates[name] for name in chosen}
            plan = student_plan(settings, teacher, min(own.values()), place)
            parts.append(distill(source, student, task, chosen, seeds or settings.seeds, plan, settings.device, own))
    return joined(parts, names)


def student_plan(
    settings: LanguageCurriculumSettings, teacher: TrainedModel, lr: float, place: Place = "grammar"
) -> TrainPlan:
    """The training plan of the students of a place.

    On a grammar they stop once they are about as good as the teacher. On the text, where losses are compared, all have
    the same number of steps.
    """
    sizes = {
        "grammar": (settings.budget_steps, settings.batch_size),
        "other": (settings.other_budget_steps, settings.other_batch_size),
        "text": (settings.text_steps, settings.batch_size),
    }
    steps, batch_size = sizes[place]
    return TrainPlan(
        steps=steps,
        batch_size=batch_size,
        optimiser="adam",
        lr=lr,
        clip_norm=1.0,
        eval_every=_rarely(settings.text_steps) if place == "text" else settings.eval_every,
        stop_at=None if place == "text" else DONE * float(teacher.history["accuracy"].iloc[-1]),
    )


def student_cases(settings: LanguageCurriculumSettings) -> list[dict[str, Any]]:
    """What `language_students` is given besides the settings, to make all: those of a teacher together, longest first.

    One pass of the teacher serves all students beside each other, and a step of many costs little more than one of few.
    Students with untrained states are apart, because their teacher is another one.
    """
    names = [name for name in language_curricula(settings) if name != "untrained"]
    grouped: list[tuple[Place, Sequence[str]]] = [("grammar", names), *elsewhere(settings).items()]
    cases = [{"names": names, "place": place} for place, names in [*grouped, ("grammar", ["untrained"])]]
    return [case | {"seeds": seeds} for seeds in _cohorts(settings, cases) for case in cases]


def _cohorts(settings: LanguageCurriculumSettings, cases: Sequence[dict[str, Any]]) -> list[tuple[int, ...]]:
    """The seeds that are trained together: all of them, unless the results of all but the first ship, in every case.

    In every case, for a seed has one teacher, which is either the reader's or the one that its students had elsewhere.
    """
    others = settings.shipped_seeds

    def stored(seeds: tuple[int, ...]) -> bool:
        return all(load_if_stored(language_students, settings, **case, seeds=seeds) is not None for case in cases)

    if not others or stored(settings.seeds):
        return [settings.seeds]
    with from_shipped():
        return [settings.seeds[:1], others] if stored(others) else [settings.seeds]


def students_and_pairs(
    settings: LanguageCurriculumSettings,
) -> tuple[dict[Place, DistillationRuns], dict[str, list[Pair]]]:
    """The students of each place, and the pairs of all seeds with the small student (`pair`) and the larger (`student`).

    What is not in the store is trained in parallel, all of it together: no core waits until the last student is done.
    """
    students = [{"recipe": language_students} | case for case in student_cases(settings)]
    pairs = [
        {"recipe": language_pair, "seed": seed, "who": who} for who in ("pair", "student") for seed in settings.seeds
    ]
    cases = [{"settings": settings} | case for case in (*students[:2], *pairs, *students[2:])]
    found = run_cases(_made, cases, "students and pairs", settings.device, settings.shipped_seeds)
    runs, made = defaultdict[Place, list[Any]](list), defaultdict[str, list[Any]](list)
    for case, one in zip(cases, found, strict=True):
        (made[case["who"]] if "who" in case else runs[case["place"]]).append(one)
    return {place: joined(parts, list(language_curricula(settings))) for place, parts in runs.items()}, dict(made)


def _made(recipe: Callable[..., Any], **case: Any) -> Any:
    """What a recipe makes of a case."""
    return recipe(**case)


def joined(parts: Sequence[DistillationRuns], names: Sequence[str]) -> DistillationRuns:
    """Several runs as one, their curricula in the order of `names`; the plan is the first one's."""
    history = pd.concat([part.history for part in parts], ignore_index=True)
    history["order"] = history["curriculum"].map(list(names).index)
    history = history.sort_values(["step", "order"], kind="stable", ignore_index=True).drop(columns="order")
    stages = pd.concat([part.stages for part in parts], ignore_index=True).drop_duplicates(ignore_index=True)
    weights = {key: state for part in parts for key, state in part.weights.items()}
    reached = {seed: accuracies for part in parts for seed, accuracies in part.teacher_accuracy.items()}
    return replace(parts[0], history=history, stages=stages, weights=weights, teacher_accuracy=reached)


def some(runs: DistillationRuns, names: Sequence[str]) -> DistillationRuns:
    """The students of some curricula."""
    history, stages = (table[table["curriculum"].isin(list(names))] for table in (runs.history, runs.stages))
    return replace(runs, history=history, stages=stages)


def of_teacher(runs: DistillationRuns) -> DistillationRuns:
    """The same students with every accuracy as a fraction of the teacher's, on the same split."""
    of_test, of_validation = (
        runs.history["seed"].map({seed: both[split] for seed, both in runs.teacher_accuracy.items()})
        for split in (0, 1)
    )
    history = runs.history.assign(
        accuracy=runs.history["accuracy"] / of_test,
        validation_accuracy=runs.history["validation_accuracy"] / of_validation,
    )
    return replace(runs, history=history)


class _Borrowed(BlockNet):
    """The teacher's output with the hidden states of another network of the same shape."""

    def __init__(self, teacher: BlockNet, other: BlockNet) -> None:
        super().__init__(teacher.stem, list(teacher.blocks), teacher.head, teacher.n_tokens, teacher.pads)
        self.other = other

    def hidden_states(self, inputs: Int[Tensor, "batch tokens"]) -> tuple[list[Tensor], Tensor]:
        return self.other.hidden_states(inputs)[0], self(inputs)


def with_untrained_states(teacher: TrainedModel) -> TrainedModel:
    """A teacher with the final output, but the hidden states of its first checkpoint, which is untrained."""
    bare = without_weights(teacher.model)
    net = teacher.model if bare else _Borrowed(teacher.model, teacher.at(teacher.checkpoint(at_step=0)))
    key = content_hash({"teacher": teacher.fingerprint, "states of step": 0})
    return replace(teacher, model=net.eval().requires_grad_(False), fingerprint=key)


def accuracy_at(runs: DistillationRuns, steps: Sequence[int]) -> dict[str, dict[str, list[float | None]]]:
    """Per curriculum and step, the test accuracy of each seed's student; one that stopped keeps its last.

    Steps without an evaluation are left out.
    """
    held = tables.hold_last_accuracy(runs.history).set_index(["curriculum", "step", "seed"])["accuracy"]
    seeds, known = list(dict.fromkeys(runs.history["seed"])), set(runs.history["step"])
    return {
        name: {str(step): [_number(held.get((name, step, seed))) for seed in seeds] for step in steps if step in known}
        for name in dict.fromkeys(runs.history["curriculum"])
    }


def _number(value: float | None) -> float | None:
    """A float, or None for what is missing."""
    return None if value is None or pd.isna(value) else float(value)


def final_losses(runs: DistillationRuns, task: SequenceTask) -> dict[str, list[float]]:
    """Per curriculum, the cross-entropy of each student on the test split, in nats."""
    test, found = task.split("test"), dict[str, list[float]]()
    for name, seed in runs.weights:
        loss = label_loss(predict(runs.student(name, seed), test.inputs), test.labels)
        found.setdefault(name, []).append(loss.item())
    return {name: found[name] for name in dict.fromkeys(runs.history["curriculum"]) if name in found}


def text_losses(settings: LanguageCurriculumSettings, runs: Mapping[Place, DistillationRuns]) -> dict[str, list[float]]:
    """The final losses on the text: of its students in `runs`, or, if there are none, those in the shipped table."""
    if "text" in runs:
        return final_losses(runs["text"], language_task(settings, "text"))
    table = pd.read_csv(paths.results() / TEXT)
    return {str(name): mine["loss"].tolist() for name, mine in table.groupby("curriculum", sort=False)}


def loss_table(losses: Mapping[str, Sequence[float]]) -> pd.DataFrame:
    """One row per curriculum: the mean loss in nats, the perplexity, and the difference to `AGAINST` with its 95% interval.

    Arguments:
    - `losses`: as from `final_losses`, one for each seed.
    """
    means = {name: sum(values) / len(values) for name, values in losses.items()}
    columns = {
        "nats": {name: f"{mean:.3f}" for name, mean in means.items()},
        "perplexity": {name: f"{math.exp(mean):.2f}" for name, mean in means.items()},
        f"against {AGAINST}": _differences(losses, "+.3f"),
    }
    return pd.DataFrame(columns).rename_axis("curriculum")


def steps_table(steps: Mapping[str, Sequence[int | None]], budget: int) -> pd.DataFrame:
    """One row per curriculum: how many students got there, the mean steps, and the difference as in `loss_table`.

    Arguments:
    - `steps`: for each seed; None, which counts as `budget`: not reached.
    - `budget`: the most steps.
    """
    within = {name: [budget if one is None else one for one in values] for name, values in steps.items()}
    columns = {
        "reached": {name: f"{len(v) - list(v).count(None)} of {len(v)}" for name, v in steps.items()},
        "mean steps": {name: f"{sum(values) / len(values):,.0f}" for name, values in within.items()},
        f"against {AGAINST}": _differences(within, "+,.0f"),
    }
    return pd.DataFrame(columns).rename_axis("curriculum")


def _differences(values: Mapping[str, Sequence[float]], form: str) -> dict[str, str]:
    """For each curriculum, the mean difference to `AGAINST` with its 95% interval, seed by seed, in words."""
    words = {}
    for name, mine in values.items():
        low, middle, high = mean_interval([a - b for a, b in zip(mine, values[AGAINST], strict=True)])
        words[name] = "–" if name == AGAINST else f"{middle:{form}} ({low:{form}} to {high:{form}})"
    return words


def language_pair(settings: LanguageCurriculumSettings, seed: int, who: Literal["pair", "student"] = "pair") -> Pair:
    """The teacher with a student that accepts its blocks, on the main grammar.

    Arguments:
    - `settings`: of notebook 07.
    - `seed`: of student and converters.
    - `who`: a student as small as `pair_width`, or one of the size of the students without a pair (`student`). That one
      only shows how soon it reaches `PWL_DONE` of the teacher's accuracy, and stops there.
    """
    task, teacher = grammar_task(settings), language_teacher(settings)
    plan = TrainPlan(
        steps=settings.pair_steps if who == "pair" else settings.pwl_steps,
        batch_size=settings.batch_size,
        optimiser="adam",
        lr=settings.pair_lr,
        schedule="cosine",
        clip_norm=2.0,
        eval_every=settings.eval_every,
        stop_at=None if who == "pair" else PWL_DONE * float(teacher.history["accuracy"].iloc[-1]),
    )
    return train_pair(teacher, network(settings, task, who), task, plan, seed=seed, device=settings.device)


def fraction_reached(pair: Pair, fraction: float = PWL_DONE) -> int | None:
    """The first step at which a pair's student had this fraction of its teacher's validation accuracy; None: never."""
    return tables.first_step(pair.history, fraction * pair.accuracy("T" * pair.n_blocks, "validation"))
