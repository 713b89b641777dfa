"""What a batch adds to the notebooks it runs: 24 points of notebook 02 at `smoke`, two at a time, and its resume.

    python scripts/batch_overhead.py                  # --keep FOLDER leaves the batch, --no-runs saves half of the time

The bar is 25% over the notebooks' own time, defined twice. *Points*: from the command's start to its end, against the
seconds that the points themselves took (their `status.json`: kernel, cells, page), divided by the workers. *Runs*: against
the same 24 given to `pwl-lab run` one by one, two at a time, into a store that is empty as well. Then the same batch
command once more, which finds nothing to do: 5 s. Ends with 1 where one is over its bar.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from measuring import COMMAND, Row, barred, measured, say

from pwl_lab.runner.grid import plan_grid
from pwl_lab.runner.points import BatchPlan

WORKERS, ALLOWED, RESUME_S = 2, 1.25, 5.0
LOOK_S = 5.0  # memory is not the question here, and looking costs time
GRID = """notebook: 02_distillation_curricula
preset: smoke
axes:
  - product:
      n_bits: [12, 14]
      student_width: [16, 24]
      stage_steps: [50, 100]
seeds: [0, 1, 2]
"""


def with_store(folder: Path) -> dict[str, str]:
    """The environment with a store of its own, so that neither way finds what the other has trained."""
    return dict(os.environ) | {"PWL_LAB_STORE": str(folder), "OMP_NUM_THREADS": "1"}


def run_one_by_one(plan: BatchPlan, folder: Path) -> float:
    """The plan's points as `pwl-lab run`, two at a time; seconds from the first one's start to the last one's end."""
    folder.mkdir(parents=True)
    env = with_store(folder / "store")
    commands = []
    for number, point in enumerate(plan.points):
        given = [f"{name}={json.dumps(value)}" for name, value in point.params.items()]
        words = [word for pair in given for word in ("-p", pair)]
        commands.append([*COMMAND, "run", "02", "--preset", "smoke", *words, "--out", str(folder / str(number))])
    begun = time.perf_counter()
    with ThreadPoolExecutor(WORKERS) as pool:
        list(pool.map(lambda command: measured(command, env, LOOK_S), commands))
    return time.perf_counter() - begun


def overhead_rows(folder: Path, runs: bool = True) -> list[Row]:
    """Run the batch in `folder`, resume it, and run its points one by one."""
    grid, out = folder / "grid.yaml", folder / "batch"
    grid.write_text(GRID, encoding="utf-8")
    plan = plan_grid(grid)
    batch = [*COMMAND, "batch", str(grid), "--out", str(out), "--workers", str(WORKERS)]
    env, name = with_store(folder / "store"), f"a batch of {len(plan.points)} points of 02 at smoke"
    wall = measured(batch, env, LOOK_S)["seconds"]
    resumed = measured(batch, env, LOOK_S)["seconds"]
    points = [
        json.loads((out / "points" / point.hash / "status.json").read_text(encoding="utf-8")) for point in plan.points
    ]
    if any(status["status"] != "ok" for status in points):
        raise RuntimeError(f"not every point of {out} is ok: nothing to compare")
    rows = [against(f"{name}, against the points' own seconds", wall, sum(s["seconds"] for s in points) / WORKERS)]
    if runs:
        alone = run_one_by_one(plan, folder / "alone")
        rows.append(against(f"{name}, against as many pwl-lab run", wall, alone))
    return [*rows, barred("the same batch again, with nothing left to do", resumed, RESUME_S)]


def against(name: str, wall: float, own: float) -> Row:
    """The row of one comparison; the bar is a quarter more than the notebooks' `own` seconds."""
    return barred(name, wall, ALLOWED * own, overhead=round(wall / own - 1, 3), note=f"overhead {wall / own - 1:+.1%}")


def main() -> int:
    """Measure and print; how the process ends."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keep", type=Path, help="leave the batch in this folder")
    parser.add_argument("--no-runs", action="store_true", help="without the same points as pwl-lab run")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place = asked.keep or Path(folder)
        place.mkdir(parents=True, exist_ok=True)
        return min(1, say(overhead_rows(place, not asked.no_runs)))


if __name__ == "__main__":
    sys.exit(main())
