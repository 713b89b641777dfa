"""A small web server for one bundle, to try progressive loading over HTTP: local only and read-only."""

import asyncio
import contextlib
import json
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

from tornado.http1connection import HTTP1Connection, HTTP1ServerConnection
from tornado.httpserver import HTTPServer
from tornado.httputil import HTTPConnection, HTTPHeaders, HTTPMessageDelegate, format_timestamp
from tornado.iostream import IOStream, StreamClosedError
from tornado.web import Application, HTTPError, StaticFileHandler

from pwl_lab.loading.sources import INDEX, MOST_INDEX_BYTES, Closing, FolderSource, SourceError, check_name, is_inside
from pwl_lab.loading.throttle import Link, Throttle
from pwl_lab.support.errors import InvalidValueError, MissingDataError, invalid
from pwl_lab.support.paths import local_folder

LOOPBACK = "127.0.0.1"
OWN_NAMES = (LOOPBACK, "localhost")  # any other Host may be a name that was made to point here (DNS rebinding)
LOOK_S = 1.0  # how often the main thread checks whether to end: not every system wakes it up
GRACE_S = 1.0  # for aborted answers to notice it
MAX_BODY_BYTES = 2**16  # of a request; requests with a body are refused anyway
MOST_CONNECTIONS = 256  # out of the 1,024 descriptors that a process usually has
MOST_AT_ONCE = 128  # new connections accepted in one turn
IDLE_S = 300.0  # until a connection without requests is closed
PATIENCE_S = 1.0  # how long a silent connection keeps its place when others wait
REST_S = 0.5  # how long no connection is accepted when all open ones are busy
SETTLED = timedelta(seconds=60)  # RFC 9110, 8.8.2.2


class BundleServer(Closing):
    """Serves a bundle at `url` from its own thread, until `close`; a context manager."""

    def __init__(self, folder: str | Path, port: int = 0, throttle: Throttle | None = None) -> None:
        """Start serving.

        Arguments:
        - `folder`: the bundle; its index is read now.
        - `port`: the port to listen on, on this machine only; 0 picks a free one.
        - `throttle`: the link that all downloads share.

        Raises MissingDataError if there is no such folder or no index.json in it, InvalidValueError if the index cannot
        be read or lists anything but plain files in the folder, or if the port is not available.
        """
        folder = local_folder(folder, "bundle", "a bundle at an address is opened from there")
        names, link, self._guests = frozenset(served_files(folder)), Link(throttle or Throttle()), _Guests()
        arguments = {"path": str(folder.resolve()), "names": names, "link": link, "guests": self._guests}
        self._application = Application([("(.*)", _BundleHandler, arguments)], log_function=lambda handler: None)
        self._socket = _bind(port)
        self.url = f"http://{LOOPBACK}:{self._socket.getsockname()[1]}"
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop, self._ready, self._lock = asyncio.Event(), threading.Event(), threading.Lock()
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._answer()), name=f"bundle at {self.url}", daemon=True
        )
        self._thread.start()
        self._ready.wait()

    def close(self) -> None:
        """Abort all downloads and stop. May be called again."""
        with self._lock:
            if self._thread.is_alive() and self._loop is not None:
                with contextlib.suppress(RuntimeError):  # the loop has already ended
                    self._loop.call_soon_threadsafe(self._stop.set)
                self._thread.join()

    async def _answer(self) -> None:
        """Answer until `close`, then abort what is in progress."""
        try:
            self._loop = asyncio.get_running_loop()
            server = _Server(self._application, max_body_size=MAX_BODY_BYTES, idle_connection_timeout=IDLE_S)
            door = _Door(server, self._socket, self._guests)
        finally:
            self._ready.set()  # also if it failed to start
        await self._stop.wait()
        door.close()
        await server.close_all_connections()  # this wakes the answers that wait
        # They need a turn or two to notice; if the end of the loop cancels one instead, it complains on stderr.
        if answering := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.wait(answering, timeout=GRACE_S)


def serve(
    folder: str | Path,
    port: int = 0,
    throttle: Throttle | None = None,
    on_ready: Callable[[str], None] = lambda url: None,
) -> None:
    """Serve a bundle until SIGINT (Ctrl-C) or SIGTERM. Call it from the main thread only.

    `on_ready` is called with the address; other arguments and exceptions are those of `BundleServer`.
    """
    told = threading.Event()
    with BundleServer(folder, port, throttle) as server:
        before = {number: signal.signal(number, lambda *_: told.set()) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            on_ready(server.url)
            while not told.wait(LOOK_S):
                pass
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def served_files(folder: Path) -> list[str]:
    """The names of the files to serve: the index, then the files that it lists. Raises as `BundleServer` does."""
    path = folder / INDEX
    with FolderSource(folder) as source:  # raises if there is no folder
        if not path.is_file():
            raise MissingDataError(f"{folder} is not a bundle: it has no {INDEX}")
        try:
            index = json.loads(source.read(INDEX, MOST_INDEX_BYTES))
            names = [shard["file"] for shard in index["shards"]]
            for name in names:
                check_name(name)
        except SourceError as error:
            raise InvalidValueError(f"{path} is not a bundle's index: {error.why}") from error
        except (ValueError, KeyError, TypeError, RecursionError) as error:  # ValueError: not JSON, or not UTF-8
            wanted = '{"shards": [{"file": ...}, ...]}'
            raise InvalidValueError(f"{path} is not a bundle's index, {wanted}: {error!r}") from error
    names = [INDEX, *names]
    for name in names:
        if not is_inside(folder / name, folder):
            why = "is a link that leaves the bundle's folder, so it would not be served"
            raise InvalidValueError(f"{folder / name} {why}")
    return names


class _Guests:
    """The open connections, and since when those without a request in progress have been silent."""

    def __init__(self) -> None:
        self._silent_since: dict[IOStream, float | None] = {}  # None: busy; the longest silence comes first

    def note(self, stream: IOStream, busy: bool) -> None:
        """Note a new connection, or the beginning or end of a request on it."""
        self._silent_since.pop(stream, None)
        if not stream.closed():
            self._silent_since[stream] = None if busy else time.monotonic()

    def make_room(self) -> bool:
        """Whether there is room for one more, if necessary by closing the connection that was silent the longest."""
        self._silent_since = {stream: since for stream, since in self._silent_since.items() if not stream.closed()}
        return len(self._silent_since) < MOST_CONNECTIONS or self.drop()

    def drop(self) -> bool:
        """Close the connection that has been silent the longest; False if all are busy or new."""
        latest = time.monotonic() - PATIENCE_S
        for stream, since in self._silent_since.items():
            if since is not None and since <= latest:
                stream.close()
                return True
        return False


class _Door:
    """Accepts connections from a listening socket as long as there is room for them.

    tornado itself retries at once when the process has no descriptor left, and logs each failure.
    """

    def __init__(self, server: "_Server", listening: socket.socket, guests: _Guests) -> None:
        self._server, self._listening, self._guests = server, listening, guests
        self._loop = asyncio.get_running_loop()
        self.open()

    def open(self) -> None:
        """Start accepting connections."""
        if self._listening.fileno() >= 0:  # not closed
            self._loop.add_reader(self._listening, self._take)

    def close(self) -> None:
        """Stop accepting connections."""
        self._loop.remove_reader(self._listening)
        self._listening.close()

    def _take(self) -> None:
        """Accept waiting connections, `MOST_AT_ONCE` at a time, to leave time for other work."""
        for _ in range(MOST_AT_ONCE):
            if not self._guests.make_room():
                self._rest()
                return
            try:
                connection, address = self._listening.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError:  # no descriptor is left: this connection waits until one is free
                if not self._guests.drop():
                    self._rest()
                return
            stream = IOStream(connection)
            self._guests.note(stream, busy=False)
            self._server.handle_stream(stream, address)

    def _rest(self) -> None:
        """Accept no connections for `REST_S` seconds."""
        self._loop.remove_reader(self._listening)
        self._loop.call_later(REST_S, self.open)


class _Server(HTTPServer):
    """tornado's server, except that it stops reading the requests that a connection sent before it ended."""

    def start_request(self, server_conn: object, request_conn: HTTPConnection) -> HTTPMessageDelegate:
        """Called by tornado before it reads a request."""
        if cast(HTTP1ServerConnection, server_conn).stream.closed():
            return _Nobody(cast(HTTP1Connection, request_conn))
        return super().start_request(server_conn, request_conn)


class _Nobody(HTTPMessageDelegate):
    """Handles a request of a connection that has ended, by detaching the connection, which stops the reading."""

    def __init__(self, connection: HTTP1Connection) -> None:
        self._connection = connection

    def headers_received(self, start_line: object, headers: HTTPHeaders) -> None:
        """Called by tornado."""
        self._connection.detach()


class _BundleHandler(StaticFileHandler):
    """Answers GET and HEAD for the listed files, with Range and ETag; anything else gets an error without details."""

    # tornado passes the arguments that the application was created with, whatever the base class takes.
    def initialize(  # type: ignore[override]  # see above
        self, path: str, names: frozenset[str], link: Link, guests: _Guests
    ) -> None:
        """Called by tornado for each request."""
        super().initialize(path)
        self._names, self._link, self._guests = names, link, guests
        self._connection = cast(HTTP1Connection, self.request.connection)
        self._stream = self._connection.stream
        guests.note(self._stream, busy=True)
        self._unsent = 0
        self._gone = asyncio.Event()

    async def prepare(self) -> None:
        """Check every request; then wait for the latency."""
        if self.request.host_name not in OWN_NAMES:
            raise HTTPError(403)
        if self.request.method not in ("GET", "HEAD"):
            raise HTTPError(405)
        if not await self._client_waits(self._link.throttle.latency_s):
            raise HTTPError(503)  # ends the request; the client will not see the answer
        self._link.begin(asyncio.get_running_loop().time())

    def on_finish(self) -> None:
        """Called by tornado when the answer has been sent."""
        self._guests.note(self._stream, busy=False)

    def on_connection_close(self) -> None:
        """Called by tornado when the client is gone, or when the server stops."""
        self._gone.set()

    def parse_url_path(self, url_path: str) -> str:
        """The name of a listed file, already unquoted; nothing else reaches the file system."""
        slash, name = url_path[:1], url_path[1:]
        if slash != "/" or name not in self._names:
            raise HTTPError(404)
        return name

    def validate_absolute_path(self, root: str, absolute_path: str) -> str | None:
        """Refuse a file that is a link to elsewhere (tornado itself checks links from 6.5.9 on)."""
        path = Path(absolute_path)
        if not path.is_file() or not is_inside(path, Path(root)):
            raise HTTPError(404)
        return super().validate_absolute_path(root, absolute_path)

    def set_headers(self) -> None:
        """As tornado's; in addition, never send a part of another version of the file (RFC 9110, 13.1.5)."""
        super().set_headers()
        wanted = self.request.headers.get("If-Range")
        modified = cast(datetime, self.modified)  # tornado sets it before the headers
        settled = datetime.now(UTC) - modified > SETTLED  # otherwise it could change within that second
        if wanted not in (None, self.compute_etag(), settled and format_timestamp(modified)):
            self.request.headers.pop("Range", None)

    def compute_etag(self) -> str:
        """An ETag from the file's time and size; tornado's own reads the whole file while all other requests wait."""
        found = Path(cast(str, self.absolute_path)).stat()
        return f'"{found.st_mtime_ns:x}-{found.st_size:x}"'

    def write(self, chunk: str | bytes | dict[str, Any]) -> None:
        """As tornado's; counts the bytes that the throttle must delay."""
        self._unsent += len(chunk)
        super().write(chunk)

    def flush(self, include_footers: bool = False) -> asyncio.Future[None]:
        """As tornado's, but a piece of a file is sent no sooner than the throttle allows."""
        if include_footers:  # from finish(), which does not wait; the file has been sent by then
            return super().flush(include_footers)
        return asyncio.ensure_future(self._flush_in_time())

    async def _flush_in_time(self) -> None:
        delay = self._link.delay(self._unsent, asyncio.get_running_loop().time())
        self._unsent = 0
        if not await self._client_waits(delay):
            raise StreamClosedError  # as tornado's own flush does
        await super().flush()

    async def _client_waits(self, seconds: float) -> bool:
        """Wait; returns False, at once, if the connection ends in the meantime."""
        if seconds > 0:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._gone.wait(), seconds)
        return not self._gone.is_set()

    def send_error(self, status_code: int = 500, **details: object) -> None:
        """As tornado's; if an answer has begun, its connection is closed, so the client sees that bytes are missing."""
        if self._headers_written:
            self._connection.close()
        else:
            super().send_error(status_code, **details)

    def write_error(self, status_code: int, **_: object) -> None:
        """Write the status in words."""
        self.set_header("Content-Type", "text/plain; charset=utf-8")
        if status_code == 405:
            self.set_header("Allow", "GET, HEAD")
        self.finish(f"{status_code} {self._reason}\n")


def _bind(port: int) -> socket.socket:
    """A listening socket, on the loopback only."""
    if not 0 <= port <= 65535:
        raise invalid("port", port, "a number from 0 (any free port) to 65535")
    listening = socket.socket()
    try:
        if sys.platform != "win32":  # there it would let two servers share a port
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # not taken by connections that have ended
        listening.setblocking(False)
        listening.bind((LOOPBACK, port))
        listening.listen(MOST_AT_ONCE)
    except OSError as error:
        listening.close()
        raise invalid("port", port, f"a port that is free and allowed ({error.strerror}); 0 picks one") from error
    return listening
