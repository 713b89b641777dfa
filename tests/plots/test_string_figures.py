"""Figures of strings show what they are given: spans and tokens, probabilities, phases, probes."""

from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg

from pwl_lab import plots
from pwl_lab.models import MLPConfig
from pwl_lab.plots import style
from pwl_lab.study.recipes import HIDDEN
from pwl_lab.study.results import DistillationRuns
from pwl_lab.study.token_probes import ShownString, Span
from pwl_lab.tasks.sequences import Ceiling
from pwl_lab.training import Checkpoint, TrainPlan

STRING = ShownString(
    tokens=("a", "b", "b"),
    seen=("a", None, "a"),
    scored=(False, True, True),
    levels=((Span("s", 0, 3),), (Span("x", 0, 1), Span("y", 1, 3))),
    posterior=torch.tensor([[1.0, 0.0], [0.25, 0.75], [0.4, 0.6]], dtype=torch.float64),
    symbols=("a", "b"),
)


def words(axes):
    """The texts in the axes, each with its place."""
    return {
        (text.get_position(), text.get_text()) for text in axes.texts if isinstance(text.get_position()[0], float | int)
    }


def draw(figure):
    FigureCanvasAgg(figure).draw()


def test_a_tree_has_a_box_for_each_span_and_the_tokens_below():
    figure = plots.derivation_tree(STRING)
    (axes,) = figure.axes
    assert {((1.0, 0), "s"), ((0.0, 1), "x"), ((1.5, 1), "y")} <= words(axes)
    assert {((0, 2), "a"), ((1, 2), "b"), ((1, 3), HIDDEN), ((2, 3), "a")} <= words(axes)
    bold = [text.get_position() for text in axes.texts if text.get_weight() == "bold"]
    assert bold == [(2, 3)], "the replaced token"
    assert [label.get_text() for label in axes.get_yticklabels()] == ["level 1", "level 2", "tokens", "seen"]
    assert len(axes.patches) == 3 + 2
    draw(figure)


def test_a_string_that_is_too_long_to_read_is_drawn_without_its_symbols():
    n = 200
    long = ShownString(("a",) * n, ("a",) * n, (False,) * n, ((Span("s", 0, n),),), torch.zeros(n, 2), ("a", "b"))
    figure = plots.derivation_tree(long)
    assert len(figure.axes[0].texts) == 0
    draw(figure)


def test_what_is_predictable_has_numbers_at_scored_positions_and_a_frame_at_the_true_token():
    figure = plots.predictable(STRING, ceiling=0.7)
    above, below = figure.axes
    assert {((1, 0), "25"), ((1, 1), "75"), ((2, 0), "40"), ((2, 1), "60")} <= words(above)
    framed = [box for box in above.patches if box.get_linewidth() == 1.6]
    assert [box.get_xy() for box in framed] == [pytest.approx((place - 0.46, 0.54)) for place in (1, 2)]
    assert [bar.get_height() for bar in below.patches] == pytest.approx([0.75, 0.6])
    assert below.lines[0].get_ydata()[0] == 0.7
    draw(figure)


def teacher_of(losses, accuracies):
    history = pd.DataFrame({"step": [0, 50, 100], "validation_loss": losses, "accuracy": accuracies})
    checkpoint = Checkpoint(50, accuracies[1], {})
    return SimpleNamespace(history=history, checkpoint=lambda at_accuracy: checkpoint)


def test_the_phases_of_a_teacher_are_drawn_against_floor_and_ceiling():
    teacher = teacher_of([1.0, 0.7, 0.5], [0.3, 0.6, 0.8])
    figure = plots.teacher_phases(teacher, Ceiling(0.85, 0.4), 0.5, phases=(50, 100))
    left, right = figure.axes
    assert [list(line.get_ydata()) for line in left.lines] == [[1.0, 0.7, 0.5], [0.7], [0.4, 0.4]]
    assert list(right.lines[1].get_ydata()) == [0.6]
    assert right.lines[2].get_ydata()[0] == 0.85
    assert left.patches[0].get_x() == 50
    draw(figure)


def test_probes_have_a_line_for_each_block_and_each_grammar():
    rows = [(step, block, 0.5 + 0.1 * block, 0.34) for step in (0, 50) for block in (0, 1, 2)]
    probe = pd.DataFrame(rows, columns=["step", "block", "accuracy", "chance"])
    reliance = {
        name: pd.DataFrame({"step": [0, 50], "change": [0.0, share], "exact": [0.6, 0.6]})
        for name, share in (("hidden", 0.5), ("tail", 0.4))
    }
    figure = plots.probe_lines(probe, reliance, phases=(10, 40))
    left, right = figure.axes
    assert (left.patches[0].get_x(), left.patches[0].get_width()) == (10, 30)
    assert [line.get_label() for line in right.lines[1::2]] == ["exact, hidden", "exact, tail"]
    assert [line.get_label() for line in left.lines[:3]] == ["embedding", "block 1", "block 2"]
    assert left.lines[2].get_ydata().tolist() == pytest.approx([0.7, 0.7])
    assert [line.get_ydata()[1] for line in right.lines] == [0.5, 0.6, 0.4, 0.6]
    draw(figure)


def test_learning_curves_may_have_other_levels_and_steps_name_what_they_are_a_fraction_of():
    history = pd.DataFrame({"curriculum": "one_shot_soft", "seed": 0, "step": [0, 50], "accuracy": [0.3, 0.7]})
    stages = pd.DataFrame({"curriculum": ["one_shot_soft"], "stage": [1], "start": [0], "target": ["final output"]})
    plan = TrainPlan(steps=50)
    runs = DistillationRuns(MLPConfig(n_inputs=2, widths=(2,)), plan, history, stages, {})
    (axes,) = plots.learning_curves(runs, levels={"ceiling": 0.8}).axes
    assert [text.get_text() for text in axes.texts if text.get_text() in ("ceiling", "99%:\nlearned")] == ["ceiling"]
    assert axes.get_ylim()[1] == pytest.approx(0.816)
    assert axes.lines[0].get_color() == style.CURRICULUM["one_shot"][0], (
        "soft outputs are what one-shot means elsewhere"
    )
    (axes,) = plots.steps_to_threshold(runs, 0.5, "of the teacher's accuracy").axes
    assert axes.get_xlabel() == "optimiser steps to 50% of the teacher's accuracy"
    assert [label.get_text() for label in axes.get_yticklabels()] == ["one-shot, soft"]
