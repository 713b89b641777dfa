"""One progress helper for every long loop.

At a terminal or in Jupyter it is a tqdm bar that goes away when the work is done. In batch (`PWL_LAB_PROGRESS` names a
file, as `pwl-lab run` does) a line every few seconds goes to that file instead: no dead bars in the executed notebook,
no flooded log. In a worker process (`report_to`) everything is said to the parent, which shows one bar for all workers.
"""

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

from tqdm.auto import tqdm
from tqdm.std import tqdm as plain_tqdm

from pwl_lab.support import environment

LINE_EVERY_S = 3.0
REPORT_EVERY_S = 0.5

_report: Callable[[dict[str, Any]], None] | None = None


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
        if _report is not None:
            _report({"total": total})
        elif self._file is None and (sys.stderr.isatty() or "ipykernel" in sys.modules):
            self._bar = tqdm(total=total or None, desc=description, unit=unit, leave=False, mininterval=0.5)

    def __enter__(self) -> "Progress":
        """The bar itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the bar; in batch, one last line with the time it took."""
        if _report is not None:
            _report({"steps": self._unreported, "values": {}})
        elif self._bar is not None:
            self._bar.close()
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
        if _report is not None:
            if time.monotonic() - self._last >= REPORT_EVERY_S:
                self._last = time.monotonic()
                _report({"steps": self._unreported, "values": values})
                self._unreported = 0
        elif self._bar is not None:
            self._bar.update(steps)
            if values:
                self._bar.set_postfix({name: f"{value:.3g}" for name, value in values.items()}, refresh=False)
        elif self._file is not None and time.monotonic() - self._last >= LINE_EVERY_S:
            self._last = time.monotonic()
            left = (self._last - self._begun) / max(self.done, 1) * (self.total - self.done)
            shown = "".join(f", {name} {value:.3g}" for name, value in values.items())
            self._line(f"{self.done}/{self.total} {self.unit}s{shown}, at most {left:.0f} s left")

    def _line(self, text: str) -> None:
        """Append one line to the progress file."""
        with self._file.open("a", encoding="utf-8") as file:
            file.write(f"{self.description}: {text}\n")
