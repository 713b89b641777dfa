"""Bootstrap intervals, slopes and the tables made of them; the two-phase scheme; slopes over sizes."""

import math
from itertools import product

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.stats import sem, t

from pwl_lab import plots
from pwl_lab.models import mlp
from pwl_lab.study import complexity, intervals
from pwl_lab.study import tables as analysis
from pwl_lab.study.two_phase import expected_ratio, first_layer_gradient, initial_bias, two_phase
from pwl_lab.support.errors import InvalidValueError
from pwl_lab.swap.orders import loading_orders
from pwl_lab.tasks.parity import SparseParity
from pwl_lab.training import TrainPlan, fit

HISTORY = pd.DataFrame([{"curriculum": "one_shot", "seed": 0, "step": step, "accuracy": 0.99} for step in (10, 20)])


def test_intervals():
    assert intervals.median_interval([5.0] * 6) == (5.0, 5.0, 5.0)
    values = [1.0, 2.0, 3.0, 10.0, 4.0, 5.0, 6.0]
    low, middle, high = intervals.median_interval(values)
    assert 1 <= low < middle == 4 < high <= 10
    assert intervals.median_interval(values) == (low, middle, high)
    points = {n: [n**2.0 * factor for factor in (0.9, 1.0, 1.1)] for n in (8, 16, 32)}
    low, middle, high = intervals.slope_interval(points)
    assert middle == pytest.approx(2.0)
    assert 1.8 < low < 2.0 < high < 2.2
    with pytest.raises(InvalidValueError, match="at least 2 sizes"):
        intervals.slope_interval({8: [1.0]})
    table = intervals.samples_table(HISTORY, 20, 1000, (0.9, 1.0))
    assert table.loc["one_shot"].tolist() == ["10k (range 10k to 10k)", "none"]


@pytest.mark.parametrize("n", [1, 2, 5])
def test_fewer_than_six_values_have_a_range_and_no_interval_of_their_median(n):
    values = [float(value) for value in range(n)]
    with pytest.raises(InvalidValueError, match="at least 6 values"):
        intervals.median_interval(values)
    assert intervals.median_and_spread(values) == ((0.0, (n - 1) / 2, n - 1.0), "range")
    six = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    assert intervals.median_and_spread(six) == (intervals.median_interval(six), "95%")


def test_tables_call_the_ends_of_few_seeds_a_range():
    history = pd.DataFrame([
        {"curriculum": "a: b", "seed": seed, "step": 10 * seed + 10, "accuracy": 0.99} for seed in range(6)
    ])  # fmt: skip
    few = history[history["seed"] < 5]
    assert intervals.samples_table(few, 90, 1000, (0.9,)).loc["a: b"].item() == "30k (range 10k to 50k)"
    assert "range" not in intervals.samples_table(history, 90, 1000, (0.9,)).loc["a: b"].item()
    assert intervals.variants_table(few, 90).loc[("a", "b"), "range over seeds"] == "10 to 50"
    assert "95% interval" in intervals.variants_table(history, 90)


def test_the_interval_of_a_mean_by_hand():
    # 1, 2, 3: mean 2, deviation 1, so 2 +- 4.302653 / sqrt(3) (t of 2 degrees of freedom at 97.5%)
    assert intervals.mean_interval([3.0, 1.0, 2.0]) == pytest.approx((2 - 2.484138, 2.0, 2 + 2.484138), abs=1e-6)
    assert intervals.mean_interval([0.5, 0.5]) == (0.5, 0.5, 0.5)


@given(
    values=st.lists(st.floats(-100, 100), min_size=2, max_size=9, unique=True),
    confidence=st.sampled_from([0.5, 0.9, 0.95, 0.99]),
)
def test_the_interval_of_a_mean_is_students(values, confidence):
    scale = sem(values)
    assume(scale > 1e-6)
    low, high = t.interval(confidence, len(values) - 1, loc=np.mean(values), scale=scale)
    assert intervals.mean_interval(values, confidence) == pytest.approx(
        (low, np.mean(values), high), rel=1e-6, abs=1e-6
    )


@pytest.mark.filterwarnings("error")
def test_of_one_value_only_the_mean_is_known():
    low, middle, high = intervals.mean_interval([0.25])
    assert (math.isnan(low), middle, math.isnan(high)) == (True, 0.25, True)


def test_variants_are_sorted_by_choice():
    names = ("a: x", "b: y", "a: z")
    history = pd.DataFrame(
        [{"curriculum": name, "seed": 0, "step": 10, "accuracy": 0.5 + 0.5 * (name != "b: y")} for name in names]
    )
    table = intervals.variants_table(history, budget=40)
    assert table.index.tolist() == [("a", "x"), ("a", "z"), ("b", "y")]
    assert table.loc[("b", "y"), "median steps"] == "> 40"
    assert plots.choices_chart(history, {"a": "extracted", "b": "one_shot"}, 40, 0.99).axes


def test_the_gradient_is_that_of_the_correlation_loss():
    """Against autograd, for targets of each unit and for one that all units share."""
    random = torch.Generator().manual_seed(0)
    inputs = torch.randint(0, 2, (50, 6), generator=random) * 2.0 - 1
    weights = (torch.randint(0, 2, (3, 6), generator=random) * 2.0 - 1).requires_grad_()
    for targets, bias in ((torch.randn(50, 3, generator=random), 0.0), (torch.randn(50, 1, generator=random), 2.5)):
        loss = -(targets * torch.relu(inputs @ weights.T + bias)).mean(dim=0).sum()
        (wanted,) = torch.autograd.grad(loss, weights)
        torch.testing.assert_close(first_layer_gradient(targets, inputs, weights.detach(), bias), wanted)


@pytest.mark.parametrize("k", [3, 4])
def test_theory_s_ratio_is_that_of_many_units(k):
    """Counted over all 2^n inputs the hint has no noise; with few samples there is nothing but noise."""
    n = 10
    inputs = torch.tensor(list(product((-1.0, 1.0), repeat=n)))
    labels = inputs[:, :k].prod(dim=1, keepdim=True)
    weights = torch.randint(0, 2, (64, n), generator=torch.Generator().manual_seed(0)) * 2.0 - 1
    exact = first_layer_gradient(labels, inputs, weights, initial_bias(n, k)).abs()
    ratio = (exact[:, :k].mean() / exact[:, k:].mean()).item()
    assert ratio > 2
    assert expected_ratio(n, k, 1e12) == pytest.approx(ratio, rel=1e-3)
    assert expected_ratio(n, k, 1) == pytest.approx(1.0, abs=0.05)


def test_an_odd_number_of_bits_needs_a_bias():
    inputs = torch.tensor(list(product((-1.0, 1.0), repeat=9)))
    labels, weights = inputs[:, :3].prod(dim=1, keepdim=True), torch.ones(1, 9)
    assert initial_bias(9, 4) == 0 < initial_bias(9, 3)
    assert first_layer_gradient(labels, inputs, weights)[0, 0].abs() < 1e-6
    assert first_layer_gradient(labels, inputs, weights, initial_bias(9, 3))[0, 0].abs() > 0.01


def test_labels_point_at_the_support_with_enough_samples_and_the_hidden_layer_with_few():
    task = SparseParity(12, 4)
    teacher = fit(mlp(task, 256), task, TrainPlan(steps=3000, lr=0.2, momentum=0.9, eval_every=50, stop_at=1.0), 0)
    assert teacher.test_accuracy > 0.99
    labels, hidden = (two_phase(task, teacher.model, 128, [60_000, 300], 0, target) for target in ("labels", "hidden"))
    assert [one.samples for one in labels] == [300, 60_000]
    assert hidden[0].support_ratio > 2 > 1.5 > labels[0].support_ratio
    assert labels[1].support_ratio == pytest.approx(expected_ratio(12, 4, 60_000), rel=0.2)
    assert labels[1].accuracy > labels[0].accuracy + 0.1
    assert two_phase(task, teacher.model, 128, [300], 0, "hidden") == hidden[:1], "a larger step adds samples only"


def test_widths_are_compared_by_ranks():
    rows = [{"k": 4, "n": 8, "width": width, "curriculum": "one_shot", "seed": seed, "samples": steps, "reached": True}
            for width, base in ((16, 100), (32, 103), (64, 10)) for seed, steps in enumerate(range(base, base + 8))]  # fmt: skip
    table = complexity.compare_widths(pd.DataFrame(rows)).loc["one_shot"]
    assert table.index.tolist() == [(16, 32), (32, 64), (16, 64)]
    assert table["p-value"].tolist() == pytest.approx([0.027, 0.00016, 0.00016], abs=0.02)
    assert table.loc[(16, 64), ["median, narrow", "median, wide"]].tolist() == [103.5, 13.5]


RIGHT = {"SS": 0.5, "TS": 0.6, "ST": 0.4, "TT": 0.9}


def loading_hits(n_samples=20):
    """Two seeds of two blocks, 20 samples: the second seed gets two samples more, whatever the mask."""
    rows = {
        (seed, mask): np.arange(n_samples) < round((share + 0.1 * seed) * n_samples)
        for seed in (0, 1)
        for mask, share in RIGHT.items()
    }
    return pd.DataFrame(rows).T.rename_axis(["seed", "mask"])


def loading_curves():
    """The curves of these hits."""
    accuracy = loading_hits().mean(axis=1)
    tables = [
        analysis.mask_table({"test": accuracy.xs(seed, level="seed").to_dict()}, (10, 30), seed) for seed in (0, 1)
    ]
    return analysis.order_curves(pd.concat(tables), loading_orders(2))


def test_gains_are_differences_of_the_same_seed_and_sample():
    hits = loading_hits()
    table = intervals.gains_table(hits, ["SS", "TS", "TT"])
    assert table.index.tolist() == ["TS", "TT"]
    assert table.loc["TT", "against the student"] == intervals.in_points(intervals.gain(hits, "TT", "SS"))
    assert table["against the mask before"].str.startswith(("+10.00 (", "+30.00 (")).all()
    # Over seeds alone there is no spread at all: both gain the same.
    assert intervals.mean_interval(intervals.gain(hits, "TT", "SS").mean(axis=1).tolist()) == pytest.approx((0.4,) * 3)


def test_areas_are_compared_with_prefix_order():
    hits, curves = loading_hits(), loading_curves()
    table = intervals.areas_table(curves, hits)
    # prefix: 0.5 for a fourth of the bytes, 0.6 for the rest; suffix: 0.5 for three fourths, 0.4 for the rest
    assert table.loc["prefix"].tolist() == ["1-2", "62.50%", "57.50%", "67.50%", "–"]
    assert table.loc["suffix"].tolist()[:-1] == ["2-1", "52.50%", "47.50%", "57.50%"]
    by_sample = {order: intervals.area_by_sample(hits, mine) for order, mine in curves.groupby("order")}
    assert by_sample["prefix"].mean(axis=1).tolist() == pytest.approx([0.575, 0.675])
    assert by_sample["prefix"].loc[0, 11] == pytest.approx(0.75), "right under TS, wrong under SS"
    wanted = intervals.in_points(by_sample["suffix"] - by_sample["prefix"])
    assert table.loc["suffix", "points against prefix"] == wanted
    assert wanted.startswith("-10.00 (")
    twice = pd.concat([curves, curves.query("order == 'prefix'").assign(order="best")])
    assert intervals.areas_table(twice, hits).loc["best"].tolist() == table.loc["prefix"].tolist()


def test_the_interval_over_seeds_and_samples_by_hand():
    # Two seeds, three samples: seed means 1 and 3, sample means 1, 2, 3, and no rest.
    scores = pd.DataFrame([[0.0, 1.0, 2.0], [2.0, 3.0, 4.0]])
    seeds, samples = 2 / 2, 1 / 3  # the variances of the means, each over its number
    half = math.hypot(t.ppf(0.975, 1) * math.sqrt(seeds), t.ppf(0.975, 2) * math.sqrt(samples))
    assert intervals.crossed_interval(scores) == pytest.approx((2 - half, 2, 2 + half))
    assert intervals.crossed_interval(pd.DataFrame([[0.5, 0.5]] * 3)) == (0.5, 0.5, 0.5)
    low, middle, high = intervals.crossed_interval(scores.iloc[:1])
    assert (math.isnan(low), middle, math.isnan(high)) == (True, 1.0, True)


def simulated_experiment(random, spread_of_seeds, spread_of_samples, n_seeds=4, n_samples=300):
    """Differences of hits (-1, 0 or 1) whose mean over all seeds and samples there could be is 0."""
    seeds = spread_of_seeds * random.standard_normal((n_seeds, 1))
    samples = spread_of_samples * random.standard_normal((1, n_samples))
    rest = random.standard_normal((n_seeds, n_samples))
    return pd.DataFrame(np.sign(seeds + samples + rest) * (random.random((1, n_samples)) < 0.5))


@pytest.mark.parametrize(("seeds", "samples"), [(0.0, 0.0), (0.1, 0.0), (0.0, 3.0), (0.1, 3.0), (0.5, 1.0)])
def test_the_interval_over_seeds_and_samples_covers_a_simulation(seeds, samples):
    random = np.random.default_rng(5)
    drawn = [simulated_experiment(random, seeds, samples) for _ in range(1_000)]
    ends = [intervals.crossed_interval(one) for one in drawn]
    covered = np.mean([low <= 0 <= high for low, _, high in ends])
    assert 0.93 <= covered <= 0.995
    alone = [intervals.mean_interval(one.mean(axis=1).tolist()) for one in drawn]
    narrow = np.mean([low <= 0 <= high for low, _, high in alone])
    assert samples < 3 or narrow < 0.8, "over seeds alone it would be too narrow"


@pytest.mark.filterwarnings("error")
def test_points_of_one_seed_have_no_interval():
    assert intervals.in_points([0.0123]) == "+1.23"
    low, middle, high = (100 * value for value in intervals.mean_interval([0.01, 0.02, 0.03]))
    assert intervals.in_points([0.01, 0.02, 0.03]) == f"{middle:+.2f} ({low:+.2f} to {high:+.2f})"
