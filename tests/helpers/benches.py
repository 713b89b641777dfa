"""For tests of batches with real processes: a bench on which points do what they are told."""

import json
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from pwl_lab.runner.batch import read_states
from pwl_lab.runner.location import location_at
from pwl_lab.runner.points import BATCH

COMMAND = str(Path(sys.executable).with_name("pwl-lab"))
HANG_S = 150

# What a point does stands in its parameter; the file `repaired` mends every fault.
CASES = """
import json, os, resource, time
from pathlib import Path
out, home = Path(os.environ["PWL_LAB_OUT"]), Path(os.getcwd())
with (home / "log").open("a") as log:
    log.write(f"{case} {os.getpid()} {os.getppid()}\\n")
def wait():
    end = time.monotonic() + 140
    while not (home / "go").exists() and time.monotonic() < end:
        time.sleep(0.05)
if (home / "repaired").exists():
    case = "fine"
"""
ACT = """
if case == "raises":
    raise KeyError("no such layer")
if case == "hangs":
    time.sleep(600)
if case == "memory":
    resource.setrlimit(resource.RLIMIT_AS, (2**33, 2**33))
    bytes(2**34)
if case == "killed":
    os.kill(os.getpid(), 9)
if case == "disk":
    with Path("/dev/full").open("w") as full:
        full.write("x" * 100_000)
if case.startswith("waits"):
    wait()
if case == "murders" and not (home / "repaired").exists():
    os.kill(os.getppid(), 9)
    wait()
"""
WIDGET = """
if case == "widget":
    from ipywidgets import interact, IntSlider
    def show(x):
        raise ValueError("three is refused")
    interact(show, x=IntSlider(3));
"""


def point_folder(out: Path, name: str) -> Path:
    """The folder of the point with this hash, in a batch that lies in a folder."""
    return out / "points" / name


def read_events(folder: Path) -> list[dict]:
    """The events of a folder; a line that was cut off is left out."""
    found, file = [], folder / "events.jsonl"
    for line in file.read_text().splitlines() if file.exists() else []:
        with suppress(ValueError):
            found.append(json.loads(line))
    return found


class Bench:
    """A batch of points that do what they are told, in a folder or at an address of its own."""

    def __init__(self, home: Path, notebook: Path) -> None:
        self.home, self.notebook, self.started = home, notebook, []
        self.out: Path | str = home / "out"

    def grid(self, *cases: object, **more: object) -> Path:
        path = self.home / "grid.yaml"
        path.write_text(json.dumps({"notebook": str(self.notebook), "axes": [{"product": {"case": cases}}], **more}))
        return path

    def start(self, grid: Path, *words: str) -> subprocess.Popen:
        self.started.append(
            subprocess.Popen(
                [COMMAND, "batch", grid, "--out", self.out, *words],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
        )
        return self.started[-1]

    def run(self, grid: Path, *words: str) -> tuple[int, str]:
        process = self.start(grid, *words)
        output, errors = process.communicate(timeout=HANG_S)
        return process.returncode, output + errors

    def states(self) -> dict[str, tuple[str, str | None]]:
        return {
            state.values["case"]: (state.status, state.error and state.error.name) for state in read_states(self.out)
        }

    def done(self, case: str) -> bool:
        """Whether this point is done, as far as a batch has been begun at all."""
        return bool(location_at(self.out).read([BATCH])) and self.states()[case][0] == "ok"

    def place(self, case: str) -> Path:
        """The folder of this point in a batch that lies in a folder."""
        name = next(state.hash for state in read_states(self.out) if state.values["case"] == case)
        return point_folder(Path(self.out), name)

    def begun(self, case: str) -> list[tuple[int, int]]:
        """The kernel and the worker of each time that this point began."""
        return [(int(line[-2]), int(line[-1])) for line in self._log() if line[0] == case]

    def kernels(self) -> list[int]:
        """Every kernel that there was."""
        return [int(line[-2]) for line in self._log()]

    def go(self) -> None:
        """What waits need not wait any more."""
        (self.home / "go").touch()

    def _log(self) -> list[list[str]]:
        log = self.home / "log"
        return [line.split() for line in log.read_text().splitlines()] if log.exists() else []
