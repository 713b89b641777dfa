"""The server of one bundle: what it gives, to whom, and all that it does not."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psutil
import pytest
from benches import COMMAND
from typer.testing import CliRunner

from pwl_lab.cli import app
from pwl_lab.loading import server as serve_module
from pwl_lab.loading.server import BundleServer
from pwl_lab.loading.sources import SourceError, open_source
from pwl_lab.loading.throttle import Throttle
from pwl_lab.support.errors import InvalidValueError, MissingDataError

BOOT = bytes(range(256)) * 1000
GUARD_S = 60  # a hang guard, no measurement


@pytest.fixture
def bundle(tmp_path):
    """A bundle with more in its folder than its index lists, and a secret beside it."""
    folder = tmp_path / "bundle"
    (folder / "inner").mkdir(parents=True)
    (tmp_path / "secret.txt").write_text("secret")
    for name, data in (("boot.safetensors", BOOT), ("block 1.safetensors", b"one"), ("notes.txt", b"secret")):
        (folder / name).write_bytes(data)
    (folder / "inner" / "boot.safetensors").write_text("secret")
    write_index(folder, "boot.safetensors", "block 1.safetensors", "later.safetensors")
    return folder


@pytest.fixture
def server(bundle):
    with BundleServer(bundle) as running:
        yield running


def write_index(folder, *names):
    shards = [{"file": name, "bytes": 1, "sha256": "0"} for name in names]
    (folder / "index.json").write_text(json.dumps({"format": 1, "shards": shards}))


def test_a_source_reads_the_bundle(bundle, server):
    with open_source(server.url) as source:
        assert source.read("index.json", 10_000) == (bundle / "index.json").read_bytes()
        assert source.read("boot.safetensors", len(BOOT)) == BOOT
        assert source.read("block 1.safetensors", 10) == b"one"
        assert b"".join(source.chunks("boot.safetensors", 200_001)) == BOOT[200_001:]
        assert b"".join(source.chunks("boot.safetensors", len(BOOT))) == b""
        for offset, name in ((len(BOOT) + 1, "boot.safetensors"), (0, "later.safetensors"), (0, "notes.txt")):
            with pytest.raises(SourceError, match="HTTP 4") as caught:
                list(source.chunks(name, offset))
            assert not caught.value.transient


def test_range_head_and_etag(server):
    with httpx.Client(base_url=server.url) as client:
        head = client.head("/boot.safetensors")
        assert (head.status_code, head.content) == (200, b"")
        assert head.headers["Content-Length"] == str(len(BOOT))
        assert head.headers["Accept-Ranges"] == "bytes"
        part = client.get("/boot.safetensors", headers={"Range": "bytes=10-19"})
        assert (part.status_code, part.content) == (206, BOOT[10:20])
        assert part.headers["Content-Range"] == f"bytes 10-19/{len(BOOT)}"
        beyond = client.get("/boot.safetensors", headers={"Range": f"bytes={len(BOOT)}-"})
        assert (beyond.status_code, beyond.headers["Content-Range"]) == (416, f"bytes */{len(BOOT)}")
        assert part.headers["Etag"] == head.headers["Etag"] != client.head("/index.json").headers["Etag"]
        assert client.get("/boot.safetensors", headers={"If-None-Match": head.headers["Etag"]}).status_code == 304


def test_a_file_that_changed_has_another_etag(bundle, server):
    before = httpx.head(f"{server.url}/boot.safetensors").headers["Etag"]
    (bundle / "boot.safetensors").write_bytes(BOOT[:-1])
    assert httpx.head(f"{server.url}/boot.safetensors").headers["Etag"] != before


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_part_is_given_only_of_the_version_that_it_was_asked_for(bundle, server, method):
    os.utime(bundle / "boot.safetensors", (1_000_000_000, 1_000_000_000))
    head = httpx.head(f"{server.url}/boot.safetensors").headers
    tag, date = head["Etag"], head["Last-Modified"]
    conditions = {
        tag: 206,
        date: 206,
        '"other"': 200,
        f"W/{tag}": 200,
        "Sun, 09 Sep 2001 01:46:41 GMT": 200,
        "x": 200,
        "": 200,
    }
    for condition, status in conditions.items():
        asked = {"Range": "bytes=10-19", "If-Range": condition}
        answer = httpx.request(method, f"{server.url}/boot.safetensors", headers=asked)
        assert answer.status_code == status, condition
        assert method == "HEAD" or answer.content == (BOOT[10:20] if status == 206 else BOOT)
    (bundle / "boot.safetensors").write_bytes(BOOT[::-1])
    fresh = httpx.head(f"{server.url}/boot.safetensors").headers["Last-Modified"]
    for condition in (tag, fresh):  # a file that has just changed may change again within the second
        asked = {"Range": "bytes=10-19", "If-Range": condition}
        assert httpx.get(f"{server.url}/boot.safetensors", headers=asked).content == BOOT[::-1]


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/notes.txt",
        "/later.safetensors",
        "/inner",
        "/inner/",
        "/inner/boot.safetensors",
        "/../secret.txt",
        "/%2e%2e/secret.txt",
        "/..%2fsecret.txt",
        "/%2e%2e%2fsecret.txt",
        "/..%5csecret.txt",
        "/inner/../boot.safetensors",
        "/./boot.safetensors",
        "//boot.safetensors",
        "/boot.safetensors/",
        "/boot.safetensors%00",
        "/BOOT.safetensors",
        "/%252e%252e/secret.txt",
        "http://127.0.0.1/../secret.txt",
        "/etc/passwd",
        "//etc/passwd",
        "/%2fetc%2fpasswd",
    ],
)
def test_nothing_else_is_served_however_it_is_asked_for(server, path):
    answer = raw(server, f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
    assert re.match(rb"HTTP/1\.1 404 ", answer), answer
    assert b"secret" not in answer
    assert b"<" not in answer, "no page, no listing"


def test_odd_requests_do_no_harm(bundle, server):
    for request in (
        "GET ../secret.txt HTTP/1.0\r\n\r\n",
        "GET\r\n\r\n",
        "\0\r\n\r\n",
        "GET /%ff HTTP/1.0\r\n\r\n",
    ):
        assert not re.match(rb"HTTP/1\.1 2", answer := raw(server, request)), answer
        assert b"secret" not in answer
    assert httpx.get(f"{server.url}/boot.safetensors").content == BOOT


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "BREW"])
def test_reading_only(bundle, server, method):
    body = b"" if method == "OPTIONS" else b"x" * 100
    for path in ("/boot.safetensors", "/absent"):
        answer = httpx.request(method, server.url + path, content=body)
        assert answer.status_code == 405
        assert answer.headers["Allow"] == "GET, HEAD"
    assert (bundle / "boot.safetensors").read_bytes() == BOOT


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1", 200),
        ("localhost", 200),
        ("LOCALHOST:80", 200),
        ("127.0.0.1:1234", 200),
        ("evil.example", 403),
        ("127.0.0.1.evil.example", 403),
        ("localhost.evil.example:80", 403),
        ("192.168.0.1", 403),
        ("0.0.0.0", 403),
        ("[::1]", 403),
    ],
)
def test_only_who_asks_for_this_machine_is_answered(server, host, status):
    for path in ("/index.json", "/absent"):
        answer = raw(server, f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")
        expected = 404 if status == 200 and path == "/absent" else status
        assert answer.startswith(b"HTTP/1.1 %d " % expected), answer


def test_it_listens_on_the_loopback_only(server):
    host, port = server.url.removeprefix("http://").split(":")
    assert host == "127.0.0.1"
    listening = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    mine = [words[1] for words in listening if words[3] == "0A" and words[1].endswith(f":{int(port):04X}")]
    assert mine == [f"0100007F:{int(port):04X}"]
    six = Path("/proc/net/tcp6")
    assert not six.exists() or not any(
        words[3] == "0A" and words[1].endswith(f":{int(port):04X}")
        for words in map(str.split, six.read_text().splitlines()[1:])
    )


def test_links_within_the_folder_are_followed_and_no_others(bundle):
    write_index(bundle, "in.bin", "out.bin")
    (bundle / "in.bin").symlink_to("notes.txt")
    (bundle / "out.bin").write_text("plain")
    with BundleServer(bundle) as server:
        assert httpx.get(f"{server.url}/in.bin").text == "secret"
        (bundle / "out.bin").unlink()
        (bundle / "out.bin").symlink_to("../secret.txt")
        assert httpx.get(f"{server.url}/out.bin").status_code == 404
        (bundle / "out.bin").unlink()
        os.mkfifo(bundle / "out.bin")
        assert httpx.get(f"{server.url}/out.bin").status_code == 404


def test_a_bundle_of_links_is_refused_at_the_start(bundle):
    (bundle / "boot.safetensors").unlink()
    (bundle / "boot.safetensors").symlink_to("../secret.txt")
    with pytest.raises(InvalidValueError, match=r"boot\.safetensors is a link that leaves"):
        BundleServer(bundle)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "JSONDecodeError"),
        ("[]", "is not a bundle's index"),
        ("{}", "KeyError"),
        ('{"shards": 3}', "is not a bundle's index"),
        ('{"shards": [{"name": "x"}]}', "KeyError"),
        ('{"shards": [{"file": 3}]}', "is not a bundle's index"),
        ('{"shards": [{"file": "../secret.txt"}]}', "not a plain file name"),
        ('{"shards": [{"file": ".ssh"}]}', "not a plain file name"),
        ("\udcff", "UnicodeDecodeError"),
        (" " * 100_000, "larger than"),
    ],
)
def test_a_folder_whose_index_says_nothing_is_refused(bundle, monkeypatch, text, words):
    monkeypatch.setattr(serve_module, "MOST_INDEX_BYTES", 50_000)
    (bundle / "index.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(InvalidValueError, match=words) as caught:
        BundleServer(bundle)
    assert str(bundle / "index.json") in str(caught.value)


def test_a_folder_that_is_no_bundle_is_refused(tmp_path):
    with pytest.raises(MissingDataError, match=r"is not a bundle: it has no index\.json"):
        BundleServer(tmp_path)
    with pytest.raises(MissingDataError, match="absent is missing"):
        BundleServer(tmp_path / "absent")


def test_a_port_that_is_taken_or_none_is_refused(bundle, server):
    with pytest.raises(InvalidValueError, match=r"port = \d+ .*0 picks one"):
        BundleServer(bundle, int(server.url.rpartition(":")[2]))
    for port in (-1, 65_536):
        with pytest.raises(InvalidValueError, match=f"port = {port} "):
            BundleServer(bundle, port)


def test_a_throttled_server_takes_the_time_of_a_slow_link(bundle):
    def seconds(count, first=0):
        """How long it takes to read the file `count` times at once, from byte `first` on."""
        begun = time.monotonic()
        parts = list(pool.map(lambda source: b"".join(source.chunks("boot.safetensors", first)), [source] * count))
        ended = time.monotonic()
        assert parts == [BOOT[first:]] * count
        return ended - begun

    throttle = Throttle(1, 0.1)
    with (
        BundleServer(bundle, throttle=throttle) as server,
        open_source(server.url) as source,
        ThreadPoolExecutor(2) as pool,
    ):
        assert seconds(1) >= 0.1 + len(BOOT) / 1e6
        assert seconds(2) >= 0.1 + 2 * len(BOOT) / 1e6, "both share the link"
        assert seconds(1, first=156_000) >= 0.1 + 100_000 / 1e6


def connected(url):
    """A connection that has asked for nothing yet."""
    host, port = url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=GUARD_S)


def test_more_connections_than_there_is_room_for_keep_nobody_out(bundle, monkeypatch, caplog):
    monkeypatch.setattr(serve_module, "MOST_CONNECTIONS", 8)
    monkeypatch.setattr(serve_module, "PATIENCE_S", 0.05)
    monkeypatch.setattr(serve_module, "REST_S", 0.02)
    with BundleServer(bundle) as server, contextlib.ExitStack() as open_ones:
        begun = b"GET /boot.safetensors HTTP/1.1\r\nHost: localhost\r\n"
        for number in range(60):  # half open: some have begun to ask
            open_ones.enter_context(connected(server.url)).sendall(begun if number % 2 else b"")
        for _ in range(3):
            assert httpx.get(f"{server.url}/boot.safetensors", timeout=GUARD_S).content == BOOT
    assert caplog.text == ""


def test_where_all_connections_are_busy_a_new_one_waits_and_breaks_off_none(bundle, monkeypatch):
    monkeypatch.setattr(serve_module, "MOST_CONNECTIONS", 2)
    monkeypatch.setattr(serve_module, "REST_S", 0.05)
    monkeypatch.setattr(serve_module, "PATIENCE_S", GUARD_S)  # on a busy machine a client may take a second to ask
    with BundleServer(bundle, throttle=Throttle(1)) as server, ThreadPoolExecutor(5) as pool:
        url = f"{server.url}/boot.safetensors"
        asked = [pool.submit(httpx.get, url, timeout=GUARD_S, headers={"Connection": "close"}) for _ in range(5)]
        assert [answer.result(GUARD_S).content for answer in asked] == [BOOT] * 5


def test_without_a_descriptor_left_it_neither_spins_nor_complains(bundle):
    command = 'ulimit -n 48; exec "$0" serve "$1"'
    started = subprocess.Popen(
        ["bash", "-c", command, COMMAND, bundle], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        url = re.search(r"http://127\.0\.0\.1:\d+", started.stdout.readline())[0]
        with contextlib.ExitStack() as open_ones:
            for _ in range(100):
                open_ones.enter_context(connected(url)).sendall(b"GET /")
            assert httpx.get(f"{url}/boot.safetensors", timeout=GUARD_S).content == BOOT
            process = psutil.Process(started.pid)
            before = process.cpu_times().user + process.cpu_times().system
            time.sleep(1)
            after = process.cpu_times().user + process.cpu_times().system
        started.send_signal(signal.SIGTERM)
        _, errors = started.communicate(timeout=GUARD_S)
    finally:
        started.kill()
        started.wait()
    assert after - before < 0.5, "it spins"
    assert (errors, started.returncode) == ("", 0)


def test_requests_sent_ahead_on_a_connection_that_has_ended_are_not_answered(bundle, monkeypatch):
    late, begun, prepare = [], threading.Event(), serve_module._BundleHandler.prepare

    async def noting(handler):
        late.append(handler.request.connection.stream is None or handler.request.connection.stream.closed())
        if len(late) >= 40:
            begun.set()
        await prepare(handler)

    monkeypatch.setattr(serve_module._BundleHandler, "prepare", noting)
    with BundleServer(bundle) as server, contextlib.ExitStack() as open_ones:
        for _ in range(4):
            flood = b"GET /absent HTTP/1.1\r\nHost: localhost\r\n\r\n" * 1_000
            open_ones.enter_context(connected(server.url)).sendall(flood)
        assert begun.wait(GUARD_S)
        server.close()
    assert sum(late) <= 4
    assert len(late) < 4_000, "all had been answered before it was closed: the test says nothing"


def test_closing_breaks_off_downloads_and_frees_the_port(bundle, caplog):
    server = BundleServer(bundle, throttle=Throttle(0.01))
    with open_source(server.url) as source, ThreadPoolExecutor(1) as pool:
        reading = pool.submit(list, source.chunks("boot.safetensors"))
        time.sleep(0.05)
        server.close()
        server.close()
        error = reading.exception(GUARD_S)
    assert isinstance(error, SourceError)
    assert error.transient
    assert caplog.text == ""
    with BundleServer(bundle, int(server.url.rpartition(":")[2])) as again:
        assert again.url == server.url
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("bundle at")]


def test_a_client_that_goes_away_does_no_harm(bundle, caplog):
    with BundleServer(bundle, throttle=Throttle(0.5)) as server, httpx.Client(base_url=server.url) as client:
        for _ in range(3):
            with client.stream("GET", "/boot.safetensors") as answer:
                next(answer.iter_raw())
        assert client.get("/index.json").status_code == 200
    assert caplog.text == ""


def test_a_client_may_go_while_the_latency_lasts(bundle, caplog):
    with BundleServer(bundle, throttle=Throttle(None, 3 * GUARD_S)) as server:
        for _ in range(2):
            with pytest.raises(httpx.ReadTimeout):
                httpx.get(f"{server.url}/boot.safetensors", timeout=0.1)
        with socket.create_connection(server.url.removeprefix("http://").split(":")) as waiting:
            waiting.sendall(b"GET /index.json HTTP/1.1\r\nHost: localhost\r\n\r\n")
            server.close()
            with contextlib.suppress(ConnectionResetError):
                assert waiting.recv(100) == b""
    assert caplog.text == ""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_the_command_serves_until_it_is_told_to_end(bundle, number):
    started = subprocess.Popen(
        [COMMAND, "serve", bundle, "--megabytes-per-s", "0.1", "--latency-ms", "5"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        first = started.stdout.readline()
        url = re.search(r"http://127\.0\.0\.1:\d+", first)[0]
        assert started.stdout.readline() == f'Open it with ProgressiveModel.open("{url}").\n'
        assert first == f"{bundle} is at {url} (0.1 MB/s, 5 ms latency). Press Ctrl-C to stop.\n"
        with httpx.stream("GET", f"{url}/boot.safetensors") as under_way:
            assert under_way.status_code == 200
            assert next(under_way.iter_raw())
            started.send_signal(number)
            rest, errors = started.communicate(timeout=GUARD_S)
    finally:
        started.kill()
        started.wait()
    assert (rest, errors, started.returncode) == ("", "", 0)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["absent"], "absent is missing"),
        (["."], "has no index.json"),
        (["bundle", "--megabytes-per-s", "0"], "megabytes_per_s"),
        (["bundle", "--latency-ms", "-1"], "latency_s"),
        (["bundle", "--port", "70000"], "port"),
    ],
)
def test_the_command_refuses_before_it_serves(bundle, monkeypatch, words, message):
    monkeypatch.chdir(bundle.parent)
    done = CliRunner().invoke(app, ["serve", *words])
    assert done.exit_code == 2
    assert message in done.stderr
    assert done.stdout == ""


def raw(server, request):
    """What the server says to a request that no client would send."""
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=GUARD_S) as connection:
        connection.sendall(request.encode("latin-1"))
        answer = b""
        while piece := connection.recv(65_536):
            answer += piece
    return answer
