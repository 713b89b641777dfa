"""How long something is trained, and with what optimiser and schedule."""

import math
from typing import Any, Literal

import torch
from pydantic import Field

from pwl_lab.config import Fraction, Frozen, LearningRate, Steps


class TrainPlan(Frozen):
    """How long and with what optimiser; the loss belongs to the learner."""

    steps: Steps = Field(description="upper limit of optimiser steps")
    batch_size: int = Field(128, ge=1, description="samples per step")
    optimiser: Literal["sgd", "adam"] = Field("sgd", description="plain or momentum SGD, or Adam")
    lr: LearningRate = Field(0.1, description="(peak) step size")
    momentum: float = Field(0.0, ge=0.0, lt=1.0, description="of SGD, Nesterov's where above 0")
    weight_decay: float = Field(0.0, ge=0.0, description="L2 penalty")
    schedule: Literal["constant", "cosine"] = Field(
        "constant", description="cosine: short warm-up, then down to a thousandth"
    )
    clip_norm: float | None = Field(None, gt=0.0, description="largest norm of the gradient")
    eval_every: Steps = Field(100, description="steps between evaluations")
    stop_at: Fraction | None = Field(None, description="stop when the validation accuracy reaches this")
    saturation: float = Field(1.0, ge=1.0, description="go on to so many times the steps that reaching `stop_at` took")
    keep_checkpoints: bool = Field(False, description="keep the weights of every evaluation until `stop_at` is reached")


def image_plan(
    steps: int, lr: float, batch_size: int = 128, optimiser: Literal["sgd", "adam"] = "sgd", eval_every: int = 100
) -> TrainPlan:
    """A cosine schedule with, for SGD, the settings of arXiv 2509.22319: Nesterov momentum 0.9, weight decay 5e-4.

    The gradient's norm is clipped at 2 (ours): it lets a short training take larger steps. Adam goes without momentum
    settings and decay.
    """
    sgd = {"momentum": 0.9, "weight_decay": 5e-4} if optimiser == "sgd" else {}
    return TrainPlan(
        steps=steps,
        batch_size=batch_size,
        optimiser=optimiser,
        lr=lr,
        schedule="cosine",
        clip_norm=2.0,
        eval_every=eval_every,
        **sgd,
    )


def make_optimiser(plan: TrainPlan, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    """The optimiser that `plan` names over these parameter groups."""
    if plan.optimiser == "adam":
        return torch.optim.Adam(groups, lr=plan.lr, weight_decay=plan.weight_decay, foreach=True)
    return torch.optim.SGD(
        groups,
        lr=plan.lr,
        momentum=plan.momentum,
        weight_decay=plan.weight_decay,
        nesterov=plan.momentum > 0,
        foreach=True,
    )


def learning_rate_factor(plan: TrainPlan, step: int) -> float:
    """What the step size is multiplied by at `step` (counted from 0)."""
    if plan.schedule == "constant":
        return 1.0
    warmup = max(1, plan.steps // 20)
    if step < warmup:
        return (step + 1) / warmup
    progress = (step - warmup) / max(1, plan.steps - warmup)
    return 0.001 + 0.999 * 0.5 * (1 + math.cos(math.pi * progress))
