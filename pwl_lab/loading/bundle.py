"""A bundle: a trained pair as one folder, ready to be served while it loads.

`index.json` says what there is; beside it lies one safetensors file (*shard*) per unit: the *boot set*, which is the
whole student, then each teacher block with its converters. Teacher block `i` brings the stem (block 1) or the head
(block n), the decoder in front of it and the encoder behind it: whatever blocks have arrived, in whatever order, the
converters between them and the student's are there.
"""

import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, model_validator
from safetensors.torch import save_file
from torch import Tensor

from pwl_lab.config import Frozen
from pwl_lab.errors import MissingDataError, PwlLabError, invalid
from pwl_lab.loading.converters import Converters
from pwl_lab.loading.eightbit import quantise
from pwl_lab.loading.sources import INDEX
from pwl_lab.loading.swapnet import SwapNet
from pwl_lab.models.blocknet import BlockNet
from pwl_lab.models.mlp import MLPConfig
from pwl_lab.models.resnet import ResNetConfig
from pwl_lab.models.transformer import TransformerConfig
from pwl_lab.models.vgg import VGGConfig
from pwl_lab.models.vit import ViTConfig
from pwl_lab.tasks.archives import file_sha256
from pwl_lab.tasks.base import Task
from pwl_lab.tasks.vision import ImageTask

FORMAT = 1  # of index.json and of what the shards hold; a reader refuses a higher one
BOOT = 0  # the block number of the boot set; teacher blocks count from 1

AnyModel = Annotated[
    MLPConfig | TransformerConfig | VGGConfig | ResNetConfig | ViTConfig, Field(discriminator="family")
]
Shape = tuple[int, ...]


class BundleError(PwlLabError):
    """A bundle cannot be used: its index or its boot set is missing, damaged or of a newer format."""


class NewerFormatError(BundleError):
    """The index was written by a later version of pwl_lab: another try would find it again."""


class Shard(Frozen):
    """One file of a bundle: the boot set (block 0) or a teacher block, at 32 bits a weight or at 8."""

    block: int = Field(ge=BOOT, description="the teacher block that it brings, from 1; 0: the boot set")
    bits: Literal[32, 8] = Field(32, description="per weight; an 8-bit shard stands in until the whole one arrives")
    file: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*\.safetensors$", description="its name in the bundle")
    bytes: int = Field(ge=8, description="its length")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$", description="of its content")

    @property
    def name(self) -> str:
        """What a reader calls it: `boot`, `block 2`, `block 2 at 8 bits`."""
        return ("boot" if self.block == BOOT else f"block {self.block}") + (" at 8 bits" if self.bits == 8 else "")


class Inputs(Frozen):
    """What the networks take: samples of `shape`, bytes (0 to 255) normalised per channel as recorded."""

    shape: Shape
    mean: tuple[float, ...] = Field(
        (), description="per channel, of values in [0, 1]; empty: samples go in as they are"
    )
    std: tuple[float, ...] = ()


class BundleIndex(Frozen):
    """`index.json`: everything about a bundle but the weights."""

    format: Literal[1] = FORMAT
    teacher: AnyModel
    student: AnyModel
    converters: Literal["always", "if_different"]
    teacher_shapes: tuple[Shape, ...] = Field(description="of the hidden state behind each block, without the batch")
    student_shapes: tuple[Shape, ...]
    inputs: Inputs
    class_names: tuple[str, ...] = ()
    shards: tuple[Shard, ...] = Field(min_length=2)
    accuracies: dict[str, dict[str, float]] = Field(
        default_factory=dict, description="split -> swap mask -> accuracy in [0, 1], as measured when it was written"
    )
    made: dict[str, Any] = Field(default_factory=dict, description="from what, when and with which versions")

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        wanted = {(block, 32) for block in range(self.n_blocks + 1)}
        there = [(shard.block, shard.bits) for shard in self.shards]
        extra = {(block, 8) for block in range(self.n_blocks + 1)}
        if len(set(there)) != len(there) or not wanted <= set(there) <= wanted | extra:
            raise ValueError(f"shards must be the boot set and blocks 1 to {self.n_blocks}, each once; found {there}")
        if len({shard.file for shard in self.shards}) != len(self.shards):
            raise ValueError("two shards have the same file")
        if self.student.n_blocks != self.n_blocks:
            raise ValueError(f"the teacher has {self.n_blocks} blocks, the student {self.student.n_blocks}")
        return self

    @property
    def n_blocks(self) -> int:
        """How many blocks can be swapped."""
        return self.teacher.n_blocks

    def shard(self, block: int, bits: int = 32) -> Shard:
        """The shard of a block (0: the boot set). Raises InvalidValueError where the bundle has none."""
        for shard in self.shards:
            if (shard.block, shard.bits) == (block, bits):
                return shard
        raise invalid("(block, bits)", (block, bits), f"one of {[(s.block, s.bits) for s in self.shards]}")

    @property
    def teacher_bytes(self) -> int:
        """Bytes of all teacher blocks at 32 bits, as files: with the converters that come with them."""
        return sum(self.shard(block).bytes for block in range(1, self.n_blocks + 1))


def inputs_of(task: Task) -> Inputs:
    """What networks for `task` take: images as the task normalises them, anything else as it is."""
    if isinstance(task, ImageTask):
        return Inputs(shape=task.input_shape, mean=task.normalisation[0], std=task.normalisation[1])
    return Inputs(shape=task.input_shape)


def read_index(text: bytes, address: str) -> BundleIndex:
    """The index of the bundle at `address`. Raises BundleError for what is none, or of a newer format."""
    try:
        content = json.loads(text)
        if not isinstance(content, dict):
            raise TypeError(f"a {type(content).__name__} where a mapping should be")
    except (ValueError, TypeError) as error:
        raise BundleError(f"{address}: {INDEX} cannot be read ({error})") from error
    made_for = content.get("format")
    if isinstance(made_for, int) and made_for > FORMAT:
        raise NewerFormatError(
            f"{address}: {INDEX} has format {made_for}; this version of pwl_lab reads up to {FORMAT}. Update pwl_lab"
        )
    try:
        return BundleIndex.model_validate(content)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in problem["loc"]) or "as a whole"
        raise BundleError(f"{address}: {INDEX} is no index of a bundle ({place}: {problem['msg']})") from error


def write_bundle(
    net: SwapNet,
    configs: tuple[AnyModel, AnyModel],
    folder: Path,
    inputs: Inputs,
    class_names: Sequence[str] = (),
    accuracies: Mapping[str, Mapping[str, float]] | None = None,
    made: Mapping[str, Any] | None = None,
    eight_bits: bool = True,
) -> BundleIndex:
    """Export a pair (`configs`: of teacher and student) to `folder`, whole or not at all; the index that was written.

    An earlier bundle in `folder` is replaced. With `eight_bits` every shard is there at 8 bits a weight as well.
    Raises InvalidValueError where `folder` holds something else.
    """
    folder = Path(folder)
    if folder.exists() and not (folder.is_dir() and ((folder / INDEX).is_file() or not any(folder.iterdir()))):
        raise invalid("folder", str(folder), "a folder that is new, empty, or an earlier bundle")
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        index = BundleIndex(
            teacher=configs[0],
            student=configs[1],
            converters=net.converters.where,
            teacher_shapes=tuple(net.teacher.state_shapes(inputs.shape)),
            student_shapes=tuple(net.student.state_shapes(inputs.shape)),
            inputs=inputs,
            class_names=tuple(class_names),
            shards=tuple(_write_shards(net, part, eight_bits)),
            accuracies={split: dict(table) for split, table in (accuracies or {}).items()},
            made=dict(made or {}),
        )
        (part / INDEX).write_text(index.model_dump_json(indent=1) + "\n", encoding="utf-8")
        part.chmod(0o755)  # a temporary folder is its owner's alone
        if folder.exists():
            shutil.rmtree(folder)
        part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return index


def _write_shards(net: SwapNet, folder: Path, eight_bits: bool) -> list[Shard]:
    """All shards of a pair, the boot set first."""
    units = [net.student.state_dict(), *(unit_state(net, block) for block in range(1, net.n_blocks + 1))]
    shards = [_write_shard(unit, folder, block, 32) for block, unit in enumerate(units)]
    if eight_bits:
        shards += [_write_shard(quantise(unit), folder, block, 8) for block, unit in enumerate(units)]
    return shards


def _write_shard(state: Mapping[str, Tensor], folder: Path, block: int, bits: Literal[32, 8]) -> Shard:
    """One file, with its length and checksum."""
    name = ("boot" if block == BOOT else f"block-{block}") + ("-8bit" if bits == 8 else "")
    path = folder / f"{name}.safetensors"
    save_file({key: tensor.detach().cpu().contiguous() for key, tensor in state.items()}, path)
    return Shard(block=block, bits=bits, file=path.name, bytes=path.stat().st_size, sha256=file_sha256(path))


def unit_state(net: SwapNet, block: int) -> dict[str, Tensor]:
    """What the arrival of teacher block `block` (from 1) brings, under the names of `parts_of_unit`."""
    parts = parts_of_unit(net.teacher, net.converters, block)
    return {f"{part}.{name}": tensor for part, module in parts.items() for name, tensor in module.state_dict().items()}


def parts_of_unit(teacher: BlockNet, converters: Converters, block: int) -> dict[str, Any]:
    """The modules that arrive with teacher block `block`: `stem`, `block`, `head`, `decoder` (in front), `encoder` (behind)."""
    last = teacher.n_blocks
    parts: dict[str, Any] = {"block": teacher.blocks[block - 1]}
    if block == 1:
        parts["stem"] = teacher.stem
    else:
        parts["decoder"] = converters.decoders[block - 2]
    if block == last:
        parts["head"] = teacher.head
    else:
        parts["encoder"] = converters.encoders[block - 1]
    return parts


def check_folder(folder: Path) -> BundleIndex:
    """The index of the bundle in a local folder. Raises MissingDataError or BundleError, naming what is wrong."""
    path = Path(folder) / INDEX
    if not path.is_file():
        raise MissingDataError(f"{folder} is no bundle: there is no {INDEX} in it")
    index = read_index(path.read_bytes(), str(folder))
    for shard in index.shards:
        file = Path(folder) / shard.file
        if not file.is_file() or file.stat().st_size != shard.bytes or file_sha256(file) != shard.sha256:
            raise BundleError(f"{folder}: {shard.file} ({shard.name}) is missing or not what was written")
    return index
