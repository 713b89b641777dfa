"""The settings of the notebooks that take what others have trained."""

from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field

from pwl_lab import paths
from pwl_lab.checks import check_image_settings, check_report
from pwl_lab.config import Family, Seeds, Settings
from pwl_lab.settings.images import LoadingSettings
from pwl_lab.settings.kinds import EachOnce, Megabytes


class StartHereSettings(Settings):
    """00_start_here: both ideas, on the teacher of notebook 02 and the first pair of notebook 04 at the same preset."""

    section: ClassVar[str] = "start_here"
    seeds: Seeds = Field((0, 1, 2), description="one parity student per seed and curriculum")

    def check_together(self) -> None:
        """The images come last in the notebook; that they are missing should be known first."""
        images = LoadingSettings.load(self.preset)
        check_image_settings(images.dataset, images.n_train, images.batch_size, images.crop_padding)


class ClockSettings(Settings):
    """06_loading_under_the_clock: pairs of notebook 04, and networks of the sources' full sizes, loaded by the clock."""

    section: ClassVar[str] = "loading_under_the_clock"
    seeds: Seeds = Field((0, 1, 2), description="pairs of notebook 04: one per seed")
    family: Family = Field("vgg", description="of the trained pairs; trained as notebook 04 does at this preset")
    full_sizes: Annotated[tuple[Literal["vgg16", "resnet", "vit_tiny", "vit_base"], ...], EachOnce] = Field(
        ("vgg16", "resnet", "vit_tiny", "vit_base"), description="the sources' sizes, with random weights: timing alone"
    )
    megabytes_per_s: Annotated[tuple[Megabytes, ...], EachOnce] = Field(
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
    families: Annotated[tuple[Family, ...], EachOnce] = Field(
        ("vgg", "resnet", "vit"), min_length=1, description="pairs of these are shown"
    )


Folder = Annotated[str, AfterValidator(paths.from_here)]


class ReportSettings(Settings):
    """09_batch_report: any batch's folder as a table, curves, failures and costs.

    What is empty is chosen by the rule of `pwl_lab.batch.curves.choose`. A folder is made absolute by whoever reads it
    first, which is the command: the kernel runs somewhere else.
    """

    section: ClassVar[str] = "batch_report"
    seeds: tuple[int, ...] = Field((), description="look at these seeds of the batch only; all where the list is empty")
    batch: Folder = Field(
        "", description="the batch's folder or address; empty: an example, which is run if it is not there yet"
    )
    metric: str = Field("", description="what is drawn: a name in metrics.json, or a group of names such as final.*")
    axis: str = Field("", description="the horizontal axis: a name of the grid, seed, or part (the parts of a group)")
    hue: str = Field("", description="a line for each value of this one; none for a single line")
    facet: tuple[str, ...] | None = Field(
        None, max_length=2, description="panels from left to right, and from top to bottom; none for a single panel"
    )
    statistic: Literal["mean", "median"] = Field("mean", description="of the seeds, with its 95% interval")

    def check_together(self) -> None:
        """A folder that is named has to hold a batch. What can be drawn of it is known once it has been read."""
        if self.batch:
            check_report(self.batch)

    def banner(self) -> str:
        """One line for the top of the notebook: which batch this is."""
        seeds = f", seeds {', '.join(map(str, self.seeds))} only" if self.seeds else ""
        if self.batch:
            return f"the batch in {self.batch}{seeds}"
        return f"no batch was named: this is the example of presets/grids/example.yaml{seeds}. Its numbers are of toy size."
