"""Small files, written aside and then renamed: a reader sees the old content or the new, never half of one."""

import json
import os
import tempfile
from pathlib import Path
from typing import Any


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
