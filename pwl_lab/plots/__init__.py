"""Figures: data in, matplotlib Figure out."""

from pwl_lab.plots.clock import (
    anytime_chart,
    arrival_chart,
    bytes_chart,
    first_prediction_chart,
    latency_chart,
    planned_chart,
    planned_charts,
    way_name,
)
from pwl_lab.plots.correlations import (
    CheckpointFigure,
    checkpoint_map,
    checkpoint_probe,
    maps_over_steps,
    projected_probe,
)
from pwl_lab.plots.crossed import crossing_chart, crossing_histories, crossing_prefixes, parity_crossing
from pwl_lab.plots.curricula import (
    ExplorerFigure,
    ablation_chart,
    choices_chart,
    learning_curves,
    steps_to_threshold,
    teacher_curve,
)
from pwl_lab.plots.mask_cube import (
    MOST_LATTICE_BLOCKS,
    budget_curve,
    byte_curves,
    class_chart,
    mask_lattice,
    order_curves,
)
from pwl_lab.plots.pairs import (
    LayerFigure,
    architecture,
    image_grid,
    layer_loading,
    loss_terms,
    mask_chart,
    network,
    owner_row,
    predictions_by_mask,
    similarity_chart,
)
from pwl_lab.plots.scaling import scaling_curves, two_phase_curves
from pwl_lab.plots.style import style
from pwl_lab.plots.sweep import sweep_curves

__all__ = [
    "MOST_LATTICE_BLOCKS",
    "CheckpointFigure",
    "ExplorerFigure",
    "LayerFigure",
    "ablation_chart",
    "anytime_chart",
    "architecture",
    "arrival_chart",
    "budget_curve",
    "byte_curves",
    "bytes_chart",
    "checkpoint_map",
    "checkpoint_probe",
    "choices_chart",
    "class_chart",
    "crossing_chart",
    "crossing_histories",
    "crossing_prefixes",
    "first_prediction_chart",
    "image_grid",
    "latency_chart",
    "layer_loading",
    "learning_curves",
    "loss_terms",
    "maps_over_steps",
    "mask_chart",
    "mask_lattice",
    "network",
    "order_curves",
    "owner_row",
    "parity_crossing",
    "planned_chart",
    "planned_charts",
    "predictions_by_mask",
    "projected_probe",
    "scaling_curves",
    "similarity_chart",
    "steps_to_threshold",
    "style",
    "sweep_curves",
    "teacher_curve",
    "two_phase_curves",
    "way_name",
]
