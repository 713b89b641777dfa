"""What several tests of batches need: an empty storage, and a place of each kind."""

from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from pwl_lab.runner import location
from pwl_lab.runner.location import Location, location_at
from pwl_lab.support.retries import Retry


@pytest.fixture
def empty_storage(store_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An empty storage in memory, runs of the test's own, and no waiting."""
    memory = fsspec.filesystem("memory")
    memory.store.clear()
    monkeypatch.setattr(location, "RETRY", Retry(tries=3, first_wait_s=0.0, longest_wait_s=0.0))
    yield
    memory.store.clear()


@pytest.fixture(params=["folder", "memory"])
def place(request: pytest.FixtureRequest, tmp_path: Path, empty_storage: None) -> Location:
    """A place of each kind."""
    return location_at(tmp_path / "out" if request.param == "folder" else "memory://lab/out")
