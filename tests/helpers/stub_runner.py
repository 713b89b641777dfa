"""A stub of `run_notebook`: it executes nothing, and leaves what a real run would, for batches of thousands of points.

`StubRunner` puts it in the place of the real one in every worker of a Dask cluster; `fill` does without Dask. One point in
`FAILS_EVERY` fails, in one of two ways, and some students do not get there.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from distributed import Worker, WorkerPlugin

from pwl_lab.runner.location import location_at
from pwl_lab.runner.points import BatchPlan, Point, log_event, write_batch
from pwl_lab.runner.run_folder import METRICS, NOTEBOOK, PAGE, PARAMS, RunError, RunStatus, write_status

FAILS_EVERY = 29  # so that hundreds of points hold many that fail, whatever their hashes
BUDGET = 12_000
GRID = """notebook: 02_distillation_curricula
preset: smoke
axes:
  - product:
      n_bits: [{bits}]
      student_width: [16, 24, 32, 48, 64]
      stage_steps: [50, 100, 150, 200]
seeds: [{seeds}]
"""


def write_grid(path: Path, bits: int, seeds: int) -> int:
    """A grid of `bits` x 5 x 4 x `seeds` points; how many these are."""
    path.write_text(
        GRID.format(bits=", ".join(map(str, range(10, 10 + bits))), seeds=", ".join(map(str, range(seeds))))
    )
    return bits * 5 * 4 * seeds


def fails(point: str) -> bool:
    """Whether the point with this hash is one that fails."""
    return int(point[:8], 16) % FAILS_EVERY == 0


def metrics_of(params: Mapping[str, Any]) -> dict[str, Any]:
    """Numbers in the form of notebook 02's: one-shot's grow with the bits and at last do not get there, the others' stay."""
    bits, width, stage, (seed,) = params["n_bits"], params["student_width"], params["stage_steps"], params["seeds"]
    slow = 20 * bits**2 * (1 + seed % 3) // 2
    steps = {
        "one_shot": slow if slow <= BUDGET else None,
        "progressive": 900 + width + seed,
        "extracted": 2 * stage + bits + 3 * seed,
    }
    return {
        "steps_to_threshold": {name: [value] for name, value in steps.items()},
        "final_accuracy": {name: [0.5 if value is None else 1.0] for name, value in steps.items()},
        "budget_steps": BUDGET,
        "teacher": {"reached_at": 10 * bits, "steps": 40 * bits},
        "seeds": [seed],
        "made": {"commit": "stub"},
    }


def run_stub(
    notebook: str | Path,
    out: str | Path,
    preset: str | None = None,
    params: Mapping[str, Any] | None = None,
    *_: Any,
    **__: Any,
) -> RunStatus:
    """In place of `run_notebook`: leave a run's files in `out`; the numbers are made up."""
    folder, bad = Path(out), fails(Path(out).name)
    folder.mkdir(parents=True, exist_ok=True)
    for name in (NOTEBOOK, PAGE):
        (folder / name).write_text("{}")
    (folder / PARAMS).write_text(json.dumps(params))
    kind = int(Path(out).name[8:10], 16) % 2
    error = (
        RunError(name=("KeyError", "MemoryError")[kind], message=f"made up {kind}", traceback="no\n" * 20)
        if bad
        else None
    )
    if not bad:
        (folder / METRICS).write_text(json.dumps(metrics_of(params or {}), indent=1))
    status = RunStatus(
        status="failed" if bad else "ok",
        notebook="notebooks/02_distillation_curricula.ipynb",
        preset=preset,
        cell=7 if bad else None,
        error=error,
        started="2026-01-01T00:00:00+00:00",
        seconds=30 + int(folder.name[:2], 16),
        cells=41,
        versions={"pwl_lab": "stub"},
        commit=None,
    )
    write_status(folder, status)
    return status


class StubRunner(WorkerPlugin):
    """Makes a worker run the stub instead of notebooks: the one seam is the name `run_notebook` in the worker's module."""

    name = "stub-runner"

    def setup(self, worker: Worker) -> None:
        """Called in the worker's process."""
        from pwl_lab.runner import worker as module

        module.run_notebook = run_stub


def fill(folder: Path, plan: BatchPlan, points: list[Point]) -> None:
    """Leave a batch of which these points have run, without Dask."""
    folder.mkdir(parents=True, exist_ok=True)
    write_batch(location_at(folder), plan)
    for name in ("batch begun", "batch ended"):
        log_event(folder, name, batch="stub")
    for point in points:
        run_stub(plan.notebook, location_at(folder).point(point.hash), plan.preset, point.params)
