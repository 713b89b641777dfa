"""Students, teacher and probe on one time axis, from small tables."""

from dataclasses import replace
from io import BytesIO

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from toys import MLP_STUDENT

from pwl_lab import plots, widgets
from pwl_lab.distill.probes import TeacherReadings
from pwl_lab.study.results import DistillationRuns
from pwl_lab.training import TrainPlan
from pwl_lab.widgets.frames import Painter, png

HISTORY = [
    ("extracted", seed, step, value)
    for seed, values in enumerate([(0.5, 0.6, 1.0), (0.5, 0.8, None), (0.5, 0.7, 0.9)])
    for step, value in zip((0, 100, 400), values, strict=True)
    if value is not None  # the second one is done early: it retires
] + [("one_shot", 0, step, 0.5) for step in (0, 100, 400, 2000)]
STAGES = [("extracted", 1, 0, "block 1"), ("extracted", 2, 300, "final output"), ("one_shot", 1, 0, "final output")]
RUNS = DistillationRuns(
    MLP_STUDENT,
    TrainPlan(steps=2000),
    pd.DataFrame(HISTORY, columns=["curriculum", "seed", "step", "accuracy"]),
    pd.DataFrame(STAGES, columns=["curriculum", "stage", "start", "target"]),
    {},
)
TEACHER = {0: 0.5, 150: 0.75, 300: 1.0, 9000: 1.0}
READINGS = TeacherReadings(
    pd.DataFrame(
        [
            {"step": step, "accuracy": value, "final": step == 9000, "degree": degree}
            | {"in_support": 0.3 if step == 150 else 0.1, "off_support": 0.02}
            for step, value in TEACHER.items()
            for degree in (1, 2)
        ]
    ),
    {step: torch.zeros(4, 4) for step in TEACHER},
    (0, 1),
    0.01,
)


def test_medians_over_seeds_hold_those_that_are_done():
    curves = plots.correlations.curves_over_seeds(RUNS.history)
    assert list(curves["median"]) == ["extracted", "one_shot"]
    assert curves["median"]["extracted"].tolist() == pytest.approx([0.5, 0.7, 0.9, 0.9])
    assert curves["min"]["extracted"].tolist() == pytest.approx([0.5, 0.6, 0.8, 0.8])
    assert curves["max"]["extracted"].tolist() == pytest.approx([0.5, 0.8, 1.0, 1.0])


def test_each_curriculum_has_a_band_from_the_worst_seed_to_the_best():
    axes = plots.ExplorerFigure(RUNS, READINGS).figure.axes[0]
    extracted, one_shot = (band.get_paths()[0].get_extents() for band in axes.collections)
    assert (extracted.y0, extracted.y1) == pytest.approx((0.5, 1.0))
    assert (one_shot.y0, one_shot.y1) == pytest.approx((0.5, 0.5))
    assert "band: worst to best" in axes.get_legend().get_title().get_text()


def test_moments_are_steps_at_which_something_was_measured():
    figure = plots.ExplorerFigure(RUNS, READINGS)
    assert figure.moments() == [0, 100, 150, 300, 400, 2000]
    few = figure.moments(4)
    assert few[0] == 0
    assert few[-1] == 2000
    assert set(few) <= set(figure.moments())


def test_the_final_teacher_is_there_unless_it_is_beyond_all_students():
    assert plots.ExplorerFigure(RUNS, READINGS).kept["step"].max() == 300
    table = READINGS.table.replace({"step": {9000: 1900}})
    assert plots.ExplorerFigure(RUNS, replace(READINGS, table=table)).kept["step"].max() == 1900


def test_the_line_stands_at_the_step_in_all_panels():
    figure = plots.ExplorerFigure(RUNS, READINGS)
    before = png(figure.at(100))
    shown = figure.at(300)
    marks = [line for axes in shown.axes for line in axes.get_lines() if list(line.get_xdata()) == [300, 300]]
    assert len(marks) == 3
    assert shown.axes[0].get_title(loc="left") == "after 300 steps"
    assert png(shown) != before == png(plots.ExplorerFigure(RUNS, READINGS).at(100))


def test_words_say_who_is_where_and_what_each_curriculum_shows():
    picker = widgets.curriculum_explorer(RUNS, READINGS)
    (slider,) = picker.controls
    assert slider.options == ("0", "100", "150", "300", "400", "2,000")
    slider.value = "150"
    words = picker.table.frames["150",].words
    assert "extracted 70.0% (shown: block 1), one-shot 50.0%." in words
    assert (
        "as it was at step 150: 75.0%; correlation: degree 1 0.300 in the support, 0.020 outside it; degree 2" in words
    )
    slider.value = "2,000"
    assert "extracted 90.0% (shown: final output)" in picker.words.value
    assert "as it was at step 300" in picker.words.value
    page = widgets.curriculum_explorer(RUNS, READINGS, interactive=False)
    assert page.table.frames["150",].words == words


def test_magnified_it_shows_the_teachers_time_on_a_linear_axis():
    everything, magnified = (plots.ExplorerFigure(RUNS, READINGS, magnified=wanted).figure.axes[2] for wanted in (0, 1))
    assert (everything.get_xscale(), magnified.get_xscale()) == ("symlog", "linear")
    assert everything.get_xlim()[1] > 2000
    assert magnified.get_xlim() == (0, 1.6 * 300)  # the final teacher took more steps than any student


def test_the_moving_line_over_the_rest_is_the_whole_figure():
    figure = plots.ExplorerFigure(RUNS, READINGS)
    painter = Painter(figure.at(0), figure.moving)
    for step in figure.moments():
        figure.at(step)
        over, whole = (
            Image.open(BytesIO(one)).convert("RGB") for one in (painter.png(figure.moving), png(figure.figure))
        )
        assert np.abs(np.asarray(over, float) - np.asarray(whole, float)).mean() < 1
