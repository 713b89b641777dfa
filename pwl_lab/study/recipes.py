"""What several notebooks share, made by the same recipe everywhere, so that the store makes it only once."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from jaxtyping import Float, Int, UInt8
from torch import Tensor

from pwl_lab.distill.curriculum import Curriculum, extracted, from_labels, one_shot, progressive
from pwl_lab.distill.probes import CorrelationProbe, TeacherReadings, probe_teacher
from pwl_lab.models import ModelConfig, mlp, resnet, vgg, vit
from pwl_lab.study.results import DistillationRuns, Pair
from pwl_lab.study.settings import PROBE_SAMPLES, CurriculaSettings, ImageSettings, LoadingSettings
from pwl_lab.study.verbs import distill, run_cases, train_or_load, train_pair
from pwl_lab.support.config import Family
from pwl_lab.swap.masks import all_masks, check_whole_cube
from pwl_lab.swap.orders import loading_orders
from pwl_lab.swap.pair_training import PairLossConfig
from pwl_lab.tasks.augment import Augmentation
from pwl_lab.tasks.images import ImageTask
from pwl_lab.tasks.parity import SparseParity
from pwl_lab.training import TrainedModel, TrainPlan, image_plan


def parity_teacher(settings: CurriculaSettings, n_bits: int | None = None) -> tuple[SparseParity, TrainedModel]:
    """The parity task and the teacher of notebook 02, with its checkpoints.

    Arguments:
    - `settings`: of that notebook.
    - `n_bits`: bits of the task, where they are not those of the settings.
    """
    task = SparseParity(
        n_bits or settings.n_bits, settings.k_sparse, support=settings.support, eval_samples=settings.eval_samples
    )
    plan = TrainPlan(
        steps=settings.teacher_max_steps,
        batch_size=settings.batch_size,
        lr=settings.teacher_lr,
        momentum=settings.teacher_momentum,
        eval_every=settings.teacher_eval_every,
        stop_at=1.0,
        saturation=settings.saturation,
        keep_checkpoints=True,
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
    """How long and with what optimiser the students of notebook 02 are trained."""
    return TrainPlan(
        steps=settings.budget_steps,
        batch_size=settings.batch_size,
        lr=settings.student_lr,
        eval_every=settings.eval_every,
        stop_at=1.0,
    )


def curricula_runs(
    settings: CurriculaSettings, names: Sequence[str] | None = None, seeds: Sequence[int] | None = None
) -> DistillationRuns:
    """The students of notebook 02.

    Arguments:
    - `settings`: of that notebook.
    - `names`: some of its curricula; none: all four.
    - `seeds`: others than those of the settings.
    """
    task, teacher = parity_teacher(settings)
    chosen = {name: one for name, one in parity_curricula(settings).items() if names is None or name in names}
    student, plan = mlp(task, width=settings.student_width), student_plan(settings)
    return distill(teacher, student, task, chosen, seeds or settings.seeds, plan, device=settings.device)


def parity_readings(task: SparseParity, teacher: TrainedModel) -> TeacherReadings:
    """The teacher of notebook 02 under the correlation probe, checkpoint by checkpoint."""
    return probe_teacher(teacher, CorrelationProbe.draw(task, samples=PROBE_SAMPLES))


def image_task(settings: ImageSettings) -> ImageTask:
    """The images, with the augmentation of their training batches."""
    augment = Augmentation(crop_padding=settings.crop_padding, rotation_degrees=settings.rotation_degrees)
    return ImageTask(settings.dataset, settings.n_train, augment)


def image_models(settings: ImageSettings, task: ImageTask) -> tuple[ModelConfig, ModelConfig]:
    """The architectures of teacher and student, of the family that `settings` ask for.

    Arguments:
    - `settings`: family, channels, depths and heads of both.
    - `task`: gives the shape of an image and the number of classes.
    """
    return _image_model(settings, task, "teacher"), _image_model(settings, task, "student")


def _image_model(settings: ImageSettings, task: ImageTask, who: str) -> ModelConfig:
    """The architecture of `who`, teacher or student: an entry for each family that the settings know."""
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
    return image_plan(epochs * epoch, lr, settings.batch_size, settings.optimiser, eval_every=max(1, epoch // 2))


def image_teacher(settings: ImageSettings, seed: int) -> TrainedModel:
    """The teacher of a family, with a checkpoint after every half epoch."""
    task = image_task(settings)
    plan = _plan_in_epochs(settings, task, settings.teacher_epochs, settings.teacher_lr)
    plan = plan.model_copy(update={"keep_checkpoints": True})
    return train_or_load(image_models(settings, task)[0], task, plan, seed, settings.device)


def pair_losses(settings: ImageSettings) -> PairLossConfig:
    """The losses of PWL training, with the masks that were asked for."""
    return PairLossConfig(
        sync=settings.sync_weight,
        cross=settings.cross_weight,
        masks=settings.masks,
        cross_passes=settings.cross_passes,
        cross_groups=settings.cross_groups,
    )


def image_plan_of_pair(settings: LoadingSettings, task: ImageTask) -> TrainPlan:
    """How student and converters of notebook 04 are trained."""
    return _plan_in_epochs(settings, task, settings.pair_epochs, settings.pair_lr)


def loading_pair(settings: LoadingSettings, seed: int) -> tuple[TrainedModel, Pair]:
    """The teacher of one seed and its pair, as notebook 04 trains them.

    Arguments:
    - `settings`: of that notebook.
    - `seed`: of teacher, student and converters.
    """
    task, teacher = image_task(settings), image_teacher(settings, seed)
    student, plan = image_models(settings, task)[1], image_plan_of_pair(settings, task)
    return teacher, train_pair(teacher, student, task, plan, pair_losses(settings), seed, settings.device)


def loading_pairs(settings: LoadingSettings) -> tuple[list[TrainedModel], list[Pair]]:
    """Teachers and pairs of all seeds; those that are not in the store are trained side by side."""
    cases = [{"settings": settings, "seed": seed} for seed in settings.seeds]
    teachers, pairs = zip(*run_cases(loading_pair, cases, f"{settings.family} pairs", settings.device), strict=True)
    return list(teachers), list(pairs)


@dataclass(frozen=True)
class SamplePredictions:
    """A few test images and what each of the 2^n masks predicts for them: computed once, then only looked up."""

    images: UInt8[Tensor, "n height width *colours"]
    labels: Int[Tensor, " n"]
    class_names: tuple[str, ...]
    predicted: dict[str, Int[Tensor, " n"]]
    confidence: dict[str, Float[Tensor, " n"]]

    @property
    def n_blocks(self) -> int:
        """How many blocks the masks name."""
        return len(next(iter(self.predicted)))

    def right(self, mask: str) -> list[bool]:
        """For each image whether its prediction at `mask` is its class."""
        return (self.predicted[mask] == self.labels).tolist()


def sample_predictions(pair: Pair, task: ImageTask, n_samples: int = 6, pool: int = 400) -> SamplePredictions:
    """Test images whose prediction changes while blocks arrive in prefix order, and what each mask predicts for them.

    Arguments:
    - `pair`: whose masks predict.
    - `task`: its images.
    - `n_samples`: how many images; those first whose prediction changes most often.
    - `pool`: how many test images they are picked from, *because* they change: they show what loading does, not how often.

    Raises InvalidValueError for a pair of more than `MOST_BLOCKS` blocks.
    """
    images, batch = task.sample(pool)
    device = next(pair.net.parameters()).device
    inputs = batch.inputs.to(device)
    predicted, _ = pair.predictions(inputs, loading_orders(pair.n_blocks)["prefix"])
    changes = (predicted[1:] != predicted[:-1]).sum(dim=0).cpu()
    chosen = changes.argsort(descending=True, stable=True)[:n_samples]
    masks = all_masks(check_whole_cube(pair.n_blocks))
    predicted, confidence = pair.predictions(inputs[chosen.to(device)], masks)
    return SamplePredictions(
        images=images[chosen],
        labels=batch.labels[chosen],
        class_names=task.class_names,
        predicted=dict(zip(masks, predicted.cpu(), strict=True)),
        confidence=dict(zip(masks, confidence.cpu(), strict=True)),
    )
