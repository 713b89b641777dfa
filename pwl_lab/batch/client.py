"""papermill's engine with a client that says truly how a notebook ended, and that cannot hang on output widgets."""

import asyncio
import logging
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty
from typing import Any

import papermill
import zmq
from ipykernel.kernelspec import get_kernel_dict
from jupyter_client import AsyncKernelManager
from jupyter_client.kernelspec import KernelSpec
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbclient.output_widget import OutputWidget
from nbclient.util import run_sync
from nbformat import NotebookNode
from papermill.clientwrap import PapermillNotebookClient
from papermill.engines import NBClientEngine, papermill_engines
from papermill.exceptions import PapermillExecutionError
from papermill.execute import remove_error_markers

from pwl_lab.batch.kernel import KernelGuard
from pwl_lab.batch.status import RunError, plain

ENGINE = "pwl_lab"
KERNEL = "python3"
START_S = 120
SHUTDOWN_S = 5.0
END_HELPERS = "import sys\nif 'pwl_lab.parallel' in sys.modules: sys.modules['pwl_lab.parallel'].end_helpers()"
IOPUB_S = 60  # a busy machine may deliver a cell's last outputs long after its reply


@dataclass
class WidgetError:
    """An exception that was shown inside an Output widget while the cell `cell` ran."""

    model_id: str
    cell: int
    error: RunError


@dataclass
class Job:
    """One execution: what it needs, and what the client noted about it."""

    source: Path
    target: Path
    inject: dict[str, Any]
    environment: dict[str, str]
    timeout: int | None
    guard: KernelGuard
    nb: NotebookNode | None = None
    status: str = "ok"
    cell: int | None = None
    error: RunError | None = None
    widget_errors: list[WidgetError] = field(default_factory=list)

    def ended(self, status: str, error: RunError) -> None:
        """Note how the execution ended."""
        self.status, self.error = status, error


class LocalKernelManager(AsyncKernelManager):
    """A manager of kernels in this very Python, whatever `python3` kernel specification lies in the user's folders."""

    @property
    def kernel_spec(self) -> KernelSpec:
        """The specification of ipykernel in this environment."""
        return KernelSpec(**get_kernel_dict())


class GuardedOutputWidget(OutputWidget):
    """nbclient's output widget, which neither loses a wake-up of the client nor the errors that it is shown."""

    def _publish_msg(self, *args: Any, **keys: Any) -> None:
        """Send on the shell channel, then ask its socket for pending events.

        nbclient issue 312: another task waits on this socket for the cell's reply, and zmq's file descriptor is
        edge-triggered, so the send can swallow the edge that announced the reply; the client then waits for ever
        although the kernel is idle. Asking for EVENTS makes pyzmq schedule what is pending.
        """
        super()._publish_msg(*args, **keys)
        self.kernel_client.shell_channel.socket.get(zmq.EVENTS)

    def output(self, outs: list[NotebookNode], msg: dict[str, Any], display_id: str | None, cell_index: int) -> None:
        """Take an output; note an error here, since the next callback may clear it from the widget."""
        super().output(outs, msg, display_id, cell_index)
        if msg["msg_type"] == "error" and not _expects_errors(self.executor.nb.cells[cell_index]):
            error = error_of(msg["content"])
            self.executor.job.widget_errors.append(WidgetError(self.comm_id, cell_index, error))


class LabClient(PapermillNotebookClient):
    """Executes the cells and notes in `job` what really happened."""

    def __init__(self, nb_man: Any, job: Job, **kw: Any) -> None:
        """A client for the notebook of `nb_man`, with nbclient's own options."""
        super().__init__(nb_man, **kw)
        self.job = job
        self.widget_registry = {"@jupyter-widgets/output": {"OutputModel": GuardedOutputWidget}}

    def create_kernel_manager(self) -> AsyncKernelManager:
        """A manager whose kernel talks over unix sockets: parallel runs race for TCP ports."""
        manager = super().create_kernel_manager()
        manager.connection_file = str(self.job.guard.folder / "kernel.json")
        if hasattr(asyncio, "start_unix_server"):
            manager.transport = "ipc"
            manager.ip = str(self.job.guard.folder / "socket")
        return manager

    def start_new_kernel(self, **kwargs: Any) -> None:
        """Start the kernel and hand its process to the guard."""
        super().start_new_kernel(**kwargs)
        self.job.guard.started(self.km.provisioner.process)

    def execute(self, **kwargs: Any) -> NotebookNode:
        """Run all cells. Widget state is kept on every kind of end: errors hide in it."""
        self.reset_execution_trackers()
        with self.setup_kernel(**kwargs):
            reply = self.wait_for_reply(self.kc.kernel_info())
            self.nb.metadata["language_info"] = reply["content"]["language_info"]
            try:
                self.papermill_execute_cells()
            finally:
                self.set_widgets_metadata()
                self._say_goodbye()
        return self.nb

    def papermill_execute_cells(self) -> None:
        """Run the cells up to the first that fails; unlike papermill's own loop, a timeout and a death count too."""
        for index, cell in enumerate(self.nb.cells):
            self.job.cell = index
            self.nb_man.cell_start(cell, index)
            try:
                self.execute_cell(cell, index)
            except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
                self._note(cell, error)
                self.nb_man.cell_exception(cell, cell_index=index, exception=error)
                return
            finally:
                self.nb_man.cell_complete(cell, cell_index=index)
        self.job.cell = None

    def _say_goodbye(self) -> None:
        """Let a kernel that listens end by itself, its exit hooks included.

        jupyter_client's own shutdown interrupts the kernel first, and an interrupt at a bad moment costs its full five
        seconds of patience. What does not listen is killed at once.
        """
        self.shutdown_kernel = "immediate"
        if self.job.status in ("ok", "failed") and not self.job.guard.stopped_by:
            self.kc.execute(END_HELPERS, silent=True)
            with suppress(Empty):
                run_sync(self.kc.shell_channel.get_msg)(timeout=SHUTDOWN_S)
            self.kc.shutdown()
            self.job.guard.wait(SHUTDOWN_S)

    def _note(self, cell: NotebookNode, error: CellExecutionError | CellTimeoutError | DeadKernelError) -> None:
        """Turn nbclient's exception into a status."""
        if isinstance(error, CellTimeoutError):
            text = f"the cell ran longer than {self.timeout} s"
            self.job.ended("timeout", RunError(name="CellTimeoutError", message=text))
        elif isinstance(error, DeadKernelError):
            self.job.ended("killed", RunError(name="DeadKernelError", message=self.job.guard.exit_words()))
        elif error.ename == "SystemExit" and error.evalue in ("", "0"):
            self.job.cell = None  # sys.exit(0) is a notebook's own way to end early, to papermill too
        else:
            shown = [output for output in cell.outputs if output.output_type == "error"]
            fallback = RunError(name=error.ename, message=error.evalue, traceback=plain(error.traceback))
            self.job.ended("failed", error_of(shown[-1]) if shown else fallback)


class LabEngine(NBClientEngine):
    """The papermill engine around LabClient."""

    @classmethod
    def execute_managed_notebook(cls, nb_man: Any, kernel_name: str, *, job: Job, **_: Any) -> None:
        """Execute the notebook that papermill prepared."""
        job.nb = nb_man.nb
        client = LabClient(
            nb_man,
            job,
            kernel_name=kernel_name,
            kernel_manager_class=LocalKernelManager,
            timeout=job.timeout,
            startup_timeout=START_S,
            iopub_timeout=IOPUB_S,
            log=_quiet_log(),
        )
        client.execute(cwd=str(job.source.parent), env=job.environment)


def execute(job: Job) -> None:
    """Run `job` to its end through papermill; how it ended stands in the job, nothing is raised for a bad notebook."""
    papermill_engines.register(ENGINE, LabEngine)
    try:
        papermill.execute_notebook(
            _braces(job.source),
            _braces(job.target),
            parameters=job.inject,
            engine_name=ENGINE,
            kernel_name=KERNEL,
            language="python",
            progress_bar=False,
            job=job,
        )
    except PapermillExecutionError:
        # papermill reports any error output here, also the expected ones: the client and the later scan decide.
        job.nb = remove_error_markers(job.nb)
    except RuntimeError as error:
        if job.status == "ok":
            job.ended("failed", RunError(name="KernelStartError", message=f"the kernel did not start: {error}"))
    if job.guard.stopped_by:
        job.ended("killed", RunError(name=job.guard.stopped_by, message="the run was stopped from outside"))


def error_of(output: dict[str, Any]) -> RunError:
    """The content of an error output as a RunError."""
    trace = plain("\n".join(output.get("traceback", [])))
    return RunError(name=output.get("ename", "Error"), message=output.get("evalue", ""), traceback=trace)


def _expects_errors(cell: NotebookNode) -> bool:
    """Whether the cell's author tagged it as one that raises."""
    return "raises-exception" in cell.metadata.get("tags", [])


def _braces(path: Path) -> str:
    """The path as papermill wants it: it formats paths, so a brace in one must be doubled."""
    return str(path).replace("{", "{{").replace("}", "}}")


def _quiet_log() -> logging.Logger:
    """A logger that says nothing unless somebody listens: what matters stands in the status."""
    log = logging.getLogger("pwl_lab.batch")
    if not log.handlers:
        log.addHandler(logging.NullHandler())
    return log
