"""One batch at a time on a place.

On this machine the operating system's lock says so; it goes with the process that holds it, however that ends. A storage
has no such lock: there the file `.holder.json` stands for it. Where the storage can, it is written only if it is not
there yet; its batch renews it every few seconds, and one that has not been renewed for two minutes is of a batch that
died. Two batches that pass this all the same, because a clock is minutes off or a machine was asleep, do harm to no
point: they run some twice, under the same hash.
"""

import json
import platform
import threading
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
from filelock import FileLock, Timeout

from pwl_lab.batch.places import Place, PlaceError, place_at
from pwl_lab.errors import InvalidValueError, invalid
from pwl_lab.files import json_text

LOCK, HOLDER = ".lock", ".holder.json"
STALE_S = 120.0


@contextmanager
def alone_in(out: Place | Path | str) -> Iterator[None]:
    """Inside, no other batch works on the place. Raises InvalidValueError, naming the one that does, and PlaceError."""
    place = place_at(out)
    try:
        place.work.mkdir(parents=True, exist_ok=True)
        lock = FileLock(place.work / LOCK, timeout=0)
        lock.acquire()
    except Timeout:
        other = None
        with suppress(PlaceError):  # it is there, whoever it is
            other = _read(place)
        raise _refusal(place, other) from None
    except OSError as error:
        raise invalid("out", str(place.work), f"a folder that can be made and written to ({error.strerror})") from None
    try:
        mine = _own_facts() | _beat(place)
        if not place.claim(HOLDER, json_text(mine)):
            other = holder(place)
            if other and other["id"] != mine["id"]:  # its own, where only the answer to the first try was lost
                raise _refusal(place, other)
            place.write(HOLDER, json_text(mine))
        with _beating(place, mine):
            yield
    finally:
        lock.release()


def holder(out: Place | Path | str) -> Mapping[str, Any] | None:
    """The batch that is at work on the place; None where there is none, or only the note of one that died. Raises PlaceError."""
    facts = _read(place_at(out))
    if facts and facts["host"] == platform.node():
        try:
            return facts if psutil.Process(facts["pid"]).create_time() == facts["born"] else None
        except psutil.NoSuchProcess:
            return None
    if facts and "beat" in facts:
        return facts if (datetime.now(UTC) - _time(facts["beat"])).total_seconds() < STALE_S else None
    return facts  # in a folder: one on another machine is taken at its word


def _own_facts() -> dict[str, Any]:
    """What a batch says of itself."""
    me, now = psutil.Process(), datetime.now(UTC).isoformat(timespec="seconds")
    facts = {"pid": me.pid, "host": platform.node(), "born": me.create_time(), "since": now}
    return facts | {"id": uuid.uuid4().hex}


def _beat(place: Place) -> dict[str, str]:
    """That it is alive now, where only that says so."""
    return {} if place.beat_s is None else {"beat": datetime.now(UTC).isoformat(timespec="seconds")}


@contextmanager
def _beating(place: Place, mine: dict[str, Any]) -> Iterator[None]:
    """Inside, what the batch says of itself is kept fresh where nothing else tells that it lives; then it is removed."""
    done = threading.Event()

    def beat() -> None:
        while place.beat_s is not None and not done.wait(place.beat_s):
            with suppress(OSError):  # a storage that is away for a while
                if (_read(place) or mine)["id"] == mine["id"]:
                    place.write(HOLDER, json_text(mine | _beat(place)))
                place.send_events()

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        with suppress(OSError):
            place.send_events()
            if (_read(place) or mine)["id"] == mine["id"]:
                place.remove(HOLDER)


def _read(place: Place) -> Mapping[str, Any] | None:
    """What the batch that holds the place wrote of itself."""
    try:
        facts = json.loads(place.read([HOLDER])[HOLDER])
        return facts if {"pid", "host", "born", "since", "id"} <= set(facts) else None
    except (KeyError, ValueError, TypeError):
        return None


def _refusal(place: Place, other: Mapping[str, Any] | None) -> InvalidValueError:
    """Says who is at work."""
    who = f" (process {other['pid']} on {other['host']}, since {other['since']})" if other else ""
    return InvalidValueError(
        f"another batch{who} is at work on {place}; wait for it or stop it, the same command then goes on"
    )


def _time(text: str) -> datetime:
    """A time as `isoformat` wrote it; one that nobody wrote is long ago."""
    try:
        return datetime.fromisoformat(text)
    except (ValueError, TypeError):
        return datetime.min.replace(tzinfo=UTC)
