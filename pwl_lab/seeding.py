"""Named random streams, all derived from one seed.

What draws the initial weights can change without moving a single training batch: each purpose has a stream of its
own: `support`, `init`, `student` and `converters` (initial weights of teachers, students, converters), `data`,
`evaluation`, `order`, `augment`, `projection`, `masks`, `probe`, `bootstrap`.

torch is imported where it is used: the registry of data sets, which a grid is checked against, needs none.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

STREAMS = (
    *("support", "init", "student", "converters", "data", "evaluation", "order", "augment"),
    *("projection", "masks", "probe", "bootstrap"),
)


def stream_seed(seed: int, name: str) -> int:
    """A 63-bit seed for the stream `name` of the run `seed`; unrelated for different seeds or names."""
    if name not in STREAMS:
        raise ValueError(f"unknown random stream {name!r}; known: {', '.join(STREAMS)}")
    digest = hashlib.sha256(f"{name}:{int(seed)}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generator(seed: int, name: str) -> "torch.Generator":
    """A fresh torch generator (on the CPU, so that a GPU run sees the same numbers) at the start of a stream."""
    import torch

    return torch.Generator().manual_seed(stream_seed(seed, name))


def numpy_generator(seed: int, name: str) -> np.random.Generator:
    """The same for numpy."""
    return np.random.default_rng(stream_seed(seed, name))


@contextmanager
def initialisation(seed: int, stream: str = "init") -> Iterator[None]:
    """Modules built inside take their initial weights from `stream`; torch's global state is left alone."""
    import torch

    with torch.random.fork_rng(devices=[]):
        # torch.manual_seed would seed the generators of GPUs too, and those are not forked.
        torch.default_generator.manual_seed(stream_seed(seed, stream))
        yield
