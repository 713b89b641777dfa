"""Figures: functions from data to a matplotlib Figure, and curves that grow while a notebook trains."""

from pwl_lab.plots.arm_charts import arm_powers, arms_chart, parity_arms, student_kinds
from pwl_lab.plots.clock import (
    anytime_chart,
    arrival_chart,
    baseline_name,
    bytes_chart,
    first_prediction_chart,
    latency_chart,
    planned_chart,
    planned_charts,
)
from pwl_lab.plots.correlations import (
    CheckpointFigure,
    ExplorerFigure,
    bit_correlations,
    checkpoint_probe,
    maps_over_steps,
    projected_probe,
)
from pwl_lab.plots.curricula import (
    ablation_chart,
    choices_chart,
    crossing_chart,
    crossing_histories,
    crossing_prefixes,
    learning_curves,
    parity_crossing,
    steps_to_threshold,
    teacher_curve,
)
from pwl_lab.plots.from_scratch import accuracy_lines, mask_points, named_pictures, prefix_line
from pwl_lab.plots.live import LiveCurves
from pwl_lab.plots.mask_cube import (
    MOST_LATTICE_BLOCKS,
    budget_curve,
    byte_curves,
    class_chart,
    ends_by_epochs,
    mask_chart,
    mask_lattice,
    order_curves,
    prefix_by_data,
)
from pwl_lab.plots.pairs import (
    architecture,
    image_grid,
    loss_terms,
    network,
    predictions_by_mask,
    similarity_chart,
    strings_by_mask,
)
from pwl_lab.plots.parity_tables import degrees_standing_out, few_bits_chart, task_ladder, tuned_curricula
from pwl_lab.plots.pictures import PictureFigure, TemperatureFigure, drawn_pictures, soft_targets
from pwl_lab.plots.scaling import cost_curve, scaling_curves, two_phase_curves
from pwl_lab.plots.strings import derivation_tree, predictable, probe_lines, teacher_phases
from pwl_lab.plots.sweep import sweep_curves
from pwl_lab.support.progress import draw_with

draw_with(LiveCurves)

__all__ = [
    "MOST_LATTICE_BLOCKS",
    "CheckpointFigure",
    "ExplorerFigure",
    "LiveCurves",
    "PictureFigure",
    "TemperatureFigure",
    "ablation_chart",
    "accuracy_lines",
    "anytime_chart",
    "architecture",
    "arm_powers",
    "arms_chart",
    "arrival_chart",
    "baseline_name",
    "bit_correlations",
    "budget_curve",
    "byte_curves",
    "bytes_chart",
    "checkpoint_probe",
    "choices_chart",
    "class_chart",
    "cost_curve",
    "crossing_chart",
    "crossing_histories",
    "crossing_prefixes",
    "degrees_standing_out",
    "derivation_tree",
    "drawn_pictures",
    "ends_by_epochs",
    "few_bits_chart",
    "first_prediction_chart",
    "image_grid",
    "latency_chart",
    "learning_curves",
    "loss_terms",
    "maps_over_steps",
    "mask_chart",
    "mask_lattice",
    "mask_points",
    "named_pictures",
    "network",
    "order_curves",
    "parity_arms",
    "parity_crossing",
    "planned_chart",
    "planned_charts",
    "predictable",
    "predictions_by_mask",
    "prefix_by_data",
    "prefix_line",
    "probe_lines",
    "projected_probe",
    "scaling_curves",
    "similarity_chart",
    "soft_targets",
    "steps_to_threshold",
    "strings_by_mask",
    "student_kinds",
    "sweep_curves",
    "task_ladder",
    "teacher_curve",
    "teacher_phases",
    "tuned_curricula",
    "two_phase_curves",
]
