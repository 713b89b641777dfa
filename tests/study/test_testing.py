"""Pairs that are tested on all official test images: where these are, what changes of a pair, and that it is kept."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from toys import changed, snapshot

from pwl_lab.study import recipes, tables, testing
from pwl_lab.study.settings import LoadingSettings
from pwl_lab.support import download
from pwl_lab.support.errors import InvalidValueError
from pwl_lab.tasks import datasets

SMALL, WHOLE = "fashion-mnist-small", "fashion-mnist"
MORE = 300  # test images that the bundled 2,000 do not have


class InMemory:
    def __init__(self, splits):
        self.splits = splits

    def read(self, folder):
        return self.splits


@pytest.fixture
def whole(monkeypatch):
    """Instead of full Fashion-MNIST, a dataset with the bundled test images and the first validation images after them."""
    small = datasets.load(SMALL)
    test, more = small["test"], small["validation"][:MORE]
    longer = datasets.RawSplit(
        *(np.concatenate([getattr(one, part) for one in (test, more)]) for part in ("images", "labels"))
    )
    splits = {"train": small["train"], "validation": small["validation"], "test": longer}
    sizes = {name: len(one.labels) for name, one in splits.items()}
    entry = replace(datasets.dataset(SMALL), sizes=sizes, read=InMemory(splits).read)
    monkeypatch.setitem(datasets.DATASETS, WHOLE, entry)
    return splits


@pytest.fixture
def settings(store_folder, monkeypatch):
    monkeypatch.setenv("PWL_LAB_WORKERS", "1")
    return LoadingSettings.load("smoke", n_train=256, test_images="auto")


def nothing_here(monkeypatch):
    monkeypatch.setattr(download, "where_present", lambda name, files: None)


def test_a_pair_is_tested_on_all_images_and_nothing_else_of_it_changes(settings, whole, monkeypatch):
    monkeypatch.setattr(download, "where_present", lambda name, files: "somewhere")
    _, [bundled] = recipes.loading_pairs(settings)
    _, [pair] = recipes.tested_pairs(settings)
    assert pair.hits().shape == (16, 2_000 + MORE)
    assert bundled.hits().shape == (16, 2_000)
    pd.testing.assert_frame_equal(pair.hits().iloc[:, :2_000], bundled.hits())  # the bundled images come first
    for mask in ("SSSS", "TSTS", "TTTT"):
        data = recipes.image_task(settings).normalise(torch.from_numpy(whole["test"].images))
        said = pair.net(data, mask).argmax(dim=1).numpy() == whole["test"].labels
        assert pair.accuracy(mask) == pytest.approx(said.mean())
        assert pair.hits().loc[mask].tolist() == said.tolist()
        by_class = [said[whole["test"].labels == index].mean() for index in range(10)]
        assert pair.classes.loc[pair.classes["mask"] == mask, "test"].tolist() == pytest.approx(by_class)
    for column in ("mask", "seed", "teacher_bytes", "validation", "validation_loss"):
        assert pair.masks[column].tolist() == bundled.masks[column].tolist()
    assert pair.masks["test_loss"].tolist() != bundled.masks["test_loss"].tolist()
    assert changed(snapshot(pair.net), snapshot(bundled.net)) == set()


def test_it_is_tested_once_and_kept_apart_from_the_bundled_result(settings, whole, monkeypatch):
    monkeypatch.setattr(download, "where_present", lambda name, files: "somewhere")
    first = recipes.tested_pairs(settings)[1][0]
    monkeypatch.setattr(testing, "score_masks", lambda *_: pytest.fail("tested again"))
    assert recipes.tested_pairs(settings)[1][0].hits().equals(first.hits())
    bundled = recipes.tested_pairs(settings.model_copy(update={"test_images": "bundled"}))[1][0]
    assert bundled.hits().shape[1] == 2_000
    assert tables.stacked_hits([bundled]).mean(axis=1).loc[bundled.seed].to_dict() == pytest.approx(
        bundled.masks.set_index("mask")["test"].to_dict()
    )


def test_auto_tests_on_the_bundled_images_where_there_are_no_others(settings, monkeypatch):
    nothing_here(monkeypatch)
    assert recipes.tested_pairs(settings)[1][0].hits().shape[1] == 2_000


def test_images_that_are_asked_for_and_missing_are_named_before_anything_runs(monkeypatch):
    nothing_here(monkeypatch)
    with pytest.raises(InvalidValueError, match="pwl-lab data fetch fashion-mnist"):
        LoadingSettings.load("lesson", test_images="all")
    assert LoadingSettings.load("lesson").test_images == "auto"
    assert testing.all_test_images("digits", required=True) is None  # is no part of another dataset


def test_a_dataset_is_present_where_all_its_files_are(tmp_path, monkeypatch):
    monkeypatch.setenv("PWL_LAB_DATA", str(tmp_path))
    files = replace(datasets.dataset(WHOLE).files, system_folders=())
    folder = tmp_path / WHOLE
    folder.mkdir()
    for file in files.members:
        assert download.where_present(WHOLE, files) is None
        (folder / f"{file.name}.gz").touch()
    assert download.where_present(WHOLE, files) == folder
