"""Time planning, status and report of a batch of 10,000 points whose runs are made up (`tests/helpers/stub_runner.py`).

    python scripts/stub_sweep.py            # the points are laid out as runs would have left them
    python scripts/stub_sweep.py --dask     # they are sent through the engine, on two processes, each with the stub

Each is a process of its own, from its start to its end, with everything that it imports, and memory is that of all the
processes that it starts together. The limits are 10 s and 1 GiB, for planning, for the status, and for the report: what
notebook 09 reads, computes and draws. The notebook itself, with its kernel and its page, is a row of its own that does not
count. Ends with 1 where one of the others is over its limit.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

from distributed import Client, LocalCluster
from measuring import COMMAND, Row, barred, measured, say

from pwl_lab.runner import batch
from pwl_lab.runner.grid import plan_grid
from pwl_lab.support import paths

sys.path.append(str(paths.root() / "tests" / "helpers"))
import stub_runner

BITS, SEEDS = 50, 10  # x 5 widths x 4 stage lengths
LIMIT_S, LIMIT_MIB = 10, 1024
REPORT = """
import sys
from pwl_lab import plots
from pwl_lab.runner import curves, report
found = report.read_batch(sys.argv[1])
view = curves.choose(found)
table, seeds = curves.summarize(found, view), curves.tidy(found, view)
plots.sweep_curves(table, seeds, view.metric, view.axis, view.hue, view.facets).savefig(sys.argv[2])
report.listing(found.kinds_of_failure()).to_html(), found.failures.head(20), found.head(12), found.cost(), found.slowest()
"""


def row(name: str, found: dict[str, float], **more: object) -> Row:
    """One row for `bench.json`, against the limits."""
    facts = {"cpu_seconds": found["cpu_seconds"], "peak_mib": found["peak_mib"], "limit_mib": LIMIT_MIB}
    return barred(name, found["seconds"], LIMIT_S, **facts, note=f"{found['cpu_seconds']} s of processor time", **more)


def sweep_rows(folder: Path, dask: bool = False) -> list[Row]:
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
    notebook = [*COMMAND, "run", "09", "-p", f"batch={out}", "--out", str(folder / "report")]
    rows.append(row(f"notebook 09 on {count}, with kernel and page", measured(notebook), counts=False))
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
        batch.run_batch(batch.prepare(grid, out), scheduler=cluster.scheduler_address)


def main() -> int:
    """Measure and print; how the process ends."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dask", action="store_true", help="send the points through the engine")
    parser.add_argument("--keep", type=Path, help="leave the batch in this folder")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place = asked.keep or Path(folder)
        place.mkdir(parents=True, exist_ok=True)
        return min(1, say(sweep_rows(place, asked.dask)))


if __name__ == "__main__":
    sys.exit(main())
