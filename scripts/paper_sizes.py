"""Three jobs at the papers' sizes, for a GPU that may be had for minutes only; the most informative first.

    python scripts/paper_sizes.py parity --stop-after 8m       # (100, 6), a teacher of 50,000 units, students of 100 and 1,000
    python scripts/paper_sizes.py pair --stop-after 8m         # notebook 04's vgg at `paper`, on all of Fashion-MNIST at 32x32
    python scripts/paper_sizes.py transformer --stop-after 8m  # notebook 03 at `paper`: (100, 6), 32 heads against 4

Repeat a command while its exit code is 3 (time was up): it goes on from its last checkpoint. What is done stays in the
store. `parity` writes `parity.csv` to `--out`, a row as soon as it is known, the quick curricula first; the others leave
their notebook there, with its `metrics.json`. `--smoke` does the same at sizes that take seconds on a CPU.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import pandas as pd

from pwl_lab.models import mlp
from pwl_lab.runner.execute import run_notebook
from pwl_lab.study.harder_task import hard_curricula, hard_student_plan, teacher_plan
from pwl_lab.study.settings import CurriculaSettings
from pwl_lab.study.tables import first_step
from pwl_lab.study.verbs import distill, train_or_load
from pwl_lab.support import environment, paths
from pwl_lab.support.errors import TimeIsUpError
from pwl_lab.tasks.parity import SparseParity
from pwl_lab.training import TrainedModel

STOPPED = 3  # as `pwl-lab` says it
CURRICULA = ("extracted", "progressive", "one_shot")  # the last one takes nearly all of the time
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


def teacher_of(settings: CurriculaSettings, seed: int) -> tuple[SparseParity, TrainedModel]:
    """The task of a draw and its teacher."""
    task = SparseParity(settings.hard_n_bits, settings.hard_k_sparse, seed=seed, eval_samples=settings.eval_samples)
    model = mlp(task, width=settings.hard_teacher_width)
    return task, train_or_load(model, task, teacher_plan(settings), seed, settings.device)


def parity(preset: str, asked: argparse.Namespace) -> int:
    """A row per teacher, and per curriculum, draw and student width: the samples to the threshold."""
    settings = CurriculaSettings.load(preset, **TASK[preset], device=asked.device)
    plan, rows = hard_student_plan(settings), []
    common = {"n": settings.hard_n_bits, "k": settings.hard_k_sparse, "teacher_width": settings.hard_teacher_width}

    def add(seed: int, who: str, width: int, step: int | None, budget: int) -> None:
        """A row, written at once."""
        there = {"samples": (budget if step is None else step) * settings.batch_size, "reached": step is not None}
        rows.append(common | {"curriculum": who, "width": width, "seed": seed} | there)
        pd.DataFrame(rows).to_csv(asked.out / "parity.csv", index=False)
        print(rows[-1], flush=True)

    drawn = {}
    for seed in asked.seeds:
        drawn[seed] = (_, teacher) = teacher_of(settings, seed)
        step = first_step(teacher.history, settings.threshold)
        add(seed, "teacher", settings.hard_teacher_width, step, settings.hard_teacher_max_steps)
    learned = {seed: one for seed, one in drawn.items() if one[1].reached_at is not None}
    for name in CURRICULA:
        curricula = {name: hard_curricula(settings)[name]}
        for seed, (task, teacher) in learned.items():
            for width in WIDTHS[preset]:
                runs = distill(teacher, mlp(task, width=width), task, curricula, [seed], plan, settings.device)
                add(seed, name, width, runs.steps_to(settings.threshold)[name][0], plan.steps)
    return 0


def whole_notebook(name: str, preset: str, asked: argparse.Namespace, params: dict[str, Any]) -> int:
    """A notebook at the preset, with its page and its metrics."""
    given = {"seeds": asked.seeds, "device": asked.device} | params
    status = run_notebook(name, asked.out / name, preset, given, on_line=lambda line: print(line, flush=True))
    print(f"{status.status}: {asked.out / name}", *([status.error.message] if status.error else []))
    return {"ok": 0, "stopped": STOPPED}.get(status.status, 1)


def pair(preset: str, asked: argparse.Namespace) -> int:
    """Notebook 04 on padded Fashion-MNIST."""
    epochs = {"teacher_epochs": asked.epochs, "pair_epochs": asked.epochs} if asked.epochs else {}
    return whole_notebook("04", preset, asked, {"family": "vgg", "dataset": "fashion-mnist-32"} | PAIR[preset] | epochs)


def transformer(preset: str, asked: argparse.Namespace) -> int:
    """Notebook 03."""
    return whole_notebook("03", preset, asked, {})


def main() -> int:
    """Do, or go on with, the job asked for; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    jobs = {"parity": parity, "pair": pair, "transformer": transformer}
    parser.add_argument("job", choices=jobs)
    parser.add_argument("--stop-after", metavar="TIME", help="such as 8m")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, help="of `pair`, for teacher and student; default: the paper's 160")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--out", type=Path, default=paths.runs() / "paper")
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    if asked.stop_after:
        environment.stop_after(asked.stop_after)
    try:
        return jobs[asked.job]("smoke" if asked.smoke else "paper", asked)
    except TimeIsUpError as stopped:
        print(stopped)
        return STOPPED


if __name__ == "__main__":
    sys.exit(main())
