"""A few test images and what a pair predicts for them while its blocks arrive."""

from dataclasses import dataclass

from jaxtyping import Float, Int, UInt8
from torch import Tensor

from pwl_lab import analysis
from pwl_lab.loading.masks import all_masks, check_whole_cube
from pwl_lab.study import Pair
from pwl_lab.tasks.vision import ImageTask


@dataclass(frozen=True)
class SamplePredictions:
    """A few test images and what each of the 2^n masks predicts for them: computed once, then only looked up."""

    images: UInt8[Tensor, "n height width *colours"]
    labels: Int[Tensor, " n"]
    class_names: tuple[str, ...]
    predicted: dict[str, Int[Tensor, " n"]]
    confidence: dict[str, Float[Tensor, " n"]]

    @property
    def n_blocks(self) -> int:
        """How many blocks the masks name."""
        return len(next(iter(self.predicted)))

    def right(self, mask: str) -> list[bool]:
        """For each image whether its prediction at `mask` is its class."""
        return (self.predicted[mask] == self.labels).tolist()


def sample_predictions(pair: Pair, task: ImageTask, n_samples: int = 6, pool: int = 400) -> SamplePredictions:
    """`n_samples` test images, those first whose prediction changes most often while blocks arrive in prefix order.

    They are picked among the first `pool` of the split *because* they change: they show what loading does, not how
    often it does it. Raises InvalidValueError for a pair of more than `MOST_BLOCKS` blocks.
    """
    images, batch = task.sample(pool)
    device = next(pair.net.parameters()).device
    inputs = batch.inputs.to(device)
    predicted, _ = pair.predictions(inputs, analysis.loading_orders(pair.n_blocks)["prefix"])
    changes = (predicted[1:] != predicted[:-1]).sum(dim=0).cpu()
    chosen = changes.argsort(descending=True, stable=True)[:n_samples]
    masks = all_masks(check_whole_cube(pair.n_blocks))
    predicted, confidence = pair.predictions(inputs[chosen.to(device)], masks)
    return SamplePredictions(
        images=images[chosen],
        labels=batch.labels[chosen],
        class_names=task.class_names,
        predicted=dict(zip(masks, predicted.cpu(), strict=True)),
        confidence=dict(zip(masks, confidence.cpu(), strict=True)),
    )
