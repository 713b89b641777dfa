"""What notebook 07 trains: the curricula are what their names say, and the tables count as the text says."""

import math
from dataclasses import replace
from types import SimpleNamespace

import pandas as pd
import pytest
import torch

from pwl_lab.models import build
from pwl_lab.study import language_recipes as recipes
from pwl_lab.study.settings import LanguageCurriculumSettings
from pwl_lab.study.store import NotMadeError
from pwl_lab.support import paths
from pwl_lab.support.errors import InvalidValueError, MissingDataError, UnknownNameError

TINY = {"teacher_steps": 8, "teacher_eval_every": 4, "checkpoint_accuracy": 0.0, "eval_strings": 16, "device": "cpu",
        "budget_steps": 10, "other_budget_steps": 10, "text_steps": 10, "eval_every": 5, "pair_steps": 5,
        "pwl_steps": 5}  # fmt: skip
SETTINGS = LanguageCurriculumSettings.load("smoke", **TINY)
NAMES = list(recipes.language_curricula(SETTINGS))


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """One store for all tests: they use the same small teacher."""
    with pytest.MonkeyPatch.context() as patched:
        for name in ("PWL_LAB_STORE", "PWL_LAB_OUT", "PWL_LAB_PROGRESS", "PWL_LAB_DEVICE"):
            patched.delenv(name, raising=False)
        patched.setenv("PWL_LAB_RUNS", str(tmp_path_factory.mktemp("language") / "runs"))
        yield


@pytest.fixture(scope="module")
def teacher(store):
    return recipes.language_teacher(SETTINGS)


@pytest.fixture(scope="module")
def runs(teacher):
    return recipes.language_students(SETTINGS, NAMES)


def test_each_curriculum_is_what_its_name_says():
    settings = LanguageCurriculumSettings.load("lesson")
    curricula = recipes.language_curricula(settings)
    targets = {name: [str(stage.target) for stage in one.for_blocks(4).stages[:-1]] for name, one in curricula.items()}
    in_turn = [f"block {block}, projected" for block in (1, 2, 3, 4)]
    assert targets["extracted"] == targets["untrained"] == in_turn
    assert targets["reversed"] == in_turn[::-1]
    assert targets["last_block"] == in_turn[-1:]
    assert targets["at_once"] == ["blocks 1, 2, 3 and 4 at once, projected"]
    assert targets["progressive"] == ["checkpoint at 60%"]
    last = {name: one.stages[-1].target for name, one in curricula.items()}
    assert last.pop("scratch").kind == "labels"
    assert {name: target.temperature for name, target in last.items()} == {
        name: 0.0 if name == "one_shot_hard" else 1.0 for name in NAMES if name != "scratch"
    }
    assert all(target.final for target in last.values())


def test_stages_are_described_with_what_tells_them_apart():
    settings = LanguageCurriculumSettings.load("lesson")
    curricula = recipes.language_curricula(settings)
    words = {name: [*map(recipes.stage_words, one.for_blocks(4).stages)] for name, one in curricula.items()}
    assert words["one_shot_soft"] == ["final output"]
    assert words["one_shot_hard"] == ["final output, most probable token"]
    assert words["last_block"] == ["block 4, projected, 300 steps", "final output"]
    assert words["progressive"][0] == "checkpoint at 60%, 400 steps"


def test_students_of_all_curricula_begin_alike_and_are_listed_in_order(runs):
    assert list(dict.fromkeys(runs.history["curriculum"])) == NAMES
    assert list(dict.fromkeys(runs.stages["curriculum"])).count("untrained") == 1
    first = runs.history[runs.history["step"] == 0]
    assert first.groupby("seed")["accuracy"].nunique().tolist() == [1, 1]
    assert set(runs.weights) == {(name, seed) for name in NAMES for seed in (0, 1)}


def test_the_untrained_states_are_the_first_and_the_output_the_last(teacher, runs):
    task = recipes.grammar_task(SETTINGS)
    inputs = task.split("test").inputs
    other = recipes.with_untrained_states(teacher)
    states, logits = other.model.hidden_states(inputs)
    fresh, _ = build(teacher.config, seed=0).eval().hidden_states(inputs)
    assert all(map(torch.equal, states, fresh))
    assert torch.equal(logits, teacher.model(inputs))
    assert not torch.equal(states[0], teacher.model.hidden_states(inputs)[0][0])
    assert other.fingerprint != teacher.fingerprint
    one, two = (runs.student(name, 0).state_dict() for name in ("extracted", "untrained"))
    assert any(not torch.equal(one[name], two[name]) for name in one)


def test_a_fraction_is_of_the_teachers_accuracy_on_the_same_split(runs, teacher):
    last = teacher.history["accuracy"].iloc[-1]
    assert runs.teacher_accuracy == dict.fromkeys(SETTINGS.seeds, (teacher.test_accuracy, last))
    first, second = SETTINGS.seeds
    shares = recipes.of_teacher(replace(runs, teacher_accuracy={first: (0.5, 0.8), second: (0.25, 0.4)})).history
    for column, (one, two) in {"accuracy": (0.5, 0.25), "validation_accuracy": (0.8, 0.4)}.items():
        whole = runs.history["seed"].map({first: one, second: two})
        pd.testing.assert_series_equal(shares[column], runs.history[column] / whole, check_names=False)


def test_on_the_text_no_student_stops_before_the_others(teacher):
    assert recipes.student_plan(SETTINGS, teacher, 0.01, "text").stop_at is None
    last = teacher.history["accuracy"].iloc[-1]
    assert recipes.student_plan(SETTINGS, teacher, 0.01).stop_at == pytest.approx(recipes.DONE * last)


def test_students_and_pairs_are_those_of_each_alone(runs):
    found, pairs = recipes.students_and_pairs(SETTINGS)
    assert list(found) == ["grammar", *recipes.ELSEWHERE]
    for who, width in {"pair": SETTINGS.pair_width, "student": SETTINGS.student_width}.items():
        assert [pair.net.student.stem.symbols.shape[1] for pair in pairs[who]] == [width] * len(SETTINGS.seeds)
    alone = recipes.language_pair(SETTINGS, SETTINGS.seeds[1])
    assert pairs["pair"][1].prefix_accuracy() == alone.prefix_accuracy() != pairs["pair"][0].prefix_accuracy()
    pd.testing.assert_frame_equal(found["grammar"].history, runs.history)
    for place, names in recipes.ELSEWHERE.items():
        assert list(dict.fromkeys(found[place].history["curriculum"])) == list(names)
    teachers = recipes.language_teachers(SETTINGS)
    assert sorted(teachers) == sorted(found)
    task = recipes.language_task(SETTINGS, "text")
    assert recipes.text_losses(SETTINGS, found) == recipes.final_losses(found["text"], task)


def test_without_training_on_the_text_its_losses_are_those_of_the_shipped_table(runs):
    settings = SETTINGS.model_copy(update={"train_on_text": False})
    found, _ = recipes.students_and_pairs(settings)
    assert sorted(found) == sorted(recipes.language_teachers(settings)) == ["grammar", "other"]
    table = pd.read_csv(paths.results() / recipes.TEXT)
    losses = recipes.text_losses(settings, found)
    assert list(losses) == list(recipes.ELSEWHERE["text"])
    assert [loss for values in losses.values() for loss in values] == table["loss"].tolist()


def test_accuracy_at_steps_holds_the_last_value_and_has_none_for_a_student_that_diverged(runs):
    history = pd.DataFrame(
        [("a", 0, 0, 0.3), ("a", 0, 5, 0.6), ("a", 1, 0, 0.3), ("a", 1, 5, 0.4), ("a", 1, 10, math.nan)],
        columns=["curriculum", "seed", "step", "accuracy"],
    )
    found = recipes.accuracy_at(SimpleNamespace(history=history), [5, 10, 20])
    assert found == {"a": {"5": [0.6, 0.4], "10": [0.6, None]}}


def test_the_final_loss_is_that_of_the_student_on_the_test_split(runs):
    task = recipes.grammar_task(SETTINGS)
    losses = recipes.final_losses(runs, task)
    assert list(losses) == NAMES
    test = task.split("test")
    logits = runs.student("extracted", 1)(test.inputs)
    wanted = torch.nn.functional.cross_entropy(logits.flatten(0, 1), test.labels.flatten(), ignore_index=-100)
    assert losses["extracted"][1] == pytest.approx(wanted.item(), rel=1e-5)


def test_the_table_of_losses_compares_seed_by_seed():
    table = recipes.loss_table({"one_shot_soft": [1.0, 2.0], "extracted": [0.9, 1.9]})
    assert table.loc["extracted", "nats"] == "1.400"
    assert table.loc["extracted", "perplexity"] == f"{math.exp(1.4):.2f}"
    assert table.loc["extracted", "against one_shot_soft"] == "-0.100 (-0.100 to -0.100)"
    assert table.loc["one_shot_soft", "against one_shot_soft"] == "–"


def test_the_table_of_steps_counts_a_student_that_did_not_get_there_at_its_budget():
    table = recipes.steps_table({"one_shot_soft": [1000, 1200], "extracted": [None, 1200]}, budget=1500)
    assert table.loc["extracted", ["reached", "mean steps"]].tolist() == ["1 of 2", "1,350"]
    assert table.loc["extracted", "against one_shot_soft"].startswith("+250 (-2,927 to +3,427")
    assert table.loc["one_shot_soft"].tolist() == ["2 of 2", "1,100", "–"]


def tuning(**grammar):
    rows = [("hidden", "extracted", 0.004, seed, steps, 1000) for seed, steps in enumerate((400, 500, None))] + [
        ("hidden", "extracted", 0.008, seed, steps, 1000) for seed, steps in enumerate((None, 400, None))
    ]
    rows += [("hidden", "scratch", lr, 0, 900, 1000) for lr in (0.016, 0.002)]
    return pd.DataFrame(rows, columns=["grammar", "curriculum", "student_lr", "seed", "steps_95", "budget"])


def test_the_best_rate_has_the_lowest_median_and_a_student_that_did_not_get_there_counts_at_its_budget():
    assert recipes.best_rates(tuning()) == {"extracted": 0.004, "scratch": 0.002}


def test_tuned_rates_come_from_the_table_that_is_shipped(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "results", lambda: tmp_path)
    values = TINY | {"tuned": True, "student_lr": 0.03}
    with pytest.raises(InvalidValueError, match=r"tuned = True .*has rates for none"):
        LanguageCurriculumSettings.load("smoke", **values)
    tuning().to_csv(tmp_path / recipes.TUNING, index=False)
    rates = recipes.learning_rates(LanguageCurriculumSettings.load("smoke", **values))
    assert (rates["extracted"], rates["scratch"], rates["progressive"]) == (0.004, 0.002, 0.03)
    assert set(recipes.learning_rates(SETTINGS).values()) == {SETTINGS.student_lr}
    with pytest.raises(InvalidValueError, match=r"tuned = True .*has rates for hidden"):
        LanguageCurriculumSettings.load("smoke", **values | {"grammar": "cfg3b_tail"})


def test_the_pairs_student_is_counted_against_the_validation_accuracy():
    history = pd.DataFrame({"step": [0, 5, 10], "accuracy": [0.3, 0.5, 0.7]})
    accuracies = {("TT", "validation"): 0.72}
    pair = SimpleNamespace(history=history, n_blocks=2, accuracy=lambda mask, split: accuracies[mask, split])
    assert recipes.fraction_reached(pair, 0.95) == 10
    assert recipes.fraction_reached(pair, 0.99) is None


def test_the_pair_ends_at_the_teacher(store, teacher):
    pair = recipes.language_pair(SETTINGS, 0)
    inputs = recipes.grammar_task(SETTINGS).split("test").inputs
    with torch.no_grad():
        assert torch.equal(pair.net(inputs, "TT"), teacher.model(inputs))
    assert pair.prefix_accuracy()[-1] == teacher.test_accuracy


@pytest.mark.parametrize(
    ("values", "error", "says"),
    [
        ({"grammar": "hiden"}, UnknownNameError, "Did you mean 'hidden'"),
        ({"other_grammar": "nowhere.yaml"}, MissingDataError, "nowhere.yaml is missing"),
        ({"mask_rate": 1.0}, InvalidValueError, "mask_rate = 1.0"),
        ({"mask_rate": 0.0}, InvalidValueError, "mask_rate = 0.0"),
        ({"teacher_heads": 3}, InvalidValueError, "teacher_heads = 3 .*divisor of teacher_width = 64"),
        ({"pair_heads": 3}, InvalidValueError, "pair_heads = 3 .*divisor of pair_width = 8"),
        (
            {"block_steps": 250},
            InvalidValueError,
            "block_steps = 250 .*below other_budget_steps = 650 for each of 4 blocks",
        ),
        ({"last_block_steps": 800}, InvalidValueError, "last_block_steps = 800 .*below other_budget_steps = 650"),
        ({"checkpoint_steps": 1_400}, InvalidValueError, "checkpoint_steps = 1400 .*below budget_steps = 1400"),
    ],
)
def test_a_bad_value_is_named_before_anything_is_trained(values, error, says):
    with pytest.raises(error, match=says):
        LanguageCurriculumSettings.load("lesson", **values)


def test_a_grammar_of_ones_own_is_found_from_where_the_reader_is(tmp_path, monkeypatch):
    (tmp_path / "mine.yaml").write_text((paths.data() / "grammars" / "hidden.yaml").read_text())
    monkeypatch.chdir(tmp_path)
    settings = LanguageCurriculumSettings.load("smoke", grammar="mine.yaml")
    assert settings.grammar == str(tmp_path / "mine.yaml")
    assert recipes.grammar_task(settings).name == "hidden"


@pytest.mark.parametrize("missing", [None, "other", "untrained"])
def test_seeds_that_ship_are_apart_if_they_ship_in_every_case(monkeypatch, missing):
    settings = SETTINGS.model_copy(update={"other_seeds": "shipped", "train_on_text": False})

    def language_students(settings, names, place, seeds):
        if seeds == settings.seeds or missing in (place, *names[:1]):
            raise NotMadeError("neither stored nor shipped")
        return names

    monkeypatch.setattr(recipes, "language_students", language_students)
    first, *others = settings.seeds
    cohorts = [settings.seeds] if missing else [(first,), tuple(others)]
    found = [(case["place"], case["seeds"]) for case in recipes.student_cases(settings)]
    assert found == [(place, seeds) for seeds in cohorts for place in ("grammar", "other", "grammar")]


def test_what_is_stored_of_all_seeds_is_not_taken_from_what_ships(monkeypatch):
    settings = SETTINGS.model_copy(update={"other_seeds": "shipped"})
    monkeypatch.setattr(recipes, "language_students", lambda settings, names, place, seeds: names)
    assert {case["seeds"] for case in recipes.student_cases(settings)} == {settings.seeds}
