"""Bit planes: a whole network sent most significant bits first, usable after each stage.

This follows arXiv 2110.00916 (Progressive Transmission and Inference of Deep Learning Models): the values of each
tensor are placed in 2^16 equal bins between its smallest and its largest value, the bins' numbers are cut into groups
of bits (*planes*), and stage `k` sends plane `k` of every tensor. The first bits of a number determine the value up to
an interval; the network runs with the middle of that interval. `docs/decisions.md` says where
this departs from the paper.

A stage is stored as safetensors: one vector of packed bits for the whole network and, in the first stage, what is needed
to read them. Digests detect damage and stages in the wrong order; they do not protect against forgery.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from math import prod
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float64, UInt8
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from pwl_lab.loading.tensors import plain, type_name
from pwl_lab.support.errors import InvalidValueError, invalid

BITS = 16  # bits of a value once all planes are there
WIDTHS = (2,) * 8  # bits of each plane, unless asked for others
Floats = NDArray[np.float64]
Numbers = NDArray[np.uint16]
Bytes = NDArray[np.uint8]
_FORMAT = 1
_PLANE, _HEADER, _RANGES, _WHOLE, _CHECK = "plane", "header", "ranges", "whole.", "check"  # tensors of the files


@dataclass(frozen=True)
class Entry:
    """One tensor of the state dict; if `coded`, it is cut into planes, otherwise it is sent whole with the first stage."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    coded: bool


@dataclass(frozen=True, eq=False)  # comparing tensors gives no single truth value
class BitPlanes:
    """A network in stages, as `encode` makes it; of one that still arrives, only the first stages are there.

    `ranges` has the least and the largest value of each coded tensor; `planes` the bits of each stage, those of all
    coded tensors in the order of `entries` one after another, the most significant bit of a byte first; `digests` 16
    hex digits of the SHA-256 of every plane, also of those that are still to come.
    """

    widths: tuple[int, ...]
    entries: tuple[Entry, ...]
    ranges: Float64[Tensor, "coded 2"]
    whole: Mapping[str, Tensor]
    planes: tuple[UInt8[Tensor, " _"], ...] = field(repr=False)
    digests: tuple[str, ...] = field(repr=False)

    def to_bytes(self, stage: int) -> bytes:
        """What stage `stage` (from 1) sends: a safetensors file. Raises InvalidValueError where there is none."""
        tensors = {_PLANE: self.planes[_check_stages(stage, len(self.planes)) - 1]}
        return save(tensors | self._first() if stage == 1 else tensors)

    def save(self, folder: Path) -> list[Path]:
        """Write each stage that is there into `folder` as `stage-1.safetensors` and so on; the files' paths in order."""
        paths = [Path(folder) / f"stage-{stage}.safetensors" for stage in range(1, len(self.planes) + 1)]
        for stage, path in enumerate(paths, start=1):
            path.write_bytes(self.to_bytes(stage))
        return paths

    def _first(self) -> dict[str, Tensor]:
        """The tensors sent with the first plane: what is needed to read all stages, and a digest of it."""
        entries = [[entry.name, type_name(entry.dtype), entry.shape, entry.coded] for entry in self.entries]
        header = {"format": _FORMAT, "widths": self.widths, "entries": entries, "digests": self.digests}
        first = {_HEADER: _as_tensor(json.dumps(header, separators=(",", ":"))), _RANGES: self.ranges}
        first |= {_WHOLE + name: tensor for name, tensor in self.whole.items()}
        return first | {_CHECK: _as_tensor(_digest(first))}


def encode(state: Mapping[str, Tensor], widths: Sequence[int] = WIDTHS) -> BitPlanes:
    """Cut every floating-point tensor of a state dict into planes of bits, most significant first (arXiv 2110.00916).

    Arguments:
    - `state`: the tensors; others than floating-point ones (counters) are sent as they are with the first stage.
    - `widths`: bits of each plane, whole numbers from 1 on with sum 16.

    Raises InvalidValueError for other widths, for a tensor with NaN or infinity, and for one whose range no float64 holds.
    """
    widths = _check_widths(widths)
    entries, ranges, numbers, whole = [], [], [], {}
    for name, tensor in state.items():
        entries.append(Entry(name, tensor.dtype, tuple(tensor.shape), tensor.is_floating_point()))
        if tensor.is_floating_point():
            values = _values(name, tensor)
            least, largest = (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)
            ranges.append((least, largest))
            numbers.append(_bins(values, least, _span(name, least, largest)))
        else:
            whole[name] = plain(tensor)
    joined = np.concatenate(numbers) if numbers else np.empty(0, np.uint16)
    planes = tuple(torch.from_numpy(_pack(joined, start, width)) for start, width in _cuts(widths))
    limits = torch.tensor(ranges, dtype=torch.float64).reshape(-1, 2)
    return BitPlanes(widths, tuple(entries), limits, whole, planes, tuple(_digest({_PLANE: plane}) for plane in planes))


def decode(planes: BitPlanes, stages: int) -> dict[str, Tensor]:
    """The state dict after the first `stages` stages: names, order, shapes and types as they were encoded.

    A value is the middle of the interval that its first bits leave open, so off by at most half of it: by
    `(largest - least) / 2^(bits + 1)` of its tensor, up to the rounding of the tensor's type; a constant tensor is
    exact. Before the first stage there is nothing: raises InvalidValueError for 0 stages and for more than are there.
    """
    stages = _check_stages(stages, len(planes.planes))
    bits = sum(planes.widths[:stages])
    counts = [prod(entry.shape) for entry in planes.entries if entry.coded]
    numbers = np.zeros(sum(counts), np.uint16)
    for (start, width), plane in zip(_cuts(planes.widths), planes.planes[:stages], strict=False):
        numbers |= _unpack(plane.numpy(), len(numbers), width) << np.uint16(BITS - start - width)
    parts = iter(zip(np.split(numbers, list(accumulate(counts))), planes.ranges.tolist(), strict=False))
    state = {}
    for entry in planes.entries:
        if not entry.coded:
            state[entry.name] = planes.whole[entry.name].clone()
            continue
        part, (least, largest) = next(parts)
        middles = least + (part / 2.0**BITS + 0.5 / 2.0**bits) * (largest - least)
        state[entry.name] = torch.from_numpy(middles).reshape(entry.shape).to(entry.dtype)
    return state


def from_bytes(stages: Sequence[bytes]) -> BitPlanes:
    """The network of which the first stages have arrived, in order, each as `to_bytes` gave it.

    Raises InvalidValueError naming the stage that is damaged, of another network, or out of its order.
    """
    if not stages:
        raise invalid("stages", 0, "at least the first stage: without it nothing can be read")
    parts = [_read(stage, number) for number, stage in enumerate(stages, start=1)]
    try:
        announced = _announced(parts[0])
    except (KeyError, TypeError, ValueError) as error:
        raise _refused(1, f"not a first stage, or damaged ({error})") from error
    if len(parts) > len(announced.digests):
        raise invalid("stages", len(parts), f"at most {len(announced.digests)}, as many as the first stage announces")
    for number, (part, digest) in enumerate(zip(parts, announced.digests, strict=False), start=1):
        if _PLANE not in part or _digest({_PLANE: part[_PLANE]}) != digest:
            raise _refused(number, "from another network, out of order, or damaged")
    return replace(announced, planes=tuple(part[_PLANE] for part in parts))


def _announced(first: Mapping[str, Tensor]) -> BitPlanes:
    """The network that the first stage announces, still without planes; KeyError, TypeError or ValueError if damaged."""
    rest = {name: tensor for name, tensor in first.items() if name not in (_PLANE, _CHECK)}
    if _as_text(first[_CHECK]) != _digest(rest):
        raise ValueError("it is not what was written")
    header = json.loads(_as_text(first[_HEADER]))
    if header["format"] != _FORMAT:
        raise ValueError(f"its format is {header['format']!r}, not {_FORMAT}")
    whole = {name.removeprefix(_WHOLE): tensor for name, tensor in rest.items() if name.startswith(_WHOLE)}
    entries = tuple(
        Entry(name, getattr(torch, dtype), tuple(shape), coded) for name, dtype, shape, coded in header["entries"]
    )
    return BitPlanes(tuple(header["widths"]), entries, first[_RANGES], whole, (), tuple(header["digests"]))


def _read(stage: bytes, number: int) -> dict[str, Tensor]:
    """The tensors of a stage, read from its bytes."""
    try:
        return load(stage)
    except (SafetensorError, ValueError, KeyError) as error:
        raise _refused(number, f"not a safetensors file, or damaged ({error})") from error


def _refused(number: int, why: str) -> InvalidValueError:
    """The error for a stage that cannot be used."""
    return invalid("stages", f"stage {number}", f"it is {why}")


def _digest(tensors: Mapping[str, Tensor]) -> str:
    """16 hex digits of names, types, shapes and values: enough against accidents (not forgery), and headers stay small."""
    total = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        total.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return total.hexdigest()[:16]


def _as_tensor(text: str) -> UInt8[Tensor, " bytes"]:
    """A text as bytes, which a safetensors file can hold."""
    return torch.tensor(list(text.encode()), dtype=torch.uint8)


def _as_text(tensor: Tensor) -> str:
    """The text that `_as_tensor` encoded."""
    return bytes(tensor.tolist()).decode()


def _check_widths(widths: Sequence[int]) -> tuple[int, ...]:
    """The widths as a tuple. Raises InvalidValueError if they are invalid."""
    widths = tuple(widths)
    if any(type(width) is not int or width < 1 for width in widths) or sum(widths) != BITS:
        raise invalid("widths", widths, f"whole numbers from 1 on whose sum is {BITS}")
    return widths


def _check_stages(stages: int, there: int) -> int:
    """`stages` itself. Raises InvalidValueError if it is invalid."""
    if type(stages) is not int or not 1 <= stages <= there:
        raise invalid("stages", stages, f"a whole number from 1 to {there}, the number of available stages")
    return stages


def _values(name: str, tensor: Tensor) -> Floats:
    """The flattened values of a tensor in float64, in which no range of a smaller type overflows."""
    values = tensor.detach().to("cpu", torch.float64).reshape(-1)
    if not bool(values.isfinite().all()):
        raise invalid(name, f"{int((~values.isfinite()).sum())} values that are NaN or infinite", "finite values only")
    return values.numpy()


def _span(name: str, least: float, largest: float) -> float:
    """The largest value of a tensor minus its smallest."""
    if largest - least == float("inf"):
        raise invalid(name, (least, largest), "values whose range is a finite float64")
    return largest - least


def _bins(values: Floats, least: float, span: float) -> Numbers:
    """Which of the 2^16 equal bins each value lies in (uint16); the largest value belongs to the last one."""
    if span == 0:
        return np.zeros(len(values), np.uint16)
    bins: Numbers = np.minimum((values - least) / span * 2**BITS, 2**BITS - 1).astype(np.uint16)
    return bins


def _cuts(widths: Sequence[int]) -> list[tuple[int, int]]:
    """Where each plane starts, in bits from the most significant one, and how wide it is."""
    return list(zip([0, *accumulate(widths)], widths, strict=False))


def _pack(numbers: Numbers, start: int, width: int) -> Bytes:
    """Bits `start` to `start + width` of each number, without a gap between numbers: ceil(width * n / 8) bytes."""
    bits = np.empty((len(numbers), width), np.uint8)
    for column in range(width):
        bits[:, column] = (numbers >> np.uint16(BITS - 1 - start - column)) & 1
    return np.packbits(bits)


def _unpack(plane: Bytes, count: int, width: int) -> Numbers:
    """The `count` numbers (uint16) of `width` bits each that `_pack` put into a plane."""
    bits = np.unpackbits(plane, count=count * width).reshape(count, width)
    numbers = np.zeros(count, np.uint16)
    for column in bits.T:
        numbers = (numbers << np.uint16(1)) | column
    return numbers
