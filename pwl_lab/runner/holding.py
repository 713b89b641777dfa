"""One batch at a time on a place.

On this machine the operating system's lock says so; it goes with the process that holds it, however that ends. A storage
has no such lock, and another machine does not see the process: for both there is the file `.holder.json`. Its batch
renews it every few seconds, and one that has not been renewed for two minutes is of a batch that died. In a storage it
keeps others out; it is written only if it is not there yet, in one step where the storage can. Two batches that pass this
all the same, because a clock is minutes off or a machine was asleep, do harm to no point: they run some twice, under the
same hash. So the one that finds itself replaced says so and goes on: points that it broke off would be left at the place
as killed, perhaps over the other's good ones.
"""

import platform
import threading
import uuid
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
from filelock import FileLock, Timeout

from pwl_lab.runner.location import Place, PlaceError, place_at
from pwl_lab.runner.status import parse_json
from pwl_lab.support.errors import InvalidValueError, invalid
from pwl_lab.support.files import json_text

LOCK, HOLDER = ".lock", ".holder.json"
STALE_S = 120.0
CLOCK_S = 5.0  # a process's time of birth is reckoned from the clock, which may be put right meanwhile


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
        mine = _own_facts() | _beat()
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
        with suppress(psutil.AccessDenied):
            try:
                process = psutil.Process(facts["pid"])
                if process.status() == psutil.STATUS_ZOMBIE:
                    return None
                if abs(process.create_time() - facts["born"]) < CLOCK_S:
                    return facts
            except psutil.NoSuchProcess:
                return None
    # On another machine; or a process of that number is here, but began at another time, or the clock was set since.
    return facts if facts and abs((datetime.now(UTC) - _time(facts.get("beat"))).total_seconds()) < STALE_S else None


def _own_facts() -> dict[str, Any]:
    """What a batch says of itself."""
    me, now = psutil.Process(), datetime.now(UTC).isoformat(timespec="seconds")
    facts = {"pid": me.pid, "host": platform.node(), "born": me.create_time(), "since": now}
    return facts | {"id": uuid.uuid4().hex}


def _beat() -> dict[str, str]:
    """That it is alive now."""
    return {"beat": datetime.now(UTC).isoformat(timespec="seconds")}


@contextmanager
def _beating(place: Place, mine: dict[str, Any]) -> Iterator[None]:
    """Inside, what the batch says of itself is kept fresh, unless another one has taken its place; then it is removed."""
    done = threading.Event()

    def beat() -> None:
        said = False
        while not done.wait(place.beat_s):
            with suppress(OSError):  # a place that is away for a while
                other = _read(place) or mine
                if other["id"] == mine["id"]:
                    place.write(HOLDER, json_text(mine | _beat()))
                elif not said:
                    said = True
                    warnings.warn(_replaced(place, other), RuntimeWarning, stacklevel=1)
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
        facts = parse_json(place.read([HOLDER])[HOLDER])
        return facts if {"pid", "host", "born", "since", "id"} <= set(facts) else None
    except (KeyError, ValueError, TypeError):
        return None


def _refusal(place: Place, other: Mapping[str, Any] | None) -> InvalidValueError:
    """Says who is at work."""
    who = f" (process {other['pid']} on {other['host']}, since {other['since']})" if other else ""
    return InvalidValueError(
        f"another batch{who} is at work on {place}; wait for it or stop it, the same command then goes on"
    )


def _replaced(place: Place, other: Mapping[str, Any]) -> str:
    """Says who has come."""
    return (
        f"another batch (process {other['pid']} on {other['host']}, since {other['since']}) has begun on {place}, perhaps "
        "because this one was silent for minutes; nothing is lost, but some points are run twice: stop one of the two"
    )


def _time(text: str | None) -> datetime:
    """A time as `isoformat` wrote it; one that nobody wrote is long ago."""
    try:
        return datetime.fromisoformat(text)
    except (ValueError, TypeError):
        return datetime.min.replace(tzinfo=UTC)
