"""A folder for any static web server: the page of `web/`, its runtime, and networks that load in it."""

import re
import shutil
from pathlib import Path
from typing import Any

from pwl_lab.loading.onnx_units import write_units
from pwl_lab.study.recipes import loading_pair
from pwl_lab.study.settings import LoadingSettings
from pwl_lab.study.store import load_if_stored
from pwl_lab.study.stored_pairs import Missing, command_for
from pwl_lab.support import paths
from pwl_lab.support.errors import MissingDataError, invalid
from pwl_lab.support.files import work_folder, write_bytes, write_json

FORMAT = 1  # of models.json; the page refuses a higher one
FAMILIES = ("vgg", "resnet", "vit")
LIST, MODELS, RUNTIME = "models.json", "models", "runtime"
SHARED = ("player.js", "player.css", "canvas.js", "canvas.css")  # with the widgets of the notebooks
# What of ONNX Runtime Web the page needs: its module, and WebAssembly with the script around it.
RUNTIME_FILES = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")


def write_page(bundle: Path, folder: Path, name: str) -> None:
    """Write the page with the network of a bundle, or add the network to a page that was written before.

    Arguments:
    - `bundle`: the folder of a bundle of images.
    - `folder`: a folder that is new, empty, or holds such a page.
    - `name`: of the network in the page's menu and in addresses; one of the same name is replaced.

    Raises MissingDataError if the runtime has not been fetched, InvalidValueError for another folder or name, and as
    `write_units` does. Then nothing has changed.
    """
    whole = paths.local_folder(folder, "out", "copy the page to its server once it is written")
    names = paths.names_in(whole)
    if names and not {LIST, MODELS} <= names:
        raise invalid("out", str(folder), "a folder that is new, empty, or holds an earlier page")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", name):
        raise invalid("name", name, "up to 64 letters, digits, and . _ - after the first")
    runtime = _runtime()
    with work_folder(whole) as part:
        write_units(bundle, part / name)
        models = whole / MODELS
        models.mkdir(parents=True, exist_ok=True)
        if (models / name).exists():
            shutil.rmtree(models / name)
        (part / name).rename(models / name)
    for path in [*_sources(), *(Path(__file__).with_name(file) for file in SHARED)]:
        write_bytes(whole / path.name, path.read_bytes())
    for path in runtime:
        write_bytes(whole / RUNTIME / path.name, path.read_bytes())
    write_bytes(whole / RUNTIME / "empty.onnx", _empty_graph())
    found = sorted(path.name for path in models.iterdir() if not path.name.startswith("."))
    write_json(
        whole / LIST,
        {
            "format": FORMAT,
            "models": [{"name": one, "folder": one} for one in found],
            "runtime_bytes": sum(path.stat().st_size for path in runtime),
        },
    )


def write_stored_pairs(preset: str, folder: Path) -> Missing:
    """Write the page with notebook 04's pair of each family, as far as the store has them; return what is missing."""
    missing = Missing()
    for family in FAMILIES:
        sizes = LoadingSettings.load(preset, family=family)
        found = load_if_stored(loading_pair, sizes, sizes.seeds[0])
        if found is None:
            missing.commands[f"the {family} pair of notebook 04"] = command_for("04", preset, family)
            continue
        with work_folder(folder) as part:
            found[1].export(part / family, int8=False)
            write_page(part / family, folder, family)
    return missing


def _sources() -> list[Path]:
    """The page's own files."""
    return [path for path in sorted(paths.web().iterdir()) if path.suffix in (".html", ".css", ".js")]


def _runtime() -> list[Path]:
    """The files of ONNX Runtime Web that npm has fetched. Raises MissingDataError if they are not there."""
    folder = paths.web() / "node_modules" / "onnxruntime-web" / "dist"
    found = [folder / name for name in RUNTIME_FILES]
    if not all(path.is_file() for path in found):
        raise MissingDataError(
            f"the page needs ONNX Runtime Web, which is not in {folder}. Fetch it with: npm ci --prefix web "
            "(npm comes with Node.js; the notebooks do not need it)"
        )
    return found


def _empty_graph() -> bytes:
    """A graph that does nothing: with it the page starts the runtime before any network is loaded."""
    from onnx import TensorProto, helper

    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("state", "next")]
    graph = helper.make_graph([helper.make_node("Identity", ["state"], ["next"])], "empty", ends[:1], ends[1:])
    opsets: list[Any] = [helper.make_opsetid("", 18)]
    content: bytes = helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()
    return content
