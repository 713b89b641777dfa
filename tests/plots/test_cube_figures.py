"""The figures of the mask cube and of a pair's parts show what the tables say."""

from itertools import pairwise

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot
from matplotlib.patches import Rectangle
from toys import VGG_STUDENT, VGG_TEACHER

from pwl_lab import plots
from pwl_lab.models import build
from pwl_lab.plots.style import ORDER, byte_words, ink_on
from pwl_lab.study import tables as analysis
from pwl_lab.study import tables as cube
from pwl_lab.study.results import outline
from pwl_lab.support.errors import InvalidValueError
from pwl_lab.swap.masks import all_masks
from pwl_lab.swap.orders import loading_orders
from pwl_lab.swap.swapnet import SwapNet

SIZES = [10, 200, 3_000]


def masks_of(n_blocks=3, seeds=(0, 1)):
    tables = []
    for seed in seeds:
        values = {m: 0.5 + 0.1 * m.count("T") - 0.07 * m.endswith("ST") + 0.01 * seed for m in all_masks(n_blocks)}
        tables.append(analysis.mask_table({"validation": values, "test": values}, (SIZES * 2)[:n_blocks], seed))
    return pd.concat(tables, ignore_index=True)


MASKS = masks_of()
ORDERS = loading_orders(3) | {"best": cube.best_order(MASKS), "worst": ["SSS", "SST", "STT", "TTT"]}
CURVES = analysis.order_curves(MASKS, ORDERS)
CLASSES = pd.concat(
    [analysis.class_table({"SS": [0.2, 0.4], "TS": [0.3, 0.5], "TT": [0.9, float("nan")]}, 0),
     analysis.class_table({"SS": [0.4, 0.4], "TS": [0.3, 0.7], "TT": [0.7, float("nan")]}, 1)]
)  # fmt: skip
SIMILARITY = pd.DataFrame(
    [
        {"seed": s, "boundary": b, "direction": d, "before": 0.5 + s / 10, "after": 0.6 + b / 10, "unexplained": b / 4}
        for s in (0, 1)
        for b in (1, 2)
        for d in ("encoder", "decoder")
    ]
)


def spread_of(least, half=0.01):
    """Rows of `intervals.cube_intervals`, in points: a tenth more for each block."""
    rows = [("mask", mask, least + 0.1 * mask.count("T")) for mask in all_masks(2)]
    return pd.DataFrame(
        [(kind, name, 100 * (mean - half), 100 * mean, 100 * (mean + half)) for kind, name, mean in rows],
        columns=["kind", "name", "low", "mean", "high"],
    )


FULL = pd.concat([spread_of(0.7).assign(family=family, seeds=n) for family, n in (("vgg", 3), ("resnet", 5))])

LONGER = pd.concat(
    masks_of(2, seeds).assign(family=family, epochs=epochs, test=lambda rows, more=epochs / 160: rows["test"] + more)
    for family, epochs, seeds in (("vgg", 8, (0, 1)), ("vgg", 16, (0, 1)), ("vgg", 32, (0,)), ("vit", 8, (0, 1)))
)


def parts():
    return outline(SwapNet(build(VGG_TEACHER, 0), build(VGG_STUDENT, 0), (1, 9, 7)), (1, 9, 7))


def words(figure):
    return [text.get_text() for text in figure.findobj(mpl.text.Text) if text.get_text()]


def legend(axes):
    (shown,) = axes.figure.legends or [axes.get_legend()]
    return [text.get_text() for text in shown.get_texts()]


FIGURES = {
    "order_curves": lambda: plots.order_curves(CURVES, 0.8),
    "byte_curves": lambda: plots.byte_curves(CURVES, 0.8),
    "budget_curve": lambda: plots.budget_curve(cube.best_under_budget(MASKS), MASKS),
    "class_chart": lambda: plots.class_chart(CLASSES, ["SS", "TT"]),
    "mask_lattice": lambda: plots.mask_lattice(MASKS, ORDERS),
    "mask_lattice of one block": lambda: plots.mask_lattice(masks_of(1), loading_orders(1)),
    "mask_lattice of five": lambda: plots.mask_lattice(masks_of(5), loading_orders(5)),
    "prefix_by_data": lambda: plots.prefix_by_data(FULL, spread_of(0.8), "resnet", "this run"),
    "ends_by_epochs": lambda: plots.ends_by_epochs(LONGER),
    "architecture": lambda: plots.architecture(parts()),
    "similarity_chart": lambda: plots.similarity_chart(SIMILARITY),
}


@pytest.mark.filterwarnings("error:constrained_layout")
@pytest.mark.parametrize("name", FIGURES)
def test_they_render_outside_pyplot_and_leave_the_users_style_alone(name, tmp_path):
    before = dict(mpl.rcParams)
    figure = FIGURES[name]()
    assert figure.get_size_inches()[0] == 9
    figure.savefig(tmp_path / "figure.png", dpi=50)
    assert pyplot.get_fignums() == []
    assert dict(mpl.rcParams) == before


def test_all_orders_differ_in_colour_line_style_and_marker():
    assert set(ORDERS) == set(ORDER)
    for place in range(3):
        assert len({look[place] for look in ORDER.values()}) == len(ORDER)


def test_order_curves_draw_every_order_at_its_blocks():
    axes = plots.order_curves(CURVES).axes[0]
    assert legend(axes) == ["prefix order", "suffix order", "contiguous order"] + [
        f"{name} order {cube.order_name(ORDERS[name])}" for name in ("best", "worst")
    ]
    for order, container in zip(ORDERS, axes.containers, strict=True):
        line = container.lines[0]
        assert line.get_ydata().tolist() == pytest.approx(analysis.mean_curve(CURVES, order))
        assert line.get_xdata() == pytest.approx([0, 1, 2, 3], abs=0.1)


def test_prefix_by_data_draws_each_family_and_this_run_beside_its_own():
    figure = plots.prefix_by_data(FULL, spread_of(0.6), "resnet", "this run")
    assert [axes.get_title("left") for axes in figure.axes] == ["vgg", "resnet"]
    assert [len(axes.containers) for axes in figure.axes] == [1, 2]
    stored, own = figure.axes[1].containers
    assert stored.lines[0].get_ydata() == pytest.approx([0.7, 0.8, 0.9])
    assert own.lines[0].get_ydata() == pytest.approx([0.6, 0.7, 0.8])
    (bars,) = own.lines[2]
    assert bars.get_segments()[1][:, 1] == pytest.approx([0.69, 0.71])
    assert legend(figure.axes[0]) == [
        "all of Fashion-MNIST (stored, 3 seeds)",
        "all of Fashion-MNIST (stored, 5 seeds)",
        "this run",
    ]


def test_prefix_by_data_of_a_run_of_one_seed_and_a_family_that_is_not_stored():
    own = spread_of(0.6).assign(low=np.nan, high=np.nan)
    figure = plots.prefix_by_data(FULL[FULL["family"] == "vgg"], own, "vit", "this run")
    assert [axes.get_title("left") for axes in figure.axes] == ["vgg", "vit"]
    (mine,) = figure.axes[1].containers
    assert mine.lines[0].get_ydata() == pytest.approx([0.6, 0.7, 0.8])
    assert np.ptp([segment[:, 1] for segment in mine.lines[2][0].get_segments()], axis=1) == pytest.approx([0, 0, 0])


def test_ends_by_epochs_draws_a_line_for_each_seed_and_the_mean_of_several():
    figure = plots.ends_by_epochs(LONGER)
    vgg, vit = figure.axes
    assert [axes.get_title("left") for axes in figure.axes] == ["vgg", "vit"]
    first, second, mean = (line.get_ydata() for line in vgg.get_lines()[:3])  # of the teacher
    assert first == pytest.approx([0.75, 0.8, 0.9])
    assert second[:2] == pytest.approx([0.76, 0.81])
    assert np.isnan(second[2])
    assert mean == pytest.approx([0.755, 0.805]), "32 epochs have one seed"
    assert vit.get_lines()[-1].get_ydata() == pytest.approx([0.555]), "the student, two seeds"
    assert legend(vgg) == ["teacher, mean over seeds", "student alone, mean over seeds"]


def test_byte_curves_step_where_a_block_is_complete():
    axes = plots.byte_curves(CURVES).axes[0]
    lines = dict(zip(ORDERS, axes.get_lines(), strict=False))  # the last one is the student's level
    for order, line in lines.items():
        assert line.get_drawstyle() == "steps-post"
        assert line.get_ydata().tolist() == pytest.approx(analysis.mean_curve(CURVES, order))
    assert lines["prefix"].get_xdata().tolist() == pytest.approx([0, 10 / 3210, 210 / 3210, 1])
    assert lines["suffix"].get_xdata().tolist() == pytest.approx([0, 3000 / 3210, 3200 / 3210, 1])
    area = (0.505 * 10 + 0.605 * 200 + 0.705 * 3000) / 3210
    assert legend(axes)[0] == f"prefix order, area {area:.2%}"
    assert "(all: 3.2 kB)" in axes.get_xlabel()


def test_byte_curves_bar_the_seeds_in_the_middle_of_wide_steps_only():
    axes = plots.byte_curves(CURVES).axes[0]
    prefix = CURVES[(CURVES["order"] == "prefix") & (CURVES["teacher_blocks"] == 2)]["accuracy"]
    (bar,) = axes.collections[0].get_segments()  # of three blocks only the last one's bytes are many
    assert bar[:, 0] == pytest.approx((210 / 3210 + 1) / 2, abs=0.03)
    assert bar[:, 1] == pytest.approx([prefix.min(), prefix.max()])


def test_a_budget_of_few_decades_has_ticks_between_its_powers_of_ten():
    ticks = plots.budget_curve(cube.best_under_budget(MASKS)).axes[0].get_xticks()
    assert ticks.tolist() == [0, 10, 100, 1000]  # 10 to 3,210 bytes and some room
    near = MASKS.assign(teacher_bytes=MASKS["teacher_blocks"] * 130)
    ticks = plots.budget_curve(cube.best_under_budget(near)).axes[0].get_xticks()
    assert ticks.tolist() == [0, 200, 500]


def test_no_legend_covers_what_is_drawn():
    for figure in (plots.budget_curve(cube.best_under_budget(MASKS), MASKS), plots.similarity_chart(SIMILARITY)):
        assert all(axes.get_legend() is None for axes in figure.axes)
        figure.draw_without_rendering()
        (box,) = (legend.get_window_extent() for legend in figure.legends)
        assert not any(box.overlaps(axes.get_window_extent()) for axes in figure.axes)


def test_an_untrained_student_has_a_line_of_its_own():
    assert "untrained student" not in words(plots.similarity_chart(SIMILARITY))
    figure = plots.similarity_chart(SIMILARITY.assign(untrained=0.25))
    assert "untrained student" in words(figure)
    assert figure.axes[0].containers[0].lines[0].get_ydata().tolist() == [0.25, 0.25]


def test_tokens_are_named_and_pictures_have_two_sides():
    assert "5×4" in " ".join(words(plots.architecture(parts())))
    tokens = parts().assign(positions="16")
    assert any("16 tokens" in text for text in words(plots.architecture(tokens)))


def test_a_budget_curve_is_the_table_with_one_label_per_step():
    table = cube.best_under_budget(MASKS)
    figure = plots.budget_curve(table, MASKS)
    axes = figure.axes[0]
    everything, steps = axes.get_lines()[:2]
    assert steps.get_xdata()[:-1].tolist() == table["teacher_bytes"].tolist()
    assert steps.get_ydata()[:-1].tolist() == table["test"].tolist()
    assert steps.get_ydata()[-1] == table["test"].iloc[-1]
    assert len(everything.get_xdata()) == 8
    figure.draw_without_rendering()
    labels = [text for text in axes.texts if set(text.get_text()) <= set("ST")]
    assert [text.get_text() for text in labels] == table["mask"].tolist()
    boxes = [mpl.text.Text.get_window_extent(text) for text in labels]  # without the lines
    assert all(left.x1 < right.x0 for left, right in pairwise(boxes))
    assert len(plots.budget_curve(table).axes[0].get_lines()) < len(axes.get_lines())


def test_a_class_chart_writes_the_means_and_a_dash_where_there_is_none():
    figure = plots.class_chart(CLASSES, ["SS", "TT"], class_names=["cat", "dog"])
    axes = figure.axes[0]
    assert [text.get_text() for text in axes.texts] == ["30.0%", "80.0%", "40.0%", "–"]
    assert axes.get_images()[0].get_array()[0].tolist() == pytest.approx([0.3, 0.8])
    assert [text.get_text() for text in axes.get_yticklabels()] == ["cat", "dog"]
    assert [text.get_text() for text in axes.get_xticklabels()] == ["SS", "TT"]


def test_a_lattice_has_every_mask_every_edge_and_the_orders_as_paths():
    figure = plots.mask_lattice(MASKS, {"prefix": ORDERS["prefix"], "best": ORDERS["best"]})
    axes = figure.axes[0]
    nodes = {text.get_text().split("\n")[0]: text for text in axes.texts}
    assert set(nodes) == set(all_masks(3))
    assert nodes["SST"].get_text() == "SST\n+3.0"
    assert nodes["SSS"].get_text() == "SSS\n0.0"
    for mask, node in nodes.items():
        assert node.get_position()[0] == mask.count("T")
    assert len(axes.get_lines()) == 12 + 2  # a cube has 12 edges
    path = axes.get_lines()[-2]
    heights = [nodes[mask].get_position()[1] for mask in ORDERS["prefix"]]
    assert path.get_ydata() == pytest.approx(heights, abs=0.1)
    assert legend(axes) == ["prefix order 1-2-3", f"best order {cube.order_name(ORDERS['best'])}"]


def test_a_lattice_that_could_not_be_read_is_refused():
    with pytest.raises(InvalidValueError, match=r"n_blocks = 6.*at most 5"):
        plots.mask_lattice(masks_of(6), {})


def test_an_architecture_says_the_size_of_every_part():
    figure = plots.architecture(parts())
    found = words(figure)
    table = parts().set_index(["part", "block"])
    for network, n_layers in (("teacher", 2), ("student", 1)):
        row = table.loc[(network, 2)]
        text = f"block 2\n{row['channels']} channels\n3×2\n{n_layers} layer{'s' * (n_layers > 1)}\n"
        assert text + byte_words(row["bytes"]) in found
    assert f"encoder\n{byte_words(table.loc[('encoder', 1), 'bytes'])}" in found
    assert sum(text.startswith("decoder") for text in found) == 2
    bars = [bar for bar in figure.axes[0].patches if type(bar) is Rectangle and bar.get_facecolor()[3] == 1]
    sizes = [*table.loc["teacher"]["bytes"], *table.loc["student"]["bytes"]]
    lengths = np.array([bar.get_width() for bar in bars])
    assert lengths / lengths.max() == pytest.approx(np.array(sizes) / max(sizes))


def test_a_similarity_chart_shows_mean_and_range_over_seeds():
    encoder, decoder, rest = plots.similarity_chart(SIMILARITY).axes
    for axes in (encoder, decoder):
        before, after = axes.containers
        assert before.lines[0].get_ydata().tolist() == pytest.approx([0.55, 0.55])
        assert before.lines[2][0].get_segments()[0][:, 1].tolist() == pytest.approx([0.5, 0.6])
        assert after.lines[0].get_ydata().tolist() == pytest.approx([0.7, 0.8])
        assert before.lines[0].get_linestyle() != after.lines[0].get_linestyle()
    assert [c.lines[0].get_ydata().tolist() for c in rest.containers] == [[0.25, 0.5]] * 2
    assert [text.get_text() for text in rest.get_xticklabels()] == ["1 | 2", "2 | 3"]
    plots.similarity_chart(SIMILARITY.drop(columns="seed"))


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (840, "840 B"), (999.6, "1.0 kB"), (1234, "1.2 kB"), (9_949, "9.9 kB"), (56_336, "56 kB"),
     (999_600, "1.0 MB"), (12_345_678, "12 MB"), (2.5e9, "2.5 GB")],
)  # fmt: skip
def test_bytes_in_words(size, text):
    assert byte_words(size) == text


def test_ink_is_read_on_its_ground():
    assert ink_on((1, 1, 0.9, 1)) == ink_on((0.9, 0.6, 0)) == "black"
    assert ink_on((0, 0, 0.2)) == "white"
