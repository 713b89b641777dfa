"""Faults on the way: the model goes on answering with the mask it has, names what failed, and never runs damaged weights."""

import errno
import inspect
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import fsspec
import pytest
import torch
from bundles import bundle_of, expected, inputs_for, pair_of
from faulty_server import Fault, FaultyServer
from privileges import as_modes_say

from pwl_lab.loading import transfer, units
from pwl_lab.loading.model import LoadingError, ProgressiveModel
from pwl_lab.loading.remote import HttpSource
from pwl_lab.loading.sources import INDEX, BundleError, FolderSource
from pwl_lab.loading.throttle import Throttle
from pwl_lab.support.files import new_file
from pwl_lab.support.retries import Retry

PATIENCE_S = 60
QUICK = Retry(tries=3, first_wait_s=0.01, longest_wait_s=0.02)
SECOND = "block-2.safetensors"


@pytest.fixture(scope="module")
def net():
    return pair_of("vgg")


@pytest.fixture
def folder(net, tmp_path):
    bundle_of(net, tmp_path / "bundle")
    return tmp_path / "bundle"


def check_answers(model, net, mask):
    """The model runs `mask`, and says what that network says."""
    inputs = inputs_for("vgg")
    prediction = model.predict(inputs)
    assert prediction.mask == mask
    assert torch.equal(prediction.logits, expected(net, inputs)[mask])


def happened(model, kind):
    return [event for event in model.events if event.kind == kind]


def truncate(path: Path):
    path.write_bytes(path.read_bytes()[:-100])


def lengthen(path: Path):
    path.write_bytes(path.read_bytes() + b"more")


def flip(path: Path):
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [(truncate, "ended after"), (lengthen, "longer than"), (flip, "checksum"), (Path.unlink, "No such file")],
)
def test_a_damaged_shard_is_never_swapped_in(damage, reason, folder, net):
    """Block 2 is lost for good. Block 3 without it is as good as what is there by the bundle's own table, so it runs."""
    damage(folder / SECOND)
    with ProgressiveModel.open(folder, retry=QUICK) as model:
        status = model.wait(timeout=PATIENCE_S)
        assert list(status.failed) == ["block 2"]
        assert reason in status.failed["block 2"]
        check_answers(model, net, "TST")
        with pytest.raises(LoadingError, match="block 2"):
            model.wait("TTT", PATIENCE_S)
    (lost,) = happened(model, "failed")
    assert lost.shard == "block 2"


def test_after_a_loss_no_mask_is_taken_that_is_worse(folder, net):
    table = {"SSS": 0.5, "TSS": 0.7, "TST": 0.6, "SST": 0.5, "STS": 0.5, "STT": 0.8, "TTS": 0.8, "TTT": 0.9}
    bundle_of(net, folder, accuracies=table)
    flip(folder / SECOND)
    with ProgressiveModel.open(folder, retry=QUICK) as model:
        status = model.wait(timeout=PATIENCE_S)
        check_answers(model, net, "TSS")
    assert status.blocks["block 3"] == "held"
    assert [event.shard for event in happened(model, "held")] == ["block 3"]


def test_after_a_loss_nothing_is_guessed_where_accuracies_are_not_known(folder, net):
    bundle_of(net, folder, accuracies={})
    flip(folder / SECOND)
    with ProgressiveModel.open(folder, retry=QUICK) as model:
        model.wait(timeout=PATIENCE_S)
        check_answers(model, net, "TSS")


def test_a_held_block_comes_in_with_the_one_that_makes_it_good(folder, net):
    """Order 1-3-2-... : block 3 is lost at 8 bits, and comes whole later."""
    table = {"SSS": 0.5, "TSS": 0.7, "TST": 0.6, "SST": 0.5, "STS": 0.5, "STT": 0.8, "TTS": 0.8, "TTT": 0.9}
    bundle_of(net, folder, accuracies=table)
    flip(folder / "block-2-8bit.safetensors")
    with ProgressiveModel.open(folder, int8_first=True, retry=QUICK) as model:
        model.wait("TTT", PATIENCE_S)
        check_answers(model, net, "TTT")
    assert [event.mask for event in happened(model, "swap")] == ["tss", "Tss", "TTt", "TTT"]
    assert [event.shard for event in happened(model, "held")] == ["block 3 at 8 bits"]


def test_as_int8_a_block_stays_when_the_whole_one_is_lost(folder, net):
    flip(folder / SECOND)
    with ProgressiveModel.open(folder, int8_first=True, retry=QUICK) as model:
        status = model.wait(timeout=PATIENCE_S)
    assert (status.mask, list(status.failed)) == ("TtT", ["block 2"])


def test_a_connection_that_closes_half_way_is_resumed_where_it_stopped(folder, net):
    size = (folder / SECOND).stat().st_size
    with FaultyServer(folder, {SECOND: Fault(cut_after=size // 2, times=1)}) as server:
        with ProgressiveModel.open(server.url, retry=QUICK) as model:
            model.wait("TTT", PATIENCE_S)
            check_answers(model, net, "TTT")
        assert server.ranges(SECOND) == [None, f"bytes={size // 2}-"]
    assert [event.shard for event in happened(model, "retry")] == ["block 2"]


def test_a_connection_that_closes_again_and_again_gets_there_as_long_as_bytes_come(folder, net):
    """More cuts than tries in a row are allowed: each one brought something."""
    size = (folder / SECOND).stat().st_size
    with FaultyServer(folder, {SECOND: Fault(cut_after=size // 6)}) as server:
        with ProgressiveModel.open(server.url, retry=QUICK) as model:
            model.wait("TTT", PATIENCE_S)
            check_answers(model, net, "TTT")
        assert server.count(SECOND) > QUICK.tries


def test_errors_of_the_server_are_met_with_another_try(folder, net):
    with FaultyServer(folder, {SECOND: Fault(status=500, times=2)}) as server:
        with ProgressiveModel.open(server.url, retry=QUICK) as model:
            model.wait("TTT", PATIENCE_S)
            check_answers(model, net, "TTT")
        assert server.count(SECOND) == 3


def test_a_server_that_stays_broken_loses_the_block_alone(folder, net):
    with FaultyServer(folder, {SECOND: Fault(status=503)}) as server:
        with ProgressiveModel.open(server.url, retry=QUICK) as model:
            status = model.wait(timeout=PATIENCE_S)
            check_answers(model, net, "TST")
        assert server.count(SECOND) == QUICK.tries
    assert "503" in status.failed["block 2"]


def test_a_bit_flipped_on_the_way_is_found_and_fetched_anew(folder, net):
    with FaultyServer(folder, {SECOND: Fault(flip_bit=20_000, times=1)}) as server:
        with ProgressiveModel.open(server.url, retry=QUICK) as model:
            model.wait("TTT", PATIENCE_S)
            check_answers(model, net, "TTT")
        assert server.ranges(SECOND) == [None, None]
    assert [event.shard for event in happened(model, "damaged")] == ["block 2"]


class OnceWrong(FaultyServer):
    """The first answer about one file breaks off, the second is wrong in another way, all others are right."""

    def __init__(self, files, name, second, first=None):
        super().__init__(files)
        self._wrong = {name: [Fault(cut_after=400) if first is None else first, second]}

    def received(self, request):
        super().received(request)
        wrong = self._wrong.get(request.name)
        return wrong.pop(0) if wrong else Fault()


WRONG_ANSWERS = {
    "416": Fault(status=416),
    "a shorter file": Fault(status=416, headers={"Content-Range": "bytes */300"}),
    "just as much as there is": Fault(status=416, headers={"Content-Range": "bytes */400"}),
    "other bytes": Fault(headers={"Content-Range": "bytes 3-9/10"}),
    "no place": Fault(headers={"Content-Range": ""}),
    "missing": Fault(status=404),
    "forbidden": Fault(status=403),
    "compressed": Fault(headers={"Content-Encoding": "gzip"}),
    "elsewhere": Fault(status=302, headers={"Location": "https://127.0.0.1/x"}),
    "short and whole": Fault(ignore_range=True, cut_after=100),
    "another file": Fault(flip_bit=3_500),
}


@pytest.mark.parametrize("second", WRONG_ANSWERS)
@pytest.mark.parametrize("file", ["boot.safetensors", SECOND])
def test_one_wrong_answer_after_a_part_loses_nothing(file, second, folder, net):
    """As while a bundle is being uploaded anew: what is wrong in the middle may be right from the beginning."""
    server = OnceWrong(folder, file, WRONG_ANSWERS[second])
    with server, ProgressiveModel.open(server.url, retry=QUICK) as model:
        model.wait("TTT", PATIENCE_S)
        check_answers(model, net, "TTT")
    assert server.ranges(file)[:2] == [None, "bytes=400-"]
    assert len(server.ranges(file)) == 3


def test_a_file_that_has_become_shorter_is_read_from_its_beginning(folder, net):
    """In a folder, and in a storage: there is no server to say so."""
    content, told = (folder / SECOND).read_bytes(), []
    with ProgressiveModel.open(folder, retry=QUICK) as model:
        model.wait("TTT", PATIENCE_S)
        shard, source = model.index.shard(2), FolderSource(folder)

    def pause(_):
        told.append((folder / SECOND).stat().st_size)
        (folder / SECOND).write_bytes(content if len(told) > 1 else content[:100])

    source.pause = pause
    (folder / SECOND).write_bytes(content[:400])
    made = transfer.Transfer(source, QUICK, threading.Event(), lambda *_: None, time.perf_counter)
    assert bytes(made.fetch(shard).content.numpy()) == content
    assert told == [400, 100]


@pytest.mark.parametrize("first", [Fault(flip_bit=3), Fault(status=503), Fault(cut_after=700)], ids=str)
@pytest.mark.parametrize("second", [Fault(flip_bit=9), Fault(status=429), Fault(cut_after=0)], ids=str)
def test_an_index_that_is_damaged_is_asked_for_again(first, second, folder, net):
    server = OnceWrong(folder, INDEX, second, first)
    with server, ProgressiveModel.open(server.url, retry=QUICK) as model:
        model.wait("TTT", PATIENCE_S)
        check_answers(model, net, "TTT")
    assert server.count(INDEX) == 3


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        ('"format": 1', '"format": 9', "format 9"),
        ('"family": "', '"family": "own-', r"\(teacher: unknown family 'own-"),
    ],
)
def test_an_index_that_needs_more_than_is_here_is_not_asked_for_again(folder, before, after, words):
    (folder / INDEX).write_text((folder / INDEX).read_text().replace(before, after))
    with FaultyServer(folder) as server:
        with pytest.raises(BundleError, match=words):
            ProgressiveModel.open(server.url)
        assert server.count(INDEX) == 1


def test_a_file_that_a_storage_does_not_have_is_told_with_a_reason(folder):
    storage = fsspec.filesystem("memory")
    for path in folder.iterdir():
        storage.pipe(f"/faults/{path.name}", path.read_bytes())
    storage.rm(f"/faults/{SECOND}")
    with ProgressiveModel.open("memory://faults", retry=QUICK) as model:
        failed = model.wait(timeout=PATIENCE_S).failed
    assert "No such file or directory" in failed["block 2"]
    storage.rm(f"/faults/{INDEX}")
    with pytest.raises(BundleError, match="No such file or directory"):
        ProgressiveModel.open("memory://faults", retry=QUICK)


def test_while_a_server_stalls_the_model_answers_and_close_ends_it(folder, net):
    with FaultyServer(folder, {SECOND: Fault(stall_after=50)}) as server:
        model = ProgressiveModel.open(server.url, retry=QUICK)
        model.wait("TSS", PATIENCE_S)
        assert server.stalled.wait(PATIENCE_S)
        check_answers(model, net, "TSS")
        begun = time.monotonic()
        model.close()
        assert (
            time.monotonic() - begun < PATIENCE_S
        )  # the stall would last for ever; `close` gives a thread 5 s at most
        check_answers(model, net, "TSS")
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("pwl-")]


def test_a_stall_that_ends_is_waited_out(folder, net):
    server = FaultyServer(folder, {SECOND: Fault(stall_after=50, times=1)})
    with server, ProgressiveModel.open(server.url, retry=QUICK) as model:
        assert server.stalled.wait(PATIENCE_S)
        server.release()
        model.wait("TTT", PATIENCE_S)
        check_answers(model, net, "TTT")


def wait_briefly(monkeypatch):
    """Give up on a server that says nothing after 0.3 s, instead of 10 (the function below what checks its shapes)."""
    monkeypatch.setattr(inspect.unwrap(HttpSource.__init__), "__defaults__", (0.3,))


def test_a_stall_that_does_not_end_is_given_up_and_resumed_where_it_was(folder, net, monkeypatch):
    wait_briefly(monkeypatch)
    with FaultyServer(folder, {SECOND: Fault(stall_after=50, times=1)}) as server:
        with ProgressiveModel.open(server.url, retry=QUICK) as model:
            model.wait("TTT", PATIENCE_S)
            check_answers(model, net, "TTT")
        assert server.ranges(SECOND) == [None, "bytes=50-"]
    assert [event.shard for event in happened(model, "retry")] == ["block 2"]


@pytest.mark.parametrize("file", [INDEX, "boot.safetensors"])
def test_a_boot_set_that_stalls_is_an_error_not_a_wait(file, folder, monkeypatch):
    wait_briefly(monkeypatch)
    with FaultyServer(folder, {file: Fault(stall_after=0)}) as server:
        with pytest.raises(BundleError, match=r"index\.json|boot set"):
            ProgressiveModel.open(server.url, retry=QUICK)
        assert server.count(file) == QUICK.tries


@pytest.mark.parametrize("file", [INDEX, "boot.safetensors"])
def test_opening_has_an_end_whatever_a_server_does(file, folder):
    with (
        FaultyServer(folder, {file: Fault(stall_after=40)}) as server,
        pytest.raises(TimeoutError, match=r"longer than 0\.3 s"),
    ):
        ProgressiveModel.open(server.url, timeout=0.3)
    with pytest.raises(TimeoutError, match="longer than"):  # bytes do come all the time, too few
        ProgressiveModel.open(folder, throttle=Throttle(0.001), timeout=0.3)


def test_the_end_of_opening_is_not_that_of_loading(folder, net):
    with ProgressiveModel.open(folder, throttle=Throttle(latency_s=0.05), timeout=PATIENCE_S) as model:
        assert not any(isinstance(thread, threading.Timer) for thread in threading.enumerate())
        model.wait("TTT", PATIENCE_S)
        check_answers(model, net, "TTT")


@pytest.mark.parametrize("file", [INDEX, "boot.safetensors"])
def test_a_boot_set_through_passing_faults(file, folder, net):
    server = FaultyServer(folder, {file: Fault(status=500, times=2)})
    with server, ProgressiveModel.open(server.url, retry=QUICK) as model:
        model.wait("TTT", PATIENCE_S)
        check_answers(model, net, "TTT")


@pytest.mark.parametrize("damage", [truncate, flip, Path.unlink])
@pytest.mark.parametrize("file", [INDEX, "boot.safetensors"])
def test_a_damaged_boot_set_is_a_clear_error_at_once(file, damage, folder):
    damage(folder / file)
    before = threading.active_count()
    with pytest.raises(BundleError, match=r"index\.json|boot set"):
        ProgressiveModel.open(folder, retry=QUICK)
    assert threading.active_count() == before


def test_an_index_of_a_newer_format_is_refused(folder):
    text = (folder / INDEX).read_text()
    (folder / INDEX).write_text(text.replace('"format": 1', '"format": 9'))
    with pytest.raises(BundleError, match="format 9"):
        ProgressiveModel.open(folder)


def write_full(path):
    """On a disk that has room for a file's name and for nothing in it."""
    with new_file(path):
        raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("full_for", ["names", "contents"])
def test_a_full_disk_while_caching_does_no_harm(full_for, folder, net, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    if full_for == "names":
        monkeypatch.setattr(Path, "touch", full)
    else:
        monkeypatch.setattr(transfer, "write_bytes", lambda path, _: write_full(path))
    with ProgressiveModel.open(folder, cache=tmp_path / "cache") as model:
        model.wait("TTT", PATIENCE_S)
        check_answers(model, net, "TTT")
    model._feed.join(PATIENCE_S)
    assert not list((tmp_path / "cache").iterdir())
    assert {event.message for event in happened(model, "cache")} == {"not cached: No space left on device"}


def test_what_was_kept_is_not_fetched_again_and_a_damaged_copy_is(folder, net, tmp_path):
    cache = tmp_path / "cache"
    with ProgressiveModel.open(folder, cache=cache) as model:
        model.wait("TTT", PATIENCE_S)
        model._feed.join(PATIENCE_S)
    kept = {path.stem: path for path in cache.iterdir()}
    assert set(kept) == {shard.sha256 for shard in model.index.shards if shard.bits == 32}
    flip(kept[model.index.shard(2).sha256])
    with FaultyServer(folder) as server:
        with ProgressiveModel.open(server.url, cache=cache, retry=QUICK) as again:
            again.wait("TTT", PATIENCE_S)
            check_answers(again, net, "TTT")
        assert {request.name for request in server.requests} == {INDEX, SECOND}
    assert [event.shard for event in happened(again, "cache")] == ["block 2"]


@pytest.mark.parametrize("what", ["files", "folder"])
def test_a_cache_that_may_not_be_read_does_no_harm_and_takes_none(what, folder, net, tmp_path):
    cache = tmp_path / "cache"
    with ProgressiveModel.open(folder, cache=cache) as model:
        model.wait("TTT", PATIENCE_S)
        model._feed.join(PATIENCE_S)
    kept = {path: path.stat().st_ino for path in cache.iterdir()}
    closed = [cache] if what == "folder" else list(kept)
    for path in closed:
        path.chmod(0)
    with as_modes_say(), ProgressiveModel.open(folder, cache=cache) as model:
        model.wait("TTT", PATIENCE_S)
        check_answers(model, net, "TTT")
        model._feed.join(PATIENCE_S)
    for path in closed:
        path.chmod(0o755)
    assert all("Permission denied" in event.message for event in happened(model, "cache"))
    assert {event.shard for event in happened(model, "cache")} == {"boot", "block 1", "block 2", "block 3"}
    assert {path: path.stat().st_ino for path in cache.iterdir()} == kept


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory"), MemoryError(), RuntimeError("no kernel"), KeyError("odd")]
)
def test_out_of_memory_on_a_block_leaves_the_others(error, folder, net, monkeypatch):
    make = units.Workshop.unit

    def short(self, shard, content):
        if shard.block == 2:
            raise error
        return make(self, shard, content)

    monkeypatch.setattr(units.Workshop, "unit", short)
    with ProgressiveModel.open(folder) as model:
        status = model.wait(timeout=PATIENCE_S)
        check_answers(model, net, "TST")
    assert type(error).__name__ in status.failed["block 2"]


@pytest.mark.parametrize("length", [2**60, 2**70])
@pytest.mark.parametrize("number", [0, 2])
def test_a_length_that_no_memory_holds_is_met_like_any_other_damage(number, length, folder, net):
    """The second one is more than a 64-bit number: torch says so with another kind of error."""
    index = json.loads((folder / INDEX).read_text())
    index["shards"][number]["bytes"] = length
    (folder / INDEX).write_text(json.dumps(index))
    if number == 0:
        with pytest.raises(BundleError, match="boot set"):
            ProgressiveModel.open(folder, retry=QUICK)
        return
    with ProgressiveModel.open(folder, retry=QUICK) as model:
        assert list(model.wait(timeout=PATIENCE_S).failed) == ["block 2"]
        check_answers(model, net, "TST")


def test_a_bundle_needs_nothing_else_of_the_study(folder, tmp_path):
    """No presets, no notebooks, no store: the package and the folder alone."""
    code = (
        "import sys, torch; from pwl_lab.loading.model import ProgressiveModel\n"
        "with ProgressiveModel.open(sys.argv[1], 'best') as model:\n"
        "    model.wait('TTT', 60); print(model.predict(torch.zeros(1, 1, 7, 7)).mask)"
    )
    (tmp_path / "elsewhere").mkdir()
    empty = os.environ | {"PWL_LAB_HOME": str(tmp_path / "elsewhere")}
    command = [sys.executable, "-c", code, str(folder)]
    done = subprocess.run(command, env=empty, cwd=tmp_path / "elsewhere", capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "TTT", done.stderr


def test_nothing_is_ever_unpickled(folder, monkeypatch):
    """A shard that is a pickle is refused as a shard, not opened as a pickle."""
    torch.save({"weight": torch.zeros(3)}, folder / SECOND)
    monkeypatch.setattr(torch, "load", None)
    with ProgressiveModel.open(folder, retry=QUICK) as model:
        assert list(model.wait(timeout=PATIENCE_S).failed) == ["block 2"]
