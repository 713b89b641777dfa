"""What a process brings along before it runs its first notebook."""

import subprocess
import sys

CODE = """
import sys
from pwl_lab.runner.imports import UNUSED, import_runner
import_runner()
assert "papermill" in sys.modules and "nbconvert" in sys.modules
assert UNUSED not in sys.modules and not {"torch", "distributed"} & set(sys.modules)
try:
    __import__(UNUSED)
except ModuleNotFoundError:
    pass  # it is not installed: nothing else may be in its way
"""


def test_what_runs_notebooks_is_imported_without_a_grammar_that_takes_longer_than_all_of_it() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
