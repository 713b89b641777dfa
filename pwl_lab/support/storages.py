"""One way to open the storages that fsspec supports: s3://bucket/folder, gs://, memory:// and others."""

import re
from asyncio import CancelledError
from pathlib import Path
from typing import TYPE_CHECKING

from pwl_lab.support.errors import PwlLabError, invalid

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

LOCAL_SCHEMES = ("file", "local")  # both are folders on this machine
_AS_PATH = re.compile(r"([A-Za-z][\w+.-]+):(/|$)")  # a Path removes slashes; a single letter is a Windows drive
PASSWORD = re.compile(r":(.*)@")  # a name alone before the @ is no secret: abfs://container@account


def scheme_of(path: str | Path) -> str | None:
    """The scheme of an address, even if a Path has removed its slashes; None for the path of a folder."""
    found = _AS_PATH.match(str(path))
    return found and found[1]


def whole(field: str, url: str) -> str:
    """The address, with its scheme in lower case. Raises InvalidValueError, about `field`, for a scheme alone.

    Without its trailing slashes, `s3://` would be taken for a local folder, `s3:`.
    """
    scheme, separator, rest = url.partition("://")
    if not scheme.strip() or not rest.strip("/ "):
        raise invalid(field, shown(url), "a full address, with a location after its scheme, as in s3://bucket/prefix")
    return f"{scheme.lower()}{separator}{rest}"


def open_storage(field: str, url: str, failure: type[PwlLabError]) -> "tuple[AbstractFileSystem, str]":
    """The file system of `url`, and the path on it, without a trailing slash.

    Credentials come from the environment. Raises InvalidValueError, about `field`, if the address is a scheme alone,
    the storage's package is not installed or it rejects the address; and `failure`, with the address and the reason,
    for anything else, such as an unreachable server or a wrong environment.
    """
    import fsspec  # not needed for a local folder

    url = whole(field, url)
    scheme = url.partition(":")[0]
    try:
        storage, path = fsspec.url_to_fs(url)
    except ImportError as error:
        raise invalid(field, shown(url), f"{scheme}:// needs a package that is not installed: {error}") from error
    except ValueError as error:
        raise invalid(field, shown(url), f"an address that fsspec supports ({_reason(error, url)})") from error
    except (Exception, CancelledError) as error:  # storages raise many kinds of errors
        raise failure(f"{shown(url)} cannot be opened ({_reason(error, url)})") from error
    return storage, path.rstrip("/")


def shown(url: str) -> str:
    """An address for messages: without the name and password before its last @, and without a query after its path."""
    scheme, slashes, rest = re.split("(:/*)", url, maxsplit=1)
    if PASSWORD.search(rest):
        rest = rest.rpartition("@")[2]
    return f"{scheme}{slashes}{re.split('[?#]', rest)[0]}"


def _reason(error: BaseException, url: str) -> str:
    """The error in words, without a password that it may contain."""
    text = str(error).replace(url, shown(url))
    found = PASSWORD.search(url.partition("://")[2])
    if found and any(part in text for part in re.split(r"[^\w]+", found[1]) if part):
        text = "its text is left out because it may contain the password"
    return f"{type(error).__name__}: {text or 'no details'}"
