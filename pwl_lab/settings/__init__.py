"""The settings of each notebook of the series: every size it can be asked for, with its type, range and default.

Nothing here imports torch, so listing the parameters and checking a grid stays quick.
"""

from pwl_lab.config import Settings
from pwl_lab.settings.images import CrossingSettings, ImageSettings, LoadingSettings
from pwl_lab.settings.others import ClockSettings, DashboardSettings, ReportSettings, StartHereSettings
from pwl_lab.settings.parity import (
    ComplexitySettings,
    CurriculaSettings,
    ParityTransformerSettings,
    SparseParityTeacherSettings,
)

__all__ = [
    "SETTINGS",
    "ClockSettings",
    "ComplexitySettings",
    "CrossingSettings",
    "CurriculaSettings",
    "DashboardSettings",
    "ImageSettings",
    "LoadingSettings",
    "ParityTransformerSettings",
    "ReportSettings",
    "SparseParityTeacherSettings",
    "StartHereSettings",
]

SETTINGS: dict[str, type[Settings]] = {
    cls.section: cls
    for cls in (
        StartHereSettings,
        SparseParityTeacherSettings,
        CurriculaSettings,
        ParityTransformerSettings,
        LoadingSettings,
        CrossingSettings,
        ClockSettings,
        ComplexitySettings,
        ReportSettings,
        DashboardSettings,
    )
}
