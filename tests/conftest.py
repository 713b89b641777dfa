import gc
import os
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import shapecheck
import torch
from hypothesis import settings

from pwl_lab.support.processes import n_cores

# Thousands of tests and the libraries behind them are millions of objects that stay. To look through them for garbage as
# often as Python does by default takes a tenth of the time of the tests, and a quarter of that of collecting them.
gc.set_threshold(20_000, 20, 50)

# Shapes in signatures are checked wherever a test goes; this must come before these modules are first imported.
CHECKED = [
    *("pwl_lab.tasks", "pwl_lab.models", "pwl_lab.fast", "pwl_lab.training", "pwl_lab.distill", "pwl_lab.swap"),
    *("pwl_lab.loading", "pwl_lab.study.two_phase"),
]
shapecheck.install(CHECKED)

from pwl_lab.runner.execute import _without_unused  # noqa: E402

with _without_unused():  # else each of pytest's processes would build the grammar that runs do without
    import nbformat
    from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

# The files that take longest, the longest first: begun last, one of them would keep a single process busy at the end.
# Those that compute and those that mostly wait stand by turns. A file that is missing here only costs time.
LONGEST_FIRST = [
    "tests/notebooks/test_series_smoke.py",
    "tests/faults/test_batch_lost_workers.py",
    "tests/notebooks/test_edges_run.py",
    "tests/notebooks/test_batch_report_notebook.py",
    "tests/faults/test_loader_model.py",
    "tests/faults/test_batch_reaching.py",
    "tests/faults/test_many_messages.py",
    "tests/browser/test_dashboard.py",
    "tests/browser/test_whole_site_opened.py",
    "tests/notebooks/test_dashboard_in_batch.py",
    "tests/faults/test_batch_storage.py",
    "tests/faults/test_batch_faults.py",
    "tests/browser/test_layer_slider.py",
    "tests/browser/test_web_page.py",
    "tests/runner/test_own_configuration.py",
    "tests/support/test_processes.py",
    "tests/property/test_hostile_bundles.py",
    "tests/faults/test_runner_faults.py",
    "tests/benchmarks/test_clock.py",
    "tests/benchmarks/test_device_bench.py",
    "tests/runner/test_execute.py",
    "tests/runner/test_page.py",
    "tests/distill/test_cohort.py",
    "tests/study/test_students.py",
    "tests/faults/test_series_at_once.py",
    "tests/study/test_crossing.py",
    "tests/study/test_verbs.py",
    "tests/support/test_environment.py",
    "tests/widgets/test_without_pictures.py",
    "tests/study/test_own_mistakes.py",
    "tests/study/test_per_token.py",
    "tests/swap/test_parity_pairs.py",
    "tests/study/test_pairs_together.py",
    "tests/runner/test_edges.py",
    "tests/loading/test_own_family.py",
    "tests/benchmarks/test_student_axis.py",
    "tests/study/test_recipe_versions.py",
    "tests/loading/test_onnx_units.py",
    "tests/loading/test_model.py",
    "tests/models/test_hugging_face.py",
    "tests/study/test_code_changes.py",
    "tests/project/test_extend.py",
    "tests/project/test_sdist.py",
    "tests/study/test_streams.py",
    "tests/study/test_language_recipes.py",
    "tests/study/test_language_tables.py",
    "tests/models/test_transformer.py",
    "tests/support/test_parameters_cell.py",
    "tests/study/test_store.py",
    "tests/loading/test_server.py",
    "tests/plots/test_plots_widgets.py",
    "tests/widgets/test_layer_loader.py",
    "tests/widgets/test_explorer.py",
    "tests/runner/test_addresses.py",
    "tests/runner/test_linked_pages.py",
    "tests/training/test_resuming.py",
    "tests/runner/test_report.py",
    "tests/runner/test_grid.py",
]
SLOW_FOLDERS = ("notebooks", "browser", "faults", "property")
TESTS = Path(__file__).parent
SLOW_TESTS = frozenset((TESTS / "slow.txt").read_text().split())  # scripts/slow_tests.py
PLACES = {TESTS.parent / name: number for number, name in enumerate(LONGEST_FIRST)}

# A shell's background job ignores interrupts, and so would every process that a test starts in order to interrupt it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# A deadline would measure the other work of the machine; without a fixed seed a run could not be repeated.
settings.register_profile("house", deadline=None, derandomize=True)
settings.load_profile("house")


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """A process for each core, two where slow tests run, which often wait; at most four: each imports torch."""
    return min(4, n_cores() * (1 if only_quick(config) else 2))


def only_quick(config: pytest.Config) -> bool:
    """Whether slow tests are left out, as `make check` does."""
    return "not slow" in config.option.markexpr


def is_slow(path: Path) -> bool:
    """Whether this is a folder or a file of slow tests."""
    parts = path.relative_to(TESTS).parts
    return path in PLACES or (bool(parts) and parts[0] in SLOW_FOLDERS)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Files of slow tests that are left out are not even imported: every process would do it again."""
    return True if only_quick(config) and is_slow(collection_path) else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what `make check` leaves out, and put the longest files first."""
    for item in items:
        if is_slow(item.path) or item.nodeid.removeprefix("tests/").split("[")[0] in SLOW_TESTS:
            item.add_marker("slow")
    items.sort(key=lambda item: PLACES.get(item.path, len(PLACES)))


def pytest_collection_finish() -> None:
    """What is there by now is not looked through for garbage any more."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def one_torch_thread() -> None:
    """Numbers repeat only at the same number of threads."""
    torch.set_num_threads(1)


@pytest.fixture
def store_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store of the test's own; the folder is not there yet."""
    for name in ("PWL_LAB_STORE", "PWL_LAB_OUT", "PWL_LAB_PROGRESS", "PWL_LAB_DEVICE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PWL_LAB_RUNS", str(tmp_path / "runs"))
    return tmp_path / "runs" / "store"


@pytest.fixture(scope="session")
def smoke_run(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], "smoke.SmokeRun"]:
    """A notebook's run at `smoke` from nothing: one for all tests, which the first that asks for it makes."""
    import smoke  # here, for it imports the package

    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:  # each worker has a folder of its own in one of all
        folder = folder.parent
    (folder / "smoke").mkdir(exist_ok=True)
    return partial(smoke.smoke_run, folder / "smoke")


@pytest.fixture
def write_notebook(tmp_path: Path) -> Callable[..., Path]:
    """Write a notebook: texts become code cells (markdown when they begin with #+space and one line), dicts metadata."""

    def write(*cells: str, name: str = "own", parameters: str | None = None, tags: dict | None = None, **metadata):
        made = [
            new_markdown_cell(text) if text.startswith("# ") and "\n" not in text else new_code_cell(text)
            for text in cells
        ]
        if parameters is not None:
            made.insert(1, new_code_cell(parameters, metadata={"tags": ["parameters"]}))
        for index, names in (tags or {}).items():
            made[index].metadata["tags"] = names
        path = tmp_path / f"{name}.ipynb"
        nbformat.write(new_notebook(cells=made, metadata=metadata), path)
        return path

    return write
