"""The step without autograd does what the plain one does: losses, weights and momentum, to the precision of its type."""

import copy
from functools import partial

import pandas as pd
import pytest
import torch
from torch import nn

from pwl_lab import fast, training
from pwl_lab.distill.curriculum import one_shot
from pwl_lab.fast.two_layer_step import TwoLayerStep, two_layers
from pwl_lab.models import MLPConfig, build, mlp
from pwl_lab.study.verbs import distill
from pwl_lab.support.errors import DivergedError, InvalidValueError
from pwl_lab.tasks.parity import SparseParity
from pwl_lab.training import TrainPlan, fit

TASK = SparseParity(20, 3)
PLAN = TrainPlan(steps=40, lr=0.1, eval_every=10, loop="fast")
SGD = {
    "without momentum": {},
    "heavy-ball": {"momentum": 0.9, "nesterov": False},
    "Nesterov": {"momentum": 0.9},
    "heavy-ball, decay": {"momentum": 0.9, "nesterov": False, "weight_decay": 1e-2},
    "Nesterov, decay": {"momentum": 0.9, "weight_decay": 1e-2},
    "decay, cosine": {"weight_decay": 1e-2, "schedule": "cosine"},
}


# Float64 takes the way of bfloat16, which is another type than the parameters', without its rounding.
@pytest.mark.parametrize("products", [torch.float32, torch.float64])
@pytest.mark.parametrize("sgd", SGD)
def test_a_training_equals_the_plain_one_up_to_rounding(sgd, products, monkeypatch):
    monkeypatch.setattr(training, "TwoLayerStep", partial(TwoLayerStep, products=products))
    plan = PLAN.model_copy(update=SGD[sgd])
    ours = fit(mlp(TASK, 64), TASK, plan, 0)
    with fast.plain():
        expected = fit(mlp(TASK, 64), TASK, plan, 0)
    plain_loop = fit(mlp(TASK, 64), TASK, plan.model_copy(update={"loop": "plain"}), 0)
    for name, tensor in expected.model.state_dict().items():
        torch.testing.assert_close(ours.model.state_dict()[name], tensor, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(plain_loop.model.state_dict()[name], tensor, rtol=1e-5, atol=1e-6)
    pd.testing.assert_frame_equal(ours.history, expected.history, rtol=1e-5, atol=1e-6)
    moved = ours.model.state_dict()["head.weight"] - build(mlp(TASK, 64), 0).state_dict()["head.weight"]
    assert moved.abs().max() > 1e-2


def one_step(products: torch.dtype | None) -> tuple[float, dict[str, torch.Tensor]]:
    """The loss of a step of rate 1 on a wide network, and what it changed."""
    net = build(mlp(TASK, 512), 0)
    before = copy.deepcopy(net.state_dict())
    batch = next(TASK.batches(0, 128))
    optimiser = torch.optim.SGD(net.parameters(), lr=1.0)
    if products is None:
        loss = nn.functional.cross_entropy(net(batch.inputs), batch.labels)
        loss.backward()
        optimiser.step()
    else:
        layers = two_layers(net)
        assert layers is not None
        loss = TwoLayerStep(*layers, optimiser, products)(batch.inputs, batch.labels)
    return loss.item(), {name: tensor - before[name] for name, tensor in net.state_dict().items()}


@pytest.mark.parametrize("products", [torch.float32, torch.bfloat16])
def test_a_step_is_as_precise_as_its_products(products):
    loss, changes = one_step(products)
    expected_loss, expected = one_step(None)
    # Rounded on the way to a gradient, each time by at most half of eps: the weights of both layers, the hidden layer, the
    # gradient of the margins, its product with the inputs, and the product with the active units.
    bound = 6 * torch.finfo(products).eps / 2
    if products == torch.float32:
        bound *= 20  # sums over 128 samples and 512 units are rounded as well, in float32
    assert loss == pytest.approx(expected_loss, rel=bound)
    for name, change in changes.items():
        error = (change - expected[name]).norm() / expected[name].norm()
        assert error < bound, name
        assert products == torch.float32 or name == "head.bias" or error > torch.finfo(torch.float32).eps


@pytest.mark.parametrize(
    ("config", "task"),
    [
        (MLPConfig(n_inputs=20, widths=(8, 8)), TASK),
        (MLPConfig(n_inputs=20, widths=(8,), n_classes=3), TASK),
    ],
)
def test_another_network_is_refused_before_a_step(config, task):
    with pytest.raises(InvalidValueError, match="one hidden layer and two logits"):
        fit(config, task, PLAN, 0)


@pytest.mark.parametrize("change", [{"optimiser": "adam"}, {"clip_norm": 1.0}])
def test_another_optimiser_is_refused(change):
    with pytest.raises(InvalidValueError, match="without clipping"):
        PLAN.model_copy(update=change)


def test_the_loop_chooses_the_type_of_its_products():
    with pytest.raises(InvalidValueError, match="by itself"):
        PLAN.model_copy(update={"products": "bfloat16"})


@pytest.mark.parametrize("products", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("spoil", ["rate", "weight"])
def test_a_network_that_diverges_is_refused_by_the_next_evaluation(products, spoil, monkeypatch):
    """A negative NaN of bfloat16 is a negative integer, and the unit would pass for one that is never active."""
    monkeypatch.setattr(training, "TwoLayerStep", partial(TwoLayerStep, products=products))
    plan = PLAN.model_copy(update={"lr": 10.0, "momentum": 0.99, "steps": 400} if spoil == "rate" else {})
    if spoil == "weight":
        spoiled = build(mlp(TASK, 64), 0)
        spoiled.blocks[0][0].weight.data[3] = -torch.tensor(float("nan"))
        monkeypatch.setattr(training, "build", lambda *_, **__: spoiled)
    with pytest.raises(DivergedError, match="not finite by step"):
        fit(mlp(TASK, 64), TASK, plan, 0)


@pytest.mark.usefixtures("store_folder")
def test_students_of_a_curriculum_are_refused():
    teacher = fit(mlp(TASK, 8), TASK, PLAN, 0)
    with pytest.raises(InvalidValueError, match="on labels"):
        distill(teacher, mlp(TASK, 4), TASK, {"one-shot": one_shot()}, [0], PLAN, device="cpu")


def test_checkpoints_can_be_those_that_first_reach_an_accuracy():
    plan = TrainPlan(steps=400, lr=0.2, momentum=0.9, eval_every=5, stop_at=1.0, keep_checkpoints=True)
    task = SparseParity(12, 2)
    every = fit(mlp(task, 64), task, plan, 0).checkpoints
    some = fit(mlp(task, 64), task, plan.model_copy(update={"keep_at": (0.6, 0.9)}), 0).checkpoints
    first = [next(one for one in every if one.accuracy >= wanted) for wanted in (0.6, 0.9)]
    assert [(one.step, one.accuracy) for one in some] == [(one.step, one.accuracy) for one in first]
