"""The kernel's own process: ipykernel's application, which drops no messages, ignores the user's IPython configuration and
counts the time of cells that import.

Started as `python -m pwl_lab.runner.kernel_app -f CONNECTION_FILE`.
"""

import gc
import re
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

if __name__ == "__main__" and (sys.path[0] == "" or Path(sys.path[0]) == Path.cwd()):
    # As in ipykernel_launcher: nothing is imported from the notebook's folder before its own code runs.
    del sys.path[0]

import zmq
from ipykernel.kernelapp import IPKernelApp

from pwl_lab.support.timing import phase

IMPORT = re.compile(r"^(import|from) ", re.M)
# Python's default of 700 looks for garbage so often while torch, pandas and Matplotlib make their classes and functions
# that it takes a sixth of the time of these imports.
OBJECTS_BEFORE_COLLECTION = 20_000


class KernelApp(IPKernelApp):
    """A kernel whose outputs wait for a client that is behind, however many they are."""

    def init_iopub(self, context: zmq.Context[Any]) -> None:
        """Open the channel of outputs without a high-water mark: beyond it (1,000 messages) ZeroMQ drops them silently."""
        context.sndhwm = 0
        super().init_iopub(context)  # type: ignore[no-untyped-call]  # ipykernel has no types for it

    def load_config_file(self, *_: Any, **__: Any) -> None:
        """Read no configuration: that of the user, or of the machine, may change what a notebook shows."""

    def init_shell(self) -> None:
        """Create the shell; what a cell with an import does, and is no phase by itself, counts as the kernel's start."""
        super().init_shell()  # type: ignore[no-untyped-call]  # ipykernel is not annotated
        shell: Any = self.shell
        importing = ExitStack()

        def begin(info: Any) -> None:
            if IMPORT.search(info.raw_cell):
                importing.enter_context(phase("kernel"))

        shell.events.register("pre_run_cell", begin)
        shell.events.register("post_run_cell", lambda _: importing.close())

    def _run_startup_files(self) -> None:
        """Run no startup files, for the same reason."""

    def start(self) -> None:
        """Serve requests, then wait for the control thread: the last it does is to flush the outputs.

        ipykernel's first exit hook ends the thread through which they are sent. A flush that comes meanwhile waits for that
        thread for ever, and the kernel, which waits for the control thread, never ends (cf. positron issue 7142).
        """
        super().start()  # type: ignore[no-untyped-call]  # ipykernel is not annotated
        if self.control_thread and self.control_thread.is_alive():
            self.control_thread.stop()
            self.control_thread.join()


if __name__ == "__main__":
    gc.set_threshold(OBJECTS_BEFORE_COLLECTION)
    KernelApp.launch_instance()
