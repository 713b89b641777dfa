"""Notebook 02's harder task: by default the papers' own, (100, 6), with a teacher that ships with the project.

Training it takes minutes (`scripts/make_parity_teacher.py`). What ships is the network and its checkpoints in float16, in
`data/parity_teacher.safetensors`, and beside it a JSON file with the recipe, the history and where it was made.
"""

import json
from pathlib import Path

import pandas as pd
from safetensors.torch import load_file
from torch import Tensor

from pwl_lab.distill.curriculum import Curriculum
from pwl_lab.models import ModelConfig, mlp
from pwl_lab.study import recipes
from pwl_lab.study.settings import CurriculaSettings
from pwl_lab.study.verbs import train_or_load
from pwl_lab.support import config, paths
from pwl_lab.support.errors import MissingDataError
from pwl_lab.support.files import file_sha256, is_file
from pwl_lab.tasks.parity import SparseParity
from pwl_lab.training import Checkpoint, TrainedModel, TrainPlan, weights_hash

# Validation accuracies whose first checkpoint is kept: every one would take hundreds of megabytes.
CHECKPOINTS = (0.6, 0.8)
EVALUATIONS = 2_000  # of a teacher, at most


def hard_task(settings: CurriculaSettings) -> SparseParity:
    """The harder task."""
    return SparseParity(settings.hard_n_bits, settings.hard_k_sparse, eval_samples=settings.eval_samples)


def teacher_model(settings: CurriculaSettings) -> ModelConfig:
    """The teacher's architecture."""
    return mlp(hard_task(settings), width=settings.hard_teacher_width)


def teacher_plan(settings: CurriculaSettings) -> TrainPlan:
    """How its teacher is trained: as that of the first task, but with classical momentum and by the fast loop."""
    return TrainPlan(
        steps=settings.hard_teacher_max_steps,
        batch_size=settings.batch_size,
        lr=settings.teacher_lr,
        momentum=settings.teacher_momentum,
        nesterov=False,
        eval_every=max(settings.teacher_eval_every, settings.hard_teacher_max_steps // EVALUATIONS),
        stop_at=1.0,
        keep_checkpoints=True,
        keep_at=tuple(sorted({*CHECKPOINTS, settings.hard_checkpoint_accuracy})),
        loop="fast",
    )


def hard_teacher(settings: CurriculaSettings) -> TrainedModel:
    """The teacher of the harder task: shipped, or trained, as `settings.hard_teacher` says."""
    if settings.hard_teacher == "trained":
        return train_or_load(
            teacher_model(settings), hard_task(settings), teacher_plan(settings), device=settings.device
        )
    return _shipped(settings)


def hard_curricula(settings: CurriculaSettings) -> dict[str, Curriculum]:
    """Those of the first task with the lengths of this one, without labels."""
    lengths = {"stage_steps": settings.hard_stage_steps, "checkpoint_accuracy": settings.hard_checkpoint_accuracy}
    known = recipes.parity_curricula(settings.model_copy(update=lengths))
    return {name: one for name, one in known.items() if name != "scratch"}


def hard_student_plan(settings: CurriculaSettings) -> TrainPlan:
    """The training plan of its students: that of the first task with this one's length, rate and momentum."""
    own = {
        "steps": settings.hard_budget_steps,
        "lr": settings.hard_student_lr,
        "momentum": settings.hard_student_momentum,
    }
    return recipes.student_plan(settings).model_copy(update=own)


def shipped_files() -> tuple[Path, Path]:
    """The shipped weights, and what is said of them."""
    return paths.data() / "parity_teacher.safetensors", paths.data() / "parity_teacher.json"


def _shipped(settings: CurriculaSettings) -> TrainedModel:
    """The shipped teacher. Raises MissingDataError if it is not there, or not as described."""
    weights, about = shipped_files()
    if not is_file(weights) or not is_file(about):
        raise MissingDataError(
            f"{weights} or {about.name} is missing; python scripts/make_parity_teacher.py makes both"
        )
    try:
        told = json.loads(about.read_text(encoding="utf-8"))
        expected = told["sha256"]
    except (ValueError, KeyError, TypeError):
        raise MissingDataError(f"{about} cannot be read; take it and {weights.name} from one commit") from None
    if file_sha256(weights) != expected:
        raise MissingDataError(f"{weights} is not the file that {about.name} describes; take both from one commit")
    device = config.device(settings.device)
    tensors = {name: tensor.float() for name, tensor in load_file(weights).items()}
    net = teacher_model(settings).make()
    net.load_state_dict(_part(tensors, "final"))
    return TrainedModel(
        config=teacher_model(settings),
        model=net.to(device).eval().requires_grad_(False),
        history=pd.DataFrame(told["history"]),
        checkpoints=[Checkpoint(step, value, _part(tensors, f"step{step}")) for step, value in told["checkpoints"]],
        test_accuracy=told["test_accuracy"],
        reached_at=told["reached_at"],
        fingerprint=weights_hash(net),
    )


def _part(tensors: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    """One network's weights."""
    return {key.removeprefix(f"{name}/"): tensor for key, tensor in tensors.items() if key.startswith(f"{name}/")}
