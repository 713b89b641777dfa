"""Addresses of bundles and of batches: whatever a storage, a client or the environment does, it is said in one sentence."""

import asyncio
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import fsspec
import pytest
from fsspec.registry import known_implementations
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from pwl_lab.cli import app
from pwl_lab.loading.model import ProgressiveModel
from pwl_lab.loading.remote import FsspecSource
from pwl_lab.loading.server import BundleServer
from pwl_lab.loading.sources import BundleError, open_source
from pwl_lab.runner.location import LocationError, StorageLocation, location_at
from pwl_lab.support.errors import InvalidValueError, PwlLabError
from pwl_lab.support.paths import local_folder
from pwl_lab.support.retries import Retry

ELSEWHERE = "nohost.invalid"
TAILS = [
    "",
    "/",
    "x",
    f"{ELSEWHERE}/x",
    "127.0.0.1:9/x",
    "::",
    "[::1",
    "~nobody/x",
    "a\0b",
    "a" * 300,
    "me:secret@127.0.0.1:9/x",
]
# Each raises something of its own when a client is made or when it is first asked.
HOSTS = ["a" * 70, "a..b", "xn--", "é" * 70, "a b", "[::1", "[v1.x]", "1.2.3.4.5", "nohost.invalid:99999", "*", "%41"]


@pytest.fixture(autouse=True)
def nothing_but_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No name is looked up, whoever asks; and what is local lies in a folder of the test's own."""
    ours = socket.getaddrinfo

    def look_up(host: object, *words: object, **more: object) -> list:
        if host in ("127.0.0.1", "localhost", None):
            return ours(host, *words, **more)
        str(host).encode("idna")  # as the real one does first
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PWL_LAB_RUNS", str(tmp_path / "runs"))


def as_source(address: str) -> None:
    with open_source(address) as source:
        list(source.chunks("index.json"))


def as_model(address: str) -> None:
    ProgressiveModel.open(address, retry=Retry(tries=1), timeout=30).close()


def as_place(address: str) -> None:
    location_at(address, patient=False).names("points")


ENTRIES = {"source": as_source, "model": as_model, "place": as_place}


def refusal(call: Callable[[str], object], address: str) -> str | None:
    """What is said of an address, in an error of ours; None where there is nothing to say. Any other error goes through."""
    try:
        call(address)
    except PwlLabError as error:
        return str(error)
    return None


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # storages half made, which say so
@pytest.mark.parametrize("make", [open_source, location_at])
@pytest.mark.parametrize("scheme", fsspec.available_protocols())
def test_no_address_of_any_scheme_raises_anything_but_our_own_errors(scheme: str, make: Callable) -> None:
    for tail in TAILS:
        said = refusal(make, f"{scheme}://{tail}")
        assert said is None or scheme in said or tail in said, "it names the address"
        assert "secret" not in str(said)


def as_a_path(address: str) -> object:
    return location_at(Path(address))


@pytest.mark.parametrize("slashes", ["", "/", "//", "///", " "])
@pytest.mark.parametrize("make", [location_at, as_a_path, StorageLocation, local_folder, BundleServer, FsspecSource])
def test_an_address_with_nothing_behind_its_scheme_is_refused_whoever_takes_it(make: Callable, slashes: str) -> None:
    for scheme in (*fsspec.available_protocols(), "S3"):
        with pytest.raises(InvalidValueError, match=rf"'{scheme}:.* is not allowed"):
            make(f"{scheme}://{slashes}")
    assert not list(Path.cwd().iterdir()), "no folder is called like a scheme"


@pytest.mark.parametrize("slashes", ["", "/", "//"])
def test_no_bundle_is_opened_where_an_address_names_no_place(slashes: str) -> None:
    for scheme in fsspec.available_protocols():
        with pytest.raises(InvalidValueError, match=f"address = '{scheme}:"):
            open_source(f"{scheme}://{slashes}")


@given(st.sampled_from(["memory", "file", "local"]), st.lists(st.booleans(), min_size=6, max_size=6))
def test_a_scheme_means_the_same_in_capitals(scheme: str, large: list[bool]) -> None:
    typed = "".join(sign.upper() if up else sign for sign, up in zip(scheme, large, strict=False))
    place, same = location_at(f"{typed}:///Some/where"), location_at(f"{scheme}:///Some/where")
    assert (type(place), place.address) == (type(same), same.address), "two batches hold the same place"
    with pytest.raises(PwlLabError, match=r"Some/where"):
        as_source(f"{typed}:///Some/where")


class Raising(fsspec.AbstractFileSystem):
    """A storage that cannot even be made."""

    protocol = "raising"
    cachable = False
    error: BaseException

    def __init__(self, **more: object) -> None:
        raise self.error


@pytest.fixture
def raising(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Raising]]:
    monkeypatch.setitem(known_implementations, "raising", {"class": "nowhere"})
    fsspec.register_implementation("raising", Raising, clobber=True)
    yield Raising
    sys.modules["fsspec.registry"]._registry.pop("raising")


class BotoError(Exception):
    """As botocore's: of no family at all."""


@pytest.mark.parametrize(
    "error",
    [
        OSError(5, "Input/output error"),
        ConnectionRefusedError(111, "refused"),
        FileNotFoundError(2, "No such file or directory"),
        TypeError("missing 1 required positional argument"),
        AttributeError("'NoneType' object has no attribute 'startswith'"),
        KeyError("region"),
        AssertionError(),
        RuntimeError("no loop"),
        BotoError("no credentials"),
        asyncio.CancelledError(),
        NotImplementedError(),
    ],
    ids=repr,
)
def test_whatever_a_storage_raises_names_the_address_and_the_reason(
    raising: type[Raising], error: BaseException
) -> None:
    raising.error = error
    user = "me:secret@"
    for entry, kind in ((as_source, BundleError), (as_model, BundleError), (as_place, LocationError)):
        with pytest.raises(kind) as caught:
            entry(f"raising://{'' if entry is as_place else user}there/bundle")
        said = str(caught.value)
        assert said.startswith(f"raising://there/bundle cannot be opened ({type(error).__name__}: ")
        assert str(error) in said
        assert caught.value.__cause__ is error


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("host", HOSTS)
def test_a_host_that_is_none_is_refused(scheme: str, host: str) -> None:
    for entry in (as_source, as_model):
        with pytest.raises((BundleError, InvalidValueError)) as caught:
            entry(f"{scheme}://{host}/bundle")
        assert host in str(caught.value) or host.encode("idna").decode() in str(caught.value)


@given(scheme=st.sampled_from(["file", "http", "https", "memory", "local", "zip", "dir"]), tail=st.text(max_size=20))
def test_no_text_behind_a_scheme_raises_anything_but_our_own_errors(scheme: str, tail: str) -> None:
    for make in (open_source, location_at):
        assert refusal(make, f"{scheme}://{tail}") != ""


VARIABLES = [
    "HTTP_PROXY",
    "https_proxy",
    "ALL_PROXY",
    "NO_PROXY",
    "no_proxy",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "SSLKEYLOGFILE",
]
VALUES = [
    "[::1]",
    "/nowhere/at/all",
    "foo://me:secret@x",
    "socks5://127.0.0.1:1",
    "http://[::1",
    "::",
    ",",
    " ",
    "*",
    "http://:x",
    "é",
]


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("variable", VARIABLES)
def test_an_environment_that_allows_no_connection_is_named(
    variable: str, scheme: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "not-a-certificate").write_text("x")
    refusals = 0
    for value in [*VALUES, str(tmp_path / "not-a-certificate")]:
        monkeypatch.setenv(variable, value)
        said = refusal(lambda address: open_source(address).close(), f"{scheme}://{ELSEWHERE}/bundle")
        if said is not None:
            refusals += 1
            assert said.startswith(f"{scheme}://{ELSEWHERE}/bundle: no connection can be set up")
            assert f"{variable}={value.rpartition('@')[2]}" in said
            assert "secret" not in said
    assert refusals or variable == "SSL_CERT_DIR" or (scheme == "http" and variable.startswith("SSL")), "it is not read"


PASSWORDS = [
    "geh/eim",
    "geh℀eim",
    "geh[eim",
    "geh@eim",
    "geh:eim",
    "geh#eim",
    "geh?eim",
    "geh]eim",
    "geh%eim",
    "geh eim",
]


@pytest.mark.parametrize("password", PASSWORDS)
@pytest.mark.parametrize("behind", ["host:80/x", "ho℀st/x", "host:port/x", "[::1/x", "a..b/x"])
def test_no_part_of_a_password_is_told(password: str, behind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = f"user:{password}@{behind}"
    for scheme in ("http", "https", "ftp", "memory", "sftp", "github"):
        quiet(lambda at=f"{scheme}://{secret}": address_of(at))
        quiet(lambda at=f"{scheme}://{secret}": location_at(at))
    quiet(lambda: address_of(f"file://{secret}"))
    for variable in ("HTTP_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(variable, f"http://{secret}")
        for scheme in ("http", "https"):
            quiet(lambda at=f"{scheme}://{ELSEWHERE}/bundle": open_source(at).close())
        monkeypatch.delenv(variable)


def address_of(address: str) -> str:
    """What a source says of where it is."""
    with open_source(address) as source:
        return source.address


def quiet(call: Callable[[], object]) -> None:
    """Whatever is said of it, there is no part of the password in it."""
    try:
        told = str(call())
    except PwlLabError as error:
        told = str(error)
    assert "geh" not in told
    assert "eim" not in told


@pytest.mark.parametrize("address", ["ftp://nohost.invalid/x", "zip://x"])
def test_a_batch_at_such_an_address_is_refused_in_one_line(address: str, tmp_path: Path) -> None:
    (tmp_path / "grid.yaml").write_text("notebook: 02_distillation_curricula\npreset: smoke\nseeds: [1, 2]\n")
    done = CliRunner().invoke(app, ["batch", str(tmp_path / "grid.yaml"), "--out", address])
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert f"{address} cannot be opened" in done.stderr


def test_a_folder_that_cannot_be_looked_at_is_said(tmp_path: Path) -> None:
    for path in ("~nobody-of-this-name/bundle", "a" * 300):
        with pytest.raises(BundleError, match=f"{path} cannot be opened"):
            open_source(path)
