"""The dashboard as a page of its own: Voila on this machine alone, behind a token, with a limit on how long a cell runs.

It reads, never trains: its kernels may not make what the store lacks. Nothing in the page asks another machine for
anything: the template leaves out what Voila's own takes from a CDN, and the browser is told to refuse the rest.
"""

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

from pwl_lab import paths
from pwl_lab.batch.schema import make_plan, read_notebook, resolve_notebook
from pwl_lab.store import ONLY_STORED, write_json

NOTEBOOK = "dashboard"
TEMPLATES = Path(__file__).parent / "templates"
CELL_S = 300  # a cell that takes longer ends with an error; Voila alone would wait for ever
IDLE_S = 300
POLICY = "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; connect-src 'self' ws://127.0.0.1:* data:"


def configuration(port: int) -> dict[str, dict[str, Any]]:
    """Voila's options: who may ask, what is shown, and when a cell has taken too long."""
    options: dict[str, dict[str, Any]] = {
        "Voila": {
            "ip": "127.0.0.1",
            "port": port,
            "open_browser": False,
            "auto_token": True,
            "tornado_settings": {"headers": {"Content-Security-Policy": POLICY}},
        },
        "VoilaConfiguration": {
            "template": "pwl_lab_dashboard",
            "allow_template_override": "NO",
            "allow_theme_override": "NO",
            "show_tracebacks": True,  # else an error is only said to be there
            "file_denylist": [".*"],  # no file beside the notebook is served
        },
        "VoilaExecutor": {"timeout": CELL_S},
        "MappingKernelManager": {"cull_idle_timeout": IDLE_S, "cull_interval": 30},  # of pages that were closed
    }
    if hasattr(asyncio, "start_unix_server"):  # kernels on a machine with other users: no TCP port to talk to
        options["KernelManager"] = {"transport": "ipc"}
    return options


def prepare(preset: str | None = None, port: int = 8866) -> list[str]:
    """Write notebook and configuration among the runs; the command that serves them.

    The token is JUPYTER_TOKEN where that is set, else a new one, which Voila shows with the address. Configuration of
    the user's own is not read. Raises UnknownNameError for a preset that there is not.
    """
    import nbformat

    source = resolve_notebook(NOTEBOOK)
    make_plan(read_notebook(source), preset, {})
    nb = nbformat.read(source, as_version=4)
    if preset is not None:
        place = next(i for i, cell in enumerate(nb.cells) if "parameters" in cell.metadata.get("tags", []))
        nb.cells.insert(place + 1, nbformat.v4.new_code_cell(f"# Parameters\npreset = {preset!r}"))
    folder = paths.runs() / NOTEBOOK
    write_json(folder / "voila.json", configuration(port))
    nbformat.write(nb, folder / source.name)
    return [sys.executable, "-m", "voila", str(folder / source.name), f"--Voila.config_file_paths={folder}"]


def environment() -> dict[str, str]:
    """That of this process, with the template's folder and the word that nothing may be made."""
    own = {name: value for name, value in os.environ.items() if name != "MPLBACKEND"}
    folders = os.pathsep.join(filter(None, (str(TEMPLATES), os.environ.get("JUPYTER_PATH"))))
    return own | {"JUPYTER_PATH": folders, ONLY_STORED: "1"}


def serve(preset: str | None = None, port: int = 8866) -> None:
    """Become the server: this does not return."""
    command = prepare(preset, port)
    sys.stdout.flush()
    os.execve(command[0], command, environment())
