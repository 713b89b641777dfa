"""The study's three verbs, each from the store where it was done before: `train_or_load`, `distill`, `train_pair`."""

import inspect
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Literal

import pandas as pd
from torch import Tensor

from pwl_lab.distill.curriculum import Curriculum
from pwl_lab.distill.students import distil_cohort
from pwl_lab.loading.bundle import check_exportable
from pwl_lab.models.blocknet import BlockNet, ModelConfig, build, parameter_bytes, unit_bytes
from pwl_lab.study import tables
from pwl_lab.study.answers import Answer, Entry, answers_of, check_keepable, check_kept, kept_answers, mask_answers
from pwl_lab.study.results import SPLITS, DistillationRuns, Pair
from pwl_lab.study.store import Artifact, NotMadeError, Recipe, Store, may_make, only_stored
from pwl_lab.support import config
from pwl_lab.support.errors import InvalidValueError, invalid
from pwl_lab.support.processes import side_by_side
from pwl_lab.support.seeding import initialisation
from pwl_lab.swap.evaluation import score_masks
from pwl_lab.swap.masks import check_whole_cube
from pwl_lab.swap.pair_training import FollowCurriculum, PairLearner, PairLossConfig
from pwl_lab.swap.swapnet import SwapNet, check_shapes
from pwl_lab.tasks.base import Task, batches_of, split_of
from pwl_lab.tasks.sizes import check_count
from pwl_lab.training import Checkpoint, TrainedModel, TrainPlan, fit, train

# Raise a number when the same configuration would now give another result: older entries are then left alone.
VERSIONS = {"teacher": 2, "students": 3, "pair": 4}


def train_or_load(
    model: ModelConfig, task: Task, plan: TrainPlan, seed: int = 0, device: config.Device = "auto"
) -> TrainedModel:
    """A network trained on the labels of `task`, with its history and checkpoints.

    Raises InvalidValueError before anything is trained for what is none of these, or a model that the task does not fit.
    """
    _check_kinds(model=(model, ModelConfig), plan=(plan, TrainPlan))
    where = config.device(device)
    configuration = {"model": model, "task": task.fingerprint(), "plan": plan, "seed": seed}
    recipe = Recipe("teacher", VERSIONS["teacher"], configuration)

    def make() -> Artifact:
        _shapes(model, task)
        check_keepable(model, task)
        return _pack_teacher(fit(model, task, plan, seed, where), task)

    artifact, entry = _from_store(recipe, make, f"the teacher of family {model.family!r}", task)
    net = build(model, seed, where)
    entry.restore(net, _part(artifact.tensors, "final"))
    entry.check({"teacher": answers_of(net)})
    checkpoints = [
        Checkpoint(step, value, _part(artifact.tensors, f"step{step}")) for step, value in artifact.info["checkpoints"]
    ]
    return TrainedModel(
        config=model,
        model=net.eval().requires_grad_(False),
        history=artifact.tables["history"],
        checkpoints=checkpoints,
        test_accuracy=artifact.info["test_accuracy"],
        reached_at=artifact.info["reached_at"],
        fingerprint=recipe.key,
    )


def _check_kinds(**given: tuple[object, type]) -> None:
    """Raise InvalidValueError for a value that is not of its kind, each by its name."""
    for name, (value, kind) in given.items():
        if not isinstance(value, kind):
            seen = f"the class {value.__name__} itself" if isinstance(value, type) else type(value).__name__
            raise InvalidValueError(f"{name} is {seen}, where a {kind.__name__} is expected")


def _checked_seeds(seeds: Sequence[int]) -> list[int]:
    """The seeds as Python's own whole numbers. Raises InvalidValueError for anything else, and for one that comes twice."""
    whole = [check_count("seeds", seed, 0) for seed in seeds]
    if len(set(whole)) != len(whole):
        raise invalid("seeds", whole, config.EACH_SEED_ONCE)
    return whole


def _shapes(model: ModelConfig, task: Task) -> list[tuple[int, ...]]:
    """The shapes of a network's hidden states. Raises InvalidValueError where it does not take the task's inputs."""
    try:
        return model.make().state_shapes(task.input_shape)
    except RuntimeError as error:  # torch's, of matrices that do not fit
        what = f"a task whose inputs the network of family {model.family!r} takes ({error})"
        raise invalid("input shape of the task", tuple(task.input_shape), what) from error


def _from_store(recipe: Recipe, make: Callable[[], Artifact], what: str, task: Task) -> tuple[Artifact, Entry]:
    """What the store has or is given, and the same as what it says of networks; refused where `task` has changed since."""
    artifact = Store().get(recipe, make)
    entry = Entry(artifact.tensors, what, Store().entry(recipe))
    entry.check_task(task)
    return artifact, entry


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
    """Tensors under a common name."""
    return {f"{prefix}/{name}": tensor for name, tensor in state.items()}


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors under a common name, without it."""
    return {name.removeprefix(f"{prefix}/"): t for name, t in tensors.items() if name.startswith(f"{prefix}/")}


def each(
    verb: Callable[..., Any], cases: Sequence[Mapping[str, Any]], description: str, device: config.Device
) -> list[Any]:
    """`verb(**case)` for each case: what the store does not have is made first, several cases side by side.

    Any function that keeps what it makes in the store will do. `device` is where the verb computes: it is told so where it
    takes a `device`. On a GPU the cases take turns (see `side_by_side`). In `only_stored` nothing is made: raises
    NotMadeError. Raises InvalidValueError for a case with a `device` that is another one.
    """
    where = config.device(device)
    for case in cases:
        if config.device(case.get("device", where)) != where:
            raise invalid("device", case["device"], f"that of all cases together, {device!r}")
    if "device" in inspect.signature(verb).parameters:
        cases = [{**case, "device": where} for case in cases]
    if not may_make():
        return [verb(**case) for case in cases]
    found: dict[int, Any] = {}
    for number, case in enumerate(cases):
        with suppress(NotMadeError), only_stored():
            found[number] = verb(**case)
    missing = [case for number, case in enumerate(cases) if number not in found]
    if len(missing) > 1:
        side_by_side(_make_only, [{"verb": verb, "case": case} for case in missing], description, where)
    return [found[number] if number in found else verb(**case) for number, case in enumerate(cases)]


def _make_only(verb: Callable[..., Any], case: Mapping[str, Any]) -> None:
    """Run the case for what it leaves in the store: loading that is cheaper than sending the result."""
    verb(**case)


def distill(
    teacher: TrainedModel,
    student: ModelConfig,
    task: Task,
    curricula: Mapping[str, Curriculum],
    seeds: Sequence[int],
    plan: TrainPlan,
    device: config.Device = "auto",
) -> DistillationRuns:
    """Distil `teacher` into a student per curriculum and seed; all of them side by side on one stream of batches.

    Raises InvalidValueError before anything is trained for a curriculum whose name the store cannot keep apart from others,
    a seed that comes twice, and a network that the task does not fit.
    """
    _check_kinds(teacher=(teacher, TrainedModel), student=(student, ModelConfig), plan=(plan, TrainPlan))
    _check_kinds(**{f"curricula[{name!r}]": (one, Curriculum) for name, one in curricula.items()})
    where, seeds = config.device(device), _checked_seeds(seeds)
    for name in curricula:
        if "/" in str(name):
            raise invalid("curricula", name, "names without a slash")
    configuration = {
        "teacher": teacher.fingerprint,
        "student": student,
        "task": task.fingerprint(),
        "curricula": {name: curriculum.model_dump(mode="json") for name, curriculum in curricula.items()},
        "order": list(curricula),
        "seeds": seeds,
        "plan": plan,
    }

    def make() -> Artifact:
        _shapes(teacher.config, task)
        _shapes(student, task)
        check_keepable(student, task)
        result = distil_cohort(teacher, student, task, curricula, seeds, plan, device=where)
        tensors: dict[str, Tensor] = {}
        for (name, seed), state in result.weights.items():
            tensors |= _named(f"{name}/{seed}", state)
        tensors |= kept_answers(_student_answers(student, result.weights), task)
        return Artifact(tensors, {"history": result.history, "stages": result.stages})

    recipe = Recipe("students", VERSIONS["students"], configuration)
    artifact, entry = _from_store(recipe, make, f"the students of family {student.family!r}", task)
    lost = tables.diverged(artifact.tables["history"])
    weights = {
        (name, seed): _part(artifact.tensors, f"{name}/{seed}")
        for name in curricula
        for seed in seeds
        if seed not in lost[name]
    }
    with entry.blaming_code():
        answers = _student_answers(student, weights)
    entry.check(answers)
    return DistillationRuns(student, plan, artifact.tables["history"], artifact.tables["stages"], weights)


def _student_answers(config: ModelConfig, weights: Mapping[tuple[str, int], dict[str, Tensor]]) -> dict[str, Answer]:
    """What one student of each curriculum answers: all of them run the same code."""
    answers = {}
    for name, seed in {name: (name, seed) for name, seed in sorted(weights, reverse=True)}.values():
        net = config.make()
        net.load_state_dict(weights[name, seed])
        answers[f"{name}/{seed}"] = answers_of(net)
    return answers


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
    """PWL training of `student` and converters beside the frozen `teacher`.

    `curriculum` is what the student learns for itself; none: the sources' hard and soft loss. How it goes together with
    the terms of PWL is `losses.student_joins_at`: 0 combines them from the start, 0.5 lets PWL follow on the curriculum
    at half time, 1 trains the converters alone on a student that only distils.
    Raises InvalidValueError before anything is trained where the two cannot be joined (block counts, resolutions), do not
    take the task's inputs, or have too many blocks to evaluate every mask; with `to_export`, also where `Pair.export` would
    refuse what was trained. Without it a warning says so.
    """
    where, losses = config.device(device), PairLossConfig() if losses is None else losses
    _check_kinds(teacher=(teacher, TrainedModel), student=(student, ModelConfig), plan=(plan, TrainPlan))
    _check_kinds(losses=(losses, PairLossConfig), **{"curriculum": (curriculum, Curriculum)} if curriculum else {})
    shapes = _checked_shapes((teacher.config, student), task, to_export)
    configuration = {
        "teacher": teacher.fingerprint,
        "student": student,
        "task": task.fingerprint(),
        "plan": plan,
        "losses": losses,
        "curriculum": curriculum and curriculum.model_dump(mode="json"),
        "seed": seed,
    }

    def make() -> Artifact:
        check_keepable(student, task)
        initial = build(student, seed, where, stream="student")
        net = make_pair(teacher.model, initial, task, seed, losses.converters).to(where)
        own = curriculum and FollowCurriculum(curriculum, teacher, shapes[1], task, seed, where)
        learner = PairLearner(net, losses, split_of(task, "validation", where), seed, plan.steps, own)
        batches = batches_of(task, seed, plan.batch_size, where, role="pair")
        history = train(learner, batches, plan, f"{student.family} pair")
        check_kept(student, net.student, task)
        return Artifact(_pair_tensors(net, task), {"history": history} | _cube_tables(net, task, seed, where))

    recipe = Recipe("pair", VERSIONS["pair"], configuration)
    artifact, entry = _from_store(recipe, make, f"the pair of family {student.family!r}", task)
    net = make_pair(teacher.model, student.make(), task, seed, losses.converters).to(where)
    entry.restore(net.student, _part(artifact.tensors, "student"))
    entry.restore(net.converters, _part(artifact.tensors, "converters"))
    entry.check(mask_answers(net))
    return Pair(
        net=net.eval(),
        seed=seed,
        **{name: artifact.tables[name] for name in ("history", "masks", "classes")},
        teacher_bytes=parameter_bytes(teacher.model),
        student_bytes=parameter_bytes(net.student),
        models=(teacher.config, student),
        task=task,
    )


def _checked_shapes(
    models: tuple[ModelConfig, ModelConfig], task: Task, to_export: bool
) -> list[list[tuple[int, ...]]]:
    """The hidden states' shapes of teacher and student. Raises, and warns, as `train_pair` says."""
    shapes = [_shapes(model, task) for model in models]
    check_shapes(*shapes)
    check_whole_cube(models[0].n_blocks)
    try:
        check_exportable(models)
    except InvalidValueError as error:
        if to_export:
            raise
        warnings.warn(f"export() will refuse this pair: {error}", stacklevel=3)
    return shapes


def _pair_tensors(net: SwapNet, task: Task) -> dict[str, Tensor]:
    """What a pair adds to its teacher, and what it answers."""
    tensors = _named("student", net.student.state_dict()) | _named("converters", net.converters.state_dict())
    return tensors | kept_answers(mask_answers(net), task)


def _cube_tables(net: SwapNet, task: Task, seed: int, device: str) -> dict[str, pd.DataFrame]:
    """Every mask of a pair, on the whole (`masks`) and class by class (`classes`): one pass over each split."""
    scores = {split: score_masks(net, split_of(task, split, device)) for split in SPLITS}
    accuracies = {split: score.accuracies() for split, score in scores.items()}
    return {
        "masks": tables.mask_table(accuracies, unit_bytes(net.teacher), seed),
        "classes": tables.class_table(scores["test"].class_accuracies(), seed),
    }


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
