"""Every notebook of the series at `smoke`, through the path that `make run` takes."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from smoke import SmokeRun

from pwl_lab.runner.execute import run_notebook
from pwl_lab.runner.index_page import result_of, thumbnail
from pwl_lab.runner.parameters import read_notebook, series
from pwl_lab.support import paths

SERIES = series()
# What each notebook makes in an empty store, by key: what was stored before is found again as long as these stay.
# Where they are meant to change, `scripts/golden.py record tests/golden/smoke.json --keys` writes them anew.
GOLDEN = json.loads((Path(__file__).resolve().parents[1] / "golden" / "smoke.json").read_text(encoding="utf-8"))
AGREED = {"accuracy_at_steps", "steps_to_teacher_fraction", "ceiling", "teacher_accuracy", "prefix_accuracy",
          "prefix_perplexity", "mask_accuracy", "seeds"}  # fmt: skip  # of 07, for programs that read its metrics
CONTROLS = {"00": 2, "01": 1, "02": 2, "04": 1, "06": 1}  # that work on the page without a kernel


def named(nb: Mapping[str, Any]) -> str | None:
    """The cell of a notebook whose figure stands on the index page."""
    return nb["metadata"]["pwl_lab"].get("thumbnail")


@pytest.mark.notebook
@pytest.mark.parametrize("notebook", SERIES, ids=lambda path: path.stem)
def test_notebook_runs_at_smoke(notebook: Path, smoke_run: Callable[[str], SmokeRun]) -> None:
    run = smoke_run(notebook.stem)
    assert run.status.status == "ok", run.status.error
    found = {path.name for path in run.out.iterdir()}
    assert {"notebook.ipynb", "notebook.html", "params.json", "status.json", "metrics.json"} <= found
    metrics = json.loads((run.out / "metrics.json").read_text())
    assert metrics["made"]["versions"]["pwl_lab"]
    assert not notebook.stem.startswith("07") or set(metrics) >= AGREED
    assert (run.out / "notebook.html").stat().st_size < 5_000_000
    nb = read_notebook(notebook)
    assert result_of(nb, metrics), "the index page's sentence finds its numbers"
    shown = [cell for cell in read_notebook(run.out / "notebook.ipynb")["cells"] if cell["id"] == named(nb)]
    assert [bool(thumbnail({"cells": [cell], "metadata": {}})) for cell in shown] == [True] * (named(nb) is not None)
    html = (run.out / "notebook.html").read_text()
    assert "data:image/png;base64" in html, "figures are in the page"
    assert html.count('<div class="frame-page">') == CONTROLS.get(notebook.stem.partition("_")[0], 0)
    made = sorted(str(path.parent.relative_to(run.store)) for path in run.store.glob("*/*/record.json"))
    assert made == GOLDEN[notebook.stem]["entries"]


@pytest.mark.notebook
def test_curricula_metrics_have_the_agreed_keys_and_null_where_a_student_does_not_get_there(
    smoke_run, store_folder: Path, tmp_path: Path
) -> None:
    settings = {"seeds": [3, 4], "student_lr": 1e-4, "budget_steps": 110, "stage_steps": 50}
    run_notebook("02", tmp_path, preset="smoke", params=settings)
    usual, metrics = (json.loads((out / "metrics.json").read_text()) for out in (smoke_run("02").out, tmp_path))
    for one in (usual, metrics):
        for key in ("steps_to_threshold", "final_accuracy"):
            assert list(one[key]) == ["scratch", "one_shot", "progressive", "extracted"]
            assert all(len(values) == len(one["seeds"]) for values in one[key].values())
    assert (usual["budget_steps"], metrics["budget_steps"], metrics["seeds"]) == (600, 110, [3, 4])
    assert metrics["steps_to_threshold"]["one_shot"] == [None, None]
    assert max(metrics["final_accuracy"]["one_shot"]) < 0.99


@pytest.mark.notebook
def test_loading_metrics_have_the_agreed_keys_the_store_is_used_and_the_slider_is_there_where_it_is_asked_for(
    smoke_run, store_folder: Path, tmp_path: Path
) -> None:
    first = smoke_run("04")
    first.copy_store(store_folder)
    entries = sorted(path for path in store_folder.glob("*/*/record.json"))
    second = run_notebook("04", tmp_path / "second", preset="smoke", params={"interactive": True})
    assert (first.status.status, second.status) == ("ok", "ok"), second.error
    assert sorted(path for path in store_folder.glob("*/*/record.json")) == entries, "nothing was made twice"
    metrics = [json.loads((out / "metrics.json").read_text()) for out in (first.out, tmp_path / "second")]
    for one in metrics:
        one.pop("made")  # says when
    assert metrics[0] == metrics[1]
    assert {"family", "teacher_accuracy", "student_accuracy", "teacher_bytes", "student_bytes", "seeds"} <= set(
        metrics[0]
    )
    assert len(metrics[0]["prefix_accuracy"]) == 5
    assert len(metrics[0]["mask_accuracy"]) == 16
    gains = [mean for _, mean, _ in metrics[0]["prefix_gains"]]
    assert len(gains) == 4
    assert sum(gains) == pytest.approx(metrics[0]["gap"][1])
    assert metrics[0]["prefix_accuracy"][-1] == metrics[0]["teacher_accuracy"]
    notebook = json.loads((tmp_path / "second" / "notebook.ipynb").read_text())
    state = notebook["metadata"]["widgets"]["application/vnd.jupyter.widget-state+json"]["state"]
    names = [model["model_name"] for model in state.values()]
    assert "IntSliderModel" in names
    assert "OutputModel" not in names, "nothing of ours writes into an Output widget"


@pytest.mark.notebook
def test_plain_papermill_works_from_any_folder(
    smoke_run, store_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    papermill = pytest.importorskip("papermill")
    smoke_run("02").copy_store(store_folder)
    monkeypatch.chdir(tmp_path)
    source = paths.notebooks() / "02_distillation_curricula.ipynb"
    papermill.execute_notebook(source, tmp_path / "out.ipynb", parameters={"preset": "smoke"}, progress_bar=False)
    assert (tmp_path / "runs" / "interactive" / "02_distillation_curricula" / "metrics.json").is_file()


@pytest.mark.notebook
def test_plain_papermill_refuses_a_bad_value_before_training(
    store_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    papermill = pytest.importorskip("papermill")
    monkeypatch.chdir(tmp_path)
    source = paths.notebooks() / "02_distillation_curricula.ipynb"
    parameters = {"preset": "smoke", "support": [0, 99]}
    with pytest.raises(papermill.PapermillExecutionError, match="support = "):
        papermill.execute_notebook(source, tmp_path / "out.ipynb", parameters=parameters, progress_bar=False)
    assert not store_folder.exists()


@pytest.mark.notebook
def test_plain_papermill_refuses_an_unknown_name(
    store_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    papermill = pytest.importorskip("papermill")
    monkeypatch.chdir(tmp_path)
    source = paths.notebooks() / "02_distillation_curricula.ipynb"
    parameters = {"preset": "smoke", "n_bitz": 3}
    with pytest.raises(papermill.PapermillExecutionError, match="Did you mean 'n_bits'"):
        papermill.execute_notebook(source, tmp_path / "out.ipynb", parameters=parameters, progress_bar=False)
    assert not store_folder.exists()


@pytest.mark.notebook
def test_start_here_takes_its_networks_from_the_other_notebooks(smoke_run, store_folder: Path, tmp_path: Path) -> None:
    for name in ("02", "04"):
        smoke_run(name).copy_store(store_folder)
    before = {path.parent for kind in ("teacher", "pair") for path in store_folder.glob(f"{kind}/*/record.json")}
    assert run_notebook("00", tmp_path / "00", preset="smoke").status == "ok"
    after = {path.parent for kind in ("teacher", "pair") for path in store_folder.glob(f"{kind}/*/record.json")}
    assert after == before


@pytest.mark.notebook
def test_a_damaged_stored_teacher_is_made_again(smoke_run, store_folder: Path, tmp_path: Path) -> None:
    smoke_run("01").copy_store(store_folder)
    tensors = next(store_folder.glob("teacher/*/tensors.safetensors"))
    tensors.write_bytes(tensors.read_bytes()[:-10])
    status = run_notebook("01", tmp_path / "second", preset="smoke")
    assert status.status == "ok"
    assert list((store_folder / "damaged").iterdir())
    metrics = [json.loads((out / "metrics.json").read_text()) for out in (smoke_run("01").out, tmp_path / "second")]
    for one in metrics:
        one.pop("made")  # says when
    assert metrics[0] == metrics[1]
