"""The store: expensive results, kept under a hash of how they were made.

The key covers the configuration (with the data's fingerprint and the keys of everything it was made from), the kind and
the version of the recipe, but never a file name. An entry is a folder: `record.json`, tensors as safetensors, tables as
CSV. It is written aside and renamed when complete, so a half-written entry is never read; a damaged one is reported,
set aside and made again.
"""

import errno
import json
import math
import os
import platform
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd
import torch
from filelock import FileLock
from safetensors.torch import load_file, save_file
from torch import Tensor

from pwl_lab import __version__
from pwl_lab.loading.tensors import plain
from pwl_lab.study import shipped_seeds
from pwl_lab.support import environment, paths
from pwl_lab.support.config import content_hash
from pwl_lab.support.errors import DivergedError, PwlLabError, invalid, unknown
from pwl_lab.support.files import (
    ABSENT,
    exists,
    file_sha256,
    is_file,
    new_folder,
    readable,
    set_aside,
    sweep,
    write_json,
)
from pwl_lab.support.paths import commit
from pwl_lab.support.processes import one_thread
from pwl_lab.support.resuming import unfinished
from pwl_lab.support.timing import phase

# The format of an entry's files. It is part of every key, so entries of an older format are not found and need not be
# read: making them again is cheaper than maintaining code to read them.
FORMAT = 2
_TENSORS, _RECORD = "tensors.safetensors", "record.json"
MOST_TOGETHER = 256  # entries made together: each needs an open lock file, and a process may have about 1,000

_MAY_MAKE = ContextVar("may_make", default=True)
_FROM_SHIPPED = ContextVar("from_shipped", default=False)
Found = TypeVar("Found")


class DamagedEntryError(PwlLabError):
    """An entry of the store does not match its record."""


class NotMadeError(PwlLabError):
    """A requested result is not in the store and must not be made here."""


@contextmanager
def only_stored() -> Iterator[None]:
    """A context in which `Store.get` raises NotMadeError instead of making missing results."""
    token = _MAY_MAKE.set(False)
    try:
        yield
    finally:
        _MAY_MAKE.reset(token)


def may_make() -> bool:
    """Whether missing results may be made here: not in `only_stored`, and not if `PWL_LAB_ONLY_STORED` is set.

    Worker processes do not know of the former.
    """
    return _MAY_MAKE.get() and not environment.ONLY_STORED.get()


@contextmanager
def from_shipped() -> Iterator[None]:
    """A context in which the store has what ships with the project and nothing else (`shipped_seeds`): no weights.

    Nothing is made in it either. So a result and all that it was made from are either the reader's own or ship.
    """
    token = _FROM_SHIPPED.set(True)
    try:
        with only_stored():
            yield
    finally:
        _FROM_SHIPPED.reset(token)


def load_if_stored(verb: Callable[..., Found], *args: Any, **keys: Any) -> Found | None:
    """`verb(*args, **keys)` if the store has everything it needs, otherwise None. Nothing is made."""
    with suppress(NotMadeError), only_stored():
        return verb(*args, **keys)
    return None


@dataclass
class Artifact:
    """The result of a recipe: named tensors, named tables, and JSON values.

    Once it is stored, `made` says how (see `provenance`). One of those that ship (`shipped_seeds`) has no weights.
    """

    tensors: dict[str, Tensor] = field(default_factory=dict)
    tables: dict[str, pd.DataFrame] = field(default_factory=dict)
    info: dict[str, Any] = field(default_factory=dict)
    made: dict[str, Any] = field(default_factory=dict)
    shipped: bool = False


@dataclass(frozen=True)
class Recipe:
    """A description of how something is made. Raise `version` when the same configuration gives another result."""

    kind: str
    version: int
    configuration: dict[str, Any]

    @property
    def key(self) -> str:
        """The hash under which the entry is kept (32 hex digits)."""
        parts = {"format": FORMAT, "kind": self.kind, "version": self.version, "configuration": self.configuration}
        return content_hash(parts)[:32]


class Store:
    """A folder of entries, safe to share between processes."""

    def __init__(self, folder: Path | None = None) -> None:
        """`folder` defaults to `paths.store()`; it is created when the first entry is written."""
        self.folder = Path(folder) if folder is not None else paths.store()

    def entry(self, recipe: Recipe) -> Path:
        """The path of the entry of `recipe`, whether or not it exists."""
        return self.folder / recipe.kind / recipe.key

    def get(self, recipe: Recipe, make: Callable[[], Artifact]) -> Artifact:
        """The artifact of `recipe`, from the store or made now: `get_all` for a single recipe."""
        return self.get_all([recipe], lambda _: [make()])[0]

    def get_all(
        self, recipes: Sequence[Recipe], make: Callable[[list[Recipe]], Iterable[Artifact | DivergedError]]
    ) -> list[Artifact]:
        """The artifacts of `recipes`, in their order; `make` makes the missing ones together.

        Each is made once, even if several processes ask for it at the same time. New artifacts are read back, so that
        the first call returns the same as every later one. What `make` returns an error for is raised when the others
        are stored.
        Raises NotMadeError if something is missing and must not be made, UnreadableError if an entry cannot be read,
        and InvalidValueError, before anything is made, if the store cannot be written to.
        """
        found = {recipe.key: artifact for recipe in recipes if (artifact := self._find(recipe))}
        missing = list({recipe.key: recipe for recipe in recipes if recipe.key not in found}.values())
        if missing and not may_make():
            raise NotMadeError(f"{missing[0].kind} {missing[0].key} is not in the store")
        for start in range(0, len(missing), MOST_TOGETHER):
            found |= self._make(missing[start : start + MOST_TOGETHER], make)
        return [found[recipe.key] for recipe in recipes]

    def _make(
        self, recipes: Sequence[Recipe], make: Callable[[list[Recipe]], Iterable[Artifact | DivergedError]]
    ) -> dict[str, Artifact]:
        """The artifacts by key: made by another process while this one waited for its locks, or made now."""
        with ExitStack() as locks:
            # Always in the same order, or two processes with common entries could wait for each other.
            for recipe in sorted(recipes, key=lambda recipe: recipe.key):
                locks.enter_context(self._lock(recipe))
            found = {recipe.key: artifact for recipe in recipes if (artifact := self._find(recipe, locked=True))}
            missing = [recipe for recipe in recipes if recipe.key not in found]
            if missing:
                self._check_writable(missing)
                begun = time.monotonic()
                locks.enter_context(unfinished(self._unfinished(missing)))
                with one_thread(), phase("training"):
                    made = list(make(missing))
                made_how = provenance() | {"minutes": round((time.monotonic() - begun) / 60 / len(missing), 4)}
                sweep(self.folder)  # remove leftovers of killed writers, once for all entries
                errors = [one for one in made if isinstance(one, DivergedError)]
                for recipe, one in zip(missing, made, strict=True):
                    if not isinstance(one, DivergedError):
                        self.save(recipe, one, made_how)
                        found[recipe.key] = _read(self.entry(recipe))
                if errors:
                    raise errors[0]
        return found

    def _unfinished(self, recipes: Sequence[Recipe]) -> Path:
        """Where the checkpoints of the trainings are that make these recipes together."""
        name = recipes[0].key if len(recipes) == 1 else content_hash([recipe.key for recipe in recipes])[:32]
        return self.folder / "unfinished" / f"{recipes[0].kind}-{name}"

    def _find(self, recipe: Recipe, locked: bool = False) -> Artifact | None:
        """The stored artifact (in `from_shipped` the shipped one), or None if it is missing or damaged.

        If it is locked, a damaged entry is set aside, with a warning. Otherwise it is left alone: another process may
        just be making it again.
        """
        entry = self.entry(recipe)
        if _FROM_SHIPPED.get():
            return _shipped(recipe)
        try:
            return _read(entry) if exists(entry) else None
        except DamagedEntryError as error:
            if locked:
                aside = self._set_aside(entry)
                warnings.warn(f"{error}; set aside as {aside.name} and made again", stacklevel=2)
            return None

    @contextmanager
    def _lock(self, recipe: Recipe) -> Iterator[None]:
        """A context in which no other process makes the entry or sets it aside; the same process may enter it again.

        Raises InvalidValueError if the lock cannot be written.
        """
        locks = self.folder / "locks"
        with self._writing():
            locks.mkdir(parents=True, exist_ok=True)
            lock = FileLock(locks / f"{recipe.kind}-{recipe.key}.lock", is_singleton=True)
            with phase("waiting"):
                lock.acquire()
        try:
            yield
        finally:
            lock.release()

    def _check_writable(self, recipes: Iterable[Recipe]) -> None:
        """Raise InvalidValueError if entries could be made but not written."""
        with self._writing():
            for folder in (self.folder, *{self.entry(recipe).parent for recipe in recipes}):
                folder.mkdir(parents=True, exist_ok=True)
                if not os.access(folder, os.W_OK | os.X_OK, effective_ids=os.access in os.supports_effective_ids):
                    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """A context in which InvalidValueError is raised if this user may not write to the store."""
        try:
            yield
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
                raise
            why = f"a folder that can be written to ({error.filename}: {error.strerror})"
            raise invalid(environment.STORE.name, str(self.folder), why) from error

    def save(self, recipe: Recipe, artifact: Artifact, made: dict[str, Any]) -> None:
        """Write the entry of `recipe` aside, then rename it into place.

        `made` is its provenance. Entries made together share the minutes equally.
        """
        entry = self.entry(recipe)
        with new_folder(entry, within=self.folder) as part:
            _write(part, recipe, artifact, made)
            if exists(entry):
                self._set_aside(entry)

    def _set_aside(self, entry: Path) -> Path:
        """Move an entry out of the way, keeping it for inspection; return where it is now."""
        aside = self.folder / "damaged" / f"{entry.parent.name}-{entry.name}-{time.time_ns()}"
        with self._writing():
            set_aside(entry, aside)
        return aside


def _write(folder: Path, recipe: Recipe, artifact: Artifact, made: dict[str, Any]) -> None:
    """All files of an entry, the record with their checksums last."""
    if artifact.tensors:
        save_file({name: plain(tensor) for name, tensor in artifact.tensors.items()}, folder / _TENSORS)
    for name, table in artifact.tables.items():
        table.to_csv(folder / f"{name}.csv", index=False)
    record = {
        "key": recipe.key,
        "kind": recipe.kind,
        "version": recipe.version,
        "configuration": json.loads(
            json.dumps(recipe.configuration, default=lambda model: model.model_dump(mode="json"))
        ),
        "files": {path.name: file_sha256(path) for path in sorted(folder.iterdir())},
        "columns": {name: {c: kind.kind for c, kind in t.dtypes.items()} for name, t in artifact.tables.items()},
        "info": artifact.info,
        "made": made,
    }
    record["digest"] = content_hash(record)
    (folder / _RECORD).write_text(json.dumps(record, indent=1), encoding="utf-8")


def _read(folder: Path) -> Artifact:
    """The artifact of a complete entry.

    Raises DamagedEntryError, naming the file that is not as recorded, and UnreadableError for an unreadable file.
    """
    try:
        with readable(folder / _RECORD):
            text = (folder / _RECORD).read_bytes()
        record = json.loads(text)
        digest = record.pop("digest")
        if content_hash(record) != digest or record["key"] != folder.name:
            raise ValueError("it does not belong to this recipe")
    except (*ABSENT, IsADirectoryError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedEntryError(f"store entry {folder.name}: {_RECORD} cannot be trusted ({error})") from error
    for name, checksum in record["files"].items():
        if not is_file(folder / name) or file_sha256(folder / name) != checksum:
            raise DamagedEntryError(f"store entry {folder.name}: {name} is missing or has changed")
    tables = {name: _read_table(folder / f"{name}.csv", kinds) for name, kinds in record["columns"].items()}
    tensors = load_file(folder / _TENSORS) if _TENSORS in record["files"] else {}
    return Artifact(tensors, tables, record["info"], record["made"])


def _shipped(recipe: Recipe) -> Artifact | None:
    """What ships with the project of a result; None if nothing does."""
    found = shipped_seeds.find(recipe.kind, recipe.key)
    return None if found is None else Artifact(**found, shipped=True)


def _read_table(path: Path, kinds: dict[str, str]) -> pd.DataFrame:
    """A table with the column types that it was written with (numpy's one-letter kinds).

    Everything is read as text first: type inference would turn a curriculum named "1" or "NA" into something else, and
    Python's own parsing of floats is exact.
    """
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    parse: dict[str, Callable[[str], object]] = {
        "f": lambda text: float(text) if text else math.nan,
        "i": int,
        "u": int,
        "b": lambda text: text == "True",
    }
    for column, kind in kinds.items():
        if kind in parse:
            table[column] = [parse[kind](text) for text in table[column]]
    return table


def shipped(name: str) -> pd.DataFrame:
    """A table of `data/results`. Its `attrs` say how it was made: command, seeds, minutes, commit and machine."""
    path = paths.results() / f"{name}.csv"
    table = pd.read_csv(path)
    table.attrs = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    return table


def provenance() -> dict[str, Any]:
    """How a result was made: commit, machine, versions, time (UTC)."""
    return {
        "commit": commit(),
        "machine": f"{platform.machine()} ({torch.backends.cpu.get_cpu_capability()}), {os.cpu_count()} cores, "
        f"{torch.get_num_threads()} torch threads",
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "pwl_lab": __version__},
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def record_metrics(notebook: str, metrics: dict[str, Any], per_seed: Sequence[str] | None = None) -> Path:
    """Write a notebook's results as `metrics.json` to its output folder; return the path.

    Arguments:
    - `notebook`: its name without the extension.
    - `metrics`: JSON values by name. NaN and infinity (such as a ratio to zero) become null.
    - `per_seed`: the metrics with one value for each of `metrics["seeds"]`, in their order: dotted names of a list, of
      all lists below it, or of a mapping with the seeds as keys. A report treats no other list as values per seed,
      whatever its length; an empty sequence says that there are none.

    Raises UnknownNameError for an unknown name in `per_seed`, InvalidValueError for a list of the wrong length.
    """
    said = {}
    if per_seed is not None:
        _check_per_seed(metrics, per_seed)
        said = {"per_seed": list(per_seed)}
    path = paths.output(notebook) / "metrics.json"
    write_json(path, _finite(metrics) | {"made": provenance() | said})
    return path


def _finite(value: Any) -> Any:
    """The same with None for floats that JSON cannot represent: a ratio to 0 must not make a run fail at its end."""
    if isinstance(value, dict):
        return {name: _finite(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _check_per_seed(metrics: dict[str, Any], per_seed: Sequence[str]) -> None:
    """Raise an error if a name is unknown, or a list under it does not have one value per seed."""
    n_seeds = len(metrics.get("seeds", [0]))
    for name in per_seed:
        found: Any = metrics
        for part in name.split("."):
            if not isinstance(found, dict) or part not in found:
                raise unknown(
                    "metric with one value per seed", name, map(str, found if isinstance(found, dict) else [])
                )
            found = found[part]
        below = [found]
        while below:
            value = below.pop()
            if isinstance(value, dict):
                below += value.values()
            elif isinstance(value, list) and len(value) != n_seeds:
                raise invalid(f"per_seed: {name}", value, f"one value for each of the {n_seeds} seeds")
