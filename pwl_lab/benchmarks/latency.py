"""Size and speed: the bytes of teacher and student, and how long each takes for one image."""

import statistics
import time

import pandas as pd
import torch

from pwl_lab.models.blocknet import BlockNet
from pwl_lab.study.results import Pair
from pwl_lab.support.errors import invalid
from pwl_lab.support.rows import evaluating
from pwl_lab.tasks.images import ImageTask

WARM_UP = 20  # predictions before the first one that counts: they choose kernels


def size_and_speed(pair: Pair, task: ImageTask, megabytes_per_s: float = 1.0, repeats: int = 200) -> pd.DataFrame:
    """One row per network, `teacher` and `student`: bytes, seconds to load them, milliseconds for a prediction.

    The milliseconds are medians over `repeats` predictions of one image each. The two networks alternate, so that other
    load on the machine affects both.

    Arguments:
    - `pair`: the two networks.
    - `task`: provides the image.
    - `megabytes_per_s`: the bandwidth of the link; its seconds are computed, not measured.
    - `repeats`: how often each network predicts.

    Raises InvalidValueError unless there is a repeat.
    """
    if repeats < 1:
        raise invalid("repeats", repeats, "1 or more")
    networks = {"teacher": pair.net.teacher, "student": pair.net.student}
    sizes = {"teacher": pair.teacher_bytes, "student": pair.student_bytes}
    image = task.sample(1)[1].inputs.to(next(pair.net.parameters()).device)
    taken: dict[str, list[float]] = {name: [] for name in networks}
    with torch.inference_mode(), evaluating(pair.net):
        for _ in range(WARM_UP + repeats):
            for name, network in networks.items():
                taken[name].append(_milliseconds(network, image))
    rows = {
        name: {
            "bytes": sizes[name],
            f"seconds to load at {megabytes_per_s:g} MB/s": sizes[name] / (megabytes_per_s * 1e6),
            "milliseconds for one image": statistics.median(taken[name][WARM_UP:]),
        }
        for name in networks
    }
    return pd.DataFrame.from_dict(rows, orient="index")


def _milliseconds(network: BlockNet, image: torch.Tensor) -> float:
    """How long one prediction takes, until its numbers are on the CPU."""
    begun = time.perf_counter()
    network(image).cpu()
    return 1000 * (time.perf_counter() - begun)
