"""ImageTask: the splits, the batches, and what it refuses."""

import hashlib
import itertools
import json
import pickle
import subprocess
import sys
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pwl_lab.support import paths
from pwl_lab.support.errors import InvalidValueError, MissingDataError, UnknownNameError
from pwl_lab.tasks import datasets
from pwl_lab.tasks.augment import Augmentation
from pwl_lab.tasks.base import Task
from pwl_lab.tasks.images import ImageTask

DEBIAN = Path("/usr/share/datasets/fashion-mnist")
needs_full_set = pytest.mark.skipif(not DEBIAN.is_dir(), reason="needs the full Fashion-MNIST in " + str(DEBIAN))


def hashes(images: np.ndarray) -> set[str]:
    return {hashlib.sha256(image.tobytes()).hexdigest() for image in images}


def take(task: ImageTask, n: int, seed: int = 0, batch_size: int = 100):
    return list(itertools.islice(task.batches(seed, batch_size), n))


def test_it_is_a_task():
    task = ImageTask()
    assert isinstance(task, Task)
    assert (task.input_shape, task.n_classes, task.class_names[9]) == ((1, 28, 28), 10, "Ankle boot")


@pytest.mark.parametrize(("split", "size"), [("train", 10_000), ("validation", 2_000), ("test", 2_000)])
def test_splits_have_their_size_and_equal_classes(split, size):
    batch = ImageTask().split(split)
    assert batch.inputs.shape == (size, 1, 28, 28)
    assert batch.inputs.dtype == torch.float32
    assert batch.labels.dtype == torch.int64
    assert torch.bincount(batch.labels, minlength=10).tolist() == [size // 10] * 10


def test_splits_share_no_image():
    splits = datasets.load("fashion-mnist-small")
    parts = {name: hashes(raw.images) for name, raw in splits.items()}
    assert [len(parts[name]) for name in datasets.SPLITS] == [10_000, 2_000, 2_000]  # nor repeat one
    assert not parts["train"] & parts["validation"]
    assert not (parts["train"] | parts["validation"]) & parts["test"]


def test_normalisation_is_that_of_the_training_split():
    entry, pixels = datasets.dataset("fashion-mnist-small"), datasets.load("fashion-mnist-small")["train"].images / 255
    assert entry.mean[0] == pytest.approx(pixels.mean(), abs=1e-4)
    assert entry.std[0] == pytest.approx(pixels.std(), abs=1e-4)
    inputs = ImageTask().split("train").inputs
    assert inputs.mean().item() == pytest.approx(0.0, abs=1e-3)
    assert inputs.std().item() == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize("n_train", [100, 101, 995])
def test_a_subset_is_class_balanced(n_train):
    labels = ImageTask(n_train=n_train).split("train").labels
    counts = torch.bincount(labels, minlength=10)
    assert counts.sum() == n_train
    assert counts.max() - counts.min() <= 1


def test_subsets_follow_their_seed_and_all_images_are_no_subset():
    first, again, other = (ImageTask(n_train=200, subset_seed=seed).split("train").inputs for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    everything = ImageTask(n_train=10_000, subset_seed=3)
    assert everything.fingerprint() == ImageTask().fingerprint()
    assert torch.equal(everything.split("train").inputs, ImageTask().split("train").inputs)


def test_an_epoch_repeats_no_image_and_drops_the_last_incomplete_batch():
    task = ImageTask(n_train=250, augment=Augmentation.none())
    assert task.steps_per_epoch(100) == 2
    batches = take(task, 4)
    epochs = [torch.cat([batch.inputs for batch in part]).numpy() for part in (batches[:2], batches[2:])]
    known = hashes(task.split("train").inputs.numpy())
    for epoch in epochs:
        assert len(hashes(epoch)) == 200
        assert hashes(epoch) <= known
    assert hashes(epochs[0]) != hashes(epochs[1])  # another 50 sit out
    assert all(batch.inputs.shape == (100, 1, 28, 28) and batch.labels.shape == (100,) for batch in batches)


def test_batches_follow_their_seed():
    task = ImageTask(n_train=300)
    runs = [take(task, 5, seed) for seed in (0, 0, 1)]
    assert all(
        torch.equal(a.inputs, b.inputs) and torch.equal(a.labels, b.labels) for a, b in zip(*runs[:2], strict=True)
    )
    assert not torch.equal(runs[0][0].inputs, runs[2][0].inputs)


def test_augmentation_moves_neither_order_nor_labels():
    plain, changed = (take(ImageTask(n_train=300, augment=a), 4) for a in (Augmentation.none(), Augmentation()))
    assert all(torch.equal(a.labels, b.labels) for a, b in zip(plain, changed, strict=True))
    assert not torch.equal(plain[0].inputs, changed[0].inputs)


def test_labels_belong_to_their_images():
    task = ImageTask(n_train=500, augment=Augmentation.none())
    known = task.split("train")
    label_of = {
        image.tobytes(): label for image, label in zip(known.inputs.numpy(), known.labels.tolist(), strict=True)
    }
    for batch in take(task, 3):
        found = [label_of[image.tobytes()] for image in batch.inputs.numpy()]
        assert found == batch.labels.tolist()


def test_sample_shows_what_the_network_gets():
    task = ImageTask()
    images, batch = task.sample(20)
    assert images.shape == (20, 28, 28)
    assert images.dtype == torch.uint8
    assert torch.bincount(batch.labels, minlength=10).tolist() == [2] * 10
    assert torch.equal(task.normalise(images[:, None]), batch.inputs)
    assert torch.equal(task.split("test").inputs[:20], batch.inputs)


def test_what_is_handed_out_can_be_written_to_without_harm():
    task = ImageTask()
    images, batch = task.sample(5)
    for tensor in (images, batch.inputs, batch.labels, task.split("test").inputs, task.split("test").labels):
        tensor.zero_()
    assert not torch.equal(task.sample(5)[0], images)
    assert task.split("test").labels.sum() > 0


def test_fingerprint_is_json_and_tells_tasks_apart(tmp_path):
    tasks = [ImageTask(), ImageTask(n_train=100), ImageTask(n_train=100, subset_seed=1)]
    tasks += [ImageTask(augment=Augmentation.none()), ImageTask("fashion-mnist")]
    texts = [json.dumps(task.fingerprint(), sort_keys=True) for task in tasks]
    assert len(set(texts)) == len(texts)
    assert datasets.BUNDLE_FILE.sha256 in texts[0]
    assert ImageTask("fashion-mnist", folder=tmp_path).fingerprint() == tasks[-1].fingerprint()


def test_a_task_travels_light():
    task = ImageTask(n_train=500)
    task.split("train")
    sent = pickle.dumps(task)
    assert len(sent) < 2_000
    assert pickle.loads(sent) == task  # noqa: S301 (our own bytes, a line above)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"n_train": 0}, "n_train = 0"),
        ({"n_train": 10_001}, "from 1 to 10000"),
        ({"n_train": True}, "n_train = True"),
        ({"subset_seed": -1}, "subset_seed = -1"),
        ({"name": "fashion-mnist-smal"}, "Did you mean 'fashion-mnist-small'?"),
    ],
)
def test_bad_arguments_are_refused_at_once(arguments, words):
    with pytest.raises(InvalidValueError) as caught:
        ImageTask(**arguments)
    assert words in str(caught.value)


@pytest.mark.parametrize(("field", "value"), [("n_train", 12.5), ("augment", "flip")])
def test_arguments_of_another_type_are_refused_at_once(field, value):
    refusals = (InvalidValueError, TypeError)  # the second where annotations are checked at run time, before our check
    with pytest.raises(refusals) as caught:
        ImageTask(**{field: value})
    assert field in str(caught.value)
    assert repr(value) in str(caught.value)


def test_other_refusals(tmp_path):
    task = ImageTask(n_train=100)
    with pytest.raises(InvalidValueError, match=r"batch_size = 128 is not allowed.*from 1 to 100"):
        task.batches(0, 128)  # at the call, not at the first batch
    with pytest.raises(InvalidValueError, match="batch_size = 0"):
        task.steps_per_epoch(0)
    with pytest.raises(UnknownNameError, match="Did you mean 'validation'"):
        task.split("validate")
    with pytest.raises(InvalidValueError, match="n = 2001 is not allowed: a whole number from 1 to 2000"):
        task.sample(2001)
    with pytest.raises(MissingDataError, match="is not a folder"):
        ImageTask(folder=tmp_path / "nothing")


@pytest.mark.parametrize("images", [torch.zeros(2, 1, 28, 28), torch.zeros(2, 3, 28, 28, dtype=torch.uint8)])
def test_normalise_refuses_other_types_and_shapes(images):
    with pytest.raises(InvalidValueError, match=r"images = .* is not allowed: uint8 of shape \[batch, 1, 28, 28\]"):
        ImageTask().normalise(images)


IMAGES, LABELS = np.zeros((4, 1, 28, 28), np.uint8), np.zeros(4, np.uint8)


@pytest.mark.parametrize(
    ("images", "labels", "words"),
    [
        (IMAGES.astype(np.float32), LABELS, "uint8, found float32"),
        (IMAGES, LABELS.astype(np.int64), "uint8, found uint8 and int64"),
        (IMAGES[:, 0], LABELS, r"shape \[4, 1, 28, 28\], found \[4, 28, 28\]"),
        (IMAGES[:3], LABELS, r"found \[3, 1, 28, 28\]"),
        (IMAGES, LABELS[:2], r"labels of shape \[4\], found \[2\]"),
        (IMAGES, LABELS + 10, "label = 10 is not allowed: from 0 to 9"),
    ],
)
def test_splits_of_the_wrong_type_or_shape_are_refused(images, labels, words, monkeypatch):
    raw = dict.fromkeys(datasets.SPLITS, datasets.RawSplit(images, labels))
    entry = replace(datasets.dataset("fashion-mnist-small"), sizes=dict.fromkeys(raw, 4), read=lambda _: raw)
    monkeypatch.setitem(datasets.DATASETS, "fashion-mnist-small", entry)
    with pytest.raises(InvalidValueError, match=words):
        ImageTask().split("test")


@needs_full_set
def test_the_full_set_holds_out_all_that_the_small_one_does():
    full, small = datasets.load("fashion-mnist"), datasets.load("fashion-mnist-small")
    for split, raw in small.items():
        assert np.array_equal(full[split].images[: len(raw.images)], raw.images)
        assert np.array_equal(full[split].labels[: len(raw.labels)], raw.labels)
    for split, size in (("train", 55_000), ("validation", 5_000), ("test", 10_000)):
        assert np.bincount(full[split].labels).tolist() == [size // 10] * 10
    entry, pixels = datasets.dataset("fashion-mnist"), full["train"].images
    assert entry.mean[0] == pytest.approx(pixels.mean() / 255, abs=1e-4)
    assert entry.std[0] == pytest.approx(pixels.std() / 255, abs=1e-4)


@needs_full_set
def test_the_padded_set_is_the_full_one_with_a_black_border():
    full, padded = datasets.load("fashion-mnist"), datasets.load("fashion-mnist-32")
    entry = datasets.dataset("fashion-mnist-32")
    for split, raw in padded.items():
        assert np.array_equal(raw.images[:, :, 2:-2, 2:-2], full[split].images)
        assert np.array_equal(raw.labels, full[split].labels)
        assert raw.images.sum(dtype=np.int64) == full[split].images.sum(dtype=np.int64)
    pixels = padded["train"].images
    assert entry.mean[0] == pytest.approx(pixels.mean() / 255, abs=1e-4)
    assert entry.std[0] == pytest.approx(pixels.std() / 255, abs=1e-4)


@needs_full_set
def test_the_script_rebuilds_the_bundled_file():
    script = paths.root() / "scripts" / "make_fashion_mnist_small.py"
    done = subprocess.run([sys.executable, script, "--check", "--source", DEBIAN], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    if "ng" not in zlib.ZLIB_RUNTIME_VERSION:  # zlib-ng compresses the same arrays to other bytes
        assert "identical bytes" in done.stdout
