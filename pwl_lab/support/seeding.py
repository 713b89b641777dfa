"""Named random streams: a seed, the name of what is drawn, and the role of whoever draws it.

What draws the initial weights can change without moving a single training batch: each purpose has a stream of its
own: `support`, `init`, `student` and `converters` (initial weights of teachers, students, converters), `data`,
`evaluation`, `order`, `augment`, `projection`, `masks`, `probe`, `bootstrap`.

Where several draw the same kind of thing, the role tells them apart: a teacher, the students of a cohort and a pair all
train on batches, and never on the same ones. Seeds are not added to or multiplied: the next seed over belongs to
somebody else.

torch is imported where it is used: the registry of data sets, which a grid is checked against, needs none.
"""

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from operator import index
from typing import TYPE_CHECKING

import numpy as np

from pwl_lab.support.errors import invalid

if TYPE_CHECKING:
    import torch

STREAMS = (
    *("support", "init", "student", "converters", "data", "evaluation", "order", "augment"),
    *("projection", "masks", "probe", "bootstrap"),
)
TEACHER = "teacher"  # the role of whoever has a stream to itself, and of the teacher where it has not
ROLE = re.compile(r"[a-z][a-z_]*( [0-9]+)?")  # a word, and a number where there are several, such as "block 2"


def stream_seed(seed: int, name: str, role: str = TEACHER) -> int:
    """A 63-bit seed for the stream `name` of the run `seed` as `role` draws it; unrelated if any of the three differs.

    Roles of the study: `teacher`, `student` (a cohort's), `pair`, `two_phase`, `calibration`, `validation`, `test`,
    `subset`, `slope`, `keeping`, `answers`, `nudge`, `block 1` and so on, `degree 1` and so on. Anything new that draws
    takes a role of its own.
    Raises InvalidValueError for a seed that is not a whole number, an unknown stream, or a role of another form.
    """
    if name not in STREAMS:
        raise invalid("random stream", name, "one of " + ", ".join(STREAMS))
    if not isinstance(role, str) or not ROLE.fullmatch(role):
        raise invalid("role", role, 'a word of small letters, or a word and a number, such as "pair" or "block 2"')
    drawer = "" if role == TEACHER else f":{role}"
    digest = hashlib.sha256(f"{name}:{_whole(seed)}{drawer}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def _whole(seed: int) -> int:
    """The seed as Python's own whole number: 1.0 and True would silently be the seed 1."""
    try:
        if not isinstance(seed, bool):
            return index(seed)
    except TypeError:
        pass
    raise invalid("seed", seed, "a whole number")


def generator(seed: int, name: str, role: str = TEACHER) -> "torch.Generator":
    """A fresh torch generator (on the CPU, so that a GPU run sees the same numbers) at the start of a stream.

    Raises InvalidValueError as `stream_seed` does.
    """
    import torch

    return torch.Generator().manual_seed(stream_seed(seed, name, role))


def numpy_generator(seed: int, name: str, role: str = TEACHER) -> np.random.Generator:
    """The same for numpy."""
    return np.random.default_rng(stream_seed(seed, name, role))


@contextmanager
def initialisation(seed: int, stream: str = "init", role: str = TEACHER) -> Iterator[None]:
    """Modules built inside take their initial weights from `stream`; torch's global state is left alone.

    Raises InvalidValueError as `stream_seed` does.
    """
    import torch

    with torch.random.fork_rng(devices=[]):
        # torch.manual_seed would seed the generators of GPUs too, and those are not forked.
        torch.default_generator.manual_seed(stream_seed(seed, stream, role))
        yield
