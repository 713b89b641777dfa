"""What the tests promise about signatures: whatever has the wrong type or shape is refused where it is passed or given out."""

import importlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import shapecheck
import torch

SOURCE = """
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, Self

import torch
from jaxtyping import Float, Int
from torch import Tensor


def times(left: Float[Tensor, "rows shared"], right: Float[Tensor, "shared columns"]) -> Float[Tensor, "rows columns"]:
    return left @ right


def first(states: Sequence[Float[Tensor, "*batch width"]], width: int | None = None) -> Float[Tensor, "*batch width"]:
    return states[0] if width is None else states[0][..., :width]


def both(left: Float[Tensor, "n"], right: Float[Tensor, "m"]) -> Float[Tensor, "n m"]:
    return times(left[:, None], right[None])  # another call: its rows are not these


def count(things: Sequence[str], at_least: float = 0) -> int:
    return "many" if len(things) > 2 else len(things)


def counting(start: int):
    def further(steps: int) -> str:
        return str(start + steps) if steps < 3 else start

    def ahead(steps: Int[Tensor, "n"], more: Int[Tensor, "n"]) -> Int[Tensor, "n"]:
        return start + steps + more

    return further, ahead


def pieces(whole: Float[Tensor, "n"]) -> Iterator[Float[Tensor, ""]]:
    yield from whole


ANSWERS = []


def answered(question: Float[Tensor, "n"]) -> Float[Tensor, "n"]:
    return ANSWERS.pop()


def ways(state: Float[Tensor, "n"], way: Literal["keep", "drop"] = "keep") -> Float[Tensor, "..."]:
    return state


def named(states: dict[str, Float[Tensor, "n"]]) -> Float[Tensor, "n"]:
    return states["one"]


@dataclass
class Line:
    slope: Float[Tensor, ""]
    name: str = "line"

    @cached_property
    def doubled(self) -> Float[Tensor, "2"]:
        return torch.stack([self.slope] * 3)

    @staticmethod
    def of(slope: float) -> "Line":
        return Line(torch.tensor(slope))

    @classmethod
    def flat(cls, name: str) -> Self:
        return cls(torch.tensor(0.0), name)
"""
ONE, TWO, THREE = torch.ones(1), torch.ones(2), torch.ones(3)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    folder: Path = tmp_path_factory.mktemp("checked")
    (folder / "has_shapes.py").write_text(SOURCE)
    with pytest.MonkeyPatch.context() as patch, shapecheck.install(["has_shapes"]):
        patch.syspath_prepend(folder)
        return importlib.import_module("has_shapes")


TAKEN = {
    "a number for each axis": lambda made: made.times(torch.ones(2, 3), torch.ones(3, 4)),
    "any number of axes": lambda made: made.first([torch.ones(5, 2, 3), torch.ones(5, 2, 3)]),
    "axes of a call within a call": lambda made: made.both(TWO, THREE),
    "a whole number for a float": lambda made: made.count(["a"], at_least=1),
    "a function within a function": lambda made: made.counting(1)[0](1) + made.counting(4)[0](steps=2),
    "tensors within a function": lambda made: made.counting(1)[1](TWO.long(), more=TWO.long()),
    "pieces": lambda made: list(made.pieces(THREE)),
    "a class": lambda made: (made.Line(torch.tensor(1.0)), made.Line.of(2.0), made.Line.flat("x")),
}
REFUSED = {
    "axes that differ": lambda made: made.times(torch.ones(2, 3), torch.ones(2, 4)),
    "an axis too few": lambda made: made.times(torch.ones(2, 3), right=THREE),
    "another kind of number": lambda made: made.both(TWO, THREE.long()),
    "one in a list": lambda made: made.first([torch.ones(5, 3).long()]),
    "a result of another shape": lambda made: made.first([torch.ones(5, 3)], 2),
    "an argument of another type": lambda made: made.count(3),
    "a result of another type": lambda made: made.count(["a", "b", "c"]),
    "an argument within a function": lambda made: made.counting(1)[0]("one"),
    "a result within a function": lambda made: made.counting(1)[0](3),
    "axes within a function": lambda made: made.counting(1)[1](TWO.long(), THREE.long()),
    "what pieces are made of": lambda made: made.pieces(torch.ones(2, 2)),
    "a field of another shape": lambda made: made.Line(TWO),
    "a field of another type": lambda made: made.Line(torch.tensor(1.0), 3),
    "a property": lambda made: made.Line(torch.tensor(1.0)).doubled,
    "an argument beside a result that is named in quotes": lambda made: made.Line.of("steep"),
}


@pytest.mark.parametrize("ask", TAKEN.values(), ids=TAKEN)
def test_what_fits_is_taken(made: ModuleType, ask: Callable[[ModuleType], object]) -> None:
    ask(made)
    ask(made)  # functions within functions are then made anew


@pytest.mark.parametrize("ask", REFUSED.values(), ids=REFUSED)
def test_what_does_not_fit_is_refused(made: ModuleType, ask: Callable[[ModuleType], object]) -> None:
    for _ in range(2):
        with pytest.raises(TypeError, match=r"[Tt]ype-?(check| hint)|violates"):
            ask(made)


def test_within_a_function_each_is_itself(made: ModuleType) -> None:
    one, other = made.counting(1)[0], made.counting(40)[0]
    assert (one(1), other(2), one.__name__, one.__qualname__) == ("2", "42", "further", "counting.<locals>.further")


def test_what_fitted_before_is_no_excuse_for_what_comes_after_it(made: ModuleType) -> None:
    for _ in range(2):
        made.ANSWERS += [TWO, TWO]
        assert made.answered(TWO) is made.answered(question=TWO)
        for answer in (THREE, TWO.long(), "two"):
            made.ANSWERS.append(answer)
            with pytest.raises(TypeError, match="violates"):
                made.answered(TWO)
        made.ways(TWO, "keep")
        with pytest.raises(TypeError, match="violates"):
            made.ways(TWO, "turn")
        made.named({"one": TWO})
        with pytest.raises(TypeError, match="violates"):
            made.named({"one": TWO.long()})
