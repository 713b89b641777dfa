"""What PWL training asks of student and converters beside the student's own loss (arXiv 2509.22319).

Synchronisation: a network's hidden state, converted, is the other's. Reconstruction: converted there and back it is itself.
Cross: networks that mix blocks of both say what the teacher says.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from pwl_lab.distill.losses import mean_of, soft_loss
from pwl_lab.fast import feature_distance as fast_distance
from pwl_lab.fast import mixing, sped_up_by
from pwl_lab.swap.swapnet import Converters, SwapNet


@dataclass(frozen=True)
class Boundary:
    """The states of both networks behind one block (counted from 1), and what the converters there make of them."""

    number: int
    teacher: Float[Tensor, "batch c_t *positions"]
    student: Float[Tensor, "batch c_s *positions"]
    encoded: Float[Tensor, "batch c_s *positions"]
    decoded: Float[Tensor, "batch c_t *positions"]


def boundaries(
    converters: Converters, teacher_states: Sequence[Tensor], student_states: Sequence[Tensor]
) -> list[Boundary]:
    """Every boundary between two blocks, first to last. All terms of PWL need these conversions: they are made once."""
    pairs = list(zip(teacher_states, student_states, strict=True))[:-1]
    return [
        Boundary(number, teacher, student, converters.encode(teacher, number), converters.decode(student, number))
        for number, (teacher, student) in enumerate(pairs, start=1)
    ]


@sped_up_by(fast_distance.feature_distance)
def feature_distance(
    ours: Float[Tensor, "batch channels *positions"], target: Float[Tensor, "batch channels *positions"]
) -> Float[Tensor, ""]:
    """Mean squared error plus one minus the cosine of the flattened features: 0 for equal ones (1 where one is all zero)."""
    cosine = F.cosine_similarity(ours.flatten(1), target.flatten(1), dim=1, eps=1e-6)  # (batch)
    return F.mse_loss(ours, target) + 1 - cosine.mean()


def sync_loss(between: Sequence[Boundary]) -> Float[Tensor, ""]:
    """Each network's state, converted, against the other's; averaged over the boundaries."""
    return mean_of([feature_distance(b.encoded, b.student) + feature_distance(b.decoded, b.teacher) for b in between])


def recon_loss(converters: Converters, between: Sequence[Boundary]) -> Float[Tensor, ""]:
    """Each state against itself, converted there and back; averaged over the boundaries."""
    return mean_of(
        [
            feature_distance(converters.decode(b.encoded, b.number), b.teacher)
            + feature_distance(converters.encode(b.decoded, b.number), b.student)
            for b in between
        ]
    )


@sped_up_by(mixing.mixed_logits)
def mixed_logits(
    net: SwapNet, between: Sequence[Boundary], wanted: Sequence[tuple[int, str]], groups: int
) -> list[Float[Tensor, "_ classes"]]:
    """Logits of each wanted (group, mask) for the samples of that group, one mask after the other.

    The blocks before a mask's first change of owner are not run again: their states are known.

    Arguments:
    - `net`: runs the rest of each mask.
    - `between`: the states of both networks for the whole batch.
    - `wanted`: the group's number, from 0, and a mask with both letters.
    - `groups`: the batch is cut into so many parts (of `Tensor.chunk`).
    """
    found = []
    for group, mask in wanted:
        change = len(mask) - len(mask.lstrip(mask[0]))  # the last block before the first change of owner
        known = between[change - 1].teacher if mask[0] == "T" else between[change - 1].student
        found.append(net.run_from(known.chunk(groups)[group], change, mask))
    return found


def cross_loss(
    net: SwapNet,
    between: Sequence[Boundary],
    masks: Sequence[str],
    teacher_logits: Float[Tensor, "batch classes"],
    temperature: float,
    groups: int = 1,
) -> Float[Tensor, ""]:
    """`T^2 * KL(teacher || the network that a mask describes)`, averaged over the masks.

    Arguments:
    - `net`: the pair.
    - `between`: the states of both networks for the batch, see `boundaries`.
    - `masks`: each with both letters.
    - `teacher_logits`: of the whole batch.
    - `temperature`: of the soft loss.
    - `groups`: cut the batch into so many parts (of `Tensor.chunk`), which take the masks in turn, round after round.
    """
    targets = teacher_logits.chunk(groups)
    wanted = [(turn % len(targets), mask) for turn, mask in enumerate(masks)]
    with net.student_on_running_statistics():
        logits = mixed_logits(net, between, wanted, groups)
    terms = [soft_loss(ours, targets[group], temperature) for (group, _), ours in zip(wanted, logits, strict=True)]
    return mean_of(terms)
