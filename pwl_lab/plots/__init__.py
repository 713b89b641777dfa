"""Figures: data in, matplotlib Figure out."""

from pwl_lab.plots.choices import choices_chart
from pwl_lab.plots.curves import learning_curves, steps_to_threshold, teacher_curve
from pwl_lab.plots.loading import (
    image_grid,
    layer_loading,
    loss_terms,
    mask_chart,
    network,
    order_curves,
    owner_row,
    predictions_by_mask,
)
from pwl_lab.plots.probes import checkpoint_map, checkpoint_probe, maps_over_steps, projected_probe
from pwl_lab.plots.scaling import scaling_curves, two_phase_curves
from pwl_lab.plots.style import style

__all__ = [
    "checkpoint_map",
    "checkpoint_probe",
    "choices_chart",
    "image_grid",
    "layer_loading",
    "learning_curves",
    "loss_terms",
    "maps_over_steps",
    "mask_chart",
    "network",
    "order_curves",
    "owner_row",
    "predictions_by_mask",
    "projected_probe",
    "scaling_curves",
    "steps_to_threshold",
    "style",
    "teacher_curve",
    "two_phase_curves",
]
