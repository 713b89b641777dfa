"""A training that was stopped goes on from its last checkpoint and ends with the same bits."""

import errno
import itertools
import os
import signal
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any, ClassVar

import pytest
import resumed
import torch
from resumed import KINDS, checkpoints, content
from sources import ROOT
from torch import Tensor, nn
from toys import PARITY

from pwl_lab.models import MLPConfig
from pwl_lab.study import code_changes
from pwl_lab.study.store import Artifact, Recipe, Store
from pwl_lab.study.verbs import train_or_load
from pwl_lab.support import environment, processes, resuming
from pwl_lab.support.errors import DivergedError, InvalidValueError, TimeIsUpError
from pwl_lab.tasks.images import ImageTask
from pwl_lab.tasks.parity import SparseParity
from pwl_lab.tasks.sequences import GrammarTask, TextTask
from pwl_lab.training import Learner, TrainPlan, train

MODEL = MLPConfig(n_inputs=6, widths=(8,))
PLAN = TrainPlan(steps=30, batch_size=8, eval_every=10, lr=0.1, momentum=0.9)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty store; a checkpoint is due after every step."""
    monkeypatch.setenv(environment.STORE.name, str(tmp_path / "store"))
    monkeypatch.setenv(environment.PROGRESS.name, str(tmp_path / "progress.log"))
    monkeypatch.setattr(resuming, "EVERY_S", 0.0)
    return tmp_path / "store"


def same(one: Any, other: Any) -> bool:
    """Bit for bit; NaN equals NaN."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(value, other[name]) for name, value in one.items())
    if isinstance(one, Tensor):
        return one.dtype == other.dtype and one.shape == other.shape and torch.equal(one, other)
    return repr(one) == repr(other)


def stop_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Let the next trainings stop as if the time were up when `step` steps are done."""
    whole = resuming.Training.pause

    def pause(run: resuming.Training, done: int) -> None:
        run._stop_at = 0.0 if done == step else None
        whole(run, done)

    monkeypatch.setattr(resuming.Training, "pause", pause)


def stopped(monkeypatch: pytest.MonkeyPatch, step: int, plan: TrainPlan = PLAN, model: Any = MODEL) -> None:
    """A training of a teacher that was stopped at this step."""
    with monkeypatch.context() as patch:
        stop_at(patch, step)
        with pytest.raises(TimeIsUpError):
            train_or_load(model, PARITY, plan, device="cpu")


def resumed_at(store: Path) -> list[int]:
    """The steps at which trainings were resumed, according to the log."""
    lines = (store.parent / "progress.log").read_text().splitlines()
    return [int(line.rpartition(" ")[2]) for line in lines if "resumed at step" in line]


def killed(store: Path, kind: str, how: str, number: int) -> None:
    """Run a training in a process that kills itself."""
    found = subprocess.run(
        [sys.executable, ROOT / "tests" / "helpers" / "resumed.py", kind, how, str(number)],
        env=os.environ | {"PYTHONPATH": str(ROOT / "tests" / "helpers")},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert found.returncode == -signal.SIGKILL, found.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "how", "number"), [(kind, *how) for kind in KINDS for how in (("step", 17), ("write", 12))]
)
def test_killed_and_resumed_equals_uninterrupted(kind, how, number, store, monkeypatch, tmp_path):
    killed(store, kind, how, number)
    names = [path.name for path in checkpoints(store)]
    last = number - 1  # the step that is done at the n-th pause; the n-th write is of step n and does not end
    assert names == [f"{step:010d}.checkpoint" for step in (last - 1, last)]
    found = content(KINDS[kind]())
    assert resumed_at(store) == [last]
    assert checkpoints(store) == []
    monkeypatch.setenv(environment.STORE.name, str(tmp_path / "other"))
    assert same(found, content(KINDS[kind]()))
    assert resumed_at(store) == [last]


def test_stopped_again_and_again_between_evaluations(store, monkeypatch, tmp_path):
    for step in (3, 10, 11, 25):
        stopped(monkeypatch, step)
    found = train_or_load(MODEL, PARITY, PLAN, device="cpu")
    assert resumed_at(store) == [3, 10, 11, 25]
    monkeypatch.setenv(environment.STORE.name, str(tmp_path / "other"))
    assert same(content(found), content(train_or_load(MODEL, PARITY, PLAN, device="cpu")))


def test_a_torn_checkpoint_is_named_and_the_older_one_is_taken(store, monkeypatch, tmp_path):
    stopped(monkeypatch, 9)
    _, newer = checkpoints(store)
    newer.write_bytes(newer.read_bytes()[:-1])
    with pytest.warns(UserWarning, match=rf"{newer.name} is not used: it is damaged"):
        found = train_or_load(MODEL, PARITY, PLAN, device="cpu")
    assert resumed_at(store) == [8]
    monkeypatch.setenv(environment.STORE.name, str(tmp_path / "other"))
    assert same(content(found), content(train_or_load(MODEL, PARITY, PLAN, device="cpu")))


@pytest.mark.parametrize("change", ["empty", "flipped", "no head"])
def test_whatever_is_damaged_is_not_used(change, store, monkeypatch):
    stopped(monkeypatch, 9)
    for path in checkpoints(store):
        whole = path.read_bytes()
        middle = len(whole) // 2
        flipped = whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]
        path.write_bytes({"empty": b"", "flipped": flipped, "no head": whole.partition(b"\n")[2]}[change])
    with pytest.warns(UserWarning, match="is damaged") as warned:
        train_or_load(MODEL, PARITY, PLAN, device="cpu")
    assert len(warned) == 2
    assert not (store.parent / "progress.log").exists() or resumed_at(store) == []


def test_other_settings_never_meet(store, monkeypatch):
    stopped(monkeypatch, 9)
    for plan, seed in ((PLAN.model_copy(update={"lr": 0.2}), 0), (PLAN, 1)):
        train_or_load(MODEL, PARITY, plan, seed, device="cpu")
    assert not (store.parent / "progress.log").exists() or resumed_at(store) == []
    assert len(checkpoints(store)) == 2


def test_a_checkpoint_of_other_settings_is_refused_even_in_the_right_place(store, monkeypatch):
    stopped(monkeypatch, 9, PLAN.model_copy(update={"lr": 0.2}))
    (there,) = (store / "unfinished").iterdir()
    stopped(monkeypatch, 1)
    (here,) = set((store / "unfinished").iterdir()) - {there}
    for path in checkpoints(here.parent.parent):
        if here in path.parents:
            path.unlink()
    for path in (there / "1").iterdir():
        path.rename(here / "1" / path.name)
    with pytest.warns(
        UserWarning, match=r"000[89].checkpoint is not used: something else made it \(plan.lr was 0.2 and is 0.1\)"
    ) as warned:
        train_or_load(MODEL, PARITY, PLAN, device="cpu")
    assert len(warned) == 2
    assert resumed_at(store) == []


@pytest.mark.parametrize(
    ("name", "value"),
    [("code_digest", lambda: "other"), ("FORMAT", 2), ("made_by", lambda device: {"processor": "another"})],
)
def test_a_checkpoint_of_other_code_is_refused(name, value, store, monkeypatch):
    stopped(monkeypatch, 9)
    monkeypatch.setattr(resuming, name, value)
    with pytest.warns(UserWarning, match="is not used"):
        train_or_load(MODEL, PARITY, PLAN, device="cpu")
    assert resumed_at(store) == []


def test_the_digest_covers_the_code_of_training(monkeypatch, tmp_path):
    for name in resuming.CODE:
        assert (resuming.PACKAGE / name).exists()
    digest = resuming.code_digest.__wrapped__
    before = digest()
    for name in resuming.CODE:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        source = resuming.PACKAGE / name
        files = [source] if source.is_file() else source.rglob("*.py")
        for path in files:
            copy = tmp_path / path.relative_to(resuming.PACKAGE)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(path.read_bytes())
    monkeypatch.setattr(resuming, "PACKAGE", tmp_path)
    assert digest() == before
    (tmp_path / "swap" / "masks.py").write_text("changed")
    assert digest() != before


class Doubled(MLPConfig):
    """A network of the reader's own, whose code changes."""

    factor: ClassVar[float] = 1.0

    def make(self):
        net = super().make()
        net.head = nn.Sequential(net.head, Times(self.factor))
        return net


class Times(nn.Module):
    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, state):
        return self.factor * state


def test_code_of_the_readers_own_that_changed_begins_anew(store, monkeypatch):
    model = Doubled(n_inputs=6, widths=(8,))
    stopped(monkeypatch, 9, model=model)
    monkeypatch.setattr(Doubled, "factor", 2.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # another key, so the checkpoint is not even looked at
        train_or_load(model, PARITY, PLAN, device="cpu")
    assert resumed_at(store) == []


def test_a_change_that_no_key_covers_is_noticed(store, monkeypatch):
    monkeypatch.setattr(code_changes, "code_of", lambda *_: {})
    model = Doubled(n_inputs=6, widths=(8,))
    stopped(monkeypatch, 9, model=model)
    monkeypatch.setattr(Doubled, "factor", 2.0)
    with pytest.warns(UserWarning, match="first evaluation was"):
        train_or_load(model, PARITY, PLAN, device="cpu")
    assert resumed_at(store) == []


def test_a_full_disk_loses_nothing(store, monkeypatch, tmp_path):
    writes = itertools.count(1)
    whole = resuming.settle

    def settle(paths):
        if next(writes) > 5:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        whole(paths)

    with monkeypatch.context() as patch:
        patch.setattr(resuming, "settle", settle)
        stop_at(patch, 9)
        with (
            pytest.warns(UserWarning, match="No space left on device.*the one of step 5 stays, and training goes on"),
            pytest.raises(TimeIsUpError, match="at step 9; the same command goes on from step 5"),
        ):
            train_or_load(MODEL, PARITY, PLAN, device="cpu")
        assert [path.name for path in checkpoints(store)] == ["0000000004.checkpoint", "0000000005.checkpoint"]
        assert not list((store / "unfinished").rglob(".part-*"))
    found = train_or_load(MODEL, PARITY, PLAN, device="cpu")
    assert resumed_at(store) == [5]
    monkeypatch.setenv(environment.STORE.name, str(tmp_path / "other"))
    monkeypatch.setattr(resuming, "settle", settle)  # full from the beginning
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert same(content(found), content(train_or_load(MODEL, PARITY, PLAN, device="cpu")))


def test_no_checkpoint_before_one_is_due(store, monkeypatch):
    monkeypatch.setattr(resuming, "EVERY_S", 120.0)
    written = []
    monkeypatch.setattr(resuming.Checkpoints, "write", lambda self, step, state: written.append(step))
    train_or_load(MODEL, PARITY, PLAN, device="cpu")
    assert written == []
    clock = iter(range(0, 10_000, 50))  # seconds between two looks at the clock
    monkeypatch.setattr(resuming.time, "monotonic", lambda: next(clock))
    train_or_load(MODEL, PARITY, PLAN, seed=1, device="cpu")
    assert written


def test_an_entry_that_cannot_be_stored_keeps_the_checkpoints(store, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(Store, "save", full)
        with pytest.raises(OSError, match="No space"):
            train_or_load(MODEL, PARITY, PLAN, device="cpu")
    assert len(checkpoints(store)) == resuming.KEPT == 2
    train_or_load(MODEL, PARITY, PLAN, device="cpu")
    assert resumed_at(store) == [29]
    assert checkpoints(store) == []


def test_a_training_that_diverged_leaves_nothing(store, monkeypatch):
    def losses(self, batch, step):
        return {"total": self.weight.sum() * (float("nan") if step > 15 else 1.0)}

    monkeypatch.setattr(Weight, "losses", losses)
    with pytest.raises(DivergedError, match="by step 20"):
        Store().get(Recipe("test", 1, {}), lambda: train(Weight(), PARITY.batches(0, 8), PLAN, "weight"))
    assert not list((store / "unfinished").iterdir())


def test_two_trainings_of_one_result(store, monkeypatch, tmp_path):
    """The second begins where the first ended, on the same stream of batches."""

    def make() -> Artifact:
        learner, batches = Weight(), PARITY.batches(0, 8)
        for steps in (6, 12):
            train(learner, batches, PLAN.model_copy(update={"steps": steps}), f"{steps} steps")
        return Artifact({"weight": learner.weight.detach()})

    recipe = Recipe("test", 1, {})
    with monkeypatch.context() as patch:
        stop_at(patch, 8)
        with pytest.raises(TimeIsUpError):
            Store().get(recipe, make)
    found = Store().get(recipe, make)
    assert resumed_at(store) == [5, 8]
    monkeypatch.setenv(environment.STORE.name, str(tmp_path / "other"))
    assert same(found.tensors, Store().get(recipe, make).tensors)


class Weight(Learner):
    """Six weights of a linear network."""

    def __init__(self):
        self.weight = nn.Parameter(torch.ones(6))

    def parameter_groups(self, lr):
        return [{"params": [self.weight], "lr": lr}]

    def losses(self, batch, step):
        return {"total": (batch.inputs @ self.weight - batch.labels).square().mean()}

    def evaluate(self, step):
        return [{"accuracy": float(self.weight.detach().sum())}]

    def state(self):
        return {"weight": self.weight}

    def restore(self, state, optimiser):
        self.weight.data.copy_(state["weight"])


class WithMore(Weight):
    """A subclass may change more than its parent keeps."""


def test_a_learner_without_a_state_of_its_own_begins_anew(store, monkeypatch):
    def make() -> Artifact:
        learner = WithMore()
        train(learner, PARITY.batches(0, 8), PLAN, "more")
        return Artifact({"weight": learner.weight.detach()})

    stop_at(monkeypatch, 8)
    with pytest.raises(TimeIsUpError, match="begins it anew"):
        Store().get(Recipe("test", 1, {}), make)
    assert checkpoints(store) == []


def test_other_students_in_the_cohort_are_another_training(store, monkeypatch):
    stop_at(monkeypatch, 5)
    teacher = train_or_load(MODEL, PARITY, PLAN.model_copy(update={"steps": 4}), device="cpu")
    for seeds in ([0, 1], [0, 2]):
        with pytest.raises(TimeIsUpError):
            resumed.distill(teacher, MODEL, PARITY, {"x": resumed.one_shot()}, seeds, PLAN, device="cpu")
    assert len(list((store / "unfinished").iterdir())) == 2


TASKS = {
    "parity": lambda: SparseParity(10, 3),
    "digits": lambda: ImageTask("digits"),
    "grammar": lambda: GrammarTask("hidden", eval_strings=20),
    "text": lambda: TextTask(length=16),
}


@pytest.mark.parametrize("name", TASKS)
def test_a_stream_of_batches_returns_to_its_position(name):
    stream, other = (TASKS[name]().batches(3, 400) for _ in range(2))
    for _ in range(7):
        next(stream)
    position = stream.state()
    expected = [next(stream) for _ in range(7)]
    other.restore(position)
    for batch in expected:
        found = next(other)
        assert torch.equal(found.inputs, batch.inputs)
        assert torch.equal(found.labels, batch.labels)


@pytest.mark.parametrize("layout", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
def test_values_survive_with_their_layout(layout, tmp_path):
    tensor = torch.randn(3, 4, 5).permute(layout)
    state = {
        "step": 3,
        1: [True, None, "text", float("nan"), 0.1, 2**200, (1, [])],
        "tensors": {"t": tensor, "bits": torch.randn(2).bfloat16(), "one": torch.tensor(2), "none": torch.zeros(0, 3)},
        "array": torch.arange(6).reshape(2, 3).numpy(),
    }
    resuming.write(tmp_path / "x.checkpoint", state, {})
    found = resuming.read(tmp_path / "x.checkpoint", {})
    assert repr(found) == repr(state)
    assert found["tensors"]["t"].stride() == tensor.stride()
    assert torch.equal(found["tensors"]["t"], tensor)


def test_progress_says_where_it_goes_on(store, monkeypatch):
    stopped(monkeypatch, 9)
    train_or_load(MODEL, PARITY, PLAN, device="cpu")
    log = (store.parent / "progress.log").read_text()
    assert "mlp teacher: stopped by TimeIsUpError after 9 steps" in log
    assert "mlp teacher: resumed at step 9\n" in log
    assert "mlp teacher: done after 30 steps" in log


@pytest.mark.parametrize(("text", "seconds"), [("8m", 480), ("90s", 90), ("1h30m", 5400), ("1h0m5s", 3605)])
def test_the_time_to_stop_is_set_in_words(text, seconds, monkeypatch):
    monkeypatch.setenv(environment.STOP_AT.name, "1")
    assert environment.seconds_left() < 0
    environment.stop_after(text)
    assert seconds - 2 < environment.seconds_left() <= seconds + 0.1


@pytest.mark.parametrize("text", ["", "8", "m", "0s", "-8m", "8 m", "8m5h", "soon"])
def test_a_time_that_is_none_is_refused(text, monkeypatch):
    monkeypatch.delenv(environment.STOP_AT.name, raising=False)
    with pytest.raises(InvalidValueError, match="--stop-after"):
        environment.stop_after(text)
    assert environment.seconds_left() == float("inf")


def test_workers_keep_their_checkpoints_before_they_end(store, monkeypatch):
    monkeypatch.setattr(processes, "n_workers", lambda: 2)
    monkeypatch.setenv(environment.STOP_AT.name, "1")
    cases = [{"model": MODEL, "task": PARITY, "plan": PLAN, "seed": seed, "device": "cpu"} for seed in range(3)]
    with pytest.raises(TimeIsUpError, match="the time is up at step 0"):
        processes.side_by_side(train_or_load, cases, "teachers")
    monkeypatch.delenv(environment.STOP_AT.name)
    assert len(processes.side_by_side(train_or_load, cases, "teachers")) == 3
