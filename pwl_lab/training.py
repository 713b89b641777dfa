"""One training loop for everything: a teacher, a cohort of students, the student and converters of a pair.

A `TrainPlan` sets the length, the optimiser and the schedule. A `Learner` defines what differs: its losses, its
evaluation, when it is done. Everything else is shared and found here: optimiser steps, the schedule, gradient
clipping, evaluation, the history, the progress bar, exact resume, and the error for a loss that is not finite.
"""

import hashlib
import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, Literal, Self

import pandas as pd
import torch
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from pwl_lab.fast import is_plain
from pwl_lab.fast.allocator import keep_freed_memory
from pwl_lab.fast.two_layer_step import TwoLayerStep, two_layers
from pwl_lab.models.blocknet import BlockNet, ModelConfig, build
from pwl_lab.support.config import Fraction, Frozen, LearningRate, Products, Steps
from pwl_lab.support.errors import DivergedError, invalid
from pwl_lab.support.progress import Progress
from pwl_lab.support.resuming import Training
from pwl_lab.support.rows import evaluating
from pwl_lab.support.seeding import begin_noise, kept_generators
from pwl_lab.support.timing import phase
from pwl_lab.tasks.base import Batch, Task, accuracy, at_once, batches_of, check_inputs, label_loss, split_of
from pwl_lab.tasks.checks import check_count


class TrainPlan(Frozen):
    """The length of a training, its optimiser and its schedule; the loss belongs to the learner."""

    steps: Steps = Field(description="the most optimiser steps")
    batch_size: int = Field(128, ge=1, description="samples per step")
    optimiser: Literal["sgd", "adam"] = Field("sgd", description="plain or momentum SGD, or Adam")
    lr: LearningRate = Field(0.1, description="(peak) learning rate")
    momentum: float = Field(0.0, ge=0.0, lt=1.0, description="of SGD")
    nesterov: bool = Field(True, description="Nesterov's momentum; False: the classical one (heavy-ball)")
    weight_decay: float = Field(0.0, ge=0.0, description="L2 penalty")
    schedule: Literal["constant", "cosine"] = Field(
        "constant", description="cosine: a short warm-up, then decay to a thousandth"
    )
    clip_norm: float | None = Field(None, gt=0.0, description="largest norm of the gradient")
    eval_every: Steps = Field(100, description="steps between evaluations")
    stop_at: Fraction | None = Field(None, description="stop when the validation accuracy reaches this")
    saturation: float = Field(1.0, ge=1.0, description="train for this multiple of the steps needed to reach `stop_at`")
    keep_checkpoints: bool = Field(False, description="keep the weights of every evaluation until `stop_at` is reached")
    keep_at: tuple[Fraction, ...] | None = Field(
        None, description="of these checkpoints, keep only the first that reaches each of these validation accuracies"
    )
    loop: Literal["plain", "fast"] = Field(
        "plain", description="fast: without autograd; for SGD on labels, one hidden layer and two logits only"
    )
    # Left out where it is the default: a result is the same, and has the key that it had before there was a choice.
    products: Products = Field(
        "float32",
        exclude_if=lambda value: value == "float32",
        description="bfloat16: training under autocast; weights and evaluations keep their type. Not for loop = fast, which "
        "multiplies in bfloat16 wherever that is faster",
    )

    @model_validator(mode="after")
    def _fast_is_sgd(self) -> Self:
        if self.loop == "fast" and (self.optimiser != "sgd" or self.clip_norm is not None):
            raise ValueError("loop = 'fast' is SGD without clipping: set optimiser = 'sgd' and clip_norm = None")
        if self.loop == "fast" and self.products != "float32":
            raise ValueError("loop = 'fast' chooses the type of its products by itself: leave products out")
        return self


def image_plan(
    steps: int,
    lr: float,
    batch_size: int = 128,
    optimiser: Literal["sgd", "adam"] = "sgd",
    eval_every: int = 100,
    products: Products = "float32",
) -> TrainPlan:
    """A cosine schedule with, for SGD, the settings of arXiv 2509.22319: Nesterov momentum 0.9, weight decay 5e-4.

    The gradient's norm is clipped at 2 (our choice), which allows a higher learning rate in a short training. Adam is
    used without momentum settings and weight decay.
    """
    sizes = {"steps": steps, "batch_size": batch_size, "eval_every": eval_every}
    sgd = {"momentum": 0.9, "weight_decay": 5e-4} if optimiser == "sgd" else {}
    kind = {"optimiser": optimiser, "products": products}
    return TrainPlan(**sizes, **sgd, **kind, lr=lr, schedule="cosine", clip_norm=2.0)


def make_optimiser(plan: TrainPlan, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    """The optimiser that `plan` names, for these parameter groups."""
    options: dict[str, Any] = {"lr": plan.lr, "weight_decay": plan.weight_decay, "foreach": True}
    if plan.optimiser == "sgd":
        options |= {"momentum": plan.momentum, "nesterov": plan.nesterov and plan.momentum > 0}
    kind = torch.optim.Adam if plan.optimiser == "adam" else torch.optim.SGD
    made: torch.optim.Optimizer = _eager(kind)(groups, **options)
    return made


@cache
def _eager(kind: Any) -> Any:
    """An identical subclass of this class of optimisers, except that its methods are not wrapped for torch.compile.

    To prepare them, the first optimiser of a process imports torch._dynamo, which takes 1.4 s, half as long as torch itself.
    """
    names = ("add_param_group", "load_state_dict", "state_dict", "zero_grad")
    plain = {name: inspect.unwrap(getattr(kind, name)) for name in names}
    return type(kind.__name__, (kind,), plain | {"step": torch.no_grad()(inspect.unwrap(kind.step))})


def _products(plan: TrainPlan, device: str) -> AbstractContextManager[object]:
    """Autocast, if the plan asks for it."""
    return torch.autocast(device, torch.bfloat16) if plan.products == "bfloat16" else nullcontext()


def learning_rate_factor(plan: TrainPlan, step: int) -> float:
    """The factor by which the learning rate is multiplied at `step` (counted from 0)."""
    if plan.schedule == "constant":
        return 1.0
    warmup = max(1, plan.steps // 20)
    if step < warmup:
        return (step + 1) / warmup
    progress = (step - warmup) / max(1, plan.steps - warmup)
    return 0.001 + 0.999 * 0.5 * (1 + math.cos(math.pi * progress))


Losses = dict[str, Float[Tensor, ""]]


class Learner(ABC):
    """What is trained: its parameters, its loss terms, its evaluation, and when it is done."""

    stop_at: float | None = None  # `TrainPlan.stop_at`, for learners without a rule of their own

    @abstractmethod
    def parameter_groups(self, lr: float) -> list[dict[str, Any]]:
        """Parameter groups for the optimiser, each with its learning rate."""

    @abstractmethod
    def losses(self, batch: Batch, step: int) -> Losses:
        """Named loss terms; the one named `total` is minimised."""

    @abstractmethod
    def evaluate(self, step: int) -> list[dict[str, Any]]:
        """Rows for the history: the metrics after `step` steps."""

    def state(self) -> dict[str, Any]:
        """Everything that training changes. A class of learners without a `state` of its own is not resumed."""
        raise NotImplementedError

    def restore(self, state: dict[str, Any], optimiser: torch.optim.Optimizer) -> None:
        """Become what `state` describes, just after creation. What is not trained any more leaves the (new) optimiser."""
        raise NotImplementedError

    def step(self, batch: Batch, step: int, optimiser: torch.optim.Optimizer, plan: TrainPlan) -> Losses:
        """Take optimiser step `step` (from 1) on this batch; the loss terms before it, detached.

        Raises InvalidValueError for `loop = "fast"`, which only learners with a step of their own know.
        """
        if plan.loop == "fast" and not is_plain():
            raise invalid("loop", "fast", "plain; fast is for networks with one hidden layer and two logits, on labels")
        with _products(plan, batch.inputs.device.type):
            terms = self.losses(batch, step - 1)
        optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(terms["total"])
        if plan.clip_norm is not None:
            self.clip_gradients(plan.clip_norm, optimiser)
        optimiser.step()
        return {name: value.detach() for name, value in terms.items()}

    def clip_gradients(self, largest: float, optimiser: torch.optim.Optimizer) -> None:
        """Scale the gradient so that its norm over all parameters is at most `largest`."""
        nn.utils.clip_grad_norm_([p for group in optimiser.param_groups for p in group["params"]], largest)

    def finished(self, step: int, rows: list[dict[str, Any]], optimiser: torch.optim.Optimizer) -> bool:
        """Whether to stop early; called after each evaluation."""
        return self.stop_at is not None and rows[-1]["accuracy"] >= self.stop_at


def train(learner: Learner, batches: Iterator[Batch], plan: TrainPlan, description: str) -> pd.DataFrame:
    """Train until the plan's steps are done or the learner is finished; return the history of its evaluations.

    The rows have `step` (optimiser steps done), `samples` (seen so far), the loss terms averaged since the last
    evaluation, and what `learner.evaluate` returns. Raises DivergedError if the total loss is not finite.

    Arguments:
    - `learner`: what is trained.
    - `batches`: one for each step.
    - `plan`: length, optimiser and schedule.
    - `description`: the name of the run in the progress bar and in errors.
    """
    keep_freed_memory()  # for speed alone
    optimiser = make_optimiser(plan, learner.parameter_groups(plan.lr))
    schedule = LambdaLR(optimiser, partial(learning_rate_factor, plan))
    run = Training(learner, optimiser, schedule, batches, _evaluated(learner, 0, plan, {}))
    with Progress(description, plan.steps) as bar, kept_generators(run.device):
        run.begin(plan, bar)
        for step in range(run.step + 1, plan.steps + 1):
            run.pause(step - 1)
            for name, value in learner.step(next(batches), step, optimiser, plan).items():
                run.seen[name].append(value)
            schedule.step()
            if step % plan.eval_every and step != plan.steps:
                bar.advance()
                continue
            means = {name: float(sum(values)) / len(values) for name, values in run.seen.items()}
            _check_finite(means, step, description)
            rows = _evaluated(learner, step, plan, means)
            for row in rows:
                _check_finite({"validation_loss": row.get("validation_loss", 0.0)}, step, description)
            run.history += rows
            bar.advance(1, loss=means["total"], **_headline(rows))
            bar.evaluated(rows)
            run.seen.clear()
            if learner.finished(step, rows, optimiser):
                break
    return pd.DataFrame(run.history)


@phase("evaluation")
def _evaluated(learner: Learner, step: int, plan: TrainPlan, means: dict[str, float]) -> list[dict[str, Any]]:
    """The rows of an evaluation with step, samples and the mean loss terms in front."""
    front = {"step": step, "samples": step * plan.batch_size}
    return [front | {f"loss_{name}": value for name, value in means.items()} | row for row in learner.evaluate(step)]


def _headline(rows: list[dict[str, Any]]) -> dict[str, float]:
    """The accuracy for the progress bar: the mean over rows that have one."""
    values = [row["accuracy"] for row in rows if row.get("accuracy") is not None]
    return {"accuracy": sum(values) / len(values)} if values else {}


def _check_finite(means: dict[str, float], step: int, description: str) -> None:
    """Raise DivergedError if a loss is not finite."""
    broken = [name for name, value in means.items() if not math.isfinite(value)]
    if broken:
        raise diverged(f"{description}: {', '.join(broken)}", step)


def diverged(what: str, step: int) -> DivergedError:
    """The error for a training whose loss was found not to be finite at this step."""
    return DivergedError(
        f"{what} is not finite by step {step}. "
        "Lower the learning rate (lr) or set clip_norm; nothing from this run is kept."
    )


@dataclass(frozen=True)
class Checkpoint:
    """A teacher during its training: its weights and validation accuracy after `step` steps."""

    step: int
    accuracy: float
    state: dict[str, Tensor]


@dataclass
class TrainedModel:
    """A trained network with its history and its checkpoints.

    `reached_at` is the step at which `stop_at` was first reached (None: never); `fingerprint` is the store's key for
    how it was trained, and therefore part of the key of everything derived from it.
    """

    config: ModelConfig
    model: BlockNet
    history: pd.DataFrame
    checkpoints: list[Checkpoint]
    test_accuracy: float
    reached_at: int | None
    fingerprint: str

    def checkpoint(self, at_accuracy: float | None = None, at_step: int | None = None) -> Checkpoint:
        """The first checkpoint that reached `at_accuracy`, or the one at step `at_step`.

        Raises InvalidValueError, which lists the checkpoints, if none matches.
        """
        for checkpoint in self.checkpoints:
            if checkpoint.step == at_step or (at_accuracy is not None and checkpoint.accuracy >= at_accuracy):
                return checkpoint
        there = ", ".join(f"{c.step} ({c.accuracy:.1%})" for c in self.checkpoints) or "none were kept"
        name, value = ("at_step", at_step) if at_accuracy is None else ("at_accuracy", at_accuracy)
        raise invalid(name, value, f"one of the teacher's checkpoints, step (validation accuracy): {there}")

    def at(self, checkpoint: Checkpoint) -> BlockNet:
        """The network as it was at `checkpoint`, frozen and in eval mode."""
        net = self.config.make().to(next(self.model.parameters()).device)
        net.load_state_dict(checkpoint.state)
        return net.eval().requires_grad_(False)


def fit(config: ModelConfig, task: Task, plan: TrainPlan, seed: int, device: str = "cpu") -> TrainedModel:
    """Train a network on the labels of a task: this is how every teacher is trained.

    Arguments:
    - `config`: the architecture of the network.
    - `task`: provides batches and splits; checkpoints and early stopping use the validation split.
    - `plan`: length, optimiser and schedule.
    - `seed`: for the initial weights and the batches.
    - `device`: where to compute.
    """
    model = build(config, seed, device)
    learner = SupervisedLearner(model, split_of(task, "validation", device), plan, seed)
    history = train(learner, batches_of(task, seed, plan.batch_size, device), plan, f"{config.family} teacher")
    model.eval().requires_grad_(False)
    test = split_of(task, "test", device)
    test_accuracy = accuracy(predict(model, test.inputs), test.labels)
    return TrainedModel(
        config, model, history, learner.checkpoints, test_accuracy, learner.reached_at, weights_hash(model)
    )


def weights_hash(model: nn.Module) -> str:
    """SHA-256 (hex) of a network's weights: the fingerprint of a network that did not come from the store."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        content = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)  # numpy does not support all types
        digest.update(name.encode() + content.numpy().tobytes())
    return digest.hexdigest()


class SupervisedLearner(Learner):
    """Cross-entropy on labels: how every teacher is trained."""

    def __init__(self, model: BlockNet, validation: Batch, plan: TrainPlan, seed: int = 0) -> None:
        """Early stopping and checkpoints use `validation`; the test split is never seen here. `seed` is that of dropout."""
        self.model, self.validation, self.plan, self.seed = model, validation, plan, seed
        self.checkpoints: list[Checkpoint] = []
        self.reached_at: int | None = None
        self._fast_step: TwoLayerStep | None = None

    def step(self, batch: Batch, step: int, optimiser: torch.optim.Optimizer, plan: TrainPlan) -> Losses:
        """As for every learner; with `loop = "fast"` without autograd, if the network allows it."""
        if plan.loop == "fast" and self._fast_step is None and not is_plain() and (layers := two_layers(self.model)):
            assert isinstance(optimiser, torch.optim.SGD)
            self._fast_step = TwoLayerStep(*layers, optimiser)  # not before the optimiser's momentum is restored
        if self._fast_step is None:
            return super().step(batch, step, optimiser, plan)
        return {"total": self._fast_step(batch.inputs.flatten(1), batch.labels)}

    def parameter_groups(self, lr: float) -> list[dict[str, Any]]:
        """All parameters in one group."""
        return [{"params": list(self.model.parameters()), "lr": lr}]

    def state(self) -> dict[str, Any]:
        """The network, its checkpoints, and when it reached `stop_at`."""
        kept = [(one.step, one.accuracy, one.state) for one in self.checkpoints]
        return {"model": self.model.state_dict(), "checkpoints": kept, "reached_at": self.reached_at}

    def restore(self, state: dict[str, Any], optimiser: torch.optim.Optimizer) -> None:
        """Become what `state` describes."""
        self.model.load_state_dict(state["model"])
        self.checkpoints = [Checkpoint(*kept) for kept in state["checkpoints"]]
        self.reached_at = state["reached_at"]

    def losses(self, batch: Batch, step: int) -> Losses:
        """`total`: the mean cross-entropy."""
        self.model.train()
        begin_noise(self.seed, step, batch.inputs.device)
        return {"total": label_loss(self.model(batch.inputs), batch.labels)}

    def evaluate(self, step: int) -> list[dict[str, Any]]:
        """Validation accuracy and cross-entropy; keeps a checkpoint if the plan asks for them."""
        logits = predict(self.model, self.validation.inputs)
        value = accuracy(logits, self.validation.labels)
        if self.plan.keep_checkpoints and self.reached_at is None and self._is_wanted(value):
            state = {name: tensor.detach().cpu().clone() for name, tensor in self.model.state_dict().items()}
            self.checkpoints.append(Checkpoint(step, value, state))
        loss = label_loss(logits, self.validation.labels).item()
        return [{"accuracy": value, "validation_loss": loss}]

    def _is_wanted(self, value: float) -> bool:
        """Whether to keep a checkpoint of this accuracy: it is the first to reach one of `keep_at`, if that is given."""
        best = max((one.accuracy for one in self.checkpoints), default=-1.0)
        return self.plan.keep_at is None or any(best < wanted <= value for wanted in self.plan.keep_at)

    def finished(self, step: int, rows: list[dict[str, Any]], optimiser: torch.optim.Optimizer) -> bool:
        """Whether `saturation` times the steps it took to reach `stop_at` are done."""
        if self.plan.stop_at is None:
            return False
        if self.reached_at is None and rows[-1]["accuracy"] >= self.plan.stop_at:
            self.reached_at = step
        return self.reached_at is not None and step >= self.plan.saturation * self.reached_at


@phase("evaluation")
@torch.no_grad()
def predict(model: nn.Module, inputs: Tensor, chunk: int = 512) -> Float[Tensor, "batch *tokens classes"]:
    """Compute logits in eval mode; the model returns to its previous mode afterwards.

    Raises InvalidValueError unless `inputs` are what the model takes (finite floats of its type, or its tokens) and on
    its device.

    Arguments:
    - `model`: maps inputs to logits.
    - `inputs`: [batch, *shape].
    - `chunk`: how many samples to compute at once; of long strings fewer are. Of images, the states of 1024 leave the
      processor's cache, and a convolutional teacher takes a third longer.
    """
    check_inputs(inputs, net=model)
    check_count("chunk", chunk)
    with evaluating(model):
        return torch.cat([model(part) for part in torch.split(inputs, at_once(inputs, chunk))])
