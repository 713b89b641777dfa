"""Cohorts: many students of one architecture that learn side by side, as if each were alone."""

from collections.abc import Sequence
from copy import deepcopy

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pwl_lab.fast import is_plain
from pwl_lab.fast.stacked import StackedCohort, is_stackable
from pwl_lab.models.blocknet import BlockNet, ModelConfig, build


class SeparateCohort:
    """A list of students, one computed after another. `StackedCohort` computes the same in one pass, for networks it can."""

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

    def hidden_state(
        self, inputs: Float[Tensor, "batch *shape"], block: int, above: int = 1
    ) -> Float[Tensor, "members batch channels *positions"]:
        """Each student's hidden state behind `block` (from 1), on the same inputs; the layers above it are not computed.

        What lies below block `above` gets no gradient and keeps its batch statistics.
        """
        return torch.stack([_hidden_state(student, inputs, block, above) for student in self.students])

    def logits(self, inputs: Float[Tensor, "batch *shape"]) -> Float[Tensor, "members batch classes"]:
        """Each student's logits on the same inputs."""
        return torch.stack([student(inputs) for student in self.students])

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
        gone = {id(parameter) for parameter in self.parameters()}
        self.students = [self.students[member] for member in members]
        gone -= {id(parameter) for parameter in self.parameters()}
        for group in optimiser.param_groups:
            for parameter in group["params"]:
                if id(parameter) in gone:
                    optimiser.state.pop(parameter, None)
            group["params"] = [parameter for parameter in group["params"] if id(parameter) not in gone]


Cohort = SeparateCohort | StackedCohort


def _hidden_state(
    student: BlockNet, inputs: Float[Tensor, "batch *shape"], block: int, above: int
) -> Float[Tensor, "batch channels *positions"]:
    """See `SeparateCohort.hidden_state`."""
    for module in [student.stem, *student.blocks[: above - 1]] if above > 1 else []:
        module.eval()
    state: Tensor = student.stem(inputs)
    for number, part in enumerate(student.blocks[:block], start=1):
        if 1 < number == above:
            state = state.detach()
        state = part(state)
    return state


def make_cohort(config: ModelConfig, seeds: Sequence[int], device: str = "cpu") -> Cohort:
    """One student per entry of `seeds`: equal seeds begin with equal weights, whatever they are taught."""
    students = [build(config, seed, device, stream="student") for seed in seeds]
    return StackedCohort(students) if is_stackable(students[0]) and not is_plain() else SeparateCohort(students)
