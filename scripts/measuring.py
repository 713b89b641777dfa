"""How long a command takes and how much memory it needs, with all processes that it starts; and rows against a bar."""

import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress

import psutil

from pwl_lab.support.waiting import ticking

Row = dict[str, object]
COMMAND = [sys.executable, "-c", "from pwl_lab.cli import app; app()"]
LOOK_S = 0.1  # between two looks at the processes


def together_mib(pid: int) -> float:
    """Resident memory of a process and all that it has started, in MiB; what they share counts for each."""
    total = 0
    with suppress(psutil.Error):
        root = psutil.Process(pid)
        for process in (root, *root.children(recursive=True)):
            with suppress(psutil.Error):
                total += process.memory_info().rss
    return total / 2**20


def measured(command: Sequence[str], env: Mapping[str, str] | None = None, look_s: float = LOOK_S) -> dict[str, float]:
    """Run a command that must succeed: seconds, its processor seconds, and the peak of the memory of all together (MiB).

    Processor seconds are of the command and of those of its children that it has waited for. Memory is looked at every
    `look_s` seconds, which itself takes some milliseconds of a core. Raises RuntimeError with its output if it fails.
    """
    begun, peak, own = time.perf_counter(), 0.0, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(command, stdout=said, stderr=subprocess.STDOUT, env=env)

        def watch() -> None:
            nonlocal peak
            peak = max(peak, together_mib(process.pid))

        with ticking(watch, look_s):
            _, code, used = os.wait4(process.pid, 0)
            seconds = time.perf_counter() - begun
            process.returncode = os.waitstatus_to_exitcode(code)
        if process.returncode:
            said.seek(0)
            raise RuntimeError(said.read().decode(errors="replace"))
    # A process that never needs more than the one that started it reports that one's.
    if used.ru_maxrss > 1.02 * own:
        peak = max(peak, used.ru_maxrss / 1024)  # one process may have peaked between two looks
    cpu = used.ru_utime + used.ru_stime
    return {"seconds": round(seconds, 2), "cpu_seconds": round(cpu, 2), "peak_mib": round(peak)}


def barred(name: str, seconds: float, bar: float, **more: object) -> Row:
    """A row for `bench.json` whose reference is a bar in seconds; `limit_mib` in `more` is one for `peak_mib`."""
    facts = {"name": name, "ours": round(seconds, 2), "reference": round(bar, 2), "unit": "s, the reference is the bar"}
    return facts | {"ratio": round(bar / seconds, 3)} | more


def is_over(one: Mapping[str, object]) -> bool:
    """Whether a row is over its bar: in time, or in memory where it has one for that."""
    slow = "bar" in str(one["unit"]) and float(one["ours"]) > float(one["reference"])  # type: ignore[arg-type]
    return slow or int(one.get("peak_mib", 0)) > int(one.get("limit_mib", sys.maxsize))  # type: ignore[call-overload]


def say(rows: Sequence[Row]) -> int:
    """Print rows with their bars; how many are over them, of those that count (all but where `counts` is False)."""
    for one in rows:
        memory = f", {one['peak_mib']} of {one['limit_mib']} MiB" if "limit_mib" in one else ""
        words = ("over" if one.get("counts", True) else "over (does not count)") if is_over(one) else "within"
        note = f"; {one['note']}" if "note" in one else ""
        print(f"{one['name']}: {one['ours']} of {one['reference']} s{memory}: {words}{note}")
    return sum(is_over(one) and bool(one.get("counts", True)) for one in rows)
