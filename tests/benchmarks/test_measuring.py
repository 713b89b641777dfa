"""The scripts that measure: memory of a command with all that it starts, and bars that say and count what is over them."""

import sys
from importlib import import_module

import pytest

from pwl_lab.support import paths

PARENT = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "held = b'x' * 200 * 2**20; import time; time.sleep(3)"])
sys.exit(child.wait())
"""


@pytest.fixture
def measuring(monkeypatch: pytest.MonkeyPatch):
    """The module, as scripts beside it import it."""
    monkeypatch.syspath_prepend(str(paths.root() / "scripts"))
    return import_module("measuring")


def test_memory_is_that_of_the_children_too(measuring) -> None:
    found = measuring.measured([sys.executable, "-c", PARENT])
    assert found["peak_mib"] > 200
    assert found["seconds"] > 3


def test_a_command_that_fails_is_no_measurement(measuring) -> None:
    with pytest.raises(RuntimeError, match="no such thing"):
        measuring.measured([sys.executable, "-c", "raise SystemExit('no such thing')"])


def test_what_is_over_its_bar_is_said_and_counted(measuring, capsys) -> None:
    memory = {"peak_mib": 2000, "limit_mib": 1024}
    rows = [
        measuring.barred("quick", 4.9, 5),
        measuring.barred("slow", 5.1, 5),
        measuring.barred("large", 1, 5, **memory),
        measuring.barred("known", 6, 5, counts=False),
    ]
    assert [measuring.is_over(row) for row in rows] == [False, True, True, True]
    assert measuring.say(rows) == 2
    said = capsys.readouterr().out.splitlines()
    assert [line.split(": ", 1)[1] for line in said] == [
        "4.9 of 5 s: within", "5.1 of 5 s: over", "1 of 5 s, 2000 of 1024 MiB: over", "6 of 5 s: over (does not count)"
    ]  # fmt: skip


def test_the_overhead_is_of_24_points_and_a_quarter_is_allowed(measuring, tmp_path) -> None:
    script = import_module("batch_overhead")
    (tmp_path / "grid.yaml").write_text(script.GRID)
    assert len(script.plan_grid(tmp_path / "grid.yaml").points) == 24
    assert not measuring.is_over(script.against("batch", 124.0, 100.0))
    assert measuring.is_over(script.against("batch", 126.0, 100.0))
