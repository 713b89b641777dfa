"""The tables of pairs on all of Fashion-MNIST: taken from the store as they are, one family after the other."""

import json

import pandas as pd
import pytest
from script_modules import load_script

from pwl_lab.study import intervals, tables
from pwl_lab.study.recipes import loading_pair
from pwl_lab.study.settings import LoadingSettings
from pwl_lab.swap.orders import loading_orders

full_pairs = load_script("full_pairs")
SMALL = {"n_train": 256, "teacher_epochs": 1, "pair_epochs": 1, "device": "cpu"}


def small(family):
    """Settings of pairs that are trained in seconds."""
    return LoadingSettings.load("smoke", family=family, seeds=(0, 1, 2), **SMALL)


@pytest.fixture
def results(store_folder, tmp_path, monkeypatch):
    """The folder for the tables, and a store with two of three seeds."""
    monkeypatch.setattr(full_pairs, "settings_of", small)
    monkeypatch.setattr(full_pairs.paths, "results", lambda: tmp_path)
    return tmp_path


def test_the_grid_has_each_family_on_all_images():
    for family in full_pairs.FAMILIES:
        settings = full_pairs.settings_of(family)
        assert (settings.family, settings.dataset, settings.preset) == (family, "fashion-mnist", "lesson")
        assert settings.seeds == (0, 1, 2, 3, 4)


def test_all_orders_are_there_once():
    orders = full_pairs.every_order(4)
    assert len(orders) == len({tuple(path) for path in orders.values()}) == 24
    assert {"prefix", "suffix", "contiguous", "1-4-3-2"} <= set(orders)


def test_the_seeds_that_are_done_are_shipped_and_other_families_stay(results):
    with pytest.raises(SystemExit, match=r"0 of the seeds of vgg in full_pairs\.yaml are done"):
        full_pairs.ship("vgg")
    pairs = [loading_pair(small("vgg"), seed)[1] for seed in (0, 2)]
    (results / "full_pairs.csv").write_text(
        "family,seed,mask,teacher_blocks,teacher_bytes,validation,test\nvit,0,SS,0,0,.5,.5\n"
    )
    (results / "full_pairs_intervals.csv").write_text("family,kind,name,low,mean,high,seeds\nvgg,mask,SSSS,1,2,3,9\n")
    full_pairs.ship("vgg")
    masks, spread = (pd.read_csv(results / f"{name}.csv") for name in full_pairs.TABLES)
    assert masks["family"].tolist() == ["vgg"] * 32 + ["vit"]
    for pair in pairs:
        mine = masks[(masks["family"] == "vgg") & (masks["seed"] == pair.seed)].set_index("mask")
        assert mine["test"].to_dict() == dict(zip(pair.masks["mask"], pair.masks["test"], strict=True))
    assert set(spread["seeds"]) == {2}, "what was there of this family is replaced"
    assert spread.groupby("kind").size().to_dict() == {"area": 24, "block": 4, "gap": 1, "lead": 24, "mask": 16}
    told = json.loads((results / "full_pairs.json").read_text())
    assert told == json.loads((results / "full_pairs_intervals.json").read_text())
    assert told["command"] == "python scripts/full_pairs.py vgg"
    one = told["families"]["vgg"]
    assert (one["seeds"], one["test_images"], one["pair_epochs"]) == ([0, 2], 2_000, 1)
    assert told["minutes"] == one["minutes"] > 0
    assert {"commit", "machine", "versions", "date"} == set(one["made"])
    before = [(results / f"{name}.csv").read_bytes() for name in full_pairs.TABLES]
    full_pairs.ship("vgg")
    assert [(results / f"{name}.csv").read_bytes() for name in full_pairs.TABLES] == before


def test_longer_trainings_have_a_table_of_their_own(results, monkeypatch):
    cases = [small("vgg").model_copy(update={"pair_epochs": epochs, "seeds": (1,)}) for epochs in (1, 2, 3)]
    monkeypatch.setattr(full_pairs, "settings_in", {"full_pairs_longer": cases}.get)
    with pytest.raises(SystemExit, match=r"no point of full_pairs_longer\.yaml is done"):
        full_pairs.ship_longer()
    pairs = {settings.pair_epochs: loading_pair(settings, 1)[1] for settings in cases[:2]}
    full_pairs.ship_longer()
    shipped = pd.read_csv(results / "full_pairs_longer.csv")
    assert {epochs: len(part) for epochs, part in shipped.groupby("epochs")} == {1: 16, 2: 16}, "the third is not done"
    for epochs, pair in pairs.items():
        mine = shipped[shipped["epochs"] == epochs].set_index("mask")["test"].to_dict()
        assert mine == dict(zip(pair.masks["mask"], pair.masks["test"], strict=True))
    told = json.loads((results / "full_pairs_longer.json").read_text())
    assert [(one["family"], one["seeds"], one["pair_epochs"]) for one in told["points"]] == [
        ("vgg", [1], 1),
        ("vgg", [1], 2),
    ]


def test_the_longer_trainings_are_those_of_the_grid_but_for_their_epochs():
    for settings in full_pairs.settings_in("full_pairs_longer"):
        short = full_pairs.settings_of(settings.family)
        assert settings.pair_epochs == settings.teacher_epochs > short.pair_epochs
        own = {name: getattr(short, name) for name in ("teacher_epochs", "pair_epochs", "products", "seeds")}
        assert settings.model_copy(update=own) == short


def test_the_intervals_are_those_of_the_other_tables():
    masks = pd.concat(
        [
            tables.mask_table({"test": {"SS": 0.25, "ST": 0.5, "TS": 0.5, "TT": 1.0 - seed / 4}}, (1, 3), seed)
            for seed in (0, 1)
        ]
    )
    rows = {"SS": [1, 0, 0, 0], "ST": [1, 1, 0, 0], "TS": [0, 0, 1, 1], "TT": [1, 1, 1, 1]}
    hits = pd.concat(
        {seed: pd.DataFrame(rows | {"TT": [1, 1, 1, 1 - seed]}).T.astype(bool) for seed in (0, 1)},
        names=["seed", "mask"],
    )
    found = intervals.cube_intervals(hits, masks, loading_orders(2)).set_index(["kind", "name"])
    ends = found.loc[("block", "TS"), ["low", "mean", "high"]].tolist()
    assert ends == pytest.approx(
        [100 * end for end in intervals.crossed_interval(intervals.gain(hits, "TS", "SS"))], abs=1e-3
    )
    assert found.loc[("mask", "TT"), "mean"] == 87.5
    assert found.loc[("gap", "TT"), "mean"] == 62.5
    assert found.loc[("area", "prefix"), "mean"] == pytest.approx(25 / 4 + 50 * 3 / 4)
    assert found.loc[("area", "suffix"), "mean"] == pytest.approx(25 * 3 / 4 + 50 / 4)
    assert found.loc[("lead", "suffix"), "mean"] == pytest.approx(12.5)
    assert found.loc[("lead", "alone"), "mean"] == pytest.approx(18.75)
    assert ("lead", "prefix") not in found.index
