"""The loader: it answers with the student at once, ends as the teacher, and every answer is that of the mask it names."""

import gc
import json
import shutil
import threading
import weakref
from itertools import pairwise

import fsspec
import pytest
import torch
from bundles import FAMILIES, bundle_of, expected, inputs_for, pair_of

from pwl_lab.loading import bundle, units
from pwl_lab.loading.model import LoadingError, ProgressiveModel
from pwl_lab.loading.server import BundleServer
from pwl_lab.loading.sources import INDEX, BundleError, FolderSource, bounded
from pwl_lab.loading.throttle import Throttle
from pwl_lab.loading.weightless import build_empty
from pwl_lab.models.blocknet import BlockNet, ModelConfig
from pwl_lab.support.errors import InvalidValueError, UnknownNameError
from pwl_lab.support.retries import Retry

PATIENCE_S = 60
SLOW = Throttle(megabytes_per_s=0.02)  # a small shard takes some tenths of a second


@pytest.fixture(scope="module")
def net():
    return pair_of("vgg")


@pytest.fixture(scope="module")
def folder(net, tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundles") / "vgg"
    bundle_of(net, folder)
    return folder


def kinds(model):
    return [event.kind for event in model.events]


def swaps(model):
    return [event.mask for event in model.events if event.kind == "swap"]


@pytest.mark.parametrize("family", FAMILIES)
def test_it_begins_as_the_student_and_ends_as_the_teacher_bit_for_bit(family, tmp_path):
    net, inputs = pair_of(family), inputs_for(family)
    logits = expected(net, inputs)
    bundle_of(net, tmp_path / "bundle", family)
    with ProgressiveModel.open(tmp_path / "bundle", throttle=SLOW) as model:
        first = model.predict(inputs)
        assert first.mask == "SSS"
        assert torch.equal(first.logits, logits["SSS"])
        status = model.wait("TTT", PATIENCE_S)
        last = model.predict(inputs)
    assert last.mask == status.mask == "TTT"
    assert torch.equal(last.logits, logits["TTT"])
    assert torch.equal(last.classes, logits["TTT"].argmax(dim=-1))
    assert swaps(model) == ["TSS", "TTS", "TTT"]


@pytest.mark.parametrize(("order", "masks"), [("suffix", ["SST", "STT", "TTT"]), ("2-3-1", ["STS", "STT", "TTT"])])
def test_blocks_arrive_in_the_order_that_was_asked_for(order, masks, folder, net):
    inputs, seen = inputs_for("vgg"), {}
    with ProgressiveModel.open(folder, order, throttle=Throttle(0.02)) as model:
        model.on_swap(lambda event: seen.update({event.mask: model.predict(inputs)}))
        model.wait(timeout=PATIENCE_S)
    assert list(seen) == swaps(model) == masks
    for mask, logits in expected(net, inputs).items():
        assert mask not in seen or (seen[mask].mask == mask and torch.equal(seen[mask].logits, logits))


def test_the_best_order_follows_the_recorded_accuracies(net, tmp_path):
    table = {"SSS": 0.5, "SST": 0.9, "STS": 0.5, "TSS": 0.5, "STT": 0.92, "TST": 0.91, "TTS": 0.6, "TTT": 0.95}
    bundle_of(net, tmp_path / "bundle", accuracies=table)
    with ProgressiveModel.open(tmp_path / "bundle", "best") as model:
        model.wait("TTT", PATIENCE_S)
    assert swaps(model)[0] == "SST"
    bundle_of(net, tmp_path / "bundle", accuracies={})
    with pytest.raises(InvalidValueError, match="no validation accuracy"):
        ProgressiveModel.open(tmp_path / "bundle", "best")


def test_at_8_bits_first_every_block_comes_twice(folder, net):
    inputs = inputs_for("vgg")
    with ProgressiveModel.open(folder, int8_first=True) as model:
        status = model.wait("TTT", PATIENCE_S)
        assert torch.equal(model.predict(inputs).logits, expected(net, inputs)["TTT"])
    assert model.events[1].mask == "sss"
    assert swaps(model) == ["tss", "tts", "ttt", "Ttt", "TTt", "TTT"]
    assert status.blocks["block 2 at 8 bits"] == "replaced"
    assert status.blocks["block 2"] == "loaded"


def test_over_http_it_is_the_same(folder, net):
    inputs = inputs_for("vgg")
    with BundleServer(folder) as server, ProgressiveModel.open(server.url) as model:
        model.wait("TTT", PATIENCE_S)
        assert torch.equal(model.predict(inputs).logits, expected(net, inputs)["TTT"])


def test_out_of_object_storage_it_is_the_same(folder, net):
    """`memory://` stands for s3:// and gs://: the same interface of fsspec."""
    storage = fsspec.filesystem("memory")
    for path in folder.iterdir():
        storage.pipe(f"/bundles/vgg/{path.name}", path.read_bytes())
    inputs = inputs_for("vgg")
    with ProgressiveModel.open("memory://bundles/vgg") as model:
        model.wait("TTT", PATIENCE_S)
        assert torch.equal(model.predict(inputs).logits, expected(net, inputs)["TTT"])


def test_many_threads_predict_while_blocks_arrive_and_none_sees_half_a_swap(folder, net):
    """One mask a prediction, and the mask of one thread never goes back."""
    inputs = inputs_for("vgg")
    logits, wrong, seen = expected(net, inputs), [], [[] for _ in range(4)]
    with ProgressiveModel.open(folder, throttle=Throttle(0.05, latency_s=0.4)) as model:

        def ask(mine):
            while "S" in (prediction := model.predict(inputs)).mask or len(mine) < 50:
                mine.append(prediction.mask)
                if not torch.equal(prediction.logits, logits[prediction.mask]):
                    wrong.append(prediction.mask)

        threads = [threading.Thread(target=ask, args=(mine,)) for mine in seen]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE_S)
    assert not wrong
    for mine in seen:
        assert mine[0] == "SSS"
        assert all(before.count("T") <= after.count("T") for before, after in pairwise(mine))


def test_a_network_in_use_is_not_changed_by_a_swap(folder, net):
    """A prediction that began before a swap ends with the blocks it began with."""
    inputs = inputs_for("vgg")
    with ProgressiveModel.open(folder, throttle=SLOW) as model:
        held = model._running  # what a prediction in another thread would hold
        model.wait("TTT", PATIENCE_S)
        with torch.inference_mode():
            assert torch.equal(held(inputs), expected(net, inputs)["SSS"])


def test_status_and_events_tell_how_far_it_is(folder):
    with ProgressiveModel.open(folder, throttle=SLOW) as model:
        early = model.status()
        assert (early.mask, early.finished, early.failed) == ("SSS", False, {})
        assert early.blocks["boot"] == "loaded"
        assert early.blocks["block 3"] == "waiting"
        late = model.wait(timeout=PATIENCE_S)
    sizes = {shard.name: shard.bytes for shard in model.index.shards if shard.bits == 32}
    assert late.bytes_arrived == late.bytes_total == sum(sizes.values())
    assert set(late.blocks) == set(sizes)
    assert set(late.blocks.values()) == {"loaded"}
    assert kinds(model) == ["fetched", "boot", "fetched", "swap", "fetched", "swap", "fetched", "swap", "done"]
    times = [event.seconds for event in model.events]
    assert times == sorted(times)
    assert early.bytes_arrived < late.bytes_arrived


def test_the_students_blocks_are_freed_and_peak_memory_is_reported(folder):
    with ProgressiveModel.open(folder) as freeing:
        freed = freeing.wait("TTT", PATIENCE_S)
    with ProgressiveModel.open(folder, keep_student=True) as keeping:
        kept = keeping.wait("TTT", PATIENCE_S)
    sizes = {shard.block: shard.bytes for shard in freeing.index.shards if shard.bits == 32}
    assert freed.memory_bytes < kept.memory_bytes
    assert kept.memory_bytes - freed.memory_bytes >= 0.5 * sizes[0]
    assert freed.memory_bytes <= freed.peak_memory_bytes <= 2 * sum(sizes.values())


def test_what_was_replaced_or_has_arrived_is_let_go(folder):
    """Neither a block at 8 bits nor the bytes that it came in outlive the whole block; the peak counts both."""
    seen, names = [], []
    with ProgressiveModel.open(folder, int8_first=True, throttle=SLOW) as model:
        make = model._workshop.unit

        def watched(shard, content):
            unit = make(shard, content)
            if shard.bits == 8:
                seen.extend((weakref.ref(unit["block"]), weakref.ref(content.untyped_storage())))
                names.append(shard.name)
            return unit

        model._workshop.unit = watched
        status = model.wait("TTT", PATIENCE_S)
        model._feed.join(PATIENCE_S)
        gc.collect()
        assert names == ["block 1 at 8 bits", "block 2 at 8 bits", "block 3 at 8 bits"]
        assert not [what() for what in seen if what() is not None]
    sizes = {shard.name: shard.bytes for shard in model.index.shards}
    last = [f"block {n}" for n in (1, 2, 3)]
    # Before the last swap: the whole teacher, and beside it block 3 once more, unpacked from its 8 bits.
    assert status.peak_memory_bytes > sum(sizes[name] for name in last) + 0.8 * sizes["block 3"]


def test_read_ahead_is_bounded(folder):
    """While the second block cannot be swapped in, no more than one shard waits and one is being handed over."""
    hold, swapped = threading.Event(), threading.Event()
    with ProgressiveModel.open(folder, read_ahead=1, throttle=SLOW) as model:
        model.on_swap(lambda _: (swapped.set(), hold.wait(PATIENCE_S)))
        assert swapped.wait(PATIENCE_S)
        model._log.wait_for(lambda: model.status().blocks["block 3"] == "arrived", PATIENCE_S)
        assert model.status().mask == "TSS"
        assert model.status().blocks["block 2"] == "arrived"
        hold.set()
        model.wait("TTT", PATIENCE_S)
    with pytest.raises(InvalidValueError, match="read_ahead"):
        ProgressiveModel.open(folder, read_ahead=0)


def test_a_callback_that_fails_does_no_harm(folder):
    def fail(event):
        raise ZeroDivisionError(event.mask)

    with ProgressiveModel.open(folder, throttle=SLOW) as model:
        model.on_swap(fail)
        model.wait("TTT", PATIENCE_S)
    assert [event.message for event in model.events if event.kind == "callback"][-1] == "ZeroDivisionError: TTT"


def test_a_callback_that_waits_for_a_later_mask_is_told_that_it_cannot(folder):
    """It runs in the thread that swaps: without an error it would wait for itself."""
    with ProgressiveModel.open(folder, throttle=SLOW) as model:
        model.on_swap(lambda event: model.wait("TTT", PATIENCE_S))
        model.wait("TTT", PATIENCE_S / 2)
    told = [event.message for event in model.events if event.kind == "callback"]
    assert len(told) == 2
    assert all("another thread" in message for message in told)


def test_where_no_thread_can_be_started_nothing_is_left_behind(folder, monkeypatch):
    begun = threading.Thread.start

    def refuse(thread):
        if thread.name == "pwl-install":
            raise RuntimeError("can't start new thread")
        begun(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(RuntimeError, match="new thread"):
        ProgressiveModel.open(folder, throttle=SLOW)
    for thread in threading.enumerate():
        if thread.name == "pwl-fetch":
            thread.join(PATIENCE_S)
            assert not thread.is_alive()


def test_waiting_for_a_mask_that_has_gone_by_returns_at_once(folder):
    with ProgressiveModel.open(folder) as model:
        model.wait("TTT", PATIENCE_S)
        assert model.wait("TSS", 0).mask == "TTT"
        with pytest.raises(InvalidValueError, match="mask"):
            model.wait("TT")


def test_waiting_has_an_end(folder):
    with ProgressiveModel.open(folder, throttle=Throttle(0.02, latency_s=0.5)) as model:
        with pytest.raises(TimeoutError, match="TTT was not reached"):
            model.wait("TTT", 0.01)
        model.close()
        with pytest.raises(LoadingError, match=r"TTT will not be reached: .* closed"):
            model.wait("TTT", PATIENCE_S)


def test_closing_during_a_load_leaves_a_model_that_answers(folder, net):
    inputs = inputs_for("vgg")
    with ProgressiveModel.open(folder, throttle=Throttle(0.02)) as model:
        model.wait("TSS", PATIENCE_S)
        model.close()
        model.close()
        prediction = model.predict(inputs)
        assert torch.equal(prediction.logits, expected(net, inputs)[prediction.mask])
        assert model.status().finished
        assert model.status().memory_bytes == model._log._held["weights"]  # nothing is on its way any more
    assert kinds(model)[-1] == "closed"
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("pwl-")]


def test_images_are_prepared_as_they_were_in_training(folder):
    images = torch.randint(0, 256, (4, 1, 7, 7), dtype=torch.uint8)
    with ProgressiveModel.open(folder) as model:
        assert torch.equal(model.prepare(images), images.float())
        with pytest.raises(InvalidValueError, match="images"):
            model.prepare(images[:, :, :5])
        whole = model.index.inputs.model_copy(update={"mean": (0.2,), "std": (0.5,)})
        model.index = model.index.model_copy(update={"inputs": whole})
        assert torch.allclose(model.prepare(images), (images / 255 - 0.2) / 0.5, atol=1e-6)


@pytest.mark.parametrize("order", ["prefx", "1-2", [1, 1, 2]])
def test_an_order_that_is_none_is_refused_before_anything_is_started(order, folder):
    before = threading.active_count()
    with pytest.raises((InvalidValueError, UnknownNameError)):
        ProgressiveModel.open(folder, order)
    assert threading.active_count() == before


def test_what_is_no_bundle_is_refused(tmp_path):
    with pytest.raises(BundleError, match=r"index\.json"):
        ProgressiveModel.open(tmp_path)


@pytest.mark.parametrize("file", [INDEX, "boot.safetensors"])
def test_an_error_names_the_bundle_and_the_file_once(file, folder, tmp_path):
    shutil.copytree(folder, tmp_path / "copy")
    (tmp_path / "copy" / file).unlink()
    with pytest.raises(BundleError, match="No such file") as said:
        ProgressiveModel.open(tmp_path / "copy")
    assert [str(said.value).count(name) for name in (str(tmp_path), file)] == [1, 1]


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_each_network_is_built_once_and_the_student_alone_before_the_first_answer(family, tmp_path, monkeypatch):
    bundle_of(pair_of(family), tmp_path / "bundle", family)
    teacher, student, _ = FAMILIES[family]
    built: list[tuple[ModelConfig, threading.Thread]] = []

    def build(config: ModelConfig, *args: object) -> BlockNet:
        built.append((config, threading.current_thread()))
        return build_empty(config, *args)

    for module in (bundle, units):
        monkeypatch.setattr(module, "build_empty", build, raising=False)
    with ProgressiveModel.open(tmp_path / "bundle", device="cpu") as model:
        assert set(model.wait(timeout=PATIENCE_S).mask) == {"T"}
    assert [config for config, thread in built if thread is threading.current_thread()] == [student]
    assert [config for config, _ in built] == [student, teacher]


def test_an_index_that_claims_too_much_is_read_once(folder, tmp_path, monkeypatch):
    index = json.loads((folder / INDEX).read_text())
    index["student"]["convolutions"] = [10**9, 1, 1]
    (tmp_path / INDEX).write_text(json.dumps(index))
    reads, chunks = [], FolderSource.chunks

    def counted(self, name, offset=0):
        reads.append(name)
        return chunks(self, name, offset)

    monkeypatch.setattr(FolderSource, "chunks", counted)
    with pytest.raises(BundleError, match=r"more than [0-9]+ tensors"):
        ProgressiveModel.open(tmp_path)
    assert reads == [INDEX]
    (tmp_path / INDEX).write_text(json.dumps(index)[:-9])  # half of it may be there while it is uploaded
    with pytest.raises(BundleError, match="cannot be read"):
        ProgressiveModel.open(tmp_path, retry=Retry(tries=3, first_wait_s=0.0))
    assert reads == [INDEX] * 4


@pytest.mark.parametrize("timeout", ["3", [3], True], ids=str)
def test_a_timeout_of_another_type_is_refused(timeout):
    with pytest.raises(InvalidValueError, match=r"^timeout = "):
        bounded(timeout)


@pytest.mark.parametrize("timeout", [-1.0, -0.001, float("nan"), float("-inf")], ids=str)
def test_a_timeout_that_is_no_number_from_0_is_refused(timeout, folder):
    with pytest.raises(InvalidValueError, match=r"^timeout = "):
        ProgressiveModel.open(folder, timeout=timeout)
    with ProgressiveModel.open(folder) as model, pytest.raises(InvalidValueError, match=r"^timeout = "):
        model.wait(timeout=timeout)


@pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("timeout", [None, float("inf"), 1e10, 1e300, threading.TIMEOUT_MAX, PATIENCE_S], ids=str)
def test_a_timeout_may_be_as_long_as_one_likes(timeout, folder):
    with ProgressiveModel.open(folder, timeout=timeout) as model:
        assert model.wait("TTT", timeout).mask == "TTT"
