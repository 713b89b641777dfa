"""Students of one architecture, stacked: the fast twin of `pwl_lab.distill.students.SeparateCohort`.

At these sizes a training step is mostly overhead. Stacking the parameters of all students turns their matrix products
into one batched product: with `torch.func.vmap` for any network, and directly for networks of linear layers.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from typing import TYPE_CHECKING, Any, Protocol, Self, cast, runtime_checkable

import torch
from jaxtyping import Float, Num
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from pwl_lab.fast.linear import FewOutputs

LINEAR = (nn.Linear, FewOutputs)
FEEDFORWARD = (*LINEAR, nn.ReLU, nn.GELU)
# Layers that have a fast twin for all members, which gets the layer, its stacked weights and the members' states. Only
# for the class itself: a subclass may compute something else.
RUN_BY: dict[type[nn.Module], Callable[[Any, Mapping[str, Tensor], Tensor], Tensor]] = {}


@runtime_checkable
class Blocks(Protocol):
    """The part of `pwl_lab.models.BlockNet` used here; that module is above this one."""

    if TYPE_CHECKING:  # at run time, Python from 3.12 on does not look where a module keeps its submodules
        stem: nn.Module
        blocks: nn.ModuleList
        head: nn.Module


def is_stackable(student: nn.Module) -> bool:
    """Whether the student has only parameters, none of them shared, no dropout, and no layer that computes in parts.

    Buffers (such as those of batch norms) change in place, and stacking would untie shared parameters. Dropout acts in
    some blocks and not in others, where a stage trains some of them. A layer in parts has no memory to spare for several
    students at once.
    """
    names = {name for name, _ in student.named_parameters()}
    if any(getattr(module, "in_parts", False) or _drops(module) for module in student.modules()):
        return False
    return student.state_dict().keys() == names and not list(student.buffers())  # a buffer need not be in `state_dict`


def _drops(module: nn.Module) -> bool:
    """Whether a layer sets some values to zero at random."""
    rate = module.p if isinstance(module, nn.modules.dropout._DropoutNd) else getattr(module, "dropout", 0.0)
    return isinstance(rate, float) and rate > 0


class StackedCohort:
    """Students whose parameters are stacked along a first dimension of members; see `is_stackable`."""

    def __init__(self, students: Sequence[nn.Module]) -> None:
        """The students' weights are copied; the students themselves do not change."""
        parameters, _ = stack_module_state(list(students))
        self.tensors = {name: tensor.detach().clone().requires_grad_() for name, tensor in parameters.items()}
        base = deepcopy(students[0]).to("meta")
        self._net = cast(Blocks, base)  # used only for its layers: the weights are in `tensors`
        parts = [*self._net.blocks, self._net.head]
        self._feedforward = not list(self._net.stem.parameters()) and all(map(is_feedforward, parts))

    def __len__(self) -> int:
        """The number of students."""
        return len(next(iter(self.tensors.values())))

    def part(self, members: list[int]) -> Self:
        """Some of the students as a cohort of their own."""
        part = object.__new__(type(self))
        part.tensors = {name: tensor.detach()[members].requires_grad_() for name, tensor in self.tensors.items()}
        part._net, part._feedforward = self._net, self._feedforward
        return part

    @classmethod
    def joined(cls, cohorts: Sequence["StackedCohort"]) -> "StackedCohort":
        """Cohorts of one architecture as one; gradients arrive at the parameters of `cohorts`."""
        whole = object.__new__(cls)
        whole._net, whole._feedforward = cohorts[0]._net, cohorts[0]._feedforward
        whole.tensors = {name: torch.cat([one.tensors[name] for one in cohorts]) for name in cohorts[0].tensors}
        return whole

    def parameters(self) -> list[Tensor]:
        """The parameters for the optimiser."""
        return list(self.tensors.values())

    def hidden_states(
        self, inputs: Num[Tensor, "batch *shape"], last: int, first_trained: int = 1
    ) -> list[Float[Tensor, "members batch _ *_"]]:
        """As in `SeparateCohort`."""
        common = not list(self._net.stem.parameters())  # all members still have the same state after the stem
        state = self._net.stem(inputs) if common else self._run("stem", self._net.stem, inputs, common=True)
        states = []
        for number, part in enumerate(self._net.blocks[:last], start=1):
            if 1 < number == first_trained:
                state = state.detach()
            state = self._run(f"blocks.{number - 1}", part, state, common and number == 1)
            states.append(state)
        return states

    def logits(self, inputs: Num[Tensor, "batch *shape"]) -> Float[Tensor, "members batch *tokens classes"]:
        """Each student's logits on the same inputs."""
        states = self.hidden_states(inputs, len(self._net.blocks))
        return self._run("head", self._net.head, states[-1], common=False)

    def _run(self, name: str, part: nn.Module, state: Tensor, common: bool) -> Float[Tensor, "members batch *shape"]:
        """Run every member's `part`, named `name` in the network; a `common` state has no member dimension."""
        if self._feedforward:
            return run_feedforward(part, name, self.tensors, state)
        weights = {key.removeprefix(f"{name}."): t for key, t in self.tensors.items() if key.startswith(f"{name}.")}
        if common and not weights:
            state, common = state.expand(len(self), *state.shape), False
        if not common and (run := RUN_BY.get(type(part))) is not None:
            return run(part, weights, state)

        def of_member(weights: dict[str, Tensor], state: Tensor) -> Tensor:
            outputs: Tensor = functional_call(part, weights, (state,))
            return outputs

        if len(self) == 1:  # vmap would add its overhead and save nothing
            alone = {key: tensor[0] for key, tensor in weights.items()}
            return of_member(alone, state if common else state[0]).unsqueeze(0)
        of_all: Tensor = vmap(of_member, in_dims=(0, None if common else 0))(weights, state)
        return of_all

    def train(self, step: int, seeds: list[int]) -> None:
        """Nothing in these students behaves differently in training, or draws anything."""

    def eval(self) -> None:
        """The same."""

    def clip_gradients(self, largest: float) -> None:
        """Scale each student's gradient so that its norm over all parameters is at most `largest`."""
        gradients = [tensor.grad for tensor in self.parameters() if tensor.grad is not None]
        squares = [gradient.flatten(1).square().sum(dim=1) for gradient in gradients]  # per parameter: (members)
        norms = sum(squares[1:], start=squares[0]).sqrt()
        factors = (largest / (norms + 1e-6)).clamp(max=1.0)
        for gradient in gradients:
            gradient.mul_(factors.reshape(-1, *(1,) * (gradient.dim() - 1)))

    def state(self, member: int) -> dict[str, Tensor]:
        """A copy of one student's weights, named as in its network."""
        return {name: tensor.detach()[member].clone() for name, tensor in self.tensors.items()}

    @torch.no_grad()
    def restore(self, member: int, state: Mapping[str, Tensor]) -> None:
        """Give a student these weights, as `state` returns them."""
        for name, tensor in self.tensors.items():
            tensor[member] = state[name]

    def keep(self, members: list[int], optimiser: torch.optim.Optimizer) -> None:
        """Drop all students but `members`, with their optimiser state; those stay in the given order."""
        before, self.tensors = self.parameters(), self.part(members).tensors
        replaced = {id(old): new for old, new in zip(before, self.parameters(), strict=True)}
        for group in optimiser.param_groups:
            group["params"] = [replaced.get(id(parameter), parameter) for parameter in group["params"]]
        for old in before:
            for name, value in optimiser.state.pop(old, {}).items():
                stacked = isinstance(value, Tensor) and value.shape == old.shape
                optimiser.state[replaced[id(old)]][name] = value[members].clone() if stacked else value


def is_feedforward(part: nn.Module) -> bool:
    """Whether `run_feedforward` supports every layer of it, and at least one has weights."""
    kinds = [type(layer) for _, layer in _layers(part, "")]
    return any(kind in LINEAR for kind in kinds) and all(kind in FEEDFORWARD for kind in kinds)


def run_feedforward(
    part: nn.Module, name: str, tensors: Mapping[str, Tensor], state: Float[Tensor, "*common batch units"]
) -> Float[Tensor, "members batch out"]:
    """Run the layers of `part`, named `name` in the network, with stacked weights `tensors`.

    A state without a member dimension is common to all members.
    """
    for path, layer in _layers(part, name):
        if isinstance(layer, nn.Linear):
            state = _linear(state, tensors[f"{path}.weight"], tensors.get(f"{path}.bias"))
        else:
            state = layer(state)
    return state


def _layers(part: nn.Module, name: str) -> Iterator[tuple[str, nn.Module]]:
    """The layers in order of application, with their full names."""
    if not isinstance(part, nn.Sequential):
        yield name, part
        return
    for key, layer in part.named_children():
        yield from _layers(layer, f"{name}.{key}")


def _linear(
    state: Float[Tensor, "*common batch units"], weight: Float[Tensor, "members out units"], bias: Tensor | None
) -> Float[Tensor, "members batch out"]:
    """One product for all members if they share the state, otherwise one batched product."""
    members, out, _ = weight.shape
    if state.dim() == 3:
        product = torch.bmm(state, weight.transpose(1, 2))  # (members, batch, out)
        return product if bias is None else product + bias.unsqueeze(1)
    flat = nn.functional.linear(state, weight.flatten(0, 1), None if bias is None else bias.flatten())
    return flat.reshape(-1, members, out).transpose(0, 1)
