"""How exercises are checked: the expected answer, the one found, a hint; and small models to try answers on."""

import copy
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from pwl_lab.models import MLPConfig, build, mlp
from pwl_lab.study.verbs import train_or_load
from pwl_lab.support.errors import ExerciseError
from pwl_lab.swap import pair_training
from pwl_lab.swap.swapnet import SwapNet
from pwl_lab.tasks.parity import SparseParity
from pwl_lab.training import TrainedModel, TrainPlan

SHOWN = 8  # values that fit on a line


def refusal(name: str, wrong: str, hint: str, expected: Any = None, found: Any = None) -> ExerciseError:
    """An error that says what is wrong with the answer `name`; what was expected and found are left out where None."""
    lines = [f"{name}: {wrong}"]
    lines += [f"  {word}: {value}" for word, value in (("expected", expected), ("found", found)) if value is not None]
    return ExerciseError("\n".join([*lines, f"  hint: {hint}"]))


def attempt(function: Callable[..., Any], *inputs: Any, hint: str, on: str = "", copied: bool = True) -> Any:
    """What the reader's function gives for `inputs`; `on` says in words what they are.

    The function gets copies, unless it has to work on the very same tensors. Raises ExerciseError where it fails, where
    it returns nothing, and where it is still a stub.
    """
    name = getattr(function, "__name__", "your answer")
    if not callable(function):
        raise refusal(name, "this is not a function", hint, "a function", type(function).__name__)
    where = f" (called with {on})" if on else ""
    try:
        answer = function(*(copy.deepcopy(inputs) if copied else inputs))
    except Exception as error:
        raise refusal(name, f"it raises {type(error).__name__}: {error}{where}", hint) from error
    if answer is None or _unwritten(answer):
        found = "nothing is returned" if answer is None else repr(answer).replace("Ellipsis", "...")
        wrong = "not solved yet: replace each `...` by your answer"
        raise refusal(name, wrong, hint, inspect.getdoc(function), found)
    return answer


def _unwritten(answer: Any) -> bool:
    """Whether a `...` is left anywhere in the answer."""
    parts = answer.values() if isinstance(answer, Mapping) else answer
    return answer is ... or (isinstance(answer, list | tuple | Mapping) and any(_unwritten(part) for part in parts))


def same_numbers(
    name: str,
    found: Any,
    expected: Any,
    hint: str,
    mistakes: Mapping[str, Any] | None = None,
    tolerance: float = 1e-4,
) -> None:
    """Raise ExerciseError unless `found` (tensor, array, list or number) is `expected` within `tolerance`.

    `mistakes` says what each usual mistake would give: an answer that agrees with one is told so.
    """
    wanted = torch.as_tensor(expected).detach().double()
    ours = as_numbers(name, found, wanted, hint)
    if _agree(ours, wanted, tolerance):
        return
    for wrong, value in (mistakes or {}).items():
        if _agree(ours, torch.as_tensor(value).detach().double(), tolerance):
            raise refusal(name, wrong, hint, _shown(wanted), _shown(ours))
    if ours.shape != wanted.shape:
        raise refusal(name, "the shape is wrong", hint, tuple(wanted.shape), tuple(ours.shape))
    raise refusal(name, "these are not the right numbers" + _where(ours, wanted), hint, _shown(wanted), _shown(ours))


def same_values(name: str, found: Any, expected: Any, hint: str, mistakes: Mapping[str, Any] | None = None) -> None:
    """Raise ExerciseError unless `found` equals `expected`, lists and tuples counting as the same."""
    ours, wanted = _plain(found), _plain(expected)
    if ours == wanted:
        return
    named = [wrong for wrong, value in (mistakes or {}).items() if _plain(value) == ours]
    raise refusal(name, named[0] if named else "this is not the right answer", hint, wanted, ours)


def pair_of(name: str, found: Any, asked: str, hint: str) -> list[Any]:
    """The two parts of an answer, in any container. Raises ExerciseError unless there are two; `asked` names them."""
    try:
        parts = [] if isinstance(found, str | Mapping) else list(found)
    except TypeError:  # nothing to go through
        parts = []
    if len(parts) != 2:
        raise refusal(name, "two values are expected", hint, asked, repr(found))
    return parts


def as_numbers(name: str, found: Any, wanted: Tensor, hint: str) -> Tensor:
    """The reader's numbers, in any container. Raises ExerciseError for anything else; `wanted` has the right shape."""
    try:
        return torch.as_tensor(found).detach().cpu().double()
    except (TypeError, ValueError, RuntimeError) as error:
        kind = f"numbers of shape {tuple(wanted.shape)}" if wanted.dim() else "a number"
        raise refusal(name, "this cannot be read as numbers", hint, kind, type(found).__name__) from error


def _agree(a: Tensor, b: Tensor, tolerance: float) -> bool:
    """Equal in shape and, within the tolerance, in every number (not a number equals itself)."""
    return a.shape == b.shape and torch.allclose(a, b, rtol=tolerance, atol=tolerance * 1e-2, equal_nan=True)


def _shown(values: Tensor) -> str:
    """A few of the numbers, and the shape where there are more."""
    numbers = [float(f"{value:.5g}") for value in values.flatten()[:SHOWN].tolist()]
    if values.dim() == 0:
        return str(numbers[0])
    return str(numbers) if values.numel() <= SHOWN else f"shape {tuple(values.shape)}, beginning with {numbers}"


def _where(ours: Tensor, wanted: Tensor) -> str:
    """Where they are furthest apart, for more than a number."""
    if wanted.dim() == 0:
        return ""
    worst = int((ours - wanted).abs().nan_to_num(nan=float("inf")).argmax())
    index = [int(i) for i in torch.unravel_index(torch.tensor(worst), wanted.shape)]
    return f" (largest difference at {index}: {ours.flatten()[worst]:.5g} instead of {wanted.flatten()[worst]:.5g})"


def _plain(value: Any) -> Any:
    """Tuples as lists, tensors and arrays as numbers, all the way down."""
    if hasattr(value, "tolist"):  # tensors, numpy's arrays and numbers, columns of a table
        return value.tolist()
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return {key: _plain(part) for key, part in value.items()} if isinstance(value, Mapping) else value


def small_parity_teacher() -> tuple[SparseParity, TrainedModel]:
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
    """The sync loss of two networks' hidden states, as training computes it (`pwl_lab.swap.pair_training.sync_loss`)."""
    return pair_training.sync_loss(pair_training.make_boundaries(net.converters, teacher_states, student_states))
