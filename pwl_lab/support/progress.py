"""One progress helper for every long loop.

At a terminal or in Jupyter it is a tqdm bar that goes away when the work is done. In batch (`PWL_LAB_PROGRESS` names a
file, as `pwl-lab run` does) a line every few seconds goes to that file instead: no dead bars in the executed notebook,
no flooded log. In a worker process (`report_to`) everything is said to the parent, which shows one bar for all workers.

A training also says what each evaluation found (`Progress.evaluated`), for a curve that grows beside the bar. What draws
it stands above this module: `draw_with` names it for all trainings, `shown_by` for those of a `with` block.
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
    """What draws evaluations as they come."""

    def add(self, rows: Sequence[Row], run: str) -> None:
        """Take the rows of one evaluation. `run` tells trainings apart and begins with the training's description."""

    def close(self) -> None:
        """The training has ended."""


_report: Callable[[dict[str, Any]], None] | None = None
_draw: Callable[[], Viewer] | None = None
_viewer: ContextVar[Viewer | None] = ContextVar("viewer", default=None)
_runs = count(1)


def draw_with(make: Callable[[], Viewer]) -> None:
    """From now on, `make` gives each training that a person watches in a notebook its viewer."""
    global _draw  # one process, one way to draw
    _draw = make


@contextmanager
def shown_by(viewer: Viewer) -> Iterator[None]:
    """Inside, what this thread trains is shown by `viewer` and by nothing else; it stays open."""
    token = _viewer.set(viewer)
    try:
        yield
    finally:
        _viewer.reset(token)


def _is_watched() -> bool:
    """Whether a person runs this kernel. Front ends allow a cell to ask for input; papermill and nbclient do not."""
    from IPython import get_ipython

    return bool(getattr(getattr(get_ipython(), "kernel", None), "_allow_stdin", False))


def report_to(send: Callable[[dict[str, Any]], None]) -> None:
    """From now on, this process shows nothing itself: `send` takes `{"total"}` at a beginning and `{"steps", "values"}`."""
    global _report  # one process, one way to report
    _report = send


class Progress:
    """A bar over `total` steps: `with Progress("teacher", 3000) as bar: bar.advance(1, loss=0.69)`.

    `total` is an upper limit: work that stops early just ends the bar.
    """

    def __init__(self, description: str, total: int, unit: str = "step") -> None:
        """`total` counts in `unit`s."""
        self.description, self.total, self.unit, self.done = description, total, unit, 0
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
        """Close the bar and the curve; in batch, one last line with the time it took."""
        if self._own_viewer and self._viewer is not None:
            self._viewer.close()
        if self._bar is not None:
            if kind is None:
                self._bar.total = self.done  # or tqdm would take work that stops early for failed, and turn red
            self._bar.close()
        elif self._viewer is not None:
            return
        elif _report is not None:
            self._send({})
        elif self._file is not None:
            word = "done" if kind is None else f"stopped by {kind.__name__}"
            self._line(f"{word} after {self.done} {self.unit}s, {time.monotonic() - self._begun:.1f} s")

    def extend(self, total: int) -> None:
        """Change how many steps there are to `total`."""
        self.total = total
        if self._bar is not None:
            self._bar.total = total
            self._bar.refresh()

    def advance(self, steps: int = 1, /, **values: float) -> None:
        """Say that `steps` more are done, with the numbers worth seeing (the loss, an accuracy)."""
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
            left = (self._last - self._begun) / max(self.done, 1) * (self.total - self.done)
            shown = "".join(f", {name} {value:.3g}" for name, value in values.items())
            self._line(f"{self.done}/{self.total} {self.unit}s{shown}, at most {left:.0f} s left")

    def evaluated(self, rows: Sequence[Row], run: str | None = None) -> None:
        """Say what an evaluation found: new rows of a history, for a curve. A worker's parent says whose `run` it was."""
        if self._viewer is not None:
            self._viewer.add(rows, run or self._run)
        elif _report is not None:
            self._rows += rows

    def _send(self, values: Mapping[str, float]) -> None:
        """Report to the parent what was not reported yet."""
        if _report is not None:
            found = {"rows": self._rows, "run": self._run} if self._rows else {}
            _report({"steps": self._unreported, "values": values, **found})
        self._unreported, self._rows = 0, []

    def _line(self, text: str) -> None:
        """Append one line to the progress file."""
        with self._file.open("a", encoding="utf-8") as file:
            file.write(f"{self.description}: {text}\n")
