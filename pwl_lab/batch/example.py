"""The example batch: a small grid that notebook 09 runs itself where it is given no other."""

from pathlib import Path

from pwl_lab import parallel, paths
from pwl_lab.batch import batches
from pwl_lab.batch.gridplan import Point
from pwl_lab.batch.points import read_states
from pwl_lab.batch.status import RunStatus
from pwl_lab.errors import PwlLabError
from pwl_lab.progress import Progress


def example_batch(folder: Path | None = None, workers: int | None = None) -> Path:
    """The folder of the example batch (`presets/grids/example.yaml`), run now as far as it has not been.

    It goes the way of `pwl-lab batch`. A point that has failed is not tried again: one of them always does. Raises
    PwlLabError where the batch was stopped.
    """
    folder = folder or paths.example_batch()
    prepared = batches.prepare(paths.grids() / "example.yaml", folder)
    todo = _not_ended(prepared)
    prepared = batches.Prepared(prepared.plan, folder, todo)
    if not todo:
        batches.run_batch(prepared)  # it may have been made with other points: say which ones these are
        return folder
    with Progress("example batch", len(todo), "point") as bar:

        def ended(point: Point, status: RunStatus) -> None:
            bar.advance(1, {"seconds": status.seconds})

        outcome = batches.run_batch(prepared, workers or parallel.n_workers(), on_end=ended)
    if outcome and outcome.stopped_by:
        raise PwlLabError(
            f"the example batch was stopped ({outcome.stopped_by}); run the cell again, it goes on from there"
        )
    return folder


def _not_ended(prepared: batches.Prepared) -> list[Point]:
    """The points that have not come to an end of their own yet."""
    try:
        states = {state.hash: state.status for state in read_states(prepared.folder)}
    except PwlLabError:  # there is no batch yet
        return prepared.todo
    return [point for point in prepared.todo if states.get(point.hash) not in ("failed", "timeout")]
