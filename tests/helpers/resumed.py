"""Small trainings of every learner, and a process that is killed in the middle of one.

`python resumed.py KIND step|write N`: begin the training; SIGKILL at the N-th step, or in the middle of the N-th
checkpoint's write. A checkpoint is due after every step.
"""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from toys import PARITY, VGG_STUDENT, VGG_TEACHER, ToyImages

from pwl_lab.distill.curriculum import extracted, one_shot
from pwl_lab.fast import plain
from pwl_lab.models import LanguageTransformerConfig, MLPConfig
from pwl_lab.study.verbs import distill, train_or_load, train_pair, train_pairs
from pwl_lab.support import resuming
from pwl_lab.swap.pair_training import PairLossConfig
from pwl_lab.tasks.images import ImageTask
from pwl_lab.tasks.sequences import GrammarTask
from pwl_lab.training import TrainedModel, TrainPlan

SGD = {"lr": 0.2, "momentum": 0.9, "weight_decay": 1e-3, "schedule": "cosine", "clip_norm": 1.0}
SHORT = TrainPlan(steps=6, batch_size=8, eval_every=3, lr=0.1, keep_checkpoints=True)
LONG = TrainPlan(steps=40, batch_size=8, eval_every=7, **SGD)
DIGITS = MLPConfig(n_inputs=64, widths=(8, 8), n_classes=10)


def mlp_teacher() -> TrainedModel:
    plan = LONG.model_copy(update={"keep_checkpoints": True, "stop_at": 0.99})
    return train_or_load(MLPConfig(n_inputs=6, widths=(16, 12)), PARITY, plan, device="cpu")


def two_layer_teacher() -> TrainedModel:
    plan = LONG.model_copy(update={"clip_norm": None, "loop": "fast", "nesterov": False})
    return train_or_load(MLPConfig(n_inputs=6, widths=(16,)), PARITY, plan, device="cpu")


def language_teacher() -> TrainedModel:
    task = GrammarTask("hidden", eval_strings=20)
    config = LanguageTransformerConfig(
        length=task.input_shape[0], n_tokens=task.n_tokens, n_classes=task.n_classes, layers=2, width=8, heads=2
    )
    plan = TrainPlan(steps=20, batch_size=4, eval_every=6, lr=0.01, optimiser="adam")
    return train_or_load(config, task, plan, device="cpu")


def image_teacher() -> TrainedModel:
    task = ImageTask("digits")
    channels = VGG_TEACHER.model_copy(update={"n_classes": 10})
    plan = LONG.model_copy(update={"batch_size": 400, "products": "bfloat16"})
    return train_or_load(channels, task, plan, device="cpu")


def _students() -> Any:
    """Some of them arrive, and leave, before others."""
    teacher = train_or_load(MLPConfig(n_inputs=6, widths=(32, 16)), PARITY, SHORT, device="cpu")
    curricula = {"one-shot": one_shot(), "extracted": extracted(steps=9)}
    plan = LONG.model_copy(update={"stop_at": 0.55, "eval_every": 3})
    student, rates = MLPConfig(n_inputs=6, widths=(8, 7)), {"extracted": 0.3}
    return distill(teacher, student, PARITY, curricula, range(4), plan, device="cpu", rates=rates)


def stacked_students() -> Any:
    return _students()


def separate_students() -> Any:
    with plain():
        return _students()


def pair() -> Any:
    task = ToyImages()
    teacher = train_or_load(VGG_TEACHER, task, SHORT, device="cpu")
    losses = PairLossConfig(student_joins_at=0.3, masks="alternating")
    return train_pair(teacher, VGG_STUDENT, task, LONG, losses, device="cpu", curriculum=extracted(steps=9))


def pairs() -> Any:
    task = ToyImages()
    teacher = train_or_load(VGG_TEACHER, task, SHORT, device="cpu")
    arms = [(PairLossConfig(student_joins_at=0.3, masks="alternating"), extracted(steps=9)), (PairLossConfig(), None)]
    return train_pairs(teacher, VGG_STUDENT, task, LONG, arms, device="cpu")


KINDS: dict[str, Callable[[], Any]] = {
    made.__name__: made
    for made in (
        mlp_teacher,
        two_layer_teacher,
        language_teacher,
        image_teacher,
        stacked_students,
        separate_students,
        pair,
        pairs,
    )
}


def content(result: Any) -> dict[str, Any]:
    """All numbers of a result: tensors by name, and tables as lists."""
    if isinstance(result, list):
        return {f"{number}": content(one) for number, one in enumerate(result)}
    if isinstance(result, TrainedModel):
        checkpoints = {f"{one.step}/{name}": value for one in result.checkpoints for name, value in one.state.items()}
        facts = {"history": result.history.to_dict("list"), "reached": result.reached_at, "test": result.test_accuracy}
        return dict(result.model.state_dict()) | checkpoints | facts
    if hasattr(result, "net"):
        tables = {name: getattr(result, name).to_dict("list") for name in ("history", "masks", "classes")}
        own = {**result.net.student.state_dict(prefix="student."), **result.net.converters.state_dict(prefix="to.")}
        return own | tables | {"right": result.right}
    weights = {f"{who}/{name}": value for who, state in result.weights.items() for name, value in state.items()}
    return weights | {"history": result.history.to_dict("list")}


def main(kind: str, how: str, number: int) -> None:
    resuming.EVERY_S = 0.0
    if kind in ("pair", "pairs", "stacked_students", "separate_students"):  # their teachers are not to be killed
        with_teacher(kind)
    left = [number]

    def die(*_: Any) -> None:
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    if how == "write":
        resuming.settle = die
    else:
        whole = resuming.Training.pause

        def pause(run: resuming.Training, done: int) -> None:
            whole(run, done)
            die()

        resuming.Training.pause = pause
    KINDS[kind]()


def with_teacher(kind: str) -> None:
    """Make the teacher first."""
    if kind in ("pair", "pairs"):
        train_or_load(VGG_TEACHER, ToyImages(), SHORT, device="cpu")
    elif kind == "separate_students":
        with plain():
            train_or_load(MLPConfig(n_inputs=6, widths=(32, 16)), PARITY, SHORT, device="cpu")
    else:
        train_or_load(MLPConfig(n_inputs=6, widths=(32, 16)), PARITY, SHORT, device="cpu")


def checkpoints(store: Path) -> list[Path]:
    return sorted((store / "unfinished").rglob(f"*{resuming.SUFFIX}"))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
