"""The one training loop: optimiser, schedule, clipping, evaluation, history, stopping, refusing what diverges."""

import math
from itertools import pairwise, repeat

import pandas as pd
import pytest
import torch
from torch import nn
from toys import PARITY, VGG_TEACHER, DropoutConfig, ToyImages, changed, snapshot, used

from pwl_lab.models import MLPConfig, build
from pwl_lab.study.verbs import train_or_load
from pwl_lab.support.errors import DivergedError, InvalidValueError
from pwl_lab.tasks.base import Batch, accuracy
from pwl_lab.tasks.parity import SparseParity
from pwl_lab.training import Learner, TrainPlan, fit, learning_rate_factor, make_optimiser, predict, train

TASK = SparseParity(n_bits=5, k_sparse=1, eval_samples=200)
MODEL = MLPConfig(n_inputs=5, widths=(8,))
PLAN = TrainPlan(steps=60, batch_size=16, eval_every=5, lr=0.5)
BATCH = Batch(torch.zeros(4, 1), torch.zeros(4, dtype=torch.long))


class Scripted(Learner):
    """One weight whose loss has the slopes (or the whole terms) that the test writes down."""

    def __init__(self, terms):
        self.weight, self.terms = nn.Parameter(torch.tensor([1.0, 2.0])), terms
        self.lrs, self.evaluated, self.stepped = [], [], []

    def parameter_groups(self, lr):
        self.group = {"params": [self.weight], "lr": lr}
        return [self.group]

    def losses(self, batch, step):
        self.stepped.append(step)
        self.lrs.append(self.group["lr"])
        return {name: value * self.weight[0] / self.weight[0].detach() for name, value in self.terms(step).items()}

    def evaluate(self, step):
        self.evaluated.append(step)
        return [{"accuracy": 0.5}]


def run(learner, **plan):
    return train(learner, repeat(BATCH), TrainPlan(**{"batch_size": 4, "lr": 0.1} | plan), "scripted")


def test_history_rows_and_columns():
    learner = Scripted(lambda step: {"first": torch.tensor(float(step)), "total": torch.tensor(2.0 * step)})
    history = run(learner, steps=7, eval_every=3, batch_size=4)
    assert learner.evaluated == history["step"].tolist() == [0, 3, 6, 7]
    assert learner.stepped == [0, 1, 2, 3, 4, 5, 6]
    assert history["samples"].tolist() == [0, 12, 24, 28]
    assert set(history.columns) == {"step", "samples", "loss_first", "loss_total", "accuracy"}
    assert math.isnan(history["loss_first"][0])
    assert history["loss_first"].tolist()[1:] == pytest.approx([1.0, 4.0, 6.0])  # means of 0 1 2, 3 4 5, 6
    assert history["loss_total"].tolist()[1:] == pytest.approx([2.0, 8.0, 12.0])


def test_a_term_that_begins_or_ends_between_evaluations_is_averaged_over_its_own_steps():
    def terms(step):
        return {"hidden" if step < 2 else "output": torch.tensor(6.0), "total": torch.tensor(6.0)}

    history = run(Scripted(terms), steps=6, eval_every=3)
    assert history["loss_hidden"][1] == pytest.approx(6.0)
    assert history["loss_output"].tolist()[1:] == pytest.approx([6.0, 6.0])
    assert history["loss_total"].tolist()[1:] == pytest.approx([6.0, 6.0])


def test_cosine_schedule_values():
    plan = TrainPlan(steps=100, schedule="cosine")
    factors = [learning_rate_factor(plan, step) for step in range(100)]
    assert factors[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert factors[5] == pytest.approx(1.0)
    middle = 0.001 + 0.999 * 0.5 * (1 + math.cos(math.pi * 45 / 95))
    assert factors[50] == pytest.approx(middle)
    assert all(a > b for a, b in pairwise(factors[5:]))
    assert 0.001 <= factors[-1] < 0.0013
    assert {learning_rate_factor(TrainPlan(steps=100), step) for step in range(100)} == {1.0}
    assert learning_rate_factor(TrainPlan(steps=1, schedule="cosine"), 0) == 1.0


def test_each_step_goes_by_the_schedule():
    learner = Scripted(lambda step: {"total": torch.tensor(1.0)})
    plan = TrainPlan(steps=40, batch_size=4, schedule="cosine", lr=0.01)
    train(learner, repeat(BATCH), plan, "scripted")
    assert learner.lrs == pytest.approx([0.01 * learning_rate_factor(plan, step) for step in range(40)])


class Slope(Learner):
    """A loss whose gradient is always (3, 4), over two parameters."""

    def __init__(self):
        self.a, self.b = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))
        self.places = []

    def parameter_groups(self, lr):
        return [{"params": [self.a], "lr": lr}, {"params": [self.b], "lr": 2 * lr}]

    def losses(self, batch, step):
        self.places.append(self.a.item())
        return {"total": (3 * self.a + 4 * self.b).sum()}

    def evaluate(self, step):
        return [{"accuracy": 0.0}]


@pytest.mark.parametrize(("clip", "scale"), [(None, 1.0), (10.0, 1.0), (1.0, 0.2)])
def test_clipping_bounds_the_norm_of_the_whole_gradient(clip, scale):
    learner = Slope()
    run(learner, steps=2, lr=0.1, clip_norm=clip)
    assert learner.a.item() == pytest.approx(-2 * 0.1 * 3 * scale, rel=1e-4)
    assert learner.b.item() == pytest.approx(-2 * 0.2 * 4 * scale, rel=1e-4)


@pytest.mark.parametrize(
    ("optimiser", "expected"),
    [
        ({"optimiser": "sgd"}, 3 * [-0.3]),
        ({"optimiser": "sgd", "momentum": 0.5}, [-0.45, -0.525, -0.5625]),  # Nesterov: g + 0.5 v
        ({"optimiser": "adam"}, 3 * [-0.1]),  # of a constant gradient: the learning rate
    ],
)
def test_optimisers(optimiser, expected):
    learner = Slope()
    run(learner, steps=3, **optimiser)
    places = [*learner.places, learner.a.item()]
    assert [b - a for a, b in pairwise(places)] == pytest.approx(expected, rel=1e-4)


def test_weight_decay_pulls_towards_zero():
    learner = Scripted(lambda step: {"total": torch.tensor(0.0)})
    run(learner, steps=1, weight_decay=0.5, lr=0.1)
    assert learner.weight.tolist() == pytest.approx([0.95, 1.9])


@pytest.mark.parametrize("broken", [float("nan"), float("inf"), -float("inf")])
def test_a_loss_that_is_not_finite_ends_the_run_by_the_next_evaluation(broken):
    learner = Scripted(lambda step: {"total": torch.tensor(broken if step == 3 else 1.0)})
    with pytest.raises(DivergedError, match=r"scripted: total is not finite by step 5.*lr.*clip_norm"):
        run(learner, steps=20, eval_every=5)
    assert learner.evaluated == [0]


def test_what_a_network_draws_depends_on_seed_and_step_alone_and_torch_s_generator_is_as_before():
    def weights(seed):
        torch.rand(seed + 1)
        return fit(DropoutConfig(width=5), PARITY, TrainPlan(steps=4, batch_size=8), seed).model.state_dict()

    first = weights(0)
    assert changed(first, weights(0)) == set()
    drawn = []
    learner = Scripted(lambda step: drawn.append(torch.rand(1).item()) or {"total": torch.tensor(1.0)})
    before = torch.get_rng_state()
    run(learner, steps=3)
    assert len(set(drawn)) == 3
    assert torch.equal(before, torch.get_rng_state())


class Unbounded(ToyImages):
    """Inputs so large that the logits are not finite: close to the largest float."""

    def _draw(self, samples, random):
        batch = super()._draw(samples, random)
        return Batch(batch.inputs.clamp(-3, 3) * 1e38, batch.labels)


def test_nothing_of_a_diverged_run_is_stored(store_folder):
    model = MLPConfig(n_inputs=49, widths=(4,), n_classes=3)
    for _ in range(2):
        with pytest.raises(DivergedError):
            train_or_load(model, Unbounded(), TrainPlan(steps=3, batch_size=8), device="cpu")
    assert [path for path in store_folder.rglob("*") if path.suffix in (".json", ".safetensors", ".csv")] == []


def test_early_stop_at_the_first_evaluation_that_reaches_the_mark():
    trained = fit(MODEL, TASK, PLAN.model_copy(update={"stop_at": 0.95}), seed=0)
    values = trained.history.set_index("step")["accuracy"]
    assert 0 < trained.reached_at < 60
    assert values.index[-1] == trained.reached_at
    assert values.iloc[-1] >= 0.95 > values.iloc[:-1].max()


def test_saturation_goes_on_to_a_multiple_of_the_steps_that_it_took():
    once = fit(MODEL, TASK, PLAN.model_copy(update={"stop_at": 0.9}), seed=0).reached_at
    plan = PLAN.model_copy(update={"stop_at": 0.9, "saturation": 2.3})
    trained = fit(MODEL, TASK, plan, seed=0)
    assert trained.reached_at == once
    assert trained.history["step"].iloc[-1] == 5 * math.ceil(2.3 * once / 5)


def test_a_mark_that_is_never_reached_uses_all_steps():
    trained = fit(MODEL, TASK, TrainPlan(steps=7, batch_size=4, eval_every=5, lr=1e-6, stop_at=1.0), seed=0)
    assert trained.reached_at is None
    assert trained.history["step"].tolist() == [0, 5, 7]


def test_checkpoints_are_the_evaluations_until_the_mark_and_hold_their_weights():
    plan = PLAN.model_copy(update={"stop_at": 0.9, "saturation": 3.0, "keep_checkpoints": True})
    trained = fit(MODEL, TASK, plan, seed=0)
    assert [c.step for c in trained.checkpoints] == list(range(0, trained.reached_at + 1, 5))
    validation = TASK.split("validation")
    for kept, value in zip(trained.checkpoints, trained.history["accuracy"], strict=False):
        net = trained.at(kept)
        assert accuracy(net(validation.inputs), validation.labels) == kept.accuracy == value
        assert not net.training
        assert not any(parameter.requires_grad for parameter in net.parameters())
    assert changed(trained.checkpoints[0].state, snapshot(build(MODEL, 0))) == set()
    assert changed(trained.checkpoints[-1].state, snapshot(trained.model))


def test_without_asking_no_checkpoint_is_kept():
    assert fit(MODEL, TASK, PLAN, seed=0).checkpoints == []


def test_checkpoint_finds_the_first_that_reached_an_accuracy_and_names_all_when_there_is_none():
    trained = fit(MODEL, TASK, PLAN.model_copy(update={"stop_at": 0.9, "keep_checkpoints": True}), seed=0)
    mark = trained.checkpoints[-1].accuracy
    first = next(c for c in trained.checkpoints if c.accuracy >= mark)
    assert trained.checkpoint(at_accuracy=mark) is first
    assert trained.checkpoint(at_step=5) is trained.checkpoints[1]
    assert trained.checkpoint(at_accuracy=0.0) is trained.checkpoint(at_step=0) is trained.checkpoints[0]
    with pytest.raises(InvalidValueError, match=r"at_step = 7 .*checkpoints.*: 0 \(.*%\), 5 \("):
        trained.checkpoint(at_step=7)
    trained.checkpoints = []
    with pytest.raises(InvalidValueError, match=r"at_accuracy = 0.5 .*none were kept"):
        trained.checkpoint(at_accuracy=0.5)


@pytest.mark.parametrize("optimiser", ["sgd", "adam"])
def test_same_seed_same_numbers_and_another_seed_others(optimiser):
    plan = TrainPlan(steps=12, batch_size=8, eval_every=4, optimiser=optimiser, lr=0.05)
    task = ToyImages()
    first = fit(VGG_TEACHER, task, plan, seed=1)
    torch.rand(3)
    again, other = fit(VGG_TEACHER, task, plan, seed=1), fit(VGG_TEACHER, task, plan, seed=2)
    assert changed(snapshot(first.model), snapshot(again.model)) == set()
    pd.testing.assert_frame_equal(first.history, again.history, check_exact=True)
    assert first.test_accuracy == again.test_accuracy
    assert changed(snapshot(first.model), snapshot(other.model)) >= set(dict(first.model.named_parameters()))


def test_products_in_bfloat16_are_those_of_training_alone():
    plan, seen = TrainPlan(steps=1, batch_size=64, lr=0.1), {True: set(), False: set()}
    assert "products" not in plan.model_dump(), "results of the default keep their keys"
    coarse = plan.model_copy(update={"products": "bfloat16"})
    assert (coarse.model_dump()["products"], TrainPlan(**coarse.model_dump())) == ("bfloat16", coarse)

    def note(module, _, found):
        if isinstance(module, nn.Conv2d):
            seen[module.training].add(found.dtype)

    expected = fit(VGG_TEACHER, ToyImages(), plan, seed=1)
    with nn.modules.module.register_module_forward_hook(note):
        found = fit(VGG_TEACHER, ToyImages(), coarse, seed=1)
    assert seen == {True: {torch.bfloat16}, False: {torch.float32}}
    for (name, before), ours, theirs in zip(
        build(VGG_TEACHER, 1).named_parameters(), found.model.parameters(), expected.model.parameters(), strict=True
    ):
        assert ours.dtype == before.dtype
        error = (ours - theirs).norm() / (theirs - before).norm()
        assert 0 < error < 0.25, name  # some ten roundings to eight bits; of an unrelated gradient it would be 1.4


def test_the_evaluation_does_not_move_the_training():
    often, rarely = (TrainPlan(steps=12, batch_size=8, eval_every=every, lr=0.05) for every in (1, 12))
    first, second = (fit(VGG_TEACHER, ToyImages(), plan, seed=1) for plan in (often, rarely))
    assert changed(snapshot(first.model), snapshot(second.model)) == set()


def test_fit_gives_out_a_frozen_network_with_its_accuracy_on_the_test_split():
    trained = fit(MODEL, TASK, PLAN, seed=0)
    test = TASK.split("test")
    assert trained.test_accuracy == accuracy(trained.model(test.inputs), test.labels) > 0.9
    assert not trained.model.training
    assert not any(parameter.requires_grad for parameter in trained.model.parameters())


@pytest.mark.parametrize("training", [True, False])
def test_predict_is_in_eval_mode_in_chunks_and_puts_the_mode_back(training):
    net = used(build(VGG_TEACHER, 0)).eval()
    inputs = torch.randn(7, 1, 7, 7)
    expected = net(inputs)
    net.train(training)
    before = snapshot(net)
    torch.testing.assert_close(predict(net, inputs, chunk=3), expected)
    assert net.training == training
    assert changed(before, snapshot(net)) == set()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("steps", 0),
        ("batch_size", 0),
        ("lr", 0.0),
        ("lr", float("nan")),
        ("momentum", 1.0),
        ("clip_norm", 0.0),
        ("stop_at", 1.1),
        ("saturation", 0.5),
        ("optimiser", "rmsprop"),
        ("schedule", "linear"),
        ("epochs", 3),
    ],
)
def test_bad_plans_are_refused(field, value):
    with pytest.raises(ValueError, match=field):
        TrainPlan(**{"steps": 1} | {field: value})


@pytest.mark.parametrize(
    ("plan", "own"),
    [
        (
            {"momentum": 0.9, "weight_decay": 0.1},
            lambda groups: torch.optim.SGD(groups, 0.5, 0.9, 0, 0.1, nesterov=True),
        ),
        ({"optimiser": "adam", "weight_decay": 0.1}, lambda groups: torch.optim.Adam(groups, 0.5, weight_decay=0.1)),
    ],
    ids=["sgd", "adam"],
)
def test_an_optimiser_does_what_torchs_does(plan, own):
    """Also with groups of their own rate, a group that comes later, and a state that is loaded."""
    plan = PLAN.model_copy(update=plan)
    found = []
    for make in (lambda groups: make_optimiser(plan, groups), own):
        weights = [nn.Parameter(torch.linspace(-1, 1, n)) for n in (3, 4, 5)]
        optimiser = make([{"params": weights[:1], "lr": 0.1}, {"params": weights[1:2]}])
        assert isinstance(optimiser, torch.optim.Adam if plan.optimiser == "adam" else torch.optim.SGD)
        for step in range(6):
            if step == 2:
                optimiser.add_param_group({"params": weights[2:], "lr": 0.2})
            if step == 4:
                state, optimiser = optimiser.state_dict(), make([{"params": [weight]} for weight in weights])
                optimiser.load_state_dict(state)
            optimiser.zero_grad()
            sum((weight**3).sum() for weight in weights).backward()
            optimiser.step()
        optimiser.zero_grad()
        assert [weight.grad for weight in weights] == [None] * 3
        found.append((weights, optimiser.state_dict()))
    (ours, our_state), (theirs, their_state) = found
    assert all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))
    assert our_state["param_groups"][0]["lr"] == their_state["param_groups"][0]["lr"] == 0.1
    for number, kept in their_state["state"].items():
        assert all(
            torch.equal(torch.as_tensor(value), our_state["state"][number][name]) for name, value in kept.items()
        )
