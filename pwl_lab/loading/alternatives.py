"""What bytes buy without progressive loading: accuracy against bytes for bit planes, 8 bits and the plain file."""

from collections.abc import Callable, Mapping, Sequence

import pandas as pd
from torch import Tensor

from pwl_lab.loading.bitplanes import decode, encode
from pwl_lab.loading.eightbit import dequantise, quantise
from pwl_lab.loading.stored import file_bytes

Evaluate = Callable[[Mapping[str, Tensor]], float]
"""The accuracy in [0, 1] of the network with this state dict."""


def accuracy_by_bytes(
    state: Mapping[str, Tensor], evaluate: Evaluate, widths: Sequence[int] = (2,) * 8, whole_below: int = 0
) -> pd.DataFrame:
    """One row per point at which a network can answer: bit planes after each stage, then 8 bits, then the plain file.

    Columns: way (`bit planes`, `8 bits`, `plain`), bits (of a weight), bytes (all that must have arrived by then, file
    headers too) and accuracy. Raises InvalidValueError as `encode` and `quantise` do.
    """
    stored = quantise(state)
    rows = bitplane_rows(state, evaluate, widths, whole_below)
    rows.append(_row("8 bits", 8, file_bytes(stored), evaluate(dequantise(stored))))
    rows.append(_row("plain", _widest(state), file_bytes(state), evaluate(state)))
    return pd.DataFrame(rows)


def bitplane_rows(
    state: Mapping[str, Tensor], evaluate: Evaluate, widths: Sequence[int] = (2,) * 8, whole_below: int = 0
) -> list[dict[str, object]]:
    """The rows of `accuracy_by_bytes` for bit planes."""
    planes = encode(state, widths, whole_below)
    rows, arrived = [], 0
    for stage, size in enumerate(planes.stage_bytes(), start=1):
        arrived += size
        rows.append(_row("bit planes", sum(planes.widths[:stage]), arrived, evaluate(decode(planes, stage))))
    return rows


def _row(way: str, bits: int, size: int, accuracy: float) -> dict[str, object]:
    """One row."""
    return {"way": way, "bits": bits, "bytes": size, "accuracy": accuracy}


def _widest(state: Mapping[str, Tensor]) -> int:
    """Bits of a weight as it is: those of the widest floating-point type."""
    return max((8 * t.element_size() for t in state.values() if t.is_floating_point()), default=0)
