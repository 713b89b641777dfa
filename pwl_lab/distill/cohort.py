"""Cohorts: many students of one architecture side by side, as if each were alone.

At these sizes a training step is mostly overhead: stacking the parameters of all students turns their matrix products
into one batched product (`torch.func`), and the teacher is evaluated once per batch for all of them.
"""

from collections.abc import Callable, Sequence
from copy import deepcopy
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from pwl_lab.fast.stacked import is_plain, run_plain
from pwl_lab.models.blocknet import BlockNet, ModelConfig, build

Hidden = list[Float[Tensor, "members batch channels *positions"]]
Logits = Float[Tensor, "members batch classes"]


def _walk(
    stem: Callable, blocks: Sequence[Callable], head: Callable, inputs: Tensor, upto: int | None, above: int
) -> tuple[list[Tensor], Tensor | None]:
    """Hidden states and logits; see `StackedCohort.hidden_states`."""
    learns, states = torch.is_grad_enabled(), []
    with torch.set_grad_enabled(learns and above == 1):
        state = stem(inputs)
    for number, block in enumerate(blocks[:upto], start=1):
        with torch.set_grad_enabled(learns and number >= above):
            state = block(state)
        states.append(state)
    return states, head(state) if upto is None else None


class _Pass(nn.Module):
    """Lets `functional_call`, which only knows `forward`, run a part of a network."""

    def __init__(self, net: BlockNet) -> None:
        super().__init__()
        self.net = net

    def forward(self, inputs: Tensor, upto: int | None = None, above: int = 1) -> tuple[list[Tensor], Tensor | None]:
        """As `_walk`."""
        return _walk(self.net.stem, list(self.net.blocks), self.net.head, inputs, upto, above)


class StackedCohort:
    """Students of parameters alone, no two the same, which are stacked along a first dimension of members."""

    def __init__(self, students: Sequence[BlockNet]) -> None:
        """The students' weights are copied; the students themselves are left alone."""
        wrapped = [_Pass(student) for student in students]
        parameters, buffers = stack_module_state(wrapped)
        self.tensors = {name: tensor.detach().clone().requires_grad_() for name, tensor in parameters.items()}
        self.buffers = buffers
        self._base = deepcopy(wrapped[0]).to("meta")
        net = self._base.net
        self._plain = not list(net.stem.parameters()) and all(map(is_plain, [*net.blocks, net.head]))

    def __len__(self) -> int:
        """How many students are in it."""
        return len(next(iter(self.tensors.values())))

    def part(self, members: list[int]) -> "StackedCohort":
        """Some of the students as a cohort of their own."""
        part = object.__new__(StackedCohort)
        part.tensors = {
            name: tensor.detach()[members].clone().requires_grad_() for name, tensor in self.tensors.items()
        }
        part.buffers = {name: tensor[members] for name, tensor in self.buffers.items()}
        part._base, part._plain = self._base, self._plain
        return part

    def parameters(self) -> list[Tensor]:
        """What the optimiser moves."""
        return list(self.tensors.values())

    def hidden_states(
        self, inputs: Float[Tensor, "batch *shape"], upto: int | None = None, above: int = 1
    ) -> tuple[Hidden, Logits | None]:
        """Each student's hidden states and logits on the same inputs.

        `upto` ends the pass after that block (from 1), without logits; what lies below block `above` gets no gradient.
        """
        net = self._base.net
        if self._plain:
            blocks = [partial(run_plain, block, f"net.blocks.{n}", self.tensors) for n, block in enumerate(net.blocks)]
            head = partial(run_plain, net.head, "net.head", self.tensors)
            return _walk(net.stem, blocks, head, inputs, upto, above)

        def one(parameters: dict[str, Tensor], buffers: dict[str, Tensor]) -> tuple:
            states, logits = functional_call(self._base, (parameters, buffers), (inputs, upto, above))
            return (states,) if logits is None else (states, logits)

        states, *logits = vmap(one)(self.tensors, self.buffers)
        return states, logits[0] if logits else None

    def train(self, mode: bool = True) -> None:
        """Nothing in these students behaves differently in training."""

    def clip_gradients(self, largest: float) -> None:
        """Scale each student's gradient so that its norm over all parameters is at most `largest`."""
        gradients = [tensor.grad for tensor in self.parameters() if tensor.grad is not None]
        norms = sum(gradient.flatten(1).square().sum(dim=1) for gradient in gradients).sqrt()
        factors = (largest / (norms + 1e-6)).clamp(max=1.0)
        for gradient in gradients:
            gradient.mul_(factors.reshape(-1, *(1,) * (gradient.dim() - 1)))

    def state(self, member: int) -> dict[str, Tensor]:
        """A copy of a member's weights, named as in its `BlockNet`."""
        return {name.removeprefix("net."): tensor.detach()[member].clone() for name, tensor in self.tensors.items()}

    def keep(self, members: list[int], optimiser: torch.optim.Optimizer) -> None:
        """Let the other students go, and their part of the optimiser's state; `members` stay, in this order."""
        before = self.parameters()
        kept = self.part(members)
        self.tensors, self.buffers = kept.tensors, kept.buffers
        for old, new in zip(before, self.parameters(), strict=True):
            for name, value in optimiser.state.pop(old, {}).items():
                stacked = isinstance(value, Tensor) and value.shape == old.shape
                optimiser.state[new][name] = value[members].clone() if stacked else value
        _exchange(optimiser, before, self.parameters() if members else [])


class SeparateCohort:
    """Students that cannot be stacked (they have buffers, or tied parameters): one after another, the same interface."""

    def __init__(self, students: Sequence[BlockNet]) -> None:
        """The students are copied."""
        self.students = [deepcopy(student) for student in students]

    def __len__(self) -> int:
        """How many students are in it."""
        return len(self.students)

    def part(self, members: list[int]) -> "SeparateCohort":
        """Some of the students as a cohort of their own."""
        return SeparateCohort([self.students[member] for member in members])

    def parameters(self) -> list[Tensor]:
        """What the optimiser moves."""
        return [parameter for student in self.students for parameter in student.parameters()]

    def hidden_states(
        self, inputs: Float[Tensor, "batch *shape"], upto: int | None = None, above: int = 1
    ) -> tuple[Hidden, Logits | None]:
        """As of a stacked cohort; what lies below block `above` keeps its batch statistics, too."""
        for student in self.students:
            for module in [student.stem, *student.blocks[: above - 1]] if above > 1 else []:
                module.eval()
        found = [_Pass(student)(inputs, upto, above) for student in self.students]
        states = [torch.stack(of_block) for of_block in zip(*(states for states, _ in found), strict=True)]
        return states, torch.stack([logits for _, logits in found]) if upto is None else None

    def train(self, mode: bool = True) -> None:
        """Training or eval mode for all of them."""
        for student in self.students:
            student.train(mode)

    def clip_gradients(self, largest: float) -> None:
        """Scale each student's gradient so that its norm over all parameters is at most `largest`."""
        for student in self.students:
            nn.utils.clip_grad_norm_(student.parameters(), largest)

    def state(self, member: int) -> dict[str, Tensor]:
        """A copy of a member's weights, named as in its `BlockNet`."""
        return {name: tensor.detach().clone() for name, tensor in self.students[member].state_dict().items()}

    def keep(self, members: list[int], optimiser: torch.optim.Optimizer) -> None:
        """Let the other students go, and their part of the optimiser's state; `members` stay, in this order."""
        before = self.parameters()
        self.students = [self.students[member] for member in members]
        _exchange(optimiser, before, self.parameters())
        kept = {id(parameter) for parameter in self.parameters()}
        for parameter in before:
            if id(parameter) not in kept:
                optimiser.state.pop(parameter, None)


Cohort = StackedCohort | SeparateCohort


def _exchange(optimiser: torch.optim.Optimizer, before: list[Tensor], after: list[Tensor]) -> None:
    """Let the optimiser move `after` where it moved `before`; its other parameters stay."""
    gone = {id(parameter) for parameter in before}
    for group in optimiser.param_groups:
        if any(id(parameter) in gone for parameter in group["params"]):
            group["params"] = [p for p in group["params"] if id(p) not in gone] + after


def make_cohort(config: ModelConfig, seeds: Sequence[int], device: str = "cpu") -> Cohort:
    """One student per entry of `seeds`: equal seeds begin with equal weights, whatever they are taught."""
    students = [build(config, seed, device, stream="student") for seed in seeds]
    # Buffers (of batch norms, for one) change in place, and stacking would take tied parameters apart.
    stackable = students[0].state_dict().keys() == {name for name, _ in students[0].named_parameters()}
    return StackedCohort(students) if stackable else SeparateCohort(students)
