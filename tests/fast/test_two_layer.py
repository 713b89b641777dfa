"""The sweep engine of sparse parity and its plain twin, torch's autograd with the package's losses, agree step by step."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pwl_lab.distill.curriculum import Labels, TeacherHidden, TeacherOutput
from pwl_lab.distill.losses import target_loss, teacher_probabilities
from pwl_lab.distill.targets import Projection
from pwl_lab.fast.two_layer import Nets, Projections, Rates, Run, Stage, Stepper, Tasks, train_all
from pwl_lab.models.mlp import MLPConfig
from pwl_lab.training import TrainPlan, make_optimiser

BITS, SUPPORTS = (9, 6), ((1, 4, 8), (0, 5))
WIDTH, WIDE, STUDENTS, BATCH = 5, 12, 2, 16


@pytest.fixture(scope="module", autouse=True)
def double_precision():
    """The twins differ by rounding: with float64 it stays out of the way."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def streams(*seeds: int) -> list[torch.Generator]:
    """One generator per group."""
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def plain_net(nets: Nets, group: int, student: int) -> torch.nn.Module:
    """The same network as a `BlockNet`: half of the difference in each of the two logits, with opposite signs."""
    n = BITS[group]
    net = MLPConfig(n_inputs=n, widths=(nets.weight.shape[2],)).make()
    with torch.no_grad():
        net.blocks[0][0].weight.copy_(nets.weight[group, student, :, :n])
        net.blocks[0][0].bias.copy_(nets.bias[group, student])
        net.head.weight.copy_(torch.stack([-nets.out[group, student], nets.out[group, student]]) / 2)
        net.head.bias.copy_(torch.stack([-nets.shift[group, student], nets.shift[group, student]]) / 2)
    return net


def difference(net: torch.nn.Module) -> list[torch.Tensor]:
    """A plain network's parameters as the engine has them."""
    layer, head = net.blocks[0][0], net.head
    return [layer.weight, layer.bias, head.weight[1] - head.weight[0], head.bias[1] - head.bias[0]]


def a_run(stages, momentum: float, decay: float, nesterov: bool) -> Run:
    """Two groups of two students, which differ in their learning rates."""
    tasks = Tasks.of(BITS, SUPPORTS)
    nets, teachers = Nets.draw(tasks, STUDENTS, WIDTH, streams(1, 2)), Nets.draw(tasks, 2, WIDE, streams(3, 4))
    teachers.weight[:, 0] += 0.3  # a checkpoint that differs from the final teacher
    many = tasks.draw(200, torch.Generator().manual_seed(5))[0]
    final = teachers.one(1)
    lr = torch.tensor([[0.1, 0.3], [0.2, 0.05]])
    rates = Rates(lr, torch.full_like(lr, momentum), torch.full_like(lr, decay), torch.full_like(lr, 5.0))
    return Run(
        tasks, nets, rates, stages, BATCH, teachers, Projections.fit(final, WIDTH, many, streams(6, 7)), nesterov
    )


def wanted_of(run: Run, stage: Stage, group: int, inputs: torch.Tensor, signs: torch.Tensor):
    """The target of a stage and what `TeacherTargets.compute` would give for it."""
    if stage.target == "labels":
        return Labels(), (signs > 0).long()
    if stage.target == "output":
        logits = plain_net(run.teachers, group, stage.checkpoint % 2)(inputs)
        return TeacherOutput(temperature=0.0), teacher_probabilities(logits, 0.0)
    hidden = plain_net(run.teachers, group, 1).hidden_states(inputs)[0][0]
    found = Projection(run.projections.matrices[group : group + 1], run.projections.offsets[group])
    return TeacherHidden(block=1, weight=5.0), found(hidden)


@settings(deadline=None, max_examples=30)
@given(
    kinds=st.lists(st.sampled_from(["labels", "output", "checkpoint", "hidden"]), min_size=1, max_size=3),
    momentum=st.sampled_from([0.0, 0.9]),
    decay=st.sampled_from([0.0, 0.01]),
)
def test_steps_equal_those_of_autograd(kinds, momentum, decay):
    """Any stages, students in different stages at once, momentum, weight decay: the same weights after every step."""
    if kinds[-1] == "hidden":
        kinds = [*kinds, "output"]
    ends = [torch.tensor([[2, 3], [1, 2]]) * (number + 1) for number in range(len(kinds))]
    stages = tuple(
        Stage("output" if kind == "checkpoint" else kind, end, 0 if kind == "checkpoint" else -1)
        for kind, end in zip(kinds, ends, strict=True)
    )
    run = a_run(stages, momentum, decay, nesterov=True)
    students = {(g, s): plain_net(run.nets, g, s) for g in range(2) for s in range(STUDENTS)}
    plans = {
        (g, s): TrainPlan(steps=9, lr=run.rates.lr[g, s].item(), momentum=momentum, weight_decay=decay)
        for g, s in students
    }
    optimisers = {
        who: make_optimiser(plans[who], [{"params": list(net.parameters())}]) for who, net in students.items()
    }
    random = torch.Generator().manual_seed(8)
    stepper = Stepper(run, random)
    for step in range(9):
        inputs, signs = run.tasks.draw(BATCH, random)
        for (group, student), net in students.items():
            number = sum(int(stage.end[group, student]) <= step for stage in stages[:-1])
            shown = inputs[group, :, : BITS[group]]
            target, wanted = wanted_of(run, stages[number], group, shown, signs[group])
            states, logits = net.hidden_states(shown)
            ours = states[0] if target.kind == "hidden" else logits
            optimisers[group, student].zero_grad()
            target_loss(target, ours.unsqueeze(0), wanted)[0].backward()
            if target.kind == "hidden":
                net.head.weight.grad = net.head.bias.grad = None
            optimisers[group, student].step()
        active = stepper._active()
        stepper._step(inputs, signs, active)
        stepper.done += 1
        for (group, student), net in students.items():
            ours = [run.nets.weight[group, student, :, : BITS[group]]]
            ours += [part[group, student] for part in (run.nets.bias, run.nets.out, run.nets.shift)]
            for one, other in zip(ours, difference(net), strict=True):
                torch.testing.assert_close(one, other.detach(), rtol=1e-9, atol=1e-11)
    assert not run.nets.weight[1, :, :, BITS[1] :].any()  # padding stays out


def test_it_learns_a_parity_and_says_when():
    """Every network of a small task arrives; the step and the weights at its end are its own."""
    tasks = Tasks.of((8, 10), ((0, 3), (2, 9)))
    random = torch.Generator().manual_seed(0)
    lr = torch.tensor([[0.3, 0.1], [0.3, 1e-9]])  # the last one cannot learn
    zeros = torch.zeros_like(lr)
    run = Run(
        tasks,
        Nets.draw(tasks, 2, 32, streams(1, 2)),
        Rates(lr, zeros + 0.9, zeros, zeros),
        (Stage("labels", zeros.long()),),
        32,
    )
    test = tasks.draw(500, random)
    found = train_all(run, random, 1_500, lambda step: step + 25, test, (0.75, 1.0), saturation=2.0, snapshots=(0.75,))
    reached = found.reached[1.0]
    assert (reached > 0).tolist() == [[True, True], [True, False]]
    assert (found.reached[0.75][reached > 0] <= reached[reached > 0]).all()
    assert (found.steps[reached > 0] >= 2 * reached[reached > 0]).all()
    assert found.steps[1, 1] == 1_500
    accuracy = found.nets.accuracy(*test)
    assert (accuracy[reached > 0] >= 0.99).all()
    assert accuracy[1, 1] < 0.7
    early = found.at_threshold[0.75].accuracy(*test)
    assert (early[reached > 0] >= 0.75).all()
