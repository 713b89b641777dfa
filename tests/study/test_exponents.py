"""Exponents over sizes, with draws as the unit of resampling, and what they are drawn from."""

import importlib
import itertools

import numpy as np
import pandas as pd
import pytest
from script_modules import load_script

from pwl_lab import plots
from pwl_lab.study import exponents
from pwl_lab.study.parity_sweep import Setting
from pwl_lab.support import paths
from pwl_lab.support.errors import InvalidValueError

ship_tables = load_script("ship_tables")

SPREAD = (0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.3)


def students(k, curriculum, power, never=(), spread=SPREAD):
    """Draws that need n^power samples, times a factor; at the sizes `never` most run out of budget."""
    return pd.DataFrame([
        {"k": k, "n": n, "curriculum": curriculum, "seed": seed, "samples": n**power * factor,
         "reached": n not in never or seed == 0}
        for n in (8, 16, 32)
        for seed, factor in enumerate(spread)
    ])  # fmt: skip


def test_an_exponent_and_a_difference_have_intervals():
    points = pd.concat([students(3, "one_shot", 3.0), students(3, "extracted", 1.0), students(4, "extracted", 1.0)])
    fits = exponents.exponents(points)
    low, middle, high = fits.of(3, "one_shot")
    assert middle == pytest.approx(3.0)
    assert 2.7 < low < 3.0 < high < 3.3
    # the same draws in both curricula: what they have in common cancels
    assert fits.difference((3, "one_shot"), (3, "extracted")) == pytest.approx((2.0, 2.0, 2.0))
    low, middle, high = fits.difference((4, "extracted"), (3, "extracted"))
    assert low < 0 < high, "other sizes are resampled apart"
    assert middle == pytest.approx(0.0)
    assert fits.table().loc["one_shot", 3].startswith("3.00 (")


def test_sizes_where_half_never_got_there_are_left_out():
    """A slow student that arrives and one that never does are the same to a median; a fast loss is not a fast arrival."""
    points = students(3, "one_shot", 2.0, never=(32,))
    points.loc[~points["reached"], "samples"] = 1.0  # diverged at once
    fits = exponents.exponents(points)
    assert fits.left_out == ((3, 32, "one_shot"),)
    assert fits.of(3, "one_shot")[1] == pytest.approx(2.0)
    one_lost = students(3, "one_shot", 2.0)
    one_lost.loc[(one_lost["n"] == 32) & (one_lost["seed"] == 6), ["samples", "reached"]] = [1.0, False]
    assert exponents.exponents(one_lost).of(3, "one_shot")[1] == pytest.approx(2.0)
    with pytest.raises(InvalidValueError, match="at least 2 sizes, to fit a slope"):
        exponents.exponents(students(3, "one_shot", 2.0, never=(16, 32)))


def test_a_ratio_is_that_of_medians_over_shared_draws():
    points = pd.concat(
        [students(3, "one_shot", 1.0), students(3, "extracted", 1.0).assign(samples=lambda t: t["samples"] / 4)]
    )
    size = points[points["n"] == 16]
    assert exponents.ratio_to(size) == pytest.approx((4.0, 4.0, 4.0))
    lost = size.assign(reached=(size["curriculum"] == "extracted") | (size["seed"] < 2))
    assert exponents.ratio_to(lost)[1] == np.inf
    table = exponents.medians_table(points)
    assert table.loc[(3, 16), "one_shot / extracted"] == "4.0 (4.0 to 4.0)"
    assert exponents.medians_table(points[points["curriculum"] == "extracted"])["one_shot / extracted"].eq("").all()
    only = exponents.medians_table(points[(points["curriculum"] == "extracted") | (points["seed"] == 3)])
    assert only.loc[(3, 16), "one_shot / extracted"] == "4.0 (one draw)"
    four = points[(points["n"] == 16) & points["seed"].isin([0, 1, 2, 3])]
    four = four.assign(samples=four["samples"].where((four["seed"] != 2) | (four["curriculum"] == "extracted"), 160.0))
    own = four.pivot(index="seed", columns="curriculum", values="samples")
    own = own["one_shot"] / own["extracted"]
    told = f"{exponents.ratio_to(four)[1]:.1f} ({own.min():,.1f} to {own.max():,.1f}, range of 4 draws)"
    assert exponents.medians_table(four).loc[(3, 16), "one_shot / extracted"] == told
    assert own.min() < own.max()


def test_the_figure_moves_points_apart_and_marks_those_of_this_run():
    points = pd.concat([students(3, "one_shot", 2.0), students(3, "extracted", 1.0)])
    fits = exponents.exponents(points)
    axes = plots.scaling_curves(points, fits=fits, theory={3: {"one_shot": 2}}, own=points.head(3)).axes[0]
    left, right, own = (dots.get_offsets() for dots in axes.collections)
    assert (left[:, 0] < right[:, 0]).all()
    assert (abs(left[:, 0] / points["n"].to_numpy()[:21] - 1) < 0.02).all()
    assert own[:, 0].tolist() == points["n"].head(3).tolist(), "those of this run lie at their size"
    words = [text.get_text() for text in axes.get_legend().get_texts()]
    assert "theory, one-shot: 2" in words
    assert "trained in this run" in words


def test_the_shipped_students_are_whole():
    """Sixteen draws of every size and curriculum; tuned on others; the best setting is the least median of its grid."""
    points, grid, best = exponents.sizes(), exponents.shipped("complexity_tuning"), exponents.shipped("complexity_best")
    assert set(points["seed"]) == set(range(16))
    assert (points.groupby(["k", "n", "curriculum"]).size() == 16).all()
    keys = ["curriculum", "k", "n"]
    least = grid.groupby(keys)["samples"].min()
    chosen = best.set_index(keys)["samples"]
    assert np.allclose(chosen, least[chosen.index], rtol=1e-3)  # the grid's medians are rounded to four digits
    assert set(best["k"]) == {2, 3, 4}


def teachers(power=-2.0, noise=0.0, settings=(1.0, 3.0)):
    """Teachers of three sizes and four seeds; a student of each needs rho^power samples with its better setting."""
    random = np.random.default_rng(0)
    rows = []
    for n, seed, decay, saturation in itertools.product((30, 50, 70), range(4), (0.0, 1e-3), (1.0, 2.0)):
        rho = 0.1 * saturation**0.5 * (1 + 400 * decay) * (50 / n) ** 0.2 * random.uniform(0.9, 1.1)
        samples = 100 * rho**power * np.exp(random.normal(0, noise))
        for factor in settings:
            rows.append({"n": n, "k": 4, "seed": seed, "weight_decay": decay, "saturation": saturation, "rho": rho,
                         "rho off": 0.02, "lr": 0.2, "stage_steps": 50 * factor, "samples": samples * factor,
                         "reached": True})  # fmt: skip
    return pd.DataFrame(rows)


def test_the_cost_of_a_teacher_is_that_of_its_best_student():
    students = teachers()
    costs = ship_tables.teacher_costs(students)
    assert len(costs) == 48
    assert costs["samples"].tolist() == pytest.approx((100 * costs["rho"] ** -2).tolist())
    lost = students.assign(reached=(students["stage_steps"] == 150) & (students["seed"] > 0))
    costs = ship_tables.teacher_costs(lost)
    assert np.isinf(costs.loc[costs["seed"] == 0, "samples"]).all()
    assert (costs.loc[costs["seed"] > 0, "stage_steps"] == 150).all()


def test_the_exponent_of_the_correlation_is_found_and_can_be_another():
    low, _, high = exponents.cost_fit(ship_tables.teacher_costs(teachers(-2.0, 0.1)), ["rho"]).coefficients["rho"]
    assert low < -2 < high
    assert high - low < 1
    none = exponents.cost_fit(ship_tables.teacher_costs(teachers(0.0, 0.3)), ["rho"])
    assert none.coefficients["rho"][0] < 0 < none.coefficients["rho"][2]
    assert none.explained < 0.2
    both = exponents.cost_fit(ship_tables.teacher_costs(teachers(-1.0)), ["rho", "n"])
    assert both.coefficients["rho"] == pytest.approx((-1, -1, -1))
    assert both.coefficients["n"] == pytest.approx((0, 0, 0), abs=1e-9)
    assert both.explained == pytest.approx(1)


def test_the_table_and_the_figure_of_costs():
    costs = ship_tables.teacher_costs(teachers(-2.0, 0.1))
    costs.loc[0, "samples"] = np.inf
    table = exponents.cost_table(costs)
    assert table.loc["rho", "rho"].startswith("-2.")
    assert table.loc["rho", "saturation"] == ""
    axes = plots.cost_curve(costs, exponents.cost_fit(costs, ["rho", "n"])).axes[0]
    assert sum(len(dots.get_offsets()) for dots in axes.collections) == 47
    slopes = [
        np.polyfit(np.log(line.get_xdata()), np.log(line.get_ydata()), 1)[0]
        for line in axes.lines
        if len(line.get_xdata())
    ]
    assert len(slopes) == 4
    assert slopes[-1] == pytest.approx(-2)
    assert slopes[:3] == pytest.approx([slopes[0]] * 3), "one exponent for all sizes"


@pytest.fixture
def wider(monkeypatch):
    monkeypatch.syspath_prepend(str(paths.root() / "scripts"))
    return importlib.import_module("wider_settings")


def test_neighbours_lead_beyond_the_grid(wider):
    corner = Setting(0.08, 0.9, 25, 25.0)
    around = wider.neighbours(corner, "extracted")
    assert {(one.momentum, one.lr) for one in around} == {
        *((0.9, rate) for rate in (0.04, 0.08, 0.16)),
        *((0.0, rate) for rate in (0.4, 0.8, 1.6)),
    }
    assert {one.stage_steps for one in around} == {12, 25, 50}
    assert {one.hidden_weight for one in around} == {5, 25, 125}
    assert corner in around
    assert {one.stage_steps for one in wider.neighbours(Setting(0.8), "one_shot")} == {0}
    assert wider.at_end(corner, "extracted") == ""
    assert wider.at_end(Setting(6.4, 0.0, 3, 625.0), "extracted") == "lr stage_steps hidden_weight"


def test_settings_are_tried_until_none_beside_the_best_is_better(wider, tmp_path, monkeypatch):
    """On a made-up landscape whose best setting lies two steps beyond the grid, and again from where it ended."""
    tables, size, goal = wider.Tables(tmp_path), wider.Size((16, 3), smoke=False), Setting(1.6, 0.0, 6, 125.0)
    asked = []

    def students(name, seeds, settings, budget):
        asked.append((seeds, len(settings)))
        rows = []
        for one, seed in itertools.product(settings, seeds):
            away = abs(np.log2(one.lr / goal.lr)) + abs(np.log2(one.stage_steps / goal.stage_steps)) + one.momentum
            away += abs(np.log(one.hidden_weight / goal.hidden_weight))
            samples = int(1_000 * (1 + 0.1 * away))
            rows.append({"curriculum": name, "k": 3, "n": 16, "seed": seed, **vars(one), "samples": samples,
                         "reached": samples <= budget})  # fmt: skip
        return pd.DataFrame(rows)

    grid = [Setting(lr, 0.0, steps, weight) for lr in (0.4, 0.8) for steps in (25, 50) for weight in (5.0, 25.0)]
    tried = ship_tables.setting_medians(students("extracted", range(8), grid, 10_000))
    tables.put("tuning", "extracted", (16, 3), tried)
    monkeypatch.setattr(size, "students", students)
    best = wider.climb(tables, size, "extracted", 8)
    assert best == goal
    assert all(seeds == wider.TUNING for seeds, _ in asked[1:])
    assert "to 1,000 samples, 16 of 16 arrived" in wider.measure(tables, size, "extracted", best)
    calls, again = len(asked), wider.Tables(tmp_path)
    assert wider.climb(again, size, "extracted", 8) == goal
    assert "as before" in wider.measure(again, size, "extracted", goal)
    assert len(asked) == calls, "what is in the folder is not trained again"
    assert (again.of("sizes", "extracted", (16, 3))["machine"] == "CPU").all()
    assert len(again.tables["sizes"]) == len(exponents.sizes())
