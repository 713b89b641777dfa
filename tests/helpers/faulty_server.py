"""A web server on the loopback that misbehaves as a test asks it to, file by file, and remembers what it was asked for.

    with FaultyServer(folder, {"block-1.safetensors": Fault(cut_after=1000, times=1)}) as server:
        ...  # server.url, server.ranges("block-1.safetensors") == [None, "bytes=1000-"]

Files may also be given as a dictionary of bytes. Faults can be changed while it runs: `server.faults[name] = Fault(...)`.
"""

import contextlib
import http.server
import re
import select
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self
from urllib.parse import unquote

STALL_POLL_S = 0.02  # how soon a stalled answer sees that it was released or that the client went


@dataclass(frozen=True)
class Fault:
    """What goes wrong with a file. Positions count in the bytes of the answer's body, so after `Range` from its offset on."""

    times: int | None = None  # with how many requests of this file, from the first (None: all)
    status: int | None = None  # answer this and no body: 404, 500, 503, 302 ...
    cut_after: int | None = None  # close the connection after so many bytes
    stall_after: int | None = None  # send no more after so many bytes (-1: not even the headers) until `release`
    flip_bit: int | None = None  # of the file: bit 0 is the lowest of byte 0
    ignore_range: bool = False  # answer 200 and the whole file
    headers: Mapping[str, str] = field(default_factory=dict)  # instead of, or besides, the right ones


@dataclass(frozen=True)
class Request:
    """One request as it came in."""

    name: str
    range: str | None
    method: str
    client: tuple[str, int]  # of the connection: the same one shows that it was kept


class FaultyServer:
    """The server; a context manager. `requests` has all requests in order of arrival."""

    def __init__(self, files: Path | Mapping[str, bytes], faults: Mapping[str, Fault] | None = None) -> None:
        self.files = files
        self.faults = dict(faults or {})
        self.requests: list[Request] = []
        self.stalled = threading.Event()  # set as soon as an answer has stalled
        self._released = threading.Event()
        self._lock = threading.Lock()
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self._server.owner = self
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def release(self) -> None:
        """Let all stalled answers, and those that would stall later, go on."""
        self._released.set()

    def count(self, name: str) -> int:
        """How often a file was asked for."""
        return len(self.ranges(name))

    def ranges(self, name: str) -> list[str | None]:
        """The Range headers of the requests of a file."""
        with self._lock:
            return [request.range for request in self.requests if request.name == name]

    def content(self, name: str) -> bytes | None:
        """The file as it should be; None if there is none."""
        if isinstance(self.files, Mapping):
            return self.files.get(name)
        path = self.files / name
        return path.read_bytes() if "/" not in name and path.is_file() else None

    def received(self, request: Request) -> Fault:
        """Note a request; the fault that it meets."""
        with self._lock:
            self.requests.append(request)
            nth = sum(other.name == request.name for other in self.requests)
        fault = self.faults.get(request.name, Fault())
        return fault if fault.times is None or nth <= fault.times else Fault()

    def stall(self, connection) -> bool:
        """Wait until released (True) or the client has closed the connection (False)."""
        self.stalled.set()
        while not self._released.wait(STALL_POLL_S):
            if select.select([connection], [], [], 0)[0]:
                return False
        return True


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments):
        """The tests' output is no place for an access log."""

    def do_GET(self):
        owner: FaultyServer = self.server.owner
        name = unquote(self.path.partition("?")[0].lstrip("/"))
        fault = owner.received(Request(name, self.headers.get("Range"), self.command, self.client_address))
        with contextlib.suppress(ConnectionError):  # a client may go at any time
            self._answer(owner, fault, owner.content(name))

    do_HEAD = do_GET

    def _answer(self, owner, fault, content):
        if fault.stall_after == -1 and not owner.stall(self.connection):
            self.close_connection = True
            return
        if content is None or fault.status is not None:
            self._send(fault.status or 404, {"Content-Length": "0"} | dict(fault.headers))
            return
        if fault.flip_bit is not None:
            content = bytearray(content)
            content[fault.flip_bit // 8] ^= 1 << fault.flip_bit % 8
        status, headers, body = 200, {"Accept-Ranges": "bytes"}, content
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if asked and not fault.ignore_range:
            first = int(asked[1])
            body = content[first : int(asked[2]) + 1 if asked[2] else None]
            status = 206 if body else 416
            place = f"{first}-{first + len(body) - 1}" if body else "*"
            headers["Content-Range"] = f"bytes {place}/{len(content)}"
        headers["Content-Length"] = str(len(body))
        self._send(status, headers | dict(fault.headers))
        if self.command != "HEAD":
            self._send_body(owner, fault, body)

    def _send(self, status, headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def _send_body(self, owner, fault, body):
        sent = 0
        if fault.stall_after is not None and 0 <= fault.stall_after < len(body):
            sent = fault.stall_after
            self.wfile.write(body[:sent])
            if not owner.stall(self.connection):
                self.close_connection = True
                return
        if fault.cut_after is not None and fault.cut_after < len(body):
            self.wfile.write(body[sent : fault.cut_after])
            self.close_connection = True
            return
        self.wfile.write(body[sent:])
