"""Named random streams: a seed, the name of what is drawn, and the role it is drawn for.

Each purpose has its own stream, so that the initial weights can change without changing a single training batch. If the
same kind of thing is drawn for several users, the role distinguishes them: a teacher, the students of a cohort and a
pair all train on batches, but never on the same ones. There is no arithmetic on seeds: the next seed belongs to another
run.

torch is imported where it is used: the registry of datasets, against which grids are checked, does not need it.
"""

import hashlib
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from operator import index
from typing import TYPE_CHECKING

import numpy as np

from pwl_lab.support.errors import invalid

if TYPE_CHECKING:
    import torch

STREAMS = (
    "support",  # of a sparse parity
    *("init", "student", "converters"),  # initial weights: of teachers, students, converters
    *("data", "evaluation", "order", "augment"),
    *("projection", "masks", "probe", "bootstrap"),
    "noise",  # what a network draws while it is trained, such as dropout
)
TEACHER = "teacher"  # the default role: a teacher, or the only user of a stream
ROLE = re.compile(r"[a-z][a-z_]*( [0-9]+)?")  # a word, and a number where there are several, such as "block 2"


def stream_seed(seed: int, name: str, role: str = TEACHER) -> int:
    """A 63-bit seed for one random stream, unrelated to the seed of any other stream.

    Arguments:
    - `seed`: the run's seed.
    - `name`: what is drawn, one of `STREAMS`.
    - `role`: what it is drawn for. In use are `teacher`, `student` (a cohort's), `pair`, `two_phase`, `calibration`,
      `validation`, `test`, `subset`, `slope`, `keeping`, `answers`, `nudge`, `pictures`, `block 1` and so on, `degree 1`
      and so on; any new use takes its own role.

    Raises InvalidValueError for a seed that is not a whole number, an unknown stream, or a malformed role.
    """
    if name not in STREAMS:
        raise invalid("random stream", name, "one of " + ", ".join(STREAMS))
    if not isinstance(role, str) or not ROLE.fullmatch(role):
        raise invalid("role", role, 'a lower-case word, or a word and a number, such as "pair" or "block 2"')
    drawer = "" if role == TEACHER else f":{role}"
    digest = hashlib.sha256(f"{name}:{_whole(seed)}{drawer}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def _whole(seed: int) -> int:
    """The seed as a Python int; 1.0 and True are refused, because they would silently become 1."""
    try:
        if not isinstance(seed, bool):
            return index(seed)
    except TypeError:
        pass
    raise invalid("seed", seed, "a whole number")


def generator(seed: int, name: str, role: str = TEACHER, device: str = "cpu") -> "torch.Generator":
    """A new torch generator at the start of a stream; on the CPU, so that a run on a GPU sees the same numbers.

    Arguments and errors are those of `stream_seed`: `generator(0, "data", "student")` draws the batches of a cohort in
    the run with seed 0. On another `device` it draws there, and other numbers: for more of them than can be copied.
    """
    import torch

    return torch.Generator(device).manual_seed(stream_seed(seed, name, role))


def numpy_generator(seed: int, name: str, role: str = TEACHER) -> np.random.Generator:
    """A new numpy generator at the start of a stream, as `generator` gives torch's."""
    return np.random.default_rng(stream_seed(seed, name, role))


def begin_noise(seed: int, step: int, device: "torch.device", role: str = TEACHER) -> None:
    """Put torch's global generator to where the draws of a network in one training step begin, such as those of dropout.

    So they depend on nothing else: neither on what is trained beside it, nor on where a training was resumed.

    Arguments:
    - `seed`, `role`: as for `stream_seed`, with its errors; the role is a single word.
    - `step`: optimiser steps done.
    - `device`: where the network computes.
    """
    import torch

    start = stream_seed(seed, "noise", f"{role} {step}")
    # torch.manual_seed would also seed all GPUs, which takes longer than a small step.
    torch.default_generator.manual_seed(start)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(start)


@contextmanager
def kept_generators(device: "torch.device") -> Iterator[None]:
    """A context after which torch's global generators, of the CPU and of this device, are as before."""
    import torch

    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        yield


_INITIALISING = threading.RLock()


@contextmanager
def initialisation(seed: int, stream: str = "init", role: str = TEACHER) -> Iterator[None]:
    """A context in which modules take their initial weights from `stream`; torch's global state is restored.

    Arguments and errors are those of `stream_seed`. Threads take turns, because they share the global state.
    """
    import torch

    with _INITIALISING, torch.random.fork_rng(devices=[]):
        # torch.manual_seed would also seed the generators of GPUs, which are not forked.
        torch.default_generator.manual_seed(stream_seed(seed, stream, role))
        yield
