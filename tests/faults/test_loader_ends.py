"""Every wait for the loader ends: with what its threads died of, or when its time is over."""

import asyncio
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import fsspec
import pytest
from bundles import bundle_of, expected, inputs_for, pair_of
from faulty_server import Fault, FaultyServer

from pwl_lab.loading import model as progressive
from pwl_lab.loading import remote, sources, transfer, units
from pwl_lab.loading.log import LoadingLog
from pwl_lab.loading.model import LoadingError, ProgressiveModel
from pwl_lab.loading.sources import INDEX
from pwl_lab.loading.throttle import Throttle
from pwl_lab.support.retries import Retry

PATIENCE_S = 60
QUICK = Retry(tries=2, first_wait_s=0.0, longest_wait_s=0.0)
SLOW = Throttle(megabytes_per_s=0.02)
PATIENT = Retry(tries=1000, first_wait_s=60.0, longest_wait_s=600.0)
SECOND = "block-2.safetensors"
ENDS = [SystemExit, KeyboardInterrupt, asyncio.CancelledError, GeneratorExit, MemoryError, ZeroDivisionError]


@pytest.fixture(scope="module")
def net():
    return pair_of("mlp")


@pytest.fixture
def folder(net, tmp_path):
    bundle_of(net, tmp_path / "bundle", "mlp")
    return tmp_path / "bundle"


@pytest.fixture(autouse=True)
def nothing_is_left_behind():
    yield
    for thread in threading.enumerate():
        if thread.name.startswith("pwl-"):
            thread.join(PATIENCE_S)
            assert not thread.is_alive()


def dies(monkeypatch, owner, name, error, when):
    """A method that raises where `when` says so of its arguments; it tells when it has."""
    real, died = getattr(owner, name), threading.Event()

    def dying(*arguments, **named):
        if when(*arguments):
            died.set()
            raise error("the end")
        return real(*arguments, **named)

    monkeypatch.setattr(owner, name, dying)
    return died


def in_storage(folder):
    storage = fsspec.filesystem("memory")
    for path in folder.iterdir():
        storage.pipe(f"/ends/{path.name}", path.read_bytes())
    return storage


@pytest.mark.parametrize("error", ENDS)
@pytest.mark.parametrize(
    ("owner", "name", "when"),
    [
        (sources.FolderSource, "fill", lambda source, name, *_: name == SECOND),
        (transfer._Arriving, "finish", lambda arriving: arriving.shard.block == 2),
        (transfer.Transfer, "fetch", lambda transfer, shard: shard.block == 2),
        (units.Workshop, "unit", lambda workshop, shard, content: shard.block == 2),
    ],
    ids=["source", "checksum", "transfer", "weights"],
)
def test_whatever_a_shard_dies_of_loses_that_shard_alone(owner, name, when, error, folder, net, monkeypatch):
    dies(monkeypatch, owner, name, error, when)
    with ProgressiveModel.open(folder, retry=QUICK) as model:
        status = model.wait(timeout=PATIENCE_S)
        with pytest.raises(LoadingError, match=f"block 2: {error.__name__}"):
            model.wait("TTT", PATIENCE_S)
    assert (status.mask, list(status.failed)) == ("TST", ["block 2"])


@pytest.mark.parametrize("error", ENDS)
@pytest.mark.parametrize("call", ["open", "read"])
def test_whatever_a_storage_raises_loses_that_shard_alone(call, error, folder, monkeypatch):
    storage = in_storage(folder)
    real = type(storage).open

    def opened(path, *arguments, **named):
        file = real(storage, path, *arguments, **named)
        if SECOND in path:
            if call == "open":
                raise error("the end")
            monkeypatch.setattr(file, "read", lambda *_: (_ for _ in ()).throw(error("the end")), raising=False)
        return file

    monkeypatch.setattr(storage, "open", opened)
    with ProgressiveModel.open("memory://ends", retry=QUICK) as model:
        status = model.wait(timeout=PATIENCE_S)
    assert (status.mask, list(status.failed)) == ("TST", ["block 2"])
    assert error.__name__ in status.failed["block 2"]


@pytest.mark.parametrize("error", ENDS)
@pytest.mark.parametrize(
    ("owner", "name", "when"),
    [
        (transfer.Transfer, "keep", lambda transfer, received: received.shard.block == 1),
        (LoadingLog, "arrive", lambda log, shard: shard.block == 2),
        (LoadingLog, "swap", lambda log, mask, *_: mask == "TTS"),
        (LoadingLog, "hold", lambda log, sizes: list(sizes) == ["block 2"]),
        (progressive, "assemble", lambda mask, *_: mask == "TTS"),
        (progressive, "best_mask", lambda order, arrived, *_: len(arrived) == 2),
    ],
    ids=["cache", "arrive", "swap", "hold", "assemble", "best mask"],
)
def test_whatever_a_thread_dies_of_is_told_to_those_who_wait(owner, name, when, error, folder, net, monkeypatch):
    died = dies(monkeypatch, owner, name, error, when)
    with ProgressiveModel.open(folder, retry=QUICK) as model:
        status = model.wait(timeout=PATIENCE_S)
        assert died.is_set()
        assert status.finished
        assert any(why == f"{error.__name__}: the end" for why in status.failed.values())
        assert not set(status.blocks.values()) & {"waiting", "arrived"}
        with pytest.raises(LoadingError, match=f"block 3: {error.__name__}: the end"):
            model.wait("TTT", PATIENCE_S)
        prediction = model.predict(inputs_for("mlp"))
        assert prediction.logits.equal(expected(net, inputs_for("mlp"))[prediction.mask])
    assert [event.kind for event in model.events if event.kind in ("broken", "done", "closed")] == ["broken"]


@pytest.mark.parametrize("error", ENDS)
def test_a_callback_may_raise_anything(error, folder):
    def fail(event):
        raise error(event.mask)

    with ProgressiveModel.open(folder, throttle=SLOW) as model:
        model.on_swap(fail)
        model.wait("TTT", PATIENCE_S)
    assert [event.message for event in model.events if event.kind == "callback"][-1] == f"{error.__name__}: TTT"


def test_a_loader_that_was_closed_says_so_beside_what_failed(folder):
    (folder / "block-1.safetensors").unlink()
    with ProgressiveModel.open(folder, retry=QUICK, throttle=Throttle(latency_s=0.3)) as model:
        assert model._log.wait_for(lambda: bool(model.status().failed), PATIENCE_S)
        model.close()
    with pytest.raises(LoadingError, match=r"block 1: SourceError: .*No such file.*; the model was closed"):
        model.wait("TTT", 0)


# ---- `open` has an end


@pytest.mark.parametrize("file", [INDEX, "boot.safetensors"])
@pytest.mark.parametrize(
    "fault",
    [Fault(status=503), Fault(cut_after=0), Fault(flip_bit=8), Fault(stall_after=-1), Fault(stall_after=40)],
    ids=["overloaded", "closed", "damaged", "silent", "stalled"],
)
def test_no_wait_of_opening_is_longer_than_what_is_left(file, fault, folder):
    """The waits between two tries, a minute and more here, end with the time of `open`."""
    with FaultyServer(folder, {file: fault}) as server:
        ends_in_time(server.url)


def test_waiting_for_a_missing_server_ends_in_time(folder):
    with FaultyServer(folder) as server:
        pass
    ends_in_time(server.url)


@pytest.mark.parametrize("call", ["getaddrinfo", "create_connection"])
def test_a_connection_that_cannot_be_set_up_ends_in_time(call, monkeypatch):
    """The system's own waits, for a name server or for a host that does not answer, are a minute or longer."""
    released = threading.Event()

    def hang(*_, **__):
        released.wait(PATIENCE_S)
        raise OSError("too late")

    monkeypatch.setattr(socket, call, hang)
    try:
        ends_in_time("http://nohost.invalid/bundle")
    finally:
        released.set()


def test_a_storage_that_hangs_ends_in_time(folder, monkeypatch):
    storage, released = in_storage(folder), threading.Event()
    monkeypatch.setattr(storage, "open", lambda *_, **__: released.wait(PATIENCE_S))
    try:
        ends_in_time("memory://ends")
    finally:
        released.set()


def test_an_answer_that_comes_after_closing_is_closed():
    """The one who asked has gone: nobody else would give the connection back."""
    released, closed = threading.Event(), threading.Event()

    class Late:
        def close(self):
            closed.set()

    def slow():
        released.wait(PATIENCE_S)
        return Late()

    class Own(remote.RemoteSource):
        def chunks(self, name, offset=0):
            yield self._aside(name, slow)

    with Own("own") as source, ThreadPoolExecutor(1) as pool:
        asking = pool.submit(list, source.chunks("x"))
        source.close()
        with pytest.raises(sources.SourceError, match="own is closed"):
            asking.result(PATIENCE_S)
        released.set()
        assert closed.wait(PATIENCE_S)


def ends_in_time(address):
    begun = time.monotonic()
    with pytest.raises(TimeoutError, match=r"longer than 0\.2 s"):
        ProgressiveModel.open(address, retry=PATIENT, timeout=0.2)
    assert time.monotonic() - begun < PATIENCE_S / 3, "a wait went on"
