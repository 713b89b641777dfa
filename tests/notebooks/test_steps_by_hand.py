"""What notebooks 02, 03 and 07 train by hand, in plain PyTorch, is what the library trains."""

import nbformat
import pytest
import torch

from pwl_lab.distill.students import distil_members
from pwl_lab.distill.targets import Member
from pwl_lab.models import build
from pwl_lab.support import paths
from pwl_lab.training import TrainPlan

LAST_CELL = {"02_distillation_curricula": "cell-08-step", "03_parity_transformer": "cell-09-stage",
             "07_language_model_curriculum": "cell-15-same"}  # fmt: skip


def names_after(notebook, last_cell):
    """What the code cells down to `last_cell` leave, at the size that only proves the path."""
    names = {}
    cells = nbformat.read(paths.notebooks() / f"{notebook}.ipynb", as_version=4).cells
    ends = [cell.id for cell in cells].index(last_cell)
    for cell in cells[: ends + 1]:
        if cell.cell_type == "code":
            source = cell.source.replace("%matplotlib inline\n", "").replace('preset = "lesson"', 'preset = "smoke"')
            exec(compile(source, cell.id, "exec"), names)
    return names


@pytest.mark.notebook
@pytest.mark.parametrize("notebook", LAST_CELL)
def test_the_stage_by_hand_is_the_librarys(notebook, store_folder):
    names = names_after(notebook, LAST_CELL[notebook])
    settings, seed = names["settings"], names["seed"]
    student = names["small"] if notebook.startswith("03") else names["student"]
    optimiser = "sgd" if notebook.startswith("02") else "adam"
    steps = settings.stage_steps if notebook.startswith("03") else 1
    plan = TrainPlan(steps=steps, batch_size=settings.batch_size, optimiser=optimiser, lr=settings.student_lr)
    member = Member("extracted", seed, names["curricula"]["extracted"].for_blocks(student.n_blocks))
    result = distil_members(names["teacher"], student, names["task"], [member], plan, device=names["where"])
    (library := student.make()).load_state_dict(result.weights["extracted", seed])
    inputs = names["task"].split("test").inputs
    # Not the weights: no output depends on the bias of attention's keys, and Adam moves it by the rounding of a gradient of 0.
    with torch.no_grad():
        (ours, _), (theirs, _) = names["by_hand"].cpu().hidden_states(inputs), library.hidden_states(inputs)
        (untrained, _) = build(student, seed, stream="student").hidden_states(inputs)
    torch.testing.assert_close(ours[0], theirs[0], rtol=1e-3, atol=1e-3)
    assert (untrained[0] - theirs[0]).abs().max() > 0.03, "the stage moves it"
