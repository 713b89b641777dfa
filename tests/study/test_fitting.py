"""What a reader's own task or network does wrong is refused before training, with the class, the file and the line."""

from typing import Literal

import numpy as np
import pytest
import torch
from torch import nn
from toys import PARITY, PLAN, ToyImages

from pwl_lab.distill.curriculum import one_shot
from pwl_lab.models import BlockNet, ModelConfig, mlp
from pwl_lab.study import verbs
from pwl_lab.study.verbs import distill, train_or_load, train_pair, train_pairs
from pwl_lab.support.errors import InvalidValueError
from pwl_lab.swap.pair_training import PairLossConfig
from pwl_lab.tasks.base import Batch
from pwl_lab.training import fit

HERE = r"\(test_fitting\.py, line \d+\)"


class Bad(ToyImages):
    """A task of which a test spoils one thing."""

    def fingerprint(self):
        return super().fingerprint()

    def batches(self, seed, batch_size, device="cpu", role="teacher"):
        return super().batches(seed, batch_size, device, role)

    def split(self, name, device="cpu"):
        return super().split(name, device)


class Empty:
    """No task at all."""

    name, n_classes = "empty", 3


class Wrong(ModelConfig):
    """A network of which a test spoils one thing."""

    family: Literal["wrong"] = "wrong"
    how: str

    @property
    def n_blocks(self) -> int:
        return 2 if self.how == "blocks" else 1

    def make(self):
        if self.how == "no network":
            return nn.Linear(6, 2)
        if self.how == "make raises":
            raise OSError("no weights here")
        head = nn.Linear(8, 5 if self.how == "classes" else 2)
        return BlockNet(nn.Linear(6, 8), [Block(self.how)], head)


class Block(nn.Module):
    def __init__(self, how: str) -> None:
        super().__init__()
        self.map, self.how = nn.Linear(8, 8), how
        self.fixed = torch.randn(8)

    def forward(self, state):
        if self.how == "raises":
            raise KeyError("nothing of that name")
        if self.how == "tuple":
            return self.map(state), state
        if self.how == "no channels":
            return self.map(state).mean(dim=1)
        return self.map(state) + (self.fixed if self.how == "hidden tensor" else 0)


TASKS = {
    "no task": (Empty(), rf"Empty {HERE} has no input_shape, batches, split, fingerprint"),
    "the class": (Bad, rf"task is the class Bad {HERE} itself"),
    "one class": ({"n_classes": 1}, rf"n_classes of Bad {HERE} = 1"),
    "no shape": ({"input_shape": 7}, rf"input_shape of Bad {HERE} = 7 is not allowed: a tuple"),
    "half a pixel": ({"input_shape": (1, 7.0, 7)}, rf"input_shape of Bad {HERE} = 7\.0"),
    "no facts": ({"fingerprint": lambda self: None}, "a NoneType is no dictionary"),
    "facts of numpy": ({"fingerprint": lambda self: {"n": np.int64(3)}}, rf"{HERE} = .*a dictionary of JSON values"),
    "no batches": ({"batches": lambda self, seed, size, device, role: None}, rf"{HERE} = 'NoneType'.*endless iterator"),
    "other inputs": (
        {"split": lambda self, name, device="cpu": Batch(torch.zeros(4, 1, 3, 3), torch.zeros(4, dtype=torch.long))},
        rf"inputs of split validation of Bad {HERE} = 'float32 of shape \[4, 1, 3, 3\]'",
    ),
    "split raises": (
        {"split": lambda self, name, device="cpu": torch.zeros(3)[7]},
        rf"<lambda> {HERE} raised IndexError: .* \(test_fitting\.py, line \d+\)",
    ),
    "batches raise": (
        {"batches": lambda self, seed, size, device="cpu", role="teacher": (1 // 0 for _ in "ab")},
        rf"<lambda> {HERE} raised ZeroDivisionError: .* {HERE}",
    ),
    "facts raise": ({"fingerprint": lambda self: {"n": self.nothing}}, rf"{HERE} raised AttributeError: .* {HERE}"),
    "no split": ({"split": lambda self, name, device="cpu": None}, rf"of Bad {HERE} = 'NoneType'.*a Batch"),
}


@pytest.mark.usefixtures("store_folder")
@pytest.mark.parametrize("case", TASKS)
def test_a_task_that_cannot_be_used_is_named_with_its_place(case, monkeypatch):
    wrong, words = TASKS[case]
    task = Bad() if isinstance(wrong, dict) else wrong
    for name, value in wrong.items() if isinstance(wrong, dict) else ():
        monkeypatch.setattr(Bad if callable(value) else task, name, value)
    model = mlp(ToyImages(), 5)
    with pytest.raises(InvalidValueError, match=words):
        train_or_load(model, task, PLAN, device="cpu")


NETWORKS = {
    "no network": rf"Wrong\.make {HERE} = 'Linear' is not allowed: a BlockNet",
    "classes": rf"Wrong\.make {HERE} = 'logits of shape \[2, 5\] for two samples' .*\[2, 2\], one for each class of Sparse",
    "raises": rf"network of Wrong {HERE} accepts \('nothing of that name'; raised in test_fitting\.py, line \d+\)",
    "tuple": rf"network of Wrong {HERE} accepts",
    "no channels": rf"network of Wrong {HERE} accepts|states of shape",
    "make raises": rf"Wrong\.make {HERE} raised OSError: no weights here {HERE}",
    "blocks": rf"2 blocks, as it states; it builds 1; see Wrong {HERE}",
    "hidden tensor": rf"a network that its state_dict can restore .*; see Wrong {HERE}",
}


@pytest.mark.usefixtures("store_folder")
@pytest.mark.parametrize("how", NETWORKS)
def test_a_network_that_cannot_be_used_is_named_with_its_place_by_every_verb(how, monkeypatch):
    teacher = fit(mlp(PARITY, 9), PARITY, PLAN, 0)
    for name in ("fit", "distil_members", "train_pairs_together"):
        monkeypatch.setattr(verbs, name, lambda *_: pytest.fail("trained"))
    with pytest.raises(InvalidValueError, match=NETWORKS[how]):
        train_or_load(Wrong(how=how), PARITY, PLAN, device="cpu")
    with pytest.raises(InvalidValueError, match=NETWORKS[how]):
        distill(teacher, Wrong(how=how), PARITY, {"a": one_shot()}, [0], PLAN, device="cpu")
    if how not in ("blocks", "hidden tensor"):
        with pytest.raises(InvalidValueError, match=NETWORKS[how]):
            train_pair(teacher, Wrong(how=how), PARITY, PLAN, device="cpu")


def test_curricula_without_names_are_refused():
    teacher = fit(mlp(PARITY, 9), PARITY, PLAN, 0)
    with pytest.raises(InvalidValueError, match="curricula is list, but must be a Mapping"):
        distill(teacher, mlp(PARITY, 5), PARITY, [one_shot()], [0], PLAN)


@pytest.mark.parametrize("rates", [0.1, [0.1], [], ""])
def test_rates_without_names_are_refused(rates):
    teacher = fit(mlp(PARITY, 9), PARITY, PLAN, 0)
    with pytest.raises(InvalidValueError, match=r"rates is .*, but must be a Mapping"):
        distill(teacher, mlp(PARITY, 5), PARITY, {"a": one_shot()}, [0], PLAN, rates=rates)


@pytest.mark.parametrize("curriculum", [[], "", 0, False, (one_shot(),)])
def test_what_is_no_curriculum_is_refused_however_empty_it_is(curriculum):
    teacher = fit(mlp(PARITY, 9), PARITY, PLAN, 0)
    with pytest.raises(InvalidValueError, match=r"curriculum is .*, but must be a Curriculum"):
        train_pair(teacher, mlp(PARITY, 5), PARITY, PLAN, device="cpu", curriculum=curriculum)


class Nameless(type(mlp(PARITY, 3))):
    """A variant of one of ours, without a family of its own."""


def test_export_names_the_class_that_no_reader_would_find(store_folder, tmp_path):
    own = Nameless(n_inputs=6, widths=(5, 5))
    teacher = fit(mlp(PARITY, 9, depth=2), PARITY, PLAN, 0)
    with pytest.warns(UserWarning, match="export.. will refuse this pair") as caught:
        pair = train_pair(teacher, own, PARITY, PLAN, device="cpu")
    assert caught[0].filename == __file__
    with pytest.warns(UserWarning, match="export.. will refuse this pair") as caught:
        train_pairs(teacher, own, PARITY, PLAN, [(PairLossConfig(), None)], device="cpu")
    assert caught[0].filename == __file__
    with pytest.raises(
        InvalidValueError, match=rf"the student .*not exported.*a class with its own family.*; see Nameless {HERE}"
    ):
        pair.export(tmp_path / "bundle")
