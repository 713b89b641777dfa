"""A folder for any static web server: the page of `web/`, its runtime, and networks that load in it."""

import html
import json
import re
import shutil
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np

from pwl_lab.loading.onnx_units import FORMAT as UNITS_FORMAT
from pwl_lab.loading.onnx_units import MODEL, shards_of, write_units
from pwl_lab.study.recipes import loading_pair
from pwl_lab.study.settings import LoadingSettings
from pwl_lab.study.store import load_if_stored
from pwl_lab.study.stored_pairs import Missing, command_for
from pwl_lab.support import paths
from pwl_lab.support.errors import MissingDataError, invalid
from pwl_lab.support.files import work_folder, write_bytes, write_json

FORMAT = 1  # of models.json; the page refuses a higher one
LOOPBACK = "127.0.0.1"
ENDS: dict[str, list[str | int]] = {"state": ["batch", 1, 4, 4], "next": ["batch", 2]}  # of the warm-up graph
TYPES = {".js": "text/javascript", ".mjs": "text/javascript", ".wasm": "application/wasm"}
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
    - `name`: of the network in the page's menu and in addresses; one of the same name is replaced, unless it is the same.

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
    models = whole / MODELS
    if not _has(models / name, bundle):
        with work_folder(whole) as part:
            write_units(bundle, part / name)
            models.mkdir(parents=True, exist_ok=True)
            if (models / name).exists():
                shutil.rmtree(models / name)
            (part / name).rename(models / name)
    for path in [*_sources(), *(Path(__file__).with_name(file) for file in SHARED)]:
        write_bytes(whole / path.name, path.read_bytes())
    for path in runtime:
        write_bytes(whole / RUNTIME / path.name, path.read_bytes())
    write_bytes(whole / RUNTIME / "warm-up.onnx", _warm_up_graph())
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
    """Write the page with notebook 04's pair of each family, as far as the store has them; return what is missing.

    Raises as `write_page` does.
    """
    _runtime()  # without it no stored pair is of use, and none need be made
    missing = Missing()
    for family in FAMILIES:
        sizes = LoadingSettings.load(preset, family=family)
        found = load_if_stored(loading_pair, sizes, sizes.seeds[0])
        if found is None:
            missing.commands[f"the {family} pair of notebook 04"] = command_for("04", preset, family)
            continue
        with work_folder(folder) as part:
            found[1].export(part / family)
            write_page(part / family, folder, family)
    return missing


def _has(folder: Path, bundle: Path) -> bool:
    """Whether the network in a folder of a page was made of this bundle's very files, by this version of the exporter."""
    try:
        model = json.loads((folder / MODEL).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return (model.get("format"), model.get("shards")) == (UNITS_FORMAT, shards_of(bundle))


class PageServer:
    """Serves a folder to browsers on this machine at `url`, from a thread, until `close` or the end of the process."""

    def __init__(self, folder: Path) -> None:
        """Begin at once, on a free port."""
        self._server = ThreadingHTTPServer((LOOPBACK, 0), partial(_Handler, directory=str(folder)))
        self._server.daemon_threads = True
        self.url = f"http://{LOOPBACK}:{self._server.server_address[1]}/"
        threading.Thread(target=self._server.serve_forever, name=f"page at {self.url}", daemon=True).start()

    def close(self) -> None:
        """End it. May be called again."""
        self._server.shutdown()
        self._server.server_close()


class _Handler(SimpleHTTPRequestHandler):
    """Files, without a line in the notebook for each; a browser wants to know the types of these."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # or every small file waits 40 ms for the acknowledgement of its header

    def guess_type(self, path: Any) -> str:
        """Of scripts and WebAssembly, whatever this machine's own table says."""
        return TYPES.get(Path(path).suffix) or super().guess_type(path)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


class LivePage:
    """The page in a notebook, live: in a frame, from a server of its own that `close` or the kernel's end stops."""

    def __init__(self, bundle: Path, name: str) -> None:
        """Write the page unless it is there, and serve it. Raises as `write_page`."""
        write_page(bundle, paths.web_page(), name)
        self._server = PageServer(paths.web_page())
        self.url = f"{self._server.url}#{name}"

    def close(self) -> None:
        """Stop serving: what the page has loaded goes on, but it can load nothing more."""
        self._server.close()

    def __repr__(self) -> str:
        """The address."""
        return f"The page is at {self.url}"

    def _repr_html_(self) -> str:
        """The frame, and the address for a window of its own."""
        frame = f'<iframe src="{self.url}" title="A network that answers while it loads" width="100%" height="980"></iframe>'
        return f'<p><a href="{self.url}" target="_blank">In a window of its own</a></p>{frame}'


class PageLink:
    """Where the page is, or how to make it, for a notebook that nothing serves."""

    def __init__(self, name: str, notebook: str, reason: str = "The page has not been built.") -> None:
        """As `loading_page`; `reason`: why there is no live page, said if there is none to link to."""
        page, there = paths.web_page() / "index.html", (paths.web_page() / MODELS / name / MODEL).is_file()
        self.target = f"{paths.address(page, paths.output(notebook))}#{name}" if there else None
        self.reason = reason

    def __repr__(self) -> str:
        """In plain text."""
        return re.sub("<[^>]*>", "", self._repr_html_())

    def _repr_html_(self) -> str:
        """A paragraph."""
        make = "<code>make web</code> writes the page and serves it to this machine"
        if self.target is None:
            return f"<p>{html.escape(self.reason)} {make}.</p>"
        return f'<p><a href="{html.escape(self.target)}">A network that answers while it loads</a> ({make}).</p>'


def loading_page(bundle: Path, name: str, notebook: str, interactive: bool = True) -> LivePage | PageLink:
    """The page with the network of a bundle, live in a notebook; where nothing can serve it, a link or what it takes.

    Arguments:
    - `bundle`: the folder of a bundle of images.
    - `name`: of the network in the page's menu.
    - `notebook`: the name of the notebook, from whose output folder a link begins.
    - `interactive`: whether there is a kernel that can serve the page.
    """
    if not interactive:
        return PageLink(name, notebook)
    try:
        return LivePage(bundle, name)
    except MissingDataError as error:
        return PageLink(name, notebook, f"{error}.")


def _sources() -> list[Path]:
    """The page's own files."""
    return [path for path in sorted(paths.web().iterdir()) if path.suffix in (".html", ".css", ".js")]


def _runtime() -> list[Path]:
    """The files of ONNX Runtime Web that npm has fetched. Raises MissingDataError if they are not there."""
    if not paths.is_checkout():
        raise paths.needs_checkout("the page on which a network loads needs the runtime that npm installs into")
    folder = paths.web() / "node_modules" / "onnxruntime-web" / "dist"
    found = [folder / name for name in RUNTIME_FILES]
    if not all(path.is_file() for path in found):
        raise MissingDataError(
            f"the page needs ONNX Runtime Web, which is not in {folder}. Fetch it with: npm ci --prefix web "
            "(npm comes with Node.js; the notebooks do not need it)"
        )
    return found


def _warm_up_graph() -> bytes:
    """A tiny network of the common operations: the page runs it once, so that the runtime is compiled before any bytes come."""
    from onnx import TensorProto, helper, numpy_helper

    shapes = {"kernel": (2, 1, 3, 3), "scale": (2,), "shift": (2,), "mean": (2,), "variance": (2,), "weight": (2, 8)}
    weights = [numpy_helper.from_array(np.ones(shape, np.float32), name) for name, shape in shapes.items()]
    nodes = [
        helper.make_node("Conv", ["state", "kernel"], ["a"], pads=[1, 1, 1, 1]),
        helper.make_node("BatchNormalization", ["a", "scale", "shift", "mean", "variance"], ["b"]),
        helper.make_node("Relu", ["b"], ["c"]),
        helper.make_node("MaxPool", ["c"], ["d"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Flatten", ["d"], ["e"]),
        helper.make_node("Gemm", ["e", "weight"], ["next"], transB=1),
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in ENDS.items()]
    graph = helper.make_graph(nodes, "warm-up", ends[:1], ends[1:], weights)
    opsets: list[Any] = [helper.make_opsetid("", 18)]
    content: bytes = helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()
    return content
