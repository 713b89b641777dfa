"""A teacher, a cohort and a PWL step against the plain loops, on one device: `python scripts/bench.py --device cuda`.

Both sides of a row run on the same device by turns, on batches that were made there once, so that a card is never
waited for in between. A turn is a second's worth of steps; it ends when the device has done them all. With bfloat16, the
products of our side run under autocast; the plain loop keeps float32. No row begins after 7 minutes: what is left out then is
said. At `smoke` size everything is tiny and a turn is one step, to show that it runs: its numbers mean nothing.

Unmeasured on a GPU: no card was at hand when it was written.
"""

import itertools
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import plain_pair
import torch
from measuring import Row
from torch import nn

from pwl_lab.distill.curriculum import extracted, one_shot
from pwl_lab.distill.students import Cohort, CurriculumLearner, SeparateCohort
from pwl_lab.distill.targets import Member, TeacherTargets
from pwl_lab.fast.stacked import StackedCohort
from pwl_lab.models import build, mlp
from pwl_lab.study.recipes import image_models, image_task
from pwl_lab.study.settings import LoadingSettings
from pwl_lab.support.seeding import generator
from pwl_lab.swap.masks import random_masks
from pwl_lab.swap.pair_training import PairLearner, PairLossConfig
from pwl_lab.swap.swapnet import SwapNet
from pwl_lab.tasks.base import Batch
from pwl_lab.tasks.parity import SparseParity
from pwl_lab.training import Learner, SupervisedLearner, TrainedModel, TrainPlan, make_optimiser

LIMIT_S = 420.0
BATCHES = 8  # made in advance; the steps take them in turn
Step = Callable[[], object]


@dataclass(frozen=True)
class Sizes:
    """How large each row is."""

    bits: tuple[int, int]
    teacher: int
    student: int
    seeds: int  # of a cohort, for each of two curricula
    batch: int
    images: int
    turn_s: float
    rounds: int


SIZES = {
    "full": Sizes((100, 6), 50_000, 100, 12, 1_024, 512, turn_s=1.0, rounds=5),
    "smoke": Sizes((12, 3), 64, 8, 2, 32, 16, turn_s=0.0, rounds=1),
}


def rows(device: str, sizes: Sizes) -> list[Row]:
    """All rows that begin within `LIMIT_S`, as for `bench.json`; their names say the device."""
    begun, found = time.perf_counter(), []
    name = torch.cuda.get_device_name() if device == "cuda" else device
    for title, unit, make in makers(device, sizes):
        if time.perf_counter() - begun > LIMIT_S:
            print(f"left out, for want of time: {title}", file=sys.stderr)
            continue
        ours, plain, amount = make()
        mine, theirs = (amount / seconds for seconds in by_turns(device, (ours, plain), sizes))
        found.append({
            "name": f"{name}: {title}", "ours": round(mine, 1), "reference": round(theirs, 1), "unit": unit,
            "ratio": round(mine / theirs, 3),
        })  # fmt: skip
    return found


def makers(device: str, sizes: Sizes) -> Iterator[tuple[str, str, Callable[[], tuple[Step, Step, int]]]]:
    """The title of each row, its unit, and what makes our step, the plain step, and how many units a step is."""
    for bfloat16 in (False, True):
        words = ", bfloat16 against float32" if bfloat16 else ""
        yield f"teacher of {sizes.teacher} units{words}", "samples/s", partial(teacher, device, sizes, bfloat16)
        yield (
            f"cohort of {2 * sizes.seeds} students{words}",
            "student-steps/s",
            partial(cohort, device, sizes, bfloat16),
        )
        for family in ("vgg", "resnet", "vit"):
            yield f"PWL step, {family}{words}", "images/s", partial(pair, device, sizes, bfloat16, family)


def by_turns(device: str, steps: tuple[Step, Step], sizes: Sizes) -> Iterator[float]:
    """Seconds of one step of each: medians over turns."""

    def seconds(step: Step, times: int) -> float:
        begun = time.perf_counter()
        for _ in range(times):
            step()
        if device == "cuda":
            torch.cuda.synchronize()  # once a turn: within it nothing waits for the card
        return (time.perf_counter() - begun) / times

    for step in steps:
        seconds(step, 2)  # kernels are chosen, memory is obtained
    times = [max(1, round(sizes.turn_s / seconds(step, 1))) for step in steps]
    turns = [[seconds(step, most) for step, most in zip(steps, times, strict=True)] for _ in range(sizes.rounds)]
    return map(statistics.median, zip(*turns, strict=True))


def step_of(learner: Learner, batches: Iterator[Batch], plan: TrainPlan, bfloat16: bool) -> Step:
    """One optimiser step of a learner, as `train` takes them, but with products in bfloat16 if asked for."""
    plan = plan.model_copy(update={"products": "bfloat16" if bfloat16 else "float32"})
    optimiser = make_optimiser(plan, learner.parameter_groups(plan.lr))
    return lambda: learner.step(next(batches), 1, optimiser, plan)


def parities(device: str, sizes: Sizes) -> tuple[SparseParity, Callable[[], Iterator[Batch]]]:
    """A parity task, and an endless stream of batches that are on the device."""
    task = SparseParity(*sizes.bits)
    made = task.batches(0, sizes.batch, device)
    kept = [next(made) for _ in range(BATCHES)]
    return task, lambda: itertools.cycle(kept)


def teacher(device: str, sizes: Sizes, bfloat16: bool) -> tuple[Step, Step, int]:
    """A parity teacher, against torch's own layers with the same plan."""
    task, batches = parities(device, sizes)
    plan = TrainPlan(steps=10**6, lr=0.1, momentum=0.9)
    learner = SupervisedLearner(build(mlp(task, sizes.teacher), 0).to(device), task.split("validation", device), plan)
    bits = sizes.bits[0]
    net = nn.Sequential(nn.Linear(bits, sizes.teacher), nn.ReLU(), nn.Linear(sizes.teacher, 2)).to(device)
    optimiser, drawn = torch.optim.SGD(net.parameters(), 0.1, 0.9, nesterov=True), batches()

    def plain() -> None:
        batch = next(drawn)
        optimiser.zero_grad()
        nn.functional.cross_entropy(net(batch.inputs), batch.labels).backward()
        optimiser.step()

    return step_of(learner, batches(), plan, bfloat16), plain, sizes.batch


def cohort(device: str, sizes: Sizes, bfloat16: bool) -> tuple[Step, Step, int]:
    """Students of two curricula side by side, against the same learner with one student after the other."""
    task, batches = parities(device, sizes)
    config, plan = mlp(task, sizes.teacher), TrainPlan(steps=10**6, lr=0.1)
    net = build(config, 0).to(device).eval().requires_grad_(False)
    trained = TrainedModel(config, net, None, [], 1.0, 0, "")  # type: ignore[arg-type]  # no history
    curricula = {"one_shot": one_shot(), "extracted": extracted(10**5)}
    members = [Member(name, seed, c.for_blocks(1)) for name, c in curricula.items() for seed in range(sizes.seeds)]

    def learner_of(kind: type[Cohort], some: list[Member]) -> CurriculumLearner:
        targets = TeacherTargets(trained, some, [(sizes.student,)])
        targets.calibrate(torch.cat([batch.inputs for batch in itertools.islice(batches(), BATCHES)]))
        students = kind([build(mlp(task, sizes.student), one.seed).to(device) for one in some])
        return CurriculumLearner(students, some, targets, task.split("test", device), plan)

    alone = [step_of(learner_of(SeparateCohort, [one]), batches(), plan, False) for one in members]

    def one_after_another() -> None:
        for step in alone:
            step()

    ours = step_of(learner_of(StackedCohort, members), batches(), plan, bfloat16)
    return ours, one_after_another, len(members)


def pair(device: str, sizes: Sizes, bfloat16: bool, family: str) -> tuple[Step, Step, int]:
    """Losses and gradients of PWL training with the default masks, against `plain_pair.py` on the same."""
    settings = LoadingSettings.load("lesson", family=family)
    task = image_task(settings)
    teacher, student = (build(model, seed) for seed, model in enumerate(image_models(settings, task)))
    net = SwapNet(teacher, student, task.input_shape).to(device)
    config = PairLossConfig()
    learner = PairLearner(net, config, task.split("validation", device), 0, 10**6)
    made = task.batches(0, sizes.images, device)
    batches = itertools.cycle([next(made) for _ in range(BATCHES)])
    masks = random_masks(net.n_blocks, config.masks, generator(0, "masks"))

    def ours() -> None:
        with torch.autocast(device, torch.bfloat16, enabled=bfloat16):
            total = learner.losses(next(batches), 0)["total"]
        total.backward()

    def plain() -> None:
        plain_pair.plain_losses(net.train(), config, next(batches), masks)["total"].backward()

    return ours, plain, sizes.images
