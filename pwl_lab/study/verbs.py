"""The study's three verbs, which load earlier results from the store: `train_or_load`, `distill`, `train_pair`."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import pandas as pd
from torch import Tensor

from pwl_lab.distill.curriculum import Curriculum
from pwl_lab.distill.students import DistillationResult, distil_members, stage_table
from pwl_lab.distill.targets import Member
from pwl_lab.loading.bundle import check_exportable
from pwl_lab.models.blocknet import BlockNet, ModelConfig, build, parameter_bytes, unit_bytes
from pwl_lab.study import tables
from pwl_lab.study.code_changes import (
    Entry,
    answers_of,
    check_keepable,
    check_kept,
    kept_answers,
    mask_answers,
    with_own_code,
)
from pwl_lab.study.fitting import check_task, n_blocks_of, shapes_of
from pwl_lab.study.results import SPLITS, DistillationRuns, Pair
from pwl_lab.study.store import Artifact, Recipe, Store
from pwl_lab.support import config
from pwl_lab.support.errors import DivergedError, InvalidValueError, invalid, unknown
from pwl_lab.support.own_code import located
from pwl_lab.support.seeding import initialisation
from pwl_lab.swap.evaluation import score_masks
from pwl_lab.swap.masks import check_whole_cube
from pwl_lab.swap.pair_cohort import train_pairs_together
from pwl_lab.swap.pair_training import FollowCurriculum, PairLearner, PairLossConfig
from pwl_lab.swap.swapnet import SwapNet, check_shapes
from pwl_lab.tasks.base import Task, batches_of, split_of
from pwl_lab.tasks.checks import check_count
from pwl_lab.training import Checkpoint, TrainedModel, TrainPlan, fit

# Raise a number when the same configuration gives another result, or when an entry's content changes. Older entries are
# then ignored: making them again is cheaper than code that reads them. The second line is measured on pairs.
VERSIONS = {"teacher": 2, "students": 4, "pair": 6, "sweep": 1, "two_phase": 2}
VERSIONS |= {"tested": 1, "similarity": 1, "loading": 1}
PairArm = tuple[PairLossConfig, Curriculum | None]  # what the pairs of one call differ in


def train_or_load(
    model: ModelConfig, task: Task, plan: TrainPlan, seed: int = 0, device: config.Device = "auto"
) -> TrainedModel:
    """A network trained on the labels of `task`, with its history and checkpoints.

    Arguments:
    - `model`: the network, such as `mlp(task, width=64)`.
    - `task`: the task to learn.
    - `plan`: length, optimiser and schedule.
    - `seed`: the seed of its initial weights and batches.
    - `device`: where to compute; it is not part of the store's key.

    Raises InvalidValueError before training if an argument has the wrong type, or if the model does not accept the
    task's inputs.
    """
    _check_kinds(model=(model, ModelConfig), plan=(plan, TrainPlan))
    check_task(task)
    where = config.device(device)
    configuration = {"model": model, "task": task.fingerprint(), "plan": plan, "seed": seed}
    recipe = Recipe("teacher", VERSIONS["teacher"], with_own_code(configuration, model, task))

    def make(_: list[Recipe]) -> list[Artifact]:
        shapes_of(model, task)
        check_keepable(model, task)
        return [_pack_teacher(fit(model, task, plan, seed, where), task)]

    [entry] = _from_store([recipe], make, f"the teacher of family {model.family!r}", task)
    net, info = build(model, seed, "meta" if entry.artifact.shipped else where), entry.artifact.info
    checkpoints = list[Checkpoint]()
    if not entry.artifact.shipped:
        entry.restore(net, "final")
        entry.check({"teacher": answers_of(net)})
        checkpoints = [Checkpoint(step, value, entry.part(f"step{step}")) for step, value in info["checkpoints"]]
    return TrainedModel(
        config=model,
        model=net.eval().requires_grad_(False),
        history=entry.artifact.tables["history"],
        checkpoints=checkpoints,
        test_accuracy=info["test_accuracy"],
        reached_at=info["reached_at"],
        fingerprint=recipe.key,
    )


def _check_kinds(**given: tuple[object, type]) -> None:
    """Raise InvalidValueError for the first named value that is not an instance of its type."""
    for name, (value, kind) in given.items():
        if not isinstance(value, kind):
            seen = f"the class {located(value)} itself" if isinstance(value, type) else type(value).__name__
            raise InvalidValueError(f"{name} is {seen}, but must be a {kind.__name__}")


def _checked_seeds(seeds: Sequence[int]) -> list[int]:
    """The seeds as Python ints. Raises InvalidValueError for anything else, and for a seed given twice."""
    whole = [check_count("seeds", seed, 0) for seed in seeds]
    if len(set(whole)) != len(whole):
        raise invalid("seeds", whole, config.EACH_SEED_ONCE)
    return whole


def _from_store(
    recipes: Sequence[Recipe], make: Callable[[list[Recipe]], Sequence[Artifact | DivergedError]], what: str, task: Task
) -> list[Entry]:
    """The entries of the recipes, from the store or made now; raises an error if `task` has changed since."""
    store = Store()
    found = store.get_all(recipes, make)
    entries = [Entry(one, what, store.entry(recipe)) for recipe, one in zip(recipes, found, strict=True)]
    for entry in entries:
        entry.check_task(task)
    return entries


def _pack_teacher(trained: TrainedModel, task: Task) -> Artifact:
    """A trained network as an entry of the store."""
    check_kept(trained.config, trained.model, task)
    tensors = _named("final", trained.model.state_dict())
    tensors |= kept_answers({"teacher": answers_of(trained.model)}, task)
    for checkpoint in trained.checkpoints:
        tensors |= _named(f"step{checkpoint.step}", checkpoint.state)
    info = {
        "checkpoints": [(checkpoint.step, checkpoint.accuracy) for checkpoint in trained.checkpoints],
        "test_accuracy": trained.test_accuracy,
        "reached_at": trained.reached_at,
    }
    return Artifact(tensors, {"history": trained.history}, info)


def _named(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors under a common prefix."""
    return {f"{prefix}/{name}": tensor for name, tensor in state.items()}


def distill(
    teacher: TrainedModel,
    student: ModelConfig,
    task: Task,
    curricula: Mapping[str, Curriculum],
    seeds: Sequence[int],
    plan: TrainPlan,
    device: config.Device = "auto",
    rates: Mapping[str, float] | None = None,
) -> DistillationRuns:
    """Distil `teacher` into a student per curriculum and seed.

    The store keeps each student separately. Missing students are trained together on the same batches, so another
    seed or curriculum trains only what is new. The other students in a cohort affect a student's weights only by
    rounding (see `docs/decisions.md`).

    Arguments:
    - `teacher`: the teacher, with the checkpoints that a curriculum needs.
    - `student`: the architecture of every student.
    - `task`: the task of teacher and students.
    - `curricula`: by the names shown in tables and figures. Two names for one curriculum share their students.
    - `seeds`: one student per curriculum for each; a seed determines initial weights and projections.
    - `plan`: largest length, optimiser and schedule.
    - `device`: where to compute; it is not part of the store's key.
    - `rates`: the learning rate of each curriculum that has one of its own, by its name; of the others it is `plan.lr`.

    Raises InvalidValueError before training if an argument has the wrong type, if a seed is given twice, if a
    curriculum needs a block or a checkpoint that the teacher does not have, or if a network does not accept the task's
    inputs; UnknownNameError for a rate of a curriculum that is not there.
    """
    _check_kinds(
        teacher=(teacher, TrainedModel),
        student=(student, ModelConfig),
        plan=(plan, TrainPlan),
        curricula=(curricula, Mapping),
        **({} if rates is None else {"rates": (rates, Mapping)}),
    )
    _check_kinds(**{f"curricula[{name!r}]": (one, Curriculum) for name, one in curricula.items()})
    check_task(task)
    where, n_blocks = config.device(device), min(n_blocks_of(student), teacher.config.n_blocks)
    written_out = {name: curriculum.for_blocks(n_blocks) for name, curriculum in curricula.items()}
    whole = _checked_seeds(seeds)
    rates = {} if rates is None else rates
    if strange := sorted(rates.keys() - curricula.keys()):
        raise unknown("curriculum in rates", strange[0], list(curricula))
    members = [Member(name, seed, one, rates.get(name)) for name, one in written_out.items() for seed in whole]
    if not members:
        raise invalid("curricula and seeds", (list(curricula), list(seeds)), "at least one of each")
    recipes = _student_recipes(teacher, student, task, members, plan)
    of_key = {recipe.key: member for recipe, member in zip(recipes, members, strict=True)}

    def make(missing: list[Recipe]) -> list[Artifact]:
        shapes_of(teacher.config, task)
        shapes_of(student, task)
        check_keepable(student, task)
        those = [of_key[recipe.key] for recipe in missing]
        result = distil_members(teacher, student, task, those, plan, device=where)
        return [_pack_student(result, member, student, task) for member in those]

    entries = _from_store(recipes, make, f"the students of family {student.family!r}", task)
    weights = {}
    for member, entry in zip(members, entries, strict=True):
        if state := entry.part("student"):  # a student that diverged has none
            entry.restore(net := student.make(), "student")
            entry.check({"student": answers_of(net)})
            weights[member.name, member.seed] = state
    reached = teacher.test_accuracy, float(teacher.history["accuracy"].iloc[-1])
    history, stages = _joined_histories(members, entries), stage_table(members)
    return DistillationRuns(student, plan, history, stages, weights, dict.fromkeys(whole, reached))


def _student_recipes(
    teacher: TrainedModel, student: ModelConfig, task: Task, members: Sequence[Member], plan: TrainPlan
) -> list[Recipe]:
    """The recipe of each student. It depends neither on its curriculum's name nor on the rest of its cohort."""
    common = {"teacher": teacher.fingerprint, "student": student, "task": task.fingerprint()}
    own = {one: with_own_code(common, student, task, one) for one in {member.curriculum for member in members}}
    plans = {
        lr: plan if lr is None else TrainPlan(**plan.model_dump() | {"lr": lr}) for lr in {one.lr for one in members}
    }
    return [
        Recipe(
            "students",
            VERSIONS["students"],
            own[one.curriculum] | {"plan": plans[one.lr], "curriculum": one.curriculum, "seed": one.seed},
        )
        for one in members
    ]


_OWN_COLUMNS = ["step", "samples", "stage", "accuracy", "validation_accuracy"]  # the losses are means over the cohort


def _pack_student(result: DistillationResult, member: Member, student: ModelConfig, task: Task) -> Artifact:
    """One student of a cohort as an entry of the store; without weights if it diverged."""
    name, seed = member.name, member.seed
    mine = (result.history["curriculum"] == name) & (result.history["seed"] == seed)
    tables = {"history": result.history.loc[mine, _OWN_COLUMNS]}
    if (name, seed) not in result.weights:
        return Artifact(kept_answers({}, task), tables)
    net = student.make()
    net.load_state_dict(result.weights[name, seed])
    tensors = _named("student", result.weights[name, seed]) | kept_answers({"student": answers_of(net)}, task)
    return Artifact(tensors, tables)


def _joined_histories(members: Sequence[Member], entries: Sequence[Entry]) -> pd.DataFrame:
    """The rows of all students with curriculum and seed, sorted by evaluation, then in the order given."""
    histories = []
    for member, entry in zip(members, entries, strict=True):
        rows = entry.artifact.tables["history"].copy()
        rows.insert(2, "curriculum", member.name)
        rows.insert(3, "seed", member.seed)
        histories.append(rows)
    return pd.concat(histories).sort_values("step", kind="stable", ignore_index=True)


def train_pair(
    teacher: TrainedModel,
    student: ModelConfig,
    task: Task,
    plan: TrainPlan,
    losses: PairLossConfig | None = None,
    seed: int = 0,
    device: config.Device = "auto",
    curriculum: Curriculum | None = None,
    to_export: bool = False,
) -> Pair:
    """PWL training of `student` and converters with the frozen `teacher`.

    Arguments:
    - `teacher`: the network that the student learns from and whose blocks it will accept.
    - `student`: a network with as many blocks.
    - `task`: the task of both.
    - `plan`: length, optimiser and schedule; `plan.stop_at` is an accuracy of the student.
    - `losses`: weights and masks of the PWL terms; by default the paper's. `losses.student_joins_at` sets how they
      combine with `curriculum`: 0 combines them from the start, with 0.5 PWL follows the curriculum at half time, and 1
      trains only the converters, with a student that only distils.
    - `seed`: the seed of the initial weights of student and converters, the batches and the masks.
    - `device`: where to compute; it is not part of the store's key.
    - `curriculum`: the student's own targets; by default the paper's hard and soft loss.
    - `to_export`: refuse before training a pair that `Pair.export` would refuse; otherwise only warn.

    Raises InvalidValueError before training if an argument has the wrong type, or if the two networks cannot be joined
    (block counts, resolutions), do not accept the task's inputs, or have too many blocks to evaluate every mask.
    """
    losses = PairLossConfig() if losses is None else losses
    [pair] = _pairs(teacher, student, task, plan, [(losses, curriculum)], seed, device, to_export)
    return pair


def train_pairs(
    teacher: TrainedModel,
    student: ModelConfig,
    task: Task,
    plan: TrainPlan,
    arms: Sequence[PairArm],
    seed: int = 0,
    device: config.Device = "auto",
    to_export: bool = False,
) -> list[Pair]:
    """Pairs of one seed that differ in their losses and in the student's curriculum, each as `train_pair` makes it.

    Those that are not in the store are trained together (`PairCohort`), unless `plan.stop_at` could end one of them early.
    Raises errors and warns as `train_pair` does; DivergedError, once the others are stored, if one of them diverges.

    Arguments:
    - `arms`: losses and curriculum of each pair, None for the paper's hard and soft loss.
    - `teacher`, `student`, `task`, `plan`, `seed`, `device`, `to_export`: as in `train_pair`.
    """
    return _pairs(teacher, student, task, plan, arms, seed, device, to_export)


def _pairs(
    teacher: TrainedModel,
    student: ModelConfig,
    task: Task,
    plan: TrainPlan,
    arms: Sequence[PairArm],
    seed: int,
    device: config.Device,
    to_export: bool,
) -> list[Pair]:
    """See `train_pairs`; called by the verbs alone, so that a warning names the line that called one of them."""
    where = config.device(device)
    _check_kinds(teacher=(teacher, TrainedModel), student=(student, ModelConfig), plan=(plan, TrainPlan))
    for losses, curriculum in arms:
        _check_kinds(losses=(losses, PairLossConfig))
        if curriculum is not None:
            _check_kinds(curriculum=(curriculum, Curriculum))
    models = (teacher.config, student)
    shapes = _checked_shapes(models, task, to_export)
    recipes = _pair_recipes(teacher, student, task, plan, arms, seed)
    of_key = {recipe.key: arm for recipe, arm in zip(recipes, arms, strict=True)}

    def learner_of(losses: PairLossConfig, curriculum: Curriculum | None) -> PairLearner:
        net = make_pair(teacher.model, build(student, seed, where, "student"), task, seed, losses.converters).to(where)
        own = None if curriculum is None else FollowCurriculum(curriculum, teacher, shapes[1], task, seed, where)
        learner = PairLearner(net, losses, split_of(task, "validation", where), seed, plan.steps, own)
        learner.stop_at = plan.stop_at
        return learner

    def make(missing: list[Recipe]) -> list[Artifact | DivergedError]:
        check_keepable(student, task)
        numbers = {recipe.key: number for number, recipe in enumerate(recipes)}
        names = {recipe.key: f"{student.family} pair, arms[{numbers[recipe.key]}]" for recipe in missing}
        learners, histories = {key: learner_of(*of_key[key]) for key in names}, list[pd.DataFrame | DivergedError]()
        for those in [list(names)] if plan.stop_at is None else [[key] for key in names]:
            batches = batches_of(task, seed, plan.batch_size, where, role="pair")
            of_those = {names[key]: learners[key] for key in those}
            histories += train_pairs_together(of_those, batches, plan, f"{student.family} pair")
        return [
            history
            if isinstance(history, DivergedError)
            else _pack_pair(learner.net, student, history, task, seed, where)
            for learner, history in zip(learners.values(), histories, strict=True)
        ]

    entries = _from_store(recipes, make, f"the pair of family {student.family!r}", task)
    nets = [make_pair(teacher.model, student.make(), task, seed, losses.converters) for losses, _ in arms]
    return [_loaded_pair(*one, models, task, seed, where) for one in zip(nets, entries, recipes, strict=True)]


def _pair_recipes(
    teacher: TrainedModel, student: ModelConfig, task: Task, plan: TrainPlan, arms: Sequence[PairArm], seed: int
) -> list[Recipe]:
    """The recipe of each pair. It does not depend on those that it is trained beside."""
    common = {
        "teacher": teacher.fingerprint,
        "student": student,
        "task": task.fingerprint(),
        "plan": plan,
        "seed": seed,
    }
    own = [
        {"losses": one, "curriculum": None if after is None else after.model_dump(mode="json")} for one, after in arms
    ]
    coded = [with_own_code(common | mine, student, task, arm[1]) for mine, arm in zip(own, arms, strict=True)]
    return [Recipe("pair", VERSIONS["pair"], configuration) for configuration in coded]


def _loaded_pair(
    net: SwapNet,
    entry: Entry,
    recipe: Recipe,
    models: tuple[ModelConfig, ModelConfig],
    task: Task,
    seed: int,
    where: str,
) -> Pair:
    """A pair out of its entry; `net` has the teacher's weights and gets the others, if there are any."""
    net = net.to("meta" if entry.artifact.shipped else where)
    if not entry.artifact.shipped:
        entry.restore(net.student, "student")
        entry.restore(net.converters, "converters")
        entry.check(mask_answers(net))
    return Pair(
        net=net.eval(),
        seed=seed,
        **{name: entry.artifact.tables[name] for name in ("history", "masks", "classes")},
        teacher_bytes=parameter_bytes(net.teacher),
        student_bytes=parameter_bytes(net.student),
        models=models,
        task=task,
        right=entry.artifact.tensors["right"],
        fingerprint=recipe.key,
        made=entry.artifact.made,
    )


def _checked_shapes(
    models: tuple[ModelConfig, ModelConfig], task: Task, to_export: bool
) -> list[list[tuple[int, ...]]]:
    """The shapes of the hidden states of teacher and student. Raises errors and warns as `train_pair` describes."""
    check_task(task)
    shapes = [shapes_of(model, task) for model in models]
    check_shapes(*shapes)
    check_whole_cube(models[0].n_blocks)
    try:
        check_exportable(models)
    except InvalidValueError as error:
        if to_export:
            raise
        warnings.warn(f"export() will refuse this pair: {error}", stacklevel=4)  # who called the verb
    return shapes


def _pack_pair(
    net: SwapNet, student: ModelConfig, history: pd.DataFrame, task: Task, seed: int, device: str
) -> Artifact:
    """What a pair adds to its teacher: weights, outputs for the stored samples, and every mask in one pass a split."""
    check_kept(student, net.student, task)
    scores = {split: score_masks(net, split_of(task, split, device)) for split in SPLITS}
    tensors = _named("student", net.student.state_dict()) | _named("converters", net.converters.state_dict())
    tensors |= kept_answers(mask_answers(net), task) | {"right": scores["test"].right}
    return Artifact(tensors, {"history": history} | tables.cube_tables(scores, unit_bytes(net.teacher), seed))


def make_pair(
    teacher: BlockNet,
    student: BlockNet,
    task: Task,
    seed: int,
    converters: Literal["always", "if_different"] = "always",
) -> SwapNet:
    """A `SwapNet` whose converters have their initial weights from the stream `converters` of `seed`."""
    with initialisation(seed, "converters"):
        return SwapNet(teacher, student, task.input_shape, converters)
