"""One progress helper for every long loop.

In a terminal or in Jupyter it is a tqdm bar that disappears when the work is done. In batch runs (if `PWL_LAB_PROGRESS`
names a file, as `pwl-lab run` sets it) it writes a line to that file every few seconds instead, so that executed
notebooks have no stale bars and logs stay short. A worker process (`report_to`) reports to its parent, which shows one
bar for all workers.

A training also reports each evaluation (`Progress.evaluated`), for a live curve next to the bar. The viewer that draws
it is defined above this module: `draw_with` sets it for all trainings, `shown_by` for those in a `with` block.
"""

import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import count
from types import TracebackType
from typing import Any, Protocol

from tqdm.auto import tqdm
from tqdm.std import tqdm as plain_tqdm

from pwl_lab.support import environment

LINE_EVERY_S = 3.0
REPORT_EVERY_S = 0.5

Row = Mapping[str, Any]  # of a training's history


class Viewer(Protocol):
    """Draws evaluations as they arrive."""

    def add(self, rows: Sequence[Row], run: str) -> None:
        """Add the rows of one evaluation. `run` identifies the training and begins with its description."""

    def close(self) -> None:
        """Called when the training has ended."""


_report: Callable[[dict[str, Any]], None] | None = None
_draw: Callable[[], Viewer] | None = None
_viewer: ContextVar[Viewer | None] = ContextVar("viewer", default=None)
_runs = count(1)


def draw_with(make: Callable[[], Viewer]) -> None:
    """From now on, create the viewer for each interactive training in a notebook with `make`."""
    global _draw  # one process, one way to draw
    _draw = make


@contextmanager
def shown_by(viewer: Viewer) -> Iterator[None]:
    """A context in which trainings of this thread are shown only by `viewer`, which stays open."""
    token = _viewer.set(viewer)
    try:
        yield
    finally:
        _viewer.reset(token)


def _is_watched() -> bool:
    """Whether a person uses this kernel. Front ends allow cells to ask for input; papermill and nbclient do not."""
    from IPython import get_ipython

    return bool(getattr(getattr(get_ipython(), "kernel", None), "_allow_stdin", False))


def report_to(send: Callable[[dict[str, Any]], None]) -> None:
    """From now on, show nothing in this process: `send` gets `{"total"}` at the start, then `{"steps", "values"}`."""
    global _report  # one process, one way to report
    _report = send


class Progress:
    """A bar over `total` steps: `with Progress("teacher", 3000) as bar: bar.advance(1, loss=0.69)`.

    `total` is an upper limit: work that stops early simply ends the bar.
    """

    def __init__(self, description: str, total: int, unit: str = "step") -> None:
        """`total` is a number of `unit`s."""
        self.description, self.total, self.unit, self.done = description, total, unit, 0
        self._before = 0  # what an earlier process had done
        self._file = environment.PROGRESS.get()
        self._begun = self._last = time.monotonic()
        self._bar: plain_tqdm | None = None
        self._unreported = 0
        self._rows: list[Row] = []
        self._run = f"{description}, {os.getpid()}.{next(_runs)}"
        self._viewer = _viewer.get()
        self._own_viewer = False
        if self._viewer is not None:
            return
        if _report is not None:
            _report({"total": total})
        elif self._file is None and (sys.stderr.isatty() or "ipykernel" in sys.modules):
            self._bar = tqdm(total=total or None, desc=description, unit=unit, leave=False, mininterval=0.5)
            if _draw is not None and "ipykernel" in sys.modules and _is_watched():
                self._viewer, self._own_viewer = _draw(), True

    def __enter__(self) -> "Progress":
        """The bar itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the bar and the curve; in batch runs, write a last line with the time."""
        if self._own_viewer and self._viewer is not None:
            self._viewer.close()
        if self._bar is not None:
            if kind is None:
                self._bar.total = self.done  # or tqdm shows work that stops early as failed, in red
            self._bar.close()
        elif self._viewer is not None:
            return
        elif _report is not None:
            self._send({})
        elif self._file is not None:
            word = "done" if kind is None else f"stopped by {kind.__name__}"
            self._line(f"{word} after {self.done} {self.unit}s, {time.monotonic() - self._begun:.1f} s")

    def extend(self, total: int) -> None:
        """Change the number of steps to `total`."""
        self.total = total
        if self._bar is not None:
            self._bar.total = total
            self._bar.refresh()

    def advance(self, steps: int = 1, /, **values: float) -> None:
        """Report that `steps` more are done, with the numbers to show (the loss, an accuracy)."""
        self.done += steps
        self._unreported += steps
        if self._bar is not None:
            self._bar.update(steps)
            if values:
                self._bar.set_postfix({name: f"{value:.3g}" for name, value in values.items()}, refresh=False)
        elif self._viewer is not None:
            return
        elif _report is not None:
            if time.monotonic() - self._last >= REPORT_EVERY_S:
                self._last = time.monotonic()
                self._send(values)
        elif self._file is not None and time.monotonic() - self._last >= LINE_EVERY_S:
            self._last = time.monotonic()
            left = (self._last - self._begun) / max(self.done - self._before, 1) * (self.total - self.done)
            shown = "".join(f", {name} {value:.3g}" for name, value in values.items())
            self._line(f"{self.done}/{self.total} {self.unit}s{shown}, at most {left:.0f} s left")

    def resumed(self, step: int) -> None:
        """Report that the work goes on at `step`."""
        self.done = self._before = self._unreported = step
        if self._bar is not None:
            self._bar.initial = self._bar.n = step
        self.say(f"resumed at step {step}")

    def say(self, text: str) -> None:
        """Report something in words: beside the bar's name, or as a line of the log."""
        if self._bar is not None:
            self._bar.set_description(f"{self.description}, {text}")
        elif self._viewer is not None:
            return
        elif _report is not None:
            _report({"said": f"{self.description} {text}"})
        elif self._file is not None:
            self._line(text)

    def evaluated(self, rows: Sequence[Row], run: str | None = None) -> None:
        """Report an evaluation: new rows of a history, for a curve. A worker's parent adds the name of the `run`."""
        if self._viewer is not None:
            self._viewer.add(rows, run or self._run)
        elif _report is not None:
            self._rows += rows

    def _send(self, values: Mapping[str, float]) -> None:
        """Report to the parent the steps not reported yet."""
        if _report is not None:
            found = {"rows": self._rows, "run": self._run} if self._rows else {}
            _report({"steps": self._unreported, "values": values, **found})
        self._unreported, self._rows = 0, []

    def _line(self, text: str) -> None:
        """Append one line to the progress file."""
        with self._file.open("a", encoding="utf-8") as file:
            file.write(f"{self.description}: {text}\n")
