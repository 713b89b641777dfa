"""Small files, written aside and then renamed: a reader sees the old content or the new, never half of one."""

import errno
import json
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

UNABLE = (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS)  # what a file system says that knows no fsync


def write_text(path: Path, text: str) -> None:
    """Write `path`, whose folder is made if it has to be. Raises OSError; what was there before is then still there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, aside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        Path(aside).chmod(0o644)  # mkstemp keeps a file to its owner
        Path(aside).replace(path)
    except BaseException:
        Path(aside).unlink(missing_ok=True)
        raise


def write_json(path: Path, value: Any, lenient: bool = False) -> None:
    """Write `value` as JSON. `lenient`: what JSON has no form for is written as text."""
    write_text(path, json_text(value, lenient))


def json_text(value: Any, lenient: bool = False) -> str:
    """`value` as the text of a JSON file. Raises TypeError and ValueError for what JSON has no form for, unless `lenient`."""
    return json.dumps(value, indent=1, allow_nan=lenient, default=str if lenient else None) + "\n"


def settle(files: Iterable[Path]) -> None:
    """Wait until those of these files that are there, and their folders, would outlast a loss of power.

    Raises OSError where the disk does not take them. Some milliseconds a file: only for what later work relies on.
    """
    there = [path for path in files if path.is_file()]
    folders = {path.parent for path in there} if os.name == "posix" else set()
    how = os.O_RDONLY if os.name == "posix" else os.O_RDWR  # Windows: only what is open for writing
    for path in (*there, *folders):  # the folders last: they hold the names
        handle = os.open(path, how)
        try:
            os.fsync(handle)
        except OSError as error:
            if error.errno not in UNABLE:
                raise
        finally:
            os.close(handle)
