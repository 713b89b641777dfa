"""The settings of the notebooks on sparse parity."""

from typing import ClassVar

from pydantic import Field

from pwl_lab.checks import check_parity, check_stage
from pwl_lab.config import Fraction, LearningRate, Settings, Steps
from pwl_lab.errors import invalid
from pwl_lab.settings.kinds import Sizes, Width
from pwl_lab.tasks.sizes import check_orthogonal, check_probe


class CurriculaSettings(Settings):
    """02_distillation_curricula: three curricula on sparse parity."""

    section: ClassVar[str] = "distillation_curricula"
    n_bits: int = Field(50, ge=2, le=10_000, description="bits of the parity task")
    hard_n_bits: int = Field(100, ge=2, le=10_000, description="bits of the hard task")
    k_sparse: int = Field(4, ge=1, le=20, description="how many of them the label depends on")
    support: tuple[int, ...] | None = Field(None, description="which bits these are; drawn from the seed if not given")
    teacher_width: Width = Field(1024, description="hidden units of the teacher")
    student_width: Width = Field(64, description="hidden units of each student")
    batch_size: int = Field(128, ge=1, le=65_536, description="fresh samples per step")
    teacher_lr: LearningRate = Field(0.2, description="SGD step size of the teacher")
    teacher_momentum: float = Field(0.9, ge=0.0, lt=1.0, description="of the teacher's SGD")
    student_lr: LearningRate = Field(0.2, description="SGD step size of the students, without momentum")
    teacher_max_steps: Steps = Field(20_000, description="upper limit for the teacher")
    teacher_eval_every: Steps = Field(25, description="steps between evaluations and checkpoints of the teacher")
    saturation: float = Field(
        1.0, ge=1.0, le=100.0, description="how long the teacher goes on: multiple of its steps to 100%"
    )
    temperature: float = Field(0.0, ge=0.0, le=100.0, description="of the teacher's output; 0 takes its hard decisions")
    checkpoint_accuracy: Fraction = Field(0.8, description="progressive's checkpoint: the first that reaches this")
    stage_steps: Steps = Field(600, description="length of the first stage (progressive and extracted)")
    budget_steps: Steps = Field(12_000, description="upper limit for each student")
    hard_budget_steps: Steps = Field(5_000, description="upper limit for each student of the hard task")
    choice_steps: Steps = Field(6_000, description="upper limit for each student where choices are compared")
    choice_seeds: int = Field(4, ge=1, le=1024, description="compare choices on so many of the seeds, the first ones")
    eval_every: Steps = Field(100, description="steps between evaluations of the students")
    eval_samples: int = Field(4096, ge=64, le=1_000_000, description="size of the fixed evaluation set")
    threshold: Fraction = Field(0.99, description="the accuracy that counts as learned")

    def check_together(self) -> None:
        """The support has to fit into the bits, the curriculum into the budgets."""
        check_parity(self.n_bits, self.k_sparse, self.support)
        check_parity(self.hard_n_bits, self.k_sparse, self.support)
        check_probe(self.n_bits, self.k_sparse, samples=4_096, off_subsets=300)  # as the notebook has it
        check_orthogonal(self.teacher_width, self.student_width)
        for budget in (self.budget_steps, self.hard_budget_steps, self.choice_steps):
            check_stage(self.stage_steps, budget)


class SparseParityTeacherSettings(Settings):
    """01_sparse_parity_teacher: a teacher, its checkpoints and its hidden layer under the correlation probe."""

    section: ClassVar[str] = "sparse_parity_teacher"
    n_bits: int = Field(50, ge=2, le=1_000, description="bits of the parity task")
    k_sparse: int = Field(4, ge=2, le=20, description="how many of them the label depends on")
    support: tuple[int, ...] | None = Field(None, description="which bits these are; drawn from the seed if not given")
    teacher_width: Width = Field(1024, description="hidden units of the teacher")
    batch_size: int = Field(128, ge=1, le=65_536, description="fresh samples per step")
    teacher_lr: LearningRate = Field(0.15, description="SGD step size of the teacher")
    weight_decay: float = Field(1e-3, ge=0.0, le=1.0, description="L2 penalty; wears off the teacher's random start")
    teacher_max_steps: Steps = Field(20_000, description="upper limit for the teacher, saturation included")
    saturation: float = Field(
        4.0, ge=1.0, le=100.0, description="how long the teacher goes on: multiple of its steps to 100%"
    )
    eval_every: Steps = Field(50, description="steps between evaluations, and between checkpoints")
    eval_samples: int = Field(4096, ge=64, le=1_000_000, description="size of the fixed evaluation set")
    probe_samples: int = Field(16_384, ge=64, le=1_000_000, description="fresh inputs that the probe looks at")
    off_subsets: int = Field(300, ge=1, le=10_000, description="sets of bits off the support per degree above 1")
    projection_width: Width = Field(64, description="units that the hidden layer is projected to")

    def check_together(self) -> None:
        """The support has to fit into the bits and leave some of them out."""
        check_parity(self.n_bits, self.k_sparse, self.support)
        check_probe(self.n_bits, self.k_sparse, self.probe_samples, self.off_subsets)


class ParityTransformerSettings(Settings):
    """03_parity_transformer: the curricula of notebook 02 on transformers."""

    section: ClassVar[str] = "parity_transformer"
    n_bits: int = Field(14, ge=2, le=512, description="bits of the parity task, one token each")
    k_sparse: int = Field(4, ge=1, le=20, description="how many of them the label depends on")
    support: tuple[int, ...] | None = Field(None, description="which bits these are; drawn from the seed if not given")
    layers: int = Field(2, ge=2, le=48, description="blocks of teacher and students")
    mlp_ratio: float = Field(2.0, gt=0.0, le=16.0, description="hidden units of each block's MLP over its width")
    teacher_width: Width = Field(64, description="channels per token in the teacher")
    teacher_heads: int = Field(8, ge=1, le=256, description="attention heads of the teacher")
    student_width: Width = Field(16, description="channels per token in each student")
    student_heads: int = Field(2, ge=1, le=256, description="attention heads of each student")
    batch_size: int = Field(32, ge=1, le=65_536, description="fresh samples per step")
    teacher_lr: LearningRate = Field(1e-3, description="Adam step size of the teacher")
    student_lr: LearningRate = Field(2e-3, description="Adam step size of the students")
    teacher_max_steps: Steps = Field(4_000, description="upper limit for the teacher, saturation included")
    saturation: float = Field(
        2.0, ge=1.0, le=100.0, description="how long the teacher goes on: multiple of its steps to 100%"
    )
    checkpoint_accuracy: Fraction = Field(0.62, description="progressive's checkpoint: the first that reaches this")
    stage_steps: Steps = Field(600, description="length of the first stage (progressive and extracted)")
    budget_steps: Steps = Field(4_000, description="upper limit for each student")
    eval_every: Steps = Field(50, description="steps between evaluations")
    eval_samples: int = Field(1024, ge=64, le=1_000_000, description="size of the fixed evaluation set")
    threshold: Fraction = Field(0.99, description="the accuracy that counts as learned")

    def check_together(self) -> None:
        """The support has to fit into the bits, the curriculum into the budget, the heads into the width."""
        check_parity(self.n_bits, self.k_sparse, self.support)
        check_stage(self.stage_steps, self.budget_steps)
        for who in ("teacher", "student"):
            width, heads = getattr(self, f"{who}_width"), getattr(self, f"{who}_heads")
            if width % heads:
                raise invalid(
                    f"{who}_heads", heads, f"a divisor of {who}_width = {width}: every head gets an equal part"
                )


class ComplexitySettings(Settings):
    """08_sample_complexity: steps to the threshold over task sizes and student widths."""

    section: ClassVar[str] = "sample_complexity"
    sizes_k3: Sizes = Field((16, 24, 36, 54), description="bits n of the tasks with k = 3")
    sizes_k4: Sizes = Field((24, 32, 44, 60), description="bits n of the tasks with k = 4")
    widths: Sizes = Field((16, 32, 64, 128), description="student widths that are compared")
    width_n_bits: int = Field(36, ge=5, le=10_000, description="bits of the task (k = 4) on which widths are compared")
    teacher_width: Width = Field(1024, description="hidden units of each teacher")
    teacher_lr: LearningRate = Field(0.2, description="SGD step size of the teachers")
    teacher_momentum: float = Field(0.9, ge=0.0, lt=1.0, description="of the teachers' SGD")
    teacher_max_steps: Steps = Field(10_000, description="upper limit for each teacher")
    student_width: Width = Field(64, description="hidden units of each student")
    student_lr: LearningRate = Field(0.2, description="SGD step size of the students")
    batch_size: int = Field(128, ge=1, le=65_536, description="fresh samples per step")
    stage_steps: Steps = Field(100, description="length of the extracted curriculum's first stage, at every size")
    budget_steps: Steps = Field(16_000, description="upper limit for each student")
    eval_every: Steps = Field(20, description="steps between evaluations of the students")
    eval_samples: int = Field(1024, ge=64, le=1_000_000, description="size of the fixed evaluation set")
    threshold: Fraction = Field(0.99, description="the accuracy that counts as learned")
    two_phase_bits: int = Field(50, ge=5, le=10_000, description="bits of the task of the two-phase demonstration")
    two_phase_k: int = Field(4, ge=1, le=20, description="its number of bits that matter")
    two_phase_width: Width = Field(256, description="hidden units of its student")
    two_phase_samples: Sizes = Field((128, 512, 2048, 8192), description="samples of its one large step")

    def check_together(self) -> None:
        """The supports have to fit into the bits, the stage into the budget."""
        for name, k in (("sizes_k3", 3), ("sizes_k4", 4)):
            if len(set(getattr(self, name))) < 2 or min(getattr(self, name)) < k:
                raise invalid(name, getattr(self, name), f"at least 2 different sizes of {k} bits or more: a slope")
        check_parity(self.two_phase_bits, self.two_phase_k, None)
        check_stage(self.stage_steps, self.budget_steps)
