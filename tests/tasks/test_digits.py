"""The digits of scikit-learn: the same images for everyone, and no others."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from pwl_lab.support.errors import InvalidValueError, MissingDataError
from pwl_lab.tasks import datasets
from pwl_lab.tasks import datasets as digits
from pwl_lab.tasks.augment import Augmentation
from pwl_lab.tasks.images import ImageTask


def test_splits_share_no_image_and_are_balanced():
    splits = datasets.load("digits")
    assert {name: len(raw.images) for name, raw in splits.items()} == digits.DIGITS.sizes
    images = [image.tobytes() for raw in splits.values() for image in raw.images]
    assert len(set(images)) == 1_797
    assert np.bincount(splits["test"].labels).tolist() == [50] * 10
    for raw in splits.values():
        counts = np.bincount(raw.labels[:100], minlength=10)
        assert counts.tolist() == [10] * 10


def test_normalisation_is_that_of_the_training_split():
    entry, pixels = datasets.dataset("digits"), datasets.load("digits")["train"].images / 255
    assert entry.mean[0] == pytest.approx(pixels.mean(), abs=1e-4)
    assert entry.std[0] == pytest.approx(pixels.std(), abs=1e-4)


def test_pixels_fill_the_range_of_bytes_in_equal_steps():
    scaled = digits.as_bytes(np.arange(17.0))
    assert (scaled[0], scaled[8], scaled[16]) == (0, 128, 255)
    assert set(np.diff(scaled.astype(int))) == {15, 16}
    assert scaled.dtype == np.uint8


def test_it_is_an_image_task_like_the_others(tmp_path):
    task = ImageTask("digits", n_train=200, augment=Augmentation(crop_padding=1, flip=False))
    batch = next(task.batches(0, 50))
    assert batch.inputs.shape == (50, 1, 8, 8)
    assert task.sample(4)[0].shape == (4, 8, 8)
    assert torch.bincount(task.split("train").labels).tolist() == [20] * 10
    assert digits.DIGITS_FILE.sha256 in json.dumps(task.fingerprint())
    with pytest.raises(InvalidValueError, match=r"digits comes with the package scikit-learn: leave out folder = "):
        ImageTask("digits", folder=tmp_path).split("test")


def test_other_digits_are_refused(monkeypatch):
    import sklearn.datasets

    changed = sklearn.datasets.load_digits()
    changed.images[0, 0, 0] += 1
    monkeypatch.setattr(sklearn.datasets, "load_digits", lambda: changed)
    with pytest.raises(MissingDataError, match=r"digits in scikit-learn .* expected .*SHA-256 a19cb3d9.*, found"):
        datasets.fetch("digits")


def test_other_datasets_do_not_import_scikit_learn():
    code = "import sys, pwl_lab.tasks.images as v; v.ImageTask().sample(1); print('sklearn' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
