"""Results that ship of other seeds: they are those of the store, no weights come with them, and none is left over."""

import json

import pandas as pd
import pytest
import torch
from script_modules import load_script
from toys import EVERY_PAIR, PAIRS, ToyImages, ToyStrings

from pwl_lab.distill.curriculum import extracted, one_shot
from pwl_lab.study import shipped_seeds
from pwl_lab.study.cases import run_cases
from pwl_lab.study.results import origins, outline
from pwl_lab.study.settings import SETTINGS
from pwl_lab.study.store import from_shipped, load_if_stored
from pwl_lab.study.testing import all_test_images
from pwl_lab.study.verbs import distill, train_or_load, train_pair
from pwl_lab.support import paths
from pwl_lab.support.errors import InvalidValueError, MissingDataError
from pwl_lab.swap.pair_training import PairLossConfig
from pwl_lab.tasks.parity import SparseParity
from pwl_lab.training import TrainPlan

ship_seeds = load_script("ship_seeds")
PARITY = SparseParity(n_bits=6, k_sparse=2, eval_samples=200)
TASKS = {"mlp": PARITY, "language": ToyStrings("masked")}  # the others see pictures
KINDS = {
    family: (TASKS.get(family, ToyImages()), teacher, student)
    for family, (teacher, student, _) in (PAIRS | {"language": EVERY_PAIR["language"]}).items()
}
PLAN = TrainPlan(steps=4, batch_size=8, eval_every=2, keep_checkpoints=True)
SHIPPED = sorted(path.stem for path in (paths.data() / shipped_seeds.FOLDER).glob("*.jsonl"))
MOST_BYTES = 300_000  # of a file

pytestmark = pytest.mark.usefixtures("store_folder")


def small_pair(kind, seed=1):
    """Teacher, pair and two students, all of one seed."""
    task, teacher_model, student = KINDS[kind]
    teacher = train_or_load(teacher_model, task, PLAN, seed, "cpu")
    plan = TrainPlan(steps=4, batch_size=8, eval_every=2)
    runs = distill(teacher, student, task, {"one_shot": one_shot(), "extracted": extracted(1)}, [seed], plan, "cpu")
    return teacher, train_pair(teacher, student, task, plan, seed=seed, device="cpu"), runs


@pytest.fixture
def shipped(tmp_path, monkeypatch):
    """Make what `ask` returns, ship it, and forget it; return it."""
    folder = tmp_path / "data"
    (folder / shipped_seeds.FOLDER).mkdir(parents=True)

    def ship(ask):
        made = ask()
        lines = [ship_seeds.line_of(recipe) for recipe in ship_seeds.asked(ask)]
        (folder / shipped_seeds.FOLDER / "one.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        monkeypatch.setattr(paths, "data", lambda: folder)
        monkeypatch.setenv("PWL_LAB_STORE", str(tmp_path / "another"))
        return made

    return ship


@pytest.mark.parametrize("kind", KINDS)
def test_what_ships_is_what_was_stored_without_weights(shipped, kind):
    teacher, pair, runs = shipped(lambda: small_pair(kind))
    assert load_if_stored(small_pair, kind) is None  # only where it may be taken
    with from_shipped():
        teacher_again, again, runs_again = load_if_stored(small_pair, kind)
    pd.testing.assert_frame_equal(teacher_again.history, teacher.history)
    assert (teacher_again.test_accuracy, teacher_again.fingerprint) == (teacher.test_accuracy, teacher.fingerprint)
    for name in ("history", "masks", "classes"):
        pd.testing.assert_frame_equal(getattr(again, name), getattr(pair, name))
    assert torch.equal(again.right, pair.right)
    sizes = ("n_blocks", "seed", "teacher_bytes", "student_bytes", "converter_bytes", "block_bytes", "fingerprint")
    assert [getattr(again, name) for name in sizes] == [getattr(pair, name) for name in sizes]
    pd.testing.assert_frame_equal(outline(again.net, pair.task.input_shape), outline(pair.net, pair.task.input_shape))
    pd.testing.assert_frame_equal(runs_again.history, runs.history)
    assert runs_again.teacher_accuracy == runs.teacher_accuracy
    assert not runs_again.weights


def test_without_weights_nothing_is_computed_and_the_error_says_what_to_do(shipped, tmp_path):
    _, pair, _ = shipped(lambda: small_pair("vgg"))
    with from_shipped():
        _, again, runs = small_pair("vgg")
    inputs = pair.task.split("test").inputs
    for compute in (lambda: again.predictions(inputs, ["S" * pair.n_blocks]), lambda: again.export(tmp_path / "b")):
        with pytest.raises(InvalidValueError, match=r'seed = 1 .*other_seeds = "trained" trains it'):
            compute()
    with pytest.raises(InvalidValueError, match="trained here"):
        runs.student("one_shot", 1)


def other_pair(kind, seed):
    """A pair of other losses, with the same teacher."""
    task, teacher_model, student = KINDS[kind]
    teacher = train_or_load(teacher_model, task, PLAN, seed, "cpu")
    return train_pair(teacher, student, task, PLAN, PairLossConfig(sync=0.5), seed=seed, device="cpu")


def test_a_result_and_what_it_was_made_from_are_both_ones_own_or_both_ship(shipped):
    """The teacher ships, the pair does not: neither is taken, the first time nor later, when the pair is stored."""
    shipped(lambda: small_pair("vgg", 1))
    cases = [{"kind": "vgg", "seed": 1}]
    for _ in range(2):
        [pair] = run_cases(other_pair, cases, "pairs", "cpu", shipped_seeds=(1,))
        assert pair.predictions(pair.task.split("test").inputs, ["T" * pair.n_blocks])[0].shape[0] == 1


def test_ones_own_results_come_before_those_that_ship(shipped):
    shipped(lambda: of_seed("mlp", 1))
    own = of_seed("mlp", 1)
    [found] = run_cases(of_seed, [{"kind": "mlp", "seed": 1}], "pairs", "cpu", shipped_seeds=(1,))
    assert origins([found])["results"].tolist() == ["trained"]
    assert torch.equal(found.right, own.right)


def of_seed(kind, seed):
    return small_pair(kind, seed)[1]


def test_only_the_seeds_that_may_ship_are_taken(shipped):
    made = shipped(lambda: [of_seed("mlp", seed) for seed in (0, 1)])
    cases = [{"kind": "mlp", "seed": seed} for seed in (0, 1, 2)]
    found = run_cases(of_seed, cases, "pairs", "cpu", shipped_seeds=(1, 2))
    assert origins(found)["results"].tolist() == ["trained", "shipped", "trained"]
    assert torch.equal(found[1].right, made[1].right)
    again = run_cases(of_seed, cases, "pairs", "cpu")
    assert set(origins(again)["results"]) == {"trained"}


@pytest.mark.parametrize("shape", [(1, 1), (3, 7), (16, 2000), (2, 0)])
def test_what_is_right_ships_bit_by_bit(shape):
    right = torch.rand(shape) < 0.9
    assert torch.equal(shipped_seeds.unpacked(json.loads(json.dumps(shipped_seeds.packed(right)))), right)


@pytest.mark.parametrize("line", ["{", "{}", "[]", '{"kind": "pair"}'])
def test_a_damaged_file_is_named(tmp_path, monkeypatch, line):
    (tmp_path / shipped_seeds.FOLDER).mkdir()
    (tmp_path / shipped_seeds.FOLDER / "04_vgg.jsonl").write_text(line, encoding="utf-8")
    monkeypatch.setattr(paths, "data", lambda: tmp_path)
    with pytest.raises(MissingDataError, match=r"04_vgg\.jsonl cannot be read"):
        shipped_seeds.find("pair", "0")


def test_every_notebook_that_takes_them_has_them():
    asking = {cls.section for cls in SETTINGS.values() if cls.load("lesson").shipped_seeds}
    assert asking == {"progressive_weight_loading", "loading_under_the_clock", "curricula_meet_loading"} | {
        "language_model_curriculum"
    }
    assert {"04_vgg", "05_resnet", "07"} <= set(SHIPPED)
    assert not any(cls.load(preset).shipped_seeds for cls in SETTINGS.values() for preset in ("smoke", "paper"))


@pytest.mark.parametrize("name", SHIPPED)
def test_what_ships_is_what_the_notebook_asks_for(name):
    path = paths.data() / shipped_seeds.FOLDER / f"{name}.jsonl"
    lines = {(one["kind"], one["key"]) for one in map(json.loads, path.read_text(encoding="utf-8").splitlines())}
    ask = ship_seeds.FILES[name]
    if not all_test_images("fashion-mnist-small") and name.startswith("04"):
        ask, lines = (lambda: ship_seeds.loading(name[3:], ["bundled"])), {one for one in lines if one[0] != "tested"}
    with from_shipped():
        assert {(recipe.kind, recipe.key) for recipe in ship_seeds.asked(ask)} == lines  # and nothing is stored
    assert path.stat().st_size < MOST_BYTES


@pytest.mark.parametrize("name", SHIPPED)
def test_it_says_where_and_when_it_was_made(name):
    path = paths.data() / shipped_seeds.FOLDER / f"{name}.jsonl"
    for line in map(json.loads, path.read_text(encoding="utf-8").splitlines()):
        made = line["made"]
        assert {"commit", "machine", "versions", "date", "minutes"} <= made.keys()
        assert "dirty" not in made["commit"]
