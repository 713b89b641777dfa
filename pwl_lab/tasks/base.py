"""The `Task` protocol: what a trainer, a distiller and a loader need to know of a task, and no more."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Float, Int
from torch import Tensor

from pwl_lab.support.errors import invalid
from pwl_lab.support.seeding import TEACHER


@dataclass(frozen=True)
class Batch:
    """Inputs with their labels (class indices)."""

    inputs: Float[Tensor, "batch *shape"]
    labels: Int[Tensor, " batch"]

    def to(self, device: str) -> "Batch":
        """The same batch on another device."""
        return Batch(self.inputs.to(device), self.labels.to(device))

    def __len__(self) -> int:
        """How many samples it holds."""
        return self.labels.shape[0]


@runtime_checkable
class Task(Protocol):
    """A classification task. `batches` never ends; `split` is the same at every call."""

    name: str
    input_shape: tuple[int, ...]
    n_classes: int

    def batches(self, seed: int, batch_size: int, device: str = "cpu", role: str = TEACHER) -> Iterator[Batch]:
        """Training batches without end, from the named streams of `seed` as `role` draws them.

        `role` says who trains (`teacher`, `student`, `pair`, `calibration`). Hand it on to every generator, such as
        `generator(seed, "data", role)`: otherwise a student is trained on the samples that its teacher saw.
        """
        ...

    def split(self, name: str, device: str = "cpu") -> Batch:
        """The whole split `name` (`validation` or `test`)."""
        ...

    def fingerprint(self) -> dict[str, Any]:
        """All that determines the data, as JSON values: part of every key in the store."""
        ...


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """Share of samples whose largest logit is the label's, in [0, 1]: logits [batch, classes], labels [batch].

    Raises InvalidValueError for other shapes or no sample: torch would compare each with each.
    """
    if logits.dim() != 2 or logits.shape[:1] != labels.shape or not len(labels):
        found = f"{list(logits.shape)} and {list(labels.shape)}"
        raise invalid("logits and labels", found, "of shapes [batch, classes] and [batch], with at least one sample")
    return (logits.argmax(dim=-1) == labels).double().mean().item()
