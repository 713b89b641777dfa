"""Curricula crossed with loading: who is trained for how long on what, and the tables that compare them."""

import json

import pandas as pd
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from toys import TOY_SIZES, ToyImages, as_pair, changed, snapshot

from pwl_lab.study import crossing, recipes, tables, verbs
from pwl_lab.study.crossing import LOADINGS, Crossed
from pwl_lab.study.intervals import mean_interval
from pwl_lab.study.settings import CrossingSettings

SMOKE = CrossingSettings.load("smoke")
CURRICULA = ["one_shot", "progressive", "extracted"]
# Of three blocks; every number another one, so that a wrong mask shows.
ACCURACY = {"SSS": 0.5, "TSS": 0.4, "STS": 0.31, "SST": 0.22, "TTS": 0.7, "TST": 0.63, "STT": 0.54, "TTT": 0.9}


def test_every_curriculum_meets_every_loading_and_pwl_stands_alone_once():
    found = crossing.combinations(crossing.LOADINGS)
    assert found[0] == crossing.PWL_ONLY == ("none", "combined")
    assert sorted(found[1:]) == sorted((curriculum, loading) for curriculum in CURRICULA for loading in LOADINGS)
    assert LOADINGS == {"alone": 1.0, "followed": 0.5, "combined": 0.0}


@given(budget=st.integers(1, 5_000), share=st.floats(0.01, 0.99), n_blocks=st.integers(2, 10))
def test_early_stages_are_equally_long_and_the_rest_is_the_final_output(budget, share, n_blocks):
    assume(share * budget >= n_blocks)  # the settings refuse the rest
    settings = SMOKE.model_copy(update={"budget_steps": budget, "early_share": share, "checkpoint_accuracy": 0.7})
    curricula = crossing.image_curricula(settings, n_blocks)
    assert list(curricula) == CURRICULA
    stages = {name: curriculum.for_blocks(n_blocks).stages for name, curriculum in curricula.items()}
    early = {name: sum(stage.steps for stage in stages[name][:-1]) for name in CURRICULA}
    assert early["one_shot"] == 0
    assert abs(early["progressive"] - share * budget) <= 0.5
    assert 0 <= early["progressive"] - early["extracted"] < n_blocks
    lasts = {str(stages[name][-1]) for name in CURRICULA}
    assert len(lasts) == 1
    assert all(stages[name][-1].target.final and stages[name][-1].steps is None for name in CURRICULA)
    assert [stage.target.at_accuracy for stage in stages["progressive"]] == [0.7, None]
    assert [stage.target.block for stage in stages["extracted"][:-1]] == list(range(1, n_blocks + 1))


@pytest.mark.parametrize("share", [0.1, 0.37, 0.999])
def test_what_the_settings_allow_has_a_step_for_every_stage(share):
    settings = CrossingSettings.load("smoke", budget_steps=1_000, early_share=share)
    for curriculum in crossing.image_curricula(settings, len(settings.teacher_channels)).values():
        curriculum = curriculum.for_blocks(4)
        assert curriculum.starts()[-1] < settings.budget_steps
        assert curriculum.stage_at(settings.budget_steps - 1) == curriculum.stages[-1]


@pytest.mark.parametrize(
    ("accuracies", "share", "step"),
    [
        ([0.1, 0.97, 0.9, 0.98], 0.98, 10),  # what it falls back to later does not count
        ([0.1, 0.97, 0.9, 0.98], 1.0, 30),
        ([0.1, 0.9, 0.6, 0.5], 0.98, 10),  # of its last accuracy, not of its best
        ([0.5, 0.5, 0.5, 0.5], 0.98, 0),
        ([0.0, 0.5, 0.98, 1.0], 0.98, 20),  # just reached is reached
    ],
)
def test_steps_to_a_share_of_the_last_accuracy(accuracies, share, step):
    history = pd.DataFrame({"step": [0, 10, 20, 30], "accuracy": accuracies})
    assert crossing.steps_to_share(history, share) == step


def test_a_row_of_the_crossing_table_says_what_its_pair_says():
    worse = {mask: value / 2 for mask, value in ACCURACY.items()}
    history = {0: 0.1, 20: 0.99, 40: 1.0}
    found = [
        Crossed("none", "combined", as_pair(ACCURACY, seed=3, history=history, validation=worse)),
        Crossed("extracted", "alone", as_pair(worse, seed=4)),
    ]
    table = crossing.crossing_table(found)
    keys = "curriculum, loading, student_accuracy, steps_to_98pct, prefix_accuracy, prefix_area, mixed_accuracy, seed"
    assert set(table) == set(keys.split(", "))
    first, second = table.to_dict("records")
    assert (first["curriculum"], first["loading"], first["seed"]) == ("none", "combined", 3)
    assert (second["curriculum"], second["loading"], second["seed"]) == ("extracted", "alone", 4)
    assert (first["student_accuracy"], first["steps_to_98pct"]) == (0.5, 20)
    assert first["prefix_accuracy"] == [0.5, 0.4, 0.7, 0.9]
    assert first["mixed_accuracy"] == pytest.approx((0.4 + 0.31 + 0.22 + 0.7 + 0.63 + 0.54) / 6)
    assert first["prefix_area"] == pytest.approx((0.5 * 10 + 0.4 * 200 + 0.7 * 3_000) / 3_210)
    assert first["prefix_area"] == tables.order_area(found[0].pair.masks, ["SSS", "TSS", "TTS", "TTT"])[3]
    for name in ("student_accuracy", "prefix_area", "mixed_accuracy"):
        assert second[name] == pytest.approx(first[name] / 2)


def table_of(rows):
    return pd.DataFrame(rows, columns=["curriculum", "loading", "seed", "measure", "other"])


def test_against_pwl_compares_within_a_seed_whatever_the_order_of_the_rows():
    rows = [
        ("one_shot", "alone", 2, 0.9, 5),
        ("none", "combined", 5, 0.1, 6),
        ("extracted", "combined", 5, 0.7, 7),
        ("none", "combined", 2, 0.5, 8),
        ("one_shot", "alone", 5, 0.4, 9),
    ]
    expected = {("one_shot", "alone", 2): 0.4, ("extracted", "combined", 5): 0.6, ("one_shot", "alone", 5): 0.3}
    for order in (rows, rows[::-1], sorted(rows)):
        found = crossing.against_pwl(table_of(order), "measure")
        assert list(found) == ["curriculum", "loading", "seed", "difference"]
        assert found.set_index(["curriculum", "loading", "seed"])["difference"].to_dict() == pytest.approx(expected)


@pytest.mark.parametrize("last", [{0: 0.5, 20: 0.98}, {0: 0.5, 20: 0.99, 40: 0.6}])
def test_in_the_parity_table_a_student_that_never_gets_there_has_no_steps(last):
    cube_of_two = {"SS": 0.25, "TS": 0.5, "ST": 0.75, "TT": 1.0}
    pairs = [as_pair(cube_of_two, (1, 2), seed, history) for seed, history in ((0, {0: 0.5, 20: 0.6}), (1, last))]
    table = crossing.parity_table([Crossed("one_shot", "alone", pair) for pair in pairs])
    assert list(table) == ["curriculum", "loading", "seed", "steps", *cube_of_two]
    reached = 20 if 40 in last else None
    assert table["steps"].isna().tolist() == [True, reached is None]
    rows = json.loads(table.to_json(orient="records"))
    assert [row["steps"] for row in rows] == [None, reached]
    assert {mask: rows[1][mask] for mask in cube_of_two} == cube_of_two
    lower = crossing.parity_table([Crossed("one_shot", "alone", pairs[0])], threshold=0.6)
    assert lower["steps"].tolist() == [20]


@pytest.mark.parametrize("make", [crossing.crossed_pairs, crossing.parity_crossings])
def test_each_result_stands_with_the_curriculum_loading_and_seed_it_was_made_for(make, monkeypatch):
    asked = []

    def run_cases(verb, cases, description, device, shipped):
        assert shipped == (2,)  # never the first seed
        asked.append((verb, cases))
        return (
            [verb(**case) for case in cases]
            if verb is crossing.crossed_of_seed
            else [as_pair(ACCURACY, seed=case["seed"]) for case in cases]
        )

    def train_pairs(teacher, student, task, plan, arms, seed, device):
        assert teacher == f"teacher {seed}"
        joins = {share: loading for loading, share in crossing.LOADINGS.items()}
        names = {curriculum: name for name, curriculum in crossing.image_curricula(settings, student.n_blocks).items()}
        for losses, curriculum in arms:
            made.append((names.get(curriculum, "none"), joins[losses.student_joins_at], seed))
        return [as_pair(ACCURACY, seed=seed) for _ in arms]

    made = []
    monkeypatch.setattr(crossing, "run_cases", run_cases)
    monkeypatch.setattr(crossing, "train_pairs", train_pairs)
    monkeypatch.setattr(crossing, "image_teacher", teacher_of := lambda settings, seed: f"teacher {seed}")
    settings = SMOKE.model_copy(update={"seeds": (7, 2), "other_seeds": "shipped"})
    found = make(settings)
    verb, cases = asked[-1]
    if make is crossing.crossed_pairs:
        assert [verb for verb, _ in asked] == [teacher_of, crossing.crossed_of_seed]
        ways = crossing.combinations(crossing.LOADINGS)
        assert made == [(*way, s) for s in (7, 2) for way in ways]
    else:
        assert verb is crossing.parity_pair
        assert [(one.curriculum, one.loading, one.pair.seed) for one in found] == [
            (case["curriculum"], case["loading"], case["seed"]) for case in cases
        ]
        ways = [(name, loading) for name in ("one_shot", "extracted") for loading in ("alone", "combined")]
    assert [(one.curriculum, one.loading, one.pair.seed) for one in found] == [
        (*way, s) for way in ways for s in (7, 2)
    ]


@pytest.fixture
def crossed(store_folder, monkeypatch):
    """Make a student of a few steps on toy images."""
    for module in (crossing, recipes):
        monkeypatch.setattr(module, "image_task", lambda settings: ToyImages())
    sizes = TOY_SIZES | {"seeds": (0,), "budget_steps": 8, "eval_every": 1, "early_share": 0.5}
    small = CrossingSettings.load("smoke", **sizes, checkpoint_accuracy=0.0)

    def make(curriculum, loading, **changes):
        return crossing.crossed_pair(small.model_copy(update=changes), 0, curriculum, loading)

    return make


def test_the_hits_of_a_pair_are_its_accuracies_by_image(crossed):
    pair = crossed("one_shot", "combined")
    hits = tables.stacked_hits([pair])
    data = pair.task.split("test")
    assert hits.shape == (2**pair.n_blocks, len(data.labels))
    assert hits.loc[0].mean(axis=1).to_dict() == pytest.approx(pair.masks.set_index("mask")["test"].to_dict())
    mask = "T" * pair.n_blocks
    assert hits.loc[0, mask].tolist() == (pair.net.teacher(data.inputs).argmax(dim=1) == data.labels).tolist()


def test_a_crossed_pair_is_loaded_the_second_time(crossed, monkeypatch):
    first = crossed("extracted", "followed")
    monkeypatch.setattr(verbs, "train_pairs_together", lambda *_, **__: pytest.fail("trained again"))
    monkeypatch.setattr(verbs, "fit", lambda *_, **__: pytest.fail("trained again"))
    again = crossed("extracted", "followed")
    assert changed(snapshot(first.net), snapshot(again.net)) == set()
    pd.testing.assert_frame_equal(first.history, again.history)


def test_students_differ_by_curriculum_and_loading_and_have_the_same_beginning(crossed):
    pairs = {way: crossed(*way) for way in crossing.combinations(crossing.LOADINGS)}
    students = [snapshot(pair.net.student) for pair in pairs.values()]
    assert all(changed(one, other) for number, one in enumerate(students) for other in students[:number])
    teachers = [snapshot(pair.net.teacher) for pair in pairs.values()]
    assert all(changed(teachers[0], other) == set() for other in teachers)
    assert len({pair.history["accuracy"].iloc[0] for pair in pairs.values()}) == 1
    assert {pair.history["step"].iloc[-1] for pair in pairs.values()} == {8}


@pytest.mark.parametrize("curriculum", CURRICULA)
def test_until_pwl_joins_at_half_time_the_student_is_that_of_the_curriculum_alone(crossed, curriculum):
    histories = {loading: crossed(curriculum, loading).history for loading in LOADINGS}
    own = {
        loading: history.filter(regex="loss_(output|hidden)").bfill(axis=1).iloc[:, 0]
        for loading, history in histories.items()
    }
    assert own["alone"][1:6].tolist() == own["followed"][1:6].tolist()  # the loss is seen before its step is taken
    assert own["alone"][6:].tolist() != own["followed"][6:].tolist()
    assert own["alone"][1] == own["combined"][1]
    assert own["alone"][2:].tolist() != own["combined"][2:].tolist()


@pytest.mark.parametrize(
    ("curriculum", "changes"),
    [*((name, {"cross_groups": 1}) for name in CURRICULA), ("extracted", {"masks": "prefix", "cross_passes": 1})],
)
def test_a_student_that_only_distils_owes_nothing_to_the_terms_of_pwl(crossed, curriculum, changes):
    for loading in ("alone", "combined"):
        ours, theirs = crossed(curriculum, loading), crossed(curriculum, loading, **changes)
        assert changed(snapshot(ours.net.converters), snapshot(theirs.net.converters))
        moved = changed(snapshot(ours.net.student), snapshot(theirs.net.student))
        assert bool(moved) == (loading == "combined")


def test_intervals_against_pwl_are_those_of_the_paired_differences_in_points():
    rows = [
        {"curriculum": name, "loading": loading, "seed": seed, "student_accuracy": value, "prefix_area": 0.5,
         "mixed_accuracy": 1 - value}
        for name, loading, values in (("none", "combined", (0.8, 0.7)), ("extracted", "alone", (0.9, 0.6)))
        for seed, value in zip((5, 3), values, strict=True)
    ]  # fmt: skip
    found = crossing.against_pwl_intervals(pd.DataFrame(rows)).set_index("measure")
    low, mean, high = mean_interval([10.0, -10.0])
    assert found.loc["student_accuracy", ["low", "mean", "high"]].tolist() == pytest.approx([low, mean, high])
    assert found.loc["prefix_area", ["low", "mean", "high"]].tolist() == [0, 0, 0]
    assert found.loc["mixed_accuracy", "mean"] == pytest.approx(0)
    assert set(found["curriculum"]) == {"extracted"}
    shown = crossing.against_pwl_table(pd.DataFrame(rows))
    assert shown.columns.tolist() == list(crossing.MEASURES.values())
    assert shown.loc[("extracted", "without PWL"), "student alone"] == f"{mean:+.2f} ({low:+.2f} to {high:+.2f})"


def test_pwl_and_the_curricula_are_compared_seed_by_seed():
    values = {("none", "combined"): 0.5, ("one_shot", "alone"): 0.6, ("one_shot", "combined"): 0.8}
    values |= {("extracted", "combined"): 0.7}
    rows = [
        {"curriculum": name, "loading": loading, "seed": seed} | dict.fromkeys(crossing.MEASURES, value + seed / 100)
        for (name, loading), value in values.items()
        for seed in (2, 1)
    ]
    found = crossing.paired(pd.DataFrame(rows))
    said = ["one-shot: with PWL minus without", "with PWL: extracted minus one-shot"]  # extracted has PWL in all rows
    assert list(found) == [(words, measure) for words in said for measure in crossing.MEASURES]
    for words, difference in zip(said, (0.2, -0.1), strict=True):
        assert found[words, "mixed_accuracy"].tolist() == pytest.approx([difference, difference])
    shown = crossing.paired_table(found)
    assert shown.index.tolist() == said
    assert shown.columns.tolist() == list(crossing.MEASURES.values())
    assert shown.loc[said[0], "student alone"] == "+20.00 (+20.00 to +20.00)"


def test_the_smallest_pair_can_leave_a_loss_out(store_folder):
    settings = CrossingSettings.load("smoke", parity_steps=20)
    whole, without = (
        crossing.parity_pair(settings, 0, "one_shot", "combined", **weights) for weights in ({}, {"sync": 0.0})
    )
    assert "loss_sync" in whole.history
    assert "loss_sync" not in without.history
