"""Weights at 8 bits: a fourth of the bytes, at once and for good or as a block's first version.

Symmetric int8 with one scale for each output channel (arXiv 1806.08342 finds this enough for convolutional networks,
without any data or training); what has fewer than two dimensions stays as it is. Networks still compute
in their own type: 8 bits are what is stored and sent.
"""

from collections.abc import Mapping

import torch
from jaxtyping import Float, Float32, Int8
from torch import Tensor

from pwl_lab.loading.tensors import named_type, plain, type_name
from pwl_lab.support.errors import invalid

LEVELS = 127  # on either side of zero; -128 is not used, so that zero is in the middle
_MARK = "::"  # no name of a torch module has a colon unless someone puts it there
_INTEGERS, _SCALE = f"{_MARK}int8", f"{_MARK}scale:"


def quantise(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors to store for `state`, which may be a part of a state dict, such as a block's.

    A floating-point tensor `name` of at least two dimensions becomes `name::int8`, of the same shape, and
    `name::scale:TYPE`, float32, one for each index of the first dimension (in linear layers and convolutions: the
    output channel), TYPE being the tensor's own. All else keeps its name and its values. Safetensors takes it as it
    is. Raises InvalidValueError for a name with `::` in it, for NaN and infinity, and for a channel too large for a
    float32 scale.
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
            stored[name + _SCALE + type_name(values)] = plain(scales)
        else:
            stored[name] = plain(values)
    return stored


def stored_bytes(state: Mapping[str, Tensor]) -> int:
    """The bytes of the tensors that `quantise` makes of `state`, which may be on the meta device: shapes decide."""
    return sum(
        tensor.numel() + 4 * len(tensor) if _is_quantised(tensor) else tensor.nbytes for tensor in state.values()
    )


def dequantise(stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state dict that `quantise` was given, with weights off by at most half a scale of their channel.

    Names, shapes and types are what they were; the order is that of `stored`, and the rounding of the tensor's own
    type comes on top where that is coarser. Raises InvalidValueError for what `quantise` did not make, and for scales
    that are NaN or infinite.
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
            raise invalid("name", key, f"what `quantise` names: NAME, NAME{_INTEGERS} or NAME{_SCALE}TYPE")
    return state


def _is_quantised(tensor: Tensor) -> bool:
    """Whether a tensor is stored as integers and scales."""
    return tensor.is_floating_point() and tensor.ndim >= 2 and tensor.numel() > 0


def _scales(name: str, values: Float[Tensor, "channels *rest"]) -> Float32[Tensor, " channels"]:
    """The step between two levels of each channel, so that its largest value is the last level; 0 where all is 0."""
    largest = values.to(torch.float64).flatten(1).abs().amax(dim=1)
    scales = (largest / LEVELS).to(torch.float32)
    # Rounded up where float32 rounded down: else the largest value would be beyond the last level.
    scales = torch.where(scales.double() * LEVELS < largest, scales.nextafter(scales.new_tensor(torch.inf)), scales)
    if not bool(scales.isfinite().all()):
        raise invalid(name, float(largest.max()), "magnitudes that a float32 scale reaches")
    return scales


def _integers(
    values: Float[Tensor, "channels *rest"], scales: Float32[Tensor, " channels"]
) -> Int8[Tensor, "channels *rest"]:
    """The nearest level of each value."""
    steps = _along(scales.double(), values)
    # A channel of zeros has scale 0, and any other step gives it zeros.
    levels = (values.double() / torch.where(steps == 0, 1.0, steps)).round()
    return levels.clamp(-LEVELS, LEVELS).to(torch.int8)


def _dequantised(name: str, integers: Tensor, scale: str | None, stored: Mapping[str, Tensor]) -> Tensor:
    """One tensor back in its own type."""
    if scale is None:
        raise invalid(name, "int8 values alone", f"{name + _INTEGERS!r} together with its scales")
    scales, kind = stored[scale], named_type(scale.partition(_SCALE)[2])
    if kind is None or not kind.is_floating_point:
        raise invalid("name", scale, "a scale's name that ends with a floating-point type")
    if integers.dtype != torch.int8 or integers.ndim < 2 or scales.shape != integers.shape[:1]:
        shapes = (tuple(integers.shape), tuple(scales.shape))
        raise invalid(name, (str(integers.dtype), *shapes), "int8 values of two dimensions or more, a scale each row")
    if not bool(scales.isfinite().all()):
        raise invalid(scale, "NaN or infinite scales", "finite values only")
    return (integers.to(torch.float64) * _along(scales.double(), integers)).to(kind)


def _along(scales: Float[Tensor, " channels"], values: Tensor) -> Tensor:
    """The scales shaped so that each meets its channel."""
    return scales.reshape(-1, *[1] * (values.ndim - 1))
