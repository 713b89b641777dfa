"""Bit planes: a whole network sent most significant bits first, usable after each stage.

What arXiv 2110.00916 (Progressive Transmission and Inference of Deep Learning Models) does, and what stands here: the
values of each tensor are placed in 2^16 equal bins between its least and its largest value, the bins' numbers are cut
into groups of bits (*planes*), and stage `k` brings plane `k` of every tensor. With the first bits of a number one
knows the value up to an interval; the network is run with the middle of that interval. Where this departs from the
source stands in `docs/decisions.md`.

A stage is stored as safetensors: one vector of packed bits for the whole network, and with the first stage what it
takes to read them.
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
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from pwl_lab.loading.tensors import named_type, not_finite, plain, type_name
from pwl_lab.support.errors import InvalidValueError, invalid

BITS = 16  # of a value once all planes are there
_FORMAT = 1
_PLANE, _HEADER, _RANGES, _WHOLE, _CHECK = "plane", "header", "ranges", "whole.", "check"  # tensors of the files


@dataclass(frozen=True)
class Entry:
    """One tensor of the state dict: its name, its type (as torch writes it, without `torch.`), its shape.

    `coded`: whether it is cut into planes; if not, it is sent whole with the first stage.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    coded: bool


@dataclass(frozen=True, eq=False)  # tensors have no one truth to compare by
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

    def stage_bytes(self) -> list[int]:
        """Bytes of each stage that is there, headers and all: the length of what `to_bytes` gives."""
        return [len(self.to_bytes(stage)) for stage in range(1, len(self.planes) + 1)]

    def save(self, folder: Path) -> list[Path]:
        """Write each stage that is there into `folder` as `stage-1.safetensors` and so on; the files' paths in order."""
        paths = [Path(folder) / f"stage-{stage}.safetensors" for stage in range(1, len(self.planes) + 1)]
        for stage, path in enumerate(paths, start=1):
            path.write_bytes(self.to_bytes(stage))
        return paths

    def _first(self) -> dict[str, Tensor]:
        """The tensors that come with the first plane: what it takes to read all of them, and a digest of that."""
        entries = [[entry.name, entry.dtype, entry.shape, entry.coded] for entry in self.entries]
        header = {"format": _FORMAT, "widths": self.widths, "entries": entries, "digests": self.digests}
        first = {_HEADER: _as_tensor(json.dumps(header, separators=(",", ":"))), _RANGES: self.ranges}
        first |= {_WHOLE + name: tensor for name, tensor in self.whole.items()}
        return first | {_CHECK: _as_tensor(_digest(first))}


def encode(state: Mapping[str, Tensor], widths: Sequence[int] = (2,) * 8, whole_below: int = 0) -> BitPlanes:
    """Cut every floating-point tensor of `state` into planes of `widths` bits, most significant first.

    Other tensors (counters), and those of fewer than `whole_below` dimensions, are sent as they are with the first
    stage. Raises InvalidValueError for widths that are not whole numbers from 1 on with sum 16, for a tensor with NaN
    or infinity, and for one whose range no float64 holds. Source: arXiv 2110.00916.
    """
    widths = _check_widths(widths)
    entries, ranges, numbers, whole = [], [], [], {}
    for name, tensor in state.items():
        coded = tensor.is_floating_point() and tensor.ndim >= whole_below
        entries.append(Entry(name, type_name(tensor), tuple(tensor.shape), coded))
        if coded:
            values = _values(name, tensor)
            least, largest = (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)
            ranges.append((least, largest))
            numbers.append(_bins(values, least, _span(name, least, largest)))
        elif not_finite({name: tensor}) is not None:
            raise invalid(name, "NaN or infinite values", "finite values only")
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
        state[entry.name] = torch.from_numpy(middles).reshape(entry.shape).to(named_type(entry.dtype))
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
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise _refused(1, f"no first stage, or damaged ({error})") from error
    if len(parts) > len(announced.digests):
        raise invalid("stages", len(parts), f"at most {len(announced.digests)}, as many as the first stage announces")
    for number, (part, digest) in enumerate(zip(parts, announced.digests, strict=False), start=1):
        if _PLANE not in part or _digest({_PLANE: part[_PLANE]}) != digest:
            raise _refused(number, "another network's, out of its order, or damaged")
        # Before anything is unpacked: what a first stage announces decides how much memory that takes.
        bits = announced.widths[number - 1] * sum(prod(entry.shape) for entry in announced.entries if entry.coded)
        if part[_PLANE].dtype != torch.uint8 or tuple(part[_PLANE].shape) != (-(-bits // 8),):
            raise _refused(
                number, f"damaged: its plane has {part[_PLANE].numel():,} bytes, not the {bits:,} bits announced"
            )
    return replace(announced, planes=tuple(part[_PLANE] for part in parts))


def load_stages(paths: Sequence[Path]) -> BitPlanes:
    """The network whose first stages are stored in `paths`, in order; raises as `from_bytes` does."""
    return from_bytes([Path(path).read_bytes() for path in paths])


def _announced(first: Mapping[str, Tensor]) -> BitPlanes:
    """What the first stage says of all of them, still without a plane; KeyError, TypeError or ValueError if damaged."""
    rest = {name: tensor for name, tensor in first.items() if name not in (_PLANE, _CHECK)}
    if _as_text(first[_CHECK]) != _digest(rest):
        raise ValueError("it is not what was written")
    header = json.loads(_as_text(first[_HEADER]))
    if header["format"] != _FORMAT:
        raise ValueError(f"its format is {header['format']!r}, not {_FORMAT}")
    whole = {name.removeprefix(_WHOLE): tensor for name, tensor in rest.items() if name.startswith(_WHOLE)}
    entries = tuple(Entry(name, dtype, tuple(shape), coded) for name, dtype, shape, coded in header["entries"])
    announced = BitPlanes(_check_widths(header["widths"]), entries, first[_RANGES], whole, (), tuple(header["digests"]))
    _check_announced(announced)
    return announced


def _check_announced(planes: BitPlanes) -> None:
    """Raise ValueError unless what a first stage announces holds together, and all numbers that it brings are finite."""
    coded = [entry for entry in planes.entries if entry.coded]
    for entry in planes.entries:
        kind = named_type(entry.dtype)
        if kind is None or any(type(length) is not int or not 0 <= length < 2**63 for length in entry.shape):
            raise ValueError(f"{entry.name} has type {entry.dtype!r} and shape {entry.shape}")
        if entry.coded != (entry.name not in planes.whole) or (entry.coded and not kind.is_floating_point):
            raise ValueError(f"{entry.name} is neither in planes nor whole")
        if not entry.coded and (planes.whole[entry.name].dtype, tuple(planes.whole[entry.name].shape)) != (
            kind,
            entry.shape,
        ):
            raise ValueError(f"{entry.name} is not of the type and shape announced")
    names = {entry.name for entry in planes.entries}
    if not len(names) == len(planes.entries) == len(coded) + len(planes.whole):
        raise ValueError("it does not announce each tensor once")
    if planes.ranges.dtype != torch.float64 or tuple(planes.ranges.shape) != (len(coded), 2):
        raise ValueError(f"its ranges are of shape {tuple(planes.ranges.shape)}, not of {(len(coded), 2)}")
    if len(planes.digests) != len(planes.widths):
        raise ValueError(f"{len(planes.digests)} digests for {len(planes.widths)} stages")
    if (name := not_finite({"ranges": planes.ranges, **planes.whole})) is not None:
        raise ValueError(f"{name} holds values that are NaN or infinite")
    for entry, (least, largest) in zip(coded, planes.ranges.tolist(), strict=True):
        _span(entry.name, least, largest)
        if max(abs(least), abs(largest)) > torch.finfo(named_type(entry.dtype)).max:
            raise ValueError(f"{entry.name} has values from {least} to {largest}, which are beyond {entry.dtype}")


def _read(stage: bytes, number: int) -> dict[str, Tensor]:
    """The tensors of a stage."""
    try:
        return load(stage)
    except (SafetensorError, ValueError, KeyError) as error:
        raise _refused(number, f"no safetensors file, or damaged ({error})") from error


def _refused(number: int, why: str) -> InvalidValueError:
    """The error for a stage that cannot be used."""
    return invalid("stages", f"stage {number}", f"it is {why}")


def _digest(tensors: Mapping[str, Tensor]) -> str:
    """16 hex digits of names, types, shapes and values: against accidents, not forgery, so short to keep headers small."""
    total = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        total.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return total.hexdigest()[:16]


def _as_tensor(text: str) -> UInt8[Tensor, " bytes"]:
    """A text as a file keeps it."""
    return torch.tensor(list(text.encode()), dtype=torch.uint8)


def _as_text(tensor: Tensor) -> str:
    """The text of such a tensor."""
    return bytes(tensor.tolist()).decode()


def _check_widths(widths: Sequence[int]) -> tuple[int, ...]:
    """The widths as a tuple."""
    widths = tuple(widths)
    if any(type(width) is not int or width < 1 for width in widths) or sum(widths) != BITS:
        raise invalid("widths", widths, f"whole numbers from 1 on whose sum is {BITS}")
    return widths


def _check_stages(stages: int, there: int) -> int:
    """A number of stages that can be used."""
    if type(stages) is not int or not 1 <= stages <= there:
        raise invalid("stages", stages, f"a whole number from 1 to {there}, the stages that are there")
    return stages


def _values(name: str, tensor: Tensor) -> np.ndarray:
    """The values of a tensor one after another, in float64: no range of a smaller type overflows there."""
    values = tensor.detach().to("cpu", torch.float64).reshape(-1)
    if not bool(values.isfinite().all()):
        raise invalid(name, f"{int((~values.isfinite()).sum())} values that are NaN or infinite", "finite values only")
    return values.numpy()


def _span(name: str, least: float, largest: float) -> float:
    """The length of a tensor's range."""
    if largest - least == float("inf"):
        raise invalid(name, (least, largest), "values whose range is a finite float64")
    return largest - least


def _bins(values: np.ndarray, least: float, span: float) -> np.ndarray:
    """Which of the 2^16 equal bins each value lies in (uint16); the largest value belongs to the last one."""
    if span == 0:
        return np.zeros(len(values), np.uint16)
    return np.minimum((values - least) / span * 2**BITS, 2**BITS - 1).astype(np.uint16)


def _cuts(widths: Sequence[int]) -> list[tuple[int, int]]:
    """Where each plane starts, in bits from the most significant one, and how wide it is."""
    return list(zip([0, *accumulate(widths)], widths, strict=False))


def _pack(numbers: np.ndarray, start: int, width: int) -> np.ndarray:
    """Bits `start` to `start + width` of each number, without a gap between numbers: ceil(width * n / 8) bytes."""
    bits = np.empty((len(numbers), width), np.uint8)
    for column in range(width):
        bits[:, column] = (numbers >> np.uint16(BITS - 1 - start - column)) & 1
    return np.packbits(bits)


def _unpack(plane: np.ndarray, count: int, width: int) -> np.ndarray:
    """The `count` numbers (uint16) of `width` bits each that `_pack` put into a plane."""
    bits = np.unpackbits(plane, count=count * width).reshape(count, width)
    numbers = np.zeros(count, np.uint16)
    for column in bits.T:
        numbers = (numbers << np.uint16(1)) | column
    return numbers
