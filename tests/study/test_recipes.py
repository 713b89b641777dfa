"""Recipes that notebooks share: the settings say all of it, and what was made once is found again."""

import nbformat
import pytest
import torch
from toys import TOY_SIZES, ToyImages, as_trained, changed, snapshot

from pwl_lab.distill import curriculum
from pwl_lab.models import ResNetConfig, VGGConfig, ViTConfig
from pwl_lab.study import crossing, recipes, verbs
from pwl_lab.study.settings import CrossingSettings, CurriculaSettings, LoadingSettings, StartHereSettings
from pwl_lab.study.store import NotMadeError, only_stored
from pwl_lab.support import paths
from pwl_lab.swap.pair_training import PairLossConfig
from pwl_lab.tasks.base import Batch, Task

FAMILIES = ["vgg", "resnet", "vit"]
families = pytest.mark.parametrize("family", FAMILIES)
presets = pytest.mark.parametrize("preset", ["smoke", "lesson", "paper"])


@pytest.fixture
def settings(store_folder, monkeypatch):
    """Sizes of notebook 04 that take a moment, on toy images, made in this process."""
    monkeypatch.setattr(recipes, "image_task", lambda settings: ToyImages())
    monkeypatch.setenv("PWL_LAB_WORKERS", "1")
    return LoadingSettings.load("smoke", **TOY_SIZES, seeds=(3, 1))


def test_an_image_teacher_keeps_a_checkpoint_of_every_half_epoch(settings):
    teacher = recipes.image_teacher(settings, 3)
    assert [checkpoint.step for checkpoint in teacher.checkpoints] == [0, 2, 4, 6, 8]  # 2 epochs of 4 steps
    assert [c.accuracy for c in teacher.checkpoints] == teacher.history["accuracy"].tolist()
    assert changed(teacher.checkpoints[-1].state, snapshot(teacher.model)) == set()
    assert changed(teacher.checkpoints[-2].state, snapshot(teacher.model))
    assert changed(snapshot(teacher.model), snapshot(recipes.image_teacher(settings, 1).model))


def test_an_epoch_of_one_step_has_its_checkpoint_too(settings):
    teacher = recipes.image_teacher(settings.model_copy(update={"batch_size": 64}), 3)
    assert [checkpoint.step for checkpoint in teacher.checkpoints] == [0, 1, 2]


@presets
@families
def test_architectures_are_those_of_the_settings(preset, family):
    settings = LoadingSettings.load(preset, family=family, stem_stride=1, patch=4)
    task = recipes.image_task(settings)
    for who, model in zip(("teacher", "student"), recipes.image_models(settings, task), strict=True):
        channels, depths = getattr(settings, f"{who}_channels"), getattr(settings, f"{who}_depths")
        common = {"in_channels": task.input_shape[0], "n_classes": task.n_classes}
        if family == "vgg":
            assert model == VGGConfig(channels=channels, convolutions=depths, **common)
        elif family == "resnet":
            assert model == ResNetConfig(channels=channels, depths=depths, stem_stride=1, **common)
        else:
            heads, image = getattr(settings, f"{who}_heads"), {"image_size": task.input_shape[1], "patch": 4}
            assert model == ViTConfig(width=channels[0], heads=heads, layers=depths, **image, **common)
        assert model.n_blocks == len(settings.teacher_channels)


def test_teacher_and_student_of_a_vision_transformer_have_heads_of_their_own():
    settings = LoadingSettings.load("smoke", family="vit", teacher_heads=8, student_heads=2)
    models = recipes.image_models(settings, recipes.image_task(settings))
    assert [model.heads for model in models] == [8, 2]


def test_images_are_those_of_the_settings():
    settings = LoadingSettings.load("smoke", n_train=500, crop_padding=2, rotation_degrees=5.0)
    task = recipes.image_task(settings)
    assert (task.name, task.size("train")) == (settings.dataset, 500)
    assert (task.augment.crop_padding, task.augment.rotation_degrees) == (2, 5.0)


def test_the_losses_of_a_pair_draw_the_masks_that_were_asked_for():
    masks = {"TSSS": 1.0, "STTT": 2.0}
    settings = LoadingSettings.load("smoke", masks=masks, cross_passes=3, cross_groups=5)
    losses = recipes.pair_losses(settings)
    assert (losses.masks, losses.cross_passes, losses.cross_groups) == (masks, 3, 5)


def test_the_losses_of_a_pair_have_the_weights_that_were_asked_for():
    losses = recipes.pair_losses(LoadingSettings.load("smoke", sync_weight=0.5, cross_weight=3.0))
    assert losses == recipes.pair_losses(LoadingSettings.load("smoke")).model_copy(update={"sync": 0.5, "cross": 3.0})
    assert LoadingSettings.load("smoke").cross_weight == PairLossConfig().cross  # the paper's


@pytest.mark.parametrize("section", [LoadingSettings, CrossingSettings])
@pytest.mark.parametrize(
    ("setting", "value"), [("products", "bfloat16"), ("optimiser", "adam"), ("batch_size", 16), ("pair_lr", 0.03)]
)
def test_every_training_of_an_image_notebook_is_as_asked_for(section, setting, value, settings, monkeypatch):
    plans = []
    monkeypatch.setattr(recipes, "train_or_load", lambda model, task, plan, *_: plans.append(plan) or "a teacher")
    monkeypatch.setattr(recipes, "train_pair", lambda *given: plans.append(given[3]))
    monkeypatch.setattr(crossing, "train_pairs", lambda *given: plans.append(given[3]) or [])
    monkeypatch.setattr(crossing, "image_task", recipes.image_task)
    asked = section.load("smoke", **(TOY_SIZES | {setting: value}))
    if section is LoadingSettings:
        recipes.loading_pair(asked, 0)
    else:
        crossing._crossed(asked, 0, [])
    of_teacher, of_pair = plans
    field = setting.removeprefix("pair_")
    assert getattr(of_pair, field) == value
    assert getattr(of_teacher, field) == (asked.teacher_lr if field == "lr" else value)


def test_loading_pairs_are_one_per_seed_in_order(settings):
    teachers, pairs = recipes.loading_pairs(settings)
    assert [pair.seed for pair in pairs] == [3, 1]
    assert all(set(pair.masks["seed"]) == {pair.seed} for pair in pairs)
    expected = [recipes.image_teacher(settings, seed).fingerprint for seed in (3, 1)]
    assert [teacher.fingerprint for teacher in teachers] == expected
    assert expected[0] != expected[1]
    for teacher, pair in zip(teachers, pairs, strict=True):
        assert changed(snapshot(teacher.model), snapshot(pair.net.teacher)) == set()
        assert pair.accuracy("TTT") == teacher.test_accuracy
    assert changed(snapshot(pairs[0].net.student), snapshot(pairs[1].net.student))


def test_a_pair_that_is_shared_is_found_by_its_seed_alone(settings):
    pairs = recipes.loading_pairs(settings)[1]
    with only_stored():
        found = recipes.loading_pair(settings.model_copy(update={"seeds": (1, 2), "interactive": False}), seed=3)[1]
        assert changed(snapshot(found.net), snapshot(pairs[0].net)) == set()
        with pytest.raises(NotMadeError):
            recipes.loading_pair(settings, seed=2)


def pair_key(settings, seed, monkeypatch):
    """Under what the store keeps the pair of `seed`; nothing is trained."""

    class Asked(Exception):
        pass

    def ask(store, recipes, make):
        [recipe] = recipes
        asked.append(recipe)
        if recipe.kind == "pair":
            raise Asked
        return [verbs._pack_teacher(as_trained(recipe.configuration["model"]), drawn)]

    class Drawn(Task):  # the data set may not be here
        name, n_classes = "drawn", recipes.image_task(settings).n_classes
        input_shape = recipes.image_task(settings).input_shape

        def batches(self, seed, batch_size, device="cpu", role="teacher"):
            raise AssertionError("nothing is trained")

        def split(self, name, device="cpu"):
            return Batch(torch.rand(2, *self.input_shape), torch.zeros(2, dtype=torch.int64))

        def fingerprint(self):
            return {"task": self.name}

    asked, drawn = [], Drawn()
    with monkeypatch.context() as patched:
        patched.setattr(verbs.Store, "get_all", ask)
        patched.setattr(verbs.Entry, "check_task", lambda *_: None)  # which would look at the data set
        with pytest.raises(Asked):
            recipes.loading_pair(settings, seed)
    return [recipe.key for recipe in asked]


def first_pair_of_notebook_00(preset):
    """What its cell asks for: settings and seed."""
    found = []

    class Recorder:
        def image_task(self, settings):
            return None

        def loading_pair(self, settings, seed):
            found.append((settings, seed))
            raise StopIteration

    notebook = nbformat.read(paths.notebooks() / "00_start_here.ipynb", as_version=4)
    [cell] = [cell.source for cell in notebook.cells if "recipes.loading_pair(" in cell.source]
    names = {"settings": StartHereSettings.load(preset), "recipes": Recorder(), "LoadingSettings": LoadingSettings}
    with pytest.raises(StopIteration):
        exec(cell, names)
    return found[0]


@presets
def test_notebooks_00_and_04_share_the_first_pair(preset, monkeypatch):
    settings = LoadingSettings.from_notebook({"preset": preset})
    keys = pair_key(*first_pair_of_notebook_00(preset), monkeypatch)
    assert keys == pair_key(settings, settings.seeds[0], monkeypatch)
    assert len(set(keys)) == 2  # a teacher and a pair
    assert keys != pair_key(settings, settings.seeds[0] + 1, monkeypatch)


@presets
def test_the_curricula_that_notebook_02_writes_out_are_those_of_the_recipe(preset):
    cells = nbformat.read(paths.notebooks() / "02_distillation_curricula.ipynb", as_version=4).cells
    written = next(cell.source for cell in cells if cell.source.startswith("short, hard = "))
    names = vars(curriculum) | {"settings": CurriculaSettings.load(preset)}
    exec(compile(written, "notebook 02", "exec"), names)
    recipe = recipes.parity_curricula(names["settings"])
    assert names["curricula"] == {name: one.for_blocks(1) for name, one in recipe.items()}
