"""The sizes of a pair, part by part: what `plots.architecture` draws."""

from collections.abc import Sequence

import pandas as pd
from torch import nn

from pwl_lab.loading.swapnet import SwapNet
from pwl_lab.models.blocknet import parameter_bytes, unit_bytes


def outline(net: SwapNet, input_shape: Sequence[int]) -> pd.DataFrame:
    """One row per block (`part` teacher or student) and converter (`part` encoder or decoder) of a pair.

    Columns: part, block (of a converter: the boundary behind that block), channels that it gives out, positions
    (such as `14×14`; empty for plain units), layers (those with a weight matrix; a block's own, without stem and head)
    and bytes (of a block: what its swap brings, so with stem or head).
    """
    rows = []
    for part, owner in (("teacher", net.teacher), ("student", net.student)):
        shapes, sizes = owner.state_shapes(input_shape), unit_bytes(owner)
        for number, (block, shape, size) in enumerate(zip(owner.blocks, shapes, sizes, strict=True), start=1):
            rows.append(_row(part, number, shape, block, size))
    ends = {"encoder": (net.converters.encoders, net.student), "decoder": (net.converters.decoders, net.teacher)}
    for part, (converters, target) in ends.items():
        for number, (converter, shape) in enumerate(
            zip(converters, target.state_shapes(input_shape)[:-1], strict=True), start=1
        ):
            rows.append(_row(part, number, shape, converter, parameter_bytes(converter)))
    return pd.DataFrame(rows)


def _row(part: str, number: int, shape: tuple[int, ...], module: nn.Module, size: int) -> dict[str, object]:
    """One part in numbers."""
    layers = sum(any(p.ndim > 1 for p in one.parameters(recurse=False)) for one in module.modules())
    positions = "×".join(str(length) for length in shape[1:])
    return {
        "part": part,
        "block": number,
        "channels": shape[0],
        "positions": positions,
        "layers": layers,
        "bytes": size,
    }
