"""Every configuration that a reader can build by hand refuses in the study's own words, never in pydantic's."""

import importlib
import inspect
import pkgutil

import pytest
from pydantic import ValidationError

import pwl_lab
from pwl_lab.study.settings import SETTINGS
from pwl_lab.support.config import Frozen, Settings
from pwl_lab.support.errors import InvalidValueError, UnknownNameError, invalid
from pwl_lab.training import TrainPlan

for found in pkgutil.walk_packages(pwl_lab.__path__, "pwl_lab."):
    if not found.name.startswith(("pwl_lab.exercises", "pwl_lab.runner.templates")):
        importlib.import_module(found.name)


def below(cls):
    return [each for child in cls.__subclasses__() for each in (child, *below(child))]


CLASSES = sorted(
    {cls for cls in below(Frozen) if not inspect.isabstract(cls) and cls.__module__.startswith("pwl_lab.")}
    - {Settings},
    key=lambda cls: cls.__qualname__,
)
FIELDS = [(cls, name) for cls in CLASSES for name in cls.model_fields]
each_class = pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
each_field = pytest.mark.parametrize(("cls", "name"), FIELDS, ids=lambda part: getattr(part, "__name__", part))


def test_all_are_found() -> None:
    names = {cls.__name__ for cls in CLASSES}
    assert {"TrainPlan", "Curriculum", "MLPConfig", "BundleIndex", "Retry", "PairLossConfig", "Augmentation"} <= names
    assert set(SETTINGS.values()) <= set(CLASSES)


@each_field
def test_a_misspelt_name_is_told_with_the_nearest_one(cls, name) -> None:
    wrong = name + "x"
    with pytest.raises(
        UnknownNameError, match=rf"unknown parameter of {cls.__name__}: '{wrong}'. Did you mean '{name}'"
    ):
        cls(**{wrong: 1})


@each_field
def test_a_value_of_no_kind_is_told_with_its_field(cls, name) -> None:
    with pytest.raises(InvalidValueError, match=rf"(^|; ){name}(\[0\])? = <object") as refusal:
        cls(**{name: object()})
    assert "pydantic" not in str(refusal.value)


@each_class
def test_what_is_missing_is_told(cls) -> None:
    needed = [name for name, field in cls.model_fields.items() if field.is_required()]
    if needed:
        with pytest.raises(InvalidValueError) as refusal:
            cls()
        assert all(f"{name} is missing: " in str(refusal.value) for name in needed)


@pytest.mark.parametrize("cls", [*SETTINGS.values(), TrainPlan], ids=lambda cls: cls.__name__)
def test_a_copy_is_checked_and_the_original_is_frozen(cls) -> None:
    one = cls(steps=5) if cls is TrainPlan else cls()
    assert one.model_copy() == one
    for name in cls.model_fields:
        with pytest.raises(UnknownNameError, match=f"Did you mean '{name}'"):
            one.model_copy(update={name + "x": 1})
        with pytest.raises(InvalidValueError, match=f"{name} = "):
            one.model_copy(update={name: object()})
        with pytest.raises(InvalidValueError, match=f"{name} = .*frozen"):
            setattr(one, name, 1)


def test_one_configuration_inside_another_is_checked_by_pydantic_alone() -> None:
    """What a file holds is refused as a whole, with the place: a class of ours in between would hide it."""
    from pwl_lab.loading.bundle import Shard

    with pytest.raises(ValidationError, match="bits"):
        Shard.model_validate({"block": 0, "bits": 5, "file": "a.safetensors", "bytes": 8, "sha256": "0" * 64})


def test_a_long_value_is_shown_in_part() -> None:
    assert len(str(invalid("seeds", list(range(100_000)), "fewer"))) < 600
    with pytest.raises(InvalidValueError, match="steps = a value of type int that is too long to show"):
        TrainPlan(steps=10**5000)
