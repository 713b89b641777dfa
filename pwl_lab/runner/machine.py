"""The cores and GPUs of this machine, and how concurrent points share them.

torch is imported only if there is a driver that it could use: importing it takes seconds, and reading the status of a
batch does not need it.
"""

import ctypes
import os
from contextlib import suppress
from typing import TYPE_CHECKING

from pwl_lab.support import processes
from pwl_lab.support.environment import DEVICE, WORKERS
from pwl_lab.support.errors import InvalidValueError

if TYPE_CHECKING:
    from pwl_lab.runner.points import BatchPlan

GPUS = "GPUS"  # in a task's environment: the GPUs of each worker, as 0,1;2,3


def default_workers(plan: "BatchPlan") -> int:
    """How many points of this grid run at once on this machine, unless it is told.

    One a core; where the points use a GPU, as many as the GPUs that the grid asks for, or one at a time where it does not
    say what a point needs: a training has the GPU to itself.
    """
    asked = plan.resources.get("GPU")
    if asked is not None:
        return max(1, int(_gpus_found() // asked))
    return 1 if _uses_gpu(plan) else processes.n_cores()


def share_out(plan: "BatchPlan", points: int, workers: int | None) -> tuple[int, dict[str, str]]:
    """How many processes to start here for `points`, and the environment by which they share the cores and GPUs.

    A resource other than GPU is one that this machine has enough of: each process is said to have what a point asks.
    Raises InvalidValueError for more GPUs, or a part of one, than a point can have here.
    """
    number = min(points, workers or default_workers(plan))
    environment = {}
    gpus = plan.resources.get("GPU")
    if gpus is not None:
        found = _gpus_found()
        if gpus != int(gpus) or gpus > found:
            raise InvalidValueError(f"resources.GPU = {gpus:g} is not allowed here: this machine has {found}")
        each = int(gpus)
        number = min(number, found // each)
        names = _gpu_names(found)
        environment[GPUS] = ";".join(",".join(names[each * index : each * (index + 1)]) for index in range(number))
    threads = str(threads_each(number))
    environment["OMP_NUM_THREADS"] = os.environ.get("OMP_NUM_THREADS", threads)
    return number, environment | {WORKERS.name: str(WORKERS.get() or threads)}


def threads_each(workers: int) -> int:
    """How many threads a kernel gets where `workers` of them share this machine's cores."""
    return max(1, processes.n_cores() // workers)


def _uses_gpu(plan: "BatchPlan") -> bool:
    """Whether points of this grid train on a GPU, judging by their parameter `device` and this machine."""
    asked = {point.params.get("device") or "auto" for point in plan.points} or {"auto"}
    if DEVICE.get() == "cpu":
        asked.discard("auto")
    return bool(asked - {"cpu"}) and _has_driver() and _gpus_found() > 0


def _gpus_found() -> int:
    """How many GPUs this process may use."""
    import torch

    return torch.cuda.device_count()


def _gpu_names(found: int) -> list[str]:
    """The GPUs as CUDA_VISIBLE_DEVICES names them: those that it allows this process, or all in the machine, by number."""
    allowed = os.environ.get("CUDA_VISIBLE_DEVICES")
    return list(map(str, range(found))) if allowed is None else [name.strip() for name in allowed.split(",")][:found]


def _has_driver() -> bool:
    """Whether CUDA's driver is installed."""
    for name in ("libcuda.so.1", "nvcuda.dll"):
        with suppress(OSError):
            ctypes.CDLL(name)
            return True
    return False
