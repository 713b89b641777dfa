"""What several notebooks share, made by the same recipe everywhere, so that the store makes it only once."""

from collections.abc import Sequence

from pwl_lab.distill.curriculum import Curriculum, extracted, from_labels, one_shot, progressive
from pwl_lab.loading.pair import PairLossConfig
from pwl_lab.models import mlp, vgg
from pwl_lab.settings import CurriculaSettings, LoadingSettings
from pwl_lab.study import DistillationRuns, Pair, distill, train_or_load, train_pair
from pwl_lab.tasks.augment import Augmentation
from pwl_lab.tasks.parity import SparseParity
from pwl_lab.tasks.vision import ImageTask
from pwl_lab.training import TrainedModel, TrainPlan, image_plan


def parity_teacher(settings: CurriculaSettings, n_bits: int | None = None) -> tuple[SparseParity, TrainedModel]:
    """The parity task and the teacher of notebook 02, with its checkpoints; `n_bits` for the one of another size."""
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


def curricula(settings: CurriculaSettings) -> dict[str, Curriculum]:
    """The four curricula of notebook 02: labels, one-shot, progressive, extracted."""
    steps, temperature = settings.stage_steps, settings.temperature
    return {
        "scratch": from_labels(),
        "one_shot": one_shot(temperature),
        "progressive": progressive([settings.checkpoint_accuracy], steps, temperature),
        "extracted": extracted(steps, temperature=temperature),
    }


def curricula_runs(
    settings: CurriculaSettings, names: Sequence[str] | None = None, seeds: Sequence[int] | None = None
) -> DistillationRuns:
    """Students of notebook 02: all of its curricula and seeds (the very runs it stores), or some of them."""
    task, teacher = parity_teacher(settings)
    plan = TrainPlan(
        steps=settings.budget_steps,
        batch_size=settings.batch_size,
        lr=settings.student_lr,
        eval_every=settings.eval_every,
        stop_at=1.0,
    )
    student = mlp(task, width=settings.student_width)
    shown = {name: curriculum for name, curriculum in curricula(settings).items() if names is None or name in names}
    return distill(teacher, student, task, shown, seeds or settings.seeds, plan, device=settings.device)


def loading_pair(settings: LoadingSettings, seed: int = 0) -> tuple[ImageTask, TrainedModel, Pair]:
    """The image task, the teacher and the pair that notebook 04 trains for `seed`."""
    task = ImageTask(settings.dataset, settings.n_train, Augmentation(crop_padding=settings.crop_padding))
    epoch = task.steps_per_epoch(settings.batch_size)
    plan = image_plan(settings.teacher_epochs, epoch, settings.teacher_lr, settings.batch_size)
    model = vgg(task, settings.teacher_channels, settings.teacher_convolutions)
    teacher = train_or_load(model, task, plan, seed, settings.device)
    plan = image_plan(settings.pair_epochs, epoch, settings.pair_lr, settings.batch_size)
    losses = PairLossConfig(masks=settings.masks, cross_passes=settings.cross_passes)
    student = vgg(task, settings.student_channels, settings.student_convolutions)
    return task, teacher, train_pair(teacher, student, task, plan, losses, seed, settings.device)
