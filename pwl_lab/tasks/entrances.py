"""What the public entrances take, looked at once: types, shapes, ranges and devices, before anything is computed.

Torch would compute with most of it: images that are normalised already are normalised again, bytes with a sign wrap
around, a label of another type is compared with nothing.
"""

import inspect
from collections.abc import Iterator, Sequence
from itertools import chain

import torch
from torch import Tensor, nn

from pwl_lab.support.errors import InvalidValueError, invalid
from pwl_lab.support.seeding import TEACHER
from pwl_lab.tasks.base import Batch, Task


def check_images(images: object, shape: Sequence[int]) -> None:
    """Raise InvalidValueError unless `images` are bytes (uint8) of shape [batch, *shape], not yet normalised."""
    if not isinstance(images, Tensor) or images.dtype != torch.uint8 or tuple(images.shape[1:]) != tuple(shape):
        raise invalid("images", _seen(images), f"uint8 of shape [batch, {', '.join(map(str, shape))}]")


def check_inputs(
    inputs: object, shape: Sequence[int] | None = None, net: nn.Module | None = None, field: str = "inputs"
) -> None:
    """Raise InvalidValueError unless `inputs` are finite floats of shape [batch, *shape] (None: any sample).

    With `net` they are of its type and on its device, too.
    """
    wanted = "[batch, ...]" if shape is None else f"[batch, {', '.join(map(str, shape))}]"
    weight = next(net.parameters(), None) if net is not None else None
    dtype = torch.get_default_dtype() if weight is None else weight.dtype
    fits = isinstance(inputs, Tensor) and inputs.dtype == dtype and inputs.dim() > 1
    if not fits or (shape is not None and tuple(inputs.shape[1:]) != tuple(shape)):
        raise invalid(field, _seen(inputs), f"{str(dtype).removeprefix('torch.')} of shape {wanted}")
    if weight is not None:
        _check_device(field, inputs, weight.device.type)
    if not inputs.isfinite().all():
        raise invalid(field, _seen(inputs), "finite numbers; some are infinite or not a number")


def check_labels(labels: object, samples: int, n_classes: int | None = None, field: str = "labels") -> None:
    """Raise InvalidValueError unless `labels` are `samples` class indices (int64), from 0 to below `n_classes`."""
    if not isinstance(labels, Tensor) or labels.dtype != torch.int64 or tuple(labels.shape) != (samples,):
        raise invalid(field, _seen(labels), f"int64 of shape [{samples}], one class index for each input")
    if samples and not (int(labels.min()) >= 0 and (n_classes is None or int(labels.max()) < n_classes)):
        top = "" if n_classes is None else f" to {n_classes - 1}"
        raise invalid(field, f"from {int(labels.min())} to {int(labels.max())}", f"class indices from 0{top}")


def check_batch(batch: object, task: Task, device: str, what: str) -> None:
    """Raise InvalidValueError unless `batch` is what `task` promises; `what` says where it comes from."""
    if not isinstance(batch, Batch):
        raise invalid(what, type(batch).__name__, "a Batch of inputs and labels")
    _check_device(what, batch.inputs, device)
    _check_device(what, batch.labels, device)
    check_inputs(batch.inputs, task.input_shape, field=f"inputs of {what}")
    if not len(batch.inputs):
        raise invalid(what, "no samples", "at least one")
    check_labels(batch.labels, len(batch.inputs), task.n_classes, f"labels of {what}")


def batches_of(task: Task, seed: int, batch_size: int, device: str, role: str = TEACHER) -> Iterator[Batch]:
    """`task.batches` as `role` draws them, the first one checked.

    Raises InvalidValueError where the task does not take a role, or gives what it does not promise.
    """
    known = inspect.signature(task.batches).parameters.values()
    takes_role = any(one.name == "role" or one.kind is one.VAR_KEYWORD for one in known)
    if role != TEACHER and not takes_role:
        taken = ", ".join(one.name for one in known)
        raise invalid(
            f"{type(task).__name__}.batches",
            f"({taken})",
            "a method that takes a `role`, too: see pwl_lab.tasks.base.Task",
        )
    batches = iter(task.batches(seed, batch_size, device, **({"role": role} if takes_role else {})))
    first = next(batches, None)
    check_batch(first, task, device, f"{type(task).__name__}.batches")
    return chain([first], batches)


def split_of(task: Task, name: str, device: str) -> Batch:
    """`task.split(name)`, checked. Raises InvalidValueError where it is not what the task promises."""
    batch = task.split(name, device)
    check_batch(batch, task, device, f"split {name} of {type(task).__name__}")
    return batch


def _check_device(field: str, tensor: object, device: str) -> None:
    """Raise InvalidValueError unless a tensor is on `device`."""
    if isinstance(tensor, Tensor) and tensor.device.type != torch.device(device).type:
        raise InvalidValueError(
            f"{field} is on {tensor.device}, where {device} is expected: move it with .to({device!r})"
        )


def _seen(value: object) -> str:
    """A value in a few words."""
    if not isinstance(value, Tensor):
        return f"{type(value).__name__}, not a tensor"
    return f"{str(value.dtype).removeprefix('torch.')} of shape {list(value.shape)}"
