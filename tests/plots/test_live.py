"""Curves that grow: what they draw, how seldom they are drawn, and that nothing of a training depends on them."""

import re
import time
from itertools import pairwise
from types import SimpleNamespace

import pandas as pd
import pytest
from toys import MLP_TEACHER, PARITY, PLAN

from pwl_lab.plots import live, style
from pwl_lab.plots.live import LiveCurves, Redraws
from pwl_lab.support.progress import shown_by
from pwl_lab.training import fit, weights_hash


@pytest.fixture
def clock(monkeypatch):
    """A time that only the test moves."""
    found = SimpleNamespace(now=100.0)
    monkeypatch.setattr(live, "time", SimpleNamespace(monotonic=lambda: found.now))
    return found


@pytest.fixture
def shown(monkeypatch):
    """The widgets that were displayed."""
    found = []
    monkeypatch.setattr(live, "display", found.append)
    return found


def rows(step, names=("one_shot", "extracted"), seeds=(0, 1)):
    return [
        {
            "step": step,
            "curriculum": name,
            "seed": seed,
            "accuracy": 0.5 + step / 1000,
            "loss_total": 3.0,
            "loss_output": 2.0,
        }
        for name in names
        for seed in seeds
    ]


def test_there_is_a_line_for_each_student_in_its_curriculums_look_and_one_for_each_loss_term():
    curves = LiveCurves()
    for step in (0, 100, 200):
        curves.add(rows(step), "4 students, 1.1")
    html = curves.html()
    lines = re.findall(r"<polyline points='([^']*)'[^>]*stroke='(#\w+)'", html)
    colours = [colour for _, colour in lines]
    assert colours.count(style.CURRICULUM["one_shot"][0]) == colours.count(style.CURRICULUM["extracted"][0]) == 2
    assert colours.count(style.LOSS["output"][0]) == 1
    assert style.LOSS["total"][0] not in colours, "the sum says nothing that its terms do not"
    assert all(len(points.split()) == 3 for points, _ in lines)
    assert "one-shot" in html
    assert "aria-label='Training, after 200 steps.'" in html


def test_pairs_side_by_side_have_a_line_each():
    curves = LiveCurves()
    for step in (0, 20):
        terms = {f"loss_{number} {name}": 1.0 + step for number in (0, 1) for name in ("sync", "total")}
        rows = [{"step": step, "accuracy": 0.5, "pair": number, "loss_total": 4.0} | terms for number in (0, 1)]
        curves.add(rows, "2 vgg pairs")
    lines = re.findall(r"<polyline points='([^']*)'[^>]*stroke='(#\w+)'", curves.html())
    colours = [colour for _, colour in lines]
    assert colours.count(style.NETWORK["student"][0]) == 2
    assert colours.count(style.LOSS["sync"][0]) == 2
    assert len(lines) == 4
    assert all(len(points.split()) == 2 for points, _ in lines)


def test_a_student_that_diverged_breaks_no_chart():
    curves = LiveCurves()
    for step, accuracy in ((0, 0.5), (100, float("nan"))):
        curves.add([{"step": step, "accuracy": accuracy, "loss_total": 1.0}], "mlp teacher, 1.1")
    assert "nan" not in curves.html().lower().replace("'none'", "")


def test_a_short_training_shows_nothing_and_a_long_one_at_most_two_drawings_a_second(clock, shown, monkeypatch):
    curves, drawn = LiveCurves(), []
    monkeypatch.setattr(curves, "html", lambda: drawn.append(clock.now) or "")
    for tick in range(100):
        clock.now = 100 + tick / 10
        curves.add(rows(10 * tick), "4 students, 1.1")
    assert len(shown) == 1
    assert drawn[0] >= 102.0
    assert min(after - before for before, after in pairwise(drawn)) >= 0.5 - 1e-9
    assert 14 <= len(drawn) <= 17
    curves.close()
    assert shown[0].comm is None, "gone with the training"


def test_slow_drawings_take_little_of_the_time(clock):
    redraws, spent = Redraws(), 0.0

    def draw():
        nonlocal spent
        clock.now += 0.1
        spent += 0.1

    while clock.now < 200:
        redraws.draw(draw)
        clock.now += 0.05
    assert 0 < spent / 100 < 0.02


def test_a_drawing_of_many_students_is_quick():
    curves = LiveCurves()
    for step in range(0, 12_000, 100):
        curves.add(rows(step, style.CURRICULUM, range(8)), "40 students, 1.1")
    took = []
    for _ in range(5):
        begun = time.process_time()
        curves.html()
        took.append(time.process_time() - begun)
    assert min(took) < 0.1  # 6 ms on a quiet core; 0.5 s apart


class Recorder:
    """A viewer that keeps the rows."""

    def __init__(self):
        self.rows, self.runs = [], set()

    def add(self, rows, run):
        self.rows += rows
        self.runs.add(run)

    def close(self):
        raise AssertionError("whoever opened it closes it")


def test_watching_changes_no_number_and_shows_every_row_of_the_history():
    plain = fit(MLP_TEACHER, PARITY, PLAN, 0)
    with shown_by(viewer := Recorder()):
        watched = fit(MLP_TEACHER, PARITY, PLAN, 0)
    assert weights_hash(watched.model) == weights_hash(plain.model)
    pd.testing.assert_frame_equal(watched.history, plain.history)
    pd.testing.assert_frame_equal(pd.DataFrame(viewer.rows), plain.history)
    assert len(viewer.runs) == 1
    assert viewer.runs.pop().startswith("mlp teacher, ")


def test_the_readers_own_curriculum_stands_before_those_it_is_compared_with():
    behind = {"one_shot": {0: [(0, 0.5), (100, 0.6)]}, "extracted": {0: [(0, 0.5), (50, 1.0)]}}
    html = live.own_chart(behind, {0: [(0, 0.5), (60, 1.0)]}, {0: [(0, 0.5)], 1: [(0, 0.5), (20, 0.8)]}, [10], 100)
    lines = re.findall(r"<polyline points='([^']*)'[^>]*stroke='(#\w+)'[^>]*opacity='([\d.]+)'", html)
    own = style.SPARE[0][0]
    assert [(colour, opacity) for _, colour, opacity in lines[-3:]] == [(own, "0.35"), (own, "1.0"), (own, "1.0")]
    assert {colour for _, colour, _ in lines[:-3]}.isdisjoint({look[0] for look in style.CURRICULUM.values()})
    ends = {points.split()[-1].split(",")[0] for points, _, _ in lines[:-2]}
    assert len(ends) == 1, "who is done keeps the last accuracy up to the end"
    assert f"stroke='{own}' stroke-dasharray='4 4'" in html
    assert "50% at step 0, 80% at step 20" in html
