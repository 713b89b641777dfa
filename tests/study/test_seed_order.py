"""Whatever has one value for each seed keeps the order in which the seeds were given, and is joined by the seed's name."""

import ast
import json
from pathlib import Path

import nbformat
import pandas as pd
import pytest
import toys
from hypothesis import given, settings
from hypothesis import strategies as st
from sources import ROOT
from toys import distil_cohort

from pwl_lab.distill.curriculum import extracted, from_labels
from pwl_lab.models import mlp
from pwl_lab.runner.report import BatchReport, MetricColumns
from pwl_lab.study import complexity
from pwl_lab.study import tables as analysis
from pwl_lab.study.settings import ComplexitySettings
from pwl_lab.tasks.parity import SparseParity
from pwl_lab.training import TrainPlan

NOTEBOOKS = sorted((ROOT / "notebooks").rglob("*.ipynb"))
MODULES = sorted((ROOT / "pwl_lab").rglob("*.py"))
SORTS_WITH_REASON = {"targets.py"}  # its own numbering of projections, by which it also reads

orders = st.lists(st.integers(0, 40), min_size=1, max_size=6, unique=True)


def _code(path: Path) -> str:
    if path.suffix == ".py":
        return path.read_text(encoding="utf-8")
    cells = [cell.source for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]
    return "\n".join(line for cell in cells for line in cell.splitlines() if not line.startswith("%"))


@pytest.mark.parametrize("path", [*NOTEBOOKS, *MODULES], ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_is_put_in_order_of_seeds(path: Path) -> None:
    for call in [node for node in ast.walk(ast.parse(_code(path))) if isinstance(node, ast.Call)]:
        name = getattr(call.func, "attr", getattr(call.func, "id", ""))
        about_seeds = "seed" in ast.unparse(ast.Tuple(call.args, ast.Load()))
        if name == "groupby" and about_seeds:
            assert "sort=False" in ast.unparse(call), ast.unparse(call)
        if name in ("sorted", "sort_values") and path.name not in SORTS_WITH_REASON:
            assert not about_seeds, ast.unparse(call)


@settings(max_examples=60)
@given(seeds=orders, data=st.data())
def test_lists_of_a_history_go_with_the_seeds_as_given(seeds: list[int], data: st.DataObject) -> None:
    steps = data.draw(st.lists(st.sampled_from([10, 20, 30, None]), min_size=len(seeds), max_size=len(seeds)))
    lost = data.draw(st.sets(st.sampled_from(seeds)))
    truth = dict(zip(seeds, steps, strict=True))
    rows = [
        {
            "curriculum": name,
            "seed": seed,
            "step": step,
            "accuracy": float("nan") if seed in lost and step == 30 else accuracy,
        }
        for step in (0, 10, 20, 30)
        for name in ("b", "a")
        for seed in seeds
        for accuracy in [0.9 + seed / 1000 if truth[seed] is not None and step >= truth[seed] else 0.5 + seed / 1000]
    ]
    history = pd.DataFrame(rows)
    reached = [None if seed in lost else truth[seed] for seed in seeds]
    assert analysis.steps_to_threshold(history, 0.9) == {"b": reached, "a": reached}
    assert analysis.steps_by_seed(history, 0.9)["a"] == dict(zip(seeds, reached, strict=True))
    last = [None if seed in lost else (0.5 if truth[seed] is None else 0.9) + seed / 1000 for seed in seeds]
    assert analysis.final_accuracy(history)["b"] == last


@settings(max_examples=40)
@given(seeds=orders)
def test_rows_of_masks_keep_the_order_too(seeds: list[int]) -> None:
    masks = pd.concat(
        [analysis.mask_table({"test": {"S": seed / 100, "T": 0.5 + seed / 100}}, [4], seed) for seed in seeds],
        ignore_index=True,
    )
    curves = analysis.order_curves(masks, {"prefix": ["S", "T"]})
    assert curves["seed"].unique().tolist() == seeds
    assert (curves.loc[curves["mask"] == "S", "accuracy"] * 100).round().tolist() == seeds


def test_students_are_those_of_their_own_seed_in_any_order() -> None:
    def found(seeds):
        task = SparseParity(6, 2, eval_samples=256)
        student, teacher = mlp(task, width=6), toys.as_trained(mlp(task, width=12))
        curricula = {"labels": from_labels(), "extracted": extracted(5)}
        result = distil_cohort(
            teacher, student, task, curricula, seeds, TrainPlan(steps=20, batch_size=8, eval_every=5)
        )
        return {
            name: dict(zip(seeds, list_, strict=True))
            for name, list_ in analysis.final_accuracy(result.history).items()
        }

    assert found([7, 0, 3]) == found([0, 3, 7])


def test_sample_complexity_names_each_point_by_its_seed() -> None:
    sizes = {"sizes": [6], "k_sparse": 2, "teacher_width": 64, "teacher_max_steps": 600, "budget_steps": 600}
    tables = [
        complexity.over_sizes(ComplexitySettings.load("smoke", size_seeds=3, seeds=seeds, **sizes))
        for seeds in ([3, 1, 2], [1, 2, 3])
    ]
    assert [sorted(table["seed"].unique()) for table in tables] == [[1_001, 1_002, 1_003]] * 2
    one = tables[0][tables[0]["curriculum"] == "one_shot"]
    assert one["seed"].tolist() == [1_003, 1_001, 1_002], "as the seeds were given"


@settings(max_examples=60)
@given(seeds=orders, named=st.booleans())
def test_a_report_finds_each_value_at_its_seed(seeds: list[int], named: bool) -> None:
    values = {str(seed): {"a": seed * 10} for seed in sorted(seeds)} if named else {"a": [seed * 10 for seed in seeds]}
    metrics = {"seeds": seeds, "found": values, "made": {"per_seed": ["found"]}}
    columns = MetricColumns(1)
    assert columns.take_in(json.dumps(metrics).encode(), 0) == ""
    points = pd.DataFrame({"hash": ["x"], "status": "ok", "seconds": 1.0, "note": "", "seed": None} | columns.found)
    if len(seeds) == 1:
        points["seed"] = seeds
    batch = BatchReport("", "", None, (), points, pd.DataFrame(), frozenset(columns.per_seed))
    found = batch.values("found.a")
    assert dict(zip(found["seed"], found["value"], strict=True)) == {seed: seed * 10 for seed in seeds}
