"""The teacher that ships for notebook 02's harder task: it knows the task, and only that task gets it."""

import shutil

import pytest

from pwl_lab.study import harder_task
from pwl_lab.study.settings import CurriculaSettings
from pwl_lab.support import paths
from pwl_lab.support.errors import InvalidValueError, MissingDataError
from pwl_lab.tasks.base import accuracy, split_of
from pwl_lab.training import predict

LESSON = CurriculaSettings.load("lesson", device="cpu")


def test_the_shipped_teacher_and_its_checkpoints_are_as_accurate_as_they_say():
    teacher = harder_task.hard_teacher(LESSON)
    test, validation = (split_of(harder_task.hard_task(LESSON), name, "cpu") for name in ("test", "validation"))
    assert accuracy(predict(teacher.model, test.inputs), test.labels) == pytest.approx(teacher.test_accuracy, abs=1e-3)
    assert teacher.test_accuracy > 0.999
    for wanted in harder_task.CHECKPOINTS:
        checkpoint = teacher.checkpoint(at_accuracy=wanted)
        found = accuracy(predict(teacher.at(checkpoint), validation.inputs), validation.labels)
        assert found == pytest.approx(checkpoint.accuracy, abs=5e-3)


def test_another_task_has_to_train_its_teacher():
    with pytest.raises(InvalidValueError, match="hard_teacher"):
        CurriculaSettings.load("lesson", hard_n_bits=90)
    assert CurriculaSettings.load("lesson", hard_n_bits=90, hard_teacher="trained").hard_n_bits == 90


def test_weights_that_are_not_those_described_are_refused(tmp_path, monkeypatch):
    for path in paths.data().glob("parity_teacher.*"):
        shutil.copy(path, tmp_path)
    monkeypatch.setattr(paths, "data", lambda: tmp_path)
    with (tmp_path / "parity_teacher.safetensors").open("ab") as file:
        file.write(b"0")
    with pytest.raises(MissingDataError, match="not the file"):
        harder_task.hard_teacher(LESSON)
    (tmp_path / "parity_teacher.safetensors").unlink()
    with pytest.raises(MissingDataError, match="missing"):
        harder_task.hard_teacher(LESSON)
