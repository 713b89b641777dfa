"""The tables of pairs on all of Fashion-MNIST: taken from the store as they are, one family after the other."""

import json
from itertools import product

import pandas as pd
import pytest
from script_modules import load_script

from pwl_lab.study import intervals, tables
from pwl_lab.study.recipes import loading_pair
from pwl_lab.study.settings import LoadingSettings
from pwl_lab.swap.orders import loading_orders

full_pairs = load_script("full_pairs")
SMALL = {"n_train": 256, "teacher_epochs": 1, "device": "cpu"}


def small(family, epochs=1, seeds=(0, 1, 2)):
    """Settings of pairs that are trained in seconds."""
    return LoadingSettings.load("smoke", family=family, seeds=seeds, pair_epochs=epochs, **SMALL)


@pytest.fixture
def results(store_folder, tmp_path, monkeypatch):
    """The folder for the tables, an empty store, and two grids of small pairs."""
    grids = {"full_pairs": [small("vgg"), small("vit")], "full_pairs_longer": [small("vgg", 2, (0,))]}
    monkeypatch.setattr(full_pairs, "settings_in", grids.get)
    monkeypatch.setattr(full_pairs.paths, "results", lambda: tmp_path)
    return tmp_path


def test_the_grids_have_the_same_pairs_with_more_and_more_epochs():
    first, longer = map(full_pairs.settings_in, full_pairs.GRIDS)
    assert {(one.family, one.pair_epochs) for one in first} == set(product(full_pairs.FAMILIES, (8, 16)))
    assert {one.seeds for one in first} == {(0, 1, 2, 3, 4)}
    assert {one.preset for one in first} == {"lesson"}
    assert {one.dataset for one in first} == {"fashion-mnist"}
    short = {one.family: one for one in first if one.pair_epochs == 8}
    for settings in first + longer:
        assert settings.pair_epochs == settings.teacher_epochs
        assert (settings in longer) == (settings.pair_epochs > 16)
        same = short[settings.family]
        own = {name: getattr(same, name) for name in ("teacher_epochs", "pair_epochs", "products", "seeds")}
        assert settings.model_copy(update=own) == same


def test_all_orders_are_there_once():
    orders = full_pairs.every_order(4)
    assert len(orders) == len({tuple(path) for path in orders.values()}) == 24
    assert {"prefix", "suffix", "contiguous", "1-4-3-2"} <= set(orders)


def test_what_is_done_is_shipped_and_other_rows_stay(results):
    with pytest.raises(SystemExit, match=r"nothing to ship of full_pairs\.yaml and full_pairs_longer\.yaml"):
        full_pairs.ship()
    head = "family,epochs,seed,mask,teacher_blocks,teacher_bytes,validation,test\n"
    (results / "full_pairs.csv").write_text(f"{head}vgg,1,2,SS,0,0,.5,.5\nvit,8,0,SS,0,0,.5,.5\n")
    head = "family,epochs,kind,name,low,mean,high,seeds\n"
    (results / "full_pairs_intervals.csv").write_text(f"{head}vgg,1,mask,SSSS,1,2,3,9\nvit,8,mask,SS,1,2,3,5\n")
    old = {"family": "vit", "epochs": 8, "minutes": 100.0}
    (results / "full_pairs.json").write_text(json.dumps({"points": [old, {"family": "vgg", "epochs": 1}]}))
    pairs = {(1, 0): loading_pair(small("vgg"), 0)[1], (1, 2): loading_pair(small("vgg"), 2)[1]}
    pairs[2, 0] = loading_pair(small("vgg", 2), 0)[1]
    full_pairs.ship()
    masks, spread = (pd.read_csv(results / f"{name}.csv") for name in full_pairs.TABLES)
    assert masks[["family", "epochs"]].to_records(index=False).tolist() == [("vgg", 1)] * 32 + [("vgg", 2)] * 16 + [
        ("vit", 8)
    ]
    by_case = dict(iter(masks.groupby(["family", "epochs", "seed"])))
    for case, pair in pairs.items():
        mine = by_case["vgg", *case].set_index("mask")
        assert mine["test"].to_dict() == dict(zip(pair.masks["mask"], pair.masks["test"], strict=True))
    new = spread[spread["family"] == "vgg"]
    assert set(new["epochs"]) == {1}, "two epochs have one seed, and no interval"
    assert set(new["seeds"]) == {2}, "what was there of one epoch is replaced"
    assert new.groupby("kind").size().to_dict() == {"area": 24, "block": 4, "gap": 1, "lead": 24, "mask": 16}
    assert spread[spread["family"] == "vit"].to_numpy().tolist() == [["vit", 8, "mask", "SS", 1, 2, 3, 5]]
    told = json.loads((results / "full_pairs.json").read_text())
    assert told == json.loads((results / "full_pairs_intervals.json").read_text())
    one, two, three = told["points"]
    assert (one["epochs"], one["seeds"], one["test_images"]) == (1, [0, 2], 2_000)
    assert (two["epochs"], two["seeds"]) == (2, [0])
    assert three == old
    assert told["minutes"] == round(sum(point["minutes"] for point in told["points"]), 1) > 100
    assert [run["seed"] for run in one["runs"]] == [0, 2]
    assert {"seed", "minutes", "commit", "machine", "date"} == set(one["runs"][0])
    before = [(results / f"{name}.csv").read_bytes() for name in full_pairs.TABLES]
    full_pairs.ship()
    assert [(results / f"{name}.csv").read_bytes() for name in full_pairs.TABLES] == before


def test_a_case_that_ships_with_more_seeds_than_the_store_has_stays(results, capsys):
    loading_pair(small("vgg"), 0)
    head = "family,epochs,seed,mask,teacher_blocks,teacher_bytes,validation,test\n"
    rows = f"{head}vgg,1,0,SS,0,0,0.5,0.5\nvgg,1,1,SS,0,0,0.5,0.5\n"
    (results / "full_pairs.csv").write_text(rows)
    with pytest.raises(SystemExit, match="nothing to ship"):
        full_pairs.ship()
    assert "vgg, 1 epochs: not in the store for seeds [1]; left as it is" in capsys.readouterr().out
    assert (results / "full_pairs.csv").read_text() == rows


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
