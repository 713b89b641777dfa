"""Who draws from which random stream: nobody from another's, whatever is trained, and no seed is computed with."""

import ast
import json
import re
import sys
from collections import defaultdict
from itertools import islice
from pathlib import Path

import pytest
import torch
from sources import ROOT
from toys import distil_cohort

from pwl_lab.distill.curriculum import extracted, from_labels, one_shot, progressive
from pwl_lab.distill.probes import CorrelationProbe, probe_projections
from pwl_lab.models import mlp, vgg
from pwl_lab.study import intervals, verbs
from pwl_lab.study.two_phase import two_phase
from pwl_lab.support import config, seeding
from pwl_lab.tasks.images import ImageTask
from pwl_lab.tasks.parity import SparseParity
from pwl_lab.training import TrainPlan

LIBRARY = Path(config.__file__).parent
SEEDS = range(3)
PLAN = TrainPlan(steps=3, batch_size=32, lr=0.01, keep_checkpoints=True, eval_every=1)
CURRICULA = {
    "labels": from_labels(),
    "one_shot": one_shot(),
    "progressive": progressive(at_steps=[1], steps=1),
    "extracted": extracted(1),
}
# In these files a frame only passes on what its caller draws.
PASSES_ON = (
    "seeding.py",
    "tasks/base.py",
    "tasks/vision.py",
    "tasks/splits.py",
    "tasks/datasets.py",
    "models/blocknet.py",
)


def drawer(frame):
    """Whose stream is opened: the first function of the package that does not draw for somebody else."""
    while frame is not None:
        path, name = Path(frame.f_code.co_filename), frame.f_code.co_qualname
        if path.is_relative_to(LIBRARY):
            inside = path.relative_to(LIBRARY).as_posix()
            if inside not in PASSES_ON and not name.endswith(".batches") and name not in ("make_pair", "<lambda>"):
                split = frame.f_locals.get("name") if name.endswith(".split") else ""
                return f"{inside}:{name} {split}".strip()
        frame = frame.f_back
    return "the reader"


@pytest.fixture
def opened(monkeypatch):
    """Who opened which stream, (seed, name, role), since the test began."""
    real, found = seeding.stream_seed, defaultdict(set)

    def watched(seed, name, role="teacher"):
        found[int(seed), name, role].add(drawer(sys._getframe(1)))
        return real(seed, name, role)

    monkeypatch.setattr(seeding, "stream_seed", watched)
    return found


@pytest.fixture
def samples(monkeypatch):
    """Every sample of a parity task and who drew it."""
    real, found = SparseParity.draw, defaultdict(set)

    def watched(task, n, random):
        batch, who = real(task, n, random), (drawer(sys._getframe(1)), random.initial_seed())
        for row in batch.inputs.to(torch.int8).numpy():
            found[row.tobytes()].add(who)
        return batch

    monkeypatch.setattr(SparseParity, "draw", watched)
    return found


def everything(task, teacher, student, seed):
    """Every verb of the study at one seed."""
    trained = verbs.fit(teacher, task, PLAN, seed)
    distil_cohort(trained, student, task, CURRICULA, [seed], PLAN, data_seed=seed)
    for curriculum in (None, *CURRICULA.values()):
        verbs.train_pair(trained, student, task, PLAN, seed=seed, device="cpu", curriculum=curriculum)
    return trained


def test_no_two_draw_the_same_samples(opened, samples, tmp_path, monkeypatch):
    monkeypatch.setenv("PWL_LAB_STORE", str(tmp_path))
    for seed in SEEDS:
        task = SparseParity(60, 3, seed=seed, eval_samples=64)
        trained = everything(task, mlp(task, 16, depth=2), mlp(task, 8, depth=2), seed)
        for target in ("hidden", "labels"):
            two_phase(task, trained.model, 8, [64], seed, target, outer_samples=64)
        probe = CorrelationProbe.draw(task, 64, off_subsets=5, seed=seed)
        probe_projections(trained.model, probe, 4, [seed], block=2)
    intervals.median_interval([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    intervals.slope_interval({1.0: [1.0, 2.0], 2.0: [2.0, 3.0]})
    assert len(samples) > 3_000
    # Pairs that differ in their curriculum are compared on the same samples: they draw as one.
    shared = {frozenset(who) for who in samples.values() if len(who) > 1}
    assert not shared, f"drawn by several: {shared}"
    _each_by_one(opened)


def test_no_two_see_the_same_images_in_the_same_order(opened, tmp_path, monkeypatch):
    monkeypatch.setenv("PWL_LAB_STORE", str(tmp_path))
    for seed in SEEDS:
        task = ImageTask("digits", n_train=300, subset_seed=seed)
        everything(task, vgg(task, (4, 4), (1, 1)), vgg(task, (3, 3), (1, 1)), seed)
    _each_by_one(opened)
    drawn = [(seed, role) for seed, name, role in opened if name == "order"]
    assert {role for _, role in drawn} == {"teacher", "student", "pair", "calibration"}
    first = {who: next(ImageTask("digits", 300).batches(who[0], 32, role=who[1])) for who in drawn}
    assert len({batch.inputs.numpy().tobytes() for batch in first.values()}) == len(drawn)
    assert len({tuple(batch.labels.tolist()) for batch in first.values()}) == len(drawn)
    augments = {
        torch.rand(9, generator=seeding.generator(seed, "augment", role)).numpy().tobytes() for seed, role in drawn
    }
    assert len(augments) == len(drawn)


def _each_by_one(opened):
    """A stream has one purpose. (Students of a seed begin alike, however they are trained; so do converters.)"""
    several = {
        stream: who for stream, who in opened.items() if len(who) > 1 and stream[1] not in ("student", "converters")
    }
    assert not several, f"opened by several: {several}"


@pytest.mark.parametrize("task", [SparseParity(60, 3), ImageTask("digits", 300)], ids=["parity", "images"])
def test_batches_follow_their_role(task):
    drawn = [list(islice(task.batches(0, 30, role=role), 3)) for role in ("teacher", "student", "pair", "pair")]
    alike = [[torch.equal(a.inputs, b.inputs) for a, b in zip(one, drawn[-1], strict=True)] for one in drawn]
    assert alike == [[False] * 3, [False] * 3, [True] * 3, [True] * 3]


def test_the_batches_of_teachers_are_what_they_always_were():
    # Stored teachers depend on it.
    task, random = SparseParity(20, 3), torch.Generator().manual_seed(seeding.stream_seed(5, "data"))
    assert torch.equal(next(task.batches(5, 16)).inputs, task.draw(16, random).inputs)


SEED = re.compile(r"(^|_)seed$")
OUTSIDE = re.compile(r"\b(?:manual_seed|default_rng|Generator\(|np\.random\.(?!Generator)|RandomState|import random\b)")


def code():
    """Every piece of Python that a reader may see: package, scripts, cells of notebooks."""
    for path in sorted([*(ROOT / "pwl_lab").rglob("*.py"), *(ROOT / "scripts").rglob("*.py")]):
        yield path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8")
    for path in sorted((ROOT / "notebooks").rglob("*.ipynb")):
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            if cell["cell_type"] == "code":
                text = "".join(cell["source"])
                lines = [line for line in text.splitlines() if not line.startswith(("%", "!"))]
                yield f"{path.relative_to(ROOT).as_posix()}:{cell['id']}", "\n".join(lines)


def computed_seeds(text):
    """Every place where a seed is computed with."""
    for node in ast.walk(ast.parse(text)):
        operands = ()
        if isinstance(node, ast.BinOp):
            operands = (node.left, node.right)
        elif isinstance(node, ast.AugAssign):
            operands = (node.target, node.value)
        elif isinstance(node, ast.UnaryOp) and not isinstance(node.op, ast.Not):
            operands = (node.operand,)
        elif isinstance(node, ast.Call) and _called(node) in (
            "generator",
            "numpy_generator",
            "initialisation",
            "batches",
        ):
            operands = [part for one in node.args[:1] for part in ast.walk(one) if isinstance(part, ast.BinOp)]
            yield from (ast.unparse(node) for _ in operands)
            continue
        if any(SEED.search(getattr(one, "id", getattr(one, "attr", ""))) for one in operands):
            yield ast.unparse(node)


def _called(node):
    return getattr(node.func, "id", getattr(node.func, "attr", ""))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("generator(seed * 1_009 + block, 'probe')", True),
        ("task.batches(data_seed + 2_000_003, 128)", True),
        ("2 * self.seed", True),
        ("seed += 1", True),
        ("generator(100 + n, 'data')", True),
        ("generator(seed, 'data', f'block {n}')", False),
        ("[seed for seed in seeds]", False),
        ("if not seed: pass", False),
    ],
)
def test_the_search_finds_seeds_that_are_computed_with(text, found):
    assert bool(list(computed_seeds(text))) == found


def test_no_seed_is_computed_with():
    found = {where: list(computed_seeds(text)) for where, text in code()}
    assert {where: what for where, what in found.items() if what} == {}


def test_only_one_module_makes_random_generators():
    found = {where: OUTSIDE.findall(text) for where, text in code() if where != "pwl_lab/support/seeding.py"}
    # Notebook 00b is plain PyTorch: there a reader seeds as one does without the package. Generators are made nowhere.
    plain = [where for where in found if where.startswith("notebooks/00b_from_scratch.ipynb:")]
    assert {call for where in plain for call in found.pop(where)} == {"manual_seed"}
    assert {where: what for where, what in found.items() if what} == {}
