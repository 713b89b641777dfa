"""A bundle: a trained pair in one folder, which can be served while it loads.

`index.json` describes the contents; beside it is one safetensors file (*shard*) per unit: the *boot set*, which is the
whole student, and one for each teacher block with its converters. Teacher block `i` includes the stem (block 1) or the
head (block n), the decoder before it and the encoder after it. So whichever blocks have arrived, in whatever order,
the converters between them and the student's blocks are available.
"""

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import Field, PositiveInt, ValidationError, model_validator
from safetensors.torch import save_file
from torch import Tensor, nn

from pwl_lab.loading.sources import INDEX, MOST_INDEX_BYTES, BundleError, FolderSource
from pwl_lab.loading.tensors import not_finite, plain, quantise, stored_bytes
from pwl_lab.loading.weightless import (
    MOST_TENSORS,
    UNKNOWN_FAMILY,
    AnyModel,
    build_empty,
    check_fillable,
    check_registered,
    import_families,
    modules_of,
    weightless,
)
from pwl_lab.models.blocknet import BlockNet, ModelConfig
from pwl_lab.support import paths
from pwl_lab.support.config import Frozen
from pwl_lab.support.errors import InvalidValueError, MissingDataError, invalid
from pwl_lab.support.files import file_sha256, is_file, new_folder, readable
from pwl_lab.swap.swapnet import Converters, SwapNet
from pwl_lab.tasks.base import Task, normalisation_of, tokens_of

FORMAT = 1  # of index.json and of the shards; a reader refuses a higher one
MOST_UNITS = 1_000  # of a bundle; each is one or two files
LEAST_TENSOR_BYTES = 40  # that a safetensors file spends on each tensor's name, type, shape and offsets
BOOT = 0  # the block number of the boot set; teacher blocks are counted from 1

Shape = Annotated[tuple[PositiveInt, ...], Field(min_length=1)]
Net = TypeVar("Net")
Accuracy = Annotated[float, Field(ge=0.0, le=1.0)]  # this excludes NaN and infinity


class UnsupportedIndexError(BundleError):
    """The index is intact but needs a later pwl_lab or a family that was not imported: trying again will not help."""


class Shard(Frozen):
    """One file of a bundle: the boot set (block 0) or a teacher block, as float32 or as int8."""

    block: int = Field(ge=BOOT, description="the teacher block that it contains, from 1; 0: the boot set")
    bits: Literal[32, 8] = Field(32, description="per weight; an int8 shard is used until the float32 one arrives")
    file: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*\.safetensors$", max_length=255, description="its name in the bundle"
    )
    bytes: int = Field(ge=8, description="its length")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$", description="of its content")

    @property
    def name(self) -> str:
        """Its name in messages: `boot`, `block 2`, `block 2 at 8 bits`."""
        return ("boot" if self.block == BOOT else f"block {self.block}") + (" at 8 bits" if self.bits == 8 else "")


class Inputs(Frozen):
    """The inputs of the networks: samples of `shape`, bytes (0 to 255) normalised per channel as recorded, or tokens."""

    shape: Shape
    mean: tuple[Annotated[float, Field(allow_inf_nan=False)], ...] = Field(
        (), description="per channel, of values in [0, 1]; empty: the inputs are not normalised"
    )
    std: tuple[Annotated[float, Field(gt=0.0, allow_inf_nan=False)], ...] = ()
    n_tokens: PositiveInt | None = Field(None, description="the inputs are token ids below this; None: numbers")

    @model_validator(mode="after")
    def _per_channel(self) -> Self:
        if len(self.mean) != len(self.std) or len(self.mean) not in (0, self.shape[0]):
            raise ValueError(
                f"{len(self.mean)} means and {len(self.std)} standard deviations for {self.shape[0]} channels"
            )
        return self


class BundleIndex(Frozen):
    """`index.json`: everything in a bundle except the weights."""

    format: Literal[1] = 1
    teacher: AnyModel
    student: AnyModel
    converters: Literal["always", "if_different"]
    teacher_shapes: tuple[Shape, ...] = Field(description="of the hidden state after each block, without the batch")
    student_shapes: tuple[Shape, ...]
    inputs: Inputs
    class_names: tuple[str, ...] = ()
    shards: tuple[Shard, ...] = Field(min_length=2)
    accuracies: dict[str, dict[str, Accuracy]] = Field(
        default_factory=dict, description="split -> swap mask -> accuracy in [0, 1], measured when it was written"
    )
    made: dict[str, Any] = Field(default_factory=dict, description="from what, when and with which versions")
    modules: dict[str, str] = Field(
        default_factory=dict, description="family -> module that defines it, if it is not one of pwl_lab's"
    )

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.n_blocks > min(MOST_UNITS, len(self.shards)):
            raise ValueError(
                f"{self.n_blocks} blocks and {len(self.shards)} shards; at most {MOST_UNITS} of each are allowed"
            )
        if not len(self.teacher_shapes) == len(self.student_shapes) == self.n_blocks:
            raise ValueError(
                f"teacher_shapes and student_shapes must have one shape for each of the {self.n_blocks} blocks"
            )
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
        """The number of blocks that can be swapped."""
        return self.teacher.n_blocks

    def shard(self, block: int, bits: int = 32) -> Shard:
        """The shard of a block (0: the boot set). Raises InvalidValueError if the bundle has none."""
        for shard in self.shards:
            if (shard.block, shard.bits) == (block, bits):
                return shard
        raise invalid("(block, bits)", (block, bits), f"one of {[(s.block, s.bits) for s in self.shards]}")

    @property
    def teacher_bytes(self) -> int:
        """The bytes of all float32 teacher shards, which include the converters."""
        return sum(self.shard(block).bytes for block in range(1, self.n_blocks + 1))


def inputs_of(task: Task) -> Inputs:
    """The inputs of networks for `task`."""
    normalisation = normalisation_of(task)
    facts = normalisation._asdict() if normalisation else {}
    return Inputs(shape=task.input_shape, n_tokens=tokens_of(task), **facts)


def read_index(text: bytes, address: str) -> BundleIndex:
    """As `parse_index`, and also raises BundleError for networks too large for the shards (`Networks.check`)."""
    index = parse_index(text, address)
    networks = Networks(index, address)
    for shard in index.shards:
        networks.check(shard)
    return index


def parse_index(text: bytes, address: str, imports: bool = False) -> BundleIndex:
    """The index of the bundle at `address`; with `imports`, the modules that it names are imported for unknown families.

    This does not check whether the shards can hold the networks that it describes. Raises BundleError for an invalid
    index: UnsupportedIndexError for a newer format or an unknown family.
    """
    try:
        content = json.loads(text)
        if not isinstance(content, dict):
            raise TypeError(f"a {type(content).__name__} instead of a mapping")
    except (ValueError, TypeError, RecursionError) as error:
        raise BundleError(f"{address}: {INDEX} cannot be read ({error})") from error
    made_for = content.get("format")
    if isinstance(made_for, int) and made_for > FORMAT:
        raise UnsupportedIndexError(
            f"{address}: {INDEX} has format {made_for}; this version of pwl_lab reads up to {FORMAT}. Update pwl_lab"
        )
    modules = content.get("modules")
    named = (
        {key: value for key, value in modules.items() if isinstance(value, str)} if isinstance(modules, dict) else {}
    )
    try:
        if imports:
            import_families(named)
        return BundleIndex.model_validate(content)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in problem["loc"]) or "as a whole"
        unknown = problem["type"] == UNKNOWN_FAMILY
        kind, why = UnsupportedIndexError if unknown else BundleError, problem["msg"]
        if unknown and named and not imports:
            why += f"; the bundle names {', '.join(sorted({*named.values()}))}, which open(..., imports=True) imports"
        raise kind(f"{address}: {INDEX} is not a valid bundle index ({field}: {why})") from error
    except InvalidValueError as error:
        raise UnsupportedIndexError(f"{address}: {error}") from error


class Networks:
    """The networks that an index describes, without memory for their weights.

    Each is built once, when it is first needed: a network that was built to check a length is then handed out.
    """

    def __init__(self, index: BundleIndex, address: str = "") -> None:
        """`address` is the bundle's name in messages."""
        self.index, self.address = index, address
        self._students: list[BlockNet] = []  # built but not yet handed out: at most one
        self._teachers: list[tuple[BlockNet, Converters]] = []
        self._sizes: dict[bool, list[tuple[int, int]] | BundleError] = {}  # of the boot set and of the blocks

    def student(self) -> BlockNet:
        """The student, a new one at each call. Raises BundleError if it cannot be built."""
        return self._students.pop() if self._students else self._built(True, partial(build_empty, self.index.student))

    def teacher(self) -> tuple[BlockNet, Converters]:
        """Teacher and converters, new ones at each call. Raises BundleError if they cannot be built."""
        return self._teachers.pop() if self._teachers else self._built(False, partial(empty_teacher, self.index))

    def check(self, shard: Shard) -> None:
        """Raise BundleError if a shard's recorded length is too short for its weights.

        It takes no memory and builds only the network that the shard belongs to.
        """
        boot = shard.block == BOOT
        if boot not in self._sizes:
            try:
                self._sizes[boot] = self._student_sizes() if boot else self._block_sizes()
            except BundleError as error:
                self._sizes[boot] = error  # a network that cannot be built is not tried again for each shard
        sizes = self._sizes[boot]
        if isinstance(sizes, BundleError):
            raise sizes
        weights = sizes[0 if boot else shard.block - 1][shard.bits == 8]
        if weights >= shard.bytes:  # one that is too long is handled like any other damage to that block
            raise BundleError(
                f"{self.address}: {shard.file} ({shard.name}) has {shard.bytes:,} bytes according to {INDEX}, but the "
                f"weights described there take {weights:,}"
            )

    def _student_sizes(self) -> list[tuple[int, int]]:
        """The bytes of the boot set's weights, as float32 and as int8."""
        self._students.append(self.student())
        return [_sizes(self._students[0].state_dict(keep_vars=True))]

    def _block_sizes(self) -> list[tuple[int, int]]:
        """The bytes of each teacher block's weights, with its converters, as float32 and as int8."""
        self._teachers.append(self.teacher())
        units = [parts_of_unit(*self._teachers[0], block) for block in range(1, self.index.n_blocks + 1)]
        return [_sizes(state_of(parts, keep_vars=True)) for parts in units]

    def _built(self, boot: bool, build: Callable[[int], Net]) -> Net:
        """Call `build` with the number of tensors that the shards can hold. Raises BundleError if it fails."""
        shards = [shard for shard in self.index.shards if (shard.block == BOOT) is boot and shard.bits == 32]
        most = min(MOST_TENSORS, sum(shard.bytes for shard in shards) // LEAST_TENSOR_BYTES)
        try:
            return build(most)
        except Exception as error:  # sizes beyond torch's limits raise several kinds of errors
            why = (str(error).splitlines() or [type(error).__name__])[0]  # the rest may be a torch stack trace
            raise BundleError(f"{self.address}: {INDEX} describes networks that cannot be built ({why})") from error


def _sizes(state: Mapping[str, Tensor]) -> tuple[int, int]:
    """The bytes of these weights, as float32 and as int8."""
    return sum(tensor.nbytes for tensor in state.values()), stored_bytes(state)


def empty_teacher(index: BundleIndex, most: int = MOST_TENSORS) -> tuple[BlockNet, Converters]:
    """The teacher and the converters of a bundle, without memory for their weights; raises as `build_empty` does."""
    teacher = build_empty(index.teacher, most)
    with weightless(most):
        converters = Converters(index.teacher_shapes, index.student_shapes, index.converters, teacher.pads)
    return teacher, converters


def check_exportable(configs: tuple[ModelConfig, ModelConfig]) -> None:
    """Raise InvalidValueError for a pair (`configs`: teacher and student) that a bundle's reader could not build."""
    for field, config in zip(("teacher", "student"), configs, strict=True):
        try:
            check_registered(config)
            check_fillable(config)
        except InvalidValueError as error:
            raise InvalidValueError(f"the {field} can be trained and evaluated, but not exported: {error}") from error


def write_bundle(
    net: SwapNet,
    configs: tuple[ModelConfig, ModelConfig],
    folder: Path,
    inputs: Inputs,
    class_names: Sequence[str] = (),
    accuracies: Mapping[str, Mapping[str, float]] | None = None,
    made: Mapping[str, Any] | None = None,
    int8: bool = True,
) -> BundleIndex:
    """Export a pair to `folder`, completely or not at all, and return the index that was written.

    Arguments:
    - `net`: teacher, student and converters.
    - `configs`: the configurations of teacher and student, from which a reader builds the networks.
    - `folder`: a new or empty folder, or an earlier bundle, which is replaced.
    - `inputs`: the inputs of the networks.
    - `class_names`: the names of the classes.
    - `accuracies`: split -> swap mask -> accuracy in [0, 1]; those of `validation` decide which mask a reader runs.
    - `made`: from what the pair was made, when, and with which versions.
    - `int8`: whether to write an int8 copy of every shard as well.

    Raises InvalidValueError if `folder` holds anything else, if the pair cannot be exported (see `check_exportable`) or
    described by an index, and for weights that are NaN or infinite.
    """
    check_exportable(configs)
    folder = _check_replaceable(folder)
    facts = {
        "teacher": configs[0],
        "student": configs[1],
        "converters": net.converters.placement,
        "teacher_shapes": tuple(net.teacher.state_shapes(inputs.shape)),
        "student_shapes": tuple(net.student.state_shapes(inputs.shape)),
        "inputs": inputs,
        "class_names": tuple(class_names),
        "accuracies": {split: dict(table) for split, table in (accuracies or {}).items()},
        "made": dict(made or {}),
        "modules": modules_of(configs),
    }
    with new_folder(folder) as part:
        shards = tuple(_write_shards(net, part, int8))
        try:
            index = BundleIndex(shards=shards, **facts)
        except InvalidValueError as error:
            raise InvalidValueError(f"this pair cannot be written as a bundle ({error})") from error
        # Readers that know nothing of tokens or modules need not: they would refuse the field.
        unused: dict[str, Any] = {"inputs": {"n_tokens"}} if index.inputs.n_tokens is None else {}
        unused |= {} if index.modules else {"modules": True}
        (part / INDEX).write_text(index.model_dump_json(indent=1, exclude=unused) + "\n", encoding="utf-8")
        if folder.exists():
            shutil.rmtree(folder)
    return index


def _check_replaceable(folder: Path) -> Path:
    """The folder to write a bundle to. Raises InvalidValueError unless it is new, empty, or only holds a bundle."""
    whole = paths.local_folder(folder, "folder", "copy the bundle to an address once it is written")
    names = paths.names_in(whole, "folder")
    if whole.resolve() == Path.cwd() or (names and not _is_bundle(whole, names)):
        raise invalid("folder", str(folder), "a folder that is new, empty, or holds an earlier bundle and nothing else")
    return whole


def _is_bundle(folder: Path, names: set[str]) -> bool:
    """Whether the folder, which holds `names`, contains only a bundle's own files."""
    if INDEX not in names:
        return False
    try:
        index = read_index((folder / INDEX).read_bytes(), str(folder))
    except (BundleError, OSError):
        return False
    return names <= {INDEX, *(shard.file for shard in index.shards)}


def _write_shards(net: SwapNet, folder: Path, int8: bool) -> list[Shard]:
    """All shards of a pair, the boot set first."""
    units = [net.student.state_dict(), *(unit_state(net, block) for block in range(1, net.n_blocks + 1))]
    for unit in units:
        if (name := not_finite(unit)) is not None:
            raise invalid(name, "NaN or infinite values", "finite values only")
    shards = [_write_shard(unit, folder, block, 32) for block, unit in enumerate(units)]
    if int8:
        shards += [_write_shard(quantise(unit), folder, block, 8) for block, unit in enumerate(units)]
    return shards


def _write_shard(state: Mapping[str, Tensor], folder: Path, block: int, bits: Literal[32, 8]) -> Shard:
    """One file, with its length and checksum."""
    name = ("boot" if block == BOOT else f"block-{block}") + ("-8bit" if bits == 8 else "")
    path = folder / f"{name}.safetensors"
    save_file({key: plain(tensor) for key, tensor in state.items()}, path)
    return Shard(block=block, bits=bits, file=path.name, bytes=path.stat().st_size, sha256=file_sha256(path))


def unit_state(net: SwapNet, block: int) -> dict[str, Tensor]:
    """The weights that arrive with teacher block `block` (from 1), named as in `parts_of_unit`."""
    return state_of(parts_of_unit(net.teacher, net.converters, block))


def state_of(parts: Mapping[str, nn.Module], keep_vars: bool = False) -> dict[str, Tensor]:
    """The weights of a unit's parts, each prefixed with the name of its part; `keep_vars` as in `state_dict`."""
    return {
        f"{part}.{name}": tensor
        for part, module in parts.items()
        for name, tensor in module.state_dict(keep_vars=keep_vars).items()
    }


def parts_of_unit(teacher: BlockNet, converters: Converters, block: int) -> dict[str, nn.Module]:
    """The modules of teacher block `block`: itself, `stem` or `decoder` before it, `head` or `encoder` after it."""
    return {part: owner.get_submodule(name) for part, (owner, name) in _owners(teacher, converters, block).items()}


def forget_unit(teacher: BlockNet, converters: Converters, block: int) -> None:
    """Drop the references to these modules, once they are used elsewhere."""
    for owner, name in _owners(teacher, converters, block).values():
        setattr(owner, name, nn.Identity())


def _owners(teacher: BlockNet, converters: Converters, block: int) -> dict[str, tuple[nn.Module, str]]:
    """Where the parts of a unit are: the module that owns each of them, and its attribute name there."""
    first, last = block == 1, block == teacher.n_blocks
    return {
        "block": (teacher.blocks, str(block - 1)),
        **({"stem": (teacher, "stem")} if first else {"decoder": (converters.decoders, str(block - 2))}),
        **({"head": (teacher, "head")} if last else {"encoder": (converters.encoders, str(block - 1))}),
    }


def check_folder(folder: Path) -> BundleIndex:
    """Check the bundle in a local folder and return its index.

    Raises MissingDataError or BundleError, saying what is wrong, and UnreadableError for a file that cannot be read.
    """
    path = Path(folder) / INDEX
    if not is_file(path):
        raise MissingDataError(f"{folder} is not a bundle: there is no {INDEX} in it")
    with FolderSource(folder) as source, readable(path):
        source.file(INDEX).open("rb").close()  # an unreadable file and an invalid index are different errors
        index = read_index(source.read(INDEX, MOST_INDEX_BYTES), str(folder))
        for shard in index.shards:
            file = source.file(shard.file)
            if file.stat().st_size != shard.bytes or file_sha256(file) != shard.sha256:
                raise BundleError(f"{folder}: {shard.file} ({shard.name}) has changed since it was written")
    return index
