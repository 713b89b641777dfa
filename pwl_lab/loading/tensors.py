"""Tensors as files keep them: contiguous copies, types by name, and views of a safetensors file that is in memory already.

The safetensors library reads files, or copies out of bytes. Here the bytes were just received and verified, and a second
copy would take longer than the checksum did.
"""

import json
from collections.abc import Mapping
from math import prod
from typing import Any

import torch
from jaxtyping import UInt8
from torch import Tensor

from pwl_lab.support.errors import PwlLabError


def plain(tensor: Tensor) -> Tensor:
    """A copy on the CPU, laid out row by row and sharing no memory, as safetensors asks for."""
    return tensor.detach().cpu().clone(memory_format=torch.contiguous_format)


def type_name(tensor: Tensor) -> str:
    """The tensor's type as torch writes it, without `torch.`."""
    return str(tensor.dtype).removeprefix("torch.")


def named_type(name: object) -> torch.dtype | None:
    """The type of this name, or None where there is none."""
    found = getattr(torch, name, None) if isinstance(name, str) else None
    return found if isinstance(found, torch.dtype) else None


DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


class TensorFormatError(PwlLabError, ValueError):
    """Bytes that should be a safetensors file are none."""


def view_tensors(content: UInt8[Tensor, " bytes"]) -> dict[str, Tensor]:
    """Name -> tensor, each a view of `content`, which must stay unchanged as long as they live.

    Raises TensorFormatError where the header does not describe exactly these bytes.
    """
    try:
        length = int.from_bytes(content[:8].numpy().tobytes(), "little")
        if len(content) < 8 or length > len(content) - 8:
            raise ValueError(f"{len(content)} bytes are less than its header says")
        header = json.loads(content[8 : 8 + length].numpy().tobytes())
        header.pop("__metadata__", None)
        data, end = content[8 + length :], 0
        found = {}
        for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
            found[name], end = _view(data, entry, end)
        if end != len(data):
            raise ValueError(f"{len(data) - end} bytes belong to no tensor")
    except (ArithmeticError, ValueError, LookupError, TypeError, AttributeError, RuntimeError) as error:
        raise TensorFormatError(f"no safetensors file: {error}") from error
    return found


def not_finite(tensors: Mapping[str, Tensor]) -> str | None:
    """The name of the first tensor that holds NaN or infinity; None where there is none.

    A sum is finite only if all of its terms are, and takes one pass over the memory; where it is not, it may still be that
    it alone is too large.
    """
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not tensor.sum().isfinite() and not tensor.isfinite().all():
            return name
    return None


def _view(data: UInt8[Tensor, " bytes"], entry: dict[str, Any], begin: int) -> tuple[Tensor, int]:
    """One tensor, which has to begin where the one before it ended, and where it ends itself."""
    dtype, shape, (first, end) = DTYPES[entry["dtype"]], entry["shape"], entry["data_offsets"]
    if first != begin or end > len(data) or end - first != prod(shape) * dtype.itemsize:
        raise ValueError(f"offsets {first} to {end} do not fit a tensor of shape {shape}")
    part = data[first:end]
    if (data.storage_offset() + first) % dtype.itemsize:  # a view has to begin at a multiple of its numbers' size
        part = part.clone()
    return part.view(dtype).reshape(shape), end
