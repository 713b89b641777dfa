"""Pairs of one teacher trained together on the same batches: one pass of the teacher serves all of them."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from pwl_lab.support.errors import DivergedError
from pwl_lab.swap.pair_training import PairLearner
from pwl_lab.tasks.base import Batch
from pwl_lab.training import Learner, Losses, TrainPlan, diverged, train


class PairCohort(Learner):
    """Several pairs, each as if it trained alone: with its own losses, its own masks and its own clipping."""

    def __init__(self, pairs: Sequence[PairLearner]) -> None:
        """The learners of pairs that differ in whatever they like, but have the same teacher."""
        self.pairs = list(pairs)
        device = next(self.pairs[0].net.parameters()).device
        self.diverged_by = torch.zeros(len(self.pairs), dtype=torch.long, device=device)  # the step; 0: it has not

    def parameter_groups(self, lr: float) -> list[dict[str, Any]]:
        """Those of each pair, one after the other."""
        return [group for pair in self.pairs for group in pair.parameter_groups(lr)]

    def clip_gradients(self, largest: float, optimiser: torch.optim.Optimizer) -> None:
        """Clip each pair by its own norm."""
        for pair in self.pairs:
            pair.clip_gradients(largest, optimiser)

    def losses(self, batch: Batch, step: int) -> Losses:
        """`total` sums over the pairs, so that each has its own gradient; every term also appears under its pair's number.

        A pair whose loss is not finite has diverged: its terms are 0 from then on, and it does not affect the others.
        """
        teacher, terms, totals = self.pairs[0].teacher_activations(batch), Losses(), list[Tensor]()
        for number, pair in enumerate(self.pairs):
            mine = pair.losses(batch, step, teacher)
            newly = ~mine["total"].detach().isfinite() & (self.diverged_by[number] == 0)
            self.diverged_by[number].masked_fill_(newly, step + 1)
            gone = self.diverged_by[number] > 0
            mine = {name: value.masked_fill(gone, 0.0) for name, value in mine.items()}
            terms |= {f"{number} {name}": value for name, value in mine.items()}
            totals.append(mine["total"])
        return terms | {"total": torch.stack(totals).sum()}

    def finished(self, step: int, rows: list[dict[str, Any]], optimiser: torch.optim.Optimizer) -> bool:
        """Whether all have diverged."""
        return bool((self.diverged_by > 0).all())

    def state(self) -> dict[str, Any]:
        """The state of each pair's learner, and which have diverged."""
        return {"pairs": [pair.state() for pair in self.pairs], "diverged_by": self.diverged_by}

    def restore(self, state: dict[str, Any], optimiser: torch.optim.Optimizer) -> None:
        """Become what `state` describes."""
        for pair, mine in zip(self.pairs, state["pairs"], strict=True):
            pair.restore(mine, optimiser)
        self.diverged_by.copy_(state["diverged_by"])

    def evaluate(self, step: int) -> list[dict[str, Any]]:
        """The rows of every pair, with its number."""
        return [row | {"pair": number} for number, pair in enumerate(self.pairs) for row in pair.evaluate(step)]


def train_pairs_together(
    pairs: Mapping[str, PairLearner], batches: Iterator[Batch], plan: TrainPlan, description: str
) -> list[pd.DataFrame | DivergedError]:
    """Train pairs of one teacher on the same batches; the history of each as if trained alone, or how it diverged.

    Arguments:
    - `pairs`: their learners by the names that errors give them; if there is only one, it is trained alone.
    - `batches`, `plan`: as for `train`; `plan.stop_at` must not end one before the others.
    - `description`: a pair in the progress bar.
    """
    learners = list(pairs.values())
    if len(learners) == 1:
        try:
            return [train(learners[0], batches, plan, description)]
        except DivergedError as error:
            return [error]
    cohort = PairCohort(learners)
    history = train(cohort, batches, plan, f"{len(pairs)} {description}s")
    return [
        diverged(f"{name}: total", step) if step else _history_of(history, number)
        for number, (name, step) in enumerate(zip(pairs, cohort.diverged_by.tolist(), strict=True))
    ]


def _history_of(history: pd.DataFrame, number: int) -> pd.DataFrame:
    """The part of a cohort's history that is about one pair."""
    mine, own = history[history["pair"] == number], f"loss_{number} "
    others = [name for name in mine if name == "pair" or (name.startswith("loss_") and not name.startswith(own))]
    kept = mine.drop(columns=others)
    return kept.rename(columns=lambda name: name.replace(own, "loss_")).reset_index(drop=True)
