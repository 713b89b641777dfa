"""Time planning, status and report of a batch of 10,000 points whose runs are made up (`tests/stub_runner.py`).

    python scripts/stub_sweep.py            # the points are laid out as runs would have left them
    python scripts/stub_sweep.py --dask     # they are sent through the engine, on two processes, each with the stub

Each is a process of its own, from its start to its end, with everything that it imports. The limits are 10 s and 1 GiB.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from distributed import Client, LocalCluster

from pwl_lab import paths
from pwl_lab.batch import batches
from pwl_lab.batch.gridplan import plan_grid

sys.path.append(str(paths.root() / "tests"))
import stub_runner

BITS, SEEDS = 50, 10  # x 5 widths x 4 stage lengths
LIMIT_S, LIMIT_MB = 10, 1024
COMMAND = [sys.executable, "-c", "from pwl_lab.cli import app; app()"]
REPORT = """
import sys
from pwl_lab import plots
from pwl_lab.batch import curves, report
found = report.read_batch(sys.argv[1])
view = curves.choose(found)
table, seeds = curves.curves(found, view), curves.tidy(found, view)
plots.sweep_curves(table, seeds, view.metric, view.axis, view.hue, view.facets).savefig(sys.argv[2])
report.listing(found.kinds_of_failure()).to_html(), found.failures.head(20), found.head(12), found.cost(), found.slowest()
"""


def measured(command: list[str]) -> dict[str, float]:
    """Run a command that must go well: seconds, processor seconds (its own and its children's), peak memory in MiB."""
    begun = time.perf_counter()
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(command, stdout=said, stderr=subprocess.STDOUT)
        _, code, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(code)
        seconds = time.perf_counter() - begun
        if process.returncode:
            said.seek(0)
            raise RuntimeError(said.read().decode(errors="replace"))
    cpu = used.ru_utime + used.ru_stime
    return {"seconds": round(seconds, 2), "cpu_seconds": round(cpu, 2), "peak_mb": round(used.ru_maxrss / 1024)}


def row(name: str, found: dict[str, float]) -> dict[str, object]:
    """One row for `bench.json`, against the limit."""
    facts = {"name": name, "ours": found["seconds"], "reference": LIMIT_S, "unit": "s, the reference is the limit"}
    more = {"cpu_seconds": found["cpu_seconds"], "peak_mb": found["peak_mb"], "limit_mb": LIMIT_MB}
    return facts | {"ratio": round(LIMIT_S / found["seconds"], 3)} | more


def sweep_rows(folder: Path, dask: bool = False) -> list[dict[str, object]]:
    """Make the batch in `folder`, then measure."""
    grid, out = folder / "grid.yaml", folder / "batch"
    count = f"{stub_runner.write_grid(grid, BITS, SEEDS):,} stub points"
    rows = [row(f"planning {count}", measured([*COMMAND, "batch", str(grid), "--out", str(out), "--dry-run"]))]
    begun = time.perf_counter()
    if dask:
        run_through_dask(grid, out)
    else:
        plan = plan_grid(grid)
        stub_runner.fill(out, plan, list(plan.points))
    print(f"{'ran' if dask else 'laid out'} {count} in {time.perf_counter() - begun:.1f} s")
    again = [*COMMAND, "batch", str(grid), "--out", str(out), "--dry-run"]
    rows += [
        row(f"planning what is left of {count}", measured(again)),
        row(f"status of {count}", measured([*COMMAND, "status", str(out)])),
        row(f"report on {count}", measured([sys.executable, "-c", REPORT, str(out), str(folder / "report.png")])),
    ]
    return rows


def run_through_dask(grid: Path, out: Path, workers: int = 2) -> None:
    """Send the points through the engine, as `pwl-lab batch --scheduler` does, to workers that have the stub."""
    cluster = LocalCluster(
        n_workers=workers,
        threads_per_worker=1,
        host="127.0.0.1",
        dashboard_address=None,
        memory_limit=0,
        scheduler_kwargs={"dashboard_address": "127.0.0.1:0"},
    )
    with cluster, Client(cluster) as client:
        client.register_plugin(stub_runner.StubRunner())
        batches.run_batch(batches.prepare(grid, out), scheduler=cluster.scheduler_address)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dask", action="store_true", help="send the points through the engine")
    parser.add_argument("--keep", type=Path, help="leave the batch in this folder")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place = asked.keep or Path(folder)
        place.mkdir(parents=True, exist_ok=True)
        for one in sweep_rows(place, asked.dask):
            print(
                f"{one['name']}: {one['ours']} s ({one['cpu_seconds']} s of processor time), {one['peak_mb']} MB; "
                f"limits {LIMIT_S} s and {LIMIT_MB} MB"
            )


if __name__ == "__main__":
    main()
