"""Where the time of a notebook goes: `with phase("training"):` stands at the few places that take most of it.

Phases nest, and each second counts for the innermost one only. Each thread has totals of its own, which therefore never
exceed its time. What worker processes do counts as the phase in which this process waits for them.
"""

import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, get_args

# kernel: its start, its end and a notebook's imports. loading: loads that are measured or waited for, slow links included.
# waiting: for another process that is making the same. page: the notebook as HTML.
Phase = Literal["kernel", "training", "evaluation", "loading", "drawing", "waiting", "page"]
PHASES: tuple[str, ...] = get_args(Phase)


class _Clock(threading.local):
    """The totals of the thread that uses it, and the phases in which it is, the innermost last."""

    def __init__(self) -> None:
        self.totals: dict[str, float] = defaultdict(float)
        self.inside: list[str] = []
        self.since = 0.0

    def count(self) -> None:
        """Add the time since the last call to the innermost phase."""
        now = time.monotonic()
        if self.inside:
            self.totals[self.inside[-1]] += now - self.since
        self.since = now


_clock = _Clock()


@contextmanager
def phase(name: Phase) -> Iterator[None]:
    """A context, or a decorator, whose time counts as `name`, except for phases inside it."""
    _clock.count()
    _clock.inside.append(name)
    try:
        yield
    finally:
        _clock.count()
        _clock.inside.pop()


def totals() -> dict[str, float]:
    """The seconds of each phase in this thread so far."""
    _clock.count()
    return dict(_clock.totals)
