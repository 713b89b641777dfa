"""The arms of notebook 05: what each trains on, the shipped tables and what their intervals decide."""

import itertools
import json

import numpy as np
import pandas as pd
import pytest
from script_modules import load_script
from toys import TOY_SIZES, ToyImages, changed, snapshot

from pwl_lab import plots
from pwl_lab.models import resnet
from pwl_lab.study import arms
from pwl_lab.study.arms import Arm, train_arm
from pwl_lab.study.exponents import exponents
from pwl_lab.study.verbs import train_pair
from pwl_lab.swap.pair_training import PairLossConfig
from pwl_lab.training import fit, image_plan

TASK = ToyImages()
LOSSES = PairLossConfig(cross_passes=1, cross_groups=2)
PLAN = image_plan(12, 0.05, 16, eval_every=12)
ARMS = {
    "none": Arm("none"),
    "early": Arm("early", share=0.5),
    "auxiliary": Arm("auxiliary", weight=1.0),
    "checkpoint": Arm("checkpoint", share=0.5, at_accuracy=0.0),
    "final": Arm("final", share=0.5),
}


@pytest.fixture(scope="module")
def trained():
    """A teacher, and a pair of each arm with its history."""
    sizes = TOY_SIZES["teacher_channels"], TOY_SIZES["teacher_depths"]
    teacher = fit(resnet(TASK, *sizes), TASK, PLAN.model_copy(update={"keep_checkpoints": True}), 0)
    student = resnet(TASK, (2, 3, 4), (1, 1, 1))
    found = {name: train_arm(arm, teacher, student, TASK, PLAN, LOSSES, 0, "cpu") for name, arm in ARMS.items()}
    return teacher, student, found


def test_without_an_early_stage_an_arm_is_plain_pwl(trained, tmp_path, monkeypatch):
    monkeypatch.setenv("PWL_LAB_STORE", str(tmp_path))
    teacher, student, found = trained
    pair = train_pair(teacher, student, TASK, PLAN, LOSSES, 0, "cpu")
    assert changed(snapshot(found["none"][0]), snapshot(pair.net)) == set()


def test_every_arm_trains_another_student_for_the_same_steps_and_leaves_the_teacher(trained):
    teacher, _, found = trained
    students = [snapshot(net.student) for net, _ in found.values()]
    assert all(changed(one, other) for one, other in itertools.combinations(students, 2))
    for net, history in found.values():
        assert history["step"].max() == PLAN.steps
        assert history["samples"].max() == PLAN.steps * PLAN.batch_size
        assert changed(snapshot(net.teacher), snapshot(teacher.model)) == set()
    terms = {name: set(history.filter(like="loss_").columns) - {"loss_total"} for name, (_, history) in found.items()}
    last = {"loss_hard", "loss_soft", "loss_sync", "loss_recon", "loss_cross"}
    assert terms["none"] == last
    assert terms["auxiliary"] == terms["early"] == last | {"loss_hidden"}
    assert terms["checkpoint"] == terms["final"] == last | {"loss_output"}


def test_the_early_stage_of_a_curriculum_has_every_block_in_turn():
    stages = Arm("early", share=0.25).early_curriculum(60, 4).stages
    assert [(stage.target.block, stage.steps) for stage in stages] == [(block, 15) for block in (1, 2, 3, 4)]
    [checkpoint] = Arm("checkpoint").early_curriculum(60, 4).stages
    [final] = Arm("final").early_curriculum(60, 4).stages
    assert (checkpoint.target.at_accuracy, final.target.final) == (0.8, True)


@pytest.mark.parametrize(
    ("low", "high", "word"),
    [(-0.2, 0.2, "within"), (0.1, 0.2, "within"), (-0.3, 0.2, "open"), (0.1, 0.4, "better"), (-0.5, -0.1, "worse"),
     (-0.4, 0.5, "open"), (0.0, 0.5, "open")],
)  # fmt: skip
def test_a_verdict_follows_from_the_ends(low, high, word):
    assert arms.verdict(low, high) == word


def test_the_shipped_intervals_are_of_the_shipped_pairs():
    pairs = arms.shipped_arms()
    found = arms.shipped_arms("intervals")
    values = pairs.set_index(["run", "family", "budget", "arm", "seed"]).sort_index()
    for row in found.itertuples():
        ours, theirs = (
            values.loc[(row.run, row.family, row.budget, arm), row.measure] for arm in (row.arm, row.against)
        )
        gains = 100 * (ours - theirs)
        assert len(gains) == row.seeds
        assert gains.mean() == pytest.approx(row.mean, abs=2e-3)
        over_seeds = gains.std(ddof=1) / len(gains) ** 0.5
        assert row.high - row.mean >= 1.9 * over_seeds  # images make it wider than the seeds alone
    assert "within" in arms.arms_table(found.assign(low=-0.1, high=0.1)).iloc[0, 0]


def on_sizes(powers, sizes=(20, 30, 40), draws=16):
    random = np.random.default_rng(1)
    columns = ["curriculum", "k", "n", "seed", "samples", "reached"]
    rows = [
        (arm, 4, n, draw, round(32 * n**power * (1 + 0.1 * random.random())), True)
        for arm, power in powers.items()
        for n in sizes
        for draw in range(draws)
    ]
    return pd.DataFrame(rows, columns=columns)


def test_exponents_of_arms_and_by_how_much_they_differ_from_one_shots():
    points = on_sizes({"one_shot": 2.5, "sync": 1.0, "recon": 2.5})
    table = arms.exponents_table(points)
    assert table.index.tolist() == ["one-shot", "sync", "recon"]  # as they come

    def found(arm, column):
        middle, low, _, high = table.loc[arm, column].translate(str.maketrans("", "", "()")).split()
        return float(low), float(middle), float(high)

    assert found("one-shot", "exponent")[1] == pytest.approx(2.5, abs=0.1)
    low, middle, high = found("sync", "minus one-shot's")
    assert -1.65 < low < middle < high < -1.35
    low, _, high = found("recon", "minus one-shot's")
    assert low < 0 < high
    assert pd.isna(table.loc["one-shot", "minus one-shot's"])
    late = (points["curriculum"] == "recon") & (points["n"] == 40) & (points["seed"] < 8)
    table = arms.exponents_table(points.assign(reached=~late))  # half never got there: that size is left out
    assert np.isinf(table.loc["recon", "n = 40"])
    assert found("recon", "exponent")[1] == pytest.approx(2.5, abs=0.2)
    late |= (points["curriculum"] == "recon") & (points["n"] == 30)
    points = points.assign(reached=~late)  # with one size left there is no exponent
    assert arms.exponents_table(points)["exponent"].isna().tolist() == [False, False, True]
    assert plots.arm_powers(points, arms.arm_exponents(points)).axes[1].texts[0].get_text() == "hardly learned"


def test_verdicts_are_in_the_order_of_the_table_and_for_the_measures_asked_for():
    ends = {"low": 0.1, "mean": 0.2, "high": 0.3, "seeds": 3}
    rows = [
        {"arm": arm, "against": "base", "measure": one} | ends for arm in "ba" for one in ("SSSS", "prefix", "TSSS")
    ]
    table = arms.verdicts_table(pd.DataFrame(rows), {"prefix": "mean", "SSSS": "alone"}, ["arm", "against"])
    assert table.index.tolist() == [("b", "base"), ("a", "base")]
    assert table.columns.tolist() == ["mean", "alone"]
    assert (table == "+0.20 (+0.10 to +0.30) better").all(axis=None)


def steps_on_parity():
    rows = [("plateau", "none", seed, 400 + seed, 800) for seed in (0, 1)]
    rows += [("plateau", "early", seed, 200 + seed / 2, 400) for seed in (0, 1)]
    rows += [("plateau", "one-shot", 1, None, None), ("plateau tuning", "early", 100, 1, 1)]
    columns = ["kind", "arm", "seed", *arms.PARITY_WORDS]
    return pd.DataFrame(rows, columns=columns).assign(budget=1_500)


def test_steps_are_compared_seed_by_seed_and_the_budget_stands_for_never():
    table = steps_on_parity()
    assert arms.parity_ratios(table, "steps_student")["early"] == pytest.approx((0.5, 0.5, 0.5))
    low, ratio, high = arms.parity_ratios(table, "steps_student")["one-shot"]
    assert ratio == pytest.approx(1_500 / 401)
    assert np.isnan([low, high]).all()
    shown = arms.parity_arms_table(table)
    assert shown.loc["one-shot", "student: seeds"] == "0 of 1"
    assert shown.loc["extracted first", "student: times plain PWL"].startswith("0.50")


def test_the_figures_draw_the_tables():
    intervals = arms.shipped_arms("intervals")
    figure = plots.arms_chart(intervals)
    assert [axes.get_title(loc="left") for axes in figure.axes] == list(arms.ARM_MEASURES.values())
    drawn = figure.axes[0].containers[2].lines[0]
    mine = intervals[(intervals["arm"] == "checkpoint") & (intervals["measure"] == "SSSS")]
    mine = mine[mine["against"] == "none"]  # a row per run
    assert list(drawn.get_xdata()) == mine["mean"].tolist()
    table = steps_on_parity()
    figure = plots.parity_arms(table)
    points = figure.axes[0].collections
    assert [collection.get_offsets()[:, 0].tolist() for collection in points] == [[400, 401], [200, 200.5], [1_500]]
    assert points[2].get_facecolor()[0, 3] == 0  # hollow: it never got there


def test_the_figure_of_exponents_has_every_draw_and_every_interval():
    points = on_sizes({"one_shot": 2.5, "sync": 1.0})
    points.loc[0, "reached"] = False
    fits = exponents(points)
    left, right = plots.arm_powers(points, fits).axes
    assert [collection.get_offsets()[:, 1].tolist() for collection in left.collections] == [
        points.loc[points["curriculum"] == arm, "samples"].tolist() for arm in ("one_shot", "sync")
    ]
    assert left.collections[0].get_facecolor()[0, 3] == 0  # hollow: it never got there
    assert [label.get_text() for label in right.get_yticklabels()] == ["one-shot", "sync"]
    bars = [bar.lines[2][0].get_segments()[0][:, 0] for bar in right.containers]
    assert np.ravel(bars) == pytest.approx(np.ravel([np.take(fits.of(4, arm), (0, 2)) for arm in ("one_shot", "sync")]))


@pytest.fixture(scope="module")
def script():
    return load_script("pair_tables")


def point_of(script, arm, seed, right):
    hits = np.random.default_rng(seed).random((16, 50)) < right
    test = dict(zip(script.all_masks(4), hits.mean(axis=1).tolist(), strict=True))
    common = {"kind": "arms", "family": "vgg", "budget": 240, "rate": 0.1, "variant": {}}
    return common | {"arm": arm, "seed": seed, "test": test} | script.packed(hits)


def test_only_seeds_with_all_arms_of_their_run_are_reported(script, tmp_path):
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder, seeds in zip(folders, ((0, 1), (1, 2)), strict=True):
        folder.mkdir()
        points = [point_of(script, arm, seed, 0.7) for seed in seeds for arm in script.VARIANTS]
        points = points if folder == folders[1] else points[:-1]  # of seed 1, one arm is missing here
        (folder / "points.jsonl").write_text("\n".join(map(json.dumps, points)))
    found = script.whole_seeds(folders)
    assert [(point["run"], point["seed"], point["arm"]) for point in found] == [
        (run, seed, arm) for run, seed in ((1, 0), (2, 1), (2, 2)) for arm in script.VARIANTS
    ]
    point = found[0]
    assert script.unpacked(point).mean(axis=1).tolist() == list(point["test"].values())
    row = script.row_of(point)
    mixed = [value for mask, value in point["test"].items() if len(set(mask)) == 2]
    assert (row["mixed"], row["worst"]) == pytest.approx((np.mean(mixed), min(mixed)), abs=1e-5)
    assert all(script.interval_row(*one)["mean"] == 0 for one in script.gains(found))  # the same hits in every arm


def test_a_lead_is_compared_with_that_at_the_smaller_budget_seed_by_seed(script):
    shares = {240: {"none": 0.5, "checkpoint": 0.8}, 480: {"none": 0.5, "checkpoint": 0.6}}
    points = [
        point_of(script, arm, seed, right) | {"run": 1, "budget": budget}
        for budget, by_arm in shares.items()
        for arm, right in by_arm.items()
        for seed in (0, 1, 2) if (budget, seed) != (480, 2)
    ]  # fmt: skip
    leads = {(row["budget"], row["measure"]): gain for row, gain in script.gains(points)}
    [change] = [row for row in script.change_rows(script.gains(points)) if row["measure"] == "mixed"]
    assert (change["budget"], change["before"], change["seeds"]) == (480, 240, 2)
    both = leads[480, "mixed"].mean(axis=1) - leads[240, "mixed"].mean(axis=1)
    assert change["mean"] == pytest.approx(100 * both[[0, 1]].mean(), abs=1e-3)
    assert change["low"] < change["mean"] < change["high"] < 0


def test_points_are_tuned_on_other_seeds_and_each_arm_has_its_best_rate(script):
    tuning = script.tuning("resnet", 240, script.TUNING_SEEDS)
    assert not {point["seed"] for point in tuning} & set(script.SEEDS)
    done = [point | {"score": point["rate"] * (1 if point["arm"] == "early" else -1)} for point in tuning]
    points = script.arms("resnet", 240, done, [0])
    assert {point["arm"]: point["rate"] for point in points} == dict.fromkeys(script.VARIANTS, 0.05) | {"early": 0.2}
    assert len({script.named(point) for point in tuning + points}) == len(tuning) + len(points)


def test_the_kinds_of_students_are_drawn_against_one_of_them():
    kinds, measures = ["narrow", "wide", "other"], ["SSSS", "TSSS", "TTSS", "TTTS", *arms.STUDENT_MEASURES]
    rows = [
        {"family": family, "arm": kind, "against": against, "measure": measure, "mean": i + j, "low": i, "high": i + 9}
        for family in ("vgg", "vit")
        for i, kind in enumerate(kinds)
        for against in ("", "base")
        for j, measure in enumerate(dict.fromkeys(measures))
    ]
    figure = plots.student_kinds(pd.DataFrame(rows), "base")
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["vgg", "vit"]
    drawn = {bars.get_label(): list(bars.lines[0].get_xdata()) for bars in figure.axes[1].containers}
    assert drawn == {kind: [i + j for j in range(7)] for i, kind in enumerate(kinds)}
