"""Small tasks and networks for the exercises: made in a second or two, and from then on kept in the store."""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from pwl_lab.loading import pair
from pwl_lab.loading.mixing import boundaries
from pwl_lab.loading.swapnet import SwapNet
from pwl_lab.models import MLPConfig, build, mlp
from pwl_lab.plan import TrainPlan
from pwl_lab.study import train_or_load
from pwl_lab.tasks.parity import SparseParity
from pwl_lab.training import TrainedModel


def parity_teacher() -> tuple[SparseParity, TrainedModel]:
    """(16, 3)-sparse parity and a saturated two-layer teacher of 256 units, with its checkpoints."""
    task = SparseParity(n_bits=16, k_sparse=3, eval_samples=1024)
    plan = TrainPlan(
        steps=4_000,
        batch_size=128,
        lr=0.2,
        weight_decay=1e-3,
        eval_every=50,
        stop_at=1.0,
        saturation=4.0,
        keep_checkpoints=True,
    )
    return task, train_or_load(mlp(task, width=256), task, plan, device="cpu")


def swap_net() -> SwapNet:
    """Teacher and student of three blocks, untrained, all states 8 wide: a wrong turn gives wrong numbers, not an error."""
    shape = MLPConfig(n_inputs=6, widths=(8, 8, 8))
    return SwapNet(build(shape, seed=0), build(shape, seed=0, stream="student"), (6,)).eval()


def sync_loss(net: SwapNet, teacher_states: Sequence[Tensor], student_states: Sequence[Tensor]) -> Float[Tensor, ""]:
    """The sync loss of two networks' hidden states, as training computes it (`pwl_lab.loading.pair.sync_loss`)."""
    return pair.sync_loss(boundaries(net.converters, teacher_states, student_states))
