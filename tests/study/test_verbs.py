"""The three verbs: the second call loads what the first made, and everything agrees with everything else."""

import pandas as pd
import pytest
import torch
from toys import (
    MLP_STUDENT,
    MLP_TEACHER,
    RESNET_STUDENT,
    RESNET_TEACHER,
    VGG_STUDENT,
    VGG_TEACHER,
    VIT_STUDENT,
    VIT_TEACHER,
    ToyImages,
    changed,
    snapshot,
)

from pwl_lab.distill.curriculum import Curriculum, Stage, TeacherHidden, extracted, from_labels, one_shot, progressive
from pwl_lab.models.blocknet import build, parameter_bytes, unit_bytes
from pwl_lab.study import verbs
from pwl_lab.study.recipes import SamplePredictions, drawn_predictions, sample_predictions, soft_targets
from pwl_lab.study.verbs import distill, train_or_load, train_pair
from pwl_lab.support.errors import InvalidValueError
from pwl_lab.swap.masks import all_masks, prefix_mask
from pwl_lab.swap.pair_training import PairLossConfig
from pwl_lab.tasks.images import ImageTask
from pwl_lab.tasks.parity import SparseParity
from pwl_lab.training import TrainPlan, fit, predict

PARITY = SparseParity(n_bits=6, k_sparse=2, eval_samples=200)
TEACHER_PLAN = TrainPlan(steps=60, batch_size=16, eval_every=10, lr=0.3, keep_checkpoints=True)
STUDENT_PLAN = TrainPlan(steps=12, batch_size=8, eval_every=4)
PAIR_PLAN = TrainPlan(steps=6, batch_size=8, eval_every=3, lr=0.05)
CURRICULA = {"one_shot": one_shot(), "progressive": progressive([0.0], steps=4), "extracted": extracted(steps=3)}

pytestmark = pytest.mark.usefixtures("store_folder")


@pytest.fixture
def never_train(monkeypatch):
    """From here on nothing may be trained."""

    def forbid():
        for name in ("fit", "train_pairs_together", "distil_members"):
            monkeypatch.setattr(verbs, name, lambda *_, **__: pytest.fail("trained again"))

    return forbid


def parity_teacher(seed=0):
    return train_or_load(MLP_TEACHER, PARITY, TEACHER_PLAN, seed, device="cpu")


def image_teacher(seed=0):
    return train_or_load(VGG_TEACHER, ToyImages(), TrainPlan(steps=20, batch_size=8, lr=0.05), seed, device="cpu")


def same_tables(first, second):
    pd.testing.assert_frame_equal(first, second, check_exact=True)


def test_train_or_load_loads_what_it_made(never_train):
    first = parity_teacher()
    never_train()
    again = parity_teacher()
    assert changed(snapshot(first.model), snapshot(again.model)) == set()
    same_tables(first.history, again.history)
    assert again.test_accuracy == first.test_accuracy
    assert (again.reached_at, again.fingerprint, again.config) == (first.reached_at, first.fingerprint, first.config)
    assert [(c.step, c.accuracy) for c in again.checkpoints] == [(c.step, c.accuracy) for c in first.checkpoints]
    assert len(first.checkpoints) == 7
    for a, b in zip(first.checkpoints, again.checkpoints, strict=True):
        assert changed(a.state, b.state) == set()
    assert not again.model.training
    assert not any(parameter.requires_grad for parameter in again.model.parameters())


def test_a_network_with_batch_norm_is_loaded_with_its_statistics(never_train):
    first = image_teacher()
    never_train()
    again = image_teacher()
    assert changed(snapshot(first.model), snapshot(again.model)) == set()
    inputs = ToyImages().split("test").inputs
    assert torch.equal(first.model(inputs), again.model(inputs))


def test_another_seed_or_plan_is_another_teacher():
    teachers = [parity_teacher(), parity_teacher(seed=1)]
    assert teachers[0].fingerprint != teachers[1].fingerprint
    assert changed(snapshot(teachers[0].model), snapshot(teachers[1].model))


def test_distill_loads_what_it_made(never_train):
    teacher = parity_teacher()
    first = distill(teacher, MLP_STUDENT, PARITY, CURRICULA, [0, 4], STUDENT_PLAN, device="cpu")
    never_train()
    again = distill(teacher, MLP_STUDENT, PARITY, CURRICULA, [0, 4], STUDENT_PLAN, device="cpu")
    same_tables(first.history, again.history)
    same_tables(first.stages, again.stages)
    assert list(first.weights) == list(again.weights) == [(name, seed) for name in CURRICULA for seed in (0, 4)]
    for who in first.weights:
        assert changed(first.weights[who], again.weights[who]) == set()
    same_tables(first.table(0.5), again.table(0.5))


def test_distilled_students_are_those_of_the_history():
    runs = distill(parity_teacher(), MLP_STUDENT, PARITY, CURRICULA, [0, 4], STUDENT_PLAN, device="cpu")
    test = PARITY.split("test")
    for name in CURRICULA:
        for index, seed in enumerate([0, 4]):
            net = runs.student(name, seed)
            value = (net(test.inputs).argmax(dim=1) == test.labels).double().mean().item()
            assert runs.final_accuracy()[name][index] == pytest.approx(value, abs=0.006)
            assert not net.training
    with pytest.raises(InvalidValueError, match=r"\('extracted', 3\) is not allowed.*\('extracted', 0\)"):
        runs.student("extracted", 3)


@pytest.mark.filterwarnings("ignore:reckless")
def test_a_student_that_diverged_is_refused_in_plain_words():
    reckless = Curriculum(stages=(Stage(target=TeacherHidden(block=1, weight=3e38)),))
    curricula = {"one_shot": one_shot(), "reckless": reckless}
    for _ in range(2):  # made, then loaded
        runs = distill(parity_teacher(), MLP_STUDENT, PARITY, curricula, [0], STUDENT_PLAN, device="cpu")
        assert list(runs.weights) == [("one_shot", 0)]
        with pytest.raises(InvalidValueError, match="reckless"):
            runs.student("reckless", 0)


def test_students_of_another_teacher_are_made_anew():
    one, other = (
        distill(parity_teacher(seed), MLP_STUDENT, PARITY, {"one_shot": one_shot()}, [0], STUDENT_PLAN, device="cpu")
        for seed in (0, 1)
    )
    assert changed(one.weights["one_shot", 0], other.weights["one_shot", 0])


def make_pair(teacher=None, seed=0, student=VGG_STUDENT, curriculum=None, plan=None, **losses):
    return train_pair(
        teacher or image_teacher(),
        student,
        ToyImages(),
        plan or PAIR_PLAN,
        PairLossConfig(**losses),
        seed,
        device="cpu",
        curriculum=curriculum,
    )


def image_teacher_with_checkpoints():
    plan = TrainPlan(steps=20, batch_size=8, eval_every=10, lr=0.05, keep_checkpoints=True)
    return train_or_load(VGG_TEACHER, ToyImages(), plan, device="cpu")


def test_train_pair_loads_what_it_made(never_train):
    teacher = image_teacher()
    first = make_pair(teacher)
    never_train()
    again = make_pair(teacher)
    assert changed(snapshot(first.net), snapshot(again.net)) == set()
    same_tables(first.history, again.history)
    same_tables(first.masks, again.masks)
    same_tables(first.classes, again.classes)
    inputs = ToyImages().split("test").inputs
    for mask in all_masks(3):
        assert torch.equal(first.net(inputs, mask), again.net(inputs, mask))
    assert not any(module.training for module in again.net.modules())


def test_a_pair_stops_at_the_accuracy_of_its_plan_as_if_it_had_gone_on():
    plan = PAIR_PLAN.model_copy(update={"steps": 9, "eval_every": 3})
    whole, stopped = (make_pair(plan=plan.model_copy(update={"stop_at": at})).history for at in (None, 0.0))
    assert whole["step"].tolist() == [0, 3, 6, 9]
    pd.testing.assert_frame_equal(stopped, whole.iloc[:2])


@pytest.mark.parametrize(
    ("curriculum", "terms"),
    [
        (from_labels(), {"labels"}),
        (one_shot(0.0), {"output"}),
        (progressive(at_steps=[10], steps=3), {"output"}),
        (extracted(steps=1), {"hidden", "output"}),
    ],
    ids=["labels", "one-shot", "progressive", "extracted"],
)
def test_a_pair_whose_student_follows_a_curriculum_is_loaded_too(never_train, curriculum, terms):
    teacher = image_teacher_with_checkpoints()
    first = make_pair(teacher, curriculum=curriculum, student_joins_at=0.5)
    never_train()
    again = make_pair(teacher, curriculum=curriculum, student_joins_at=0.5)
    assert changed(snapshot(first.net), snapshot(again.net)) == set()
    same_tables(first.history, again.history)
    same_tables(first.masks, again.masks)
    named = {name.removeprefix("loss_") for name in first.history.columns if name.startswith("loss_")}
    assert named == terms | {"sync", "recon", "cross", "total"}


def test_another_curriculum_is_another_pair(store_folder):
    teacher = image_teacher_with_checkpoints()
    curricula = [None, from_labels(), one_shot(), one_shot(0.0), extracted(steps=1), extracted(steps=2)]
    pairs = [make_pair(teacher, curriculum=curriculum) for curriculum in curricula]
    assert len(list(store_folder.glob("pair/*"))) == len(curricula)
    students = [snapshot(pair.net.student) for pair in pairs]
    assert all(changed(one, other) for number, one in enumerate(students) for other in students[:number])


def test_a_curriculum_that_asks_for_what_is_not_there_leaves_nothing_behind(store_folder):
    teacher = image_teacher()
    for curriculum in (progressive(at_steps=[3]), extracted(blocks=[4])):
        with pytest.raises(InvalidValueError, match=r"at_step = 3|block = 4"):
            make_pair(teacher, curriculum=curriculum)
    assert not list(store_folder.glob("pair/*"))


def test_when_pwl_joins_makes_another_student():
    curriculum, teacher = one_shot(), image_teacher()
    joins = [make_pair(teacher, curriculum=curriculum, student_joins_at=share) for share in (0.0, 0.5, 1.0)]
    students = [snapshot(pair.net.student) for pair in joins]
    assert changed(students[0], students[1])
    assert changed(students[1], students[2])
    only_distilled = make_pair(teacher, curriculum=curriculum, student_joins_at=1.0, cross=0.0, recon=0.0)
    assert changed(students[2], snapshot(only_distilled.net.student)) == set()
    assert changed(snapshot(joins[2].net.converters), snapshot(only_distilled.net.converters))


def test_a_pair_without_a_single_converter_is_loaded_too(never_train):
    student = VGG_TEACHER.model_copy(update={"convolutions": (1, 1, 1)})
    first = make_pair(student=student, converters="if_different")
    assert first.converter_bytes == 0
    never_train()
    again = make_pair(student=student, converters="if_different")
    assert changed(snapshot(first.net), snapshot(again.net)) == set()
    same_tables(first.masks, again.masks)


@pytest.mark.parametrize(("teacher", "student"), [(RESNET_TEACHER, RESNET_STUDENT), (VIT_TEACHER, VIT_STUDENT)])
def test_pairs_of_other_families_are_loaded_too(never_train, teacher, student):
    def make():
        trained = train_or_load(teacher, ToyImages(), TrainPlan(steps=4, batch_size=8, lr=0.05), device="cpu")
        return make_pair(trained, student=student)

    first = make()
    never_train()
    again = make()
    assert changed(snapshot(first.net), snapshot(again.net)) == set()
    same_tables(first.masks, again.masks)
    inputs = ToyImages().split("test").inputs
    for mask in all_masks(3):
        assert torch.equal(first.net(inputs, mask), again.net(inputs, mask))


def test_another_seed_or_loss_is_another_pair():
    pairs = [make_pair(), make_pair(seed=1), make_pair(cross=0.0)]
    assert all(changed(snapshot(pairs[0].net.student), snapshot(pair.net.student)) for pair in pairs[1:])


def test_pair_accuracies_are_those_of_its_networks():
    teacher = image_teacher()
    before = snapshot(teacher.model)
    pair, test = make_pair(teacher), ToyImages().split("test")
    assert pair.accuracy("TTT") == teacher.test_accuracy
    for mask in all_masks(3):
        for split in ("test", "validation"):
            data = ToyImages().split(split)
            value = (pair.net(data.inputs, mask).argmax(dim=1) == data.labels).double().mean().item()
            assert pair.accuracy(mask, split) == pytest.approx(value)
    assert pair.accuracy("SSS") == (pair.net.student(test.inputs).argmax(1) == test.labels).double().mean().item()
    assert pair.prefix_accuracy() == [pair.accuracy(prefix_mask(k, 3)) for k in range(4)]
    assert changed(before, snapshot(pair.net.teacher)) == set()
    predicted, _ = pair.predictions(test.inputs, ["SST", "TTT"])
    assert torch.equal(predicted[1], teacher.model(test.inputs).argmax(dim=1))


def test_pair_accuracies_per_class_are_those_of_its_networks():
    pair, test = make_pair(), ToyImages().split("test")
    assert list(pair.classes) == ["mask", "seed", "class", "test"]
    assert len(pair.classes) == 8 * 3
    found = pair.classes.set_index(["mask", "class"])["test"]
    for mask in all_masks(3):
        right = pair.net(test.inputs, mask).argmax(dim=1) == test.labels
        for index in range(3):
            assert found[mask, index] == pytest.approx(right[test.labels == index].double().mean().item())


def test_asking_for_more_or_other_blocks_is_refused():
    pair = make_pair()
    with pytest.raises(InvalidValueError, match=r"teacher_blocks = 4.*from 0 to 3"):
        pair.accuracy(prefix_mask(4, pair.n_blocks))
    with pytest.raises(InvalidValueError, match="3 letters"):
        pair.accuracy("TTTT")


def test_bytes_add_up():
    pair = make_pair()
    table = pair.masks.set_index("mask")["teacher_bytes"]
    units = unit_bytes(pair.net.teacher)
    assert table["SSS"] == 0
    assert table["TTT"] == sum(units) == pair.teacher_bytes == parameter_bytes(pair.net.teacher)
    assert pair.student_bytes == parameter_bytes(pair.net.student) < pair.teacher_bytes
    for mask in all_masks(3):
        assert table[mask] == sum(size for letter, size in zip(mask, units, strict=True) if letter == "T")
    assert units[1] == parameter_bytes(pair.net.teacher.blocks[1])


def test_pair_history_names_every_loss():
    history = make_pair().history
    assert {f"loss_{name}" for name in ("hard", "soft", "sync", "recon", "cross", "total")} <= set(history.columns)
    assert history["step"].tolist() == [0, 3, 6]


def test_sample_predictions_are_looked_up_and_those_that_change_come_first():
    task = ImageTask(n_train=200)
    shape = {"channels": (2, 3), "convolutions": (1, 1), "n_classes": 10}
    config = VGG_TEACHER.model_copy(update=shape)
    teacher = train_or_load(config, task, TrainPlan(steps=2, batch_size=32), device="cpu")
    pair = train_pair(teacher, config, task, TrainPlan(steps=2, batch_size=32), device="cpu")
    samples = sample_predictions(pair, task, n_samples=5, pool=40)
    assert isinstance(samples, SamplePredictions)
    assert samples.images.shape == (5, 28, 28)
    assert list(samples.predicted) == list(samples.confidence) == ["SS", "ST", "TS", "TT"]
    images, batch = task.sample(40)
    places = [next(i for i in range(40) if torch.equal(images[i], image)) for image in samples.images]
    everything = pair.predictions(batch.inputs, all_masks(2))[0]
    assert torch.equal(samples.labels, batch.labels[places])
    for row, mask in enumerate(samples.predicted):
        assert torch.equal(samples.predicted[mask], everything[row, places])
    prefix = everything[[0, 2, 3]]
    changes = (prefix[1:] != prefix[:-1]).sum(dim=0)
    assert changes[places].tolist() == sorted(changes.tolist(), reverse=True)[:5]


def test_drawn_predictions_are_of_the_same_random_test_images_for_every_pair():
    task = ImageTask(n_train=200)
    config = VGG_TEACHER.model_copy(update={"channels": (2, 3), "convolutions": (1, 1), "n_classes": 10})
    teacher = train_or_load(config, task, TrainPlan(steps=2, batch_size=32), device="cpu")
    pairs = [train_pair(teacher, config, task, TrainPlan(steps=n, batch_size=32), device="cpu") for n in (1, 2)]
    first, second = (drawn_predictions(pair, task, n_samples=20) for pair in pairs)
    assert first.kind == "drawn"
    assert torch.equal(first.images, second.images)
    assert not torch.equal(first.probabilities["SS"], second.probabilities["SS"])
    other = drawn_predictions(pairs[0], task, n_samples=20, seed=1)
    assert not torch.equal(first.images, other.images)
    images, batch = task.sample(task.size("test"))
    places = [next(i for i in range(len(images)) if torch.equal(images[i], image)) for image in first.images]
    assert max(places) > 1000, "from all over the split, not its beginning"
    assert len(set(places)) == 20
    assert torch.equal(first.labels, batch.labels[places])
    expected = pairs[0].probabilities(batch.inputs[places], all_masks(2))
    for row, mask in zip(expected, first.probabilities, strict=True):
        torch.testing.assert_close(first.probabilities[mask], row)
    everything = drawn_predictions(pairs[0], task, n_samples=task.size("test"))
    for mask in ("SS", "TT"):
        assert sum(everything.right(mask)) / task.size("test") == pytest.approx(pairs[0].accuracy(mask))
    with pytest.raises(InvalidValueError, match="n_samples"):
        drawn_predictions(pairs[0], task, n_samples=task.size("test") + 1)


def test_soft_targets_are_of_the_image_of_the_class_that_the_teacher_is_about_so_sure_of():
    task = ImageTask(n_train=200)
    config = VGG_TEACHER.model_copy(update={"channels": (2, 3), "convolutions": (1, 1), "n_classes": 10})
    teacher = train_or_load(config, task, TrainPlan(steps=2, batch_size=32), device="cpu")
    found = soft_targets(teacher, task, label=6, sure=0.11, pool=100)
    images, batch = task.sample(100)
    logits = predict(teacher.model, batch.inputs)
    place = next(i for i in range(100) if torch.equal(images[i], found.image))
    assert batch.labels[place] == found.label == 6
    torch.testing.assert_close(found.logits, logits[place])
    away = (logits.softmax(dim=1)[:, 6] - 0.11).abs()
    assert away[place] == away[batch.labels == 6].min()


def test_a_pair_owes_nothing_to_torchs_global_random_state(store_folder, monkeypatch):
    found = []
    for number in (1, 2):
        monkeypatch.setenv("PWL_LAB_RUNS", str(store_folder.parent / f"runs{number}"))
        torch.manual_seed(number)
        teacher = image_teacher()
        pair = train_pair(teacher, VGG_STUDENT, ToyImages(), PAIR_PLAN, device="cpu")
        found.append(snapshot(pair.net))
    assert changed(*found) == set()


def test_teachers_that_did_not_come_from_the_store_are_told_apart():
    teachers = [fit(MLP_TEACHER, PARITY, TEACHER_PLAN, seed) for seed in (0, 1)]
    histories = [distill(t, MLP_STUDENT, PARITY, CURRICULA, (0,), STUDENT_PLAN, "cpu").history for t in teachers]
    assert not histories[0].equals(histories[1])


def test_a_student_does_not_begin_as_a_slice_of_its_teacher():
    teacher, student = build(MLP_STUDENT, 0), build(MLP_STUDENT, 0, stream="student")
    assert not torch.equal(teacher.head.weight, student.head.weight)


def test_distillation_changes_no_bit_of_a_teacher_with_batch_norm():
    teacher = image_teacher()
    teacher.model.train()
    before = snapshot(teacher.model)
    distill(teacher, VGG_STUDENT, ToyImages(), {"extracted": extracted(steps=3)}, (0,), STUDENT_PLAN, "cpu")
    assert changed(before, snapshot(teacher.model)) == set()
    assert not teacher.model.training


OTHER_TASK = SparseParity(n_bits=7, k_sparse=2, eval_samples=200)
REFUSED = {
    "no plan": (lambda t: train_or_load(MLP_TEACHER, PARITY, None), "plan is NoneType, but must be a TrainPlan"),
    "no plan of students": (lambda t: on_students(t, plan=None), "plan is NoneType, but must be a TrainPlan"),
    "no plan of a pair": (lambda t: on_pair(t, plan=None), "plan is NoneType, but must be a TrainPlan"),
    "a class": (
        lambda t: train_or_load(type(MLP_TEACHER), PARITY, TEACHER_PLAN),
        "model is the class MLPConfig itself",
    ),
    "a class of students": (
        lambda t: on_students(t, student=type(MLP_STUDENT)),
        "student is the class MLPConfig itself",
    ),
    "a class of a pair": (lambda t: on_pair(t, student=type(MLP_STUDENT)), "student is the class MLPConfig itself"),
    "a network": (lambda t: on_students(t.model), "teacher is BlockNet, but must be a TrainedModel"),
    "a network in a pair": (lambda t: on_pair(t.model), "teacher is BlockNet, but must be a TrainedModel"),
    "no curriculum": (
        lambda t: on_students(t, curricula={"a": None}),
        r"curricula\['a'\] is NoneType, but must be a Curriculum",
    ),
    "another curriculum": (lambda t: on_pair(t, curriculum="a"), "curriculum is str, but must be a Curriculum"),
    "other losses": (lambda t: on_pair(t, losses={}), "losses is dict, but must be a PairLossConfig"),
    "a seed twice": (
        lambda t: on_students(t, seeds=[1, 2, 1]),
        r"seeds = \[1, 2, 1\] is not allowed: each seed only once",
    ),
    "a rate of no curriculum": (lambda t: on_students(t, rates={"b": 0.1}), "unknown curriculum in rates 'b'"),
    "a rate below zero": (lambda t: on_students(t, rates={"a": -0.1}), "lr = -0.1 is not allowed"),
    "half a seed": (lambda t: on_students(t, seeds=[1.7]), "seeds = 1.7 is not allowed: a whole number"),
    "other inputs": (
        lambda t: train_or_load(MLP_TEACHER, OTHER_TASK, TEACHER_PLAN),
        r"input shape of SparseParity = \(7,\)",
    ),
    "other inputs of students": (lambda t: on_students(t, task=OTHER_TASK), r"input shape of SparseParity = \(7,\)"),
    "other inputs of a pair": (lambda t: on_pair(t, task=OTHER_TASK), r"input shape of SparseParity = \(7,\)"),
}


def on_students(teacher, **other):
    given = {"student": MLP_STUDENT, "task": PARITY, "curricula": {"a": one_shot()}, "seeds": [0], "plan": STUDENT_PLAN}
    return distill(teacher, **given | other, device="cpu")


def on_pair(teacher, **other):
    return train_pair(teacher, **{"student": MLP_STUDENT, "task": PARITY, "plan": PAIR_PLAN} | other, device="cpu")


@pytest.mark.parametrize("case", REFUSED)
def test_what_no_verb_can_work_with_is_refused_in_words_before_anything_is_trained(case, never_train):
    teacher = fit(MLP_TEACHER, PARITY, TrainPlan(steps=1, batch_size=8), 0)
    never_train()
    call, words = REFUSED[case]
    with pytest.raises(InvalidValueError, match=words):
        call(teacher)


@pytest.mark.parametrize("task", [PARITY, ImageTask(n_train=200)], ids=["parity", "images"])
def test_a_device_that_there_is_not_is_refused_when_a_task_is_asked(task):
    for ask in (lambda: task.batches(0, 8, device="gpu"), lambda: task.split("test", "gpu")):
        with pytest.raises(InvalidValueError, match="device = 'gpu' is not allowed: auto, cpu, cuda"):
            ask()
