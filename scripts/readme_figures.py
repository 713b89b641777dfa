"""Draw the README's two figures from the stored results of `make run` (what is not stored yet is made first)."""

from pathlib import Path

from pwl_lab import analysis, paths, plots
from pwl_lab.distill.curriculum import extracted, from_labels, one_shot, progressive
from pwl_lab.loading.pair import PairLossConfig
from pwl_lab.models import mlp, vgg
from pwl_lab.settings import CurriculaSettings, LoadingSettings
from pwl_lab.study import distill, train_or_load, train_pair
from pwl_lab.tasks.augment import Augmentation
from pwl_lab.tasks.parity import SparseParity
from pwl_lab.tasks.vision import ImageTask
from pwl_lab.training import TrainPlan

FOLDER = paths.root() / "docs" / "figures"


def curricula(target: Path) -> None:
    """Learning curves of notebook 02."""
    s = CurriculaSettings.load("lesson")
    task = SparseParity(s.n_bits, s.k_sparse, eval_samples=s.eval_samples)
    common = {"batch_size": s.batch_size, "eval_every": s.eval_every}
    plan = TrainPlan(
        steps=s.teacher_max_steps,
        lr=s.teacher_lr,
        stop_at=1.0,
        saturation=s.saturation,
        keep_checkpoints=True,
        **common,
    )
    teacher = train_or_load(mlp(task, s.teacher_width), task, plan)
    ways = {
        "scratch": from_labels(),
        "one_shot": one_shot(),
        "progressive": progressive([s.checkpoint_accuracy], s.stage_steps),
        "extracted": extracted(s.stage_steps),
    }
    plan = TrainPlan(steps=s.budget_steps, lr=s.student_lr, stop_at=0.999, **common)
    runs = distill(teacher, mlp(task, s.student_width), task, ways, s.seeds, plan)
    plots.learning_curves(runs, s.threshold).savefig(target)


def loading(target: Path) -> None:
    """Loading orders of notebook 04."""
    s = LoadingSettings.load("lesson")
    task = ImageTask(s.dataset, n_train=s.n_train, augment=Augmentation(crop_padding=s.crop_padding))
    epoch = task.steps_per_epoch(s.batch_size)
    common = {
        "batch_size": s.batch_size,
        "momentum": 0.9,
        "weight_decay": 5e-4,
        "schedule": "cosine",
        "clip_norm": 2.0,
        "eval_every": epoch,
    }
    losses = PairLossConfig(masks=s.masks, cross_passes=s.cross_passes)
    pairs, accuracies = [], []
    for seed in s.seeds:
        plan = TrainPlan(steps=s.teacher_epochs * epoch, lr=s.teacher_lr, **common)
        teacher = train_or_load(vgg(task, s.teacher_channels, s.teacher_convolutions), task, plan, seed=seed)
        plan = TrainPlan(steps=s.pair_epochs * epoch, lr=s.pair_lr, **common)
        student = vgg(task, s.student_channels, s.student_convolutions)
        pairs.append(train_pair(teacher, student, task, plan, losses, seed=seed))
        accuracies.append(teacher.test_accuracy)
    curves = analysis.order_curves(analysis.stacked_masks(pairs), analysis.loading_orders(pairs[0].n_blocks))
    plots.order_curves(curves, sum(accuracies) / len(accuracies)).savefig(target)


if __name__ == "__main__":
    FOLDER.mkdir(parents=True, exist_ok=True)
    curricula(FOLDER / "curricula.svg")
    loading(FOLDER / "loading.svg")
