"""How the cost of a step, of a mask cube and of a batch grows with its size: rows, and the figure `docs/figures/growth.svg`.

    python scripts/growth.py measure                 # all series; names after it measure only those
    python scripts/growth.py ship --core-minutes 20  # what was measured to data/results, with what made it
    python scripts/growth.py draw                    # the figure, from data/results

A cost is processor time, the median over turns that all sizes of a series take one after the other, so that a drift of the
machine's speed touches all alike. A batch's commands are measured as processes from start to end, with their imports.
An exponent is the slope of log(cost) over log(size), by least squares over all sizes, and between the two largest ones.

Expected before the first run: 1 at the large end of every series, because nothing is compared with everything else; less
at the small end, where what does not grow counts: the teacher's pass for a cohort, calls of small products, imports.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, NullLocator
from measuring import COMMAND, Row, measured
from points import ship_table
from stub_sweep import REPORT, stub_runner

from pwl_lab.distill.curriculum import extracted, one_shot
from pwl_lab.distill.students import CurriculumLearner
from pwl_lab.distill.targets import Member, TeacherTargets, calibration_inputs
from pwl_lab.fast.allocator import keep_freed_memory
from pwl_lab.fast.stacked import StackedCohort
from pwl_lab.models import build, mlp
from pwl_lab.plots import style
from pwl_lab.runner.grid import plan_grid
from pwl_lab.study.intervals import slopes
from pwl_lab.study.recipes import image_models, image_task
from pwl_lab.study.settings import LoadingSettings
from pwl_lab.study.store import shipped
from pwl_lab.support import paths
from pwl_lab.support.processes import one_thread
from pwl_lab.swap.evaluation import score_masks
from pwl_lab.swap.pair_training import PairLearner, PairLossConfig
from pwl_lab.swap.swapnet import SwapNet
from pwl_lab.tasks.parity import SparseParity
from pwl_lab.training import TrainedModel, TrainPlan, make_optimiser

ROUNDS = 5
MASK_ROUNDS = 25  # where sizes have other masks, whose cost differs by how many of their blocks are the teacher's
BATCH = 128
FAMILIES = ("vgg", "resnet", "vit")
BATCHES = (10, 100, 1_000, 10_000, 100_000)  # points
LARGEST_IN_BENCH = 1_000  # points; laying out a hundred times as many takes minutes
Work = Callable[[], object]
# One batch after the other: a row of the axes' sizes is combined with each seed, 10 points for each pair of the two.
GRID = """notebook: 02_distillation_curricula
preset: smoke
axes:
  - product: {{n_bits: {bits}, student_width: [16, 24, 32, 48, 64], stage_steps: [50, 100]}}
seeds: {seeds}
"""


@dataclass(frozen=True)
class Panel:
    """A panel of the figure: what is measured, over what, and in which unit."""

    title: str
    size: str
    unit: str


PANELS = {
    "cohort": Panel("Step of a cohort", "students", "ms"),
    "images": Panel("PWL step", "images", "ms"),
    "blocks": Panel("PWL step, 128 images", "blocks", "ms"),
    "cube": Panel("All masks of a pair, 64 images", "masks", "ms"),
    "batch": Panel("Batch", "points", "s"),
    "memory": Panel("Batch", "points", "MiB at most"),
}


def cohort_work(students: int) -> Work:
    """A step of this many students of width 64 on (50, 4) parity, half of them with a projected hidden state as target."""
    task, config = SparseParity(50, 4), mlp(SparseParity(50, 4), 64)
    net = build(mlp(task, 4096), 0).eval().requires_grad_(False)
    teacher, plan = TrainedModel(mlp(task, 4096), net, None, [], 1.0, 0, ""), TrainPlan(steps=10**6, lr=0.1)
    curricula = {"extracted": extracted(10**5), "one_shot": one_shot()}
    names = ["extracted" if number % 2 == 0 else "one_shot" for number in range(students)]
    members = [Member(name, number // 2, curricula[name].for_blocks(1)) for number, name in enumerate(names)]
    targets = TeacherTargets(teacher, members, [(64,)])
    targets.calibrate(calibration_inputs(task, 0, "cpu"))
    cohort = StackedCohort([build(config, number) for number in range(students)])
    learner = CurriculumLearner(cohort, members, targets, task.split("test"), plan)
    optimiser, batches = make_optimiser(plan, learner.parameter_groups(plan.lr)), task.batches(0, BATCH)

    def step() -> None:
        optimiser.zero_grad()
        learner.losses(next(batches), 0)["total"].backward()
        optimiser.step()

    return step


def pair_of(family: str, blocks: int | None = None) -> tuple[SwapNet, LoadingSettings]:
    """An untrained pair at `lesson`; with `blocks`, of so many blocks, each like the last one of `lesson`."""
    settings = LoadingSettings.load("lesson", family=family)
    if blocks is not None:
        names = [f"{who}_{what}" for who in ("teacher", "student") for what in ("channels", "depths")]
        each = {name: getattr(settings, name) for name in names}
        settings = LoadingSettings.load(
            "lesson",
            family=family,
            masks="all",
            **{name: (value + value[-1:] * blocks)[:blocks] for name, value in each.items()},
        )
    task = image_task(settings)
    teacher, student = (build(model, seed) for seed, model in enumerate(image_models(settings, task)))
    return SwapNet(teacher, student, task.input_shape), settings


def pair_work(family: str, images: int = BATCH, blocks: int | None = None) -> Work:
    """Losses and gradients of a PWL step, each time with other masks; without the optimiser's part."""
    net, settings = pair_of(family, blocks)
    task = image_task(settings)
    learner = PairLearner(net, PairLossConfig(masks="all"), task.split("validation"), 0, 10**6)
    batch = next(task.batches(0, images))
    return lambda: learner.losses(batch, 0)["total"].backward()


def cube_work(family: str, blocks: int, images: int = 64) -> Work:
    """All masks of a pair, evaluated on a few images."""
    net, settings = pair_of(family, blocks)
    batch = next(image_task(settings).batches(0, images))
    return lambda: score_masks(net, batch)


def in_turns(works: dict[int, Work], rounds: int = ROUNDS, least_s: float = 0.1) -> dict[int, float]:
    """Processor seconds of each work: medians over turns; short ones are repeated within a turn."""
    found: dict[int, list[float]] = {size: [] for size in works}
    for work in works.values():  # the first call of each warms up
        work()
    repeats = {size: max(1, round(least_s / _spent(work, 1))) for size, work in works.items()}
    for _ in range(rounds):
        for size, work in works.items():
            found[size].append(_spent(work, repeats[size]))
    return {size: statistics.median(each) for size, each in found.items()}


def _spent(work: Work, repeats: int) -> float:
    """Processor seconds of one of `repeats` calls."""
    begun = time.process_time()
    for _ in range(repeats):
        work()
    return max(time.process_time() - begun, 1e-6) / repeats


def batch_costs(folder: Path, points: int) -> dict[str, dict[str, float]]:
    """What planning, status and report of a batch of made-up points cost (`tests/helpers/stub_runner.py`)."""
    grid, out = folder / f"{points}.yaml", folder / f"{points}"
    bits = 10 ** ((len(str(points)) - 1) // 2)
    seeds = points // (10 * bits)
    grid.write_text(GRID.format(bits=list(range(10, 10 + bits)), seeds=list(range(seeds))), encoding="utf-8")
    found = {"planning": measured([*COMMAND, "batch", str(grid), "--out", str(out), "--dry-run"])}
    plan = plan_grid(grid)
    stub_runner.fill(out, plan, list(plan.points))
    found["status"] = measured([*COMMAND, "status", str(out)])
    found["report"] = measured([sys.executable, "-c", REPORT, str(out), str(folder / "report.png")])
    return found


def series(largest_batch: int) -> dict[str, Callable[[], list[Row]]]:
    """Each series by its name, and what measures it: rows of panel, series, size and cost."""

    def timed(panel: str, name: str, works: Callable[[], dict[int, Work]], rounds: int = ROUNDS) -> list[Row]:
        found = in_turns(works(), rounds)
        return [{"panel": panel, "series": name, "size": size, "cost": 1e3 * cost} for size, cost in found.items()]

    def batches() -> list[Row]:
        rows: list[Row] = []
        for points in (size for size in BATCHES if size <= largest_batch):
            with tempfile.TemporaryDirectory(dir=paths.runs()) as folder:
                for name, cost in batch_costs(Path(folder), points).items():
                    rows.append({"panel": "batch", "series": name, "size": points, "cost": cost["cpu_seconds"]})
                    rows.append({"panel": "memory", "series": name, "size": points, "cost": cost["peak_mib"]})
        return rows

    def cohorts() -> list[Row]:
        return timed("cohort", "students", lambda: {n: cohort_work(n) for n in (1, 4, 16, 64, 256)})

    def images() -> list[Row]:
        sizes = (BATCH, 2 * BATCH, 4 * BATCH)
        return [row for f in FAMILIES for row in timed("images", f, lambda f=f: {n: pair_work(f, n) for n in sizes})]

    def blocks() -> list[Row]:
        def works(family: str) -> dict[int, Work]:
            return {n: pair_work(family, BATCH, n) for n in (2, 3, 4, 6, 8)}

        return [row for f in FAMILIES for row in timed("blocks", f, partial(works, f), MASK_ROUNDS)]

    def cubes() -> list[Row]:
        sizes = (4, 6, 8, 10)
        return [row for f in FAMILIES for row in timed("cube", f, lambda f=f: {2**n: cube_work(f, n) for n in sizes})]

    return {"cohort": cohorts, "images": images, "blocks": blocks, "cube": cubes, "batch": batches}


def exponent(costs: "pd.Series[float]") -> float:
    """The slope of log(cost) over log(size), by least squares; `costs` has the sizes as its index."""
    return float(slopes({float(size): np.array([cost]) for size, cost in costs.items()})[0])


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """A row for each panel and series: smallest and largest size with their costs, and both exponents."""
    rows = []
    for (panel, name), mine in table.groupby(["panel", "series"], sort=False):
        costs = mine.set_index("size")["cost"]
        rows.append({
            "panel": panel, "series": name, "from": costs.index[0], "to": costs.index[-1], "cost from": costs.iloc[0],
            "cost to": costs.iloc[-1], "exponent": exponent(costs), "at the end": exponent(costs.iloc[-2:]),
        })  # fmt: skip
    return pd.DataFrame(rows)


def growth_rows(largest_batch: int = LARGEST_IN_BENCH) -> list[Row]:
    """Rows for `bench.json`: the cost at the largest size, against that at the smallest one times as many."""
    with one_thread():
        keep_freed_memory()
        table = pd.DataFrame([row for measure in series(largest_batch).values() for row in measure()])
    rows: list[Row] = []
    for one in summary(table).to_dict("records"):
        panel, times = PANELS[str(one["panel"])], one["to"] / one["from"]
        name = f"growth, {panel.title}, {one['series']}: {one['to']:,} {panel.size} against {times:g} times {one['from']:,}"
        ours, reference = one["cost to"], times * one["cost from"]
        facts = {"name": name, "ours": round(ours, 2), "reference": round(reference, 2), "unit": panel.unit}
        rows.append(facts | {"ratio": round(reference / ours, 3), "exponent": round(one["exponent"], 2)})
    return rows


LOOKS = dict(zip(("students", *FAMILIES, "planning", "status", "report"), [*style.SPARE, *style.SPARE], strict=False))


@style.context()
def figure(table: pd.DataFrame) -> style.Figure:
    """A panel for each subject, both axes logarithmic; the legend has each curve's exponent, at the end and (over all)."""
    shown = style.Figure(figsize=(10, 6.2), layout="constrained")
    for axes, (name, panel) in zip(shown.subplots(2, 3).flat, PANELS.items(), strict=True):
        _panel(axes, panel, table[table["panel"] == name])
    return shown


def _panel(axes: Axes, panel: Panel, part: pd.DataFrame) -> None:
    """Costs over sizes, with a dotted line for what grows as the size does."""
    for name, mine in part.groupby("series", sort=False):
        (colour, dashes, marker), costs = LOOKS[str(name)], mine.set_index("size")["cost"]
        label = f"{name}: {exponent(costs.iloc[-2:]):.2f} ({exponent(costs):.2f})"
        axes.plot(costs, color=colour, ls=dashes, marker=marker, ms=5, label=label)
    sizes = sorted(part["size"].unique())
    last = part.loc[part["size"] == sizes[-1], "cost"].max()
    low, high = part["cost"].min(), part["cost"].max()
    axes.plot(sizes, [last * size / sizes[-1] for size in sizes], color="#444444", lw=1, ls=(0, (1, 2)), zorder=1)
    axes.set(xscale="log", yscale="log", xlabel=panel.size, ylabel=panel.unit, title=panel.title)
    axes.set_ylim(0.6 * low, 6 * high)
    axes.xaxis.set_major_locator(FixedLocator(sizes))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticks(sizes, [f"{size:,.0f}" if size < 10_000 else f"{size / 1_000:g}k" for size in sizes])
    style.log_ticks(axes.yaxis, "{x:,g}", (1, 3))
    axes.legend(loc="upper left", fontsize=style.NOTE)


def measure(names: Iterable[str], path: Path) -> None:
    """Measure these series (all if none are named) and put their rows in the place of earlier ones."""
    every = series(BATCHES[-1])
    for name in list(names) or list(every):
        with one_thread():
            keep_freed_memory()
            rows = pd.DataFrame(every[name]())
        table = pd.read_csv(path) if path.exists() else pd.DataFrame(columns=["panel", "series", "size", "cost"])
        kept = table[~table["panel"].isin(rows["panel"])]
        table = pd.concat([one for one in (kept, rows) if len(one)], ignore_index=True)
        table.to_csv(path, index=False, float_format="%.4g")
        print(summary(rows).to_string(), flush=True)


def ship(path: Path, core_minutes: float, note: str) -> None:
    """The table, with what made it."""
    table = pd.read_csv(path)
    order = {name: number for number, name in enumerate(PANELS)}
    table = table.sort_values("panel", key=lambda column: column.map(order), kind="stable")
    facts: dict[str, object] = {"seeds": [0], "core_minutes": core_minutes} | ({"note": note} if note else {})
    with one_thread():
        ship_table("growth", table, command="python scripts/growth.py measure", **facts)


def draw() -> None:
    """The figure from the shipped table; the same file for the same numbers."""
    with mpl.rc_context({"svg.fonttype": "path", "svg.hashsalt": "growth"}):
        figure(shipped("growth")).savefig(paths.root() / "docs" / "figures" / "growth.svg", metadata={"Date": None})


def main() -> None:
    """Measure, ship or draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["measure", "ship", "draw"])
    parser.add_argument("names", nargs="*", help="for `measure`: cohort, images, blocks, cube, batch")
    parser.add_argument("--core-minutes", type=float, help="for `ship`: how long it took")
    parser.add_argument("--note", default="", help="for `ship`: what a reader of the table should know")
    asked = parser.parse_args()
    path = paths.runs() / "growth.csv"
    if asked.what == "measure":
        measure(asked.names, path)
    elif asked.what == "ship":
        if asked.core_minutes is None:
            parser.error("ship needs --core-minutes")
        ship(path, asked.core_minutes, asked.note)
    else:
        draw()


if __name__ == "__main__":
    main()
