"""Whatever a reader's function gives, a check refuses it in words of its own: no other exception comes out."""

import inspect
import pkgutil
from importlib import import_module

import numpy as np
import pytest

from pwl_lab import exercises
from pwl_lab.support.errors import ExerciseError

MODULES = [import_module(f"pwl_lab.exercises.{found.name}") for found in pkgutil.iter_modules(exercises.__path__)]
CHECKS = {
    f"{module.__name__.rpartition('.')[2]}.{name}": check
    for module in MODULES
    for name, check in vars(module).items()
    if inspect.isfunction(check) and check.__module__ == module.__name__ and not name.startswith("_")
    if list(inspect.signature(check).parameters)[:1] == ["answer"]
}
ANSWERS = {"number": 3.0, "word": "x", "list": [], "mapping": {}, "array": np.ones(3), "mappings": [{}]}


def test_every_notebook_has_checks():
    assert len(CHECKS) >= 20
    assert {name.split(".")[0] for name in CHECKS} >= {"start_here", "batch_report", "sample_complexity"}


@pytest.mark.parametrize("given", ANSWERS.values(), ids=list(ANSWERS))
@pytest.mark.parametrize("check", CHECKS.values(), ids=list(CHECKS))
def test_an_answer_of_another_type_is_refused(check, given):
    def answer(*_):
        return given

    with pytest.raises(ExerciseError):
        check(answer)
