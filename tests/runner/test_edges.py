"""Every parameter at its edges: refused by the same checks that the kernel would meet, and by nothing but them."""

import itertools
import json

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from pwl_lab.distill.probes import CorrelationProbe
from pwl_lab.distill.targets import random_projection
from pwl_lab.runner.grid import plan_grid
from pwl_lab.runner.parameters import read_notebook, resolve_parameters, series
from pwl_lab.study.settings import SETTINGS, CurriculaSettings, LoadingSettings, SparseParityTeacherSettings
from pwl_lab.support.config import Settings, _schema, _variants
from pwl_lab.support.errors import InvalidValueError
from pwl_lab.support.seeding import generator
from pwl_lab.tasks.augment import random_crop
from pwl_lab.tasks.datasets import DATASETS
from pwl_lab.tasks.parity import SparseParity

TRAINED = [cls for cls in SETTINGS.values() if cls.section != "batch_report"]  # a report reads a batch first


def edges(part) -> list:
    """The smallest and the largest values of a field, and what lies just outside."""
    found = []
    for variant in _variants(part):
        if "enum" in variant:
            found += variant["enum"]
        elif variant.get("type") in ("integer", "number"):
            step = 1 if variant["type"] == "integer" else 1e-6
            for name, sign in (("minimum", 1), ("maximum", -1), ("exclusiveMinimum", 1), ("exclusiveMaximum", -1)):
                if name in variant:
                    found += [variant[name], variant[name] - sign * step, variant[name] + sign * step]
        elif variant.get("type") == "boolean":
            found += [True, False]
        elif variant.get("type") == "array":
            inner = edges(variant["items"]) or [0]
            found += [[], *([value] for value in inner), [inner[0]] * 2, inner[:2], inner[:2] * 2]
    return found


def numbers(cls: type[Settings], preset: str) -> list:
    """Every whole number that the preset has somewhere: what is equal to another field's value is an edge, too."""
    return sorted({value for value in cls.load(preset).model_dump().values() if type(value) is int})


def allowed(ask) -> bool:
    try:
        ask()
    except InvalidValueError:
        return False
    return True


def single_edges(cls: type[Settings]) -> list[tuple[str, object]]:
    """Every field but the preset at each of its edges."""
    names = [name for name in cls.model_fields if name != "preset"]
    return [(name, value) for name in names for value in edges(_schema(cls)[name])]


@pytest.mark.parametrize("cls", TRAINED, ids=lambda cls: cls.section)
def test_every_edge_is_taken_or_refused_and_nothing_else(cls: type[Settings]) -> None:
    """Any other error than a refusal comes through `allowed`."""
    cases = single_edges(cls) + [(name, value) for name, _ in single_edges(cls) for value in numbers(cls, "smoke")]
    verdicts = {allowed(lambda: cls.load("smoke", **{name: value})) for name, value in cases}  # noqa: B023
    assert verdicts == {True, False}


def verdicts_of(path, cls: type[Settings], name: str, value: object, grid) -> dict[str, bool]:
    """Who would take this value: a run, a batch's dry run, the set-up cell in the kernel."""
    grid.write_text(f"{{notebook: {path.stem}, preset: smoke, parameters: {{{name}: {json.dumps(value)}}}}}")
    cell = f'preset = "smoke"\n{name} = {value!r}'
    return {
        "run": allowed(lambda: resolve_parameters(read_notebook(path), "smoke", {name: value})),
        "batch": allowed(lambda: plan_grid(grid)),
        "kernel": allowed(lambda: cls.from_notebook({"In": ["", cell]})),
    }


@pytest.mark.parametrize("path", series(), ids=lambda path: path.stem)
def test_a_run_a_dry_run_and_the_kernel_refuse_the_same(path, tmp_path) -> None:
    cls = SETTINGS[read_notebook(path)["metadata"]["pwl_lab"]["settings"]]
    for name, value in single_edges(cls)[::3] if cls in TRAINED else []:
        found = verdicts_of(path, cls, name, value, tmp_path / "grid.yaml")
        assert len(set(found.values())) == 1, (name, value, found)


@settings(max_examples=120, deadline=None)
@given(n_bits=st.integers(2, 24), k_sparse=st.integers(1, 20))
def test_what_the_settings_let_through_the_probe_can_draw(n_bits: int, k_sparse: int) -> None:
    assume(k_sparse <= 11)  # a probe of more takes a while; that too much is refused is told below
    sizes = {"n_bits": n_bits, "k_sparse": k_sparse}
    ask = {"probe_samples": 64, "off_subsets": 3}
    by_settings = allowed(lambda: SparseParityTeacherSettings.load("smoke", **sizes, **ask))
    also = allowed(lambda: CurriculaSettings.load("smoke", **sizes))
    by_probe = allowed(lambda: CorrelationProbe.draw(SparseParity(n_bits, k_sparse), samples=64, off_subsets=3))
    assert by_settings == also == by_probe


@pytest.mark.parametrize(
    ("cls", "sizes"),
    [
        (CurriculaSettings, {"k_sparse": 20, "n_bits": 50}),
        (SparseParityTeacherSettings, {"k_sparse": 20, "n_bits": 50}),
        (SparseParityTeacherSettings, {"probe_samples": 1_000_000, "off_subsets": 10_000}),
    ],
)
def test_a_probe_that_no_memory_holds_is_refused(cls, sizes) -> None:
    with pytest.raises(InvalidValueError, match=r"the probe would hold .* GB"):
        cls.load("smoke", **sizes)


@given(teacher=st.integers(1, 40), student=st.integers(1, 40))
def test_a_student_may_be_as_wide_as_an_orthogonal_projection_can_be(teacher: int, student: int) -> None:
    by_settings = allowed(lambda: CurriculaSettings.load("smoke", teacher_width=teacher, student_width=student))
    assert by_settings == allowed(lambda: random_projection(teacher, student, seed=0, orthogonal=True))


@pytest.mark.parametrize(("name", "padding"), list(itertools.product(["digits", "fashion-mnist-small"], range(9))))
def test_images_are_shifted_by_as_much_as_the_crop_can_do(name: str, padding: int) -> None:
    images = torch.zeros(2, *DATASETS[name].image_shape)
    sizes = {"dataset": name, "n_train": 128, "batch_size": 64, "crop_padding": padding}
    by_settings = allowed(lambda: LoadingSettings.load("smoke", **sizes))
    assert by_settings == allowed(lambda: random_crop(images, padding, generator(0, "augment")))
