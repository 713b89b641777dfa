"""The results of the study's verbs: students of several curricula, and pairs whose blocks can be swapped."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from pwl_lab.loading.bundle import BundleIndex, inputs_of, parts_of_unit, write_bundle
from pwl_lab.models.blocknet import BlockNet, ModelConfig, parameter_bytes, unit_bytes, without_weights
from pwl_lab.study import tables
from pwl_lab.study.store import provenance
from pwl_lab.support.errors import invalid
from pwl_lab.swap.evaluation import mask_probabilities
from pwl_lab.swap.masks import check_mask
from pwl_lab.swap.orders import loading_orders
from pwl_lab.swap.swapnet import SwapNet
from pwl_lab.tasks.base import Task, check_inputs, class_names_of
from pwl_lab.training import TrainPlan

SPLITS = ("validation", "test")  # that every mask is evaluated on


@dataclass
class DistillationRuns:
    """Students of several curricula and seeds: tidy tables and the students themselves.

    Arguments:
    - `student_config`: the network of every student.
    - `plan`: the training plan.
    - `history`: one row per student and evaluation: step, samples, curriculum, seed, stage, accuracy on the test split
      (NaN: it diverged) and validation_accuracy, which is measured in the last stage.
    - `stages`: one row per curriculum and stage: the step at which it starts, and its target.
    - `weights`: of each (curriculum, seed) that did not diverge, and that was trained here (`shipped_seeds`).
    - `teacher_accuracy`: of each seed's teacher, on the test and the validation split.
    """

    student_config: ModelConfig
    plan: TrainPlan
    history: pd.DataFrame
    stages: pd.DataFrame
    weights: dict[tuple[str, int], dict[str, Tensor]]
    teacher_accuracy: dict[int, tuple[float, float]] = field(default_factory=dict)

    def table(self, threshold: float = 0.99) -> pd.DataFrame:
        """One row per curriculum: how many seeds reached `threshold`, after which steps and samples, the final accuracy."""
        return tables.threshold_table(self.history, threshold, self.plan.steps, self.plan.batch_size)

    def steps_to(self, threshold: float = 0.99) -> dict[str, list[int | None]]:
        """Steps to `threshold` per curriculum and seed; None if the budget was not enough."""
        return tables.steps_to_threshold(self.history, threshold)

    def final_accuracy(self) -> dict[str, list[float | None]]:
        """Test accuracy at each student's last evaluation, per curriculum and seed; None if it diverged."""
        return tables.final_accuracy(self.history)

    def student(self, curriculum: str, seed: int) -> BlockNet:
        """One student at the end of its training, on the CPU."""
        if (curriculum, seed) not in self.weights:
            there = f"a student that was trained here and did not diverge, one of {sorted(self.weights)}"
            raise invalid("(curriculum, seed)", (curriculum, seed), there)
        net = self.student_config.make()
        net.load_state_dict(self.weights[curriculum, seed])
        return net.eval()


@dataclass
class Pair:
    """A teacher and a student that accept each other's blocks, with the accuracy of every mask, per class too.

    Arguments:
    - `net`: the networks and converters, for any mask.
    - `seed`: the seed of student and converters.
    - `history`: one row per evaluation: step, samples, the loss terms and the student's accuracy.
    - `masks`: one row per mask (see `tables.mask_table`).
    - `classes`: one row per mask and class (see `tables.class_table`).
    - `teacher_bytes`, `student_bytes`: of their parameters.
    - `models`: the configurations of teacher and student.
    - `task`: the task of both.
    - `right`: which test samples (scored tokens, if each has a label) each mask predicts correctly.
    - `fingerprint`: the store's key.
    - `made`: where and when it was trained (`store.provenance`).
    """

    net: SwapNet
    seed: int
    history: pd.DataFrame
    masks: pd.DataFrame
    classes: pd.DataFrame
    teacher_bytes: int
    student_bytes: int
    models: tuple[ModelConfig, ModelConfig]
    task: Task
    right: Bool[Tensor, "masks samples"]
    fingerprint: str = ""
    made: dict[str, Any] = field(default_factory=dict)

    @property
    def n_blocks(self) -> int:
        """The number of blocks that can be swapped."""
        return self.net.n_blocks

    @property
    def converter_bytes(self) -> int:
        """Bytes of all encoders and decoders."""
        return parameter_bytes(self.net.converters)

    @property
    def block_bytes(self) -> list[int]:
        """What each teacher block brings: its own bytes, its stem's or head's, and those of the converters beside it."""
        units = (parts_of_unit(self.net.teacher, self.net.converters, block) for block in range(1, self.n_blocks + 1))
        return [sum(parameter_bytes(part) for part in unit.values()) for unit in units]

    def accuracy(self, mask: str, split: str = "test") -> float:
        """The accuracy of the network that `mask` describes, in [0, 1]."""
        check_mask(mask, self.n_blocks)
        return float(self.masks.set_index("mask").loc[mask, split])

    def hits(self) -> pd.DataFrame:
        """Whether each mask (a row) predicts the label of each test sample (a column)."""
        return pd.DataFrame(self.right.numpy(), index=self.masks["mask"].tolist())

    def prefix_accuracy(self, split: str = "test") -> list[float]:
        """Accuracy with the first k blocks from the teacher, k = 0..n."""
        return [self.accuracy(mask, split) for mask in loading_orders(self.n_blocks)["prefix"]]

    def prefix_perplexity(self, split: str = "test") -> list[float]:
        """Perplexity (the exponential of the mean cross-entropy) with the first k blocks from the teacher, k = 0..n."""
        losses = self.masks.set_index("mask")[f"{split}_loss"]
        return [math.exp(losses[mask]) for mask in loading_orders(self.n_blocks)["prefix"]]

    def probabilities(self, inputs: Tensor, masks: Sequence[str]) -> Float[Tensor, "masks batch *tokens classes"]:
        """The probability of each class for each mask and sample.

        Raises InvalidValueError unless `inputs` are those of the task, on the networks' device, and if there are no
        weights here.
        """
        self._check_weights()
        check_inputs(inputs, self.task.input_shape, self.net)
        return mask_probabilities(self.net, inputs, masks)

    def predictions(
        self, inputs: Tensor, masks: Sequence[str]
    ) -> tuple[Int[Tensor, "masks batch *tokens"], Float[Tensor, "masks batch *tokens"]]:
        """The predicted class and its probability for each mask and sample (or each of its tokens).

        Raises as `probabilities` does.
        """
        confidence, predicted = self.probabilities(inputs, masks).max(dim=-1)
        return predicted, confidence

    def _check_weights(self) -> None:
        """Raise InvalidValueError if only the results of this pair ship, and not its weights."""
        if without_weights(self.net):
            allowed = 'a seed that was trained here: of this one only results ship; other_seeds = "trained" trains it'
            raise invalid("seed", self.seed, allowed)

    def export(self, folder: str | Path, int8: bool = True) -> BundleIndex:
        """Write a bundle for `ProgressiveModel.open`, with the accuracy of every mask (see `write_bundle`).

        Raises InvalidValueError if there are no weights here.
        """
        self._check_weights()
        accuracies = {split: dict(zip(self.masks["mask"], self.masks[split], strict=True)) for split in SPLITS}
        return write_bundle(
            self.net,
            self.models,
            Path(folder),
            inputs_of(self.task),
            class_names_of(self.task),
            accuracies,
            {"seed": self.seed, "task": self.task.fingerprint()} | provenance(),
            int8,
        )


def origins(pairs: Sequence[Pair]) -> pd.DataFrame:
    """Where the results of each seed come from: one row per seed, from its first pair.

    Columns: results (`trained` here, or `shipped` with the project, see `shipped_seeds`), date, machine, commit.
    """
    rows = dict[int, dict[str, str]]()
    for pair in pairs:
        where = "shipped" if without_weights(pair.net) else "trained"
        made = {name: pair.made.get(name, "") for name in ("date", "machine", "commit")}
        rows.setdefault(pair.seed, {"results": where} | made | {"date": made["date"][:10]})
    return pd.DataFrame(rows).T.rename_axis("seed")


def outline(net: SwapNet, input_shape: Sequence[int]) -> pd.DataFrame:
    """One row per block (`part` teacher or student) and converter (`part` encoder or decoder) of a pair.

    Columns: part, block (for a converter: the boundary after that block), channels of its output, positions (such as
    `14×14`; empty for plain units), layers (those with a weight matrix; for a block without stem and head) and bytes
    (for a block: those of its swap, so with stem or head).
    """
    rows = []
    for part, owner in (("teacher", net.teacher), ("student", net.student)):
        shapes, sizes = owner.state_shapes(input_shape), unit_bytes(owner)
        for number, (block, shape, size) in enumerate(zip(owner.blocks, shapes, sizes, strict=True), start=1):
            rows.append(_row(part, number, shape, block, size))
    ends = {"encoder": (net.converters.encoders, net.student), "decoder": (net.converters.decoders, net.teacher)}
    for part, (converters, target) in ends.items():
        for number, (converter, shape) in enumerate(
            zip(converters, target.state_shapes(input_shape)[:-1], strict=True), start=1
        ):
            rows.append(_row(part, number, shape, converter, parameter_bytes(converter)))
    return pd.DataFrame(rows)


def _row(part: str, number: int, shape: tuple[int, ...], module: nn.Module, size: int) -> dict[str, object]:
    """The row of `outline` for one block or converter."""
    layers = sum(any(p.ndim > 1 for p in one.parameters(recurse=False)) for one in module.modules())
    positions = "×".join(str(length) for length in shape[1:])
    return {
        "part": part,
        "block": number,
        "channels": shape[0],
        "positions": positions,
        "layers": layers,
        "bytes": size,
    }
