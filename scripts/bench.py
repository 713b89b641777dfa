"""Measure what the package claims to be quick at, each against a plain reference, and write `runs/bench.json`.

Ours and the reference take turns within one run; the rows hold the medians, so that a drift of the machine's speed
touches both alike. Rows: name, ours, reference, unit, ratio (above 1: ours is faster).

    python scripts/bench.py                  # everything but the following
    python scripts/bench.py --device cuda    # only training, against plain loops on the same device (`device_bench.py`)
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from functools import cache, partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import batch_overhead
import device_bench
import growth
import page_loading
import plain_pair
import stub_sweep
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from pwl_lab.benchmarks.baselines import write_full_size
from pwl_lab.benchmarks.harness import reading_rates
from pwl_lab.distill.curriculum import extracted, one_shot, progressive
from pwl_lab.distill.students import Cohort, CurriculumLearner, SeparateCohort
from pwl_lab.distill.targets import Member, TeacherTargets, calibration_inputs
from pwl_lab.fast.allocator import keep_freed_memory
from pwl_lab.fast.stacked import StackedCohort
from pwl_lab.fast.two_layer_step import multiplies_in_bfloat16
from pwl_lab.models import BlockNet, LanguageTransformerConfig, ModelConfig, build, mlp
from pwl_lab.study.recipes import image_models, image_task
from pwl_lab.study.settings import LoadingSettings
from pwl_lab.study.store import provenance
from pwl_lab.support import config, paths, resuming
from pwl_lab.support.files import write_json
from pwl_lab.support.processes import one_thread
from pwl_lab.support.seeding import generator
from pwl_lab.swap.masks import random_masks
from pwl_lab.swap.pair_training import PairLearner, PairLossConfig
from pwl_lab.swap.swapnet import SwapNet
from pwl_lab.tasks.base import IGNORED, Batch
from pwl_lab.tasks.parity import SparseParity
from pwl_lab.training import Checkpoint, SupervisedLearner, TrainedModel, TrainPlan, make_optimiser, train

ROUNDS = 7


def rates(ours: Callable[[], None], reference: Callable[[], None], units: tuple[float, float]) -> tuple[float, float]:
    """Units per second of both, median over rounds in which they take turns."""
    found: tuple[list[float], list[float]] = ([], [])
    for turn in range(ROUNDS + 1):
        for work, amount, rate in zip((ours, reference), units, found, strict=True):
            begun = time.perf_counter()
            work()
            if turn:  # the first round warms up
                rate.append(amount / (time.perf_counter() - begun))
    return statistics.median(found[0]), statistics.median(found[1])


def row(name: str, unit: str, ours: float, reference: float) -> dict[str, object]:
    """A row for `bench.json`: both rates and their ratio."""
    return {
        "name": name,
        "ours": round(ours, 1),
        "reference": round(reference, 1),
        "unit": unit,
        "ratio": round(ours / reference, 3),
    }


def cohort_row() -> dict[str, object]:
    """24 students (3 curricula x 8 seeds) side by side, against one after another with plain autograd.

    The first quarter of the steps are a first stage (a checkpoint's output, a projected hidden state).
    """
    task, steps = SparseParity(50, 4), 40
    config, student = mlp(task, 4096), mlp(task, 64)
    net = build(config, 0).eval().requires_grad_(False)
    checkpoints = [Checkpoint(0, 0.62, net.state_dict())]
    teacher = TrainedModel(config, net, None, checkpoints, 1.0, 0, "")
    first = steps // 4
    curricula = {"one_shot": one_shot(), "progressive": progressive([0.6], first), "extracted": extracted(first)}
    members = [Member(name, seed, c.for_blocks(1)) for name, c in curricula.items() for seed in range(8)]
    plan = TrainPlan(steps=steps, lr=0.1)
    batches, inputs = task.batches(0, 128), calibration_inputs(task, 0, "cpu")
    learner, optimiser = _learner(teacher, members, student, inputs, plan)
    alone = [(_targets(teacher, [member], inputs), member, build(student, member.seed)) for member in members]

    def cohort() -> None:
        for step in range(steps):
            optimiser.zero_grad()
            learner.losses(next(batches), step)["total"].backward()
            optimiser.step()

    def one_after_another() -> None:
        for targets, member, net in alone:
            _plain_student(targets, member, net, batches, steps)

    ours, reference = rates(cohort, one_after_another, (24 * steps, 24 * steps))
    return row("cohort of 24 students, width 64, (50, 4) parity", "student-steps/s", ours, reference)


def _targets(teacher: TrainedModel, members: list[Member], inputs: torch.Tensor) -> TeacherTargets:
    """The targets of all members, their projections calibrated on `inputs`."""
    targets = TeacherTargets(teacher, members, [(64,)])
    targets.calibrate(inputs)
    return targets


def _learner(
    teacher: TrainedModel, members: list[Member], config: ModelConfig, inputs: torch.Tensor, plan: TrainPlan
) -> tuple[CurriculumLearner, torch.optim.Optimizer]:
    """A cohort ready to train."""
    cohort = StackedCohort([build(config, member.seed) for member in members])
    evaluation = SparseParity(50, 4).split("test")
    learner = CurriculumLearner(cohort, members, _targets(teacher, members, inputs), evaluation, plan)
    return learner, make_optimiser(plan, learner.parameter_groups(plan.lr))


def _plain_student(
    targets: TeacherTargets, member: Member, student: BlockNet, batches: Iterator[Batch], steps: int
) -> None:
    """A student alone: plain modules, plain autograd, the same targets from the same networks."""
    optimiser = torch.optim.SGD(student.parameters(), lr=0.1)
    curriculum = member.curriculum
    for step in range(steps):
        batch, target = next(batches), curriculum.stage_at(step).target
        with torch.no_grad():
            if target.kind == "hidden":
                wanted = targets.projections[target](targets.final.hidden_states(batch.inputs)[0][0])[0]
            else:
                wanted = (targets.final if target.final else targets.checkpoints[target])(batch.inputs).softmax(dim=1)
        states, logits = student.hidden_states(batch.inputs)
        if target.kind == "hidden":
            loss = 5 * nn.functional.mse_loss(states[0], wanted)
        else:
            loss = nn.functional.cross_entropy(logits, wanted)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()


def language_row() -> dict[str, object]:
    """12 language models (2 curricula x 6 seeds) side by side, against one after another, at batch 8 with Adam.

    Half of the steps are in the extracted curriculum's stage of all blocks at once; speed does not depend on the strings.
    """
    steps, strings = 12, {"length": 18, "n_tokens": 5, "n_classes": 3}
    config, student = (LanguageTransformerConfig(**strings, width=w, heads=h) for w, h in ((64, 8), (16, 2)))
    net = build(config, 0).eval().requires_grad_(False)
    curricula = {"one_shot": one_shot(), "extracted": extracted(steps // 2, at_once=True)}
    members = [Member(name, seed, c.for_blocks(4)) for name, c in curricula.items() for seed in range(6)]
    plan = TrainPlan(steps=steps, lr=8e-3, optimiser="adam")
    random = generator(0, "data")
    batch = Batch(torch.randint(4, (8, 18), generator=random), torch.randint(3, (8, 18), generator=random))
    batch.labels[torch.rand(8, 18, generator=random) > 0.3] = IGNORED
    teacher, shapes = TrainedModel(config, net, None, [], 1.0, 0, ""), student.make().state_shapes((18,))

    def learner_of(kind: type[Cohort], some: list[Member]) -> tuple[CurriculumLearner, torch.optim.Optimizer]:
        targets = TeacherTargets(teacher, some, shapes)
        targets.calibrate(batch.inputs)
        learner = CurriculumLearner(kind([build(student, one.seed) for one in some]), some, targets, batch, plan)
        return learner, make_optimiser(plan, learner.parameter_groups(plan.lr))

    def work(learners: list[tuple[CurriculumLearner, torch.optim.Optimizer]]) -> None:
        for learner, optimiser in learners:
            for step in range(steps):
                optimiser.zero_grad()
                learner.losses(batch, step)["total"].backward()
                optimiser.step()

    cohort, alone = [learner_of(StackedCohort, members)], [learner_of(SeparateCohort, [one]) for one in members]
    ours, reference = rates(lambda: work(cohort), lambda: work(alone), (12 * steps, 12 * steps))
    return row("cohort of 12 language models, width 16, batch 8", "student-steps/s", ours, reference)


ONE_MASK = PairLossConfig(masks="mixture", cross_passes=1, cross_groups=1)  # a step of the paper
EIGHT_MASKS = PairLossConfig(masks="all", cross_passes=2, cross_groups=4)


def pair_rows(family: str) -> list[dict[str, object]]:
    """A PWL training step with one mask and with eight, against its losses written plainly (`plain_pair.py`).

    Each is compared with two references: one mask, with the converters and memory layout of the paper's code; and the
    same number of masks, with our converters and layout and a faster way to compute the feature distance.
    """
    settings = LoadingSettings.load("lesson", family=family)
    task = image_task(settings)
    teacher, student = (build(model, seed) for seed, model in enumerate(image_models(settings, task)))
    net = SwapNet(teacher, student, task.input_shape)
    published, batch, steps = plain_pair.as_published(net), next(task.batches(0, 128)), 6

    def against(
        name: str, config: PairLossConfig, plainly: Callable[[], Mapping[str, torch.Tensor]]
    ) -> dict[str, object]:
        learner = PairLearner(net, config, task.split("validation"), 0, 10**6)

        def ours() -> None:
            for _ in range(steps):
                learner.losses(batch, 0)["total"].backward()

        def plain() -> None:
            for _ in range(steps):
                plainly()["total"].backward()

        fast, slow = rates(ours, plain, (steps * 128, steps * 128))
        return row(f"PWL training step, {family}, {name}", "images/s", fast, slow)

    def losses(reference: SwapNet, config: PairLossConfig, distance: plain_pair.Distance) -> Any:
        drawn = random_masks(net.n_blocks, config.masks, generator(0, "masks"))
        return partial(plain_pair.plain_losses, reference.train(), config, batch, drawn, distance)

    as_published = losses(published, ONE_MASK, plain_pair.distance)
    return [
        against("1 mask, against plain losses, converters and layout as published", ONE_MASK, as_published),
        against(
            "1 mask, against ours and a quick distance", ONE_MASK, losses(net, ONE_MASK, plain_pair.quick_distance)
        ),
        against("8 masks, against 1 mask as published", EIGHT_MASKS, as_published),
        against(
            "8 masks, against 8 as ours, quick distance",
            EIGHT_MASKS,
            losses(net, EIGHT_MASKS, plain_pair.quick_distance),
        ),
    ]


def family_row(family: str) -> dict[str, object]:
    """Training an image teacher with its convolutions channels-last, against torch's default layout."""
    settings = LoadingSettings.load("lesson", family=family)
    task = image_task(settings)
    config, batch = image_models(settings, task)[0], next(task.batches(0, 128))
    nets = [build(config, 0), build(config, 0).to(memory_format=torch.contiguous_format)]

    def steps(net: BlockNet) -> Callable[[], None]:
        def work() -> None:
            for _ in range(5):
                net.train()
                nn.functional.cross_entropy(net(batch.inputs), batch.labels).backward()

        return work

    ours, reference = rates(steps(nets[0]), steps(nets[1]), (5 * 128, 5 * 128))
    return row(f"teacher of {family}, channels-last against default", "images/s", ours, reference)


def teacher_row(threads: int) -> dict[str, object]:
    """Training the wide parity teacher, against a plain loop over a DataLoader of as many samples.

    The plain loop has a process of its own: `train` changes how malloc keeps memory, and the loop shall not profit.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        return _teacher_row(threads)
    finally:
        torch.set_num_threads(before)


def _teacher_row(threads: int) -> dict[str, object]:
    """The row of `teacher_row`, once torch computes on `threads` threads."""
    task, steps = SparseParity(50, 4), 40
    plan = TrainPlan(steps=steps, lr=0.1)
    learner = SupervisedLearner(build(mlp(task, 4096), 0), task.split("validation"), plan)
    optimiser = make_optimiser(plan, learner.parameter_groups(0.1))
    batches = task.batches(0, 128)
    keep_freed_memory()  # as `train` does

    def ours() -> None:
        for step in range(steps):
            optimiser.zero_grad()
            learner.losses(next(batches), step)["total"].backward()
            optimiser.step()

    with ProcessPoolExecutor(1, get_context("spawn"), torch.set_num_threads, (threads,)) as process:
        fast, slow = rates(ours, lambda: process.submit(plain_loop, steps).result(), (128 * steps, 128 * steps))
    # Multiply-adds of the products: the first layer forwards and for its weights, the outer one also for its input.
    operations = 2 * (2 * 50 * 4096 + 3 * 4096 * 2)
    return row(f"parity teacher, width 4096, batch 128, threads: {threads}", "samples/s", fast, slow) | {
        "fraction_of_peak": round(fast * operations / peak_flops(), 3)
    }


def two_layer_row(width: int) -> dict[str, object]:
    """Training a parity teacher with `loop = "fast"`, against the plain loop with its autograd, on (100, 6)."""
    task, steps = SparseParity(100, 6), 40

    def work(loop: str) -> Callable[[], None]:
        plan = TrainPlan(steps=steps, lr=0.1, momentum=0.9, loop=loop)
        learner = SupervisedLearner(build(mlp(task, width), 0), task.split("validation"), plan)
        optimiser, batches = make_optimiser(plan, learner.parameter_groups(plan.lr)), task.batches(0, 128)

        def some_steps() -> None:
            for step in range(steps):
                learner.step(next(batches), step + 1, optimiser, plan)

        return some_steps

    ours, reference = rates(work("fast"), work("plain"), (128 * steps, 128 * steps))
    name = f"parity teacher, width {width}, the fast loop against the plain one"
    return row(name, "samples/s", ours, reference) | {"bfloat16": multiplies_in_bfloat16(torch.device("cpu"))}


def resuming_row() -> dict[str, object]:
    """Training the wide parity teacher with momentum, with checkpoints as often as a result of the store has them, and without.

    A checkpoint after every step shows what one costs; at the usual interval the cost would be lost in the noise.
    """
    task, steps, every = SparseParity(50, 4), 20, resuming.EVERY_S
    plan = TrainPlan(steps=steps, lr=0.1, momentum=0.9, eval_every=steps)

    def work() -> None:
        learner = SupervisedLearner(build(mlp(task, 4096), 0), task.split("validation"), plan)
        train(learner, task.batches(0, 128), plan, "teacher")

    with tempfile.TemporaryDirectory(dir=paths.runs()) as folder:

        def kept() -> None:
            with resuming.unfinished(Path(folder) / "teacher"):
                work()

        resuming.EVERY_S = 0.0
        try:
            ours, reference = rates(kept, work, (steps, steps))
        finally:
            resuming.EVERY_S = every
    seconds = max(1 / ours - 1 / reference, 0.0)
    name = f"parity teacher, width 4096, a checkpoint every {every:.0f} s against none"
    return row(name, "steps/s", reference * every / (every + seconds), reference) | {"checkpoint_s": round(seconds, 4)}


def plain_loop(steps: int) -> None:
    """Draw a set of samples and go through it once."""
    task, net, optimiser = _plain_teacher()
    drawn = next(task.batches(1, 128 * steps))
    for inputs, labels in DataLoader(TensorDataset(drawn.inputs, drawn.labels), batch_size=128, shuffle=True):
        optimiser.zero_grad()
        nn.functional.cross_entropy(net(inputs), labels).backward()
        optimiser.step()


@cache
def _plain_teacher() -> tuple[SparseParity, nn.Module, torch.optim.Optimizer]:
    """The same network out of torch's own parts."""
    net = nn.Sequential(nn.Linear(50, 4096), nn.ReLU(), nn.Linear(4096, 2))
    return SparseParity(50, 4), net, torch.optim.SGD(net.parameters(), lr=0.1)


def peak_flops(size: int = 1024) -> float:
    """Floating-point operations per second of one large matrix product, the best of several."""
    a, b, best = torch.randn(size, size), torch.randn(size, size), float("inf")
    for _ in range(20):
        begun = time.perf_counter()
        a @ b
        best = min(best, time.perf_counter() - begun)
    return 2 * size**3 / best


def bundle_row() -> dict[str, object]:
    """Reading a bundle of ViT-base's size from a warm cache, every checksum included, against one plain read per file."""
    with tempfile.TemporaryDirectory(dir=paths.runs()) as folder:
        rates = reading_rates(write_full_size("vit_base", Path(folder)), ROUNDS)
    return row("reading a bundle of ViT-base's size, checksums included", "MB/s", rates["verified"], rates["plain"])


def all_rows() -> list[dict[str, object]]:
    """Every row that this machine's processor can measure."""
    with one_thread():  # as everything is trained
        keep_freed_memory()
        rows = [cohort_row(), language_row()]
        for family in ("vgg", "resnet", "vit"):
            rows += pair_rows(family)
        rows += [family_row(family) for family in ("vgg", "resnet", "vit")]
        rows.append(resuming_row())
        rows += [two_layer_row(width) for width in (1024, 4096)]
    rows += [teacher_row(threads) for threads in (1, 2)]
    rows.append(bundle_row())
    for measure in (stub_sweep.sweep_rows, batch_overhead.overhead_rows, page_loading.page_rows):
        with tempfile.TemporaryDirectory() as folder:
            rows += measure(Path(folder))
    return rows + growth.growth_rows()


def main() -> None:
    """Measure the rows asked for, print and write them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", help="measure training on this device: cpu, cuda, or auto (see PWL_LAB_DEVICE)")
    parser.add_argument("--size", choices=list(device_bench.SIZES), default="full", help="for --device")
    asked = parser.parse_args()
    device = config.device(asked.device) if asked.device else ""
    rows = device_bench.rows(device, device_bench.SIZES[asked.size]) if device else all_rows()
    for one in rows:
        peak = f", {one['peak_mib']} MiB at most" if "peak_mib" in one else ""
        print(f"{one['name']}: {one['ours']} against {one['reference']} {one['unit']}, ratio {one['ratio']}{peak}")
    write_json(paths.runs() / (f"bench-{device}.json" if device else paths.BENCH), {"rows": rows, "made": provenance()})


if __name__ == "__main__":
    main()
