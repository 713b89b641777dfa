"""The `Task` protocol (what training, distillation and loading need to know about a task) and checks that enforce it.

Public functions check types, shapes, ranges and devices before they compute anything. PyTorch itself accepts many
mistakes without an error: images normalised twice, signed bytes that wrap around, labels of the wrong type.
"""

import inspect
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from numbers import Real
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int, Num
from torch import Tensor, nn
from torch.nn import functional as F

from pwl_lab.support.errors import InvalidValueError, invalid
from pwl_lab.support.own_code import located, naming
from pwl_lab.support.resuming import Stream
from pwl_lab.support.seeding import TEACHER
from pwl_lab.tasks.checks import check_count

IGNORED = -100  # the label of a token that is not scored, as PyTorch's losses expect it


def sent(tensor: Tensor, device: str | torch.device) -> Tensor:
    """The tensor on a device. A GPU takes it from page-locked memory, in its turn, so that the CPU need not wait."""
    if tensor.device.type == "cpu" and torch.device(device).type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


@dataclass(frozen=True)
class Batch:
    """Inputs with their labels: a class index for each sample, or for each token of it (`IGNORED`: not scored)."""

    inputs: Num[Tensor, "batch *shape"]
    labels: Int[Tensor, "batch *tokens"]

    def to(self, device: str) -> "Batch":
        """The same batch on another device."""
        return Batch(sent(self.inputs, device), sent(self.labels, device))

    def __len__(self) -> int:
        """The number of samples."""
        return self.labels.shape[0]

    @property
    def n_scored(self) -> int:
        """The number of labels that are scored."""
        return len(scored(self.labels, self.labels))


def scored(values: Tensor, labels: Int[Tensor, "batch *tokens"]) -> Tensor:
    """The values at the positions that `labels` score: [*members, batch, tokens, classes] to [*members, scored, classes].

    Labels themselves, [batch, tokens], become [scored]. With one label for each sample, every value is returned as it
    is. So what follows sees a label for each row, whatever the task.

    Arguments:
    - `values`: logits or probabilities for every position, or the labels.
    - `labels`: of the batch.
    """
    if labels.dim() == 1:
        return values
    kept = (labels != IGNORED).flatten().nonzero().squeeze(1)
    if values.dim() == 2:
        return values.flatten()[kept]
    return values.flatten(-3, -2).index_select(-2, kept)


class Normalisation(NamedTuple):
    """How bytes (0 to 255) are turned into inputs: `(value / 255 - mean) / std`, per channel."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


@runtime_checkable
class Task(Protocol):
    """A classification task. `batches` never ends; `split` returns the same samples at every call.

    A bundle stores `class_names` and `normalisation`, so that a program that loads it can name the predicted classes
    and prepare raw images. A subclass of `Task` may leave both out, and `n_tokens` if its inputs are numbers.

    Inputs may also be strings of tokens, each the index of a symbol (int64), with one label for a string or one for
    each token; `IGNORED` is the label of a token that is not scored.
    """

    name: str
    input_shape: tuple[int, ...]
    n_classes: int
    class_names: tuple[str, ...] = ()  # in the order of the class indices; empty: the classes have no names
    normalisation: Normalisation | None = None  # None: the inputs are not normalised
    n_tokens: int | None = None  # the inputs are token ids below this; None: they are numbers

    def batches(self, seed: int, batch_size: int, device: str = "cpu", role: str = TEACHER) -> Iterator[Batch]:
        """An endless stream of training batches, drawn from the random streams of `seed` for `role`.

        `role` says what the batches are for (`teacher`, `student`, `pair`, `calibration`). Pass it to every generator,
        as in `generator(seed, "data", role)`; otherwise a student is trained on the samples its teacher saw.
        """
        ...

    def split(self, name: str, device: str = "cpu") -> Batch:
        """The whole split `name` (`validation` or `test`)."""
        ...

    def fingerprint(self) -> dict[str, Any]:
        """Everything that determines the data, as JSON values: part of every key in the store."""
        ...


def class_names_of(task: Task) -> tuple[str, ...]:
    """The class names of `task`, or the default if it is not a subclass of `Task` and does not define any.

    Raises InvalidValueError unless there are none or `task.n_classes` of them.
    """
    with naming(type(task)):
        names = getattr(task, "class_names", Task.class_names)
    several = isinstance(names, Collection) and not isinstance(names, str)
    texts = several and all(isinstance(name, str) for name in names)
    if not texts or (names and len(names) != task.n_classes):
        allowed = f"a tuple with a name for each of the {task.n_classes} classes, or none at all"
        raise invalid(f"class_names of {located(type(task))}", names, allowed)
    return tuple(names)


def normalisation_of(task: Task) -> Normalisation | None:
    """The normalisation of `task`, or the default if it is not a subclass of `Task` and does not define one.

    Raises InvalidValueError unless it is None or has one mean and one standard deviation per channel.
    """
    with naming(type(task)):
        found = getattr(task, "normalisation", Task.normalisation)
    if found is None:
        return None
    channels = task.input_shape[0]
    if not isinstance(found, Collection) or [_n_numbers(part) for part in found] != [channels] * 2:
        allowed = f"a mean and a standard deviation for each of the {channels} channels"
        raise invalid(f"normalisation of {located(type(task))}", found, allowed)
    return Normalisation(*map(tuple, found))


def _n_numbers(part: object) -> int:
    """How many numbers there are in a sequence; -1 if it is anything else."""
    if not isinstance(part, Collection) or not all(isinstance(one, Real) for one in part):
        return -1
    return len(part)


def tokens_of(task: Task) -> int | None:
    """The `n_tokens` of `task`, or None if it is not a subclass of `Task` and does not define it.

    Raises InvalidValueError unless it is None or a whole number from 1.
    """
    with naming(type(task)):
        found = getattr(task, "n_tokens", Task.n_tokens)
    return None if found is None else check_count(f"n_tokens of {located(type(task))}", found, 1)


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """The fraction of scored labels that have the largest logit: logits [batch, classes], labels [batch].

    With labels for each token, [batch, tokens], the logits are [batch, tokens, classes]. Raises InvalidValueError for
    other shapes (PyTorch would broadcast them), and if no label is scored.
    """
    there = labels.numel() and bool((labels != IGNORED).any())
    if labels.dim() not in (1, 2) or logits.shape[:-1] != labels.shape or not there:
        found = f"{list(logits.shape)} and {list(labels.shape)}"
        raise invalid("logits and labels", found, "of shapes [batch, classes] and [batch], with at least one sample")
    return (scored(logits, labels).argmax(dim=-1) == scored(labels, labels)).double().mean().item()


def label_loss(
    logits: Float[Tensor, "batch *tokens classes"], labels: Int[Tensor, "batch *tokens"]
) -> Float[Tensor, ""]:
    """The mean cross-entropy over all scored labels, in nats; 0 if none is scored."""
    rows, wanted = scored(logits, labels), scored(labels, labels)
    return F.cross_entropy(rows, wanted, reduction="mean" if len(wanted) else "sum")


def at_once(inputs: Num[Tensor, "batch *shape"], samples: int) -> int:
    """How many samples to compute at once: `samples`, or fewer if they are long strings.

    The memory that attention takes grows with the square of the length.
    """
    if inputs.is_floating_point() or inputs.dim() != 2:
        return samples
    return max(1, min(samples, samples * 64**2 // inputs.shape[1] ** 2))


def batches_of(task: Task, seed: int, batch_size: int, device: str, role: str = TEACHER) -> Iterator[Batch]:
    """`task.batches` for `role`, with the first batch checked.

    Raises InvalidValueError if the task does not take a role, or if its batch does not match its own description.
    """
    class_names_of(task), normalisation_of(task)  # needed only after a pair is trained, but an error should come now
    known = inspect.signature(task.batches).parameters.values()
    takes_role = any(one.name == "role" or one.kind is one.VAR_KEYWORD for one in known)
    if role != TEACHER and not takes_role:
        taken = ", ".join(one.name for one in known)
        allowed = "a method that also takes a `role`: see pwl_lab.tasks.base.Task"
        raise invalid(located(type(task).batches), f"({taken})", allowed)
    with naming(task.batches):
        made = task.batches(seed, batch_size, device, **({"role": role} if takes_role else {}))
    if not hasattr(made, "__iter__"):
        raise invalid(located(type(task).batches), type(made).__name__, "an endless iterator, such as a generator")
    batches = iter(made)
    beginning = batches.state() if isinstance(batches, Stream) else {}
    endless = _endless(batches, task)
    first = _checked(next(endless), task, device, located(type(task).batches))
    if not isinstance(batches, Stream):
        return chain([first], endless)
    batches.restore(beginning)
    return batches


def _endless(batches: Iterator[Batch], task: Task) -> Iterator[Batch]:
    """The batches of `task`, one after the other. Raises InvalidValueError if they end, or if the reader's code raises."""
    while True:
        with naming(task.batches):
            batch = next(batches, None)
        if batch is None:
            raise invalid(
                located(type(task).batches), "an iterator that ends", "an endless iterator, such as a generator"
            )
        yield batch


def split_of(task: Task, name: str, device: str) -> Batch:
    """`task.split(name)`, checked. Raises InvalidValueError if it does not match the task's own description."""
    with naming(task.split):
        found = task.split(name, device)
    return _checked(found, task, device, f"split {name} of {located(type(task))}")


def _checked(batch: object, task: Task, device: str, what: str) -> Batch:
    """Return the batch, or raise InvalidValueError if it does not match `task`; `what` says where it comes from."""
    if not isinstance(batch, Batch):
        raise invalid(what, type(batch).__name__, "a Batch of inputs and labels")
    _check_device(what, batch.inputs, device)
    _check_device(what, batch.labels, device)
    check_inputs(batch.inputs, task.input_shape, field=f"inputs of {what}", n_tokens=tokens_of(task))
    if not len(batch.inputs):
        raise invalid(what, "no samples", "at least one")
    check_labels(batch.labels, batch.inputs, task.n_classes, f"labels of {what}")
    return batch


def check_images(images: object, shape: Sequence[int]) -> None:
    """Raise InvalidValueError unless `images` are bytes (uint8) of shape [batch, *shape], not yet normalised."""
    if not isinstance(images, Tensor) or images.dtype != torch.uint8 or tuple(images.shape[1:]) != tuple(shape):
        raise invalid("images", _seen(images), f"uint8 of shape [batch, {', '.join(map(str, shape))}]")


def check_inputs(
    inputs: object,
    shape: Sequence[int] | None = None,
    net: nn.Module | None = None,
    field: str = "inputs",
    n_tokens: int | None = None,
) -> None:
    """Raise InvalidValueError unless `inputs` are finite floats of shape [batch, *shape] (None: any sample).

    With `n_tokens`, they must be token ids (int64) below it instead. With `net`, they must also be what it takes, and
    on its device.
    """
    wanted = "[batch, ...]" if shape is None else f"[batch, {', '.join(map(str, shape))}]"
    weight = next(net.parameters(), None) if net is not None else None
    n_tokens = n_tokens if net is None else getattr(net, "n_tokens", None)
    dtype = torch.get_default_dtype() if weight is None else weight.dtype
    dtype = dtype if n_tokens is None else torch.int64
    if (
        not isinstance(inputs, Tensor)
        or inputs.dtype != dtype
        or inputs.dim() < 2
        or (shape is not None and tuple(inputs.shape[1:]) != tuple(shape))
    ):
        raise invalid(field, _seen(inputs), f"{str(dtype).removeprefix('torch.')} of shape {wanted}")
    if weight is not None:
        _check_device(field, inputs, weight.device.type)
    if not inputs.isfinite().all():
        raise invalid(field, _seen(inputs), "finite numbers; some are infinite or not a number")
    if n_tokens is not None:
        _check_range(field, inputs, n_tokens, "token ids")


def check_labels(labels: object, inputs: Tensor, n_classes: int | None = None, field: str = "labels") -> None:
    """Raise InvalidValueError unless `labels` are class indices (int64), from 0 to below `n_classes`.

    There must be one for each sample in `inputs`, or for each of its tokens; then some may be `IGNORED`.
    """
    samples = len(inputs)
    per_token = isinstance(labels, Tensor) and labels.shape == inputs.shape and not inputs.is_floating_point()
    if not isinstance(labels, Tensor) or labels.dtype != torch.int64 or not (per_token or labels.shape == (samples,)):
        each = "" if inputs.is_floating_point() else f", or {list(inputs.shape)}, one for each token"
        raise invalid(field, _seen(labels), f"int64 of shape [{samples}], one class index for each input{each}")
    _check_range(field, scored(labels, labels), n_classes, "class indices")


def _check_range(field: str, indices: Tensor, size: int | None, what: str) -> None:
    """Raise InvalidValueError unless all `indices` are from 0 to below `size` (None: without an upper limit)."""
    if not indices.numel():
        return
    least, most = int(indices.min()), int(indices.max())
    if least < 0 or (size is not None and most >= size):
        raise invalid(field, f"from {least} to {most}", f"{what} from 0" + ("" if size is None else f" to {size - 1}"))


def _check_device(field: str, tensor: object, device: str) -> None:
    """Raise InvalidValueError unless a tensor is on `device`."""
    if isinstance(tensor, Tensor) and tensor.device.type != torch.device(device).type:
        raise InvalidValueError(
            f"{field} is on {tensor.device} but should be on {device}: move it with .to({device!r})"
        )


def _seen(value: object) -> str:
    """The type and shape of a value, for messages."""
    if not isinstance(value, Tensor):
        return f"{type(value).__name__}, not a tensor"
    return f"{str(value.dtype).removeprefix('torch.')} of shape {list(value.shape)}"
