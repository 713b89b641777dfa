"""Notebooks at the edges of their parameters, at toy size and in one process: `python edges.py NOTEBOOK OUT < cases.json`.

`OUT` gets, per case, `ok`, `refused: ...` or the cell and the error that ended it. Run as a program: a shell takes the place
of `__main__`, and the imports are paid for once.
"""

import contextlib
import io
import json
import os
import sys
import warnings
from pathlib import Path

from pwl_lab.runner.parameters import resolve_notebook

BASES = {  # seconds at most, and every cell runs
    "00b": {"n_bits": 6, "teacher_width": 8, "stage_steps": 50, "budget_steps": 60, "n_train": 128, "epochs": 1,
            "seeds": [3]},
    "01": {"n_bits": 6, "k_sparse": 3, "teacher_width": 8, "batch_size": 8, "teacher_max_steps": 20, "eval_every": 5,
           "eval_samples": 64, "probe_samples": 64, "off_subsets": 5, "projection_width": 4, "seeds": [1]},
    "02": {"n_bits": 6, "hard_n_bits": 7, "k_sparse": 2, "hard_k_sparse": 2, "hard_teacher": "trained",
           "hard_teacher_width": 16, "hard_teacher_max_steps": 30, "hard_checkpoint_accuracy": 0.0,
           "hard_student_width": 8, "hard_stage_steps": 7, "teacher_width": 16, "student_width": 8, "batch_size": 8,
           "teacher_max_steps": 30, "teacher_eval_every": 5, "budget_steps": 40, "hard_budget_steps": 30,
           "choice_steps": 30, "stage_steps": 7, "eval_every": 5, "eval_samples": 64, "checkpoint_accuracy": 0.0,
           "seeds": [3, 1], "choice_seeds": 1},
    "03": {"n_bits": 4, "k_sparse": 2, "teacher_width": 8, "teacher_heads": 2, "student_width": 4, "student_heads": 1,
           "batch_size": 4, "teacher_max_steps": 12, "stage_steps": 3, "budget_steps": 10, "eval_every": 4,
           "eval_samples": 64, "checkpoint_accuracy": 0.0, "seeds": [1]},
    "04": {"dataset": "digits", "n_train": 128, "batch_size": 64, "teacher_channels": [3, 4], "teacher_depths": [1, 1],
           "student_channels": [2, 2], "student_depths": [1, 1], "teacher_epochs": 1, "pair_epochs": 1,
           "cross_passes": 1, "cross_groups": 2, "seeds": [1], "teacher_heads": 1, "student_heads": 1},
    "05": {"dataset": "digits", "n_train": 128, "batch_size": 64, "teacher_channels": [3, 4], "teacher_depths": [1, 1],
           "student_channels": [2, 2], "student_depths": [1, 1], "teacher_epochs": 1, "cross_passes": 1,
           "cross_groups": 2, "seeds": [1], "teacher_heads": 1, "student_heads": 1, "budget_steps": 6,
           "early_share": 0.5, "eval_every": 2, "checkpoint_accuracy": 0.0, "parity_n_bits": 4, "parity_k_sparse": 1,
           "parity_steps": 5, "loadings": ["alone", "combined"], "stem_stride": 1},
    "07": {"eval_strings": 16, "layers": 2, "teacher_width": 4, "teacher_heads": 1, "student_width": 2,
           "student_heads": 1, "teacher_batch_size": 2, "teacher_steps": 4, "other_teacher_steps": 4,
           "teacher_eval_every": 2, "checkpoint_accuracy": 0.0, "batch_size": 2, "checkpoint_steps": 1,
           "block_steps": 1, "last_block_steps": 1, "at_once_steps": 1, "budget_steps": 4, "eval_every": 2,
           "other_batch_size": 2, "other_budget_steps": 4, "text_length": 4, "text_steps": 4, "pair_width": 2,
           "pair_heads": 1, "pair_steps": 2, "pwl_steps": 2, "seeds": [3]},
    "08": {"k_sparse": 1, "sizes": [3, 4], "size_seeds": 1, "widths": [2, 3], "width_n_bits": 5, "teacher_width": 8,
           "teacher_max_steps": 10, "student_width": 4, "batch_size": 4, "stage_steps": 3, "budget_steps": 10,
           "eval_samples": 64, "two_phase_bits": 5, "two_phase_k": 2, "two_phase_width": 4,
           "two_phase_label_samples": [4, 8], "two_phase_hidden_samples": [4, 8], "two_phase_seeds": 2, "seeds": [3, 1]},
}  # fmt: skip
BASES |= {"02b": BASES["02"], "04b": BASES["04"]}


def outcome(name: str, parameters: dict) -> str:
    """What becomes of one run."""
    from IPython.core.interactiveshell import InteractiveShell
    from matplotlib import pyplot
    from traitlets.config import Config

    from pwl_lab.runner.parameters import read_notebook, resolve_parameters
    from pwl_lab.support.errors import InvalidValueError

    nb = read_notebook(resolve_notebook(name))
    try:
        plan = resolve_parameters(nb, "smoke", parameters)
    except InvalidValueError as error:
        return f"refused: {error}"
    shell = InteractiveShell(config=Config({"HistoryManager": {"hist_file": ":memory:"}}))
    for number, cell in enumerate(nb["cells"]):
        if cell["cell_type"] != "code":
            continue
        source = "\n".join(line for line in cell["source"].splitlines() if not line.startswith("%"))
        if "parameters" in cell["metadata"].get("tags", []):
            source += "".join(f"\n{key} = {value!r}" for key, value in plan.inject.items())
        done = shell.run_cell(source, store_history=True)
        pyplot.close("all")
        for show in ("_repr_html_", "_repr_png_"):
            if done.success and hasattr(done.result, show):
                getattr(done.result, show)()
        error = done.error_before_exec or done.error_in_exec
        if error is not None:
            return f"cell {number}: {type(error).__name__}: {error}"
    return "ok"


if __name__ == "__main__":
    os.environ |= {"MPLBACKEND": "Agg", "PWL_LAB_WORKERS": "1"}
    asked = json.load(sys.stdin)
    warnings.simplefilter("ignore")
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        found = [outcome(sys.argv[1], BASES[sys.argv[1]] | case) for case in asked]
    by_hand = "torch.optim" in resolve_notebook(sys.argv[1]).read_text(
        encoding="utf-8"
    )  # torch's own optimisers need it
    assert by_hand or "torch._dynamo" not in sys.modules, "it takes half as long to import as torch, for nothing"
    Path(sys.argv[2]).write_text(json.dumps(found))
