"""The example batch: a small grid that notebook 09 runs itself where it is given no other."""

from dataclasses import replace
from pathlib import Path

from pwl_lab.runner import batch
from pwl_lab.runner.points import Point
from pwl_lab.runner.status import RunStatus
from pwl_lab.support import paths, processes
from pwl_lab.support.errors import PwlLabError
from pwl_lab.support.progress import Progress


def example_batch(folder: Path | None = None, workers: int | None = None) -> Path:
    """The folder of the example batch (`presets/grids/example.yaml`), run now as far as it has not been.

    It goes the way of `pwl-lab batch`. A point that has failed is not tried again: one of them always does. Raises
    PwlLabError where the batch was stopped.
    """
    folder = folder or paths.example_batch()
    prepared = batch.prepare(paths.grids() / "example.yaml", folder)
    ended = {
        name
        for name, found in prepared.results.items()
        if found.status and found.status.status in ("failed", "timeout")
    }
    prepared = replace(prepared, todo=[point for point in prepared.todo if point.hash not in ended])
    with Progress("example batch", len(prepared.todo), "point") as bar:

        def note(point: Point, status: RunStatus, at_once: int) -> None:
            bar.advance(1, seconds=status.seconds)

        outcome = batch.run_batch(prepared, workers or min(processes.n_workers(), processes.n_cores()), on_end=note)
    if outcome and outcome.stopped_by:
        raise PwlLabError(
            f"the example batch was stopped ({outcome.stopped_by}); run the cell again, it goes on from there"
        )
    return folder
