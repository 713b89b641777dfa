"""Every way in which a scheduler cannot be reached is one line that says what to check, in time."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import dask
import pytest
from benches import HANG_S, Bench
from distributed.security import Security
from hypothesis import example, given, settings
from hypothesis import strategies as st
from loopback import free_port
from processes import until
from typer.testing import CliRunner

from pwl_lab.cli import app
from pwl_lab.runner import clusters
from pwl_lab.runner import clusters as reaching
from pwl_lab.runner.clusters import StoppedError, connect
from pwl_lab.runner.kernel import Runs
from pwl_lab.support.errors import InvalidValueError

SLACK_S = 30  # that a busy machine may need beside the time to connect


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reaching, "CONNECT_S", 6)
    clusters._quieten()


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Dask's settings for TLS, as variables."""
    made, folder = Security.temporary(), tmp_path_factory.mktemp("tls")
    names = {"CA_FILE": made.tls_ca_file}
    for role in ("scheduler", "client", "worker"):
        names[f"{role.upper()}__CERT"] = getattr(made, f"tls_{role}_cert")
        names[f"{role.upper()}__KEY"] = getattr(made, f"tls_{role}_key")
    for name, text in names.items():
        (folder / name).write_text(text)
    return {f"DASK_DISTRIBUTED__COMM__TLS__{name}": str(folder / name) for name in names}


def as_settings(variables: dict[str, str]) -> dict[str, str]:
    """Variables as the names of Dask's settings."""
    return {
        name.removeprefix("DASK_").lower().replace("__", ".").replace("_", "-"): text
        for name, text in variables.items()
    }


def listens(port: int) -> bool:
    """Whether something does."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture(scope="module")
def places(certificates: dict[str, str]) -> Iterator[dict[str, int]]:
    """Ports where something listens: what it is, and its number."""
    ports = {"tls": free_port(), "tcp": free_port(), "closed": free_port()}
    command = [sys.executable, "-m", "dask", "scheduler", "--no-dashboard", "--host", "127.0.0.1"]
    schedulers = [
        subprocess.Popen(
            [*command, "--protocol", name, "--port", str(ports[name])],
            env=os.environ | certificates,
            stderr=subprocess.DEVNULL,
        )
        for name in ("tls", "tcp")
    ]
    web = ThreadingHTTPServer(("127.0.0.1", 0), SimpleHTTPRequestHandler)
    Thread(target=web.serve_forever, daemon=True).start()
    with socket.create_server(("127.0.0.1", 0)) as mute:
        ports |= {"http": web.server_port, "mute": mute.getsockname()[1]}
        try:
            until(lambda: listens(ports["tls"]) and listens(ports["tcp"]), HANG_S)
            yield ports
        finally:
            web.shutdown()
            web.server_close()
            for scheduler in schedulers:
                scheduler.kill()
                scheduler.wait()


NO_ADDRESSES = ["", " ", "foo", "http://127.0.0.1:1", "s3://b/x", "inproc://1", "tcp://", "tcp://127.0.0.1", "tcp:/h:1"]
NO_ADDRESSES += ["tcp://[::1", "tcp://h:x", "tcp://h:99999", "tcp://h:1/x", "/tmp/scheduler.json", "scheduler.json"]
NO_ADDRESSES += ["tcp://:8786", "h:1:2", "é://h:1"]


@pytest.mark.parametrize("wrong", NO_ADDRESSES)
def test_what_is_no_address_is_refused_at_once(wrong: str) -> None:
    with pytest.raises(InvalidValueError, match=r"is not allowed: an address as tcp://HOST:PORT") as told:
        connect(wrong, Runs())
    assert f"scheduler = {wrong!r}" in str(told.value)


@given(st.text(st.characters(exclude_characters="?#@[]:/", exclude_categories=["Cs"]), min_size=1, max_size=70))
@settings(deadline=None, max_examples=50)
@example("a" * 70)
@example("a..b")
@example("xn--")
@example("é" * 70)
@example("a\0b")
def test_no_host_name_raises_anything_but_our_own_error(host: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, "create_connection", looked_up)
        with pytest.raises(InvalidValueError, match=r"^scheduler = .* is not allowed"):
            connect(f"tcp://{host}:9", Runs())


def looked_up(address: tuple[str, int], timeout: float) -> None:
    """As the real one, as far as it goes without asking anybody."""
    host = address[0].encode("idna")
    if b"\0" in host:
        raise ValueError("embedded null character")
    raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")


@pytest.mark.parametrize("more", [[], ["--dry-run"]])
@pytest.mark.parametrize("wrong", NO_ADDRESSES)
def test_a_batch_for_no_scheduler_is_refused_before_anything_is_said_or_written(
    wrong: str, more: list[str], bench: Bench
) -> None:
    words = ["batch", str(bench.grid("fine")), "--out", str(bench.out), "--scheduler", wrong, *more]
    told = CliRunner().invoke(app, words)
    assert told.exit_code == 2
    assert told.output.startswith(f"pwl-lab: scheduler = {wrong!r} is not allowed: ")
    assert not bench.out.exists()


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("tcp://{closed}", "nothing listens on port"),
        ("{closed}", "nothing listens on port"),
        ("TCP://{closed}", "nothing listens on port"),
        ("tcp://no-such-host.invalid:1", "the host name 'no-such-host.invalid' is not known on this machine"),
        ("tcp://{http}", "does not answer like a Dask scheduler"),
        ("tcp://{mute}", "does not answer like a Dask scheduler"),
        ("tcp://{tls}", "uses TLS; give the address as tls://127.0.0.1:"),
        ("tls://{tls}", "tls:// needs certificates: set DASK_DISTRIBUTED__COMM__TLS__CA_FILE"),
    ],
)
def test_who_does_not_answer_as_a_scheduler_is_named(places: dict[str, int], address: str, said: str) -> None:
    address = address.format(**{name: f"127.0.0.1:{port}" for name, port in places.items()})
    refused(address, said)


def refused(address: str, said: str) -> None:
    """One line that says this, in time."""
    begun = time.monotonic()
    with pytest.raises(InvalidValueError) as told:
        connect(address, Runs())
    assert f"scheduler = {address!r} is not allowed: " in str(told.value)
    assert said in str(told.value)
    assert "\n" not in str(told.value)
    assert time.monotonic() - begun < reaching.CONNECT_S + SLACK_S


def test_certificates_decide_over_tls(
    places: dict[str, int], certificates: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tls = f"tls://127.0.0.1:{places['tls']}"
    with dask.config.set(as_settings(certificates)):
        with clusters._closing(connect(tls, Runs())) as client:
            assert client.status == "running"
        refused(
            f"tls://127.0.0.1:{places['tcp']}",
            "does not use TLS; a scheduler without it has the address tcp://127.0.0.1:",
        )
        for name in ("CA_FILE", "CLIENT__KEY"):
            damaged = tmp_path / name
            for text in (None, "not a certificate"):
                if text:
                    damaged.write_text(text)
                own = certificates | {f"DASK_DISTRIBUTED__COMM__TLS__{name}": str(damaged)}
                with dask.config.set(as_settings(own)):
                    refused(tls, "certificates that can be read: those of distributed.comm.tls")
    others = tmp_path / "others.pem"
    others.write_text(Security.temporary().tls_ca_file)
    own = certificates | {"DASK_DISTRIBUTED__COMM__TLS__CA_FILE": str(others)}
    with dask.config.set(as_settings(own)):
        refused(tls, "the two do not accept each other's certificates")


def test_a_signal_ends_the_wait_for_a_scheduler(places: dict[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reaching, "CONNECT_S", 300)
    for name in ("mute", "closed"):
        runs = Runs()
        stopper = Thread(target=lambda runs=runs: (time.sleep(0.5), runs.stop("SIGINT")))
        stopper.start()
        with pytest.raises(StoppedError, match="SIGINT"):
            connect(f"tcp://127.0.0.1:{places[name]}", runs)


BAD_FILES = {"yaml": "distributed: [", "list": "- 1", "word": "nonsense", "binary": "\x01\x02: {"}


@pytest.mark.parametrize("kind", BAD_FILES)
def test_a_dask_configuration_that_cannot_be_read_is_one_line(bench: Bench, kind: str, monkeypatch) -> None:
    config = bench.home / "dask"
    config.mkdir()
    (config / "own.yaml").write_text(BAD_FILES[kind])
    monkeypatch.setenv("DASK_CONFIG", str(config))
    for words in (["--workers", "1"], ["--scheduler", "tcp://127.0.0.1:9"]):
        code, said = bench.run(bench.grid("fine"), *words)
        assert code == 2, said
        assert "Dask does not start with its configuration on this machine" in said
        assert str(config / "own.yaml") in said
        assert "Traceback" not in said


NONSENSE = {
    "COMM__TIMEOUTS__CONNECT": "banana",
    "COMM__REQUIRE_ENCRYPTION": "True",
    "COMM__DEFAULT_SCHEME": "banana",
    "COMM__COMPRESSION": "banana",
    "COMM__TLS__CA_FILE": "{tmp_path}/absent/ca.pem",
    "WORKER__PRELOAD": "['no_such_module']",
    "WORKER__MULTIPROCESSING_METHOD": "banana",
    "SCHEDULER__WORKER_TTL": "banana",
    "NANNY__ENVIRON": "banana",
}


def test_a_batch_on_this_machine_has_dask_as_it_comes(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in NONSENSE.items():
        monkeypatch.setenv(f"DASK_DISTRIBUTED__{name}", value.format(tmp_path=tmp_path))
    code, said = bench.run(bench.grid("fine"), "--workers", "1")
    assert (code, "1 of 1 ok" in said) == (0, True), said


@pytest.mark.parametrize("name", NONSENSE)
def test_a_configuration_that_keeps_dask_from_a_scheduler_is_one_line(
    bench: Bench, places: dict[str, int], name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or it does not matter to a client; then there is only no worker, and the batch is ended."""
    monkeypatch.setenv(f"DASK_DISTRIBUTED__{name}", NONSENSE[name].format(tmp_path=tmp_path))
    process = bench.start(bench.grid("fine"), "--scheduler", f"tcp://127.0.0.1:{places['tcp']}")
    until(lambda: process.poll() is not None or (bench.out / "events.jsonl").exists(), HANG_S)
    process.terminate()
    _, errors = process.communicate(timeout=HANG_S)
    assert "Traceback" not in errors
    assert process.returncode in (1, 2)
    if process.returncode == 2:
        assert "onfiguration" in errors.splitlines()[-1]
