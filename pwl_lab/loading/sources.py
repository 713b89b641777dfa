"""Where the files of a bundle come from: one interface to a folder, a web server, or object storage.

`open_source(address)` picks the right one. Sources on other machines are in `remote.py`.
"""

import os
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from io import FileIO
from pathlib import Path
from stat import S_ISLNK, S_ISREG
from typing import Self
from urllib.parse import urlsplit
from urllib.request import url2pathname

import numpy as np

from pwl_lab.loading.throttle import Link, Throttle
from pwl_lab.support.errors import InvalidValueError, MissingDataError, PwlLabError, invalid, unknown
from pwl_lab.support.retries import permanent
from pwl_lab.support.storages import LOCAL_SCHEMES, shown, whole

CHUNK_BYTES = 2**20
INDEX = "index.json"  # of a bundle
MOST_INDEX_BYTES = 16_000_000  # that a reader reads and a server serves
COMMON_SCHEMES = ("file", "http", "https", "s3", "gs", "memory")  # listed in messages


class BundleError(PwlLabError):
    """A bundle cannot be used: it is unreachable, or its index or boot set is missing, damaged or of a newer format."""


class SourceError(BundleError):
    """A file could not be read completely; `transient` says whether another try may succeed."""

    def __init__(self, why: str, transient: bool = False, where: str = "") -> None:
        """Create an error.

        Arguments:
        - `why`: what went wrong; the whole message if something else names the file already.
        - `transient`: true for broken connections, timeouts and overload; false otherwise.
        - `where`: the address and the file, with which the message begins.
        """
        super().__init__(f"{where}: {why}" if where else why)
        self.why, self.transient = why, transient


class Closing(ABC):
    """A context manager that calls `close` at the end."""

    @abstractmethod
    def close(self) -> None:
        """Release all resources. May be called again."""

    def __enter__(self) -> Self:
        """The object itself."""
        return self

    def __exit__(self, *exception: object) -> None:
        """Close it."""
        self.close()


class Source(Closing):
    """The files of one bundle, read by name. Any number of threads may read at the same time."""

    def __init__(self, address: str) -> None:
        """`address` is the source's name in messages."""
        self.address = address
        self._closed = threading.Event()

    @abstractmethod
    def chunks(self, name: str, offset: int = 0) -> Iterator[bytes | memoryview]:
        """The bytes of the file `name` from `offset` on, piece by piece; nothing is read before the first request.

        A piece is valid until the next one is requested, since its memory may be reused. If `offset` is exactly the end
        of the file, there are no pieces and no error. Any piece may raise SourceError: the file is missing, unreadable
        or too short, `offset` lies beyond its end, `name` is not a plain file name, or the source is closed.
        """

    def fill(self, name: str, offset: int, memory: memoryview) -> Iterator[int]:
        """Put the bytes from `offset` on into `memory`, one after the other; yields the size of each piece.

        A number beyond what is left of `memory` says that the file is longer: of that piece nothing was written. Raises
        as `chunks` does.
        """
        room = np.frombuffer(memory, dtype=np.uint8)
        for chunk in self.chunks(name, offset):
            if len(chunk) <= len(room):
                room[: len(chunk)] = np.frombuffer(chunk, dtype=np.uint8)  # numpy releases the GIL while it copies
                room = room[len(chunk) :]
            yield len(chunk)

    def read(self, name: str, limit: int) -> bytes:
        """The content of a small file. Raises SourceError (not transient) if it has more than `limit` bytes."""
        whole = bytearray()
        for chunk in self.chunks(name):
            if len(whole) + len(chunk) > limit:
                raise self._error(name, f"larger than the {limit} bytes allowed")
            whole += chunk
        return bytes(whole)

    def close(self) -> None:
        """Stop all reading: every thread that waits for bytes gets a SourceError. May be called again."""
        self._closed.set()

    def pause(self, seconds: float) -> None:
        """Wait, for example before another try; `close` ends the wait at once, with a SourceError."""
        if seconds > 0:
            self._closed.wait(min(seconds, threading.TIMEOUT_MAX))
        self._check_open()

    @contextmanager
    def until(self, seconds: float | None) -> Iterator[None]:
        """A context that closes the source after this many seconds (None: never) and then raises TimeoutError.

        `seconds` is a value from `bounded`.
        """
        if seconds is None:
            yield
            return
        late = threading.Event()

        def give_up() -> None:
            late.set()
            self.close()

        timer = threading.Timer(seconds, give_up)
        timer.daemon = True
        timer.start()
        cause = None
        try:
            yield
        except PwlLabError as error:
            if not late.is_set():
                raise
            cause = error
        finally:
            timer.cancel()
        if late.is_set():
            raise TimeoutError(f"{self.address} took longer than {seconds:g} s") from cause

    def _begin(self, name: str, offset: int) -> None:
        """The checks before every read. A negative `offset` is a programming error: InvalidValueError."""
        check_name(name)
        if offset < 0:
            raise invalid("offset", offset, "a number of bytes from 0 on")
        self._check_open()

    def _check_open(self) -> None:
        if self._closed.is_set():
            raise SourceError(f"{self.address} is closed")

    def _error(self, name: str, why: str, transient: bool = False) -> SourceError:
        return SourceError(why, transient, where=f"{self.address}: {name}")


class FolderSource(Source):
    """A bundle in a local folder."""

    def __init__(self, path: str | Path) -> None:
        """Raises MissingDataError if there is no such folder, and SourceError if that cannot be determined."""
        try:
            self.path = Path(path).expanduser()
            if not self.path.is_dir():
                raise MissingDataError(f"{self.path} is {'not a folder' if self.path.exists() else 'missing'}")
        except MissingDataError:
            raise
        except (OSError, RuntimeError) as error:  # no permission, a name too long, ~ of an unknown user
            raise SourceError(f"{path} cannot be opened ({error})") from error
        super().__init__(str(self.path))

    def chunks(self, name: str, offset: int = 0) -> Iterator[bytes | memoryview]:
        """As `Source.chunks`: views of up to 1 MiB into one buffer. `close` cannot interrupt a read that hangs."""
        with self._opened(name, offset) as (file, size):
            view = memoryview(bytearray(min(CHUNK_BYTES, max(1, size - offset))))
            while n_read := file.readinto(view):
                yield view[:n_read]
                self._check_open()

    def fill(self, name: str, offset: int, memory: memoryview) -> Iterator[int]:
        """As `Source.fill`, from the file straight into `memory`: a copy would cost a third of what a read does."""
        with self._opened(name, offset) as (file, _):
            begin, beyond = 0, bytearray(1)  # one byte more than expected is enough to say so
            while n_read := file.readinto(memory[begin : begin + CHUNK_BYTES] or beyond):
                begin += n_read
                yield n_read
                self._check_open()

    @contextmanager
    def _opened(self, name: str, offset: int) -> Iterator[tuple[FileIO, int]]:
        """The file, at `offset`, and its size. Raises as `Source.chunks` does."""
        self._begin(name, offset)
        try:
            with self.file(name).open("rb", buffering=0) as file:
                size = os.fstat(file.fileno()).st_size
                if offset > size:
                    raise self._error(name, f"has no byte {offset}")
                file.seek(offset)
                yield file, size
        except OSError as error:
            raise self._failure(name, error) from error

    def file(self, name: str) -> Path:
        """The path of a file. Raises SourceError if it is not in this folder; links out of it are not followed."""
        check_name(name)
        path = self.path / name
        try:
            kind = path.lstat().st_mode
            linked = S_ISLNK(kind)  # nothing else leaves the folder: a plain file name is right below it
            if not S_ISREG(path.stat().st_mode if linked else kind):
                raise self._error(name, "not a file")  # opening a pipe could block for ever
            if linked and not is_inside(path, self.path):
                raise self._error(name, "a link that leaves the bundle's folder")
        except OSError as error:
            raise self._failure(name, error) from error
        return path

    def _failure(self, name: str, error: OSError) -> SourceError:
        """The system's error as a SourceError."""
        return self._error(name, error.strerror or str(error), not permanent(error))


class ThrottledSource(Source):
    """Another source over a slow link: all reads through this object share the throttle's bandwidth."""

    def __init__(self, source: Source, throttle: Throttle) -> None:
        """`source` is closed together with this source."""
        super().__init__(source.address)
        self.source, self.throttle = source, throttle
        self._link = Link(throttle)

    def chunks(self, name: str, offset: int = 0) -> Iterator[bytes | memoryview]:
        """As `Source.chunks`, after the throttle's latency and in small pieces, each at the time it would arrive."""
        self._begin(name, offset)
        self.pause(self.throttle.latency_s)
        self._link.begin(time.monotonic())
        for chunk in self.source.chunks(name, offset):
            whole = memoryview(chunk)
            step = self._link.piece_bytes or max(1, len(whole))
            for first in range(0, len(whole), step):
                piece = whole[first : first + step]
                self.pause(self._link.delay(len(piece), time.monotonic()))
                yield piece
                self._check_open()

    def close(self) -> None:
        """As `Source.close`."""
        super().close()
        self.source.close()


def open_source(address: str | Path, throttle: Throttle | None = None) -> Source:
    """The source at `address`: a folder, file://, http(s):// or any address that fsspec supports (s3://, gs:// ...).

    With a `throttle`, it behaves as over such a link. Nothing is requested from another machine yet. Raises
    MissingDataError if there is no such folder, UnknownNameError for an unknown scheme, InvalidValueError for an
    incomplete address or one whose scheme needs a package that is not installed, and SourceError, with the address and
    the reason, for anything else that prevents opening it.
    """
    source = _open(address)
    return source if throttle in (None, Throttle()) else ThrottledSource(source, throttle)


def bounded(timeout: object) -> float | None:
    """A `timeout` in seconds, limited to what a thread can wait (centuries).

    Raises InvalidValueError unless it is None or a number from 0 (hence the loose annotation).
    """
    if timeout is None:
        return None
    if isinstance(timeout, bool) or not isinstance(timeout, int | float) or not timeout >= 0:  # this also excludes NaN
        raise invalid("timeout", timeout, "a number of seconds from 0, or None for no limit")
    return float(min(timeout, threading.TIMEOUT_MAX))


def check_name(name: str) -> None:
    """Raise SourceError (not transient) unless `name` is a plain file name: no path, hidden file, control character."""
    bad = any(sign in "/\\:" or not sign.isprintable() for sign in name)
    if bad or not name or name.startswith("."):
        raise SourceError(f"{name!r} is not a plain file name")


def is_inside(path: Path, folder: Path) -> bool:
    """Whether a path lies in a folder after all links are resolved."""
    return path.resolve().is_relative_to(folder.resolve())


def _open(address: str | Path) -> Source:
    """The source at `address`, without a throttle."""
    if isinstance(address, Path) or "://" not in address:
        if not str(address):
            raise invalid("address", address, "a folder or an address such as https://example.org/bundle")
        return FolderSource(address)
    scheme = address.partition(":")[0].lower()
    if scheme in LOCAL_SCHEMES:
        return FolderSource(_local_path(address))
    if scheme in ("http", "https"):
        from pwl_lab.loading.remote import HttpSource  # a local folder does not need it

        return HttpSource(address)
    import fsspec

    known = fsspec.available_protocols()
    if scheme not in known:
        raise unknown("scheme", scheme, {*COMMON_SCHEMES, *get_close_matches(scheme, known)})
    from pwl_lab.loading.remote import FsspecSource

    return FsspecSource(address)


def _local_path(address: str) -> Path:
    """The path that a file:// address names."""
    try:
        parts = urlsplit(whole("address", address))
    except InvalidValueError:
        raise
    except ValueError as error:
        why = type(error).__name__ if "@" in address else str(error)  # its text may contain part of a password
        raise invalid("address", shown(address), f"file:// and a path on this machine ({why})") from None
    if parts.netloc not in ("", "localhost"):
        raise invalid(
            "address", shown(address), "file:// with three slashes and a path on this machine: file:///path/to/bundle"
        )
    return Path(url2pathname(parts.path))
