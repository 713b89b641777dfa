"""A recipe whose code has changed has another version: what it makes of tiny networks is recorded with the version."""

import json

import pytest
import torch
from script_modules import load_script
from sources import ROOT

from pwl_lab import training
from pwl_lab.fast.two_layer_step import TwoLayerStep
from pwl_lab.models.language import LanguageLayer
from pwl_lab.study.verbs import VERSIONS
from pwl_lab.swap.pair_training import FollowCurriculum

GOLDEN = json.loads((ROOT / "tests" / "golden" / "recipes.json").read_text(encoding="utf-8"))
RECORD = "python scripts/golden.py recipes tests/golden/recipes.json"
TOLERANCE = 2e-3  # another machine sums in another order


def changed(found: dict, golden: dict) -> list[str]:
    """The recipes that make something else than was recorded under the same version."""
    kinds = [kind for kind in golden if found[kind].keys() != golden[kind].keys()]
    same = [kind for kind in golden if kind not in kinds and found[kind]["version"] == golden[kind]["version"]]
    return kinds + [kind for kind in same if found[kind] != pytest.approx(golden[kind], rel=TOLERANCE)]


@pytest.mark.usefixtures("store_folder")
def test_what_a_recipe_makes_changes_with_its_version_alone(store_folder):
    found = load_script("golden").recipe_results()
    assert changed(found, GOLDEN) == [], f"raise its number in study/verbs.py: VERSIONS, then run {RECORD}"
    for kind, version in VERSIONS.items():
        assert GOLDEN[kind]["version"] == version, f"{kind} has another version than was recorded: run {RECORD}"
        assert len(GOLDEN[kind]) > 1


def test_a_change_without_another_version_is_found():
    def but(kind: str, **values: float) -> dict:
        return GOLDEN | {kind: GOLDEN[kind] | values}

    for kind, numbers in GOLDEN.items():
        name = next(name for name in numbers if name != "version")
        assert changed(but(kind, **{name: numbers[name] * 1.01}), GOLDEN) == [kind]
        assert changed(but(kind, **{name: numbers[name] * 1.0001}), GOLDEN) == []
        assert changed(but(kind, **{name: numbers[name] * 1.01, "version": 99}), GOLDEN) == []
        assert changed(but(kind, another=1.0), GOLDEN) == [kind]


OPTIMISER, FOLLOW, MOVE = training.make_optimiser, FollowCurriculum.__call__, TwoLayerStep._move


def without(**settings: float):
    """The optimiser as it would be if these settings of a plan had no effect."""
    return lambda plan, groups: OPTIMISER(plan.model_copy(update=settings), groups)


def half_a_step(self, values, momentum, left, right, **how):
    MOVE(self, values, momentum, 0.5 * left, right, **how)


def padding_is_seen(self, real):
    return torch.zeros(len(real), 1, 1, real.shape[1])


@pytest.mark.parametrize(
    ("where", "name", "instead", "results", "kinds"),
    [
        (training, "make_optimiser", without(weight_decay=0.0), "of_more_images", {"teacher", "pair"}),
        (training, "make_optimiser", without(momentum=0.0), "of_more_images", {"teacher", "pair"}),
        (FollowCurriculum, "__call__", lambda self, seen, _: FOLLOW(self, seen, 0), "of_more_images", {"pair"}),
        (TwoLayerStep, "_move", half_a_step, "of_parity", {"teacher"}),
        (training, "learning_rate_factor", lambda plan, step: 1.0, "of_language", {"teacher", "students", "pair"}),
        (LanguageLayer, "hidden", padding_is_seen, "of_language", {"teacher", "pair"}),
    ],
)  # fmt: skip
@pytest.mark.usefixtures("store_folder")
def test_changed_code_makes_something_else(where, name, instead, results, kinds, monkeypatch):
    monkeypatch.setattr(where, name, instead)
    torch.set_num_threads(1)
    script, found = load_script("golden"), {kind: dict(numbers) for kind, numbers in GOLDEN.items()}
    for kind, what, number in getattr(script, results)():
        found[kind][what] = number
    assert set(changed(found, GOLDEN)) == kinds
