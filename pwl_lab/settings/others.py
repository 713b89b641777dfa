"""The settings of the notebooks that take what others have trained."""

from typing import ClassVar, Literal

from pydantic import Field

from pwl_lab.checks import check_images
from pwl_lab.config import Family, Seeds, Settings
from pwl_lab.settings.images import LoadingSettings
from pwl_lab.settings.kinds import Megabytes


class StartHereSettings(Settings):
    """00_start_here: both ideas, on the teacher of notebook 02 and the first pair of notebook 04 at the same preset."""

    section: ClassVar[str] = "start_here"
    seeds: Seeds = Field((0, 1, 2), description="one parity student per seed and curriculum")

    def check_together(self) -> None:
        """The images come last in the notebook; that they are missing should be known first."""
        images = LoadingSettings.load(self.preset)
        check_images(images.dataset, images.n_train, images.batch_size)


class ClockSettings(Settings):
    """06_loading_under_the_clock: pairs of notebook 04, and networks of the sources' full sizes, loaded by the clock."""

    section: ClassVar[str] = "loading_under_the_clock"
    seeds: Seeds = Field((0, 1, 2), description="pairs of notebook 04: one per seed")
    family: Family = Field("vgg", description="of the trained pairs; trained as notebook 04 does at this preset")
    full_sizes: tuple[Literal["vgg16", "resnet", "vit_tiny", "vit_base"], ...] = Field(
        ("vgg16", "resnet", "vit_tiny", "vit_base"), description="the sources' sizes, with random weights: timing alone"
    )
    megabytes_per_s: tuple[Megabytes, ...] = Field(
        (5.0, 25.0, 100.0), min_length=1, description="slow links for the time to the first prediction"
    )
    longest_load_s: float = Field(
        15.0, gt=0.0, le=3600.0, description="leave out a link on which a teacher would take longer than this"
    )
    repeats: int = Field(3, ge=1, le=100, description="measurements of each load without a slow link")
    anytime_megabytes_per_s: float = Field(
        1.0, gt=0.0, le=100_000.0, description="the link of accuracy against seconds"
    )
    loads: int = Field(5, ge=1, le=1000, description="loads during which single predictions are timed")
    predictions: int = Field(10_000, ge=1, le=10_000_000, description="checked while blocks arrive")
    predictors: int = Field(4, ge=1, le=64, description="threads that predict at the same time")

    def check_together(self) -> None:
        """The pairs are those of notebook 04."""
        LoadingSettings.load(self.preset, family=self.family)


class DashboardSettings(Settings):
    """dashboard: what the other notebooks have stored at a preset."""

    section: ClassVar[str] = "dashboard"
    seeds: Seeds = Field((0,), description="pairs of the first of these seeds are shown")
