"""Figures: data in, matplotlib Figure out."""

from pwl_lab.plots.curves import learning_curves, steps_to_threshold, teacher_curve
from pwl_lab.plots.loading import image_grid, layer_loading, loss_terms, mask_chart, order_curves, owner_row
from pwl_lab.plots.style import style

__all__ = [
    "image_grid",
    "layer_loading",
    "learning_curves",
    "loss_terms",
    "mask_chart",
    "order_curves",
    "owner_row",
    "steps_to_threshold",
    "style",
    "teacher_curve",
]
