"""The dashboard as a page of its own: Voila on this machine alone, behind a token, with a limit on how long a cell runs.

It reads, never trains: its kernels may not make what the store lacks. Nothing in the page asks another machine for
anything: the template leaves out what Voila's own takes from a CDN, and the browser is told to refuse the rest.
"""

import asyncio
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

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
# What the browser lets the page do; {port} is the server's own. Scripts inside the page and `eval` are needed by Voila
# and by the widgets. The server's default, that no other site may put the page in a frame, is lost unless said again.
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; worker-src 'self' blob:; "
    "connect-src 'self' ws://127.0.0.1:{port} data:; "
    "frame-ancestors 'self'; base-uri 'self'; form-action 'self'; object-src 'none'"
)


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
        nbformat.write(nb, folder / source.name)
        yield folder


def environment() -> dict[str, str]:
    """The environment of this process, with the template's folder, and set so that nothing is trained.

    Threads wait without spinning: beside other work, spinning doubles the processor time until the page answers.
    """
    folders = os.pathsep.join(filter(None, (str(TEMPLATES), os.environ.get("JUPYTER_PATH"))))
    waiting = {"OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "PASSIVE")}
    return environment_of_kernels() | waiting | {"JUPYTER_PATH": folders, ONLY_STORED.name: "1"}


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
