"""Two-layer networks on sparse parity, many at once, without autograd: for sweeps over sizes, settings and draws.

The plain twin is `pwl_lab.training.train` with a `CurriculumLearner` (or `fit`) on an `MLPConfig` of one block. What a
sweep adds is the two leading dimensions of every tensor: G *groups*, each with a task, a teacher and a stream of
samples of its own, and S *students* in each, which share these but differ in learning rate, curriculum or stage length.
A step is a dozen batched operations; on a GPU it is recorded once and replayed (`torch.cuda.CUDAGraph`).

Two logits with cross-entropy depend only on their difference, so a network has one output: the difference of the logits
of +1 and -1. Each of the two rows of an `nn.Linear` would move by the gradient, in opposite directions, hence the factor
2 in the output layer's step.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Literal, Self

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pwl_lab.fast.allocator import keep_freed_memory

MEASURED_AT_ONCE = 256  # samples per group in an evaluation: all at once would take gigabytes


@dataclass(frozen=True)
class PerGroup:
    """Tensors whose first dimension is the group."""

    def at(self, groups: Tensor) -> Self:
        """Some of the groups, copied."""
        return replace(self, **{field.name: getattr(self, field.name)[groups] for field in fields(self)})


@dataclass(frozen=True)
class Tasks(PerGroup):
    """A sparse parity for each group, padded to the largest number of bits with bits that are always 0."""

    bits: Float[Tensor, "groups n"]  # 1 where the group's task has a bit
    support: Float[Tensor, "groups n"]  # 1 where the label depends on it

    @classmethod
    def of(cls, n_bits: Sequence[int], supports: Sequence[Sequence[int]], device: str = "cpu") -> "Tasks":
        """One group per entry: the number of bits, and those that the label depends on."""
        bits = torch.zeros(len(n_bits), max(n_bits))
        support = torch.zeros_like(bits)
        for group, (n, chosen) in enumerate(zip(n_bits, supports, strict=True)):
            bits[group, :n] = 1
            support[group, list(chosen)] = 1
        return cls(bits.to(device), support.to(device))

    def draw(self, samples: int, random: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Fresh inputs [groups, samples, n] of -1, 0 (padding) and +1, and their signs [groups, samples]."""
        size = (len(self.bits), samples, self.bits.shape[1])
        inputs = torch.rand(size, generator=random, device=self.bits.device).sub_(0.5).sign_()
        inputs = torch.where(inputs == 0, 1.0, inputs).mul_(self.bits.unsqueeze(1))
        return inputs, self.signs(inputs)

    def signs(self, inputs: Float[Tensor, "groups samples n"]) -> Float[Tensor, "groups samples"]:
        """The product over the support: minus one to the number of its bits that are -1."""
        negative = (inputs < 0).to(inputs) @ self.support.unsqueeze(2)  # (groups, samples, 1)
        return 1 - 2 * negative.squeeze(2).remainder(2)


@dataclass(frozen=True)
class Nets(PerGroup):
    """`out . relu(weight x + bias) + shift`, for every group and student: the difference of the two logits."""

    weight: Float[Tensor, "groups students units n"]
    bias: Float[Tensor, "groups students units"]
    out: Float[Tensor, "groups students units"]
    shift: Float[Tensor, "groups students"]

    @classmethod
    def draw(cls, tasks: Tasks, students: int, width: int, streams: Sequence[torch.Generator]) -> "Nets":
        """As `nn.Linear` starts; the students of a group start alike. One stream per group, on the CPU."""
        drawn = []
        for bits, random in zip(tasks.bits.sum(dim=1).int().tolist(), streams, strict=True):
            weight = torch.zeros(width, tasks.bits.shape[1])
            weight[:, :bits] = _uniform((width, bits), bits, random)
            bias, rows = _uniform((width,), bits, random), _uniform((2, width), width, random)
            shifts = _uniform((2,), width, random)
            drawn.append((weight, bias, rows[1] - rows[0], shifts[1] - shifts[0]))
        parts = [torch.stack(part).to(tasks.bits.device) for part in zip(*drawn, strict=True)]
        return cls(*(part.unsqueeze(1).repeat(1, students, *(1,) * (part.dim() - 1)) for part in parts))

    def hidden(self, inputs: Float[Tensor, "groups samples n"]) -> Float[Tensor, "groups samples students units"]:
        """The hidden layer's outputs."""
        groups, students, units, n = self.weight.shape
        rows = self.weight.reshape(groups, students * units, n).transpose(1, 2)
        before = torch.baddbmm(self.bias.reshape(groups, 1, -1), inputs, rows)
        return before.relu_().reshape(groups, -1, students, units)

    def margins(self, inputs: Float[Tensor, "groups samples n"]) -> Float[Tensor, "groups samples students"]:
        """The difference of the logits."""
        return self.read_out(self.hidden(inputs))

    def read_out(self, hidden: Float[Tensor, "groups samples students units"]) -> Tensor:
        """The difference of the logits, [groups, samples, students], from the hidden layer."""
        return (hidden * self.out.unsqueeze(1)).sum(dim=3) + self.shift.unsqueeze(1)

    @torch.no_grad()
    def accuracy(self, inputs: Tensor, signs: Tensor) -> Float[Tensor, "groups students"]:
        """The share of samples at which the margin has the label's sign."""
        parts = zip(torch.split(inputs, MEASURED_AT_ONCE, 1), torch.split(signs, MEASURED_AT_ONCE, 1), strict=True)
        hits = [((self.margins(x) > 0) == (y > 0).unsqueeze(2)).sum(dim=1) for x, y in parts]
        return torch.stack(hits).sum(dim=0) / inputs.shape[1]

    def keep(self, which: Bool[Tensor, "groups students"], newer: "Nets", groups: Tensor) -> None:
        """Replace, in `groups` of these networks, those of the students `which` by `newer`."""
        for field in fields(self):
            ours, theirs = getattr(self, field.name), getattr(newer, field.name)
            mask = which.reshape(*which.shape, *(1,) * (ours.dim() - 2))
            ours[groups] = torch.where(mask, theirs, ours[groups])

    def one(self, student: int) -> "Nets":
        """One student of every group."""
        return Nets(*(getattr(self, field.name)[:, student : student + 1] for field in fields(self)))


def joined(stacks: Sequence[Nets]) -> Nets:
    """The students of several stacks side by side, group by group."""
    return Nets(*(torch.cat([getattr(one, field.name) for one in stacks], dim=1) for field in fields(Nets)))


def _uniform(size: tuple[int, ...], fan_in: int, random: torch.Generator) -> Tensor:
    """From -1/sqrt(fan_in) to +1/sqrt(fan_in), the default of `nn.Linear`."""
    bound = 1 / fan_in**0.5
    return torch.empty(size).uniform_(-bound, bound, generator=random)


@dataclass(frozen=True)
class Projections(PerGroup):
    """`P^T h - offset` for each group's teacher, scaled to standard deviation 1 over all units together."""

    matrices: Float[Tensor, "groups m units"]
    offsets: Float[Tensor, "groups 1 units"]

    @classmethod
    @torch.no_grad()
    def fit(cls, teachers: Nets, units: int, inputs: Tensor, streams: Sequence[torch.Generator]) -> "Projections":
        """Gaussian, centred and scaled on `inputs` [groups, samples, n] (`pwl_lab.distill.targets.Projection`)."""
        m, device = teachers.weight.shape[2], teachers.weight.device
        drawn = [torch.randn(m, units, generator=random) / m**0.5 for random in streams]
        matrices = torch.stack(drawn).to(device)
        raw = torch.cat(
            [teachers.hidden(part).flatten(2) @ matrices for part in torch.split(inputs, MEASURED_AT_ONCE, 1)], dim=1
        )
        mean = raw.mean(dim=1, keepdim=True)
        factor = 1 / (raw - mean).square().mean(dim=(1, 2), keepdim=True).sqrt().clamp_min(1e-8)
        return cls(matrices * factor, mean * factor)

    def __call__(self, hidden: Float[Tensor, "groups samples 1 m"]) -> Float[Tensor, "groups samples 1 units"]:
        """The target of every unit; the students of a group share it."""
        return (torch.bmm(hidden.flatten(2), self.matrices) - self.offsets).unsqueeze(2)


@dataclass(frozen=True)
class Stage:
    """What is shown until step `end` (for each student), counted from 0: labels, hard decisions, or the hidden layer.

    `checkpoint` is the number of the network in `Run.teachers` whose decisions are shown, -1 the last, the final teacher.
    """

    target: Literal["labels", "output", "hidden"]
    end: Int[Tensor, "groups students"]
    checkpoint: int = -1

    def at(self, groups: Tensor) -> "Stage":
        """Some of the groups."""
        return replace(self, end=self.end[groups])


@dataclass(frozen=True)
class Rates(PerGroup):
    """Each student's SGD, and the weight of the loss on the hidden layer."""

    lr: Float[Tensor, "groups students"]
    momentum: Float[Tensor, "groups students"]
    weight_decay: Float[Tensor, "groups students"]
    hidden_weight: Float[Tensor, "groups students"]


@dataclass(frozen=True)
class Run:
    """What is trained: networks, their tasks, what they are shown and how; the last stage is open-ended."""

    tasks: Tasks
    nets: Nets
    rates: Rates
    stages: tuple[Stage, ...]
    batch_size: int
    teachers: Nets | None = None  # checkpoints as students of their group, the final teacher last
    projections: Projections | None = None
    nesterov: bool = True

    def at(self, groups: Tensor) -> "Run":
        """Some of the groups; their networks are copied."""
        return replace(
            self,
            tasks=self.tasks.at(groups),
            nets=self.nets.at(groups),
            rates=self.rates.at(groups),
            stages=tuple(stage.at(groups) for stage in self.stages),
            teachers=None if self.teachers is None else self.teachers.at(groups),
            projections=None if self.projections is None else self.projections.at(groups),
        )


class Stepper:
    """Takes optimiser steps on the networks of a run, in place."""

    def __init__(self, run: Run, random: torch.Generator | None, done: int = 0, buffers: Nets | None = None) -> None:
        """Start at `run`, in place.

        Arguments:
        - `run`: the networks, and how they are trained.
        - `random`: draws the samples, on the networks' device; None: torch's own.
        - `done`, `buffers`: the steps that were taken before, and their momentum.
        """
        self.run, self.random, self.done = run, random, done
        empty = Nets(*(torch.zeros_like(getattr(run.nets, field.name)) for field in fields(Nets)))
        self.buffers = empty if buffers is None else buffers
        self.step_number = torch.full((), done, device=run.nets.weight.device)
        self._decays, self._has_momentum = bool(run.rates.weight_decay.any()), bool(run.rates.momentum.any())
        self._all_in_last = max((int(stage.end.max()) for stage in run.stages[:-1]), default=0)
        self._graph: tuple[list[int], torch.cuda.CUDAGraph] | None = None

    def steps(self, many: int) -> None:
        """Take `many` steps; on a GPU they are replays of one that was recorded."""
        for _ in range(many):
            active = self._active()
            if self.run.nets.weight.is_cuda:
                if self._graph is None or self._graph[0] != active:
                    self._graph = active, self._record(active)
                self._graph[1].replay()
            else:
                self._step(*self.run.tasks.draw(self.run.batch_size, self.random), active)
            self.done += 1

    def _active(self) -> list[int]:
        """The stages that some student is in at this step."""
        last = len(self.run.stages) - 1
        if self.done >= self._all_in_last:
            return [last]
        begin, found = torch.zeros_like(self.run.stages[0].end), []
        for number, stage in enumerate(self.run.stages):
            here = begin <= self.done if number == last else (begin <= self.done) & (self.done < stage.end)
            if bool(here.any()):
                found.append(number)
            begin = stage.end
        return found

    def _record(self, active: list[int]) -> torch.cuda.CUDAGraph:
        """Record a step. The warm-up that CUDA asks for would change the networks: it runs on copies."""
        spare = Stepper(self.run.at(torch.arange(len(self.run.nets.weight))), None, self.done)
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]  # torch's own
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(2):
                spare._step(*spare.run.tasks.draw(self.run.batch_size, spare.random), active)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        graph.register_generator_state(self.random)
        with torch.cuda.graph(graph):
            self._step(*self.run.tasks.draw(self.run.batch_size, self.random), active)
        return graph

    @torch.no_grad()
    def _step(self, inputs: Tensor, signs: Tensor, active: Sequence[int]) -> None:
        """One step on this batch, of the students in the stages `active`."""
        run, nets = self.run, self.run.nets
        hidden = nets.hidden(inputs)
        margins = nets.read_out(hidden)
        of_margins, of_hidden = torch.zeros_like(margins), None
        shown = self._teachers_say(inputs, active)
        in_output = torch.zeros_like(run.rates.lr)
        for number in active:
            stage, mask = run.stages[number], self._mask(number)
            if stage.target == "hidden":
                share = mask * 2 * run.rates.hidden_weight / (run.batch_size * hidden.shape[3])  # (groups, students)
                difference = (hidden - shown[number]) * share.unsqueeze(1).unsqueeze(3)
                of_hidden = difference if of_hidden is None else of_hidden + difference
            else:
                wanted = signs.unsqueeze(2) if stage.target == "labels" else shown[number]
                of_margins += mask.unsqueeze(1) * -wanted * torch.sigmoid(-wanted * margins) / run.batch_size
                in_output += mask
        through = of_margins.unsqueeze(3) * nets.out.unsqueeze(1)
        through = through if of_hidden is None else through.add_(of_hidden)
        before = torch.ops.aten.threshold_backward(through, hidden, 0)  # 0 where the unit is inactive, in one pass
        self._move(inputs, hidden, of_margins, before, in_output)
        self.step_number += 1

    def _mask(self, number: int) -> Float[Tensor, "groups students"]:
        """1 for students that are in this stage now."""
        stages = self.run.stages
        begun = self.step_number >= (stages[number - 1].end if number else 0)
        now = begun if number == len(stages) - 1 else begun & (self.step_number < stages[number].end)
        return torch.as_tensor(now, device=self.run.rates.lr.device).to(self.run.rates.lr).expand_as(self.run.rates.lr)

    def _teachers_say(self, inputs: Tensor, active: Sequence[int]) -> dict[int, Tensor]:
        """Per active stage, what the teacher shows: [groups, samples, 1] signs or [groups, samples, 1, units] targets."""
        said, run = {}, self.run
        finals: Tensor | None = None
        for number in active:
            stage = run.stages[number]
            if stage.target == "labels":
                continue
            assert run.teachers is not None
            if stage.target == "output" and stage.checkpoint != -1:
                margins = run.teachers.one(stage.checkpoint).margins(inputs)
                said[number] = torch.where(margins > 0, 1.0, -1.0)
                continue
            final = run.teachers.one(run.teachers.weight.shape[1] - 1)
            finals = final.hidden(inputs) if finals is None else finals
            if stage.target == "hidden":
                assert run.projections is not None
                said[number] = run.projections(finals)
            else:
                said[number] = torch.where(final.read_out(finals) > 0, 1.0, -1.0)
        return said

    def _move(self, inputs: Tensor, hidden: Tensor, of_margins: Tensor, before: Tensor, in_output: Tensor) -> None:
        """The gradients and the optimiser's step; a student in a hidden stage keeps its output layer."""
        nets, groups, units = self.run.nets, len(inputs), hidden.shape[3]
        flat = before.reshape(groups, inputs.shape[1], -1)
        of_weight = torch.bmm(flat.transpose(1, 2), inputs).reshape_as(nets.weight)
        of_out = (hidden * of_margins.unsqueeze(3)).sum(dim=1)  # (groups, students, units)
        self._update(nets.weight, self.buffers.weight, of_weight, 1.0, None)
        self._update(nets.bias, self.buffers.bias, flat.sum(dim=1).reshape(groups, -1, units), 1.0, None)
        self._update(nets.out, self.buffers.out, of_out, 2.0, in_output)
        self._update(nets.shift, self.buffers.shift, of_margins.sum(dim=1), 2.0, in_output)

    def _update(self, values: Tensor, buffer: Tensor, gradient: Tensor, factor: float, mask: Tensor | None) -> None:
        """SGD with L2 penalty and momentum, as `torch.optim.SGD`; of students with a mask of 0 nothing changes."""
        ones = (1,) * (values.dim() - 2)
        lr, momentum, decay = (
            rate.reshape(*rate.shape, *ones)
            for rate in (self.run.rates.lr, self.run.rates.momentum, self.run.rates.weight_decay)
        )
        gradient = gradient if factor == 1.0 else gradient * factor
        if self._decays:
            gradient = torch.addcmul(gradient, values, decay)
        move = gradient
        if self._has_momentum:
            new = torch.addcmul(gradient, buffer, momentum)
            move = torch.addcmul(gradient, new, momentum) if self.run.nesterov else new
            if mask is not None:
                new = torch.where(mask.reshape(*mask.shape, *ones) > 0, new, buffer)
            buffer.copy_(new)
        if mask is not None:
            move = move * mask.reshape(*mask.shape, *ones)
        values.addcmul_(move, lr, value=-1)


@dataclass
class Outcome:
    """When each network reached each threshold (steps; -1: never), its last accuracy, and its weights at its end."""

    reached: dict[float, Int[Tensor, "groups students"]]
    accuracy: Float[Tensor, "groups students"]
    steps: Int[Tensor, "groups students"]  # at its end
    nets: Nets
    at_threshold: dict[float, Nets]


# Called after each evaluation with the step, the groups still in training, their networks and their accuracies.
Watcher = Callable[[int, Int[Tensor, " groups"], Nets, Float[Tensor, "groups students"]], None]


def train_all(
    run: Run,
    random: torch.Generator,
    budget: int,
    eval_at: Callable[[int], int],
    test: tuple[Float[Tensor, "groups samples n"], Float[Tensor, "groups samples"]],
    thresholds: Sequence[float] = (0.99,),
    saturation: float = 1.0,
    snapshots: Sequence[float] = (),
    watch: Watcher | None = None,
) -> Outcome:
    """Train until every network has reached the last of `thresholds` (and `saturation` times as many steps), or `budget`.

    Arguments:
    - `run`: what is trained; its networks change.
    - `random`: draws the samples, on the networks' device.
    - `budget`: the most steps.
    - `eval_at`: gives the next step to evaluate at, after this one.
    - `test`: inputs and signs of each group.
    - `thresholds`: accuracies whose first step is recorded, in increasing order.
    - `saturation`: how much longer to train, as a multiple of the steps to the last threshold.
    - `snapshots`: thresholds at which the weights are kept.
    - `watch`: called after each evaluation.
    """
    keep_freed_memory()  # for speed alone
    device, shape = run.nets.weight.device, run.rates.lr.shape
    groups = torch.arange(shape[0], device=device)
    out = Outcome(
        {value: torch.full(shape, -1, device=device) for value in thresholds},
        torch.zeros(shape, device=device),
        torch.zeros(shape, dtype=torch.long, device=device),
        run.nets.at(groups),
        {value: run.nets.at(groups) for value in snapshots},
    )
    running, stepper = torch.ones(shape, dtype=torch.bool, device=device), Stepper(run, random)
    step, last = 0, thresholds[-1]
    begins = run.stages[-2].end if len(run.stages) > 1 else torch.zeros(shape, device=device)  # of the last stage
    while step < budget and len(groups):
        ahead = min(eval_at(step), budget) - step
        stepper.steps(ahead)
        step += ahead
        found = stepper.run.nets.accuracy(test[0][groups], test[1][groups])
        counts = running[groups] & (begins[groups] < step)
        _note(out, counts, found, step, stepper.run.nets, groups)
        out.accuracy[groups] = torch.where(running[groups], found, out.accuracy[groups])
        if watch is not None:
            watch(step, groups, stepper.run.nets, found)
        at = out.reached[last][groups]
        sane = stepper.run.nets.shift.isfinite() & stepper.run.nets.weight.flatten(2).sum(dim=2).isfinite()
        over = running[groups] & (((at >= 0) & (step >= saturation * at)) | ~sane | (step >= budget))
        out.nets.keep(over & sane, stepper.run.nets, groups)
        out.steps[groups] = torch.where(over, step, out.steps[groups])
        running[groups] = running[groups] & ~over
        alive = running[groups].any(dim=1)
        if not bool(alive.any()):
            break
        if int(alive.sum()) <= 0.8 * len(groups):
            here = alive.nonzero().squeeze(1)
            groups = groups[here]
            stepper = Stepper(stepper.run.at(here), random, step, stepper.buffers.at(here))
    return out


def _note(out: Outcome, counts: Tensor, found: Tensor, step: int, nets: Nets, groups: Tensor) -> None:
    """Record which networks reached a threshold at this step, and keep their weights where that is asked for.

    `counts` marks the networks, of these `groups`, whose accuracy `found` counts.
    """
    for value, steps in out.reached.items():
        fresh = counts & (steps[groups] < 0) & (found >= value)
        steps[groups] = torch.where(fresh, step, steps[groups])
        if value in out.at_threshold:
            out.at_threshold[value].keep(fresh, nets, groups)
