"""What a language teacher knows on the way: the parents of tokens in its states, and how much it relies on neighbours."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor

from pwl_lab.models.blocknet import BlockNet
from pwl_lab.support.errors import invalid
from pwl_lab.support.seeding import numpy_generator
from pwl_lab.tasks.base import IGNORED, Batch
from pwl_lab.tasks.sequences import GrammarTask
from pwl_lab.training import TrainedModel, predict

PROBED = 512  # strings are enough to measure how much neighbours matter
RIDGE = 1e-3  # of the linear probe, relative to the number of tokens


@dataclass(frozen=True)
class Span:
    """A symbol of a derivation, and the tokens from `start` up to, but not including, `end` that came of it."""

    symbol: str
    start: int
    end: int


@dataclass(frozen=True)
class ShownString:
    """A test string with its derivation and what can be predicted of it.

    Arguments:
    - `tokens`: the string.
    - `seen`: the string as a network sees it; None where a token is masked.
    - `scored`: which tokens have to be predicted. Some of them are not masked but replaced, or left as they are.
    - `levels`: the spans of each level, from the start symbol down to the parents of the tokens.
    - `posterior`: the exact probability of each symbol at each position, given what is seen.
    - `symbols`: what the columns of `posterior` stand for.
    """

    tokens: tuple[str, ...]
    seen: tuple[str | None, ...]
    scored: tuple[bool, ...]
    levels: tuple[tuple[Span, ...], ...]
    posterior: Float64[Tensor, "length symbols"]
    symbols: tuple[str, ...]


def shown_string(task: GrammarTask, number: int = 0) -> ShownString:
    """One string of the test split. Raises InvalidValueError for a number that is too large."""
    test, trees = task.split("test"), task.derivations("test")
    if not 0 <= number < len(test):
        raise invalid("number", number, f"from 0 to {len(test) - 1}, the strings of the test split")
    one = Batch(test.inputs[number : number + 1], test.labels[number : number + 1])
    names, length = task.class_names, int((one.inputs != task.pad).sum())
    levels = []
    for symbols, starts in zip(trees.symbols[:, number, :length], trees.starts[:, number, :length], strict=True):
        firsts = np.flatnonzero(starts == np.arange(length))
        ends = [*firsts[1:].tolist(), length]
        levels.append(
            tuple(
                Span(task.grammar.symbols[symbols[first]], int(first), end)
                for first, end in zip(firsts, ends, strict=True)
            )
        )
    seen = one.inputs[0, :length].tolist()
    return ShownString(
        tokens=tuple(names[token] for token in trees.tokens[number, :length]),
        seen=tuple(names[token] if token < task.n_classes else None for token in seen),
        scored=tuple((one.labels[0, :length] != IGNORED).tolist()),
        levels=tuple(levels),
        posterior=task.posterior(one)[0, :length],
        symbols=names,
    )


def telling_string(task: GrammarTask) -> ShownString:
    """The one of the first 200 test strings in which some tokens can be predicted and others cannot, with one replaced."""
    test = task.split("test")
    batch = Batch(test.inputs[:200], test.labels[:200])
    best, scored = task.posterior(batch).amax(dim=-1), batch.labels != IGNORED
    unlike = [row[kept].std(correction=0).item() if kept.any() else 0.0 for row, kept in zip(best, scored, strict=True)]
    replaced = (scored & (batch.inputs != task.mask) & (batch.inputs != batch.labels)).any(dim=1)
    return shown_string(task, int((torch.tensor(unlike) + replaced).argmax()))


def checkpoint_steps(teacher: TrainedModel, n: int = 8) -> list[int]:
    """The steps of `n` checkpoints, spread evenly from the first to the last."""
    steps = [checkpoint.step for checkpoint in teacher.checkpoints]
    picked = np.linspace(0, len(steps) - 1, min(n, len(steps))).round().astype(int)
    return [steps[place] for place in picked]


def phases(teacher: TrainedModel) -> tuple[int, int]:
    """The steps between which a teacher's validation loss falls.

    A plateau ends where a tenth of the way to the last loss is done, counted from the loss at a twentieth of all steps;
    the fall ends where nine tenths are done.
    """
    losses = teacher.history.set_index("step")["validation_loss"]
    losses = losses[losses.index >= losses.index.max() / 20]
    early, last = losses.iloc[0], losses.iloc[-1]
    done = (early - losses) / max(early - last, 1e-9)
    return int((done >= 0.1).idxmax()), int((done >= 0.9).idxmax())


def parent_probe(task: GrammarTask, teacher: TrainedModel, steps: Sequence[int]) -> pd.DataFrame:
    """How well the parent of a token can be read from its hidden state by a linear map.

    The map (least squares with a small ridge) is fitted on the validation split and scored on the test split, on the
    tokens that are seen as they are; so the token itself is always known. One row per step and block: `block` 0 is the
    embedding; `accuracy`. With them comes the `chance` of always guessing the most frequent parent.

    Arguments:
    - `task`: the grammar and its splits.
    - `teacher`: the network, with its checkpoints.
    - `steps`: which checkpoints.
    """
    fitted, tested = (_seen_parents(task, split) for split in ("validation", "test"))
    chance = float(np.bincount(tested[2].numpy()).max() / len(tested[2]))
    rows = []
    for step in steps:
        net = teacher.at(teacher.checkpoint(at_step=step))
        states = zip(_states(net, *fitted[:2]), _states(net, *tested[:2]), strict=True)
        for block, (known, unknown) in enumerate(states):
            guesses = _linear_guesses(known, fitted[2], unknown)
            value = (guesses == tested[2]).double().mean().item()
            rows.append({"step": step, "block": block, "accuracy": value, "chance": chance})
    return pd.DataFrame(rows)


def _seen_parents(
    task: GrammarTask, split: str
) -> tuple[Int[Tensor, "strings tokens"], Bool[Tensor, "strings tokens"], Int[Tensor, " seen"]]:
    """The inputs of a split, where its tokens are seen as they are, and the parents of those."""
    batch = task.split(split)
    seen = (batch.labels == IGNORED) & (batch.inputs != task.pad)
    return batch.inputs, seen, torch.from_numpy(task.derivations(split).symbols[-1])[seen]


@torch.no_grad()
def _states(
    net: BlockNet, inputs: Int[Tensor, "strings tokens"], kept: Bool[Tensor, "strings tokens"]
) -> list[Float[Tensor, "kept width"]]:
    """The embedding and the state after each block, of the tokens that are kept."""
    inputs = inputs.to(next(net.parameters()).device)
    states = [net.stem(inputs), *net.hidden_states(inputs)[0]]
    return [state.transpose(1, 2).cpu()[kept] for state in states]


def _linear_guesses(
    known: Float[Tensor, "fitted width"], classes: Int[Tensor, " fitted"], unknown: Float[Tensor, "tested width"]
) -> Int[Tensor, " tested"]:
    """The class that a linear map, fitted to one-hot classes, gives the largest value."""
    a, b = (torch.cat([part, torch.ones(len(part), 1)], dim=1).double() for part in (known, unknown))
    wanted = torch.nn.functional.one_hot(classes).double()
    penalty = RIDGE * len(a) * torch.eye(a.shape[1], dtype=torch.float64)
    weights: Tensor = torch.linalg.solve(a.T @ a + penalty, a.T @ wanted)
    return (b @ weights).argmax(dim=1)


def neighbour_reliance(task: GrammarTask, teacher: TrainedModel, steps: Sequence[int]) -> pd.DataFrame:
    """How far a prediction moves when the two neighbours of a masked token are masked as well.

    In each of the first test strings one token (with a neighbour on both sides) is masked, and nothing else; then the
    3-gram around it. `change` is the total variation between the two predictions, half the sum of absolute differences,
    in the mean over strings; `exact` is the same of the exact posterior. After arXiv 2410.05464, with windows that are symmetric.

    Arguments:
    - `task`, `teacher`, `steps`: as in `parent_probe`.
    """
    strings = torch.from_numpy(task.derivations("test").tokens[:PROBED])
    lengths = (strings != task.pad).sum(dim=1)
    share = torch.from_numpy(numpy_generator(task.seed, "probe", "neighbours").random(len(strings)))
    where = 1 + (share * (lengths - 2)).long()  # from the second token to the last but one
    far = (torch.arange(strings.shape[1]) - where[:, None]).abs()
    alone, together = (strings.masked_fill(far <= radius, task.mask) for radius in (0, 1))
    row = torch.arange(len(strings))

    def variation(a: Tensor, b: Tensor) -> float:
        return (a[row, where] - b[row, where]).abs().sum(dim=-1).mean().item() / 2

    exact = variation(*(task.posterior(Batch(inputs, strings)) for inputs in (alone, together)))
    rows = []
    for step in steps:
        net = teacher.at(teacher.checkpoint(at_step=step))
        device = next(net.parameters()).device
        both = (predict(net, inputs.to(device)).softmax(dim=-1).cpu() for inputs in (alone, together))
        rows.append({"step": step, "change": variation(*both), "exact": exact})
    return pd.DataFrame(rows)
