"""The dashboard as a page of its own: Voila on this machine alone, behind a token, with a limit on how long a cell runs.

It reads, never trains: its kernels may not make what the store lacks. Nothing in the page asks another machine for
anything: the template leaves out what Voila's own takes from a CDN, and the browser is told to refuse the rest.
"""

import asyncio
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jupyter_server.services.kernels.kernelmanager import AsyncMappingKernelManager
from jupyter_server.utils import ApiPath
from tornado.ioloop import IOLoop

from pwl_lab.runner.kernel import environment_of_kernels, neutral
from pwl_lab.runner.parameters import read_notebook, resolve_notebook, resolve_parameters
from pwl_lab.support import paths
from pwl_lab.support.environment import ONLY_STORED
from pwl_lab.support.errors import invalid
from pwl_lab.support.files import work_folder, write_json

NOTEBOOK = "dashboard"
TEMPLATES = Path(__file__).parent / "templates"
CELL_S = 300  # a cell that takes longer ends with an error; Voila by itself would wait forever
IDLE_S = 300  # a kernel without a page is shut down after this long
LOOK_S = 30  # how often this is checked
NEXT_S = 15  # after a page took the kernel that was ready, the next one is started: the page has its figures by then
# What every kernel runs before it answers: a page's longest wait is for these. Nothing that is stored is read.
START_UP = "import pwl_lab.study.stored_pairs\nimport pwl_lab.widgets\n"
# What the browser lets the page do; {port} is the server's own. Scripts inside the page and `eval` are needed by Voila
# and by the widgets. The server's default, that no other site may put the page in a frame, is lost unless said again.
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; worker-src 'self' blob:; "
    "connect-src 'self' ws://127.0.0.1:{port} data:; "
    "frame-ancestors 'self'; base-uri 'self'; form-action 'self'; object-src 'none'"
)


class OneAhead(AsyncMappingKernelManager):
    """Starts each kernel before a page asks for it: one that has imported everything waits for the next page.

    Voila's own way (`preheat_kernel`) also runs the notebook in advance. Such a page would show what was stored then,
    and it could not show each output as soon as it is there.
    """

    def __init__(self, **options: Any) -> None:
        """The first kernel starts with the server."""
        super().__init__(**options)  # type: ignore[no-untyped-call]  # voila is not annotated
        self._ahead: asyncio.Task[str] | None = None
        self._ends = False
        IOLoop.current().add_callback(self._start_ahead)

    def _start_ahead(self) -> None:
        if self._ahead is None and not self._ends:
            beside_the_notebook = ApiPath("")
            self._ahead = asyncio.ensure_future(super().start_kernel(path=beside_the_notebook))

    async def start_kernel(self, **options: Any) -> str:  # type: ignore[override]  # one of the bases is synchronous
        """The kernel that is ready, or, if another page has just taken that one, a new one."""
        ahead, self._ahead = self._ahead, None
        IOLoop.current().call_later(NEXT_S, self._start_ahead)
        if ahead:
            await asyncio.wait([ahead])
        if not ahead or ahead.exception() or ahead.result() not in self:  # no longer in self: it was killed
            return await super().start_kernel(**options)
        self.get_kernel(ahead.result()).last_activity = datetime.now(UTC)  # type: ignore[attr-defined]  # idle from now on
        return ahead.result()

    async def cull_kernel_if_idle(self, kernel_id: str) -> None:
        """Shut down a kernel that has been idle for too long, unless it waits for its page."""
        waits = self._ahead and self._ahead.done() and not self._ahead.exception() and self._ahead.result()
        if kernel_id != waits:
            await super().cull_kernel_if_idle(kernel_id)  # type: ignore[no-untyped-call]  # nor is jupyter-server

    async def shutdown_all(self, now: bool = False) -> None:  # type: ignore[override]  # as above
        """Shut down every kernel, and start no other one."""
        self._ends = True
        await super().shutdown_all(now=now)


def configuration(port: int) -> dict[str, dict[str, Any]]:
    """Voila's options: who may ask, what is shown, and when a cell has taken too long."""
    options: dict[str, dict[str, Any]] = {
        "Voila": {
            "ip": "127.0.0.1",
            "port": port,
            "port_retries": 0,  # a bookmark or a tunnel points to this port; on another port it would not find the page
            "open_browser": False,
            "auto_token": True,
            "tornado_settings": {"headers": {"Content-Security-Policy": POLICY.format(port=port)}},
        },
        "VoilaConfiguration": {
            "template": "pwl_lab_dashboard",
            "allow_template_override": "NO",
            "allow_theme_override": "NO",
            "progressive_rendering": True,  # show each output as soon as it is there; otherwise the page waits for the last one
            "show_tracebacks": True,  # otherwise the page only says that there was an error
            "file_denylist": [".*"],  # no file beside the notebook is served
            "extension_denylist": ["@jupyter-notebook/lab-extension"],  # Notebook 7's, which fails on this page
            "multi_kernel_manager_class": f"{__name__}.{OneAhead.__name__}",
        },
        "VoilaExecutor": {"timeout": CELL_S},
        "MappingKernelManager": {"cull_idle_timeout": IDLE_S, "cull_interval": LOOK_S},  # of pages that were closed
    }
    if hasattr(asyncio, "start_unix_server"):  # on a machine with other users, no TCP port leads to the kernels
        options["KernelManager"] = {"transport": "ipc"}
    return options


@contextmanager
def prepared(preset: str | None = None, port: int = 8866) -> Iterator[Path]:
    """Inside, a folder of this server's own, with the notebook and the configuration.

    Voila reads the notebook anew for every page: servers that shared it would change each other's. The token is
    JUPYTER_TOKEN where that is set, else a new one, which Voila shows with the address. Raises UnknownNameError for a
    preset that is not known.
    """
    import nbformat

    source = resolve_notebook(NOTEBOOK)
    resolve_parameters(read_notebook(source), preset, {})
    nb = nbformat.read(source, as_version=4)
    if preset is not None:
        cell = next(i for i, cell in enumerate(nb.cells) if "parameters" in cell.metadata.get("tags", []))
        nb.cells.insert(cell + 1, nbformat.v4.new_code_cell(f"# Parameters\npreset = {preset!r}"))
    with work_folder(paths.scratch() / NOTEBOOK, 0o700) as folder:
        write_json(folder / "voila.json", configuration(port))
        start_up = folder / "ipython" / "profile_default" / "startup"  # in the folder that `neutral` names
        start_up.mkdir(parents=True)
        (start_up / "imports.py").write_text(START_UP, encoding="utf-8")
        nbformat.write(nb, folder / source.name)
        yield folder


def environment() -> dict[str, str]:
    """The environment of this process, with the template's folder, and set so that nothing is trained.

    One thread is enough for a few hundred small pictures, and does not wait for a second one beside other work.
    """
    folders = os.pathsep.join(filter(None, (str(TEMPLATES), os.environ.get("JUPYTER_PATH"))))
    threads = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    return environment_of_kernels() | threads | {"JUPYTER_PATH": folders, ONLY_STORED.name: "1"}


def serve(preset: str | None = None, port: int = 8866) -> None:
    """Serve the dashboard until Ctrl-C or SIGTERM, which also end its kernels. The user's own configuration is not read.

    Raises InvalidValueError for a port that is taken, and UnknownNameError for an unknown preset.
    """
    from voila.app import Voila

    refuse_taken(port)
    with prepared(preset, port) as folder:
        os.environ.pop("MPLBACKEND", None)
        os.environ.update(environment() | neutral(folder))
        Voila.launch_instance([str(folder / f"{NOTEBOOK}.ipynb"), f"--Voila.config_file_paths={folder}"])


def refuse_taken(port: int) -> None:
    """Say that a port is taken before anything is started; Voila's own words would promise another one."""
    with socket.socket() as probe:
        probe.setsockopt(
            socket.SOL_SOCKET, socket.SO_REUSEADDR, 1
        )  # as the server does: a port of a server that has ended is free
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            free = f"one that is free on this machine ({error.strerror}); --port names another"
            raise invalid("port", port, free) from error
