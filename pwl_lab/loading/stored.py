"""Tensors as files keep them: contiguous copies on the CPU, and types by name."""

import torch
from torch import Tensor


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
