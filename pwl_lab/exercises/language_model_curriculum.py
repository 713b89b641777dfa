"""Checks of the exercises to notebook 07: a posterior by hand, projected targets of strings, a curriculum of one's own."""

from collections.abc import Callable, Mapping, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pwl_lab.distill.curriculum import Curriculum, Stage, TeacherHidden, TeacherOutput
from pwl_lab.distill.targets import Projection, random_projection
from pwl_lab.exercises.checking import attempt, refusal, same_numbers, same_values
from pwl_lab.support.errors import PwlLabError
from pwl_lab.support.seeding import generator
from pwl_lab.tasks.grammar import Grammar
from pwl_lab.tasks.inside import token_posterior

TINY = Grammar(
    name="tiny",
    tokens=("a", "b"),
    start={"s": 1.0},
    rules={"s": {"x y": 0.75, "y x y": 0.25}, "x": {"a a": 0.5, "b b": 0.5}, "y": {"a b": 0.8, "b": 0.2}},
)
MASKED = "_"


def strings_of() -> dict[str, float]:
    """All strings of the tiny grammar with their probabilities."""
    below: dict[str, dict[str, float]] = {token: {token: 1.0} for token in TINY.tokens}
    for symbol in reversed(TINY.symbols):
        below[symbol] = {}
        for alternative, share in TINY.rules[symbol].items():
            for string, chance in _sequences([below[part] for part in alternative.split()]).items():
                below[symbol][string] = below[symbol].get(string, 0.0) + share * chance
    (start,) = TINY.start
    return below[start]


def _sequences(parts: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Every way to put one string of each part in a row, with its probability."""
    rows = {"": 1.0}
    for part in parts:
        longer: dict[str, float] = {}
        for (left, p), (right, q) in ((one, other) for one in rows.items() for other in part.items()):
            longer[left + right] = longer.get(left + right, 0.0) + p * q
        rows = longer
    return rows


def posterior(answer: Callable[[dict[str, float], str, int], Mapping[str, float]]) -> str:
    """`answer(strings, seen, position)`: the probability of `a` and of `b` at a position, given everything seen."""
    hint = (
        "keep the strings that fit everything seen, its length too; add up probabilities per token; divide by their sum"
    )
    for seen, position in (("_a_b", 0), ("____", 2), ("_b_b_b", 0)):
        on = f"the strings of the tiny grammar, {seen!r} and position {position}"
        given = attempt(answer, strings_of(), seen, position, hint=hint, on=on)
        if not isinstance(given, Mapping) or set(given) != set(TINY.tokens):
            found = sorted(map(str, given)) if isinstance(given, Mapping) else type(given).__name__
            raise refusal("posterior", "a dict with a probability for each token is expected", hint, list("ab"), found)
        index = {**{token: number for number, token in enumerate(TINY.tokens)}, MASKED: TINY.mask}
        right = token_posterior(TINY, torch.tensor([[index[symbol] for symbol in seen]]))[0, position]
        same_numbers("posterior", [given[token] for token in TINY.tokens], right, hint, _wrong(seen, position))
    return "Right: this is what the inside recursion computes, without writing down a single string."


def _wrong(seen: str, position: int) -> dict[str, list[float]]:
    """What the usual mistakes give."""

    def shares(fits: Callable[[str], bool], counted: bool = False, whole: bool = True) -> list[float]:
        rows = {string: 1.0 if counted else p for string, p in strings_of().items() if fits(string)}
        found = [sum((p for string, p in rows.items() if string[position] == token), 0.0) for token in TINY.tokens]
        total = sum(found)
        return [value / total for value in found] if whole and total else found

    def agrees(string: str) -> bool:
        return all(a in (b, MASKED) for a, b in zip(seen, string, strict=False))

    def fits(string: str) -> bool:
        return len(string) == len(seen) and agrees(string)

    return {
        "these do not sum to 1: divide by the probability of everything that fits": shares(fits, whole=False),
        "every string counts the same here; weigh it with its probability": shares(fits, counted=True),
        "strings of another length are counted as well: the length is seen, too": shares(
            lambda string: len(string) > position and agrees(string)
        ),
        "what is seen is not used": shares(lambda string: len(string) == len(seen)),
    }


def projected_target(answer: Callable[[Tensor, Tensor, Tensor], Float[Tensor, "batch r tokens"]]) -> str:
    """`answer(state, matrix, real)`: `P^T h` at every real token, centred and scaled over real tokens; 0 at padding."""
    hint = "project, take the real tokens (projected.transpose(1, 2)[real]) for mean and scale, then multiply by `real`"
    state = torch.randn(4, 6, 5, generator=generator(5, "init")) + 1
    real = torch.arange(5) < torch.tensor([[5], [3], [2], [4]])
    state, matrix = state * real.unsqueeze(1), random_projection(6, 2, seed=3)
    found = attempt(
        answer, state, matrix, real, hint=hint, on="4 states of 6 channels, 5 tokens of which up to 3 are padding"
    )
    fitted = Projection.fit(matrix.unsqueeze(0), state, real=real)
    right = fitted(state)[0] * real.unsqueeze(1)
    same_numbers("projected_target", found, right, hint, _wrong_targets(state, matrix, real, right))
    return "Right: the padding neither moves the mean nor has a target of its own."


def _wrong_targets(
    state: Tensor, matrix: Tensor, real: Bool[Tensor, "batch tokens"], right: Tensor
) -> dict[str, Tensor]:
    """What the usual mistakes give."""
    mixed = torch.einsum("bmt,mr->brt", state, matrix)
    rows = mixed.transpose(1, 2)[real]
    mean, kept = rows.mean(dim=0).unsqueeze(1), real.unsqueeze(1)
    spread = (rows - rows.mean(dim=0)).square().mean()
    everywhere = mixed.mean(dim=(0, 2), keepdim=True)
    by_channel = (rows - rows.mean(dim=0)).square().mean(dim=0).sqrt().unsqueeze(1)
    return {
        "this has tokens in dimension 1; hidden states have their channels there": right.transpose(1, 2),
        "padded positions are not zero: they have no target": (mixed - mean) / spread.sqrt(),
        "padding is counted in the mean and the scale": (mixed - everywhere)
        / (mixed - everywhere).square().mean().sqrt()
        * kept,
        "each channel is scaled by itself: one factor for all keeps their proportions": (mixed - mean)
        / by_channel
        * kept,
        "it is not scaled": (mixed - mean) * kept,
        "it is not centred": mixed / spread.sqrt() * kept,
        "this divides by the variance, not by its square root": (mixed - mean) / spread * kept,
    }


def by_halves(answer: Callable[[int, int], Sequence[Stage]]) -> str:
    """`answer(n_blocks, steps)`: the first half of the blocks at once, then the second half, then the probabilities."""
    hint = (
        "TeacherHidden(block=(1, 2)) is a target of two blocks at once; the last stage is TeacherOutput() without steps"
    )
    for n_blocks, steps in ((4, 150), (6, 80)):
        given = attempt(answer, n_blocks, steps, hint=hint, on=f"n_blocks={n_blocks} and steps={steps}")
        halves = [tuple(range(1, n_blocks // 2 + 1)), tuple(range(n_blocks // 2 + 1, n_blocks + 1))]
        first, second = (Stage(target=TeacherHidden(block=half), steps=steps) for half in halves)
        final = Stage(target=TeacherOutput())
        singly = [Stage(target=TeacherHidden(block=n), steps=steps) for n in range(1, n_blocks + 1)]
        mistakes = {
            "the halves are in the wrong order": [second, first, final],
            "each block has a stage of its own: put a half into one target": [*singly, final],
            "the student never learns to answer: the last stage should be the teacher's output": [first, second],
            "the hard decision says less than the probabilities: leave out the temperature": [
                *(first, second),
                Stage(target=TeacherOutput(temperature=0)),
            ],
        }
        same_values(
            "by_halves",
            _told(given, hint),
            _told([first, second, final], hint),
            hint,
            {wrong: _told(stages, hint) for wrong, stages in mistakes.items()},
        )
    return "Right: a curriculum is a list, so one of your own is only another list."


def _told(stages: object, hint: str) -> list[str]:
    """The stages in words. Raises ExerciseError for anything that is not a list of them."""
    try:
        rows = Curriculum(stages=tuple(stages)).stages  # type: ignore[arg-type]  # whatever the reader gives
    except (PwlLabError, TypeError, ValueError) as error:
        raise refusal("by_halves", f"this is not a list of stages: {error}", hint) from error
    return [f"{_target(stage)}, {stage.steps or 'until the end'}" for stage in rows]


def _target(stage: Stage) -> str:
    """A stage's target in words; outputs with their temperature."""
    heat = f" at temperature {stage.target.temperature:g}" if isinstance(stage.target, TeacherOutput) else ""
    return f"{stage.target}{heat}"
