"""The store: what was made is kept exactly, found by how it was made, and never read half-written or damaged."""

import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from processes import until

from pwl_lab.models import MLPConfig
from pwl_lab.study import store as store_module
from pwl_lab.study.store import Artifact, NotMadeError, Recipe, Store, only_stored
from pwl_lab.support.errors import InvalidValueError, UnknownNameError
from pwl_lab.support.files import file_sha256, write_json
from pwl_lab.tasks.parity import SparseParity
from pwl_lab.training import TrainPlan

RECIPE = Recipe("things", 1, {"width": 3, "lr": 0.1})
PATIENCE_S = 60


def artifact(value: float = 1.0) -> Artifact:
    tensors = {
        "a/weight": torch.tensor([[1 / 3, math.pi], [1e-42, -0.0]]),
        "image": torch.arange(24.0).reshape(1, 2, 3, 4).to(memory_format=torch.channels_last),
        "column": torch.arange(6.0).reshape(2, 3).T,
        "count": torch.tensor(17),
    }
    table = pd.DataFrame(
        {"step": [0, 10], "accuracy": [0.1 + 0.2, 1 / 3], "loss": [float("nan"), 5e-324], "name": ["x", "TS, y"]}
    )
    return Artifact(tensors, {"history": table}, {"value": value, "none": None, "pairs": [[1, 0.1]], "third": 1 / 3})


def assert_same(ours: Artifact, theirs: Artifact) -> None:
    assert ours.tensors.keys() == theirs.tensors.keys()
    for name, tensor in theirs.tensors.items():
        assert ours.tensors[name].dtype == tensor.dtype
        assert torch.equal(ours.tensors[name], tensor)
    assert ours.tables.keys() == theirs.tables.keys()
    for name, table in theirs.tables.items():
        pd.testing.assert_frame_equal(ours.tables[name], table, check_exact=True)
    assert ours.info == theirs.info


class Maker:
    def __init__(self, value: float = 1.0) -> None:
        self.calls, self.value = 0, value

    def __call__(self) -> Artifact:
        self.calls += 1
        return artifact(self.value)


@pytest.fixture
def store(store_folder: Path) -> Store:
    return Store()


def test_the_store_goes_where_the_runs_go(store, store_folder):
    assert store.folder == store_folder
    assert not store_folder.exists()


def test_round_trip_is_exact(store):
    assert_same(store.get(RECIPE, artifact), artifact())
    found = store.get(RECIPE, lambda: pytest.fail("made again"))
    assert_same(found, artifact())
    assert math.copysign(1, found.tensors["a/weight"][1, 1]) == -1


def test_an_artifact_may_lack_tensors_or_tables(store):
    for version, one in enumerate((Artifact(info={"a": 1}), Artifact(tensors={"t": torch.ones(2)}), Artifact())):
        recipe = Recipe("bare", version, {})
        store.get(recipe, lambda one=one: one)
        assert_same(store.get(recipe, lambda: pytest.fail("made again")), one)


@pytest.mark.parametrize("names", [["1", "2"], ["None", "NA", "null"], ["true", "false"]])
def test_names_in_tables_stay_names(store, names):
    table = pd.DataFrame({"curriculum": names})
    found = store.get(RECIPE, lambda: Artifact(tables={"history": table}))
    assert found.tables["history"]["curriculum"].tolist() == names


def test_it_is_made_once(store):
    make = Maker()
    for _ in range(3):
        store.get(RECIPE, make)
    Store().get(RECIPE, make)
    assert make.calls == 1


def key(**changes):
    task = SparseParity(n_bits=8, k_sparse=2, seed=changes.pop("task_seed", 0), eval_samples=changes.pop("samples", 64))
    version, kind = changes.pop("version", 1), changes.pop("kind", "teacher")
    configuration = {
        "model": MLPConfig(n_inputs=8, widths=changes.pop("widths", (3,))),
        "task": task.fingerprint(),
        "plan": TrainPlan(**{"steps": 5} | changes.pop("plan", {})),
        "seed": 0,
    }
    return Recipe(kind, version, configuration | changes).key


def test_key_changes_with_everything_that_changes_the_result():
    others = [
        key(version=2),
        key(kind="pair"),
        key(seed=1),
        key(task_seed=1),
        key(samples=65),
        key(widths=(4,)),
        key(widths=(3, 3)),
        *(key(plan={name: value}) for name, value in {"steps": 6, "lr": 0.2, "momentum": 0.5, "stop_at": 0.9}.items()),
        key(teacher="other"),
    ]
    assert len({key(), *others}) == 1 + len(others)


def test_key_does_not_change_with_the_order_of_names():
    one = {"a": 1, "b": {"c": [1, 2], "d": None}}
    other = {"b": {"d": None, "c": (1, 2)}, "a": 1}
    assert Recipe("x", 1, one).key == Recipe("x", 1, other).key
    assert Recipe("x", 1, one).key != Recipe("x", 1, one | {"b": {"c": [2, 1], "d": None}}).key


def test_the_record_says_how_where_and_when(store):
    store.get(Recipe("x", 3, {"model": MLPConfig(n_inputs=2, widths=(3,))}), artifact)
    (path,) = store.folder.glob("x/*/record.json")
    record = json.loads(path.read_text())
    assert record["version"] == 3
    assert record["configuration"]["model"]["widths"] == [3]
    assert set(record["made"]) == {"commit", "machine", "versions", "date", "minutes"}
    assert record["files"] == {
        name: file_sha256(path.with_name(name)) for name in ("history.csv", "tensors.safetensors")
    }
    assert sorted(child.name for child in path.parent.iterdir()) == [
        "history.csv",
        "record.json",
        "tensors.safetensors",
    ]


def leftovers(store: Store) -> list[Path]:
    """Whatever could be taken for an entry, and anything written aside."""
    return [path for path in store.folder.rglob("*") if path.is_file() and path.suffix != ".lock"]


def test_an_exception_while_making_leaves_nothing(store):
    with pytest.raises(ZeroDivisionError):
        store.get(RECIPE, lambda: 1 / 0)
    assert leftovers(store) == []
    assert_same(store.get(RECIPE, artifact), artifact())


@pytest.mark.parametrize("at", ["file_sha256", "save_file", "provenance"])
def test_an_exception_while_writing_leaves_nothing_that_is_read(store, monkeypatch, at):
    def full(*_):
        raise OSError("no space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(store_module, at, full)
        with pytest.raises(OSError, match="no space"):
            store.get(RECIPE, artifact)
    assert leftovers(store) == []
    make = Maker()
    assert_same(store.get(RECIPE, make), artifact())
    assert make.calls == 1


def test_a_folder_that_a_killed_process_left_aside_is_not_read(store):
    store.get(Recipe("other", 1, {}), artifact)
    part = store.folder / ".part-abc"
    part.mkdir()
    (part / "record.json").write_text("{}")
    make = Maker()
    assert_same(store.get(RECIPE, make), artifact())
    assert make.calls == 1


def truncate_tensors(entry):
    path = entry / "tensors.safetensors"
    path.write_bytes(path.read_bytes()[:-5])


def flip_a_bit(entry):
    path = entry / "tensors.safetensors"
    content = bytearray(path.read_bytes())
    content[-3] ^= 0b100
    path.write_bytes(content)


def change_a_table(entry):
    path = entry / "history.csv"
    path.write_text(path.read_text().replace("10,", "11,"))


DAMAGE = {
    "truncated": (truncate_tensors, "tensors.safetensors"),
    "one bit": (flip_a_bit, "tensors.safetensors"),
    "table": (change_a_table, "history.csv"),
    "no tensors": (lambda entry: (entry / "tensors.safetensors").unlink(), "tensors.safetensors"),
    "no table": (lambda entry: (entry / "history.csv").unlink(), "history.csv"),
    "no record": (lambda entry: (entry / "record.json").unlink(), "record.json"),
    "empty record": (lambda entry: (entry / "record.json").write_text(""), "record.json"),
    "half a record": (
        lambda entry: (entry / "record.json").write_text((entry / "record.json").read_text()[:200]),
        "record.json",
    ),
    "another record": (lambda entry: (entry / "record.json").write_text("[1, 2]"), "record.json"),
    "files no mapping": (lambda entry: (entry / "record.json").write_text('{"files": [], "info": {}}'), "record.json"),
    "no text": (lambda entry: (entry / "record.json").write_bytes(b"\xff\xfe\x00"), "record.json"),
    "one digit of a value": (
        lambda entry: (entry / "record.json").write_text(
            (entry / "record.json").read_text().replace('"value": 1.0', '"value": 3.0')
        ),
        "record.json",
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_entry_is_named_set_aside_and_made_again(store, damage):
    store.get(RECIPE, artifact)
    spoil, name = DAMAGE[damage]
    spoil(store.entry(RECIPE))
    make = Maker()
    with pytest.warns(UserWarning, match=f"{RECIPE.key}: {name}.*set aside as things-{RECIPE.key}-.*made again"):
        found = store.get(RECIPE, make)
    assert_same(found, artifact())
    assert make.calls == 1
    assert len(list((store.folder / "damaged").iterdir())) == 1
    assert_same(store.get(RECIPE, lambda: pytest.fail("made again")), artifact())


def test_another_process_may_set_a_damaged_entry_aside_first(store, monkeypatch):
    store.get(RECIPE, artifact)
    flip_a_bit(store.entry(RECIPE))
    read, others = store_module._read, []

    def read_while_another_does(entry):
        try:
            return read(entry)
        except store_module.DamagedEntryError:
            if not others:  # the other process saw the damage too, and was faster
                others.append(Store()._set_aside(entry))
            raise

    monkeypatch.setattr(store_module, "_read", read_while_another_does)
    make = Maker()
    assert_same(store.get(RECIPE, make), artifact())
    assert make.calls == 1


def test_an_entry_of_another_recipe_in_its_place_is_not_taken(store):
    other = Recipe("things", 1, {"width": 4})
    store.get(other, Maker(2.0))
    store.entry(RECIPE).parent.mkdir(exist_ok=True)
    store.entry(other).rename(store.entry(RECIPE))
    with pytest.warns(UserWarning, match=r"record\.json"):
        assert store.get(RECIPE, artifact).info["value"] == 1.0


COMMON = """
import sys, time, pathlib
import torch
from pwl_lab.study import store
from pwl_lab.study.store import Artifact, NotMadeError, Recipe, Store, only_stored
folder = pathlib.Path(sys.argv[1])
recipe = Recipe("things", 1, {"width": 3, "lr": 0.1})
def wait_for(name):
    while not (folder / name).exists():
        time.sleep(0.01)
"""
SAVES_AND_IS_KILLED = """
def checksum(path):
    (folder / f"writing{sys.argv[2]}").touch()
    time.sleep(600)
store.file_sha256 = checksum
recipe = Recipe("things", 1, {"width": 3, "lr": 0.1} | ({"n": sys.argv[2]} if sys.argv[2] else {}))
Store(folder / "store").get(recipe, lambda: Artifact({"t": torch.zeros(9)}, {}, {"value": 7}))
"""
MAKES_ONCE = """
def make():
    with (folder / "made").open("a") as file:
        file.write("x")
    time.sleep(0.5)
    return Artifact({"t": torch.rand(3)}, {}, {})
(folder / f"ready-{sys.argv[2]}").touch()
wait_for("go")
found = Store(folder / "store").get(recipe, make)
(folder / f"found-{sys.argv[2]}").write_text(repr(found.tensors["t"].tolist()))
"""


def start(code: str, folder: Path, *arguments: str) -> subprocess.Popen:
    command = [sys.executable, "-c", COMMON + code, str(folder), *arguments]
    return subprocess.Popen(command, env=os.environ | {"OMP_NUM_THREADS": "1"})


@pytest.mark.skipif(os.name != "posix", reason="kills a process the POSIX way")
def test_a_process_killed_while_saving_leaves_nothing_that_is_read(tmp_path, processes):
    processes.append(start(SAVES_AND_IS_KILLED, tmp_path, ""))
    until((tmp_path / "writing").exists, PATIENCE_S)
    processes[0].send_signal(signal.SIGKILL)
    assert processes[0].wait(PATIENCE_S) == -signal.SIGKILL
    here = Store(tmp_path / "store")
    assert [path.name for path in here.folder.glob(".part-*/*")] == ["tensors.safetensors"]  # it was in the middle
    with only_stored(), pytest.raises(NotMadeError):
        here.get(RECIPE, artifact)
    make = Maker()
    assert_same(here.get(RECIPE, make), artifact())  # and its lock died with it
    assert make.calls == 1
    assert not list(here.folder.glob(".part-*"))


@pytest.mark.skipif(os.name != "posix", reason="kills a process the POSIX way")
def test_what_killed_writers_left_goes_with_the_next_one_of_whatever_kind_and_a_live_one_keeps_its_own(
    tmp_path, processes
):
    processes += [start(SAVES_AND_IS_KILLED, tmp_path, name) for name in "abc"]
    for name in "abc":
        until((tmp_path / f"writing{name}").exists, PATIENCE_S)
    here = Store(tmp_path / "store")
    assert len(list(here.folder.glob(".part-*"))) == 3
    for process in processes[:2]:
        process.kill()
        process.wait(PATIENCE_S)
    here.get(Recipe("others", 1, {}), artifact)
    (left,) = here.folder.glob(".part-*")
    assert [path.name for path in left.iterdir()] == ["tensors.safetensors"]
    processes[2].kill()
    processes[2].wait(PATIENCE_S)
    here.get(Recipe("others", 2, {}), artifact)
    assert not list(here.folder.glob(".part-*"))


def test_two_processes_that_ask_at_the_same_time_make_it_once(tmp_path, processes):
    processes += [start(MAKES_ONCE, tmp_path, name) for name in "ab"]
    for name in "ab":
        until((tmp_path / f"ready-{name}").exists, PATIENCE_S)
    (tmp_path / "go").touch()
    assert [process.wait(PATIENCE_S) for process in processes] == [0, 0]
    assert (tmp_path / "made").read_text() == "x"
    assert (tmp_path / "found-a").read_text() == (tmp_path / "found-b").read_text()


def test_write_json_replaces_whole_and_refuses_what_is_no_json(tmp_path):
    path = tmp_path / "deep" / "metrics.json"
    write_json(path, {"a": 1})
    write_json(path, {"a": [2, None]})
    for bad in ({"a": float("nan")}, {"a": object()}):
        with pytest.raises((ValueError, TypeError)):
            write_json(path, bad)
    assert json.loads(path.read_text()) == {"a": [2, None]}
    assert [child.name for child in path.parent.iterdir()] == ["metrics.json"]


def test_metrics_go_where_the_run_says_and_say_how_they_were_made(store_folder, tmp_path, monkeypatch):
    assert store_module.record_metrics("04", {"a": 1}) == tmp_path / "runs" / "interactive" / "04" / "metrics.json"
    monkeypatch.setenv("PWL_LAB_OUT", str(tmp_path / "out"))
    path = store_module.record_metrics("04", {"a": 1})
    assert path == tmp_path / "out" / "metrics.json"
    found = json.loads(path.read_text())
    assert found["a"] == 1
    assert set(found["made"]) == {"commit", "machine", "versions", "date"}


def test_metrics_say_which_of_them_have_one_value_per_seed(store_folder):
    metrics = {"seeds": [0, 1], "steps": {"a": [1, 2], "b": [3, 4]}, "prefix": [0.1, 0.2, 0.3]}
    for said in (["steps"], ["steps.a"], []):
        path = store_module.record_metrics("04", metrics, per_seed=said)
        assert json.loads(path.read_text())["made"]["per_seed"] == said
    with pytest.raises(InvalidValueError, match="each of the 2 seeds"):
        store_module.record_metrics("04", metrics, per_seed=["prefix"])
    with pytest.raises(UnknownNameError, match="steps"):
        store_module.record_metrics("04", metrics, per_seed=["step"])
