"""Bundles on other machines: over HTTP, and in any storage that fsspec supports."""

import contextlib
import os
import re
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from ipaddress import ip_address
from typing import Any, TypeVar
from urllib.parse import SplitResult, quote, urlsplit, urlunsplit
from weakref import WeakSet

import httpx

from pwl_lab.loading.sources import CHUNK_BYTES, Source, SourceError
from pwl_lab.support.errors import invalid
from pwl_lab.support.retries import permanent, permanent_status, reason
from pwl_lab.support.storages import open_storage, shown
from pwl_lab.support.waiting import call_in_thread

Result = TypeVar("Result")

MAX_REDIRECTS = 5
PROXIES, CERTIFICATES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"), ("SSL_CERT_FILE", "SSL_CERT_DIR")
READ_VARIABLES = (*PROXIES, *CERTIFICATES, "SSLKEYLOGFILE")
BLOCK_BYTES = 4 * 2**20  # the size of one request to a storage
# The client's errors that are about the connection; all others are about the request.
PASSING = (httpx.TimeoutException, httpx.NetworkError, httpx.RemoteProtocolError, httpx.ProxyError)


class RemoteSource(Source):
    """A source whose calls cannot be interrupted: each runs in its own thread, so that `close` can end the wait."""

    def __init__(self, address: str) -> None:
        """As `Source`."""
        super().__init__(address)
        self._changed = threading.Condition()

    def close(self) -> None:
        """As `Source.close`. A call in progress ends in the background."""
        super().close()
        self._wake()

    def _wake(self, _: Future[Any] | None = None) -> None:
        """Wake the threads that wait for a call."""
        with self._changed:
            self._changed.notify_all()

    def _aside(self, name: str, call: Callable[[], Result]) -> Result:
        """Return the result of `call`. Any exception in it becomes a SourceError, so that no caller waits for ever."""
        outcome = call_in_thread(call, f"read {name}")
        outcome.add_done_callback(self._wake)
        with self._changed:
            self._changed.wait_for(lambda: outcome.done() or self._closed.is_set())
        if self._closed.is_set():
            outcome.add_done_callback(_let_go)  # now, or when it is done
            self._check_open()
        try:
            return outcome.result()
        except SourceError:
            raise
        except BaseException as error:
            raise self._error(name, reason(error), not permanent(error)) from error


class HttpSource(RemoteSource):
    """A bundle on a web server. Connections are reused.

    There is one request per read (and one more for each redirect, which must keep the scheme). Compressed answers are
    refused: the bytes are checked as they were written, and weights do not compress.
    """

    def __init__(self, url: str, timeout_s: float = 10.0) -> None:
        """Create the client; no request is sent yet.

        Arguments:
        - `url`: the address of the bundle's folder.
        - `timeout_s`: the longest wait for a connection, or for more bytes.

        Raises InvalidValueError for an incomplete address, and SourceError if the environment (proxies, certificates)
        does not allow a connection.
        """
        if not timeout_s > 0:
            raise invalid("timeout_s", timeout_s, "a number of seconds above 0")
        self._parts = _parts(url)
        host = self._parts.netloc.rpartition("@")[2]  # no passwords or query tokens in messages
        super().__init__(shown(urlunsplit((self._parts.scheme, host, self._parts.path.rstrip("/"), "", ""))))
        try:
            self._client = httpx.Client(
                timeout=timeout_s,
                headers={"Accept-Encoding": "identity"},
                # Reading all certificates takes 50 ms, which http:// does not need; this context trusts none.
                verify=True if self._parts.scheme == "https" else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),
                trust_env=not _is_loopback(self._parts.hostname),  # a proxy would look for it on the proxy's machine
            )
        except Exception as error:  # noqa: BLE001 - proxies and certificate files raise errors of many kinds
            raise self._no_connection(error) from (None if _has_password() else error)
        self._lock = threading.RLock()  # one thread may enter twice: a generator can be collected anywhere
        self._reading = 0
        self._sockets: WeakSet[socket.socket] = WeakSet()

    def chunks(self, name: str, offset: int = 0) -> Iterator[bytes | memoryview]:
        """As `Source.chunks`. A server that stalls, drops the connection or is overloaded is a transient error."""
        self._begin(name, offset)
        with self._reader():
            answer = self._aside(name, lambda: self._ask(name, offset))
            with self._explaining(name), contextlib.closing(answer) as response:
                skip, whole = self._check_answer(name, offset, response)
                if response.status_code != httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE:
                    for chunk in response.iter_raw():
                        if len(chunk) > skip:
                            yield memoryview(chunk)[skip:] if skip else chunk
                            self._check_open()
                        skip = max(0, skip - len(chunk))
            if skip:
                raise self._error(name, f"has no byte {offset}")
            if not whole:
                raise self._error(name, "the server sent only a part of what was requested", transient=True)

    def close(self) -> None:
        """As `Source.close`, at once; a connection that is being set up ends in the background."""
        super().close()
        with self._lock:
            for connection in list(self._sockets):
                _shut_down(connection)
            self._close_client()

    def _no_connection(self, error: Exception) -> SourceError:
        """The error for a client that cannot be created; it names the environment variables, without passwords."""
        told = ", ".join(f"{name}={value.rpartition('@')[2]}" for name, value in _variables().items())
        why = type(error).__name__ if _has_password() else f"{type(error).__name__}: {error}"
        advice = f"check {told or 'the certificates of this machine'}"
        return SourceError(f"{self.address}: no connection can be set up ({why}; {advice})")

    @contextlib.contextmanager
    def _reader(self) -> Iterator[None]:
        """A context in which the client is in use."""
        with self._lock:
            self._check_open()
            self._reading += 1
        try:
            yield
        finally:
            with self._lock:
                self._reading -= 1
                self._close_client()

    def _close_client(self) -> None:
        """Close the connections once no thread reads from them: a descriptor that is still in use must not be freed."""
        if self._closed.is_set() and not self._reading:
            self._client.close()

    def _ask(self, name: str, offset: int) -> httpx.Response:
        """The server's answer after redirects, with its body not yet read."""
        path = f"{self._parts.path.rstrip('/')}/{quote(name, safe='')}"
        url = urlunsplit((self._parts.scheme, self._parts.netloc, path, self._parts.query, ""))
        headers = {"Range": f"bytes={offset}-"} if offset else {}
        with self._reader(), self._explaining(name):
            request = self._client.build_request("GET", url, headers=headers, extensions={"trace": self._trace})
            for _ in range(MAX_REDIRECTS + 1):
                response = self._client.send(request, stream=True)
                if response.next_request is None:
                    return response
                request = response.next_request
                response.close()
                if request.url.scheme != self._parts.scheme:
                    why = f"redirected from {self._parts.scheme} to {request.url.scheme}, not followed"
                    raise self._error(name, why)
            raise self._error(name, f"more than {MAX_REDIRECTS} redirects")

    def _check_answer(self, name: str, offset: int, response: httpx.Response) -> tuple[int, bool]:
        """How many bytes of the answer come before `offset`, and whether it extends to the end of the file."""
        status, headers = response.status_code, response.headers
        if status == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE:
            if headers.get("Content-Range") == f"bytes */{offset}":
                return 0, True  # a request for what comes after the last byte: nothing
            raise self._error(name, f"has no byte {offset} (HTTP 416)")
        if status not in (httpx.codes.OK, httpx.codes.PARTIAL_CONTENT):
            said = f"HTTP {status} {response.reason_phrase}".rstrip()
            raise self._error(name, said, not permanent_status(status))
        if headers.get("Content-Encoding", "identity").lower() != "identity":
            raise self._error(name, f"the server compressed it ({headers['Content-Encoding']}), unrequested")
        if status == httpx.codes.OK:
            return offset, True  # the server does not support Range
        found = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+|\*)", headers.get("Content-Range", ""))
        if found is None or int(found[1]) != offset:
            raise self._error(name, f"requested bytes from {offset} on, got {headers.get('Content-Range')!r}")
        return 0, found[3] == "*" or int(found[2]) + 1 == int(found[3])

    @contextlib.contextmanager
    def _explaining(self, name: str) -> Iterator[None]:
        """Turn the client's errors into SourceError."""
        try:
            yield
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError) as error:
            self._check_open()  # the error may be due to closing
            passing = isinstance(error, PASSING) and not permanent(error)
            raise self._error(name, str(error) or type(error).__name__, passing) from error

    def _trace(self, event: str, info: dict[str, Any]) -> None:
        """Called by the client: remember each new connection, so that `close` can end it before it has answered."""
        if event.endswith((".connect_tcp.complete", ".start_tls.complete")):
            connection = info["return_value"].get_extra_info("socket")
            with self._lock:
                self._sockets.add(connection)
                if self._closed.is_set():
                    _shut_down(connection)


class FsspecSource(RemoteSource):
    """A bundle in a storage that fsspec supports: s3://bucket/folder, gs://, memory:// and others."""

    def __init__(self, url: str) -> None:
        """Raises InvalidValueError as `open_storage` does, and SourceError if the storage cannot be opened."""
        self._storage, self._folder = open_storage("address", url, SourceError)
        super().__init__(shown(url))

    def chunks(self, name: str, offset: int = 0) -> Iterator[bytes | memoryview]:
        """As `Source.chunks`."""
        self._begin(name, offset)
        file = self._aside(name, lambda: self._storage.open(f"{self._folder}/{name}", "rb", block_size=BLOCK_BYTES))
        with file:
            if offset:
                if offset > self._aside(name, lambda: file.seek(0, os.SEEK_END)):
                    raise self._error(name, f"has no byte {offset}")
                self._aside(name, lambda: file.seek(offset))
            while chunk := self._aside(name, lambda: file.read(CHUNK_BYTES)):
                yield chunk


def _parts(url: str) -> SplitResult:
    """The parts of an http address. Raises InvalidValueError if it is incomplete."""
    allowed = "http:// or https://, a host and a path"
    try:
        parts = urlsplit(url)
        _ = parts.port  # raises if it is not a number
        (httpx.URL(url).host or "").encode("idna")  # as a look-up would, with a less clear error
    except (ValueError, httpx.InvalidURL) as error:
        if "@" in url:  # the error may quote any part of a password
            raise invalid("address", shown(url), f"{allowed} ({type(error).__name__})") from None
        raise invalid("address", shown(url), f"{allowed} ({error})") from error
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise invalid("address", shown(url), allowed)
    return parts


def _variables() -> dict[str, str]:
    """The environment variables that a client reads, with their values."""
    return {name: value for name, value in sorted(os.environ.items()) if name.upper() in READ_VARIABLES}


def _has_password() -> bool:
    """Whether one of these variables may hold a password, part of which an error could quote."""
    return any("@" in value for value in _variables().values())


def _is_loopback(host: str | None) -> bool:
    """Whether a host name refers to this machine."""
    try:
        return host == "localhost" or ip_address(host or "").is_loopback
    except ValueError:  # a name, not an address
        return False


def _shut_down(connection: socket.socket) -> None:
    """Shut a connection down in both directions, which wakes any thread waiting for it; TLS is left alone."""
    with contextlib.suppress(OSError):  # it has ended already
        socket.socket.shutdown(connection, socket.SHUT_RDWR)


def _let_go(outcome: Future[Any]) -> None:
    """Close a result that arrived too late to be used."""
    with contextlib.suppress(BaseException):  # an error, or nothing to close: the caller is gone
        outcome.result().close()
