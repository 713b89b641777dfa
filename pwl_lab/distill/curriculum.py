"""Curricula as data: a list of stages, each with a target, a length and the layers it trains.

One-shot distillation is one stage; progressive distillation has one stage per teacher checkpoint; an extracted
curriculum has one stage per block of the final teacher, then its output (arXiv 2503.17494).
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, SerializeAsAny, field_validator, model_validator

from pwl_lab.support.config import Fraction, Frozen
from pwl_lab.support.errors import invalid
from pwl_lab.support.own_code import located

if TYPE_CHECKING:  # a notebook's settings are checked without torch
    from torch import Tensor


class Labels(Frozen):
    """Learn from the task's labels, without a teacher."""

    kind: Literal["labels"] = "labels"

    def __str__(self) -> str:
        """For figures."""
        return "labels"


class TeacherOutput(Frozen):
    """Match the output of the final teacher, or of one of its checkpoints."""

    kind: Literal["output"] = "output"
    at_accuracy: Fraction | None = Field(None, description="the first checkpoint that reached this validation accuracy")
    at_step: int | None = Field(None, ge=0, description="the checkpoint of this training step")
    temperature: float = Field(1.0, ge=0.0, description="of the teacher; 0 uses its hard decisions")

    @model_validator(mode="after")
    def _one_choice(self) -> Self:
        if self.at_accuracy is not None and self.at_step is not None:
            raise ValueError("give at_accuracy or at_step, not both")
        return self

    @property
    def final(self) -> bool:
        """Whether the target is the final teacher, not a checkpoint."""
        return self.at_accuracy is None and self.at_step is None

    def __str__(self) -> str:
        """For figures."""
        if self.at_accuracy is not None:
            return f"checkpoint at {self.at_accuracy:.0%}"
        return "final output" if self.final else f"checkpoint at step {self.at_step}"


Block = Annotated[int, Field(ge=1)]
Blocks = Annotated[tuple[Block, ...], Field(min_length=1)]


class TeacherHidden(Frozen):
    """Regress the student's hidden state onto a random projection of the final teacher's, in the same block.

    With several blocks at once, the loss is the mean over the blocks.
    """

    kind: Literal["hidden"] = "hidden"
    block: Block | Blocks | Literal["all"] | None = Field(
        None,
        description="which block, from 1; None: each block in turn, shallow to deep; several at once: (1, 2), or `all`",
    )
    centre: bool = Field(True, description="subtract the projection's mean, unit by unit")
    scale: bool = Field(True, description="divide by the projection's standard deviation over all units")
    weight: float = Field(5.0, gt=0.0, description="what the mean squared error is multiplied by")
    width: int | None = Field(
        None, ge=1, description="match only this many units of the student, from the first; None: all"
    )
    orthogonal: bool = Field(False, description="orthonormal columns instead of independent Gaussian ones")

    @field_validator("block")
    @classmethod
    def _each_once(cls, block: Any) -> Any:
        if isinstance(block, tuple) and len(set(block)) < len(block):
            raise ValueError("each block once")
        return block

    @property
    def blocks(self) -> tuple[int, ...]:
        """The blocks, in order. Raises InvalidValueError before `Curriculum.for_blocks` has set them."""
        if self.block is None or self.block == "all":
            raise invalid("block", self.block, "set by Curriculum.for_blocks, which knows how many blocks there are")
        return (self.block,) if isinstance(self.block, int) else self.block

    @property
    def parts(self) -> list["TeacherHidden"]:
        """A target for each of its blocks."""
        return [self.model_copy(update={"block": block}) for block in self.blocks]

    def __str__(self) -> str:
        """For figures."""
        if self.block is None:
            return "each block"
        if isinstance(self.block, int):
            return f"block {self.block}, projected"
        return f"{'all blocks' if self.block == 'all' else f'blocks {_joined(self.block)}'} at once, projected"


def _joined(numbers: Sequence[int]) -> str:
    """Such as `1, 2 and 4`."""
    return " and ".join(filter(None, [", ".join(map(str, numbers[:-1])), str(numbers[-1])]))


class OwnTarget(Frozen, ABC):
    """A target of the reader's own. Its `kind` names the loss in a history: `kind: Literal["mine"] = "mine"`."""

    kind: str
    block: Block | None = Field(None, description="it is about the hidden state after this block; None: the logits")

    @property
    def blocks(self) -> tuple[int, ...]:
        """The block, if there is one."""
        return () if self.block is None else (self.block,)

    @abstractmethod
    def wanted(self, states: "Sequence[Tensor]", logits: "Tensor") -> "Tensor":
        """What students should match, from the final teacher's hidden states and (scored) logits for a batch."""

    @abstractmethod
    def loss(self, ours: "Tensor", wanted: "Tensor") -> "Tensor":
        """The loss of one student, a single number, from its hidden state or (scored) logits."""

    def __str__(self) -> str:
        """For figures."""
        return self.kind if self.block is None else f"block {self.block}, {self.kind}"


def _own(value: Any) -> Any:
    if not isinstance(value, OwnTarget):
        seen = f"the class {located(value)} itself" if isinstance(value, type) else type(value).__name__
        raise ValueError(f"an instance of OwnTarget, or one of ours, and not {seen}")
    return value


Target = (
    Annotated[Labels | TeacherOutput | TeacherHidden, Field(discriminator="kind")]
    | Annotated[SerializeAsAny[OwnTarget], BeforeValidator(_own)]
)


def blocks_of(target: Target) -> tuple[int, ...]:
    """The blocks whose hidden states a target is about; none if it is about the logits."""
    return target.blocks if isinstance(target, TeacherHidden | OwnTarget) else ()


class Stage(Frozen):
    """Pursue `target` for `steps` optimiser steps (None: until the end).

    `trains`: `reach` trains every layer that the target depends on (for a hidden state: the stem and all blocks up to
    and including its own); `block` trains only the target's block, which must be a single one, and freezes those below.
    """

    target: Target
    steps: int | None = Field(None, description="length in optimiser steps, at least 1; None: until the end")
    trains: Literal["reach", "block"] = "reach"

    @property
    def targets(self) -> Sequence[Target]:
        """The target; one of several blocks at once as one for each block."""
        return self.target.parts if isinstance(self.target, TeacherHidden) else [self.target]

    @field_validator("steps")
    @classmethod
    def _some_steps(cls, steps: int | None) -> int | None:
        if steps is not None and steps < 1:
            raise ValueError("at least 1; to skip the stage, leave it out")
        return steps

    @model_validator(mode="after")
    def _block_needs_hidden(self) -> Self:
        if self.trains == "block":
            block = getattr(self.target, "block", None)
            if not isinstance(self.target, TeacherHidden) and block is None:
                whose = f", and {located(type(self.target))} has no block" if isinstance(self.target, OwnTarget) else ""
                raise ValueError(
                    f"trains = 'block' needs a hidden target{whose}; labels and outputs train the whole network"
                )
            if isinstance(block, str | tuple):
                raise ValueError("trains = 'block' needs a target of one block, not of several at once")
        return self


class Curriculum(Frozen):
    """A sequence of stages; only the last may be open-ended."""

    stages: tuple[Stage, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _only_the_last_open(self) -> Self:
        for number, stage in enumerate(self.stages[:-1], start=1):
            if stage.steps is None:
                raise ValueError(f"stage {number} of {len(self.stages)} has no length: only the last can be open-ended")
        return self

    def for_blocks(self, n_blocks: int) -> "Curriculum":
        """The same curriculum with all blocks numbered: a hidden target of `block=None` becomes one stage per block.

        Raises InvalidValueError for a block beyond `n_blocks`, and if several stages would have no length.
        """
        stages: list[Stage] = []
        for stage in self.stages:
            target = stage.target
            if not isinstance(target, TeacherHidden):
                stages.append(stage)
                continue
            every = tuple(range(1, n_blocks + 1))
            blocks = every if target.block is None else [every if target.block == "all" else target.block]
            if stage.steps is None and len(blocks) > 1:
                raise invalid("steps", None, f"a number of steps: each of the {n_blocks} blocks needs a length")
            numbered = [target.model_copy(update={"block": block}) for block in blocks]
            stages += [stage.model_copy(update={"target": one}) for one in numbered]
        for target in (stage.target for stage in stages):
            if (last := max(blocks_of(target), default=0)) > n_blocks:
                whose = f" of {located(type(target))}" if isinstance(target, OwnTarget) else ""
                raise invalid(f"block{whose}", last, f"from 1 to {n_blocks}, the blocks that both networks have")
        return Curriculum(stages=tuple(stages))

    def starts(self) -> list[int]:
        """The step at which each stage starts, counted from 0."""
        lengths = [stage.steps or 0 for stage in self.stages[:-1]]
        return list(accumulate(lengths, initial=0))

    def number_at(self, step: int) -> int:
        """The stage (from 1) of step `step` (from 0); the last stage continues beyond its length."""
        return sum(start <= step for start in self.starts())

    def stage_at(self, step: int) -> Stage:
        """The stage that step `step` (from 0) belongs to."""
        return self.stages[self.number_at(step) - 1]


def from_labels() -> Curriculum:
    """No teacher: learn from the labels from beginning to end."""
    return Curriculum(stages=(Stage(target=Labels()),))


def one_shot(temperature: float = 1.0) -> Curriculum:
    """Match the final teacher's output from beginning to end.

    Arguments:
    - `temperature`: of the teacher; 0 uses its hard decisions.
    """
    return Curriculum(stages=(Stage(target=TeacherOutput(temperature=temperature)),))


def progressive(
    at_accuracy: Sequence[float] = (0.62,),
    steps: int = 1_500,
    temperature: float = 1.0,
    at_steps: Sequence[int] | None = None,
) -> Curriculum:
    """Match the outputs of intermediate teacher checkpoints, then the final teacher's.

    The useful checkpoints lie in the teacher's phase transition (arXiv 2410.05464).

    Arguments:
    - `at_accuracy`: validation accuracies; each stands for the first checkpoint that reached it.
    - `steps`: optimiser steps on each checkpoint.
    - `temperature`: of all outputs; 0 uses hard decisions.
    - `at_steps`: the training steps of the checkpoints, instead of `at_accuracy`.
    """
    chosen = [{"at_accuracy": v} for v in at_accuracy] if at_steps is None else [{"at_step": v} for v in at_steps]
    checkpoints = [TeacherOutput(**choice, temperature=temperature) for choice in chosen]
    stages = [Stage(target=target, steps=steps) for target in checkpoints]
    return Curriculum(stages=(*stages, *one_shot(temperature).stages))


def extracted(
    steps: int = 1_500,
    blocks: Sequence[int] | None = None,
    temperature: float = 1.0,
    at_once: bool = False,
    **target: Any,
) -> Curriculum:
    """Match a random projection of the final teacher's hidden states, from shallow to deep, then its output.

    No checkpoint is needed (arXiv 2503.17494).

    Arguments:
    - `steps`: optimiser steps on each block, or on all of them together.
    - `blocks`: which blocks, from 1, in this order: `[4]` is one block only, `[4, 3, 2, 1]` deep to shallow. By default
      all, shallow to deep.
    - `temperature`: of the output.
    - `at_once`: match all these blocks in a single stage.
    - `target`: options of `TeacherHidden`: weight, centre, scale, width, orthogonal.
    """
    numbers: list[Any] = [None] if blocks is None else list(blocks)
    if at_once:
        numbers = ["all" if blocks is None else tuple(blocks)]
    stages = [Stage(target=TeacherHidden(block=number, **target), steps=steps) for number in numbers]
    return Curriculum(stages=(*stages, *one_shot(temperature).stages))
