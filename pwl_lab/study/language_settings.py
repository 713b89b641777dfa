"""What notebook 07 can be asked: the grammars, the teacher, the students and how all of them are trained."""

import csv
from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import AfterValidator, Field

from pwl_lab.support import paths
from pwl_lab.support.config import Fraction, LearningRate, OtherSeeds, Settings, Steps
from pwl_lab.support.errors import invalid

# All in data/results/, made by scripts/language_tables.py.
TUNING = "language_tuning.csv"
TEACHERS = "language_teachers.csv"
TEXT = "language_text.csv"


def _tuned_grammars() -> list[str]:
    """The grammars in the shipped table of learning rates; none if there is no table."""
    path = paths.results() / TUNING
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return sorted({row["grammar"] for row in csv.DictReader(file)})


def _whole_path(grammar: str) -> str:
    """A file's path, made absolute, for the kernel runs in another folder; a name stays as it is."""
    return paths.from_here(grammar) if Path(grammar).suffix else grammar


GrammarName = Annotated[str, AfterValidator(_whole_path)]
Width = Annotated[int, Field(ge=1, le=65_536)]
Heads = Annotated[int, Field(ge=1, le=256)]
BatchSize = Annotated[int, Field(ge=1, le=65_536)]


class LanguageCurriculumSettings(Settings):
    """07_language_model_curriculum: curricula and progressive loading for masked prediction on grammars and text."""

    section: ClassVar[str] = "language_model_curriculum"
    other_seeds: OtherSeeds = "trained"
    grammar: GrammarName = Field("hidden", description="the grammar: its name, or a YAML file")
    other_grammar: GrammarName = Field("cfg3b_tail", description="the grammar on which extraction is tried once more")
    mask_rate: float = Field(0.3, gt=0.0, lt=1.0, description="share of the tokens that have to be predicted")
    eval_strings: int = Field(1024, ge=16, le=65_536, description="strings in the test set")
    layers: int = Field(4, ge=2, le=10, description="blocks of every network")
    teacher_width: Width = Field(64, description="channels per token in the teacher")
    teacher_heads: Heads = Field(8, description="attention heads of the teacher")
    student_width: Width = Field(16, description="channels per token in each student")
    student_heads: Heads = Field(2, description="attention heads of each student")
    teacher_lr: LearningRate = Field(3e-3, description="peak learning rate of the teacher (Adam, cosine)")
    teacher_batch_size: BatchSize = Field(64, description="strings per step for the teacher")
    teacher_steps: Steps = Field(1_200, description="steps of the teacher")
    other_teacher_steps: Steps = Field(900, description="steps of the teacher of the other grammar")
    teacher_eval_every: Steps = Field(50, description="steps between evaluations and checkpoints of the teacher")
    checkpoint_accuracy: Fraction = Field(0.6, description="progressive's checkpoint: the first that reaches this")
    tuned: bool = Field(
        True, description="each curriculum at its own best rate (data/results/language_tuning.csv); False: student_lr"
    )
    student_lr: LearningRate = Field(8e-3, description="learning rate of students where none was tuned (Adam)")
    batch_size: BatchSize = Field(32, description="strings per step for the students")
    checkpoint_steps: Steps = Field(400, description="steps on the checkpoint (progressive)")
    block_steps: Steps = Field(100, description="steps on each block (extracted)")
    last_block_steps: Steps = Field(300, description="steps on the last block alone (last_block)")
    at_once_steps: Steps = Field(200, description="steps on all blocks together (at_once)")
    budget_steps: Steps = Field(1_400, description="upper limit for each student")
    eval_every: Steps = Field(50, description="steps between evaluations of the students")
    other_lr: LearningRate = Field(8e-3, description="learning rate of students on the other grammar and the text")
    other_batch_size: BatchSize = Field(64, description="strings per step for the students of the other grammar")
    other_budget_steps: Steps = Field(650, description="upper limit for the students of the other grammar")
    train_on_text: bool = Field(
        True, description="train on the text now; False: show the shipped table (data/results/language_text.csv)"
    )
    text_length: int = Field(32, ge=2, le=512, description="characters in a window of the text, if it is trained on")
    text_steps: Steps = Field(800, description="steps on the text, if it is trained on, for teacher and students")
    pair_width: Width = Field(8, description="channels per token in the student of the pair")
    pair_heads: Heads = Field(2, description="attention heads of the student of the pair")
    pair_lr: LearningRate = Field(8e-3, description="peak learning rate of a pair (Adam, cosine)")
    pair_steps: Steps = Field(500, description="steps of the pair's student and converters")
    pwl_steps: Steps = Field(500, description="at most, where the pair's student is as large as the other students")

    def check_together(self) -> None:
        """The grammars have to be valid, heads divide widths, and every curriculum leaves steps for the output.

        Raises InvalidValueError for what is not so, and as `Grammar.load` does.
        """
        from pwl_lab.tasks.grammar import Grammar  # imports numpy, which other notebooks do without

        grammar, _ = (Grammar.load(name) for name in (self.grammar, self.other_grammar))
        if self.tuned:
            known = _tuned_grammars()
            if grammar.name not in known:
                what = f"False for the grammar {grammar.name}: {TUNING} has rates for {', '.join(known) or 'none'}"
                raise invalid("tuned", True, what)
        for who in ("teacher", "student", "pair"):
            width, heads = getattr(self, f"{who}_width"), getattr(self, f"{who}_heads")
            if width % heads:
                what = f"a divisor of {who}_width = {width}: every head gets an equal part"
                raise invalid(f"{who}_heads", heads, what)
        budgets = ["budget_steps", "other_budget_steps", *(["text_steps"] if self.train_on_text else [])]
        shortest = min(budgets, key=lambda name: getattr(self, name))
        stages = {"last_block_steps": 1, "at_once_steps": 1, "block_steps": self.layers}
        limits = {name: (shortest, times) for name, times in stages.items()}
        for name, (budget, times) in (limits | {"checkpoint_steps": ("budget_steps", 1)}).items():
            if times * getattr(self, name) >= getattr(self, budget):
                each = f" for each of {times} blocks" if times > 1 else ""
                what = f"below {budget} = {getattr(self, budget)}{each}, or the last stage never begins"
                raise invalid(name, getattr(self, name), what)
