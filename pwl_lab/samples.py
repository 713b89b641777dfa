"""A few test images and what a pair predicts for them while its blocks arrive."""

from dataclasses import dataclass

from jaxtyping import Float, Int, UInt8
from torch import Tensor

from pwl_lab import analysis
from pwl_lab.study import Pair
from pwl_lab.tasks.vision import ImageTask


@dataclass(frozen=True)
class SamplePredictions:
    """A few test images and what each mask predicts for them: computed once, then only looked up."""

    images: UInt8[Tensor, "n height width *colours"]
    labels: Int[Tensor, " n"]
    class_names: tuple[str, ...]
    predicted: dict[str, Int[Tensor, " n"]]
    confidence: dict[str, Float[Tensor, " n"]]


def sample_predictions(pair: Pair, task: ImageTask, n_samples: int = 6, pool: int = 400) -> SamplePredictions:
    """`n_samples` test images, those first whose prediction changes most often while blocks arrive in prefix order.

    They are picked among the first `pool` of the split *because* they change: they show what loading does, not how
    often it does it.
    """
    images, batch = task.sample(pool)
    masks = analysis.loading_orders(pair.n_blocks)["prefix"]
    device = next(pair.net.parameters()).device
    predicted, confidence = pair.predictions(batch.inputs.to(device), masks)
    predicted, confidence = predicted.cpu(), confidence.cpu()
    changes = (predicted[1:] != predicted[:-1]).sum(dim=0)
    chosen = changes.argsort(descending=True, stable=True)[:n_samples]
    return SamplePredictions(
        images=images[chosen],
        labels=batch.labels[chosen],
        class_names=task.class_names,
        predicted={mask: row[chosen] for mask, row in zip(masks, predicted, strict=True)},
        confidence={mask: row[chosen] for mask, row in zip(masks, confidence, strict=True)},
    )
