"""Students in the store: each is kept on its own, trained once, and the same whoever is trained beside it."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from processes import until
from toys import MLP_STUDENT, MLP_TEACHER, VGG_STUDENT, VGG_TEACHER, ToyImages, as_trained, assert_close, changed

from pwl_lab.distill.curriculum import Curriculum, Stage, TeacherHidden, TeacherOutput, extracted, from_labels, one_shot
from pwl_lab.models import TransformerConfig
from pwl_lab.study import recipes, verbs
from pwl_lab.study import store as store_module
from pwl_lab.study.settings import CurriculaSettings
from pwl_lab.study.store import NotMadeError, load_if_stored, only_stored
from pwl_lab.study.verbs import distill
from pwl_lab.support.errors import InvalidValueError
from pwl_lab.tasks.parity import SparseParity
from pwl_lab.training import TrainPlan

PARITY = SparseParity(n_bits=6, k_sparse=2, eval_samples=200)
PLAN = TrainPlan(steps=12, batch_size=8, eval_every=4, lr=0.1)
TEACHER = as_trained(MLP_TEACHER)
CURRICULA = {"scratch": from_labels(), "one_shot": one_shot(), "extracted": extracted(steps=3)}
PATIENCE_S = 120


def students(names, seeds, curricula=CURRICULA, **other):
    """The runs of some curricula and seeds."""
    given = {"student": MLP_STUDENT, "task": PARITY, "plan": PLAN} | other
    return distill(TEACHER, curricula={name: curricula[name] for name in names}, seeds=seeds, device="cpu", **given)


@pytest.fixture
def trained(store_folder, monkeypatch):
    """(curriculum, seed) of every student trained, cohort by cohort."""
    real, cohorts = verbs.distil_members, []

    def watched(teacher, student, task, members, plan, **other):
        cohorts.append([(member.name, member.seed) for member in members])
        return real(teacher, student, task, members, plan, **other)

    monkeypatch.setattr(verbs, "distil_members", watched)
    return cohorts


def rows_of(runs, name, seed):
    """One student's rows, without what it is called."""
    mine = (runs.history["curriculum"] == name) & (runs.history["seed"] == seed)
    return runs.history[mine].drop(columns="curriculum").reset_index(drop=True)


def test_another_seed_trains_one_student_per_curriculum(trained):
    first = students(["one_shot", "extracted"], [0, 1])
    more = students(["one_shot", "extracted"], [0, 5, 1])
    assert trained[1:] == [[("one_shot", 5), ("extracted", 5)]]
    assert list(more.weights) == [(name, seed) for name in ("one_shot", "extracted") for seed in (0, 5, 1)]
    for who, state in first.weights.items():
        assert changed(state, more.weights[who]) == set()
        pd.testing.assert_frame_equal(rows_of(first, *who), rows_of(more, *who), check_exact=True)


def test_another_curriculum_trains_that_alone_and_fewer_train_none(trained, store_folder):
    students(["one_shot"], [0, 1])
    runs = students(["one_shot", "scratch"], [0, 1])
    assert trained[1:] == [[("scratch", 0), ("scratch", 1)]]
    assert list(runs.final_accuracy()) == ["one_shot", "scratch"]
    assert list(students(["scratch"], [1]).weights) == [("scratch", 1)]
    assert len(trained) == 2
    assert len(list(store_folder.glob("students/*"))) == 4


def test_what_is_missing_need_not_be_every_curriculum_with_every_seed(trained):
    students(["one_shot"], [0])
    students(["extracted"], [1])
    students(["one_shot", "extracted"], [0, 1])
    assert trained[2:] == [[("one_shot", 1), ("extracted", 0)]]


def test_another_order_gives_the_same_tables_in_that_order(trained):
    first, again = students(["one_shot", "extracted"], [0, 1]), students(["extracted", "one_shot"], [1, 0])
    assert len(trained) == 1
    by = ["step", "curriculum", "seed"]
    pd.testing.assert_frame_equal(
        first.history.sort_values(by, ignore_index=True), again.history.sort_values(by, ignore_index=True)
    )
    assert list(again.steps_to(0.5)) == list(again.stages["curriculum"].unique()) == ["extracted", "one_shot"]
    for name, steps in first.steps_to(0.5).items():
        assert again.steps_to(0.5)[name] == steps[::-1]
    pd.testing.assert_frame_equal(first.table(0.5).sort_index(), again.table(0.5).sort_index())


def test_a_history_is_evaluation_by_evaluation_the_students_as_asked_for(trained):
    runs = students(["extracted", "scratch"], [3, 1])
    assert list(runs.history) == [
        "step", "samples", "curriculum", "seed", "stage", "accuracy", "validation_accuracy",
    ]  # fmt: skip
    asked = [(name, seed) for name in ("extracted", "scratch") for seed in (3, 1)]
    found = list(runs.history[["step", "curriculum", "seed"]].itertuples(index=False, name=None))
    assert found == [(step, *who) for step in (0, 4, 8, 12) for who in asked]
    assert runs.stages["target"].tolist() == [
        "block 1, projected", "block 2, projected", "block 3, projected", "final output", "labels",
    ]  # fmt: skip


def test_two_names_of_one_curriculum_share_their_students(trained):
    written_out = [Stage(target=TeacherHidden(block=block), steps=3) for block in (1, 2, 3)]
    same = {
        "extracted": extracted(steps=3),
        "a/0": Curriculum(stages=(*written_out, Stage(target=TeacherOutput(temperature=1.0)))),
    }
    runs = students(["extracted", "a/0"], [0, 2], same)
    assert len(trained) == 1
    assert len(trained[0]) == 2
    for seed in (0, 2):
        assert changed(runs.weights["extracted", seed], runs.weights["a/0", seed]) == set()
        pd.testing.assert_frame_equal(rows_of(runs, "extracted", seed), rows_of(runs, "a/0", seed), check_exact=True)
    assert changed(runs.weights["a/0", 0], runs.weights["a/0", 2])


def test_students_with_rates_of_their_own_are_those_of_plans_with_these_rates(trained, tmp_path, monkeypatch):
    own = {"extracted": 0.03, "one_shot": 0.2}
    beside = students(list(CURRICULA), [0, 1], rates=own)
    assert len(trained) == 1
    plans = {name: PLAN.model_copy(update={"lr": own.get(name, PLAN.lr)}) for name in CURRICULA}
    loaded = {name: students([name], [0, 1], plan=plan) for name, plan in plans.items()}
    assert len(trained) == 1
    monkeypatch.setenv("PWL_LAB_STORE", str(tmp_path / "other"))
    apart = {name: students([name], [0, 1], plan=plan) for name, plan in plans.items()}
    assert len(trained) == 1 + len(CURRICULA)
    for name, seed in beside.weights:
        assert changed(beside.weights[name, seed], loaded[name].weights[name, seed]) == set()
        assert rows_of(beside, name, seed).equals(rows_of(loaded[name], name, seed))
        assert_close(beside.weights[name, seed], apart[name].weights[name, seed])


def test_one_curriculum_at_two_rates_is_two_students(trained):
    runs = students(["a", "b"], [0], {"a": one_shot(), "b": one_shot()}, rates={"b": 0.01})
    assert trained == [[("a", 0), ("b", 0)]]
    assert changed(runs.weights["a", 0], runs.weights["b", 0])


def test_everything_that_makes_another_student_makes_another_entry(trained):
    students(["one_shot"], [0])
    others = [
        {"plan": PLAN.model_copy(update={"lr": 0.2})},
        {"student": MLP_STUDENT.model_copy(update={"widths": (8, 9, 8)})},
        {"task": SparseParity(n_bits=6, k_sparse=2, eval_samples=201)},
    ]
    for other in others:
        students(["one_shot"], [0], **other)
    students(["one_shot"], [0], {"one_shot": one_shot(0.0)})
    assert trained == [[("one_shot", 0)]] * 5


def test_where_nothing_may_be_made_one_that_is_missing_is_enough(trained):
    students(["one_shot"], [0, 1])
    assert load_if_stored(students, ["one_shot", "extracted"], [0, 1]) is None
    assert load_if_stored(students, ["one_shot"], [1, 0, 2]) is None
    with only_stored():
        assert list(students(["one_shot"], [1]).weights) == [("one_shot", 1)]
        with pytest.raises(NotMadeError, match=r"students .* is not in the store"):
            students(["one_shot"], [2])
    assert len(trained) == 1


def test_a_damaged_entry_is_made_again_and_no_other(trained, store_folder):
    before = students(["one_shot", "extracted"], [0, 1])
    entry = sorted(store_folder.glob("students/*"))[2]
    (entry / "history.csv").write_text("step\n")
    assert load_if_stored(students, ["one_shot", "extracted"], [0, 1]) is None
    with pytest.warns(UserWarning, match=f"{entry.name}: history.csv .* set aside"):
        again = students(["one_shot", "extracted"], [0, 1])
    assert [len(cohort) for cohort in trained] == [4, 1]
    for who, state in before.weights.items():
        assert_close(again.weights[who], state)
    assert again.final_accuracy() == before.final_accuracy()


@pytest.mark.filterwarnings("ignore:reckless")
def test_one_that_diverged_is_not_trained_again(trained):
    reckless = Curriculum(stages=(Stage(target=TeacherHidden(block=1, weight=3e38)),))
    curricula = CURRICULA | {"reckless": reckless}
    students(["reckless"], [0], curricula)
    runs = students(["one_shot", "reckless"], [0, 1], curricula)
    assert trained[1:] == [[("one_shot", 0), ("one_shot", 1), ("reckless", 1)]]
    assert set(runs.weights) == {("one_shot", 0), ("one_shot", 1)}
    assert runs.final_accuracy()["reckless"] == [None, None]


def test_a_checkpoint_or_block_that_is_not_there_leaves_nothing_behind(trained, store_folder):
    for bad in (Stage(target=TeacherHidden(block=4)), Stage(target=TeacherOutput(at_step=3))):
        with pytest.raises(InvalidValueError, match=r"block = 4|at_step = 3"):
            students(["one_shot", "bad"], [0], CURRICULA | {"bad": Curriculum(stages=(bad,))})
    assert not list(store_folder.glob("students/*"))
    with pytest.raises(InvalidValueError, match="at least one of each"):
        students([], [0])


def test_more_than_may_be_locked_at_once_are_made_in_parts(trained, monkeypatch):
    monkeypatch.setattr(store_module, "MOST_TOGETHER", 2)
    runs = students(["one_shot", "extracted"], [0, 1, 2])
    assert [len(cohort) for cohort in trained] == [2, 2, 2]
    assert list(runs.weights) == [(name, seed) for name in ("one_shot", "extracted") for seed in (0, 1, 2)]


def test_notebook_00_takes_its_students_from_those_of_02(trained, monkeypatch):
    teacher = as_trained(MLP_TEACHER, checkpoints={10: 0.9})
    monkeypatch.setattr(recipes, "parity_teacher", lambda settings: (PARITY, teacher))
    settings = CurriculaSettings.load("smoke", budget_steps=20, stage_steps=5, student_width=6, seeds=(0, 1, 2))
    every = recipes.curricula_runs(settings)
    some = recipes.curricula_runs(settings, ["one_shot", "extracted"], [2, 0])
    assert [len(cohort) for cohort in trained] == [12]
    for who, state in some.weights.items():
        assert changed(state, every.weights[who]) == set()


requests = st.lists(
    st.tuples(
        st.lists(st.sampled_from(list(CURRICULA)), min_size=1, unique=True),
        st.lists(st.integers(0, 3), min_size=1, max_size=3, unique=True),
    ),
    min_size=1,
    max_size=4,
)


@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(asked=requests)
def test_whatever_is_asked_for_in_whatever_order_each_is_trained_once_and_the_same(trained, asked, tmp_path_factory):
    everything = students(list(CURRICULA), range(4))
    trained.clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PWL_LAB_STORE", str(tmp_path_factory.mktemp("store")))
        for names, seeds in asked:
            runs = students(names, seeds)
            assert list(runs.weights) == [(name, seed) for name in names for seed in seeds]
            for who in runs.weights:
                assert rows_of(runs, *who).equals(rows_of(everything, *who))
    whole = [who for cohort in trained for who in cohort]
    assert sorted(whole) == sorted({(name, seed) for names, seeds in asked for name in names for seed in seeds})


TRANSFORMERS = [TransformerConfig(n_tokens=6, width=width, heads=2, layers=2) for width in (12, 8)]
FAMILIES = {
    "mlp": (as_trained(MLP_TEACHER), MLP_STUDENT, PARITY, {"momentum": 0.9}),
    "transformer": (as_trained(TRANSFORMERS[0]), TRANSFORMERS[1], PARITY, {"optimiser": "adam", "lr": 0.01}),
    "vgg": (as_trained(VGG_TEACHER), VGG_STUDENT, ToyImages(), {"lr": 0.01, "clip_norm": 1.0}),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_student_does_not_depend_on_its_cohort(family, store_folder, monkeypatch):
    teacher, student, task, changes = FAMILIES[family]
    curricula = {"one_shot": one_shot(), "extracted": extracted(steps=6)}
    plan = PLAN.model_copy(update={"steps": 24} | changes)
    found = {}
    for n_seeds in (1, 2, 8):
        monkeypatch.setenv("PWL_LAB_STORE", str(store_folder / str(n_seeds)))
        found[n_seeds] = distill(teacher, student, task, curricula, range(n_seeds), plan, device="cpu")
    inputs = task.split("test").inputs
    for n_seeds in (2, 8):
        for name in curricula:
            ours, theirs = ({"logits": runs.student(name, 0)(inputs)} for runs in (found[1], found[n_seeds]))
            assert_close(ours, theirs, tolerance=1e-3)
            alone, beside = rows_of(found[1], name, 0), rows_of(found[n_seeds], name, 0)
            # where logits are rounded otherwise, one sample may fall on the other side
            assert (alone["accuracy"] - beside["accuracy"]).abs().max() <= 1 / len(inputs)
            assert alone["stage"].equals(beside["stage"])


COMMON = f"""
import pathlib, sys, time
sys.path[:0] = [{str(Path(__file__).parent)!r}, {str(Path(__file__).parents[1] / "helpers")!r}]
import test_students as t
from pwl_lab.study import store, verbs
folder, who = pathlib.Path(sys.argv[1]), sys.argv[2]
real = verbs.distil_members
def watched(teacher, student, task, members, plan, **other):
    with (folder / "trained").open("a") as file:
        file.write("".join(f"{{who}} {{member.name}} {{member.seed}}\\n" for member in members))
    time.sleep(0.5)
    return real(teacher, student, task, members, plan, **other)
verbs.distil_members = watched
"""
TOGETHER = """
(folder / f"ready-{who}").touch()
while not (folder / "go").exists():
    time.sleep(0.01)
names = ["one_shot", "extracted"] if who == "a" else ["extracted", "one_shot", "scratch"]
t.students(names, [0, 1] if who != "c" else [2, 1])
"""
KILLED = """
real_save, saved = store.Store.save, []
def save(*given):
    if len(saved) == 2:
        (folder / "saved-two").touch()
        time.sleep(600)
    saved.append(real_save(*given))
store.Store.save = save
t.students(["one_shot", "extracted"], [0, 1])
"""


def start(code: str, folder: Path, who: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", COMMON + code, str(folder), who], env=os.environ | {"OMP_NUM_THREADS": "1"}
    )


def test_processes_that_ask_for_some_of_the_same_students_train_each_once(trained, tmp_path, processes):
    processes += [start(TOGETHER, tmp_path, who) for who in "abc"]
    for who in "abc":
        until((tmp_path / f"ready-{who}").exists, PATIENCE_S)
    (tmp_path / "go").touch()
    assert [process.wait(PATIENCE_S) for process in processes] == [0, 0, 0]
    made = [line.split(maxsplit=1)[1] for line in (tmp_path / "trained").read_text().splitlines()]
    assert len(made) == len(set(made)) == 2 * 3 + 3
    with only_stored():
        students(list(CURRICULA), [0, 1, 2])


@pytest.mark.skipif(os.name != "posix", reason="kills a process the POSIX way")
def test_what_a_killed_process_had_saved_is_kept_and_the_rest_trained(trained, tmp_path, processes):
    processes.append(start(KILLED, tmp_path, "x"))
    until((tmp_path / "saved-two").exists, PATIENCE_S)
    processes[0].send_signal(signal.SIGKILL)
    assert processes[0].wait(PATIENCE_S) == -signal.SIGKILL
    runs = students(["one_shot", "extracted"], [0, 1])
    assert trained == [[("extracted", 0), ("extracted", 1)]]
    assert all(torch.isfinite(tensor).all() for state in runs.weights.values() for tensor in state.values())
