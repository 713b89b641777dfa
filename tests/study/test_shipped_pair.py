"""The pair that ships: small, as its tables say, and what a reader without any trained pair is shown."""

import json
import shutil

import pytest
import torch
from script_modules import load_script

from pwl_lab.loading.model import ProgressiveModel
from pwl_lab.loading.sources import INDEX
from pwl_lab.study import shipped_pair, stored_pairs, tables, testing
from pwl_lab.study.recipes import image_plan_of_pair, image_task, pair_losses
from pwl_lab.study.settings import ClockSettings, DashboardSettings
from pwl_lab.study.store import only_stored
from pwl_lab.support.errors import InvalidValueError, MissingDataError, PwlLabError
from pwl_lab.support.files import file_sha256
from pwl_lab.swap.evaluation import score_masks
from pwl_lab.swap.orders import loading_orders
from pwl_lab.tasks.base import Batch, split_of

MOST_BYTES = 1_000_000
FEW = 500  # test images, the first ones


@pytest.fixture(scope="module")
def pair():
    """The shipped pair, on the CPU."""
    return shipped_pair.shipped_pair("cpu")


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """A copy of its files that a test may damage."""
    shutil.copytree(shipped_pair.shipped_bundle(), tmp_path / "vgg_pair")
    shutil.copy(shipped_pair.shipped_bundle().with_suffix(".json"), tmp_path)
    monkeypatch.setattr(shipped_pair.paths, "data", lambda: tmp_path)
    return tmp_path


def test_it_is_small_with_int8_copies_of_every_shard():
    bundle = shipped_pair.shipped_bundle()
    files = [*bundle.iterdir(), bundle.with_suffix(".json")]
    assert sum(path.stat().st_size for path in files) < MOST_BYTES
    assert len([path for path in files if path.name.endswith("-8bit.safetensors")]) == 5


def test_its_tables_are_those_of_its_weights(pair):
    test = split_of(pair.task, "test", "cpu")
    scores = score_masks(pair.net, Batch(test.inputs[:FEW], test.labels[:FEW]))
    assert list(scores.masks) == pair.masks["mask"].tolist()
    # On a processor of another kind a picture may fall to the other side of a near tie.
    assert (scores.right != pair.right[:, :FEW]).float().mean() <= 0.001
    assert torch.allclose(pair.right.double().mean(dim=1), torch.tensor(pair.masks["test"], dtype=torch.float64))
    by_class = pair.classes.groupby("mask", sort=False)["test"].mean()
    assert (by_class - pair.masks.set_index("mask")["test"]).abs().max() < 0.01


def test_it_shows_what_the_series_says(pair):
    prefix = pair.prefix_accuracy()
    assert prefix == sorted(prefix)
    assert prefix[-1] - prefix[0] > 0.045
    assert pair.history["step"].is_monotonic_increasing
    best = tables.orders_with_best(pair.masks)
    assert best["best"] == best["prefix"] == loading_orders(4)["prefix"]


def test_its_recipe_is_that_of_notebook_04(pair):
    told = json.loads(shipped_pair.shipped_bundle().with_suffix(".json").read_text(encoding="utf-8"))
    settings = shipped_pair.shipped_settings("cpu")
    task = image_task(settings)
    assert told["plan"] == json.loads(image_plan_of_pair(settings, task).model_dump_json())
    assert told["losses"] == json.loads(pair_losses(settings).model_dump_json())
    assert told["task"] == json.loads(json.dumps(task.fingerprint()))
    assert told["core_minutes"] > 0
    assert {"commit", "machine", "versions", "date"} <= set(told["made"])


def test_its_bundle_loads_and_ends_as_the_pair_does(pair):
    inputs = split_of(pair.task, "test", "cpu").inputs[:32]
    with ProgressiveModel.open(shipped_pair.shipped_bundle(), device="cpu") as model:
        model.wait("TTTT")
        logits = model.predict(inputs).logits
        assert model.index.accuracies["test"] == dict(zip(pair.masks["mask"], pair.masks["test"], strict=True))
    with torch.no_grad():
        assert torch.equal(logits, pair.net(inputs, "TTTT"))


def test_the_script_writes_the_very_same_files(pair, elsewhere, monkeypatch, capsys):
    before = {path.name: path.read_bytes() for path in elsewhere.rglob("*") if path.is_file()}
    told = json.loads(before["vgg_pair.json"])
    trained = type("Teacher", (), {"test_accuracy": told["teacher_test_accuracy"]})
    monkeypatch.setattr("sys.argv", ["make_vgg_pair.py", "--core-minutes", str(told["core_minutes"])])
    script = load_script("make_vgg_pair")
    monkeypatch.setattr(script, "loading_pair", lambda settings, seed: (trained, pair))
    script.main()
    assert json.loads(capsys.readouterr().out)["command"] == "python scripts/make_vgg_pair.py"
    after = {path.name: path.read_bytes() for path in elsewhere.rglob("*") if path.is_file()}
    assert set(after) == set(before)
    assert all(after[name] == before[name] for name in before if name.endswith(".safetensors"))
    new = json.loads(after["vgg_pair.json"])
    dated = {"made", "sha256"}  # of the index, which has a date too
    assert {name: value for name, value in new.items() if name not in dated} == {
        name: value for name, value in told.items() if name not in dated
    }
    assert torch.equal(shipped_pair.shipped_pair("cpu").right, pair.right)


@pytest.mark.parametrize("name", ["vgg_pair.json", "vgg_pair/index.json", "vgg_pair/block-2.safetensors"])
def test_a_file_that_is_missing_or_changed_is_named(elsewhere, name):
    whole = (elsewhere / name).read_bytes()
    (elsewhere / name).write_bytes(whole.replace(b'"made"', b'"Made"') if b'"made"' in whole else whole[:-1] + b"\x00")
    if not name.startswith("vgg_pair.json"):
        with pytest.raises(PwlLabError, match="vgg_pair"):
            shipped_pair.shipped_pair("cpu")
    (elsewhere / name).unlink()
    with pytest.raises(PwlLabError, match="vgg_pair"):
        shipped_pair.shipped_pair("cpu")


@pytest.mark.parametrize("cut", [None, "sha256", "right", "test_images", *shipped_pair.TABLES])
def test_a_description_that_cannot_be_read_is_named(elsewhere, cut):
    about = json.loads((elsewhere / "vgg_pair.json").read_text())
    kept = {name: value for name, value in about.items() if name not in (cut, "tables")}
    kept["tables"] = {name: value for name, value in about["tables"].items() if name != cut}
    (elsewhere / "vgg_pair.json").write_text("{" if cut is None else json.dumps(kept))
    with pytest.raises(MissingDataError, match=r"vgg_pair\.json cannot be read; take it and vgg_pair/ from one commit"):
        shipped_pair.shipped_pair("cpu")


@pytest.mark.parametrize("other", [{"seeds": (0, 1)}, {"family": "vit", "seeds": (0,)}])
def test_notebook_06_can_take_it_but_no_other_that_ships(other):
    with pytest.raises(InvalidValueError, match=r"pair_source = 'shipped' is not allowed.*'vgg'"):
        ClockSettings.load("lesson", pair_source="shipped", **other)
    [found] = shipped_pair.clock_pairs(ClockSettings.load("lesson", pair_source="shipped", seeds=(0,)))
    assert found.fingerprint == shipped_pair.shipped_pair("cpu").fingerprint


def test_without_a_stored_pair_it_is_what_the_dashboard_shows(store_folder):
    settings = DashboardSettings.load("smoke", device="cpu", families=("vit",))
    found = stored_pairs.stored_pairs(settings, at_most=1)
    [label] = found.pairs
    assert label == stored_pairs.SHIPPED
    assert set(found.samples[label]) == {"picked because they change", "drawn at random"}
    said = stored_pairs.headline(settings, found)
    assert said.startswith("No pair of preset smoke is stored yet.")
    assert "vgg at preset lesson, seed 0" in said
    assert not store_folder.exists()


def test_what_is_measured_on_it_is_kept_under_its_own_weights_and_needs_no_store(pair, store_folder):
    # A reader's pair of the same recipe may have other weights, so the store's key would mix the two.
    assert pair.fingerprint == file_sha256(shipped_pair.shipped_bundle() / INDEX)
    with only_stored():
        found = testing.similarity(pair)
    assert not store_folder.exists()
    assert found.equals(testing.similarity(pair))
    assert len(list(store_folder.glob("similarity/*/record.json"))) == 1
