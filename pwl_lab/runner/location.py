"""Where a batch keeps its points: a folder, or a storage that fsspec supports, depending on the address.

A folder is not one more storage of fsspec's: its local file system takes a folder that cannot be read for an empty
one, and importing it takes longer than a look at a batch.
"""

import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from pwl_lab.runner.run_folder import FILES, STATUS
from pwl_lab.support import paths
from pwl_lab.support.errors import PwlLabError, invalid
from pwl_lab.support.files import ABSENT, sha256, write_text
from pwl_lab.support.paths import check_path, local_folder, no_folder
from pwl_lab.support.retries import Retry, patiently
from pwl_lab.support.storages import LOCAL_SCHEMES, PASSWORD, open_storage, scheme_of, shown, whole

Result = TypeVar("Result")
Facts = Mapping[str, Mapping[str, Any]]  # what a storage lists about each file

EVENTS, POINTS = "events.jsonl", "points"
RETRY = Retry(tries=3, first_wait_s=0.7, longest_wait_s=2.0)  # a storage's own package tries a few times by itself
AT_ONCE = 128  # how many files are requested at once; thousands of connections are too many for a small server


class LocationError(PwlLabError, OSError):
    """A location could not be read from or written to."""


class Location:
    """Where a batch lies: here a folder that every worker sees under the same path, and that need not be there yet.

    `address` says it, and opens it again elsewhere. Files are made in the folder `work`, which is the location itself.
    """

    beat_s = 20.0  # how often a running batch renews its note
    look_s = 2.0  # how often a watcher looks at it

    def __init__(self, folder: Path, address: str = "") -> None:
        """Nothing is created yet; `address` is the folder's path unless given."""
        self.work = folder.absolute()
        self.address = address or str(self.work)

    def __str__(self) -> str:
        """The address."""
        return self.address

    def point(self, name: str) -> Path:
        """The folder in which the point with this hash is made."""
        return self.work / POINTS / name

    @property
    def scratch(self) -> Path:
        """The folder for Dask's own files while a batch is at work."""
        return self.work / ".dask"

    def names(self, below: str) -> set[str]:
        """The names of all files below this folder, none where it is not there. Raises LocationError."""
        return set(self.sizes(below))

    def sizes(self, below: str) -> dict[str, int]:
        """How many bytes each file below this folder has, by its name. Raises LocationError."""
        found = {}
        with self._saying("list"):
            for folder, folders, files in os.walk(self.work / below, onerror=_unless_absent):
                head = Path(folder).relative_to(self.work).as_posix()
                for file in (*files, *(name for name in folders if name in FILES)):  # which then cannot be read
                    with suppress(*ABSENT):  # deleted since, or a broken link
                        found[f"{head}/{file}"] = Path(folder, file).stat().st_size
        return found

    def beside(self) -> list[str]:
        """The names directly in the folder. Raises LocationError, InvalidValueError where a file is in its way."""
        with self._saying("list"):
            try:
                return [path.name for path in self.work.iterdir()]
            except FileNotFoundError:
                return []
            except NotADirectoryError as error:
                raise no_folder(self.work, error) from None

    def read(self, names: Sequence[str]) -> dict[str, bytes]:
        """The contents of these files, as far as they exist. Raises LocationError where that cannot be known."""
        found = {}
        with self._saying("read"):
            for name in names:
                with suppress(*ABSENT):
                    found[name] = (self.work / name).read_bytes()
        return found

    def write(self, name: str, text: str) -> None:
        """Write one small file, whole or not at all. Raises LocationError."""
        with self._saying("write"):
            write_text(self.work / name, text)

    def claim(self, name: str, text: str) -> bool:
        """Write this file unless another batch has; returns whether it was written. Raises LocationError.

        In a folder it always is: the caller holds the system's lock on it.
        """
        self.write(name, text)
        return True

    def remove(self, name: str) -> None:
        """Remove one file, if it is there. Raises LocationError."""
        with self._saying("write"), suppress(*ABSENT):
            (self.work / name).unlink()

    def remember(self) -> None:
        """From now on, keep in memory what costs to be read again; in a folder, nothing does."""

    def send(self, name: str) -> None:
        """Bring a point's files from `work` to the location, its status last: until then it is not taken for done.

        In a folder they were made there. Raises LocationError; the files then stay in `work`, so that only this has to be
        done again.
        """

    def send_events(self, name: str = "") -> None:
        """Add what is new in the events of the folder `name` in `work` to those of the location. Raises LocationError."""

    @contextmanager
    def _saying(self, what: str) -> Iterator[None]:
        """A context that turns errors of this machine's file system into LocationError. Nothing is retried."""
        try:
            yield
        except LocationError:
            raise
        except OSError as error:
            raise self._failure(what, error) from None

    def _failure(self, what: str, error: Exception) -> LocationError:
        """The error for what could not be done here, and why."""
        reason = f"{type(error).__name__}: {str(error) or 'no details'}"
        return LocationError(f"cannot {what} at {self.address} ({reason})")


class StorageLocation(Location):
    """An address in a storage, s3://bucket/prefix and others, to which files are copied from `work` on this machine.

    Credentials are the environment's.
    Tried with fsspec's storage in memory and with an S3 server on loopback (moto), no other.
    """

    look_s = 20.0  # each look lists the files, a thousand per request

    def __init__(self, url: str, patient: bool = True) -> None:
        """`patient`: retry what fails.

        Raises InvalidValueError for an invalid address or one that holds a password, and LocationError where its storage
        cannot be opened.
        """
        url = _checked(url)
        self._storage, self._root = open_storage("out", url, LocationError)
        own = f"{self._root.rpartition('/')[2]}-{sha256(url, 12)}"
        super().__init__(paths.scratch() / own, url)
        self._retry = RETRY if patient else Retry(tries=1)
        self._remembered: _Remembered | None = None

    def remember(self) -> None:
        """As `Location.remember`: a file is asked for again only when a listing shows that it was written since."""
        self._remembered = _Remembered()

    def sizes(self, below: str) -> dict[str, int]:
        """As `Location.sizes`: one listing, whatever the number of points."""
        found = self._patiently("list", partial(self._listed, f"{self._root}/{below}"))
        if self._remembered:
            self._remembered.listed(f"{self._root}/{below}", found)
        return {path.removeprefix(f"{self._root}/"): facts["size"] for path, facts in found.items()}

    def beside(self) -> list[str]:
        """None: nothing of others' is ever replaced in a storage."""
        return []

    def read(self, names: Sequence[str]) -> dict[str, bytes]:
        """As `Location.read`: the storage is asked for many at the same time."""
        by_path = {f"{self._root}/{name}": name for name in names}
        found = self._remembered.known(by_path) if self._remembered else {}
        ordered = [path for path in by_path if path not in found]
        for begin in range(0, len(ordered), AT_ONCE):
            found |= self._patiently("read", partial(self._contents, ordered[begin : begin + AT_ONCE]))
        if self._remembered:
            self._remembered.keep(found)
        return {by_path[path]: content for path, content in found.items()}

    def write(self, name: str, text: str) -> None:
        """As `Location.write`."""
        with self._saying("write"), tempfile.TemporaryDirectory() as folder:  # this machine's disk may be full as well
            file = Path(folder) / "file"
            file.write_text(text, encoding="utf-8")
            self._put({name: file})

    def claim(self, name: str, text: str) -> bool:
        """As `Location.claim`: in one step where the storage can, else by looking first.

        Some storages take a wish to create only for one to write (adlfs), some servers answer it with an error of their
        own; so it is looked first in any case, and what fails otherwise is written plainly. Two batches that come within
        the same moment are then both let in; see `batch._beating`.
        """
        return self._patiently("write", partial(self._create, f"{self._root}/{name}", text.encode()))

    def remove(self, name: str) -> None:
        """As `Location.remove`."""

        def remove() -> None:
            with suppress(FileNotFoundError):
                self._storage.rm_file(f"{self._root}/{name}")

        self._patiently("write", remove)

    def send(self, name: str) -> None:
        """As `Location.send`; what an earlier run left and this one did not is removed, and `work` is cleared."""
        folder, head = self.point(name), f"{POINTS}/{name}"
        status, events = f"{head}/{STATUS}", f"{head}/{EVENTS}"
        self.send_events(head)
        files = {f"{head}/{path.relative_to(folder).as_posix()}": path for path in sorted(folder.rglob("*"))}
        files = {key: path for key, path in files.items() if path.is_file() and not path.name.startswith(".")}
        old = self.names(head) - set(files) - {events}
        self._put({key: path for key, path in files.items() if key not in (status, events)})
        for key in old:
            self.remove(key)
        self._put({status: files[status]})
        for path in files.values():
            path.unlink(missing_ok=True)

    def send_events(self, name: str = "") -> None:
        """As `Location.send_events`. A line holds its time, so one that is there already is known."""
        key = f"{name}/{EVENTS}".lstrip("/")
        with self._saying("write"), suppress(FileNotFoundError):
            own = (self.work / key).read_text(encoding="utf-8", errors="replace")
            before = self.read([key]).get(key, b"").decode(errors="replace").splitlines()
            lines = dict.fromkeys(before + own.splitlines())
            if len(lines) > len(before):
                self.write(key, "".join(f"{line}\n" for line in lines))

    def _listed(self, folder: str) -> Facts:
        """What the storage lists about each file below this folder."""
        self._storage.invalidate_cache()  # others write here
        try:
            found: Facts = self._storage.find(folder, detail=True)
        except FileNotFoundError:
            return {}
        return found

    def _contents(self, files: list[str]) -> dict[str, bytes]:
        """The contents of these files, as far as they exist."""
        found = self._storage.cat(files, on_error="return")
        for content in found.values():
            if isinstance(content, Exception) and not isinstance(content, FileNotFoundError):
                raise content
        return {path: content for path, content in found.items() if isinstance(content, bytes)}

    def _create(self, path: str, content: bytes) -> bool:
        """Write this file unless it exists; returns whether it was written."""
        if not self._storage.async_impl:  # an object storage has no folders and would create a bucket
            self._storage.makedirs(self._root, exist_ok=True)
        if self._contents([path]):
            return False
        try:
            self._storage.pipe_file(path, content, mode="create")
        except FileExistsError:
            return False
        except Exception:  # noqa: BLE001 - each storage has its own; what is amiss with the location is said again below
            if self._contents([path]):  # another batch's, or our own if the answer to the first attempt was lost
                return False
            self._storage.pipe_file(path, content)
        return True

    def _put(self, files: Mapping[str, Path]) -> None:
        """Copy these files, several at once."""
        sources, targets = [str(path) for path in files.values()], [f"{self._root}/{name}" for name in files]
        if files:
            self._patiently("write", lambda: self._storage.put(sources, targets))

    def _patiently(self, what: str, call: Callable[[], Result]) -> Result:
        """The result of `call`, retried if the failure may be temporary. Raises LocationError."""
        try:
            return patiently(call, self._retry, time.sleep)
        except Exception as error:  # noqa: BLE001 - storages raise errors of their own: botocore's are only Exceptions
            raise self._failure(what, error) from None


# The names under which fsspec's storages report a file's tag, or when it was written.
STAMPS = ("ETag", "etag", "LastModified", "last_modified", "updated", "mtime", "modified", "created")


class _Remembered:
    """The contents of files by path, each good for as long as listings show the file's same stamp.

    A file that is written between a listing and its reading is kept under its old stamp, and so is asked for again after
    the next listing. One without a stamp, because none was listed or the storage tells none, is not kept.
    """

    def __init__(self) -> None:
        self._stamps: dict[str, tuple[str, ...]] = {}
        self._contents: dict[str, tuple[tuple[str, ...], bytes]] = {}

    def listed(self, folder: str, found: Facts) -> None:
        """Take in a listing of everything below `folder`."""
        self._stamps = {path: stamp for path, stamp in self._stamps.items() if not path.startswith(f"{folder}/")}
        for path, facts in found.items():
            self._stamps[path] = tuple(str(facts[name]) for name in STAMPS if facts.get(name) is not None)

    def known(self, files: Iterable[str]) -> dict[str, bytes]:
        """The contents of those of these files that need not be read."""
        kept = {path: self._contents[path] for path in files if path in self._contents}
        return {path: content for path, (stamp, content) in kept.items() if stamp == self._stamps.get(path)}

    def keep(self, contents: Mapping[str, bytes]) -> None:
        """Take in what was read."""
        for path, content in contents.items():
            if stamp := self._stamps.get(path):
                self._contents[path] = stamp, content


def _unless_absent(error: OSError) -> None:
    """Raise `error`, unless it only says that the folder does not exist: then it is empty."""
    if not isinstance(error, ABSENT):
        raise error


def _checked(url: str) -> str:
    """The address, its scheme in lower case, without a slash at its end.

    Raises InvalidValueError for an address that is incomplete or contains a secret, which the message does not repeat.
    """
    url = whole("out", url)
    if "::" in url:
        raise invalid("out", shown(url), "the address of one storage, without ::")
    if PASSWORD.search(url.partition("://")[2]):
        allowed = "an address without a password: the storage takes its own from the environment"
        raise invalid("out", shown(url), allowed)
    if any(sign in url for sign in "?*[#"):
        raise invalid("out", shown(url), "an address without any of ? * [ #")
    return url.rstrip("/")


def location_at(out: str | Path | Location, patient: bool = True) -> Location:
    """The location that `out` means.

    Arguments:
    - `out`: a folder's path, or an address such as `s3://bucket/prefix`; `file://` means a folder, too.
    - `patient`: whether what fails in a storage is tried again.

    Raises InvalidValueError for what can be neither, LocationError where the storage cannot be opened.
    """
    if isinstance(out, Location):
        return out
    check_path(out, allowed="the path of a folder, or an address as s3://bucket/prefix; . is the current one")
    scheme, text = scheme_of(out), str(out)
    if scheme and "://" not in text:  # a Path drops the double slash, and the rest would be a folder called `s3:`
        raise invalid("out", shown(text), "a folder's path, or an address with two slashes, as in s3://bucket/prefix")
    if isinstance(out, Path) or "://" not in text:
        return Location(local_folder(out))
    scheme, _, rest = whole("out", text).partition("://")
    return Location(local_folder(rest)) if scheme in LOCAL_SCHEMES else StorageLocation(text, patient)
