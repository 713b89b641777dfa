"""From shards to running networks: modules around the received bytes, and one immutable network per mask."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, Num, UInt8
from torch import Tensor, nn

from pwl_lab.loading.bundle import BundleIndex, Networks, Shard, forget_unit, parts_of_unit
from pwl_lab.loading.sources import BundleError
from pwl_lab.loading.tensors import TensorFormatError, dequantise, not_finite, view_tensors
from pwl_lab.models.blocknet import BlockNet
from pwl_lab.support.errors import InvalidValueError
from pwl_lab.swap.swapnet import Converters

Parts = dict[str, nn.Module]  # of a unit: `block`, and those of stem, head, encoder, decoder that belong to it


@dataclass(frozen=True)
class Running:
    """The network of one mask, ready to predict. It is immutable.

    A lower-case letter in `mask` is an int8 block, used until the float32 one arrives.
    """

    mask: str
    parts: tuple[nn.Module, ...]

    def __call__(self, inputs: Num[Tensor, "batch *shape"]) -> Float[Tensor, "batch *tokens classes"]:
        """The logits for `inputs`."""
        state = inputs
        for part in self.parts:
            state = part(state)
        return state


def assemble(mask: str, student: Mapping[int, Parts], teacher: Mapping[int, Parts]) -> Running:
    """The network that `mask` describes: each block from its owner, a converter where the owner changes."""
    owners = [student if letter in "Ss" else teacher for letter in mask]
    parts = [owners[0][1]["stem"]]
    for block, owner in enumerate(owners, start=1):
        if block > 1 and owner is not owners[block - 2]:
            # Both converters arrive with the teacher's block at the boundary, on whichever side it is.
            parts.append(teacher[block]["decoder"] if owner is teacher else teacher[block - 1]["encoder"])
        parts.append(owner[block]["block"])
    parts.append(owners[-1][len(mask)]["head"])
    return Running(mask, tuple(parts))


class Workshop:
    """Turns a bundle's shards into modules, on one device.

    The networks are built without memory for their weights and use the received bytes directly. On a CPU only tensors
    whose memory layout differs from that in the file are copied.
    """

    def __init__(self, index: BundleIndex, device: str, networks: Networks | None = None) -> None:
        """`device` is a torch device name; `networks` are those of the index, some of which may be built already."""
        self.index, self.device = index, torch.device(device)
        self._networks = networks or Networks(index)
        self._teachers: dict[int, tuple[BlockNet, Converters]] = {}

    def _teacher(self, bits: int) -> tuple[BlockNet, Converters]:
        """Teacher and converters without weights; one copy per precision, because parts are handed out."""
        if bits not in self._teachers:
            teacher, converters = self._networks.teacher()
            self._teachers[bits] = self._checked(teacher), converters
        return self._teachers[bits]

    def student(self, shard: Shard, content: UInt8[Tensor, " bytes"]) -> dict[int, Parts]:
        """The boot set as parts per block; the first has the stem, the last the head. Raises as `unit` does."""
        net = self._checked(self._networks.student())
        self._fill(net, shard, content)
        parts: dict[int, Parts] = {number: {"block": block} for number, block in enumerate(net.blocks, start=1)}
        parts[1]["stem"], parts[net.n_blocks]["head"] = net.stem, net.head
        return parts

    def _checked(self, net: BlockNet) -> BlockNet:
        """The network. Raises BundleError if it takes other inputs than the index says."""
        if net.n_tokens != self.index.inputs.n_tokens:
            said = "numbers" if self.index.inputs.n_tokens is None else f"{self.index.inputs.n_tokens} different tokens"
            raise BundleError(f"the networks that the index describes do not take its inputs, {said}")
        return net

    def unit(self, shard: Shard, content: UInt8[Tensor, " bytes"]) -> Parts:
        """The modules of an arriving teacher block. Raises BundleError for content that is damaged or does not fit."""
        teacher, converters = self._teacher(shard.bits)
        unit = nn.ModuleDict(parts_of_unit(teacher, converters, shard.block))
        self._fill(unit, shard, content)
        forget_unit(teacher, converters, shard.block)  # or it stays in memory once a float32 one replaces it
        return dict(unit.items())

    def _fill(self, module: nn.Module, shard: Shard, content: UInt8[Tensor, " bytes"]) -> None:
        """Give `module` the weights of a shard, and eval mode."""
        try:
            tensors = view_tensors(content)
            if shard.bits == 8:
                tensors = dequantise(tensors)
        except (TensorFormatError, InvalidValueError) as error:
            raise BundleError(f"{shard.file} ({shard.name}) cannot be used: {error}") from error
        own = module.state_dict()
        shapes, wanted = ({name: (t.shape, t.dtype) for name, t in state.items()} for state in (tensors, own))
        if wrong := sorted(name for name in own.keys() | tensors.keys() if shapes.get(name) != wanted.get(name)):
            raise BundleError(f"{shard.file}: {wrong[0]} does not fit the networks that the index describes")
        if (name := not_finite(tensors)) is not None:
            raise BundleError(f"{shard.file}: {name} holds values that are NaN or infinite")
        # Views would keep the received bytes alive next to a copy: copy all tensors or none.
        copy = any(like.stride() != tensors[name].stride() for name, like in own.items())
        module.load_state_dict(
            {name: self._placed(tensors[name], like, copy) for name, like in own.items()}, assign=True
        )
        if any(tensor.is_meta for tensor in (*module.parameters(), *module.buffers())):
            raise BundleError(f"{shard.file}: the network has tensors that are not in its state dict, so not in a file")
        module.eval().requires_grad_(False)

    def _placed(self, tensor: Tensor, like: Tensor, copy: bool) -> Tensor:
        """The tensor on the device, in the memory layout that the network was built with.

        The layout decides which kernels run, and so the last bits of a result.
        """
        if not copy:
            return tensor.to(self.device)
        return torch.empty_strided(like.shape, like.stride(), dtype=tensor.dtype, device=self.device).copy_(tensor)


def tensor_bytes(modules: Iterable[nn.Module]) -> dict[int, int]:
    """The address and the bytes of each buffer that holds weights; several views of one buffer count once."""
    tensors = [tensor for module in modules for tensor in module.state_dict().values()]
    return {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
