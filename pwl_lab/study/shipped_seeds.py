"""Results of other seeds that ship with the project, so that a reader need train only the first one.

`data/other_seeds/` has a file for each notebook and family, with a line for each entry of the store: its key, tables and
values, which samples each mask gets right, and how it was made (`scripts/ship_seeds.py` writes them). Weights do not ship:
a network of such a seed is on the device `meta`, which has shapes and no numbers. The key says what an entry was made
from. So with any other parameter, or another version of a recipe, it is not found, and the seed is trained.
"""

import base64
import json
import zlib
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool
from torch import Tensor

from pwl_lab.support import paths
from pwl_lab.support.errors import MissingDataError

FOLDER = "other_seeds"  # in `data/`


def find(kind: str, key: str) -> dict[str, Any] | None:
    """What ships of an entry of the store: its `tables`, `tensors`, `info` and `made`; None if nothing does.

    Raises MissingDataError for a file that cannot be read.
    """
    line = _lines(paths.data() / FOLDER).get((kind, key))
    if line is None:
        return None
    tables = {name: _table(columns, line["columns"][name]) for name, columns in line["tables"].items()}
    tensors = {name: unpacked(bits) for name, bits in line["bits"].items()}
    return {"tables": tables, "tensors": tensors, "info": line["info"], "made": line["made"]}


@cache
def _lines(folder: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """Every line of every file, by kind and key."""
    found = dict[tuple[str, str], dict[str, Any]]()
    for path in sorted(folder.glob("*.jsonl")):
        try:
            lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
            found |= {(line["kind"], line["key"]): line for line in lines}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise MissingDataError(
                f"{path} cannot be read ({error}); take it from a checkout, or set other_seeds to trained"
            ) from error
    return found


def _table(columns: dict[str, list[Any]], kinds: dict[str, str]) -> pd.DataFrame:
    """A table with the column types that it had (numpy's one-letter kinds)."""
    types = {name: {"f": "float64", "i": "int64", "u": "uint64", "b": "bool"}.get(kind) for name, kind in kinds.items()}
    return pd.DataFrame(columns).astype({name: one for name, one in types.items() if one})


def packed(right: Bool[Tensor, "*shape"]) -> dict[str, Any]:
    """Booleans as JSON: their shape, and the bits, compressed and as text."""
    bits = zlib.compress(np.packbits(right.numpy()).tobytes(), 9)
    return {"shape": list(right.shape), "bits": base64.b85encode(bits).decode()}


def unpacked(said: dict[str, Any]) -> Bool[Tensor, "*shape"]:
    """The booleans of `packed`."""
    shape = tuple(said["shape"])
    bits = np.frombuffer(zlib.decompress(base64.b85decode(said["bits"])), dtype=np.uint8)
    return torch.from_numpy(np.unpackbits(bits, count=int(np.prod(shape))).reshape(shape).astype(bool))
