"""The checks of the exercises to 07: what a reader might well answer, right or wrong, and what is said to it."""

import inspect

import pytest
import torch

from pwl_lab.distill.curriculum import Labels, Stage, TeacherHidden, TeacherOutput, extracted
from pwl_lab.exercises import language_model_curriculum as check
from pwl_lab.support.errors import ExerciseError


def shares(strings, seen, position, fits=None, whole=True, weight=None):
    """The posterior, with whatever is left out."""
    fits = fits or (lambda string: agrees(string, seen) and len(string) == len(seen))
    rows = {string: weight or p for string, p in strings.items() if fits(string)}
    found = {token: sum(p for string, p in rows.items() if string[position] == token) for token in "ab"}
    return {token: value / (sum(found.values()) if whole else 1) for token, value in found.items()}


def agrees(string, seen):
    return all(a in (b, "_") for a, b in zip(seen, string, strict=False))


def project(h, p, real, mean=None, scale=None, zero=True):
    """The target, with another mean or scale."""
    mixed = torch.einsum("bmt,mr->brt", h, p)
    rows = mixed.transpose(1, 2)[real]
    mean = rows.mean(dim=0) if mean is None else mean
    scale = (rows - mean).square().mean().sqrt() if scale is None else scale
    return (mixed - mean.unsqueeze(1)) / scale * (real.unsqueeze(1) if zero else 1)


def halves(n, steps, *order, temperature=1.0):
    blocks = {"first": tuple(range(1, n // 2 + 1)), "second": tuple(range(n // 2 + 1, n + 1))}
    stages = [Stage(target=TeacherHidden(block=blocks[name]), steps=steps) for name in order]
    return [*stages, Stage(target=TeacherOutput(temperature=temperature))]


WRONG = [
    (check.posterior, lambda s, seen, k: shares(s, seen, k, whole=False), "do not sum to 1"),
    (check.posterior, lambda s, seen, k: shares(s, seen, k, weight=1.0), "counts the same"),
    (
        check.posterior,
        lambda s, seen, k: shares(s, seen, k, lambda string: len(string) > k and agrees(string, seen)),
        "another length",
    ),
    (check.posterior, lambda s, seen, k: shares(s, seen, k, lambda string: len(string) == len(seen)), "is not used"),
    (check.posterior, lambda s, seen, k: {"a": 1.0}, "for each token"),
    (check.posterior, lambda s, seen, k: [0.5, 0.5], "for each token"),
    (check.projected_target, lambda h, p, r: project(h, p, r).mT, "tokens in dimension 1"),
    (check.projected_target, lambda h, p, r: project(h, p, r, zero=False), "padded positions are not zero"),
    (
        check.projected_target,
        lambda h, p, r: project(h, p, torch.ones_like(r)) * r.unsqueeze(1),
        "padding is counted",
    ),
    (check.projected_target, lambda h, p, r: project(h, p, r, scale=1.0), "not scaled"),
    (
        check.projected_target,
        lambda h, p, r: project(h, p, r) + project(h, p, r, scale=1e9) * 1e9,
        "not the right numbers",
    ),
    (check.by_halves, lambda n, steps: halves(n, steps, "second", "first"), "wrong order"),
    (check.by_halves, lambda n, steps: halves(n, steps, "first", "second")[:2], "never learns to answer"),
    (check.by_halves, lambda n, steps: halves(n, steps, "first", "second", temperature=0.0), "hard decision"),
    (check.by_halves, lambda n, steps: extracted(steps).for_blocks(n).stages, "each block has a stage"),
    (check.by_halves, lambda n, steps: [Stage(target=Labels())], "not the right answer"),
    (check.by_halves, lambda n, steps: [TeacherHidden(block=1)], "not a list of stages"),
]


@pytest.mark.parametrize(("asked", "answer", "says"), WRONG, ids=[f"{c.__name__}: {says}" for c, _, says in WRONG])
def test_a_wrong_answer_is_refused_and_its_mistake_named(asked, answer, says):
    with pytest.raises(ExerciseError, match=says) as refused:
        asked(answer)
    assert "hint: " in str(refused.value)


RIGHT = [
    (check.posterior, shares),
    (check.projected_target, project),
    (check.by_halves, lambda n, steps: tuple(halves(n, steps, "first", "second"))),
]


@pytest.mark.parametrize(("asked", "answer"), RIGHT, ids=[asked.__name__ for asked, _ in RIGHT])
def test_another_way_to_write_the_right_answer_passes(asked, answer):
    assert asked(answer).startswith("Right")


def test_every_check_has_a_wrong_answer_here():
    own = {name for name, one in vars(check).items() if inspect.isfunction(one) and one.__module__ == check.__name__}
    asked = {name for name in own if list(inspect.signature(vars(check)[name]).parameters)[:1] == ["answer"]}
    assert asked == {one.__name__ for one, _, _ in WRONG}


def test_the_strings_of_the_tiny_grammar_are_all_that_it_derives():
    strings = check.strings_of()
    assert sum(strings.values()) == pytest.approx(1)
    assert len(strings) == 2 * 2 + 2 * 2 * 2
    assert strings["bbab"] == pytest.approx(0.75 * 0.5 * 0.8)
    assert strings["baab"] == pytest.approx(0.25 * 0.2 * 0.5 * 0.2)
