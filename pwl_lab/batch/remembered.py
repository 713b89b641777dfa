"""What one who watches a storage has read already, and need not read again."""

from collections.abc import Iterable, Mapping
from typing import Any

# Under what names the storages that fsspec knows tell a file's tag, or when it was written.
STAMPS = ("ETag", "etag", "LastModified", "last_modified", "updated", "mtime", "modified", "created")


class Remembered:
    """The contents of files by path, each good for as long as listings show the file's same stamp.

    A file that is written between a listing and its reading is kept under its old stamp, and so is asked for again after
    the next listing. One without a stamp, because none was listed or the storage tells none, is not kept.
    """

    def __init__(self) -> None:
        """Nothing is known yet."""
        self._stamps: dict[str, tuple[str, ...]] = {}
        self._contents: dict[str, tuple[tuple[str, ...], bytes]] = {}

    def listed(self, folder: str, found: Mapping[str, Mapping[str, Any]]) -> None:
        """Take in a listing of everything below `folder`."""
        others = {path: stamp for path, stamp in self._stamps.items() if not path.startswith(f"{folder}/")}
        self._stamps = others | {
            path: tuple(str(facts[name]) for name in STAMPS if facts.get(name) is not None)
            for path, facts in found.items()
        }
        self._contents = {path: kept for path, kept in self._contents.items() if self._stamps.get(path) == kept[0]}

    def known(self, paths: Iterable[str]) -> dict[str, bytes]:
        """What is in those of these files that need not be read."""
        return {path: self._contents[path][1] for path in paths if path in self._contents}

    def keep(self, contents: Mapping[str, bytes]) -> None:
        """Take in what was read."""
        for path, content in contents.items():
            if stamp := self._stamps.get(path):
                self._contents[path] = stamp, content
