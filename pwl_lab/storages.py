"""Storages that fsspec knows, opened in one way: s3://bucket/folder, gs://, memory:// and others."""

from typing import TYPE_CHECKING

from pwl_lab.errors import invalid

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem


def open_storage(field: str, url: str) -> "tuple[AbstractFileSystem, str]":
    """The file system behind `url`, and the path on it, without a slash at its end.

    Credentials are the environment's. Raises InvalidValueError, about the value of `field`, if the storage's own package
    is not installed or takes this address for wrong.
    """
    import fsspec  # a local folder does without

    scheme = url.partition(":")[0]
    try:
        storage, path = fsspec.url_to_fs(url)
    except ImportError as error:
        raise invalid(field, url, f"{scheme}:// needs a package that is not installed: {error}") from error
    except ValueError as error:
        raise invalid(field, url, f"an address that fsspec knows ({error})") from error
    return storage, path.rstrip("/")
