"""Sweeps over sparse parity: teachers and students of many draws and settings at once (`pwl_lab.fast.two_layer`).

A *draw* is the unit of resampling: a support, a teacher with its own initial weights and samples, and a student with its
own initial weights, projection and stream of samples. Settings (learning rate, stage length) are compared on the same
draw. Every table has one row per draw and setting.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import pandas as pd
import torch
from jaxtyping import Int
from torch import Tensor

from pwl_lab.fast.two_layer import Nets, Projections, Rates, Run, Stage, Tasks, Watcher, joined, train_all
from pwl_lab.support.seeding import generator
from pwl_lab.support.timing import phase
from pwl_lab.tasks.checks import CALIBRATION_SAMPLES

Curriculum = Literal["labels", "one_shot", "progressive", "even", "extracted"]
TEST_SAMPLES = 2_048
EVENLY = 8  # parts of a teacher's way to its threshold; `even` shows it at the end of all but the last
ROLE = "sweep"  # a role of its own: these streams are not those of the notebooks' teachers and cohorts


@dataclass(frozen=True)
class Draws:
    """One group per size and seed: `rows` says which (n, k, seed)."""

    rows: tuple[dict[str, int], ...]
    tasks: Tasks
    test: tuple[Tensor, Tensor]
    device: str

    @classmethod
    def of(cls, sizes: Sequence[tuple[int, int]], seeds: Sequence[int], device: str = "cpu") -> "Draws":
        """All pairs of a size (n, k) and a seed."""
        rows = tuple({"n": n, "k": k, "seed": seed} for n, k in sizes for seed in seeds)
        supports = [
            torch.randperm(row["n"], generator=generator(row["seed"], "support", ROLE))[: row["k"]].tolist()
            for row in rows
        ]
        tasks = Tasks.of([row["n"] for row in rows], supports, device)
        return cls(rows, tasks, tasks.draw(TEST_SAMPLES, on_device(rows[0]["seed"], "evaluation", device)), device)

    @property
    def seeds(self) -> list[int]:
        """The seed of each group."""
        return [row["seed"] for row in self.rows]

    def streams(self, name: str) -> list[torch.Generator]:
        """Each group's own random stream, on the CPU."""
        return [generator(row["seed"], name, f"{ROLE} {row['k']}{row['n']:05d}") for row in self.rows]

    def at(self, groups: Tensor) -> "Draws":
        """Some of the groups."""
        inputs, signs = self.test
        rows = tuple(self.rows[group] for group in groups.tolist())
        return Draws(rows, self.tasks.at(groups), (inputs[groups], signs[groups]), self.device)


def on_device(seed: int, name: str, device: str) -> torch.Generator:
    """The stream `name` of a seed, drawn where the networks are."""
    return generator(seed, name, ROLE, device)


def growing(ratio: float = 1.02, least: int = 4) -> Callable[[int], int]:
    """Evaluate at steps that grow by this ratio (a threshold is then known to this precision), by `least` at first."""
    return lambda step: max(step + least, int(step * ratio))


def every(steps: int) -> Callable[[int], int]:
    """Evaluate at multiples of `steps`."""
    return lambda step: step + steps


@dataclass(frozen=True)
class TeacherPlan:
    """How teachers are trained: SGD on labels until 100% on the evaluation samples, and on to saturation."""

    width: int = 1024
    lr: float = 0.2
    momentum: float = 0.9
    weight_decay: float = 0.0
    batch_size: int = 128
    budget: int = 20_000
    eval_every: int = 20
    stop_at: float = 1.0
    saturation: float = 2.0
    nesterov: bool = True
    checkpoints: tuple[float, ...] = (0.6, 0.8)
    init_scale: float = 1.0  # of the first layer's initial weights


@dataclass
class Teachers:
    """The teachers that learned their task, of `draws`; `checkpoints` by the accuracy that they first reached."""

    draws: Draws
    nets: Nets
    checkpoints: dict[float, Nets]
    reached: Int[Tensor, " groups"]
    steps: Int[Tensor, " groups"]
    even: Nets | None = None  # checkpoints at even distances on the way to `stop_at`
    missing: tuple[dict[str, int], ...] = field(default=())


@phase("training")
def train_teachers(draws: Draws, plan: TeacherPlan, even: bool = False, watch: Watcher | None = None) -> Teachers:
    """One teacher for each draw; draws whose teacher does not learn within the budget are left out and named."""
    shape, device = (len(draws.rows), 1), draws.device
    full = [torch.full(shape, value, device=device) for value in (plan.lr, plan.momentum, plan.weight_decay, 0.0)]
    nets = Nets.draw(draws.tasks, 1, plan.width, draws.streams("init"))
    nets.weight.mul_(plan.init_scale)
    history: list[tuple[int, Tensor, Nets]] = []

    def keep(step: int, groups: Tensor, seen: Nets, accuracy: Tensor) -> None:
        if even and bool((accuracy < plan.stop_at).any()):
            history.append((step, groups, seen.at(torch.arange(len(groups), device=device))))
        if watch is not None:
            watch(step, groups, seen, accuracy)

    found = train_all(
        Run(draws.tasks, nets, Rates(*full), (Stage("labels", torch.zeros(shape, device=device).long()),), plan.batch_size,
            nesterov=plan.nesterov),
        on_device(draws.seeds[0], "data", device),
        plan.budget,
        every(plan.eval_every),
        draws.test,
        sorted({*plan.checkpoints, plan.stop_at}),
        plan.saturation,
        plan.checkpoints,
        keep,
    )  # fmt: skip
    reached = found.reached[plan.stop_at][:, 0]
    there = (reached > 0).nonzero().squeeze(1)
    return Teachers(
        draws.at(there),
        found.nets.at(there),
        {value: nets.at(there) for value, nets in found.at_threshold.items()},
        reached[there],
        found.steps[there, 0],
        _even(found.nets, history, reached).at(there) if even else None,
        tuple(row for row, step in zip(draws.rows, reached.tolist(), strict=True) if step < 0),
    )


def _even(final: Nets, history: Sequence[tuple[int, Tensor, Nets]], reached: Tensor) -> Nets:
    """Checkpoints of each group at even distances on the way to its threshold."""
    stacks = []
    for part in range(1, EVENLY):
        stack = final.at(torch.arange(len(reached), device=reached.device))
        for number, (step, groups, nets) in enumerate(history):
            # The last one that is not beyond the wanted step stays; where none is, the first.
            within = ((step <= part * reached[groups] / EVENLY) | (number == 0)).unsqueeze(1)
            stack.keep(within, nets, groups)
        stacks.append(stack)
    return joined(stacks)


@dataclass(frozen=True)
class Setting:
    """How one student of each draw is trained. `stage_steps` is the length of each stage but the last."""

    lr: float
    momentum: float = 0.0
    stage_steps: int = 0
    hidden_weight: float = 5.0

    @classmethod
    def of(cls, row: "pd.Series[Any]") -> "Setting":
        """The setting in a row of a table."""
        return cls(float(row["lr"]), float(row["momentum"]), int(row["stage_steps"]), float(row["hidden_weight"]))


def stages_of(curriculum: Curriculum, steps: Int[Tensor, "groups students"], checkpoint: int = 0) -> tuple[Stage, ...]:
    """The stages of a curriculum with first stages of this length.

    Arguments:
    - `curriculum`: which one.
    - `steps`: the length of each stage but the last.
    - `checkpoint`: which of the teachers `progressive` shows first.
    """
    match curriculum:
        case "labels":
            return (Stage("labels", steps),)
        case "one_shot":
            return (Stage("output", steps),)
        case "progressive":
            return (Stage("output", steps, checkpoint), Stage("output", steps))
        case "even":
            shown = (Stage("output", steps * (number + 1), number) for number in range(EVENLY - 1))
            return (*shown, Stage("output", steps))
        case "extracted":
            return (Stage("hidden", steps), Stage("output", steps))


@phase("training")
def train_students(
    draws: Draws,
    teachers: Nets,
    curriculum: Curriculum,
    settings: Sequence[Sequence[Setting]],
    width: int,
    batch_size: int,
    budget: int,
    eval_at: Callable[[int], int],
    threshold: float = 0.99,
    nesterov: bool = True,
) -> pd.DataFrame:
    """One row per draw and setting: n, k, seed, curriculum, the setting, steps and samples to the threshold, reached.

    Where the threshold was not reached, `steps` is the budget (or the step at which the student diverged).

    Arguments:
    - `draws`: the tasks.
    - `teachers`: of every group, checkpoints first, the final one last.
    - `curriculum`: what is shown: decisions of the teachers (never soft outputs), or the final one's hidden layer.
    - `settings`: one list for all draws, or one list per draw, all of the same length.
    - `width`, `batch_size`, `budget`: of the students; the budget is in steps.
    - `eval_at`: the next step to evaluate at.
    - `threshold`: the accuracy that counts as learned.
    - `nesterov`: of their momentum.
    """
    begun, device = time.monotonic(), draws.device
    table = list(settings) * len(draws.rows) if len(settings) == 1 else list(settings)
    columns = {
        name: torch.tensor([[getattr(one, name) for one in mine] for mine in table], device=device)
        for name in ("lr", "momentum", "stage_steps", "hidden_weight")
    }
    lr, steps = columns["lr"], columns["stage_steps"]
    nets = Nets.draw(draws.tasks, lr.shape[1], width, draws.streams("student"))
    projections = None
    if curriculum == "extracted":
        many, _ = draws.tasks.draw(CALIBRATION_SAMPLES, on_device(draws.seeds[0], "probe", device))
        final = teachers.one(teachers.weight.shape[1] - 1)
        projections = Projections.fit(final, width, many, draws.streams("projection"))
    run = Run(
        draws.tasks,
        nets,
        Rates(lr, columns["momentum"], torch.zeros_like(lr), columns["hidden_weight"]),
        stages_of(curriculum, steps),
        batch_size,
        teachers,
        projections,
        nesterov,
    )
    random = on_device(draws.seeds[0], "order", device)
    found = train_all(run, random, budget, eval_at, draws.test, (threshold,))
    seconds = time.monotonic() - begun
    return _rows(draws, curriculum, table, found.reached[threshold], found.steps, batch_size, seconds)


def _rows(
    draws: Draws,
    curriculum: str,
    settings: Sequence[Sequence[Setting]],
    reached: Int[Tensor, "groups students"],
    ended: Int[Tensor, "groups students"],
    batch_size: int,
    seconds: float,
) -> pd.DataFrame:
    """The table of `train_students`; `seconds` is the time of the whole call."""
    rows: list[dict[str, Any]] = []
    for row, mine, steps, ends in zip(draws.rows, settings, reached.tolist(), ended.tolist(), strict=True):
        for setting, step, end in zip(mine, steps, ends, strict=True):
            taken = end if step < 0 else step
            rows.append(
                row
                | {"curriculum": curriculum}
                | vars(setting)
                | {"batch_size": batch_size, "steps": taken, "samples": taken * batch_size, "reached": step >= 0}
            )
    return pd.DataFrame(rows).assign(seconds=round(seconds, 1))
