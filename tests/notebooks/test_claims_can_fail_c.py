"""What notebook 07 claims at its end: true of results that say what the text says, false of each that does not."""

from types import SimpleNamespace

import nbformat
import pandas as pd
import pytest
import torch

from pwl_lab.study import language_recipes as recipes
from pwl_lab.study import tables
from pwl_lab.support import paths

STEPS = {"one_shot_soft": [800, 850, 750], "one_shot_hard": [1100, 1150, 1200], "extracted": [450, 500, 450]}
CONTROLS = {"one_shot_soft": [800, 850, 750], "reversed": [750, 800, 850], "untrained": [1100, 1000, 1150]}
PREFIX = (0.58, 0.60, 0.70, 0.73, 0.76)
PERPLEXITY = (2.1, 2.0, 1.8, 1.7, 1.6)
TEACHERS = pd.DataFrame(
    [
        {"curriculum": name, "seed": seed, "steps_95": steps + seed, "budget": 1400}
        for name, steps in {"one_shot_soft": 800, "one_shot_hard": 1150, "extracted": 450}.items()
        for seed in range(20, 28)
    ]
)


def namespace(
    teacher=0.78, read=0.95, exact=True, prefix=PREFIX, steps=(), controls=(), teachers=TEACHERS, perplexity=PERPLEXITY
):
    """What the cells above the claims leave behind."""
    return {
        "steps": STEPS | dict(steps),
        "controls": SimpleNamespace(steps_to=lambda share: CONTROLS | dict(controls)),
        "more_teachers": teachers,
        "settings": SimpleNamespace(budget_steps=1400, layers=4, stock=False),
        "accuracy": pd.DataFrame([prefix, prefix]),
        "perplexity": pd.DataFrame([perplexity, perplexity]),
        "probe": pd.DataFrame({"step": [0, 1200, 1200], "accuracy": [0.3, 0.5, read]}),
        "teacher": SimpleNamespace(test_accuracy=teacher, model=lambda inputs: torch.zeros(2)),
        "pair": SimpleNamespace(net=lambda inputs, mask: torch.full((2,), 0.0 if exact else 1e-7)),
        "task": SimpleNamespace(split=lambda *_: SimpleNamespace(inputs=torch.zeros(1))),
        "ceiling": SimpleNamespace(accuracy=0.8),
        "where": "cpu",
        "recipes": recipes,
        "tables": tables,
        "torch": torch,
    }


def claims_with(**spoilt):
    """The claims, after the section's cells up to them ran."""
    cells = nbformat.read(paths.notebooks() / "07_language_model_curriculum.ipynb", as_version=4).cells
    begins = next(i for i, cell in enumerate(cells) if cell.source.startswith("## Checks"))
    names = namespace(**spoilt)
    for cell in cells[begins:]:
        if cell.cell_type == "code":
            exec(compile(cell.source, "07", "exec"), names)
        if "tables.check_claims(" in cell.source:
            return names["claims"]
    raise AssertionError("no claims")


SPOILT = {
    "the teacher is not above the ceiling by more than a point": {"teacher": 0.82},
    "the parents can be read from the last block, far better than from the embedding": {"read": 0.6},
    "extracted needs at most 0.7 of the steps of one-shot, soft": {"steps": {"one_shot_soft": [600, 850, 600]}},
    "and at most 0.5 of those of one-shot, hard": {"steps": {"one_shot_hard": [850, 850, 1200]}},
    "so it does with the other teachers, beyond the intervals": {
        "teachers": TEACHERS.assign(steps_95=TEACHERS["steps_95"].where(TEACHERS["seed"] % 2 == 0))
    },
    "reversed order needs more steps than extracted": {"controls": {"reversed": [450, 450, 500]}},
    "an untrained teacher's states do not help": {"controls": {"untrained": [700, 750, 1000]}},
    "the pair's student is at least 8 points below the teacher": {"prefix": (0.69, 0.70, 0.73, 0.74, 0.76)},
    "every teacher block raises the accuracy, in the mean": {"prefix": (0.58, 0.57, 0.70, 0.73, 0.76)},
    "so does the perplexity fall, in the mean": {"perplexity": (2.1, 2.0, 1.8, 1.81, 1.6)},
    "the second block brings the most, in the mean": {"prefix": (0.58, 0.68, 0.70, 0.73, 0.76)},
    "all teacher is the teacher, exactly": {"exact": False},
}


def test_all_claims_hold_for_results_as_the_text_has_them():
    assert claims_with() == dict.fromkeys(SPOILT, True)


@pytest.mark.parametrize("claim", SPOILT)
def test_each_claim_has_a_result_for_which_it_is_false(claim):
    assert claims_with(**SPOILT[claim])[claim] == False  # noqa: E712 - some are numpy's


def test_without_other_teachers_nothing_is_said_of_them():
    assert claims_with(teachers=TEACHERS[:0]) == dict.fromkeys(SPOILT, True)
