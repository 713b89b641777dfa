"""Every public entrance looks at types, shapes, ranges and devices, and says what it was given."""

import inspect
from itertools import islice

import numpy as np
import pytest
import torch
from bundles import bundle_of, inputs_for, pair_of
from toys import MLP_STUDENT, MLP_TEACHER, ToyImages, as_trained, distil_cohort

from pwl_lab.distill.curriculum import extracted, one_shot
from pwl_lab.distill.probes import CorrelationProbe
from pwl_lab.loading.bundle import Inputs, inputs_of
from pwl_lab.loading.model import ProgressiveModel
from pwl_lab.models import build
from pwl_lab.study.two_phase import two_phase
from pwl_lab.study.verbs import train_pair
from pwl_lab.support.errors import InvalidValueError
from pwl_lab.swap.evaluation import mask_probabilities, score_masks
from pwl_lab.swap.swapnet import SwapNet
from pwl_lab.tasks.base import (
    Batch,
    accuracy,
    check_images,
    check_inputs,
    check_labels,
    class_names_of,
    normalisation_of,
    sent,
)
from pwl_lab.tasks.checks import check_count
from pwl_lab.tasks.images import ImageTask
from pwl_lab.tasks.parity import SparseParity
from pwl_lab.training import TrainPlan, fit, predict

PARITY = SparseParity(n_bits=6, k_sparse=2, eval_samples=20)
SIGNS = next(PARITY.batches(0, 5)).inputs
LABELS = PARITY.labels(SIGNS)
PLAN = TrainPlan(steps=2, batch_size=4, eval_every=1)


def net():
    return SwapNet(build(MLP_TEACHER, 0), build(MLP_STUDENT, 0, stream="student"), (6,)).eval()


def batch_with(inputs):
    """A batch as a reader could make it where types are not checked at run time."""
    batch = Batch(SIGNS, LABELS)
    object.__setattr__(batch, "inputs", inputs)
    return batch


# What is no finite float input of the right type; a reader may hand over any of it.
NOT_INPUTS = {
    "normalised twice as bytes": lambda x: x.to(torch.uint8),
    "int8": lambda x: x.to(torch.int8),
    "int64": lambda x: x.long(),
    "bool": lambda x: x > 0,
    "float64": lambda x: x.double(),
    "float16": lambda x: x.half(),
    "complex": lambda x: x.to(torch.complex64),
    "a number that is none": lambda x: x.masked_fill(torch.eye(len(x), x[0].numel()).reshape(x.shape) > 0, torch.nan),
    "infinite": lambda x: x.masked_fill(torch.eye(len(x), x[0].numel()).reshape(x.shape) > 0, -torch.inf),
    "one sample without a batch": lambda x: x[0].flatten()[0],
}
OTHER_SHAPES = {
    "one dimension more": lambda x: x[..., None],
    "one column less": lambda x: x[..., :-1],
    "flattened": lambda x: x.flatten(),
}
ELSEWHERE = {"another device": lambda x: x.to("meta")}
INPUTS = {  # entrance -> whether it knows the shape, whether it knows the device
    "labels of a parity": (PARITY.labels, True, False),
    "predict": (lambda x: predict(build(MLP_TEACHER, 0), x), False, True),
    "score_masks": (lambda x: score_masks(net(), batch_with(x)), False, True),
    "mask_probabilities": (lambda x: mask_probabilities(net(), x, ["SSS"]), False, True),
}
CASES = [
    pytest.param(entrance, change, id=f"{name}-{what}")
    for name, (entrance, shaped, placed) in INPUTS.items()
    for what, change in (NOT_INPUTS | (OTHER_SHAPES if shaped else {}) | (ELSEWHERE if placed else {})).items()
]


@pytest.mark.parametrize(("entrance", "change"), CASES)
def test_inputs_of_another_kind_are_refused(entrance, change):
    entrance(SIGNS)
    with pytest.raises(InvalidValueError, match=r"inputs (=|is on)"):
        entrance(change(SIGNS))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    bundle_of(pair_of("vgg"), folder := tmp_path_factory.mktemp("bundles") / "vgg")
    with ProgressiveModel.open(folder, device="cpu") as opened:
        yield opened


@pytest.mark.parametrize("change", (NOT_INPUTS | OTHER_SHAPES).values(), ids=NOT_INPUTS | OTHER_SHAPES)
def test_a_model_that_loads_refuses_inputs_of_another_kind(model, change):
    model.predict(inputs_for("vgg"))
    with pytest.raises(InvalidValueError, match=r"inputs = .*float32 of shape \[batch, 1, 7, 7\]|finite"):
        model.predict(change(inputs_for("vgg")))


IMAGES = torch.randint(0, 256, (3, 1, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
NOT_BYTES = {
    "scaled": lambda x: x.float() / 255,
    "floats": lambda x: x.float(),
    "int8": lambda x: x.to(torch.int8),
    "int64": lambda x: x.long(),
    "bool": lambda x: x > 0,
    "another height": lambda x: x[:, :, 1:],
    "another width": lambda x: x[..., 1:],
    "no channel": lambda x: x[:, 0],
    "three channels": lambda x: x.expand(-1, 3, -1, -1),
}


@pytest.mark.parametrize("change", NOT_BYTES.values(), ids=NOT_BYTES)
def test_images_of_another_kind_are_refused(change):
    ImageTask().normalise(IMAGES)
    with pytest.raises(InvalidValueError, match=r"images = .*uint8 of shape \[batch, 1, 28, 28\]"):
        ImageTask().normalise(change(IMAGES))


@pytest.mark.parametrize("change", NOT_BYTES.values(), ids=NOT_BYTES)
def test_a_model_that_loads_refuses_images_of_another_kind(model, change):
    images = IMAGES[:, :, 10:17, 10:17]
    model.prepare(images)
    with pytest.raises(InvalidValueError, match=r"images = .*uint8 of shape \[batch, 1, 7, 7\]"):
        model.prepare(change(images))


WRONG_LABELS = {
    "int32": lambda y: y.int(),
    "uint8": lambda y: y.to(torch.uint8),
    "floats": lambda y: y.float(),
    "one-hot": lambda y: torch.eye(3)[y],
    "too few": lambda y: y[1:],
    "negative": lambda y: y - 3,
    "too large": lambda y: y + 3,
}
WRONG_INPUTS = {
    "bytes": lambda x: x.to(torch.uint8),
    "double": lambda x: x.double(),
    "another size": lambda x: x[..., :-1],
    "infinite": lambda x: x / 0,
}


def tampering(where, part, change):
    """A reader's task of which `batches` or a split has something wrong with it."""

    class Tampered(ToyImages):
        def wrong(self, batch):
            changed = {"inputs": batch.inputs, "labels": batch.labels}
            object.__setattr__(batch, part, change(changed[part]))
            return batch

        def batches(self, seed, batch_size, device="cpu", role="teacher"):
            found = super().batches(seed, batch_size, device, role)
            return map(self.wrong, found) if where == role else found

        def split(self, name, device="cpu"):
            found = super().split(name, device)
            return self.wrong(found) if where == name else found

    return Tampered()


def everything(task):
    teacher, student = (
        type(one)(**one.model_dump() | {"n_inputs": 49, "n_classes": 3}) for one in (MLP_TEACHER, MLP_STUDENT)
    )
    trained = fit(teacher, task, PLAN, 0)
    distil_cohort(trained, student, task, {"extracted": extracted(1)}, [0], PLAN)
    train_pair(trained, student, task, PLAN, device="cpu")


@pytest.mark.usefixtures("store_folder")
@pytest.mark.parametrize("where", ["teacher", "student", "pair", "calibration", "validation", "test"])
@pytest.mark.parametrize(
    ("part", "change"),
    [
        *(pytest.param("labels", change, id=f"labels-{name}") for name, change in WRONG_LABELS.items()),
        *(pytest.param("inputs", change, id=f"inputs-{name}") for name, change in WRONG_INPUTS.items()),
    ],
)
def test_a_task_that_gives_what_it_does_not_promise_is_refused(where, part, change):
    with pytest.raises(InvalidValueError, match=rf"{part} of (Tampered\.batches|split \w+ of Tampered)"):
        everything(tampering(where, part, change))


def test_a_task_without_a_role_is_refused_where_it_would_share_samples():
    class Old(ToyImages):
        def batches(self, seed, batch_size, device="cpu"):
            return super().batches(seed, batch_size, device)

    with pytest.raises(
        InvalidValueError, match=r"Old\.batches \(test_checks\.py, line \d+\) = .*a method that also takes a `role`"
    ):
        everything(Old())


@pytest.mark.parametrize("value", [2.0, 2.5, "2", None, True, float("nan"), 0, -1, np.float64(3)])
def test_only_whole_numbers_count(value):
    with pytest.raises(InvalidValueError, match=r"steps = .* is not allowed: a whole number, at least 1"):
        check_count("steps", value)
    assert check_count("steps", np.int64(3)) == 3


@pytest.mark.parametrize("value", [None, 3, [[1.0, 2.0]], np.zeros((2, 6), np.float32)], ids=str)
def test_what_is_no_tensor_is_refused(value):
    for check in (
        check_inputs,
        lambda value: check_images(value, (6,)),
        lambda value: check_labels(value, torch.zeros(2, 6)),
    ):
        with pytest.raises(InvalidValueError, match="not a tensor"):
            check(value)


# In tests the types of arguments are checked, too (jaxtyping): only what has the right one gets as far as our own check.
@pytest.mark.parametrize("value", [0, -1, True])
@pytest.mark.parametrize(
    "field", ["n_bits", "samples", "batch_size", "eval_samples", "width", "outer_samples", "probe", "chunk"]
)
def test_numbers_that_are_no_counts_are_refused(field, value):
    teacher = build(MLP_TEACHER, 0)
    entrance = {
        "n_bits": lambda: SparseParity(value, 1),
        "samples": lambda: two_phase(PARITY, teacher, 3, [8, value]),
        "batch_size": lambda: PARITY.batches(0, value),
        "eval_samples": lambda: SparseParity(6, 2, eval_samples=value),
        "width": lambda: two_phase(PARITY, teacher, value, [8]),
        "outer_samples": lambda: two_phase(PARITY, teacher, 3, [8], outer_samples=value),
        "probe": lambda: CorrelationProbe.draw(PARITY, value),
        "chunk": lambda: predict(teacher, SIGNS, value),
    }[field]
    with pytest.raises(InvalidValueError, match=r"= .* is not allowed: a whole number, at least"):
        entrance()


@pytest.mark.parametrize(
    ("logits", "labels"),
    [(torch.zeros(3, 2), torch.zeros(3, 1)), (torch.zeros(3), torch.zeros(3)), (torch.zeros(0, 2), torch.zeros(0))],
)
def test_accuracy_compares_each_with_its_own(logits, labels):
    with pytest.raises(InvalidValueError, match="logits and labels"):
        accuracy(logits, labels)


def test_no_students_are_refused():
    with pytest.raises(InvalidValueError, match="at least one of each"):
        distil_cohort(as_trained(MLP_TEACHER), MLP_STUDENT, PARITY, {"one_shot": one_shot()}, [], PLAN)
    assert len(list(islice(PARITY.batches(0, 2), 3))) == 3


class Named(ToyImages):
    """A reader's task that says what it may say."""

    class_names = ("one", "two", "three")
    normalisation = ((0.5,), (0.25,))


class Loose:
    """A reader's task that is not derived from `Task` and says no more than it has to."""

    name, input_shape, n_classes = "loose", (6,), 2
    batches, split, fingerprint = PARITY.batches, PARITY.split, PARITY.fingerprint


def test_what_a_task_may_leave_out_has_a_default():
    assert class_names_of(Named()) == ("one", "two", "three")
    assert inputs_of(Named()) == Inputs(shape=(1, 7, 7), mean=(0.5,), std=(0.25,))
    for task in (ToyImages(), PARITY, Loose()):  # unwrap: as outside tests, without type checks
        assert inspect.unwrap(class_names_of)(task) == ()
        assert inspect.unwrap(normalisation_of)(task) is None


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("class_names", ("one", "two"), "a name for each of the 3 classes"),
        ("normalisation", ((0.5,), ()), "for each of the 1 channels"),
        ("normalisation", ((0.5, 0.5), (0.2, 0.2)), "for each of the 1 channels"),
    ],
)
def test_what_a_task_says_wrongly_is_refused_before_anything_is_trained(field, value, words):
    task = Named()
    setattr(task, field, value)
    teacher = type(MLP_TEACHER)(**MLP_TEACHER.model_dump() | {"n_inputs": 49, "n_classes": 3})
    with pytest.raises(InvalidValueError, match=rf"{field} of Named \(test_checks\.py, line \d+\) = .*{words}"):
        fit(teacher, task, PLAN, 0)


class FakeTensor:
    """What `sent` asks of a tensor, and what it asked."""

    def __init__(self, device, *calls):
        self.device, self.calls = torch.device(device), calls

    def pin_memory(self):
        return FakeTensor(self.device, *self.calls, "pinned")

    def to(self, device, non_blocking=False):
        return FakeTensor(device, *self.calls, "queued" if non_blocking else "waited for")


@pytest.mark.parametrize(
    ("begin", "end", "calls"),
    [
        ("cpu", "cuda", ("pinned", "queued")),
        ("cpu", torch.device("cuda", 1), ("pinned", "queued")),
        ("cpu", "cpu", ("waited for",)),
        ("cuda", "cuda", ("waited for",)),  # it is there already: only memory of the CPU can be pinned
        ("cuda", "cpu", ("waited for",)),
    ],
)
def test_a_card_takes_a_batch_in_its_turn(begin, end, calls):
    assert inspect.unwrap(sent)(FakeTensor(begin), end).calls == calls
