"""Figures of the correlation probe, and the slider over checkpoints, from a small table."""

from io import BytesIO

import pandas as pd
import pytest
import torch
from matplotlib import pyplot

from pwl_lab import plots, widgets
from pwl_lab.distill.probes import TeacherReadings
from pwl_lab.study import tables
from pwl_lab.support.errors import InvalidValueError
from pwl_lab.widgets.frames import png

STEPS = {0: 0.5, 50: 0.48, 100: 0.8, 150: 1.0, 600: 1.0}
MAPS = {step: torch.full((20, 20), 0.01) for step in STEPS}
MAPS[100][17, 3] = MAPS[100][3, 17] = -0.5
READINGS = TeacherReadings(
    pd.DataFrame(
        [
            {"step": step, "accuracy": value, "final": step == 600, "degree": degree}
            | {"in_support": 0.3 if step == 100 else 0.1 / degree, "off_support": 0.02}
            for step, value in STEPS.items()
            for degree in (1, 2)
        ]
    ),
    MAPS,
    (3, 9, 17),
    0.01,
)
PROJECTED = pd.DataFrame(
    [
        {"seed": seed, "degree": degree, "in_support": 0.3 + 0.02 * seed, "off_support": 0.05}
        for seed in (0, 1)
        for degree in (1, 2)
    ]
)
FIGURES = {
    "checkpoint_probe": lambda: plots.checkpoint_probe(READINGS),
    "maps_over_steps": lambda: plots.maps_over_steps(READINGS),
    "checkpoint_map": lambda: plots.CheckpointFigure(READINGS).at(100),
    "projected_probe": lambda: plots.projected_probe(PROJECTED, 0.01),
    "bit_correlations": lambda: plots.bit_correlations({"one_shot": [0.1, 0.2, 0.3]}, (1,), 100),
}


@pytest.mark.parametrize("name", FIGURES)
def test_figures_render_outside_pyplot(name):
    buffer = BytesIO()
    FIGURES[name]().savefig(buffer, format="png", dpi=40)
    assert buffer.getvalue().startswith(b"\x89PNG")
    assert pyplot.get_fignums() == []


def test_the_final_teacher_stands_apart_from_the_checkpoints():
    above, above_end, below, below_end = plots.checkpoint_probe(READINGS).axes
    assert above.get_lines()[0].get_ydata().tolist() == [0.5, 0.48, 0.8, 1.0]
    assert below.get_lines()[1].get_ydata().tolist() == [0.1, 0.1, 0.3, 0.1]  # degree 1, in the support
    assert below.get_lines()[2].get_ydata().tolist() == [0.02] * 4  # degree 2, off it
    assert [line.get_ydata()[0] for line in below_end.get_lines()[:4]] == [0.02, 0.1, 0.02, 0.05]
    assert above_end.get_lines()[0].get_ydata().tolist() == [1.0]


def test_a_map_shows_the_support_first():
    image = plots.CheckpointFigure(READINGS).at(100).axes[1].get_images()[0]
    values = image.get_array()
    assert values.shape == (15, 15)
    assert values[0, 2] == values[2, 0] == pytest.approx(-0.5)
    assert image.get_clim() == pytest.approx((-0.3, 0.3))


def test_panels_are_the_first_checkpoints_at_each_accuracy_and_the_final_teacher():
    titles = [axes.get_title(loc="left") for axes in plots.maps_over_steps(READINGS).axes]
    assert titles == [
        "step 0\n50% accurate",
        "step 100\n80% accurate",
        "step 150\n100% accurate",
        "final: 600\n100% accurate",
        "",
    ]


def test_projected_probe_has_a_point_per_seed_and_says_the_means():
    (axes,) = plots.projected_probe(PROJECTED, 0.01).axes
    assert [len(points.get_offsets()) for points in axes.collections] == [2] * 4
    assert [text.get_text() for text in axes.texts] == ["0.310", "0.050", "0.310", "0.050", "noise floor"]


def test_the_slider_goes_through_the_checkpoints_to_the_final_teacher():
    picker = widgets.checkpoint_slider(READINGS)
    (slider,) = picker.controls
    assert (slider.min, slider.max) == (1, 5)
    slider.value = 3
    assert "step 100: validation accuracy 80.0%, strongest correlation with bits 3 and 17" in picker.words.value
    slider.value = 5
    assert "step 600" in picker.words.value


def test_a_checkpoint_figure_turned_to_a_step_is_the_figure_of_that_step():
    turned = plots.CheckpointFigure(READINGS)
    before, after = png(turned.at(600)), png(turned.at(100))
    assert before != after == png(plots.CheckpointFigure(READINGS).at(100))


def test_a_long_training_is_thinned_out_for_the_slider():
    with pytest.raises(InvalidValueError, match="2 or more"):
        widgets.checkpoint_slider(READINGS, at_most=1)
    picker = widgets.checkpoint_slider(READINGS, at_most=3)
    words = [picker.table.frames[number,].words.split(":")[0] for number in (1, 2, 3)]
    assert words == ["step 0", "step 100", "step 600"]


def test_transition_is_half_way_up():
    history = pd.DataFrame({"step": [0, 10, 20, 30], "accuracy": [0.5, 0.74, 0.75, 1.0]})
    assert tables.transition_step(history) == 20
    assert tables.transition_step(history, chance=0.1) == 0 + 10
    assert tables.transition_step(history.iloc[:2]) is None


def test_bits_of_the_support_come_first_beside_the_noise_floor():
    by_target = {"one_shot": [0.01, 0.02, 0.03, 0.04], "extracted": torch.tensor([0.1, 0.5, 0.2, 0.6])}
    first, second = plots.bit_correlations(by_target, (3, 1), 800).axes
    assert [bar.get_height() for bar in first.patches] == [0.04, 0.02, 0.01, 0.03]
    assert [bar.get_height() for bar in second.patches] == pytest.approx([0.6, 0.5, 0.1, 0.2])
    assert [len(bars) for bars in second.containers] == [2, 2]
    assert [axes.get_lines()[0].get_ydata()[0] for axes in (first, second)] == pytest.approx([0.0282, 0.0282], abs=1e-4)
    assert [axes.get_title(loc="left") for axes in (first, second)] == ["one-shot", "extracted"]
