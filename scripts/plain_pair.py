"""A step of PWL training as a reader of arXiv 2509.22319 would write it: the reference of `bench.py`, and of a test.

Every mixed network is computed from the image on, and every conversion where its loss asks for it. The plain versions in
`pwl_lab.swap.pair_training` share both between the losses and would be quicker, so this module takes only the loss
functions of two tensors from the package.
"""

import copy
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pwl_lab.distill.losses import soft_loss
from pwl_lab.fast import plain
from pwl_lab.swap.pair_training import PairLossConfig, feature_distance
from pwl_lab.swap.swapnet import ChannelMap, SwapNet
from pwl_lab.tasks.base import Batch

Distance = Callable[[Tensor, Tensor], Tensor]


def distance(ours: Tensor, target: Tensor) -> Tensor:
    """The paper's feature distance with torch's own losses."""
    with plain():
        return feature_distance(ours, target)


def quick_distance(ours: Tensor, target: Tensor) -> Tensor:
    """The same from inner products of channels-last views, which copy nothing: the quickest that is not shared work."""
    a, b = (state.movedim(1, -1).reshape(len(state), -1) for state in (ours, target))
    difference, dot = a - b, torch.linalg.vecdot
    cosine = dot(a, b) / (dot(a, a) * dot(b, b)).clamp_min(1e-12).sqrt()
    return (dot(difference, difference) / a.shape[1] + 1 - cosine).mean()


class PermutingMap(nn.Module):
    """A token converter as a convolution of size 1 over (batch, channels, tokens): tokens are copied there and back."""

    def __init__(self, converter: ChannelMap) -> None:
        """With the parameters of `converter`, not a copy."""
        super().__init__()
        self.map = converter.map

    def forward(self, state: Tensor) -> Tensor:
        """The converted state, its channels in dimension 1."""
        if state.dim() == 2:  # units, no tokens
            converted: Tensor = self.map(state)
            return converted
        return F.conv1d(state.contiguous(), self.map.weight.unsqueeze(-1), self.map.bias)


def as_published(net: SwapNet) -> SwapNet:
    """A copy with the converters of the paper's code, in torch's default memory layout."""
    published = copy.deepcopy(net).to(memory_format=torch.contiguous_format)
    for converters in (published.converters.encoders, published.converters.decoders):
        for i, one in enumerate(converters):
            if isinstance(one, ChannelMap) and isinstance(one.map, nn.Linear):
                converters[i] = PermutingMap(one)
    return published


def plain_losses(
    net: SwapNet, config: PairLossConfig, batch: Batch, masks: Iterator[str], distance: Distance = distance
) -> dict[str, Tensor]:
    """The terms and their weighted sum (`total`), as in `PairLearner.losses`; the norms stay in the mode they are in."""
    with torch.no_grad():
        teacher, teacher_logits = net.teacher.hidden_states(batch.inputs)
    student, logits = net.student.hidden_states(batch.inputs)
    terms = {
        "hard": F.cross_entropy(logits, batch.labels),
        "soft": soft_loss(logits, teacher_logits, config.temperature),
        "sync": sync(net, teacher, student, distance),
        "recon": recon(net, teacher, student, distance),
        "cross": cross(net, config, batch.inputs, teacher_logits, masks),
    }
    weights = {"hard": config.alpha, "soft": 1 - config.alpha}
    weights |= {name: getattr(config, name) for name in ("sync", "recon", "cross")}
    return terms | {"total": sum(weight * terms[name] for name, weight in weights.items())}


def sync(net: SwapNet, teacher: Sequence[Tensor], student: Sequence[Tensor], distance: Distance) -> Tensor:
    """Converted states against the other network's."""
    found = 0.0
    for i in range(1, net.n_blocks):
        found += distance(net.converters.encode(teacher[i - 1], i), student[i - 1])
        found += distance(net.converters.decode(student[i - 1], i), teacher[i - 1])
    return found / (net.n_blocks - 1)


def recon(net: SwapNet, teacher: Sequence[Tensor], student: Sequence[Tensor], distance: Distance) -> Tensor:
    """States against themselves, converted there and back."""
    found, encode, decode = 0.0, net.converters.encode, net.converters.decode
    for i in range(1, net.n_blocks):
        found += distance(decode(encode(teacher[i - 1], i), i), teacher[i - 1])
        found += distance(encode(decode(student[i - 1], i), i), student[i - 1])
    return found / (net.n_blocks - 1)


def cross(net: SwapNet, config: PairLossConfig, inputs: Tensor, target: Tensor, masks: Iterator[str]) -> Tensor:
    """Each group of each pass through the network of the next mask."""
    found = []
    for _ in range(config.cross_passes):
        for part, wanted in zip(inputs.chunk(config.cross_groups), target.chunk(config.cross_groups), strict=True):
            with net.student_on_running_statistics():
                found.append(soft_loss(net(part, next(masks)), wanted, config.temperature))
    return torch.stack(found).mean()
