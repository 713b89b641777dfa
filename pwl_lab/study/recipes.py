"""Recipes that several notebooks share, so that the store makes each result only once."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import count
from typing import Literal, NamedTuple, cast

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from pwl_lab.distill.curriculum import Curriculum, extracted, from_labels, one_shot, progressive
from pwl_lab.distill.probes import CorrelationProbe, TeacherReadings, probe_teacher
from pwl_lab.models import ModelConfig, mlp, resnet, vgg, vit
from pwl_lab.study.cases import run_cases
from pwl_lab.study.results import DistillationRuns, Pair
from pwl_lab.study.settings import PROBE_SAMPLES, CurriculaSettings, ImageSettings, LoadingSettings
from pwl_lab.study.testing import all_test_images, tested_on
from pwl_lab.study.verbs import distill, train_or_load, train_pair
from pwl_lab.support.config import Family
from pwl_lab.support.errors import invalid
from pwl_lab.support.own_code import located
from pwl_lab.support.seeding import generator
from pwl_lab.swap.masks import all_masks, check_whole_cube
from pwl_lab.swap.orders import loading_orders
from pwl_lab.swap.pair_training import PairLossConfig
from pwl_lab.tasks.augment import Augmentation
from pwl_lab.tasks.base import IGNORED, Batch, Task, class_names_of, scored
from pwl_lab.tasks.checks import check_count
from pwl_lab.tasks.images import ImageTask
from pwl_lab.tasks.parity import SparseParity
from pwl_lab.training import TrainedModel, TrainPlan, image_plan, predict


def parity_task(settings: CurriculaSettings) -> SparseParity:
    """The parity task of notebook 02."""
    n, k, samples = settings.n_bits, settings.k_sparse, settings.eval_samples
    return SparseParity(n, k, support=settings.support, eval_samples=samples)


def parity_teacher(settings: CurriculaSettings) -> tuple[SparseParity, TrainedModel]:
    """The parity task and the teacher of notebook 02, with its checkpoints."""
    task = parity_task(settings)
    plan = TrainPlan(
        steps=settings.teacher_max_steps,
        batch_size=settings.batch_size,
        lr=settings.teacher_lr,
        momentum=settings.teacher_momentum,
        eval_every=settings.teacher_eval_every,
        stop_at=1.0,
        saturation=settings.saturation,
        keep_checkpoints=True,
        keep_at=settings.keep_at,
        loop=settings.teacher_loop,
    )
    return task, train_or_load(mlp(task, width=settings.teacher_width), task, plan, device=settings.device)


def parity_curricula(settings: CurriculaSettings) -> dict[str, Curriculum]:
    """The four curricula of notebook 02: labels, one-shot, progressive, extracted."""
    steps, temperature = settings.stage_steps, settings.temperature
    return {
        "scratch": from_labels(),
        "one_shot": one_shot(temperature),
        "progressive": progressive([settings.checkpoint_accuracy], steps, temperature),
        "extracted": extracted(steps, temperature=temperature),
    }


def student_plan(settings: CurriculaSettings) -> TrainPlan:
    """The training plan of the students of notebook 02."""
    steps = {"steps": settings.budget_steps, "eval_every": settings.eval_every}
    return TrainPlan(**steps, batch_size=settings.batch_size, lr=settings.student_lr, stop_at=1.0)


def curricula_runs(
    settings: CurriculaSettings, names: Sequence[str] | None = None, seeds: Sequence[int] | None = None
) -> DistillationRuns:
    """The students of notebook 02.

    Arguments:
    - `settings`: of that notebook.
    - `names`: some of its curricula; by default all four.
    - `seeds`: by default those of the settings.
    """
    task, teacher = parity_teacher(settings)
    chosen = {name: one for name, one in parity_curricula(settings).items() if names is None or name in names}
    student, plan = mlp(task, width=settings.student_width), student_plan(settings)
    return distill(teacher, student, task, chosen, seeds or settings.seeds, plan, device=settings.device)


def parity_readings(task: SparseParity, teacher: TrainedModel) -> TeacherReadings:
    """The correlation probe applied to the teacher of notebook 02, checkpoint by checkpoint."""
    return probe_teacher(teacher, CorrelationProbe.draw(task, samples=PROBE_SAMPLES))


def image_task(settings: ImageSettings) -> ImageTask:
    """The image task, with the augmentation of its training batches."""
    augment = Augmentation(crop_padding=settings.crop_padding, rotation_degrees=settings.rotation_degrees)
    return ImageTask(settings.dataset, settings.n_train, augment)


def image_models(settings: ImageSettings, task: ImageTask) -> tuple[ModelConfig, ModelConfig]:
    """The architectures of teacher and student, of the family in `settings`.

    Arguments:
    - `settings`: family, channels, depths and heads of both.
    - `task`: provides the shape of an image and the number of classes.
    """
    return _image_model(settings, task, "teacher"), _image_model(settings, task, "student")


def _image_model(settings: ImageSettings, task: ImageTask, who: str) -> ModelConfig:
    """The architecture of `who`, teacher or student, for each family in the settings."""
    channels, depths, heads = (getattr(settings, f"{who}_{name}") for name in ("channels", "depths", "heads"))
    makers: dict[Family, Callable[[], ModelConfig]] = {
        "vgg": lambda: vgg(task, channels, depths),
        "resnet": lambda: resnet(task, channels, depths, settings.stem_stride),
        "vit": lambda: vit(task, channels[0], heads, depths, patch=settings.patch),
    }
    return makers[settings.family]()


def _plan_in_epochs(settings: ImageSettings, task: ImageTask, epochs: int, lr: float) -> TrainPlan:
    """A plan of `epochs` passes over the images, with an evaluation every half epoch."""
    epoch = task.steps_per_epoch(settings.batch_size)
    how = settings.batch_size, settings.optimiser, max(1, epoch // 2), settings.products
    return image_plan(epochs * epoch, lr, *how)


def image_teacher(settings: ImageSettings, seed: int) -> TrainedModel:
    """The teacher of a family, with a checkpoint after every half epoch."""
    task = image_task(settings)
    plan = _plan_in_epochs(settings, task, settings.teacher_epochs, settings.teacher_lr)
    plan = plan.model_copy(update={"keep_checkpoints": True})
    return train_or_load(image_models(settings, task)[0], task, plan, seed, settings.device)


def pair_losses(settings: ImageSettings) -> PairLossConfig:
    """The losses of PWL training, with the masks in the settings."""
    return PairLossConfig(
        sync=settings.sync_weight,
        cross=settings.cross_weight,
        masks=settings.masks,
        cross_passes=settings.cross_passes,
        cross_groups=settings.cross_groups,
        converters=settings.converters,
    )


def image_plan_of_pair(settings: LoadingSettings, task: ImageTask) -> TrainPlan:
    """The training plan of student and converters in notebook 04."""
    return _plan_in_epochs(settings, task, settings.pair_epochs, settings.pair_lr)


def loading_pair(settings: LoadingSettings, seed: int) -> tuple[TrainedModel, Pair]:
    """The teacher of one seed and its pair, trained as in notebook 04.

    Arguments:
    - `settings`: of that notebook.
    - `seed`: the seed of teacher, student and converters.
    """
    task, teacher = image_task(settings), image_teacher(settings, seed)
    student, plan = image_models(settings, task)[1], image_plan_of_pair(settings, task)
    return teacher, train_pair(teacher, student, task, plan, pair_losses(settings), seed, settings.device)


def loading_pairs(settings: LoadingSettings) -> tuple[list[TrainedModel], list[Pair]]:
    """Teachers and pairs of all seeds; those that are not in the store are trained in parallel."""
    return _of_all_seeds(loading_pair, settings)


def tested_pair(settings: LoadingSettings, seed: int) -> tuple[TrainedModel, Pair]:
    """As `loading_pair`, with every mask tested on all test images if `settings.test_images` says so."""
    teacher, pair = loading_pair(settings, seed)
    whole = None if settings.test_images == "bundled" else all_test_images(settings.dataset)
    return teacher, pair if whole is None else tested_on(pair, image_task(settings), whole)


def tested_pairs(settings: LoadingSettings) -> tuple[list[TrainedModel], list[Pair]]:
    """As `loading_pairs`, each pair as from `tested_pair`."""
    return _of_all_seeds(tested_pair, settings)


def _of_all_seeds(
    recipe: Callable[[LoadingSettings, int], tuple[TrainedModel, Pair]], settings: LoadingSettings
) -> tuple[list[TrainedModel], list[Pair]]:
    """The results of `recipe`: of the first seed from the store or made here, of the others as `other_seeds` says."""
    cases = [{"settings": settings, "seed": seed} for seed in settings.seeds]
    found = run_cases(recipe, cases, f"{settings.family} pairs", settings.device, settings.shipped_seeds)
    return [teacher for teacher, _ in found], [pair for _, pair in found]


class StringToken(NamedTuple):
    """A token of a string, as it is shown: its symbol, and the number of its prediction, from 0 (None: it has none)."""

    symbol: str
    number: int | None


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """The predictions of each of the 2^n masks for a few test samples: computed once, then only looked up.

    `kind` says how the samples were chosen: `picked` because their prediction changes, or `drawn` at random.
    """

    labels: Int[Tensor, " n"]
    class_names: tuple[str, ...]
    probabilities: dict[str, Float[Tensor, "n classes"]]
    kind: Literal["picked", "drawn"] = "picked"

    @cached_property
    def predicted(self) -> dict[str, Int[Tensor, " n"]]:
        """For each mask, the class predicted in place of each label."""
        return {mask: values.argmax(dim=-1) for mask, values in self.probabilities.items()}

    @cached_property
    def confidence(self) -> dict[str, Float[Tensor, " n"]]:
        """For each mask, the probability of each predicted class."""
        return {mask: values.amax(dim=-1) for mask, values in self.probabilities.items()}

    @property
    def n_blocks(self) -> int:
        """The number of blocks in a mask."""
        return len(next(iter(self.probabilities)))

    def right(self, mask: str) -> list[bool]:
        """For each label, whether the prediction at `mask` is correct."""
        return (self.predicted[mask] == self.labels).tolist()


@dataclass(frozen=True, kw_only=True)
class SamplePredictions(Predictions):
    """Test images: one label and one prediction for each."""

    images: UInt8[Tensor, "n height width *colours"]


@dataclass(frozen=True, kw_only=True)
class StringPredictions(Predictions):
    """Test strings: a label and a prediction for each scored token, one string after the other."""

    strings: tuple[tuple[StringToken, ...], ...]


def _with_pictures(task: Task) -> ImageTask:
    """The task itself. Raises InvalidValueError if it hands out no pictures."""
    if isinstance(task, ImageTask) or (hasattr(task, "sample") and hasattr(task, "size")):
        return cast(ImageTask, task)
    allowed = "a task with pictures, such as ImageTask; string_predictions shows the inputs of any other"
    raise invalid("task", located(type(task)), allowed)


def sample_predictions(pair: Pair, task: Task, n_samples: int = 6, pool: int = 400) -> SamplePredictions:
    """Test images whose prediction changes while blocks arrive in prefix order, and the predictions of each mask.

    Arguments:
    - `pair`: the pair whose masks predict.
    - `task`: provides the images.
    - `n_samples`: how many images; those whose prediction changes most often come first.
    - `pool`: the number of test images to pick from. They are picked *because* they change: they show what loading
      does, not how often.

    Raises InvalidValueError for a task without pictures, and for a pair of more than `MOST_BLOCKS` blocks.
    """
    task = _with_pictures(task)
    images, batch = task.sample(min(pool, task.size("test")))
    device = next(pair.net.parameters()).device
    predicted, _ = pair.predictions(batch.inputs.to(device), loading_orders(pair.n_blocks)["prefix"])
    changes = (predicted[1:] != predicted[:-1]).sum(dim=0).cpu()
    chosen = changes.argsort(descending=True, stable=True)[:n_samples]
    return _predictions(pair, task, images[chosen], Batch(batch.inputs[chosen], batch.labels[chosen]), "picked")


def drawn_predictions(pair: Pair, task: Task, n_samples: int = 36, seed: int = 0) -> SamplePredictions:
    """Test images drawn at random, and the predictions of each mask: about as accurate as on the whole split.

    Arguments:
    - `pair`: whose masks predict.
    - `task`: its images.
    - `n_samples`: how many images.
    - `seed`: determines the images, which are the same for every pair.

    Raises InvalidValueError for a task without pictures, for a pair of more than `MOST_BLOCKS` blocks, and for more
    images than there are.
    """
    task = _with_pictures(task)
    size = task.size("test")
    check_count("n_samples", n_samples, 1, size, ", the size of the split test")
    images, batch = task.sample(size)
    chosen = torch.randperm(size, generator=generator(seed, "order", "pictures"))[:n_samples]
    return _predictions(pair, task, images[chosen], Batch(batch.inputs[chosen], batch.labels[chosen]), "drawn")


def _predictions(
    pair: Pair, task: ImageTask, images: Tensor, batch: Batch, kind: Literal["picked", "drawn"]
) -> SamplePredictions:
    """The predictions of each mask of the pair for these images."""
    masks = all_masks(check_whole_cube(pair.n_blocks))
    probabilities = pair.probabilities(batch.inputs.to(next(pair.net.parameters()).device), masks).cpu()
    by_mask = dict(zip(masks, probabilities, strict=True))
    names = task.class_names
    return SamplePredictions(images=images, labels=batch.labels, class_names=names, probabilities=by_mask, kind=kind)


HIDDEN, MOST_SHOWN = "□", 16  # a masked token as it is shown, and how many numbers of a sample are
VISIBLE = {" ": "␣", "\n": "↵", "\t": "⇥"}


def string_predictions(
    pair: Pair, n_samples: int = 6, pool: int = 400, kind: Literal["picked", "drawn"] = "picked"
) -> StringPredictions:
    """Test samples of a pair as text, and the predictions of each mask: strings, or the first numbers of any other input.

    Arguments:
    - `pair`: the pair whose masks predict.
    - `n_samples`, `pool`: how many samples, and the number of test samples to pick them from.
    - `kind`: `picked`: those whose predictions change most often while blocks arrive in prefix order. `drawn`: the first
      ones of the split, whatever is predicted.

    Raises InvalidValueError for a pair of more than `MOST_BLOCKS` blocks.
    """
    device, batch = next(pair.net.parameters()).device, pair.task.split("test")
    batch = Batch(batch.inputs[:pool], batch.labels[:pool])
    chosen = torch.arange(len(batch))
    if kind == "picked":
        predicted, _ = pair.predictions(batch.inputs.to(device), loading_orders(pair.n_blocks)["prefix"])
        changed = (predicted[1:] != predicted[:-1]).cpu() & (batch.labels != IGNORED)
        changes = changed.reshape(*changed.shape[:2], -1).sum(dim=(0, 2))
        chosen = changes.argsort(descending=True, stable=True)
    inputs, labels = batch.inputs[chosen[:n_samples]], batch.labels[chosen[:n_samples]]
    masks = all_masks(check_whole_cube(pair.n_blocks))
    probabilities = scored(pair.probabilities(inputs.to(device), masks).cpu(), labels)
    return StringPredictions(
        strings=_shown_strings(pair.task, inputs, labels),
        labels=scored(labels, labels),
        class_names=_names_of(pair.task),
        probabilities=dict(zip(masks, probabilities, strict=True)),
        kind=kind,
    )


def _names_of(task: Task) -> tuple[str, ...]:
    """The names of a task's symbols, white space made visible; their numbers if they have none."""
    names = class_names_of(task) or map(str, range(task.n_classes))
    return tuple(VISIBLE.get(name, name) for name in names)


def _shown_strings(task: Task, inputs: Tensor, labels: Tensor) -> tuple[tuple[StringToken, ...], ...]:
    """The strings without their padding. If the next token is predicted, each stands where it would follow."""
    names, numbers, shown = (*_names_of(task), HIDDEN), count(), []
    if labels.dim() == 1:  # a row of numbers, then the place of the answer
        rows = inputs.flatten(1)
        more = ["…"] * (rows.shape[1] > MOST_SHOWN)
        words = [[f"{one:.3g}" for one in row] + more for row in rows[:, :MOST_SHOWN].tolist()]
        return tuple((*(StringToken(word, None) for word in row), StringToken("?", next(numbers))) for row in words)
    ahead = getattr(task, "objective", None) == "next"
    for tokens, wanted in zip(inputs.tolist(), labels.tolist(), strict=True):
        both = zip(wanted if ahead else tokens, wanted, strict=True)
        string = [
            StringToken(names[token], None if label == IGNORED else next(numbers))
            for token, label in both
            if 0 <= token <= task.n_classes
        ]
        first = [StringToken(names[tokens[0]], None)] if ahead and tokens[0] < task.n_classes else []
        shown.append((*first, *string))
    return tuple(shown)


@dataclass(frozen=True)
class SoftTargets:
    """One image, its label and a teacher's logits for it, from which the soft targets at any temperature follow."""

    image: UInt8[Tensor, "height width *colours"]
    label: int
    class_names: tuple[str, ...]
    logits: Float[Tensor, " classes"]

    def at(self, temperature: float) -> Float[Tensor, " classes"]:
        """The teacher's probabilities, softened (Hinton et al., arXiv 1503.02531, section 2); temperature is above 0."""
        return (self.logits / temperature).softmax(dim=0)


def soft_targets(teacher: TrainedModel, task: Task, label: int, sure: float = 0.8, pool: int = 400) -> SoftTargets:
    """The test image of a class for which the teacher's confidence is closest to `sure`.

    Arguments:
    - `teacher`: an image classifier.
    - `task`: provides the images.
    - `label`: the class index.
    - `sure`: the wanted probability of that class.
    - `pool`: the number of test images to pick from.

    Raises InvalidValueError for a task without pictures.
    """
    task = _with_pictures(task)
    images, batch = task.sample(min(pool, task.size("test")))
    logits = predict(teacher.model, batch.inputs.to(next(teacher.model.parameters()).device)).cpu()
    distance = (logits.softmax(dim=1)[:, label] - sure).abs()
    distance[batch.labels != label] = torch.inf
    chosen = int(distance.argmin())
    return SoftTargets(images[chosen], label, task.class_names, logits[chosen])


@dataclass(frozen=True)
class Workbench:
    """A task small enough to try a curriculum in seconds, with its teacher, student, plan, and runs to compare with.

    Arguments:
    - `task`, `teacher`, `student`: the task, the teacher, and the student's architecture.
    - `plan`, `seeds`: how each student is trained, and for which seeds.
    - `stage_steps`: a good length for a stage.
    - `known`: the one-shot and extracted curricula, to compare with.
    - `built_in`: the students of those curricula.
    """

    task: SparseParity
    teacher: TrainedModel
    student: ModelConfig
    plan: TrainPlan
    seeds: tuple[int, ...]
    stage_steps: int
    known: dict[str, Curriculum]
    built_in: DistillationRuns

    def train(self, curricula: Mapping[str, Curriculum]) -> DistillationRuns:
        """Train students with other curricula, with the same teacher, initial weights and samples."""
        return distill(self.teacher, self.student, self.task, curricula, self.seeds, self.plan, device="cpu")


def workbench(settings: CurriculaSettings) -> Workbench:
    """The small task for building a curriculum in notebook 02: at most 30 bits and 2,000 steps."""
    n_bits, budget = min(30, settings.n_bits), min(2_000, settings.budget_steps)
    small = {
        "n_bits": n_bits,
        "support": None,
        "teacher_width": min(512, settings.teacher_width),
        "eval_samples": min(1_024, settings.eval_samples),
        "teacher_eval_every": 20,
        "device": "cpu",
    }
    task, teacher = parity_teacher(settings.model_copy(update=small))
    student, seeds = mlp(task, width=min(48, settings.student_width)), (0, 1, 2)
    plan = student_plan(settings).model_copy(update={"steps": budget, "eval_every": 50})
    stage = min(300, budget // 4)
    known = {"one_shot": one_shot(0.0), "extracted": extracted(stage, temperature=0.0)}
    runs = distill(teacher, student, task, known, seeds, plan, device="cpu")
    return Workbench(task, teacher, student, plan, seeds, stage, known, runs)
