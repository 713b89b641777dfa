"""Sources: the same files over a folder, HTTP and fsspec, throttled or not; and what is said when something is wrong."""

import os
import random
import ssl
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import fsspec
import httpx
import pytest
from faulty_server import Fault, FaultyServer

from pwl_lab.loading.remote import FsspecSource, HttpSource
from pwl_lab.loading.sources import CHUNK_BYTES, FolderSource, Source, SourceError, ThrottledSource, open_source
from pwl_lab.loading.throttle import Throttle
from pwl_lab.support.errors import InvalidValueError, MissingDataError, UnknownNameError

FILES = {
    "boot.safetensors": random.Random(0).randbytes(2 * CHUNK_BYTES + 12_345),
    "block-1.safetensors": random.Random(1).randbytes(70_000),
    "empty.safetensors": b"",
    "mit Umlaut ä#?%41+&.bin": b"quoted where it must be",
}
BOOT, BLOCK, EMPTY = list(FILES)[:3]
AWKWARD = list(FILES)[3]
GUARD_S = 20  # a hang guard, no measurement


def whole(source, name, offset=0):
    return b"".join(bytes(chunk) for chunk in source.chunks(name, offset))


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "bundle").mkdir()
    for name, data in FILES.items():
        (tmp_path / "bundle" / name).write_bytes(data)
    return tmp_path / "bundle"


@pytest.fixture
def server():
    with FaultyServer(FILES) as running:
        yield running


@pytest.fixture
def memory():
    storage = fsspec.filesystem("memory")
    storage.pipe({f"/bundle/{name}": data for name, data in FILES.items()})
    yield "memory://bundle/"
    storage.rm("/bundle", recursive=True)


@pytest.fixture(params=["folder", "file", "http", "memory", "throttled"])
def source(request, folder, server, memory):
    address = {"file": folder.as_uri(), "http": server.url, "memory": memory}.get(request.param, folder)
    throttle = Throttle(500, 0.001) if request.param == "throttled" else None
    with open_source(address, throttle) as opened:
        yield opened


def test_an_address_tells_where_to_look(folder, server, memory):
    for address, kind in (
        (folder, FolderSource),
        (str(folder), FolderSource),
        (f"file://localhost{folder}", FolderSource),
        (server.url, HttpSource),
        ("HTTPS://example.org/bundle", HttpSource),
        (memory, FsspecSource),
    ):
        with open_source(address) as opened:
            assert type(opened) is kind
    throttle = Throttle(3)
    with open_source(folder, throttle) as opened:
        assert type(opened) is ThrottledSource
        assert (opened.address, opened.throttle) == (str(folder), throttle)
    with open_source(folder, Throttle()) as opened:
        assert type(opened) is FolderSource, "no limit, nothing to do"


def test_every_source_gives_the_same_bytes(source):
    for name, data in FILES.items():
        assert whole(source, name) == data
        assert source.read(name, len(data)) == data


@pytest.mark.parametrize("offset", [1, 65_535, CHUNK_BYTES, len(FILES[BOOT]) - 1, len(FILES[BOOT])])
def test_every_source_goes_on_at_an_offset(source, offset):
    assert whole(source, BOOT, offset) == FILES[BOOT][offset:]


def test_no_source_has_bytes_beyond_the_end(source):
    for name in (BLOCK, EMPTY):
        assert whole(source, name, len(FILES[name])) == b""
        refused(source, name, r"no byte 9\d{6}", transient=False, offset=9_000_000)
    with pytest.raises(InvalidValueError, match="offset = -1"):
        whole(source, BLOCK, -1)


def test_every_source_names_a_missing_file(source):
    error = refused(source, "block-9.safetensors", r"block-9\.safetensors", transient=False)
    assert source.address in str(error)


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        ".hidden",
        "a/b",
        "/etc/passwd",
        "../bundle/boot.safetensors",
        "a\\b",
        "..\\x",
        "C:x",
        "a\0b",
        "a\nb",
    ],
)
def test_every_source_refuses_what_is_not_a_plain_file_name(source, name):
    refused(source, name, "not a plain file name", transient=False)
    with pytest.raises(SourceError, match="not a plain file name"):
        source.read(name, 10)


def test_a_small_file_is_not_larger_than_said(source):
    with pytest.raises(SourceError, match="larger than the 69999 bytes") as caught:
        source.read(BLOCK, 69_999)
    assert not caught.value.transient


def test_a_closed_source_reads_no_more(source):
    begun = source.chunks(BOOT)
    assert len(next(begun)) > 0
    source.close()
    source.close()
    with pytest.raises(SourceError, match="is closed") as caught:
        list(begun)
    assert not caught.value.transient
    refused(source, BLOCK, "is closed", transient=False)


def test_two_threads_read_two_files_at_once(source):
    with ThreadPoolExecutor(2) as pool:
        for _ in range(5):
            both = list(pool.map(lambda name: whole(source, name), (BOOT, BLOCK)))
            assert both == [FILES[BOOT], FILES[BLOCK]]


def test_a_read_may_be_given_up_half_way(source):
    for _ in range(3):
        chunks = source.chunks(BOOT)
        next(chunks)
        chunks.close()
    assert whole(source, BLOCK) == FILES[BLOCK]


# ---- a folder


def test_a_folder_must_be_one(tmp_path):
    (tmp_path / "file").touch()
    for path, words in ((tmp_path / "absent", "is missing"), (tmp_path / "file", "is not a folder")):
        with pytest.raises(MissingDataError, match=f"{path} {words}"):
            open_source(path)
    with pytest.raises(InvalidValueError, match="address = ''"):
        open_source("")
    with pytest.raises(InvalidValueError, match="three slashes"):
        open_source("file://bundle")


def test_a_folder_has_only_plain_files(folder):
    (folder / "inner").mkdir()
    os.mkfifo(folder / "pipe")
    with FolderSource(folder) as opened:
        refused(opened, "inner", "not a file", transient=False)
        refused(opened, "pipe", "not a file", transient=False)


def test_a_folder_follows_links_within_it_and_no_others(folder):
    (folder.parent / "secret").write_bytes(b"secret")
    (folder / "within").symlink_to(BLOCK)
    (folder / "out").symlink_to("../secret")
    (folder / "far").symlink_to(folder.parent / "secret")
    (folder / "by-way-of").symlink_to("out")
    (folder / "circle").symlink_to("circle")
    (folder / "absent").symlink_to("nowhere")
    (folder.parent / "other").symlink_to(folder, target_is_directory=True)
    for place in (folder, folder.parent / "other"):  # the folder itself may be reached by a link
        with FolderSource(place) as opened:
            assert whole(opened, "within") == FILES[BLOCK]
            for name in ("out", "far", "by-way-of"):
                refused(opened, name, "a link that leaves the bundle's folder", transient=False)
            refused(opened, "circle", "symbolic links", transient=True)
            refused(opened, "absent", "No such file", transient=False)


def test_a_folder_gives_views_of_one_buffer(folder):
    with FolderSource(folder) as opened:
        views = list(opened.chunks(BOOT))
    assert [len(view) for view in views] == [CHUNK_BYTES, CHUNK_BYTES, 12_345]
    assert views[0].obj is views[1].obj
    assert bytes(views[0][:12_345]) == FILES[BOOT][2 * CHUNK_BYTES :], "only the last one is valid"


@pytest.mark.parametrize("throttle", [None, Throttle(1_000.0)], ids=["straight", "copied"])
@pytest.mark.parametrize("offset", [0, 1, CHUNK_BYTES, len(FILES[BOOT])])
def test_memory_is_filled_with_the_bytes_of_the_file(folder, throttle, offset):
    expected = FILES[BOOT][offset:]
    memory = bytearray(len(expected))
    with open_source(folder, throttle) as source:
        assert sum(source.fill(BOOT, offset, memoryview(memory))) == len(expected)
    assert memory == expected


@pytest.mark.parametrize("throttle", [None, Throttle(1_000.0)], ids=["straight", "copied"])
def test_a_file_that_is_longer_than_the_memory_says_so(folder, throttle):
    memory = bytearray(len(FILES[BOOT]))
    room = memoryview(memory)[:-5_000]
    with open_source(folder, throttle) as source:
        assert sum(source.fill(BOOT, 0, room)) > len(room)
    assert bytes(memory[-5_000:]) == bytes(5_000), "beyond the memory nothing is written"


def test_a_failing_disk_may_recover(folder, monkeypatch):
    def failing(*_, **__):
        raise OSError(5, "Input/output error")

    with FolderSource(folder) as opened:
        monkeypatch.setattr(type(folder), "open", failing)
        refused(opened, BLOCK, "Input/output error", transient=True)


# ---- a web server


def test_a_read_is_one_request_and_connections_are_kept(server):
    with HttpSource(server.url + "/") as source:
        whole(source, BLOCK)
        whole(source, BLOCK, 100)
        assert source.read(EMPTY, 0) == b""
    assert server.ranges(BLOCK) == [None, "bytes=100-"]
    assert server.count(EMPTY) == 1
    assert len({request.client for request in server.requests}) == 1
    assert {request.method for request in server.requests} == {"GET"}


@pytest.mark.parametrize("offset", [0, 1, 69_000, 70_000])
def test_a_server_that_does_not_know_range_is_read_from_the_start(server, offset):
    server.faults[BLOCK] = Fault(ignore_range=True)
    with HttpSource(server.url) as source:
        assert whole(source, BLOCK, offset) == FILES[BLOCK][offset:]
        refused(source, BLOCK, "no byte 70001", transient=False, offset=70_001)


@pytest.mark.parametrize(
    ("fault", "offset", "words", "transient"),
    [
        (Fault(status=404), 0, "HTTP 404 Not Found", False),
        (Fault(status=403), 0, "HTTP 403", False),
        (Fault(status=204), 0, "HTTP 204", False),
        (Fault(status=500), 0, "HTTP 500", True),
        (Fault(status=503), 7, "HTTP 503", True),
        (Fault(status=429), 0, "HTTP 429", True),
        (Fault(status=416), 7, "HTTP 416", False),
        (Fault(cut_after=0), 0, "peer closed connection", True),
        (Fault(cut_after=30_000), 0, "peer closed connection", True),
        (Fault(cut_after=30_000), 30_000, "peer closed connection", True),
        (Fault(stall_after=-1), 0, "timed out", True),
        (Fault(stall_after=0), 0, "timed out", True),
        (Fault(stall_after=30_000), 0, "timed out", True),
        (Fault(headers={"Content-Range": "bytes 0-69999/70000"}), 7, "got 'bytes 0-69999/70000'", False),
        (Fault(headers={"Content-Range": "bytes 8-69999/70000"}), 7, "requested bytes from 7 on", False),
        (Fault(headers={"Content-Range": "lines 7-9/10"}), 7, "requested bytes from 7 on", False),
        (Fault(headers={"Content-Range": "bytes 7-69999/80000"}), 7, "sent only a part", True),
        (Fault(headers={"Content-Encoding": "gzip"}), 0, "compressed", False),
        (Fault(status=302, headers={"Location": "file:///etc/passwd"}), 0, "redirect", False),
        (Fault(status=302, headers={"Location": "https://127.0.0.1/x"}), 0, "redirected from http to https", False),
        (Fault(status=301, headers={"Location": f"/{BLOCK}"}), 0, "more than 5 redirects", False),
    ],
    ids=str,
)
def test_what_a_server_does_wrong_is_said(server, fault, offset, words, transient):
    server.faults[BLOCK] = fault
    with HttpSource(server.url, timeout_s=0.2) as source:
        error = refused(source, BLOCK, words, transient, offset)
        assert server.url in str(error)
        assert BLOCK in str(error)
        assert whole(source, EMPTY) == b"", "other files do not suffer"


def test_what_came_before_an_error_is_good_and_the_rest_can_be_had(server):
    server.faults[BLOCK] = Fault(cut_after=30_000, times=1)
    got = bytearray()
    with HttpSource(server.url) as source:
        with pytest.raises(SourceError):
            got.extend(byte for chunk in source.chunks(BLOCK) for byte in chunk)
        assert got == FILES[BLOCK][: len(got)]
        got += whole(source, BLOCK, len(got))
    assert got == FILES[BLOCK]


def test_a_redirect_within_the_scheme_keeps_the_range(server):
    server.faults["moved.bin"] = Fault(status=302, headers={"Location": f"/{BLOCK}"})
    with HttpSource(server.url) as source:
        assert whole(source, "moved.bin", 69_000) == FILES[BLOCK][69_000:]
    assert server.ranges(BLOCK) == ["bytes=69000-"]


@pytest.mark.parametrize(
    ("error", "cause", "transient"),
    [
        (httpx.ConnectError("odd"), OSError("no route"), True),
        (httpx.ConnectError("odd"), ssl.SSLCertVerificationError("self-signed"), False),
        (httpx.ReadTimeout("odd"), None, True),
        (httpx.RemoteProtocolError("odd"), None, True),
        (httpx.ProxyError("odd"), None, True),
        (httpx.LocalProtocolError("odd"), None, False),
        (httpx.UnsupportedProtocol("odd"), None, False),
        (httpx.InvalidURL("odd"), None, False),
    ],
    ids=repr,
)
def test_what_the_client_meets_may_pass_unless_it_is_about_the_request_or_the_certificate(
    server, monkeypatch, error, cause, transient
):
    def fail(*_, **__):
        raise error from cause

    with HttpSource(server.url) as source:
        monkeypatch.setattr(source._client, "send", fail)
        refused(source, BLOCK, "odd", transient=transient)


def test_a_server_that_is_not_there_may_come():
    with FaultyServer(FILES) as gone:
        pass
    with HttpSource(gone.url) as source:
        refused(source, BLOCK, "refused", transient=True)


def test_an_answer_that_came_after_all_is_taken(server):
    server.faults[BLOCK] = Fault(stall_after=10)
    with HttpSource(server.url) as source, ThreadPoolExecutor(1) as pool:
        reading = pool.submit(whole, source, BLOCK)
        assert server.stalled.wait(GUARD_S)
        server.release()
        assert reading.result(GUARD_S) == FILES[BLOCK]


@pytest.mark.parametrize("stall_after", [-1, 0, 30_000])
def test_closing_wakes_a_reader_that_waits_for_a_server(server, stall_after):
    server.faults[BLOCK] = Fault(stall_after=stall_after)
    with HttpSource(server.url, timeout_s=3 * GUARD_S) as source:
        assert whole(source, EMPTY) == b"", "so that a kept connection is used"
        wakes_up(source, BLOCK, server.stalled)
        deadline = time.monotonic() + GUARD_S  # a request whose answer has not begun ends in a thread of its own
        while not source._client.is_closed:
            assert time.monotonic() < deadline
            time.sleep(0.001)


def test_connections_are_given_back_once_nobody_reads(server):
    source = HttpSource(server.url)
    chunks = source.chunks(BOOT)
    next(chunks)
    source.close()
    assert not source._client.is_closed
    chunks.close()
    assert source._client.is_closed


def test_an_http_address_must_be_whole():
    for address in ("http://", "http:///path", "http://host:port/"):
        with pytest.raises(InvalidValueError, match="a host and a path"):
            open_source(address)
    with pytest.raises(InvalidValueError, match="timeout_s"):
        HttpSource("http://example.org", timeout_s=0)


def test_secrets_of_an_address_are_used_and_not_shown(server):
    host = server.url.removeprefix("http://")
    with HttpSource(f"http://me:secret@{host}/?token=hidden") as source:
        assert source.address == server.url
        assert whole(source, BLOCK) == FILES[BLOCK]


def test_a_proxy_is_not_asked_for_this_machine(server, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    with HttpSource(server.url) as source:
        assert whole(source, BLOCK) == FILES[BLOCK]


# ---- storage that fsspec knows


def test_an_unknown_scheme_is_named_with_the_nearest():
    with pytest.raises(UnknownNameError, match=r"unknown scheme 'htp'\. Did you mean 'http'"):
        open_source("htp://example.org/bundle")
    with pytest.raises(UnknownNameError, match="Did you mean 'memory'"):
        open_source("memroy://bundle")


@pytest.mark.parametrize(
    ("address", "words"),
    [("s3://bucket/bundle", "Install s3fs"), ("gs://bucket/bundle", "install gcsfs")],
)
def test_a_missing_package_is_named(monkeypatch, address, words):
    for package in ("s3fs", "gcsfs"):
        monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(
        sys.modules["fsspec.registry"]._registry, address.partition(":")[0], raising=False
    )  # as it is once used
    with pytest.raises(InvalidValueError, match=words):
        open_source(address)


def test_closing_wakes_a_reader_that_waits_for_a_storage(memory, monkeypatch):
    waiting, released = threading.Event(), threading.Event()

    def slow(*_, **__):
        waiting.set()
        released.wait(3 * GUARD_S)
        raise OSError("too late")

    monkeypatch.setattr(fsspec.filesystem("memory"), "open", slow)
    try:
        with open_source(memory) as source:
            wakes_up(source, BLOCK, waiting)
    finally:
        released.set()


def test_a_storage_may_recover_but_not_from_what_it_cannot_do(memory, monkeypatch):
    with open_source(memory) as source:
        for raised, transient in ((TimeoutError("slow"), True), (KeyError("odd"), True), (ValueError("bad"), False)):

            def failing(*_, error=raised, **__):
                raise error

            monkeypatch.setattr(fsspec.filesystem("memory"), "open", failing)
            refused(source, BLOCK, str(raised), transient)


# ---- a throttle


@pytest.mark.parametrize("kind", ["folder", "http"])
def test_a_throttled_source_takes_the_time_of_a_slow_link(folder, server, kind):
    begun = time.monotonic()
    with open_source(folder if kind == "folder" else server.url, Throttle(0.5, 0.1)) as source:
        assert whole(source, BLOCK) == FILES[BLOCK]
    assert time.monotonic() - begun >= 0.1 + 70_000 / 0.5e6


def test_two_readers_share_the_bandwidth(folder):
    begun = time.monotonic()
    with open_source(folder, Throttle(0.5)) as source, ThreadPoolExecutor(2) as pool:
        both = list(pool.map(lambda _: whole(source, BLOCK), range(2)))
    assert both == [FILES[BLOCK]] * 2
    assert time.monotonic() - begun >= 2 * 70_000 / 0.5e6


@pytest.mark.parametrize("throttle", [Throttle(0.0001), Throttle(None, 3 * GUARD_S)], ids=["bandwidth", "latency"])
def test_closing_wakes_a_reader_that_is_held_back(folder, throttle):
    with open_source(folder, throttle) as source:
        wakes_up(source, BLOCK, None)


def test_a_throttle_closes_what_it_holds_back(folder):
    inner = FolderSource(folder)
    ThrottledSource(inner, Throttle(1)).close()
    refused(inner, BLOCK, "is closed", transient=False)


def test_a_source_of_ones_own_needs_only_chunks():
    class Own(Source):
        def chunks(self, name, offset=0):
            self._begin(name, offset)
            yield b"abc"[offset:]

    with Own("own") as source, ThrottledSource(source, Throttle(100)) as slow:
        assert slow.read("x", 3) == b"abc"
        assert whole(slow, "x", 1) == b"bc"


def refused(source, name, words, transient, offset=0):
    """The error of a read that must not go well."""
    with pytest.raises(SourceError, match=words) as caught:
        whole(source, name, offset)
    assert caught.value.transient is transient
    return caught.value


def wakes_up(source, name, waits):
    """Close a source while another thread waits for it, which must then end at once."""
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(whole, source, name)
        assert waits is None or waits.wait(GUARD_S)
        time.sleep(0.05)  # into the waiting itself; closing a moment before must do as well
        source.close()
        error = reading.exception(GUARD_S)
    assert isinstance(error, SourceError)
    assert "is closed" in str(error)
    assert not error.transient
