"""What all checks of exercises share: stubs, failures and wrong numbers are each refused with words that help."""

import numpy as np
import pytest
import torch

from pwl_lab.exercises.checking import attempt, same_numbers, same_values
from pwl_lab.support.errors import ExerciseError


@pytest.mark.parametrize("answer", [..., None, [1, ...], {"a": 1, "b": ...}, {"a": (2, [...])}])
def test_a_stub_is_told_that_it_is_one_and_what_is_asked_for(answer):
    def mine():
        """The number of blocks."""
        return answer

    with pytest.raises(ExerciseError, match="not solved yet") as refused:
        attempt(mine, hint="count them")
    assert "expected: The number of blocks." in str(refused.value)
    assert "hint: count them" in str(refused.value)


def test_an_error_in_the_answer_is_named_with_the_call_and_kept_as_the_cause():
    def mine(values):
        return values[7]

    with pytest.raises(ExerciseError, match=r"mine: it raises IndexError: .*called with 2 values") as refused:
        attempt(mine, [1, 2], hint="there are two", on="2 values")
    assert isinstance(refused.value.__cause__, IndexError)


def test_a_notebook_shows_the_text_and_the_readers_own_lines_alone():
    def mine(values):
        return values["none"]

    with pytest.raises(ExerciseError) as failed:
        attempt(mine, {}, hint="there is none")
    shown = "\n".join(failed.value._render_traceback_())
    assert shown.startswith(str(failed.value))
    assert 'values["none"]' in shown
    assert "in attempt" not in shown, "the inside of the check is left out"
    with pytest.raises(ExerciseError) as wrong:
        same_values("mine", 1, 2, "one more")
    assert wrong.value._render_traceback_() == [str(wrong.value)]


def test_the_answer_cannot_spoil_the_checks_inputs():
    given = torch.ones(3)
    attempt(lambda values: values.mul_(2), given, hint="")
    assert given.tolist() == [1, 1, 1]


def test_what_is_no_function_is_refused():
    with pytest.raises(ExerciseError, match="this is not a function"):
        attempt(3, hint="write a function")


@pytest.mark.parametrize("found", [[1, 2], (1.0, 2.0), np.array([1, 2]), torch.tensor([1, 2]), [1.00001, 2.0]])
def test_numbers_may_come_in_any_form(found):
    same_numbers("mine", found, torch.tensor([1.0, 2.0]), "")


def test_wrong_numbers_name_the_place_the_shape_or_the_kind():
    with pytest.raises(ExerciseError, match=r"largest difference at \[1\]: 5 instead of 2") as refused:
        same_numbers("mine", [1, 5], [1, 2], "look again")
    assert str(refused.value).splitlines()[1:] == [
        "  expected: [1.0, 2.0]",
        "  found: [1.0, 5.0]",
        "  hint: look again",
    ]
    with pytest.raises(ExerciseError, match="shape is wrong"):
        same_numbers("mine", [[1, 2]], [1, 2], "")
    with pytest.raises(ExerciseError, match="cannot be read as numbers"):
        same_numbers("mine", "two", 2, "")
    with pytest.raises(ExerciseError, match="largest difference"):
        same_numbers("mine", torch.full((3, 40), torch.nan), torch.zeros(3, 40), "")


def test_a_usual_mistake_is_named_even_where_its_shape_differs():
    mistakes = {"this is the sum": 3.0, "not a number": [torch.nan, torch.nan]}
    with pytest.raises(ExerciseError, match="mine: this is the sum"):
        same_numbers("mine", 3, [1, 2], "", mistakes)
    with pytest.raises(ExerciseError, match="mine: not a number"):
        same_numbers("mine", [float("nan")] * 2, [1, 2], "", mistakes)


def test_values_count_lists_and_tuples_as_the_same():
    same_values("mine", ("a", ["b"]), ["a", ("b",)], "")
    with pytest.raises(ExerciseError, match="backwards"):
        same_values("mine", ("b", "a"), ["a", "b"], "", {"backwards": ["b", "a"]})
    with pytest.raises(ExerciseError, match="not the right answer"):
        same_values("mine", 3, ["a", "b"], "")
