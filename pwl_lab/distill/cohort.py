"""Cohorts: many students of one architecture side by side, as if each were alone.

At these sizes a training step is mostly overhead: stacking the parameters of all students turns their matrix products
into one batched product (`torch.func`), and the teacher is evaluated once per batch for all of them.
"""

from collections.abc import Callable, Sequence
from copy import deepcopy

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from pwl_lab.models.blocknet import BlockNet, ModelConfig, build

Hidden = list[Float[Tensor, "members batch channels *positions"]]
Logits = Float[Tensor, "members batch classes"]


class _HiddenStates(nn.Module):
    """Lets `functional_call`, which only knows `forward`, reach `hidden_states`."""

    def __init__(self, net: BlockNet) -> None:
        super().__init__()
        self.net = net

    def forward(self, inputs: Tensor) -> tuple[list[Tensor], Tensor]:
        """As `BlockNet.hidden_states`."""
        return self.net.hidden_states(inputs)


class StackedCohort:
    """Students without batch norm, their parameters stacked along a first dimension of members."""

    def __init__(self, students: Sequence[BlockNet]) -> None:
        """The students' weights are copied; the students themselves are left alone."""
        wrapped = [_HiddenStates(student) for student in students]
        parameters, buffers = stack_module_state(wrapped)
        self.tensors = {name: tensor.detach().clone().requires_grad_() for name, tensor in parameters.items()}
        self.buffers = buffers
        self._base = deepcopy(wrapped[0]).to("meta")
        self._run: Callable = vmap(self._one, in_dims=(0, 0, None))

    def __len__(self) -> int:
        """How many students are in it."""
        return len(next(iter(self.tensors.values())))

    def _one(self, parameters: dict[str, Tensor], buffers: dict[str, Tensor], inputs: Tensor) -> tuple:
        """One student's hidden states and logits."""
        return functional_call(self._base, (parameters, buffers), (inputs,))

    def parameters(self) -> list[Tensor]:
        """What the optimiser moves."""
        return list(self.tensors.values())

    def hidden_states(self, inputs: Float[Tensor, "batch *shape"]) -> tuple[Hidden, Logits]:
        """Each student's hidden states and logits on the same inputs."""
        return self._run(self.tensors, self.buffers, inputs)

    def train(self, mode: bool = True) -> None:
        """Nothing in these students behaves differently in training."""

    def slices(self, member: int, below: int | None = None) -> list[Tensor]:
        """A member's parameters, or only those of the stem and the blocks before block `below` (from 1)."""
        names = [name for name in self.tensors if below is None or _is_below(name.removeprefix("net."), below)]
        return [self.tensors[name].detach()[member] for name in names]

    def state(self, member: int) -> dict[str, Tensor]:
        """A copy of a member's weights, named as in its `BlockNet`."""
        return {name.removeprefix("net."): tensor.detach()[member].clone() for name, tensor in self.tensors.items()}

    def keep(self, members: list[int], optimiser: torch.optim.Optimizer) -> None:
        """Let the other students go, and their part of the optimiser's state; the rest keep their order."""
        before = self.parameters()
        self.tensors = {name: t.detach()[members].clone().requires_grad_() for name, t in self.tensors.items()}
        self.buffers = {name: tensor[members] for name, tensor in self.buffers.items()}
        for old, new in zip(before, self.parameters(), strict=True):
            for name, value in optimiser.state.pop(old, {}).items():
                stacked = isinstance(value, Tensor) and value.shape == old.shape
                optimiser.state[new][name] = value[members].clone() if stacked else value
        optimiser.param_groups[0]["params"] = self.parameters()


class SeparateCohort:
    """Students that cannot be stacked (batch norm keeps statistics in place): one after another, the same interface."""

    def __init__(self, students: Sequence[BlockNet]) -> None:
        """The students are copied."""
        self.students = [deepcopy(student) for student in students]

    def __len__(self) -> int:
        """How many students are in it."""
        return len(self.students)

    def parameters(self) -> list[Tensor]:
        """What the optimiser moves."""
        return [parameter for student in self.students for parameter in student.parameters()]

    def hidden_states(self, inputs: Float[Tensor, "batch *shape"]) -> tuple[Hidden, Logits]:
        """Each student's hidden states and logits on the same inputs."""
        found = [student.hidden_states(inputs) for student in self.students]
        states = [torch.stack(of_block) for of_block in zip(*(states for states, _ in found), strict=True)]
        return states, torch.stack([logits for _, logits in found])

    def train(self, mode: bool = True) -> None:
        """Training or eval mode for all of them."""
        for student in self.students:
            student.train(mode)

    def slices(self, member: int, below: int | None = None) -> list[Tensor]:
        """A member's parameters, or only those of the stem and the blocks before block `below` (from 1)."""
        named = self.students[member].named_parameters()
        return [tensor.detach() for name, tensor in named if below is None or _is_below(name, below)]

    def state(self, member: int) -> dict[str, Tensor]:
        """A copy of a member's weights, named as in its `BlockNet`."""
        return {name: tensor.detach().clone() for name, tensor in self.students[member].state_dict().items()}

    def keep(self, members: list[int], optimiser: torch.optim.Optimizer) -> None:
        """Let the other students go, and their part of the optimiser's state; the rest keep their order."""
        before = self.parameters()
        self.students = [self.students[member] for member in members]
        optimiser.param_groups[0]["params"] = self.parameters()
        kept = {id(parameter) for parameter in self.parameters()}
        for parameter in before:
            if id(parameter) not in kept:
                optimiser.state.pop(parameter, None)


Cohort = StackedCohort | SeparateCohort


def _is_below(name: str, block: int) -> bool:
    """Whether a parameter belongs to the stem or to a block before `block` (from 1)."""
    part, *rest = name.split(".")
    return part == "stem" or (part == "blocks" and int(rest[0]) < block - 1)


def make_cohort(config: ModelConfig, seeds: Sequence[int], device: str = "cpu") -> Cohort:
    """One student per entry of `seeds`: equal seeds begin with equal weights, whatever they are taught."""
    students = [build(config, seed, device) for seed in seeds]
    stateful = any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in students[0].modules())
    return SeparateCohort(students) if stateful else StackedCohort(students)
