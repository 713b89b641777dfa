"""Every method and attribute of a reader's own class, wrong in every way: refused with the class, the file and the line.

The cases are generated: whatever a task, a configuration or a target has to define raises, gives nothing, or gives
something useless.
"""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch import nn
from toys import PARITY, PLAN, as_trained

from pwl_lab.distill.curriculum import Curriculum, OwnTarget, Stage, extracted, one_shot
from pwl_lab.loading.weightless import check_fillable, import_families
from pwl_lab.models import BlockNet, ModelConfig, mlp
from pwl_lab.study.verbs import distill, train_or_load, train_pair
from pwl_lab.support.errors import InvalidValueError
from pwl_lab.support.resuming import Stream
from pwl_lab.support.seeding import generator
from pwl_lab.tasks.base import Batch, Task

HERE = r"\(test_own_mistakes\.py, line \d+\)"


def wrong(*_: Any, **__: Any) -> Any:
    raise KeyError("wrong")


def nothing(*_: Any, **__: Any) -> None:
    return None


def useless(*_: Any, **__: Any) -> Any:
    return object()


class Mine(Task):
    """Is the first number above zero?"""

    name, input_shape, n_classes = "mine", (6,), 2
    class_names, normalisation, n_tokens = ("no", "yes"), None, None

    def draw(self, samples, random):
        points = torch.randn(samples, 6, generator=random)
        return Batch(points, (points[:, 0] > 0).long())

    def batches(self, seed, batch_size, device="cpu", role="teacher"):
        random = generator(seed, "data", role)
        while True:
            yield self.draw(batch_size, random)

    def split(self, name, device="cpu"):
        return self.draw(50, generator(0, "evaluation", name))

    def fingerprint(self):
        return {"task": self.name}


class Net(ModelConfig):
    """Two blocks."""

    family: Literal["of mistakes"] = "of mistakes"

    @property
    def n_blocks(self):
        return 2

    def make(self):
        return BlockNet(nn.Linear(6, 8), [Block(), Block()], nn.Linear(8, 2))


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.map = nn.Linear(8, 8)

    def forward(self, state):
        return self.map(state).relu()


class Aim(OwnTarget):
    """The teacher's logits."""

    kind: Literal["aim"] = "aim"

    def wanted(self, states, logits):
        return logits

    def loss(self, ours, wanted):
        return (ours - wanted).square().mean()


def by_training(model: ModelConfig, task: Task, *_: Any) -> object:
    return train_or_load(model, task, PLAN, device="cpu")


def by_distilling(model: ModelConfig, task: Task, curriculum: Curriculum) -> object:
    return distill(as_trained(mlp(PARITY, 9, depth=2)), model, task, {"a": curriculum}, [0], PLAN, device="cpu")


def by_pairing(model: ModelConfig, task: Task, curriculum: Curriculum) -> object:
    teacher = as_trained(mlp(PARITY, 9, depth=2))
    return train_pair(teacher, model, task, PLAN, curriculum=curriculum, device="cpu", to_export=True)


VERBS = {"train_or_load": by_training, "distill": by_distilling, "train_pair": by_pairing}
EXTRACTED = extracted(steps=6)


def refused(verb: str, named: str, curriculum: Curriculum = EXTRACTED) -> None:
    with pytest.raises(InvalidValueError, match=rf"(?<!\w){named}(\.\w+)? {HERE}"):
        VERBS[verb](Net(), Mine(), curriculum)


@pytest.mark.usefixtures("store_folder")
@pytest.mark.parametrize("verb", VERBS)
def test_they_are_right_as_they_are(verb):
    VERBS[verb](Net(), Mine(), Curriculum(stages=(Stage(target=Aim(), steps=6), *EXTRACTED.stages)))


ATTRIBUTES = [*Task.__annotations__]
METHODS = ["batches", "split", "fingerprint"]
ALLOWED = {("name", nothing), ("name", useless), ("normalisation", nothing), ("n_tokens", nothing)}
WAYS = [wrong, nothing, useless]
WRONG = [one for one in [*product(METHODS, WAYS), *product(ATTRIBUTES, WAYS[1:])] if one not in ALLOWED]


@pytest.mark.usefixtures("store_folder")
@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize(("member", "way"), WRONG)
def test_a_wrong_member_of_a_task(verb, member, way, monkeypatch):
    monkeypatch.setattr(Mine, member, property(way) if member in ATTRIBUTES else way)
    refused(verb, r"(Mine|wrong|nothing|useless)")


RAISING = """
import pytest
from test_own_mistakes import ATTRIBUTES, Mine, wrong
from pwl_lab.study.fitting import check_task
from pwl_lab.support.errors import InvalidValueError
for name in ATTRIBUTES:
    right = vars(Mine)[name]
    setattr(Mine, name, property(wrong))
    with pytest.raises(InvalidValueError, match=r"Mine \\(.*, line \\d+\\) raised KeyError: 'wrong' \\(.*, line \\d+\\)"):
        check_task(Mine())
    setattr(Mine, name, right)
"""


def test_an_attribute_that_raises():
    """In another process: the checks of types that tests have would ask for the attribute first."""
    folders = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "helpers")]
    environ = os.environ | {"PYTHONPATH": os.pathsep.join(folders)}
    done = subprocess.run([sys.executable, "-c", RAISING], env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.usefixtures("store_folder")
@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("member", METHODS)
def test_a_method_of_a_task_that_is_not_defined(verb, member, monkeypatch):
    monkeypatch.delattr(Mine, member)
    refused(verb, "Mine")


def ending(self, seed, batch_size, device="cpu", role="teacher"):
    yield self.draw(batch_size, generator(seed, "data", role))


def raising(self, seed, batch_size, device="cpu", role="teacher"):
    yield from ending(self, seed, batch_size, device, role)
    raise KeyError("wrong")


def listing(self, seed, batch_size, device="cpu", role="teacher"):
    return [self.draw(batch_size, generator(seed, "data", role))] * 3


def streaming(self, seed, batch_size, device="cpu", role="teacher"):
    batches = raising(self, seed, batch_size, device, role)
    return Stream(lambda _: (next(batches), None), generator(seed, "data", role))


@pytest.mark.usefixtures("store_folder")
@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("way", [ending, raising, listing, streaming])
def test_batches_that_do_not_go_on(verb, way, monkeypatch):
    monkeypatch.setattr(Mine, "batches", way)
    refused(verb, r"(<lambda>|raising|ending|listing)")


@pytest.mark.usefixtures("store_folder")
@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize(("member", "way"), [*product(["n_blocks", "make", "forward"], WAYS)])
def test_a_wrong_member_of_a_network(verb, member, way, monkeypatch):
    if member == "forward":
        monkeypatch.setattr(Block, member, way)
    else:
        monkeypatch.setattr(Net, member, property(way) if member == "n_blocks" else way)
    refused(verb, r"(Net|wrong|nothing|useless)")


@pytest.mark.usefixtures("store_folder")
@pytest.mark.parametrize("verb", VERBS)
def test_a_network_that_fails_only_while_it_is_trained(verb, monkeypatch):
    kept = Block.forward
    monkeypatch.setattr(Block, "forward", lambda self, state: wrong() if self.training else kept(self, state))
    refused(verb, "Net")


@pytest.mark.usefixtures("store_folder")
@pytest.mark.parametrize("verb", ["distill", "train_pair"])
@pytest.mark.parametrize(("member", "way"), [("wanted", wrong), *product(["loss"], WAYS)])
def test_a_wrong_member_of_a_target(verb, member, way, monkeypatch):
    monkeypatch.setattr(Aim, member, way)
    refused(verb, way.__name__, Curriculum(stages=(Stage(target=Aim()),)))


def a_base_that_defines_nothing(base: type) -> Callable[[], object]:
    class Bare(base):
        pass

    return Bare


def without_a_name(base: type) -> Callable[[], object]:
    members = dict.fromkeys(base.__abstractmethods__, wrong)

    class Bare(base):
        locals().update(members)

    return Bare


def a_taken_family() -> object:
    class Bare(Net):
        family: Literal["mlp"] = "mlp"

    return Bare()


def built_without_memory() -> object:
    class Bare(Net):
        def make(self):
            return float(torch.zeros(3).sum())

    return check_fillable(Bare())


def a_hidden_tensor() -> object:
    class Bare(Net):
        def make(self):
            net = super().make()
            net.blocks[0].hidden = torch.zeros(3)
            return net

    return check_fillable(Bare())


def a_stage_of(**options: Any) -> Callable[[], object]:
    return lambda: Curriculum(stages=(Stage(**options), *one_shot().stages)).for_blocks(2)


CASES: dict[str, tuple[Callable[[], object], str]] = {
    "an abstract target": (a_base_that_defines_nothing(OwnTarget), "Bare"),
    "an abstract network": (a_base_that_defines_nothing(ModelConfig), "Bare"),
    "a target without a kind": (without_a_name(OwnTarget), "Bare"),
    "a network without a family": (without_a_name(ModelConfig), "Bare"),
    "a field that it does not have": (lambda: Net(width=3), "Net"),
    "a taken family": (a_taken_family, "Bare"),
    "built without memory": (built_without_memory, r"Bare\.make"),
    "a hidden tensor": (a_hidden_tensor, "Block"),
    "a block that is not there": (a_stage_of(target=Aim(block=4), steps=3), "Aim"),
    "the logits by block": (a_stage_of(target=Aim(), steps=3, trains="block"), "Aim"),
    "the class of a target": (a_stage_of(target=Aim, steps=3), "Aim"),
    "the class of a network": (lambda: train_or_load(Net, PARITY, PLAN), "Net"),
    "the class of a task": (lambda: train_or_load(Net(), Mine, PLAN), "Mine"),
    "words for numbers": (lambda: train_or_load(Words(), PARITY, PLAN), "Words"),
}


class Words(Net):
    """Takes tokens."""

    family: Literal["of words"] = "of words"

    def make(self):
        return BlockNet(nn.Embedding(5, 8), [Block()], nn.Linear(8, 2), n_tokens=5)


@pytest.mark.usefixtures("store_folder")
@pytest.mark.parametrize("case", CASES)
def test_a_class_that_cannot_be_used(case):
    make, named = CASES[case]
    with pytest.raises(InvalidValueError, match=rf"\b{named} {HERE}"):
        make()


def test_a_module_that_fails_says_where(tmp_path, monkeypatch):
    (tmp_path / "failing_of_mine.py").write_text("x = 1\n\nx.nothing\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InvalidValueError, match=re.escape("has no attribute 'nothing' (failing_of_mine.py, line 3)")):
        import_families({"of a module that fails": "failing_of_mine"})
