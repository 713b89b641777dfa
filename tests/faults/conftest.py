from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from benches import ACT, CASES, WIDGET, Bench
from processes import alive, until


@pytest.fixture
def bench(tmp_path: Path, write_notebook: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    """A bench; afterwards nothing that it started still runs."""
    monkeypatch.setenv("PWL_LAB_RUNS", str(tmp_path / "runs"))
    notebook = write_notebook("# Cases", CASES, ACT, WIDGET, name="cases", parameters='case = "fine"')
    made = Bench(tmp_path, notebook)
    yield made
    for process in made.started:
        if process.poll() is None:
            process.kill()
            process.communicate()
    until(lambda: not any(map(alive, made.kernels())), 20)
