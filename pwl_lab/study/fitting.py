"""Checks before anything is trained: a task and a network of the reader's own are what they say, and fit together.

A message names the class or method that is wrong, with its file and line.
"""

import torch

from pwl_lab.models.blocknet import BlockNet, ModelConfig
from pwl_lab.support.config import content_hash
from pwl_lab.support.errors import InvalidValueError, invalid
from pwl_lab.support.own_code import located, naming, raised_at
from pwl_lab.tasks.base import Task, class_names_of, normalisation_of, tokens_of
from pwl_lab.tasks.checks import check_count
from pwl_lab.training import predict

NEEDED = ("name", "input_shape", "n_classes", "batches", "split", "fingerprint")


def check_task(task: Task) -> None:
    """Raise InvalidValueError for a task that lacks something, or whose description cannot be used."""
    if isinstance(task, type):
        raise InvalidValueError(f"task is the class {located(task)} itself, but must be an instance of it")
    where = located(type(task))
    with naming(type(task)):
        missing = [name for name in NEEDED if not hasattr(task, name) or _is_of_the_protocol(task, name)]
    if missing:
        raise InvalidValueError(
            f"task: {where} has no {', '.join(missing)}; pwl_lab.tasks.base.Task says what it needs"
        )
    check_count(f"n_classes of {where}", task.n_classes, 2)
    if not isinstance(task.input_shape, tuple) or not task.input_shape:
        raise invalid(f"input_shape of {where}", task.input_shape, "a tuple, such as (2,) or (1, 28, 28)")
    for length in task.input_shape:
        check_count(f"input_shape of {where}", length, 1)
    class_names_of(task), normalisation_of(task), tokens_of(task)  # each raises
    with naming(task.fingerprint):
        facts = task.fingerprint()
    try:
        if not isinstance(facts, dict):
            raise TypeError(f"a {type(facts).__name__} is no dictionary")
        content_hash(facts)
    except (TypeError, ValueError) as error:
        raise invalid(located(type(task).fingerprint), facts, f"a dictionary of JSON values ({error})") from error


def _is_of_the_protocol(task: Task, name: str) -> bool:
    """Whether a method is that of `Task` itself, which has no content."""
    return name in vars(Task) and getattr(type(task), name, None) is vars(Task)[name]


def n_blocks_of(model: ModelConfig) -> int:
    """The number of blocks that a configuration states. Raises InvalidValueError if it states none."""
    with naming(type(model)):
        found = model.n_blocks
    return check_count(f"n_blocks of {located(type(model))}", found)


def shapes_of(model: ModelConfig, task: Task) -> list[tuple[int, ...]]:
    """The shapes of a network's hidden states. Raises InvalidValueError if it does not fit the task."""
    n_tokens, made = tokens_of(task), located(type(model).make)
    n_blocks_of(model)
    with naming(model.make):
        net = model.make()
    if not isinstance(net, BlockNet):
        raise invalid(made, type(net).__name__, "a BlockNet")
    if net.n_tokens != n_tokens:
        takes, gives = ("numbers" if n is None else f"{n} different tokens" for n in (net.n_tokens, n_tokens))
        what = f"a network that takes {gives}, the inputs of {located(type(task))}; this one takes {takes}"
        raise invalid(f"model of {located(type(model))}", model, what)
    try:
        shapes = net.state_shapes(task.input_shape)
        dtype = next(net.parameters()).dtype if n_tokens is None else torch.int64
        logits = predict(net, torch.zeros(2, *task.input_shape, dtype=dtype))
    except Exception as error:  # torch's, of matrices that do not fit, or whatever the reader's network raises
        at = raised_at(error)
        why = f"{error}; raised in {at}" if at else str(error)
        what = f"a task whose inputs the network of {located(type(model))} accepts ({why})"
        raise invalid(f"input shape of {located(type(task))}", tuple(task.input_shape), what) from error
    if flat := [number for number, shape in enumerate(shapes, 1) if not shape]:
        raise invalid(made, f"a state of shape [batch] after block {flat[0]}", "states of shape [batch, channels, ...]")
    if logits.dim() not in (2, 3) or logits.shape[-1] != task.n_classes:
        wanted = f"[2, {task.n_classes}], one for each class of {located(type(task))}"
        raise invalid(made, f"logits of shape {list(logits.shape)} for two samples", wanted)
    return shapes
