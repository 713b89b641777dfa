"""The jobs at the papers' sizes, at smoke size on the CPU: each runs to its end, in pieces, and says what it found."""

import json
from pathlib import Path

import pandas as pd
import pytest
import torch
from script_modules import load_script

from pwl_lab.distill.curriculum import TeacherOutput
from pwl_lab.distill.targets import TeacherTargets
from pwl_lab.fast.two_layer_step import multiplies_in_bfloat16
from pwl_lab.runner.run_folder import read_status
from pwl_lab.study import store, verbs
from pwl_lab.study.settings import CurriculaSettings, LoadingSettings, ParityTransformerSettings
from pwl_lab.support import environment, paths, resuming
from pwl_lab.tasks.datasets import dataset

paper_sizes = load_script("paper_sizes")
needs_full_set = pytest.mark.skipif(
    not Path("/usr/share/datasets/fashion-mnist").is_dir(), reason="Debian's dataset-fashion-mnist is not installed"
)


@pytest.fixture
def job(tmp_path, store_folder, monkeypatch):
    """Run a job at smoke size; its exit code."""

    def run(name, *options):
        given = [name, "--smoke", "--device", "cpu", "--out", str(tmp_path / "out"), *options]
        monkeypatch.setattr("sys.argv", ["paper_sizes.py", *given])
        return paper_sizes.main()

    return run


def test_parity_stops_goes_on_and_is_then_read_from_the_store(job, tmp_path, monkeypatch, capsys):
    path = tmp_path / "out" / "parity.csv"
    with monkeypatch.context() as no_time:
        no_time.setenv(environment.STOP_AT.name, "1")
        assert job("parity", "--seeds", "0") == paper_sizes.STOPPED
    assert not path.exists(), "the first training had no time"
    assert job("parity", "--seeds", "0") == 0
    found = pd.read_csv(path)
    names = (*paper_sizes.QUICK, "one_shot")
    assert found["curriculum"].tolist() == ["teacher", *(name for name in names for _ in range(2))]
    assert found["width"].tolist() == [256, *paper_sizes.WIDTHS["smoke"] * 3]
    assert found.loc[found["curriculum"].isin(["teacher", "extracted"]), "reached"].all()
    whole = path.read_bytes()
    path.unlink()
    for trains in ("fit", "distil_members"):
        monkeypatch.setattr(verbs, trains, lambda *_, **__: pytest.fail("it is stored"))
    assert job("parity", "--seeds", "0") == 0
    assert path.read_bytes() == whole
    assert str(found.iloc[-1]["samples"]) in capsys.readouterr().out.splitlines()[-1]


def test_one_shot_is_run_once_and_shows_the_decisions_of_its_teacher(job, tmp_path):
    settings = CurriculaSettings.load("smoke", **paper_sizes.TASK["smoke"])
    assert job("parity", "--seeds", "0", "1", "--one-shot-widths", "16") == 0
    found = pd.read_csv(tmp_path / "out" / "parity.csv").groupby("curriculum").size()
    assert found.to_dict() == {"teacher": 2, "extracted": 4, "progressive": 4, "one_shot": 1}
    task, teacher = paper_sizes.teacher_of(settings, 0)
    margins = teacher.model(task.split("test").inputs).diff(dim=1)
    teacher.model.head.bias.data[1] += margins.abs().median()  # it errs: else its decisions would be the labels
    decided = paper_sizes.Decided(task, teacher)
    batch = next(decided.batches(0, 1_000))
    [shown] = TeacherTargets(teacher, [], []).compute(batch, [TeacherOutput(temperature=0)]).values()
    wanted = shown.argmax(dim=-1).flatten()
    agreed = (batch.labels == wanted).float().mean().item()
    assert agreed == 1.0 if decided.weight.dtype == torch.float32 else agreed > 0.99
    assert (batch.labels != task.labels(batch.inputs)).float().mean() > 0.05
    assert torch.equal(decided.split("test").labels, task.labels(decided.split("test").inputs))
    assert not torch.equal(next(decided.batches(0, 64)).inputs, next(task.batches(0, 64)).inputs), (
        "its teacher's samples"
    )
    teacher.fingerprint += "0"
    assert paper_sizes.Decided(task, teacher).fingerprint() != decided.fingerprint()


def test_a_one_shot_student_that_is_stopped_has_a_row_of_what_it_was_given(job, tmp_path, monkeypatch):
    train_or_load, pause = paper_sizes.train_or_load, resuming.Training.pause

    def late(model, task, *how):
        """Its time is up after 21 steps."""
        if isinstance(task, paper_sizes.Decided):
            monkeypatch.setattr(resuming.Training, "pause", pause_late)
        return train_or_load(model, task, *how)

    def pause_late(self, done):
        self._stop_at = 0 if done == 21 else None
        pause(self, done)

    monkeypatch.setattr(paper_sizes, "train_or_load", late)
    assert job("parity", "--seeds", "0", "--one-shot-widths", "16") == paper_sizes.STOPPED
    last = pd.read_csv(tmp_path / "out" / "parity.csv").iloc[-1]
    assert last[["curriculum", "width", "samples", "reached"]].tolist() == ["one_shot", 16, 21 * 128, False]


def test_the_table_is_shipped_with_what_made_it(job, tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "results", lambda: tmp_path / "results")
    assert job("parity", "--seeds", "1", "--one-shot-widths") == 0
    assert job("parity", "--ship", "--core-minutes", "3.5") == 0
    shipped = store.shipped("parity_paper")
    pd.testing.assert_frame_equal(shipped, pd.read_csv(tmp_path / "out" / "parity.csv"))
    assert shipped["curriculum"].tolist() == ["teacher", "extracted", "extracted", "progressive", "progressive"]
    assert (shipped.attrs["seeds"], shipped.attrs["core_minutes"]) == ([1], 3.5)


def test_a_teacher_that_does_not_learn_has_a_row_and_no_students(job, tmp_path, monkeypatch):
    monkeypatch.setitem(
        paper_sizes.TASK, "smoke", {"hard_n_bits": 40, "hard_k_sparse": 6, "hard_teacher_max_steps": 20}
    )
    assert job("parity", "--seeds", "0", "--stop-after", "1h") == 0
    [row] = pd.read_csv(tmp_path / "out" / "parity.csv").to_dict("records")
    assert (row["curriculum"], row["samples"], row["reached"]) == ("teacher", 20 * 128, False)


@pytest.mark.notebook
@needs_full_set
def test_the_pair_has_five_blocks_on_padded_pictures(job, tmp_path, monkeypatch):
    assert job("pair", "--seeds", "0", "--epochs", "2") == 0
    params = json.loads((tmp_path / "out" / "04" / "params.json").read_text())
    assert (params["dataset"], params["teacher_epochs"], params["pair_epochs"]) == ("fashion-mnist-32", 2, 2)
    assert params.get("products") == ("bfloat16" if multiplies_in_bfloat16(torch.device("cpu")) else None)
    found = json.loads((tmp_path / "out" / "04" / "metrics.json").read_text())
    assert len(found["prefix_accuracy"]) == 6
    assert found["test_images"] == 10_000
    monkeypatch.setattr(paths, "results", lambda: tmp_path / "results")
    with pytest.raises(SystemExit, match=r"the store has no pair of seeds \[0\], 3 epochs, products in"):
        job("pair", "--seeds", "0", "--epochs", "3", "--ship")
    assert job("pair", "--seeds", "0", "1", "--epochs", "2", "--ship") == 0
    shipped = store.shipped("pair_paper")
    assert dict(zip(shipped["mask"], shipped["test"], strict=True)) == found["per_seed"]["0"]
    assert (shipped.attrs["seeds"], shipped.attrs["epochs"], shipped.attrs["test_images"]) == ([0], 2, 10_000)


@pytest.mark.notebook
def test_the_transformer_is_notebook_03(job, tmp_path, smoke_run, store_folder, monkeypatch):
    smoke_run("03").copy_store(store_folder)
    with monkeypatch.context() as no_time:
        no_time.setenv(environment.STOP_AT.name, "1")
        assert job("transformer", "--seeds", "5") == paper_sizes.STOPPED
    assert job("transformer", "--seeds", "0") == 0
    assert read_status(tmp_path / "out" / "03").preset == "smoke"
    assert (tmp_path / "out" / "03" / "metrics.json").is_file()


def test_at_paper_the_jobs_are_those_of_the_papers():
    parity = CurriculaSettings.load("paper", **paper_sizes.TASK["paper"])
    assert (parity.hard_n_bits, parity.hard_k_sparse, parity.hard_teacher_width) == (100, 6, 50_000)
    assert (parity.hard_teacher, paper_sizes.WIDTHS["paper"]) == ("trained", (100, 1_000))
    assert paper_sizes.one_shot_plan(parity).steps * parity.batch_size >= 60_000_000
    assert paper_sizes.teacher_plan(parity).eval_every * parity.batch_size <= 52_000, "a transition spans 250,000"
    pair = LoadingSettings.load("paper", family="vgg", dataset="fashion-mnist-32", **paper_sizes.PAIR["paper"])
    assert pair.teacher_channels == pair.student_channels == (64, 128, 256, 512, 512)
    assert (pair.converters, dataset(pair.dataset).image_shape) == ("if_different", (1, 32, 32))
    transformer = ParityTransformerSettings.load("paper")
    assert (transformer.n_bits, transformer.k_sparse) == (100, 6)
    assert (transformer.teacher_heads, transformer.student_heads) == (32, 4)
