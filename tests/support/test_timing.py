import threading
import time
from collections.abc import Callable

import pytest

from pwl_lab.support import timing
from pwl_lab.support.timing import phase, totals


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Let this many seconds pass, on the module's clock; the thread's totals begin at nothing."""
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(timing, "_clock", timing._Clock())

    def wait(seconds: float) -> None:
        now[0] += seconds

    return wait


def test_a_second_counts_once_for_the_innermost_phase(later) -> None:
    with phase("training"):
        later(3)
        with phase("evaluation"):
            later(2)
            with phase("training"):
                later(10)
        later(0.5)
    later(1_000)  # outside of any
    with phase("evaluation"):
        later(1)
    assert totals() == {"training": 13.5, "evaluation": 3}


def test_what_has_not_ended_counts_so_far_and_not_again_later(later) -> None:
    with phase("drawing"):
        later(2)
        assert totals() == {"drawing": 2}
        later(3)
    assert totals() == {"drawing": 5}


def test_a_phase_that_fails_has_ended(later) -> None:
    @phase("loading")
    def fails() -> None:
        later(4)
        raise KeyError

    with phase("waiting"):
        for _ in range(2):
            with pytest.raises(KeyError):
                fails()
        later(1)
    later(7)
    assert totals() == {"loading": 8, "waiting": 1}


def test_each_thread_has_its_own_totals(later) -> None:
    found = []

    def beside() -> None:
        with phase("loading"):
            later(5)
        found.append(totals())

    with phase("training"):
        thread = threading.Thread(target=beside)
        thread.start()
        thread.join()
    assert found == [{"loading": 5}]
    assert totals() == {"training": 5}
