"""Progress of a worker goes to its parent and nowhere else; the parent's bar sums it up, and may grow."""

import pickle
import sys
from concurrent.futures import Future
from contextlib import suppress
from types import SimpleNamespace

import pytest

from pwl_lab.support import processes, progress
from pwl_lab.support.errors import InvalidValueError
from pwl_lab.support.progress import Progress, report_to


@pytest.fixture
def clock(monkeypatch):
    """A time that only the test moves, in Jupyter; what the test changes of this process is put back."""
    found = SimpleNamespace(now=100.0)
    monkeypatch.setattr(progress, "_report", None)
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: found.now))
    monkeypatch.setitem(sys.modules, "ipykernel", SimpleNamespace())
    monkeypatch.delenv("PWL_LAB_PROGRESS", raising=False)
    return found


@pytest.fixture
def bars(monkeypatch):
    """The bars that were shown."""
    shown = []

    class Bar(SimpleNamespace):
        def __init__(self, total=None, **keys):
            super().__init__(total=total, done=0, refreshed=[], words={}, closed=False)
            shown.append(self)

        def update(self, steps):
            self.done += steps

        def refresh(self):
            self.refreshed.append(self.total)

        def set_postfix(self, words, refresh):
            self.words = words

        def close(self):
            self.closed = True

    monkeypatch.setattr(progress, "tqdm", Bar)
    return shown


def test_the_steps_that_a_worker_reports_sum_up_to_those_it_did(clock, bars, monkeypatch, tmp_path):
    sent = []
    monkeypatch.setenv("PWL_LAB_PROGRESS", str(tmp_path / "progress"))
    report_to(sent.append)
    with Progress("teacher", 50) as bar:
        for step in range(17):
            clock.now += 0.2
            bar.advance(2, loss=float(step))
    assert sent[0] == {"total": 50}
    assert all(set(report) == {"steps", "values"} for report in sent[1:])
    assert sum(report["steps"] for report in sent[1:]) == 34
    # every third step makes half a second; the values are those of the step that was reported
    assert [report["values"] for report in sent[1:-1]] == [{"loss": float(step)} for step in (2, 5, 8, 11, 14)]
    assert sent[-1] == {"steps": 4, "values": {}}
    assert bars == []
    assert not (tmp_path / "progress").exists()
    assert pickle.loads(pickle.dumps(sent)) == sent  # noqa: S301 - what the pipe to the parent does


def test_a_worker_that_fails_reports_what_it_did(clock):
    sent = []
    report_to(sent.append)
    with suppress(InvalidValueError), Progress("teacher", 50) as bar:
        bar.advance(3)
        raise InvalidValueError("no")
    assert sent == [{"total": 50}, {"steps": 3, "values": {}}]


def test_one_worker_may_do_one_thing_after_another(clock):
    sent = []
    report_to(sent.append)
    for name, steps in (("teacher", 3), ("pair", 5)):
        with Progress(name, steps) as bar:
            bar.advance(steps)
    assert [report["total"] for report in sent if "total" in report] == [3, 5]
    assert [report["steps"] for report in sent if "steps" in report] == [3, 5]


def test_a_process_that_is_no_worker_shows_a_bar_that_can_grow(clock, bars):
    with Progress("teachers", 0) as bar:
        assert bars[0].total is None  # not known yet: no share is shown
        bar.extend(20)
        bar.advance(5, loss=0.12345)
        bar.extend(12)
    assert bars[0].refreshed == [20, 12]
    assert (bar.total, bars[0].done, bars[0].closed) == (12, 5, True)
    assert bars[0].total == 5, "what stops early has not failed"
    assert bars[0].words == {"loss": "0.123"}


def test_in_batch_the_lines_know_of_what_was_added(clock, bars, monkeypatch, tmp_path):
    monkeypatch.setenv("PWL_LAB_PROGRESS", str(tmp_path / "progress"))
    with Progress("teachers", 10) as bar:
        bar.extend(40)
        clock.now += 4
        bar.advance(10, loss=2.0)
    assert (tmp_path / "progress").read_text().splitlines() == [
        "teachers: 10/40 steps, loss 2, at most 12 s left",
        "teachers: done after 10 steps, 4.0 s",
    ]
    assert bars == []


class Curves:
    """A viewer that keeps what it is given."""

    def __init__(self):
        self.seen, self.closed = [], False

    def add(self, rows, run):
        self.seen.append((list(rows), run))

    def close(self):
        self.closed = True


@pytest.mark.parametrize("watched", [True, False])
def test_a_curve_is_drawn_where_a_person_watches_and_goes_with_the_bar(clock, bars, monkeypatch, watched):
    made = []
    monkeypatch.setattr(progress, "_draw", lambda: made.append(Curves()) or made[-1])
    monkeypatch.setattr(progress, "_is_watched", lambda: watched)
    with Progress("teacher", 50) as bar:
        bar.evaluated([{"step": 0, "accuracy": 0.5}])
    assert len(made) == watched
    assert len(bars) == 1
    if watched:
        ((rows, run),) = made[0].seen
        assert rows == [{"step": 0, "accuracy": 0.5}]
        assert run.startswith("teacher, ")
        assert made[0].closed


def test_in_batch_no_curve_is_drawn(clock, bars, monkeypatch, tmp_path):
    monkeypatch.setenv("PWL_LAB_PROGRESS", str(tmp_path / "progress"))
    monkeypatch.setattr(progress, "_draw", lambda: pytest.fail("there is nobody to see it"))
    monkeypatch.setattr(progress, "_is_watched", lambda: True)
    with Progress("teacher", 50) as bar:
        bar.evaluated([{"step": 0}])


def test_a_cell_may_ask_for_input_only_where_a_person_runs_it(monkeypatch):
    import IPython

    for allowed in (True, False):
        shell = SimpleNamespace(kernel=SimpleNamespace(_allow_stdin=allowed))
        monkeypatch.setattr(IPython, "get_ipython", lambda shell=shell: shell)
        assert progress._is_watched() is allowed
    monkeypatch.setattr(IPython, "get_ipython", lambda: None)
    assert progress._is_watched() is False


def test_inside_shown_by_there_is_neither_a_bar_nor_a_report(clock, bars, monkeypatch):
    report_to(lambda report: pytest.fail("nothing is reported"))
    with progress.shown_by(viewer := Curves()), Progress("students", 5) as bar:
        bar.advance(5, loss=1.0)
        bar.evaluated([{"step": 5}])
    assert bars == []
    assert [rows for rows, _ in viewer.seen] == [[{"step": 5}]]
    assert not viewer.closed


def test_the_rows_of_workers_reach_the_parents_curve_each_under_its_own_run(clock, bars, monkeypatch):
    sent, curves = [], Curves()
    report_to(sent.append)
    for seed in (0, 1):
        with Progress("vgg pair", 4) as bar:
            for step in range(4):
                clock.now += 0.3
                bar.evaluated([{"step": step, "seed": seed}])
                bar.advance(1)
    monkeypatch.setattr(progress, "_report", None)
    monkeypatch.setattr(progress, "_draw", lambda: curves)
    monkeypatch.setattr(progress, "_is_watched", lambda: True)
    processes._follow(finished(2), Reports(sent), "pairs")
    assert [row for rows, _ in curves.seen for row in rows] == [
        {"step": n, "seed": s} for s in (0, 1) for n in range(4)
    ]
    assert len({run for _, run in curves.seen}) == 2
    assert bars[0].done == 8


def test_jupyters_bar_is_not_red_when_the_work_ends_early(monkeypatch):
    import ipykernel  # noqa: F401 - a bar is shown where it is imported
    from tqdm.notebook import tqdm as notebook_bar

    monkeypatch.setattr(progress, "_report", None)
    monkeypatch.delenv("PWL_LAB_PROGRESS", raising=False)

    shown = []
    monkeypatch.setattr("tqdm.notebook.display", shown.append)
    monkeypatch.setattr(progress, "tqdm", notebook_bar)
    for error in (None, InvalidValueError("no")):
        with suppress(InvalidValueError), Progress("students", 100) as bar:
            bar.advance(30)
            if error:
                raise error
    styles = [container.children[1].bar_style for container in shown]
    assert styles == ["", "danger"], "red is for what failed"


class Reports(list):
    """A queue of what workers said."""

    def empty(self):
        return not self

    def get(self):
        return self.pop(0)


def finished(number):
    futures = [Future() for _ in range(number)]
    for future in futures:
        future.set_result(None)
    return futures


def test_the_parent_shows_one_bar_for_all_and_estimates_what_has_not_begun(clock, bars):
    sent = [{"total": 10}, {"total": 21}, {"steps": 4, "values": {"loss": 2.0}}, {"total": 5}, {"total": 7}]
    processes._follow(finished(3), Reports([*sent, {"steps": 39, "values": {}}]), "pairs")
    # one of three: three times as many; two: the third like the mean of both; then one worker begins something else
    assert bars[0].refreshed == [30, 31 + 16, 36, 43]
    assert (len(bars), bars[0].done, bars[0].words, bars[0].closed) == (1, 43, {"loss": "2"}, True)


def test_what_a_worker_raised_is_raised_while_the_bar_is_closed(clock, bars):
    broken = Future()
    broken.set_exception(InvalidValueError("case 1"))
    with pytest.raises(InvalidValueError, match="case 1"):
        processes._follow([*finished(1), broken, Future()], Reports([{"steps": 2, "values": {}}]), "pairs")
    assert (bars[0].done, bars[0].closed) == (2, True)
