"""The figures of curricula crossed with loading, and of the ablation, draw what their tables say."""

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import same_color
from toys import as_pair

from pwl_lab import plots
from pwl_lab.plots.curricula import ABLATED, CHANGED
from pwl_lab.plots.style import CURRICULUM
from pwl_lab.study import crossing
from pwl_lab.study.crossing import LOADING_WORDS, LOADINGS, MEASURES, Crossed
from pwl_lab.swap.masks import all_masks

SEEDS = (4, 1)
NAMES = ["plain PWL (in every panel)", "one-shot", "progressive", "extracted"]
CURRICULA = ["none", "one_shot", "progressive", "extracted"]
LOOKS = CURRICULUM


def crossed(curriculum, loading, seed, number):
    """A student whose every number is its own."""
    shift = 0.01 * number + 0.003 * seed
    masks = {mask: 0.3 + shift + 0.1 * mask.count("T") - 0.02 * mask.startswith("S") for mask in all_masks(3)}
    history = {0: 0.1 + shift, 10: 0.4 + shift + 0.01 * seed, 20: 0.5 + shift}
    return Crossed(curriculum, loading, as_pair(masks, seed=seed, history=history))


FOUND = [
    crossed(*way, seed, number) for number, way in enumerate(crossing.combinations(crossing.LOADINGS)) for seed in SEEDS
]
TABLE = crossing.crossing_table(FOUND)
PARITY = [
    crossed(name, loading, seed, number)
    for number, (name, loading) in enumerate(
        (n, how) for n in ("one_shot", "extracted") for how in ("alone", "combined")
    )
    for seed in SEEDS
]


def ablation():
    """Rows of three seeds, each time in another order; every number another one."""
    random, rows = np.random.default_rng(0), []
    variants = {
        "leave out": ["cross", "sync"],
        "default": ["default"],
        "equal channels": ["converters always", "only where different"],
        "masks": ["prefix"],
    }
    for group, names in variants.items():
        for name in names:
            for seed in random.permutation([5, 6, 7]):
                rows.append({"group": group, "variant": name, "seed": seed} | {m: random.uniform() for m in ABLATED})
    return pd.DataFrame(rows).assign(family="resnet")


FIGURES = {
    "crossing_histories": lambda: plots.crossing_histories(FOUND),
    "crossing_prefixes": lambda: plots.crossing_prefixes(TABLE),
    "crossing_chart": lambda: plots.crossing_chart(TABLE),
    "parity_crossing": lambda: plots.parity_crossing(PARITY),
    "ablation_chart": lambda: plots.ablation_chart(ablation()),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", FIGURES)
def test_they_render_without_a_warning_outside_pyplot_and_leave_the_users_style_alone(name, tmp_path):
    before = dict(mpl.rcParams)
    figure = FIGURES[name]()
    assert figure.get_size_inches()[0] == 9
    figure.savefig(tmp_path / "figure.png", dpi=50)
    assert pyplot.get_fignums() == []
    assert dict(mpl.rcParams) == before


def shown_texts(figure):
    """Every text outside the plotting areas that is drawn: titles, labels, ticks, legend."""
    FigureCanvasAgg(figure).draw()
    texts = [text for legend in figure.legends for text in legend.get_texts()]
    for axes in figure.axes:
        texts += [axes._left_title, axes.xaxis.label, axes.yaxis.label, *axes.texts]
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            texts += [tick.label1 for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]
    return [text for text in texts if text.get_visible() and text.get_text()]


@pytest.mark.parametrize("name", FIGURES)
def test_no_text_lies_on_another_or_is_cut_off(name):
    figure = FIGURES[name]()
    boxes = [(text.get_text(), text.get_window_extent()) for text in shown_texts(figure)]
    assert len(boxes) > 10
    overlapping = [(a, b) for i, (a, one) in enumerate(boxes) for b, other in boxes[:i] if one.overlaps(other)]
    assert overlapping == []
    edge = figure.bbox.padded(1)  # extents are known to a pixel
    assert [text for text, box in boxes if not all(edge.contains(*c) for c in (box.min, box.max))] == []


def legend(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def titles(figure):
    return [axes.get_title(loc="left") for axes in figure.axes]


def of(curriculum, loading):
    """The students that a panel shows of a curriculum; plain PWL is in every one."""
    wanted = "combined" if curriculum == "none" else loading
    return [one for one in FOUND if (one.curriculum, one.loading) == (curriculum, wanted)]


def test_histories_are_the_mean_over_seeds_in_a_band_from_worst_to_best():
    figure = plots.crossing_histories(FOUND)
    assert legend(figure) == NAMES
    assert titles(figure) == [LOADING_WORDS[loading] for loading in LOADINGS]
    for axes, loading in zip(figure.axes, LOADINGS, strict=True):
        lines, bands = axes.get_lines()[:4], axes.collections
        for curriculum, line, band in zip(CURRICULA, lines, bands, strict=True):
            values = np.array([one.pair.history["accuracy"] for one in of(curriculum, loading)])
            assert line.get_xdata().tolist() == [0, 10, 20]
            assert line.get_ydata() == pytest.approx(values.mean(axis=0))
            assert (line.get_color(), line.get_linestyle()) == LOOKS[curriculum][:2]
            corners = band.get_paths()[0].vertices
            for place, step in enumerate((0, 10, 20)):
                heights = corners[corners[:, 0] == step, 1]
                assert (heights.min(), heights.max()) == pytest.approx((values[:, place].min(), values[:, place].max()))


def test_only_where_pwl_follows_a_line_says_when():
    marks = [axes.get_lines()[4:] for axes in plots.crossing_histories(FOUND).axes]
    assert [len(lines) for lines in marks] == [0, 1, 0]
    assert marks[1][0].get_xdata() == [10, 10]


def test_prefixes_are_the_mean_over_seeds_with_bars_from_worst_to_best():
    figure = plots.crossing_prefixes(TABLE)
    assert legend(figure) == NAMES
    assert titles(figure) == [LOADING_WORDS[loading] for loading in LOADINGS]
    for axes, loading in zip(figure.axes, LOADINGS, strict=True):
        assert axes.get_xticks().tolist() == [0, 1, 2, 3]
        for curriculum, drawn in zip(CURRICULA, axes.containers, strict=True):
            values = np.array([one.pair.prefix_accuracy() for one in of(curriculum, loading)])
            line, _, (bars,) = drawn.lines
            assert line.get_xdata() == pytest.approx([0, 1, 2, 3], abs=0.1)
            assert line.get_ydata() == pytest.approx(values.mean(axis=0))
            assert (line.get_color(), line.get_linestyle(), line.get_marker()) == LOOKS[curriculum]
            ends = np.array([segment[:, 1] for segment in bars.get_segments()])
            assert ends == pytest.approx(np.array([values.min(axis=0), values.max(axis=0)]).T)


def test_the_chart_has_a_row_for_every_combination_with_a_point_per_seed():
    figure = plots.crossing_chart(TABLE)
    names = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    ways = crossing.combinations(crossing.LOADINGS)
    assert names == ["plain PWL"] + [
        f"{curriculum.replace('_', '-')}: {LOADING_WORDS[loading]}" for curriculum, loading in ways[1:]
    ]
    assert titles(figure) == list(MEASURES.values())
    for axes, measure in zip(figure.axes, MEASURES, strict=True):
        for row, (way, points, bar) in enumerate(zip(ways, axes.collections, axes.get_lines(), strict=True)):
            mine = TABLE[(TABLE["curriculum"] == way[0]) & (TABLE["loading"] == way[1])]
            assert len(mine) == len(SEEDS)
            assert points.get_offsets()[:, 0].tolist() == mine[measure].tolist()
            assert points.get_offsets()[:, 1].tolist() == pytest.approx(np.linspace(row - 0.2, row + 0.2, len(SEEDS)))
            assert same_color(points.get_facecolor()[0], LOOKS[way[0]][0])
            assert bar.get_xdata() == pytest.approx([mine[measure].mean()] * 2)
            assert np.mean(bar.get_ydata()) == pytest.approx(row)
    assert figure.axes[0].get_ylim() == (9.5, -0.5)  # the first on top


def test_the_smallest_pair_has_a_line_per_seed_and_one_name_per_curriculum():
    figure = plots.parity_crossing(PARITY)
    assert legend(figure) == ["one-shot", "extracted"]
    assert titles(figure) == [LOADING_WORDS["alone"], LOADING_WORDS["combined"]]
    for axes, loading in zip(figure.axes, ("alone", "combined"), strict=True):
        mine = [one for one in PARITY if one.loading == loading]
        *lines, guessing = axes.get_lines()
        assert list(guessing.get_ydata()) == [0.5, 0.5]
        for one, line in zip(mine, lines, strict=True):
            assert line.get_xdata().tolist() == one.pair.history["step"].tolist()
            assert line.get_ydata().tolist() == one.pair.history["accuracy"].tolist()
            assert line.get_color() == CURRICULUM[one.curriculum][0]


ABLATION_ROWS = [
    ("leave out", "cross"),
    ("leave out", "sync"),
    ("equal channels", "only where different"),
    ("masks", "prefix"),
]


def test_the_ablation_draws_the_difference_to_the_reference_of_the_same_seed():
    table = ablation()
    figure = plots.ablation_chart(table)
    names = [CHANGED.get(name, name) for name in map(": ".join, ABLATION_ROWS)]
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == names
    assert "equal channels: no converter there" in names
    assert titles(figure) == list(ABLATED.values())
    value = table.set_index(["group", "variant", "seed"]).sort_index()
    for axes, measure in zip(figure.axes, ABLATED, strict=True):
        zero, *bars = axes.get_lines()
        assert list(zero.get_xdata()) == [0, 0]
        for row, (group, variant) in enumerate(ABLATION_ROWS):
            own = group == "equal channels"
            reference = ("equal channels", "converters always") if own else ("default", "default")
            expected = [
                100 * (value.loc[(group, variant, seed), measure] - value.loc[(*reference, seed), measure])
                for seed in (5, 6, 7)
            ]
            points = axes.collections[row].get_offsets()
            assert sorted(points[:, 0]) == pytest.approx(sorted(expected))
            assert set(points[:, 1]) == {row}
            assert bars[row].get_xdata() == pytest.approx([np.mean(expected)] * 2)
        assert len(axes.collections) == len(bars) == len(ABLATION_ROWS)


def test_without_equal_channels_everything_is_compared_with_the_default():
    table = ablation()
    figure = plots.ablation_chart(table[table["group"] != "equal channels"])
    names = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert names == [": ".join(row) for row in ABLATION_ROWS if row[0] != "equal channels"]
