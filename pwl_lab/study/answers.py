"""Whether a network that comes out of the store is the one that was put in.

Weights alone make no network: its code is the reader's to change, and no key covers code. So an entry keeps what its networks
answered to a few samples, and whoever takes them out compares.
"""

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors.torch import load, save
from torch import Tensor, nn

from pwl_lab.loading.tensors import plain
from pwl_lab.models.blocknet import ModelConfig
from pwl_lab.support.errors import InvalidValueError, PwlLabError, invalid
from pwl_lab.support.seeding import generator, initialisation
from pwl_lab.swap.swapnet import SwapNet, mask_logits
from pwl_lab.tasks.base import Task
from pwl_lab.training import predict

N_SAMPLES = 16
# Another machine or number of threads adds up in another order, which moves a logit by about 1e-6 of the largest one.
TOLERANCE = 1e-3
NUDGE = 1e-5  # a network that makes much of such small differences shows it when its inputs change by this share
MAY_DIFFER = 1 / N_SAMPLES  # of the samples: where a network rounds or chooses, one may fall on the other side
_PREFIX = "/answers"  # the names of students, which stand beside it, do not begin with a slash

Answer = Callable[[Tensor], Float[Tensor, "batch classes"]]


class ChangedCodeError(PwlLabError):
    """What was stored was computed by other code than there is now."""


@dataclass(frozen=True)
class Entry:
    """Tensors out of the store: what they are in words, and where they came from."""

    tensors: Mapping[str, Tensor]
    what: str
    place: Path

    def restore(self, net: nn.Module, state: Mapping[str, Tensor]) -> None:
        """Give a network its stored weights. Raises ChangedCodeError where they do not fit."""
        with self.blaming_code():
            net.load_state_dict(state)

    def check(self, answers: Mapping[str, Answer]) -> None:
        """Raise ChangedCodeError where networks do not answer as those did that were stored."""
        inputs = self.tensors[f"{_PREFIX}/inputs"]
        for name, answer in answers.items():
            kept, allowed = (self.tensors[f"{_PREFIX}/{name}/{part}"] for part in ("logits", "allowed"))
            with self.blaming_code():
                share = _share_apart(_answer(answer, inputs), kept, allowed)
                if share > MAY_DIFFER:
                    raise ValueError(f"it answers {round(share * len(inputs))} of {len(inputs)} samples differently")

    def check_task(self, task: Task) -> None:
        """Raise ChangedCodeError where the task has other samples than when this was stored, under the same fingerprint."""
        for name, mine in _asked(task).items():
            kept = self.tensors[name]
            if mine.shape != kept.shape or not torch.allclose(mine.double(), kept.double(), rtol=TOLERANCE, atol=1e-6):
                raise ChangedCodeError(
                    f"the task of {self.what} gives other {name.rpartition('/')[2]} than when it was stored, under the same "
                    f"fingerprint: put its code back, let its fingerprint() tell them apart, or remove {self.place} to train "
                    "it anew"
                )

    @contextmanager
    def blaming_code(self) -> Iterator[None]:
        """Inside, what goes wrong is the doing of code that has changed: the weights are those that were written."""
        try:
            yield
        except ChangedCodeError:
            raise
        except Exception as error:  # whatever the changed code raises
            raise ChangedCodeError(
                f"the code of {self.what} has changed since it was stored: with the stored weights, {error}. Put the code "
                f"back, or remove {self.place} to train it anew"
            ) from error


def kept_answers(answers: Mapping[str, Answer], task: Task) -> dict[str, Tensor]:
    """A few validation samples of `task`, the answers to them, and how far from these others may be: tensors to keep."""
    kept = _asked(task)
    inputs = kept[f"{_PREFIX}/inputs"]
    for name, answer in answers.items():
        found = _answer(answer, inputs)
        kept |= {f"{_PREFIX}/{name}/logits": found, f"{_PREFIX}/{name}/allowed": _allowed(answer, inputs, found)}
    return kept


def answers_of(net: nn.Module) -> Answer:
    """What a network answers on the CPU, where that does not depend on the kind of GPU."""
    return partial(predict, _on_cpu(net))


def mask_answers(net: SwapNet) -> dict[str, Answer]:
    """What a pair answers as its student, and as two mixtures: each block and each converter is in one of them."""
    ours, n = _on_cpu(net), net.n_blocks
    masks = dict.fromkeys(["S" * n, ("ST" * n)[:n], ("TS" * n)[:n]])
    return {mask: lambda inputs, mask=mask: mask_logits(ours, inputs, [mask])[mask] for mask in masks}


def check_keepable(config: ModelConfig, task: Task) -> None:
    """Refuse, before it is trained, a network whose `state_dict` is not all that there is to know of it.

    One is made, run and changed as in training, and what the store would keep of it is given to another, which must then
    answer as the first. Tensors may share memory. Raises InvalidValueError, saying what cannot be kept.
    """
    with initialisation(0, "probe", "keeping"):
        net = config.make()
        if net.n_blocks != config.n_blocks:
            raise invalid("model", config, f"{config.n_blocks} blocks, as it says; it makes {net.n_blocks}")
        with torch.no_grad():
            net.train()(_samples(task))
            for parameter in net.parameters():
                parameter.add_(0.05 * torch.rand_like(parameter))
        check_kept(config, net, task)


def check_kept(config: ModelConfig, net: nn.Module, task: Task) -> None:
    """Refuse to keep a network that the store would not bring back; raises as `check_keepable`."""
    other = config.make()
    try:
        other.load_state_dict(load(save({name: plain(tensor) for name, tensor in net.state_dict().items()})))
    except Exception as error:  # whatever a tensor that is none, or a type that files do not know, raises
        raise _not_keepable(config, str(error)) from error
    inputs, answer = _samples(task), answers_of(net)
    found = _answer(answer, inputs)
    if _share_apart(_answer(answers_of(other), inputs), found, _allowed(answer, inputs, found)) > MAY_DIFFER:
        raise _not_keepable(config, "what else it needs to answer alike has to be a parameter or a persistent buffer")


def _not_keepable(config: ModelConfig, why: str) -> InvalidValueError:
    """Says of a network why it cannot be kept."""
    return invalid("model", config, f"a network that its state_dict brings back from a safetensors file ({why})")


def _samples(task: Task) -> Tensor:
    """What networks are asked."""
    return task.split("validation").inputs[:N_SAMPLES].cpu().clone()


def _asked(task: Task) -> dict[str, Tensor]:
    """The same with their labels: tensors for an entry."""
    labels = task.split("validation").labels[:N_SAMPLES].cpu().clone()
    return {f"{_PREFIX}/inputs": _samples(task), f"{_PREFIX}/labels": labels}


def _on_cpu(net: nn.Module) -> nn.Module:
    """The network itself where it is on the CPU, else a copy."""
    there = next(iter(net.state_dict().values()), None)
    return net if there is None or there.device.type == "cpu" else copy.deepcopy(net).cpu()


def _answer(answer: Answer, inputs: Tensor) -> Float[Tensor, "batch values"]:
    """The logits; whatever is drawn at random for them is always the same."""
    with torch.no_grad(), initialisation(0, "probe", "answers"):
        return answer(inputs).float().flatten(1)


def _allowed(answer: Answer, inputs: Tensor, found: Float[Tensor, "batch values"]) -> Float[Tensor, " batch"]:
    """How far from what was found another answer to each sample may be."""
    size = _finite(found).abs().amax(dim=1)
    allowed = TOLERANCE * torch.maximum(size, size.median())
    if not inputs.is_floating_point():
        return allowed
    noise = torch.rand(inputs.shape, generator=generator(0, "probe", "nudge")).to(inputs)
    moved = _finite(_answer(answer, inputs * (1.0 + NUDGE * noise)) - found).abs().amax(dim=1)
    return allowed + torch.maximum(moved, moved.median())


def _share_apart(
    found: Float[Tensor, "batch values"], kept: Float[Tensor, "batch values"], allowed: Float[Tensor, " batch"]
) -> float:
    """The share of samples whose answers differ. Numbers that are not finite are all the same."""
    if found.shape != kept.shape:
        return 1.0
    same = (found.isfinite() == kept.isfinite()) & (_finite(found - kept).abs() <= allowed.unsqueeze(1))
    return 1.0 - same.all(dim=1).double().mean().item()


def _finite(values: Tensor) -> Tensor:
    """With zeros for what is not finite."""
    return values.nan_to_num(0.0, 0.0, 0.0)
