"""papermill's engine with a client that loses no output, never waits for ever, and reports correctly how a notebook ended."""

import ast
import asyncio
import json
import logging
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import papermill
import zmq
import zmq.asyncio
from ipykernel.kernelspec import get_kernel_dict
from jupyter_client.asynchronous.client import AsyncKernelClient
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbclient.output_widget import OutputWidget
from nbclient.util import run_sync
from nbformat import NotebookNode, ValidationError
from nbformat.v4 import new_output
from papermill.clientwrap import PapermillNotebookClient
from papermill.engines import NBClientEngine, papermill_engines
from papermill.exceptions import PapermillExecutionError
from papermill.execute import remove_error_markers

from pwl_lab.runner.kernel import KernelGuard
from pwl_lab.runner.run_folder import TIME_IS_UP, Ending, RunError
from pwl_lab.runner.verdict import WidgetError, error_of, expects_errors, is_clean_exit
from pwl_lab.support.errors import PwlLabError
from pwl_lab.support.timing import phase

ENGINE = "pwl_lab"
KERNEL = "python3"
KERNEL_COMMAND = [sys.executable, "-m", "pwl_lab.runner.kernel_app", "-f", "{connection_file}"]
START_S = 120
SHUTDOWN_S = 5.0
END_HELPERS = (
    "import sys\nif 'pwl_lab.support.processes' in sys.modules: sys.modules['pwl_lab.support.processes'].end_helpers()"
)
TOTALS = "__import__('json').dumps(__import__('pwl_lab.support.timing', fromlist=['totals']).totals())"
QUIET_S = 60  # the last messages of a finished cell may arrive late, but not after a silence as long as this
LOOK_EVERY_S = 1.0


class LostMessagesError(PwlLabError):
    """A cell has ended, but its remaining messages never arrived."""


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
    status: Ending = "ok"
    cell: int | None = None
    error: RunError | None = None
    phases: dict[str, float] = field(default_factory=dict)
    widget_errors: list[WidgetError] = field(default_factory=list)

    def ended(self, status: Ending, error: RunError) -> None:
        """Note how the execution ended."""
        self.status, self.error = status, error


class KeepingClient(AsyncKernelClient):
    """A connection to a kernel that keeps every message until it is taken, however far behind the taker is."""

    def _context_default(self) -> zmq.asyncio.Context:
        """Sockets without a high-water mark: beyond it (1,000 messages) ZeroMQ drops silently what a kernel publishes."""
        context = super()._context_default()
        context.rcvhwm = context.sndhwm = 0
        return context


class LocalKernelManager(AsyncKernelManager):
    """A manager that starts kernels with this Python, whatever `python3` kernel specification the user has installed."""

    client_class = f"{__name__}.{KeepingClient.__name__}"

    @property
    def kernel_spec(self) -> KernelSpec:
        """The specification of our kernel application in this environment."""
        return KernelSpec(**get_kernel_dict() | {"argv": KERNEL_COMMAND})


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
        if msg["msg_type"] == "error" and not expects_errors(self.executor.nb.cells[cell_index]):
            error = error_of(msg["content"])
            self.executor.job.widget_errors.append(WidgetError(self.comm_id, error, cell_index))


class LabClient(PapermillNotebookClient):  # type: ignore[misc]  # papermill has no types
    """Executes the cells and notes in `job` what really happened."""

    def __init__(self, nb_man: Any, job: Job, **kw: Any) -> None:
        """A client for the notebook of `nb_man`, with nbclient's own options."""
        super().__init__(nb_man, **kw)
        self.job = job
        self.heard = 0  # messages of the cell that is running
        self.widget_registry = {"@jupyter-widgets/output": {"OutputModel": GuardedOutputWidget}}

    def create_kernel_manager(self) -> AsyncKernelManager:
        """A manager whose kernel talks over unix sockets: parallel runs race for TCP ports."""
        manager: AsyncKernelManager = super().create_kernel_manager()
        manager.connection_file = str(self.job.guard.folder / "kernel.json")
        if hasattr(asyncio, "start_unix_server"):
            manager.transport = "ipc"
            manager.ip = str(self.job.guard.folder / "socket")
        return manager

    def start_new_kernel(self, **kwargs: Any) -> None:
        """Start the kernel and hand its process to the guard."""
        with phase("kernel"):
            super().start_new_kernel(**kwargs)
        self.job.guard.started(self.km.provisioner.process)

    def execute(self, **kwargs: Any) -> None:
        """Run all cells. Widget state is kept on every kind of end: errors hide in it."""
        self.reset_execution_trackers()
        self.nb.metadata.pop("widgets", None)  # from an earlier run, whose errors must not count here
        with self.setup_kernel(**kwargs):
            with phase("kernel"):
                reply = self.wait_for_reply(self.kc.kernel_info())
            self.nb.metadata["language_info"] = reply["content"]["language_info"]
            try:
                self.papermill_execute_cells()
            finally:
                self.set_widgets_metadata()
                self._say_goodbye()

    def papermill_execute_cells(self) -> None:
        """Run the cells up to the first that fails; unlike papermill's own loop, a timeout and a death count too."""
        for index, cell in enumerate(self.nb.cells):
            self.job.cell = index
            self.nb_man.cell_start(cell, index)
            try:
                self.execute_cell(cell, index)
            except (CellExecutionError, CellTimeoutError, DeadKernelError, LostMessagesError) as error:
                self._note(cell, error)
                self.nb_man.cell_exception(cell, cell_index=index, exception=error)
                return
            finally:
                self.nb_man.cell_complete(cell, cell_index=index)
        self.job.cell = None

    def process_message(self, msg: dict[str, Any], cell: NotebookNode, cell_index: int) -> NotebookNode | None:
        """Handle one message of the cell that is running."""
        self.heard += 1
        output: NotebookNode | None = super().process_message(msg, cell, cell_index)
        return output

    def output(self, outs: list[NotebookNode], *args: Any) -> NotebookNode | None:
        """Append an output; text that continues the previous output is joined to it, as in Jupyter."""
        before = len(outs)
        try:
            out: NotebookNode | None = super().output(outs, *args)
        except ValidationError as error:
            text = f"An output was left out, because a notebook cannot hold it: {error.message}\n"
            out = new_output("stream", name="stderr", text=text)
            outs.append(out)
        if out and len(outs) == before + 1 > 1 and out.output_type == outs[-2].output_type == "stream":
            last = outs[-2]
            if last.name == out.name:
                text = last.pop("text")  # the only reference, so Python extends the string in place
                text += out.text
                last.text = text
                outs.pop()
        return out

    async def _async_poll_for_reply(
        self,
        msg_id: str,
        cell: NotebookNode,
        timeout: int | None,
        task_poll_output_msg: asyncio.Future[None],
        task_poll_kernel_alive: asyncio.Future[None],
    ) -> dict[str, Any]:
        """Wait for both signs of a cell's end: the kernel's reply, and the message that it is idle, after all outputs.

        The cell's limit holds until the first of them. From then on the other may take any time while messages arrive:
        nbclient itself gives it a fixed one, and calls what is over that a cell that ran too long. Raises CellTimeoutError,
        DeadKernelError and LostMessagesError.
        """
        reply = asyncio.ensure_future(self._reply_to(msg_id))
        both: set[asyncio.Future[Any]] = {reply, task_poll_output_msg}
        try:
            done, _ = await asyncio.wait(both, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
            if not done:
                await self._async_check_alive()
                raise CellTimeoutError.error_from_timeout_and_cell("Cell execution timed out", timeout or 0, cell)
            await self._rest(both)
            task_poll_output_msg.result()
            return reply.result()
        finally:
            reply.cancel()
            task_poll_kernel_alive.cancel()

    async def _reply_to(self, msg_id: str) -> dict[str, Any]:
        """The kernel's reply to this request."""
        while True:
            msg: dict[str, Any] = await self.kc.shell_channel.get_msg(timeout=None)
            if msg["parent_header"].get("msg_id") == msg_id:
                return msg

    async def _rest(self, both: set[asyncio.Future[Any]]) -> None:
        """Wait until both are done. Raises LostMessagesError after a silence of QUIET_S.

        The silence is counted in checks, not seconds: if this process was suspended, it finds all messages at once afterwards."""
        quiet, heard = 0, self.heard
        while (left := {each for each in both if not each.done()}) and quiet * LOOK_EVERY_S < QUIET_S:
            await asyncio.wait(left, timeout=LOOK_EVERY_S)
            quiet, heard = (quiet + 1 if heard == self.heard else 0), self.heard
        if left:
            await self._async_check_alive()
            raise LostMessagesError(
                f"the cell has ended, but the kernel's last messages for it had not arrived after {QUIET_S} s of silence"
            )

    @phase("kernel")
    def _say_goodbye(self) -> None:
        """Let a responsive kernel tell where its time went, and shut down by itself, so that its exit hooks run.

        jupyter_client's own shutdown interrupts the kernel first, and an interrupt at a bad moment costs its full five
        seconds of patience. A kernel that does not respond is killed at once.
        """
        self.shutdown_kernel = "immediate"
        if self.job.status in ("ok", "failed", "stopped") and not self.job.guard.stopped_by:
            asked = self.kc.execute(END_HELPERS, silent=True, user_expressions={"totals": TOTALS})
            with suppress(TimeoutError):
                reply = run_sync(asyncio.wait_for)(self._reply_to(asked), SHUTDOWN_S)
                self.job.phases = _totals(reply["content"])
            self.kc.shutdown()
            self.job.guard.wait(SHUTDOWN_S)

    def _note(self, cell: NotebookNode, error: Exception) -> None:
        """Turn the exception into a status."""
        if isinstance(error, CellTimeoutError):
            text = f"the cell ran longer than {self.timeout} s"
            self.job.ended("timeout", RunError(name="CellTimeoutError", message=text))
        elif isinstance(error, DeadKernelError):
            self.job.ended("killed", RunError(name="DeadKernelError", message=self.job.guard.exit_words()))
        elif not isinstance(error, CellExecutionError):
            self.job.ended("failed", RunError(name=type(error).__name__, message=str(error)))
        elif is_clean_exit(error.ename, error.evalue):
            self.job.cell = None  # papermill does not treat this as a failure either
        else:
            shown = [output for output in cell.outputs if output.output_type == "error"]
            content = {"ename": error.ename, "evalue": error.evalue, "traceback": [error.traceback]}
            ended: Ending = "stopped" if error.ename == TIME_IS_UP else "failed"
            self.job.ended(ended, error_of(shown[-1] if shown else content))


class LabEngine(NBClientEngine):  # type: ignore[misc]  # papermill has no types
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
            log=logging.getLogger("pwl_lab.runner"),
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
    if job.guard.stopped_by == TIME_IS_UP:
        text = "the time was up, and what was computed cannot be resumed; the kernel was ended"
        job.ended("stopped", RunError(name=TIME_IS_UP, message=text))
    elif job.guard.stopped_by:
        job.ended("killed", RunError(name=job.guard.stopped_by, message="the run was stopped from outside"))


def _totals(content: dict[str, Any]) -> dict[str, float]:
    """The answer to `TOTALS` in this reply; empty where there is none."""
    answer = content.get("user_expressions", {}).get("totals", {}).get("data", {}).get("text/plain")
    found: dict[str, float] = json.loads(ast.literal_eval(answer)) if answer else {}
    return found


def _braces(path: Path) -> str:
    """The path with its braces doubled: papermill formats paths."""
    return str(path).replace("{", "{{").replace("}", "}}")
