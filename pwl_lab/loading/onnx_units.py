"""A bundle's units as ONNX graphs, one file each, for runtimes other than torch (a web page has one).

`model.json` describes them. A *unit* here is one step of a chain: a block of either network (the first with its stem, the
last with its head), or a converter. The graphs of the units that a mask names, run one after the other, are the network
of that mask. Before anything is written, ONNX Runtime runs every mask and is compared with torch.
"""

import logging
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor, nn

from pwl_lab.loading.bundle import BOOT, BundleIndex, check_folder
from pwl_lab.loading.transfer import CHOOSES
from pwl_lab.loading.units import Parts, Workshop, assemble
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
    shown, samples = _test_images(index, n_images)
    masks = all_masks(check_whole_cube(index.n_blocks))
    student, teacher = _networks(index, bundle)
    with new_folder(folder) as part:
        files = {unit.name: _export(unit, part) for unit in _units(index, student, teacher)}
        networks = {mask: assemble(mask, student, teacher) for mask in masks}
        checked = samples.inputs[:N_CHECKED]
        with torch.inference_mode():
            wanted = {mask: network(checked) for mask, network in networks.items()}
            right = {
                mask: network(samples.inputs).argmax(dim=-1) == samples.labels for mask, network in networks.items()
            }
        difference = _check_all(part, files, checked, wanted)
        (part / IMAGES).write_bytes(shown.numpy().tobytes())
        content = {
            "format": FORMAT,
            "n_blocks": index.n_blocks,
            "inputs": {"shape": index.inputs.shape, "mean": index.inputs.mean, "std": index.inputs.std},
            "class_names": index.class_names,
            "units": files,
            "arrivals": _arrivals(index.n_blocks, files),
            "orders": _orders(index, files),
            "accuracies": index.accuracies,
            "images": _facts(part / IMAGES) | _image_facts(samples, right),
            "checked": {"images": len(checked), "tolerance": TOLERANCE, "largest_difference": difference},
            "made": index.made,
        }
        write_json(part / MODEL, content)
    return content


def chain(mask: str) -> list[str]:
    """The units of a mask's network in the order in which they run, converters included."""
    names = [f"{_OWNER[mask[0]]}-1"]
    for boundary, (before, after) in enumerate(pairwise(mask), start=1):
        if before != after:
            names.append(f"{'decoder' if after == 'T' else 'encoder'}-{boundary}")
        names.append(f"{_OWNER[after]}-{boundary + 1}")
    return names


_OWNER = {"S": "student", "T": "teacher"}


def _check_installed() -> None:
    """Raise MissingDataError if the packages of the extra are not there."""
    try:
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise MissingDataError(f"exporting to ONNX needs {EXTRA} ({error})") from error


def _test_images(index: BundleIndex, n: int) -> tuple[UInt8[Tensor, "n channels height width"], Batch]:
    """The first test images of the dataset that the pair was trained on, as bytes and as inputs.

    Raises InvalidValueError for a bundle that does not take images or name its dataset.
    """
    made_for = index.made.get("task")
    name = made_for.get("name") if isinstance(made_for, dict) else None
    if index.inputs.n_tokens is not None or len(index.inputs.shape) != 3 or name not in DATASETS:
        what = f"one that was trained on the images of one of {', '.join(DATASETS)}: its index names the task"
        raise invalid("bundle", f"inputs of shape {index.inputs.shape}, task {name!r}", what)
    task = ImageTask(name)
    if task.input_shape != index.inputs.shape:
        raise invalid("inputs of the bundle", index.inputs.shape, f"{task.input_shape}, those of {name}")
    shown, samples = task.sample(min(n, task.size("test")))
    return shown.reshape(len(shown), *task.input_shape) if shown.ndim == 3 else shown.permute(0, 3, 1, 2), samples


def _networks(index: BundleIndex, bundle: Path) -> tuple[dict[int, Parts], dict[int, Parts]]:
    """The parts of student and teacher, by block, from the bundle's float32 shards."""
    workshop, contents = Workshop(index, "cpu"), {}
    for block in range(index.n_blocks + 1):
        file = bundle / index.shard(block).file
        contents[block] = torch.frombuffer(bytearray(file.read_bytes()), dtype=torch.uint8)
    student = workshop.student(index.shard(BOOT), contents[BOOT])
    return student, {b: workshop.unit(index.shard(b), contents[b]) for b in range(1, index.n_blocks + 1)}


def _units(index: BundleIndex, student: Mapping[int, Parts], teacher: Mapping[int, Parts]) -> Iterator[Unit]:
    """All units; a converter that changes nothing is none."""
    owners = {"student": (student, index.student_shapes), "teacher": (teacher, index.teacher_shapes)}
    for owner, (parts, shapes) in owners.items():
        for block, own in parts.items():
            modules = [own[part] for part in ("stem", "block", "head") if part in own]
            yield Unit(
                f"{owner}-{block}", nn.Sequential(*modules), shapes[block - 2] if block > 1 else index.inputs.shape
            )
    for boundary in range(1, index.n_blocks):
        for name, module, shapes in (
            ("encoder", teacher[boundary]["encoder"], index.teacher_shapes),
            ("decoder", teacher[boundary + 1]["decoder"], index.student_shapes),
        ):
            if not isinstance(module, nn.Identity):
                yield Unit(f"{name}-{boundary}", module, shapes[boundary - 1])


def _export(unit: Unit, folder: Path) -> dict[str, Any]:
    """Write one unit as ONNX, for batches of any length; raises InvalidValueError, naming unit and operation."""
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it warns of libraries that nobody asked for
    path = folder / f"{unit.name}.onnx"
    example = torch.zeros(2, *unit.shape)  # a batch of one would be taken for a constant
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # about the exporter's own internals
            program = torch.onnx.export(
                unit.module.eval(), (example,), dynamo=True, dynamic_shapes=({0: torch.export.Dim.DYNAMIC},),
                input_names=["state"], output_names=["next"], verbose=False,
            )  # fmt: skip
        assert program is not None
        program.save(str(path), external_data=False)
    except Exception as error:  # the exporter raises whatever its parts do
        raise InvalidValueError(f"{unit.name} cannot be exported to ONNX: {_reason(error)}") from error
    return _facts(path)


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


def _image_facts(samples: Batch, right: Mapping[str, Bool[Tensor, " images"]]) -> dict[str, Any]:
    """The images' labels, how many each mask gets right, and those that the student gets wrong and the teacher right."""
    ends = sorted(right)  # all S, ..., all T
    changes = (~right[ends[0]] & right[ends[-1]]).nonzero().flatten().tolist()
    return {
        "labels": samples.labels.tolist(),
        "hits": {mask: int(ones.sum()) for mask, ones in right.items()},
        "changes": changes[:MOST_CHANGES],
    }


def _check_all(
    folder: Path,
    files: Mapping[str, Mapping[str, Any]],
    inputs: Float[Tensor, "batch *shape"],
    wanted: Mapping[str, Float[Tensor, "batch classes"]],
) -> float:
    """The largest difference between ONNX Runtime's logits and those of torch, over all masks.

    Raises InvalidValueError, naming the mask, if it is beyond `TOLERANCE`.
    """
    import onnxruntime

    quiet = onnxruntime.SessionOptions()
    quiet.log_severity_level = 3
    sessions = {
        name: onnxruntime.InferenceSession(str(folder / facts["file"]), quiet, providers=["CPUExecutionProvider"])
        for name, facts in files.items()
    }
    worst = 0.0
    for mask, logits in wanted.items():
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
