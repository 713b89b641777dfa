"""Figures from small tables."""

import subprocess
import sys
from dataclasses import replace
from io import BytesIO

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib import pyplot
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from scored import as_sure_as, rising, scored_pair, some_predictions
from toys import MLP_STUDENT, MLP_TEACHER, as_trained

from pwl_lab import plots
from pwl_lab.plots.style import looks
from pwl_lab.runner.dashboard import START_UP
from pwl_lab.study import tables as analysis
from pwl_lab.study.recipes import SamplePredictions
from pwl_lab.study.results import DistillationRuns
from pwl_lab.support.download import DatasetFiles
from pwl_lab.swap.masks import all_masks
from pwl_lab.swap.orders import loading_orders
from pwl_lab.tasks import datasets
from pwl_lab.tasks.images import ImageTask
from pwl_lab.training import TrainPlan

RUNS = DistillationRuns(
    MLP_STUDENT,
    TrainPlan(steps=100),
    pd.DataFrame(
        [
            {"curriculum": name, "seed": seed, "step": step, "accuracy": 0.5 + 0.5 * step / (20 + 40 * late)}
            for late, name in enumerate(["extracted", "one_shot", "my own"])
            for seed in (0, 1)
            for step in (0, 10, 20)
        ]
    ),
    pd.DataFrame({"curriculum": ["extracted"] * 2, "stage": [1, 2], "start": [0, 10], "target": ["block 1", "output"]}),
    {},
)


@pytest.fixture(scope="module")
def pair():
    return scored_pair()


@pytest.fixture(scope="module")
def samples():
    return some_predictions()


def masks_of_seeds():
    tables = [analysis.mask_table({"test": rising(0.01 * seed)}, [5, 6, 7], seed) for seed in (0, 1)]
    return pd.concat(tables, ignore_index=True)


def losses():
    return pd.DataFrame(
        {"step": [0, 5, 10], "loss_hard": [np.nan, 2, 1], "loss_cross": [np.nan, 3, 2], "loss_total": 1}
    )


def render(figure):
    assert isinstance(figure, Figure)
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=40)
    assert buffer.getvalue().startswith(b"\x89PNG")
    return buffer.getvalue()


def pixels(figure):
    return np.asarray(Image.open(BytesIO(render(figure)))).astype(int)


def words(figure):
    return [text.get_text() for text in figure.findobj(mpl.text.Text) if text.get_text()]


FIGURES = {
    "learning_curves": lambda pair, samples: plots.learning_curves(RUNS),
    "steps_to_threshold": lambda pair, samples: plots.steps_to_threshold(RUNS, 0.99),
    "teacher_curve": lambda pair, samples: plots.teacher_curve(as_trained(MLP_TEACHER, checkpoints={10: 0.7}), 0.6),
    "order_curves": lambda pair, samples: plots.order_curves(
        analysis.order_curves(masks_of_seeds(), loading_orders(3)), teacher_accuracy=0.8
    ),
    "mask_chart": lambda pair, samples: plots.mask_chart(masks_of_seeds()),
    "loss_terms": lambda pair, samples: plots.loss_terms(losses()),
}


@pytest.mark.parametrize("name", FIGURES)
def test_figures_render_outside_pyplot_and_leave_the_users_style_alone(name, pair, samples):
    before = dict(mpl.rcParams)
    render(FIGURES[name](pair, samples))
    assert pyplot.get_fignums() == []
    assert dict(mpl.rcParams) == before


@pytest.mark.parametrize("imports", ["import pwl_lab.plots", START_UP])
def test_seaborn_is_imported_by_the_figure_that_needs_it_and_not_before(imports):
    code = f"{imports}\nimport sys; assert 'pwl_lab.plots' in sys.modules; print('seaborn' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_learning_curves_hold_retired_students_and_mark_the_stage():
    figure = plots.learning_curves(RUNS, threshold=0.9)
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["extracted", "one-shot", "my own"]
    curve = figure.axes[0].get_lines()[0]
    assert curve.get_xdata().tolist() == [0, 10, 20]
    assert curve.get_ydata().tolist() == [0.5, 0.75, 1.0]
    assert "guessing" in words(figure)
    assert sum(text.startswith("second stage begins") for text in words(figure)) == 1


def test_steps_that_were_not_reached_stand_at_the_budget_and_are_hollow():
    axes = plots.steps_to_threshold(RUNS, 0.99).axes[0]
    points = dict(zip(["extracted", "one_shot", "my own"], axes.collections, strict=True))
    assert points["extracted"].get_offsets()[:, 0].tolist() == [20, 20]
    assert points["one_shot"].get_offsets()[:, 0].tolist() == [100, 100]
    assert points["extracted"].get_facecolor()[:, 3].tolist() == [1, 1]
    assert points["one_shot"].get_facecolor()[:, 3].tolist() == [0, 0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["extracted", "one-shot", "my own"]


def test_curricula_differ_in_colour_and_in_line_style_or_marker():
    found = looks(["scratch", "one_shot", "progressive", "extracted", "a", "b", "c", "d"]).values()
    assert len(set(found)) == 8
    assert len({colour for colour, _, _ in found}) == 8
    assert len({(dashes, marker) for _, dashes, marker in found}) == 8
    assert len(looks([str(n) for n in range(11)])) == 11


def test_order_curves_show_mean_and_range_over_seeds():
    curves = analysis.order_curves(masks_of_seeds(), loading_orders(3))
    figure = plots.order_curves(curves)
    container = figure.axes[0].containers[0]
    assert container.lines[0].get_ydata().tolist() == pytest.approx([0.505, 0.605, 0.705, 0.805])
    low, high = container.lines[2][0].get_segments()[0][:, 1]
    assert (low, high) == pytest.approx((0.5, 0.51))


def test_mask_chart_is_sorted_from_the_best():
    axes = plots.mask_chart(masks_of_seeds()).axes[1]
    values = axes.get_lines()[0].get_xdata()
    assert len(values) == 8
    assert values[0] == pytest.approx(0.805)
    assert list(values) == sorted(values, reverse=True)


def test_a_network_is_drawn_with_owners_and_converters():
    found = words(plots.network("TSST"))
    assert [text.split("\n")[0] for text in found if "block" in text] == ["teacher", "student", "student", "teacher"]
    assert [text for text in found if text in ("encoder", "decoder")] == ["encoder", "decoder"]


@pytest.mark.parametrize("n_images", [3, 20, 25])
def test_image_grid_shows_every_image_with_its_class(n_images):
    figure = plots.image_grid(ImageTask(), n_images)
    render(figure)
    shown = [axes for axes in figure.axes if axes.get_images()]
    assert len(shown) == n_images
    _, batch = ImageTask().sample(n_images, "train")
    assert [axes.get_title() for axes in shown] == [ImageTask().class_names[label] for label in batch.labels]


@pytest.fixture
def coloured(monkeypatch):
    """cifar-100 with a few made-up images, each of one colour, under the longest names that it has."""
    entry = datasets.dataset("cifar-100")
    longest = sorted(range(100), key=lambda label: -len(entry.class_names[label]))[:20]
    pixels = np.random.default_rng(0).integers(0, 256, (20, 3, 1, 1), dtype=np.uint8)
    raw = datasets.RawSplit(np.tile(pixels, (1, 1, 32, 32)), np.array(longest, np.uint8))
    entry = replace(entry, sizes=dict.fromkeys(datasets.SPLITS, 20), read=lambda _: dict.fromkeys(datasets.SPLITS, raw))
    monkeypatch.setitem(datasets.DATASETS, "cifar-100", replace(entry, files=DatasetFiles((), bundled=True)))
    return ImageTask("cifar-100")


def coloured_samples(task, n=6):
    images, batch = task.sample(n)
    masks = all_masks(3)
    rolled = {mask: torch.roll(batch.labels, i).tolist() for i, mask in enumerate(masks)}  # right once, then wrong
    probabilities = {mask: as_sure_as(labels, [0.5] * n, task.n_classes) for mask, labels in rolled.items()}
    return SamplePredictions(
        images=images, labels=batch.labels, class_names=task.class_names, probabilities=probabilities
    )


def drawn_apart(figure):
    """Whether none of the words in the figure lies on another one's place or is cut by the figure's edge."""
    FigureCanvasAgg(figure.figure).draw()
    texts = [text for axes in all_axes(figure) for text in (axes.title, axes.xaxis.label, *axes.texts)]
    boxes = [text.get_window_extent() for text in texts if text.get_text()]
    edge = figure.figure.bbox.padded(1)  # extents are known to a pixel
    inside = all(edge.contains(*corner) for box in boxes for corner in (box.min, box.max))
    return inside and not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


def test_coloured_images_are_shown_in_their_colours_and_long_names_fit(coloured, pair):
    samples = coloured_samples(coloured)
    figures = [plots.image_grid(coloured, 20), plots.predictions_by_mask(samples)]
    assert all(drawn_apart(figure) for figure in figures)
    for figure in figures:
        shown = [axes.get_images()[0].get_array() for axes in all_axes(figure) if axes.get_images()]
        expected = coloured.sample(len(shown))[0]
        assert all(np.array_equal(one, image) for one, image in zip(shown, expected, strict=True))


def all_axes(figure):
    """The axes of a figure and of the figures in it."""
    return [*figure.axes] if figure.axes else [axes for part in figure.subfigs for axes in part.axes]
