"""Draw the README's two figures from the stored results of `make run` (what is not stored yet is made first)."""

from pathlib import Path

from pwl_lab import analysis, paths, plots, recipes
from pwl_lab.settings import CurriculaSettings, LoadingSettings

FOLDER = paths.root() / "docs" / "figures"


def curricula(target: Path) -> None:
    """Learning curves of notebook 02."""
    settings = CurriculaSettings.load("lesson")
    plots.learning_curves(recipes.curricula_runs(settings), settings.threshold).savefig(target)


def loading(target: Path) -> None:
    """Loading orders of notebook 04."""
    settings = LoadingSettings.load("lesson")
    teachers, pairs = recipes.loading_pairs(settings)
    teacher_accuracy = sum(teacher.test_accuracy for teacher in teachers) / len(teachers)
    curves = analysis.order_curves(analysis.stacked_masks(pairs), analysis.loading_orders(pairs[0].n_blocks))
    plots.order_curves(curves, teacher_accuracy).savefig(target)


if __name__ == "__main__":
    FOLDER.mkdir(parents=True, exist_ok=True)
    curricula(FOLDER / "curricula.svg")
    loading(FOLDER / "loading.svg")
