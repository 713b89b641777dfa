"""What a reader of notebook 00b sees on the page computes what the package computes."""

import ast
import math
import re
from functools import partial
from itertools import islice, repeat
from types import SimpleNamespace
from typing import Any

import nbformat
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F
from toys import changed, snapshot

from pwl_lab.distill.curriculum import TeacherHidden, TeacherOutput
from pwl_lab.distill.losses import soft_loss, target_loss, teacher_probabilities
from pwl_lab.distill.targets import Projection
from pwl_lab.models import mlp, vgg
from pwl_lab.study.settings import FromScratchSettings
from pwl_lab.support import paths
from pwl_lab.support.errors import InvalidValueError
from pwl_lab.swap.masks import all_masks, random_masks
from pwl_lab.swap.orders import loading_orders
from pwl_lab.swap.pair_training import (
    PairLearner,
    PairLossConfig,
    cross_loss,
    feature_distance,
    make_boundaries,
    recon_loss,
    sync_loss,
)
from pwl_lab.swap.swapnet import SwapNet
from pwl_lab.tasks.base import Batch
from pwl_lab.tasks.images import ImageTask
from pwl_lab.tasks.parity import SparseParity
from pwl_lab.training import image_plan, learning_rate_factor, train

PAGE = nbformat.read(paths.notebooks() / "00b_from_scratch.ipynb", as_version=4)
CONSTANTS = ("TEACHER", "STUDENT", "ON_THE_WAY", "MIXES")
SEEDS = st.integers(0, 2**31)
IMAGES, PARITY = ImageTask(), SparseParity(n_bits=12, k_sparse=4, eval_samples=64)
few = settings(max_examples=8)


def page(**names: Any) -> dict[str, Any]:
    """The functions and constants that the notebook's cells define, and nothing else of them; `names` join their globals.

    The functions look their globals up in what is returned: a name that is set there is theirs.
    """
    space = {"torch": torch, "nn": nn, "F": F, "math": math, **names}
    for cell in PAGE.cells:
        if cell.cell_type != "code":
            continue
        plain = "\n".join(line for line in cell.source.splitlines() if not line.startswith("%"))
        for node in ast.parse(plain).body:
            constant = isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) in CONSTANTS
            if isinstance(node, ast.FunctionDef) or constant:
                exec(compile(ast.Module([node], []), "00b_from_scratch", "exec"), space)
    return space


def normal(seed: int, *shape: int) -> Tensor:
    """Noise of this shape."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def image_batch(seed: int, samples: int = 6) -> Batch:
    """Noise in the shape of the images, with labels."""
    return Batch(normal(seed, samples, 1, 28, 28), torch.arange(samples) % 10)


def both_pairs(seed: int) -> tuple[dict[str, Any], SwapNet]:
    """The page with a pair of its own, and the package's with the same initial weights: both draw them in the same order."""
    ours = page()
    torch.manual_seed(seed)
    ours["teacher"], ours["student"] = (ours["four_blocks"](*ours[name]) for name in ("TEACHER", "STUDENT"))
    channels = list(zip(ours["TEACHER"][0], ours["STUDENT"][0], strict=True))[:3]
    ours["encoders"] = nn.ModuleList(nn.Conv2d(large, small, 1) for large, small in channels)
    ours["decoders"] = nn.ModuleList(nn.Conv2d(small, large, 1) for large, small in channels)
    ours["teacher"].eval().requires_grad_(False)
    torch.manual_seed(seed)
    teacher, student = (vgg(IMAGES, *ours[name]).make() for name in ("TEACHER", "STUDENT"))
    return ours, SwapNet(teacher, student, IMAGES.input_shape)


def parameters_of(ours: dict[str, Any]) -> list[nn.Parameter]:
    """What the page trains of a pair."""
    return [p for name in ("student", "encoders", "decoders") for p in ours[name].parameters()]


def test_no_student_can_have_the_seed_of_the_parity_teacher() -> None:
    seeded = [found for cell in PAGE.cells for found in re.findall(r"manual_seed\((.*?)\)", cell.source)]
    assert set(seeded[1:]) == {"seed", "settings.seeds[0]"}
    with pytest.raises(InvalidValueError, match="seeds"):
        FromScratchSettings.load("smoke", seeds=(eval(seeded[0]),))


@given(SEEDS)
@few
def test_the_label_is_the_package_s(seed: int) -> None:
    ours = page(n=PARITY.n_bits, support=torch.tensor(PARITY.support))
    torch.manual_seed(seed)
    x, y = ours["draw"](32)
    assert x.shape == (32, PARITY.n_bits)
    assert torch.equal(PARITY.labels(x), y)
    assert 0 < y.sum() < 32


@given(SEEDS)
@few
def test_the_projected_target_and_its_loss_are_the_package_s(seed: int) -> None:
    ours = page(n=PARITY.n_bits, support=torch.tensor(PARITY.support), settings=SimpleNamespace(teacher_width=40))
    torch.manual_seed(seed)
    teacher, student = ours["two_layers"](40), ours["two_layers"](8)
    theirs = mlp(PARITY, 40).make()
    theirs.load_state_dict(dict(zip(theirs.state_dict(), teacher.state_dict().values(), strict=True)))
    ours["parity_teacher"] = teacher.requires_grad_(False)
    P, x, (calibration, _) = ours["random_projection"](8), ours["draw"](32)[0], ours["draw"](512)
    ours["draw"] = lambda samples: (calibration, None)  # the mean and the scale are measured on the same inputs
    target = ours["hidden_target"](P)

    [state], logits = theirs.requires_grad_(False).hidden_states(x)
    projection = Projection.fit(P.unsqueeze(0), theirs.hidden_states(calibration)[0][0])
    torch.testing.assert_close(target(x), projection(state)[0], rtol=1e-4, atol=1e-4)
    wanted = target_loss(TeacherHidden(block=1), student[:2](x).unsqueeze(0), projection(state))[0]
    torch.testing.assert_close(ours["hidden_loss"](target)(student, x, None), wanted, rtol=1e-4, atol=1e-4)
    decisions = teacher_probabilities(logits, 0.0)
    wanted = target_loss(TeacherOutput(temperature=0.0), student(x).unsqueeze(0), decisions)[0]
    torch.testing.assert_close(ours["decision_loss"](student, x, None), wanted)


@given(SEEDS, st.integers(1, 9), st.floats(0.1, 5))
@few
def test_distance_and_soft_loss_are_the_package_s(seed: int, samples: int, size: float) -> None:
    ours = page()
    a, b = (size * normal(seed + shift, samples, 3, 4, 5) for shift in (0, 1))
    torch.testing.assert_close(ours["distance"](a, b), feature_distance(a, b), rtol=1e-4, atol=1e-4)
    a, b = (size * normal(seed + shift, samples, 10) for shift in (0, 1))
    torch.testing.assert_close(ours["soft_loss"](a, b), soft_loss(a, b, temperature=2.0))


@given(SEEDS)
@few
def test_every_mask_runs_as_in_the_package(seed: int) -> None:
    ours, theirs = both_pairs(seed)
    ours["student"].eval()
    x = image_batch(seed).inputs
    with torch.no_grad():
        for mask in all_masks(4):
            assert torch.equal(ours["run"](mask, x), theirs.eval()(x, mask)), mask


def test_the_masks_are_drawn_as_in_the_package() -> None:
    ours, theirs = page(), random_masks(4, "alternating", torch.Generator().manual_seed(1))
    assert ours["ON_THE_WAY"] == loading_orders(4)["prefix"][1:-1]
    drawn, wanted = (list(islice(masks, 1_000)) for masks in (ours["masks_in_turn"](), theirs))
    for turn, pool in enumerate((ours["ON_THE_WAY"], all_masks(4)[1:-1])):
        assert set(drawn[turn::2]) == set(wanted[turn::2]) == set(pool)


@given(SEEDS, st.sampled_from([mask for mask in all_masks(4)[:-1] if mask[0] == "T"]))
@few
def test_sync_recon_and_cross_are_the_package_s(seed: int, mask: str) -> None:
    ours, theirs = both_pairs(seed)
    x = image_batch(seed).inputs
    *h_teacher, logits = ours["states"](ours["teacher"], x)
    *h_student, _ = ours["states"](ours["student"], x)
    boundaries = make_boundaries(
        theirs.converters, theirs.teacher.hidden_states(x)[0], theirs.student.hidden_states(x)[0]
    )
    found = ours["sync_loss"](h_teacher, h_student), ours["recon_loss"](h_teacher, h_student)
    wanted = sync_loss(boundaries), recon_loss(theirs.converters, boundaries)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
    wanted = cross_loss(theirs, boundaries, [mask], logits, temperature=2.0)
    torch.testing.assert_close(ours["cross_loss"](mask, x, logits), wanted, rtol=1e-4, atol=1e-4)
    assert ours["student"].training


@pytest.mark.parametrize("steps", [20, 157, 314])
def test_the_learning_rate_is_the_package_s(steps: int) -> None:
    plan, ours = image_plan(steps, lr=0.1), page()["cosine"](steps)
    for step in range(steps):
        assert ours(step) == pytest.approx(learning_rate_factor(plan, step), abs=0.002)  # whose lowest is a thousandth


@pytest.mark.parametrize("mask", ["TSSS", "TTST"])
def test_training_a_pair_as_on_the_page_gives_the_weights_that_the_package_gives(mask: str) -> None:
    ours, theirs = both_pairs(3)
    batches = [image_batch(seed, samples=16) for seed in range(6)]
    before = snapshot(ours["teacher"])
    plan = image_plan(12, lr=0.1)
    ours |= {
        "masks": repeat(mask),
        "train_set": range(6 * 64),
        "cosine": lambda steps: partial(learning_rate_factor, plan),
    }
    ours["batches"] = lambda epochs: ((batch.inputs, batch.labels) for batch in batches * epochs)
    ours["minimise"](ours["pair_loss"], parameters_of(ours), 2)
    assert changed(before, snapshot(ours["teacher"])) == set(), "batch norms and all"

    config = PairLossConfig(sync=0.25, cross=4, masks={mask: 1.0}, cross_passes=1, cross_groups=1, freeze_norm_at=1.0)
    learner = PairLearner(theirs, config, image_batch(99), seed=0, steps=12)
    train(learner, iter(batches * 2), plan, "pair")
    wanted = [parameter for group in learner.parameter_groups(0.1) for parameter in group["params"]]
    torch.testing.assert_close(parameters_of(ours), wanted, rtol=1e-3, atol=1e-4)
