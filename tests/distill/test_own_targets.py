"""A target of the reader's own: it trains students and pairs as ours do, in keys it counts with its code."""

from typing import Literal

import pytest
import torch
from torch.nn import functional as F
from toys import MLP_STUDENT, MLP_TEACHER, PARITY, PLAN, VGG_STUDENT, VGG_TEACHER, ToyImages, as_trained, distil_cohort

from pwl_lab.distill.curriculum import Curriculum, OwnTarget, Stage, one_shot
from pwl_lab.distill.losses import cross_entropy_to
from pwl_lab.models import build
from pwl_lab.study.store import Store
from pwl_lab.study.verbs import distill, train_pair
from pwl_lab.support.errors import InvalidValueError

HERE = r"\(test_own_targets\.py, line \d+\)"


class Imitated(OwnTarget):
    """The final output again, as a target of one's own."""

    kind: Literal["imitated"] = "imitated"

    def wanted(self, states, logits):
        return logits.softmax(dim=-1)

    def loss(self, ours, wanted):
        return cross_entropy_to(ours, wanted)


class Likeness(OwnTarget):
    """Which samples of a batch the teacher finds alike, in one block: the products of its states."""

    kind: Literal["likeness"] = "likeness"
    weight: float = 1.0

    def wanted(self, states, logits):
        return self.products(states[self.block - 1])

    def loss(self, ours, wanted):
        return self.weight * (self.products(ours) - wanted).square().mean()

    def products(self, state):
        rows = F.normalize(state.flatten(1), dim=1)
        return rows @ rows.T


def curriculum_of(*targets: OwnTarget, steps: int = 6, trains: str = "reach") -> Curriculum:
    return Curriculum(stages=(*(Stage(target=one, steps=steps, trains=trains) for one in targets), *one_shot().stages))


PAIRS = {"mlp": (MLP_TEACHER, MLP_STUDENT, PARITY), "vgg": (VGG_TEACHER, VGG_STUDENT, ToyImages())}


@pytest.mark.parametrize("family", PAIRS)
def test_the_output_as_a_target_of_ones_own_trains_the_same_students(family):
    teacher, student, task = PAIRS[family]
    curricula = {"ours": one_shot(), "own": Curriculum(stages=(Stage(target=Imitated()),))}
    weights = distil_cohort(as_trained(teacher), student, task, curricula, (0, 1), PLAN).weights
    for seed in (0, 1):
        for name, tensor in weights["ours", seed].items():
            torch.testing.assert_close(weights["own", seed][name], tensor)


@pytest.mark.parametrize("family", PAIRS)
def test_a_hidden_target_trains_the_layers_up_to_its_block(family):
    teacher, student, task = PAIRS[family]
    lasting = {
        trains: curriculum_of(Likeness(block=2), steps=PLAN.steps, trains=trains) for trains in ("reach", "block")
    }
    result = distil_cohort(as_trained(teacher), student, task, lasting, (0,), PLAN)
    before = dict(build(student, 0, stream="student").named_parameters())
    for trains, trained in {"reach": {"stem", "blocks.0", "blocks.1"}, "block": {"blocks.1"}}.items():
        after = result.weights[trains, 0]
        changed = {name for name, one in before.items() if not torch.equal(one, after[name])}
        assert changed == {name for name in before if any(name.startswith(f"{part}.") for part in trained)}
    assert "loss_likeness" in result.history


def test_it_lowers_its_own_loss():
    teacher, task = as_trained(MLP_TEACHER), PARITY
    target, plan = Likeness(block=2), PLAN.model_copy(update={"steps": 200, "eval_every": 200, "lr": 0.5})
    weights = distil_cohort(teacher, MLP_STUDENT, task, {"a": curriculum_of(target, steps=200)}, (0,), plan).weights
    inputs, net = task.split("test").inputs, build(MLP_STUDENT, 0, stream="student")
    wanted = target.wanted(*teacher.model.hidden_states(inputs))
    before = target.loss(net.hidden_states(inputs)[0][1], wanted).item()
    net.load_state_dict(weights["a", 0])
    assert target.loss(net.hidden_states(inputs)[0][1], wanted).item() < 0.7 * before


@pytest.mark.usefixtures("store_folder")
def test_the_student_of_a_pair_follows_it_too():
    teacher, student, task = PAIRS["vgg"]
    pair = train_pair(
        as_trained(teacher), student, task, PLAN, device="cpu", curriculum=curriculum_of(Likeness(block=1))
    )
    assert pair.history["loss_likeness"].notna().any()
    assert pair.history["loss_output"].notna().any()


def test_another_value_and_another_code_are_another_key(store_folder, monkeypatch):
    def trained(**changes):
        curricula = {"own": curriculum_of(Likeness(block=1, **changes))}
        distill(as_trained(MLP_TEACHER), MLP_STUDENT, PARITY, curricula, [0], PLAN, device="cpu")
        return len(list(Store().folder.glob("students/*/record.json")))

    assert [trained(), trained(), trained(weight=2.0)] == [1, 1, 2]
    monkeypatch.setattr(Likeness, "products", lambda self, state: state.flatten(1) @ state.flatten(1).T)
    assert trained() == 3


class Raising(Likeness):
    """Its code is wrong."""

    kind: Literal["raising"] = "raising"

    def wanted(self, states, logits):
        return states[7]


class Everything(Likeness):
    """Its loss has a value for each pair of samples."""

    kind: Literal["everything"] = "everything"

    def loss(self, ours, wanted):
        return self.products(ours) - wanted


@pytest.mark.parametrize(
    ("curriculum", "words"),
    [
        (lambda: curriculum_of(Likeness(block=4)), rf"block of Likeness {HERE} = 4 is not allowed: from 1 to 3"),
        (
            lambda: curriculum_of(Imitated(), trains="block"),
            rf"needs a hidden target, and Imitated {HERE} has no block",
        ),
        (
            lambda: curriculum_of(Everything(block=1)),
            rf"Everything\.loss {HERE} = .*one number",
        ),
        (
            lambda: curriculum_of(Raising(block=1)),
            rf"Raising\.wanted {HERE} raised IndexError: .* {HERE}",
        ),
        (
            lambda: Curriculum(stages=(Stage(target=Likeness),)),
            rf"target = <class .*and not the class Likeness {HERE} itself",
        ),
        (lambda: Curriculum(stages=(Stage(target={"kind": "likeness", "block": 1}),)), "instance of OwnTarget"),
    ],
)
def test_what_cannot_be_a_target_is_refused(curriculum, words):
    with pytest.raises(InvalidValueError, match=words):
        distil_cohort(as_trained(MLP_TEACHER), MLP_STUDENT, PARITY, {"bad": curriculum()}, (0,), PLAN)
