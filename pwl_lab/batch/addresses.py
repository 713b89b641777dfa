"""What may be said of where a batch lies: a folder's path, or the address of a storage (`s3://bucket/prefix`).

An address goes into logs, events and messages, so nothing secret may stand in it: credentials are the environment's.
"""

from pathlib import Path

from pwl_lab.errors import PwlLabError, invalid
from pwl_lab.storages import PASSWORD, scheme_of, shown, whole


class PlaceError(PwlLabError, OSError):
    """A place could not be read from or written to."""


def failure(what: str, address: str, error: Exception) -> PlaceError:
    """What could not be done there, and why."""
    return PlaceError(f"cannot {what} at {address} ({type(error).__name__}: {str(error) or 'no more is known'})")


def is_address(out: str | Path) -> bool:
    """Whether `out` is an address rather than a path. Raises InvalidValueError for an address that has lost a slash.

    A Path takes one slash of two away, or both, and the rest would be a folder called `s3:`.
    """
    if scheme_of(out) and "://" not in str(out):
        raise invalid("out", shown(str(out)), "a folder's path, or an address with two slashes, as s3://bucket/prefix")
    return not isinstance(out, Path) and "://" in out


def checked(url: str) -> str:
    """The address, its scheme in lower case, without a slash at its end.

    Raises InvalidValueError, which says no secret, for one that holds some, or is no whole address.
    """
    url = whole("out", url)
    if "::" in url:
        raise invalid("out", shown(url), "the address of one storage, without ::")
    if PASSWORD.search(url.partition("://")[2]):
        raise invalid(
            "out", shown(url), "an address without a password: the storage takes its own from the environment"
        )
    if any(sign in url for sign in "?*[#"):
        raise invalid("out", shown(url), "an address without any of ? * [ #")
    return url.rstrip("/")
