"""A bundle's units as ONNX graphs, one file each, for runtimes other than torch (a web page has one).

`model.json` describes them. A *unit* here is one step of a chain: a block of either network (the first with its stem, the
last with its head), or a converter. The graphs of the units that a mask names, run one after the other, are the network
of that mask. Before anything is written, ONNX Runtime runs every mask and is compared with torch.
"""

import functools
import logging
import re
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor, nn

from pwl_lab.loading.bundle import BOOT, BundleIndex, check_folder
from pwl_lab.loading.tensors import quantise
from pwl_lab.loading.transfer import CHOOSES
from pwl_lab.loading.units import Parts, Running, Workshop, assemble
from pwl_lab.support import paths
from pwl_lab.support.errors import InvalidValueError, MissingDataError, invalid
from pwl_lab.support.files import file_sha256, new_folder, write_json
from pwl_lab.swap.masks import all_masks, check_whole_cube
from pwl_lab.swap.orders import arrivals, named_orders, search_order
from pwl_lab.tasks.base import Batch
from pwl_lab.tasks.datasets import DATASETS
from pwl_lab.tasks.images import ImageTask

FORMAT = 1  # of model.json; a reader refuses a higher one
MODEL, IMAGES = "model.json", "images.bin"
TOLERANCE = 1e-4  # between the logits of ONNX Runtime and torch; a few 1e-6 are usual
N_CHECKED = 64  # images on which every mask is compared
MOST_CHANGES = 12  # images that are listed because their prediction changes
# ONNX Runtime would round the inputs of a matrix product to int8 as well if its weights are; so it turns them into floats.
FLOAT_ACTIVATIONS = ("session.disable_quant_qdq", "1")
CHUNK = 500  # images computed at once
N_IMAGES = 300  # test images beside the units, to try the network on
EXTRA = "the packages onnx, onnxscript and onnxruntime; install them with: pip install -e '.[web]'"


class Unit(NamedTuple):
    """One step of a chain: its name, such as `teacher-2`, what it computes, and the shape of its input without the batch."""

    name: str
    module: nn.Module
    shape: tuple[int, ...]


def write_units(bundle: Path, folder: Path, n_images: int = N_IMAGES) -> dict[str, Any]:
    """Export the units of a bundle as ONNX, completely or not at all, and return the content of `model.json`.

    Arguments:
    - `bundle`: the folder of a bundle of images.
    - `folder`: a new folder.
    - `n_images`: how many test images to write beside the units, with their labels and how many each mask gets right.

    Raises MissingDataError without the packages of the extra `web`, InvalidValueError for a bundle whose inputs are not
    images of a known dataset, for a unit that cannot be exported, and if ONNX Runtime and torch disagree.
    """
    _check_installed()
    if paths.names_in(paths.local_folder(folder, "folder"), "folder"):
        raise invalid("folder", str(folder), "a folder that is new or empty")
    index = check_folder(bundle)
    task, shown, samples = _test_images(index, n_images)
    masks = all_masks(check_whole_cube(index.n_blocks))
    owners = _networks(index, bundle)
    with new_folder(folder) as part:
        files = {name: facts for unit in _units(index, owners) for name, facts in _write(unit, part, "s" in owners)}
        orders, coarse = _orders(index, files), []
        if "s" in owners:
            coarse = list(dict.fromkeys(mask for blocks in orders.values() for mask in _coarse_path(blocks)))
        networks = {mask: _assembled(mask, owners) for mask in (*masks, *coarse)}
        difference = _check_all(part, files, samples.inputs[:N_CHECKED], networks)
        (part / IMAGES).write_bytes(shown.numpy().tobytes())
        test = {mask: float(_right(networks[mask], task.split("test")).float().mean()) for mask in coarse}
        content = {
            "format": FORMAT,
            "n_blocks": index.n_blocks,
            "inputs": {"shape": index.inputs.shape, "mean": index.inputs.mean, "std": index.inputs.std},
            "class_names": index.class_names,
            "units": files,
            "arrivals": _arrivals(index.n_blocks, files),
            "orders": orders,
            "accuracies": {
                split: table | (test if split == "test" else {}) for split, table in index.accuracies.items()
            },
            "images": _facts(part / IMAGES) | _image_facts(samples, networks),
            "checked": {"images": N_CHECKED, "tolerance": TOLERANCE, "largest_difference": difference},
            "made": index.made,
            "shards": shards_of(bundle),
        }
        write_json(part / MODEL, content)
    return content


def shards_of(bundle: Path) -> list[str]:
    """The checksums of a bundle's weights, by which units tell what they were made of."""
    return [shard.sha256 for shard in check_folder(bundle).shards]


def chain(mask: str) -> list[str]:
    """The units of a mask's network in the order in which they run, converters included; small letters are int8."""
    names = []
    for block, (before, letter) in enumerate(zip(f" {mask}", mask, strict=False), start=1):
        if block > 1 and before.upper() != letter.upper():  # a converter comes with the teacher's block beside it
            names.append(
                f"decoder-{block - 1}" + _BITS[letter] if letter in "Tt" else f"encoder-{block - 1}" + _BITS[before]
            )
        names.append(f"{'teacher' if letter in 'Tt' else 'student'}-{block}{_BITS[letter]}")
    return names


AT_8_BITS = "-8bit"  # at the end of the name of a unit with int8 weights
_BITS = {"S": "", "T": "", "s": AT_8_BITS, "t": AT_8_BITS}


def _coarse_path(blocks: Sequence[int]) -> Iterator[str]:
    """The masks on the way if every block comes as int8 first, in this order, and then as float32."""
    mask = "s" * len(blocks)
    yield mask
    for letter in "tT":
        for block in blocks:
            mask = mask[: block - 1] + letter + mask[block:]
            yield mask


def _check_installed() -> None:
    """Raise MissingDataError if the packages of the extra are not there."""
    try:
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise MissingDataError(f"exporting to ONNX needs {EXTRA} ({error})") from error


def _test_images(index: BundleIndex, n: int) -> tuple[ImageTask, UInt8[Tensor, "n channels height width"], Batch]:
    """The task that the pair was trained on, and its first test images, as bytes and as inputs.

    Raises InvalidValueError for a bundle that does not take images or name its dataset.
    """
    made_for = index.made.get("task")
    name = made_for.get("name") if isinstance(made_for, dict) else None
    if index.inputs.n_tokens is not None or len(index.inputs.shape) != 3 or name not in DATASETS:
        what = (
            f"one that was trained on the images of one of {', '.join(DATASETS)}: its index names the task. For a dataset of "
            "your own, import the module that adds it to DATASETS, then call write_units or write_page from Python"
        )
        raise invalid("bundle", f"inputs of shape {index.inputs.shape}, task {name!r}", what)
    task = ImageTask(name)
    if task.input_shape != index.inputs.shape:
        raise invalid("inputs of the bundle", index.inputs.shape, f"{task.input_shape}, those of {name}")
    shown, samples = task.sample(min(n, task.size("test")))
    shown = shown.reshape(len(shown), *task.input_shape) if shown.ndim == 3 else shown.permute(0, 3, 1, 2)
    return task, shown, samples


Owners = dict[str, dict[int, Parts]]  # the parts of `S`, `T` and perhaps, as int8, of `s` and `t`, by block


def _networks(index: BundleIndex, bundle: Path) -> Owners:
    """Student and teacher, out of the bundle's shards."""
    workshop, owners = Workshop(index, "cpu"), Owners()
    for shard in index.shards:
        content = torch.frombuffer(bytearray((bundle / shard.file).read_bytes()), dtype=torch.uint8)
        if shard.block == BOOT:
            owners["s" if shard.bits == 8 else "S"] = workshop.student(shard, content)
        else:
            owners.setdefault("t" if shard.bits == 8 else "T", {})[shard.block] = workshop.unit(shard, content)
    return owners


def _assembled(mask: str, owners: Owners) -> Running:
    """The network of a mask whose student is of one precision throughout."""
    teacher = {block: owners[letter][block] for block, letter in enumerate(mask, start=1) if letter in "Tt"}
    return assemble(mask, owners["s" if "s" in mask else "S"], teacher)


def _units(index: BundleIndex, owners: Owners) -> Iterator[Unit]:
    """All units as float32; a converter that changes nothing is none."""
    teacher = owners["T"]
    for name, parts, shapes in (
        ("student", owners["S"], index.student_shapes),
        ("teacher", teacher, index.teacher_shapes),
    ):
        for block, own in parts.items():
            modules = [own[part] for part in ("stem", "block", "head") if part in own]
            yield Unit(
                f"{name}-{block}", nn.Sequential(*modules), shapes[block - 2] if block > 1 else index.inputs.shape
            )
    for boundary in range(1, index.n_blocks):
        for name, module, shapes in (
            ("encoder", teacher[boundary]["encoder"], index.teacher_shapes),
            ("decoder", teacher[boundary + 1]["decoder"], index.student_shapes),
        ):
            if not isinstance(module, nn.Identity):
                yield Unit(f"{name}-{boundary}", module, shapes[boundary - 1])


def _write(unit: Unit, folder: Path, coarse: bool) -> Iterator[tuple[str, dict[str, Any]]]:
    """Write a unit, with `coarse` as int8 as well; yield the name of each and the facts about its file."""
    model = export_graph(unit)
    for name, content in (
        (unit.name, model),
        (unit.name + AT_8_BITS, _at_8_bits(model, unit.module) if coarse else None),
    ):
        if content is not None:
            path = folder / f"{name}.onnx"
            path.write_bytes(content.SerializeToString())
            yield name, _facts(path)


def export_graph(unit: Unit) -> Any:
    """A unit as an ONNX model (`onnx.ModelProto`), for batches of any length.

    Raises InvalidValueError, naming unit and operation, if it cannot be exported.
    """
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it warns of libraries that nobody asked for
    example = torch.zeros(2, *unit.shape)  # a batch of one would be taken for a constant
    try:
        with warnings.catch_warnings(), torch.no_grad(), _one_table_of_operators():
            warnings.simplefilter("ignore")  # about the exporter's own internals
            program = torch.onnx.export(
                unit.module.eval(), (example,), dynamo=True, dynamic_shapes=({0: torch.export.Dim.DYNAMIC},),
                input_names=["state"], output_names=["next"], verbose=False,
            )  # fmt: skip
        assert program is not None
        model = program.model_proto
    except Exception as error:  # the exporter raises whatever its parts do
        raise InvalidValueError(f"{unit.name} cannot be exported to ONNX: {_reason(error)}") from error
    # Stack traces and the like, for developers, are most of the bytes of a small unit. Shapes are worked out by a runtime.
    graph = model.graph
    for part in (model, graph, *graph.node, *graph.input, *graph.output, *graph.initializer):
        del part.metadata_props[:]
        part.doc_string = ""
    del graph.value_info[:]
    return model


_EXPORTING = threading.RLock()


@contextmanager
def _one_table_of_operators() -> Iterator[None]:
    """A context in which the exporter keeps its table of operators: to make it again takes as long as to export a block.

    Threads take turns. Nothing public leads to the table: where torch has it elsewhere, exports only take longer.
    """
    with _EXPORTING:
        try:
            from torch.onnx._internal.exporter import _registration

            registry: Any = _registration.ONNXRegistry
            anew = vars(registry)["from_torchlib"]
        except (ImportError, AttributeError, KeyError):
            yield
            return
        registry.from_torchlib = classmethod(_remembering(anew.__func__))
        try:
            yield
        finally:
            registry.from_torchlib = anew


@functools.cache
def _remembering(make: Callable[..., Any]) -> Callable[..., Any]:
    """A function that makes each thing once, and the same for every call with this `make`."""
    return functools.cache(make)


def _at_8_bits(model: Any, module: nn.Module) -> Any:
    """The model with the weights of `module` as int8 and a scale for each channel, as in the bundle's int8 shards."""
    from onnx import ModelProto, helper, numpy_helper

    coarse = ModelProto()
    coarse.CopyFrom(model)
    graph, nodes = coarse.graph, []
    for tensor in list(graph.initializer):
        found = _weight_behind(torch.tensor(numpy_helper.to_array(tensor)), module)
        if found is None:
            continue
        integers, scales, transposed = found
        graph.initializer.remove(tensor)
        for name, part in (("int8", integers.mT if transposed else integers), ("scale", scales)):
            graph.initializer.append(numpy_helper.from_array(part.contiguous().numpy(), f"{tensor.name}.{name}"))
        inputs = [f"{tensor.name}.int8", f"{tensor.name}.scale"]
        nodes.append(helper.make_node("DequantizeLinear", inputs, [tensor.name], axis=int(transposed)))
    nodes += graph.node
    del graph.node[:]
    graph.node.extend(nodes)
    return coarse


def _weight_behind(values: Tensor, module: nn.Module) -> tuple[Tensor, Tensor, bool] | None:
    """The module's weight that the exporter has made `values` of: integers, scales, and whether it was transposed.

    The exporter folds a batch norm into the convolution before it, which multiplies the weights of each channel. None if
    no weight of at least two dimensions, times a number for each channel, has these values.
    """
    for name, own in module.state_dict().items():
        for transposed in (False, True) if own.ndim == 2 else (False,):
            given = values.mT if transposed and values.ndim == 2 else values
            if own.ndim < 2 or given.dtype != own.dtype or given.shape != own.shape:
                continue
            flat, wanted = own.flatten(1).double(), given.flatten(1).double()
            factors = ((flat * wanted).sum(1) / (flat * flat).sum(1)).nan_to_num()
            if torch.allclose(flat * factors[:, None], wanted, rtol=0, atol=1e-6 * float(wanted.abs().max())):
                integers, scales = quantise({name: own}).values()
                signs = torch.where(factors < 0, -1, 1).to(torch.int8).reshape(-1, *[1] * (own.ndim - 1))
                return integers * signs, scales * factors.abs().float(), transposed
    return None


def _reason(error: BaseException) -> str:
    """The operation that the exporter stopped at, or else the first line of the first error."""
    told, first = [], error
    while True:
        told.append(str(first))
        if first.__cause__ is None:
            break
        first = first.__cause__
    operation = re.search(r"op='([\w.]+)'", "\n".join(told))
    line = (str(first).strip().splitlines() or [type(first).__name__])[0]
    return f"ONNX has no operator for {operation[1]}" if operation else line


def _facts(path: Path) -> dict[str, Any]:
    """Name, length and checksum of a file."""
    return {"file": path.name, "bytes": path.stat().st_size, "sha256": file_sha256(path)}


def _arrivals(n_blocks: int, files: Mapping[str, Any]) -> list[list[str]]:
    """The units that come together: first the student, then for each teacher block the block and the converters beside it."""
    steps = [[f"student-{block}" for block in range(1, n_blocks + 1)]]
    for block in range(1, n_blocks + 1):
        steps.append([f"decoder-{block - 1}", f"teacher-{block}", f"encoder-{block}"])
    return [[name for name in step if name in files] for step in steps]


def _orders(index: BundleIndex, files: Mapping[str, Any]) -> dict[str, list[int]]:
    """The blocks of each loading order: those with a name, and the best one by the bundle's own table, if it is complete."""
    orders, table = named_orders(index.n_blocks), index.accuracies.get(CHOOSES, {})
    steps = _arrivals(index.n_blocks, files)[1:]
    if len(table) == 2**index.n_blocks:
        orders["best"] = arrivals(search_order(table, [sum(files[n]["bytes"] for n in step) for step in steps]))
    return orders


def _right(network: Running, samples: Batch) -> Bool[Tensor, " samples"]:
    """Which of the samples the network gets right."""
    with torch.inference_mode():
        parts = [network(inputs).argmax(dim=-1) for inputs in torch.split(samples.inputs, CHUNK)]
    return torch.cat(parts) == samples.labels


def _image_facts(samples: Batch, networks: Mapping[str, Running]) -> dict[str, Any]:
    """The images' labels, how many each mask gets right, and those that the student gets wrong and the teacher right."""
    right = {mask: _right(network, samples) for mask, network in networks.items()}
    student, teacher = (right[letter * len(next(iter(networks)))] for letter in "ST")
    changes = (~student & teacher).nonzero().flatten().tolist()
    return {
        "labels": samples.labels.tolist(),
        "hits": {mask: int(ones.sum()) for mask, ones in right.items()},
        "changes": changes[:MOST_CHANGES],
    }


def _check_all(
    folder: Path,
    files: Mapping[str, Mapping[str, Any]],
    inputs: Float[Tensor, "batch *shape"],
    networks: Mapping[str, Running],
) -> float:
    """The largest difference between ONNX Runtime's logits and those of torch, over all masks.

    Raises InvalidValueError, naming the mask, if it is beyond `TOLERANCE`.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry(*FLOAT_ACTIVATIONS)
    sessions = {
        name: onnxruntime.InferenceSession(str(folder / facts["file"]), options, providers=["CPUExecutionProvider"])
        for name, facts in files.items()
    }
    worst = 0.0
    for mask, network in networks.items():
        with torch.inference_mode():
            logits = network(inputs)
        found = _run([sessions[name] for name in chain(mask) if name in sessions], inputs.numpy())
        difference = float(np.abs(found - logits.numpy()).max())
        if not difference <= TOLERANCE:  # also if it is NaN
            raise InvalidValueError(
                f"the exported units do not compute the network {mask}: a logit differs by {difference:.2g} from that of "
                f"torch, more than {TOLERANCE:g}. Nothing was written"
            )
        worst = max(worst, difference)
    return worst


def _run(sessions: Sequence[Any], state: Float[np.ndarray, "batch *shape"]) -> Float[np.ndarray, "batch classes"]:
    """The output of a chain of units."""
    for session in sessions:
        [state] = session.run(None, {"state": state})
    return state
