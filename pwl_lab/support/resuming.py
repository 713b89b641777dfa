"""Exact resume: a training that was stopped goes on from its last checkpoint and ends with the bits it would have had.

The store names a folder for what is under way (`unfinished`), and the training loop keeps a `Training` there every
`EVERY_S` seconds: parameters, optimiser, schedule, random streams, history, and whatever else its learner changes. Two
checkpoints are kept, so that one that cannot be used costs minutes. Each names what made it: the settings, the code, the
versions and the processor. It is used only where all of these are the same; otherwise the bits would not be.

A training outside the store, or of a learner without a `state` of its own, keeps nothing and begins anew.
"""

import hashlib
import json
import platform
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from itertools import count
from pathlib import Path
from shutil import rmtree
from typing import Any, TypeVar

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from pwl_lab.support import environment
from pwl_lab.support.errors import DivergedError, PwlLabError, TimeIsUpError, shown
from pwl_lab.support.files import new_file, settle, sha256, sweep
from pwl_lab.support.own_code import naming
from pwl_lab.support.progress import Progress

EVERY_S = 120.0
KEPT = 2
FORMAT = 1
SUFFIX = ".checkpoint"
# The code on which a training's bits depend. A change elsewhere (a figure, a widget) does not end a long training.
CODE: tuple[str, ...] = ("fast", "tasks", "models", "distill", "swap", "training.py", "study/verbs.py")
CODE += ("support/rows.py", "support/seeding.py")
PACKAGE = Path(__file__).resolve().parents[1]

Element = TypeVar("Element")
Random = torch.Generator | np.random.Generator
State = dict[str, Any]


class RefusedError(PwlLabError):
    """A checkpoint is damaged, or something else made it."""


class Stream(Iterator[Element]):
    """An endless stream drawn from random generators, whose position can be kept."""

    def __init__(self, draw: Callable[[Any], tuple[Element, Any]], *randoms: Random) -> None:
        """A stream at its beginning.

        Arguments:
        - `draw`: returns an element, and what it drew but did not use: its argument at the next call (None at the first).
        - `randoms`: the generators that it draws from.
        """
        self._draw, self._randoms, self._rest = draw, randoms, None

    def __next__(self) -> Element:
        """The next element."""
        with naming(self._draw):
            element, self._rest = self._draw(self._rest)
        return element

    def state(self) -> State:
        """The position."""
        randoms = [
            one.get_state() if isinstance(one, torch.Generator) else one.bit_generator.state for one in self._randoms
        ]
        return {"randoms": randoms, "rest": self._rest}

    def restore(self, state: State) -> None:
        """Return to a position."""
        for one, kept in zip(self._randoms, state["randoms"], strict=True):
            if isinstance(one, torch.Generator):
                one.set_state(kept)
            else:
                one.bit_generator.state = kept
        self._rest = state["rest"]


@dataclass
class _Unfinished:
    """The folder of the trainings that make one result, numbered in the order in which they begin."""

    folder: Path
    numbers: Iterator[int]


_unfinished: ContextVar[_Unfinished | None] = ContextVar("unfinished", default=None)


@contextmanager
def unfinished(folder: Path) -> Iterator[None]:
    """A context in which trainings keep checkpoints in `folder`, and resume from those that are there.

    They are removed when the block ends: the result is then stored. They stay if it raises, unless a training diverged.
    """
    token = _unfinished.set(_Unfinished(folder, count(1)))
    try:
        yield
    except DivergedError:
        rmtree(folder, ignore_errors=True)
        raise
    finally:
        _unfinished.reset(token)
    rmtree(folder, ignore_errors=True)


class Training:
    """A training under way: everything that its next step depends on."""

    def __init__(
        self,
        learner: Any,
        optimiser: torch.optim.Optimizer,
        schedule: torch.optim.lr_scheduler.LRScheduler,
        batches: Iterator[Any],
        history: list[dict[str, Any]],
    ) -> None:
        """A training before its first step.

        Arguments:
        - `learner`: what is trained, with its `state` and `restore` (see `pwl_lab.training.Learner`).
        - `optimiser`, `schedule`: as new.
        - `batches`: a `Stream`; of any other iterator, the batches up to a checkpoint are drawn again.
        - `history`: the evaluation before the first step.
        """
        self.learner, self.optimiser, self.schedule, self.batches = learner, optimiser, schedule, batches
        self.step = 0  # where it begins, or goes on
        self.history = history
        self.seen: dict[str, list[Tensor]] = defaultdict(list)  # loss terms since the last evaluation
        self._checkpoints: Checkpoints | None = None
        self._stop_at: float | None = environment.STOP_AT.get()
        self._name = ""

    def begin(self, plan: Any, bar: Progress) -> None:
        """Go on from the newest checkpoint that can be used, if there is one.

        Arguments:
        - `plan`: the settings of the training, a pydantic model.
        - `bar`: shows it, and gives it its name.
        """
        self._name, place = bar.description, _unfinished.get()
        if place is not None and "state" in vars(type(self.learner)):  # a subclass may change more
            settings = {f"plan.{name}": value for name, value in plan.model_dump(mode="json").items()}
            settings |= {"training": bar.description, "learner": type(self.learner).__name__}
            # The first evaluation also tells code apart that is not this package's, such as a reader's network.
            maker = settings | made_by(self.device) | {"first evaluation": repr(self.history)}
            self._checkpoints = Checkpoints(place.folder / f"{next(place.numbers)}", maker)
            if found := self._checkpoints.newest():
                self._restore(found)
                bar.resumed(self.step)
        bar.evaluated(self.history)

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        groups = self.optimiser.param_groups  # one may be empty: all that it had are done
        device: torch.device = next(one.device for group in groups for one in group["params"])
        return device

    def pause(self, done: int) -> None:
        """Keep a checkpoint if one is due; `done` steps are done. Raises TimeIsUpError once the time is up."""
        time_is_up = self._stop_at is not None and time.time() >= self._stop_at
        if self._checkpoints and (time_is_up or self._checkpoints.is_due()) and done > self.step:
            self._checkpoints.write(done, self._state(done))
        if time_is_up:
            kept = self._checkpoints.last_step if self._checkpoints else 0
            after = f"goes on from step {kept}" if kept else "begins it anew"
            raise TimeIsUpError(f"{self._name}: the time is up at step {done}; the same command {after}", done)

    def _state(self, done: int) -> State:
        """All of it, as plain values and tensors."""
        batches = self.batches.state() if isinstance(self.batches, Stream) else None
        return {
            "step": done,
            "learner": self.learner.state(),
            "optimiser": self.optimiser.state_dict(),
            "schedule": self.schedule.state_dict(),
            "batches": batches,
            "history": self.history,
            "seen": {name: torch.stack(values) for name, values in self.seen.items()},
            "random": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state() if self.device.type == "cuda" else None,
        }

    def _restore(self, state: State) -> None:
        """Become what `state` describes."""
        self.learner.restore(state["learner"], self.optimiser)
        self.optimiser.load_state_dict(state["optimiser"])
        self.schedule.load_state_dict(state["schedule"])
        self.step, self.history = state["step"], state["history"]
        self.seen.update({name: list(values.to(self.device)) for name, values in state["seen"].items()})
        if isinstance(self.batches, Stream):
            self.batches.restore(state["batches"])
        else:  # a task of the reader's own: its batches are drawn again
            for _ in range(self.step):
                next(self.batches)
        torch.set_rng_state(state["random"])
        if state["cuda"] is not None:
            torch.cuda.set_rng_state(state["cuda"])


class Checkpoints:
    """The checkpoints of one training: files in a folder, named by their step."""

    def __init__(self, folder: Path, maker: State) -> None:
        """`maker` is everything that has to be the same for a checkpoint to be used, as JSON values by name."""
        self.folder, self.maker = folder, maker
        self.last_step = 0  # of the newest that can be used
        self._kept: list[Path] = []
        self._looked = time.monotonic()

    def is_due(self) -> bool:
        """Whether the last one is old enough."""
        return time.monotonic() - self._looked >= EVERY_S

    def newest(self) -> State | None:
        """The newest that can be used; None if there is none. Each one that cannot be used is named in a warning."""
        for path in sorted(self.folder.glob(f"*{SUFFIX}"), reverse=True):
            try:
                state = read(path, self.maker)
            except RefusedError as error:
                warnings.warn(f"checkpoint {path} is not used: {error}", stacklevel=2)
                continue
            self._kept, self.last_step = [path], state["step"]
            return state
        return None

    def write(self, step: int, state: State) -> None:
        """Write one, then remove all but the newest that can be used.

        If the disk is full, or fails, the earlier ones stay and the training goes on, with a warning.
        """
        path = self.folder / f"{step:010d}{SUFFIX}"
        try:
            write(path, state, self.maker)
        except OSError as error:
            there = f"the one of step {self.last_step} stays" if self.last_step else "there is no earlier one"
            warnings.warn(f"checkpoint {path} was not written ({error}); {there}, and training goes on", stacklevel=2)
        else:
            self._kept, self.last_step = [*self._kept, path][-KEPT:], step
            for old in {*self.folder.glob(f"*{SUFFIX}")} - {*self._kept}:
                old.unlink(missing_ok=True)
            sweep(self.folder)
        self._looked = time.monotonic()


def write(path: Path, state: State, maker: State) -> None:
    """Write a checkpoint aside, wait until it is on the disk, then rename it into place. Raises OSError.

    The first line says what made it and holds the checksum of the rest: a line with the plain values, then the tensors.
    """
    tensors: dict[str, Tensor] = {}
    rest = json.dumps(_packed(state, tensors)).encode() + b"\n" + save(tensors)
    head = {"format": FORMAT, "sha256": sha256(rest), "maker": maker}
    with new_file(path) as file:
        file.write(json.dumps(head).encode() + b"\n")
        file.write(rest)
        file.flush()
        settle([Path(file.name)])


def read(path: Path, maker: State) -> State:
    """The state in a checkpoint of the same maker. Raises RefusedError for any other, and for a damaged file."""
    try:
        first, _, rest = path.read_bytes().partition(b"\n")
        head = json.loads(first)
        if head["format"] != FORMAT or head["sha256"] != sha256(rest):
            raise ValueError("its content is not what was written")
        theirs = head["maker"]
        if differing := [name for name in maker if theirs.get(name) != maker[name]]:
            told = "; ".join(f"{name} was {shown(theirs.get(name))} and is {shown(maker[name])}" for name in differing)
            raise RefusedError(f"something else made it ({told})")
        plain, _, tensors = rest.partition(b"\n")
        state: State = _unpacked(json.loads(plain), load(tensors))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        raise RefusedError(f"it is damaged ({error})") from error
    return state


def made_by(device: torch.device) -> State:
    """What a training's bits depend on besides its settings: the code, versions, processor and threads."""
    cuda = device.type == "cuda"
    processor = (
        torch.cuda.get_device_name(device)
        if cuda
        else f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}"
    )
    versions = {"torch": torch.__version__, "numpy": np.__version__}
    return versions | {"code": code_digest(), "processor": processor, "threads": torch.get_num_threads()}


@cache
def code_digest() -> str:
    """A hash of the package's files on which a training's bits depend."""
    digest = hashlib.sha256()
    for name in CODE:
        found = [PACKAGE / name] if name.endswith(".py") else sorted((PACKAGE / name).rglob("*.py"))
        for path in found:
            digest.update(f"{path.relative_to(PACKAGE).as_posix()}\n".encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def _packed(value: Any, tensors: dict[str, Tensor]) -> Any:
    """A value as JSON; its tensors go to `tensors`, with their memory layout, on which rounding may depend."""
    if isinstance(value, dict):
        return {"dict": [[_packed(key, tensors), _packed(one, tensors)] for key, one in value.items()]}
    if isinstance(value, list | tuple):
        return {"list" if isinstance(value, list) else "tuple": [_packed(one, tensors) for one in value]}
    if isinstance(value, Tensor | np.ndarray):
        tensor = torch.as_tensor(value).detach()
        order = sorted(range(tensor.dim()), key=tensor.stride, reverse=True)
        name = str(len(tensors))
        tensors[name] = tensor.permute(order).cpu().clone(memory_format=torch.contiguous_format)
        return {"array" if isinstance(value, np.ndarray) else "tensor": name, "order": order}
    return value.item() if isinstance(value, np.generic) else value


def _unpacked(value: Any, tensors: dict[str, Tensor]) -> Any:
    """The value that `_packed` was given."""
    if not isinstance(value, dict):
        return value
    kind, content = next(iter(value.items()))
    if kind == "dict":
        return {_unpacked(key, tensors): _unpacked(one, tensors) for key, one in content}
    if kind in ("list", "tuple"):
        found = [_unpacked(one, tensors) for one in content]
        return found if kind == "list" else tuple(found)
    order = value["order"]
    tensor = tensors[content].permute([order.index(dim) for dim in range(len(order))])
    tensor = tensor.clone()  # into torch's own memory, which is aligned
    return tensor.numpy() if kind == "array" else tensor
