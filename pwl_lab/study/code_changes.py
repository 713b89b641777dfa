"""Checks that a network loaded from the store is the one that was saved.

Weights alone do not define a network: its code may change. The key of an entry covers the reader's own code
(`with_own_code`), but not the code of this package or of an installed one. So an entry also stores the outputs of its
networks for a few samples, and these are compared when it is loaded.
"""

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from safetensors.torch import load, save
from torch import Tensor, nn

from pwl_lab.loading.tensors import plain
from pwl_lab.models.blocknet import ModelConfig
from pwl_lab.study.store import Artifact
from pwl_lab.support.errors import InvalidValueError, PwlLabError, invalid
from pwl_lab.support.own_code import code_of, located, naming
from pwl_lab.support.seeding import generator, initialisation
from pwl_lab.swap.swapnet import SwapNet, mask_logits
from pwl_lab.tasks.base import Task, split_of
from pwl_lab.training import predict

N_SAMPLES = 16
MAY_DIFFER = 1  # of the samples: one may differ, since rounding or argmax can flip
# Another machine or number of threads sums in another order, which changes a logit by about 1e-6 of the largest one. A
# network that is sensitive to such small differences shows it when its inputs change by this fraction.
TOLERANCE = 1e-3
_PREFIX = "/answers"  # no name of a network's own tensors begins with a slash

Logits = Float[Tensor, "batch values"]
Answer = Callable[[Tensor], Tensor]
Net = TypeVar("Net", bound=nn.Module)


class ChangedCodeError(PwlLabError):
    """A stored result was computed by code that has changed since."""


def with_own_code(configuration: dict[str, Any], *things: object) -> dict[str, Any]:
    """A recipe's configuration with digests of the reader's own code that `things` use, so that an edit trains again.

    Without such code it stays as it is: our own code counts by the recipe's version.
    """
    digests = code_of(*things)
    return {**configuration, "code": digests} if digests else configuration


@dataclass(frozen=True)
class Entry:
    """An artifact from the store, with a description and the folder it came from."""

    artifact: Artifact
    what: str
    location: Path

    def part(self, prefix: str) -> dict[str, Tensor]:
        """The tensors whose names begin with `prefix/`, with the prefix removed."""
        found = self.artifact.tensors.items()
        return {name.removeprefix(f"{prefix}/"): tensor for name, tensor in found if name.startswith(f"{prefix}/")}

    def restore(self, net: nn.Module, prefix: str) -> None:
        """Load the stored weights into a network. Raises ChangedCodeError if they do not fit."""
        with self._blaming_code():
            net.load_state_dict(self.part(prefix))

    def check(self, answers: Mapping[str, Answer]) -> None:
        """Raise ChangedCodeError if networks do not give the stored outputs."""
        kept = self.part(_PREFIX)
        for name, answer in answers.items():
            with self._blaming_code():
                found = _ask(answer, kept["inputs"])
                differing = _differing(found, kept[f"{name}/logits"], kept[f"{name}/allowed"])
                if differing > MAY_DIFFER:
                    raise ValueError(f"its output differs for {differing} of {len(found)} samples")

    def check_task(self, task: Task) -> None:
        """Raise ChangedCodeError if the task's samples have changed since, but not its fingerprint (none ship)."""
        if self.artifact.shipped:
            return
        kept = self.part(_PREFIX)
        for name, now in _samples(task).items():
            before = kept[name]
            if now.shape != before.shape or not torch.allclose(
                now.double(), before.double(), rtol=TOLERANCE, atol=1e-6
            ):
                raise ChangedCodeError(
                    f"the task of {self.what} has other {name} than when it was stored, but the same fingerprint: "
                    f"restore its code, change its fingerprint(), or remove {self.location} to train it again"
                )

    @contextmanager
    def _blaming_code(self) -> Iterator[None]:
        """A context in which every exception becomes ChangedCodeError: the weights are known to be intact."""
        try:
            yield
        except Exception as error:  # whatever the changed code raises
            raise ChangedCodeError(
                f"the code of {self.what} has changed since it was stored: with the stored weights, {error}. Restore "
                f"the code, or remove {self.location} to train it again"
            ) from error


def kept_answers(answers: Mapping[str, Answer], task: Task) -> dict[str, Tensor]:
    """Tensors to store: a few validation samples of `task`, the outputs for them, and the tolerance of each."""
    kept = _samples(task)
    for name, answer in answers.items():
        found = _ask(answer, kept["inputs"])
        kept |= {f"{name}/logits": found, f"{name}/allowed": _allowed(answer, kept["inputs"], found)}
    return {f"{_PREFIX}/{name}": tensor for name, tensor in kept.items()}


def answers_of(net: nn.Module) -> Answer:
    """A function for a network's outputs on the CPU, which do not depend on the kind of GPU."""
    return partial(predict, _on_cpu(net))


def mask_answers(net: SwapNet) -> dict[str, Answer]:
    """A pair's outputs as its student and for two mixed masks that together contain each block and each converter."""
    ours, n = _on_cpu(net), net.n_blocks

    def answer(mask: str, inputs: Tensor) -> Tensor:
        return mask_logits(ours, inputs, [mask])[mask]

    return {mask: partial(answer, mask) for mask in ("S" * n, ("ST" * n)[:n], ("TS" * n)[:n])}


def check_keepable(config: ModelConfig, task: Task) -> None:
    """Before training, check that a network is fully described by its `state_dict`.

    A network is created, run and changed as in training; what the store would keep of it is loaded into another one,
    which must then give the same outputs. Tensors may share memory. Raises InvalidValueError, saying what is not kept.
    """
    with initialisation(0, "probe", "keeping"):
        net = config.make()
        if net.n_blocks != config.n_blocks:
            at = located(type(config))
            raise invalid(
                "model", config, f"{config.n_blocks} blocks, as it states; it builds {net.n_blocks}; see {at}"
            )
        with torch.no_grad():
            with naming(type(config)):
                net.train()(_samples(task)["inputs"])
            for parameter in net.parameters():
                parameter.add_(0.05 * torch.rand_like(parameter))
        check_kept(config, net, task)


def check_kept(config: ModelConfig, net: nn.Module, task: Task) -> None:
    """Refuse to store a network that could not be restored; raises as `check_keepable`."""
    other = config.make()
    try:
        other.load_state_dict(load(save({name: plain(tensor) for name, tensor in net.state_dict().items()})))
    except Exception as error:  # objects that are not tensors, or types that files do not support
        raise _not_keepable(config, str(error)) from error
    inputs, answer = _samples(task)["inputs"], answers_of(net)
    found = _ask(answer, inputs)
    if _differing(_ask(answers_of(other), inputs), found, _allowed(answer, inputs, found)) > MAY_DIFFER:
        raise _not_keepable(config, "everything that affects its output must be a parameter or a persistent buffer")


def _not_keepable(config: ModelConfig, why: str) -> InvalidValueError:
    """The error for a network that cannot be stored."""
    kept = f"a network that its state_dict can restore from a safetensors file ({why})"
    return invalid("model", config, f"{kept}; see {located(type(config))}")


def _samples(task: Task) -> dict[str, Tensor]:
    """The samples on which networks are compared, and their labels."""
    batch = split_of(task, "validation", "cpu")
    return {name: getattr(batch, name)[:N_SAMPLES].cpu().clone() for name in ("inputs", "labels")}


def _on_cpu(net: Net) -> Net:
    """The network itself if it is on the CPU, otherwise a copy."""
    there = next(iter(net.state_dict().values()), None)
    return net if there is None or there.device.type == "cpu" else copy.deepcopy(net).cpu()


def _ask(answer: Answer, inputs: Tensor) -> Logits:
    """The logits, with the same random numbers at every call."""
    with torch.no_grad(), initialisation(0, "probe", "answers"):
        return answer(inputs).float().flatten(1)


def _allowed(answer: Answer, inputs: Tensor, found: Logits) -> Float[Tensor, " batch"]:
    """How far another output for each sample may be from `found`."""
    size = _finite(found).abs().amax(dim=1)
    allowed = TOLERANCE * torch.maximum(size, size.median())
    if not inputs.is_floating_point():
        return allowed
    noise = torch.rand(inputs.shape, generator=generator(0, "probe", "nudge")).to(inputs)
    moved = _finite(_ask(answer, inputs * (1.0 + TOLERANCE * noise)) - found).abs().amax(dim=1)
    return allowed + torch.maximum(moved, moved.median())


def _differing(found: Logits, kept: Logits, allowed: Float[Tensor, " batch"]) -> int:
    """How many samples have different outputs. Values that are not finite count as equal."""
    if found.shape != kept.shape:
        return len(kept)
    same = (found.isfinite() == kept.isfinite()) & (_finite(found - kept).abs() <= allowed.unsqueeze(1))
    return int((~same.all(dim=1)).sum())


def _finite(values: Tensor) -> Tensor:
    """The values, with zeros in place of those that are not finite."""
    return values.nan_to_num(0.0, 0.0, 0.0)
