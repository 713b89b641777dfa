"""Storages that fsspec knows, opened in one way: s3://bucket/folder, gs://, memory:// and others."""

import re
from asyncio import CancelledError
from pathlib import Path
from typing import TYPE_CHECKING

from pwl_lab.support.errors import PwlLabError, invalid

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

LOCAL_SCHEMES = ("file", "local")  # both are folders of this machine
_AS_PATH = re.compile(r"([A-Za-z][\w+.-]+):(/|$)")  # a Path takes slashes away; one letter is a drive of Windows
PASSWORD = re.compile(r":(.*)@")  # a name alone before the @ is no secret: abfs://container@account


def scheme_of(path: str | Path) -> str | None:
    """The scheme of what was meant as an address, though a Path may have taken its slashes away; None for a folder's path."""
    found = _AS_PATH.match(str(path))
    return found and found[1]


def whole(field: str, url: str) -> str:
    """The address, its scheme in lower case. Raises InvalidValueError, about the value of `field`, for a scheme alone.

    What is left of `s3://` without the slashes at its end would be taken for a local folder, `s3:`.
    """
    scheme, separator, rest = url.partition("://")
    if not scheme.strip() or not rest.strip("/ "):
        raise invalid(field, shown(url), "a whole address, with a location behind its scheme, as s3://bucket/prefix")
    return f"{scheme.lower()}{separator}{rest}"


def open_storage(field: str, url: str, failure: type[PwlLabError]) -> "tuple[AbstractFileSystem, str]":
    """The file system behind `url`, and the path on it, without a slash at its end.

    Credentials are the environment's. Raises InvalidValueError, about the value of `field`, if the address is a scheme
    alone, the storage's own package is not installed or it takes this address for wrong; and `failure`, with the address
    and the reason, for anything else, such as a server that is not there or an environment that does not fit.
    """
    import fsspec  # a local folder does without

    url = whole(field, url)
    scheme = url.partition(":")[0]
    try:
        storage, path = fsspec.url_to_fs(url)
    except ImportError as error:
        raise invalid(field, shown(url), f"{scheme}:// needs a package that is not installed: {error}") from error
    except ValueError as error:
        raise invalid(field, shown(url), f"an address that fsspec knows ({_reason(error, url)})") from error
    except (Exception, CancelledError) as error:  # storages raise errors of their own, and those of their libraries
        raise failure(f"{shown(url)} cannot be opened ({_reason(error, url)})") from error
    return storage, path.rstrip("/")


def shown(url: str) -> str:
    """An address as a message may show it: without a name and password before its last @, and without what follows its path."""
    scheme, slashes, rest = re.split("(:/*)", url, maxsplit=1)
    if PASSWORD.search(rest):
        rest = rest.rpartition("@")[2]
    return f"{scheme}{slashes}{re.split('[?#]', rest)[0]}"


def _reason(error: BaseException, url: str) -> str:
    """The error in words, without the password that it may repeat."""
    text = str(error).replace(url, shown(url))
    found = PASSWORD.search(url.partition("://")[2])
    if found and any(part in text for part in re.split(r"[^\w]+", found[1]) if part):
        text = "its words are left out: they may show the password"
    return f"{type(error).__name__}: {text or 'no more is known'}"
