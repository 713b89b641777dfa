"""Every widget for tasks without pictures: it shows what it is given, or says in plain words that it needs pictures."""

import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from scored import some_predictions
from toys import LANGUAGE_STUDENT, LANGUAGE_TEACHER, PLAN, ToyStrings

from pwl_lab import widgets
from pwl_lab.distill.curriculum import extracted, one_shot
from pwl_lab.models import mlp
from pwl_lab.study.recipes import (
    MOST_SHOWN,
    Workbench,
    drawn_predictions,
    sample_predictions,
    soft_targets,
    string_predictions,
)
from pwl_lab.study.results import DistillationRuns, Pair
from pwl_lab.study.verbs import distill, train_or_load, train_pair
from pwl_lab.support.errors import InvalidValueError
from pwl_lab.support.seeding import generator
from pwl_lab.tasks.base import Batch, Task
from pwl_lab.training import TrainedModel

PREFIX = ["SSS", "TSS", "TTS", "TTT"]
HERE = r"\(test_without_pictures\.py, line \d+\)"


class Units(Task):
    """Is the sum of a few numbers above zero? The shape of the inputs is the subclass's."""

    name, input_shape, n_classes = "sums", (6,), 2

    def draw(self, samples: int, random: torch.Generator) -> Batch:
        inputs = torch.randn(samples, *self.input_shape, generator=random)
        return Batch(inputs, (inputs.flatten(1).sum(dim=1) > 0).long())

    def batches(self, seed: int, batch_size: int, device: str = "cpu", role: str = "teacher") -> Iterator[Batch]:
        random = generator(seed, "data", role)
        while True:
            yield self.draw(batch_size, random)

    def split(self, name: str, device: str = "cpu") -> Batch:
        return self.draw(60, generator(0, "evaluation", name))

    def fingerprint(self) -> dict[str, Any]:
        return {"task": self.name, "shape": list(self.input_shape)}


class Series(Units):
    """Three quantities at twenty times."""

    name, input_shape = "series", (3, 20)


class Strings(ToyStrings):
    """Padded, with a label for each token."""


class Made(NamedTuple):
    """What the verbs make of a task."""

    task: Task
    teacher: TrainedModel
    runs: DistillationRuns
    pair: Pair
    folder: Path


TASKS = {"units": Units(), "strings": Strings(), "series": Series()}


@pytest.fixture(scope="module", params=TASKS)
def made(request, tmp_path_factory) -> Iterator[Made]:
    folder = tmp_path_factory.mktemp(request.param)
    task = TASKS[request.param]
    models = LANGUAGE_TEACHER, LANGUAGE_STUDENT
    if request.param != "strings":
        models = mlp(task, width=12, depth=3), mlp(task, width=5, depth=3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PWL_LAB_STORE", str(folder / "store"))
        teacher = train_or_load(models[0], task, PLAN, device="cpu")
        runs = distill(teacher, models[1], task, CURRICULA, [0, 1], PLAN, device="cpu")
        pair = train_pair(teacher, models[1], task, PLAN, device="cpu", to_export=True)
        yield Made(task, teacher, runs, pair, folder)


CURRICULA = {"one_shot": one_shot(), "extracted": extracted(steps=4)}


def groups(made: Made) -> list[Any]:
    return [string_predictions(made.pair, 4, kind=kind) for kind in ("drawn", "picked")]


def bench_of(made: Made) -> Workbench:
    student = made.runs.student_config
    return Workbench(made.task, made.teacher, student, PLAN, (0, 1), 4, CURRICULA, made.runs)


def index_of(made: Made) -> Any:
    return made.pair.export(made.folder / "bundle")


SHOWN: dict[str, Callable[[Made, bool], Any]] = {
    "layer_loader": lambda made, live: widgets.layer_loader(made.pair, groups(made)[1], live),
    "picture_chooser": lambda made, live: widgets.picture_chooser(made.pair, groups(made), live),
    "curriculum_explorer": lambda made, live: widgets.curriculum_explorer(made.runs, interactive=live),
    "curriculum_builder": lambda made, live: widgets.curriculum_builder(bench_of(made), live),
    "loading_timeline": lambda made, live: widgets.loading_timeline(index_of(made), (1,), ("prefix",), live),
}
REFUSED: dict[str, tuple[Callable[[Made, bool], Any], str]] = {
    "own_picture": (lambda made, live: widgets.own_picture(made.pair, made.task, live), "an ImageTask"),
    "temperature_slider": (
        lambda made, live: widgets.temperature_slider(soft_targets(made.teacher, made.task, 1), interactive=live),
        "a task with pictures",
    ),
}
ELSEWHERE = {
    "checkpoint_slider": "of the bits of a parity, whatever network is trained on them: tests/widgets/test_explorer.py",
    "loading_page": "of a bundle of images, and says so of any other: tests/loading",
}


def test_no_widget_is_left_out():
    functions = {name for name in widgets.__all__ if inspect.isfunction(getattr(widgets, name))}
    assert functions == {*SHOWN, *REFUSED, *ELSEWHERE}


@pytest.mark.parametrize("live", [True, False])
@pytest.mark.parametrize("name", SHOWN)
def test_a_widget_shows_a_task_without_pictures(made, name, live):
    assert SHOWN[name](made, live) is not None


@pytest.mark.parametrize("live", [True, False])
@pytest.mark.parametrize("name", REFUSED)
def test_a_widget_that_needs_pictures_names_the_task(made, name, live):
    show, words = REFUSED[name]
    with pytest.raises(InvalidValueError, match=rf"task = '{type(made.task).__name__} {HERE}' is not allowed: {words}"):
        show(made, live)


@pytest.mark.parametrize("recipe", [sample_predictions, drawn_predictions])
def test_pictures_of_a_task_without_any_are_refused(made, recipe):
    with pytest.raises(InvalidValueError, match=rf"{type(made.task).__name__} {HERE}.*string_predictions shows"):
        recipe(made.pair, made.task)


def test_the_chooser_says_what_each_mask_predicts(made):
    chooser, (drawn, picked) = widgets.picture_chooser(made.pair, groups(made)), groups(made)
    group, number = chooser.controls
    assert (group.description, number.description, number.max) == ("Samples", "Sample", 4)
    pictures = set()
    for kind, samples in (("drawn at random", drawn), ("picked because they change", picked)):
        for place, string in enumerate(samples.strings):
            group.value, number.value = kind, place + 1
            numbers = [token.number for token in string if token.number is not None]
            said = {
                mask: " ".join(
                    f"{samples.class_names[int(samples.predicted[mask][i])]} {float(samples.confidence[mask][i]):.0%}"
                    for i in numbers
                )
                for mask in PREFIX
            }
            words = "; ".join(f"{mask} {one}" for mask, one in said.items())
            label = " ".join(samples.class_names[int(samples.labels[i])] for i in numbers)
            assert f"Label: {label}. {words}." in chooser.words.value
            assert " ".join(token.symbol for token in string) in chooser.words.value
            pictures.add(bytes(chooser.picture.value))
    assert len(pictures) >= 4


def test_a_sample_of_any_shape_is_a_row_of_its_first_numbers(made):
    samples, inputs = string_predictions(made.pair, 3, kind="drawn"), made.task.split("test").inputs
    if isinstance(made.task, Strings):
        assert max(len(string) for string in samples.strings) <= 9
        return
    for row, wanted in zip(samples.strings, inputs.flatten(1).tolist(), strict=False):
        more = ["…"] if len(wanted) > MOST_SHOWN else []
        assert [token.symbol for token in row] == [*(f"{one:.3g}" for one in wanted[:MOST_SHOWN]), *more, "?"]


def test_groups_of_pictures_and_of_strings_do_not_share_a_widget(made):
    with pytest.raises(InvalidValueError, match="all of pictures or all of strings"):
        widgets.picture_chooser(made.pair, [some_predictions(), groups(made)[0]])
