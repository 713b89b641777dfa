"""A recipe whose code has changed has another version: what it makes of tiny networks is recorded with the version."""

import json

import pytest
from script_modules import load_script
from sources import ROOT

from pwl_lab.study.verbs import VERSIONS

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
