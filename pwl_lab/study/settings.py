"""What the notebooks can be asked: every parameter with its type, range and default, and the sizes that each preset gives it."""

from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field

from pwl_lab.study.image_settings import CrossingSettings, ImageSettings, LoadingSettings
from pwl_lab.study.language_settings import LanguageCurriculumSettings
from pwl_lab.support import paths
from pwl_lab.support.config import (
    Device,
    EachOnce,
    Epochs,
    Family,
    Fraction,
    LearningRate,
    OtherSeeds,
    Seeds,
    Settings,
    Steps,
)
from pwl_lab.support.errors import invalid
from pwl_lab.tasks.checks import check_bits, check_orthogonal, check_probe

__all__ = [
    "BATCH",
    "PROBE_SAMPLES",
    "SETTINGS",
    "ClockSettings",
    "ComplexitySettings",
    "CrossingSettings",
    "CurriculaSettings",
    "DashboardSettings",
    "FromScratchSettings",
    "ImageSettings",
    "LanguageCurriculumSettings",
    "LoadingSettings",
    "ParityTransformerSettings",
    "ReportSettings",
    "Settings",
    "SparseParityTeacherSettings",
    "StartHereSettings",
]

BATCH = "batch.json"  # as `pwl_lab.runner.points` writes it, which stands above this module
SHIPPED_PAIR: tuple[Family, tuple[int, ...]] = ("vgg", (0,))  # family and seeds
SHIPPED_TEACHER = (100, 6, 1024)  # bits, of which so many matter, and hidden units
PROBE_SAMPLES = 4_096  # that notebook 02 and the dashboard show the parity teacher

Width = Annotated[int, Field(ge=1, le=1_000_000)]
Sizes = Annotated[tuple[Annotated[int, Field(ge=1, le=1_000_000)], ...], Field(min_length=1, max_length=64), EachOnce]
Samples = Annotated[
    tuple[Annotated[int, Field(ge=1, le=1_000_000_000)], ...], Field(min_length=1, max_length=64), EachOnce
]
Megabytes = Annotated[float, Field(gt=0.0, le=100_000.0)]


def _check_stage(stage_steps: int, budget_steps: int) -> None:
    """Raise InvalidValueError where the first stage leaves no step for the last one."""
    if stage_steps >= budget_steps:
        raise invalid(
            "stage_steps", stage_steps, f"below budget_steps = {budget_steps}, or the last stage never begins"
        )


class CurriculaSettings(Settings):
    """02_distillation_curricula: three curricula on sparse parity."""

    section: ClassVar[str] = "distillation_curricula"
    n_bits: int = Field(50, ge=2, le=10_000, description="bits of the parity task")
    k_sparse: int = Field(4, ge=1, le=20, description="how many of them the label depends on")
    support: tuple[int, ...] | None = Field(None, description="which bits these are; drawn from the seed if not given")
    teacher_width: Width = Field(1024, description="hidden units of the teacher")
    student_width: Width = Field(64, description="hidden units of each student")
    batch_size: int = Field(128, ge=1, le=65_536, description="fresh samples per step")
    teacher_lr: LearningRate = Field(0.2, description="SGD learning rate of the teacher")
    teacher_momentum: float = Field(0.9, ge=0.0, lt=1.0, description="of the teacher's SGD")
    student_lr: LearningRate = Field(0.2, description="SGD learning rate of the students, without momentum")
    teacher_loop: Literal["plain", "fast"] = Field("plain", description="fast: without autograd")
    teacher_max_steps: Steps = Field(20_000, description="upper limit for the teacher")
    teacher_eval_every: Steps = Field(25, description="steps between evaluations and checkpoints of the teacher")
    keep_at: tuple[Fraction, ...] | None = Field(
        None, description="of the teacher's checkpoints, keep the first at each of these accuracies; None: all"
    )
    saturation: float = Field(
        1.0, ge=1.0, le=100.0, description="teacher steps as a multiple of those it needs to reach 100%"
    )
    temperature: float = Field(0.0, ge=0.0, le=100.0, description="of the teacher's output; 0 uses its hard decisions")
    checkpoint_accuracy: Fraction = Field(0.8, description="progressive's checkpoint: the first that reaches this")
    stage_steps: Steps = Field(600, description="length of the first stage (progressive and extracted)")
    budget_steps: Steps = Field(12_000, description="upper limit for each student")
    hard_n_bits: int = Field(100, ge=2, le=10_000, description="bits of the harder task")
    hard_k_sparse: int = Field(6, ge=1, le=20, description="how many of them its label depends on")
    hard_teacher: Literal["shipped", "trained"] = Field(
        "shipped", description="of the harder task: load the one that ships, or train it (minutes)"
    )
    hard_teacher_width: Width = Field(1024, description="hidden units of that teacher")
    hard_teacher_max_steps: Steps = Field(400_000, description="upper limit for that teacher, if it is trained")
    hard_checkpoint_accuracy: Fraction = Field(0.6, description="as that of the first task; shipped: 0.6 or 0.8")
    hard_student_width: Width = Field(100, description="hidden units of each student of the harder task")
    hard_student_lr: LearningRate = Field(0.08, description="SGD learning rate of these students")
    hard_student_momentum: float = Field(0.9, ge=0.0, lt=1.0, description="of these students' SGD")
    hard_stage_steps: Steps = Field(400, description="length of their first stage")
    hard_budget_steps: Steps = Field(4_000, description="upper limit for each of them")
    choice_steps: Steps = Field(6_000, description="upper limit for each student where choices are compared")
    choice_seeds: int = Field(4, ge=1, le=1024, description="compare choices on this many seeds, from the first")
    eval_every: Steps = Field(100, description="steps between evaluations of the students")
    eval_samples: int = Field(4096, ge=64, le=1_000_000, description="size of the fixed evaluation set")
    threshold: Fraction = Field(0.99, description="the accuracy that counts as learned")

    def check_together(self) -> None:
        """The support has to fit into the bits, the curriculum into the budgets."""
        check_bits(self.n_bits, self.k_sparse, self.support)
        check_bits(self.hard_n_bits, self.hard_k_sparse, None)
        check_probe(self.n_bits, self.k_sparse, PROBE_SAMPLES, off_subsets=300)
        check_orthogonal(self.teacher_width, self.student_width)
        for budget in (self.budget_steps, self.choice_steps):
            _check_stage(self.stage_steps, budget)
        hard = (self.hard_n_bits, self.hard_k_sparse, self.hard_teacher_width)
        if self.hard_teacher == "shipped" and hard != SHIPPED_TEACHER:
            allowed = (
                f"trained; the one that ships is for hard_n_bits, hard_k_sparse, hard_teacher_width = {SHIPPED_TEACHER}"
            )
            raise invalid("hard_teacher", "shipped", allowed)
        if self.hard_stage_steps >= self.hard_budget_steps:
            allowed = f"below hard_budget_steps = {self.hard_budget_steps}, or the last stage never begins"
            raise invalid("hard_stage_steps", self.hard_stage_steps, allowed)


class SparseParityTeacherSettings(Settings):
    """01_sparse_parity_teacher: a teacher, its checkpoints and its hidden layer under the correlation probe."""

    section: ClassVar[str] = "sparse_parity_teacher"
    n_bits: int = Field(50, ge=2, le=1_000, description="bits of the parity task")
    k_sparse: int = Field(4, ge=2, le=20, description="how many of them the label depends on")
    support: tuple[int, ...] | None = Field(None, description="which bits these are; drawn from the seed if not given")
    teacher_width: Width = Field(1024, description="hidden units of the teacher")
    batch_size: int = Field(128, ge=1, le=65_536, description="fresh samples per step")
    teacher_lr: LearningRate = Field(0.15, description="SGD learning rate of the teacher")
    teacher_momentum: float = Field(0.0, ge=0.0, lt=1.0, description="of the teacher's SGD")
    teacher_loop: Literal["plain", "fast"] = Field("plain", description="fast: without autograd")
    weight_decay: float = Field(1e-3, ge=0.0, le=1.0, description="L2 penalty; lets the random initial weights fade")
    teacher_max_steps: Steps = Field(20_000, description="upper limit for the teacher, saturation included")
    saturation: float = Field(
        4.0, ge=1.0, le=100.0, description="teacher steps as a multiple of those it needs to reach 100%"
    )
    eval_every: Steps = Field(50, description="steps between evaluations, and between checkpoints")
    keep_at: tuple[Fraction, ...] | None = Field(
        None, description="of the teacher's checkpoints, keep the first at each of these accuracies; None: all"
    )
    eval_samples: int = Field(4096, ge=64, le=1_000_000, description="size of the fixed evaluation set")
    probe_samples: int = Field(16_384, ge=64, le=1_000_000, description="number of fresh inputs for the probe")
    off_subsets: int = Field(300, ge=1, le=10_000, description="subsets outside the support, per degree above 1")
    projection_width: Width = Field(64, description="units that the hidden layer is projected to")

    def check_together(self) -> None:
        """The support has to fit into the bits and leave some of them out."""
        check_bits(self.n_bits, self.k_sparse, self.support)
        check_probe(self.n_bits, self.k_sparse, self.probe_samples, self.off_subsets)


class ParityTransformerSettings(Settings):
    """03_parity_transformer: the curricula of notebook 02 on transformers."""

    section: ClassVar[str] = "parity_transformer"
    n_bits: int = Field(14, ge=2, le=512, description="bits of the parity task, one token each")
    k_sparse: int = Field(4, ge=1, le=20, description="how many of them the label depends on")
    support: tuple[int, ...] | None = Field(None, description="which bits these are; drawn from the seed if not given")
    layers: int = Field(2, ge=2, le=48, description="blocks of teacher and students")
    mlp_ratio: float = Field(2.0, gt=0.0, le=16.0, description="hidden units of each block's MLP per unit of width")
    teacher_width: Width = Field(64, description="channels per token in the teacher")
    teacher_heads: int = Field(8, ge=1, le=256, description="attention heads of the teacher")
    student_width: Width = Field(16, description="channels per token in each student")
    student_heads: int = Field(2, ge=1, le=256, description="attention heads of each student")
    batch_size: int = Field(32, ge=1, le=65_536, description="fresh samples per step")
    teacher_lr: LearningRate = Field(1e-3, description="Adam learning rate of the teacher")
    student_lr: LearningRate = Field(2e-3, description="Adam learning rate of the students")
    teacher_max_steps: Steps = Field(4_000, description="upper limit for the teacher, saturation included")
    saturation: float = Field(
        2.0, ge=1.0, le=100.0, description="teacher steps as a multiple of those it needs to reach 100%"
    )
    checkpoint_accuracy: Fraction = Field(0.62, description="progressive's checkpoint: the first that reaches this")
    stage_steps: Steps = Field(600, description="length of the first stage (progressive and extracted)")
    budget_steps: Steps = Field(4_000, description="upper limit for each student")
    eval_every: Steps = Field(50, description="steps between evaluations")
    eval_samples: int = Field(1024, ge=64, le=1_000_000, description="size of the fixed evaluation set")
    threshold: Fraction = Field(0.99, description="the accuracy that counts as learned")

    def check_together(self) -> None:
        """The support has to fit into the bits, the curriculum into the budget, the heads into the width."""
        check_bits(self.n_bits, self.k_sparse, self.support)
        _check_stage(self.stage_steps, self.budget_steps)
        for who in ("teacher", "student"):
            width, heads = getattr(self, f"{who}_width"), getattr(self, f"{who}_heads")
            if width % heads:
                raise invalid(
                    f"{who}_heads", heads, f"a divisor of {who}_width = {width}: every head gets an equal part"
                )


class ComplexitySettings(Settings):
    """08_sample_complexity: steps to the threshold over task sizes and student widths."""

    section: ClassVar[str] = "sample_complexity"
    k_sparse: int = Field(4, ge=1, le=20, description="how many bits matter in the tasks that are trained here")
    sizes: Sizes = Field((16, 24, 36, 54), description="bits n of these tasks")
    size_seeds: int = Field(6, ge=1, le=1024, description="train at these sizes with this many seeds, from the first")
    widths: Sizes = Field((16, 32, 64, 128), description="student widths that are compared")
    width_n_bits: int = Field(
        36, ge=4, le=10_000, description="bits of the task (4 of them relevant) on which widths are compared"
    )
    teacher_width: Width = Field(1024, description="hidden units of each teacher")
    teacher_lr: LearningRate = Field(0.2, description="SGD learning rate of the teachers")
    teacher_momentum: float = Field(0.9, ge=0.0, lt=1.0, description="of the teachers' SGD")
    teacher_batch_size: int = Field(128, ge=1, le=65_536, description="fresh samples per step of a teacher")
    teacher_max_steps: Steps = Field(10_000, description="upper limit for each teacher")
    student_width: Width = Field(64, description="hidden units of each student where sizes are compared")
    student_lr: LearningRate | None = Field(None, description="of the students, without momentum; None: as tuned")
    batch_size: int = Field(32, ge=1, le=65_536, description="fresh samples per step of a student")
    stage_steps: Steps | None = Field(
        None, description="length of the extracted curriculum's first stage; None: as tuned"
    )
    budget_steps: Steps = Field(100_000, description="upper limit for each student")
    eval_samples: int = Field(1024, ge=64, le=1_000_000, description="evaluation set of the two-phase demonstration")
    threshold: Fraction = Field(0.99, description="the accuracy that counts as learned")
    two_phase_bits: int = Field(50, ge=5, le=10_000, description="bits of the task of the two-phase demonstration")
    two_phase_k: int = Field(4, ge=1, le=20, description="its number of bits that matter")
    two_phase_width: Width = Field(256, description="hidden units of its student")
    two_phase_label_samples: Samples = Field(
        (1_000, 10_000, 100_000, 300_000, 1_000_000, 2_000_000, 4_000_000),
        description="samples of its one large step on labels",
    )
    two_phase_hidden_samples: Samples = Field(
        (100, 300, 1_000, 3_000, 10_000), description="samples of its one large step on the projected hidden layer"
    )
    two_phase_seeds: int = Field(6, ge=1, le=1024, description="take its step with this many seeds, from the first")

    def check_together(self) -> None:
        """The supports have to fit into the bits, the stage into the budget."""
        if min(self.sizes) < self.k_sparse:
            raise invalid("sizes", self.sizes, f"sizes of k_sparse = {self.k_sparse} bits or more")
        check_bits(self.two_phase_bits, self.two_phase_k, None)
        if self.stage_steps is not None:
            _check_stage(self.stage_steps, self.budget_steps)


class StartHereSettings(Settings):
    """00_start_here: both ideas, on the teacher of notebook 02 and the first pair of notebook 04 at the same preset."""

    section: ClassVar[str] = "start_here"
    seeds: Seeds = Field((0, 1, 2), description="one parity student per seed and curriculum")

    def check_together(self) -> None:
        """The images come last in the notebook; that they are missing should be known first."""
        LoadingSettings.load(self.preset)


class FromScratchSettings(Settings):
    """00b_from_scratch: both ideas in plain PyTorch, then the same through this package."""

    section: ClassVar[str] = "from_scratch"
    seeds: Seeds = Field((0, 1, 2), description="one parity student per seed and curriculum; images take the first")
    device: Device = Field("cpu", description="of the runs through pwl_lab; the code on the page computes on the CPU")
    n_bits: int = Field(40, ge=4, le=1_000, description="bits of the parity task; the label depends on four")
    teacher_width: Width = Field(1024, description="hidden units of the parity teacher")
    stage_steps: Steps = Field(300, description="steps on the projected hidden layer (extracted)")
    budget_steps: Steps = Field(6_000, description="upper limit for the parity teacher, and for each student")
    n_train: int | None = Field(None, ge=128, le=10_000, description="use only this many training images")
    epochs: Epochs = Field(3, description="passes over the images, for the teacher and again for the pair")

    def check_together(self) -> None:
        """The stage has to leave steps for the output; that images are missing should be known first."""
        _check_stage(self.stage_steps, self.budget_steps)
        LoadingSettings.load(self.preset)


class ClockSettings(Settings):
    """06_loading_under_the_clock: pairs of notebook 04, and networks of the paper's full sizes, loaded by the clock."""

    section: ClassVar[str] = "loading_under_the_clock"
    device: Literal["auto", "cpu"] = Field(
        "cpu", description="where pairs are trained and loaded: only the CPU is timed"
    )
    seeds: Seeds = Field((0, 1, 2), description="pairs of notebook 04: one per seed")
    other_seeds: OtherSeeds = "trained"
    family: Family = Field("vgg", description="of the trained pairs; trained as notebook 04 does at this preset")
    pair_source: Literal["trained", "shipped"] = Field(
        "trained", description="shipped: the one that comes with the project, of vgg and seed 0; nothing is trained"
    )
    full_sizes: Annotated[tuple[Literal["vgg16", "resnet", "vit_tiny", "vit_base"], ...], EachOnce] = Field(
        ("vgg16", "resnet", "vit_tiny", "vit_base"), description="the paper's sizes, random weights: for timing only"
    )
    megabytes_per_s: Annotated[tuple[Megabytes, ...], EachOnce] = Field(
        (5.0, 25.0, 100.0), min_length=1, description="slow links for the time to the first prediction"
    )
    longest_load_s: float = Field(
        15.0, gt=0.0, le=3600.0, description="leave out a link on which a teacher would take longer than this"
    )
    repeats: int = Field(3, ge=1, le=100, description="measurements of each load without a slow link")
    anytime_megabytes_per_s: float = Field(
        0.1, gt=0.0, le=100_000.0, description="the link of accuracy against seconds"
    )
    loads: int = Field(5, ge=1, le=1000, description="loads during which single predictions are timed")
    predictions: int = Field(10_000, ge=1, le=10_000_000, description="predictions checked while blocks arrive")
    predictors: int = Field(4, ge=1, le=64, description="threads that predict at the same time")

    def check_together(self) -> None:
        """The pairs are those of notebook 04; only one of them ships."""
        LoadingSettings.load(self.preset, family=self.family)
        if self.pair_source == "shipped" and (self.family, self.seeds) != SHIPPED_PAIR:
            allowed = f"trained; the pair that ships is of family, seeds = {SHIPPED_PAIR}"
            raise invalid("pair_source", "shipped", allowed)


class DashboardSettings(Settings):
    """dashboard: what the other notebooks have stored at a preset."""

    section: ClassVar[str] = "dashboard"
    seeds: Seeds = Field((0,), description="only the pairs of the first seed are shown")
    families: Annotated[tuple[Family, ...], EachOnce] = Field(
        ("vgg", "resnet", "vit"), min_length=1, description="pairs of these are shown"
    )


Folder = Annotated[str, AfterValidator(paths.from_here)]


class ReportSettings(Settings):
    """09_batch_report: any batch's folder as a table, curves, failures and costs.

    What is empty is chosen by the rule of `pwl_lab.runner.curves.choose`. The command makes a folder absolute,
    for the kernel runs somewhere else.
    """

    section: ClassVar[str] = "batch_report"
    seeds: tuple[int, ...] = Field((), description="only these seeds of the batch; all if the list is empty")
    batch: Folder = Field(
        "", description="the batch's folder or address; empty: an example, which is run first if needed"
    )
    metric: str = Field("", description="what to draw: a name in metrics.json, or a group of names such as final.*")
    axis: str = Field("", description="the horizontal axis: a name of the grid, seed, or part (the parts of a group)")
    hue: str = Field("", description="one line for each of its values; none for a single line")
    facet: tuple[str, ...] | None = Field(
        None, max_length=2, description="panels from left to right, and from top to bottom; none for a single panel"
    )
    statistic: Literal["mean", "median"] = Field("mean", description="of the seeds, with its 95% interval")

    def check_together(self) -> None:
        """A folder that is named has to hold a batch. What can be drawn of it is known once it has been read."""
        if (
            self.batch and "://" not in self.batch and not (Path(self.batch) / BATCH).is_file()
        ):  # an address comes later
            what = f"the folder that pwl-lab batch was given as --out ({BATCH} is not there)"
            raise invalid("batch", self.batch, what)

    def banner(self) -> str:
        """One line for the top of the notebook: which batch this is."""
        seeds = f", seeds {', '.join(map(str, self.seeds))} only" if self.seeds else ""
        if self.batch:
            return f"the batch in {self.batch}{seeds}"
        return f"no batch was named: this is the example of presets/grids/example.yaml{seeds}. Its numbers are of toy size."


SETTINGS: dict[str, type[Settings]] = {
    cls.section: cls
    for cls in (
        StartHereSettings,
        FromScratchSettings,
        SparseParityTeacherSettings,
        CurriculaSettings,
        ParityTransformerSettings,
        LoadingSettings,
        CrossingSettings,
        ClockSettings,
        LanguageCurriculumSettings,
        ComplexitySettings,
        ReportSettings,
        DashboardSettings,
    )
}
