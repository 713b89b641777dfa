"""A sample of every notebook's edges, at toy size: refused before anything runs, or run to the end."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]
BLOCKS = {
    "teacher_channels": [2] * 6,
    "teacher_depths": [1] * 6,
    "student_channels": [2] * 6,
    "student_depths": [1] * 6,
}
TAKEN = {  # each failed once after the training: with a KeyError, a division by zero, a figure that refused
    "00b": [{"budget_steps": 2, "stage_steps": 1, "n_bits": 4, "teacher_width": 1}],
    "01": [{"k_sparse": 2}, {"k_sparse": 5}, {"teacher_max_steps": 1}],
    "02": [
        {"k_sparse": 5},  # the teacher is never all right
        {"stage_steps": 1},
        {"teacher_max_steps": 1, "teacher_eval_every": 1},
        {"threshold": 0.0},
    ],
    "02b": [{"stage_steps": 1}, {"teacher_max_steps": 1, "teacher_eval_every": 1}],
    "03": [{"n_bits": 2}, {"k_sparse": 4}, {"stage_steps": 9}],
    "04": [BLOCKS, {"batch_size": 2, "n_train": 100}],
    "04b": [BLOCKS],
    "05": [{"loadings": ["followed"]}, {"parity_k_sparse": 4, "parity_steps": 1}],
    "07": [
        {"teacher_steps": 1},
        {"grammar": "cfg3b_tail", "mask_rate": 0.01},
        {"text_length": 2, "seeds": [1, 0]},
        {"train_on_text": False},
    ],
    "08": [
        {"two_phase_k": 1},
        {"two_phase_k": 5},
        {"threshold": 0.0, "teacher_width": 64, "teacher_max_steps": 400},  # a teacher that learns; none does otherwise
        {"widths": [1]},
    ],
}
REFUSED = {
    "00b": [{"stage_steps": 60}, {"n_bits": 3}],
    "01": [{"k_sparse": 6}],
    "02": [{"k_sparse": 1}, {"k_sparse": 6}, {"student_width": 17}, {"stage_steps": 30}],
    "02b": [{"stage_steps": 30}],
    "03": [{"n_bits": 2, "k_sparse": 3}],
    "04": [{"crop_padding": 8}, {"masks": {"TT": 1.0}}],
    "04b": [{"crop_padding": 8}],
    "05": [{"loadings": ["alone", "alone"]}, {"early_share": 0.99}],
    "07": [{"block_steps": 2}, {"pair_heads": 3}, {"tuned": True, "grammar": "cfg3b_tail"}],
    "08": [{"widths": [3, 3]}, {"two_phase_k": 6}, {"k_sparse": 4}, {"stage_steps": 10}],
}


@pytest.mark.notebook
@pytest.mark.parametrize("name", TAKEN)
def test_an_edge_is_refused_before_the_run_or_reached_at_its_end(name: str, tmp_path: Path) -> None:
    cases = TAKEN[name] + REFUSED[name]
    places = {"PWL_LAB_RUNS": str(tmp_path / "runs"), "PWL_LAB_OUT": str(tmp_path / "out")}
    command = [sys.executable, str(TESTS / "helpers" / "edges.py"), name, str(tmp_path / "told.json")]
    subprocess.run(
        command, input=json.dumps(cases), text=True, check=True, capture_output=True, env=dict(os.environ) | places
    )
    told = json.loads((tmp_path / "told.json").read_text())
    assert told[: len(TAKEN[name])] == ["ok"] * len(TAKEN[name])
    assert all(words.startswith("refused: ") for words in told[len(TAKEN[name]) :]), told
