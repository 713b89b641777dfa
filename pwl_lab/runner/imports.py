"""Import what executes and exports notebooks: late, since it takes a second, in one thread, and without what nobody uses."""

import importlib
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

# With it jsonschema also checks internationalised addresses, which no notebook has. Its grammar takes 1.4 s of a core to
# build, more than all else that is imported here; where it is not installed, jsonschema does without.
UNUSED = "rfc3987_syntax"

_lock = threading.Lock()  # imported by two threads at once, modules that import each other may be seen half-made


def import_runner() -> None:
    """Import papermill, nbclient and nbconvert through the modules that use them, once a process."""
    with _lock, _absent(UNUSED):
        for name in ("client", "page"):
            importlib.import_module(f"pwl_lab.runner.{name}")


@contextmanager
def _absent(name: str) -> Iterator[None]:
    """Inside, the module `name` seems not to be installed, unless it was imported before."""
    if name in sys.modules:
        yield
        return
    sys.modules[name] = None  # what Python itself keeps for a module that is known not to be there
    try:
        yield
    finally:
        del sys.modules[name]
