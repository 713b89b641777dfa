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
    found = [recipes.loading_pair(settings, seed) for seed in settings.seeds]
    pairs = [pair for _, _, pair in found]
    teacher_accuracy = sum(teacher.test_accuracy for _, teacher, _ in found) / len(found)
    curves = analysis.order_curves(analysis.stacked_masks(pairs), analysis.loading_orders(pairs[0].n_blocks))
    plots.order_curves(curves, teacher_accuracy).savefig(target)


if __name__ == "__main__":
    FOLDER.mkdir(parents=True, exist_ok=True)
    curricula(FOLDER / "curricula.svg")
    loading(FOLDER / "loading.svg")
