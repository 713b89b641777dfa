"""Tensors as stored in a bundle's files: contiguous copies, int8 with scales, and views of a file already in memory.

The safetensors library copies tensors out of bytes in memory. Here the bytes were just received and verified, and in a
fresh process making that second copy takes longer than computing the checksum: at the paper's sizes, a third or more of
the time to a first prediction (see `docs/decisions.md`). So `view_tensors` reads the small, documented header itself.

Int8 is symmetric, with one scale for each output channel (arXiv 1806.08342 finds this sufficient for convolutional
networks, without data or training); tensors with fewer than two dimensions are kept as they are. Int8 is only for
storage and transfer: networks compute in their own type.
"""

import json
from collections.abc import Mapping
from math import prod
from typing import Any

import torch
from jaxtyping import Float, Float32, Int8, UInt8
from torch import Tensor

from pwl_lab.support.errors import PwlLabError, invalid

LEVELS = 127  # on either side of zero; -128 is not used, so that the range is symmetric
_MARK = "::"  # names of torch modules do not normally contain a colon
_INTEGERS, _SCALE = f"{_MARK}int8", f"{_MARK}scale:"
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


def plain(tensor: Tensor) -> Tensor:
    """A contiguous copy on the CPU that shares no memory, as safetensors requires."""
    return tensor.detach().cpu().clone(memory_format=torch.contiguous_format)


def type_name(dtype: torch.dtype) -> str:
    """The name of a type in torch, without `torch.`."""
    return str(dtype).removeprefix("torch.")


def not_finite(tensors: Mapping[str, Tensor]) -> str | None:
    """The name of the first tensor that holds NaN or infinity; None if there is none.

    A sum is finite only if all of its terms are, and takes one pass over the memory. If it is not finite, the terms are
    checked as well, because the sum alone may have overflowed.
    """
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not tensor.sum().isfinite() and not tensor.isfinite().all():
            return name
    return None


def quantise(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors to store for `state`, which may be part of a state dict, such as that of one block.

    A floating-point tensor `name` of at least two dimensions becomes `name::int8`, of the same shape, and
    `name::scale:TYPE`, float32, one for each index of the first dimension (in linear layers and convolutions: the
    output channel); TYPE is the tensor's own. All other tensors keep their name and values. Raises InvalidValueError
    for a name that contains `::`, for NaN and infinity, and for a channel too large for a float32 scale.
    """
    stored = {}
    for name, tensor in state.items():
        if _MARK in name:
            raise invalid("name", name, f"a name without {_MARK!r}, which marks the parts of a quantised tensor")
        values = tensor.detach()
        if values.is_floating_point() and not bool(values.to(torch.float64).isfinite().all()):
            raise invalid(name, "NaN or infinite values", "finite values only")
        if _is_quantised(values):
            scales = _scales(name, values)
            stored[name + _INTEGERS] = plain(_integers(values, scales))
            stored[name + _SCALE + type_name(values.dtype)] = plain(scales)
        else:
            stored[name] = plain(values)
    return stored


def stored_bytes(state: Mapping[str, Tensor]) -> int:
    """The bytes of the tensors that `quantise` returns for `state`, which may be on the meta device."""
    return sum(
        tensor.numel() + 4 * len(tensor) if _is_quantised(tensor) else tensor.nbytes for tensor in state.values()
    )


def dequantise(stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state dict passed to `quantise`, with weights off by at most half the scale of their channel.

    Names, shapes and types are the original ones, the order is that of `stored`. If the tensor's own type is coarser,
    its rounding is added. Raises InvalidValueError for tensors that are not from `quantise`, and for scales that are
    NaN or infinite.
    """
    state, scales = {}, {name.partition(_SCALE)[0]: name for name in stored if _SCALE in name}
    for key, tensor in stored.items():
        name, mark, part = key.partition(_MARK)
        if not mark:
            state[name] = tensor.clone()
        elif part == "int8":
            state[name] = _dequantised(name, tensor, scales.get(name), stored)
        elif f"{_MARK}{part}".startswith(_SCALE):
            if name + _INTEGERS not in stored:
                raise invalid(key, "a scale", f"only together with {name + _INTEGERS!r}")
        else:
            raise invalid("name", key, f"a name from `quantise`: NAME, NAME{_INTEGERS} or NAME{_SCALE}TYPE")
    return state


def _is_quantised(tensor: Tensor) -> bool:
    """Whether a tensor is stored as integers and scales."""
    return tensor.is_floating_point() and tensor.ndim >= 2 and tensor.numel() > 0


def _scales(name: str, values: Float[Tensor, "channels *rest"]) -> Float32[Tensor, " channels"]:
    """The step between two levels of each channel, so that its largest value is the last level; 0 if all are 0."""
    largest = values.to(torch.float64).flatten(1).abs().amax(dim=1)
    scales = (largest / LEVELS).to(torch.float32)
    # Rounded up if float32 rounded down; otherwise the largest value would be beyond the last level.
    scales = torch.where(scales.double() * LEVELS < largest, scales.nextafter(scales.new_tensor(torch.inf)), scales)
    if not bool(scales.isfinite().all()):
        raise invalid(name, float(largest.max()), "magnitudes that a float32 scale can represent")
    return scales


def _integers(
    values: Float[Tensor, "channels *rest"], scales: Float32[Tensor, " channels"]
) -> Int8[Tensor, "channels *rest"]:
    """The nearest level of each value."""
    steps = _along(scales.double(), values)
    # A channel of zeros has scale 0; dividing by any other number gives zeros.
    levels = (values.double() / torch.where(steps == 0, 1.0, steps)).round()
    return levels.clamp(-LEVELS, LEVELS).to(torch.int8)


def _dequantised(name: str, integers: Tensor, scale: str | None, stored: Mapping[str, Tensor]) -> Tensor:
    """The values of one quantised tensor, in its original type."""
    if scale is None:
        raise invalid(name, "int8 values only", f"{name + _INTEGERS!r} together with its scales")
    scales, kind = stored[scale], getattr(torch, scale.partition(_SCALE)[2], None)
    if not isinstance(kind, torch.dtype) or not kind.is_floating_point:
        raise invalid("name", scale, "a scale's name that ends with a floating-point type")
    if integers.dtype != torch.int8 or integers.ndim < 2 or scales.shape != integers.shape[:1]:
        shapes = (tuple(integers.shape), tuple(scales.shape))
        raise invalid(name, (str(integers.dtype), *shapes), "int8 values of two dimensions or more, one scale per row")
    if not bool(scales.isfinite().all()):
        raise invalid(scale, "NaN or infinite scales", "finite values only")
    return (integers.to(torch.float64) * _along(scales.double(), integers)).to(kind)


def _along(scales: Float[Tensor, " channels"], values: Tensor) -> Tensor:
    """The scales, reshaped to broadcast over their channels."""
    return scales.reshape(-1, *[1] * (values.ndim - 1))


class TensorFormatError(PwlLabError, ValueError):
    """The bytes are not a valid safetensors file."""


def view_tensors(content: UInt8[Tensor, " bytes"]) -> dict[str, Tensor]:
    """Name -> tensor, each a view of `content`, which must not change while they are in use.

    Raises TensorFormatError unless the header describes exactly these bytes.
    """
    try:
        length = int.from_bytes(content[:8].numpy().tobytes(), "little")
        if len(content) < 8 or length > len(content) - 8:
            raise ValueError(f"{len(content)} bytes are fewer than its header says")
        header = json.loads(content[8 : 8 + length].numpy().tobytes())
        header.pop("__metadata__", None)
        data, end = content[8 + length :], 0
        found = {}
        for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
            found[name], end = _view(data, entry, end)
        if end != len(data):
            raise ValueError(f"{len(data) - end} bytes belong to no tensor")
    except (ArithmeticError, ValueError, LookupError, TypeError, AttributeError, RuntimeError) as error:
        raise TensorFormatError(f"not a safetensors file: {error}") from error
    return found


def _view(data: UInt8[Tensor, " bytes"], entry: dict[str, Any], begin: int) -> tuple[Tensor, int]:
    """One tensor, which must begin where the previous one ended, and the position of its end."""
    dtype, shape, (first, end) = DTYPES[entry["dtype"]], entry["shape"], entry["data_offsets"]
    if first != begin or end > len(data) or end - first != prod(shape) * dtype.itemsize:
        raise ValueError(f"offsets {first} to {end} do not fit a tensor of shape {shape}")
    part = data[first:end]
    if (data.storage_offset() + first) % dtype.itemsize:  # a view must begin at a multiple of its item size
        part = part.clone()
    return part.view(dtype).reshape(shape), end
