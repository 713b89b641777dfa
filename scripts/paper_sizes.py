"""Three jobs at the papers' sizes, for a GPU that may be had for minutes only; the most informative first.

    python scripts/paper_sizes.py parity --stop-after 8m       # (100, 6), a teacher of 50,000 units, students of 100 and 1,000
    python scripts/paper_sizes.py pair --stop-after 8m         # notebook 04's vgg at `paper`, on all of Fashion-MNIST at 32x32
    python scripts/paper_sizes.py transformer --stop-after 8m  # notebook 03 at `paper`: (100, 6), 32 heads against 4
    python scripts/paper_sizes.py parity --ship --core-minutes 90  # copy its table to data/results; `pair` has one, too

Repeat a command while its exit code is 3 (time was up): it goes on from its last checkpoint. What is done stays in the
store. `parity` writes `parity.csv` to `--out`, a row as soon as it is known, the quick curricula first; the others leave
their notebook there, with its `metrics.json`. `--smoke` does the same at sizes that take seconds on a CPU.

Of `parity`, the two quick curricula are run for each teacher, with a tenth of the samples that one-shot may take; one-shot,
which takes nearly all of the time, is run once, for the first teacher that learned. It is then what it amounts to when only
the teacher's decisions are shown: training on labels, those of `Decided`.
"""

import argparse
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import points
import torch
from full_pairs import COLUMNS, done, told
from jaxtyping import Float, Int
from torch import Tensor

from pwl_lab.fast.two_layer_step import multiplies_in_bfloat16, two_layers
from pwl_lab.models import mlp
from pwl_lab.runner.execute import run_notebook
from pwl_lab.study import tables
from pwl_lab.study.harder_task import hard_curricula, hard_student_plan, teacher_plan
from pwl_lab.study.settings import CurriculaSettings, LoadingSettings
from pwl_lab.study.tables import first_step
from pwl_lab.study.verbs import distill, train_or_load
from pwl_lab.support import config, environment, paths
from pwl_lab.support.errors import TimeIsUpError
from pwl_lab.tasks.base import Batch
from pwl_lab.tasks.parity import SparseParity
from pwl_lab.training import TrainedModel, TrainPlan

STOPPED = 3  # as `pwl-lab` says it
QUICK = ("extracted", "progressive")
QUICKER = {"paper": 10, "smoke": 1}  # how many times fewer samples they may take
DECIDED_AT_ONCE = 256  # samples
WIDTHS = {"paper": (100, 1_000), "smoke": (16, 24)}  # of the students
TASK = {
    "paper": {"hard_n_bits": 100, "hard_k_sparse": 6, "hard_teacher_max_steps": 400_000},
    "smoke": {"hard_n_bits": 24, "hard_k_sparse": 3, "teacher_eval_every": 5},
}
# Five blocks and identity converters as in the paper, at small widths and depths.
SMALL_VGG = {
    "teacher_channels": [4] * 5,
    "teacher_depths": [1, 1, 1, 2, 2],
    "student_channels": [4] * 5,
    "student_depths": [1] * 5,
    "converters": "if_different",
    "crop_padding": 4,
    "rotation_degrees": 15,
}
PAIR: dict[str, dict[str, Any]] = {"paper": {}, "smoke": SMALL_VGG}


class Decided(SparseParity):
    """Sparse parity whose training samples are labelled by a teacher; those that measure keep the true labels."""

    def __init__(self, task: SparseParity, teacher: TrainedModel) -> None:
        """Label as `teacher`, a network with one hidden layer, decides.

        Its products are in bfloat16 where the fast loop would train with these.
        """
        super().__init__(task.n_bits, support=task.support, seed=task.seed, eval_samples=task.eval_samples)
        layers = two_layers(teacher.model)
        assert layers is not None
        hidden, head = layers
        self.true, self.of_teacher = task, teacher.fingerprint
        dtype = torch.bfloat16 if multiplies_in_bfloat16(hidden.weight.device) else hidden.weight.dtype
        self.weight = torch.cat([hidden.weight, hidden.bias.unsqueeze(1)], dim=1).detach().to(dtype)
        difference = torch.cat([head.weight, head.bias.unsqueeze(1)], dim=1).detach().diff(dim=0)
        self.out, self.shift = difference[:, :-1].to(dtype), difference[:, -1]

    @torch.no_grad()
    def decisions(self, inputs: Float[Tensor, "batch n_bits"]) -> Int[Tensor, " batch"]:
        """1 where the teacher's second logit is the larger one, else 0."""
        given = torch.cat([inputs, inputs.new_ones(len(inputs), 1)], dim=1).to(self.weight)
        # Asked for once: it would have to be mapped each time.
        memory = given.new_empty(len(self.weight), DECIDED_AT_ONCE)
        margins = []
        for part in torch.split(given, DECIDED_AT_ONCE):
            hidden = torch.mm(self.weight, part.t(), out=memory[:, : len(part)])  # (units, batch)
            margins.append((self.out @ hidden.clamp_min_(0)).squeeze(0) + self.shift)
        return (torch.cat(margins) > 0).long().to(inputs.device)

    def draw(self, samples: int, random: torch.Generator) -> Batch:
        """Fresh samples, labelled by the teacher."""
        inputs = super().draw(samples, random).inputs
        return Batch(inputs, self.decisions(inputs))

    def batches(self, seed: int, batch_size: int, device: str = "cpu", role: str = "student") -> Iterator[Batch]:
        """Those of a student: not the samples that its teacher saw."""
        return super().batches(seed, batch_size, device, "student")

    def split(self, name: str, device: str = "cpu") -> Batch:
        """The task's own, with the true labels."""
        return self.true.split(name, device)

    def fingerprint(self) -> dict[str, Any]:
        """As the task's, and the teacher."""
        return self.true.fingerprint() | {"decided_by": self.of_teacher, "products": str(self.weight.dtype)}


def teacher_of(settings: CurriculaSettings, seed: int) -> tuple[SparseParity, TrainedModel]:
    """The task of a draw and its teacher."""
    task = SparseParity(settings.hard_n_bits, settings.hard_k_sparse, seed=seed, eval_samples=settings.eval_samples)
    model = mlp(task, width=settings.hard_teacher_width)
    return task, train_or_load(model, task, teacher_plan(settings), seed, settings.device)


def student_plan(settings: CurriculaSettings, quicker: int = 1) -> TrainPlan:
    """How a student is trained until it has the threshold, in at most so many times fewer steps than there may be."""
    plan = hard_student_plan(settings)
    return plan.model_copy(update={"steps": plan.steps // quicker, "stop_at": settings.threshold})


def one_shot_plan(settings: CurriculaSettings) -> TrainPlan:
    """One-shot distillation as training on a teacher's decisions, by the fast loop."""
    return student_plan(settings).model_copy(update={"loop": "fast"})


def parity(preset: str, asked: argparse.Namespace) -> int:
    """A row per teacher, and per curriculum, draw and student width: the samples to the threshold, on validation.

    Students are trained for teachers that come to err on no validation sample.
    """
    settings = CurriculaSettings.load(preset, **TASK[preset], device=asked.device)
    whole, rows = one_shot_plan(settings), []
    quick = student_plan(settings, QUICKER[preset])
    common = {"n": settings.hard_n_bits, "k": settings.hard_k_sparse, "teacher_width": settings.hard_teacher_width}

    def add(seed: int, who: str, width: int, step: int | None, budget: int, begun: float) -> None:
        """A row, written at once."""
        there = {"samples": (budget if step is None else step) * settings.batch_size, "reached": step is not None}
        rows.append(common | {"curriculum": who, "width": width, "seed": seed} | there)
        pd.DataFrame(rows).to_csv(asked.out / "parity.csv", index=False)
        print(rows[-1], f"{(time.perf_counter() - begun) / 60:.1f} min", flush=True)

    drawn = {}
    for seed in asked.seeds:
        begun = time.perf_counter()
        drawn[seed] = (_, teacher) = teacher_of(settings, seed)
        step = first_step(teacher.history, settings.threshold)
        add(seed, "teacher", settings.hard_teacher_width, step, settings.hard_teacher_max_steps, begun)
    learned = {seed: one for seed, one in drawn.items() if one[1].reached_at is not None}
    for name in QUICK:
        curricula = {name: hard_curricula(settings)[name]}
        for seed, (task, teacher) in learned.items():
            for width in WIDTHS[preset]:
                begun = time.perf_counter()
                runs = distill(teacher, mlp(task, width=width), task, curricula, [seed], quick, settings.device)
                validation = runs.history.assign(accuracy=runs.history["validation_accuracy"])  # what stops a training
                add(seed, name, width, first_step(validation, settings.threshold), quick.steps, begun)
    for seed, (task, teacher) in [*learned.items()][:1]:
        for width in WIDTHS[preset] if asked.one_shot_widths is None else asked.one_shot_widths:
            begun = time.perf_counter()
            decided = Decided(task, teacher)
            try:
                student = train_or_load(mlp(task, width=width), decided, whole, seed, settings.device)
            except TimeIsUpError as stopped:
                add(seed, "one_shot", width, None, stopped.step, begun)  # not by then
                raise
            add(seed, "one_shot", width, first_step(student.history, settings.threshold), whole.steps, begun)
    return 0


def whole_notebook(name: str, preset: str, asked: argparse.Namespace, params: dict[str, Any]) -> int:
    """A notebook at the preset, with its page and its metrics."""
    given = {"seeds": asked.seeds, "device": asked.device} | params
    status = run_notebook(name, asked.out / name, preset, given, on_line=lambda line: print(line, flush=True))
    print(f"{status.status}: {asked.out / name}", *([status.error.message] if status.error else []))
    return {"ok": 0, "stopped": STOPPED}.get(status.status, 1)


def pair_params(preset: str, asked: argparse.Namespace) -> dict[str, Any]:
    """What `pair` asks of notebook 04: padded Fashion-MNIST, with products in bfloat16 where these are quicker."""
    params = {"family": "vgg", "dataset": "fashion-mnist-32"} | PAIR[preset]
    if asked.epochs:
        params |= {"teacher_epochs": asked.epochs, "pair_epochs": asked.epochs}
    if multiplies_in_bfloat16(torch.device(config.device(asked.device))):
        params["products"] = "bfloat16"
    return params


def pair(preset: str, asked: argparse.Namespace) -> int:
    """Notebook 04."""
    return whole_notebook("04", preset, asked, pair_params(preset, asked))


def transformer(preset: str, asked: argparse.Namespace) -> int:
    """Notebook 03."""
    return whole_notebook("03", preset, asked, {})


def ship_parity(preset: str, asked: argparse.Namespace) -> int:
    """The table of `parity`, with what made it."""
    table = pd.read_csv(asked.out / "parity.csv")
    seeds = sorted({int(seed) for seed in table["seed"]})
    settings = CurriculaSettings.load(preset, **TASK[preset])
    facts = {"command": "python scripts/paper_sizes.py parity", "seeds": seeds, "core_minutes": asked.core_minutes}
    plans = {"teacher": teacher_plan(settings), "student": student_plan(settings)}
    facts |= {name: plan.model_dump(mode="json") for name, plan in plans.items()}
    facts |= {"checkpoint_accuracy": settings.hard_checkpoint_accuracy, "stage_steps": settings.hard_stage_steps}
    points.ship_table("parity_paper", table, **facts)
    return 0


def ship_pair(preset: str, asked: argparse.Namespace) -> int:
    """Every mask of the finished seeds of `pair`, out of the store."""
    params = {"seeds": asked.seeds, "device": asked.device} | pair_params(preset, asked)
    settings = LoadingSettings.load(preset, **params)
    found = done(settings)
    if not found:
        asked_for = f"seeds {list(settings.seeds)}, {settings.pair_epochs} epochs, products in {settings.products}"
        raise SystemExit(f"the store has no pair of {asked_for}")
    table = tables.stacked_masks([pair for _, pair in found.values()])[COLUMNS]
    seeds = " ".join(map(str, found))
    command = f"python scripts/paper_sizes.py pair --epochs {settings.pair_epochs} --seeds {seeds}"
    points.ship_table("pair_paper", table, command=command, **told(settings, found))
    return 0


def main() -> int:
    """Do, or go on with, the job asked for; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    jobs = {"parity": parity, "pair": pair, "transformer": transformer}
    ships = {"parity": ship_parity, "pair": ship_pair}
    parser.add_argument("job", choices=jobs)
    parser.add_argument("--stop-after", metavar="TIME", help="such as 8m")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--one-shot-widths", type=int, nargs="*", help="of `parity`; default: those of all students")
    parser.add_argument("--ship", action="store_true", help="train nothing, but put what is done into data/results")
    parser.add_argument("--core-minutes", type=float, help="of `parity`, for --ship")
    parser.add_argument("--epochs", type=int, help="of `pair`, for teacher and student; default: the paper's 160")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--out", type=Path, default=paths.runs() / "paper")
    asked = parser.parse_args()
    if asked.ship and asked.job not in ships:
        parser.error(f"--ship: {asked.job} has no table; {' and '.join(ships)} have")
    asked.out.mkdir(parents=True, exist_ok=True)
    if asked.stop_after:
        environment.stop_after(asked.stop_after)
    try:
        return (ships if asked.ship else jobs)[asked.job]("smoke" if asked.smoke else "paper", asked)
    except TimeIsUpError as stopped:
        print(stopped)
        return STOPPED


if __name__ == "__main__":
    sys.exit(main())
