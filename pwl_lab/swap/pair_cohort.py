"""Pairs of one teacher trained side by side on the same batches: one pass of the teacher serves all of them."""

from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from pwl_lab.swap.pair_training import PairLearner
from pwl_lab.tasks.base import Batch
from pwl_lab.training import Learner, Losses, TrainPlan, train


class PairCohort(Learner):
    """Several pairs, each as if it trained alone: with its own losses, its own masks and its own clipping."""

    def __init__(self, pairs: Sequence[PairLearner]) -> None:
        """The learners of pairs that differ in whatever they like, but have the same teacher."""
        self.pairs = list(pairs)

    def parameter_groups(self, lr: float) -> list[dict[str, Any]]:
        """Those of each pair, one after the other."""
        return [group for pair in self.pairs for group in pair.parameter_groups(lr)]

    def clip_gradients(self, largest: float, optimiser: torch.optim.Optimizer) -> None:
        """Clip each pair by its own norm."""
        for pair in self.pairs:
            pair.clip_gradients(largest, optimiser)

    def losses(self, batch: Batch, step: int) -> Losses:
        """`total`, the sum over the pairs: each one's gradient is that of its own. Every term by the pair's number, too."""
        teacher, terms, totals = self.pairs[0].teacher_activations(batch), Losses(), list[Tensor]()
        for number, pair in enumerate(self.pairs):
            mine = pair.losses(batch, step, teacher)
            terms |= {f"{number} {name}": value for name, value in mine.items()}
            totals.append(mine["total"])
        return terms | {"total": torch.stack(totals).sum()}

    def state(self) -> dict[str, Any]:
        """What each pair's learner says."""
        return {"pairs": [pair.state() for pair in self.pairs]}

    def restore(self, state: dict[str, Any], optimiser: torch.optim.Optimizer) -> None:
        """Become what `state` describes."""
        for pair, mine in zip(self.pairs, state["pairs"], strict=True):
            pair.restore(mine, optimiser)

    def evaluate(self, step: int) -> list[dict[str, Any]]:
        """The rows of every pair, with its number."""
        return [row | {"pair": number} for number, pair in enumerate(self.pairs) for row in pair.evaluate(step)]


def train_pairs_together(
    pairs: Sequence[PairLearner], batches: Iterator[Batch], plan: TrainPlan, description: str
) -> list[pd.DataFrame]:
    """Train pairs of one teacher on the same batches; the history of each, as if it had been trained alone.

    Arguments:
    - `pairs`: their learners; if there is only one, it is trained as always.
    - `batches`, `plan`: as for `train`; `plan.stop_at` must not end one before the others.
    - `description`: the name of one pair in the progress bar.
    """
    if len(pairs) == 1:
        return [train(pairs[0], batches, plan, description)]
    history = train(PairCohort(pairs), batches, plan, f"{len(pairs)} {description}s")
    return [_history_of(history, number) for number in range(len(pairs))]


def _history_of(history: pd.DataFrame, number: int) -> pd.DataFrame:
    """The part of a cohort's history that is about one pair."""
    mine, own = history[history["pair"] == number], f"loss_{number} "
    others = [name for name in mine if name == "pair" or (name.startswith("loss_") and not name.startswith(own))]
    kept = mine.drop(columns=others)
    return kept.rename(columns=lambda name: name.replace(own, "loss_")).reset_index(drop=True)
