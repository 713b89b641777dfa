"""What comes out of the store is the network that was put in, or an error says why not; what cannot be kept is not trained.

Most of these tests hide the reader's code from the keys, as the code of this package is hidden from them: they are about
the answers that an entry keeps. That an edit trains again is tested at the end.
"""

import copy
import json
from pathlib import Path
from typing import Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from toys import EVERY_PAIR, MLP_TEACHER, samples_for, used

from pwl_lab.distill.curriculum import one_shot
from pwl_lab.loading.bundle import check_exportable, check_folder
from pwl_lab.loading.model import ProgressiveModel
from pwl_lab.models import BlockNet, build, mlp
from pwl_lab.models.blocknet import ModelConfig
from pwl_lab.study import code_changes, verbs
from pwl_lab.study.code_changes import ChangedCodeError, Entry, answers_of, check_keepable, kept_answers, mask_answers
from pwl_lab.study.store import Artifact
from pwl_lab.study.verbs import distill, train_or_load, train_pair
from pwl_lab.support import own_code
from pwl_lab.support.errors import InvalidValueError
from pwl_lab.swap.swapnet import SwapNet
from pwl_lab.tasks.base import Batch, Task
from pwl_lab.tasks.parity import SparseParity
from pwl_lab.training import TrainPlan, fit

TASK = SparseParity(n_bits=6, k_sparse=2, eval_samples=64)
PLAN = TrainPlan(steps=4, batch_size=8, eval_every=2)
PATIENCE_S = 60


class OwnBlock(nn.Module):
    """A reader's block; `kind` is what a test makes of it."""

    def __init__(self, width: int, kind: str) -> None:
        super().__init__()
        self.kind, self.calls = kind, 0
        self.map = nn.Linear(width, width)
        if kind == "view":
            self.register_buffer("whole", torch.rand(2, width))
            self.register_buffer("shift", self.whole[1])
        if kind == "transposed":
            self.map.weight = nn.Parameter(torch.rand(width, width).T)
        if kind == "bfloat16":
            self.register_buffer("scale", torch.rand(width).bfloat16())
        if kind == "constant":
            self.register_buffer("fixed", torch.arange(float(width)), persistent=False)
        if kind == "counter":
            self.register_buffer("count", torch.zeros((), dtype=torch.int64))
        if kind == "hidden buffer":
            self.register_buffer("fixed", torch.randn(width), persistent=False)
        if kind == "hidden tensor":
            self.fixed = torch.randn(width)
        if kind == "expanded":
            self.register_buffer("fixed", torch.rand(1).expand(width))
        if kind == "sparse":
            self.register_buffer("fixed", torch.eye(width).to_sparse())
        if kind == "complex":
            self.register_buffer("fixed", torch.rand(width, dtype=torch.complex128))

    def forward(self, state):
        out = self.map(state)
        if self.kind in ("constant", "hidden buffer", "hidden tensor", "expanded"):
            out = out + self.fixed
        if self.kind == "view":
            out = out + self.shift
        if self.kind == "bfloat16":
            out = out * self.scale.float()
        if self.kind == "sparse":
            out = out @ self.fixed
        if self.kind == "complex":
            out = out * self.fixed.abs().float()
        if self.kind == "counter" and self.training:
            self.count += 1
        if self.kind == "calls":
            self.calls += self.training
            out = out * (1.0 + self.calls)
        if self.kind == "dropout":
            out = nn.functional.dropout(out, 0.3, training=True)
        if self.kind == "rounded":
            out = (3 * out).round()
        return CHANGE(out) + state


class ExtraState(OwnBlock):
    """Keeps in its state_dict what is no tensor."""

    def get_extra_state(self) -> dict:
        return {"calls": self.calls}

    def set_extra_state(self, state: dict) -> None:
        self.calls = state["calls"]


CHANGE = torch.relu  # what the reader edits


class Own(ModelConfig):
    """A network of the reader's own."""

    family: Literal["own"] = "own"
    width: int = 8
    kind: str = "plain"
    says: int = 2

    @property
    def n_blocks(self) -> int:
        return self.says

    def make(self) -> BlockNet:
        block = ExtraState if self.kind == "extra state" else OwnBlock
        first, second = (block(self.width, self.kind) for _ in range(2))
        if self.kind == "tied blocks":
            second = first
        if self.kind == "tied weights":
            second.map.weight = first.map.weight
        return BlockNet(nn.Linear(6, self.width), [first, second], nn.Linear(self.width, 2))


KEEPABLE = [
    "plain",
    "tied blocks",
    "tied weights",
    "view",
    "transposed",
    "bfloat16",
    "constant",
    "counter",
    "dropout",
    "rounded",
]
NOT_KEEPABLE = ["hidden buffer", "hidden tensor", "expanded", "sparse", "complex", "calls", "extra state"]


def teacher_of(model: ModelConfig):
    return train_or_load(model, TASK, PLAN, device="cpu")


def students_of(model: ModelConfig):
    return distill(
        fit(mlp(TASK, 9), TASK, PLAN, 0), model, TASK, {"a": one_shot(), "b": one_shot(0.0)}, [3, 1], PLAN, device="cpu"
    )


def pair_of(model: ModelConfig, **keys):
    return train_pair(fit(mlp(TASK, 9, depth=2), TASK, PLAN, 0), model, TASK, PLAN, device="cpu", **keys)


VERBS = {"teacher": teacher_of, "students": students_of, "pair": pair_of}
CHANGES = {
    "another sign": lambda out: -torch.relu(out),
    "another factor": lambda out: 1.05 * torch.relu(out),
    "another function": nn.functional.gelu,
    "nothing": torch.zeros_like,
    "another shape": lambda out: torch.relu(out)[:, :3],
    "an exception": lambda out: 1 / 0,
}


@pytest.fixture(autouse=True)
def _unchanged(store_folder, monkeypatch):
    monkeypatch.setitem(globals(), "CHANGE", torch.relu)
    monkeypatch.setattr(code_changes, "code_of", lambda *_: {})


@pytest.fixture
def in_keys(monkeypatch):
    """The reader's code is part of the keys, as it is outside of these tests."""
    monkeypatch.setattr(code_changes, "code_of", own_code.code_of)


def states(found) -> dict[str, torch.Tensor]:
    if hasattr(found, "weights"):
        return {f"{key}/{name}": t for key, state in found.weights.items() for name, t in state.items()}
    return dict(getattr(found, "model", None).state_dict() if hasattr(found, "model") else found.net.state_dict())


@pytest.mark.filterwarnings("ignore:export\\(\\) will refuse")
@pytest.mark.parametrize(("verb", "change"), [(verb, change) for verb in VERBS for change in CHANGES])
def test_old_weights_are_not_given_to_new_code(verb, change, monkeypatch):
    if verb == "pair" and change in ("another shape", "an exception"):
        pytest.skip("its shapes are asked for before the store is: the reader sees the exception itself")
    before = states(VERBS[verb](Own()))
    monkeypatch.setattr(verbs, "Artifact", None)  # nothing is made from here on
    assert all(torch.equal(tensor, before[name]) for name, tensor in states(VERBS[verb](Own())).items())
    monkeypatch.setitem(globals(), "CHANGE", CHANGES[change])
    with pytest.raises(
        ChangedCodeError, match=r"code of the .* of family 'own' has changed since .*, or remove .*/store/"
    ):
        VERBS[verb](Own())


@pytest.mark.filterwarnings("ignore:export\\(\\) will refuse")
@pytest.mark.parametrize("verb", VERBS)
def test_weights_that_no_longer_fit_are_the_doing_of_code_too(verb, monkeypatch):
    VERBS[verb](Own())
    monkeypatch.setattr(Own, "make", lambda self: BlockNet(nn.Linear(6, 8), [nn.Linear(8, 8)] * 2, nn.Linear(8, 2)))
    with pytest.raises(ChangedCodeError, match="has changed since"):
        VERBS[verb](Own())


@pytest.mark.filterwarnings("ignore:export\\(\\) will refuse")
@pytest.mark.parametrize("kind", KEEPABLE)
@pytest.mark.parametrize("verb", VERBS)
def test_whatever_shares_memory_or_is_no_plain_float_is_kept_as_it_is(verb, kind):
    if verb == "students" and kind == "dropout":
        pytest.skip("a stacked cohort draws nothing at random")
    made = states(VERBS[verb](Own(kind=kind)))
    found = states(VERBS[verb](Own(kind=kind)))
    assert made.keys() == found.keys()
    assert all(torch.equal(made[name], found[name]) for name in made)


@pytest.mark.filterwarnings("ignore:export\\(\\) will refuse")
@pytest.mark.parametrize("kind", NOT_KEEPABLE)
@pytest.mark.parametrize("verb", VERBS)
def test_what_the_store_cannot_hold_is_refused_before_it_is_trained(verb, kind, monkeypatch):
    monkeypatch.setattr(verbs, "fit", lambda *_: pytest.fail("trained"))
    monkeypatch.setattr(verbs, "distil_members", lambda *_: pytest.fail("trained"))
    monkeypatch.setattr(verbs, "train_pairs_together", lambda *_: pytest.fail("trained"))
    with pytest.raises(InvalidValueError, match=r"model = Own\(.*its state_dict can restore"):
        VERBS[verb](Own(kind=kind))


def test_a_configuration_that_miscounts_its_blocks_is_refused():
    with pytest.raises(InvalidValueError, match="3 blocks, as it states; it builds 2"):
        check_keepable(Own(says=3), TASK)


class Noise(Task):
    """A task of inputs of any shape."""

    def __init__(self, config: ModelConfig, shape: tuple[int, ...]) -> None:
        self.name, self.config, self.shape = "noise", config, shape
        self.input_shape = samples_for(config, 1, shape, torch.Generator()).shape[1:]
        self.n_classes, self.n_tokens = config.n_classes, getattr(config, "n_tokens", None)

    def split(self, name: str, device: str = "cpu") -> Batch:
        inputs = samples_for(self.config, 40, self.shape, torch.Generator().manual_seed(5))
        return Batch(inputs, torch.zeros(40, dtype=torch.int64))


def doubled(net: SwapNet, mask: str) -> code_changes.Answer:
    """The same rounded elsewhere: far more so than another order of summation would do it."""
    return lambda inputs: (
        copy.deepcopy(net).double()(inputs.double() if inputs.is_floating_point() else inputs, mask).float()
    )


@pytest.mark.parametrize("family", EVERY_PAIR)
@given(seed=st.integers(0, 99), scale=st.sampled_from([0.03, 0.3, 1.0, 3.0, 30.0]))
@settings(max_examples=15)
def test_another_order_of_summation_is_no_other_code(family, seed, scale):
    teacher, student, shape = EVERY_PAIR[family]
    net = SwapNet(used(build(teacher, seed), seed), used(build(student, seed + 1), seed), shape).eval()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(scale)
        kept = Entry(Artifact(kept_answers(mask_answers(net), Noise(teacher, shape))), "it", Path("there"))
        kept.check({mask: doubled(net, mask) for mask in mask_answers(net)})


@pytest.mark.parametrize("kind", ["rounded", "dropout"])
def test_networks_that_jump_or_draw_at_random_raise_no_false_alarm(kind):
    net = Own(kind=kind).make().eval()
    kept = Entry(Artifact(kept_answers({"a": answers_of(net)}, TASK)), "it", Path("there"))
    torch.rand(3)  # another state of the random numbers
    before = torch.random.get_rng_state()
    kept.check({"a": lambda inputs: answers_of(net)(inputs * (1 + 1e-6))})
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_another_number_of_threads_is_no_other_code(threads):
    model = MLP_TEACHER.model_copy(update={"n_inputs": 6, "widths": (2000, 1500)})
    net = build(model, 0)
    kept = Entry(Artifact(kept_answers({"a": answers_of(net)}, TASK)), "it", Path("there"))
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        kept.check({"a": answers_of(net)})
    finally:
        torch.set_num_threads(before)


def test_what_diverged_is_no_other_code():
    net = build(MLP_TEACHER, 0)
    with torch.no_grad():
        net.head.weight.fill_(float("nan"))
    kept = Entry(Artifact(kept_answers({"a": answers_of(net)}, TASK)), "it", Path("there"))
    kept.check({"a": answers_of(net)})
    with torch.no_grad():
        net.head.weight.fill_(1.0)
    with pytest.raises(ChangedCodeError):
        kept.check({"a": answers_of(net)})


def test_a_pair_of_ones_own_is_exported_without_a_word_and_opens_with_the_same_predictions(tmp_path, recwarn):
    pair = pair_of(Own(), to_export=True)
    index = pair.export(tmp_path / "bundle")
    assert not [one for one in recwarn if "export" in str(one.message)]
    assert (index.student, check_folder(tmp_path / "bundle")) == (Own(), index)
    inputs = TASK.split("test").inputs
    with ProgressiveModel.open(tmp_path / "bundle", device="cpu") as model:
        model.wait("TT", PATIENCE_S)
        answer = model.predict(inputs)
    classes, confidences = pair.predictions(inputs, ["TT"])
    assert answer.mask == "TT"
    assert torch.equal(answer.classes, classes[0])
    assert torch.equal(answer.confidence, confidences[0])


def test_a_pair_that_no_bundle_brings_back_is_refused_and_that_is_said_before_it_is_trained(tmp_path):
    own = Own(kind="constant")  # it can be kept: the store makes it with its memory
    with pytest.raises(InvalidValueError, match=r"the student can be trained .*not exported.* make blocks\.0\.fixed a"):
        pair_of(own, to_export=True)
    with pytest.warns(UserWarning, match=r"export\(\) will refuse this pair: the student") as caught:
        pair = pair_of(own)
    assert caught[0].filename == __file__
    with pytest.raises(InvalidValueError, match="not exported"):
        pair.export(tmp_path / "bundle")
    assert not list(tmp_path.glob("*bundle*"))


def test_a_configuration_derived_from_one_of_ours_is_not_taken_for_it():
    class Mine(type(MLP_TEACHER)):
        def make(self) -> BlockNet:
            return Own().make()

    own = Mine(n_inputs=6, widths=(8, 8))
    for field, pair in {"teacher": (own, MLP_TEACHER), "student": (MLP_TEACHER, own)}.items():
        with pytest.raises(InvalidValueError, match=rf"the {field} .*not exported.*a class with its own family"):
            check_exportable(pair)


def test_a_pair_of_ours_is_exported_without_a_word(tmp_path, recwarn):
    index = pair_of(mlp(TASK, 4, depth=2), to_export=True).export(tmp_path / "bundle")
    assert check_folder(tmp_path / "bundle") == index
    assert not [one for one in recwarn if "export" in str(one.message)]


def answered_apart(samples: int) -> None:
    """Check a network that answers so many of the stored samples with the other sign."""
    net = Own().make().eval()
    kept = Entry(Artifact(kept_answers({"a": answers_of(net)}, TASK)), "it", Path("there"))
    sign = torch.ones(code_changes.N_SAMPLES, 1)
    sign[:samples] = -1.0
    kept.check({"a": lambda inputs: sign * answers_of(net)(inputs)})


def test_one_sample_may_fall_on_the_other_side_and_no_second_one():
    answered_apart(1)
    for samples in (2, 4, code_changes.N_SAMPLES):
        with pytest.raises(ChangedCodeError, match=f"its output differs for {samples} of 16 samples"):
            answered_apart(samples)


class OwnParity(SparseParity):
    """A reader's task, whose fingerprint does not tell what its code does."""

    def split(self, name: str, device: str = "cpu") -> Batch:
        batch = super().split(name, device)
        return Batch(*OF_THE_TASK(batch.inputs, batch.labels))


OF_THE_TASK = lambda inputs, labels: (inputs, labels)  # noqa: E731 - what the reader edits
TASK_CHANGES = {
    "labels": lambda inputs, labels: (inputs, 1 - labels),
    "inputs": lambda inputs, labels: (-inputs, labels),
}


@pytest.mark.filterwarnings("ignore:export\\(\\) will refuse")
@pytest.mark.parametrize("changed", TASK_CHANGES)
@pytest.mark.parametrize("verb", VERBS)
def test_old_weights_are_not_given_to_a_task_that_has_changed(verb, changed, monkeypatch):
    monkeypatch.setitem(globals(), "TASK", OwnParity(n_bits=6, k_sparse=2, eval_samples=64))
    VERBS[verb](Own())
    VERBS[verb](Own())
    monkeypatch.setitem(globals(), "OF_THE_TASK", TASK_CHANGES[changed])
    with pytest.raises(ChangedCodeError, match=rf"has other {changed} than when it was stored, .*/store/"):
        VERBS[verb](Own())


def entries(store_folder) -> int:
    return len(list(store_folder.glob("*/*/record.json")))


@pytest.mark.usefixtures("in_keys")
@pytest.mark.filterwarnings("ignore:export\\(\\) will refuse")
@pytest.mark.parametrize("change", ["another sign", "another function"])
@pytest.mark.parametrize("verb", VERBS)
def test_an_edit_of_the_network_trains_again_and_undoing_it_finds_the_old_one(verb, change, monkeypatch, store_folder):
    before, made = states(VERBS[verb](Own())), entries(store_folder)
    states(VERBS[verb](Own()))
    assert entries(store_folder) == made
    with monkeypatch.context() as edited:
        edited.setitem(globals(), "CHANGE", CHANGES[change])
        after = states(VERBS[verb](Own()))
    assert entries(store_folder) == 2 * made
    assert any(not torch.equal(before[name], after[name]) for name in before)
    assert all(torch.equal(tensor, before[name]) for name, tensor in states(VERBS[verb](Own())).items())
    assert entries(store_folder) == 2 * made


@pytest.mark.usefixtures("in_keys")
@pytest.mark.filterwarnings("ignore:export\\(\\) will refuse")
@pytest.mark.parametrize("verb", VERBS)
def test_an_edit_of_the_task_trains_again(verb, monkeypatch, store_folder):
    monkeypatch.setitem(globals(), "TASK", OwnParity(n_bits=6, k_sparse=2, eval_samples=64))
    VERBS[verb](Own())
    made = entries(store_folder)
    monkeypatch.setitem(globals(), "OF_THE_TASK", TASK_CHANGES["labels"])
    VERBS[verb](Own())
    assert entries(store_folder) == 2 * made


@pytest.mark.usefixtures("in_keys")
def test_what_no_answer_shows_trains_again_too(monkeypatch, store_folder):
    """A network that differs in training alone, as one with another dropout does."""
    teacher_of(Own(kind="plain"))
    monkeypatch.setattr(OwnBlock, "train", lambda self, mode=True: nn.Module.train(self, mode))
    teacher_of(Own(kind="plain"))
    assert entries(store_folder) == 2


@pytest.mark.usefixtures("in_keys")
def test_keys_of_our_own_networks_hold_no_code(store_folder):
    train_or_load(mlp(TASK, 9), TASK, PLAN, device="cpu")
    (record,) = store_folder.glob("teacher/*/record.json")
    assert "code" not in json.loads(record.read_text())["configuration"]
    teacher_of(Own())
    codes = [
        json.loads(one.read_text())["configuration"].get("code", {}) for one in store_folder.glob("*/*/record.json")
    ]
    assert f"{__name__}.OwnBlock.forward" in codes[0] | codes[1]
